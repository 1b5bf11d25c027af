"""Independent work at the same time, with the plain errors of sequential code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ci.errors import PipelineError

__all__ = ["both", "settled", "together", "unless", "within"]

T = TypeVar("T")
U = TypeVar("U")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all of it at once and return the results in order.

    The first failure cancels the others, waits until they have cleaned up, and is raised as it is (a
    TaskGroup would wrap it in an ExceptionGroup, which no caller of ours wants to take apart).
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def settled(work: Iterable[Coroutine[Any, Any, T]]) -> list[T | PipelineError]:
    """Run all of it at once, each to its own end: in order its result, or the expected failure it ended with.

    A cancellation, or an error that nobody expects, ends all of it, as with `together`.
    """

    async def one(part: Coroutine[Any, Any, T]) -> T | PipelineError:
        try:
            return await part
        except PipelineError as error:
            return error

    return await together(one(part) for part in work)


async def both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Run two things of different kinds at once, as `together` does."""
    results: list[Any] = await together([first, second])
    return results[0], results[1]


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What it returns; None when `stop` was set first: then it was cancelled, and has cleaned up."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.wait([working])
        return None if working.cancelled() else working.result()
    except asyncio.CancelledError:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        raise
    finally:
        waiting.cancel()


@asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """TimeoutError when the block takes longer, also where it cleans up after a cancellation.

    There asyncio.timeout of a Python before 3.11.4 (Debian 12 has 3.11.2) takes its own end of the block for
    the cancellation that came before, and what should follow a TimeoutError is skipped.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except asyncio.CancelledError as error:
        if limit.expired() and task.cancelling() <= before:
            raise TimeoutError from error
        raise

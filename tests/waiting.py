"""Waiting for what has to happen: a deadline ends a test that would wait for ever, it measures nothing."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

__all__ = ["until", "until_async"]


def until(happens: Callable[[], object], what: str = "", *, seconds: float = 60, every: float = 0.1) -> None:
    """Ask every so many seconds until the answer is true; AssertionError, saying `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, what or f"did not happen within {seconds:g} s"
        time.sleep(every)


async def until_async(
    happens: Callable[[], bool | Awaitable[bool]], *, seconds: float = 60, every: float = 0.1
) -> None:
    """As `until`, for what goes on in the same event loop; what is asked may itself have to be awaited."""
    deadline = time.monotonic() + seconds
    while True:
        answer = happens()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        assert time.monotonic() < deadline, f"did not happen within {seconds:g} s"
        await asyncio.sleep(every)

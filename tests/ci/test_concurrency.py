from __future__ import annotations

import asyncio

import pytest

from ci.concurrency import both, settled, together, unless, within
from ci.errors import SystemUnavailable


def test_results_come_in_order_whoever_is_first() -> None:
    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    async def main() -> tuple[list[int], tuple[int, str]]:
        async def word() -> str:
            return "x"

        return await together(after(n) for n in (3, 1, 2)), await both(after(1), word())

    assert asyncio.run(main()) == ([3, 1, 2], (1, "x"))


@pytest.mark.parametrize("cancelled_from_outside", [False, True])
def test_nobody_is_left_running_and_the_error_is_the_plain_one(cancelled_from_outside: bool) -> None:
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)  # cleaning up may take its time
            ended.append("long")

    async def failing() -> None:
        await asyncio.sleep(0)
        if not cancelled_from_outside:
            raise ValueError("plain")
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(together([long(), failing(), long()]))
        if cancelled_from_outside:
            await asyncio.sleep(0.01)
            task.cancel()
        with pytest.raises(asyncio.CancelledError if cancelled_from_outside else ValueError):
            await task
        assert ended == ["long", "long"]

    asyncio.run(main())


async def _clean_up(limit: float | None, work: float, said: list[str]) -> None:
    """Something that is cancelled, and whose clean-up has a limit of its own."""
    try:
        await asyncio.sleep(60)
    finally:
        try:
            async with within(limit):
                await asyncio.sleep(work)
            said.append("done")
        except TimeoutError:
            said.append("too late")


@pytest.mark.parametrize(
    ("limit", "work", "outcome"), [(0.01, 60, "too late"), (60, 0, "done"), (None, 0, "done")]
)
def test_a_limit_holds_while_cleaning_up_after_a_cancellation(
    limit: float | None, work: float, outcome: str
) -> None:
    said: list[str] = []

    async def main() -> None:
        task = asyncio.create_task(_clean_up(limit, work, said))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert said == [outcome]


def test_a_cancellation_within_a_limit_is_no_timeout() -> None:
    async def main() -> None:
        async def work() -> None:
            async with within(60):
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_an_expected_failure_ends_none_of_the_others_and_a_cancellation_all() -> None:
    ended: list[str] = []

    async def failing() -> str:
        raise SystemUnavailable("down")

    async def later(name: str, seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append(name)
        return name

    async def main() -> None:
        down, fine = await settled([failing(), later("fine", 0.01)])
        assert isinstance(down, SystemUnavailable) and fine == "fine"
        task = asyncio.create_task(settled([failing(), later("long", 60)]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ended == ["fine", "long"]


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("cancelled_from_outside", [False, True])
def test_what_is_cut_off_has_cleaned_up_whoever_does_it(stopped: bool, cancelled_from_outside: bool) -> None:
    ended: list[str] = []

    async def long() -> str:
        try:
            await asyncio.sleep(0.01 if not (stopped or cancelled_from_outside) else 3600)
            return "done"
        finally:
            await asyncio.sleep(0)
            ended.append("clean")

    async def main() -> str | None:
        stop = asyncio.Event()
        running = asyncio.create_task(unless(stop, long()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if cancelled_from_outside:
            running.cancel()
        elif stopped:
            stop.set()
        return await running

    if cancelled_from_outside:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())
    else:
        assert asyncio.run(main()) == (None if stopped else "done")
    assert ended == ["clean"]


def test_what_fails_while_it_is_cut_off_is_told() -> None:
    async def fails() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise SystemUnavailable("it does not answer")

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, stop.set)
        await unless(stop, fails())

    with pytest.raises(SystemUnavailable, match="does not answer"):
        asyncio.run(main())

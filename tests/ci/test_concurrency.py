from __future__ import annotations

import asyncio

import pytest

from ci.concurrency import both, together


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

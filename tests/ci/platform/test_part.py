from __future__ import annotations

import asyncio

import pytest

from ci.errors import SystemUnavailable
from ci.platform.part import Part, PartStatus, Say, bring_up, take_down
from ci.reporting import SilentReporter


class _Story:
    """Parts that write down what happens to them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def part(
        self,
        name: str,
        *needs: str,
        seconds: float = 0.0,
        error: Exception | None = None,
        was_up: bool = False,
    ) -> Part:
        async def up(say: Say) -> bool:
            self.lines.append(f"{name} starts")
            await asyncio.sleep(seconds)
            if error:
                raise error
            self.lines.append(f"{name} is up")
            return True

        async def status() -> PartStatus:
            return PartStatus(name=name)

        async def down() -> None:
            self.lines.append(f"{name} goes")
            if error:
                raise error

        return Part(name=name, up=up, status=status, down=down, needs=needs)


def test_a_part_waits_for_those_it_needs_and_for_no_other() -> None:
    story = _Story()
    parts = [
        story.part("slow", seconds=0.05),
        story.part("on slow", "slow"),
        story.part("alone"),
    ]

    asyncio.run(bring_up(parts, SilentReporter()))

    assert story.lines == [
        "slow starts", "alone starts", "alone is up", "slow is up", "on slow starts", "on slow is up",
    ]  # fmt: skip


def test_a_need_that_is_not_among_them_is_not_waited_for() -> None:
    story = _Story()

    asyncio.run(asyncio.wait_for(bring_up([story.part("one", "elsewhere")], SilentReporter()), 1))

    assert story.lines[-1] == "one is up"


def test_a_failure_stops_the_others_and_is_raised_as_it_is() -> None:
    story = _Story()
    broken = SystemUnavailable("port 5501 is taken")
    parts = [story.part("bad", error=broken), story.part("on bad", "bad"), story.part("long", seconds=30)]

    with pytest.raises(SystemUnavailable, match="port 5501 is taken"):
        asyncio.run(asyncio.wait_for(bring_up(parts, SilentReporter()), 5))

    assert "on bad starts" not in story.lines
    assert "long is up" not in story.lines


def test_down_goes_backwards_and_does_not_stop_at_a_failure() -> None:
    story = _Story()
    parts = [story.part("first"), story.part("bad", error=SystemUnavailable("busy")), story.part("last")]

    with pytest.raises(SystemUnavailable, match="busy"):
        asyncio.run(take_down(parts, SilentReporter()))

    assert story.lines == ["last goes", "bad goes", "first goes"]

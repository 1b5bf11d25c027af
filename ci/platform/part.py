"""A part of the platform, and how parts come up in the order of their needs and go down in the reverse.

A part first asks the world: `up` does nothing where the part is as it should be, so it can be run again after
an interruption at any point. `down` may find the part half made, or not there at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from ci.concurrency import together
from ci.platform.processes import forget
from ci.reporting import Reporter

__all__ = ["Part", "PartStatus", "Say", "bring_up", "look", "take_down"]

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PartStatus:
    """How a part is now. `problem` is empty when it is well."""

    name: str
    problem: str = ""
    detail: str = ""
    pid: int | None = None

    @property
    def healthy(self) -> bool:
        return not self.problem


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part. `up` returns whether it had to do anything, and ends only when the part is healthy.

    One that is `on_request` comes up only when it is named; it goes down with all others.
    """

    name: str
    up: Callable[[Say], Awaitable[bool]]
    status: Callable[[], Awaitable[PartStatus]]
    down: Callable[[], Awaitable[None]]
    needs: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    on_request: bool = False


async def bring_up(parts: Sequence[Part], reporter: Reporter) -> None:
    """Bring all up, each as soon as those it needs are up; the first failure stops the rest and is raised."""
    forget()
    ready = {part.name: asyncio.Event() for part in parts}

    async def one(part: Part) -> None:
        for need in part.needs:
            if need in ready:
                await ready[need].wait()
        with reporter.step(part.name) as step:
            if not await part.up(step.say):
                step.cached()
        ready[part.name].set()

    await together(one(part) for part in parts)


async def take_down(parts: Iterable[Part], reporter: Reporter) -> None:
    """Take all down, the last first. One that fails does not keep the others up; its error is raised last."""
    failure: Exception | None = None
    for part in reversed(list(parts)):
        with reporter.step(f"stop {part.name}") as step:
            try:
                await part.down()
            except Exception as error:
                failure = failure or error
                step.skipped(str(error))
    if failure is not None:
        raise failure


async def look(parts: Sequence[Part]) -> list[PartStatus]:
    """How each part is now."""
    forget()
    return list(await asyncio.gather(*(part.status() for part in parts)))

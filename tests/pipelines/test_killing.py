"""The drill of a killed promotion: a real process gets a real SIGKILL, and what users had of it is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from promotion_world import World, environment, release

from ci import process
from ci.delivery import guard, traffic
from ci.delivery.ledger import Action, Draft, Kind, open_named
from ci.delivery.site import CANARY, SPLIT, STABLE
from ci.errors import StepFailed
from ci.reporting import SilentReporter
from pipelines import killing
from pipelines.killing import Killed, kill

FENCE = 7


class Told(SilentReporter):
    """Hands on each line that the process prints."""

    def __init__(self, on_note: Callable[[], None]) -> None:
        self._on_note = on_note
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)
        self._on_note()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """One target with a canary beside stable; the drill takes moments."""
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    made = World()
    monkeypatch.setattr(killing, "open_site", made.open_site)
    for name, seconds in (("_INTO", 0.1), ("_LOOK", 0.01), ("_LONGER", 0.1), ("_PATIENCE", 30.0)):
        monkeypatch.setattr(killing, name, seconds)
    monkeypatch.setattr(killing, "_SESSIONS", 200.0)

    async def installed() -> None:
        for name, what in ((STABLE, "good"), (CANARY, "better")):
            await made.place("prod/eastus").upgrade(
                name, Path(), {"release": what}, timeout=1, description=what
            )

    asyncio.run(installed())
    return made


def drill(world: World, monkeypatch: pytest.MonkeyPatch, script: str, *, guarded: bool = True) -> Killed:
    """The process prints its id, is at the first step, then at the last; the guard acts when it is gone."""
    place = world.place("prod/eastus")

    def alive(pid: int) -> bool:
        return Path(f"/proc/{pid}").exists()

    async def go() -> Killed:
        doing: list[asyncio.Task[None]] = []

        async def promoter() -> None:
            async with open_named("test", "prod") as ledger:
                for weight in (20, 50):
                    assert place.http_route is not None
                    place.http_route = traffic.weighted(place.http_route, SPLIT, weight)
                    await ledger.append(
                        Draft(
                            promotion="2026-11-29T201500-ab12", kind=Kind.INTENT, action=Action.STEP,
                            target="prod/eastus", weight=weight, fence=FENCE,
                        )
                    )  # fmt: skip
                    await asyncio.sleep(0.05)
            while alive(int(told.lines[0])):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            served = place.served[CANARY]
            while place.served[CANARY] < served + 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert place.http_route is not None
            place.http_route = traffic.weighted(place.http_route, SPLIT, 0)
            if guarded:
                place.config_maps[guard.RECORD] = {
                    "time": datetime.now(UTC).isoformat(), "why": "root has not renewed its lease for 12 s",
                    "weight": "50", "fence": str(FENCE), "release": "better",
                }  # fmt: skip

        told = Told(lambda: doing.append(asyncio.create_task(promoter())))

        async def run(*argv: Any, **more: Any) -> process.Completed:
            ran.append([str(word) for word in argv])
            return await real("sh", "-c", script, **more)

        real = process.run
        with monkeypatch.context() as patch:
            patch.setattr(killing.process, "run", run)
            found = await kill(release("better"), environment("prod"), "eastus", reporter=told)
        await asyncio.gather(*doing)
        assert not alive(int(told.lines[0]))
        return found

    ran: list[list[str]] = []
    found = asyncio.run(go())
    ((va, *words),) = ran
    assert Path(va).name == "va" and words == ["promote", "better", "--again"]
    return found


def test_the_promotion_is_killed_at_its_last_step_and_what_the_users_had_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It hears no SIGTERM: nothing but a SIGKILL ends it.
    found = drill(world, monkeypatch, "trap '' TERM; echo $$; exec sleep 60")

    assert (found.promotion, found.target, found.weight) == ("2026-11-29T201500-ab12", "prod/eastus", 50)
    assert found.answered > 0 and found.users.sent > found.answered
    assert (found.users.lost, found.users.failed) == (0, 0)
    assert found.on_stable is not None and found.last > 0
    assert found.guard is not None and "has not renewed its lease" in str(found.guard)


def test_what_the_guard_left_word_of_before_is_not_taken_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killing, "_PATIENCE", 1.0)
    world.place("prod/eastus").config_maps[guard.RECORD] = {
        "time": "2026-11-28T10:00:00Z", "why": "of a canary before", "weight": "50", "fence": str(FENCE - 1),
    }  # fmt: skip

    found = drill(world, monkeypatch, "trap '' TERM; echo $$; exec sleep 60", guarded=False)

    assert found.guard is None and found.on_stable is not None


def test_a_promotion_that_ends_by_itself_is_not_said_to_have_been_killed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        StepFailed, match=r"ended, with exit code 4, before it could be killed on prod/eastus"
    ):
        drill(world, monkeypatch, "exit 4")


def test_the_drill_leaves_no_promotion_behind_when_it_is_interrupted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    async def go() -> None:
        task = asyncio.create_task(
            kill(release("better"), environment("prod"), "eastus", reporter=Told(lambda: None))
        )
        while not started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        await task

    async def run(*_: Any, on_start: Callable[[int], None], **more: Any) -> process.Completed:
        def both(pid: int) -> None:
            on_start(pid)
            started.append(pid)

        return await real("sleep", "60", on_start=both, **more)

    real = process.run
    monkeypatch.setattr(killing.process, "run", run)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(go())
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)

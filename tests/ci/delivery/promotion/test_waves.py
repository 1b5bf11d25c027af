"""The wait between waves and after the last: what ends it, and what does not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from promotion_world import environment
from waiting import until_async

from ci.delivery.ledger import Action, Draft, Kind, Ledger, open_named
from ci.delivery.ledger import ledger as writing
from ci.delivery.promotion.waves import stand
from ci.reporting import SilentReporter


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path))


def draft(kind: Kind, action: Action, **detail: str | int) -> Draft:
    return Draft(promotion="2026-11-29T201500-ab12", kind=kind, action=action, release="r", detail=detail)


async def waited(ledger: Ledger, wanted: Draft, seconds: float) -> int:
    """How often was looked."""
    looks: list[int] = []

    async def look() -> None:
        looks.append(1)

    await stand(wanted, seconds, environment("prod"), ledger, SilentReporter(), look)
    return len(looks)


async def begun(ledger: Ledger) -> None:
    for _ in range(1000):
        if await ledger.entries():
            return
        await asyncio.sleep(0.01)


def ahead(by: timedelta) -> type[datetime]:
    class Other(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + by

    return Other


def test_a_region_that_comes_later_is_watched_and_the_same_ones_are_not_again() -> None:
    async def run() -> list[int]:
        async with open_named("test", "prod") as ledger:
            return [
                await waited(ledger, draft(Kind.INTENT, Action.WATCH, wave=2, targets=targets), 0.05)
                for targets in ("prod/eastus", "prod/eastus", "prod/eastus, prod/westeurope")
            ]

    first, again, more = asyncio.run(run())
    assert first > 0 and again == 0 and more > 0


@pytest.mark.parametrize("behind", [-3600, 0, 3600])
@pytest.mark.parametrize("action", [Action.ABORT, Action.ROLL_BACK, Action.SKIP_BAKE])
def test_an_order_counts_whatever_the_clock_of_who_gave_it_says(
    monkeypatch: pytest.MonkeyPatch, action: Action, behind: int
) -> None:
    async def run() -> str:
        async with open_named("test", "prod") as ledger:
            wait = asyncio.create_task(waited(ledger, draft(Kind.INTENT, Action.WAVE, targets="a"), 600))
            await begun(ledger)
            with monkeypatch.context() as patched:
                patched.setattr(writing, "datetime", ahead(timedelta(seconds=-behind)))
                await ledger.append(draft(Kind.ORDER, action))
            await wait
            return (await ledger.entries())[-1].result

    results = {Action.ABORT: "aborted", Action.ROLL_BACK: "rolled back", Action.SKIP_BAKE: "done"}
    assert asyncio.run(run()) == results[action]


def test_what_was_cut_is_waited_for_anew_for_nobody_looked_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it was a day, or somebody set the clock."""

    async def run() -> tuple[bool, str]:
        async with open_named("test", "prod") as ledger:
            cut = draft(Kind.INTENT, Action.WAVE, targets="a")
            with monkeypatch.context() as patched:
                patched.setattr(writing, "datetime", ahead(timedelta(days=-1)))
                await ledger.append(cut)
            wait = asyncio.create_task(waited(ledger, cut, 600))
            await asyncio.sleep(0.1)
            early = wait.done()
            await ledger.append(draft(Kind.ORDER, Action.SKIP_BAKE))
            await wait
            return early, (await ledger.entries())[-1].result

    assert asyncio.run(run()) == (False, "done")


def test_another_promotion_in_its_place_ends_the_wait() -> None:
    async def run() -> str:
        async with open_named("test", "prod") as ledger:
            wait = asyncio.create_task(waited(ledger, draft(Kind.INTENT, Action.WAVE, targets="a"), 600))
            await begun(ledger)
            over = draft(Kind.OUTCOME, Action.FINISH).model_copy(update={"result": "superseded"})
            await ledger.append(over)
            await wait
            return (await ledger.entries())[-1].result

    assert asyncio.run(run()) == "aborted"


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_wait_that_is_paused_is_told_of_once_a_pause() -> None:
    notes = Notes()

    async def look() -> None:
        return None

    async def run() -> None:
        async with open_named("test", "prod") as ledger:
            await ledger.append(draft(Kind.ORDER, Action.PAUSE).model_copy(update={"reason": "echoes"}))
            wanted = draft(Kind.INTENT, Action.WAVE, targets="a")
            wait = asyncio.create_task(stand(wanted, 0.01, environment("prod"), ledger, notes, look))
            await until_async(lambda: bool(notes.notes), every=0.01)
            await asyncio.sleep(0.2)  # many looks: it is told of once
            assert not wait.done()  # for as long as it is paused
            await ledger.append(draft(Kind.ORDER, Action.RESUME))
            await wait

    asyncio.run(run())
    (said,) = notes.notes
    assert said.startswith("prod: paused by ") and said.endswith(
        ': echoes; va resume prod --reason "…" goes on'
    )

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from promotion_world import environment

from ci import places
from ci.delivery.findings import Finding, Tally, Verdict
from ci.delivery.ledger import Action, Draft, Entry, Kind, alone, open_named
from ci.delivery.promotion.show import entry_line, state_table
from ci.delivery.promotion.watch import stands
from ci.delivery.promotion.waves import stand
from ci.errors import BadInput
from ci.reporting import SilentReporter
from pipelines import orders

OLD, NEW = "2026-11-28T101500-aa11", "2026-11-29T201500-ab12"


@pytest.fixture(autouse=True)
def estate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In prod an old promotion has ended and a new one is under way; staging is done with."""
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    monkeypatch.setattr(
        orders,
        "read_environments",
        lambda estate: (environment("staging"), environment("prod", "eastus", "westeurope")),
    )
    monkeypatch.setattr(orders, "_LOOK", 0.01)

    async def begin() -> None:
        async with open_named("test", "staging") as ledger:
            await ledger.append(draft(Kind.INTENT, Action.START, NEW))
            await ledger.append(draft(Kind.OUTCOME, Action.FINISH, NEW, result="done"))
        async with open_named("test", "prod") as ledger:
            await ledger.append(draft(Kind.INTENT, Action.START, OLD))
            await ledger.append(draft(Kind.OUTCOME, Action.FINISH, OLD, result="done"))
            await ledger.append(draft(Kind.INTENT, Action.START, NEW))

    asyncio.run(begin())


def draft(kind: Kind, action: Action, promotion: str = NEW, **more: object) -> Draft:
    return Draft(promotion=promotion, kind=kind, action=action, release="better", **more)  # type: ignore[arg-type]


def order(what: str | None, action: Action = Action.PAUSE, reason: str = "echoes") -> tuple[Entry, ...]:
    return asyncio.run(orders.give_order("test", action, what, reason=reason))


@pytest.mark.parametrize(
    ("what", "target"), [(None, ""), ("prod", ""), ("prod/westeurope", "prod/westeurope"), (NEW, "")]
)
def test_an_order_goes_to_what_is_under_way(what: str | None, target: str) -> None:
    (given,) = order(what)
    assert (given.promotion, given.kind, given.action) == (NEW, Kind.ORDER, Action.PAUSE)
    assert (given.target, given.reason) == (target, "echoes")


@pytest.mark.parametrize(
    ("what", "hint"),
    [("prdo", "did you mean 'prod'"), ("prdo/eastus", "did you mean"), ("qa", "known: prod")],
)
def test_a_place_that_is_none_is_told_as_such(what: str, hint: str) -> None:
    with pytest.raises(BadInput, match="unknown environment") as error:
        order(what)
    assert hint in error.value.hint


@pytest.mark.parametrize("what", ["staging", OLD, "2020-01-01T000000-zzzz"])
def test_where_nothing_is_under_way_it_is_said_so(what: str) -> None:
    with pytest.raises(BadInput, match="nothing is being promoted"):
        order(what)


def test_an_order_has_a_reason() -> None:
    with pytest.raises(BadInput, match="abort wants a reason"):
        order("prod", Action.ABORT, reason="  ")


def watched(what: str | None = None) -> list[str]:
    async def watch() -> list[str]:
        return [entry_line(entry).plain async for entry in orders.watch("test", what)]

    return asyncio.run(asyncio.wait_for(watch(), 20))


def test_watching_shows_entries_as_they_come_and_ends_with_the_promotion() -> None:
    async def both() -> list[str]:
        seen: list[str] = []

        async def watch() -> None:
            async for entry in orders.watch("test", None):
                seen.append(entry_line(entry).plain)

        watching = asyncio.create_task(watch())
        while len(seen) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        async with open_named("test", "prod") as ledger:
            move = draft(Kind.OUTCOME, Action.MOVE, target="prod/eastus", weight=25, result="done")
            await ledger.append(move)
            await ledger.append(draft(Kind.OUTCOME, Action.FINISH, result="failed", reason="errors"))
        await watching
        return seen

    seen = asyncio.run(both())
    assert [line.split("  ")[1] for line in seen] == ["all of it"] * 3 + ["prod/eastus", "all of it"]
    assert "move 25 %: done" in seen[3] and seen[4].endswith("finish: failed  errors")
    assert watched(NEW) == seen and len(watched(OLD)) == 2  # after the fact


@pytest.mark.parametrize("what", ["2026-11-31", "nobody", "2026-11-29T201500-ab13", ""])
def test_watching_what_no_ledger_has_is_an_error_that_says_what_there_is(what: str) -> None:
    with pytest.raises(BadInput, match=f"no promotion {what!r}") as error:
        watched(what)
    assert error.value.exit_code == 2 and NEW in error.value.hint


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def put(*drafts: Draft) -> None:
    async def append() -> None:
        async with open_named("test", "prod") as ledger:
            for one in drafts:
                await ledger.append(one)

    asyncio.run(append())


def stays(what: str | None = None) -> list[str]:
    """What is said when watching ends though the promotion has not."""
    notes = Notes()

    async def watch() -> None:
        async for _ in orders.watch("test", what, reporter=notes):
            pass

    asyncio.run(asyncio.wait_for(watch(), 20))
    return notes.notes


@pytest.mark.parametrize("result", ["waits", "partly"])
@pytest.mark.parametrize("what", [None, NEW, NEW[:12], "prod", "prod/eastus"])
def test_watching_what_waits_for_a_person_ends_and_says_what_goes_on(what: str | None, result: str) -> None:
    put(draft(Kind.OUTCOME, Action.FINISH, result=result), draft(Kind.ORDER, Action.RETRY))
    assert stays(what) == ["prod: it waits: va promote better --to prod --estate test goes on with it"]


def test_watching_what_a_killed_process_left_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "QUIET", timedelta(0))
    put(draft(Kind.INTENT, Action.CANARY, target="prod/eastus"))
    (said,) = stays()
    assert said.startswith("prod: nobody is at work on it, the last word is of 2")
    assert said.endswith("va promote better --to prod --estate test goes on with it")


def test_watching_goes_on_while_a_process_holds_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "QUIET", timedelta(0))
    with alone(environment("prod")), pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(watch_all(), 0.3))
    assert stays() != []


async def watch_all() -> None:
    async for _ in orders.watch("test", None):
        pass


def test_whoever_obeys_an_order_is_named() -> None:
    given = order("prod/eastus", Action.ABORT, "superseded")
    (said,) = asyncio.run(orders.taken_up("test", given))
    assert said == (
        "prod/eastus: nobody is at work: it is kept for the next run of va promote better --to prod "
        "--estate test; va rollback prod/eastus takes it away at once"
    )
    with alone(environment("prod")):
        (said,) = asyncio.run(orders.taken_up("test", given))
    assert said.startswith("prod/eastus: process ") and said.endswith(
        "at work, and reads it at the next look"
    )


@pytest.mark.parametrize(
    ("action", "before", "problem"),
    [
        (Action.RESUME, (), "prod: it is not paused"),
        (Action.RESUME, (Action.PAUSE, Action.RESUME), "prod: it is not paused"),
        (Action.SKIP_BAKE, (), "prod: it does not wait between two waves"),
        (Action.RETRY, (), "prod: no step of it waits for a person"),
    ],
)
def test_an_order_that_could_change_nothing_is_refused(
    action: Action, before: tuple[Action, ...], problem: str
) -> None:
    put(draft(Kind.INTENT, Action.START, target="prod/eastus"))
    put(*(draft(Kind.ORDER, one) for one in before))
    with pytest.raises(BadInput, match=problem):
        order("prod", action)


@pytest.mark.parametrize(
    ("action", "before"),
    [
        (Action.RESUME, draft(Kind.ORDER, Action.PAUSE, target="prod/westeurope")),
        (Action.SKIP_BAKE, draft(Kind.INTENT, Action.WATCH)),
        (Action.RETRY, draft(Kind.OUTCOME, Action.WAVE, result="failed")),
        (Action.RETRY, draft(Kind.OUTCOME, Action.FINISH, result="waits")),
    ],
)
def test_an_order_that_changes_something_is_taken(action: Action, before: Draft) -> None:
    put(draft(Kind.INTENT, Action.START, target="prod/eastus"), before)
    (given,) = order(None, action)
    assert given.action is action


WAIT = draft(Kind.INTENT, Action.WAVE, detail={"wave": 1})


def waited(
    *before: Draft, seconds: float = 60.0, harm: str = "", skip: bool = True
) -> tuple[str, list[Entry]]:
    """What came of the wait before prod's second wave, and what the ledger has of it."""

    async def look() -> tuple[str, Finding] | None:
        finding = Finding(metric="errors", verdict=Verdict.FAIL, reason="9 of 9")
        return (harm, finding) if harm else None

    async def run() -> tuple[str, list[Entry]]:
        async with open_named("test", "prod") as ledger:
            for one in before:
                await ledger.append(one)
            waiting = asyncio.create_task(
                stand(WAIT, seconds, environment("prod"), ledger, SilentReporter(), look)
            )
            await asyncio.sleep(0.1)
            if skip and not waiting.done():
                await ledger.append(draft(Kind.ORDER, Action.SKIP_BAKE, reason="the fix"))
            said = await asyncio.wait_for(waiting, 20)
            return said, [one for one in await ledger.entries() if one.action is Action.WAVE]

    return asyncio.run(run())


def test_a_wait_between_waves_ends_by_an_order_and_is_written_down() -> None:
    said, (begun, ended) = waited()
    assert said == "" and begun.kind is Kind.INTENT and ended.kind is Kind.OUTCOME
    assert ended.reason.startswith("skip-bake by ") and ended.reason.endswith(": the fix")


def test_a_wait_that_a_killed_run_began_is_not_begun_anew_and_one_that_ended_is_not_repeated() -> None:
    _, entries = waited(WAIT, seconds=0.01)
    assert [one.kind for one in entries] == [Kind.INTENT, Kind.OUTCOME]
    assert len(waited(seconds=60)[1]) == 2  # of the run before


def test_harm_ends_a_wait_and_the_run_that_follows_knows() -> None:
    said, (_, ended) = waited(harm="prod/eastus", skip=False)
    assert said == ended.reason == "prod/eastus: errors fail: 9 of 9" and ended.result == "failed"
    assert waited(skip=False)[0] == said


@pytest.mark.parametrize(("bad", "fails"), [(0, False), (6, False), (40, True)])
def test_what_was_promoted_is_held_against_what_is_tolerated(bad: int, fails: bool) -> None:
    finding = stands(Tally(stable_bad=bad, stable=400), environment("prod"))
    assert finding is not None and (finding.verdict is Verdict.FAIL) is fails
    assert stands(None, environment("prod")) is None and stands(Tally(), environment("prod")) is None


def test_the_table_in_the_documentation_is_the_codes_own() -> None:
    shown = (places.checkout() / "docs" / "promotion.md").read_text()
    assert state_table() in shown, "state_table() of ci.delivery.promotion.show has changed"


@pytest.mark.parametrize(
    ("before", "now", "fails"),
    [((600, 3000), (300, 3000), False), ((600, 3000), (1200, 3000), True), ((0, 3000), (300, 3000), True)],
)
def test_a_release_that_mends_another_is_not_taken_back_for_the_rest(
    before: tuple[int, int], now: tuple[int, int], fails: bool
) -> None:
    was, tally = (Tally(stable_bad=bad, stable=all_) for bad, all_ in (before, now))
    finding = stands(tally, environment("prod"), was)
    assert finding is not None and (finding.verdict is Verdict.FAIL) is fails


def test_a_reason_of_several_lines_is_one_of_ours() -> None:
    said = {"promotion": "p1", "kind": Kind.ORDER, "action": Action.PAUSE, "who": "mallory"}
    forged = Entry(
        reason="ok\n01:10:00  dev/eastus  finish: promoted",
        time=datetime.fromisoformat("2026-11-29T02:10:00+02:00"),
        sequence=1,
        previous="",
        hash="",
        **said,
    )
    told = entry_line(forged).plain
    assert "\n" not in told and told.startswith("00:10:00  all of it  ")

"""The demonstration says what each act is about to show, and ends with an error where it is not so.

Its parts are stood in for, each by what it would return. What they do is tried where they are, and the whole
on the embedded platform by `nox -s demo`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from promotion_world import release

from ci.delivery.guard import Acted
from ci.delivery.ledger import Action, Entry, Kind, Problem, Verified, promotion_id
from ci.delivery.promotion.plan import Change, Plan, PlannedTarget
from ci.delivery.refusals import Refusal
from ci.delivery.results import Outcome, PromotionResult, Requests, StepResult, TargetResult, TargetStatus
from ci.environments import Environment, read_environments
from ci.errors import GateFailed, PipelineError, StepFailed
from ci.layout import Page, lines, page
from ci.release import Release
from ci.reporting import SilentReporter
from pipelines import demo as demonstration
from pipelines.demo import Demonstrated, show_demonstrated
from pipelines.killing import Killed
from pipelines.tampering import Tampered

HERE = "prod/southeastasia"
KILLED_AT = 50


@cache
def environments() -> tuple[Environment, ...]:
    return read_environments("local")


class World:
    """What runs where, and what each part of the demonstration answers; a test changes one of them."""

    def __init__(self) -> None:
        self.places = [
            one.target(region).name for one in environments() for wave in one.waves for region in wave
        ]
        self.runs: dict[str, str | None] = dict.fromkeys(self.places)
        self.went: dict[str, dict[str, str | None]] = {}
        """By promotion: what each target ran before it."""
        self.ledgers: dict[str, list[Entry]] = {one.name: [] for one in environments()}
        self.told: list[str] = []
        self.spoil: dict[str, Callable[[Any], Any]] = {}
        """By the name of a part: what becomes of its answer."""

    def answer(self, part: str, value: Any) -> Any:
        return self.spoil.get(part, lambda one: one)(value)

    def tell(self, shown: Page) -> None:
        self.told += [line.plain for line in lines(shown)]

    # The parts.

    async def ship(self, _: object, __: object, fault: float | None) -> Any:
        made = release({None: "baseline", 0.0: "good"}.get(fault, "bad"))
        return SimpleNamespace(release=made)

    async def status(self, estate: str, **_: object) -> tuple[TargetStatus, ...]:
        return tuple(
            TargetStatus(
                target=place, release=runs, state="deployed", revision=1, digests={}, pods="3/3",
                canary=None, weight=0,
            )
            for place, runs in self.runs.items()
        )  # fmt: skip

    async def plan(self, wanted: Release, estate: str, **_: object) -> Plan:
        targets = tuple(
            PlannedTarget(
                target=place, wave=1, runs=runs or "", revision=1,
                change=Change.NOTHING if runs == wanted.name else Change.CANARY,
            )
            for place, runs in self.runs.items()
        )  # fmt: skip
        made = Plan(release=wanted.name, estate=estate, made=datetime.now(UTC), targets=targets)
        return self.answer("plan", made)

    async def kill(self, wanted: Release, prod: object, region: str, **_: object) -> Killed:
        """dev and staging have got it, and the first region of prod has passed its first step."""
        promotion = promotion_id()
        self.went[promotion] = {}
        for place in self.places:
            if not place.startswith("prod"):
                self._installed(promotion, place, wanted.name)
        self.write(promotion, wanted.name, Kind.INTENT, Action.START, HERE)
        self.write(promotion, wanted.name, Kind.OUTCOME, Action.STEP, HERE, weight=25, result="passed")
        acted = Acted(
            time=datetime.now(UTC), why="root has not renewed its lease for 12 s", weight=50, fence=1
        )
        return self.answer(
            "kill",
            Killed(
                promotion=promotion, target=HERE, weight=KILLED_AT, answered=20, on_stable=13.1, last=13.4,
                users=Requests(sent=800, ok=800, failed=0, lost=0), guard=acted,
            ),
        )  # fmt: skip

    async def promote(self, wanted: Release, estate: str, **_: object) -> PromotionResult:
        if wanted.name == "bad":
            promotion = promotion_id()
            self.went[promotion] = {}
            self._installed(promotion, self.places[0], "bad")
            failed = [(self.places[0], Outcome.PROMOTED), (self.places[1], Outcome.FAILED)]
            self.write(promotion, "bad", Kind.OUTCOME, Action.FINISH, self.places[1], result="failed")
            return self.answer("caught", self._result(promotion, "bad", failed))
        promotion = next(reversed(self.went), "") or promotion_id()
        self.went.setdefault(promotion, {})
        for action in (
            self.answer("noted", [Action.GUARD, Action.START]) if HERE not in self.went[promotion] else ()
        ):
            self.write(promotion, wanted.name, Kind.NOTE, action, HERE)
        for place in self.places:
            if self.runs[place] != wanted.name:
                self._installed(promotion, place, wanted.name)
        done = [(place, Outcome.PROMOTED) for place in self.places]
        return self.answer("promoted", self._result(promotion, wanted.name, done))

    async def rollback(self, estate: str, promotion: str, **_: object) -> PromotionResult:
        went = self.went.pop(promotion)
        self.runs |= went
        result = self._result(promotion, "", [(place, Outcome.BACK) for place in went])
        return self.answer("rolled back", result)

    async def tamper(self, *_: object, **__: object) -> Tampered:
        return self.answer(
            "tamper", Tampered(image="r/i@sha256:ab", promotion="no", cluster="r/i@sha256:ab: no")
        )

    @asynccontextmanager
    async def open_ledger(self, environment: Environment) -> AsyncIterator[Any]:
        async def entries(*, promotion: str = "") -> tuple[Entry, ...]:
            found = self.ledgers[environment.name]
            return tuple(one for one in found if promotion in ("", one.promotion))

        yield SimpleNamespace(entries=entries)

    async def read_all(self, estate: str) -> Any:
        return self.answer("remembered", self.ledgers)

    async def verify_all(self, estate: str) -> Any:
        found = [
            Verified(environment=name, where="here", entries=len(entries), last="", problems=())
            for name, entries in self.ledgers.items()
        ]
        return self.answer("verified", tuple(found))

    async def leave_report(self, estate: str, promotion: str, folder: Path) -> Path:
        return folder / f"promotion-{promotion}.html"

    def _installed(self, promotion: str, place: str, name: str) -> None:
        self.went[promotion][place] = self.runs[place]
        self.runs[place] = name

    def write(self, promotion: str, name: str, kind: Kind, action: Action, place: str, **more: Any) -> None:
        """An entry of `prod/eastus`, or of all of `prod`."""
        ledger = self.ledgers[place.partition("/")[0]]
        ledger.append(
            Entry(
                promotion=promotion, kind=kind, action=action, release=name, sequence=len(ledger) + 1,
                target=place if "/" in place else "", time=datetime.now(UTC), who="root@here", previous="",
                hash="", **more,
            )
        )  # fmt: skip

    def _result(self, promotion: str, name: str, done: list[tuple[str, Outcome]]) -> PromotionResult:
        return PromotionResult(
            release=name, estate="local", seconds=1.0, promotion=promotion,
            targets=tuple(
                TargetResult(
                    target=place, release=name, previous=None, outcome=outcome, reason=outcome.value,
                    steps=(_step(KILLED_AT),) if place == HERE and outcome is Outcome.PROMOTED else (),
                    moving=Requests(sent=9, ok=9, failed=0, lost=0),
                )
                for place, outcome in done
            ),
        )  # fmt: skip


def _step(weight: int) -> StepResult:
    return StepResult.model_construct(
        weight=weight, verdict="pass", reason="", seconds=1.0, findings=(), exposure=None, p95_canary=None,
        p95_stable=None, overruled=False,
    )  # fmt: skip


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(demonstration.tools, "ensure", nothing)
    monkeypatch.setattr(demonstration.platform, "up", nothing)
    monkeypatch.setattr(
        demonstration, "show_shipped", lambda shipped: page(f"shipped {shipped.release.name}")
    )
    for name, part in {
        "_ship": made.ship, "status": made.status, "plan": made.plan, "kill": made.kill,
        "promote": made.promote, "rollback": made.rollback, "tamper": made.tamper,
        "open_ledger": made.open_ledger, "read_all": made.read_all, "verify_all": made.verify_all,
        "leave_report": made.leave_report,
        "read_environments": lambda _: environments(),
    }.items():  # fmt: skip
        monkeypatch.setattr(demonstration, name, part)
    return made


def demonstrate(world: World) -> Demonstrated:
    return asyncio.run(
        demonstration.demo(reporter=SilentReporter(), reports=Path("reports"), tell=world.tell)
    )


def headings(world: World) -> list[str]:
    return [line for line in world.told if "/10  " in line[:7]]


def test_every_act_is_announced_and_all_runs_what_it_ran_before(world: World) -> None:
    shown = demonstrate(world)

    assert [line.partition("  ")[0] for line in headings(world)] == [f"{one}/10" for one in range(1, 11)]
    assert [line.partition("  ")[2] for line in headings(world)] == [act.title for act in shown.acts]
    assert set(world.runs.values()) == {"baseline"}
    assert {one.promotion for one in shown.history} >= {shown.promoted.promotion, shown.caught.promotion}
    for one in (shown.promoted, shown.caught):
        assert f"  reports/promotion-{one.promotion}.html" in world.told
    seen = [line.plain for line in lines(show_demonstrated(shown))]
    assert len([line for line in seen if "✓" in line]) == 10


def test_what_announces_an_act_fits_a_screen_of_80_columns(world: World) -> None:
    shown = demonstrate(world)

    for heading in headings(world):
        why = world.told[world.told.index(heading) + 1]
        assert why.endswith(".") and max(len(heading), len(why)) <= 80, why
    assert all(len(line) <= 80 for line in world.told if line.startswith("$ "))
    assert all(len(line.plain) <= 80 for line in lines(show_demonstrated(shown)))


def test_it_can_be_shown_again(world: World) -> None:
    demonstrate(world)
    demonstrate(world)
    assert set(world.runs.values()) == {"baseline"}


def test_where_an_interrupted_one_left_the_good_release_the_baseline_is_the_new_one(world: World) -> None:
    world.runs = dict.fromkeys(world.places, "good")
    assert demonstrate(world).good.release.name == "baseline"
    assert set(world.runs.values()) == {"good"}


def test_what_an_interrupted_one_left_under_way_is_taken_back_first(world: World) -> None:
    world.runs = dict.fromkeys(world.places, "baseline") | {HERE: "good"}
    world.went["2026-11-29T201500-ab12"] = {HERE: "baseline"}
    world.write("2026-11-29T201500-ab12", "good", Kind.INTENT, Action.START, "prod")

    async def back(*words: Any, **more: Any) -> PromotionResult:
        world.write(words[1], "good", Kind.OUTCOME, Action.FINISH, "prod", result="not done")
        return await World.rollback(world, *words, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demonstration, "rollback", back)
        assert demonstrate(world).good.release.name == "good"
    assert set(world.runs.values()) == {"baseline"}


def refused(plan: Plan) -> Plan:
    stands = Refusal(code="freeze", place="prod", reason="nobody works", next_command="va plan later")
    return plan.model_copy(update={"refusals": (stands,)})


def there_already(plan: Plan) -> Plan:
    there = [one.model_copy(update={"change": Change.NOTHING}) for one in plan.targets]
    return plan.model_copy(update={"targets": tuple(there)})


def lost(killed: Killed) -> Killed:
    return replace(killed, users=Requests(sent=800, ok=798, failed=0, lost=2))


def of_canary(killed: Killed) -> Killed:
    assert killed.guard is not None
    return replace(
        killed, guard=killed.guard.model_copy(update={"why": "no pod of voice-canary-api is ready"})
    )


def with_steps(*weights: int) -> Callable[[PromotionResult], PromotionResult]:
    def spoil(result: PromotionResult) -> PromotionResult:
        return result.model_copy(
            update={
                "targets": tuple(
                    one.model_copy(update={"steps": tuple(map(_step, weights))})
                    if one.target == HERE
                    else one
                    for one in result.targets
                )
            }
        )

    return spoil


def all_promoted(result: PromotionResult) -> PromotionResult:
    well = [one.model_copy(update={"outcome": Outcome.PROMOTED}) for one in result.targets]
    return result.model_copy(update={"targets": tuple(well)})


def lost_when_moved(result: PromotionResult) -> PromotionResult:
    moving = Requests(sent=9, ok=8, failed=0, lost=1)
    return result.model_copy(
        update={"targets": tuple(one.model_copy(update={"moving": moving}) for one in result.targets)}
    )


def damaged(found: Any) -> Any:
    problem = Problem(sequence=3, where="prod.sqlite", problem="it was changed")
    return (found[0].model_copy(update={"problems": (problem,)}), *found[1:])


SPOILT: dict[str, tuple[str, Callable[[Any], Any], int, str]] = {
    "a plan that is refused": ("plan", refused, 4, "the plan is refused: prod: nobody works"),
    "a plan without a canary": ("plan", there_already, 4, "no region of prod would get a canary"),
    "a kill without users": ("kill", lambda one: replace(one, answered=0), 5, "no user was on the canary"),
    "users left on the canary": ("kill", lambda one: replace(one, on_stable=None), 5, "more than 20 s"),
    "users there too long": ("kill", lambda one: replace(one, last=20.1), 5, "more than 20 s"),
    "a guard that did nothing": ("kill", lambda one: replace(one, guard=None), 5, "it was not the guard"),
    "a guard that did it for another reason": ("kill", of_canary, 5, "it was not the guard"),
    "requests lost by the kill": ("kill", lost, 5, "the users lost 2 requests"),
    "another promotion": (
        "promoted", lambda one: one.model_copy(update={"promotion": "another"}), 6, "a promotion of its own",
    ),
    "a run that does not know": ("noted", lambda _: [Action.START], 6, "does not know what the guard did"),
    "a run that does not say so": ("noted", lambda _: [Action.GUARD], 6, "does not say that it goes on"),
    "a run that begins anew": ("promoted", with_steps(25, 50), 6, r"the steps \[25, 50\] were taken"),
    "a run without a step": ("promoted", with_steps(), 6, r"the steps \[\] were taken"),
    "an altered image taken": ("tamper", lambda one: replace(one, cluster=""), 7, "image was not refused"),
    "a bad release not caught": ("caught", all_promoted, 8, "the bad release was not caught"),
    "requests lost by going back": ("caught", lost_when_moved, 8, "2 requests were lost"),
    "a promotion forgotten": ("remembered", lambda _: {}, 10, "is not remembered"),
    "a ledger that was changed": ("verified", damaged, 10, "a ledger is not as it was written"),
}  # fmt: skip


@pytest.mark.parametrize(("part", "spoil", "act", "said"), SPOILT.values(), ids=SPOILT)
def test_an_act_that_does_not_show_what_it_is_there_for_ends_it(
    world: World, part: str, spoil: Callable[[Any], Any], act: int, said: str
) -> None:
    world.runs = dict.fromkeys(world.places, "baseline")
    world.spoil[part] = spoil

    with pytest.raises(StepFailed, match=said) as error:
        demonstrate(world)

    assert error.value.hint
    assert len(headings(world)) == act


def test_what_is_not_put_back_is_named(world: World) -> None:
    def not_there(result: PromotionResult) -> PromotionResult:
        world.runs["prod/westeurope"] = "good"
        return result

    world.spoil["rolled back"] = not_there
    with pytest.raises(StepFailed, match="prod/westeurope runs good and not baseline, as before"):
        demonstrate(world)


def test_a_good_release_that_does_not_get_there_ends_it_with_its_own_error(world: World) -> None:
    world.runs = dict.fromkeys(world.places, "baseline")

    def failed(result: PromotionResult) -> PromotionResult:
        *most, last = result.targets
        return result.model_copy(
            update={"targets": (*most, last.model_copy(update={"outcome": Outcome.FAILED}))}
        )

    world.spoil["promoted"] = failed
    with pytest.raises(PipelineError) as error:
        demonstrate(world)
    assert isinstance(error.value, GateFailed)
    assert any(Outcome.FAILED.value in line for line in world.told)

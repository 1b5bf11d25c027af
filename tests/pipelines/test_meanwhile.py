"""What begins while a promotion is at work: a freeze, a hand in a cluster, a registry that loses a part."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from promotion_world import AnyRegistry, World, environment, release, stand_in

from ci.delivery import traffic
from ci.delivery.findings import Exposure, Verdict
from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger, open_named
from ci.delivery.promotion import run as loop
from ci.delivery.results import PromotionResult, StepResult
from ci.delivery.site import CANARY, STABLE
from ci.environments import CanaryStep, Environment
from ci.errors import PolicyBlocked
from ci.reporting import SilentReporter
from pipelines import before, permission
from pipelines import promote as flow

GOOD, BETTER, OTHER = release("20260301-good"), release("20260302-better"), release("20260303-other")
HOLIDAYS = [{"when": "2040-12-18 to 2041-01-04 UTC", "why": "the holidays"}]


class Clock(datetime):
    frozen = False
    bad = False
    """Whether it is a time of bad canaries."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime(2040, 12, 24 if cls.frozen else 2, tzinfo=UTC)


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    made = World()
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    monkeypatch.setattr(permission, "datetime", Clock)
    monkeypatch.setattr(traffic, "followed", at_once)
    monkeypatch.setattr(loop, "bake", judged)
    stand_in(monkeypatch, made)
    yield made
    Clock.frozen = Clock.bad = False


async def at_once(*_: object, **__: object) -> float:
    return 0.0


async def judged(environment: Environment, step: CanaryStep, **more: Any) -> StepResult:
    """Without a deadline nobody can tell."""
    good = Verdict.PASS if environment.gates.deadline else Verdict.INCONCLUSIVE
    exposure = Exposure(intended=0.2, observed=None, log_e=0.0, mismatch=False)
    return StepResult(
        weight=step.weight, verdict=Verdict.FAIL if Clock.bad else good, reason="errors", seconds=1,
        findings=(), exposure=exposure, p95_canary=None, p95_stable=None,
    )  # fmt: skip


def frozen(_: object = None) -> None:
    Clock.frozen = True


def place(name: str, *regions: str, **more: Any) -> Environment:
    base = environment(name, *regions)
    whole = {key: getattr(base, key) for key in base.model_fields_set}
    return Environment.model_validate(whole | {"freezes": HOLIDAYS, "load": None} | more)


def estate(monkeypatch: pytest.MonkeyPatch, *environments: Environment) -> None:
    monkeypatch.setattr(flow, "read_environments", lambda estate, through=None: environments)


def promote(wanted: Any, reporter: SilentReporter | None = None, **more: Any) -> PromotionResult:
    return asyncio.run(flow.promote(wanted, "test", reporter=reporter or SilentReporter(), **more))


def killed_at(world: World, event: str, wanted: Any = BETTER) -> None:
    async def run() -> None:
        task = asyncio.create_task(flow.promote(wanted, "test", reporter=SilentReporter()))
        world.on = lambda happened: task.cancel() if happened == event else None
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    world.on = lambda _: None


def entries(name: str) -> tuple[Entry, ...]:
    async def read() -> tuple[Entry, ...]:
        async with open_named("test", name) as ledger:
            return await ledger.entries()

    return asyncio.run(read())


def runs(world: World) -> dict[str, str]:
    return {name: one.revisions[STABLE][-1].release for name, one in sorted(world.places.items())}


def after(monkeypatch: pytest.MonkeyPatch, action: Action, target: str, happens: Any) -> None:
    """Do that once the outcome of an action on a target of BETTER is in the ledger."""
    append = Ledger.append

    async def watched(self: Ledger, draft: Draft, **more: Any) -> Entry:
        entry = await append(self, draft, **more)
        if (draft.action, draft.target, draft.kind) == (action, target, Kind.OUTCOME):
            happens(entry)
        return entry

    monkeypatch.setattr(Ledger, "append", watched)


def loses_a_replica(world: World) -> None:
    """Somebody scales by hand what Helm has installed in prod."""
    prod = world.place("prod/eastus")
    manifest = """{apiVersion: apps/v1, kind: Deployment, metadata: {name: voice-api}, spec: {replicas: 3,
      template: {spec: {containers: []}}}}"""
    (*kept, last) = prod.revisions[STABLE]
    prod.revisions[STABLE] = [*kept, replace(last, manifest=manifest)]
    prod.listed["/apis/apps/v1/namespaces/va-prod-eastus/deployments"] = (
        {"metadata": {"name": "voice-api"}, "spec": {"replicas": 1, "template": {"spec": {}}}},
    )


def signature_is_gone(world: World) -> None:
    async def nobody(*_: object) -> Any:
        raise PolicyBlocked("no signature\n  prod: nobody signed it")

    before.verify = nobody  # put back with what the fixture patched


def somebody_else_begins(world: World) -> None:
    async def begin() -> None:
        async with open_named("test", "prod") as ledger:
            draft = Draft(promotion="p9", kind=Kind.INTENT, action=Action.START, release="another")
            await ledger.append(draft)

    asyncio.get_running_loop().create_task(begin())


def a_newer_one_is_there(world: World) -> None:
    prod = world.place("prod/eastus")
    (*kept, last) = prod.revisions[STABLE]
    values = {**last.values, "release": "20260401-000000-newer"}
    prod.revisions[STABLE] = [*kept, replace(last, values=values)]


MEANWHILE = {
    "a freeze": (frozen, "prod: frozen until"),
    "drift": (loses_a_replica, "prod/eastus: somebody changed what Helm installed"),
    "no signature any more": (signature_is_gone, "nobody signed it"),
    "another promotion": (somebody_else_begins, "the promotion p9 of another has not come to its end"),
    "a newer release": (a_newer_one_is_there, "it runs 20260401-000000-newer, which is newer"),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_began_since_is_in_the_way_of_the_next_environment(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    wanted = release("20260302-000000-better")
    estate(monkeypatch, place("staging"), place("prod"))
    promote(GOOD)
    happens, words = MEANWHILE[what]
    after(monkeypatch, Action.FINISH, "staging/eastus", lambda _: happens(world))
    had, notes = world.log.count, Notes()

    with pytest.raises(PolicyBlocked, match=words):
        promote(wanted, notes)

    assert world.places["staging/eastus"].revisions[STABLE][-1].release == wanted.name
    assert had(f"prod/eastus install {CANARY} {wanted.name}") == 0
    assert not any(one.release == wanted.name for one in entries("prod"))
    assert "staging/eastus: promoted: every step passed" in "\n".join(notes.notes)


def test_a_region_that_answers_again_gets_it_and_one_that_lost_it_is_left_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate(monkeypatch, place("staging"), place("prod", "eastus", "westeurope"))
    promote(GOOD)
    monkeypatch.setattr(AnyRegistry, "lacks", frozenset({"westeurope.registry"}))

    def now(_: object) -> None:
        AnyRegistry.lacks = frozenset({"eastus.registry"})

    after(monkeypatch, Action.FINISH, "staging/eastus", now)
    promote(BETTER)
    assert runs(world) == {
        "prod/eastus": GOOD.name, "prod/westeurope": BETTER.name, "staging/eastus": BETTER.name
    }  # fmt: skip


def test_a_freeze_that_begins_between_two_waves_stops_the_second(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate(monkeypatch, place("prod", "eastus", "westeurope"))
    promote(GOOD)
    after(monkeypatch, Action.FINISH, "prod/eastus", frozen)
    for _ in range(2):  # and the same command waits, too
        with pytest.raises(PolicyBlocked, match="prod: frozen until"):
            promote(BETTER)
    assert runs(world) == {"prod/eastus": BETTER.name, "prod/westeurope": GOOD.name}
    last = entries("prod")[-1]
    assert (last.action, last.result) == (Action.FINISH, "waits") and "the holidays" in last.reason

    Clock.frozen = False
    result = promote(BETTER)
    assert result.error is None and result.promotion == last.promotion
    assert set(runs(world).values()) == {BETTER.name}


def test_an_emergency_goes_on_into_a_freeze_that_began_since(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate(monkeypatch, place("prod", "eastus", "westeurope"))
    promote(GOOD)
    after(monkeypatch, Action.FINISH, "prod/eastus", frozen)
    assert promote(BETTER, override="calls drop, this mends them").error is None
    assert set(runs(world).values()) == {BETTER.name}
    (kept,) = [one for one in entries("prod") if one.action is Action.OVERRIDE]
    assert kept.reason == "calls drop, this mends them"


@pytest.mark.parametrize("weight", [20, 50])
def test_what_a_killed_run_had_begun_comes_to_its_end_in_a_freeze_and_nothing_else_begins(
    world: World, monkeypatch: pytest.MonkeyPatch, weight: int
) -> None:
    estate(monkeypatch, place("prod", "eastus", "westeurope"))
    promote(GOOD)
    killed_at(world, f"prod/eastus weight {weight}")
    frozen()

    with pytest.raises(PolicyBlocked, match="prod: frozen until"):
        promote(BETTER)

    assert runs(world) == {"prod/eastus": BETTER.name, "prod/westeurope": GOOD.name}
    assert not world.places["prod/eastus"].revisions[CANARY]


def test_a_bad_canary_that_a_killed_run_left_is_taken_away_in_a_freeze(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate(monkeypatch, place("prod"))
    promote(GOOD)
    killed_at(world, "prod/eastus weight 20")
    frozen()
    Clock.bad = True
    assert promote(BETTER).error is not None
    assert runs(world) == {"prod/eastus": GOOD.name}
    assert not world.places["prod/eastus"].revisions[CANARY]


def test_a_freeze_further_on_keeps_no_killed_run_from_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate(monkeypatch, place("staging", freezes=[]), place("prod"))
    promote(GOOD)
    killed_at(world, "staging/eastus weight 20")
    frozen()
    with pytest.raises(PolicyBlocked, match="prod: frozen until"):
        promote(BETTER)
    assert runs(world) == {"prod/eastus": GOOD.name, "staging/eastus": BETTER.name}


def test_what_waits_for_a_person_does_not_go_on_in_a_freeze(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run ended as it was to: nothing is half done."""
    estate(monkeypatch, place("prod"))
    promote(GOOD)
    held = place("prod")
    estate(monkeypatch, held.model_copy(update={"gates": held.gates.model_copy(update={"deadline": 0.0})}))
    promote(BETTER)
    estate(monkeypatch, place("prod"))
    frozen()
    before_it = len(world.log)
    with pytest.raises(PolicyBlocked, match="prod: frozen until"):
        promote(BETTER)
    assert len(world.log) == before_it


@pytest.mark.parametrize("answered_for", [False, True])
def test_nobody_overrides_a_promotion_that_is_at_work_in_another_region(
    world: World, monkeypatch: pytest.MonkeyPatch, answered_for: bool
) -> None:
    prod = place("prod", "eastus", "westeurope")
    estate(monkeypatch, prod)
    monkeypatch.setattr(flow, "read_environment", lambda *_: prod)
    promote(GOOD)
    killed_at(world, "prod/westeurope weight 20", OTHER)
    (first,) = {one.promotion for one in entries("prod") if one.release == OTHER.name}
    held = world.place("prod/westeurope").held
    assert held is not None
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    held["spec"] |= {"holderIdentity": "bert on build-2", "acquireTime": now, "renewTime": now}
    held["metadata"]["annotations"] = {"va.dev/promotion": first}
    if answered_for:  # in an earlier run
        draft = Draft(
            promotion="", kind=Kind.ORDER, action=Action.OVERRIDE, release=BETTER.name, reason="it burns"
        )

        async def write() -> None:
            async with open_named("test", "prod") as ledger:
                await ledger.append(draft)

        asyncio.run(write())
    had = entries("prod")

    with pytest.raises(PolicyBlocked, match=f"bert on build-2 promotes {OTHER.name} there"):
        promote(BETTER, only="prod/eastus", override="it burns")
    assert entries("prod") == had and runs(world)["prod/eastus"] == OTHER.name

    held["spec"]["renewTime"] = "2020-01-01T00:00:00.000000Z"  # it is gone
    assert promote(BETTER, only="prod/eastus", override="it burns").error is None

"""Undoing where something else is broken, too: a region, the gateway, the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from promotion_world import Place, World, environment, release, stand_in

from ci.delivery.cluster import Pod
from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger
from ci.delivery.load import Answer
from ci.delivery.promotion import run as loop
from ci.delivery.promotion.measurements import Measurements
from ci.delivery.results import Outcome, PromotionResult
from ci.delivery.site import CANARY, STABLE
from ci.environments import Environment
from ci.errors import PipelineError, StepFailed, SystemUnavailable
from ci.release import Release
from ci.reporting import SilentReporter
from pipelines import promote as flow
from pipelines import rollback as back

GOOD, BETTER, BAD, OTHER = (release(name) for name in ("good", "better", "bad", "other"))
Use = Callable[..., None]


class Notes(SilentReporter):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = World()
    made.fails_every = {"bad": 10}
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    stand_in(monkeypatch, made)
    monkeypatch.setattr(back, "open_site", made.open_site)
    monkeypatch.setattr(loop, "SMOKE_SECONDS", 0.03)
    return made


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    def these(*environments: Environment) -> None:
        by_name = {one.name: one for one in environments}
        for module in (flow, back):
            monkeypatch.setattr(module, "read_environments", lambda estate, through=None: environments)
            monkeypatch.setattr(module, "read_environment", lambda estate, name: by_name[name])

    return these


def promote(
    wanted: Release, reporter: Notes | None = None, *, override: str | None = None
) -> PromotionResult:
    return asyncio.run(flow.promote(wanted, "test", override=override, reporter=reporter or Notes()))


def rollback(what: str = "prod", reporter: Notes | None = None) -> PromotionResult:
    return asyncio.run(back.rollback("test", what, reporter=reporter or Notes()))


def runs(place: Place) -> str:
    return place.revisions[STABLE][-1].release


async def silent(*_: object, **__: object) -> None:
    await asyncio.sleep(0)
    raise SystemUnavailable("the cluster does not answer")


def slow(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going back takes longer there than it takes the others to find that theirs is silent."""
    before = place.rollback

    async def later(*given: object, **more: object) -> None:
        for _ in range(200):
            await asyncio.sleep(0)
        await before(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(place, "rollback", later)


def test_one_silent_region_keeps_none_of_the_others_from_going_back(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(environment("prod", "sea", "eastus", "asia"))
    promote(GOOD), promote(BETTER)
    sea, eastus, asia = (world.place(f"prod/{region}") for region in ("sea", "eastus", "asia"))
    with monkeypatch.context() as down:
        down.setattr(eastus, "pods", silent)
        slow(sea, down), slow(asia, down)
        notes = Notes()
        with pytest.raises(SystemUnavailable, match="does not answer"):
            rollback(reporter=notes)
    assert (runs(sea), runs(eastus), runs(asia)) == ("good", "better", "good")
    told = "\n".join(notes.told)
    assert "prod/sea: rolled back" in told and "prod/asia: rolled back" in told
    assert {one.release for one in rollback().targets} == {"good"}  # and all of it when it answers again


def test_two_silent_regions_are_both_named(world: World, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use(environment("prod", "sea", "eastus", "asia"))
    promote(GOOD), promote(BETTER)
    for name in ("prod/sea", "prod/asia"):
        monkeypatch.setattr(world.place(name), "pods", silent)
    with pytest.raises(SystemUnavailable, match=r"(?s)prod/asia: .*prod/sea: "):
        rollback()
    assert runs(world.place("prod/eastus")) == "good"


def test_a_promotion_goes_back_in_each_environment_whatever_one_says(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(environment("staging"), environment("prod"))
    promote(GOOD)
    name = promote(BETTER).promotion
    monkeypatch.setattr(world.place("prod/eastus"), "pods", silent)
    with pytest.raises(SystemUnavailable):
        rollback(name)
    assert runs(world.place("staging/eastus")) == "good"


def test_a_canary_that_cannot_start_ends_no_bake_elsewhere(world: World, use: Use) -> None:
    both = environment("prod", "sea", "eastus").model_copy(update={"waves": (("sea", "eastus"),)})
    use(both)
    promote(GOOD)
    world.place("prod/eastus").upgrade_fails = CANARY
    notes = Notes()
    with pytest.raises(StepFailed, match="timed out"):
        promote(BETTER, notes)
    assert runs(world.place("prod/sea")) == "better"
    assert any(line.startswith("prod/sea: promoted") for line in notes.told)


def test_what_went_back_stays_so_for_who_knows_nothing_of_it(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(environment())
    promote(GOOD), promote(BETTER)
    for folder in "abc":  # each a machine with a ledger of its own
        monkeypatch.setenv("VA_STATE", str(tmp_path / folder))
        rollback()
        assert runs(world.place("prod/eastus")) == "good"


@pytest.mark.parametrize("knows", ["nothing", "what both had"])
def test_a_region_that_never_had_the_release_is_left_alone_by_who_does_not_know(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, knows: str
) -> None:
    """CI promoted to one region; at night somebody undoes it from a machine that has not heard of it."""
    both, one = environment("prod", "sea", "eastus"), environment("prod", "sea")
    use(both)
    promote(GOOD)
    if knows == "what both had":
        promote(OTHER)
    monkeypatch.setenv("VA_STATE", str(tmp_path / "ci"))
    if knows == "nothing":
        promote(OTHER)
    use(one)
    promote(BETTER)
    monkeypatch.setenv("VA_STATE", str(tmp_path / ("night" if knows == "nothing" else "")))
    use(both)
    notes = Notes()
    rollback(reporter=notes)
    assert runs(world.place("prod/sea")) == "other"
    assert runs(world.place("prod/eastus")) == "other"
    assert [line for line in notes.told if "never came here" in line] == [
        "prod/eastus: better never came here, other stays (va rollback prod/eastus takes it back)"
    ]


def test_stable_that_does_not_answer_goes_back_all_the_same(world: World, use: Use) -> None:
    one = environment()
    use(one.model_copy(update={"canary": one.canary.model_copy(update={"follow": 0.2})}))
    promote(GOOD)
    place = world.place("prod/eastus")
    answers = place.gateway

    def unreached(request: httpx.Request) -> httpx.Response:
        answer = answers(request)
        of_stable = answer.headers.get("x-va-track") == "stable"
        return httpx.Response(503) if of_stable and runs(place) == "better" else answer

    place.gateway = unreached  # type: ignore[method-assign]
    with pytest.raises(PipelineError):
        promote(BETTER)
    assert runs(place) == "better"
    rollback()
    assert (runs(place), place.weight(), place.revisions[CANARY]) == ("good", 0, [])


@pytest.mark.parametrize("fails", ["a verdict", "the next look"])
def test_traffic_leaves_a_failed_canary_though_the_ledger_takes_nothing(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    use(environment())
    promote(GOOD)
    append, entries = Ledger.append, Ledger.entries
    full: list[bool] = []

    async def refused(self: Ledger, draft: Draft, **more: Any) -> Entry:
        at = draft.kind is Kind.OUTCOME if fails == "a verdict" else draft.kind is Kind.INTENT
        if full or (draft.action is Action.STEP and at):
            full.append(True)
            raise SystemUnavailable("the ledger: no space left on the device")
        return await append(self, draft, **more)

    async def unread(self: Ledger, **more: Any) -> tuple[Entry, ...]:
        if full:
            raise SystemUnavailable("the ledger does not answer")
        return await entries(self, **more)

    notes = Notes()
    with monkeypatch.context() as broken:
        broken.setattr(Ledger, "append", refused)
        broken.setattr(Ledger, "entries", unread)
        with pytest.raises(SystemUnavailable):
            promote(BAD, notes)
    assert world.place("prod/eastus").weight() == 0
    assert any("stable has all the traffic" in line for line in notes.told)
    assert any("does not know of: step failed" in line for line in notes.told) is (fails == "a verdict")


def test_a_verdict_that_was_refused_is_written_behind_the_move(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(environment())
    promote(GOOD)
    append, refusals = Ledger.append, []

    async def once(self: Ledger, draft: Draft, **more: Any) -> Entry:
        if draft.action is Action.STEP and draft.kind is Kind.OUTCOME and not refusals:
            refusals.append(draft.result)
            raise SystemUnavailable("the ledger does not answer")
        return await append(self, draft, **more)

    monkeypatch.setattr(Ledger, "append", once)
    with pytest.raises(SystemUnavailable):
        promote(BAD)
    assert refusals == ["failed"]
    installed = world.log.count("prod/eastus install voice-canary bad")
    assert promote(BAD).targets[0].outcome is Outcome.FAILED  # it stays failed
    assert world.log.count("prod/eastus install voice-canary bad") == installed


def test_a_look_that_cannot_be_kept_ends_no_bake(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    use(environment())
    promote(GOOD)
    monkeypatch.setattr(Measurements, "write", full)
    notes = Notes()
    assert promote(BETTER, notes).targets[0].outcome is Outcome.PROMOTED
    assert sum("No space left" in line for line in notes.told) == 2  # one a step


def test_a_change_of_values_is_undone_and_no_more_than_that(world: World, use: Use) -> None:
    one = environment()
    use(one)
    promote(GOOD), promote(BETTER)
    use(one.model_copy(update={"values": {"api": {"replicas": 9}}}))
    changed = promote(BETTER)
    assert changed.targets[0].outcome is Outcome.PROMOTED
    place = world.place("prod/eastus")
    assert place.revisions[STABLE][-1].values["api"] == {"replicas": 9}
    for outcome in (Outcome.BACK, Outcome.CACHED):
        assert rollback().targets[0].outcome is outcome
        assert (runs(place), place.revisions[STABLE][-1].values.get("api")) == ("better", None)


def test_a_change_of_values_is_undone_by_helms_history_alone(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = environment()
    use(one)
    promote(GOOD), promote(BETTER)
    use(one.model_copy(update={"values": {"api": {"replicas": 9}}}))
    promote(BETTER)
    place = world.place("prod/eastus")
    monkeypatch.setenv("VA_STATE", str(tmp_path / "elsewhere"))
    for _ in range(2):
        rollback()
        assert (runs(place), place.revisions[STABLE][-1].values.get("api")) == ("better", None)


def test_values_whose_sessions_fail_go_back_to_those_before(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = environment()
    at_once = one.model_copy(update={"canary": one.canary.model_copy(update={"steps": ()})})
    use(at_once)
    promote(GOOD)
    place = world.place("prod/eastus")
    send = place.send

    async def sent(method: str, path: str, body: object) -> Answer:
        if place.revisions[STABLE][-1].values.get("api"):
            return Answer(status=500, track="stable", body=b"")
        return await send(method, path, body)

    monkeypatch.setattr(place, "send", sent)
    use(at_once.model_copy(update={"values": {"api": {"replicas": 0}}}))
    assert promote(GOOD).targets[0].outcome is Outcome.FAILED
    assert "api" not in place.revisions[STABLE][-1].values


def test_what_failed_is_never_what_another_promotion_goes_back_to(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = environment()
    use(one.model_copy(update={"canary": one.canary.model_copy(update={"steps": ()})}))
    promote(GOOD)
    place = world.place("prod/eastus")
    world.fails_every = {"bad": 1}
    with monkeypatch.context() as cut:
        cut.setattr(place, "rollback", silent)  # as if it was killed before it went back
        with pytest.raises(SystemUnavailable):
            promote(BAD)
    assert runs(place) == "bad"
    promote(BETTER, override="the users are on a release that fails")
    assert runs(place) == "better"
    rollback()
    assert runs(place) == "good"


@pytest.mark.parametrize("when", ["before its first step", "while it bakes"])
def test_a_canary_without_a_ready_pod_gets_no_traffic_and_has_failed(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    one = environment()
    use(one.model_copy(update={"canary": one.canary.model_copy(update={"install": 0.05})}))
    monkeypatch.setattr(loop, "_AGAIN", 0.01)
    promote(GOOD)
    world.log.clear()
    place = world.place("prod/eastus")
    pods = place.pods

    async def unready(namespace: str) -> tuple[Pod, ...]:
        gone = when == "before its first step" or place.weight() > 0 or "prod/eastus weight 20" in world.log
        return tuple(
            replace(pod, ready=False) if pod.track == "canary" and gone else pod
            for pod in await pods(namespace)
        )

    monkeypatch.setattr(place, "pods", unready)
    (target,) = promote(BETTER).targets
    assert target.outcome is Outcome.FAILED and "has no ready pod" in target.reason
    assert ("prod/eastus weight 20" in world.log) is (when == "while it bakes")
    assert "prod/eastus weight 50" not in world.log
    assert (runs(place), place.weight(), place.revisions[CANARY]) == ("good", 0, [])


def test_without_a_ledger_a_roll_back_takes_the_traffic_from_a_canary(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(environment())
    promote(GOOD)
    place = world.place("prod/eastus")
    asyncio.run(place.upgrade(CANARY, Path(), {"release": "better"}, timeout=1, description=""))
    assert place.http_route is not None
    backends = place.http_route["spec"]["rules"][0]["backendRefs"]
    backends[:] = [{"name": f"{STABLE}-api", "weight": 60}, {"name": f"{CANARY}-api", "weight": 40}]
    assert place.weight() == 40
    monkeypatch.setattr(Ledger, "entries", silent)
    with pytest.raises(SystemUnavailable):
        rollback()
    assert (place.weight(), bool(place.revisions[CANARY])) == (0, True)

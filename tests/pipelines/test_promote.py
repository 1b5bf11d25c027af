from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest
from promotion_world import AnyRegistry, World, environment, release, stand_in

from ci.delivery.cluster import Pod
from ci.delivery.findings import Verdict
from ci.delivery.ledger import Action, Entry, Kind, open_named
from ci.delivery.promotion import run as loop
from ci.delivery.results import Outcome, PromotionResult
from ci.delivery.site import CANARY
from ci.environments import Environment, OnHarm
from ci.errors import (
    GateFailed,
    GateInconclusive,
    Interrupted,
    PolicyBlocked,
    StepFailed,
    SystemUnavailable,
)
from ci.reporting import SilentReporter
from ci.supply.verification import Check
from pipelines import before, orders
from pipelines import promote as flow
from pipelines import rollback as back
from pipelines.verify import Verification, Verified

GOOD, BETTER, BAD = release("good"), release("better"), release("bad")


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
def promote(monkeypatch: pytest.MonkeyPatch):
    async def run(wanted, *environments: Environment, override: str | None = None) -> PromotionResult:
        chosen = environments or (environment(),)
        monkeypatch.setattr(flow, "read_environments", lambda estate, through=None: chosen)
        monkeypatch.setattr(back, "read_environment", lambda estate, name: chosen[0])
        return await flow.promote(wanted, "test", override=override, reporter=SilentReporter())

    return run


def entries(name: str = "prod") -> tuple[Entry, ...]:
    async def read() -> tuple[Entry, ...]:
        async with open_named("test", name) as ledger:
            assert await ledger.verify() == ()
            return await ledger.entries()

    return asyncio.run(read())


def events(name: str = "prod") -> list[str]:
    """What came of what was done on targets, and what was noted."""
    return [
        f"{entry.action} {entry.result}".strip()
        for entry in entries(name)
        if entry.target and entry.kind in (Kind.OUTCOME, Kind.NOTE)
    ]


def test_the_first_release_is_installed_and_tried(world: World, promote) -> None:
    result = asyncio.run(promote(GOOD))

    (target,) = result.targets
    assert (target.outcome, target.previous, target.steps) == (Outcome.INSTALLED, None, ())
    assert target.requests is not None and target.requests.ok > 0 and target.requests.failed == 0
    assert result.error is None
    assert events() == ["start done", "install done", "smoke passed", "verify passed", "finish promoted"]


def test_one_environment_alone_is_promoted_to_and_the_others_are_not_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job with the rights of one environment has none in those before it."""
    monkeypatch.setattr(flow, "read_environments", lambda *_: pytest.fail("the others are asked"))
    monkeypatch.setattr(flow, "read_environment", lambda estate, name: environment(name))
    result = asyncio.run(flow.promote(GOOD, "test", only="staging", reporter=SilentReporter()))
    assert [target.target for target in result.targets] == ["staging/eastus"]
    assert events("staging") == [
        "start done",
        "install done",
        "smoke passed",
        "verify passed",
        "finish promoted",
    ]
    assert events("dev") == []


def test_a_first_release_whose_sessions_fail_is_said_so(world: World, promote) -> None:
    world.fails_every = {"bad": 1}
    for _ in range(2):  # it is asked again each time
        result = asyncio.run(promote(BAD))
        assert [target.outcome for target in result.targets] == [Outcome.BROKEN]
        assert isinstance(result.error, StepFailed) and "sessions of bad fail on prod/eastus" in str(
            result.error
        )
    assert events()[2:4] == ["smoke failed", "finish failed"]


def test_a_good_release_passes_its_steps_and_becomes_stable(world: World, promote) -> None:
    asyncio.run(promote(GOOD))
    world.log.clear()

    result = asyncio.run(promote(BETTER))

    (target,) = result.targets
    assert (target.outcome, target.previous) == (Outcome.PROMOTED, "good")
    assert [(step.weight, step.verdict) for step in target.steps] == [(20, Verdict.PASS), (50, Verdict.PASS)]
    assert target.requests is not None and (target.requests.lost, target.requests.failed) == (0, 0)
    assert world.log == [
        "prod/eastus install voice-canary better",
        "prod/eastus weight 20",
        "prod/eastus weight 50",
        "prod/eastus install voice better",
        "prod/eastus weight 0",
        "prod/eastus uninstall voice-canary",
    ]
    assert events()[-10:] == [
        "canary done",
        "move done",
        "step passed",
        "move done",
        "step passed",
        "upgrade done",
        "move done",
        "remove done",
        "verify passed",
        "finish promoted",
    ]


def test_a_bad_release_is_caught_and_traffic_leaves_it_before_it_is_removed(world: World, promote) -> None:
    asyncio.run(promote(GOOD))
    world.log.clear()

    result = asyncio.run(promote(BAD))

    (target,) = result.targets
    assert target.outcome is Outcome.FAILED
    assert isinstance(result.error, GateFailed) and "errors fail, E" in str(result.error)
    assert world.log[-2:] == ["prod/eastus weight 0", "prod/eastus uninstall voice-canary"]
    assert not any("install voice bad" in event for event in world.log)
    assert target.moving is not None and target.moving.lost == 0
    verdict = next(entry for entry in entries() if entry.result == "failed")
    assert [finding.metric for finding in verdict.findings] == ["errors", "latency"]
    assert events()[-4:] == ["step failed", "move done", "remove done", "finish failed"]


def without_canary() -> Environment:
    dev = environment("dev")
    return dev.model_copy(update={"canary": dev.canary.model_copy(update={"steps": ()})})


def test_an_environment_without_canary_steps_is_upgraded_at_once(world: World, promote) -> None:
    asyncio.run(promote(GOOD, without_canary()))
    world.log.clear()

    result = asyncio.run(promote(BAD, without_canary()))  # a few errors are for gates to judge

    (target,) = result.targets
    assert (target.outcome, target.reason) == (Outcome.PROMOTED, "upgraded at once: dev has no canary")
    assert world.log == ["dev/eastus install voice bad"]


def test_an_upgrade_at_once_whose_sessions_all_fail_goes_back(world: World, promote) -> None:
    asyncio.run(promote(GOOD, without_canary()))
    world.fails_every = {"bad": 1}

    result = asyncio.run(promote(BAD, without_canary()))

    assert isinstance(result.error, GateFailed)
    assert world.place("dev/eastus").revisions["voice"][-1].release == "good"
    assert events("dev")[-3:] == ["smoke failed", "roll-back done", "finish failed"]


def test_run_again_it_is_there_already(world: World, promote) -> None:
    asyncio.run(promote(GOOD))
    world.log.clear()

    result = asyncio.run(promote(GOOD))

    assert [target.outcome for target in result.targets] == [Outcome.CACHED]
    assert world.log == []


def test_harm_in_one_wave_keeps_the_release_from_the_next(world: World, promote) -> None:
    prod = environment("prod", "eastus", "westeurope")
    asyncio.run(promote(GOOD, prod))
    world.log.clear()

    result = asyncio.run(promote(BAD, prod))

    assert [target.target for target in result.targets] == ["prod/eastus"]
    assert not any("westeurope" in event for event in world.log)


def test_harm_in_one_region_stops_the_others_of_its_wave(world: World, promote) -> None:
    prod = environment("prod", "eastus", "westeurope").model_copy(
        update={"waves": (("eastus", "westeurope"),)}
    )
    asyncio.run(promote(GOOD, prod))
    world.place("prod/westeurope").gateway = lambda request: None  # type: ignore[method-assign]
    eastus, westeurope = world.place("prod/eastus"), world.place("prod/westeurope")
    del westeurope.gateway
    served = westeurope.gateway

    def well(request):  # the bad release does well there: no verdict of its own yet
        westeurope.served[CANARY] = 0
        return served(request)

    westeurope.gateway = well  # type: ignore[method-assign]
    strict = {"gates": prod.gates.model_copy(update={"beta": 1e-12})}

    result = asyncio.run(promote(BAD, prod.model_copy(update=strict)))

    assert [target.outcome for target in result.targets] == [Outcome.FAILED, Outcome.STOPPED]
    assert not eastus.revisions[CANARY] and not westeurope.revisions[CANARY]
    assert (eastus.weight(), westeurope.weight()) == (0, 0)


@pytest.mark.parametrize(
    ("choice", "outcome", "error"),
    [
        ("hold", Outcome.HELD, GateInconclusive),
        ("rollback", Outcome.FAILED, GateFailed),
        ("promote", Outcome.PROMOTED, type(None)),
    ],
)
def test_without_data_it_is_as_the_environment_says_and_never_a_pass(
    world: World, promote, choice: str, outcome: Outcome, error: type
) -> None:
    prod = environment("prod", on_inconclusive=choice, deadline="200ms")
    asyncio.run(promote(GOOD, prod))

    def scraping_stops(event: str) -> None:
        world.prometheus_down = "weight" in event or world.prometheus_down

    world.on = scraping_stops
    result = asyncio.run(promote(BETTER, prod))

    (target,) = result.targets
    assert target.outcome is outcome
    assert isinstance(result.error, error)
    assert all(step.verdict is Verdict.INCONCLUSIVE for step in target.steps)
    assert "no data" in target.steps[0].reason
    place = world.place("prod/eastus")
    assert place.weight() == 0
    assert bool(place.revisions[CANARY]) == (choice == "hold")


def test_a_held_canary_goes_on_with_the_same_command(world: World, promote) -> None:
    asyncio.run(promote(GOOD))
    held = asyncio.run(promote(BETTER, environment("prod", deadline="0s")))
    world.log.clear()

    result = asyncio.run(promote(BETTER))

    assert [target.outcome for target in (*held.targets, *result.targets)] == [Outcome.HELD, Outcome.PROMOTED]
    assert "prod/eastus install voice-canary better" not in world.log


STAGES = {  # where Ctrl-C comes: the steps that the next run still bakes
    "install voice-canary better": [20, 50],
    "weight 20": [20, 50],
    "weight 50": [50],
    "install voice better": [],
    "weight 0": [],
    "uninstall voice-canary": [],
}


@pytest.mark.parametrize(("stage", "baked"), STAGES.items(), ids=STAGES)
def test_after_ctrl_c_in_any_stage_stable_has_all_traffic_and_the_next_run_goes_on(
    world: World, promote, stage: str, baked: list[int]
) -> None:
    asyncio.run(promote(GOOD))

    async def interrupted() -> None:
        task = asyncio.create_task(promote(BETTER))
        world.on = lambda event: task.cancel() if event == f"prod/eastus {stage}" else None
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    place = world.place("prod/eastus")
    assert place.weight() == 0
    # A canary whose removal was under way may be gone, and that is written down.
    assert stage == "uninstall voice-canary" or any(event.endswith("interrupted") for event in events())
    world.on = lambda event: None
    canary_kept = bool(place.revisions[CANARY])

    result = asyncio.run(promote(BETTER))

    (target,) = result.targets
    assert target.outcome in (Outcome.PROMOTED, Outcome.CACHED)
    assert [step.weight for step in target.steps] == baked
    assert canary_kept == (stage != "uninstall voice-canary")
    assert place.revisions["voice"][-1].release == "better"
    assert not place.revisions[CANARY] and place.weight() == 0
    assert events()[-1] == "finish promoted"


def test_a_canary_of_another_release_stands_in_the_way_and_in_an_emergency_is_removed_first(
    world: World, promote
) -> None:
    asyncio.run(promote(GOOD))
    asyncio.run(promote(BAD, environment("prod", deadline="0s")))
    world.log.clear()
    with pytest.raises(PolicyBlocked, match="of bad has not come to its end"):
        asyncio.run(promote(BETTER))
    assert world.log == []

    result = asyncio.run(promote(BETTER, override="calls drop, this mends them"))

    assert [target.outcome for target in result.targets] == [Outcome.PROMOTED]
    assert world.log[:2] == ["prod/eastus uninstall voice-canary", "prod/eastus install voice-canary better"]


def test_a_stable_upgrade_that_fails_leaves_all_traffic_on_stable(world: World, promote) -> None:
    asyncio.run(promote(GOOD))
    place = world.place("prod/eastus")
    place.upgrade_fails = "voice"

    with pytest.raises(StepFailed, match="voice was not installed"):
        asyncio.run(promote(BETTER))

    assert place.weight() == 0
    assert place.revisions["voice"][-1].release == "good"


def test_a_migration_that_fails_says_what_it_said(world: World, promote) -> None:
    asyncio.run(promote(GOOD))
    place = world.place("prod/eastus")
    place.upgrade_fails = "voice-canary"
    place.unmigrated = {"voice-canary-migrate-x": "0001_sessions.sql was applied with another content"}

    with pytest.raises(StepFailed, match=r"migrate-x: 0001_sessions\.sql was applied with another content"):
        asyncio.run(promote(BETTER))

    assert place.weight() == 0
    assert place.revisions["voice"][-1].release == "good"


def test_a_release_that_is_refused_touches_nothing(world: World, promote, monkeypatch) -> None:
    async def refused(wanted, environments) -> Verification:
        check = Check(subject="fastapi-backend", what="signature", reason="it is not signed")
        place = Verified(endpoint="127.0.0.1:5501", environments=("prod",), checks=(check,))
        return Verification(release=wanted.name, digest=wanted.chart.digest, places=(place,))

    monkeypatch.setattr(before, "verify", refused)

    with pytest.raises(PolicyBlocked, match="signature of fastapi-backend: it is not signed"):
        asyncio.run(promote(GOOD))
    assert world.log == []
    assert events() == []


def test_a_release_that_a_registry_lacks_touches_nothing(world: World, promote, monkeypatch) -> None:
    monkeypatch.setattr(AnyRegistry, "lacks", {"eastus.registry"})

    with pytest.raises(SystemUnavailable, match=r"eastus\.registry lacks 1 of its parts"):
        asyncio.run(promote(GOOD))
    assert world.log == []
    assert events() == []


def test_a_region_whose_registry_lags_is_left_out_and_the_others_go_on(
    world: World, promote, monkeypatch
) -> None:
    prod = environment("prod", "southeastasia", "eastus", "westeurope")
    monkeypatch.setattr(AnyRegistry, "lacks", {"southeastasia.registry"})

    result = asyncio.run(promote(GOOD, prod))

    assert [target.outcome for target in result.targets] == [
        Outcome.NOT_THERE,
        Outcome.INSTALLED,
        Outcome.INSTALLED,
    ]
    assert not any("southeastasia" in event for event in world.log)
    assert isinstance(result.error, SystemUnavailable)
    assert "prod/southeastasia: southeastasia.registry lacks 1 of its parts" in str(result.error)
    assert "the same command goes on" in result.error.hint
    assert events()[0] == "not-there"

    monkeypatch.setattr(AnyRegistry, "lacks", frozenset())
    again = asyncio.run(promote(GOOD, prod))
    assert [target.outcome for target in again.targets] == [
        Outcome.INSTALLED,
        Outcome.CACHED,
        Outcome.CACHED,
    ]
    assert again.error is None


def test_a_release_that_reached_no_target_of_an_environment_goes_no_further(
    world: World, promote, monkeypatch
) -> None:
    monkeypatch.setattr(AnyRegistry, "lacks", {"westeurope.registry"})

    result = asyncio.run(promote(GOOD, environment("dev", "westeurope"), environment("prod", "eastus")))

    assert [target.target for target in result.targets] == ["dev/westeurope"]
    assert world.log == []


def test_roll_back_goes_to_the_release_before_and_again_changes_nothing(world: World, promote) -> None:
    asyncio.run(promote(GOOD))
    asyncio.run(promote(BETTER))

    def rolled_back(**more: object) -> PromotionResult:
        return asyncio.run(back.rollback("test", "prod/eastus", reporter=SilentReporter(), **more))  # type: ignore[arg-type]

    first, again = rolled_back(), rolled_back(to="good")

    assert [target.outcome for target in (*first.targets, *again.targets)] == [Outcome.BACK, Outcome.CACHED]
    assert first.targets[0].reason == "rolled back from better to good"
    assert world.place("prod/eastus").revisions["voice"][-1].release == "good"
    assert first.error is None


def test_roll_back_of_a_held_canary_takes_only_the_canary_away(world: World, promote) -> None:
    asyncio.run(promote(GOOD))
    asyncio.run(promote(BETTER, environment("prod", deadline="0s")))

    asyncio.run(back.rollback("test", "prod", reporter=SilentReporter()))

    place = world.place("prod/eastus")
    assert not place.revisions[CANARY]
    assert place.revisions["voice"][-1].release == "good"


def test_roll_back_mends_a_route_that_names_the_canary_alone(world: World, promote) -> None:
    asyncio.run(promote(GOOD))
    place = world.place("prod/eastus")
    assert place.http_route is not None
    (rule,) = place.http_route["spec"]["rules"]
    rule["backendRefs"] = [rule["backendRefs"][0] | {"name": f"{CANARY}-api", "weight": 1}]

    asyncio.run(back.rollback("test", "prod/eastus", reporter=SilentReporter(), canary_only=True))

    (rule,) = place.http_route["spec"]["rules"]
    assert [(one["name"], one["weight"]) for one in rule["backendRefs"]] == [("voice-api", 100)]


def test_a_target_that_somebody_else_works_on_is_not_touched(world: World, promote) -> None:
    asyncio.run(promote(GOOD))
    asyncio.run(promote(BETTER))
    place = world.place("prod/eastus")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert place.held is not None and place.held["spec"]["holderIdentity"] == ""  # given back
    place.held["spec"] |= {"holderIdentity": "bert on build-2", "acquireTime": now, "renewTime": now}
    place.held["metadata"]["annotations"] = {}
    world.log.clear()

    for work in (
        lambda: promote(GOOD),
        lambda: back.rollback("test", "prod/eastus", reporter=SilentReporter()),
    ):
        with pytest.raises(PolicyBlocked, match="va-prod-eastus is being worked on by bert on build-2 since"):
            asyncio.run(work())
    assert world.log == [] and events()[-1] == "finish promoted"


def test_what_the_guard_did_for_the_run_before_is_said_once(world: World, promote) -> None:
    asyncio.run(promote(GOOD))
    place = world.place("prod/eastus")
    assert place.held is not None
    fence = place.held["spec"]["leaseTransitions"]
    place.config_maps["va-guard"] = {
        "time": "2026-11-29T20:15:20Z", "why": "nobody renewed the lease for 12 s", "weight": "20",
        "fence": str(fence),
    }  # fmt: skip
    said: list[str] = []
    for _ in range(2):
        with patch.object(SilentReporter, "note", lambda self, text: said.append(text)):
            asyncio.run(promote(BETTER))
    assert [text for text in said if "guard" in text] == [
        "prod/eastus: the guard took all traffic to stable at 2026-11-29 20:15:20 UTC, from 20 % on the "
        "canary: nobody renewed the lease for 12 s"
    ]
    (kept,) = (one for one in entries() if one.action is Action.GUARD)
    assert (kept.by, kept.when) == ("the guard", datetime(2026, 11, 29, 20, 15, 20, tzinfo=UTC))


@pytest.mark.parametrize("choice", ["rollback", "alert"])
def test_harm_that_shows_after_a_wave_takes_back_what_was_promoted(
    world: World, promote, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    """The canary passes; once the release is stable in the first region half of its sessions fail."""
    prod = environment("prod", "eastus", "westeurope")
    asyncio.run(promote(GOOD, prod))
    watched = prod.model_copy(update={"wave_bake": 60.0, "on_harm": OnHarm(choice)})
    look = flow.Watch.look

    async def used(self: flow.Watch) -> object:
        found = await look(self)
        world.fails_every = {"better": 2}
        for _ in range(50):
            await world.place("prod/eastus").send("POST", "/v1/sessions", {})
        return found

    monkeypatch.setattr(flow.Watch, "look", used)
    world.log.clear()
    result = asyncio.run(promote(BETTER, watched))

    assert isinstance(result.error, GateFailed) and "errors fail, E" in str(result.error)
    assert not any("westeurope" in event for event in world.log)
    now = world.place("prod/eastus").revisions["voice"][-1].release
    assert (result.targets[0].outcome, now) == (
        (Outcome.FAILED, "good") if choice == "rollback" else (Outcome.HARMED, "better")
    )


async def until(name: str, action: Action) -> None:
    """It has begun, by the ledger of the environment."""
    async with open_named("test", name) as ledger:
        for _ in range(3000):
            if any(one.action is action and one.kind is Kind.INTENT for one in await ledger.entries()):
                return
            await asyncio.sleep(0.01)


def stable(world: World) -> dict[str, str]:
    return {name: place.revisions["voice"][-1].release for name, place in world.places.items()}


PLACES = {
    "between waves": (Action.WAVE, {"wave_bake": 600.0}, ("eastus", "westeurope")),
    "watched": (Action.WATCH, {"watch": 600.0}, ("eastus",)),
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("order", ["abort", "rollback", "skip-bake"])
def test_what_is_ordered_in_a_wait_is_obeyed_and_only_a_skip_hastens_it(
    world: World, promote, monkeypatch: pytest.MonkeyPatch, where: str, order: str
) -> None:
    action, waits, regions = PLACES[where]
    staging, prod = environment("staging", *regions), environment("prod")
    asyncio.run(promote(GOOD, staging, prod))
    slow = staging.model_copy(update=waits)
    monkeypatch.setattr(orders, "read_environments", lambda estate: (slow, prod))

    async def ordered() -> PromotionResult:
        running = asyncio.create_task(promote(BETTER, slow, prod))
        await until("staging", action)
        if order == "rollback":
            await back.rollback("test", "staging", reason="echoes", reporter=SilentReporter())
        else:
            await orders.give_order("test", Action(order), None, reason="echoes")
        return await running

    result = asyncio.run(ordered())

    later = [name for name in stable(world) if name != "staging/eastus"]
    if order == "skip-bake":
        assert result.error is None and set(stable(world).values()) == {"better"}
        return
    assert isinstance(result.error, Interrupted) and "echoes" in str(result.error)
    assert {stable(world)[name] for name in later} == {"good"}
    assert stable(world)["staging/eastus"] == ("better" if order == "abort" else "good")
    assert [target.target for target in result.targets] == ["staging/eastus"]
    monkeypatch.setattr(orders, "read_environments", lambda estate: (slow, prod))
    with pytest.raises(Exception, match="nothing is being promoted"):
        asyncio.run(orders.give_order("test", Action.ABORT, None, reason="it has ended"))


def test_a_rollback_between_waves_is_ordered_for_all_of_the_environment_first(world: World, promote) -> None:
    prod = environment("prod", "eastus", "westeurope")
    asyncio.run(promote(GOOD, prod))
    slow = prod.model_copy(update={"wave_bake": 600.0})

    async def ordered() -> None:
        running = asyncio.create_task(promote(BETTER, slow))
        await until("prod", Action.WAVE)
        await back.rollback("test", "prod", reporter=SilentReporter())
        await running

    asyncio.run(ordered())
    assert [one.target for one in entries() if one.kind is Kind.ORDER] == [""]


def test_a_release_that_does_not_start_keeps_no_fix_away(world: World, promote) -> None:
    dev = environment("dev")
    dev = dev.model_copy(update={"canary": dev.canary.model_copy(update={"steps": ()})})
    asyncio.run(promote(GOOD, dev))
    place = world.place("dev/eastus")
    upgrade = place.upgrade

    async def breaks(name: str, chart: Path, values: dict[str, object], **more: object) -> None:
        if values["release"] == "bad":
            raise StepFailed("timed out: its container ends at once")
        await upgrade(name, chart, values, **more)  # type: ignore[arg-type]

    place.upgrade = breaks  # type: ignore[method-assign,assignment]
    for _ in range(2):  # the same command tries again
        with pytest.raises(StepFailed, match="ends at once"):
            asyncio.run(promote(BAD, dev))
    assert [target.outcome for target in asyncio.run(promote(BETTER, dev)).targets] == [Outcome.PROMOTED]


def test_a_pod_that_an_autoscaler_has_just_added_may_start_for_a_while(world: World, promote) -> None:
    prod = environment("prod")
    prod = prod.model_copy(update={"canary": prod.canary.model_copy(update={"follow": 0.2})})
    asyncio.run(promote(GOOD, prod))
    place = world.place("prod/eastus")
    pods, looks = place.pods, iter(range(10))

    async def scaled(namespace: str) -> tuple[Pod, ...]:
        found = await pods(namespace)
        runs = [one for one in found if one.track == "stable" and one.release == "better"]
        starting = [replace(one, name="new", ready=False, trouble="no node") for one in runs]
        return (*found, *(starting if starting and next(looks, 9) < 2 else ()))

    place.pods = scaled  # type: ignore[method-assign]
    assert [one.outcome for one in asyncio.run(promote(BETTER, prod)).targets] == [Outcome.PROMOTED]
    assert next(looks) >= 2


def test_a_watch_that_saw_nothing_says_so(world: World, promote) -> None:
    notes: list[str] = []
    prod = environment("prod").model_copy(update={"watch": 0.1})
    asyncio.run(promote(GOOD, prod))
    world.on = lambda event: setattr(world, "prometheus_down", "uninstall" in event or world.prometheus_down)
    with patch.object(SilentReporter, "note", lambda _, text: notes.append(text)):
        result = asyncio.run(promote(BETTER, prod))
    assert result.error is None
    assert [note for note in notes if "NOBODY SAW" in note and "prod/eastus (" in note]


def test_killed_after_it_was_taken_back_the_same_command_goes_no_further(
    world: World, promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging, prod = environment("staging"), environment("prod")
    asyncio.run(promote(GOOD, staging, prod))
    slow = staging.model_copy(update={"watch": 600.0})

    def end(*_: object) -> None:
        raise asyncio.CancelledError  # not by cancel(): a write that is under way in a thread would go on

    async def killed() -> None:
        running = asyncio.create_task(promote(BETTER, slow, prod))
        await until("staging", Action.WATCH)
        with monkeypatch.context() as patched:
            patched.setattr(flow, "left_open", end)
            patched.setattr(back, "unfinished", lambda _: {})  # the roll-back is killed before its end, too
            await back.rollback("test", "staging", reporter=SilentReporter())
            with pytest.raises(asyncio.CancelledError):
                await running

    asyncio.run(killed())
    result = asyncio.run(promote(BETTER, slow, prod))

    assert [target.outcome for target in result.targets] == [Outcome.BACK]
    assert isinstance(result.error, Interrupted)
    assert set(stable(world).values()) == {"good"}


@pytest.mark.parametrize("order", ["", "skip-bake", "retry"])
def test_harm_that_was_only_told_stands_in_the_way_until_somebody_answers_for_it(
    world: World, promote, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    staging, prod = environment("staging"), environment("prod")
    asyncio.run(promote(GOOD, staging, prod))
    watched = staging.model_copy(update={"watch": 0.3, "on_harm": OnHarm.ALERT})
    look = flow.Watch.look

    async def used(self: flow.Watch) -> object:
        found = await look(self)
        for _ in range(50):
            world.fails_every = {"better": 2}
            await world.place("staging/eastus").send("POST", "/v1/sessions", {})
        world.fails_every = {}
        return found

    with monkeypatch.context() as patched:
        patched.setattr(flow.Watch, "look", used)
        first = asyncio.run(promote(BETTER, watched.model_copy(update={"watch": 600.0}), prod))
    if order:
        monkeypatch.setattr(orders, "read_environments", lambda estate: (watched, prod))
        asyncio.run(orders.give_order("test", Action(order), None, reason="it was the test's"))
    again = asyncio.run(promote(BETTER, watched, prod))

    assert [target.outcome for target in first.targets] == [Outcome.HARMED]
    if order:
        assert again.error is None and stable(world)["prod/eastus"] == "better"
    else:
        assert [target.outcome for target in again.targets] == [Outcome.HARMED]
        assert isinstance(again.error, GateFailed) and stable(world)["prod/eastus"] == "good"


def test_one_region_alone_does_not_close_what_is_held_in_another(
    world: World, promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    prod = environment("prod", "eastus", "westeurope")
    asyncio.run(promote(GOOD, prod))
    held = asyncio.run(promote(BETTER, environment("prod", "eastus", "westeurope", deadline="0s")))
    monkeypatch.setattr(flow, "read_environment", lambda estate, name: prod)

    alone = asyncio.run(flow.promote(BETTER, "test", only="prod/westeurope", reporter=SilentReporter()))

    assert alone.error is None and alone.promotion == held.promotion
    assert [one.result for one in entries() if one.action is Action.FINISH and not one.target][-1] == "waits"
    whole = asyncio.run(promote(BETTER, prod))
    assert whole.promotion == held.promotion and whole.error is None


def test_a_second_promoter_that_is_refused_leaves_the_first_as_it_is(
    world: World, promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(promote(GOOD))
    asyncio.run(promote(BETTER, environment("prod", deadline="0s")))  # held: it came to no end
    (first,) = {one.promotion for one in entries() if one.release == "better"}
    place = world.place("prod/eastus")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert place.held is not None
    place.held["spec"] |= {"holderIdentity": "bert on build-2", "acquireTime": now, "renewTime": now}
    place.held["metadata"]["annotations"] = {"va.dev/promotion": first}
    before = len(entries())

    with pytest.raises(PolicyBlocked, match="bert on build-2"):
        asyncio.run(promote(BAD))

    assert len(entries()) == before

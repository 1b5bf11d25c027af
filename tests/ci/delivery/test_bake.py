from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import httpx
import numpy as np
import pytest
from promotion_world import environment

from ci.delivery import asking, bake, metrics
from ci.delivery.asking import Gathered
from ci.delivery.bake import Observed, judge
from ci.delivery.cluster import Pod
from ci.delivery.findings import Finding, Tally, Verdict
from ci.delivery.metrics import NoData, Prometheus, Reading, Series
from ci.environments import CanaryStep, ErrorGate, LatencyGate, RestartGate, SaturationGate

STEP = CanaryStep.model_validate({"weight": 50, "bake": "10s"})
POD = Pod(
    name="c",
    app="voice-canary-api",
    track="canary",
    release="r2",
    ready=True,
    leaving=False,
    restarts=0,
    out_of_memory=False,
    memory_limit=100.0,
    trouble="",
)
HALF = ErrorGate(margin=0, harm=0.5, tolerated=0.005)
PODS = (POD, replace(POD, name="s", track="stable", restarts=4))


def reading(time: float, canary_errors: int = 0, sessions: int = 1000) -> Reading:
    values: dict[Series, float] = {}
    for track, pod in (("canary", "c"), ("stable", "s")):
        errors = canary_errors if track == "canary" else 0
        for outcome, count in (("ok", sessions - errors), ("error", errors)):
            series = Series(track=track, pod=pod, name=metrics.SESSIONS, label=outcome)
            values[series] = count if time else 0
        for bound in ("0.5", "1.0", "+Inf"):
            series = Series(track=track, pod=pod, name=metrics.DURATIONS, label=bound)
            values[series] = sessions if time else 0
    return Reading(time=time, values=values)


def observed(
    *later: Reading | NoData,
    pods: tuple[Pod, ...] | None = PODS,
    before: tuple[Pod, ...] = PODS,
    seconds: float = 12.0,
    memory: Sequence[float | None] = (),
    **gates: object,
) -> Observed:
    readings = later or (reading(12),)
    begun = readings[-1]
    window = metrics.begin(
        reading(0)
        if isinstance(begun, NoData)
        else replace(begun, time=0.0, values=dict.fromkeys(begun.values, 0.0))
    )
    limits = environment("prod", **gates).gates
    gathered = asking.begin(limits, STEP, before)
    values = [{"saturation": used} for used in memory] or [{}]
    for number, one in enumerate(readings, 1):
        window = metrics.advance(window, one)
        gathered = asking.gather(
            limits, gathered, window, pods, seconds * number / len(readings), values=values[-1]
        )
    return Observed(window=window, gathered=gathered, pods=pods, seconds=seconds)


def verdicts(seen: Observed, **gates: object) -> dict[str, Verdict]:
    found: tuple[Finding, ...] = judge(environment("prod", **gates), STEP, seen, {})
    return {finding.metric: finding.verdict for finding in found}


def test_every_gate_of_the_environment_is_asked() -> None:
    assert verdicts(observed()) == {"errors": Verdict.PASS, "latency": Verdict.PASS}
    assert verdicts(observed(), latency=None) == {"errors": Verdict.PASS}
    both = {"restarts": RestartGate(margin=0.0), "saturation": SaturationGate(limit=0.9, samples=1)}
    assert verdicts(observed(memory=[0.5], **both), **both) == dict.fromkeys(
        ("errors", "latency", "restarts", "saturation"), Verdict.PASS
    )


def test_the_minimum_bake_counts_from_the_last_hole() -> None:
    hole = NoData(time=5, reason="scrape failed")
    early = observed(reading(4), hole, reading(12))
    late = observed(reading(4), hole, reading(6), reading(16), seconds=16)

    assert set(verdicts(early).values()) == {Verdict.INCONCLUSIVE}
    assert set(verdicts(late).values()) == {Verdict.PASS}


def test_harm_needs_no_bake() -> None:
    assert verdicts(observed(reading(1, canary_errors=60), seconds=1))["errors"] is Verdict.FAIL


@pytest.mark.parametrize("last", [NoData(time=12, reason="Prometheus is silent")])
def test_a_hole_now_passes_nothing(last: NoData) -> None:
    assert set(verdicts(observed(reading(11), last)).values()) == {Verdict.INCONCLUSIVE}


def test_alpha_is_split_over_gates_and_regions() -> None:
    (alone, _) = judge(environment("prod"), STEP, observed(), {})
    (shared, _) = judge(environment("prod", "eastus", "westeurope", "southeastasia"), STEP, observed(), {})

    assert alone.log_fail_at is not None and shared.log_fail_at is not None
    assert shared.log_fail_at - alone.log_fail_at == pytest.approx(1.0986, abs=1e-4)


def test_only_restarts_of_this_step_count() -> None:
    restarted = (replace(POD, restarts=9), PODS[1])
    gate = {"restarts": RestartGate(margin=0.0)}

    def verdict(**seen: object) -> Verdict:
        return verdicts(observed(**seen, **gate), **gate)["restarts"]

    assert verdict() is Verdict.PASS
    assert verdict(pods=restarted) is Verdict.FAIL
    assert verdict(pods=restarted, before=restarted) is Verdict.PASS
    assert verdict(pods=None) is Verdict.INCONCLUSIVE


def test_the_restarts_of_a_pod_that_is_gone_stay_counted() -> None:
    limits = environment("prod", restarts=RestartGate(margin=0.0)).gates
    window = metrics.begin(reading(0))

    def later(before: Gathered, pods: tuple[Pod, ...] | None, seconds: float) -> Gathered:
        return asking.gather(limits, before, window, pods, seconds)

    restarted = later(asking.begin(limits, STEP, PODS), (replace(POD, restarts=3), PODS[1]), 10)
    gone = later(restarted, (replace(POD, name="d"), PODS[1]), 20)
    unknown = later(gone, None, 30)
    last = later(unknown, (replace(POD, name="d", restarts=1), PODS[1]), 40)

    assert (gone.evidence["restarts"].canary_bad, last.evidence["restarts"].canary_bad) == (3, 4)
    assert last.evidence["restarts"].canary * 3600 == pytest.approx(40)


@pytest.mark.parametrize("phase", ["Failed", "Succeeded", "Pending"])
def test_pods_that_do_not_run_dilute_no_restarts(phase: str) -> None:
    beside = tuple(replace(POD, name=f"gone-{number}", phase=phase, ready=False) for number in range(5))
    pods = (replace(POD, restarts=8), PODS[1], *beside)
    quiet = replace(PODS[1], name="s2", restarts=0)
    gate = {"restarts": RestartGate(margin=0.0)}

    alone = observed(pods=(pods[0], PODS[1], quiet), seconds=3600, **gate)
    diluted = observed(pods=(*pods, quiet), seconds=3600, **gate)

    def restarts(seen: Observed) -> Finding:
        return judge(environment("prod", **gate), STEP, seen, {})[-1]

    assert restarts(diluted) == restarts(alone)
    assert restarts(alone).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("told", "share"),
    [
        ({"c": 50.0, "d": 90.0, "s": 500.0}, 0.9),
        ({"c": 50.0, "s": 500.0}, None),  # d may be the one that is full
        ({}, None),
    ],
)
def test_memory_is_known_when_every_running_pod_of_the_canary_is_told_of(
    told: dict[str, float], share: float | None
) -> None:
    pods = (*PODS, replace(POD, name="d"), replace(POD, name="evicted", phase="Failed"))

    def handle(request: httpx.Request) -> httpx.Response:
        assert b"max+by+%28pod%2C+container%29" in request.content  # under two jobs a container is one
        rows = [{"metric": {"pod": pod}, "value": [1, str(used)]} for pod, used in told.items()]
        return httpx.Response(200, json={"status": "success", "data": {"result": rows}})

    async def ask() -> float | None:
        async with Prometheus("http://p", transport=httpx.MockTransport(handle)) as prometheus:
            return await bake._memory(prometheus, "ns", pods)

    assert asyncio.run(ask()) == share


def test_other_buckets_of_the_canary_pass_no_latency() -> None:
    values = {
        series if series.track == "stable" or series.label == "+Inf"
        else replace(series, label={"0.5": "0.7", "1.0": "30"}.get(series.label, series.label)): value
        for series, value in reading(12).values.items()
    }  # fmt: skip

    assert verdicts(observed(Reading(time=12, values=values)))["latency"] is Verdict.INCONCLUSIVE


def test_a_kill_for_memory_fails_even_where_saturation_is_not_asked() -> None:
    killed = (replace(POD, out_of_memory=True), PODS[1])

    assert verdicts(observed(pods=killed))["saturation"] is Verdict.FAIL


@pytest.mark.parametrize(
    ("against", "verdict"), [("objective", Verdict.FAIL), ("stable", Verdict.INCONCLUSIVE)]
)
def test_where_both_tracks_are_slow_only_the_objective_fails(against: str, verdict: Verdict) -> None:
    busy = reading(12)
    values = {series: value / 2 if series.label == "1.0" else value for series, value in busy.values.items()}
    gate = {"threshold": "1s", "against": against, "share": 0.05, "margin": 0.5, "harm": 0.0}

    asked = {"latency": LatencyGate.model_validate(gate)}

    assert verdicts(observed(Reading(time=12, values=values), **asked), **asked)["latency"] is verdict


@pytest.mark.parametrize(("stale", "hole"), [("60s", False), ("1ms", True)])
def test_a_pod_that_comes_meanwhile_is_no_hole_until_it_could_be_scraped(stale: str, hole: bool) -> None:
    """One that is there from the start and was not scraped is one at once."""
    labels = {"pod": "s", "track": "stable"}
    counts = [
        (labels | {"__name__": metrics.SESSIONS, "outcome": outcome}, "5") for outcome in ("ok", "error")
    ]

    def handle(request: httpx.Request) -> httpx.Response:
        rows = [(labels, "1")] if b"query=up" in request.content else counts
        if b"timestamp" in request.content:
            rows = [(labels, "1000")]
        result = [{"metric": metric, "value": [1000, value]} for metric, value in rows]
        return httpx.Response(200, json={"status": "success", "data": {"result": result}})

    async def ask(since: float) -> Reading | NoData:
        limits = environment("prod", stale=stale).gates
        async with Prometheus("http://p", transport=httpx.MockTransport(handle)) as prometheus:
            return await bake._read(prometheus, "ns", limits, {"s": -math.inf, "new": since})

    asked = asyncio.run(ask(time.monotonic() - 1))
    assert isinstance(asked, NoData) is hole
    assert isinstance(asyncio.run(ask(-math.inf)), NoData)


# The mode for bursts.


def burst(*later: dict[str, tuple[int, int]], **gates: object) -> dict[str, Finding]:
    """What is said where the sessions (bad ones, all) of pods came so, look by look; `s` are of stable."""
    names = sorted({name for each in later for name in each})
    pods = tuple(replace(POD, name=name, track="stable" if name[0] == "s" else "canary") for name in names)
    count = dict.fromkeys(names, (0, 0))
    asked = {"latency": None, "look": "5s"} | gates
    limits = environment("prod", **asked).gates

    def now(time: float) -> Reading:
        values = {}
        for pod in pods:
            bad, whole = count[pod.name]
            for outcome, value in (("error", bad), ("ok", whole - bad)):
                series = Series(track=pod.track, pod=pod.name, name=metrics.SESSIONS, label=outcome)
                values[series] = float(value)
        return Reading(time=time, values=values)

    window, gathered = metrics.begin(now(0)), asking.begin(limits, STEP, pods)
    for number, each in enumerate(later, 1):
        count = {name: (bad + each[name][0], n + each[name][1]) for name, (bad, n) in count.items()}
        window = metrics.advance(window, now(5.0 * number))
        gathered = asking.gather(limits, gathered, window, pods, 5.0 * number)
    seen = Observed(window=window, gathered=gathered, pods=pods, seconds=5.0 * len(later))
    return {one.metric: one for one in judge(environment("prod", **asked), STEP, seen, {})}


def test_a_pod_that_fails_all_for_five_seconds_is_no_harm_in_the_mode_for_it() -> None:
    quiet = {"c": (0, 100), "s1": (0, 100), "s2": (0, 100)}
    looks = [quiet, {**quiet, "c": (100, 100)}, quiet]

    assert burst(*looks)["errors"].verdict is Verdict.FAIL
    assert burst(*looks, bursts=True)["errors"].verdict is not Verdict.FAIL


def test_harm_is_seen_in_the_mode_for_bursts_all_the_same() -> None:
    assert burst(*[{"c": (8, 100), "s1": (0, 100)}] * 6, bursts=True)["errors"].verdict is Verdict.FAIL


def test_a_canary_with_many_pods_has_their_share_of_bursts() -> None:
    """Its pods are most of all, its sessions few: of three bursts all are its."""
    few = {f"c{number}": (0, 10) for number in range(8)} | {"s1": (0, 500), "s2": (0, 500)}
    looks = [{**few, f"c{number}": (10, 10)} for number in range(4)]

    by_pods = burst(*looks, bursts=True)["errors"].log_harm
    by_sessions = burst(*[{**look, "s1": (0, 500)} for look in looks])["errors"].log_harm
    assert by_pods is not None and by_sessions is not None and by_pods < 2 < by_sessions


@pytest.mark.parametrize(
    ("base", "times", "least", "most"),
    [
        (0.01, 1.5, 0, 1),  # a fifth of the sessions, a third of the pods: by pods it would be well
        (0.01, 1.9, 0, 1),
        (0.2, 1.5, 0, 1),  # what counts at most in a look is the same for both
        (0.2, 3.0, 0, 0),
        (0.2, 1.0, 7, 8),
    ],
)
def test_harm_is_not_let_pass_in_the_mode_for_bursts(
    base: float, times: float, least: int, most: int
) -> None:
    chance = np.random.default_rng(5)
    passed = 0
    for _ in range(8):
        looks: list[dict[str, tuple[int, int]]] = [
            {
                "c": (int(chance.binomial(20, base * times)), 20),
                **{s: (int(chance.binomial(40, base)), 40) for s in ("s1", "s2")},
            }
            for _ in range(120)
        ]
        passed += burst(*looks, bursts=True, errors=HALF)["errors"].verdict is Verdict.PASS
    assert least <= passed <= most


def test_what_is_counted_is_not_on_the_loop_that_renews_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    judged_in: list[threading.Thread] = []
    world = environment("prod", look="1ms", deadline="1ms")

    def judge_slowly(*_: object) -> tuple[Finding, ...]:
        judged_in.append(threading.current_thread())
        return judge(world, STEP, observed(), {})

    class Pods:
        async def pods(self, _: str) -> tuple[Pod, ...]:
            return ()

    async def main() -> None:
        async with Prometheus("http://127.0.0.1:1") as prometheus:
            await bake.bake(
                world, STEP, target=world.target("eastus"), cluster=Pods(), prometheus=prometheus,  # type: ignore[arg-type]
                carried={}, show=lambda *_: None,
            )  # fmt: skip

    monkeypatch.setattr(bake, "judge", judge_slowly)
    asyncio.run(main())
    assert judged_in and threading.main_thread() not in judged_in


def test_a_step_that_another_gate_holds_lacks_no_session() -> None:
    gate = {"latency": None, "saturation": SaturationGate(limit=0.9, samples=1)}
    seen = observed(reading(12), memory=[None], **gate)
    world = environment("prod", **gate)
    findings = judge(world, STEP, seen, {})

    assert {one.metric: one.verdict for one in findings} == {
        "errors": Verdict.PASS, "saturation": Verdict.INCONCLUSIVE,
    }  # fmt: skip
    held = bake._result(world, STEP, Verdict.INCONCLUSIVE, seen, findings, late=True)
    assert "more sessions" not in held.reason and "saturation" in held.reason
    few = observed(reading(12, sessions=20), **gate)
    open_ = bake._result(world, STEP, Verdict.INCONCLUSIVE, few, judge(world, STEP, few, {}), late=True)
    assert "more sessions of the canary without an error would do" in open_.reason


def test_bursts_need_looks_that_are_as_short_as_they() -> None:
    with pytest.raises(ValueError, match="needs a look every 5 s"):
        environment("prod", bursts=True, look="15s")


def test_what_a_warm_up_hides_is_reported_and_decides_nothing() -> None:
    first = replace(reading(0), born={"c": -0.5, "s": -900.0})
    step = CanaryStep.model_validate({"weight": 50, "bake": "40s"})
    limits = environment("prod", warmup="30s", latency=None)
    window = metrics.begin(first, warmup=asking.warmup_of(limits.gates, step))
    window = metrics.advance(window, replace(reading(3, canary_errors=500), born=first.born))
    gathered = asking.gather(limits.gates, asking.begin(limits.gates, step, PODS), window, PODS, 3)
    found = {
        one.metric: one
        for one in judge(limits, step, Observed(window=window, gathered=gathered, pods=PODS, seconds=3), {})
    }

    assert window.warmup == 4  # a tenth of the bake
    assert found["warm-up"].dry_run
    assert found["warm-up"].reason.startswith("500 of 1000 of the canary's sessions were bad")
    assert found["errors"].tally == Tally() and found["errors"].verdict is Verdict.INCONCLUSIVE

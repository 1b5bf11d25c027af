"""What the queries of a gate count, and gates of one's own beside the usual ones."""

from __future__ import annotations

import asyncio
import math
import urllib.parse
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from promotion_world import environment

from ci.delivery import metrics
from ci.delivery.asking import begin as begin_gates
from ci.delivery.asking import compared, gather, levels_of, told
from ci.delivery.findings import Finding, Tally, Verdict
from ci.delivery.metrics import NoData, Prometheus
from ci.delivery.queries import Count, Growth, advance, begin, largest, names_of, read
from ci.environments import CanaryStep, ErrorGate, RestartGate, SaturationGate

GATE = ErrorGate(
    source="prometheus", bad='no{t="${track}",n="${namespace}"}', all='all{t="${track}"}',
    margin=0, harm=1, tolerated=0.03, unit="answers",
)  # fmt: skip
STEP = CanaryStep(weight=50, bake="10s")
WORLD = environment("prod", latency=None, gateway=GATE)


def counts(*values: tuple[str, str, str, float]) -> dict[Count, float]:
    return {Count(key, track, frozenset({("pod", pod)})): value for key, track, pod, value in values}  # type: ignore[arg-type]


def answered(rows: Mapping[str, list[float]]) -> Mapping[Count, float] | NoData:
    """What is read where these queries have these values."""

    def handle(request: httpx.Request) -> httpx.Response:
        query = urllib.parse.parse_qs(request.content.decode())["query"][0]
        result = [
            {"metric": {"n": str(number)}, "value": [1, str(value)]}
            for number, value in enumerate(rows.get(query, []))
        ]
        return httpx.Response(200, json={"status": "success", "data": {"result": result}})

    async def ask() -> Mapping[Count, float] | NoData:
        names = {track: names_of(WORLD.target("eastus"), track) for track in ("stable", "canary")}
        async with Prometheus("http://p", transport=httpx.MockTransport(handle)) as prometheus:
            return await read(prometheus, GATE, names)

    return asyncio.run(ask())


FULL = {
    'all{t="canary"}': [5.0], 'all{t="stable"}': [9.0, 1.0], 'no{t="canary",n="va-prod-eastus"}': [2.0],
}  # fmt: skip


def test_each_track_is_asked_with_its_own_names() -> None:
    found = answered(FULL)

    assert not isinstance(found, NoData)
    assert sorted((count.key, count.track, value) for count, value in found.items()) == [
        ("all", "canary", 5.0), ("all", "stable", 1.0), ("all", "stable", 9.0), ("bad", "canary", 2.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "rows",
    [
        {},
        {key: value for key, value in FULL.items() if key != 'all{t="canary"}'},
        FULL | {'all{t="stable"}': [math.nan]},
        FULL | {'no{t="canary",n="va-prod-eastus"}': [-1.0]},
    ],
)
def test_an_empty_answer_and_what_is_no_count_are_holes(rows: dict[str, list[float]]) -> None:
    assert isinstance(answered(rows), NoData)


def test_counters_that_fell_or_are_new_count_from_zero_and_those_before_the_step_not_at_all() -> None:
    growth = begin(counts(("all", "canary", "a", 100), ("bad", "canary", "a", 7), ("all", "stable", "s", 50)))
    growth = advance(
        growth, counts(("all", "canary", "a", 110), ("all", "canary", "b", 4), ("bad", "canary", "a", 8))
    )
    assert (growth.of("all", "canary"), growth.of("bad", "canary")) == (14, 1)

    growth = advance(growth, NoData(time=0, reason="silent"))
    assert growth.tally is None and growth.hole == "silent"
    growth = advance(growth, counts(("all", "canary", "a", 3), ("all", "stable", "s", 60)))  # b is gone
    assert growth.tally == Tally(canary_bad=1, canary=17, stable=10)


def test_a_step_that_begins_in_a_hole_counts_from_its_end() -> None:
    growth = begin(NoData(time=0, reason="silent"))
    assert growth.tally is None

    assert advance(growth, counts(("all", "canary", "a", 100))).of("all", "canary") == 0


@pytest.mark.parametrize(("values", "most"), [([1.0, 3.0], 3.0), ([], None), ([1.0, math.nan], None)])
def test_the_largest_value_is_held_against_a_limit(values: list[float], most: float | None) -> None:
    def handle(_: httpx.Request) -> httpx.Response:
        rows = [{"metric": {}, "value": [1, str(value)]} for value in values]
        return httpx.Response(200, json={"status": "success", "data": {"result": rows}})

    async def ask() -> float | None:
        async with Prometheus("http://p", transport=httpx.MockTransport(handle)) as prometheus:
            return await largest(prometheus, "x")

    assert asyncio.run(ask()) == most


def asked(
    grown: dict[str, Growth], values: dict[str, float | None] | None = None, **gates: Any
) -> dict[str, Finding]:
    """What gates of one's own say after one look; the usual ones have no data."""
    world = environment("prod", latency=None, **gates)
    window = metrics.begin(NoData(time=0, reason="silent"))
    gathered = begin_gates(world.gates, STEP, ())
    gathered = gather(world.gates, gathered, window, (), 3600.0, grown=grown, values=values)
    known = told(world.gates, gathered, window, (), baked=True, grown=grown)
    return {one.metric: one for one in compared(world, STEP, gathered, known, {})}


def grown(bad: float, whole: float) -> Growth:
    by = {("bad", "canary"): bad, ("all", "canary"): whole, ("all", "stable"): whole}
    return Growth(current=True, grown=by)


def test_a_gate_of_ones_own_fails_and_in_a_dry_run_only_says_so() -> None:
    found = asked({"gateway": grown(30, 300)}, gateway=GATE)
    assert found["gateway"].verdict is Verdict.FAIL and not found["gateway"].dry_run
    assert found["gateway"].reason.startswith("30 of 300 (10.00%) of the canary's answers")
    assert found["errors"].verdict is Verdict.INCONCLUSIVE

    dry = asked({"gateway": grown(30, 300)}, gateway=GATE.model_copy(update={"dry_run": True}))
    assert dry["gateway"].verdict is Verdict.FAIL and dry["gateway"].dry_run
    assert asked({}, gateway=GATE)["gateway"].reason == "no data"


def test_events_and_limits_of_ones_own() -> None:
    jobs = RestartGate(source="prometheus", query="x", margin=0, unit="lost jobs")
    hot = SaturationGate(source="prometheus", query="y", limit=80.0, samples=1, unit="connections")

    found = asked({"jobs": grown(0, 0)}, {"hot": 81.0}, jobs=jobs, hot=hot)
    assert found["hot"].verdict is Verdict.FAIL
    assert found["hot"].reason == "81 connections, 80 may be, 1 looks in a row over"
    assert asked({}, {"hot": None}, hot=hot)["hot"].verdict is Verdict.INCONCLUSIVE
    assert found["jobs"].reason == "no data"  # no pod ran


def test_alpha_goes_by_weight_and_a_dry_run_takes_none_of_it() -> None:
    def alphas(**gates: Any) -> dict[str, float]:
        return {
            name: level.alpha for name, level in levels_of(environment("prod", latency=None, **gates)).items()
        }

    assert alphas() == {"errors": 0.05}
    assert alphas(gateway=GATE) == {"errors": 0.025, "gateway": 0.025}
    heavy = GATE.model_copy(update={"weight": 4.0})
    assert alphas(gateway=heavy) == pytest.approx({"errors": 0.01, "gateway": 0.04})
    dry = alphas(gateway=heavy.model_copy(update={"dry_run": True}))
    assert dry == pytest.approx({"errors": 0.05, "gateway": 0.04})

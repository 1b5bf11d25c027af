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
from ci.delivery.queries import Count, Counts, Growth, advance, begin, largest, names_of, read
from ci.environments import CanaryStep, ErrorGate, RestartGate, SaturationGate

GATE = ErrorGate(
    source="prometheus", bad='no{t="${track}",n="${namespace}"}', all='all{t="${track}"}',
    margin=0, harm=1, tolerated=0.03, unit="answers",
)  # fmt: skip
STEP = CanaryStep(weight=50, bake="10s")
WORLD = environment("prod", latency=None, gateway=GATE)


def counts(*values: tuple[str, str, str, float], **more: Any) -> Counts:
    by = {Count(key, track, frozenset({("pod", pod)})): value for key, track, pod, value in values}  # type: ignore[arg-type]
    return Counts(time=more.pop("time", 0.0), values=by, **more)


def answered(rows: Mapping[str, list[float]]) -> Counts | NoData:
    """What is read where these queries have these values."""

    def handle(request: httpx.Request) -> httpx.Response:
        query = urllib.parse.parse_qs(request.content.decode())["query"][0]
        result = [
            {"metric": {"n": str(number)}, "value": [1, str(value)]}
            for number, value in enumerate(rows.get(query, []))
        ]
        return httpx.Response(200, json={"status": "success", "data": {"result": result}})

    async def ask() -> Counts | NoData:
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
    assert sorted((count.key, count.track, value) for count, value in found.values.items()) == [
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
    both = ("all", "canary", "a", 110), ("all", "canary", "b", 4), ("bad", "canary", "a", 8)
    growth = advance(growth, counts(*both, born={("b", ""): 1.0}))
    assert (growth.of("all", "canary"), growth.of("bad", "canary")) == (14, 1)

    growth = advance(growth, NoData(time=0, reason="silent"))
    assert growth.tally is None and growth.hole == "silent"
    growth = advance(growth, counts(("all", "canary", "a", 3), ("all", "stable", "s", 60)))  # b is gone
    assert growth.tally == Tally(canary_bad=1, canary=17, stable=10)


@pytest.mark.parametrize(
    ("born", "came"), [({}, 3), ({("gw-2", ""): 99.0}, 3), ({("gw-2", ""): 101.0}, 1003)]
)
def test_a_pod_that_was_not_scraped_when_the_step_began_brings_no_past(
    born: dict[tuple[str, str], float], came: int
) -> None:
    growth = begin(counts(("all", "canary", "gw-1", 500), time=100.0))
    growth = advance(
        growth, counts(("all", "canary", "gw-1", 500), ("all", "canary", "gw-2", 1000), born=born)
    )
    growth = advance(
        growth, counts(("all", "canary", "gw-1", 500), ("all", "canary", "gw-2", 1003), born=born)
    )

    assert growth.of("all", "canary") == came


@pytest.mark.parametrize("known", ["by its `all`", "by its scrape"])
def test_a_first_event_counts_where_who_counts_was_scraped_before(known: str) -> None:
    growth = begin(
        counts(("all", "canary", "a", 70)) if "all" in known
        else counts(("query", "canary", "", 0), scraped=frozenset({"a"}))
    )  # fmt: skip
    key = "bad" if "all" in known else "query"
    now = counts(("all", "canary", "a", 80), (key, "canary", "a", 2))

    assert advance(growth, now).of(key, "canary") == 2


def test_a_series_that_is_gone_while_its_pod_is_there_is_a_hole_until_it_is_back() -> None:
    whole = ("all", "canary", "a", 90), ("bad", "canary", "a", 4), ("all", "stable", "s", 10)
    growth = begin(counts(*whole))

    part = advance(growth, counts(whole[0], whole[2]))  # the bad ones of a pod whose `all` is there
    assert part.tally is None and part.hole == "not all counters of a"
    unscraped = advance(growth, counts(*whole[:2], there=frozenset({"s"})))
    assert unscraped.tally is None and unscraped.hole == "not all counters of s"
    later = ("all", "canary", "a", 95), ("bad", "canary", "a", 7), ("all", "stable", "s", 10)
    assert advance(part, counts(*later)).tally == Tally(canary_bad=3, canary=5)
    assert advance(growth, counts(*whole[:2])).tally == Tally()  # gone with its pod


def test_a_process_that_began_anew_is_no_hole_and_counts_from_zero() -> None:
    growth = begin(counts(("all", "canary", "a", 90), ("bad", "canary", "a", 4), born={("a", ""): 5.0}))
    growth = advance(growth, counts(("all", "canary", "a", 93), born={("a", ""): 9.0}))

    assert growth.tally == Tally(canary=93)
    assert (
        advance(growth, counts(("all", "canary", "a", 94), ("bad", "canary", "a", 1))).of("bad", "canary")
        == 1
    )


def test_whom_another_counts_for_does_not_begin_anew_with_it() -> None:
    """As kube-state-metrics does: it is one process, and what it counts has pods of their own."""

    def seen(born: float, **restarts: float) -> Counts:
        by = {
            Count("query", "canary", frozenset({("pod", pod), ("instance", "ksm")})): value
            for pod, value in restarts.items()
        }
        return Counts(time=50.0, values=by, born={("ksm-0", "ksm"): born}, scraped=frozenset({"ksm"}))  # type: ignore[dict-item]

    growth = advance(begin(seen(1.0, a=40, b=7)), seen(60.0, a=41, b=7))
    assert growth.of("query", "canary") == 1
    growth = advance(growth, seen(60.0, a=42, c=1))  # b is gone, and c new
    assert growth.current and growth.of("query", "canary") == 3


def test_the_processes_that_count_are_asked_for_by_instance_whether_they_answer_or_not() -> None:
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        query = urllib.parse.parse_qs(request.content.decode())["query"][0]
        asked.append(query)
        rows = [({"instance": "10.0.0.1:9100", "pod": "gw-1"}, "7")]
        if "__name__" in query:
            names = ("up", "1"), ("process_start_time_seconds", "33.5")
            rows = [({**rows[0][0], "__name__": name}, value) for name, value in names]
            rows.append(({"__name__": "up", "instance": "10.0.0.2:9100"}, "0"))
        result = [{"metric": metric, "value": [9, value]} for metric, value in rows]
        return httpx.Response(200, json={"status": "success", "data": {"result": result}})

    async def ask() -> Counts | NoData:
        names = {track: names_of(WORLD.target("eastus"), track) for track in ("stable", "canary")}
        async with Prometheus("http://p", transport=httpx.MockTransport(handle)) as prometheus:
            return await read(prometheus, GATE, names, {"10.0.0.2:9100"})

    found = asyncio.run(ask())
    assert isinstance(found, Counts) and found.time == 9
    assert found.born == {("gw-1", "10.0.0.1:9100"): 33.5}
    assert found.scraped == {"gw-1", "10.0.0.1:9100"}
    assert found.there == {*found.scraped, "10.0.0.2:9100"}
    assert 'namespace="va-prod-eastus"' in asked[-1]
    assert r'instance=~"10\\.0\\.0\\.1:9100|10\\.0\\.0\\.2:9100"' in asked[-1]


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

from __future__ import annotations

import asyncio
import math

import httpx
import pytest

from ci.delivery import metrics
from ci.delivery.gates import Tally
from ci.delivery.metrics import NoData, Prometheus, Reading, Sample, Series, Window
from ci.errors import SystemUnavailable

DURATIONS, SESSIONS = metrics.DURATIONS, metrics.SESSIONS


def sessions(track: str = "stable", pod: str = "p", **outcomes: float) -> dict[Series, float]:
    return {
        Series(track=track, pod=pod, name=SESSIONS, label=outcome): value
        for outcome, value in outcomes.items()
    }


def buckets(counts: dict[str, float], track: str = "stable") -> dict[Series, float]:
    return {Series(track=track, pod="p", name=DURATIONS, label=le): value for le, value in counts.items()}


def reading(time: float, *parts: dict[Series, float]) -> Reading:
    values: dict[Series, float] = {}
    for part in parts:
        values |= part
    return Reading(time=time, values=values)


def window(*readings: Reading | NoData) -> Window:
    made = metrics.begin(readings[0])
    for one in readings[1:]:
        made = metrics.advance(made, one)
    return made


def test_only_what_grew_since_the_step_began_counts() -> None:
    grown = window(
        reading(0, sessions(ok=100, error=7), sessions("canary", "c", ok=5, error=0)),
        reading(1, sessions(ok=110, error=7), sessions("canary", "c", ok=8, error=1)),
        reading(2, sessions(ok=130, error=8), sessions("canary", "c", ok=9, error=1)),
    )

    assert grown.sessions == Tally(canary_bad=1, canary=5, stable_bad=1, stable=31)
    assert grown.clean_since == 0


def test_a_new_pod_and_a_first_error_count_from_zero() -> None:
    grown = window(
        reading(0, sessions(ok=10)),
        reading(1, sessions(ok=10, error=2), sessions(pod="q", ok=4)),
    )

    assert grown.sessions == Tally(stable_bad=2, stable=6)


def test_a_pod_that_left_keeps_what_it_had_counted() -> None:
    grown = window(
        reading(0, sessions(ok=10), sessions(pod="q", ok=1)),
        reading(1, sessions(ok=15), sessions(pod="q", ok=3)),
        reading(2, sessions(ok=16)),
    )

    assert grown.sessions == Tally(stable=8)


def test_a_counter_that_fell_counts_from_zero_and_is_a_hole() -> None:
    grown = window(reading(0, sessions(ok=10)), reading(1, sessions(ok=14)), reading(2, sessions(ok=3)))

    assert grown.sessions == Tally(stable=7)
    assert (grown.clean_since, grown.hole) == (2, "counters fell: p")


def test_a_hole_is_no_data_and_the_bake_counts_from_its_end() -> None:
    before, hole, after = (
        reading(0, sessions(ok=10)),
        NoData(time=1, reason="scrape failed"),
        reading(2, sessions(ok=30)),
    )

    assert window(before, hole).sessions is None
    assert window(before, hole).slow(1.0) is None
    mended = window(before, hole, after)
    assert mended.sessions == Tally(stable=20)  # a counter forgets nothing
    assert mended.clean_since == 2


def test_a_step_that_begins_in_a_hole_counts_from_its_first_reading() -> None:
    grown = window(NoData(time=0, reason="x"), reading(1, sessions(ok=500)), reading(2, sessions(ok=503)))

    assert grown.sessions == Tally(stable=3)
    assert (grown.started, grown.clean_since) == (0, 1)


def test_slow_sessions_and_quantiles_come_from_what_the_histogram_grew_by() -> None:
    zero = buckets({"0.1": 0, "0.5": 0, "+Inf": 0}, "canary")
    grown = window(reading(0, zero), reading(1, buckets({"0.1": 80, "0.5": 100, "+Inf": 104}, "canary")))

    assert grown.slow(0.5) == Tally(canary_bad=4, canary=104)
    assert grown.quantile("canary", 0.5) == pytest.approx(0.1 * 52 / 80)
    assert grown.quantile("canary", 0.9) == pytest.approx(0.1 + 0.4 * (93.6 - 80) / 20)
    assert grown.quantile("canary", 0.99) == 0.5  # beyond the last finite bound nothing is known
    assert grown.quantile("stable", 0.5) is None


def test_the_slow_threshold_is_a_bucket_bound_frozen_from_stable() -> None:
    counted = window(reading(0, buckets({"0.1": 90, "0.5": 96, "1.0": 99, "+Inf": 100})))

    assert metrics.frozen_threshold(counted, 0.7, share=0.05) == 0.5
    assert metrics.frozen_threshold(counted, 1.0, share=0.05) == 1.0
    assert metrics.frozen_threshold(counted, 0.01, share=0.05) == 0.1
    assert metrics.frozen_threshold(counted, "baseline", share=0.05) == 0.5
    assert metrics.frozen_threshold(counted, "baseline", share=0.001) is None
    assert metrics.frozen_threshold(window(NoData(time=0, reason="x")), 1.0, share=0.05) is None


def sample(value: float, time: float = 100.0, **labels: str) -> Sample:
    return Sample(labels={"track": "stable", "pod": "p"} | labels, value=value, time=time)


COUNTED = [sample(7, __name__=SESSIONS, outcome="ok")]


def test_a_whole_answer_is_a_reading() -> None:
    read = metrics.understood([sample(1)], [sample(99)], COUNTED, stale=5, now=0, expected=["p"])

    assert read == reading(100, sessions(ok=7))


@pytest.mark.parametrize(
    ("up", "scraped", "counted", "reason"),
    [
        ([], [], [], "scrapes no pod"),
        ([sample(0)], [sample(99)], COUNTED, "the last scrape failed: p"),
        ([sample(1)], [sample(90)], COUNTED, "not scraped for 5 s: p"),
        ([sample(1)], [sample(math.nan)], COUNTED, "not scraped for 5 s: p"),
        ([sample(1, pod="other")], [sample(99)], COUNTED, "not scraped yet: p"),
        ([sample(1)], [sample(99)], [sample(math.nan, __name__=SESSIONS)], "a counter is nan"),
        ([sample(1)], [sample(99)], [sample(math.inf, __name__=SESSIONS)], "a counter is inf"),
    ],
)
def test_whatever_is_doubtful_is_no_data(up, scraped, counted, reason: str) -> None:
    read = metrics.understood(up, scraped, counted, stale=5, now=0, expected=["p"])

    assert isinstance(read, NoData) and reason in read.reason


def test_a_pod_that_is_not_ready_may_be_down() -> None:
    read = metrics.understood(
        [sample(1), sample(0, pod="starting")], [sample(99)], COUNTED, stale=5, now=0, expected=["p"]
    )

    assert isinstance(read, Reading)


def ask(answer: httpx.Response | Exception) -> tuple[Sample, ...]:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/v1/query"
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run() -> tuple[Sample, ...]:
        async with Prometheus("http://p", transport=httpx.MockTransport(handle)) as prometheus:
            return await prometheus.instant("up")

    return asyncio.run(run())


def test_an_instant_query() -> None:
    result = {"resultType": "vector", "result": [{"metric": {"pod": "p"}, "value": [12.5, "NaN"]}]}

    (one,) = ask(httpx.Response(200, json={"status": "success", "data": result}))

    assert (one.labels, one.time) == ({"pod": "p"}, 12.5)
    assert math.isnan(one.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.ConnectError("refused"), "did not answer: ConnectError refused"),
        (httpx.ReadTimeout("slow"), "did not answer"),
        (httpx.Response(502, text="<html>"), "did not answer"),
        (httpx.Response(400, json={"status": "error", "error": "parse error"}), "refused 'up': parse error"),
        (httpx.Response(200, json={"status": "success", "data": {"result": [{}]}}), "something unknown"),
        (httpx.Response(200, json=[]), "refused"),
    ],
)
def test_a_prometheus_that_does_not_answer_is_said_so(answer, said: str) -> None:
    with pytest.raises(SystemUnavailable, match=said):
        ask(answer)


def test_a_silent_prometheus_is_no_data() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async def run() -> Reading | NoData:
        async with Prometheus("http://p", transport=httpx.MockTransport(refuse)) as prometheus:
            return await metrics.read(prometheus, "ns", stale=5, now=42.0)

    read = asyncio.run(run())
    assert isinstance(read, NoData) and read.time == 42.0

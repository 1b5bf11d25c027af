from __future__ import annotations

import asyncio
import math

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.delivery import metrics
from ci.delivery.findings import Tally
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


def pod(track: str, name: str, **outcomes: float) -> dict[Series, float]:
    return sessions(track, name, **outcomes)


def test_a_restart_resets_every_counter_of_its_pod_and_of_no_other() -> None:
    grown = window(
        reading(0, pod("canary", "c", ok=0, error=0), pod("canary", "d", ok=0, error=0)),
        reading(1, pod("canary", "c", ok=70, error=6), pod("canary", "d", ok=50, error=1)),
        reading(2, pod("canary", "c", ok=15, error=6), pod("canary", "d", ok=60, error=1)),
        reading(3, pod("canary", "c", ok=20, error=8), pod("canary", "d", ok=60, error=1)),
    )

    assert grown.sessions == Tally(canary_bad=6 + 8 + 1, canary=76 + 28 + 61)
    assert (grown.clean_since, grown.hole) == (2, "counters fell: c")


def test_a_counter_that_a_restart_took_away_is_forgotten() -> None:
    grown = window(
        reading(0, pod("stable", "p", ok=0, error=0)),
        reading(1, pod("stable", "p", ok=40, error=9)),
        reading(2, pod("stable", "p", ok=3)),  # no error yet, so no series
        reading(3, pod("stable", "p", ok=4, error=2)),  # 2 is less than 9, but not a second restart
    )

    assert grown.sessions == Tally(stable_bad=11, stable=55)
    assert grown.clean_since == 2


def born(made: Reading, **at: float) -> Reading:
    return Reading(time=made.time, values=made.values, born=at)


def test_a_process_that_says_it_began_anew_was_reset_though_nothing_fell() -> None:
    grown = window(
        born(reading(10, pod("canary", "c", ok=0, error=0)), c=2),
        born(reading(11, pod("canary", "c", ok=5, error=1)), c=2),
        born(reading(20, pod("canary", "c", ok=30, error=1)), c=12.5),
    )

    assert grown.sessions == Tally(canary_bad=2, canary=37)
    assert grown.clean_since == 20


def test_a_pod_that_was_counting_before_the_step_but_could_not_be_read_counts_from_now() -> None:
    grown = window(
        born(reading(100, pod("stable", "p", ok=7)), p=1),
        born(reading(101, pod("stable", "p", ok=8), pod("stable", "old", ok=900)), p=1, old=50),
        born(reading(102, pod("stable", "p", ok=9), pod("stable", "old", ok=904), pod("stable", "new", ok=3)),
             p=1, old=50, new=101.5),
    )  # fmt: skip

    assert grown.sessions == Tally(stable=2 + 4 + 3)


def test_a_pod_that_lacks_a_counter_it_had_answered_in_part() -> None:
    whole = reading(1, pod("canary", "c", ok=100, error=20))
    partial = window(
        reading(0, pod("canary", "c", ok=0, error=0)), whole, reading(2, pod("canary", "c", ok=150))
    )

    assert partial.sessions is None and partial.hole == "not all counters of c"
    again = metrics.advance(partial, reading(3, pod("canary", "c", ok=150, error=20)))
    assert again.sessions == Tally(canary_bad=20, canary=170)
    assert again.clean_since == 3


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["p", "q"]),
            st.integers(0, 9),
            st.integers(0, 9),
            st.sampled_from(["", "", "restart"]),
        ),
        max_size=25,
    )
)
def test_every_session_counts_once_whatever_restarts(steps: list[tuple[str, int, int, str]]) -> None:
    """Two pods count, and restart; each look is right after the events, so that nothing is lost."""
    now = {"p": (0, 0, 1.0), "q": (0, 0, 1.0)}
    served = Tally()

    def look(time: int) -> Reading:
        parts = [pod("canary", name, ok=ok, error=bad) for name, (ok, bad, _) in now.items()]
        return born(reading(time, *parts), **{name: since for name, (_, _, since) in now.items()})

    grown = metrics.begin(look(2))
    for number, (name, ok, bad, restart) in enumerate(steps):
        before = (0, 0, number + 3.0) if restart else now[name]
        now[name] = (before[0] + ok, before[1] + bad, before[2])
        served = Tally(canary_bad=served.canary_bad + bad, canary=served.canary + ok + bad)
        grown = metrics.advance(grown, look(number + 3))

    assert grown.sessions == served


def histogram(track: str, name: str, counts: dict[str, float]) -> dict[Series, float]:
    return {Series(track=track, pod=name, name=DURATIONS, label=le): value for le, value in counts.items()}


OLD = {"0.2": 0, "0.4": 0, "2.0": 0, "+Inf": 0}
NEW = {"0.3": 0, "2": 0, "20": 0, "+Inf": 0}


def test_a_release_that_counts_by_other_bounds_is_judged_by_a_common_one_below() -> None:
    begun = reading(0, histogram("stable", "s", OLD), histogram("canary", "c", NEW))
    served = {"0.3": 0, "2": 12, "20": 300, "+Inf": 300}
    grown = window(begun, reading(1, histogram("stable", "s", OLD), histogram("canary", "c", served)))

    assert metrics.frozen_threshold(grown, 5.0, share=0.05) == 2.0
    assert grown.slow(2.0) == Tally(canary_bad=288, canary=300)
    for objective in (0.4, 1.9):  # no common bound: 2 s would let pass what is slower than asked for
        assert metrics.frozen_threshold(grown, objective, share=0.05) is None
    assert grown.slow(0.4) is None and grown.slow(0.3) is None


def test_one_pod_by_other_bounds_is_enough() -> None:
    parts = [histogram("canary", "c", OLD), histogram("canary", "d", NEW), histogram("stable", "s", OLD)]
    grown = window(reading(0, *parts), reading(1, *parts))

    assert grown.slow(0.4) is None
    assert grown.slow(2.0) == Tally()
    assert metrics.frozen_threshold(grown, "baseline", share=0.05) is None


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
    # Every bound is above it: what is between them nobody counted.
    assert metrics.frozen_threshold(counted, 0.01, share=0.05) is None
    assert metrics.frozen_threshold(counted, "baseline", share=0.05) == 0.5
    assert metrics.frozen_threshold(counted, "baseline", share=0.001) is None
    assert metrics.frozen_threshold(window(NoData(time=0, reason="x")), 1.0, share=0.05) is None


def sample(value: float, time: float = 100.0, **labels: str) -> Sample:
    return Sample(labels={"track": "stable", "pod": "p"} | labels, value=value, time=time)


def counted_sessions(ok: float, error: float = 0, **labels: str) -> list[Sample]:
    return [
        sample(value, __name__=SESSIONS, outcome=outcome, **labels)
        for outcome, value in (("ok", ok), ("error", error))
    ]


COUNTED = counted_sessions(7)


def test_a_whole_answer_is_a_reading() -> None:
    read = metrics.understood([sample(1)], [sample(99)], COUNTED, stale=5, now=0, expected=["p"])

    assert read == reading(100, sessions(ok=7, error=0))


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


def doubled(job: str, value: float, **labels: str) -> Sample:
    return sample(value, job=job, instance="10.0.0.7:9000", **labels)


def test_a_pod_under_two_jobs_counts_once_and_the_last_scrape_speaks() -> None:
    read = metrics.understood(
        [doubled("pods", 1), doubled("podmonitor", 1), doubled("broken", 0)],
        [doubled("pods", 98), doubled("podmonitor", 99.5), doubled("broken", 99.9)],
        [
            doubled("pods", 6, __name__=SESSIONS, outcome="ok"),
            doubled("podmonitor", 7, __name__=SESSIONS, outcome="ok", code="201"),
            doubled("podmonitor", 1, __name__=SESSIONS, outcome="ok", code="200"),
            doubled("podmonitor", 2, __name__=SESSIONS, outcome="error"),
        ],
        stale=5,
        now=0,
        expected=["p"],
    )

    assert read == reading(100, sessions(ok=8, error=2))


@pytest.mark.parametrize("up", [0.0, 1.0])
def test_a_port_of_the_pod_that_counts_no_sessions_does_not_speak_for_it(up: float) -> None:
    beside = {"instance": "10.0.0.7:15090", "container": "proxy"}
    read = metrics.understood(
        [doubled("pods", 1), sample(up, **beside)],
        [doubled("pods", 97), sample(99.5, **beside)],
        [
            doubled("pods", 6, __name__=SESSIONS, outcome="ok"),
            doubled("pods", 1, __name__=SESSIONS, outcome="error"),
            sample(5, __name__="process_start_time_seconds", **beside),
        ],
        stale=5,
        now=0,
        expected=["p"],
    )

    assert read == reading(100, sessions(ok=6, error=1))


def test_what_belongs_to_no_target_is_nobodys() -> None:
    late = [sample(5, __name__=SESSIONS, outcome="ok", pod="gone")]
    read = metrics.understood([sample(1)], [sample(99)], [*COUNTED, *late], stale=5, now=0, expected=["p"])

    assert read == reading(100, sessions(ok=7, error=0))


BOTH = {"up": [sample(1), sample(1, pod="q")], "scraped": [sample(99), sample(99, pod="q")]}
TIMED = [sample(7, __name__=DURATIONS, le=le) for le in ("0.5", "+Inf")]
OTHER = counted_sessions(3, pod="q")


@pytest.mark.parametrize(
    "counted",
    [
        COUNTED,
        [*COUNTED, *TIMED, *OTHER],  # no histogram of q
        [*COUNTED, *TIMED, *OTHER, sample(2, __name__=DURATIONS, le="0.5", pod="q")],  # not to its end
        [*COUNTED, *TIMED, sample(3, __name__=DURATIONS, le="+Inf", pod="q")],
        [*COUNTED, OTHER[0]],  # its errors are another label's, or were dropped on the way
        [*COUNTED, sample(3, __name__=SESSIONS, pod="q")],
    ],
)
def test_a_ready_pod_without_its_counters_is_a_hole(counted: list[Sample]) -> None:
    read = metrics.understood(**BOTH, counters=counted, stale=5, now=0, expected=["p", "q"])

    assert read == NoData(time=100, reason="no counters of q")
    assert isinstance(metrics.understood(**BOTH, counters=counted, stale=5, now=0, expected=["p"]), Reading)


def test_when_a_process_began_is_the_oldest_that_it_says() -> None:
    told = [
        sample(value, __name__="voice_sessions_created", outcome=of)
        for of, value in (("ok", 40), ("error", 90))
    ]
    read = metrics.understood([sample(1)], [sample(99)], [*COUNTED, *told], stale=5, now=0, expected=["p"])

    assert isinstance(read, Reading) and read.born == {"p": 40}


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
        (httpx.ConnectError("refused"), "did not answer: refused"),
        (httpx.ReadTimeout("slow"), "did not answer"),
        (httpx.Response(502, text="<html>"), "did not answer"),
        (httpx.Response(400, json={"status": "error", "error": "parse error"}), "refused 'up': parse error"),
        (httpx.Response(200, json={"status": "success", "data": {"result": [{}]}}), "something unknown"),
        (httpx.Response(200, json=[]), "refused"),
        (
            httpx.Response(
                200, json={"status": "success", "data": {"result": []}, "warnings": ["store 2 is gone"]}
            ),
            "doubts its answer: store 2 is gone",
        ),
        (
            httpx.Response(
                200, json={"status": "success", "data": {"result": []}, "infos": ["mixed buckets"]}
            ),
            "doubts its answer: mixed buckets",
        ),
        (
            httpx.Response(200, json={"status": "success", "isPartial": True, "data": {"result": []}}),
            "doubts its answer: it is partial",
        ),
        (httpx.Response(200, json={"status": "success", "warnings": "gone"}), "doubts its answer: gone"),
        (httpx.Response(200, json={"status": "success", "warnings": 5}), "doubts its answer: 5"),
        (httpx.Response(503, json={"status": "success", "data": {"result": []}}), "refused 'up': 503"),
        (
            httpx.Response(
                200, json={"status": "success", "data": {"result": [{"metric": [1], "value": [1, "2"]}]}}
            ),
            "something unknown",
        ),
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


# The first seconds of a pod.


def warmed(*readings: Reading, warmup: float = 10.0, restarted: tuple[str, ...] = ()) -> Window:
    found = metrics.begin(readings[0], warmup=warmup)
    for number, each in enumerate(readings[1:], 2):
        found = metrics.advance(found, each, restarted=restarted if number == len(readings) else ())
    return found


def test_what_a_pod_counts_while_it_warms_up_is_told_of_apart() -> None:
    grown = warmed(
        born(reading(100, pod("canary", "c", ok=0, error=0), pod("stable", "s", ok=50)), c=98, s=2),
        born(reading(105, pod("canary", "c", ok=7, error=3), pod("stable", "s", ok=70)), c=98, s=2),
        born(reading(111, pod("canary", "c", ok=17, error=4), pod("stable", "s", ok=90)), c=98, s=2),
        born(reading(120, pod("canary", "c", ok=37, error=5), pod("stable", "s", ok=91)), c=98, s=2),
    )

    assert grown.warming == Tally(canary_bad=4, canary=21)
    assert grown.sessions == Tally(canary_bad=1, canary=21, stable=41)
    assert grown.clean_since == 100  # it is no hole


def test_a_pod_that_comes_later_warms_up_alone() -> None:
    grown = warmed(
        reading(100, pod("canary", "c", ok=5, error=0)),
        reading(105, pod("canary", "c", ok=9, error=1), pod("canary", "d", ok=3, error=3)),
        reading(110, pod("canary", "c", ok=10, error=1), pod("canary", "d", ok=6, error=4)),
        reading(116, pod("canary", "c", ok=10, error=1), pod("canary", "d", ok=9, error=5)),
        reading(119, pod("canary", "c", ok=10, error=1), pod("canary", "d", ok=19, error=6)),
    )

    # At 110 d had served for ten seconds at most; c was there before.
    assert grown.warming == Tally(canary_bad=4, canary=10)
    assert grown.sessions == Tally(canary_bad=3, canary=6 + 15)


def test_a_pod_that_waits_for_its_first_session_warms_up_from_then_on() -> None:
    """Traffic comes when the pod is long there."""
    grown = warmed(
        born(reading(100, pod("canary", "c", ok=0, error=0)), c=2),
        born(reading(150, pod("canary", "c", ok=0, error=0)), c=2),
        born(reading(155, pod("canary", "c", ok=3, error=6)), c=2),
        born(reading(161, pod("canary", "c", ok=8, error=7)), c=2),
        born(reading(165, pod("canary", "c", ok=19, error=7)), c=2),
    )

    assert (grown.warming, grown.sessions) == (Tally(canary_bad=7, canary=15), Tally(canary=11))


@pytest.mark.parametrize(("restarted", "hidden"), [((), 0), (("c",), 0)])
def test_a_restart_is_no_second_warm_up(restarted: tuple[str, ...], hidden: int) -> None:
    grown = warmed(
        born(reading(100, pod("canary", "c", ok=50, error=0)), c=2),
        born(reading(105, pod("canary", "c", ok=3, error=2)), c=104),
        restarted=restarted,
    )

    assert (grown.warming.canary, grown.sessions) == (hidden, Tally(canary_bad=2, canary=5))


def test_a_pod_that_had_restarted_before_the_step_does_not_warm_up_in_it() -> None:
    first = born(reading(100, pod("canary", "c", ok=1, error=0)), c=99)
    after = born(reading(105, pod("canary", "c", ok=3, error=2)), c=99)
    fresh, again = (metrics.begin(first, warmup=10, restarted=names) for names in ((), ("c",)))

    assert metrics.advance(fresh, after).sessions == Tally()
    assert metrics.advance(again, after).sessions == Tally(canary_bad=2, canary=4)


def test_the_newest_reading_is_told_pod_by_pod() -> None:
    grown = window(
        reading(0, pod("canary", "a", ok=0, error=0), pod("canary", "b", ok=0, error=0)),
        reading(1, pod("canary", "a", ok=9, error=9), pod("canary", "b", ok=9, error=9)),
        reading(2, pod("canary", "a", ok=19, error=9), pod("canary", "b", ok=9, error=14)),
    )

    assert sorted(grown.of_pods()) == [("canary", 0, 10), ("canary", 5, 5)]
    silent = metrics.advance(grown, NoData(time=3, reason="silent"))
    assert silent.of_pods() == ()


def test_the_pods_of_a_canary_that_begins_warm_up_however_long_they_are_there() -> None:
    first = born(reading(100, pod("canary", "c", ok=1, error=0), pod("stable", "s", ok=9)), c=2, s=2)
    after = born(reading(105, pod("canary", "c", ok=3, error=2), pod("stable", "s", ok=11)), c=2, s=2)
    grown = metrics.advance(metrics.begin(first, warmup=10, cold=["c"]), after)

    assert (grown.warming, grown.sessions) == (Tally(canary_bad=2, canary=4), Tally(stable=2))

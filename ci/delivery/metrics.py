"""What Prometheus knows about both tracks of a target: growth of counters, never a rate it smoothed.

    async with Prometheus(target.metrics) as prometheus:
        window = begin(await read(prometheus, target.namespace, stale=5))
        window = advance(window, await read(…))      # again and again
        window.sessions                              # a Tally, or None: there is no data

Counters are read raw, per pod, and the growth since the step began is added up here, so that every session
counts once. A silent Prometheus, an empty answer, a NaN, a pod that was not scraped, a counter that fell:
each is a hole (`NoData`), and a hole is never read as zero. The unit is the session (`voice_sessions_total`).
Protocol: the HTTP API of Prometheus, /api/v1/query.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import httpx

from ci.delivery.gates import Tally
from ci.errors import SystemUnavailable

__all__ = [
    "NoData",
    "Prometheus",
    "Reading",
    "Sample",
    "Track",
    "Window",
    "advance",
    "begin",
    "frozen_threshold",
    "memory",
    "read",
]

Track = Literal["stable", "canary"]

SESSIONS = "voice_sessions_total"
DURATIONS = "voice_session_duration_seconds_bucket"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One series of an instant query: its labels, its value, and when it was evaluated (Unix seconds)."""

    labels: Mapping[str, str]
    value: float
    time: float


@dataclass(frozen=True, kw_only=True)
class Series:
    """One counter of one pod. `label` is the outcome of sessions, or the upper bound of durations."""

    track: str
    pod: str
    name: str
    label: str


@dataclass(frozen=True, kw_only=True)
class NoData:
    """There is no trustworthy answer at `time`, and why."""

    time: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Every counter of both tracks' pods at one moment (Unix seconds, of Prometheus's clock)."""

    time: float
    values: Mapping[Series, float]


class Prometheus:
    """A client of one Prometheus; an async context manager. SystemUnavailable when it does not answer."""

    def __init__(
        self, url: str, *, transport: httpx.AsyncBaseTransport | None = None, timeout: float = 5.0
    ) -> None:
        self.url = url
        self._client = httpx.AsyncClient(base_url=url, transport=transport, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def instant(self, query: str) -> tuple[Sample, ...]:
        """Ask an instant query whose answer is a vector; NaN stays NaN, the caller decides."""
        try:
            response = await self._client.post("/api/v1/query", data={"query": query})
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SystemUnavailable(
                f"Prometheus at {self.url} did not answer: {type(error).__name__} {error}".strip(),
                hint="va status says which part is down; then run the same command",
            ) from error
        if not isinstance(answer, dict) or answer.get("status") != "success":
            said = answer.get("error") if isinstance(answer, dict) else answer
            raise SystemUnavailable(f"Prometheus at {self.url} refused {query!r}: {said}")
        try:
            return tuple(_sample(item) for item in answer["data"]["result"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SystemUnavailable(f"Prometheus at {self.url} answered something unknown") from error


def _sample(item: Any) -> Sample:
    time, value = item["value"]
    return Sample(labels=item["metric"], value=float(value), time=float(time))


async def read(
    prometheus: Prometheus,
    namespace: str,
    *,
    stale: float,
    now: float,
    expected: Iterable[str] = (),
) -> Reading | NoData:
    """Both tracks' counters now, or why there are none.

    `stale` is the age in seconds from which a scrape is too old; `expected` are the pods that are ready and
    have to be in the answer; `now` (Unix seconds) is only used where Prometheus says no time itself.
    """
    where = f'namespace="{namespace}",track=~"stable|canary"'
    try:
        up, scraped, counters = await asyncio.gather(
            prometheus.instant(f"up{{{where}}}"),
            prometheus.instant(f"timestamp(up{{{where}}})"),
            prometheus.instant(f'{{__name__=~"{SESSIONS}|{DURATIONS}",{where}}}'),
        )
    except SystemUnavailable as error:
        return NoData(time=now, reason=error.message)
    return understood(up, scraped, counters, stale=stale, now=now, expected=expected)


def understood(
    up: Iterable[Sample],
    scraped: Iterable[Sample],
    counters: Iterable[Sample],
    *,
    stale: float,
    now: float,
    expected: Iterable[str] = (),
) -> Reading | NoData:
    """The three answers as one reading; anything doubtful is NoData."""
    alive = {sample.labels.get("pod", ""): sample.value for sample in up}
    time = max((sample.time for sample in up), default=now)
    if not alive:
        return NoData(time=time, reason="Prometheus scrapes no pod of this target")
    wanted = sorted(expected)
    missing = [pod for pod in wanted if pod not in alive]
    if missing:
        return NoData(time=time, reason=f"not scraped yet: {', '.join(missing)}")
    # A pod that is starting or going may be down; a ready one has to be up.
    down = [pod for pod in (wanted or sorted(alive)) if alive[pod] != 1]
    if down:
        return NoData(time=time, reason=f"the last scrape failed: {', '.join(down)}")
    old = sorted(
        sample.labels.get("pod", "")
        for sample in scraped
        if not sample.time - sample.value <= stale and sample.labels.get("pod") in (wanted or alive)
    )
    if old:
        return NoData(time=time, reason=f"not scraped for {stale:g} s: {', '.join(old)}")
    values: dict[Series, float] = {}
    for sample in counters:
        if not math.isfinite(sample.value) or sample.value < 0:
            return NoData(time=time, reason=f"{sample.labels.get('pod')}: a counter is {sample.value}")
        name = sample.labels["__name__"]
        series = Series(
            track=sample.labels["track"],
            pod=sample.labels.get("pod", ""),
            name=name,
            label=sample.labels.get("outcome" if name == SESSIONS else "le", ""),
        )
        values[series] = values.get(series, 0.0) + sample.value
    return Reading(time=time, values=values)


async def memory(prometheus: Prometheus, namespace: str) -> dict[str, float]:
    """Working set of each pod of a namespace, in bytes, as the kubelet reports it; none when it does not."""
    working_set = f'container_memory_working_set_bytes{{namespace="{namespace}",container!=""}}'
    answer = await prometheus.instant(f"sum by (pod) ({working_set})")
    return {sample.labels.get("pod", ""): sample.value for sample in answer if math.isfinite(sample.value)}


@dataclass(frozen=True, kw_only=True)
class Window:
    """What has grown since a step began. Values only: `advance` makes the next one."""

    started: float
    now: float
    clean_since: float
    """When the last hole in the data ended, or the step began: a bake counts from here."""
    current: bool
    """Whether the newest reading had data."""
    hole: str = ""
    """Why the last hole was one."""
    last: Mapping[Series, float] = field(default_factory=dict)
    grown: Mapping[Series, float] = field(default_factory=dict)

    @property
    def sessions(self) -> Tally | None:
        """Sessions and failed ones by track; None when the newest reading had no data."""
        if not self.current:
            return None
        return Tally(
            canary_bad=round(self._sum("canary", SESSIONS, label="error")),
            canary=round(self._sum("canary", SESSIONS)),
            stable_bad=round(self._sum("stable", SESSIONS, label="error")),
            stable=round(self._sum("stable", SESSIONS)),
        )

    def slow(self, threshold: float) -> Tally | None:
        """Sessions, and those longer than `threshold` seconds (a bucket's bound), by track."""
        if not self.current:
            return None
        counts: dict[str, int] = {}
        for track in ("canary", "stable"):
            buckets = self._buckets(track)
            whole = buckets.get(math.inf, 0.0)
            counts[track] = round(whole)
            counts[f"{track}_bad"] = round(whole - buckets.get(threshold, whole))
        return Tally(**counts)

    def quantile(self, track: Track, q: float) -> float | None:
        """The q-quantile of session durations in seconds, by linear interpolation within its bucket."""
        return _quantile(self._buckets(track), q)

    def _sum(self, track: str, name: str, label: str | None = None) -> float:
        return sum(
            value
            for series, value in self.grown.items()
            if series.track == track and series.name == name and label in (None, series.label)
        )

    def _buckets(self, track: str) -> dict[float, float]:
        return _buckets(self.grown, track)


def begin(reading: Reading | NoData) -> Window:
    """A window that starts with this reading: what was counted before does not count."""
    if isinstance(reading, NoData):
        return Window(
            started=reading.time,
            now=reading.time,
            clean_since=reading.time,
            current=False,
            hole=reading.reason,
        )
    return Window(
        started=reading.time,
        now=reading.time,
        clean_since=reading.time,
        current=True,
        last=reading.values,
        grown=dict.fromkeys(reading.values, 0.0),
    )


def advance(window: Window, reading: Reading | NoData) -> Window:
    """The window one reading later.

    A series that was not there before counts from zero: its pod, or its first event, is new. One that fell
    was reset with its container: it counts from zero as well, and since what came between is lost, that is a
    hole. A series that is gone keeps what it had grown by.
    """
    if isinstance(reading, NoData):
        return replace(window, now=reading.time, clean_since=reading.time, current=False, hole=reading.reason)
    if not window.last:
        # The step began in a hole: only now is there something to count from.
        return replace(begin(reading), started=window.started, hole=window.hole)
    grown = dict(window.grown)
    reset = set()
    for series, value in reading.values.items():
        before = window.last.get(series, 0.0)
        if value < before:
            reset.add(series.pod)
            before = 0.0
        grown[series] = grown.get(series, 0.0) + value - before
    ended_a_hole = not window.current or bool(reset)
    return replace(
        window,
        now=reading.time,
        clean_since=reading.time if ended_a_hole else window.clean_since,
        current=True,
        hole=f"counters fell: {', '.join(sorted(reset))}" if reset else window.hole,
        last={**window.last, **reading.values},
        grown=grown,
    )


def frozen_threshold(window: Window, objective: float | Literal["baseline"], *, share: float) -> float | None:
    """The bucket bound that makes a session slow in this step, from what stable's pods counted so far.

    An objective becomes the largest bound that is not above it (the smallest one when all are above: at
    worst the gate is stricter). `baseline` becomes the smallest bound that at most `share` of stable's
    sessions exceeded. None when there is no data to say so.
    """
    buckets = _buckets(window.last, "stable")
    bounds = sorted(bound for bound in buckets if math.isfinite(bound))
    if not bounds:
        return None
    if objective != "baseline":
        return max((bound for bound in bounds if bound <= objective), default=bounds[0])
    whole = buckets.get(math.inf, 0.0)
    if whole <= 0:
        return None
    return next((bound for bound in bounds if whole - buckets[bound] <= share * whole), None)


def _buckets(values: Mapping[Series, float], track: str) -> dict[float, float]:
    sums: dict[float, float] = {}
    for series, value in values.items():
        if series.track == track and series.name == DURATIONS:
            bound = float(series.label)
            sums[bound] = sums.get(bound, 0.0) + value
    return sums


def _quantile(buckets: Mapping[float, float], q: float) -> float | None:
    whole = buckets.get(math.inf, 0.0)
    if whole <= 0:
        return None
    below_bound = below_count = 0.0
    for bound in sorted(buckets):
        count = buckets[bound]
        if count >= q * whole:
            if math.isinf(bound):
                return below_bound
            return below_bound + (bound - below_bound) * (q * whole - below_count) / (count - below_count)
        below_bound, below_count = bound, count
    return None

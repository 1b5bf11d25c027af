"""What Prometheus knows about both tracks of a target: growth of counters, never a rate it smoothed.

    async with Prometheus(target.metrics) as prometheus:
        window = begin(await read(prometheus, target.namespace, stale=5))
        window = advance(window, await read(…))      # again and again
        window.sessions                              # a Tally, or None: there is no data

Counters are read raw, per pod, and the growth since the step began is added up here, so that every session
counts once, under however many jobs its pod is scraped. A silent Prometheus, an answer that is empty or only
a part, a NaN, a pod that was not scraped or has no counters, a container that started anew: each is a hole
(`NoData`), and a hole is never read as zero. The unit is the session (`voice_sessions_total`).
Protocol: the HTTP API of Prometheus, /api/v1/query.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import httpx

from ci import entra
from ci.delivery.findings import Tally
from ci.delivery.tracks import Track
from ci.errors import SystemUnavailable
from ci.reasons import reason_of
from ci.trusted import trusted

__all__ = [
    "DURATIONS",
    "SESSIONS",
    "WORKING_SET",
    "NoData",
    "Prometheus",
    "Reading",
    "Sample",
    "Window",
    "advance",
    "begin",
    "frozen_threshold",
    "memory",
    "read",
]

SESSIONS = "voice_sessions_total"
DURATIONS = "voice_session_duration_seconds_bucket"
WORKING_SET = "container_memory_working_set_bytes"
_BORN = ("voice_sessions_created", "process_start_time_seconds")
"""When the process that counts began to (Unix seconds), as client libraries tell it."""


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
    born: Mapping[str, float] = field(default_factory=dict)
    """By pod, when its process began to count; only of those that tell."""


_MANAGED = ".prometheus.monitor.azure.com"


class _ByEntra(httpx.Auth):
    """Azure's managed Prometheus takes a token of Entra; one that was renewed since the last request."""

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        given = await asyncio.to_thread(entra.token, entra.METRICS)
        request.headers["Authorization"] = f"Bearer {given.text}"
        yield request


class Prometheus:
    """A client of one Prometheus; an async context manager. SystemUnavailable when it does not answer.

    To Azure's managed one it signs in by ci.entra.
    """

    def __init__(
        self, url: str, *, transport: httpx.AsyncBaseTransport | None = None, timeout: float = 5.0
    ) -> None:
        self.url = url
        auth = _ByEntra() if httpx.URL(url).host.endswith(_MANAGED) else None
        self._client = httpx.AsyncClient(
            base_url=url, transport=transport, timeout=timeout, verify=trusted(), auth=auth
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def instant(self, query: str) -> tuple[Sample, ...]:
        """Ask an instant query whose answer is a vector; NaN stays NaN, the caller decides.

        An answer that Prometheus itself (or Thanos, Mimir, VictoriaMetrics in its place) warns of is one in
        part: unavailable.
        """
        return self._samples(await self._ask(query))

    async def shape(self, query: str) -> tuple[str, tuple[Sample, ...]]:
        """What its answer is (vector, matrix, scalar or string), and the series of a vector."""
        answer = await self._ask(query)
        data = answer.get("data")
        kind = str(data.get("resultType", "vector")) if isinstance(data, dict) else "vector"
        return kind, self._samples(answer) if kind == "vector" else ()

    def _samples(self, answer: Mapping[str, Any]) -> tuple[Sample, ...]:
        try:
            return tuple(_sample(item) for item in answer["data"]["result"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SystemUnavailable(f"Prometheus at {self.url} answered something unknown") from error

    async def _ask(self, query: str) -> dict[str, Any]:
        try:
            response = await self._client.post("/api/v1/query", data={"query": query})
            if response.status_code in (401, 403) and self._client.auth is not None:
                raise SystemUnavailable(
                    f"Prometheus at {self.url} does not let this sign-in read ({response.status_code})",
                    hint="it needs the role Monitoring Data Reader on the Azure Monitor workspace",
                )
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SystemUnavailable(
                f"Prometheus at {self.url} did not answer: {reason_of(error)}",
                hint="va status says which part is down; then run the same command",
            ) from error
        if not isinstance(answer, dict) or answer.get("status") != "success" or not response.is_success:
            said = answer.get("error", response.status_code) if isinstance(answer, dict) else answer
            raise SystemUnavailable(f"Prometheus at {self.url} refused {query!r}: {said}")
        if doubts := _doubts(answer):
            raise SystemUnavailable(f"Prometheus at {self.url} doubts its answer: {doubts}")
        return answer


def _doubts(answer: Mapping[str, Any]) -> str:
    """What the server says against its own answer; `isPartial` is how VictoriaMetrics does."""
    said = [answer.get(key) for key in ("warnings", "infos")]
    each = [one for some in said if some for one in (some if isinstance(some, list) else [some])]
    return "; ".join(map(str, [*each, *(["it is partial"] if answer.get("isPartial") else [])]))


def _sample(item: Any) -> Sample:
    time, value = item["value"]
    labels = {str(name): str(label) for name, label in dict(item["metric"]).items()}
    return Sample(labels=labels, value=float(value), time=float(time))


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
            prometheus.instant(f'{{__name__=~"{"|".join((SESSIONS, DURATIONS, *_BORN))}",{where}}}'),
        )
    except SystemUnavailable as error:
        return NoData(time=now, reason=error.message)
    return understood(up, scraped, counters, stale=stale, now=now, expected=expected)


@dataclass(frozen=True, kw_only=True)
class _Target:
    """One way in which Prometheus scrapes a pod: a job, an address. A pod may have several."""

    labels: frozenset[tuple[str, str]]
    up: bool
    scraped: float
    """Unix seconds; NaN when it is not known."""
    age: float

    def has(self, sample: Sample) -> bool:
        return self.labels <= sample.labels.items()


def understood(
    up: Iterable[Sample],
    scraped: Iterable[Sample],
    counters: Iterable[Sample],
    *,
    stale: float,
    now: float,
    expected: Iterable[str] = (),
) -> Reading | NoData:
    """The three answers as one reading; anything doubtful is NoData.

    Of several targets of one pod (jobs, or its other containers' ports) one speaks for it, so that none
    counts twice: of those that have its counters the one that was scraped last.
    """
    counters = list(counters)
    counting = [sample for sample in counters if sample.labels.get("__name__") == SESSIONS]
    targets = _targets(up, scraped)
    time = max((sample.time for sample in up), default=now)
    if not targets:
        return NoData(time=time, reason="Prometheus scrapes no pod of this target")
    wanted = sorted(set(expected))
    if missing := [pod for pod in wanted if pod not in targets]:
        return NoData(time=time, reason=f"not scraped yet: {', '.join(missing)}")
    # A pod that is starting or going may be down; a ready one has to be up.
    asked = wanted or sorted(targets)
    alive = {pod: [one for one in targets[pod] if one.up] for pod in targets}
    if down := [pod for pod in asked if not alive[pod]]:
        return NoData(time=time, reason=f"the last scrape failed: {', '.join(down)}")
    fresh = {pod: [one for one in alive[pod] if one.age <= stale] for pod in targets}
    if old := [pod for pod in asked if not fresh[pod]]:
        return NoData(time=time, reason=f"not scraped for {stale:g} s: {', '.join(old)}")
    speaks = {
        pod: max(ones, key=lambda one: (any(map(one.has, counting)), one.scraped, sorted(one.labels)))
        for pod, ones in fresh.items()
        if ones
    }
    values: dict[Series, float] = {}
    born: dict[str, float] = {}
    for sample in counters:
        pod, name = sample.labels.get("pod", ""), sample.labels.get("__name__", "")
        if pod not in speaks or not speaks[pod].has(sample):
            continue
        if name in _BORN:
            if math.isfinite(sample.value):
                born[pod] = min(sample.value, born.get(pod, math.inf))
            continue
        if not math.isfinite(sample.value) or sample.value < 0:
            return NoData(time=time, reason=f"{pod}: a counter is {sample.value}")
        label = sample.labels.get("outcome" if name == SESSIONS else "le", "")
        series = Series(track=sample.labels.get("track", ""), pod=pod, name=name, label=label)
        values[series] = values.get(series, 0.0) + sample.value
    if silent := [pod for pod in asked if not _whole(pod, values)]:
        return NoData(time=time, reason=f"no counters of {', '.join(silent)}")
    return Reading(time=time, values=values, born=born)


def _targets(up: Iterable[Sample], scraped: Iterable[Sample]) -> dict[str, list[_Target]]:
    """By pod. The same labels name the same target, with or without the metric's name."""

    def labels(sample: Sample) -> frozenset[tuple[str, str]]:
        return frozenset((key, value) for key, value in sample.labels.items() if key != "__name__")

    seen = {labels(sample): sample for sample in scraped}
    found: dict[str, list[_Target]] = {}
    for sample in up:
        own = labels(sample)
        when = seen[own].value if own in seen else math.nan
        age = seen[own].time - when if own in seen else math.inf
        target = _Target(labels=own, up=sample.value == 1, scraped=when, age=age)
        found.setdefault(sample.labels.get("pod", ""), []).append(target)
    return found


def _whole(pod: str, values: Mapping[Series, float]) -> bool:
    """Whether a pod's counters are there (the api counts both outcomes from its start: one that lacks errors
    was cut on the way), and its histogram to the last bucket, if any pod has one.
    """
    own = {(series.name, series.label) for series in values if series.pod == pod}
    timed = any(series.name == DURATIONS for series in values)
    return {(SESSIONS, "ok"), (SESSIONS, "error")} <= own and (
        not timed or any(name == DURATIONS and _bound(label) == math.inf for name, label in own)
    )


async def memory(prometheus: Prometheus, namespace: str) -> dict[str, float]:
    """Working set of each pod of a namespace, in bytes, as the kubelet reports it; none when it does not."""
    working_set = f'{WORKING_SET}{{namespace="{namespace}",container!=""}}'
    # Under however many jobs the kubelet is scraped, a container has one working set.
    answer = await prometheus.instant(f"sum by (pod) (max by (pod, container) ({working_set}))")
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
    born: Mapping[str, float] = field(default_factory=dict)
    grown: Mapping[Series, float] = field(default_factory=dict)
    came: Mapping[Series, float] = field(default_factory=dict)
    """What of that came with the newest reading."""
    hidden: Mapping[Series, float] = field(default_factory=dict)
    """What pods counted while they warmed up: it is in nothing else."""
    warmup: float = 0.0
    """Seconds from a pod's first session on."""
    first: Mapping[str, float] = field(default_factory=dict)
    """By pod, when that was at the earliest; it has one, however often its containers start."""

    @property
    def sessions(self) -> Tally | None:
        """Sessions and failed ones by track; None when the newest reading had no data."""
        if not self.current:
            return None
        return _tally(self.grown)

    @property
    def warming(self) -> Tally:
        """Sessions and failed ones of pods that warmed up."""
        return _tally(self.hidden)

    def of_pods(self, threshold: float | None = None) -> tuple[tuple[str, int, int], ...]:
        """Of the newest reading, pod by pod: its track, bad sessions, and all.

        Bad ones failed, or were longer than `threshold`; see `slow`.
        """
        found: dict[tuple[str, str], tuple[float, float]] = {}
        if threshold is None:
            for series, value in self.came.items():
                if series.name == SESSIONS:
                    bad, whole = found.get((series.track, series.pod), (0.0, 0.0))
                    failed = value if series.label == "error" else 0.0
                    found[series.track, series.pod] = (bad + failed, whole + value)
        else:
            for pod, buckets in _by_pod(self.came).items():
                whole = buckets.get(math.inf, 0.0)
                found[pod] = (max(0.0, whole - buckets.get(threshold, whole)), whole)
        return tuple((track, round(bad), round(whole)) for (track, _), (bad, whole) in found.items())

    def slow(self, threshold: float) -> Tally | None:
        """Sessions, and those longer than `threshold` seconds (a bucket's bound), by track.

        None when the newest reading had no data, or a pod counts no such bucket: nothing tells then how many
        of its sessions were longer.
        """
        if not self.current:
            return None
        counts = {f"{track}{bad}": 0.0 for track in ("canary", "stable") for bad in ("", "_bad")}
        for (track, _), buckets in _by_pod(self.grown).items():
            if threshold not in buckets or math.inf not in buckets:
                return None
            counts[track] += buckets[math.inf]
            counts[f"{track}_bad"] += max(0.0, buckets[math.inf] - buckets[threshold])
        return Tally(**{name: round(count) for name, count in counts.items()})

    def quantile(self, track: Track, q: float) -> float | None:
        """The q-quantile of session durations in seconds, by linear interpolation within its bucket."""
        return _quantile(self._buckets(track), q)

    def _buckets(self, track: str) -> dict[float, float]:
        return _buckets(self.grown, track)


def _tally(grown: Mapping[Series, float]) -> Tally:
    counts = dict.fromkeys(("canary", "canary_bad", "stable", "stable_bad"), 0.0)
    for series, value in grown.items():
        if series.name == SESSIONS:
            counts[series.track] += value
            counts[f"{series.track}_bad"] += value if series.label == "error" else 0.0
    return Tally(**{name: round(count) for name, count in counts.items()})


def begin(
    reading: Reading | NoData,
    *,
    warmup: float = 0.0,
    restarted: Collection[str] = (),
    cold: Collection[str] = (),
) -> Window:
    """A window that starts with this reading: what was counted before does not count.

    `warmup`: seconds from a pod's first session on, in which it counts for nothing; `restarted`: the pods
    that have started anew, and had theirs; `cold`: those that have it about now.
    """
    data = not isinstance(reading, NoData)
    window = Window(
        started=reading.time,
        now=reading.time,
        clean_since=reading.time,
        current=data,
        warmup=warmup,
        first=dict.fromkeys(restarted, -math.inf),
    )
    if isinstance(reading, NoData):
        return replace(window, hole=reading.reason)
    return replace(
        window,
        last=reading.values,
        born=reading.born,
        grown=dict.fromkeys(reading.values, 0.0),
        # Nobody knows of a pod that does not tell: it was there before.
        first={pod: reading.born.get(pod, -math.inf) for pod in _serving(reading)}
        | dict.fromkeys(cold, reading.time)
        | dict(window.first),
    )


def advance(window: Window, reading: Reading | NoData, *, restarted: Collection[str] = ()) -> Window:
    """The window one reading later.

    A series that was not there before counts from zero: its pod, or its first event, is new. Where one of a
    pod's counters fell, or its process says that it began anew, all were reset with it: each counts from
    zero, also one that has passed its old value since. What came in between is lost: a hole. A pod that is
    there without a series that it had, and was not reset, answered only in part: no data. A pod that is
    gone keeps what it had grown by.
    """
    if isinstance(reading, NoData):
        return replace(
            window, now=reading.time, clean_since=reading.time, current=False, hole=reading.reason, came={}
        )
    if not window.last:
        # The step began in a hole: only now is there something to count from.
        begun = begin(reading, warmup=window.warmup, restarted=restarted)
        return replace(begun, started=window.started, hole=window.hole)
    reset = {
        series.pod
        for series, value in reading.values.items()
        if value < window.last.get(series, 0.0) or _began_anew(series.pod, window.born, reading.born)
    }
    there = {series.pod for series in reading.values} - reset
    if lost := sorted({one.pod for one in window.last if one.pod in there and one not in reading.values}):
        return advance(window, NoData(time=reading.time, reason=f"not all counters of {', '.join(lost)}"))
    known = {series: value for series, value in window.last.items() if series.pod not in reset}
    pods = {series.pod for series in window.last}
    # Its first session came since the reading before.
    first = dict.fromkeys(_serving(reading), window.now) | dict(window.first)
    first |= dict.fromkeys(restarted, -math.inf)
    grown, hidden, came = dict(window.grown), dict(window.hidden), {}
    for series, value in reading.values.items():
        # It may have counted before the step began, but not been read then: it counts from now.
        old = series.pod not in pods and reading.born.get(series.pod, math.inf) < window.started
        before = value if old else known.get(series, 0.0)
        # What came since the reading before, of a pod that was warming up then.
        since = first.get(series.pod, window.now)
        warming = bool(window.warmup) and not old and window.now - since < window.warmup
        counted = hidden if warming else grown
        counted[series] = counted.get(series, 0.0) + value - before
        grown.setdefault(series, 0.0)
        came[series] = 0.0 if warming else value - before
    ended_a_hole = not window.current or bool(reset)
    return replace(
        window,
        now=reading.time,
        clean_since=reading.time if ended_a_hole else window.clean_since,
        current=True,
        hole=f"counters fell: {', '.join(sorted(reset))}" if reset else window.hole,
        last={**known, **reading.values},
        born={**window.born, **reading.born},
        first=first,
        grown=grown,
        hidden=hidden,
        came=came,
    )


def _serving(reading: Reading) -> set[str]:
    """The pods that have had a session."""
    return {series.pod for series, value in reading.values.items() if series.name == SESSIONS and value}


def _began_anew(pod: str, before: Mapping[str, float], now: Mapping[str, float]) -> bool:
    """Whether its process is another one than before; half a second is what rounding may be."""
    return pod in before and pod in now and now[pod] > before[pod] + 0.5


def frozen_threshold(window: Window, objective: float | Literal["baseline"], *, share: float) -> float | None:
    """The bucket bound that makes a session slow in this step, from what stable's pods counted so far.

    Only a bound that every pod of both tracks counts: releases may count by other ones. An objective becomes
    the largest that is not above it, so that at worst the gate is stricter. `baseline` becomes the smallest
    bound that at most `share` of stable's sessions exceeded. None when there is no data to say so, or no such
    bound: a larger one would let pass what is slow.
    """
    bounds = sorted(bound for bound in _common(window.last) if math.isfinite(bound))
    if not _common(window.last, "stable"):
        return None
    if objective != "baseline":
        return max((bound for bound in bounds if bound <= objective), default=None)
    buckets = _buckets(window.last, "stable")
    whole = buckets.get(math.inf, 0.0)
    if whole <= 0:
        return None
    return next((bound for bound in bounds if whole - buckets[bound] <= share * whole), None)


def _bound(label: str) -> float:
    """A bucket's upper bound in seconds; NaN where the label is no number."""
    try:
        return float(label)
    except ValueError:
        return math.nan


def _by_pod(values: Mapping[Series, float]) -> dict[tuple[str, str], dict[float, float]]:
    """The histogram of each pod, by track and pod: counts by upper bound."""
    found: dict[tuple[str, str], dict[float, float]] = {}
    for series, value in values.items():
        if series.name == DURATIONS:
            found.setdefault((series.track, series.pod), {})[_bound(series.label)] = value
    return found


def _common(values: Mapping[Series, float], track: str | None = None) -> set[float]:
    """The bounds by which every pod counts."""
    sets = [set(buckets) for (which, _), buckets in _by_pod(values).items() if track in (None, which)]
    return set.intersection(*sets) if sets else set()


def _buckets(values: Mapping[Series, float], track: str) -> dict[float, float]:
    """The histogram of a track, by the bounds that all its pods have."""
    common = _common(values, track)
    sums = dict.fromkeys(common, 0.0)
    for (which, _), buckets in _by_pod(values).items():
        if which == track:
            for bound in common:
                sums[bound] += buckets[bound]
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

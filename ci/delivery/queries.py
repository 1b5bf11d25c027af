"""What the queries of gates count: by track, how counters have grown since a step began.

    growth = begin(await read(prometheus, gate, names))
    growth = advance(growth, await read(…))        # again and again
    growth.of("bad", "canary")

As the api's own counters are (ci.delivery.metrics): read raw, series by series. One that fell, or whose
process began anew, was reset and counts from zero. One that is new counts from zero where who counts it was
scraped before, or began after the step; else it may have counted for weeks, and counts from its first
reading. One that is gone with its pod keeps what it had grown by. A query that is not answered, a NaN, an
empty answer, a series that is gone while its pod is there is a hole; but where the `all` of a gate has an
answer, an empty one of its `bad` is none: what has never failed is often not counted yet.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ci.delivery.findings import Tally
from ci.delivery.metrics import NoData, Prometheus, Sample
from ci.delivery.tracks import CANARY, STABLE, TRACKS, Track
from ci.environments import AnyGate, Target, filled, queries
from ci.errors import SystemUnavailable

__all__ = ["Count", "Counts", "Growth", "advance", "begin", "largest", "names_of", "read"]


class _Process(NamedTuple):
    pod: str
    instance: str


def _process(labels: Mapping[str, str]) -> _Process:
    return _Process(labels.get("pod", ""), labels.get("instance", ""))


class Count(NamedTuple):
    """One series of one query, for one track."""

    key: str
    """The key of the gate that has the query."""
    track: Track
    labels: frozenset[tuple[str, str]]

    @property
    def source(self) -> str:
        """Who counts it; empty where it does not say."""
        labels = dict(self.labels)
        return labels.get("instance") or labels.get("pod", "")

    @property
    def owner(self) -> str:
        """Whom it is of, with which it goes: not always who counts it."""
        labels = dict(self.labels)
        return labels.get("pod") or labels.get("instance", "")

    @property
    def process(self) -> _Process:
        """Whose start its own is; none where another counts for the pod, as kube-state-metrics does."""
        return _process(dict(self.labels))


@dataclass(frozen=True, kw_only=True)
class Counts:
    """One reading."""

    time: float
    """Unix seconds, of Prometheus's clock."""
    values: Mapping[Count, float]
    born: Mapping[_Process, float] = field(default_factory=dict)
    """When they began (Unix seconds); of those that tell."""
    scraped: frozenset[str] = frozenset()
    """The pods and instances whose last scrape went well …"""
    there: frozenset[str] = frozenset()
    """… and those that are to be scraped."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Since the step began."""

    current: bool
    """Whether the newest reading had data."""
    hole: str = ""
    started: float = 0.0
    """When the first reading was (Unix seconds)."""
    born: Mapping[_Process, float] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    """The pods and instances that were scraped since then: what they did not count yet is new."""
    last: Mapping[Count, float] = field(default_factory=dict)
    grown: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def instances(self) -> frozenset[str]:
        """Those that count."""
        return _instances(self.last)

    def of(self, key: str, track: Track) -> int:
        """How many there were."""
        return round(self.grown.get((key, track), 0.0))

    @property
    def tally(self) -> Tally | None:
        """Bad ones and all; None when the newest reading had no data."""
        if not self.current:
            return None
        canary, stable = self.of("all", "canary"), self.of("all", "stable")
        return Tally(
            canary_bad=min(canary, self.of("bad", "canary")),
            canary=canary,
            stable_bad=min(stable, self.of("bad", "stable")),
            stable=stable,
        )


def names_of(target: Target, track: Track) -> dict[str, str]:
    """What the placeholders of a query stand for."""
    return {
        "environment": target.environment,
        "region": target.region,
        "namespace": target.namespace,
        "hostname": target.hostname,
        "track": track,
        "app": {"stable": STABLE, "canary": CANARY}[track],
    }


async def read(
    prometheus: Prometheus,
    gate: AnyGate,
    names: Mapping[Track, Mapping[str, str]],
    before: Collection[str] = (),
) -> Counts | NoData:
    """Every series of the gate's queries now. `names`: by track, what its placeholders stand for; `before`:
    the instances that had any."""
    asked = [(key, track, query) for key, query in queries(gate).items() for track in TRACKS]
    try:
        answers = await asyncio.gather(
            *(prometheus.instant(filled(query, names[track])) for _, track, query in asked)
        )
    except SystemUnavailable as error:
        return NoData(time=time.time(), reason=error.message)
    found: dict[Count, float] = {}
    now = max((sample.time for answer in answers for sample in answer), default=time.time())
    for (key, track, _), answer in zip(asked, answers, strict=True):
        if not answer and key != "bad":
            return NoData(time=time.time(), reason=f"`{key}` has no answer for {track}")
        for sample in answer:
            if not math.isfinite(sample.value) or sample.value < 0:
                return NoData(time=sample.time, reason=f"a counter of `{key}` is {sample.value}")
            found[Count(key, track, frozenset(sample.labels.items()))] = sample.value
    try:
        told = await prometheus.instant(
            _processes(names["stable"]["namespace"], {*before, *_instances(found)})
        )
    except SystemUnavailable as error:
        return NoData(time=now, reason=error.message)
    return _counts(now, found, told)


def _counts(now: float, values: Mapping[Count, float], told: Collection[Sample]) -> Counts:
    born: dict[_Process, float] = {}
    scraped, there = set[str](), set[str]()
    for sample in told:
        who = {sample.labels[label] for label in ("pod", "instance") if sample.labels.get(label)}
        there |= who
        if sample.labels.get("__name__") != "up":
            if math.isfinite(sample.value):
                born[_process(sample.labels)] = sample.value
        elif sample.value == 1:
            scraped |= who
    return Counts(time=now, values=values, born=born, scraped=frozenset(scraped), there=frozenset(there))


def _processes(namespace: str, instances: Collection[str]) -> str:
    """PromQL: whether the pods of a namespace and these instances are scraped, and when they began."""
    which = '__name__=~"up|process_start_time_seconds"'
    asked = f"{{{which},namespace={json.dumps(namespace)}}}"
    if not instances:
        return asked
    these = json.dumps("|".join(re.escape(one) for one in sorted(instances)))
    return f"{asked} or {{{which},instance=~{these}}}"


def _instances(values: Collection[Count]) -> frozenset[str]:
    return frozenset(dict(count.labels).get("instance", "") for count in values) - {""}


async def largest(prometheus: Prometheus, query: str) -> float | None:
    """The largest value of an answer; None where there is none, or one that is no number."""
    try:
        values = [sample.value for sample in await prometheus.instant(query)]
    except SystemUnavailable:
        return None
    return max(values) if values and all(map(math.isfinite, values)) else None


def begin(reading: Counts | NoData) -> Growth:
    """What was counted before the step began does not count."""
    if isinstance(reading, NoData):
        return Growth(current=False, hole=reading.reason, started=reading.time)
    return Growth(
        current=True, started=reading.time, last=reading.values, born=reading.born, known=_known(reading)
    )


def advance(before: Growth, reading: Counts | NoData) -> Growth:
    """One reading later. Pure."""
    if isinstance(reading, NoData):
        return replace(before, current=False, hole=reading.reason)
    if not before.last:
        return replace(begin(reading), hole=before.hole)
    reset = _reset(before, reading)
    kept = {count: value for count, value in before.last.items() if count.process not in reset}
    there = (reading.there | {count.owner for count in reading.values}) - {""}
    if lost := sorted({one.owner for one in kept if one not in reading.values and one.owner in there}):
        return replace(before, current=False, hole=f"not all counters of {', '.join(lost)}")
    grown = dict(before.grown)
    for count, value in reading.values.items():
        was = kept.get(count, 0.0 if _from_zero(count, before, reading) else value)
        by = value if value < was else value - was
        grown[count.key, count.track] = grown.get((count.key, count.track), 0.0) + by
    return replace(
        before,
        current=True,
        last={**kept, **reading.values},
        born={**before.born, **reading.born},
        known=before.known | _known(reading),
        grown=grown,
    )


def _known(reading: Counts) -> frozenset[str]:
    """Who was scraped: by its targets, or since it counted something."""
    return (reading.scraped | {count.source for count in reading.values}) - {""}


def _reset(before: Growth, now: Counts) -> set[_Process]:
    """Whose counters began anew: one fell, or the start says so; half a second is what rounding may be."""
    fell = {count.process for count, value in now.values.items() if value < before.last.get(count, 0.0)}
    anew = {one for one, born in now.born.items() if born > before.born.get(one, math.inf) + 0.5}
    return (fell | anew) - {_Process("", "")}  # of many it may be


def _from_zero(count: Count, before: Growth, now: Counts) -> bool:
    """Whether what nobody has read before was nothing before: else it may have counted for weeks."""
    return count.source in before.known or now.born.get(count.process, -math.inf) >= before.started

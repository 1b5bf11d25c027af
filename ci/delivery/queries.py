"""What the queries of gates count: by track, how counters have grown since a step began.

    growth = begin(await read(prometheus, gate, names))
    growth = advance(growth, await read(…))        # again and again
    growth.of("bad", "canary")

As the api's own counters are (ci.delivery.metrics): read raw, series by series. One that is new counts from
zero, one that fell was reset and counts from zero, one that is gone keeps what it had grown by. A query
that is not answered, a NaN, an empty answer is a hole; but where the `all` of a gate has an answer, an empty
one of its `bad` is none: what has never failed is often not counted yet.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ci.delivery.findings import Tally
from ci.delivery.metrics import NoData, Prometheus
from ci.delivery.tracks import CANARY, STABLE, TRACKS, Track
from ci.environments import AnyGate, Target, filled, queries
from ci.errors import SystemUnavailable

__all__ = ["Count", "Growth", "advance", "begin", "largest", "names_of", "read"]


class Count(NamedTuple):
    """One series of one query, for one track."""

    key: str
    """The key of the gate that has the query."""
    track: Track
    labels: frozenset[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Since the step began."""

    current: bool
    """Whether the newest reading had data."""
    hole: str = ""
    last: Mapping[Count, float] = field(default_factory=dict)
    grown: Mapping[tuple[str, str], float] = field(default_factory=dict)

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
    prometheus: Prometheus, gate: AnyGate, names: Mapping[Track, Mapping[str, str]]
) -> Mapping[Count, float] | NoData:
    """Every series of the gate's queries now. `names`: by track, what its placeholders stand for."""
    asked = [(key, track, query) for key, query in queries(gate).items() for track in TRACKS]
    try:
        answers = await asyncio.gather(
            *(prometheus.instant(filled(query, names[track])) for _, track, query in asked)
        )
    except SystemUnavailable as error:
        return NoData(time=time.time(), reason=error.message)
    found: dict[Count, float] = {}
    for (key, track, _), answer in zip(asked, answers, strict=True):
        if not answer and key != "bad":
            return NoData(time=time.time(), reason=f"`{key}` has no answer for {track}")
        for sample in answer:
            if not math.isfinite(sample.value) or sample.value < 0:
                return NoData(time=sample.time, reason=f"a counter of `{key}` is {sample.value}")
            found[Count(key, track, frozenset(sample.labels.items()))] = sample.value
    return found


async def largest(prometheus: Prometheus, query: str) -> float | None:
    """The largest value of an answer; None where there is none, or one that is no number."""
    try:
        values = [sample.value for sample in await prometheus.instant(query)]
    except SystemUnavailable:
        return None
    return max(values) if values and all(map(math.isfinite, values)) else None


def begin(reading: Mapping[Count, float] | NoData) -> Growth:
    """What was counted before the step began does not count."""
    if isinstance(reading, NoData):
        return Growth(current=False, hole=reading.reason)
    return Growth(current=True, last=reading)


def advance(before: Growth, reading: Mapping[Count, float] | NoData) -> Growth:
    """One reading later. Pure."""
    if isinstance(reading, NoData):
        return replace(before, current=False, hole=reading.reason)
    if not before.last:
        return replace(begin(reading), hole=before.hole)
    grown = dict(before.grown)
    for (key, track), by in _increases(before.last, reading):
        grown[key, track] = grown.get((key, track), 0.0) + by
    return replace(before, current=True, last={**before.last, **reading}, grown=grown)


def _increases(
    last: Mapping[Count, float], now: Mapping[Count, float]
) -> Iterator[tuple[tuple[str, str], float]]:
    for count, value in now.items():
        was = last.get(count, 0.0)
        yield (count.key, count.track), value - was if value >= was else value

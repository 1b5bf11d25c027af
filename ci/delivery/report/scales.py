"""Where a time and an E stand on their axes, in percent of the width; and the marks of both axes. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ci.delivery.findings import Finding

__all__ = ["Evidence", "Mark", "Times", "apart"]

_SECOND, _MINUTE, _HOUR, _DAY = 1, 60, 3600, 86_400
_STEPS = (
    *(each * _SECOND for each in (1, 2, 5, 10, 15, 30)),
    *(each * _MINUTE for each in (1, 2, 5, 10, 15, 30)),
    *(each * _HOUR for each in (1, 2, 3, 6, 12)),
    *(each * _DAY for each in (1, 2, 7, 14, 28, 91, 364)),
)
_MARKS, _LONG_MARKS = 6, 4
"""As many as there is room for on a telephone."""
_BEYOND = 2.0
"""Powers of ten that are shown on both sides of what decides; what is beyond stands at the edge."""
_POWERS = {-3: "0.001", -2: "0.01", -1: "0.1", 0: "1", 1: "10", 2: "100", 3: "1000"}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A place on an axis."""

    at: float
    text: str

    @property
    def anchor(self) -> str:
        """On which side of its place the text is: inside of the picture."""
        return "start" if self.at < 8 else "end" if self.at > 92 else "middle"


@dataclass(frozen=True, kw_only=True)
class Times:
    """The axis of time: all targets have the same."""

    since: datetime
    until: datetime

    def at(self, time: datetime) -> float:
        """In percent; what clocks that disagree put outside stands at the end."""
        whole = (self.until - self.since).total_seconds()
        share = (time - self.since).total_seconds() / whole if whole > 0 else 0.0
        return 100 * min(max(share, 0.0), 1.0)

    @property
    def dated(self) -> bool:
        """Whether there are several days."""
        return self.since.astimezone(UTC).date() != self.until.astimezone(UTC).date()

    def marks(self) -> list[Mark]:
        """Round times; with the date, where there are several days."""
        since, until = self.since.astimezone(UTC), self.until.astimezone(UTC)
        seconds = (until - since).total_seconds()
        most = _LONG_MARKS if self.dated else _MARKS
        step = next((each for each in _STEPS if seconds / each <= most), _STEPS[-1])
        midnight = since.replace(hour=0, minute=0, second=0, microsecond=0)
        first = math.ceil((since - midnight).total_seconds() / step) * step
        shape = "%H:%M:%S" if step < _MINUTE else "%H:%M"
        if self.dated:
            shape = "%d %b" if step >= _DAY else f"%d %b {shape}"
        found, time = [], midnight + timedelta(seconds=first)
        while time <= until:
            found.append(Mark(at=self.at(time), text=time.strftime(shape)))
            time += timedelta(seconds=step)
        return found


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The axis of E, by powers of ten: all gates of a report have the same."""

    least: int
    most: int

    @staticmethod
    def of(findings: Iterable[Finding]) -> Evidence:
        """One that shows all thresholds, and as much of what was found as leaves them apart."""
        thresholds, values = [0.0], [0.0]
        for one in findings:
            thresholds += _finite(one.log_fail_at, one.log_floor_at, one.log_pass_at)
            values += _finite(one.log_harm, one.log_floor, one.log_safe)
        low, high = min(thresholds) / math.log(10), max(thresholds) / math.log(10)
        least = max(min(values) / math.log(10), low - _BEYOND)
        most = min(max(values) / math.log(10), high + _BEYOND)
        return Evidence(least=math.floor(min(least, low - 1)), most=math.ceil(max(most, high + 0.3)))

    def at(self, logarithm: float) -> float:
        """In percent; what is beyond an end stands there."""
        power = 0.0 if math.isnan(logarithm) else logarithm / math.log(10)
        share = (min(max(power, self.least), self.most) - self.least) / (self.most - self.least)
        return 100 * share

    def beyond(self, logarithm: float) -> str:
        """At which end there is no room for it: `left` or `right`; empty where there is."""
        power = logarithm / math.log(10)
        return "right" if power > self.most else "left" if power < self.least else ""

    def marks(self) -> list[Mark]:
        """Powers of ten: 1 is one of them, and no more than there is room for."""
        every = math.ceil((self.most - self.least) / _LONG_MARKS)
        powers = [each for each in range(self.least, self.most + 1) if each % every == 0]
        return [Mark(at=self.at(each * math.log(10)), text=_POWERS.get(each, f"1e{each}")) for each in powers]


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Places in order, moved as little as it takes so that they are `gap` apart and stay within 0 to 100.

    Where there are too many for that they are as far apart as there is room for.
    """
    gap = min(gap, 100 / max(1, len(places)))
    found: list[float] = []
    for place in places:
        found.append(max(place, gap / 2, found[-1] + gap if found else 0.0))
    limit = 100 - gap / 2
    for number in reversed(range(len(found))):
        found[number] = min(found[number], limit)
        limit = found[number] - gap
    return found


def _finite(*logarithms: float | None) -> list[float]:
    return [each for each in logarithms if each is not None and math.isfinite(each)]

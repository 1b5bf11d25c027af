"""The report as a page: one file, that loads and runs nothing, for any screen and for paper.

Whatever the ledger says is text in it: Jinja escapes all of it, what would steer a reader's eye (a control
character, a letter that turns a line around) is written out, and the page forbids itself scripts and loading
by its own Content-Security-Policy, should both ever fail.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from ci.delivery.findings import Finding, Verdict
from ci.delivery.ledger.show import span
from ci.delivery.report.data import FIGURES_DAYS, Event, Kept, Look, Report, Share, TargetStory, Trial
from ci.delivery.report.scales import Evidence, Times, apart
from ci.delivery.results import number
from ci.layout import clean

__all__ = ["as_html"]

_NARROWEST = 9.0
"""In percent: a stretch that is narrower has no room for its share in figures, on a telephone."""
_GAP = 6.5
"""In percent: marks are that far apart, on a telephone too."""
_GATES = {
    "errors": "sessions that failed",
    "latency": "sessions that were too slow",
    "restarts": "containers that restarted",
    "saturation": "memory in use",
}
_RESULTS = {
    "promoted": Look.GOOD, "restored": Look.GOOD, "failed": Look.BAD, "pass": Look.GOOD, "passed": Look.GOOD,
    "fail": Look.BAD, "step failed": Look.BAD, "step passed": Look.GOOD,
}  # fmt: skip
_SHOWN = {"begun": "under way", "not there": "left out", "inconclusive": "undecided"}


@dataclass(frozen=True, kw_only=True)
class _Bar:
    """A stretch of a target's picture, in percent of its width and height."""

    share: Share
    x: float
    width: float

    @property
    def label(self) -> str:
        return f"{self.share.percent} %" if self.width >= _NARROWEST and self.share.percent else ""


@dataclass(frozen=True, kw_only=True)
class _Flag:
    """An event in a target's picture: where it was, and where its number has room."""

    event: Event
    at: float
    label: float


@dataclass(frozen=True, kw_only=True)
class _Row:
    story: TargetStory
    bars: tuple[_Bar, ...]
    flags: tuple[_Flag, ...]


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """One of the two tests of a gate: its E, and where it decides."""

    name: str
    value: str
    limit: str
    decides: bool
    look: Look
    start: float
    width: float
    threshold: float
    beyond: str
    """At which end it goes on beyond the axis: `left`, `right`; empty where it does not."""


@dataclass(frozen=True, kw_only=True)
class _Gate:
    finding: Finding
    what: str
    scales: tuple[_Scale, ...]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the gates said at once."""

    trial: Trial
    gates: tuple[_Gate, ...]


def as_html(report: Report) -> str:
    """The whole page. The same report makes the same page."""
    times = Times(since=report.began, until=report.until)
    axis = Evidence.of(finding for trial in report.trials for finding in trial.findings)
    asked: dict[str, list[_Asked]] = {}
    for trial in report.trials:
        gates = tuple(_gate(finding, axis) for finding in trial.findings)
        asked.setdefault(trial.target or trial.environment, []).append(_Asked(trial=trial, gates=gates))
    return (
        _templates()
        .get_template("page.html.jinja")
        .render(
            report=report,
            rows=[_row(report, story, times) for story in report.targets],
            marks=times.marks(),
            asked=asked,
            powers=axis.marks(),
            one_at=round(axis.at(0.0), 2),
            days=FIGURES_DAYS,
            several_days=times.dated,
        )
    )


@functools.cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: clean(value) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "moment": _moment,
        "clock": _clock,
        "span": span,
        "look": _look,
        "word": _word,
        "place": _place,
    }
    return made


def _row(report: Report, story: TargetStory, times: Times) -> _Row:
    bars = tuple(
        _Bar(share=share, x=times.at(share.since), width=times.at(share.until) - times.at(share.since))
        for share in story.shares
    )
    mine = [
        event
        for event in report.events
        if event.environment == story.environment
        and event.target in ("", story.target)
        and event.time >= report.began
    ]
    places = [times.at(event.time) for event in mine]
    labels = apart(places, _GAP)
    flags = (
        _Flag(event=event, at=at, label=label) for event, at, label in zip(mine, places, labels, strict=True)
    )
    return _Row(story=story, bars=bars, flags=tuple(flags))


def _gate(finding: Finding, axis: Evidence) -> _Gate:
    tests = (
        ("E of harm", "fails", finding.log_harm, finding.log_fail_at, Look.BAD),
        ("E over tolerated", "fails", finding.log_floor, finding.log_floor_at, Look.BAD),
        ("E of safety", "passes", finding.log_safe, finding.log_pass_at, Look.GOOD),
    )  # not each gate has all of them
    return _Gate(
        finding=finding,
        what=_GATES.get(finding.metric, ""),
        scales=tuple(
            _scale(name, decides, value, limit, look, axis)
            for name, decides, value, limit, look in tests
            if value is not None and limit is not None
        ),
    )


def _scale(name: str, decides: str, value: float, limit: float, look: Look, axis: Evidence) -> _Scale:
    here, one = axis.at(value), axis.at(0.0)
    return _Scale(
        name=name,
        value=_number(value),
        limit=f"{decides} at {_number(limit)}",
        decides=value >= limit,
        look=look,
        start=min(here, one),
        width=abs(here - one),
        threshold=axis.at(limit),
        beyond=axis.beyond(value),
    )


def _number(logarithm: float) -> str:
    if math.isnan(logarithm):
        return "unknown"
    return "∞" if logarithm == math.inf else number(logarithm)


def _place(what: Event | Kept) -> str:
    return what.target or f"all of {what.environment}"


def _moment(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _clock(time: datetime, dated: bool) -> str:
    return time.astimezone(UTC).strftime("%d %b %H:%M:%S" if dated else "%H:%M:%S")


def _look(result: str | Verdict) -> Look:
    return _RESULTS.get(str(result), Look.ODD)


def _word(result: str) -> str:
    return _SHOWN.get(str(result), str(result))

"""The report as the summary of a job on GitHub: a few lines of Markdown, with a picture that GitHub draws.

GitHub takes out of a summary what a page is made of: `<svg>`, `<style>`, `<script>`, classes and styles of
elements, and images that are in the text itself (`data:`). What it draws is Mermaid, in a fenced block: so
the timeline is a Gantt chart, a section a target. The page itself belongs to the run's artifacts.
https://docs.github.com/get-started/writing-on-github/working-with-advanced-formatting/creating-diagrams
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from ci.delivery.findings import Verdict
from ci.delivery.ledger.show import span
from ci.delivery.report.data import Report, Trial
from ci.delivery.results import headline
from ci.layout import clean

__all__ = ["as_markdown"]

_MOST = 20
"""Lines of one kind: a summary is looked at, the page has all of it."""
_LONGEST = 400
_MARKS = {"promoted": "✅", "restored": "✅", "failed": "❌"}


def as_markdown(report: Report) -> str:
    """The headline, the picture, a row a target, what gates objected to, what people and the guard did."""
    return "\n".join([*_parts(report), ""])


def _parts(report: Report) -> Iterator[str]:
    yield f"### {_mark(report.result)} {_text(report.headline)}"
    yield ""
    if not report.whole:
        yield "**The ledger does not verify:** entries were changed, are missing or cannot be read."
        yield ""
    yield from _gantt(report)
    yield ""
    yield "| target | | steps | took |"
    yield "|---|---|---|---|"
    for story in report.targets:
        steps = ", ".join(_step(trial) for trial in report.trials if trial.target == story.target)
        took = span(((story.ended or report.until) - story.began).total_seconds())
        how = f"{_mark(story.result)} {_text(story.result)}"
        yield f"| {_text(story.target)} | {how} | {steps or '-'} | {took} |"
    yield ""
    yield from _list("Not passed", _objections(report))
    deeds = [
        f"{event.time.astimezone(UTC):%H:%M:%S} {_text(event.target or event.environment)}: "
        f"**{_text(event.by)}** {_text(event.what)}{f': {_text(event.why)}' if event.why else ''}"
        for event in report.deeds
    ]
    yield from _list("People and the guard", deeds)
    for one in report.ledgers:
        how = "does not verify" if one.problems else f"verifies, last hash `{one.last}`"
        yield f"Ledger of {_text(one.environment)}: {one.entries} entries, {how}  "


def _objections(report: Report) -> list[str]:
    return [
        f"{_text(trial.target or trial.environment)}"
        f"{f' at {trial.weight} %' if trial.weight else ''}: {_text(headline(finding))}"
        for trial in report.trials
        for finding in trial.findings
        if finding.verdict is not Verdict.PASS
    ]


def _list(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield f"**{title}**"
        yield ""
        yield from (f"- {line}" for line in lines[:_MOST])
        if len(lines) > _MOST:
            yield f"- and {len(lines) - _MOST} more"
        yield ""


def _step(trial: Trial) -> str:
    at = f"{trial.weight} %" if trial.weight else "watched"
    return f"{at} {_text(trial.result)}{' (overruled)' if trial.overruled else ''}"


def _gantt(report: Report) -> Iterator[str]:
    """https://mermaid.js.org/syntax/gantt.html: a colour a state, times in UTC."""
    long = report.until - report.began
    shape = "%H:%M:%S" if long < timedelta(hours=1) else "%H:%M" if long < timedelta(days=3) else "%d %b"
    yield "```mermaid"
    yield "gantt"
    yield "  dateFormat YYYY-MM-DDTHH:mm:ss.SSS"
    yield f"  axisFormat {shape}"
    for story in report.targets:
        yield f"  section {_name(story.target)}"
        for share in story.shares:
            if share.percent:
                what = "stable" if share.stable else f"{share.percent} %"
                state = "done" if share.stable else "active"
                yield f"  {what} :{state}, {_iso(share.since)}, {_iso(share.until)}"
        if story.result not in ("promoted", "begun"):
            crit = "crit, " if story.result == "failed" else ""
            yield f"  {_name(story.result)} :{crit}milestone, {_iso(story.ended or report.until)}, 0d"
    yield "```"


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]


def _mark(result: str) -> str:
    return _MARKS.get(result, "⚠️")


def _name(text: str) -> str:
    """For Mermaid, which has no way to escape: letters, figures, and what joins them."""
    return re.sub(r"[^\w/. -]", "_", clean(text), flags=re.ASCII)


def _text(text: str) -> str:
    """As it is, in one line: neither Markdown nor HTML nor a link (CommonMark 0.31, 2.4)."""
    line = " ".join(clean(text).split())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST - 1]}…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]#!|~:@$]|(?<=www)\.)", r"\\\1", line)

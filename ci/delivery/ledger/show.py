"""What people see of the ledger: promotions, the timeline of one, the four figures, what verifying found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from ci.delivery.findings import Verdict
from ci.delivery.ledger.entry import Entry
from ci.delivery.ledger.history import Figures, Promotion
from ci.delivery.ledger.opening import Verified
from ci.delivery.ledger.who import person
from ci.delivery.results import headline
from ci.layout import Column, Line, Page, Table, page, words

__all__ = ["figures_page", "history_page", "timeline_page", "verified_page"]

_LOOK = {
    "promoted": "green", "restored": "green", "failed": "red", "rolled back": "yellow", "aborted": "yellow",
    "stopped": "yellow", "held": "yellow", "interrupted": "yellow", "partly": "yellow", "begun": "yellow",
    "damaged": "red",
}  # fmt: skip
_UNITS = ((604_800, "weeks"), (86_400, "days"), (3_600, "h"), (60, "min"), (1, "s"))


def history_page(found: Sequence[Promotion]) -> Page:
    """A row a promotion, the newest first."""
    if not found:
        return page("no promotion in that time")
    table = Table(
        "promotion",
        "how it went",
        Column(name="release", rank=1, below=True),
        Column(name="by", rank=2, below=True),
        Column(name="took", rank=3, right=True),
    )
    for one in found:
        ends = [went.ended for went in one.environments]
        last = max((end for end in ends if end), default=None)
        took = span((last - one.began).total_seconds()) if last and all(ends) else "-"
        how = words(
            *(
                piece
                for number, went in enumerate(one.environments)
                for piece in (
                    "\n" if number else "",
                    f"{went.environment} ",
                    (went.result, _LOOK.get(went.result, "")),
                    _where_not(went.targets, went.result),
                )
            )
        )
        table.add(one.promotion, how, one.release, person(one.by), took)
    return page(table, "", "va history PROMOTION shows the timeline of one")


def _where_not(targets: Mapping[str, str], result: str) -> str:
    """Which targets went otherwise than the whole."""
    other = [f"{name.rpartition('/')[2]} {how}" for name, how in targets.items() if how != result]
    return f" ({', '.join(other)})" if other else ""


def timeline_page(name: str, entries: Iterable[tuple[str, Entry]]) -> Page:
    """Everything of one promotion in the order of time, with what decided."""
    table = Table(
        "when (UTC)",
        Column(name="entry", rank=4),
        "where",
        "what",
        Column(name="by", rank=3, below=True),
        Column(name="why", rank=1, below=True, prose=True),
        Column(name="numbers", rank=2, below=True, prose=True),
    )
    before: datetime | None = None
    for environment, entry in entries:
        when = entry.when.astimezone(UTC)
        same_day = before is not None and before.date() == when.date()
        before = when
        style = {"failed": "red", "inconclusive": "yellow", "damaged": "red"}.get(entry.result, "")
        numbers = [headline(one) for one in entry.findings if one.verdict is not Verdict.PASS]
        table.add(
            when.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S"),
            f"{environment} {entry.sequence}",
            entry.target or environment,
            (entry.words, style),
            person(entry.by),
            entry.reason,
            "\n".join(numbers),
        )
    return page(words((name, "bold")), table)


def figures_page(found: Sequence[Figures]) -> Page:
    """DORA's four, a row an environment."""
    table = Table(
        "environment",
        "deployments",
        Column(name="lead time", right=True),
        "change failure rate",
        Column(name="time to restore", right=True),
    )
    for one in found:
        rate = (
            f"{one.failure_rate:.0%} ({one.failed} of {one.ended})" if one.failure_rate is not None else "-"
        )
        table.add(
            one.environment,
            f"{one.deployments} ({one.per_week:.1f} a week)",
            span(one.lead_time),
            rate,
            span(one.time_to_restore),
        )
    times = f"{found[0].since:%Y-%m-%d} to {found[0].until:%Y-%m-%d}; " if found else ""
    return page(table, "", words((f"{times}times are medians; docs/ledger.md says what is counted", "dim")))


def verified_page(found: Sequence[Verified]) -> Page:
    """Each ledger, its last entry's hash to compare with one that was noted elsewhere, and what is wrong."""
    lines: list[Line] = []
    for one in found:
        if one.problems:
            lines.append(words(("✗ ", "bold red"), (one.environment, "bold red"), f": {one.where}"))
            lines += [words((f"    {problem}", "red")) for problem in one.problems]
        else:
            what = f"{one.entries} entries" if one.entries else "nothing in it yet"
            lines.append(words(("✓ ", "green"), (one.environment, "bold"), f": {what}, {one.where}"))
            if one.last:
                lines.append(words((f"    the last one's hash: {one.last}", "dim")))
        lines += [words((f"    {note}", "yellow")) for note in one.lost]
    return page(*lines)


def span(seconds: float | None) -> str:
    """A time in the unit that suits it: `3.2 h`; a dash when there is none."""
    if seconds is None:
        return "-"
    size, unit = next((each for each in _UNITS if seconds >= 2 * each[0]), _UNITS[-1])
    return (
        f"{seconds / size:.0f} {unit}"
        if seconds >= 10 * size or size == 1
        else f"{seconds / size:.1f} {unit}"
    )

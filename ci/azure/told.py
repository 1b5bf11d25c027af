"""A plan, or a drift, for people who were not there: Markdown for a pull request, an issue, a run's summary.

First what comes of it, then how much of it where; each change is behind a fold, as a diff with its colours.
https://docs.github.com/get-started/writing-on-github
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from ci.azure.deploy import Change
from ci.layout import clean

__all__ = ["as_markdown"]

_SIGNS = {"create": "+", "modify": "!", "delete": "-", "foreign": "?"}
_MOST = 200
"""Lines of single changes: whoever wants more reads the artifact."""


def as_markdown(environment: str, changes: Sequence[Change], *, drift: bool = False) -> str:
    """The headline, a row for each area of a region that changes, and every change."""
    shown = [one for one in changes if one.action in _SIGNS]
    ours = [one for one in shown if one.action != "foreign"]
    lines = [_headline(environment, ours, drift=drift), ""]
    if ours:
        lines += [*_table(ours), "", *_each(shown)]
    return "\n".join(lines)


def _headline(environment: str, ours: Sequence[Change], *, drift: bool) -> str:
    count = Counter(one.action for one in ours)
    counted = f"{count['create']} to create, {count['modify']} to change, {count['delete']} to delete"
    if drift:
        those = f"{len(ours)} resources are not as they were" if ours[1:] else "1 resource is not as it was"
        said = f"{those} last applied" if ours else "as it was last applied"
    else:
        said = counted if ours else "no changes: what is there is what is declared"
    mark = "✅" if not ours else "❌" if drift or count["delete"] else "📝"
    return f"### {mark} {environment}: {said}"


def _table(ours: Sequence[Change]) -> Iterator[str]:
    yield "| region | area | create | change | delete |"
    yield "|---|---|--:|--:|--:|"
    for (region, area), count in _by_place(ours).items():
        numbers = (count[action] or "" for action in ("create", "modify", "delete"))
        yield f"| {region} | {area} | {' | '.join(map(str, numbers))} |"


def _by_place(changes: Sequence[Change]) -> dict[tuple[str, str], Counter[str]]:
    found: dict[tuple[str, str], Counter[str]] = {}
    for one in changes:
        found.setdefault((one.region, one.module), Counter())[one.action] += 1
    return found


def _each(changes: Sequence[Change]) -> Iterator[str]:
    lines = list(_lines(changes))
    text = "\n".join(lines[:_MOST])
    fence = "`" * max(3, *(len(one) + 1 for one in re.findall(r"`+", text)), 3)
    yield "<details><summary>Each change</summary>"
    yield ""
    yield f"{fence}diff"
    yield text
    yield fence
    if len(lines) > _MOST:
        yield f"and {len(lines) - _MOST} lines more"
    yield ""
    yield "</details>"
    yield ""


def _lines(changes: Sequence[Change]) -> Iterator[str]:
    place = None
    for one in changes:
        if place != (place := (one.region, one.module)):
            yield f"# {one.region} / {one.module}"
        note = " (not ours: left alone)" if one.action == "foreign" else ""
        yield f"{_SIGNS[one.action]} {one.type} {_line(one.name)}{note}"
        for delta in one.delta:
            yield f"{_SIGNS[one.action]}     {_line(delta.path)}: {_line(delta.said)}"


def _line(text: str) -> str:
    return " ".join(clean(text).split())

"""What a person sees of a promotion while it runs, and of the table that decides it."""

from __future__ import annotations

from collections.abc import Sequence

from ci.delivery.bake import Observed
from ci.delivery.findings import Finding
from ci.delivery.ledger import Entry
from ci.delivery.load import Load
from ci.delivery.promotion.plan import Plan, PlannedStep
from ci.delivery.promotion.states import STATES
from ci.delivery.results import milliseconds, number
from ci.layout import Column, Line, Page, Table, page, words

__all__ = ["entry_line", "look_line", "paused_line", "plan_page", "state_table"]


def look_line(observed: Observed, findings: Sequence[Finding], running: Load | None) -> str:
    """`E 1.2/180 | err 3/96 vs 0/310 | safe 14/10 | p95 43 ms | 412 req 0 lost`: narrow screens exist."""
    parts = []
    errors = next((finding for finding in findings if finding.metric == "errors"), None)
    if errors is None or errors.tally is None or not observed.window.current:
        parts.append(f"no data: {observed.window.hole or 'not yet'}")
    else:
        tally = errors.tally
        parts.append(f"err {tally.canary_bad}/{tally.canary} vs {tally.stable_bad}/{tally.stable}")
    if errors is not None and errors.log_harm is not None and errors.log_fail_at is not None:
        parts.insert(0, f"E {number(errors.log_harm)}/{number(errors.log_fail_at)}")
        if errors.log_safe is not None and errors.log_pass_at is not None:
            parts.append(f"safe {number(errors.log_safe)}/{number(errors.log_pass_at)}")
    parts.append(f"p95 {milliseconds(observed.window.quantile('canary', 0.95))}")
    if running:
        parts.append(f"{running.counts.sent} req {running.counts.lost} lost")
    return " | ".join(parts)


def entry_line(entry: Entry) -> Line:
    """An entry of the ledger in a line: `20:15:12  prod/eastus  step 25 %: passed  errors pass, E of …`."""
    style = {
        "failed": "red",
        "error": "red",
        "inconclusive": "yellow",
        "passed": "green",
        "promoted": "green",
    }
    where = entry.target or "all of it"
    line = words(f"{entry.when:%H:%M:%S}  {where}  ", (entry.words, style.get(entry.result, "")))
    return words(line, (f"  {entry.reason}", "dim")) if entry.reason else line


def paused_line(place: str, paused: str) -> str:
    """Who has a place wait, since when, why, and what ends it: the one line that a log gets of it."""
    return f'{place}: {paused}; va resume {place} --reason "…" goes on'


def plan_page(plan: Plan) -> Page:
    """What would be done on each target, and below it what stands in the way, with the next command."""
    table = Table(
        "target",
        Column(name="wave", rank=4, right=True),
        "what",
        Column(name="runs now", rank=1, below=True),
        Column(name="steps", rank=2, below=True, prose=True),
        Column(name="expected", rank=3, right=True),
    )
    for one in plan.targets:
        steps = ", ".join(_planned_step(step) for step in one.steps)
        table.add(one.target, str(one.wave), one.change.value, one.runs or "-", steps, _duration(one.seconds))
    told: list[Line] = []
    for one in plan.targets:
        told += [words((f"{one.target}: {one.reason}", "yellow"))] if one.reason else []
        told += [words((f"{one.target}: {change}", "dim")) for change in one.changes]
    for stands in plan.refusals:
        told.append(words((f"refused ({stands.code}) {stands.place}: {stands.reason}", "red")))
        told.append(words(("  next: ", "bold"), stands.next_command))
    return page(
        table, *told, f"{plan.release}: {len(plan.targets)} targets, {_duration(plan.seconds)} expected"
    )


def _planned_step(step: PlannedStep) -> str:
    needs = f"{step.sessions} sessions of the canary"
    if step.seconds is None:
        return f"{step.weight} %: too little traffic for {needs} before the deadline"
    return f"{step.weight} %: {_duration(step.seconds)} for {needs}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "no end in sight"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def state_table() -> str:
    """The table of states as Markdown, as docs/promotion.md has it."""
    rows = [f"| {number} | {one.name} | {one.when} | {one.then} |" for number, one in enumerate(STATES, 1)]
    return "\n".join(["| | state | when | then |", "|---|---|---|---|", *rows])

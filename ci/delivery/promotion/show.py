"""What a person sees of a promotion while it runs, and of the table that decides it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC

from ci.delivery.bake import Observed
from ci.delivery.findings import Finding
from ci.delivery.ledger import Entry
from ci.delivery.load import Load
from ci.delivery.promotion.plan import Plan, PlannedEnvironment, PlannedStep, PlannedTarget
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
    at = f"{entry.when.astimezone(UTC):%H:%M:%S}"
    # A line break of theirs would make a line that looks like one of ours.
    where, said, reason = (
        " ".join(text.split()) for text in (entry.target or "all of it", entry.words, entry.reason)
    )
    line = words(f"{at}  {where}  ", (said, style.get(entry.result, "")))
    return words(line, (f"  {reason}", "dim")) if reason else line


def paused_line(place: str, paused: str) -> str:
    """Who has a place wait, since when, why, and what ends it: the one line that a log gets of it."""
    return f'{place}: {paused}; va resume {place} --reason "…" goes on'


def plan_page(plan: Plan, diff: bool = False) -> Page:
    """What would be done on each target, by which rules, and what stands in the way, with the next command.

    With `diff` also each line that the rendered manifests differ in.
    """
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
    told += [words((", ".join(where), "bold"), f": {what}") for what, where in _changes(plan).items()]
    told += [words((each.name, "bold"), f": {_rules(each)}") for each in plan.environments]
    told += _diffs(plan) if diff else []
    for stands in plan.refusals:
        told.append(words((f"refused ({stands.code}) {stands.place}: {stands.reason}", "red")))
        told += [words("  only there: the others go on")] if stands.alone else []
        told.append(words(("  next: ", "bold"), stands.next_command))
    return page(
        table, *told, f"{plan.release}: {len(plan.targets)} targets, {_duration(plan.seconds)} expected"
    )


def _changes(plan: Plan) -> dict[str, list[str]]:
    """What changes, each once, and on which targets."""
    found: dict[str, list[str]] = {}
    for one in plan.targets:
        replaced = [
            f"{name} {_short(one.images_now.get(name, ''))} -> {_short(digest)}"
            for name, digest in one.images.items()
            if one.images_now.get(name) != digest
        ]
        pods = [
            f"{name} {had} -> {pods}"
            if (had := one.replicas_now.get(name, pods)) != pods
            else f"{name} {pods}"
            for name, pods in one.replicas.items()
        ]
        for what in (
            f"images: {', '.join(replaced)}" if replaced else "",
            f"replicas: {', '.join(pods)}" if pods else "",
            *(each for each in one.changes if not each.startswith(("images.", "release: "))),
            _objects(one),
        ):
            if what:
                found.setdefault(what, []).append(one.target)
    return found


def _objects(target: PlannedTarget) -> str:
    """How many objects the chart renders otherwise, and which are new or go."""
    became: dict[str, list[str]] = {}
    for one in target.manifests:
        became.setdefault(one.became, []).append(one.thing)
    told = [
        f"{len(things)} {how}" + (f" ({', '.join(things)})" if how != "changed" and target.runs else "")
        for how, things in became.items()
    ]
    return f"manifests: {', '.join(told)}; --diff shows them" if told else ""


def _rules(environment: PlannedEnvironment) -> str:
    """How it goes there: waves, gates, and who and when is asked for."""
    rules = environment.rules
    gates = sorted(
        {path.split(".")[1] for path in rules if path.count(".") == 2 and path.startswith("gates.")}
    )
    steps = any(path.startswith("canary.steps") for path in rules)
    told = [f"waves {rules.get('waves', '-')}"]
    if " then " in rules.get("waves", ""):
        told.append(f"{_seconds(rules, 'wave_bake')} between them")
    if steps:
        told.append(
            f"gates on {', '.join(gates)}, each step within {_seconds(rules, 'gates.deadline')}, "
            f"else {rules.get('gates.on_inconclusive', '-')}"
        )
    told += [f"watched {_seconds(rules, 'watch')} after it"] if rules.get("watch", "0") != "0" else []
    if "soak.seconds" in rules:
        told.append(f"soak {_seconds(rules, 'soak.seconds')}")
    if "approvals.count" in rules:
        names = f" ({', '.join(environment.approved)})" if environment.approved else ""
        told.append(f"{len(environment.approved)} of {rules['approvals.count']} approvals{names}")
    told += [f"only {rules['hours']}"] if "hours" in rules else []
    told += [
        f"frozen {path.removeprefix('freezes.')}: {why}"
        for path, why in rules.items()
        if path.startswith("freezes.")
    ]
    return "; ".join(told)


def _seconds(rules: Mapping[str, str], path: str) -> str:
    try:
        return _duration(float(rules.get(path, "0")))
    except ValueError:
        return rules[path]


def _diffs(plan: Plan) -> Iterator[Line]:
    styles = {"+": "green", "-": "red", "@": "cyan"}
    for target in plan.targets:
        for one in target.manifests:
            yield words((f"{target.target} {one.thing}: {one.became}", "bold"))
            if not one.diff:
                yield words("  in a secret, which is not shown")
            for line in one.diff.splitlines():
                yield words((f"  {line}", styles.get(line[:1], "")))


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12] or "nothing"


def _planned_step(step: PlannedStep) -> str:
    needs = f"{step.sessions} sessions of the canary"
    if step.seconds is not None:
        return f"{step.weight} %: {_duration(step.seconds)} for {needs}"
    takes = "" if step.needs is None else f", which take {_duration(step.needs)}"
    return f"{step.weight} %: too little traffic for {needs} before the deadline{takes}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "no end in sight"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def state_table() -> str:
    """The table of states as Markdown, as docs/promotion.md has it."""
    rows = [f"| {number} | {one.name} | {one.when} | {one.then} |" for number, one in enumerate(STATES, 1)]
    return "\n".join(["| | state | when | then |", "|---|---|---|---|", *rows])

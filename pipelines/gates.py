"""What can be asked of gates without a promotion: which there are, whether their metrics are there, what one
said and why, and what others would have said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from ci.concurrency import together
from ci.delivery.findings import Finding, Verdict
from ci.delivery.ledger import Action, Kind, meant, read_all
from ci.delivery.metrics import DURATIONS, SESSIONS, WORKING_SET, Prometheus
from ci.delivery.promotion.measurements import Measurements
from ci.delivery.queries import names_of
from ci.delivery.report import measured
from ci.delivery.results import number
from ci.delivery.tracks import TRACKS
from ci.environments import (
    AnyGate,
    Environment,
    ErrorGate,
    ExposureGate,
    LatencyGate,
    RestartGate,
    SaturationGate,
    Target,
    bare,
    filled,
    queries,
    read_environment,
)
from ci.errors import BadInput, SystemUnavailable

if TYPE_CHECKING:
    from ci.delivery.promotion.replay import Replayed

__all__ = [
    "Checked",
    "Explained",
    "Listed",
    "check_gates",
    "explain",
    "gates_of",
    "lint_gates",
    "metrics_in",
    "problems",
    "replay",
    "sentence",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Listed(_Record):
    """A gate of an environment."""

    name: str
    kind: str
    source: str
    unit: str
    fails: str
    """When, in words."""
    passes: str
    fails_at: float | None
    """Its 1/alpha'; None where it has no E."""
    dry_run: bool
    queries: Mapping[str, str]


class Checked(_Record):
    """Whether a target's Prometheus has what a gate goes by."""

    target: str
    gate: str
    metric: str
    """Its name, or the query."""
    series: int
    problem: str
    """Empty when nothing is wrong."""
    hint: str = ""


class Explained(_Record):
    """What one gate said at the end of a bake."""

    target: str
    weight: int | None
    result: str
    finding: Finding
    sentence: str


def gates_of(environment: Environment) -> tuple[Listed, ...]:
    """Every gate that the environment asks, in the order in which it does. Pure."""
    from ci.delivery.asking import levels_of  # whoever reads what was said needs none of the arithmetic

    levels = levels_of(environment)
    return tuple(
        Listed(
            name=name,
            kind=gate.kind,
            source=f"{gate.source}: {metric}" if (metric := _metric(gate)) else gate.source,
            unit=gate.unit,
            fails=fails,
            passes=passes,
            fails_at=1 / levels[name].alpha if name in levels else None,
            dry_run=gate.dry_run,
            queries=queries(gate),
        )
        for name, gate in environment.gates.named.items()
        for fails, passes in (_words(gate),)
    )


def _words(gate: AnyGate) -> tuple[str, str]:
    """When it fails, and when it passes."""
    watched = "watched for the whole bake"
    match gate:
        case ErrorGate():
            safe = f"{_times(gate.harm)}, or {gate.tolerated:.2%}"
            return (
                f"over {_times(gate.margin)}, and over {gate.at_least:.2%}",
                f"watched; the last step proven under {safe}",
            )
        case LatencyGate():
            than = "stable's own quantile" if gate.threshold == "baseline" else f"{gate.threshold:g} s"
            over = (
                f"over {_times(gate.margin)}, and over {gate.share:.1%}"
                if gate.against == "stable"
                else f"over {gate.share * (1 + gate.margin):.1%}"
            )
            return (
                f"slower than {than}: {over}",
                f"watched; the last step proven under {gate.share * (1 + gate.harm):.1%}",
            )
        case RestartGate():
            known = gate.per_pod_hour
            return f"over {f'{known:g} a pod-hour' if known else _times(gate.margin)}", watched
        case SaturationGate():
            of = f"{gate.limit:.0%} of the memory limit" if gate.source == "memory" else f"{gate.limit:g}"
            return f"{gate.samples} looks in a row over {of} {gate.unit}".rstrip(), watched
        case ExposureGate():
            return (
                "the canary answers none of its sessions",
                f"not shown to be {1 + gate.margin:g} times off its weight's odds",
            )


def _times(margin: float) -> str:
    return f"{1 + margin:g} times stable's" if margin else "stable's"


def _metric(gate: AnyGate) -> str:
    """What it goes by, of those that we know by name; empty where it has queries, or asks the cluster."""
    known = {"sessions": SESSIONS, "memory": WORKING_SET}
    return DURATIONS if isinstance(gate, LatencyGate) else known.get(gate.source, "")


async def check_gates(environment: Environment) -> tuple[Checked, ...]:
    """Ask each target's Prometheus, live, whether it has a series of what each gate goes by."""
    return await _on_each(environment, _seen)


async def lint_gates(environment: Environment) -> tuple[Checked, ...]:
    """The queries of the gates, asked live: what has the wrong shape, or names a metric that nobody exports.

    An unknown placeholder, or a gate that lacks something, is found when the file is read (BadInput).
    """
    return await _on_each(environment, _query_problems)


_Look = Callable[[Prometheus, Target, str, AnyGate], Awaitable[list[Checked]]]


async def _on_each(environment: Environment, look: _Look) -> tuple[Checked, ...]:
    async def one(target: Target) -> list[Checked]:
        async with Prometheus(target.metrics) as prometheus:
            found = []
            for name, gate in environment.gates.named.items():
                found += await look(prometheus, target, name, gate)
            return found

    asked = await together(one(target) for target in environment.targets.values())
    return tuple(each for found in asked for each in found)


async def _seen(prometheus: Prometheus, target: Target, name: str, gate: AnyGate) -> list[Checked]:
    if gate.source == "prometheus":
        return [
            Checked(target=target.name, gate=name, metric=query, series=series, problem=problem)
            for key, query in queries(gate).items()
            for series, problem in (await _counted(prometheus, filled(query, names_of(target, "stable"))),)
            if key != "bad" or problem != _NOBODY
        ]
    metric = _metric(gate)
    if not metric:
        return []
    series, problem = await _counted(prometheus, f'{metric}{{namespace="{target.namespace}"}}')
    return [Checked(target=target.name, gate=name, metric=metric, series=series, problem=problem)]


_NOBODY = "nobody exports it there"


async def _counted(prometheus: Prometheus, query: str) -> tuple[int, str]:
    """How many series answer, and what is wrong."""
    try:
        counted = await prometheus.instant(f"count({query})")
    except SystemUnavailable as error:
        return 0, error.message
    return (int(counted[0].value), "") if counted else (0, _NOBODY)


async def _query_problems(prometheus: Prometheus, target: Target, name: str, gate: AnyGate) -> list[Checked]:
    found = []
    for key, query in queries(gate).items():
        for track in ("canary",) if isinstance(gate, SaturationGate) else TRACKS:
            said = filled(query, names_of(target, track))
            series, problem, hint = await _shape(prometheus, said)
            found.append(
                Checked(
                    target=target.name, gate=name, metric=f"{key}: {said}", series=series, problem=problem,
                    hint=hint,
                )
            )  # fmt: skip
    return list({one.metric: one for one in found}.values())


async def _shape(prometheus: Prometheus, query: str) -> tuple[int, str, str]:
    try:
        kind, series = await prometheus.shape(query)
        if kind != "vector":
            hint = "without the [range] at its end" if kind == "matrix" else "a metric with its labels"
            return 0, f"its answer is a {kind}: a vector is expected", hint
        known = {one for one in metrics_in(query) if await prometheus.instant(f"count({one})")}
    except SystemUnavailable as error:
        return 0, error.message, "try it in Prometheus: what it says of it is above"
    if unknown := sorted(metrics_in(query) - known):
        return len(series), f"nobody exports {', '.join(unknown)}", "is its name right? Is it scraped?"
    return len(series), "", ""


def metrics_in(query: str) -> frozenset[str]:
    """The names of metrics in a PromQL expression. Pure."""
    text = bare(query)
    named = set(re.findall(r'__name__\s*=\s*"([^"]*)"', query))
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", text)
    grouped = r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
    text = re.sub(grouped, " ", text)
    words = re.findall(r"(?<![\w.:])([a-zA-Z_:][\w:]*)(?!\w)\s*(\()?", text)
    return frozenset(named | {word for word, call in words if not call and word.lower() not in _WORDS})


_WORDS = frozenset(
    (
        "and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset",
        "bool", "atan2", "inf", "nan", "start", "end",
    )
)  # fmt: skip
"""Of PromQL's own, that no parenthesis follows."""


async def explain(estate: str, name: str, target: str | None = None) -> tuple[Explained, ...]:
    """What each gate said at the end of each bake of that promotion, by the ledgers; BadInput: of none."""
    ledgers = await read_all(estate)
    wanted = meant(name, ledgers)
    found = tuple(
        Explained(
            target=entry.target, weight=entry.weight, result=entry.result, finding=finding,
            sentence=sentence(finding),
        )
        for entries in ledgers.values()
        for entry in entries
        if entry.promotion == wanted and entry.kind is Kind.OUTCOME and entry.action is Action.STEP
        and target in (None, entry.target)
        for finding in entry.findings
    )  # fmt: skip
    if not found:
        where = f" on {target}" if target else ""
        raise BadInput(
            f"no gate was asked in {wanted}{where}", hint=f"va history {wanted} says what was done"
        )
    return found


def sentence(finding: Finding) -> str:
    """One that somebody understands who knows nothing of statistics. Pure."""
    counted = measured(finding)
    if finding.verdict is Verdict.FAIL and finding.log_harm is not None:
        return f"{counted}: were it no worse, that would be seen in {_one_of(finding.log_harm)}"
    if finding.verdict is Verdict.PASS and finding.log_safe is not None:
        return f"{counted}: were it harmful, it would look as good in {_one_of(finding.log_safe)}"
    if finding.verdict is Verdict.PASS:
        return f"{counted}: nothing speaks against it"
    if finding.reason == "no data":
        return f"{finding.metric}: nothing was measured, which is never good news"
    return f"{counted}: too little to say that it is well, or that it is not"


def _one_of(logarithm: float) -> str:
    return f"one of {number(logarithm)} promotions at most" if logarithm > math.log(2) else "most promotions"


async def replay(
    estate: str, name: str, where: str, *, alpha: float | None = None, beta: float | None = None,
    floor: float | None = None,
) -> tuple[Replayed, ...]:  # fmt: skip
    """The bakes of that promotion on `where` (`prod/eastus`) by the gates of now, or by changed ones.

    BadInput when this machine kept no look of it.
    """
    wanted = meant(name, await read_all(estate))
    environment_name, _, region = where.partition("/")
    environment = read_environment(estate, environment_name)
    kept = Measurements(estate, wanted, environment.target(region))
    looks = kept.read()
    if not looks:
        raise BadInput(
            f"this machine has kept no look of {wanted} on {where}",
            hint="what each look saw is kept where the promotion ran",
        )
    from ci.delivery.promotion.replay import replayed

    return replayed(_changed(environment, alpha=alpha, beta=beta, floor=floor), looks)


def _changed(
    environment: Environment, *, alpha: float | None, beta: float | None, floor: float | None
) -> Environment:
    limits = environment.gates
    errors = limits.errors if floor is None else limits.errors.model_copy(update={"floor": floor})
    update = {
        "alpha": limits.alpha if alpha is None else alpha,
        "beta": limits.beta if beta is None else beta,
        "errors": errors,
    }
    return environment.model_copy(update={"gates": limits.model_copy(update=update)})


def problems(checked: tuple[Checked, ...]) -> str:
    """What is wrong, in a line; empty when nothing is."""
    told = (f"{one.target}: {one.gate}: {one.problem}" for one in checked if one.problem)
    return "; ".join(dict.fromkeys(told))  # both tracks may have the same

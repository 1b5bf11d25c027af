"""What can be asked of gates without a promotion: which there are, whether their metrics are there, what one
said and why, and what others would have said.
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from ci.concurrency import together
from ci.delivery.bake import levels_of
from ci.delivery.findings import Finding, Verdict
from ci.delivery.ledger import Action, Kind, meant, read_all
from ci.delivery.metrics import DURATIONS, SESSIONS, WORKING_SET, Prometheus
from ci.delivery.promotion.measurements import Measurements
from ci.delivery.promotion.replay import Replayed, replayed
from ci.delivery.report import measured
from ci.delivery.results import number
from ci.environments import Environment, read_environment
from ci.errors import BadInput, SystemUnavailable

__all__ = [
    "Checked",
    "Explained",
    "Listed",
    "check_gates",
    "explain",
    "gates_of",
    "problems",
    "replay",
    "sentence",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Listed(_Record):
    """A gate of an environment."""

    name: str
    source: str
    kind: str
    fails: str
    """When, in words."""
    passes: str
    fails_at: float | None
    """Its 1/alpha'; None where it has no E."""


class Checked(_Record):
    """Whether a target's Prometheus has what a gate goes by."""

    target: str
    gate: str
    metric: str
    series: int
    problem: str
    """Empty when nothing is wrong."""


class Explained(_Record):
    """What one gate said at the end of a bake."""

    target: str
    weight: int | None
    result: str
    finding: Finding
    sentence: str


def gates_of(environment: Environment) -> tuple[Listed, ...]:
    """Every gate that the environment asks, in the order in which it does. Pure."""
    limits = environment.gates
    errors, latency, restarts = limits.errors, limits.latency, limits.restarts
    fails_at, splits_at = (1 / levels.alpha for levels in levels_of(environment))
    floor = errors.tolerated if errors.floor is None else errors.floor
    safe = f"{_times(errors.harm)}, or {errors.tolerated:.2%}"
    found = [
        Listed(
            name="errors", source=f"Prometheus: {SESSIONS}", kind="ratio", fails_at=fails_at,
            fails=f"over {_times(errors.margin)}, and over {floor:.2%}",
            passes=f"watched; the last step proven under {safe}",
        )
    ]  # fmt: skip
    if latency:
        than = "stable's own quantile" if latency.threshold == "baseline" else f"{latency.threshold:g} s"
        over = (
            f"over {_times(latency.margin)}, and over {latency.share:.1%}"
            if latency.against == "stable"
            else f"over {latency.share * (1 + latency.margin):.1%}"
        )
        found.append(
            Listed(
                name="latency", source=f"Prometheus: {DURATIONS}", kind="share over a threshold",
                fails=f"slower than {than}: {over}", fails_at=fails_at,
                passes=f"watched; the last step proven under {latency.share * (1 + latency.harm):.1%}",
            )
        )  # fmt: skip
    if restarts:
        known = restarts.per_pod_hour
        rate = f"{known:g} a pod-hour" if known else _times(restarts.margin)
        found.append(
            Listed(
                name="restarts", source="the cluster: pods", kind="events by exposure",
                fails=f"over {rate}", passes="watched for the whole bake", fails_at=fails_at,
            )
        )  # fmt: skip
    if limits.saturation:
        one = limits.saturation
        found.append(
            Listed(
                name="saturation", source=f"Prometheus: {WORKING_SET}", kind="limit", fails_at=None,
                fails=f"{one.samples} looks in a row over {one.limit:.0%} of the memory limit",
                passes="watched for the whole bake",
            )
        )  # fmt: skip
    if limits.exposure:
        found.append(
            Listed(
                name="exposure", source=f"Prometheus: {SESSIONS}", kind="ratio", fails_at=splits_at,
                fails="the canary answers none of its sessions",
                passes=f"not shown to be {1 + limits.exposure.margin:g} times off its weight's odds",
            )
        )  # fmt: skip
    return tuple(found)


def _times(margin: float) -> str:
    return f"{1 + margin:g} times stable's" if margin else "stable's"


async def check_gates(environment: Environment) -> tuple[Checked, ...]:
    """Ask each target's Prometheus, live, whether it has a series of what each gate goes by."""
    wanted = {
        listed.name: listed.source.partition(": ")[2]
        for listed in gates_of(environment)
        if listed.source.startswith("Prometheus")
    }

    async def one(name: str) -> list[Checked]:
        target = environment.targets[name]
        async with Prometheus(target.metrics) as prometheus:
            found = []
            for gate, metric in wanted.items():
                series, problem = 0, ""
                try:
                    counted = await prometheus.instant(f'count({metric}{{namespace="{target.namespace}"}})')
                    series = int(counted[0].value) if counted else 0
                    problem = "" if series else "nobody exports it there"
                except SystemUnavailable as error:
                    problem = error.message
                found.append(
                    Checked(target=target.name, gate=gate, metric=metric, series=series, problem=problem)
                )
            return found

    return tuple(each for found in await together(map(one, environment.targets)) for each in found)


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
    return "; ".join(f"{one.target}: {one.gate}: {one.problem}" for one in checked if one.problem)

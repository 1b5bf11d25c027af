"""Baking one canary step: look at the numbers again and again until the gates decide or time is up."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ci.delivery import gates, metrics
from ci.delivery.asking import Gathered, begin, compared, gather, place_of, told, warmed_up, warmup_of
from ci.delivery.cluster import Cluster, Pod
from ci.delivery.findings import Carried, Finding, Verdict
from ci.delivery.metrics import NoData, Prometheus, Reading, Window
from ci.delivery.queries import Counts, Growth, largest, names_of
from ci.delivery.queries import advance as advance_growth
from ci.delivery.queries import begin as begin_growth
from ci.delivery.queries import read as read_counts
from ci.delivery.results import StepResult, headline
from ci.delivery.tracks import TRACKS
from ci.environments import CanaryStep, Environment, Gates, SaturationGate, Target, filled, queries
from ci.errors import SystemUnavailable

__all__ = ["Observed", "bake", "judge"]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """All that one look knows. `pods` is None when the cluster did not answer."""

    window: Window
    gathered: Gathered
    pods: tuple[Pod, ...] | None
    grown: Mapping[str, Growth] = field(default_factory=dict)
    """By gate, what its queries count."""
    seconds: float
    """Since the step began."""


async def bake(
    environment: Environment,
    step: CanaryStep,
    *,
    target: Target,
    cluster: Cluster,
    prometheus: Prometheus,
    carried: Mapping[str, Carried],
    show: Callable[[Observed, Sequence[Finding]], None],
    stopped: Callable[[], bool] = lambda: False,
) -> StepResult:
    """Bake one step. The traffic has to be split by its weight already.

    Holes in the data, of Prometheus or of the cluster, only cost time: the minimum bake counts from the last
    one. A pod that comes meanwhile is none until it has had the time to be scraped. `show` sees each look.
    `stopped` ends it without a verdict (another region failed).
    """
    limits, namespace = environment.gates, target.namespace
    queried = [
        name for name, gate in limits.named.items() if queries(gate) and not isinstance(gate, SaturationGate)
    ]
    names = {track: names_of(target, track) for track in TRACKS}

    async def counted(before: Mapping[str, Growth]) -> dict[str, Counts | NoData]:
        answers = await asyncio.gather(
            *(
                read_counts(
                    prometheus, limits.named[name], names, before[name].instances if name in before else ()
                )
                for name in queried
            )
        )
        return dict(zip(queried, answers, strict=True))

    started = time.monotonic()
    before = await cluster.pods(namespace)
    since = dict.fromkeys(_ready(before), -math.inf)
    window = metrics.begin(
        await _read(prometheus, namespace, limits, since),
        warmup=warmup_of(limits, step),
        restarted=_restarted(before),
        # It has had no traffic but what came while the gateway followed.
        cold=[pod.name for pod in before if pod.track == "canary"] if not carried else (),
    )
    grown = {name: begin_growth(one) for name, one in (await counted({})).items()}
    gathered = begin(limits, step, before)
    while True:
        await asyncio.sleep(limits.look)
        pods: tuple[Pod, ...] | None = None
        try:
            pods = await cluster.pods(namespace)
            now = time.monotonic()
            since = {name: since.get(name, now) for name in _ready(pods)}
            reading = await _read(prometheus, namespace, limits, since)
        except SystemUnavailable as error:
            reading = NoData(time=time.time(), reason=error.message)
        window = metrics.advance(window, reading, restarted=_restarted(pods))
        grown = {name: advance_growth(grown[name], one) for name, one in (await counted(grown)).items()}
        values = {
            name: await _value(prometheus, gate, namespace, pods, names["canary"])
            for name, gate in limits.named.items()
            if isinstance(gate, SaturationGate)
        }
        seconds = time.monotonic() - started
        gathered = gather(limits, gathered, window, pods, seconds, grown=grown, values=values)
        observed = Observed(window=window, gathered=gathered, pods=pods, grown=grown, seconds=seconds)
        # It computes, for seconds maybe, and the lease has to be renewed meanwhile.
        findings = await asyncio.to_thread(judge, environment, step, observed, carried)
        verdict = gates.decide(findings)
        show(observed, findings)
        late = observed.seconds >= limits.deadline
        if verdict is not Verdict.INCONCLUSIVE or late or stopped():
            return _result(environment, step, verdict, observed, findings, late=late)


def judge(
    environment: Environment, step: CanaryStep, observed: Observed, carried: Mapping[str, Carried]
) -> tuple[Finding, ...]:
    """Every gate of the environment on what was observed. Pure."""
    window = observed.window
    baked = window.current and window.now - window.clean_since >= step.bake and observed.seconds >= step.bake
    known = told(
        environment.gates, observed.gathered, window, observed.pods, baked=baked, grown=observed.grown
    )
    found = compared(environment, step, observed.gathered, known, carried)
    return (*found, *warmed_up(environment.gates, step, window))


def _result(
    environment: Environment,
    step: CanaryStep,
    verdict: Verdict,
    observed: Observed,
    findings: tuple[Finding, ...],
    *,
    late: bool,
) -> StepResult:
    window, limits = observed.window, environment.gates
    deciding = [finding for finding in findings if finding.verdict is verdict and not finding.dry_run]
    reason = "; ".join(headline(finding) for finding in deciding)
    if verdict is Verdict.INCONCLUSIVE:
        hole = "" if window.current else f" ({window.hole})"
        when = f"no verdict within {limits.deadline:g} s" if late else "stopped before a verdict"
        lacks = _lacks(environment, step, observed, findings) if late else ""
        reason = f"{when}{hole}: {reason}{lacks}"
    return StepResult(
        weight=step.weight,
        verdict=verdict,
        reason=reason,
        seconds=observed.seconds,
        findings=findings,
        exposure=gates.exposure(window.sessions, weight=step.weight, alpha=limits.alpha),
        p95_canary=window.quantile("canary", 0.95),
        p95_stable=window.quantile("stable", 0.95),
    )


def _lacks(
    environment: Environment, step: CanaryStep, observed: Observed, findings: Sequence[Finding]
) -> str:
    """How many more sessions of the canary it takes, and how long at the rate of this step; empty when no
    number would do."""
    errors = next(finding for finding in findings if finding.metric == "errors")
    tolerated, place = environment.gates.errors.tolerated, place_of(environment, step, baked=True)
    more = gates.missing(errors, place=place, tolerated=tolerated)
    rate = observed.gathered.evidence["errors"].canary / max(observed.seconds, 1e-9)
    if not more or not rate:
        return ""
    return (
        f"; {more} more sessions of the canary without an error would do: {more / rate / 60:.0f} min as now"
    )


def _restarted(pods: Iterable[Pod] | None) -> list[str]:
    return [pod.name for pod in pods or () if pod.restarts]


def _ready(pods: Iterable[Pod]) -> list[str]:
    return [pod.name for pod in pods if pod.serves]


async def _read(
    prometheus: Prometheus, namespace: str, limits: Gates, since: Mapping[str, float]
) -> Reading | NoData:
    """`since`: the pods that are ready, and from when on they were seen to be (of the monotonic clock)."""
    if not since:
        return NoData(time=time.time(), reason="no pod is ready")
    due = time.monotonic() - limits.stale
    expected = [name for name, then in since.items() if then <= due]
    return await metrics.read(prometheus, namespace, stale=limits.stale, now=time.time(), expected=expected)


async def _value(
    prometheus: Prometheus,
    gate: SaturationGate,
    namespace: str,
    pods: tuple[Pod, ...] | None,
    names: Mapping[str, str],
) -> float | None:
    """What is held against a limit, of the canary."""
    if gate.query is not None:
        return await largest(prometheus, filled(gate.query, names))
    return await _memory(prometheus, namespace, pods)


async def _memory(prometheus: Prometheus, namespace: str, pods: tuple[Pod, ...] | None) -> float | None:
    limit_of = {pod.name: pod.memory_limit for pod in pods or () if pod.track == "canary" and pod.runs}
    try:
        used = await metrics.memory(prometheus, namespace)
    except SystemUnavailable:
        return None
    if any(name not in used for name in limit_of):
        return None  # the one that is not told of may be the one that is full
    return max((used[name] / limit for name, limit in limit_of.items() if limit), default=None)

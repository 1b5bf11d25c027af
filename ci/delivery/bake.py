"""Baking one canary step: look at the numbers again and again until the gates decide or time is up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ci.delivery import gates, metrics
from ci.delivery.cluster import Cluster, Pod
from ci.delivery.findings import NOTHING_CARRIED, Carried, Finding, Verdict
from ci.delivery.metrics import NoData, Prometheus, Reading, Window
from ci.delivery.results import StepResult, headline
from ci.environments import CanaryStep, Environment, Gates
from ci.errors import SystemUnavailable

__all__ = ["Observed", "bake", "judge"]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """All that one look knows. `pods` is None when the cluster did not answer."""

    window: Window
    threshold: float | None
    """Seconds from which a session is slow; None until stable's histogram was read."""
    pods_before: tuple[Pod, ...]
    pods: tuple[Pod, ...] | None
    memory: Sequence[float | None] = ()
    """Look by look, the largest share of its memory limit that a canary pod used."""
    seconds: float
    """Since the step began."""


async def bake(
    environment: Environment,
    step: CanaryStep,
    *,
    namespace: str,
    cluster: Cluster,
    prometheus: Prometheus,
    carried: Mapping[str, Carried],
    show: Callable[[Observed, Sequence[Finding]], None],
    stopped: Callable[[], bool] = lambda: False,
) -> StepResult:
    """Bake one step. The traffic has to be split by its weight already.

    Holes in the data, of Prometheus or of the cluster, only cost time: the minimum bake counts from the last
    one. `show` sees each look. `stopped` ends it without a verdict (another region failed).
    """
    limits = environment.gates
    started = time.monotonic()
    before = await cluster.pods(namespace)
    window = metrics.begin(await _read(prometheus, namespace, limits, before))
    memory: list[float | None] = []
    threshold: float | None = None
    while True:
        await asyncio.sleep(limits.look)
        pods: tuple[Pod, ...] | None = None
        try:
            pods = await cluster.pods(namespace)
            reading = await _read(prometheus, namespace, limits, pods)
        except SystemUnavailable as error:
            reading = NoData(time=time.time(), reason=error.message)
        window = metrics.advance(window, reading)
        if limits.saturation:
            memory.append(await _memory(prometheus, namespace, pods))
        if threshold is None:
            threshold = _threshold(limits, window)
        observed = Observed(
            window=window,
            threshold=threshold,
            pods_before=before,
            pods=pods,
            memory=memory,
            seconds=time.monotonic() - started,
        )
        findings = judge(environment, step, observed, carried)
        verdict = gates.decide(findings)
        show(observed, findings)
        late = observed.seconds >= limits.deadline
        if verdict is not Verdict.INCONCLUSIVE or late or stopped():
            return _result(step, verdict, observed, findings, limits, late=late)


def judge(
    environment: Environment, step: CanaryStep, observed: Observed, carried: Mapping[str, Carried]
) -> tuple[Finding, ...]:
    """Every gate of the environment on what was observed. Pure."""
    limits, window = environment.gates, observed.window
    asked = [limits.errors, limits.latency, limits.restarts]
    levels = gates.levels(
        alpha=limits.alpha,
        beta=limits.beta,
        metrics=sum(gate is not None for gate in asked),
        regions=len(environment.targets),
    )
    baked = window.current and window.now - window.clean_since >= step.bake and observed.seconds >= step.bake
    found = [
        gates.errors(
            window.sessions,
            margin=limits.errors.margin,
            harm=limits.errors.harm,
            tolerated=limits.errors.tolerated,
            levels=levels,
            baked=baked,
            carried=carried.get("errors", NOTHING_CARRIED),
        )
    ]
    if limits.latency:
        found.append(
            gates.latency(
                window.slow(observed.threshold) if observed.threshold is not None else None,
                share=limits.latency.share,
                margin=limits.latency.margin,
                harm=limits.latency.harm,
                levels=levels,
                baked=baked,
                against_stable=limits.latency.against == "stable",
                carried=carried.get("latency", NOTHING_CARRIED),
            )
        )
    hours = observed.seconds / 3600
    if limits.restarts:
        found.append(
            gates.restarts(
                _restarted(observed, "canary"),
                _restarted(observed, "stable"),
                canary_pod_hours=_count(observed.pods, "canary") * hours,
                stable_pod_hours=_count(observed.pods, "stable") * hours,
                margin=limits.restarts.margin,
                levels=levels,
                baked=baked,
                per_pod_hour=limits.restarts.per_pod_hour,
                horizon_pod_hours=_count(observed.pods, "canary") * limits.deadline / 3600,
                carried=carried.get("restarts", NOTHING_CARRIED),
            )
        )
    killed = [pod.name for pod in observed.pods or () if pod.track == "canary" and pod.out_of_memory]
    if limits.saturation or killed:
        found.append(
            gates.saturation(
                observed.memory,
                limit=limits.saturation.limit if limits.saturation else 1.0,
                samples=limits.saturation.samples if limits.saturation else 1,
                out_of_memory=killed,
                baked=baked,
            )
        )
    return tuple(found)


def _result(
    step: CanaryStep,
    verdict: Verdict,
    observed: Observed,
    findings: tuple[Finding, ...],
    limits: Gates,
    *,
    late: bool,
) -> StepResult:
    window = observed.window
    deciding = [finding for finding in findings if finding.verdict is verdict]
    reason = "; ".join(headline(finding) for finding in deciding)
    if verdict is Verdict.INCONCLUSIVE:
        hole = "" if window.current else f" ({window.hole})"
        when = f"no verdict within {limits.deadline:g} s" if late else "stopped before a verdict"
        reason = f"{when}{hole}: {reason}"
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


async def _read(
    prometheus: Prometheus, namespace: str, limits: Gates, pods: Iterable[Pod]
) -> Reading | NoData:
    ready = [pod.name for pod in pods if pod.ready and pod.runs and pod.app.endswith("api")]
    if not ready:
        return NoData(time=time.time(), reason="no pod is ready")
    return await metrics.read(prometheus, namespace, stale=limits.stale, now=time.time(), expected=ready)


async def _memory(prometheus: Prometheus, namespace: str, pods: tuple[Pod, ...] | None) -> float | None:
    limit_of = {pod.name: pod.memory_limit for pod in pods or () if pod.track == "canary" and pod.runs}
    try:
        used = await metrics.memory(prometheus, namespace)
    except SystemUnavailable:
        return None
    if any(name not in used for name in limit_of):
        return None  # the one that is not told of may be the one that is full
    return max((used[name] / limit for name, limit in limit_of.items() if limit), default=None)


def _threshold(limits: Gates, window: Window) -> float | None:
    if limits.latency is None:
        return None
    return metrics.frozen_threshold(window, limits.latency.threshold, share=limits.latency.share)


def _restarted(observed: Observed, track: str) -> int | None:
    if observed.pods is None:
        return None
    before = {pod.name: pod.restarts for pod in observed.pods_before}
    mine = [(pod.restarts, before.get(pod.name, 0)) for pod in observed.pods if pod.track == track]
    return sum(now - then if now >= then else now for now, then in mine)


def _count(pods: tuple[Pod, ...] | None, track: str) -> int:
    return sum(pod.track == track and pod.runs for pod in pods or ())

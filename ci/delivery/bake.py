"""Baking one canary step: look at the numbers again and again until the gates decide or time is up."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ci.delivery import gates, metrics
from ci.delivery.cluster import Cluster, Pod
from ci.delivery.findings import NOTHING_CARRIED, Carried, Finding, Levels, Tally, Verdict
from ci.delivery.gates import Evidence, Place
from ci.delivery.metrics import NoData, Prometheus, Reading, Window
from ci.delivery.results import StepResult, headline
from ci.environments import CanaryStep, Environment, Gates
from ci.errors import SystemUnavailable

__all__ = ["Gathered", "Observed", "Told", "bake", "begin", "compared", "gather", "judge", "levels_of"]


_SPLITS_PART = 0.05
"""Of alpha, for exposure: a canary that answers nothing is seen within some sessions at any level."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What the looks of one bake have shown so far, of one metric after another."""

    errors: Evidence
    latency: Evidence
    restarts: Evidence
    """By pod-hours, as they passed."""
    pods: tuple[Pod, ...]
    """When the cluster answered last …"""
    seconds: float = 0.0
    """… which was then, since the step began."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """All that one look knows. `pods` is None when the cluster did not answer."""

    window: Window
    threshold: float | None
    """Seconds from which a session is slow; None until stable's histogram was read."""
    gathered: Gathered
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
    one. A pod that comes meanwhile is none until it has had the time to be scraped. `show` sees each look.
    `stopped` ends it without a verdict (another region failed).
    """
    limits = environment.gates
    started = time.monotonic()
    before = await cluster.pods(namespace)
    since = dict.fromkeys(_ready(before), -math.inf)
    window = metrics.begin(await _read(prometheus, namespace, limits, since))
    gathered = begin(limits, step, before)
    memory: list[float | None] = []
    threshold: float | None = None
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
        window = metrics.advance(window, reading)
        if limits.saturation:
            memory = [*memory, await _memory(prometheus, namespace, pods)][-limits.saturation.samples :]
        if threshold is None:
            threshold = _threshold(limits, window)
        seconds = time.monotonic() - started
        gathered = gather(gathered, window, threshold, pods, seconds)
        observed = Observed(
            window=window,
            threshold=threshold,
            gathered=gathered,
            pods=pods,
            memory=memory,
            seconds=seconds,
        )
        findings = judge(environment, step, observed, carried)
        verdict = gates.decide(findings)
        show(observed, findings)
        late = observed.seconds >= limits.deadline
        if verdict is not Verdict.INCONCLUSIVE or late or stopped():
            return _result(environment, step, verdict, observed, findings, late=late)


def begin(limits: Gates, step: CanaryStep, pods: tuple[Pod, ...]) -> Gathered:
    """Before the first look of a step."""
    weight = step.weight / 100
    canary, stable = _count(pods, "canary"), _count(pods, "stable")
    latency, restarts = limits.latency, limits.restarts
    return Gathered(
        errors=Evidence.begin(weight=weight, margin=limits.errors.margin, harm=limits.errors.harm),
        latency=Evidence.begin(
            weight=weight, margin=latency.margin if latency else 0.0, harm=latency.harm if latency else 0.0
        ),
        restarts=Evidence.begin(
            weight=canary / (canary + stable) if canary and stable else weight,
            margin=restarts.margin if restarts else 0.0,
            harm=0.0,
        ),
        pods=pods,
    )


def gather(
    before: Gathered,
    window: Window,
    threshold: float | None,
    pods: tuple[Pod, ...] | None,
    seconds: float,
) -> Gathered:
    """The evidence one look later. A hole adds nothing: the look after it has what came meanwhile. Pure."""
    errors, latency, restarts = before.errors, before.latency, before.restarts
    if (tally := window.sessions) is not None:
        errors = errors.until(tally.canary_bad, tally.canary, tally.stable_bad, tally.stable)
    slow = window.slow(threshold) if threshold is not None else None
    if slow is not None:
        latency = latency.until(slow.canary_bad, slow.canary, slow.stable_bad, slow.stable)
    if pods is None:
        return replace(before, errors=errors, latency=latency)
    hours = (seconds - before.seconds) / 3600
    restarts = restarts.look(
        _restarted(before.pods, pods, "canary"),
        _count(pods, "canary") * hours,
        _restarted(before.pods, pods, "stable"),
        _count(pods, "stable") * hours,
    )
    return Gathered(errors=errors, latency=latency, restarts=restarts, pods=pods, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the newest look had data of, and whether the minimum bake is over."""

    baked: bool
    sessions: bool = True
    slow: bool = True
    restarts: bool = True
    pods: int = 1
    """Of the canary, that run."""


def judge(
    environment: Environment, step: CanaryStep, observed: Observed, carried: Mapping[str, Carried]
) -> tuple[Finding, ...]:
    """Every gate of the environment on what was observed. Pure."""
    limits, window, gathered = environment.gates, observed.window, observed.gathered
    baked = window.current and window.now - window.clean_since >= step.bake and observed.seconds >= step.bake
    told = Told(
        baked=baked,
        sessions=window.current,
        slow=observed.threshold is not None and window.slow(observed.threshold) is not None,
        restarts=observed.pods is not None,
        pods=_count(gathered.pods, "canary"),
    )
    found = list(compared(environment, step, gathered, told, carried))
    killed = [pod.name for pod in observed.pods or () if pod.track == "canary" and pod.out_of_memory]
    if limits.saturation or killed:
        found.append(
            gates.saturation(
                observed.memory,
                limit=limits.saturation.limit if limits.saturation else 1.0,
                samples=_samples(limits),
                out_of_memory=killed,
                baked=baked,
            )
        )
    return tuple(found)


def levels_of(environment: Environment) -> tuple[Levels, Levels]:
    """Of each test of the environment; and of its exposure, which needs little of alpha."""
    limits, regions = environment.gates, len(environment.targets)
    asked = sum(gate is not None for gate in (limits.errors, limits.latency, limits.restarts))
    spared = _SPLITS_PART if limits.exposure else 0.0
    return (
        gates.levels(alpha=limits.alpha * (1 - spared), beta=limits.beta, metrics=asked, regions=regions),
        gates.levels(alpha=limits.alpha * _SPLITS_PART, beta=limits.beta, metrics=1, regions=regions),
    )


def compared(
    environment: Environment,
    step: CanaryStep,
    gathered: Gathered,
    told: Told,
    carried: Mapping[str, Carried],
) -> tuple[Finding, ...]:
    """The gates that go by evidence: all that a replay of what was measured can ask again. Pure."""
    limits, place = environment.gates, _place(environment, step, baked=told.baked)
    levels, splits = levels_of(environment)
    errors = gathered.errors
    found = [
        gates.errors(
            errors,
            place=place,
            floor=limits.errors.tolerated if limits.errors.floor is None else limits.errors.floor,
            tolerated=limits.errors.tolerated,
            levels=levels,
            known=told.sessions,
            carried=carried.get("errors", NOTHING_CARRIED),
        )
    ]
    if limits.latency:
        found.append(
            gates.latency(
                gathered.latency,
                place=place,
                share=limits.latency.share,
                margin=limits.latency.margin,
                harm=limits.latency.harm,
                levels=levels,
                against_stable=limits.latency.against == "stable",
                known=told.slow,
                carried=carried.get("latency", NOTHING_CARRIED),
            )
        )
    if limits.restarts:
        found.append(
            gates.restarts(
                gathered.restarts,
                place=place,
                levels=levels,
                known=told.restarts,
                per_pod_hour=limits.restarts.per_pod_hour,
                watched=told.pods * limits.deadline / 3600 * len(place.planned),
                carried=carried.get("restarts", NOTHING_CARRIED),
            )
        )
    if limits.exposure:
        found.append(
            gates.split(
                Tally(canary=round(errors.canary), stable=round(errors.stable)),
                place=place,
                margin=limits.exposure.margin,
                levels=splits,
                known=told.sessions,
            )
        )
    return tuple(found)


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
    deciding = [finding for finding in findings if finding.verdict is verdict]
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
    tolerated, place = environment.gates.errors.tolerated, _place(environment, step, baked=True)
    more = gates.missing(errors, place=place, tolerated=tolerated)
    rate = observed.gathered.errors.canary / max(observed.seconds, 1e-9)
    if not more or not rate:
        return ""
    return (
        f"; {more} more sessions of the canary without an error would do: {more / rate / 60:.0f} min as now"
    )


def _place(environment: Environment, step: CanaryStep, *, baked: bool) -> Place:
    return Place(
        planned=tuple(one.weight for one in environment.canary.steps),
        weight=step.weight,
        baked=baked,
        sessions=step.sessions,
    )


def _ready(pods: Iterable[Pod]) -> list[str]:
    return [pod.name for pod in pods if pod.ready and pod.runs and pod.app.endswith("api")]


async def _read(
    prometheus: Prometheus, namespace: str, limits: Gates, since: Mapping[str, float]
) -> Reading | NoData:
    """`since`: the pods that are ready, and from when on they were seen to be (of the monotonic clock)."""
    if not since:
        return NoData(time=time.time(), reason="no pod is ready")
    due = time.monotonic() - limits.stale
    expected = [name for name, then in since.items() if then <= due]
    return await metrics.read(prometheus, namespace, stale=limits.stale, now=time.time(), expected=expected)


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


def _samples(limits: Gates) -> int:
    return limits.saturation.samples if limits.saturation else 1


def _restarted(before: Iterable[Pod], pods: Iterable[Pod], track: str) -> int:
    """Between two looks. A pod that is gone has no more; one of the same name that counts anew is another."""
    had = {pod.name: pod.restarts for pod in before}
    mine = [(pod.restarts, had.get(pod.name, 0)) for pod in pods if pod.track == track]
    return sum(now - then if now >= then else now for now, then in mine)


def _count(pods: tuple[Pod, ...] | None, track: str) -> int:
    return sum(pod.track == track and pod.runs for pod in pods or ())

"""The gates of an environment, asked about what the looks of one bake have gathered. Pure.

    gathered = begin(environment.gates, step, pods)
    gathered = gather(environment.gates, gathered, window, pods, seconds, …)      # one look later
    findings = compared(environment, step, gathered, told, carried)

A gate is data (ci.environments.gates); its kind says by which test it is judged (ci.delivery.gates), its
source what it is given here: the window of the api's own sessions, the cluster's pods, the growth of what its
queries count, or a value a look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ci.delivery import gates, metrics
from ci.delivery.cluster import Pod
from ci.delivery.findings import NOTHING_CARRIED, Carried, Finding, Levels, Tally, Verdict
from ci.delivery.gates import Evidence, Place
from ci.delivery.metrics import Window
from ci.delivery.queries import Growth
from ci.environments import (
    AnyGate,
    CanaryStep,
    Environment,
    ErrorGate,
    ExposureGate,
    Gates,
    LatencyGate,
    RestartGate,
    SaturationGate,
)

__all__ = [
    "Gathered",
    "Told",
    "begin",
    "compared",
    "count",
    "gather",
    "levels_of",
    "place_of",
    "told",
    "warmed_up",
    "warmup_of",
]


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What the looks of one bake have shown so far, by gate."""

    evidence: Mapping[str, Evidence]
    """Exposure is sessions, whatever a query counts, or pod-hours as they passed."""
    pods: tuple[Pod, ...]
    """When the cluster answered last …"""
    seconds: float = 0.0
    """… which was then, since the step began."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Seconds from which a session is slow; frozen once stable's histogram was read."""
    values: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Of the newest looks, what is held against a limit; None: no data."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the newest look had no data of, and whether the minimum bake is over."""

    baked: bool
    blind: frozenset[str] = frozenset()
    """The gates that have no data."""
    pods: int = 1
    """Of the canary, that run."""
    killed: tuple[str, ...] = ()
    """The canary's pods that were killed for memory."""


def begin(limits: Gates, step: CanaryStep, pods: tuple[Pod, ...]) -> Gathered:
    """Before the first look of a step."""
    canary, stable = count(pods, "canary"), count(pods, "stable")
    weight = step.weight / 100
    hours = canary / (canary + stable) if canary and stable else weight
    evidence = {}
    for name, gate in limits.named.items():
        match gate:
            case ErrorGate() | LatencyGate():
                tables = not _bursts(limits, gate)  # what is capped is no share of its sessions
                evidence[name] = Evidence.begin(
                    weight=weight, margin=gate.margin, harm=gate.harm, tables=tables
                )
            case RestartGate():
                evidence[name] = Evidence.begin(weight=hours, margin=gate.margin, harm=0.0)
    return Gathered(evidence=evidence, pods=pods)


def gather(
    limits: Gates,
    before: Gathered,
    window: Window,
    pods: tuple[Pod, ...] | None,
    seconds: float,
    *,
    grown: Mapping[str, Growth] | None = None,
    values: Mapping[str, float | None] | None = None,
) -> Gathered:
    """One look later. A hole adds nothing: the look after it has what came meanwhile.

    `pods` is None when the cluster did not answer; `grown` and `values`: of the gates that have them.
    """
    thresholds = dict(before.thresholds)
    evidence, kept = dict(before.evidence), dict(before.values)
    for name, gate in limits.named.items():
        match gate:
            case ErrorGate() | LatencyGate():
                if isinstance(gate, LatencyGate) and name not in thresholds:
                    bound = metrics.frozen_threshold(window, gate.threshold, share=gate.share)
                    thresholds |= {} if bound is None else {name: bound}
                tally = _tally(name, gate, window, thresholds, grown or {})
                if tally is not None and _bursts(limits, gate):
                    running = before.pods if pods is None else pods
                    evidence[name] = evidence[name].of_pods(
                        window.of_pods(thresholds.get(name)),
                        (count(running, "canary"), count(running, "stable")),
                    )
                elif tally is not None:
                    counts = (tally.canary_bad, tally.canary, tally.stable_bad, tally.stable)
                    evidence[name] = evidence[name].until(*counts)
            case RestartGate() if pods is not None:
                own = (grown or {}).get(name) if gate.source == "prometheus" else None
                evidence[name] = _events(evidence[name], before, pods, seconds, own)
            case SaturationGate():
                kept[name] = [*kept.get(name, ()), (values or {}).get(name)][-gate.samples :]
    return replace(
        before,
        evidence=evidence,
        thresholds=thresholds,
        values=kept,
        pods=before.pods if pods is None else pods,
        seconds=before.seconds if pods is None else seconds,
    )


def told(
    limits: Gates,
    gathered: Gathered,
    window: Window,
    pods: tuple[Pod, ...] | None,
    *,
    baked: bool,
    grown: Mapping[str, Growth] | None = None,
) -> Told:
    """What the newest look knew of, by what each gate goes by."""
    blind = set()
    for name, gate in limits.named.items():
        match gate:
            case ErrorGate() | LatencyGate():
                known = _tally(name, gate, window, gathered.thresholds, grown or {}) is not None
            case RestartGate():
                own = (grown or {}).get(name)
                known = pods is not None and (gate.source == "pods" or (own is not None and own.current))
            case ExposureGate():
                known = window.current
            case SaturationGate():
                known = True  # the value itself says it
        blind |= set() if known else {name}
    killed = [pod.name for pod in pods or () if pod.track == "canary" and pod.out_of_memory]
    return Told(
        baked=baked, blind=frozenset(blind), pods=count(gathered.pods, "canary"), killed=tuple(killed)
    )


def levels_of(environment: Environment) -> dict[str, Levels]:
    """Of each test: alpha is split over tests, by their weights, and over regions (a union bound).

    Beta is not: a harmful canary has to pass every gate, so the one that sees the harm bounds the chance that
    it slips through.
    """
    limits, regions = environment.gates, len(environment.targets)
    return {name: Levels(alpha=alpha / regions, beta=limits.beta) for name, alpha in limits.alphas().items()}


def compared(
    environment: Environment,
    step: CanaryStep,
    gathered: Gathered,
    told: Told,
    carried: Mapping[str, Carried],
) -> tuple[Finding, ...]:
    """Every gate of the environment on what was gathered."""
    place, levels = place_of(environment, step, baked=told.baked), levels_of(environment)
    found = [
        _asked(name, gate, environment, place, levels.get(name), gathered, told, carried).model_copy(
            update={"dry_run": gate.dry_run}
        )
        for name, gate in environment.gates.named.items()
    ]
    memory = [gate for gate in environment.gates.named.values() if isinstance(gate, SaturationGate)]
    if told.killed and not any(gate.source == "memory" and not gate.dry_run for gate in memory):
        found.append(gates.killed("saturation", told.killed))
    return tuple(found)


def _asked(
    name: str,
    gate: AnyGate,
    environment: Environment,
    place: Place,
    levels: Levels | None,
    gathered: Gathered,
    told: Told,
    carried: Mapping[str, Carried],
) -> Finding:
    known, before = name not in told.blind, carried.get(name, NOTHING_CARRIED)
    if isinstance(gate, SaturationGate):
        if gate.source == "memory" and told.killed:
            return gates.killed(name, told.killed)
        return gates.saturation(
            gathered.values.get(name, ()),
            limit=gate.limit,
            samples=gate.samples,
            baked=told.baked,
            metric=name,
            of="the memory limit" if gate.source == "memory" else "",
            unit=gate.unit,
        )
    assert levels is not None
    match gate:
        case ErrorGate():
            return gates.errors(
                gathered.evidence[name],
                place=place,
                floor=gate.at_least,
                tolerated=gate.tolerated,
                levels=levels,
                known=known,
                carried=before,
                metric=name,
                unit=gate.unit,
            )
        case LatencyGate():
            return gates.latency(
                gathered.evidence[name],
                place=place,
                share=gate.share,
                margin=gate.margin,
                harm=gate.harm,
                levels=levels,
                against_stable=gate.against == "stable",
                known=known,
                carried=before,
                metric=name,
            )
        case RestartGate():
            return gates.restarts(
                gathered.evidence[name],
                place=place,
                levels=levels,
                known=known,
                per_pod_hour=gate.per_pod_hour,
                watched=told.pods * environment.gates.deadline / 3600 * len(place.planned),
                carried=before,
                metric=name,
                unit=gate.unit,
            )
        case ExposureGate():
            sessions = gathered.evidence["errors"]
            return gates.split(
                Tally(canary=round(sessions.canary), stable=round(sessions.stable)),
                place=place,
                margin=gate.margin,
                levels=levels,
                known=known,
                metric=name,
            )


def _bursts(limits: Gates, gate: AnyGate) -> bool:
    return limits.bursts and gate.source == "sessions"


def warmed_up(limits: Gates, step: CanaryStep, window: Window) -> tuple[Finding, ...]:
    """What pods counted while they warmed up, for whoever wants to know; it decides nothing."""
    tally = window.warming
    if not tally.canary + tally.stable:
        return ()
    reason = (
        f"{tally.canary_bad} of {tally.canary} of the canary's sessions were bad in its pods' first "
        f"{warmup_of(limits, step):g} s, {tally.stable_bad} of {tally.stable} of stable's"
    )
    bad = tally.canary_bad + tally.stable_bad
    verdict = Verdict.INCONCLUSIVE if bad else Verdict.PASS
    return (Finding(metric="warm-up", verdict=verdict, reason=reason, dry_run=True, tally=tally),)


def warmup_of(limits: Gates, step: CanaryStep) -> float:
    """Seconds: at most a tenth of the bake, and so about a tenth of its sessions."""
    return min(limits.warmup, step.bake / 10)


def place_of(environment: Environment, step: CanaryStep, *, baked: bool) -> Place:
    """Where in its promotion a canary is that bakes that step."""
    return Place(
        planned=tuple(one.weight for one in environment.canary.steps),
        weight=step.weight,
        baked=baked,
        sessions=step.sessions,
    )


def count(pods: Iterable[Pod] | None, track: str) -> int:
    """How many of a track's pods run."""
    return sum(pod.track == track and pod.runs for pod in pods or ())


def _tally(
    name: str,
    gate: ErrorGate | LatencyGate,
    window: Window,
    thresholds: Mapping[str, float],
    grown: Mapping[str, Growth],
) -> Tally | None:
    """Bad ones since the step began; None when the newest look had no data."""
    if isinstance(gate, LatencyGate):
        return window.slow(thresholds[name]) if name in thresholds else None
    if gate.source == "prometheus":
        return grown[name].tally if name in grown else None
    return window.sessions


def _events(
    evidence: Evidence, before: Gathered, pods: tuple[Pod, ...], seconds: float, own: Growth | None
) -> Evidence:
    """Restarts, or what a query counts, by the pod-hours that passed since the look before."""
    hours = (seconds - before.seconds) / 3600
    canary, stable = count(pods, "canary") * hours, count(pods, "stable") * hours
    if own is None:
        came = _restarted(before.pods, pods, "canary"), _restarted(before.pods, pods, "stable")
    else:
        came = (
            max(0, own.of("query", "canary") - evidence.canary_bad),
            max(0, own.of("query", "stable") - evidence.stable_bad),
        )
    return evidence.look(came[0], canary, came[1], stable)


def _restarted(before: Iterable[Pod], pods: Iterable[Pod], track: str) -> int:
    """Between two looks. A pod that is gone has no more; one of the same name that counts anew is another."""
    had = {pod.name: pod.restarts for pod in before}
    mine = [(pod.restarts, had.get(pod.name, 0)) for pod in pods if pod.track == track]
    return sum(now - then if now >= then else now for now, then in mine)

"""The gates: from evidence to PASS, FAIL or INCONCLUSIVE, with the numbers. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ci.delivery.findings import NOTHING_CARRIED, Carried, Exposure, Factor, Finding, Levels, Tally, Verdict
from ci.delivery.gates.looks import Evidence, from_any_step
from ci.delivery.gates.processes import (
    log_e_below,
    log_e_more,
    log_e_two_sided,
    log_mean,
    maxsprt_critical,
    maxsprt_llr,
    with_margin,
)

__all__ = [
    "FLOOR_AT",
    "Place",
    "decide",
    "errors",
    "exposure",
    "killed",
    "latency",
    "missing",
    "restarts",
    "saturation",
    "split",
]

FLOOR_AT = math.log(5)
"""ln of 1/.2: that what is tolerated anyhow fails is a matter of policy, and has an error of its own."""
_SUSPECTED = math.log(5)
"""ln E of harm from which an early step is not over: a good canary's falls again."""
_GROWTH = 4
"""How many times its pods of the first look a canary may come to have in a watch at a known rate."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in its promotion a canary is."""

    planned: tuple[int, ...]
    """The weights of all steps, in percent and in order, fixed before the first look."""
    weight: int
    """Of the step that bakes."""
    baked: bool
    """Whether its minimum bake is over."""
    sessions: int = 1
    """How many of the canary's own it takes at least."""

    @property
    def last(self) -> bool:
        """Whether stable is upgraded after it: safety is proven here, and here alone."""
        return self.weight == self.planned[-1]


def errors(
    evidence: Evidence,
    *,
    place: Place,
    floor: float,
    tolerated: float,
    levels: Levels,
    known: bool = True,
    carried: Carried = NOTHING_CARRIED,
    metric: str = "errors",
    unit: str = "sessions",
) -> Finding:
    """Bad sessions, canary against stable; not `known`: the newest look had no data.

    FAIL: the canary's rate is over (1 + margin) times stable's, from whichever step on, and over `floor`.
    PASS of the last step: it is under (1 + harm) times stable's, or under `tolerated` whatever stable's is,
    by this step's sessions alone. The null hypothesis of that is "both are exceeded", so the mean of the two
    e-values is an e-value; without the absolute one, two tracks without errors could never pass. PASS of an
    earlier step: it was watched for its bake and its sessions, and is not suspected. Given the sessions,
    events that are not rare vary less than the test assumes: it errs less.
    """
    tally = Tally(
        canary_bad=evidence.canary_bad,
        canary=round(evidence.canary),
        stable_bad=evidence.stable_bad,
        stable=round(evidence.stable),
    )
    factor = Factor(
        weight=place.weight,
        tally=tally,
        beyond=evidence.beyond[0],
        harm=evidence.worse.log_e,
        as_stable=evidence.log_ratio,
        less_harm=evidence.better.log_e,
    )
    begun = _begun(carried, factor, place)
    step, safe = begun[-1], None
    if place.last:
        relative = log_mean(step.as_stable, step.less_harm)
        safe = log_mean(relative, log_e_below(_bad(step), step.tally.canary, tolerated))
    x, y = tally.canary_bad, tally.stable_bad
    rates = "no data"
    if tally.canary and tally.stable:
        own, other = _percent(x, tally.canary), _percent(y, tally.stable)
        rates = f"{own} of the canary's {unit}, {other} of stable's"
    return _judged(
        metric,
        rates,
        tally,
        place,
        levels,
        known=known and bool(tally.canary and tally.stable),
        seen=step.tally.canary,
        harm=from_any_step([one.harm for one in begun], len(place.planned)),
        floor=_over(begun, floor, place),
        safe=safe,
        begun=begun,
    )


def latency(
    evidence: Evidence,
    *,
    place: Place,
    share: float,
    margin: float,
    harm: float,
    levels: Levels,
    against_stable: bool,
    known: bool = True,
    carried: Carried = NOTHING_CARRIED,
    metric: str = "latency",
) -> Finding:
    """Slow sessions, by a threshold that was frozen when the step began.

    With an objective for a threshold the canary's exceedances are tested against the known `share` (0.05 is
    p95); with the baseline's own quantile they are compared with stable's, as errors are, and `share` of the
    canary's may be slow anyhow.
    """
    tolerated = min(0.999, share * (1 + harm))
    if against_stable:
        return errors(
            evidence,
            place=place,
            floor=share,
            tolerated=tolerated,
            levels=levels,
            known=known,
            carried=carried,
            metric=metric,
        )
    tally = Tally(canary_bad=evidence.canary_bad, canary=round(evidence.canary))
    begun = _begun(carried, Factor(weight=place.weight, tally=tally, beyond=evidence.beyond[0]), place)
    own = begun[-1].tally
    rates = "no data"
    if tally.canary:
        slow = _percent(tally.canary_bad, tally.canary)
        rates = f"{slow} of the canary's sessions were slow, {share:.1%} may be"
    return _judged(
        metric,
        rates,
        tally,
        place,
        levels,
        known=known and bool(tally.canary),
        seen=own.canary,
        harm=_over(begun, min(0.999, share * (1 + margin)), place),
        floor=None,
        safe=log_e_below(_bad(begun[-1]), own.canary, tolerated) if place.last else None,
        begun=begun,
    )


def restarts(
    evidence: Evidence,
    *,
    place: Place,
    levels: Levels,
    known: bool = True,
    per_pod_hour: float | None = None,
    watched: float = 0.0,
    carried: Carried = NOTHING_CARRIED,
    metric: str = "restarts",
    unit: str = "restarts",
) -> Finding:
    """Rare events, as restarts of containers, by pod-hours as they passed: against stable's, or against a
    rate known beforehand.

    A guard: what happens once in days cannot be shown to be absent within a bake, so this gate passes when
    the restarts were watched for the whole bake and do not fail. The known rate has one test over the whole
    promotion, whose end is fixed before its first look: `watched` is the most pod-hours that the canary's
    pods of then can be watched for.
    """
    factor = Factor(
        weight=place.weight,
        tally=Tally(canary_bad=evidence.canary_bad, stable_bad=evidence.stable_bad),
        pod_hours=(evidence.canary, evidence.stable),
        harm=evidence.worse.log_e,
    )
    begun = _begun(carried, factor, place)
    fail_at, horizon = -math.log(levels.alpha), carried.horizon
    if per_pod_hour is not None:
        expected = per_pod_hour * sum(one.pod_hours[0] for one in begun)
        events = sum(one.tally.canary_bad for one in begun)
        horizon = horizon or per_pod_hour * watched * _GROWTH
        # With more pods than were thought of its end moves on, and its boundary with it.
        fail_at = maxsprt_critical(_no_less(max(horizon, expected, 1e-6)), levels.alpha)
        harm = maxsprt_llr(events, expected) if expected else 0.0
        known = known and evidence.canary > 0
    else:
        harm = from_any_step([one.harm for one in begun], len(place.planned))
        known = known and evidence.canary > 0 and evidence.stable > 0
    reason = f"{evidence.canary_bad} {unit} of the canary's containers, {evidence.stable_bad} of stable's"
    verdict = Verdict.INCONCLUSIVE
    if known and evidence.canary_bad and harm >= fail_at:
        verdict = Verdict.FAIL
    elif known and place.baked and not math.isnan(harm):
        verdict = Verdict.PASS
    return Finding(
        metric=metric,
        verdict=verdict,
        reason=reason if known else "no data",
        log_harm=harm,
        log_fail_at=fail_at,
        evidence=Carried(factors=tuple(begun), horizon=horizon),
    )


def killed(metric: str, pods: Sequence[str]) -> Finding:
    """Pods that were killed for memory FAIL at once."""
    return Finding(metric=metric, verdict=Verdict.FAIL, reason=f"killed for memory: {', '.join(pods)}")


def saturation(
    used: Sequence[float | None],
    *,
    limit: float,
    samples: int,
    baked: bool,
    metric: str = "saturation",
    of: str = "the memory limit",
    unit: str = "",
) -> Finding:
    """What is in use, look by look (None: no data), against its limit: a share of something, or a number.

    `samples` looks in a row above `limit` FAIL. A guard like `restarts`.
    """
    last = [value for value in used[-samples:] if value is not None]
    if not used or used[-1] is None or math.isnan(used[-1]):
        return Finding(metric=metric, verdict=Verdict.INCONCLUSIVE, reason="no data")
    reason = f"{used[-1]:g} {unit}".rstrip() + f", {limit:g} may be"
    if of:
        reason = f"{used[-1]:.0%} of {of} in use, {limit:.0%} may be"
    if len(last) == samples and min(last) > limit:
        return Finding(metric=metric, verdict=Verdict.FAIL, reason=f"{reason}, {samples} looks in a row over")
    watched = baked and len(last) == min(samples, len(used))
    return Finding(metric=metric, verdict=Verdict.PASS if watched else Verdict.INCONCLUSIVE, reason=reason)


def split(
    tally: Tally,
    *,
    place: Place,
    margin: float,
    levels: Levels,
    known: bool = True,
    metric: str = "exposure",
) -> Finding:
    """Does the canary get the sessions that its weight says? It holds the step where its part is shown to be
    over 1 + `margin` times that, or under its inverse, in odds: it is not tried as it is meant to be.

    A canary that is given sessions and answers none of them FAILS.
    """
    weight = place.weight / 100
    more = log_e_more(tally.canary, tally.stable, with_margin(weight, margin))
    less = log_e_more(tally.stable, tally.canary, 1 - with_margin(weight, 1 / (1 + margin) - 1))
    harm, fail_at = log_mean(more, less), -math.log(levels.alpha)
    verdict, reason = Verdict.INCONCLUSIVE, "no data"
    if tally.canary + tally.stable and known:
        observed = tally.canary / (tally.canary + tally.stable)
        reason = f"the canary got {observed:.1%} of the sessions, its weight is {weight:.0%}"
        if harm < fail_at and place.baked:
            verdict = Verdict.PASS
        elif harm >= fail_at and place.baked and not tally.canary:
            verdict = Verdict.FAIL
            reason = f"the canary answered none of the sessions, stable {tally.stable}"
    return Finding(
        metric=metric, verdict=verdict, reason=reason, tally=tally, log_harm=harm, log_fail_at=fail_at
    )


def exposure(tally: Tally | None, *, weight: int, alpha: float) -> Exposure:
    """Did the canary get the share of sessions that the weight (percent) says? Reported; it fails nothing."""
    intended = weight / 100
    if tally is None or not tally.canary + tally.stable:
        return Exposure(intended=intended, observed=None, log_e=0.0, mismatch=False)
    log_e = log_e_two_sided(tally.canary, tally.stable, intended)
    observed = tally.canary / (tally.canary + tally.stable)
    return Exposure(intended=intended, observed=observed, log_e=log_e, mismatch=log_e >= -math.log(alpha))


def decide(findings: Iterable[Finding]) -> Verdict:
    """One FAIL fails; a pass takes a PASS of every gate, and at least one gate. Dry runs are none."""
    verdicts = {finding.verdict for finding in findings if not finding.dry_run}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


def missing(finding: Finding, *, place: Place, tolerated: float) -> int | None:
    """How many more sessions without a bad one the canary needs to pass; None where it has passed or failed,
    or no number would do it; 0 where it lacks something else."""
    factors = finding.carried.factors
    if not factors or finding.verdict is not Verdict.INCONCLUSIVE:
        return None
    own = factors[-1]
    x, n = _bad(own), own.tally.canary
    least = max(0, place.sessions - n)
    if finding.log_safe is None or finding.log_pass_at is None:
        return least
    pass_at, step = finding.log_pass_at, 1
    relative = finding.log_safe
    if relative >= pass_at:
        return least
    # What is known against stable stays; the mean of both is as much as it was, or what is proven below.
    while max(relative, log_e_below(x, n + step, tolerated) - math.log(2)) < pass_at:
        step *= 2
        if step > 10**8:
            return None
    low = 0
    while low + 1 < step:
        middle = (low + step) // 2
        enough = max(relative, log_e_below(x, n + middle, tolerated) - math.log(2)) >= pass_at
        low, step = (low, middle) if enough else (middle, step)
    return max(least, step)


def _begun(carried: Carried, now: Factor, place: Place) -> list[Factor]:
    """One factor of each step that has begun, in order: what earlier runs of it showed, and this one.

    What belongs to no step (a promotion that began when only the product was kept) was there from the first.
    """
    steps = place.planned[: place.planned.index(place.weight) + 1]
    found: dict[int, Factor] = {}
    for one in (*carried.factors, now):
        weight = one.weight if one.weight in steps else steps[0]
        found[weight] = found[weight] + one if weight in found else one
    return [_of_step(found.get(weight), weight) for weight in steps]


def _of_step(found: Factor | None, weight: int) -> Factor:
    if found is None:
        return Factor(weight=weight)
    return found if found.weight == weight else found.model_copy(update={"weight": weight})


def _bad(step: Factor) -> int:
    """All bad sessions of the canary, as a proof of its safety has to count them."""
    return min(step.tally.canary_bad + step.beyond, step.tally.canary)


def _no_less(horizon: float) -> float:
    """The next power of 1.1: an end that moves on has few critical values, each on the safe side."""
    return float(1.1 ** math.ceil(round(math.log(horizon, 1.1), 6)))


def _over(begun: Sequence[Factor], rate: float, place: Place) -> float:
    """ln E against "the canary's own rate is at most `rate`", from whichever step on."""
    tallies = [one.tally for one in begun]
    steps = [
        log_e_more(one.canary_bad, one.canary - one.canary_bad, rate) if one.canary else 0.0
        for one in tallies
    ]
    return from_any_step(steps, len(place.planned))


def _judged(
    metric: str,
    rates: str,
    tally: Tally,
    place: Place,
    levels: Levels,
    *,
    known: bool,
    seen: int,
    harm: float,
    floor: float | None,
    safe: float | None,
    begun: Sequence[Factor],
) -> Finding:
    fail_at, pass_at = -math.log(levels.alpha), -math.log(levels.beta)
    verdict = Verdict.INCONCLUSIVE
    if known and harm >= fail_at and (floor is None or floor >= FLOOR_AT):
        verdict = Verdict.FAIL
    elif known and place.baked and seen >= place.sessions and not math.isnan(harm):
        # What is suspected gets no more traffic, where no proof is asked that it is well.
        well = safe >= pass_at if safe is not None else harm < _SUSPECTED or (floor is not None and floor < 0)
        verdict = Verdict.PASS if well else verdict
    return Finding(
        metric=metric,
        verdict=verdict,
        reason=rates if known else "no data",
        tally=tally,
        log_harm=harm,
        log_fail_at=fail_at,
        log_floor=floor,
        log_floor_at=None if floor is None else FLOOR_AT,
        log_safe=safe,
        log_pass_at=None if safe is None else pass_at,
        evidence=Carried(factors=tuple(begun)),
    )


def _percent(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.2%})"

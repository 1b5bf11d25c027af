"""How a canary gate decides: pure functions from counts to PASS, FAIL or INCONCLUSIVE, with the numbers.

A canary is looked at again and again. A fixed threshold or a repeated test errs more with every look, so
these gates use e-processes: numbers that are 1 on average as long as the null hypothesis holds, whatever has
been seen so far. Stopping when one reaches 1/alpha errs with probability alpha at most, however often one
looks (Ville 1939; Ramdas, Grünwald, Vovk & Shafer, "Game-theoretic statistics and safe anytime-valid
inference", 2023). Each metric has two of them:

- `harm`, against "the canary is no worse than stable (plus a margin)": at 1/alpha the gate FAILS;
- `safe`, the reverse, against "the canary is worse by more than we accept": at 1/beta it may PASS.

In between it is INCONCLUSIVE. All are kept as natural logarithms: counts may be large. When traffic moves to
another weight, a new factor starts; factors multiply (`Carried`). The unit is the session, never the request:
requests of one session fail together. No data is never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from scipy import special

from ci.delivery.findings import NOTHING_CARRIED, Carried, Exposure, Finding, Levels, Tally, Verdict

__all__ = [
    "decide",
    "errors",
    "exposure",
    "latency",
    "levels",
    "log_e_more",
    "log_e_two_sided",
    "maxsprt_critical",
    "maxsprt_llr",
    "restarts",
    "saturation",
    "with_margin",
]

_K = 2.0
"""Weight of the prior, in events: small, so that little data can speak."""


def levels(*, alpha: float, beta: float, metrics: int, regions: int) -> Levels:
    """Alpha is split over all tests of one promotion (a union bound). Beta is not: a harmful canary has to
    pass every gate, so the one that sees the harm bounds the chance that it slips through."""
    return Levels(alpha=alpha / max(1, metrics * regions), beta=beta)


# The e-processes.


def log_e_two_sided(x: int, y: int, rho: float, k: float = _K) -> float:
    """ln E against "each event is the canary's with probability rho", by a Beta(k rho, k (1 - rho)) mixture.

    `x` events of the canary, `y` of stable. Lindon & Malek, "Anytime-valid inference for multinomial count
    data", NeurIPS 2022 (arXiv:2011.03567).
    """
    _check(x, y, rho)
    a, b = k * rho, k * (1 - rho)
    mixture = special.betaln(a + x, b + y) - special.betaln(a, b)
    return float(mixture - x * math.log(rho) - y * math.log1p(-rho))


def log_e_more(x: int, y: int, rho: float, k: float = _K) -> float:
    """ln E against "the canary's share of events is at most rho": the mixture of `log_e_two_sided` truncated
    to shares above rho, so that only harm is evidence. Its reverse is `log_e_more(y, x, 1 - rho)`."""
    a, b = k * rho, k * (1 - rho)
    return log_e_two_sided(x, y, rho, k) + _log_upper(a + x, b + y, rho) - _log_upper(a, b, rho)


def with_margin(rho: float, margin: float) -> float:
    """The canary's share of events at 1 + margin times stable's rate, when its share of sessions is rho."""
    return rho * (1 + margin) / (1 + rho * margin)


def _log_upper(a: float, b: float, rho: float) -> float:
    """ln(1 - I_rho(a, b)), also where 1 - I is too small for a float.

    There I_z(b, a), z = 1 - rho, is summed by its hypergeometric series (DLMF 8.17.7 with 15.8.1): all terms
    are positive and fall from the first on, since z is far below the mean b / (a + b).
    """
    upper = float(special.betaincc(a, b, rho))
    if upper > 1e-290:
        return math.log(upper)
    z = 1 - rho
    total = term = 1.0
    n = 0
    while term > 1e-17 * total and n < 1_000_000:
        term *= (a + b + n) / (b + 1 + n) * z
        total += term
        n += 1
    return float(b * math.log(z) + a * math.log(rho) - math.log(b) - special.betaln(a, b) + math.log(total))


def _check(x: int, y: int, rho: float) -> None:
    if not 0 < rho < 1 or x < 0 or y < 0:
        raise ValueError(f"no test of {x} against {y} events at a share of {rho}")


def maxsprt_llr(events: int, expected: float) -> float:
    """The Poisson MaxSPRT statistic for `events` seen where `expected` were; 0 unless there are more.

    Kulldorff et al., "A maximized sequential probability ratio test", Sequential Analysis 30 (2011).
    """
    if events <= expected:
        return 0.0
    return (expected - events) + events * math.log(events / expected)


@lru_cache(maxsize=256)
def maxsprt_critical(horizon: float, alpha: float) -> float:
    """The critical value of the Poisson MaxSPRT, looked at continuously until `horizon` events are expected.

    Exact, by following the distribution of the count over the times at which 1, 2, … events would signal.
    """
    low, high = 0.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _signals(middle, horizon) > alpha else (low, middle)
    return high


def _signals(critical: float, horizon: float) -> float:
    """P(the statistic reaches `critical` before `horizon` events are expected | the known rate)."""
    quiet = np.ones(1)  # P(no signal so far, and n events)
    before, n = 0.0, 0
    while before < horizon:
        n += 1
        until = min(_latest(n, critical), horizon)
        quiet = np.convolve(quiet, _poisson(np.arange(n), until - before))[:n]
        before = until
    return 1.0 - float(quiet.sum())


def _poisson(counts: np.ndarray, mean: float) -> np.ndarray:
    """P(a Poisson variable is each of `counts`). Not scipy.stats', whose import takes seconds."""
    return np.asarray(np.exp(special.xlogy(counts, mean) - mean - special.gammaln(counts + 1)))


def _latest(n: int, critical: float) -> float:
    """The largest expectation at which n events still signal: (mu - n) + n ln(n / mu) = critical, mu < n."""
    # With w = -mu/n: w e^w = -exp(-1 - critical/n), the principal branch of Lambert's W.
    return float(-n * special.lambertw(-math.exp(-1 - critical / n)).real)


# The gates.


def errors(
    tally: Tally | None,
    *,
    margin: float,
    harm: float,
    tolerated: float,
    levels: Levels,
    baked: bool,
    carried: Carried = NOTHING_CARRIED,
    metric: str = "errors",
) -> Finding:
    """Failed sessions, canary against stable; `tally` is None when there is no data.

    FAIL: the canary's rate is over (1 + margin) times stable's. PASS: it is under (1 + harm) times stable's,
    or under `tolerated` whatever stable's is. The null hypothesis of the second is "both are exceeded", so
    the mean of the two e-values is an e-value; without the absolute one, two tracks without errors could
    never pass. Given the sessions, events that are not rare vary less than the test assumes: it errs less.
    """
    if tally is None or not tally.canary or not tally.stable:
        return _no_data(metric, tally, carried, levels)
    rho = tally.canary / (tally.canary + tally.stable)
    x, y = tally.canary_bad, tally.stable_bad
    log_harm = carried.harm + log_e_more(x, y, with_margin(rho, margin))
    relative = log_e_more(y, x, 1 - with_margin(rho, harm))
    absolute = log_e_more(tally.canary - x, x, 1 - tolerated)
    log_safe = carried.safe + _log_mean(relative, absolute)
    rates = f"{_percent(x, tally.canary)} of the canary's sessions, {_percent(y, tally.stable)} of stable's"
    return _judge(metric, rates, tally, log_harm, log_safe, levels, baked)


def latency(
    tally: Tally | None,
    *,
    share: float,
    margin: float,
    harm: float,
    levels: Levels,
    baked: bool,
    against_stable: bool,
    carried: Carried = NOTHING_CARRIED,
) -> Finding:
    """Slow sessions, by a threshold that was frozen when the step began.

    With an objective for a threshold the canary's exceedances are tested against the known `share` (0.05 is
    p95); with the baseline's own quantile they are compared with stable's, as errors are.
    """
    if against_stable:
        return errors(
            tally,
            margin=margin,
            harm=harm,
            tolerated=min(0.999, share * (1 + harm)),
            levels=levels,
            baked=baked,
            carried=carried,
            metric="latency",
        )
    if tally is None or not tally.canary:
        return _no_data("latency", tally, carried, levels)
    slow, quick = tally.canary_bad, tally.canary - tally.canary_bad
    log_harm = carried.harm + log_e_more(slow, quick, min(0.999, share * (1 + margin)))
    log_safe = carried.safe + log_e_more(quick, slow, 1 - min(0.999, share * (1 + harm)))
    rates = f"{_percent(slow, tally.canary)} of the canary's sessions were slow, {share:.1%} may be"
    return _judge("latency", rates, tally, log_harm, log_safe, levels, baked)


def restarts(
    canary: int | None,
    stable: int | None,
    *,
    canary_pod_hours: float,
    stable_pod_hours: float,
    margin: float,
    levels: Levels,
    baked: bool,
    per_pod_hour: float | None = None,
    horizon_pod_hours: float = 1.0,
    carried: Carried = NOTHING_CARRIED,
) -> Finding:
    """Container restarts in this step: against stable's by pod-hours, or against a rate known beforehand.

    A guard: what happens once in days cannot be shown to be absent within a bake, so this gate passes when
    the restarts were watched for the whole bake and do not fail. `horizon_pod_hours` bounds the watch of the
    known rate (the canary's pods until the deadline).
    """
    if canary is None or stable is None or canary_pod_hours <= 0:
        return _no_data("restarts", None, carried, levels)
    counted = f"{canary} of the canary's containers restarted, {stable} of stable's"
    fail_at = -math.log(levels.alpha)
    if per_pod_hour is not None:
        expected = per_pod_hour * canary_pod_hours
        log_harm = maxsprt_llr(canary, expected)
        fail_at = maxsprt_critical(round(max(per_pod_hour * horizon_pod_hours, expected), 9), levels.alpha)
    elif stable_pod_hours <= 0:
        return _no_data("restarts", None, carried, levels)
    else:
        rho = canary_pod_hours / (canary_pod_hours + stable_pod_hours)
        log_harm = carried.harm + log_e_more(canary, stable, with_margin(rho, margin))
    failed = canary > 0 and log_harm >= fail_at
    verdict = Verdict.FAIL if failed else Verdict.PASS if baked else Verdict.INCONCLUSIVE
    return Finding(metric="restarts", verdict=verdict, reason=counted, log_harm=log_harm, log_fail_at=fail_at)


def saturation(
    used: Sequence[float | None], *, limit: float, samples: int, out_of_memory: Sequence[str], baked: bool
) -> Finding:
    """Memory in use as a share of its limit, look by look (None: no data), and the pods killed for memory.

    An out-of-memory kill FAILS at once, `samples` looks in a row above `limit` FAIL. A guard like `restarts`.
    """
    if out_of_memory:
        killed = ", ".join(out_of_memory)
        return Finding(metric="saturation", verdict=Verdict.FAIL, reason=f"killed for memory: {killed}")
    last = [value for value in used[-samples:] if value is not None]
    if not used or used[-1] is None:
        return Finding(metric="saturation", verdict=Verdict.INCONCLUSIVE, reason="no data")
    reason = f"{used[-1]:.0%} of the memory limit in use, {limit:.0%} may be"
    if len(last) == samples and min(last) > limit:
        return Finding(
            metric="saturation", verdict=Verdict.FAIL, reason=f"{reason}, {samples} looks in a row over"
        )
    watched = baked and len(last) == min(samples, len(used))
    return Finding(
        metric="saturation", verdict=Verdict.PASS if watched else Verdict.INCONCLUSIVE, reason=reason
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
    """One FAIL fails; a pass takes a PASS of every gate, and at least one gate."""
    verdicts = {finding.verdict for finding in findings}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


def _judge(
    metric: str,
    rates: str,
    tally: Tally,
    log_harm: float,
    log_safe: float,
    levels: Levels,
    baked: bool,
) -> Finding:
    fail_at, pass_at = -math.log(levels.alpha), -math.log(levels.beta)
    if log_harm >= fail_at:
        verdict = Verdict.FAIL
    elif log_safe >= pass_at and baked:
        verdict = Verdict.PASS
    else:
        verdict = Verdict.INCONCLUSIVE
    return Finding(
        metric=metric,
        verdict=verdict,
        reason=rates,
        tally=tally,
        log_harm=log_harm,
        log_fail_at=fail_at,
        log_safe=log_safe,
        log_pass_at=pass_at,
    )


def _no_data(metric: str, tally: Tally | None, carried: Carried, levels: Levels) -> Finding:
    return Finding(
        metric=metric,
        verdict=Verdict.INCONCLUSIVE,
        reason="no data",
        tally=tally,
        log_harm=carried.harm,
        log_fail_at=-math.log(levels.alpha),
        log_safe=carried.safe,
        log_pass_at=-math.log(levels.beta),
    )


def _log_mean(first: float, second: float) -> float:
    high, low = max(first, second), min(first, second)
    return high + math.log1p(math.exp(low - high)) - math.log(2)


def _percent(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.2%})"

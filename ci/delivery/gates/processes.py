"""Closed forms: e-processes of counts, as natural logarithms, and the sequential test of a known rate.

An e-process is 1 on average as long as its null hypothesis holds, whatever has been seen so far. Stopping
when it reaches 1/alpha errs with probability alpha at most, however often one looks (Ville 1939; Ramdas,
Grünwald, Vovk & Shafer, "Game-theoretic statistics and safe anytime-valid inference", 2023).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

__all__ = [
    "K",
    "least_sessions",
    "log_e_below",
    "log_e_more",
    "log_e_two_sided",
    "log_mean",
    "maxsprt_critical",
    "maxsprt_llr",
    "with_margin",
]

K = 2.0
"""Weight of the prior, in events: small, so that little data can speak."""


def log_e_two_sided(x: int, y: int, rho: float, k: float = K) -> float:
    """ln E against "each event is the canary's with probability rho", by a Beta(k rho, k (1 - rho)) mixture.

    `x` events of the canary, `y` of stable. Lindon & Malek, "Anytime-valid inference for multinomial count
    data", NeurIPS 2022 (arXiv:2011.03567).
    """
    _check(x, y, rho)
    a, b = k * rho, k * (1 - rho)
    mixture = special.betaln(a + x, b + y) - special.betaln(a, b)
    return float(mixture - x * math.log(rho) - y * math.log1p(-rho))


def log_e_more(x: int, y: int, rho: float, k: float = K) -> float:
    """ln E against "the canary's share of events is at most rho": the mixture of `log_e_two_sided` truncated
    to shares above rho, so that only harm is evidence. Its reverse is `log_e_more(y, x, 1 - rho)`."""
    a, b = k * rho, k * (1 - rho)
    return log_e_two_sided(x, y, rho, k) + _log_upper(a + x, b + y, rho) - _log_upper(a, b, rho)


def with_margin(rho: float, margin: float) -> float:
    """The canary's share of events at 1 + margin times stable's rate, when its share of sessions is rho."""
    return rho * (1 + margin) / (1 + rho * margin)


def log_e_below(x: int, n: int, tau: float) -> float:
    """ln E against "at least `tau` of the sessions are bad", of x bad ones among n: the proof of safety where
    stable has nothing to compare with. Half of it bets that none is bad, half on all rates below `tau`."""
    if not 0 < tau < 1 or not 0 <= x <= n:
        raise ValueError(f"no test of {x} bad sessions among {n} at a rate of {tau}")
    none = -n * math.log1p(-tau) if x == 0 else -math.inf
    below = special.betaln(x + 1, n - x + 1) + _log_upper(n - x + 1, x + 1, 1 - tau)
    return log_mean(none, float(below) - (x + 1) * math.log(tau) - (n - x) * math.log1p(-tau))


@lru_cache(maxsize=256)
def least_sessions(tolerated: float, beta: float) -> int:
    """The least sessions of a canary that prove it safe, where neither track has an error."""
    low, high = 0, 1
    while log_mean(0.0, log_e_below(0, high, tolerated)) < -math.log(beta) and high < 10**9:
        low, high = high, 2 * high
    while low + 1 < high:
        middle = (low + high) // 2
        enough = log_mean(0.0, log_e_below(0, middle, tolerated)) >= -math.log(beta)
        low, high = (low, middle) if enough else (middle, high)
    return high


def log_mean(first: float, second: float) -> float:
    """ln of the mean of two e-values, which is one again."""
    high, low = max(first, second), min(first, second)
    return high + math.log1p(math.exp(low - high)) - math.log(2)


@lru_cache(maxsize=4096)
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

    Exact to 1e-6, by following the distribution of the count over the times at which 1, 2, … events would
    signal. Of a thousand events it takes seconds: none for an event loop.
    """
    low, high = 0.0, 60.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if _signals(middle, horizon) > alpha else (low, middle)
    return high


def _signals(critical: float, horizon: float) -> float:
    """P(the statistic reaches `critical` before `horizon` events are expected | the known rate)."""
    quiet = np.ones(1)  # P(no signal so far, and so many events: `least`, one more, …)
    before, n, least = 0.0, 0, 0
    while before < horizon:
        n += 1
        until = min(_latest(n, critical), horizon)
        # Beyond it the chance is under 1e-20: what is left out makes a signal likelier, if anything.
        likely = int(until - before + 12 * math.sqrt(until - before)) + 40
        quiet = np.convolve(quiet, _poisson(np.arange(min(n - least, likely)), until - before))[: n - least]
        few = int(np.argmax(quiet > 1e-20))
        quiet, least, before = quiet[few:], least + few, until
    return 1.0 - float(quiet.sum())


def _poisson(counts: np.ndarray, mean: float) -> np.ndarray:
    """P(a Poisson variable is each of `counts`). Not scipy.stats', whose import takes seconds."""
    return np.asarray(np.exp(special.xlogy(counts, mean) - mean - special.gammaln(counts + 1)))


def _latest(n: int, critical: float) -> float:
    """The largest expectation at which n events still signal: (mu - n) + n ln(n / mu) = critical, mu < n."""
    # With w = -mu/n: w e^w = -exp(-1 - critical/n), the principal branch of Lambert's W.
    return float(-n * special.lambertw(-math.exp(-1 - critical / n)).real)

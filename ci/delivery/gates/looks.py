"""Evidence look by look: the canary's bad sessions against stable's, by the share that it had in each look.

The closed form of ci.delivery.gates.processes takes one share for all events. Where the share drifts while
the rate of both tracks changes, a pooled one cries wolf. Here each look has its own, and the mixture is over
theta, the ratio of the canary's rate to stable's, which is the same thing in all looks:

    E = integral over the prior of  prod_t [p_t(theta)/p_t(theta0)]^x_t [q_t(theta)/q_t(theta0)]^y_t

with p_t(theta) = theta rho_t / (1 - rho_t + theta rho_t) the canary's share of the bad sessions of look t,
q_t = 1 - p_t, rho_t its share of all sessions, theta0 the most that the null hypothesis allows. Under any
theta <= theta0, at any rate and however that changes, it does not grow on average. The prior is that of the
closed form at the intended weight, so that both agree where the share is as intended.

Given the sessions, bad ones that are not rare vary less than that assumes. Where they were not in the
looks before, a look is a 2x2 table instead (Turner, Ly & Grünwald, arXiv:2106.02693): on each node the
likelihood of two rates against that of the pair in the null hypothesis which is closest to them. Which of the
two it is, and with which rates, was known before the look, so that either is a factor of one e-process.

The integral is a sum over fixed nodes whose weights add up to 1: an e-process whatever the error of the
quadrature, and a look costs as much as there are nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ci.delivery.gates.processes import K, with_margin

__all__ = ["Evidence", "Process", "from_any_step"]

_NODES = 128
_COMMON, _KNOWN = 0.1, 50
"""From which rate of stable's on bad sessions are not rare, and by how many of its sessions that is known."""
_BURST = 2
"""Bad sessions of a pod in a look, at least, that count in the mode for bursts."""
_FURTHEST = 14.0
"""ln of the largest ratio to the null's that is thought of."""
_Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Grid:
    """Nodes in v = ln(theta / theta0), and the prior on them."""

    v: _Numbers
    theta: _Numbers
    log_prior: _Numbers
    theta0: float


@lru_cache(maxsize=256)
def _grid(weight: float, margin: float) -> _Grid:
    """The prior of the closed form, Beta(k p0, k (1 - p0)) on the share p > p0, p0 that of the null.

    v = 14 u^2, Gauss-Legendre in u: dense where theta is close to theta0.
    """
    u, gauss = np.polynomial.legendre.leggauss(_NODES)
    u = (u + 1) / 2
    v, theta0, p0 = _FURTHEST * u**2, 1 + margin, with_margin(weight, margin)
    theta = theta0 * np.exp(v)
    log_p = np.log(theta * weight) - np.log1p(weight * (theta - 1))
    log_q = math.log1p(-weight) - np.log1p(weight * (theta - 1))
    # dp = p (1 - p) dv and dv = 28 u du, of which constants fall out.
    prior = np.log(gauss * u) + K * p0 * log_p + K * (1 - p0) * log_q
    return _Grid(v=v, theta=theta, log_prior=prior - _log_sum(prior), theta0=theta0)


def _log_sum(logs: _Numbers) -> float:
    high = logs.max()
    return float(high + math.log(np.exp(logs - high).sum()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Process:
    """One e-process: against "the first track's rate is at most 1 + margin times the other's"."""

    grid: _Grid
    seen: _Numbers
    """ln of the likelihood ratio on each node."""

    @classmethod
    def begin(cls, *, weight: float, margin: float) -> Self:
        """Before the first look, where the first track is meant to have `weight` of the sessions (0 to 1)."""
        if not 0 < weight < 1 or not -1 < margin < math.inf:
            raise ValueError(f"no test at a weight of {weight} with a margin of {margin}")
        return cls(grid=_grid(weight, margin), seen=np.zeros(_NODES))

    def look(self, x: int, y: int, rho: float) -> Self:
        """One more look: x bad sessions of the first track, y of the other; rho is the first one's share."""
        if not 0 <= rho <= 1 or x < 0 or y < 0 or (x and not rho) or (y and rho == 1):
            raise ValueError(f"no test of {x} against {y} events at a share of {rho}")
        if not x + y or rho in (0, 1):
            return self
        grid = self.grid
        among = np.log1p(rho * (grid.theta - 1)) - math.log1p(rho * (grid.theta0 - 1))
        return type(self)(grid=grid, seen=self.seen + (x * grid.v - (x + y) * among))

    def table(self, x: int, n: float, y: int, m: float, rate: float) -> Self:
        """One more look, where bad sessions are not rare: x of n of the first track, y of m of the other.

        `rate`, under 1, is what was known of the other's before.

        With a pair (a*, b*) of rates and (a0, b0), the closest to it (Kullback-Leibler, by sessions) that has
        a0 <= g b0, g = 1 + margin, the likelihood ratio is 1 on average at most under every such pair: the
        logarithm of that mean is concave in the rates, and its gradient at (a0, b0) is that of the distance.
        """
        g = self.grid.theta0
        if g * rate >= 1:
            return self
        odds = g * rate / (1 - g * rate) * np.exp(self.grid.v)
        a = np.minimum(odds / (1 + odds), 1 - 1e-12)
        # The closest pair is on the line a0 = g t, b0 = t, where g (n + m) t^2 - q t + bad = 0.
        bad = n * a + m * rate
        q = bad * (1 + g) + n * (1 - a) * g + m * (1 - rate)
        t = 2 * bad / (q + np.sqrt(np.maximum(q * q - 4 * g * (n + m) * bad, 0.0)))
        ratio = x * np.log(a / (g * t)) + (n - x) * np.log((1 - a) / (1 - g * t))
        ratio += y * np.log(rate / t) + (m - y) * np.log((1 - rate) / (1 - t))
        return type(self)(grid=self.grid, seen=self.seen + ratio)

    @property
    def log_e(self) -> float:
        """ln E."""
        return _log_sum(self.grid.log_prior + self.seen)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What the looks of one bake say of one metric. Exposure is sessions, or pod-hours."""

    worse: Process
    """Against "the canary is no worse", by more than the margin."""
    better: Process
    """Against "the canary is worse by `harm` or more", for all that it may be instead."""
    harm: float
    tables: bool = False
    """Whether exposure is a count, of which the bad ones are a part that may be large."""
    log_ratio: float = 0.0
    """The same, for "it is as stable is"."""
    canary_bad: int = 0
    canary: float = 0.0
    stable_bad: int = 0
    stable: float = 0.0
    beyond: tuple[int, int] = (0, 0)
    """Bad ones of canary and stable that are in no evidence of harm, but in that of safety."""
    open: tuple[int, float, int, float] = field(default=(0, 0.0, 0, 0.0))
    """What came since the last look that had both tracks: they are scraped one after the other."""
    open_beyond: tuple[int, int] = (0, 0)

    @classmethod
    def begin(cls, *, weight: float, margin: float, harm: float, tables: bool = False) -> Self:
        """Before the first look. `weight` is the canary's intended share of the exposure (0 to 1)."""
        return cls(
            tables=tables,
            worse=Process.begin(weight=weight, margin=margin),
            better=Process.begin(weight=1 - weight, margin=1 / (1 + harm) - 1),
            harm=harm,
        )

    def look(
        self,
        canary_bad: int,
        canary: float,
        stable_bad: int,
        stable: float,
        *,
        share: float = 0.0,
        beyond: tuple[int, int] = (0, 0),
    ) -> Self:
        """One more look: what came since the one before.

        `share`: the canary's of what is bad by no fault of it, where that is more than of exposure (0 to 1);
        it makes harm harder to show, and safety no easier. `beyond`: bad ones more, of canary and stable,
        that show no harm and have to be in a proof of safety.

        A look in which only one track had exposure says nothing, and its bad sessions would be lost: it is
        one with the look after it. When it ends depends on the exposure alone, so the null is as it was.
        """
        new = (canary_bad, canary, stable_bad, stable)
        if not all(math.isfinite(one) and one >= 0 for one in new):
            raise ValueError(f"no look has {canary_bad} of {canary} against {stable_bad} of {stable}")
        x, n, y, m = (old + one for old, one in zip(self.open, new, strict=True))
        now = replace(
            self,
            canary_bad=self.canary_bad + canary_bad,
            canary=self.canary + canary,
            stable_bad=self.stable_bad + stable_bad,
            stable=self.stable + stable,
            beyond=(self.beyond[0] + beyond[0], self.beyond[1] + beyond[1]),
            open=(int(x), n, int(y), m),
            open_beyond=(self.open_beyond[0] + beyond[0], self.open_beyond[1] + beyond[1]),
        )
        if not n or not m:
            return now
        own = n / (n + m)  # what proves it safe goes by sessions alone: a larger share would excuse harm
        all_x, all_y = int(x) + now.open_beyond[0], int(y) + now.open_beyond[1]
        ratio = (all_x + all_y) * math.log1p(own * self.harm) - all_x * math.log1p(self.harm)
        return replace(
            now,
            worse=self._worse(int(x), n, int(y), m, max(own, share)),
            better=self.better.look(all_y, all_x, 1 - own),
            log_ratio=self.log_ratio + ratio,
            open=(0, 0.0, 0, 0.0),
            open_beyond=(0, 0),
        )

    def _worse(self, x: int, n: float, y: int, m: float, rho: float) -> Process:
        """By a table where stable's bad sessions were not rare in the looks before."""
        bad, whole = self.stable_bad - self.open[2], self.stable - self.open[3]
        if self.tables and whole >= _KNOWN and bad >= _COMMON * whole and x <= n and y <= m:
            return self.worse.table(x, n, y, m, (bad + 0.5) / (whole + 1))
        return self.worse.look(x, y, rho)

    def of_pods(self, came: Iterable[tuple[str, int, int]], pods: tuple[int, int]) -> Self:
        """One more look, in the mode for bursts: pod by pod its track, bad sessions, and all.

        Of a pod's sessions so many count as bad at most, however many were. `pods`: how many canary and
        stable have. A pod that fails for some seconds is as likely the canary's as it has pods, which may be
        more than its part of the sessions: the larger of both is its share. Measured, not proved.

        For the proof of safety all of the canary's count, and of a pod of stable's no more than its rate
        makes likely: what is left out makes the proof harder, so that it stays one.
        """
        rate = (self.stable_bad + self.beyond[1] + 0.5) / (self.stable + 1)
        counts, beyond = {"canary": [0, 0], "stable": [0, 0]}, {"canary": 0, "stable": 0}
        for track, bad, whole in came:
            counted = min(bad, max(_BURST, whole // 10))
            likely = int(whole * rate + 4 * math.sqrt(whole * rate)) + 1
            counts[track][0] += counted
            counts[track][1] += whole
            beyond[track] += max(0, (bad if track == "canary" else min(bad, likely)) - counted)
        share = pods[0] / sum(pods) if all(pods) else 0.0
        more = (beyond["canary"], beyond["stable"])
        return self.look(*counts["canary"], *counts["stable"], share=share, beyond=more)

    def until(self, canary_bad: int, canary: float, stable_bad: int, stable: float) -> Self:
        """One more look, by what has come since the bake began. Counts that fell are none."""
        x, y = canary_bad - self.canary_bad, stable_bad - self.stable_bad
        n, m = canary - self.canary, stable - self.stable
        return self if min(x, n, y, m) < 0 else self.look(x, n, y, m)


def from_any_step(steps: Sequence[float], planned: int) -> float:
    """ln E of a fault that may begin in any of the planned steps, by the ln E of those that have begun.

    The mean over where it begins of the product of the factors from there on (1 for a step to come): clean
    steps cost a fault of a later one nothing but the factor `planned`.
    """
    products, product = [0.0] * (planned - len(steps)), 0.0
    for step in reversed(steps):
        product += step
        products.append(product)
    high = max(products)
    if not math.isfinite(sum(products)):
        return sum(products)  # NaN stays NaN
    return high + math.log(sum(math.exp(one - high) for one in products)) - math.log(planned)

"""What was promoted is watched on: between two waves, and for a while after the last.

There is no canary any more to compare with: what stable's users get is held against what the environment
tolerates, and against what they got of the release before while the canary baked, by the same test as a
canary's (ci.delivery.gates), so that it may be asked at every look. It does harm when it is over both: a
release that mends a bad one is not taken back for what it has not mended yet. No data is no harm here: that a
release is well was shown before. Its pods have to stay up, too (ci.delivery.promotion.upright).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ci.concurrency import both, together
from ci.delivery import gates, metrics
from ci.delivery.cluster import Pod
from ci.delivery.findings import Finding, Tally, Verdict
from ci.delivery.ledger import Action, Entry, Kind
from ci.delivery.metrics import NoData, Reading, Window
from ci.delivery.promotion.upright import Upright, missing
from ci.delivery.site import Site
from ci.environments import Environment
from ci.errors import SystemUnavailable

__all__ = ["Watch", "stands", "stood"]


@dataclass
class Watch:
    """Looks at these targets, which have a new release since a moment ago."""

    environment: Environment
    sites: Sequence[Site]
    before: Mapping[str, Tally] = field(default_factory=dict)
    """By target: what the release before had (see `stood`)."""

    def __post_init__(self) -> None:
        self._windows: dict[str, Window] = {}
        self._pods = {site.target.name: Upright(self.environment.canary) for site in self.sites}

    @property
    def blind(self) -> str:
        """The targets that were looked at and of which nothing was ever seen, with why; empty for none."""
        unseen = {name: one.hole for name, one in sorted(self._windows.items()) if one.hole and not one.last}
        return "; ".join(f"{name} ({why})" for name, why in unseen.items())

    async def look(self) -> tuple[str, Finding] | None:
        """The first target that is shown to be harmed, or else whose pods are not well; None: all are."""
        found = [
            (name, finding)
            for name, findings in await together(self._look(site) for site in self.sites)
            for finding in findings
        ]
        harmed = [one for one in found if one[1].verdict is Verdict.FAIL]
        return next(iter(harmed or [one for one in found if one[1].metric == "pods"]), None)

    async def _look(self, site: Site) -> tuple[str, list[Finding]]:
        name = site.target.name
        reading, pods, away = await self._read(site)
        before = self._windows.get(name)
        self._windows[name] = metrics.begin(reading) if before is None else metrics.advance(before, reading)
        found = [stands(self._windows[name].sessions, self.environment, self.before.get(name))]
        if pods is not None:
            found.append(self._pods[name].look(pods, away, time.monotonic()))
        return name, [one for one in found if one is not None]

    async def _read(self, site: Site) -> tuple[Reading | NoData, tuple[Pod, ...] | None, Mapping[str, str]]:
        try:
            pods = await site.pods()
        except SystemUnavailable as error:
            return NoData(time=time.time(), reason=error.message), None, {}
        ready = [pod.name for pod in pods if pod.serves]
        stale = self.environment.gates.stale
        reading, away = await both(
            metrics.read(
                site.prometheus, site.target.namespace, stale=stale, now=time.time(), expected=ready
            ),
            missing(site.cluster, site.target.namespace),
        )
        return reading, pods, away


def stood(entries: Iterable[Entry], promotion: str) -> dict[str, Tally]:
    """By target: the sessions of what was stable while that promotion's canary baked beside it."""
    found: dict[str, Tally] = {}
    for entry in entries:
        if entry.promotion == promotion and entry.action is Action.STEP and entry.kind is Kind.OUTCOME:
            for one in entry.findings:
                if one.metric == "errors" and one.tally is not None:
                    was = found.get(entry.target, Tally())
                    found[entry.target] = Tally(
                        stable_bad=was.stable_bad + one.tally.stable_bad,
                        stable=was.stable + one.tally.stable,
                    )
    return found


def stands(tally: Tally | None, environment: Environment, before: Tally | None = None) -> Finding | None:
    """Whether stable's sessions stand; None when there is no data. Pure.

    They do not when their rate is over `tolerated` and over (1 + margin) times that of `before`: both
    e-values have to say so, hence the least of the two.
    """
    if tally is None or not tally.stable:
        return None
    limits = environment.gates
    alpha = limits.alpha / len(environment.targets)
    tolerated = limits.errors.tolerated
    bad, good = tally.stable_bad, tally.stable - tally.stable_bad
    log_harm = gates.log_e_more(bad, good, tolerated)
    reason = f"{bad} of {tally.stable} sessions ({bad / tally.stable:.2%}), {tolerated:.1%} may be"
    if before is not None and before.stable:
        share = gates.with_margin(tally.stable / (tally.stable + before.stable), limits.errors.margin)
        log_harm = min(log_harm, gates.log_e_more(bad, before.stable_bad, share))
        reason += f", {before.stable_bad / before.stable:.2%} were before"
    fail_at = -math.log(alpha)
    return Finding(
        metric="errors",
        verdict=Verdict.FAIL if log_harm >= fail_at else Verdict.INCONCLUSIVE,
        reason=reason,
        tally=tally,
        log_harm=log_harm,
        log_fail_at=fail_at,
    )

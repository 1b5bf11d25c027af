"""What was promoted is watched on: between two waves, and for a while after the last.

There is no canary any more to compare with: what stable's users get is held against what the environment
tolerates, by the same test as a canary's (ci.delivery.gates), so that it may be asked at every look. No data
is no harm here: that a release is well was shown before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ci.concurrency import together
from ci.delivery import gates, metrics
from ci.delivery.gates import Finding, Tally, Verdict
from ci.delivery.metrics import NoData, Reading, Window
from ci.delivery.site import Site
from ci.environments import Environment
from ci.errors import SystemUnavailable

__all__ = ["Watch", "stands"]


@dataclass
class Watch:
    """Looks at these targets, which have a new release since a moment ago."""

    environment: Environment
    sites: Sequence[Site]

    def __post_init__(self) -> None:
        self._windows: dict[str, Window] = {}

    async def look(self) -> tuple[str, Finding] | None:
        """The first target that is shown to be harmed, and the numbers; None while none is."""
        for name, finding in await together(self._look(site) for site in self.sites):
            if finding is not None and finding.verdict is Verdict.FAIL:
                return name, finding
        return None

    async def _look(self, site: Site) -> tuple[str, Finding | None]:
        name = site.target.name
        reading = await self._read(site)
        before = self._windows.get(name)
        self._windows[name] = metrics.begin(reading) if before is None else metrics.advance(before, reading)
        return name, stands(self._windows[name].sessions, self.environment)

    async def _read(self, site: Site) -> Reading | NoData:
        try:
            pods = await site.pods()
        except SystemUnavailable as error:
            return NoData(time=time.time(), reason=error.message)
        ready = [pod.name for pod in pods if pod.ready and pod.runs and pod.app.endswith("api")]
        stale = self.environment.gates.stale
        return await metrics.read(
            site.prometheus, site.target.namespace, stale=stale, now=time.time(), expected=ready
        )


def stands(tally: Tally | None, environment: Environment) -> Finding | None:
    """Whether stable's sessions stand against what is tolerated; None when there is no data. Pure."""
    if tally is None or not tally.stable:
        return None
    limits = environment.gates
    alpha = limits.alpha / len(environment.targets)
    tolerated = limits.errors.tolerated
    bad, good = tally.stable_bad, tally.stable - tally.stable_bad
    log_harm = gates.log_e_more(bad, good, tolerated)
    fail_at = -math.log(alpha)
    return Finding(
        metric="errors",
        verdict=Verdict.FAIL if log_harm >= fail_at else Verdict.INCONCLUSIVE,
        reason=f"{bad} of {tally.stable} sessions ({bad / tally.stable:.2%}), {tolerated:.1%} may be",
        tally=tally,
        log_harm=log_harm,
        log_fail_at=fail_at,
    )

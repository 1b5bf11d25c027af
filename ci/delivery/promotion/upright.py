"""Whether the pods of what was promoted stay up: none restarts again and again, none is away for good.

Unlike a canary's restarts (ci.delivery.gates), which are held against stable's, there is nothing to compare
with. So only what is beyond doubt is harm: a pod that has restarted three times, a service without a ready
pod for longer than a gateway takes to follow, or anything not ready, or missing, for longer than an
installation may take. A pod that an autoscaler adds, or a node that is drained, is neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ci.delivery.cluster import Cluster, Pod
from ci.delivery.findings import Finding, Verdict
from ci.environments import Canary
from ci.errors import SystemUnavailable

__all__ = ["Upright", "missing"]

_RESTARTS = 3


@dataclass
class Upright:
    """Of stable on one target, look by look."""

    patience: Canary
    _before: dict[str, int] | None = field(default=None, init=False)
    """The restarts of the pods that were there at the first look."""
    _since: float | None = field(default=None, init=False)

    def look(self, pods: Iterable[Pod], missing: str, now: float) -> Finding | None:
        """None while all is well; INCONCLUSIVE while that may pass. `now`: a steady clock, seconds.

        `missing`: which replicas are not there (see `missing`), in words.
        """
        stable = [pod for pod in pods if pod.track == "stable" and not (pod.ended or pod.leaving)]
        if self._before is None:
            self._before = {pod.name: pod.restarts for pod in stable}
        for pod in stable:
            if (times := pod.restarts - self._before.get(pod.name, 0)) >= _RESTARTS:
                why = f": {pod.trouble}" if pod.trouble else ""
                return _finding(Verdict.FAIL, f"{pod.name} has restarted {times} times{why}")
        down = _down(stable)
        wrong = down or _unready(stable) or missing
        if not wrong:
            self._since = None
            return None
        self._since = now if self._since is None else self._since
        limit, had = self.patience.follow if down else self.patience.install, now - self._since
        if had > limit:
            return _finding(Verdict.FAIL, f"{wrong}, for {had:.0f} s")
        return _finding(Verdict.INCONCLUSIVE, wrong)


def _finding(verdict: Verdict, reason: str) -> Finding:
    return Finding(metric="pods", verdict=verdict, reason=reason)


def _down(stable: Sequence[Pod]) -> str:
    """The service that nobody answers for; empty when there is none."""
    if not stable:
        return "no pod runs"
    gone = {pod.app for pod in stable} - {pod.app for pod in stable if pod.ready}
    return f"no pod of {min(gone)} is ready" if gone else ""


def _unready(stable: Sequence[Pod]) -> str:
    away = next((pod for pod in stable if not pod.ready), None)
    return "" if away is None else f"{away.name} is not ready" + (f": {away.trouble}" if away.trouble else "")


async def missing(cluster: Cluster, namespace: str) -> str:
    """Which of stable's Deployments has fewer ready pods than it wants; empty where that may not be read."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    try:
        found = await cluster.objects(path, labels="va.dev/track=stable")
    except SystemUnavailable:
        return ""
    for one in found or ():
        wanted, ready = one["spec"].get("replicas", 1), (one.get("status") or {}).get("readyReplicas") or 0
        if ready < wanted:
            return f"{one['metadata']['name']} has {ready} of {wanted} pods"
    return ""

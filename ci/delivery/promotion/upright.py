"""Whether the pods of what was promoted stay up: none restarts again and again, none is away for good.

Unlike a canary's restarts (ci.delivery.gates), which are held against stable's, there is nothing to compare
with. So only what is beyond doubt is harm: a pod that has restarted three times, a service without a ready
pod for longer than a gateway takes to follow, or anything not ready, or missing, for longer than an
installation may take. A pod that an autoscaler adds, or a node that is drained, is neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    _since: dict[str, float] = field(default_factory=dict, init=False)
    """Since when each that is not well has been so: services, pods, Deployments."""

    def look(self, pods: Iterable[Pod], missing: Mapping[str, str], now: float) -> Finding | None:
        """None while all is well; INCONCLUSIVE while that may pass. `now`: a steady clock, seconds.

        Each is held against its own limit from when it went itself: nodes that are renewed one after the
        other take pods away for an hour, and none of them for long. `missing`: as `missing` below says it.
        """
        stable = [pod for pod in pods if pod.track == "stable" and not (pod.ended or pod.leaving)]
        if self._before is None:
            self._before = {pod.name: pod.restarts for pod in stable}
        for pod in stable:
            if (times := pod.restarts - self._before.get(pod.name, 0)) >= _RESTARTS:
                why = f": {pod.trouble}" if pod.trouble else ""
                return _finding(Verdict.FAIL, f"{pod.name} has restarted {times} times{why}")
        follow, install = self.patience.follow, self.patience.install
        wrong = {who: (words, follow) for who, words in _down(stable).items()}
        wrong |= {who: (words, install) for who, words in (_unready(stable) | dict(missing)).items()}
        self._since = {who: self._since.get(who, now) for who in wrong}
        for who, (words, limit) in wrong.items():
            if (had := now - self._since[who]) > limit:
                return _finding(Verdict.FAIL, f"{words}, for {had:.0f} s")
        return next((_finding(Verdict.INCONCLUSIVE, words) for words, _ in wrong.values()), None)


def _finding(verdict: Verdict, reason: str) -> Finding:
    return Finding(metric="pods", verdict=verdict, reason=reason)


def _down(stable: Sequence[Pod]) -> dict[str, str]:
    """The services that nobody answers for, and that in words."""
    if not stable:
        return {"every service": "no pod runs"}
    gone = {pod.app for pod in stable} - {pod.app for pod in stable if pod.ready}
    return {f"service {app}": f"no pod of {app} is ready" for app in sorted(gone)}


def _unready(stable: Sequence[Pod]) -> dict[str, str]:
    return {
        f"pod {pod.name}": f"{pod.name} is not ready" + (f": {pod.trouble}" if pod.trouble else "")
        for pod in stable
        if not pod.ready
    }


async def missing(cluster: Cluster, namespace: str) -> dict[str, str]:
    """Which of stable's Deployments have fewer pods than they want, and that in words.

    Pods that are not even made, for a quota or a webhook: one that is made and not ready is seen itself.
    Empty where Deployments may not be read.
    """
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    try:
        found = await cluster.objects(path, labels="va.dev/track=stable")
    except SystemUnavailable:
        return {}
    short = {}
    for one in found or ():
        name, wanted = one["metadata"]["name"], one["spec"].get("replicas", 1)
        if (made := (one.get("status") or {}).get("replicas") or 0) < wanted:
            short[f"Deployment {name}"] = f"{name} has {made} of {wanted} pods"
    return short

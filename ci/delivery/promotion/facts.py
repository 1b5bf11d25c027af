"""What a target is now, asked from its cluster: no process, no lock, nobody is waited for.

`look` is one round of questions. `drift` is a second one, for a person who asks: has the cluster still got
what Helm installed? It compares the manifest that Helm keeps with what is there: an image that was changed
by hand, replicas outside their autoscaler's bounds, an object that was deleted. Whatever else a manifest says
may be changed by controllers in good right, and is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml

from ci.concurrency import both, together
from ci.delivery import traffic
from ci.delivery.revisions import Revision, newest
from ci.delivery.tracks import CANARY, SPLIT, STABLE
from ci.errors import SystemUnavailable

if TYPE_CHECKING:  # an order is given from what the ledger says, without a Kubernetes client
    from ci.delivery.cluster import Cluster, Pod

__all__ = ["Drift", "Facts", "canary_ready", "differences", "drift", "look", "scaled", "things"]

_Object = Mapping[str, Any]
_CLUSTERWIDE = frozenset({"PriorityClass", "Namespace", "ClusterRole", "ClusterRoleBinding"})
_PODS_OF = {"Deployment", "StatefulSet", "DaemonSet"}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One look at a target."""

    stable: Revision | None
    """Helm's newest revision of that track, whatever its status; None when nothing is installed."""
    canary: Revision | None
    weight: int
    """Percent of the requests that the route gives to the canary."""
    on_stable: bool
    """Whether the route names the canary nowhere; so without a route."""
    pods: tuple[Pod, ...] = field(default=(), repr=False)

    @property
    def runs(self) -> str:
        """The release that is stable; empty when there is none, or somebody else's."""
        return self.stable.release if self.stable else ""

    @property
    def canary_ready(self) -> bool:
        """Whether each service of the canary that the route would give traffic has a pod to answer it."""
        return canary_ready(self.pods)


def canary_ready(pods: Iterable[Pod]) -> bool:
    """Whether each of the canary's services has a ready pod; what is not rendered there (web) has none."""
    there = [pod for pod in pods if pod.track == "canary" and not (pod.ended or pod.leaving)]
    parts = {service.removeprefix(f"{CANARY}-") for service in SPLIT.values()}
    wanted = {pod.app for pod in there} & parts
    return "api" in wanted and wanted <= {pod.app for pod in there if pod.ready}


async def look(cluster: Cluster, namespace: str) -> Facts:
    """Ask all of it at once; SystemUnavailable when the cluster does not answer."""
    (revisions, pods), route = await both(
        both(cluster.helm_revisions(namespace), cluster.pods(namespace)),
        cluster.route(traffic.ROUTE, namespace),
    )
    return Facts(
        stable=newest(revisions, STABLE),
        canary=newest(revisions, CANARY),
        weight=traffic.canary_weight(route, SPLIT) if route else 0,
        on_stable=route is None or traffic.on_stable(route, SPLIT),
        pods=pods,
    )


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One thing that is not as Helm installed it."""

    thing: str
    """`Deployment voice-api`."""
    what: str
    """`image`, `replicas` or `deleted`."""
    wanted: str
    found: str

    def __str__(self) -> str:
        if self.what == "deleted":
            return f"{self.thing} is not there any more"
        return f"{self.thing} has {self.what} {self.found}, not {self.wanted}"


async def drift(cluster: Cluster, namespace: str, revisions: Iterable[Revision | None]) -> tuple[Drift, ...]:
    """Where the cluster has not got what these revisions installed. What may not be read is not judged."""
    wanted = [thing for one in revisions if one is not None for thing in things(one.manifest)]
    paths = sorted({_path(thing, namespace) for thing in wanted})

    async def listed(path: str) -> Mapping[str, _Object] | None:
        whole = path.rpartition("/")[2] in {_plural(kind) for kind in _PODS_OF}
        try:
            found = await cluster.objects(path, names_only=not whole)
        except SystemUnavailable as error:
            if "forbidden" in error.message:
                return None
            raise
        return {one["metadata"]["name"]: one for one in found or ()}

    found = dict(zip(paths, await together(listed(path) for path in paths), strict=True))
    return tuple(
        differences(wanted, {path: one for path, one in found.items() if one is not None}, namespace)
    )


def differences(
    wanted: Iterable[_Object], found: Mapping[str, Mapping[str, _Object]], namespace: str
) -> Iterator[Drift]:
    """What of `wanted` is not so in what was `found`: by the path of its kind, by name. Pure."""
    objects = list(wanted)
    bounds = dict(filter(None, map(scaled, objects)))
    for thing in objects:
        path, name = _path(thing, namespace), thing["metadata"]["name"]
        if path not in found:
            continue
        words = f"{thing['kind']} {name}"
        there = found[path].get(name)
        if there is None:
            yield Drift(thing=words, what="deleted", wanted="there", found="nothing")
        elif thing["kind"] in _PODS_OF:
            yield from _images(words, thing, there)
            yield from _replicas(words, thing, there, bounds.get((thing["kind"], name)))


def _images(words: str, wanted: _Object, there: _Object) -> Iterator[Drift]:
    now = dict(_containers(there))
    for name, image in _containers(wanted):
        if now.get(name) != image:
            which = f"{words} ({name})" if name != words.rpartition("-")[2] else words
            yield Drift(thing=which, what="image", wanted=image, found=now.get(name) or "none")


def _containers(thing: _Object) -> Iterator[tuple[str, str]]:
    spec = thing["spec"]["template"]["spec"]
    for one in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        yield one["name"], one.get("image", "")


def _replicas(words: str, wanted: _Object, there: _Object, bounds: tuple[int, int] | None) -> Iterator[Drift]:
    if wanted["kind"] == "DaemonSet":
        return
    now = int(there["spec"].get("replicas", 1))
    asked = wanted["spec"].get("replicas")
    if bounds is not None:
        low, high = bounds
        if not low <= now <= high:
            yield Drift(thing=words, what="replicas", wanted=f"{low} to {high}", found=str(now))
    elif asked is not None and now != int(asked):
        yield Drift(thing=words, what="replicas", wanted=str(asked), found=str(now))


def scaled(thing: _Object) -> tuple[tuple[str, str], tuple[int, int]] | None:
    """Whose replicas an autoscaler decides, and between what: Kubernetes' own, or KEDA's."""
    spec = thing.get("spec") or {}
    of = spec.get("scaleTargetRef") or {}
    scaled = (of.get("kind", "Deployment"), of.get("name", ""))
    if thing["kind"] == "HorizontalPodAutoscaler":
        return scaled, (int(spec.get("minReplicas", 1)), int(spec["maxReplicas"]))
    if thing["kind"] == "ScaledObject":
        low = min(int(spec.get("minReplicaCount", 0)), int(spec.get("idleReplicaCount", 10**6)))
        return scaled, (low, int(spec.get("maxReplicaCount", 100)))
    return None


@lru_cache(maxsize=64)
def things(manifest: str) -> tuple[_Object, ...]:
    """The objects of a manifest, as Helm keeps one or renders it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C it takes a tenth of the time
    try:
        found = list(yaml.load_all(manifest, Loader=loader))
    except yaml.YAMLError as error:
        raise SystemUnavailable("a manifest of Helm's is no YAML") from error
    return tuple(one for one in found if isinstance(one, dict) and one.get("kind") and one.get("metadata"))


def _path(thing: _Object, namespace: str) -> str:
    version, kind = thing["apiVersion"], thing["kind"]
    top = f"/apis/{version}" if "/" in version else f"/api/{version}"
    if kind in _CLUSTERWIDE:
        return f"{top}/{_plural(kind)}"
    return f"{top}/namespaces/{thing['metadata'].get('namespace') or namespace}/{_plural(kind)}"


def _plural(kind: str) -> str:
    """As Kubernetes names resources: `networkpolicies`, `ingresses`, `gateways`."""
    name = kind.lower()
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    return f"{name[:-1]}ies" if re.search(r"[^aeiou]y$", name) else f"{name}s"

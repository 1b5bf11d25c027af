"""Which parts a platform has, in an order in which each comes after those it needs."""

from __future__ import annotations

from collections.abc import Sequence

from ci.errors import BadInput
from ci.platform.admission import admission, signing_key
from ci.platform.cluster import CLUSTER_TOOLS, cluster
from ci.platform.discovery import discovery
from ci.platform.gateway import gateway
from ci.platform.instance import ENVIRONMENTS, REGIONS, Instance
from ci.platform.livekit import livekit
from ci.platform.network import network
from ci.platform.node import node
from ci.platform.objects import objects
from ci.platform.part import Part
from ci.platform.prometheus import prometheus
from ci.platform.redis import redis
from ci.platform.registry import registry
from ci.platform.replicator import replicator
from ci.platform.stores import NAMESPACES, store_parts, stores
from ci.platform.traffic_manager import traffic_manager

__all__ = ["all_parts", "chosen", "tools_of"]


def all_parts(place: Instance) -> tuple[Part, ...]:
    """Every part: three registries and who replicates, the clusters, what is beside them, and for `va dr`."""
    registries = [registry(place, name) for name in REGIONS]
    return (
        *(network(region) for region in place.regions),
        *(host for host, _ in registries),
        replicator(place),
        *(node(place, region) for region in place.regions),
        *(nodes for _, nodes in registries),
        *(part for region in place.regions for part in cluster(place, region)),
        *(redis(place, environment) for environment in ENVIRONMENTS),
        livekit(place),
        *(objects(place, region) for region in place.regions),
        signing_key(place),
        admission(place),
        *(discovery(place, region) for region in place.regions),
        *(prometheus(place, region) for region in place.regions),
        *(gateway(place, region) for region in place.regions),
        *([traffic_manager(place)] if place.apart else []),
        *(part for name in NAMESPACES for part in store_parts(place, stores(place, name))),
    )


def chosen(parts: Sequence[Part], names: Sequence[str] | None) -> list[Part]:
    """The named parts and, before them, all they need; BadInput for an unknown name.

    For None all parts, without those that have to be asked for.
    """
    known = {part.name: part for part in parts}
    if unknown := [name for name in names or () if name not in known]:
        raise BadInput(f"the platform has no part {unknown[0]!r}; it has {', '.join(known)}")
    wanted: set[str] = set()

    def want(name: str) -> None:
        if name not in wanted:
            wanted.add(name)
            for need in known[name].needs:
                want(need)

    for name in [part.name for part in parts if not part.on_request] if names is None else names:
        want(name)
    return [part for part in parts if part.name in wanted]


def tools_of(parts: Sequence[Part]) -> tuple[str, ...]:
    """What they run, in the order in which it is best built: the cluster's is the longest build."""
    needed = {tool for part in parts for tool in part.tools}
    return tuple(tool for tool in dict.fromkeys((*CLUSTER_TOOLS, *sorted(needed))) if tool in needed)

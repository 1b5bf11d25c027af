"""An architecture becomes modules: one template an area and region, in the order they are deployed.

Pure and deterministic: the same files give the same bytes, whoever renders them, wherever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from ci.architecture.model import Architecture
from ci.azure import access, cluster, data, edge, network, operations
from ci.azure.arm import Module, Resource
from ci.azure.cluster import group_parameter
from ci.errors import BadInput
from ci.files import write_whole
from ci.yamlfile import did_you_mean

__all__ = ["AREAS", "render", "write"]

Render = Callable[[Architecture, str], Iterable[Resource]]


def _once(resources: Callable[[Architecture], Iterable[Resource]]) -> Render:
    return lambda architecture, region: resources(architecture) if region == architecture.primary else ()


def _watch(architecture: Architecture, region: str) -> Iterable[Resource]:
    return operations.watch(architecture, region, month=_BUDGETS_SINCE)


_BUDGETS_SINCE = "2026-11"
"""The month budgets count from.

Rendering asks no clock; Azure takes an earlier month only for a budget it knows.
"""

AREAS: dict[str, Render] = {
    "identity": cluster.identities,
    "network": network.network,
    "links": network.links,
    "monitoring": operations.monitoring,
    "dashboards": _once(operations.dashboards),
    "vault": operations.vault,
    "registry": _once(operations.registry),
    "registry-endpoints": operations.registry_endpoints,
    "data": data.data,
    "replicas": data.replicas,
    "access": access.access,
    "edge": edge.edge,
    "front-door": _once(edge.front_door),
    "cluster": cluster.cluster,
    "cluster-access": access.cluster_access,
    "federation": cluster.federation,
    "watch": _watch,
}
"""What is rendered, in the order it is deployed: an area waits for the one before it in all regions."""


def render(architecture: Architecture, region: str | None = None) -> tuple[Module, ...]:
    """All modules, or those of one region; an area without resources in a region has none."""
    if region is not None and region not in architecture.regions:
        raise BadInput(
            f"{architecture.environment} has no region {region!r}",
            hint=did_you_mean(region, architecture.regions),
        )
    modules = []
    for area, resources in AREAS.items():
        for each in architecture.order:
            found = tuple(resources(architecture, each)) if region in (None, each) else ()
            if found:
                text = json.dumps(
                    [resource.body for resource in found] + [resource.name for resource in found]
                )
                modules.append(
                    Module(
                        area=area,
                        region=each,
                        group=network.group(architecture, each),
                        resources=found,
                        parameters=tuple(
                            one for one in parameters(architecture) if f"parameters('{one}')" in text
                        ),
                    )
                )
    return tuple(modules)


def parameters(architecture: Architecture) -> dict[str, str]:
    """Each template parameter and the reference that its value is read from when something is deployed."""
    found = {group_parameter(role): declared.group for role, declared in architecture.access.roles.items()}
    if architecture.registry.webhooks:
        found[operations.WEBHOOK_PARAMETER] = "env:VA_PUSH_WEBHOOK"
    return found


def write(modules: Iterable[Module], folder: Path) -> list[Path]:
    """Each module as `<region>/<number>-<area>.json`.

    Files of an earlier rendering that no longer belong are removed.
    """
    order = list(AREAS)
    files: dict[Path, str] = {}
    for module in modules:
        file = folder / module.region / f"{order.index(module.area):02}-{module.area}.json"
        files[file] = json.dumps(module.template(), indent=2, sort_keys=True) + "\n"
    for stale in set(folder.glob("*/[0-9][0-9]-*.json")) - set(files):
        stale.unlink()
    for file, text in files.items():
        write_whole(file, text)
    return sorted(files)

"""An architecture becomes modules: one template an area and region, in the order they are deployed.

Pure and deterministic: the same files give the same bytes, whoever renders them, wherever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from ci.architecture.model import Architecture
from ci.azure import access, cluster, data, edge, network, operations
from ci.azure.alerting import BUDGET_PARAMETER
from ci.azure.arm import Module, Resource
from ci.azure.cluster import group_parameter
from ci.azure.outputs import outputs
from ci.errors import BadInput
from ci.files import write_whole
from ci.yamlfile import did_you_mean

__all__ = ["AREAS", "render", "write"]

Render = Callable[[Architecture, str], Iterable[Resource]]


def _once(resources: Callable[[Architecture], Iterable[Resource]]) -> Render:
    return lambda architecture, region: resources(architecture) if region == architecture.primary else ()


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
    "watch": operations.watch,
}
"""What is rendered, in the order it is deployed: an area waits for the one before it in all regions."""


_IN_TURN = frozenset({"links", "replicas"})
"""Areas whose regions change one thing together: both networks of a peering, the server that is copied.

At once Azure refuses the second (AnotherOperationInProgress, ServerIsBusy; from experience, no page says it).
"""


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
                        in_turn=area in _IN_TURN,
                        outputs=outputs(architecture, area, each),
                    )
                )
    return tuple(modules)


def parameters(architecture: Architecture) -> dict[str, str]:
    """Each template parameter and the reference that its value is read from when something is deployed.

    `env:NAME` is a variable, `azure:…` is asked of Azure; an Entra group's id stands as it is.
    """
    found = {group_parameter(role): declared.group for role, declared in architecture.access.roles.items()}
    if architecture.registry.webhooks:
        found[operations.WEBHOOK_PARAMETER] = "env:VA_PUSH_WEBHOOK"
    found[BUDGET_PARAMETER] = "azure:the budget's own start, or this month"
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

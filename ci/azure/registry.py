"""The container registry as Azure Resource Manager knows it: replications, webhooks, retention.

ARM tells how a replication is set up and whether it works, never whether an image has arrived: that is asked
at each region's own endpoint (`va registry status`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from azure.core.exceptions import ResourceNotFoundError

from ci.azure.arm import REGIONAL_ENDPOINTS_API
from ci.azure.connection import Azure, call
from ci.concurrency import together
from ci.errors import BadInput, PipelineError
from ci.layout import Column, Page, Table, page, words

__all__ = ["RegionState", "RegistryState", "registry_state", "show_registry"]

_WELL = ("", "ready")


@dataclass(frozen=True, kw_only=True)
class RegionState:
    """The registry in one region. `problem` is empty when it is as declared and works."""

    region: str
    home: bool
    state: str
    """ARM's provisioning state; empty when there is no such replication."""
    status: str
    """What the replication says of itself: `Ready`, or what is wrong."""
    routed: bool
    """Whether the global endpoint sends anybody there."""
    zone_redundant: bool
    webhook: str
    """The name of the enabled webhook that tells of pushes arriving there; empty when there is none."""
    endpoint: str
    """The region's own endpoint; empty where `regional_endpoints` are off."""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class RegistryState:
    """The registry and its replications."""

    name: str
    login_server: str
    sku: str
    regional_endpoints: str
    """`Enabled`, `Disabled`, or `unknown` where this subscription's API is older than they are."""
    retention_days: int | None
    """Untagged manifests are removed after so many days; None: never, as pinning by digest needs it."""
    regions: tuple[RegionState, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is not as it should be, each with its place."""
        found = [f"{one.region}: {one.problem}" for one in self.regions if one.problem]
        if self.retention_days is not None:
            found.append(
                f"untagged manifests are removed after {self.retention_days} days: children of an index and "
                "what is attached to it have no tags"
            )
        return tuple(found)


async def registry_state(
    azure: Azure, *, group: str, name: str, home: str, replicas: Collection[str]
) -> RegistryState:
    """Ask ARM for the registry `name` in a resource group, declared at `home` with these replicas.

    BadInput when there is no such registry.
    """
    from azure.mgmt.containerregistry import ContainerRegistryManagementClient

    client = azure.client(ContainerRegistryManagementClient)
    preview = azure.client(ContainerRegistryManagementClient, api_version=REGIONAL_ENDPOINTS_API)

    async def regional_endpoints() -> str:
        try:
            found = await call(lambda: preview.registries.get(group, name), f"reading {name}")
        except (PipelineError, ResourceNotFoundError):
            return "unknown"
        return str((found.get("properties") or {}).get("regionalEndpoints") or "Disabled")

    async def listed(operations: Any, what: str) -> list[Any]:
        return await call(lambda: list(operations.list(group, name)), f"the {what} of {name}")

    try:
        registry = await call(lambda: client.registries.get(group, name), f"reading {name}")
    except ResourceNotFoundError as error:
        raise BadInput(
            f"there is no registry {name} in {group}", hint="va infra apply makes it; or another --env"
        ) from error
    found: list[Any] = await together(
        [
            listed(client.replications, "replications"),
            listed(client.webhooks, "webhooks"),
            regional_endpoints(),
        ]
    )
    replications, webhooks, regional = found
    by_region = {_region(one.location): one for one in replications}
    tell = {
        _region(one.location): str(one.name)
        for one in webhooks
        if _text(one.status).lower() != "disabled" and "push" in map(_text, one.actions or ())
    }
    regions = sorted({*by_region, *replicas, home}, key=lambda region: (region != home, region))
    retention = (registry.policies and registry.policies.retention_policy) or None
    return RegistryState(
        name=name,
        login_server=registry.login_server or f"{name}.azurecr.io",
        sku=_text(registry.sku.name) if registry.sku else "",
        regional_endpoints=regional,
        retention_days=retention.days if retention and _text(retention.status).lower() == "enabled" else None,
        regions=tuple(
            _state(
                region,
                # Azure lists the home region as a replication too; where it does not, the registry is it.
                by_region.get(region) or (registry if region == home else None),
                home=region == home,
                declared=region in {home, *replicas},
                webhook=tell.get(region, ""),
                endpoint="" if regional == "Disabled" else f"{name}.{region}.geo.azurecr.io",
            )
            for region in regions
        ),
    )


def show_registry(state: RegistryState) -> Page:
    """The registry's regions, for people."""
    table = Table(
        "region",
        "state",
        Column(name="status", rank=4),
        Column(name="routed", rank=1),
        Column(name="zones", rank=5),
        Column(name="webhook", rank=3),
        Column(name="endpoint", rank=2, below=True),
    )
    for one in state.regions:
        table.add(
            one.region + (" (home)" if one.home else ""),
            (one.state or "missing", "red" if one.problem else "green"),
            one.status or "-",
            "yes" if one.routed else ("no", "yellow"),
            "yes" if one.zone_redundant else "no",
            one.webhook or "-",
            one.endpoint or "-",
        )
    return page(
        words((state.login_server, "bold"), f" {state.sku}, regional endpoints {state.regional_endpoints}"),
        table,
        *((problem, "red") for problem in state.problems),
    )


def _state(
    region: str, found: Any, *, home: bool, declared: bool, webhook: str, endpoint: str
) -> RegionState:
    status = getattr(found, "status", None)
    said = (status.display_status or "") if status else ""
    message = (status.message or "") if status else ""
    # A registry itself has no such switch: it is always routed to.
    routed = found is not None and getattr(found, "region_endpoint_enabled", None) is not False
    state = _text(found.provisioning_state) if found is not None else ""
    if found is None:
        problem = "declared, but there is no such replication: va infra apply makes it"
    elif not declared:
        problem = "there, but not declared: images may leave the regions that were agreed on"
    elif state != "Succeeded":
        problem = f"its state is {state}" + (f": {message}" if message else "")
    elif said.lower() not in _WELL:
        problem = f"it says {said}" + (f": {message}" if message else "")
    elif not routed:
        problem = "content arrives there, but the global endpoint sends nobody there"
    else:
        problem = ""
    return RegionState(
        region=region,
        home=home,
        state=state,
        status=said,
        routed=routed,
        zone_redundant=found is not None and _text(found.zone_redundancy).lower() == "enabled",
        webhook=webhook,
        endpoint=endpoint,
        problem=problem,
    )


def _region(location: str) -> str:
    """Azure writes a region as `westeurope` or as `West Europe`."""
    return location.replace(" ", "").lower()


def _text(value: Any) -> str:
    return "" if value is None else str(getattr(value, "value", value))

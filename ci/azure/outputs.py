"""What only Azure makes up, output by the deployments: addresses, client ids, endpoints of a region.

A deployment keeps what it output: reading it takes one call an area and the right to read deployments, and no
client of each service. Source: learn.microsoft.com, "Outputs in ARM templates".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.arm import Module, expression, reference, resource_id
from ci.azure.cluster import cluster_id, identity_id
from ci.azure.network import group
from ci.concurrency import together
from ci.delivery.kubeconfig import Server
from ci.errors import BadInput, SystemUnavailable

if TYPE_CHECKING:  # what renders loads none of Azure's clients
    from ci.azure.connection import Azure

__all__ = ["Facts", "outputs", "read_outputs", "read_servers"]


class Facts(BaseModel):
    """A region, as far as nobody can know it beforehand."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tenant: str
    """Entra's, that the subscription trusts."""
    identities: Mapping[str, str]
    """Each identity's client id."""
    cluster: str
    """The cluster's name."""
    api: str
    """The name of its API server."""
    vault: str
    """The vault's URL."""
    redis: str
    """Host and port."""
    gateway: str
    """Application Gateway's public address."""
    livekit: str
    """The public address of LiveKit's signalling."""
    workspace: str
    """The id by which Log Analytics is asked."""
    prometheus: str = ""
    """Where managed Prometheus is asked; empty where there is none."""
    registry: str = Field(default="", description="the login server; in the region that has the registry")
    postgres: str = Field(default="", description="the server's name; in the region that has it")


def outputs(architecture: Architecture, area: str, region: str) -> dict[str, Any]:
    """What an area's deployment outputs in a region, as expressions; nothing for most areas."""
    home = group(architecture, region)

    def of(kind: str, what: str, path: str, *, part: str = "") -> str:
        own = name(architecture, what, region, part=part)
        return reference(resource_id(home, kind, own), kind, path)

    primary = region == architecture.primary
    if area == "identity":
        kind = "Microsoft.ManagedIdentity/userAssignedIdentities"
        ids = {
            key: reference(identity_id(architecture, region, key), kind, "clientId")
            for key in sorted(architecture.access.identities)
        }
        return {"identities": ids, "tenant": expression("subscription().tenantId")}
    if area == "monitoring":
        workspace = of("Microsoft.OperationalInsights/workspaces", "log analytics", "customerId")
        if not architecture.monitoring.managed_prometheus:
            return {"workspace": workspace}
        asked = of("Microsoft.Monitor/accounts", "prometheus", "metrics.prometheusQueryEndpoint")
        return {"workspace": workspace, "prometheus": asked}
    if area == "vault":
        return {"vault": of("Microsoft.KeyVault/vaults", "key vault", "vaultUri")}
    if area == "registry" and primary:
        return {"registry": of("Microsoft.ContainerRegistry/registries", "registry", "loginServer")}
    if area == "data":
        found = {"redis": of("Microsoft.Cache/redisEnterprise", "redis", "hostName")}
        server = of("Microsoft.DBforPostgreSQL/flexibleServers", "postgres", "fullyQualifiedDomainName")
        return {**found, "postgres": server} if primary else found
    if area == "edge":
        kind = "Microsoft.Network/publicIPAddresses"
        return {part: of(kind, "public ip", "ipAddress", part=part) for part in ("gateway", "livekit")}
    if area == "cluster":
        kind = "Microsoft.ContainerService/managedClusters"
        address = "privateFQDN" if architecture.kubernetes.private_api else "fqdn"
        own = name(architecture, "cluster", region)
        return {"cluster": own, "api": reference(cluster_id(architecture, region), kind, address)}
    return {}


async def read_outputs(azure: Azure, env: str, modules: Sequence[Module]) -> dict[str, Facts]:
    """What the deployments of these modules output, by region; BadInput names all that have none yet."""
    from azure.core.exceptions import ResourceNotFoundError

    from ci.azure.connection import call

    async def one(module: Module) -> dict[str, Any] | None:
        ask = partial(azure.deployments.deployments.get, module.group, module.name)
        try:
            found = await call(ask, f"reading {module.name} of {module.group}")
        except ResourceNotFoundError:
            return None
        given = found.properties.outputs or {}
        # A deployment that failed, or that an earlier version made, outputs nothing, or less.
        return (
            {key: value["value"] for key, value in given.items()}
            if set(module.outputs) <= set(given)
            else None
        )

    telling = [module for module in modules if module.outputs]
    answers = await together(one(module) for module in telling)
    missing = [
        f"{module.region}/{module.area}"
        for module, answer in zip(telling, answers, strict=True)
        if answer is None
    ]
    if missing:
        raise BadInput(
            f"{env} is not there yet: nothing is output by {', '.join(missing)}",
            hint=f"va infra apply --env {env} brings it about, and goes on where it was left",
        )
    told: dict[str, dict[str, Any]] = {}
    for module, answer in zip(telling, answers, strict=True):
        told.setdefault(module.region, {}).update(answer or {})
    return {region: Facts.model_validate(each) for region, each in told.items()}


async def read_servers(azure: Azure, architecture: Architecture) -> dict[str, Server]:
    """The API server of each region's cluster, by the cluster's name.

    Its certificate is of the cluster's own authority, which no deployment can output: AKS is asked, as
    whoever enters it is (Azure Kubernetes Service Cluster User Role). What it answers has no secret in it:
    there are no local accounts.
    """
    from azure.mgmt.containerservice import ContainerServiceClient

    from ci.azure.connection import call

    clusters = azure.client(ContainerServiceClient).managed_clusters

    async def one(region: str) -> tuple[str, Server]:
        home, own = group(architecture, region), name(architecture, "cluster", region)
        what = f"the address of {own}"
        said = await call(partial(clusters.list_cluster_user_credentials, home, own), what)
        try:
            kubeconfig = yaml.safe_load(bytes(said.kubeconfigs[0].value))
            (cluster,) = (each["cluster"] for each in kubeconfig["clusters"])
            return own, Server(address=cluster["server"], authority=cluster["certificate-authority-data"])
        except (LookupError, TypeError, ValueError, yaml.YAMLError) as error:
            raise SystemUnavailable(f"{what}: Azure answered with no kubeconfig") from error

    return dict(await together(one(region) for region in architecture.order))

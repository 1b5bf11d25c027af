"""Who may use what: a role for each secret, container, registry, namespace, and for none beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ci.architecture.access import container_users, secret_readers
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.arm import Resource, reference, resource_id, role_assignment
from ci.azure.cluster import (
    KUBERNETES_ROLES,
    METRICS_ROLES,
    REGISTRY_ROLES,
    cluster_id,
    group_parameter,
    principal,
)
from ci.azure.network import api_zone_id, group

__all__ = ["access", "cluster_access"]


def access(architecture: Architecture, region: str) -> Iterator[Resource]:
    """A region's secrets, containers and metrics for who uses them; the one registry for all regions."""
    home = group(architecture, region)
    vault = name(architecture, "key vault", region)
    for secret, readers in sorted(secret_readers(architecture).items()):
        own = resource_id(home, "Microsoft.KeyVault/vaults/secrets", vault, secret)
        for reader in readers:
            who = principal(architecture, region, reader)
            yield role_assignment("Key Vault Secrets User", who, "ServicePrincipal", scope=own)
    account = name(architecture, "storage", region)
    kind = "Microsoft.Storage/storageAccounts/blobServices/containers"
    for container, users in sorted(container_users(architecture).items()):
        own = resource_id(home, kind, account, "default", container)
        for user in users:
            who = principal(architecture, region, user)
            yield role_assignment("Storage Blob Data Contributor", who, "ServicePrincipal", scope=own)
    if architecture.monitoring.managed_prometheus:
        yield from _metrics(architecture, region)
    if architecture.kubernetes.private_api:
        # It writes the API server's name there: "Create a private AKS cluster", Custom private DNS zone.
        who = principal(architecture, region, "cluster")
        scope = api_zone_id(architecture, region)
        yield role_assignment("Private DNS Zone Contributor", who, "ServicePrincipal", scope=scope)
    if region == architecture.primary:
        yield from _registry(architecture)


def _metrics(architecture: Architecture, region: str) -> Iterator[Resource]:
    """A region's metrics, for who asks them: KEDA, the gates of promotion, people, Grafana.

    Source: learn.microsoft.com, "Query Prometheus metrics using the API and PromQL", Set up authentication.
    """
    home = group(architecture, region)
    own = resource_id(home, "Microsoft.Monitor/accounts", name(architecture, "prometheus", region))
    yield from _holders(architecture, METRICS_ROLES, (region,), own)
    if architecture.monitoring.grafana:
        kind = "Microsoft.Dashboard/grafana"
        grafana = resource_id(group(architecture), kind, name(architecture, "grafana"))
        who = reference(grafana, kind, "identity.principalId", whole=True)
        yield role_assignment("Monitoring Data Reader", who, "ServicePrincipal", scope=own)


def _registry(architecture: Architecture) -> Iterator[Resource]:
    """The registry, for identities of all regions, and for who publishes and promotes."""
    own = resource_id(
        group(architecture), "Microsoft.ContainerRegistry/registries", name(architecture, "registry")
    )
    yield from _holders(architecture, REGISTRY_ROLES, architecture.order, own)


def _holders(
    architecture: Architecture, roles: Sequence[str], regions: Iterable[str], own: str
) -> Iterator[Resource]:
    """These roles on one thing, for the identities of these regions and the people that have them."""
    for key, identity in sorted(architecture.access.identities.items()):
        for role in (one for one in identity.azure_roles if one in roles):
            for region in regions:
                who = principal(architecture, region, key)
                yield role_assignment(role, who, "ServicePrincipal", scope=own)
    for key, people in sorted(architecture.access.roles.items()):
        for role in (one for one in people.azure_roles if one in roles):
            yield role_assignment(role, f"[parameters('{group_parameter(key)}')]", "Group", scope=own)


def cluster_access(architecture: Architecture, region: str) -> Iterator[Resource]:
    """Kubernetes roles in a few namespaces, and the way to the cluster that they need.

    No role inside the cluster lets anybody fetch the way in (`az aks get-credentials`): that is another one.
    A scope is the cluster's id and `/namespaces/NAME`; who names none has the role in all, on the resource
    group. Source: learn.microsoft.com, "Use Azure RBAC for Kubernetes authorization".
    """
    own = cluster_id(architecture, region)
    for key, role in sorted(architecture.access.roles.items()):
        if role.kubernetes_role == "none":
            continue
        who = f"[parameters('{group_parameter(key)}')]"
        yield role_assignment("Azure Kubernetes Service Cluster User Role", who, "Group", scope=own)
        for namespace in role.namespaces:
            where = f"[concat({own.strip('[]')}, '/namespaces/{namespace}')]"
            yield role_assignment(KUBERNETES_ROLES[role.kubernetes_role], who, "Group", scope=where)

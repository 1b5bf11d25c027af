"""Who may use what: a role for each secret, container, registry and namespace, and for none beside it."""

from __future__ import annotations

from collections.abc import Iterator

from ci.architecture.access import container_users, secret_readers
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.arm import Resource, resource_id, role_assignment
from ci.azure.cluster import KUBERNETES_ROLES, REGISTRY_ROLES, cluster_id, group_parameter, principal
from ci.azure.network import group

__all__ = ["access", "cluster_access"]


def access(architecture: Architecture, region: str) -> Iterator[Resource]:
    """A region's secrets and containers for who uses them; the one registry for all regions."""
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
    if region == architecture.primary:
        yield from _registry(architecture)


def _registry(architecture: Architecture) -> Iterator[Resource]:
    """The registry, for identities of all regions, and for who publishes and promotes."""
    own = resource_id(
        group(architecture), "Microsoft.ContainerRegistry/registries", name(architecture, "registry")
    )
    for key, identity in sorted(architecture.access.identities.items()):
        for role in (one for one in identity.azure_roles if one in REGISTRY_ROLES):
            for region in architecture.order:
                who = principal(architecture, region, key)
                yield role_assignment(role, who, "ServicePrincipal", scope=own)
    for key, people in sorted(architecture.access.roles.items()):
        for role in (one for one in people.azure_roles if one in REGISTRY_ROLES):
            yield role_assignment(role, f"[parameters('{group_parameter(key)}')]", "Group", scope=own)


def cluster_access(architecture: Architecture, region: str) -> Iterator[Resource]:
    """Kubernetes roles in a few namespaces, and the way to the cluster that they need.

    A scope is the cluster's id and `/namespaces/NAME`. Source: learn.microsoft.com, "Use Azure RBAC for
    Kubernetes authorization".
    """
    own = cluster_id(architecture, region)
    for key, role in sorted(architecture.access.roles.items()):
        if role.kubernetes_role == "none" or not role.namespaces:
            continue
        who = f"[parameters('{group_parameter(key)}')]"
        yield role_assignment("Azure Kubernetes Service Cluster User Role", who, "Group", scope=own)
        for namespace in role.namespaces:
            where = f"[concat({own.strip('[]')}, '/namespaces/{namespace}')]"
            yield role_assignment(KUBERNETES_ROLES[role.kubernetes_role], who, "Group", scope=where)

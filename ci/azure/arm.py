"""ARM's own terms: a resource, its id, a template. Bodies come from the typed models of azure-mgmt-*.

A misspelt keyword of such a model is a TypeError while rendering, not a failed deployment at two in the
morning.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ci.architecture.resources import words

__all__ = [
    "API",
    "REGIONAL_ENDPOINTS_API",
    "ROLES",
    "Resource",
    "as_json",
    "expression",
    "reference",
    "resource_id",
    "role_assignment",
    "template",
]

API = {
    "Microsoft.Authorization/locks": "2020-05-01",
    "Microsoft.Authorization/roleAssignments": "2022-04-01",
    "Microsoft.Cache/redisEnterprise": "2025-07-01",
    "Microsoft.Cache/redisEnterprise/databases": "2025-07-01",
    "Microsoft.Consumption/budgets": "2024-08-01",
    "Microsoft.ContainerRegistry/registries": "2025-11-01",
    "Microsoft.ContainerRegistry/registries/replications": "2025-11-01",
    "Microsoft.ContainerRegistry/registries/webhooks": "2025-11-01",
    "Microsoft.ContainerService/managedClusters": "2026-08-01",
    "Microsoft.Dashboard/grafana": "2025-08-01",
    "Microsoft.DBforPostgreSQL/flexibleServers": "2026-10-01",
    "Microsoft.DBforPostgreSQL/flexibleServers/administrators": "2026-10-01",
    "Microsoft.DBforPostgreSQL/flexibleServers/configurations": "2026-10-01",
    "Microsoft.DBforPostgreSQL/flexibleServers/databases": "2026-10-01",
    "Microsoft.AlertsManagement/prometheusRuleGroups": "2023-03-01",
    "Microsoft.Insights/actionGroups": "2023-01-01",
    "Microsoft.Insights/dataCollectionRuleAssociations": "2023-03-11",
    "Microsoft.Insights/dataCollectionRules": "2023-03-11",
    "Microsoft.Insights/diagnosticSettings": "2021-05-01-preview",
    "Microsoft.Insights/metricAlerts": "2018-03-01",
    "Microsoft.KeyVault/vaults": "2026-05-15",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "2024-11-30",
    "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials": "2024-11-30",
    "Microsoft.Monitor/accounts": "2023-04-03",
    "Microsoft.Network/ApplicationGatewayWebApplicationFirewallPolicies": "2026-03-01",
    "Microsoft.Network/applicationGateways": "2026-03-01",
    "Microsoft.Network/dnsZones": "2018-05-01",
    "Microsoft.Network/dnsZones/CNAME": "2018-05-01",
    "Microsoft.Network/dnsZones/A": "2018-05-01",
    "Microsoft.Network/natGateways": "2026-03-01",
    "Microsoft.Network/networkSecurityGroups": "2026-03-01",
    "Microsoft.Network/privateDnsZones": "2024-06-01",
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": "2024-06-01",
    "Microsoft.Network/privateEndpoints": "2026-03-01",
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": "2026-03-01",
    "Microsoft.Network/publicIPAddresses": "2026-03-01",
    "Microsoft.Network/trafficManagerProfiles": "2026-09-01",
    "Microsoft.Network/virtualNetworks": "2026-03-01",
    "Microsoft.Network/virtualNetworks/virtualNetworkPeerings": "2026-03-01",
    "Microsoft.OperationalInsights/workspaces": "2025-07-01",
    "Microsoft.OperationalInsights/workspaces/savedSearches": "2025-07-01",
    "Microsoft.OperationalInsights/workspaces/tables": "2025-07-01",
    "Microsoft.Resources/deployments": "2024-03-01",
    "Microsoft.Storage/storageAccounts": "2026-09-01",
    "Microsoft.Storage/storageAccounts/blobServices": "2026-09-01",
    "Microsoft.Storage/storageAccounts/blobServices/containers": "2026-09-01",
    "Microsoft.Storage/storageAccounts/managementPolicies": "2026-09-01",
}
"""The API version that each type is deployed with: the one that its SDK's models were generated from."""

REGIONAL_ENDPOINTS_API = "2026-01-01-preview"
"""The first version of the registry's API that has `regionalEndpoints`; the SDK's models are older."""

ROLES = {
    "AcrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",
    "AcrPush": "8311e382-0749-4cb8-b61a-304f252e45ec",
    "Azure Kubernetes Service Cluster User Role": "4abbcc35-e782-43d8-92c5-2d3f1bd2253f",
    "Azure Kubernetes Service RBAC Admin": "3498e952-d568-435e-9b2c-8d77e338d7f7",
    "Azure Kubernetes Service RBAC Cluster Admin": "b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b",
    "Azure Kubernetes Service RBAC Reader": "7f6c6a51-bcf8-42ba-9220-52d62157d7db",
    "Azure Kubernetes Service RBAC Writer": "a7ffa36f-339b-4b5c-8bdf-e2c188b2c0eb",
    "Contributor": "b24988ac-6180-42a0-ab88-20f7382dd24c",
    "Grafana Admin": "22926164-76b3-42b3-bc55-97df8dab3e41",
    "Grafana Editor": "a79a5197-3a5c-4973-a920-486035ffd60f",
    "Grafana Viewer": "60921a7e-fef1-4a43-9b16-a26c52ad4769",
    "Key Vault Administrator": "00482a5a-887f-4fb3-b363-3b7fe8e74483",
    "Key Vault Reader": "21090545-7ca7-4776-b22c-e363652d74d2",
    "Key Vault Secrets User": "4633458b-17de-408a-b874-0445c86b69e6",
    "Managed Identity Operator": "f1a07417-d97a-45cb-824c-7a7467783830",
    "Monitoring Contributor": "749f88d5-cbae-40b8-bcfc-e573ddc772fa",
    "Monitoring Data Reader": "b0d8363b-8ddd-447d-831f-62ca05bff136",
    "Monitoring Reader": "43d0d8ad-25c7-4714-9337-8ba259a9fe05",
    "Network Contributor": "4d97b98b-1d4f-4787-a291-c67834d212e7",
    "Private DNS Zone Contributor": "b12aa53e-6015-4669-85d0-8515ebb3ae7f",
    "Reader": "acdd72a7-3385-48ef-bd42-f606fba81ae7",
    "Storage Blob Data Contributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
}
"""Azure's built-in roles by name. Source: "Azure built-in roles", learn.microsoft.com, read 2026-08."""

_NESTED = "Microsoft.Resources/deployments"
_SCHEMAS = "https://schema.management.azure.com/schemas/"
_NAMESPACE = uuid.UUID("a3c1e7d0-5f0e-4b9e-9b5e-6a1d2f0c7e11")


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One resource of a template. A child's `name` holds its parents': `vault/secret`."""

    type: str
    name: str
    body: Mapping[str, Any]
    depends_on: tuple[str, ...] = ()
    scope: str | None = None
    """The id of what an extension resource (a lock, a role, a diagnostic setting) is attached to."""
    api: str = ""
    """The API version, where it is not its type's."""
    subscription: str = ""
    """Of what belongs to the subscription and to no group: the region that records its deployment."""

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a template: what is the subscription's, in a deployment of its own within this one.

        Source: learn.microsoft.com, "Resource group deployments with ARM templates", Deploy to subscription.
        """
        own = self._own()
        if not self.subscription:
            return own
        return {
            "type": _NESTED,
            "apiVersion": API[_NESTED],
            "name": f"va-{self.name}",
            "location": self.subscription,
            "subscriptionId": "[subscription().subscriptionId]",
            "properties": {
                "mode": "Incremental",
                # Parameters and expressions are those of the template around it.
                "expressionEvaluationOptions": {"scope": "outer"},
                "template": {
                    "$schema": f"{_SCHEMAS}2018-05-01/subscriptionDeploymentTemplate.json#",
                    "contentVersion": "1.0.0.0",
                    "resources": [own],
                },
            },
        }

    def _own(self) -> dict[str, Any]:
        found = {"type": self.type, "apiVersion": self.api or API[self.type], "name": self.name, **self.body}
        if self.depends_on:
            found["dependsOn"] = sorted(self.depends_on)
        if self.scope is not None:
            found["scope"] = self.scope
        return found


def as_json(model: Any) -> dict[str, Any]:
    """A model's ARM JSON, without what only the service may set.

    Older models serialize, newer ones are dicts.
    """
    if hasattr(model, "serialize"):
        serialized: dict[str, Any] = model.serialize()
        return serialized
    plain: dict[str, Any] = model.as_dict(exclude_readonly=True)
    return plain


def expression(text: str) -> str:
    """An ARM template expression."""
    return f"[{text}]"


def resource_id(group: str, kind: str, *names: str) -> str:
    """The id of a resource in a resource group, as an expression."""
    quoted = ", ".join(f"'{word}'" for word in (group, kind, *names))
    return f"[resourceId({quoted})]"


def reference(id_expression: str, kind: str, path: str, *, whole: bool = False) -> str:
    """A property that exists only at run time: `[reference(resourceId(…), '2024-…').path]`.

    Of the `whole` resource the path begins beside `properties`: its identity is there.
    """
    full = ", 'Full'" if whole else ""
    return f"[reference({id_expression.strip('[]')}, '{API[kind]}'{full}).{path}]"


def role_assignment(
    role: str,
    principal: str,
    principal_type: str,
    *,
    scope: str | None = None,
    depends_on: Iterable[str] = (),
) -> Resource:
    """A role for a principal (an expression that gives its object id), on `scope` or the resource group.

    A name is unique in the tenant, and a parameter's text is the same in each environment: the GUID is made
    of the group that it is deployed to as well. Rendering twice gives the same assignment.
    Source: learn.microsoft.com, "Understand Azure role assignments", Name.
    """
    from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters

    name = f"[guid(resourceGroup().id, '{uuid.uuid5(_NAMESPACE, f'{scope}|{principal}|{role}')}')]"
    definition = f"[subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '{ROLES[role]}')]"
    return Resource(
        type="Microsoft.Authorization/roleAssignments",
        name=name,
        body=as_json(
            RoleAssignmentCreateParameters(
                role_definition_id=definition,
                principal_id=principal,
                principal_type=principal_type,
                # What people read in Azure's own lists and in plans: the ids say nothing to them.
                description=f"{role} for {_who_is(principal)}",
            )
        ),
        depends_on=tuple(depends_on),
        scope=scope,
    )


def _who_is(principal: str) -> str:
    """A principal's name, of the expression that gives its object id: an identity's, or `group-ROLE`."""
    mentioned = words(principal)
    return mentioned[2] if len(mentioned) > 2 else mentioned[0] if mentioned else principal


def template(
    resources: Iterable[Resource], parameters: Iterable[str] = (), outputs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A deployment template: its resources sorted by type and name.

    Its parameters are strings without defaults; an output is a text or a mapping of texts.
    """
    ordered = sorted(
        (resource.as_dict() for resource in resources), key=lambda one: (one["type"], one["name"])
    )
    found: dict[str, Any] = {
        "$schema": f"{_SCHEMAS}2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "resources": ordered,
    }
    if names := sorted(set(parameters)):
        found["parameters"] = {name: {"type": "string"} for name in names}
    if outputs:
        found["outputs"] = {
            key: {"type": "string" if isinstance(value, str) else "object", "value": value}
            for key, value in outputs.items()
        }
    ordered_keys: dict[str, Any] = json.loads(json.dumps(found, sort_keys=True))
    return ordered_keys


@dataclass(frozen=True, kw_only=True)
class Module:
    """One template, deployed on its own: an area in a region.

    `needs` are areas that come first, in all regions.
    """

    area: str
    region: str
    group: str
    resources: tuple[Resource, ...]
    parameters: tuple[str, ...] = field(default=())
    in_turn: bool = False
    """Whether its area is deployed to one region after the other."""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """What it tells once it is there, as expressions: see ci.azure.outputs."""

    @property
    def name(self) -> str:
        """What its deployment is called."""
        return f"va-{self.area}"

    def template(self) -> dict[str, Any]:
        """The template itself."""
        return template(self.resources, self.parameters, self.outputs)

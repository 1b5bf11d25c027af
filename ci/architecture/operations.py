"""Who may do what, what is watched, what it may cost, and what is promised when things break."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ci.architecture.kinds import Duration, Frozen, GroupRef, Percent, Region, SecretRef, Size, Slug, Usd

__all__ = [
    "Access", "Alerts", "Budget", "Claims", "CostClaim", "Identity", "KeyVault", "Monitoring", "Recovery",
    "Registry", "Residency", "Role", "VaultSecret",
]  # fmt: skip


AzureRole = Literal[
    "Reader", "Contributor", "Network Contributor", "Managed Identity Operator", "AcrPull", "AcrPush",
    "Key Vault Reader",
    "Key Vault Secrets User", "Key Vault Administrator", "Storage Blob Data Contributor", "Monitoring Reader",
    "Monitoring Contributor", "Monitoring Data Reader", "Grafana Viewer", "Grafana Editor", "Grafana Admin",
]  # fmt: skip
"""Azure's built-in roles that we give; ci.azure.arm has their ids."""


class VaultSecret(Frozen):
    """A secret by name. Its value is never written here."""

    rotate_every: Duration
    used_by: tuple[Slug, ...] = Field(default=(), description="the identities that may read it, and no other")


class KeyVault(Frozen):
    """One vault a region, by role-based access only."""

    sku: Literal["standard", "premium"] = "standard"
    soft_delete: Duration
    purge_protection: bool = True
    public_network: bool = False
    secrets: dict[Slug, VaultSecret]


class Registry(Frozen):
    """The container registry: one, with replications."""

    sku: Literal["Basic", "Standard", "Premium"]
    replicate_to: tuple[Region, ...] = ()
    admin_user: bool = False
    public_network: bool = True
    content_trust: bool = False
    anonymous_pull: bool = False
    delete_lock: bool = True
    webhooks: bool = Field(
        default=True, description="one push webhook a region: the proof that an image arrived"
    )
    regional_endpoints: bool = Field(
        default=False,
        description="an endpoint a region (x.eastus.geo.azurecr.io), so that each can be asked for an image: "
        "a preview of Azure's; AKS nodes need an image of 202607.29 or later to pull from one",
    )
    images: dict[Slug, str] = Field(
        default_factory=dict, description="name -> how it is referred to: digest, or a tag"
    )


class Alerts(Frozen):
    """The six alert rules' limits. Each rule becomes PromQL in ci.architecture.alerts."""

    error_rate: Percent
    latency_p95: Duration
    pod_restarts: int = Field(ge=0, description="in five minutes")
    node_usage: Percent
    database_connections: Percent
    room_errors: Percent
    email: tuple[str, ...] = ()
    webhook: SecretRef | None = None


class Monitoring(Frozen):
    """Logs, metrics and who is told. No traces: nothing of ours sends any, so that nothing waits for them."""

    log_retention: Duration
    audit_retention: Duration
    daily_log_cap: Size
    container_insights: bool = True
    managed_prometheus: bool = True
    grafana: bool = True
    alerts: Alerts


class Role(Frozen):
    """A person's or pipeline's role: an Entra group and Azure's built-in roles, on the resource group.

    Those of the registry and of metrics are on these alone, and a Kubernetes role with `namespaces` in these.
    """

    group: GroupRef = Field(
        description="where the group's object id is kept, or the id: no secret, but another in each tenant"
    )
    azure_roles: tuple[AzureRole, ...]
    kubernetes_role: Literal["reader", "writer", "admin", "cluster-admin", "none"] = "none"
    namespaces: tuple[Slug, ...] = Field(default=(), description="where; in the whole cluster when empty")


class Identity(Frozen):
    """A managed identity; `service_account` federates it to a pod.

    What it may read of the vault and of Blob Storage is said there, by `used_by`; `azure_roles` are for the
    rest, on the resource group, those of the registry and of metrics on these alone.
    """

    service_account: str | None = None
    azure_roles: tuple[AzureRole, ...] = ()


class Access(Frozen):
    """Roles of people and identities of services."""

    roles: dict[Literal["developer", "operator", "admin", "publisher", "promoter"], Role]
    identities: dict[Slug, Identity]


class Budget(Frozen):
    """A month's money for all regions together, and at which shares of it whom to tell."""

    monthly: Usd
    alert_at: tuple[Percent, ...]
    contacts: tuple[str, ...]


class Recovery(Frozen):
    """What is promised when a region is lost."""

    rto: Duration
    rpo: Duration
    covers: tuple[Literal["postgres", "redis", "storage"], ...] = ("postgres",)
    drill_every: Duration = Field(description="how often a restore is rehearsed")


class Residency(Frozen):
    """Where personal data may be kept, by geography, and how long the law lets it be."""

    geographies: tuple[str, ...]
    longest_retention: Duration
    shortest_audit: Duration


class CostClaim(Frozen):
    """One line of a cost table somewhere: what it says, low and high."""

    low: Usd
    high: Usd


class Claims(Frozen):
    """Figures that a document states about this architecture; checked against what is declared."""

    nodes: tuple[int, int] | None = None
    costs: dict[str, CostClaim] = Field(default_factory=dict)
    total: CostClaim | None = None

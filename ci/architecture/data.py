"""Where state lives: PostgreSQL, Redis, Blob Storage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ci.architecture.kinds import Duration, Frozen, Region, Size, Slug

__all__ = ["BlobContainer", "BlobStorage", "Lifecycle", "PostgreSql", "Redis", "Replica"]


class Replica(Frozen):
    """A read replica; one in another region is also what fails over to."""

    region: Region


class PostgreSql(Frozen):
    """Azure Database for PostgreSQL, flexible server, in the primary region."""

    version: int = Field(ge=11, le=30)
    tier: Literal["Burstable", "GeneralPurpose", "MemoryOptimized"]
    sku: Literal[
        "Standard_B1ms",
        "Standard_B2s",
        "Standard_D2ds_v5",
        "Standard_D4ds_v5",
        "Standard_D8ds_v5",
        "Standard_D16ds_v5",
    ]
    storage: Size
    auto_grow: bool = True
    high_availability: Literal["zone-redundant", "same-zone", "none"]
    backup_retention: Duration = Field(description="Azure allows 7 to 35 days")
    point_in_time_restore: Duration = Field(description="how far back a restore is promised")
    geo_redundant_backup: bool
    replicas: dict[Slug, Replica] = Field(default_factory=dict)
    private_endpoint: bool
    vnet_integration: bool
    tls_min: Literal["1.0", "1.1", "1.2", "1.3"] = "1.2"
    entra_id: bool = True
    password_login: bool = False
    max_connections: int = Field(default=859, ge=25)
    databases: tuple[Slug, ...] = ("voice",)


class Redis(Frozen):
    """Session state, context, rate limits. `sku` is of the service that is named."""

    service: Literal["azure-managed-redis", "azure-cache-for-redis"]
    sku: Literal[
        "P1", "P2", "P3", "Balanced_B0", "Balanced_B1", "Balanced_B3", "Balanced_B5", "Balanced_B10",
        "Balanced_B20", "Balanced_B50",
    ]  # fmt: skip
    memory: Size = Field(description="what is counted on, of one shard (P) or of the instance (Balanced)")
    shards: int = Field(default=1, ge=1, le=10)
    clustered: bool = True
    high_availability: bool = True
    tls_min: Literal["1.0", "1.1", "1.2", "1.3"] = "1.2"
    persistence: Literal["rdb", "aof", "none"]
    snapshot_every: Duration
    access_keys: bool = Field(
        default=False,
        description="true where LiveKit runs, which logs in with one; false else: Entra ID alone",
    )


class BlobContainer(Frozen):
    """One container; none is ever public."""

    holds: str
    public: bool = False
    used_by: tuple[Slug, ...] = Field(
        default=(), description="the identities that may read and write it, and no other"
    )


class Lifecycle(Frozen):
    """When blobs move to cheaper tiers and when they are deleted, counted from their last change."""

    cool_after: Duration
    archive_after: Duration
    delete_after: Duration


class BlobStorage(Frozen):
    """One storage account a region."""

    replication: Literal["LRS", "ZRS", "GRS", "RAGRS", "GZRS", "RAGZRS"]
    access_tier: Literal["Hot", "Cool"] = "Hot"
    containers: dict[Slug, BlobContainer]
    lifecycle: Lifecycle
    soft_delete: Duration
    versioning: bool = True
    tls_min: Literal["1.0", "1.1", "1.2", "1.3"] = "1.2"
    shared_keys: bool = False
    public_network: bool = False
    expected: Size = Field(description="how much is stored in the whole, for the price")

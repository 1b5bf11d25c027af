"""Rules about state: PostgreSQL, Redis, blobs, and what of it can be recovered."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from ci.architecture.check.rule import Broken, Estate, Rule, error

__all__ = ["RULES"]

_SHORTEST_DELEGATED = 28

_REDIS_GIB = {
    "P1": 6, "P2": 13, "P3": 26, "Balanced_B0": 1, "Balanced_B1": 1, "Balanced_B3": 3, "Balanced_B5": 6,
    "Balanced_B10": 12, "Balanced_B20": 24, "Balanced_B50": 60,
}  # fmt: skip
"""Sizes of one shard (P) or of an instance (Balanced; B0 has half a GB). Source: pricing pages, 2026-08."""


@error("REDIS-SKU")
def redis_is_sold(estate: Estate) -> Iterator[Broken]:
    """Redis has a size that its service offers."""
    redis = estate.architecture.redis
    if redis.sku.startswith("P") != (redis.service == "azure-cache-for-redis"):
        yield Broken(
            ("redis", "sku"),
            f"{redis.service} has no {redis.sku}",
            "P1 to P3 for Azure Cache for Redis, Balanced_B… for Azure Managed Redis",
        )


@error("REDIS-SIZE")
def redis_is_as_large(estate: Estate) -> Iterator[Broken]:
    """Redis' size has the memory that is counted on."""
    redis = estate.architecture.redis
    has = _REDIS_GIB[redis.sku]
    if redis.memory == has:
        return
    right = next(
        (sku for sku, gib in _REDIS_GIB.items() if gib == redis.memory and sku[0] == redis.sku[0]), None
    )
    yield Broken(
        ("redis", "memory"),
        f"{redis.sku} has {has} GB, not {redis.memory} GB"
        + (f"; {redis.memory} GB is {right}" if right else ""),
        f"say {has} GB" + (f", or take {right}" if right else ""),
    )


_SNAPSHOTS = {
    "azure-managed-redis": (1, 6, 12),
    "azure-cache-for-redis": (0.25, 0.5, 1, 6, 12, 24),
}
"""Hours between two RDB files that each service offers. Source: "Configure data persistence", 2026-11."""


@error("REDIS-SNAPSHOT")
def redis_is_saved_daily(estate: Estate) -> Iterator[Broken]:
    """Where Redis is saved as RDB, then at least daily, and as often as its service can."""
    redis = estate.architecture.redis
    offered = _SNAPSHOTS[redis.service]
    if redis.persistence == "rdb" and redis.snapshot_every / timedelta(hours=1) not in offered:
        yield Broken(
            ("redis", "snapshot_every"),
            f"{redis.service} saves an RDB file every {', '.join(f'{one:g}' for one in offered)} hours, "
            f"not every {redis.snapshot_every}",
            f"the next shorter one; a daily snapshot is promised, {max(offered):g}h is the longest",
        )


@error("REDIS-LOGIN")
def livekit_can_log_in(estate: Estate) -> Iterator[Broken]:
    """Redis lets in who uses it: LiveKit, and the api beside it, log in with an access key from the vault.

    Source: RedisConfig of github.com/livekit/protocol: a user name and a password, no way to an Entra token.
    """
    architecture = estate.architecture
    if "livekit" not in architecture.kubernetes.workloads:
        return
    if not architecture.redis.access_keys:
        yield Broken(
            ("redis", "access_keys"),
            "LiveKit logs in to Redis with a password and knows nothing else: without access keys no call "
            "finds the node that it is on",
            "access_keys: true, with the key in key_vault.secrets",
        )
    elif "redis" not in architecture.key_vault.secrets:
        yield Broken(("key_vault", "secrets"), "Redis' access key is in no vault", "key_vault.secrets.redis")


@error("PG-LOGIN")
def pods_can_log_in(estate: Estate) -> Iterator[Broken]:
    """Api and migrations log in to PostgreSQL by Entra ID, each as an identity of its own."""
    architecture = estate.architecture
    if not architecture.postgres.entra_id:
        yield Broken(
            ("postgres", "entra_id"), "the api and its migrations log in by Entra ID", "entra_id: true"
        )
    for who in ("api", "migrate"):
        identity = architecture.access.identities.get(who)
        if "api" in architecture.kubernetes.workloads and (identity is None or not identity.service_account):
            yield Broken(
                ("access", "identities"),
                f"{who} logs in to PostgreSQL by Entra ID and has no identity",
                f"{who}: {{service_account: voice/voice-{who}}}",
            )


@error("PG-RETENTION")
def backups_cover_the_promise(estate: Estate) -> Iterator[Broken]:
    """Backups are kept as long as Azure can and a restore is promised for."""
    postgres = estate.architecture.postgres
    days = postgres.backup_retention.days
    if not 7 <= days <= 35:
        nearest = min(35, max(7, postgres.point_in_time_restore.days))
        yield Broken(
            ("postgres", "backup_retention"),
            f"{days} days; Azure keeps 7 to 35",
            f"backup_retention: {nearest}d",
        )
    elif postgres.point_in_time_restore > postgres.backup_retention:
        promised = postgres.point_in_time_restore.days
        yield Broken(
            ("postgres", "point_in_time_restore"),
            f"a restore {promised} days back is promised, and backups are kept {days} days",
            f"backup_retention: {min(35, promised)}d, or promise {days}d",
        )


@error("PG-ACCESS")
def one_way_to_the_database(estate: Estate) -> Iterator[Broken]:
    """The database has a private endpoint or VNet integration, never both."""
    postgres = estate.architecture.postgres
    if postgres.private_endpoint and postgres.vnet_integration:
        yield Broken(
            ("postgres", "vnet_integration"),
            "a private endpoint and VNet integration are two modes of a flexible server that exclude each "
            "other",
            "private_endpoint: true, vnet_integration: false",
        )


@error("PUBLIC-POSTGRES")
def a_private_database(estate: Estate) -> Iterator[Broken]:
    """The database is not on the internet."""
    postgres = estate.architecture.postgres
    if not (postgres.private_endpoint or postgres.vnet_integration):
        yield Broken(("postgres",), "the database is on the internet", "private_endpoint: true")


@error("NET-DELEGATION")
def a_delegated_subnet(estate: Estate) -> Iterator[Broken]:
    """VNet integration has a subnet that is delegated to it."""
    architecture = estate.architecture
    subnets = architecture.regions[architecture.primary].subnets.values()
    fitting = any(one.delegated_to and one.cidr.prefixlen <= _SHORTEST_DELEGATED for one in subnets)
    if architecture.postgres.vnet_integration and not fitting:
        yield Broken(
            ("postgres", "vnet_integration"),
            f"VNet integration needs a subnet of /{_SHORTEST_DELEGATED} or larger that is delegated to "
            "Microsoft.DBforPostgreSQL/flexibleServers; there is none",
            "delegated_to on that subnet, or the private endpoint",
        )


@error("PG-TIER")
def the_tier_can(estate: Estate) -> Iterator[Broken]:
    """The database's tier has its size, high availability and replicas."""
    postgres = estate.architecture.postgres
    if postgres.tier == "Burstable" and (postgres.high_availability != "none" or postgres.replicas):
        yield Broken(
            ("postgres", "tier"),
            "burstable servers have no high availability and no replicas",
            "GeneralPurpose",
        )
    if (postgres.tier == "Burstable") != postgres.sku.startswith("Standard_B"):
        yield Broken(("postgres", "sku"), f"{postgres.sku} is not {postgres.tier}", "a matching sku")


@error("PG-REPLICA")
def replicas_are_in_our_regions(estate: Estate) -> Iterator[Broken]:
    """A replica is in a region of ours."""
    for name, replica in estate.architecture.postgres.replicas.items():
        if replica.region not in estate.architecture.regions:
            yield Broken(
                ("postgres", "replicas", name, "region"),
                f"the replica is in {replica.region}, where nothing else is",
                f"one of {', '.join(estate.architecture.order)}",
            )


@error("DR-RPO")
def losses_stay_inside_the_rpo(estate: Estate) -> Iterator[Broken]:
    """What the RPO is promised for is replicated as fast as that."""
    architecture = estate.architecture
    recovery, postgres = architecture.recovery, architecture.postgres
    elsewhere = [one.region for one in postgres.replicas.values() if one.region != architecture.primary]
    if "postgres" in recovery.covers and not elsewhere:
        if postgres.geo_redundant_backup and recovery.rpo < timedelta(hours=1):
            yield Broken(
                ("recovery", "rpo"),
                f"RPO {recovery.rpo} when the region is lost: replicas in the same region are lost with it, "
                "and a restore from geo-redundant backup may be an hour behind",
                "a replica in another region",
            )
        elif not postgres.geo_redundant_backup and recovery.rpo < timedelta(hours=24):
            yield Broken(
                ("recovery", "rpo"),
                f"RPO {recovery.rpo} with backups that stay in the region that is lost",
                "geo_redundant_backup: true, and a replica in another region",
            )
    if "storage" in recovery.covers and recovery.rpo < timedelta(minutes=15):
        yield Broken(
            ("recovery", "rpo"),
            f"{architecture.storage.replication} copies to the other region without a promise, usually "
            "within 15 minutes",
            "take storage out of recovery.covers, or promise 15m",
        )
    if "redis" in recovery.covers and (
        architecture.redis.persistence == "none" or architecture.redis.snapshot_every > recovery.rpo
    ):
        yield Broken(
            ("redis", "persistence"),
            "Redis is saved more rarely than the RPO allows",
            "aof, or active geo",
        )


@error("DR-STORAGE")
def blobs_are_copied_elsewhere(estate: Estate) -> Iterator[Broken]:
    """Where there are several regions, blobs have a copy in another one."""
    replication = estate.architecture.storage.replication
    if len(estate.architecture.regions) > 1 and replication in ("LRS", "ZRS"):
        yield Broken(
            ("storage", "replication"), f"{replication} keeps no copy in another region", "GRS or GZRS"
        )


@error("BLOB-LIFECYCLE")
def blobs_age_in_order(estate: Estate) -> Iterator[Broken]:
    """Blobs cool, then are archived, then deleted."""
    lifecycle = estate.architecture.storage.lifecycle
    if not lifecycle.cool_after < lifecycle.archive_after < lifecycle.delete_after:
        yield Broken(
            ("storage", "lifecycle"),
            "blobs must cool before they are archived, and be archived before they are deleted",
            "cool_after < archive_after < delete_after",
        )


RULES: tuple[Rule, ...] = (
    redis_is_sold, redis_is_as_large, redis_is_saved_daily, livekit_can_log_in, pods_can_log_in,
    backups_cover_the_promise,
    one_way_to_the_database, a_private_database, a_delegated_subnet, the_tier_can,
    replicas_are_in_our_regions, losses_stay_inside_the_rpo, blobs_are_copied_elsewhere, blobs_age_in_order,
)  # fmt: skip

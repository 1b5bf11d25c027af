"""Where state lives: PostgreSQL with its replicas, Redis, Blob Storage; each behind its private endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from azure.mgmt.postgresqlflexibleservers import models as pg
from azure.mgmt.redisenterprise import models as redis
from azure.mgmt.storage import models as blob

from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.arm import Resource, as_json, expression, resource_id
from ci.azure.cluster import group_parameter
from ci.azure.network import group, private_endpoint, tags

__all__ = ["data", "replicas"]

_SERVER = "Microsoft.DBforPostgreSQL/flexibleServers"
_REDIS = "Microsoft.Cache/redisEnterprise"
_STORAGE = "Microsoft.Storage/storageAccounts"


def data(architecture: Architecture, region: str) -> Iterator[Resource]:
    """The stateful services of a region; the database itself only in the primary one."""
    if region == architecture.primary:
        yield from _postgres(architecture)
    yield from _cache(architecture, region)
    yield from _blobs(architecture, region)


def _server_name(architecture: Architecture, region: str, part: str = "") -> str:
    return name(architecture, "postgres", region, part=part)


def _server(architecture: Architecture, region: str, **more: object) -> dict[str, object]:
    postgres = architecture.postgres
    return as_json(
        pg.Server(
            location=region,
            tags=tags(architecture),
            sku=pg.Sku(name=postgres.sku, tier=postgres.tier),
            storage=pg.Storage(
                storage_size_gb=postgres.storage, auto_grow="Enabled" if postgres.auto_grow else "Disabled"
            ),
            network=pg.Network(public_network_access="Disabled"),
            **more,
        )
    )


def _postgres(architecture: Architecture) -> Iterator[Resource]:
    postgres, region = architecture.postgres, architecture.primary
    own = _server_name(architecture, region)
    own_id = resource_id(group(architecture, region), _SERVER, own)
    modes = {"zone-redundant": "ZoneRedundant", "same-zone": "SameZone", "none": "Disabled"}
    yield Resource(
        type=_SERVER,
        name=own,
        body=_server(
            architecture,
            region,
            version=str(postgres.version),
            create_mode="Create",
            availability_zone=architecture.regions[region].zones[0]
            if architecture.regions[region].zones
            else None,
            high_availability=pg.HighAvailability(mode=modes[postgres.high_availability]),
            backup=pg.Backup(
                backup_retention_days=postgres.backup_retention.days,
                geo_redundant_backup="Enabled" if postgres.geo_redundant_backup else "Disabled",
            ),
            auth_config=pg.AuthConfig(
                active_directory_auth="Enabled" if postgres.entra_id else "Disabled",
                password_auth="Enabled" if postgres.password_login else "Disabled",
                tenant_id="[subscription().tenantId]",
            ),
        ),
    )
    settings = {
        "azure.extensions": "PGAUDIT",
        # Azure's own default and the auditor; it counts from the server's next start.
        "shared_preload_libraries": "pg_cron,pg_stat_statements,pgaudit",
        "connection_throttle.enable": "on",
        "log_checkpoints": "on",
        "log_connections": "on",
        "log_disconnections": "on",
        # Who changed what, by statement; who read what would be each request's own line.
        "pgaudit.log": "write,ddl,role",
        "require_secure_transport": "on",
        "ssl_min_protocol_version": f"TLSv{postgres.tls_min}",
    }
    parts: list[tuple[str, str, Any]] = [
        *(
            ("configurations", key, pg.Configuration(value=value, source="user-override"))
            for key, value in settings.items()
        ),
        *(
            ("databases", database, pg.Database(charset="UTF8", collation="en_US.utf8"))
            for database in postgres.databases
        ),
    ]
    before = own_id
    # One after the other: a server takes one change at a time, of whatever kind (ServerIsBusy), and pgaudit's
    # settings come with its library.
    for kind, key, model in parts:
        yield Resource(
            type=f"{_SERVER}/{kind}", name=f"{own}/{key}", body=as_json(model), depends_on=(before,)
        )
        before = resource_id(group(architecture, region), f"{_SERVER}/{kind}", own, key)
    yield Resource(
        type=f"{_SERVER}/administrators",
        name=expression(f"concat('{own}/', parameters('{group_parameter('admin')}'))"),
        body=as_json(
            pg.AdministratorMicrosoftEntraAdd(
                principal_type="Group",
                principal_name=f"{architecture.product}-admins",
                tenant_id="[subscription().tenantId]",
            )
        ),
        depends_on=(before,),
    )
    yield from private_endpoint(architecture, region, "postgres", own_id, (before,))


def replicas(architecture: Architecture, region: str) -> Iterator[Resource]:
    """The read replicas in a region, once the server itself is there."""
    source = resource_id(group(architecture), _SERVER, _server_name(architecture, architecture.primary))
    mine = sorted(key for key, replica in architecture.postgres.replicas.items() if replica.region == region)
    for number, key in enumerate(mine):
        own = _server_name(
            architecture, region, part="" if region != architecture.primary and not number else key
        )
        own_id = resource_id(group(architecture, region), _SERVER, own)
        yield Resource(
            type=_SERVER,
            name=own,
            body=_server(architecture, region, create_mode="Replica", source_server_resource_id=source),
        )
        if region != architecture.primary and not number:
            yield from private_endpoint(architecture, region, "postgres", own_id, (own_id,))


def _cache(architecture: Architecture, region: str) -> Iterator[Resource]:
    declared = architecture.redis
    own = name(architecture, "redis", region)
    own_id = resource_id(group(architecture, region), _REDIS, own)
    yield Resource(
        type=_REDIS,
        name=own,
        body=as_json(
            redis.Cluster(
                location=region,
                tags=tags(architecture),
                sku=redis.Sku(name=declared.sku),
                high_availability="Enabled" if declared.high_availability else "Disabled",
                minimum_tls_version=declared.tls_min,
                public_network_access="Disabled",
                zones=None,
            )
        ),
    )
    frequency = f"{declared.snapshot_every / timedelta(hours=1):g}h"
    persistence = {
        "rdb": redis.Persistence(rdb_enabled=True, rdb_frequency=frequency),
        "aof": redis.Persistence(aof_enabled=True, aof_frequency="1s"),
        "none": None,
    }[declared.persistence]
    yield Resource(
        type=f"{_REDIS}/databases",
        name=f"{own}/default",
        body={
            "properties": {
                "accessKeysAuthentication": "Enabled" if declared.access_keys else "Disabled",
                "clientProtocol": "Encrypted",
                "clusteringPolicy": "OSSCluster" if declared.clustered else "EnterpriseCluster",
                "evictionPolicy": "VolatileLRU",
                "port": 10000,
                **({"persistence": as_json(persistence)} if persistence is not None else {}),
            }
        },
        depends_on=(own_id,),
    )
    yield from private_endpoint(architecture, region, "redis", own_id, (own_id,))


def _blobs(architecture: Architecture, region: str) -> Iterator[Resource]:
    declared = architecture.storage
    own = name(architecture, "storage", region)
    home = group(architecture, region)
    own_id = resource_id(home, _STORAGE, own)
    service_id = resource_id(home, f"{_STORAGE}/blobServices", own, "default")
    account = blob.StorageAccountCreateParameters(
        location=region,
        tags=tags(architecture),
        kind="StorageV2",
        sku=blob.Sku(name=f"Standard_{declared.replication}"),
        access_tier=declared.access_tier,
        enable_https_traffic_only=True,
        minimum_tls_version=f"TLS{declared.tls_min.replace('.', '_')}",
        allow_blob_public_access=any(container.public for container in declared.containers.values()),
        allow_shared_key_access=declared.shared_keys,
        allow_cross_tenant_replication=False,
        default_to_o_auth_authentication=True,
        is_local_user_enabled=False,
        public_network_access="Enabled" if declared.public_network else "Disabled",
        network_rule_set=blob.NetworkRuleSet(bypass="AzureServices", default_action="Deny"),
        encryption=blob.Encryption(key_source="Microsoft.Storage", require_infrastructure_encryption=True),
    )
    yield Resource(type=_STORAGE, name=own, body=as_json(account))
    days = declared.soft_delete.days
    yield Resource(
        type=f"{_STORAGE}/blobServices",
        name=f"{own}/default",
        body={
            "properties": {
                "changeFeed": {"enabled": True},
                "containerDeleteRetentionPolicy": {"days": days, "enabled": True},
                "deleteRetentionPolicy": {"days": days, "enabled": True},
                "isVersioningEnabled": declared.versioning,
            }
        },
        depends_on=(own_id,),
    )
    for container in sorted(declared.containers):
        public = "Blob" if declared.containers[container].public else "None"
        yield Resource(
            type=f"{_STORAGE}/blobServices/containers",
            name=f"{own}/default/{container}",
            body={"properties": {"publicAccess": public}},
            depends_on=(service_id,),
        )
    lifecycle = declared.lifecycle

    def after(duration: timedelta) -> blob.DateAfterModification:
        return blob.DateAfterModification(days_after_modification_greater_than=duration.days)

    policy = blob.ManagementPolicy(
        policy=blob.ManagementPolicySchema(
            rules=[
                blob.ManagementPolicyRule(
                    enabled=True,
                    name="age",
                    type="Lifecycle",
                    definition=blob.ManagementPolicyDefinition(
                        filters=blob.ManagementPolicyFilter(blob_types=["blockBlob"]),
                        actions=blob.ManagementPolicyAction(
                            base_blob=blob.ManagementPolicyBaseBlob(
                                tier_to_cool=after(lifecycle.cool_after),
                                tier_to_archive=after(lifecycle.archive_after),
                                delete=after(lifecycle.delete_after),
                            ),
                            # Old versions are deleted with what they are versions of, or they would outlive
                            # it.
                            version=blob.ManagementPolicyVersion(
                                delete=blob.DateAfterCreation(
                                    days_after_creation_greater_than=lifecycle.delete_after.days
                                )
                            ),
                        ),
                    ),
                )
            ]
        )
    )
    yield Resource(
        type=f"{_STORAGE}/managementPolicies",
        name=f"{own}/default",
        body=as_json(policy),
        depends_on=(own_id, service_id),
    )
    yield from private_endpoint(architecture, region, "storage", own_id, (own_id,))

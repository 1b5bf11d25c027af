"""Recovery on Azure: each disaster's steps as exact lines for a declared architecture.

What Azure does itself is asked of Azure with its own command line, so that the lines work on any machine with
a sign-in, this project's command broken or not. Sources (learn.microsoft.com, read 2026-11): "Promote read
replicas", "Point-in-time restore" and "Geo-restore" of Azure Database for PostgreSQL flexible server; "Azure
storage disaster recovery planning and failover", "Soft delete for blobs"; redisEnterprise/databases `import`.
"""

from __future__ import annotations

from collections.abc import Callable

from ci.architecture.chart import database_url
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.arm import API
from ci.azure.network import PRIVATE_ZONES
from ci.errors import BadInput
from ci.recovery.steps import Scenario, Step

__all__ = ["SCENARIOS", "scenario", "scenarios"]

_POSTGRES_ZONE = PRIVATE_ZONES["postgres"]

_API = "deployment/voice-api -n voice"

# Exact: after a restore the statistics that PostgreSQL keeps of its tables start again at nothing.
_COUNTS = (
    "SELECT relname, (xpath('//c/text()', query_to_xml(format('SELECT count(*) c FROM %I.%I', "
    "schemaname, relname), true, false, '')))[1] FROM pg_stat_user_tables ORDER BY 1"
)

_MOMENT = "2026-11-24T16:00:00Z"
"""Where a line wants a moment: whoever runs it puts their own."""


def scenarios(architecture: Architecture, to: str | None = None) -> tuple[Scenario, ...]:
    """Every disaster that this architecture keeps something against."""
    return tuple(
        make(architecture, to or _second(architecture))
        for key, make in SCENARIOS.items()
        if not _missing(architecture, key)
    )


def scenario(architecture: Architecture, key: str, to: str | None = None) -> Scenario:
    """One of them. `to` is the region that takes over; the next in the failover order when left out.

    BadInput for an unknown scenario or region, and where the architecture keeps nothing against it.
    """
    if key not in SCENARIOS:
        raise BadInput(f"there is no scenario {key!r}", hint=f"known: {', '.join(SCENARIOS)}")
    if missing := _missing(architecture, key):
        raise BadInput(f"{architecture.environment} has no way out of {key}: {missing}")
    if to is not None and to not in architecture.order[1:]:
        known = ", ".join(architecture.order[1:]) or "none"
        raise BadInput(f"--to {to}: no region that can take over", hint=f"known: {known}")
    return SCENARIOS[key](architecture, to or _second(architecture))


def _missing(architecture: Architecture, key: str) -> str:
    if key == "region-lost" and not architecture.postgres.replicas:
        return "PostgreSQL has no replica in another region"
    if key == "replica-unusable":
        if not architecture.postgres.geo_redundant_backup:
            return "PostgreSQL's backups are kept in its own region alone"
        if len(architecture.order) == 1:
            return "it has no second region"
    return ""


def _second(architecture: Architecture) -> str:
    return architecture.order[1] if len(architecture.order) > 1 else architecture.primary


# What the steps share ------------------------------------------------------------------------------


def _group(architecture: Architecture, region: str) -> str:
    return name(architecture, "resource group", region)


def _at(architecture: Architecture, region: str, kind: str) -> str:
    """`-g GROUP -n NAME` of a thing; a region's replica has the name of its server (ci.azure.data)."""
    return f"-g {_group(architecture, region)} -n {name(architecture, kind, region)}"


def _id(architecture: Architecture, region: str, kind: str, its_name: str) -> str:
    """A resource's id, written out: what would look it up may be lost with the region."""
    group = _group(architecture, region)
    subscription = "$(az account show --query id -o tsv)"
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{kind}/{its_name}"


def _profiles(architecture: Architecture) -> tuple[str, str]:
    return name(architecture, "traffic manager"), name(architecture, "traffic manager", part="livekit")


def _traffic(architecture: Architecture, region: str, status: str) -> tuple[str, ...]:
    home = _group(architecture, architecture.primary)
    return tuple(
        f"az network traffic-manager endpoint update -g {home} --profile-name {profile} -n {region} "
        f"--type azureEndpoints --endpoint-status {status}"
        for profile in _profiles(architecture)
    )


def _endpoints(architecture: Architecture) -> tuple[str, ...]:
    home = _group(architecture, architecture.primary)
    return tuple(
        f"az network traffic-manager endpoint list -g {home} --profile-name {profile} "
        '--query "[].{region:name, status:endpointStatus, health:endpointMonitorStatus}" -o table'
        for profile in _profiles(architecture)
    )


def _out_of_traffic(architecture: Architecture, region: str) -> Step:
    return Step(
        key="traffic",
        title=f"Take {region} out of Traffic Manager",
        why="Its probes do that too, but a region that is half there flaps. Clients follow within the "
        "TTL. Should Azure refuse, because the group of these profiles is in the lost region: go on, the "
        "probes do it.",
        commands=_traffic(architecture, region, "Disabled") if architecture.traffic_manager else (),
        proof=_endpoints(architecture) if architecture.traffic_manager else (),
        minutes=3,
    )


def _point_to(architecture: Architecture, server: str, regions: tuple[str, ...]) -> Step:
    address = f"{server}.postgres.database.azure.com"
    url = database_url(architecture, server)
    clusters = [name(architecture, "cluster", region) for region in regions]
    return Step(
        key="point",
        title="Point the services to the new server",
        why=f"Each region's api reads where the database is from DATABASE_URL; the new one is {address}. It "
        "is no secret: they sign in by Entra ID. What is set here holds until the next promotion: before it, "
        "`database.url` of the environment's values says the same.",
        commands=tuple(
            f"kubectl --context {cluster} set env {_API} --containers=api DATABASE_URL={url}"
            for cluster in clusters
        ),
        proof=tuple(
            f"kubectl --context {cluster} rollout status {_API} --timeout=300s" for cluster in clusters
        ),
        minutes=5,
    )


def _compare(host: str) -> Step:
    return Step(
        key="compare",
        title="Compare what came back",
        why="Row counts against the last known ones. The age of the newest row is the RPO to report. The "
        "sign-in is a token of Entra ID, which psql takes as a password.",
        commands=(
            "PGPASSWORD=$(az account get-access-token --resource-type oss-rdbms --query accessToken -o tsv) "
            f'psql "host={host}.postgres.database.azure.com dbname=voice user=$USER sslmode=require" '
            f'-c "{_COUNTS}"',
        ),
        minutes=5,
    )


# The disasters -------------------------------------------------------------------------------------


def _region_lost(architecture: Architecture, to: str) -> Scenario:
    lost = architecture.primary
    server = name(architecture, "postgres", to)
    storage = name(architecture, "storage", lost)
    survivors = tuple(region for region in architecture.order if region != lost)
    return Scenario(
        name="region-lost",
        title=f"The primary region {lost} is lost",
        sign=f"Azure Service Health reports {lost}; PostgreSQL's primary does not answer for ten minutes.",
        loses="What the replica had not received yet, usually seconds: its lag in step 2 says how much. "
        f"Voice sessions of {lost}: callers connect again.",
        steps=(
            _out_of_traffic(architecture, lost),
            Step(
                key="postgres-lag",
                title="See what would be lost",
                why="Promoting takes what the replica has. The last lag before the loss is what is missing.",
                commands=(
                    "az monitor metrics list --metric physical_replication_delay_in_seconds --interval PT1M "
                    "--aggregation Maximum --resource-type Microsoft.DBforPostgreSQL/flexibleServers "
                    f"-g {_group(architecture, to)} --resource {server} -o table",
                ),
                minutes=2,
            ),
            Step(
                key="postgres",
                title=f"Promote the replica in {to}",
                why="Forced: the primary is not there to send the rest. It becomes a server of its own; "
                "the lost one, should it come back, is stale and must not be written to.",
                commands=(
                    f"az postgres flexible-server replica promote {_at(architecture, to, 'postgres')} "
                    "--promote-mode standalone --promote-option forced --yes",
                ),
                proof=(
                    f"az postgres flexible-server show {_at(architecture, to, 'postgres')} "
                    '--query "{state:state, role:replicationRole}" -o table',
                ),
                minutes=10,
                no_way_back=True,
            ),
            _point_to(architecture, server, survivors),
            Step(
                key="capacity",
                title=f"Give {to} the nodes of two regions",
                why="Pools start at their minimum; waiting for the autoscaler costs callers minutes.",
                commands=tuple(
                    f"az aks nodepool update -g {_group(architecture, to)} "
                    f"--cluster-name {name(architecture, 'cluster', to)} -n {pool} "
                    f"--update-cluster-autoscaler "
                    f"--min-count {min(2 * size.min, size.max)} --max-count {size.max}"
                    for pool, size in architecture.kubernetes.pools.items()
                    if size.mode != "system"
                ),
                minutes=10,
            ),
            _compare(server),
            Step(
                key="blobs",
                title=f"Decide on the blobs of {lost}",
                why="New recordings go to the account of the region that makes them, so nothing has to be "
                "done to go on. Only when the old ones are needed before the region is back: failing over "
                "takes the account to its paired region and makes it locally redundant. What is younger "
                "than the last sync is lost.",
                commands=(
                    f"az storage account show {_at(architecture, lost, 'storage')} --expand "
                    f"geoReplicationStats "
                    "--query geoReplicationStats.lastSyncTime",
                    f"az storage account failover {_at(architecture, lost, 'storage')} --yes",
                    f"az storage account update -n {storage} --sku "
                    f"Standard_{architecture.storage.replication}",
                ),
                proof=(
                    f"az storage account show {_at(architecture, lost, 'storage')} "
                    '--query "{primary:primaryLocation, sku:sku.name}" -o table',
                ),
                minutes=60,
                optional=True,
                no_way_back=True,
            ),
            Step(
                key="after",
                title="Make it the declared state",
                why=f"In environments/architecture/{architecture.environment}.yaml: {to} gets priority 1 "
                f"and {lost} the last one, the replicas move. Until then `va infra apply` would undo this.",
                commands=(
                    f"va env check --env {architecture.environment}",
                    f"va infra plan --env {architecture.environment}",
                ),
            ),
        ),
    )


def _replica_unusable(architecture: Architecture, to: str) -> Scenario:
    lost = architecture.primary
    restored = name(architecture, "postgres", to, part="geo")
    source = _id(
        architecture,
        lost,
        "Microsoft.DBforPostgreSQL/flexibleServers",
        name(architecture, "postgres", lost),
    )
    return Scenario(
        name="replica-unusable",
        title=f"The primary region {lost} is lost and no replica is usable",
        sign="`az postgres flexible-server replica promote` fails, or the replica has what the primary "
        "had broken.",
        loses="Up to an hour: geo-redundant backups are copied without a promise that is shorter. The RPO "
        f"of {_minutes(architecture.recovery.rpo.total_seconds())} is kept by the replicas alone.",
        steps=(
            _out_of_traffic(architecture, lost),
            Step(
                key="postgres",
                title=f"Restore PostgreSQL in {to} from its geo-redundant backup",
                why="A new server, without high availability and replicas: those come back with the "
                "declared state.",
                commands=(
                    f"az postgres flexible-server geo-restore -g {_group(architecture, to)} -n {restored} "
                    f"--location {to} --source-server {source}",
                ),
                proof=(
                    f"az postgres flexible-server show -g {_group(architecture, to)} -n {restored} "
                    "--query state",
                ),
                minutes=30,
            ),
            _private(architecture, to, restored),
            _point_to(
                architecture, restored, tuple(region for region in architecture.order if region != lost)
            ),
            _compare(restored),
        ),
    )


def _private(architecture: Architecture, region: str, server: str) -> Step:
    group = _group(architecture, region)
    subnets = architecture.regions[region].subnets
    subnet = next(key for key, one in subnets.items() if one.purpose == "endpoints")
    # There is one zone for all regions, in the group of the primary one.
    zone = _id(architecture, architecture.primary, "Microsoft.Network/privateDnsZones", _POSTGRES_ZONE)
    return Step(
        key="endpoint",
        title="Give the restored server its private endpoint",
        why="A restored server has none, and no public access either: nothing reaches it until then.",
        commands=(
            f"az network private-endpoint create -g {group} -n pe-{server} -l {region} "
            f"--vnet-name {name(architecture, 'vnet', region)} --subnet {subnet} "
            f"--connection-name {server} --group-id postgresqlServer "
            f"--private-connection-resource-id $(az postgres flexible-server show -g {group} -n {server} "
            "--query id -o tsv)",
            f"az network private-endpoint dns-zone-group create -g {group} --endpoint-name pe-{server} "
            f"-n default --zone-name postgres --private-dns-zone {zone}",
        ),
        proof=(f"az network private-endpoint show -g {group} -n pe-{server} --query provisioningState",),
        minutes=5,
    )


def _database_damaged(architecture: Architecture, _: str) -> Scenario:
    region = architecture.primary
    group = _group(architecture, region)
    server = name(architecture, "postgres", region)
    restored = name(architecture, "postgres", region, part="restored")
    # All regions write to the one database.
    clusters = [name(architecture, "cluster", one) for one in architecture.order]
    least = architecture.kubernetes.workloads["api"].scaling.min
    return Scenario(
        name="database-damaged",
        title="The database holds what it must not: a bad migration, a delete, an attack",
        sign="Rows are missing or wrong while the server is well. Replicas have the same within seconds: "
        "they do not help.",
        loses="What was written between the damage and the moment that writes stop.",
        steps=(
            Step(
                key="stop",
                title="Stop the writes",
                why="In every region: all write to the one database. Each minute of writing on top makes "
                "more that has to be sorted out by hand.",
                commands=tuple(f"kubectl --context {one} scale {_API} --replicas=0" for one in clusters),
                proof=tuple(f"kubectl --context {one} get {_API}" for one in clusters),
                minutes=1,
            ),
            Step(
                key="moment",
                title="Find the last good moment",
                why="From the release that did it (`va release list`), the audit log, or the first alert. "
                "A minute too early costs a minute of writes, a minute too late costs the restore.",
                commands=(
                    f"az postgres flexible-server show -g {group} -n {server} "
                    "--query backup.earliestRestoreDate",
                ),
            ),
            Step(
                key="postgres",
                title="Restore beside the damaged server",
                why="Point-in-time restore always makes a new server; the damaged one stays for "
                f"questions. Any moment of the last {architecture.postgres.point_in_time_restore.days} "
                "days, in UTC.",
                commands=(
                    f"az postgres flexible-server restore -g {group} -n {restored} --source-server {server} "
                    f"--restore-time {_MOMENT}",
                ),
                proof=(f"az postgres flexible-server show -g {group} -n {restored} --query state",),
                minutes=30,
            ),
            _private(architecture, region, restored),
            _compare(restored),
            _point_to(architecture, restored, tuple(architecture.order)),
            Step(
                key="start",
                title="Start the writes",
                why="With the declared minimum; the autoscaler goes on from there.",
                commands=tuple(
                    f"kubectl --context {one} scale {_API} --replicas={least}" for one in clusters
                ),
                proof=tuple(
                    f"kubectl --context {one} rollout status {_API} --timeout=300s" for one in clusters
                ),
                minutes=3,
            ),
            Step(
                key="after",
                title="Make it the declared state",
                why="High availability and replicas belong to the old server. Dump the restored one into "
                "the declared one once that is understood, point back, then delete the restored one.",
                commands=(
                    f'pg_dump -Fc -f voice.dump "host={restored}.postgres.database.azure.com dbname=voice '
                    'user=$USER sslmode=require"',
                    f'pg_restore --single-transaction --clean --no-owner -d "host={server}'
                    '.postgres.database.azure.com dbname=voice user=$USER sslmode=require" voice.dump',
                ),
            ),
        ),
    )


def _redis_lost(architecture: Architecture, _: str) -> Scenario:
    region = architecture.primary
    group, cache = _group(architecture, region), name(architecture, "redis", region)
    api = API["Microsoft.Cache/redisEnterprise/databases"]
    url = (
        "https://management.azure.com/subscriptions/{subscriptionId}"
        f"/resourceGroups/{group}/providers/Microsoft.Cache/redisEnterprise/{cache}"
        f"/databases/default/import?api-version={api}"
    )
    return Scenario(
        name="redis-lost",
        title="Redis is lost or empty",
        sign="The api answers 503 on /readyz in one region; Redis has no keys.",
        loses="Session state since the last export. Callers in a conversation start again; nothing that "
        "has to be kept is in Redis alone.",
        steps=(
            Step(
                key="redis",
                title="Bring the instance back, empty",
                why="That is enough: the services start new sessions. Persistence brings its own back "
                "after a restart, not after a deletion.",
                commands=(f"va infra apply --env {architecture.environment} --region {region}",),
                proof=(
                    f"az resource show -g {group} -n {cache} --resource-type Microsoft.Cache/redisEnterprise "
                    "--query properties.resourceState",
                ),
                minutes=15,
            ),
            Step(
                key="import",
                title="Only if sessions have to be back: import the last export",
                why="The address with its signature is a secret: it goes into import.json (mode 600), as "
                '{"sasUris": ["https://…"]}, never on a command line. Delete the file afterwards. Import '
                "replaces what is there.",
                commands=(f'az rest --method post --url "{url}" --body @import.json',),
                minutes=10,
                optional=True,
                no_way_back=True,
            ),
        ),
    )


def _blobs_deleted(architecture: Architecture, _: str) -> Scenario:
    account = name(architecture, "storage", architecture.primary)
    days = architecture.storage.soft_delete.days
    return Scenario(
        name="blobs-deleted",
        title="Blobs or a container were deleted or overwritten",
        sign="Recordings are missing; the account itself is well.",
        loses=f"Nothing within {days} days: deleted blobs, versions and containers are kept that long.",
        steps=(
            Step(
                key="container",
                title="Bring a deleted container back",
                why="First: its blobs come back with it.",
                commands=(
                    f"az storage container list --account-name {account} --auth-mode login --include-deleted "
                    '--query "[?deleted].{name:name, version:version}" -o table',
                    f"az storage container restore --account-name {account} --auth-mode login "
                    "-n recordings --deleted-version VERSION",
                ),
                minutes=5,
            ),
            Step(
                key="blobs",
                title="Bring deleted blobs back",
                why="With versioning a delete keeps the last version: undelete what is soft-deleted, and "
                "make the version current again where it is not.",
                commands=(
                    f"az storage blob list --account-name {account} --auth-mode login -c recordings "
                    f"--include dv "
                    '--query "[].{name:name, deleted:deleted, version:versionId}" -o table',
                    f"az storage blob undelete --account-name {account} --auth-mode login -c recordings -n "
                    f"NAME",
                    f"az storage blob copy start --account-name {account} --auth-mode login "
                    "--destination-container recordings --destination-blob NAME --source-uri "
                    f'"https://{account}.blob.core.windows.net/recordings/NAME?versionId=VERSION"',
                ),
                minutes=15,
            ),
        ),
    )


def _cluster_lost(architecture: Architecture, _: str) -> Scenario:
    region, env = architecture.primary, architecture.environment
    return Scenario(
        name="cluster-lost",
        title="A region's cluster is lost, the stores are well",
        sign="The API server of one region's cluster does not answer, or its nodes do not come back.",
        loses=f"The calls in {region}. Nothing is stored in a cluster: it is made of files and a release.",
        steps=(
            _out_of_traffic(architecture, region),
            Step(
                key="cluster",
                title="Make the cluster again",
                why="From the declared architecture; what is there stays, what is missing is made.",
                commands=(f"va infra apply --env {env} --region {region}",),
                proof=(f"az aks show {_at(architecture, region, 'cluster')} --query provisioningState",),
                minutes=20,
            ),
            Step(
                key="release",
                title="Install the release that ran there",
                why="By digest, from the registry: the same bytes as in the other regions.",
                commands=(f"va status {env}", f"va promote RELEASE --to {env}"),
                proof=(f"va status {env}",),
                minutes=10,
            ),
            Step(
                key="traffic-back",
                title=f"Let traffic back into {region}",
                why="When its probes are well.",
                commands=_traffic(architecture, region, "Enabled") if architecture.traffic_manager else (),
                proof=_endpoints(architecture) if architecture.traffic_manager else (),
                minutes=3,
            ),
        ),
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} minutes"


SCENARIOS: dict[str, Callable[[Architecture, str], Scenario]] = {
    "region-lost": _region_lost,
    "replica-unusable": _replica_unusable,
    "database-damaged": _database_damaged,
    "redis-lost": _redis_lost,
    "blobs-deleted": _blobs_deleted,
    "cluster-lost": _cluster_lost,
}

"""What the chart's workloads ask of the cluster, as declared, and the values that it is installed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ci.architecture.access import CERTIFICATE, secret_readers
from ci.architecture.alerts import rule_file
from ci.architecture.kubernetes import Taint
from ci.architecture.model import Architecture, Declared
from ci.architecture.names import name
from ci.errors import Place

__all__ = ["Fit", "checkable_values", "database_url", "declared_workloads", "values"]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One workload's demands. `drain_seconds` and `pool` are None where nothing tells."""

    name: str
    pool: str | None
    tolerates: tuple[Taint, ...]
    cpu_millicores: int
    memory_mib: int
    min_pods: int
    max_pods: int
    grace_seconds: float
    drain_seconds: float | None
    host_network: bool
    declared_as: str | None
    """A rendered workload's name in the architecture, None where it has none; a declared one's own name."""
    rendered: bool
    place: Callable[[str], Place]
    """Where one of these facts is written; takes its name."""


def declared_workloads(declared: Declared) -> tuple[Fit, ...]:
    """The workloads of the architecture file."""

    def place_of(name: str) -> Callable[[str], Place]:
        keys = {
            "min_pods": ("scaling", "min"),
            "max_pods": ("scaling", "max"),
            "grace_seconds": ("grace",),
            "drain_seconds": ("drain",),
        }
        return lambda fact: declared.place("kubernetes", "workloads", name, *keys.get(fact, (fact,)))

    return tuple(
        Fit(
            name=name,
            pool=workload.pool,
            tolerates=workload.tolerates,
            cpu_millicores=workload.cpu_millicores,
            memory_mib=workload.memory_mib,
            min_pods=workload.scaling.min,
            max_pods=workload.scaling.max,
            grace_seconds=workload.grace.total_seconds(),
            drain_seconds=workload.drain.total_seconds(),
            host_network=workload.host_network,
            declared_as=name,
            rendered=False,
            place=place_of(name),
        )
        for name, workload in declared.architecture.kubernetes.workloads.items()
    )


def values(
    architecture: Architecture,
    region: str,
    *,
    identities: Mapping[str, str] | None = None,
    tenant: str = "",
    prometheus: str = "",
) -> dict[str, Any]:
    """What the chart is installed with on a region's cluster, to be laid over its own values.yaml.

    `identities` are the client ids of the parts' managed identities, `tenant` is Entra's, `prometheus` where
    KEDA reads metrics: Azure makes them up, so that they are in no file. Without them the chart refuses to be
    rendered, and says which is missing. The images are a release's, and not in here.
    """
    from ci.environments.chart_values import Values  # the checks do without: their start counts

    identities = identities or {}
    kubernetes, monitoring = architecture.kubernetes, architecture.monitoring
    plan = architecture.regions[region]
    subnets = plan.subnets.values()
    networks = {subnet.purpose: str(subnet.cidr) for subnet in subnets}
    redis, server = name(architecture, "redis", region), name(architecture, "postgres")
    vault = name(architecture, "key vault", region)
    managed = monitoring.managed_prometheus
    parts = {
        part: _part(architecture, part, identities.get(part, ""))
        for part in kubernetes.workloads
        if part in Values.model_fields
    }
    livekit = parts.pop("livekit", None)
    namespace = _LIVEKIT_NAMESPACE
    if livekit is not None:
        parts["livekit"] = {
            # By the name of the certificate and through the region's own gateway, which ends TLS: out of the
            # network and in again it might be another region's.
            "url": f"wss://livekit.{architecture.dns.zone}",
            "address": plan.gateway_address if kubernetes.ingress == "gateway-api" else "",
            "publicUrl": f"wss://livekit.{architecture.dns.zone}",
            "secret": "voice-livekit",
            "server": livekit | _livekit(architecture, region, namespace),
        }
    if "agent" in parts and "openai-api-key" in architecture.key_vault.secrets:
        parts["agent"]["providerSecret"] = "voice-agent"
    if "api" in parts:
        parts["api"]["adminSecret"] = "voice-admin"
        parts["api"]["trustedProxies"] = [
            *([str(architecture.network.pod_cidr)] if architecture.network.pod_cidr else []),
            networks["gateway"],
        ]
    objects = {
        name: keys
        for name, keys in _OBJECTS.items()
        if any(secret in architecture.key_vault.secrets for secret in keys.values())
    }
    return {
        "traffic": {
            "kind": "httproute" if kubernetes.ingress == "gateway-api" else "ingress",
            "hostname": f"api.{architecture.dns.zone}",
            "aliases": [
                f"{key}.{architecture.dns.zone}" for key in architecture.gateway.routes if key != "api"
            ],
            "probePath": architecture.gateway.routes["api"].probe.path,
            "gateway": {
                "name": "voice",
                "namespace": "voice",
                "create": True,
                "className": _GATEWAY_CLASS,
                # A Gateway's own `addresses` become external ones of the Service: nothing listens there.
                "address": "",
                "annotations": {
                    "service.beta.kubernetes.io/azure-load-balancer-internal": "true",
                    "service.beta.kubernetes.io/azure-load-balancer-ipv4": plan.gateway_address,
                },
                "tlsSecret": _GATEWAY_CERTIFICATE,
                "identity": identities.get("ingress", ""),
            },
        },
        "redis": {
            "url": f"rediss://{redis}.{region}.redis.azure.net:10000",
            "cluster": architecture.redis.clustered,
            "secret": "voice-redis",
        },
        "database": {
            "enabled": True,
            # One server for all regions: no request waits for what is written there.
            "url": database_url(architecture, server),
            "user": name(architecture, "identity", region, part="api"),
            "migrator": name(architecture, "identity", region, part="migrate"),
            "entra": True,
            "identity": identities.get("migrate", ""),
            "historyDays": architecture.residency.longest_retention.days,
            "migrateSeconds": 300,
        },
        **parts,
        "secrets": {
            "provider": "external-secrets",
            "vault": {"url": f"https://{vault}.vault.azure.net", "tenant": tenant},
            "objects": objects,
            "readers": {
                name: reader for name, keys in objects.items() for reader in _reader(architecture, keys)
            },
            "certificates": {"voice-livekit-tls": CERTIFICATE, _GATEWAY_CERTIFICATE: CERTIFICATE},
        },
        "networkPolicy": {
            "enabled": True,
            "cilium": kubernetes.network_policy == "cilium",
            "gateways": [_GATEWAY_NAMESPACE],
            "metrics": ["kube-system" if managed else "monitoring"],
            # Outside of the cluster, at an address that Azure makes up.
            "apiServer": [] if kubernetes.network_policy == "cilium" else ["0.0.0.0/0"],
            "redis": _endpoints(architecture, region),
            # Its endpoint is in the primary region; after a failover in that of a replica, for all regions.
            "database": sorted(
                {
                    endpoint
                    for each in (
                        architecture.primary,
                        region,
                        *(replica.region for replica in architecture.postgres.replicas.values()),
                    )
                    for endpoint in _endpoints(architecture, each)
                }
            ),
            # Nodes of the livekit pool advertise their public addresses, which come and go with them.
            "livekit": ["0.0.0.0/0"],
            "https": ["0.0.0.0/0"],
        },
        "keda": {
            "prometheus": prometheus,
            "workloadIdentity": managed,
            "identity": identities.get("keda", ""),
        },
        "monitoring": {
            "annotations": False,
            "podMonitors": True,
            "apiGroup": "azmonitoring.coreos.com" if managed else "monitoring.coreos.com",
            # Azure's managed Prometheus has its rules as a rule group of ARM: see ci.azure.operations.
            "rules": [] if managed else rule_file(architecture)["groups"],
        },
        "priorities": {"create": True},
    }


def database_url(architecture: Architecture, server: str) -> str:
    """What the api connects to on a flexible server of that name."""
    return f"postgresql://{server}.postgres.database.azure.com:5432/{architecture.postgres.databases[0]}"


def _reader(architecture: Architecture, keys: Mapping[str, str]) -> list[str]:
    """The part of the release's namespace as which a Secret is fetched: the first that may read all of it."""
    readers = secret_readers(architecture)
    parts = [part for part in ("api", "agent") if all(part in readers.get(one, ()) for one in keys.values())]
    return parts[:1]


def _endpoints(architecture: Architecture, region: str) -> list[str]:
    """Where a region's private endpoints are."""
    subnets = architecture.regions[region].subnets.values()
    return [str(subnet.cidr) for subnet in subnets if subnet.purpose == "endpoints"]


def checkable_values(architecture: Architecture, region: str) -> dict[str, Any]:
    """The same with stand-ins for what only Azure knows: to check what is rendered, never to install it."""
    found = values(
        architecture,
        region,
        identities=dict.fromkeys(architecture.access.identities, _NO_ID),
        tenant=_NO_ID,
        prometheus="https://prometheus.example",
    )
    if "livekit" in found:
        image = {"repository": "registry.example/livekit-server", "digest": f"sha256:{'0' * 64}"}
        found["livekit"]["server"].setdefault("image", image)
    return found


_NO_ID = "00000000-0000-0000-0000-000000000000"
_LIVEKIT_NAMESPACE = "voice-livekit"
_GATEWAY_CERTIFICATE = "voice-gateway-tls"
_OBJECTS = {
    "voice-livekit": {"LIVEKIT_API_KEY": "livekit-api-key", "LIVEKIT_API_SECRET": "livekit-api-secret"},
    "voice-redis": {"REDIS_PASSWORD": "redis"},
    "voice-admin": {"ADMIN_TOKEN": "admin-token"},
    "voice-agent": {"OPENAI_API_KEY": "openai-api-key"},
}
"""Secrets of the release's namespace: their keys and the vault's secrets."""
_GATEWAY_CLASS, _GATEWAY_NAMESPACE = "eg", "envoy-gateway-system"
"""Envoy Gateway's own names: docs/chart.md says what has to be on a cluster before the chart."""
_LIMIT = {"api": 1024, "web": 256, "agent": 4096, "livekit": 24576}
"""MiB at most: what a leak may take before it is stopped, twice or more of what is asked for."""
_AFTER_DRAIN = 310
"""livekit-agents: shutdown_process_timeout 10 s, session_end_timeout 300 s."""
_SHUTDOWN = 20


def _part(architecture: Architecture, part: str, identity: str) -> dict[str, Any]:
    workload = architecture.kubernetes.workloads[part]
    drain = int(workload.drain.total_seconds())
    shutdown = max(1, min(_SHUTDOWN, drain - 5))
    own: dict[str, dict[str, Any]] = {
        "agent": {"drainTimeoutSeconds": drain - _AFTER_DRAIN},
        "livekit": {},
    }
    requests, pool = (workload.cpu_millicores, workload.memory_mib), workload.pool
    most = max(_LIMIT.get(part, 0), 2 * requests[1])
    if part == "livekit":
        most = requests[1] * 5 // 4  # one a node: the node's memory is what there is
    return {
        "nodeSelector": dict(architecture.kubernetes.pools[pool].labels)
        or {"kubernetes.azure.com/agentpool": pool},
        "tolerations": [
            {"key": taint.key, "operator": "Equal", "value": taint.value, "effect": taint.effect}
            for taint in workload.tolerates
        ],
        "resources": {
            "requests": {"cpu": f"{requests[0]}m", "memory": f"{requests[1]}Mi"},
            "limits": {"memory": f"{most}Mi"},
        },
        "priorityClass": "voice-calls" if part in ("agent", "livekit") else "voice-requests",
        "identity": identity,
        "autoscaling": {
            "by": workload.scaling.by,
            "min": workload.scaling.min,
            "max": workload.scaling.max,
            "target": workload.scaling.target,
        },
        "graceSeconds": int(workload.grace.total_seconds()),
        **own.get(part, {"drainSeconds": drain - shutdown, "shutdownSeconds": shutdown}),
    }


def _livekit(architecture: Architecture, region: str, namespace: str) -> dict[str, Any]:
    """What LiveKit has beyond other parts. The image is a registry's of ours, by digest, or not said here."""
    path, zone = architecture.livekit, architecture.dns.zone
    image = architecture.kubernetes.workloads["livekit"].image
    repository, _, digest = (image or "").partition("@")
    return {
        "enabled": True,
        "namespace": namespace,
        **({"image": {"repository": repository, "digest": digest}} if image else {}),
        "tcpPort": path.tcp_fallback,
        "udpFrom": path.udp_from,
        "udpTo": path.udp_to,
        "externalIp": True,
        "turn": {
            "enabled": True,
            "domain": f"livekit.{zone}",
            "tlsPort": path.turn_tls_port,
            "udpPort": path.turn_udp_port,
            "tlsSecret": "voice-livekit-tls",
        },
        "signalling": {
            "enabled": True,
            "hostname": f"livekit.{zone}",
            "className": _GATEWAY_CLASS,
            "tlsSecret": "voice-livekit-tls",
        },
        "loadBalancer": {
            # Both Services share the one address that DNS names.
            "service.beta.kubernetes.io/azure-pip-name": name(
                architecture, "public ip", region, part="livekit"
            ),
            "service.beta.kubernetes.io/azure-load-balancer-resource-group": name(
                architecture, "resource group", region
            ),
        },
    }

"""What is encrypted on its way, leg by leg, found out from what is rendered and from the chart's values.

Who passes on what people say or write is a leg: callers, Application Gateway, the cluster's gateway, pods,
LiveKit, stores. Media of calls are DTLS-SRTP between their ends, by WebRTC itself (RFC 8827, section 6.5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ci.architecture.chart import values
from ci.architecture.model import Architecture
from ci.architecture.resources import Fact, Rendered, at

__all__ = ["enforced_tls", "transit"]

_PREDEFINED = {
    "AppGwSslPolicy20150501": "1.0",
    "AppGwSslPolicy20170401": "1.1",
    "AppGwSslPolicy20170401S": "1.2",
    "AppGwSslPolicy20220101": "1.2",
    "AppGwSslPolicy20220101S": "1.2",
}
"""The least that each takes. Source: learn.microsoft.com, "Application Gateway TLS policy overview"."""
_ENCRYPTED_SIZES = r"Standard_[DE][0-9]+(d|ds|s|a|as|ads|ls|lds)?_v[456]"
"""Sizes whose traffic a virtual network encrypts.

Source: learn.microsoft.com, "What is Azure Virtual Network encryption?", Requirements.
"""


def enforced_tls(policy: Any) -> str:
    """The least TLS that Application Gateway's policy (`sslPolicy`) takes; `0` when it says none."""
    if at(policy, ("policyType",)) == ["Predefined"]:
        return _PREDEFINED.get(policy.get("policyName"), "0")
    (least,) = at(policy, ("minProtocolVersion",))
    return str(least or "TLSv0").removeprefix("TLSv").replace("_", ".")


def transit(architecture: Architecture, rendered: Sequence[Rendered]) -> Iterator[Fact]:
    """Each leg in every region, and whether TLS 1.2 or what the architecture asks for is enforced on it."""
    found: dict[str, list[Rendered]] = {}
    for one in rendered:
        found.setdefault(one.type, []).append(one)
    yield from _way_in(architecture, found.get("Microsoft.Network/applicationGateways", []))
    yield from _nodes(found)
    yield from _stores(architecture, found)
    for region in architecture.order:
        yield from _pods(region, values(architecture, region))


def _fact(leg: str, what: str, right: bool) -> Fact:
    return Fact(text=f"{leg}: {what}", right=right)


def _enough(version: object, least: str) -> bool:
    """Versions as Azure's services write them: TLS1_2, TLSv1.2, 1.2."""
    number = re.sub(r"(?i)^tlsv?", "", str(version)).replace("_", ".")
    return max("1.2", least) <= number <= "1.9"


def _way_in(architecture: Architecture, gateways: Sequence[Rendered]) -> Iterator[Fact]:
    leg = "callers to Application Gateway"
    if not gateways:
        yield _fact(leg, "none is rendered", False)
    for one in gateways:
        properties = one.body["properties"]
        enforced = enforced_tls(properties.get("sslPolicy"))
        yield _fact(
            leg, f"{one.name} takes TLS {enforced} or later", _enough(enforced, architecture.gateway.tls_min)
        )
        passing = {
            str(at(rule, ("properties", "httpListener", "id"))[0]).rpartition("'")[0].rpartition("'")[2]
            for rule in properties["requestRoutingRules"]
            if not rule["properties"].get("redirectConfiguration")
        }
        for listener in properties["httpListeners"]:
            if listener["name"] in passing:
                protocol = listener["properties"]["protocol"]
                yield _fact(leg, f"{one.name} listens with {protocol}", protocol == "Https")
        protocols = {
            *at(properties, ("backendHttpSettingsCollection", "*", "properties", "protocol")),
            *at(properties, ("probes", "*", "properties", "protocol")),
        }
        yield _fact(
            "Application Gateway to the cluster's gateway",
            f"{one.name} asks with {', '.join(sorted(protocols))}",
            protocols == {"Https"},
        )


def _nodes(found: dict[str, list[Rendered]]) -> Iterator[Fact]:
    """Gateway to pods, and to LiveKit on its node's own network: what leaves a node is encrypted."""
    leg = "gateways to pods and to LiveKit"
    networks = found.get("Microsoft.Network/virtualNetworks", [])
    for one in networks:
        encrypted = at(one.body, ("properties", "encryption", "enabled")) == [True]
        yield _fact(leg, f"{one.name} {'encrypts' if encrypted else 'does not encrypt'}", encrypted)
    sizes = {
        size
        for one in found.get("Microsoft.ContainerService/managedClusters", [])
        for size in at(one.body, ("properties", "agentPoolProfiles", "*", "vmSize"))
    }
    for size in sorted(size for size in sizes if not re.fullmatch(_ENCRYPTED_SIZES, size)):
        yield _fact(leg, f"nodes of {size}: their network cannot encrypt", False)
    if not networks or not sizes:
        yield _fact(leg, "no network or no cluster is rendered", False)


def _stores(architecture: Architecture, found: dict[str, list[Rendered]]) -> Iterator[Fact]:
    postgres = {
        one.name.rpartition("/")[2]: one.body["properties"]["value"]
        for one in found.get("Microsoft.DBforPostgreSQL/flexibleServers/configurations", [])
    }
    only, least = postgres.get("require_secure_transport"), postgres.get("ssl_min_protocol_version")
    enough = only == "on" and _enough(least, architecture.postgres.tls_min)
    yield _fact("api to PostgreSQL", f"require_secure_transport {only}, {least} or later", enough)
    for kind, leg, version, only_tls, wanted, asked in (
        (
            "Microsoft.Cache/redisEnterprise",
            "api and LiveKit to Redis",
            "minimumTlsVersion",
            ("Microsoft.Cache/redisEnterprise/databases", "clientProtocol"),
            "Encrypted",
            architecture.redis.tls_min,
        ),
        (
            "Microsoft.Storage/storageAccounts",
            "to Blob Storage",
            "minimumTlsVersion",
            ("Microsoft.Storage/storageAccounts", "supportsHttpsTrafficOnly"),
            True,
            architecture.storage.tls_min,
        ),
    ):
        versions = {str(at(one.body, ("properties", version))[0]) for one in found.get(kind, [])}
        alone = [at(one.body, ("properties", only_tls[1])) == [wanted] for one in found.get(only_tls[0], [])]
        right = bool(versions and alone) and all(alone) and all(_enough(one, asked) for one in versions)
        yield _fact(leg, f"{', '.join(sorted(versions)) or 'nothing'} or later, and nothing else", right)


def _pods(region: str, given: dict[str, Any]) -> Iterator[Fact]:
    """What pods in a region are told to ask with, and what the chart's gateways listen with."""
    traffic, livekit = given["traffic"]["gateway"], given.get("livekit", {})
    yield _fact(
        "Application Gateway to the cluster's gateway",
        f"the chart's gateway in {region} {'ends TLS' if traffic.get('tlsSecret') else 'listens with HTTP'}",
        bool(traffic.get("tlsSecret")),
    )
    schemes = {
        "api to Redis": (given["redis"]["url"], "rediss"),
        "api and agents to LiveKit": (livekit.get("url", "wss"), "wss"),
        "callers to LiveKit": (livekit.get("publicUrl", "wss"), "wss"),
    }
    for leg, (url, wanted) in schemes.items():
        scheme = url.partition(":")[0]
        yield _fact(leg, f"{scheme} in {region}", scheme == wanted)
    server = livekit.get("server", {})
    ends = [server[key]["tlsSecret"] for key in ("signalling", "turn") if server.get(key, {}).get("enabled")]
    yield _fact("callers to LiveKit", f"signalling and TURN in {region} end TLS", all(ends))
    database = given["database"]
    yield _fact("api to PostgreSQL", f"the api asks for TLS in {region}", database.get("tls", True) is True)

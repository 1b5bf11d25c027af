"""The way in: Traffic Manager, Application Gateway with its firewall, LiveKit's media path, certificates."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ci.architecture.kinds import Duration, Frozen, SecretRef, Slug, WebPath

__all__ = ["Certificates", "Gateway", "LiveKitPath", "Probe", "Redirect", "Route", "TrafficManager", "Waf"]


class TrafficManager(Frozen):
    """DNS that answers with a healthy region."""

    routing: Literal["performance", "priority", "weighted", "geographic"]
    ttl: Duration
    probe_path: WebPath
    probe_interval: Duration
    probe_timeout: Duration
    tolerated_failures: int = Field(ge=0, le=9)


class Waf(Frozen):
    """The firewall's policy. `rate_limit` is requests per client address and minute."""

    mode: Literal["prevention", "detection"] = "prevention"
    rule_set: Literal["owasp-crs 3.1", "owasp-crs 3.2", "drs 2.1", "drs 2.2"]
    bot_protection: bool = True
    rate_limit: int | None = Field(default=None, ge=1)
    blocked_countries: tuple[str, ...] = ()


class Probe(Frozen):
    """How the gateway asks a backend whether it lives."""

    path: WebPath
    interval: Duration
    timeout: Duration
    unhealthy_after: int = Field(ge=1, le=20)


class Route(Frozen):
    """One path of the public host and the backend behind it."""

    path: WebPath
    backend: Slug
    port: int = Field(ge=1, le=65535)
    probe: Probe


class Redirect(Frozen):
    """A permanent redirect from plain HTTP."""

    from_port: int = 80
    to: Literal["https"] = "https"


class Gateway(Frozen):
    """Application Gateway v2 with its firewall."""

    sku: Literal["WAF_v2", "Standard_v2"]
    min_units: int = Field(ge=0, le=125)
    max_units: int = Field(ge=2, le=125)
    http2: bool = True
    tls_min: Literal["1.0", "1.1", "1.2", "1.3"]
    waf: Waf
    routes: dict[Slug, Route]
    redirect: Redirect | None = None
    public_ip: Literal["static", "dynamic"] = "static"


class LiveKitPath(Frozen):
    """How calls' media reach LiveKit. `host-network`: straight to the node's own public address."""

    media: Literal["host-network", "load-balancer"]
    udp_from: int = Field(default=50000, ge=1024, le=65535)
    udp_to: int = Field(default=60000, ge=1024, le=65535)
    tcp_fallback: int = Field(default=7881, ge=1, le=65535)
    turn_tls_port: int = Field(default=5349, ge=1, le=65535)
    turn_udp_port: int = Field(default=3478, ge=1, le=65535)
    signal_port: int = Field(default=443, ge=1, le=65535)
    load_balancer_sku: Literal["Standard", "Basic"] = "Standard"
    keys: SecretRef


class Certificates(Frozen):
    """Where TLS certificates come from. Azure-managed ones do not exist for Application Gateway."""

    source: Literal["key-vault-ca", "lets-encrypt", "azure-managed"]
    names: tuple[str, ...] = Field(min_length=1)
    issuer: str = Field(default="DigiCert", description="a CA that Key Vault is partnered with")
    used_by: tuple[Slug, ...] = Field(
        default=(), description="the identities that end TLS with it: they may read its key"
    )
    renew_before: Duration

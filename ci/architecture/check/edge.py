"""Rules about the way in: LiveKit's media, DNS and Traffic Manager, certificates, the firewall."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta

from ci.architecture import names
from ci.architecture.check.rule import Broken, Estate, Rule, error, info, warning

__all__ = ["RULES"]


@error("LIVEKIT-PORTS")
def media_ports_open(estate: Estate) -> Iterator[Broken]:
    """LiveKit's ports are let in to its nodes where the rest is blocked."""
    livekit, network = estate.architecture.livekit, estate.architecture.network
    if livekit.media != "host-network" or not network.block_all_inbound:
        return
    purpose = "media" if estate.architecture.media_apart else "aks"
    rules = network.security.get(purpose, {}).values()
    needs = {
        ("udp", f"{livekit.udp_from}-{livekit.udp_to}"): "media",
        ("tcp", str(livekit.tcp_fallback)): "media where UDP is blocked",
        ("tcp", str(livekit.signal_port)): "signalling",
        ("tcp", str(livekit.turn_tls_port)): "TURN over TLS",
        ("udp", str(livekit.turn_udp_port)): "TURN",
    }
    for (protocol, ports), what in needs.items():
        if not any(rule.protocol in (protocol, "any") and ports in rule.ports for rule in rules):
            yield Broken(
                ("network", "security", purpose),
                f"LiveKit's {what} ({protocol} {ports}) is not let in",
                f"add a rule to network.security.{purpose}",
            )


@error("LIVEKIT-IMAGE")
def livekit_stays_the_same(estate: Estate) -> Iterator[Broken]:
    """LiveKit's image, where it is named, is one of our own registry's, by digest."""
    architecture = estate.architecture
    workload = architecture.kubernetes.workloads.get("livekit")
    if workload is None or workload.image is None:
        return
    registry = f"{names.name(architecture, 'registry')}.azurecr.io"
    own = rf"{re.escape(registry)}/[a-z0-9][a-z0-9._/-]*@sha256:[0-9a-f]{{64}}"
    if not re.fullmatch(own, workload.image):
        yield Broken(
            ("kubernetes", "workloads", "livekit", "image"),
            f"{workload.image} is not one of {registry} by digest: another image tomorrow, or one that "
            "nobody here scanned and signed",
            f"`va livekit publish` prints {registry}/livekit-server@sha256:…",
        )


@info("LIVEKIT-IMAGE")
def livekit_has_an_image(estate: Estate) -> Iterator[Broken]:
    """LiveKit has an image, or the chart is not installed with it."""
    workload = estate.architecture.kubernetes.workloads.get("livekit")
    if workload is not None and workload.image is None:
        yield Broken(
            ("kubernetes", "workloads", "livekit"),
            "no image is named: the chart refuses to be installed on AKS until one is",
            "publish one to this environment's registry (`va livekit publish`) and name what it prints as "
            "`image`",
        )


def _how(estate: Estate) -> str:
    livekit = estate.architecture.livekit
    ports = f"UDP {livekit.udp_from}-{livekit.udp_to}"
    return f"hostNetwork, one pod a node, {ports} straight to the nodes' own public addresses"


@error("LIVEKIT-MEDIA")
def media_past_the_balancer(estate: Estate) -> Iterator[Broken]:
    """WebRTC media reach the node that the call is on, not a load balancer."""
    if estate.architecture.livekit.media == "load-balancer":
        yield Broken(
            ("livekit", "media"),
            "WebRTC media cannot sit behind a load balancer: ten thousand UDP ports, and each call's "
            "packets must reach the node that the call is on",
            f"media: host-network ({_how(estate)}); the load balancer keeps signalling and TURN over TLS",
        )


@error("LIVEKIT-PUBLIC-IP")
def media_nodes_are_public(estate: Estate) -> Iterator[Broken]:
    """The nodes that media reach have public addresses, and may have them."""
    architecture = estate.architecture
    livekit, network = architecture.livekit, architecture.network
    public = any(pool.public_ip_per_node for pool in architecture.kubernetes.pools.values())
    hosts = any(fit.host_network for fit in estate.workloads)
    if not network.public_ips_on_backend and (public or livekit.media == "load-balancer" or not hosts):
        yield Broken(
            ("network", "public_ips_on_backend"),
            f"LiveKit's media need public addresses on its nodes ({_how(estate)}), which this rules out",
            "public_ips_on_backend: true, public_ip_per_node on the livekit pool alone, and its ports in "
            "the NSG",
        )
    elif livekit.media == "host-network" and not public:
        yield Broken(
            ("kubernetes", "pools"),
            "LiveKit's media need public addresses on its nodes; no pool has public_ip_per_node",
            "public_ip_per_node: true on the livekit pool",
        )


@error("PUBLIC-NODES")
def only_media_nodes_are_public(estate: Estate) -> Iterator[Broken]:
    """No node is public that takes no media."""
    pools = estate.architecture.kubernetes.pools
    if any(fit.host_network and fit.pool not in pools for fit in estate.workloads):
        return  # POOL-UNKNOWN: whose nodes it needs is not known
    for name, pool in pools.items():
        needed = any(fit.host_network and fit.pool == name for fit in estate.workloads)
        if pool.public_ip_per_node and not needed:
            yield Broken(
                ("kubernetes", "pools", name, "public_ip_per_node"),
                f"the nodes of {name} are public, though nothing there needs it ({pool.vm_size})",
                "public_ip_per_node: false",
            )


@error("DNS-BYPASS")
def names_fail_over(estate: Estate) -> Iterator[Broken]:
    """Where there is a Traffic Manager, every public name leads to it."""
    zone = estate.architecture.dns.zone
    for name, record in estate.architecture.dns.records.items():
        if estate.architecture.traffic_manager is not None and record.to != "traffic-manager":
            yield Broken(
                ("dns", "records", name),
                f"{name}.{zone} leads to one region's {record.to}, past Traffic Manager: it never fails over",
                "to: traffic-manager",
            )


@error("DNS-NOWHERE")
def names_lead_somewhere(estate: Estate) -> Iterator[Broken]:
    """Names lead to what is declared; several regions have something that chooses between them."""
    architecture = estate.architecture
    if architecture.traffic_manager is not None:
        return
    for name, record in architecture.dns.records.items():
        if record.to == "traffic-manager":
            yield Broken(
                ("dns", "records", name),
                f"{name} leads to a Traffic Manager that is not declared",
                "declare it",
            )
    if len(architecture.regions) > 1:
        yield Broken(
            ("regions",),
            f"{len(architecture.regions)} regions and no Traffic Manager to choose between them",
            "declare traffic_manager",
        )


@error("DR-RTO")
def regions_are_left_in_time(estate: Estate) -> Iterator[Broken]:
    """Traffic Manager leaves a lost region within the RTO."""
    manager, rto = estate.architecture.traffic_manager, estate.architecture.recovery.rto
    if manager is None:
        return
    takes = manager.probe_interval * (manager.tolerated_failures + 1) + manager.ttl
    if takes > rto:
        yield Broken(
            ("traffic_manager",),
            f"a lost region is left after {takes}, more than the RTO of {rto}",
            "probe more often, tolerate fewer failures, a shorter ttl",
        )


@error("TM-PROBE")
def probes_end_in_time(estate: Estate) -> Iterator[Broken]:
    """A probe's timeout is shorter than its interval."""
    manager = estate.architecture.traffic_manager
    allowed = manager is not None and manager.probe_interval.total_seconds() in (10, 30)  # else TM-INTERVAL
    if manager is not None and allowed and manager.probe_timeout >= manager.probe_interval:
        yield Broken(
            ("traffic_manager", "probe_timeout"),
            "the probe's timeout must be shorter than its interval",
            "5s of 10s",
        )


@error("TM-ANSWER")
def the_api_answers_probes(estate: Estate) -> Iterator[Broken]:
    """Traffic Manager asks a path that the api answers: by that it knows whether a region lives.

    Its probes come with the api's host and pass the gateway's routes; any other part's answer keeps a region
    without an api in rotation.
    """
    manager, routes = estate.architecture.traffic_manager, estate.architecture.gateway.routes
    if manager is None or "api" not in routes:
        return
    asked, route = manager.probe_path, routes["api"]
    if asked != route.probe.path and not asked.startswith(route.path.removesuffix("*")):
        yield Broken(
            ("traffic_manager", "probe_path"),
            f"{asked} is not the api's, which has {route.path} and answers {route.probe.path}: what another "
            "part answers says nothing of it",
            f"probe_path: {route.probe.path}",
        )


@error("CERT-NAME")
def names_are_certified(estate: Estate) -> Iterator[Broken]:
    """A certificate covers every public name."""
    dns, names = estate.architecture.dns, estate.architecture.certificates.names
    wanted = {name if name != "*" else "x" for name in dns.records}
    for host in sorted(f"{label}.{dns.zone}" for label in wanted):
        parent = host.partition(".")[2]
        if host not in names and f"*.{parent}" not in names:
            yield Broken(("certificates", "names"), f"no certificate covers {host}", f"add '*.{parent}'")


@error("CERT-MANAGED")
def certificates_exist(estate: Estate) -> Iterator[Broken]:
    """Certificates are of a kind that Application Gateway can have."""
    certificates = estate.architecture.certificates
    wild = [name for name in certificates.names if name.startswith("*")]
    if certificates.source == "azure-managed":
        yield Broken(
            ("certificates", "source"),
            "Azure-managed certificates do not exist for Application Gateway, and never for "
            f"{' or '.join(wild) or 'a wildcard'}",
            "source: key-vault-ca: a certificate of a CA that Key Vault is partnered with, renewed by Key "
            "Vault",
        )


_LIVES = ((date(2029, 3, 15), 47), (date(2027, 3, 15), 100), (date(2026, 3, 15), 200), (date.min, 398))
"""From that day on, so many days a certificate of a public CA may live: CA/Browser Forum, ballot SC-081v3."""


@error("CERT-RENEW")
def certificates_are_renewed_while_they_live(estate: Estate) -> Iterator[Broken]:
    """A certificate is renewed in time, and not before it has been issued.

    Source: cabforum.org, Baseline Requirements for TLS, 6.3.2; Let's Encrypt: 90 days.
    """
    certificates = estate.architecture.certificates
    days = next(days for since, days in _LIVES if estate.today >= since)
    lives = min(days, 90) if certificates.source == "lets-encrypt" else days
    before = certificates.renew_before
    if not timedelta(days=1) <= before < timedelta(days=lives):
        length = f"{before.days} days" if before >= timedelta(days=1) else f"{before.seconds // 3600} hours"
        yield Broken(
            ("certificates", "renew_before"),
            f"renewed {length} before it ends, and a certificate lives for {lives} days at most",
            "renew_before: 30d",
        )


@warning("WAF-RULES")
def current_rules(estate: Estate) -> Iterator[Broken]:
    """The firewall has a rule set that is still tuned."""
    rule_set = estate.architecture.gateway.waf.rule_set
    if rule_set.startswith("owasp-crs"):
        yield Broken(
            ("gateway", "waf", "rule_set"),
            f"{rule_set} is two rule sets behind, the last one still tuned; DRS 2.1 and 2.2 came after it",
            "rule_set: drs 2.2",
        )


@error("WAF-OFF")
def a_firewall(estate: Estate) -> Iterator[Broken]:
    """The gateway has its firewall."""
    if estate.architecture.gateway.sku != "WAF_v2":
        yield Broken(("gateway", "sku"), "a gateway without its firewall", "sku: WAF_v2")


@warning("WAF-OFF")
def a_firewall_that_blocks(estate: Estate) -> Iterator[Broken]:
    """The firewall blocks what it finds."""
    if estate.architecture.gateway.waf.mode == "detection":
        yield Broken(("gateway", "waf", "mode"), "the firewall only watches", "mode: prevention")


@warning("WAF-RATE")
def a_rate_limit(estate: Estate) -> Iterator[Broken]:
    """The gateway limits each client's rate."""
    if estate.architecture.gateway.waf.rate_limit is None:
        yield Broken(("gateway", "waf"), "no rate limit at the gateway", "rate_limit: 600")


@error("GATEWAY-BACKEND")
def routes_lead_somewhere(estate: Estate) -> Iterator[Broken]:
    """Every route of the gateway leads to a workload."""
    workloads = estate.architecture.kubernetes.workloads
    for name, route in estate.architecture.gateway.routes.items() if workloads else ():
        if route.backend not in workloads:
            yield Broken(
                ("gateway", "routes", name, "backend"),
                f"the route {name} leads to {route.backend}, which is no workload",
                f"one of {', '.join(workloads)}",
            )


RULES: tuple[Rule, ...] = (
    livekit_stays_the_same, livekit_has_an_image,
    media_ports_open, media_past_the_balancer, media_nodes_are_public, only_media_nodes_are_public,
    names_fail_over, names_lead_somewhere, regions_are_left_in_time, probes_end_in_time,
    the_api_answers_probes, names_are_certified, certificates_exist, certificates_are_renewed_while_they_live,
    current_rules, a_firewall, a_firewall_that_blocks, a_rate_limit,
    routes_lead_somewhere,
)  # fmt: skip

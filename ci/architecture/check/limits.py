"""Rules about what Azure's own documentation says it refuses: names, sizes, intervals, what a subnet holds.

Each rule's `holds` ends with its source: the page of learn.microsoft.com, as remembered in November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from ipaddress import IPv4Network

from ci.architecture import names
from ci.architecture.check.rule import Broken, Estate, Rule, error, no_range, said
from ci.architecture.facts import POSTGRES_GB
from ci.architecture.network import address_count

__all__ = ["RULES"]

Key = tuple[str | int, ...]

_DAY = timedelta(days=1)


@error("PG-STORAGE")
def the_database_has_a_size_of_azure(estate: Estate) -> Iterator[Broken]:
    """The database's storage is of a size that is sold: 32 GB to 32 TB, each twice the one before.

    Source: azure/postgresql/flexible-server/concepts-storage, "Premium SSD".
    """
    storage = estate.architecture.postgres.storage
    if storage not in POSTGRES_GB:
        next_one = next((size for size in POSTGRES_GB if size >= storage), POSTGRES_GB[-1])
        yield Broken(
            ("postgres", "storage"),
            f"{storage} GB of storage; a flexible server has {', '.join(map(str, POSTGRES_GB))} GB",
            f"storage: {next_one} GB",
        )


_POSTGRES_VERSIONS = (11, 18)


@error("PG-VERSION")
def the_database_is_offered(estate: Estate) -> Iterator[Broken]:
    """Azure offers the database's version. Source: azure/postgresql/flexible-server, "Supported versions"."""
    oldest, newest = _POSTGRES_VERSIONS
    if not oldest <= (version := estate.architecture.postgres.version) <= newest:
        yield Broken(
            ("postgres", "version"),
            f"Azure offers PostgreSQL up to {newest}, not {version}",
            f"version: {newest - 1}",
        )


@error("PG-REPLICAS")
def replicas_are_few(estate: Estate) -> Iterator[Broken]:
    """A database has at most five replicas. Source: azure/postgresql/flexible-server, "Read replicas"."""
    if (number := len(estate.architecture.postgres.replicas)) > 5:
        yield Broken(("postgres", "replicas"), f"{number} replicas; a server has 5 at most", "fewer of them")


@error("RETENTION-DAYS")
def retentions_are_of_azure(estate: Estate) -> Iterator[Broken]:
    """What is kept is kept for whole days, and for as many as each service keeps it.

    Sources: azure/azure-monitor/logs/data-retention-configure (30 to 730, archived up to 12 years);
    azure/storage/blobs/soft-delete-blob-overview (1 to 365); PG-RETENTION and VAULT-DELETE say the rest.
    """
    a = estate.architecture
    kept: Sequence[tuple[Key, timedelta, int, int]] = (
        (("monitoring", "log_retention"), a.monitoring.log_retention, 30, 730),
        (("monitoring", "audit_retention"), a.monitoring.audit_retention, 30, 4383),
        (("storage", "soft_delete"), a.storage.soft_delete, 1, 365),
        (("storage", "lifecycle", "cool_after"), a.storage.lifecycle.cool_after, 0, 36_500),
        (("storage", "lifecycle", "archive_after"), a.storage.lifecycle.archive_after, 0, 36_500),
        (("storage", "lifecycle", "delete_after"), a.storage.lifecycle.delete_after, 0, 36_500),
    )
    for at, found, least, most in kept:
        if at[-1] == "audit_retention" and found < a.residency.shortest_audit:
            continue  # LAW-AUDIT
        if found % _DAY or not least * _DAY <= found <= most * _DAY:
            yield Broken(
                at,
                f"kept for {said(found)}; Azure keeps it {least} to {most} whole days",
                f"{at[-1]}: {min(max(found.days, least), most)}d",
            )


@error("DNS-TTL")
def records_live_for_a_time(estate: Estate) -> Iterator[Broken]:
    """A public name is kept for at least a second.

    Source: azure/dns/dns-zones-records, "Time-to-live".
    """
    for name, record in estate.architecture.dns.records.items():
        if record.ttl.total_seconds() < 1:
            yield Broken(
                ("dns", "records", name, "ttl"), "Azure DNS keeps a name for at least a second", "ttl: 60s"
            )


@error("LOG-CAP")
def logs_have_a_cap_that_azure_takes(estate: Estate) -> Iterator[Broken]:
    """The daily cap of a workspace lets something in: at least 0.023 GB.

    Source: azure/azure-monitor/logs/daily-cap; Microsoft.OperationalInsights/workspaces, "dailyQuotaGb".
    """
    cap = estate.architecture.monitoring.daily_log_cap
    if cap <= 0:
        yield Broken(("monitoring", "daily_log_cap"), f"a cap of {cap} GB a day", "daily_log_cap: 1 GB")


@error("TM-INTERVAL")
def probes_are_of_azure(estate: Estate) -> Iterator[Broken]:
    """Traffic Manager probes every 10 or 30 seconds, and waits 5 to 9 or to 10 for an answer.

    Source: azure/traffic-manager/traffic-manager-monitoring, "Configure endpoint monitoring".
    """
    manager = estate.architecture.traffic_manager
    if manager is None:
        return
    every, waits = manager.probe_interval.total_seconds(), manager.probe_timeout.total_seconds()
    if every not in (10, 30):
        yield Broken(
            ("traffic_manager", "probe_interval"),
            f"Traffic Manager probes every 10 or 30 seconds, not every {every:g}",
            f"probe_interval: {10 if every < 20 else 30}s",
        )
    most = 9 if every == 10 else 10
    if waits < 5 or most < waits < every:  # TM-PROBE says it of one that is as long as the interval
        yield Broken(
            ("traffic_manager", "probe_timeout"),
            f"Traffic Manager waits 5 to {most} seconds for a probe, not {waits:g}",
            f"probe_timeout: {5 if waits < 5 else most}s",
        )


@error("NET-SMALL")
def subnets_hold_what_is_in_them(estate: Estate) -> Iterator[Broken]:
    """A network has /8 to /29; a subnet /29 or wider, with room for what is in it beside Azure's own five.

    Sources: azure/virtual-network/virtual-networks-faq, azure/application-gateway, "Infrastructure",
    azure/container-registry/container-registry-private-link (an address of its own for each region's data).
    """
    a = estate.architecture
    services = a.network.private_endpoints
    endpoints = len(services) + (1 + len(a.registry.replicate_to) if "registry" in services else 0)
    wanted = {
        "endpoints": (endpoints, f"{endpoints} addresses of private endpoints"),
        "gateway": (a.gateway.max_units, f"{a.gateway.max_units} instances of the gateway"),
    }
    for region, plan in a.regions.items():
        if not 8 <= plan.vnet.prefixlen <= 29:
            yield Broken(("regions", region, "vnet"), f"a network has /8 to /29, not {plan.vnet}", "a /16")
        for name, subnet in plan.subnets.items():
            have = address_count(subnet.cidr)
            need, what = wanted.get(subnet.purpose, (1, "anything"))
            if subnet.cidr.prefixlen > 29:
                reason = f"{subnet.cidr} is smaller than /29, the smallest subnet that Azure makes"
            elif need > have:
                reason = f"{subnet.cidr} has {have} addresses beside Azure's own five; {what} do not fit"
            else:
                continue
            yield Broken(("regions", region, "subnets", name, "cidr"), reason, "a /24")


_RESERVED = tuple(map(IPv4Network, ("169.254.0.0/16", "172.30.0.0/16", "172.31.0.0/16", "192.0.2.0/24")))


@error("NET-RESERVED")
def ranges_are_free(estate: Estate) -> Iterator[Broken]:
    """No range is one that AKS keeps for itself, nor services' wider than /12.

    Source: azure/aks/configure-azure-cni, "Prerequisites".
    """
    a = estate.architecture
    ranges: list[tuple[Key, IPv4Network | None]] = [
        (("network", "service_cidr"), a.network.service_cidr),
        (("network", "pod_cidr"), a.network.pod_cidr),
        *((("regions", region, "vnet"), plan.vnet) for region, plan in a.regions.items()),
    ]
    for at, found in ranges:
        for taken in _RESERVED:
            if found is not None and found.overlaps(taken):
                yield Broken(at, f"{found} overlaps {taken}, which AKS keeps for itself", "10.x or 192.168.x")
    services = a.network.service_cidr
    if services is not None and services.prefixlen < 12:
        yield Broken(("network", "service_cidr"), f"{services} is wider than /12", "172.16.0.0/16")


@error("NET-RULE")
def security_rules_are_of_azure(estate: Estate) -> Iterator[Broken]:
    """Ports are a number, a range or `*`; sources a range, a tag of Azure's or `*`.

    Source: azure/virtual-network/network-security-groups-overview, "Security rules".
    """
    for purpose, rules in estate.architecture.network.security.items():
        for name, rule in rules.items():
            at: Key = ("network", "security", purpose, name)
            for ports in rule.ports:
                if ports != "*" and not _are_ports(ports):
                    yield Broken((*at, "ports"), f"{ports!r} are no ports", "443, 50000-60000 or *")
            if rule.source != "*" and not re.fullmatch(r"[A-Z][A-Za-z]+(\.[A-Za-z0-9]+)?", rule.source):
                yield from no_range((*at, "source"), rule.source)


@error("GATEWAY-UNITS")
def the_gateway_can_grow(estate: Estate) -> Iterator[Broken]:
    """The gateway's least units are no more than its most.

    Source: azure/application-gateway/application-gateway-autoscaling-zone-redundant.
    """
    gateway = estate.architecture.gateway
    if gateway.min_units > gateway.max_units:
        yield Broken(
            ("gateway", "min_units"),
            f"{gateway.min_units} units at least and {gateway.max_units} at most",
            f"min_units: {gateway.max_units}",
        )


@error("WAF-COUNTRY")
def countries_have_codes(estate: Estate) -> Iterator[Broken]:
    """Blocked countries have codes of two letters. Source: azure/web-application-firewall, "Geomatch"."""
    for number, country in enumerate(estate.architecture.gateway.waf.blocked_countries):
        if not re.fullmatch("[A-Z]{2}", country):
            yield Broken(
                ("gateway", "waf", "blocked_countries", number),
                f"{country!r} is no country's code",
                "two capital letters of ISO 3166: KP",
            )


@error("CONTACT-ADDRESS")
def contacts_are_addresses(estate: Estate) -> Iterator[Broken]:
    """Whom alerts and the budget tell has an address; a budget has 1 to 50 contacts and at most five alerts.

    Sources: azure/cost-management-billing/costs/tutorial-acm-create-budgets, RFC 5321 (section 4.5.3.1).
    """
    a = estate.architecture
    told: list[tuple[Key, Sequence[str]]] = [
        (("budget", "contacts"), a.budget.contacts),
        (("monitoring", "alerts", "email"), a.monitoring.alerts.email),
    ]
    for at, addresses in told:
        for number, address in enumerate(addresses):
            if not _is_address(address):
                yield Broken((*at, number), f"{address!r} is no e-mail address", "as oncall@example.com")
    if not 1 <= len(a.budget.contacts) <= 50:
        yield Broken(
            ("budget", "contacts"), f"{len(a.budget.contacts)} contacts; a budget has 1 to 50", "name some"
        )
    if not 1 <= len(a.budget.alert_at) <= 5:
        yield Broken(
            ("budget", "alert_at"), f"{len(a.budget.alert_at)} alerts; a budget has 1 to 5", "as [80%, 100%]"
        )


@error("NAME-AZURE")
def names_are_of_azure(estate: Estate) -> Iterator[Broken]:
    """What we call things is a name that Azure takes: no shorter or longer, of no other characters.

    Source: azure/azure-resource-manager/management/resource-name-rules.
    """
    a = estate.architecture
    # One is enough: the others, of each kind and region, have the same product in them.
    for kind, found, (least, expression, words) in (
        (kind, names.name(a, kind, region), form) for region in a.order for kind, form in _NAMES.items()
    ):
        most = names.KINDS[kind][1]
        if not least <= len(found) <= most or not re.fullmatch(expression, found):
            yield Broken(
                ("product",),
                f"the {kind} would be called {found}; Azure takes {least} to {most} {words}",
                "another product, or a shorter name of the environment",
            )
            break
    for container in a.storage.containers:
        if not re.fullmatch("[a-z0-9](-?[a-z0-9])*", container) or not 3 <= len(container) <= 63:
            yield Broken(
                ("storage", "containers", container),
                f"{container} is no container's name: 3 to 63 small letters, digits and single hyphens",
                "another name",
            )


_LOWER = "small letters and digits"
_HYPHENS = "small letters, digits and hyphens, none at an end"
_SINGLE = "letters, digits and single hyphens, a letter first and no hyphen last"
_NAMES: dict[str, tuple[int, str, str]] = {
    "cluster": (1, "[a-z0-9]([a-z0-9-]*[a-z0-9])?", _HYPHENS),
    "postgres": (3, "[a-z0-9][a-z0-9-]*[a-z0-9]", _HYPHENS),
    "redis": (1, "[a-z0-9](-?[a-z0-9])*", _SINGLE),
    "storage": (3, "[a-z0-9]+", _LOWER),
    "registry": (5, "[a-z0-9]+", _LOWER),
    "key vault": (3, "[a-z](-?[a-z0-9])*", _SINGLE),
    "traffic manager": (1, "[a-z0-9]([a-z0-9-]*[a-z0-9])?", _HYPHENS),
    "log analytics": (4, "[a-z0-9][a-z0-9-]*[a-z0-9]", _HYPHENS),
    "prometheus": (3, "[a-z0-9][a-z0-9-]*[a-z0-9]", _HYPHENS),
    "grafana": (2, "[a-z][a-z0-9-]*[a-z0-9]", _HYPHENS),
    "vnet": (2, "[a-z0-9][a-z0-9-]*[a-z0-9]", _HYPHENS),
    "resource group": (1, "[a-z0-9-]*[a-z0-9]", _HYPHENS),
}
"""Kind -> the fewest characters, which ones, the same in words; the most are in ci.architecture.names."""


def _are_ports(text: str) -> bool:
    found = re.fullmatch("([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    return found is not None and int(found[1]) <= int(found[2] or found[1]) <= 65535


def _is_address(text: str) -> bool:
    local, at, domain = text.rpartition("@")
    plain = re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}", local) and ".." not in f".{local}."
    labels = re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}", domain)
    return bool(at and plain and labels and len(text) <= 254)


RULES: tuple[Rule, ...] = (
    the_database_has_a_size_of_azure, the_database_is_offered, replicas_are_few, retentions_are_of_azure,
    probes_are_of_azure, records_live_for_a_time, logs_have_a_cap_that_azure_takes,
    subnets_hold_what_is_in_them, ranges_are_free, security_rules_are_of_azure,
    the_gateway_can_grow, countries_have_codes, contacts_are_addresses, names_are_of_azure,
)  # fmt: skip

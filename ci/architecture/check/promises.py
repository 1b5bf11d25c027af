"""Rules about what was promised: regions and the registry in them, law, no exposure, nothing retired."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from ci.architecture.check.rule import Broken, Estate, Rule, error, warning
from ci.architecture.facts import REGIONS, Retirement, retirements

__all__ = ["RULES"]

_NOTICE = timedelta(days=730)
"""How long before a service ends that is called out: moving a database or a registry takes quarters."""

_OLDEST_SECRET = timedelta(days=365)
"""NIST SP 800-57 part 1 (rev. 5), table 1: one to two years for keys that authenticate; the lower end."""

Key = tuple[str | int, ...]


@error("REGION-GROUP")
def regions_have_groups(estate: Estate) -> Iterator[Broken]:
    """Every region has a resource group."""
    regions = estate.architecture.regions
    planned = [one for one in estate.architecture.order if regions[one].resource_group]
    for region, plan in regions.items():
        if not plan.resource_group:
            yield Broken(
                ("regions", region),
                f"{len(regions)} regions are drawn, and only {', '.join(planned)} has a resource group",
                "a resource group a region",
            )


@error("REGION-ZONES")
def zones_exist(estate: Estate) -> Iterator[Broken]:
    """Zones are used where there are some."""
    for region, plan in estate.architecture.regions.items():
        if plan.zones and not REGIONS[region].zones:
            yield Broken(
                ("regions", region), f"{REGIONS[region].display} has no availability zones", "zones: []"
            )


@error("REGISTRY-REGION")
def images_are_near(estate: Estate) -> Iterator[Broken]:
    """The registry is replicated to every region."""
    architecture = estate.architecture
    for region in architecture.regions:
        if region != architecture.primary and region not in architecture.registry.replicate_to:
            yield Broken(
                ("registry", "replicate_to"),
                f"{REGIONS[region].display} pulls its images from another region: the registry is not "
                "replicated there",
                f"replicate_to: [{', '.join(architecture.order[1:])}]",
            )


@warning("REGISTRY-REGION")
def no_idle_replication(estate: Estate) -> Iterator[Broken]:
    """The registry is replicated to no region where nothing runs."""
    for region in estate.architecture.registry.replicate_to:
        if region not in estate.architecture.regions:
            yield Broken(
                ("registry", "replicate_to"), f"a replication to {region}, where nothing runs", "take it out"
            )


@error("REGISTRY-SKU")
def the_registry_can(estate: Estate) -> Iterator[Broken]:
    """A registry that is replicated, or has an endpoint a region, is Premium."""
    registry = estate.architecture.registry
    if registry.replicate_to and registry.sku != "Premium":
        yield Broken(("registry", "sku"), "only Premium is replicated", "sku: Premium")
    if registry.regional_endpoints and registry.sku != "Premium":
        yield Broken(("registry", "sku"), "only Premium has an endpoint a region", "sku: Premium")


@error("IMAGE-LATEST")
def images_stay_the_same(estate: Estate) -> Iterator[Broken]:
    """No image is referred to by a tag that moves."""
    for name, reference in estate.architecture.registry.images.items():
        if reference == "latest":
            yield Broken(
                ("registry", "images", name),
                f"{name}:latest is another image in another region for as long as replication takes, and "
                "cannot be rolled back",
                "by digest; tags are unique and informational",
            )


@error("LAW-RESIDENCY")
def data_stay_where_they_may(estate: Estate) -> Iterator[Broken]:
    """Every region is in a geography where data may be kept."""
    allowed = estate.architecture.residency.geographies
    for region in estate.architecture.regions:
        facts = REGIONS[region]
        if facts.geography not in allowed:
            yield Broken(
                ("regions", region),
                f"{facts.display} is in {facts.geography}; data may be kept in {', '.join(allowed)}",
                "another region, or another promise",
            )


@error("LAW-PAIR")
def copies_stay_where_they_may(estate: Estate) -> Iterator[Broken]:
    """What Azure copies to a region's pair stays in a geography where data may be kept."""
    architecture = estate.architecture
    allowed = architecture.residency.geographies
    copied: list[tuple[str, Key, str]] = []
    if architecture.storage.replication not in ("LRS", "ZRS"):
        copied += [
            (region, ("storage", "replication"), architecture.storage.replication)
            for region in architecture.order
        ]
    if architecture.postgres.geo_redundant_backup:
        copied.append((architecture.primary, ("postgres", "geo_redundant_backup"), "geo-redundant backup"))
    for region, at, what in copied:
        facts = REGIONS[region]
        if not facts.pair:
            yield Broken(
                at,
                f"{facts.display} is paired with no region: {what} is not offered there",
                "copies of our own (object replication, replicas), or another region",
            )
        elif (there := REGIONS[facts.pair]).geography not in allowed:
            yield Broken(
                at,
                f"{what} copies the data of {facts.display} to {there.display}, which is in "
                f"{there.geography}; data may be kept in {', '.join(allowed)}",
                "zone-redundant storage, another region, or another promise",
            )


@error("LAW-RETENTION")
def data_are_deleted_in_time(estate: Estate) -> Iterator[Broken]:
    """Recordings are kept no longer than the law lets them be."""
    kept = estate.architecture.storage.lifecycle.delete_after
    longest = estate.architecture.residency.longest_retention
    if kept > longest:
        yield Broken(
            ("storage", "lifecycle", "delete_after"),
            f"recordings are kept {kept.days} days; {longest.days} are allowed",
            f"delete_after: {longest.days}d",
        )


@error("LAW-AUDIT")
def audit_logs_are_kept(estate: Estate) -> Iterator[Broken]:
    """Audit logs are kept as long as they must be."""
    kept = estate.architecture.monitoring.audit_retention
    shortest = estate.architecture.residency.shortest_audit
    if kept < shortest:
        yield Broken(
            ("monitoring", "audit_retention"),
            f"audit logs are kept {kept.days} days; {shortest.days} are required",
            f"audit_retention: {shortest.days}d",
        )


@error("VAULT-DELETE")
def secrets_come_back(estate: Estate) -> Iterator[Broken]:
    """A deleted secret can be brought back."""
    vault = estate.architecture.key_vault
    if not vault.purge_protection or not 7 <= vault.soft_delete.days <= 90:
        yield Broken(
            ("key_vault",),
            "a deleted secret must come back: soft delete of 7 to 90 days, with purge protection",
            "soft_delete: 90d, purge_protection: true",
        )


@error("VAULT-ROTATE")
def secrets_are_rotated(estate: Estate) -> Iterator[Broken]:
    """Every secret is rotated at least once a year."""
    for name, secret in estate.architecture.key_vault.secrets.items():
        if secret.rotate_every > _OLDEST_SECRET:
            yield Broken(
                ("key_vault", "secrets", name, "rotate_every"),
                f"{name} would be {secret.rotate_every.days} days old before it is changed",
                f"at most {_OLDEST_SECRET.days}d",
            )


@error("PUBLIC-EXPOSURE")
def nothing_is_exposed(estate: Estate) -> Iterator[Broken]:
    """No control plane, data or password login is open to everyone."""
    architecture = estate.architecture
    open_doors: list[tuple[bool, Key, str, str]] = [
        (not architecture.kubernetes.private_api and not architecture.kubernetes.api_allowed_from,
         ("kubernetes", "private_api"), "the Kubernetes API answers the whole internet", "private_api: true"),
        ("0.0.0.0/0" in architecture.kubernetes.api_allowed_from,
         ("kubernetes", "api_allowed_from"), "0.0.0.0/0 is the whole internet", "your runners' ranges"),
        (architecture.kubernetes.local_accounts,
         ("kubernetes", "local_accounts"), "local accounts pass Entra ID by", "local_accounts: false"),
        (architecture.storage.public_network,
         ("storage", "public_network"), "recordings are on the internet", "public_network: false"),
        (architecture.storage.shared_keys,
         ("storage", "shared_keys"), "account keys cannot be traced to anyone", "shared_keys: false"),
        (architecture.key_vault.public_network,
         ("key_vault", "public_network"), "the vault is on the internet", "public_network: false"),
        (architecture.registry.public_network,
         ("registry", "public_network"), "the registry is on the internet", "public_network: false"),
        (architecture.registry.admin_user,
         ("registry", "admin_user"), "the admin user is one password for all", "admin_user: false"),
        (architecture.registry.anonymous_pull,
         ("registry", "anonymous_pull"), "anyone may pull", "anonymous_pull: false"),
        (architecture.redis.access_keys and "livekit" not in architecture.kubernetes.workloads,
         ("redis", "access_keys"), "Redis' access keys cannot be traced to anyone", "access_keys: false"),
        (architecture.postgres.password_login,
         ("postgres", "password_login"), "passwords beside Entra ID", "password_login: false"),
    ]  # fmt: skip
    for is_open, at, reason, fix in open_doors:
        if is_open:
            yield Broken(at, reason, fix)
    for name, container in architecture.storage.containers.items():
        if container.public:
            yield Broken(("storage", "containers", name), f"anyone may read {name}", "public: false")
    for purpose, rules in architecture.network.security.items():
        for name, rule in rules.items():
            wide = rule.source in ("*", "Internet") and rule.access == "allow" and rule.direction == "inbound"
            if wide and ("*" in rule.ports or "22" in rule.ports or "3389" in rule.ports):
                yield Broken(
                    ("network", "security", purpose, name),
                    f"{name} lets the internet reach ports {', '.join(rule.ports)}",
                    "only the ports that are needed",
                )


def _ending(estate: Estate) -> Iterator[tuple[Retirement, Key, str]]:
    """What is used and ends within the notice, or has; where it is written; what to do. TLS versions too."""
    a = estate.architecture
    used: list[tuple[str, Key]] = [
        (f"kubernetes {a.kubernetes.version}", ("kubernetes", "version")),
        (a.kubernetes.ingress, ("kubernetes", "ingress")),
        (a.kubernetes.network_policy, ("kubernetes", "network_policy")),
        (a.kubernetes.network_plugin, ("kubernetes", "network_plugin")),
        (a.redis.service, ("redis", "service")),
        (f"postgresql {a.postgres.version}", ("postgres", "version")),
        (f"load-balancer-{a.livekit.load_balancer_sku}".lower(), ("livekit", "load_balancer_sku")),
        ("acr-content-trust" if a.registry.content_trust else "", ("registry", "content_trust")),
        (f"tls {a.gateway.tls_min}", ("gateway", "tls_min")),
        (f"tls {a.postgres.tls_min}", ("postgres", "tls_min")),
        (f"tls {a.redis.tls_min}", ("redis", "tls_min")),
        (f"tls {a.storage.tls_min}", ("storage", "tls_min")),
    ]
    for service, at in used:
        end = retirements().get(service)
        if end is not None and end.last - estate.today <= _NOTICE:
            yield end, at, f"{end.instead} (source: {end.source}, read {end.read})"


@error("RETIRED")
def nothing_is_retired(estate: Estate) -> Iterator[Broken]:
    """No service, version or TLS that Azure has ended is used."""
    for end, at, fix in _ending(estate):
        if end.last < estate.today:
            yield Broken(at, f"{end.service} ended; its last day was {end.last} or before", fix)


@warning("RETIRING")
def nothing_is_retired_soon(estate: Estate) -> Iterator[Broken]:
    """No service or version is used that ends within two years."""
    for end, at, fix in _ending(estate):
        if end.last >= estate.today:
            yield Broken(at, f"{end.service} ends on {end.last}", fix)


RULES: tuple[Rule, ...] = (
    regions_have_groups, zones_exist, images_are_near, no_idle_replication, the_registry_can,
    images_stay_the_same, data_stay_where_they_may, copies_stay_where_they_may, data_are_deleted_in_time,
    audit_logs_are_kept, secrets_come_back, secrets_are_rotated, nothing_is_exposed, nothing_is_retired,
    nothing_is_retired_soon,
)  # fmt: skip

"""What Azure takes of one resource: how it may be called, and which sizes, intervals and times it knows.

Azure's definitions of its types say none of it (see schema.py): a name of 70 characters or a probe every 20
seconds is of the right kind, and is refused by the service. Both who checks what is rendered and the stand-in
ask here. Sources stand beside each line: pages of learn.microsoft.com, as remembered in November 2026; "read"
where a page was read for it. Expressions, which only Azure evaluates, are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ci.architecture.facts import POSTGRES_GB
from ci.architecture.resources import at

__all__ = ["NAMES", "VALUES", "Limit", "Named", "beyond"]


@dataclass(frozen=True, kw_only=True)
class Named:
    """Of how many characters a type's own name has to be, and which: an expression, and the same in words."""

    least: int
    most: int
    form: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What one property of a type may be: one of `known`, or between two numbers. `path` as in ARM's JSON."""

    path: str
    source: str
    known: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None


_LETTERS = r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_ANY = "letters, digits and ._- between them"
_SMALL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_HYPHENS = "small letters, digits, and hyphens between them"

# "Naming rules and restrictions for Azure resources" (azure-resource-manager/management/resource-name-rules).
NAMES: dict[str, Named] = {
    "Microsoft.Cache/redisEnterprise": Named(
        least=1, most=60, form=r"[A-Za-z0-9](-?[A-Za-z0-9])*", words="letters, digits and single hyphens"
    ),
    "Microsoft.Consumption/budgets": Named(
        least=1, most=63, form=r"[A-Za-z0-9_-]+", words="letters, digits, _ and -"
    ),
    "Microsoft.ContainerRegistry/registries": Named(
        least=5, most=50, form="[A-Za-z0-9]+", words="letters and digits"
    ),
    "Microsoft.ContainerRegistry/registries/replications": Named(
        least=5, most=50, form="[A-Za-z0-9]+", words="letters and digits"
    ),
    "Microsoft.ContainerRegistry/registries/webhooks": Named(
        least=5, most=50, form="[A-Za-z0-9]+", words="letters and digits"
    ),
    "Microsoft.ContainerService/managedClusters": Named(
        least=1, most=63, form=r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?", words="letters, digits, _ and -"
    ),
    "Microsoft.Dashboard/grafana": Named(
        least=2, most=23, form=r"[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]", words="letters, digits and hyphens"
    ),
    "Microsoft.DBforPostgreSQL/flexibleServers": Named(least=3, most=63, form=_SMALL, words=_HYPHENS),
    "Microsoft.DBforPostgreSQL/flexibleServers/databases": Named(
        least=1, most=63, form=r"[A-Za-z_][A-Za-z0-9_-]*", words="letters, digits, _ and -, no digit first"
    ),
    "Microsoft.Insights/actionGroups": Named(
        least=1, most=260, form=r"[^:<>+/&%\\?]+", words="no :<>+/&%\\?"
    ),
    "Microsoft.Insights/metricAlerts": Named(
        least=1, most=260, form=r"[^*#&+:<>?@%{}\\/]*[^*#&+:<>?@%{}\\/ .]", words="no *#&+:<>?@%{}\\/"
    ),
    "Microsoft.KeyVault/vaults": Named(
        least=3,
        most=24,
        form=r"[A-Za-z](-?[A-Za-z0-9])*",
        words="letters, digits and single hyphens, a letter first",
    ),
    "Microsoft.ManagedIdentity/userAssignedIdentities": Named(
        least=3, most=128, form=r"[A-Za-z0-9][A-Za-z0-9_-]*", words="letters, digits, _ and -"
    ),
    # "Workload identity federation", Important considerations: 3-120.
    "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials": Named(
        least=3, most=120, form=r"[A-Za-z0-9][A-Za-z0-9_-]*", words="letters, digits, _ and -"
    ),
    "Microsoft.Monitor/accounts": Named(least=3, most=44, form=r"[A-Za-z0-9-]+", words=_HYPHENS),
    "Microsoft.Network/applicationGateways": Named(least=1, most=80, form=_LETTERS, words=_ANY),
    "Microsoft.Network/ApplicationGatewayWebApplicationFirewallPolicies": Named(
        least=1, most=128, form=r"[A-Za-z][A-Za-z0-9]*", words="letters and digits, a letter first"
    ),
    "Microsoft.Network/natGateways": Named(least=1, most=80, form=_LETTERS, words=_ANY),
    "Microsoft.Network/networkSecurityGroups": Named(least=1, most=80, form=_LETTERS, words=_ANY),
    "Microsoft.Network/privateEndpoints": Named(least=2, most=64, form=_LETTERS, words=_ANY),
    "Microsoft.Network/publicIPAddresses": Named(least=1, most=80, form=_LETTERS, words=_ANY),
    "Microsoft.Network/trafficManagerProfiles": Named(
        least=1, most=63, form=r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", words="letters, digits, . and -"
    ),
    "Microsoft.Network/virtualNetworks": Named(least=2, most=64, form=_LETTERS, words=_ANY),
    "Microsoft.Network/virtualNetworks/virtualNetworkPeerings": Named(
        least=1, most=80, form=_LETTERS, words=_ANY
    ),
    "Microsoft.OperationalInsights/workspaces": Named(
        least=4, most=63, form=r"[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9]", words="letters, digits and hyphens"
    ),
    "Microsoft.Storage/storageAccounts": Named(
        least=3, most=24, form="[a-z0-9]+", words="small letters and digits"
    ),
    "Microsoft.Storage/storageAccounts/blobServices/containers": Named(
        least=3, most=63, form="[a-z0-9](-?[a-z0-9])*", words="small letters, digits and single hyphens"
    ),
}

_POOLS = "properties.agentPoolProfiles.*"
_WINDOWS = ("PT1M", "PT5M", "PT15M", "PT30M", "PT1H", "PT6H", "PT12H", "P1D")

VALUES: dict[str, tuple[Limit, ...]] = {
    "Microsoft.AlertsManagement/prometheusRuleGroups": (
        Limit(
            path="properties.interval",
            known=tuple(f"PT{minutes}M" for minutes in range(1, 16)),
            source="azure-monitor/essentials/prometheus-rule-groups, Limits: 1 to 15 minutes",
        ),
        Limit(
            path="properties.rules.*.severity",
            least=0,
            most=4,
            source="Microsoft.AlertsManagement/prometheusRuleGroups, severity",
        ),
    ),
    "Microsoft.Cache/redisEnterprise/databases": (
        Limit(
            path="properties.persistence.rdbFrequency",
            known=("1h", "6h", "12h"),
            source="redis/how-to-persistence: RDB every 1, 6 or 12 hours",
        ),
        Limit(path="properties.port", known=(10000,), source="redis: the endpoint's port is 10000"),
    ),
    "Microsoft.ContainerRegistry/registries": (
        Limit(
            path="properties.policies.retentionPolicy.days",
            least=0,
            most=365,
            source="container-registry-retention-policy: 0 to 365 days",
        ),
    ),
    "Microsoft.ContainerService/managedClusters": (
        Limit(path=f"{_POOLS}.osDiskSizeGB", least=30, most=2048, source="managedClusters, osDiskSizeGB"),
        Limit(path=f"{_POOLS}.maxPods", least=10, most=250, source="aks/quotas-skus-regions: 10 to 250 pods"),
        Limit(
            path=f"{_POOLS}.upgradeSettings.drainTimeoutInMinutes",
            least=1,
            most=1440,
            source="managedClusters, drainTimeoutInMinutes: 1 minute to 24 hours",
        ),
        Limit(
            path="properties.securityProfile.imageCleaner.intervalHours",
            least=24,
            most=2160,
            source="aks/image-cleaner: 24 hours to 3 months",
        ),
    ),
    "Microsoft.DBforPostgreSQL/flexibleServers": (
        Limit(
            path="properties.storage.storageSizeGB",
            known=POSTGRES_GB,
            source="postgresql/flexible-server/concepts-storage, Premium SSD",
        ),
        Limit(
            path="properties.backup.backupRetentionDays",
            least=7,
            most=35,
            source="postgresql/flexible-server/concepts-backup-restore: 7 to 35 days",
        ),
    ),
    "Microsoft.Insights/actionGroups": (
        Limit(
            path="properties.groupShortName",
            least=1,
            most=12,
            source="Microsoft.Insights/actionGroups, groupShortName: 12 characters",
        ),
    ),
    "Microsoft.Insights/metricAlerts": (
        Limit(
            path="properties.evaluationFrequency",
            known=("PT1M", "PT5M", "PT15M", "PT30M", "PT1H"),
            source="azure-monitor/alerts: metric alert rules look every 1 minute to 1 hour",
        ),
        Limit(
            path="properties.windowSize",
            known=_WINDOWS,
            source="azure-monitor/alerts: metric alert rules look at 1 minute to a day",
        ),
        Limit(path="properties.severity", least=0, most=4, source="Microsoft.Insights/metricAlerts"),
    ),
    "Microsoft.KeyVault/vaults": (
        Limit(
            path="properties.softDeleteRetentionInDays",
            least=7,
            most=90,
            source="key-vault/general/soft-delete-overview: 7 to 90 days",
        ),
    ),
    "Microsoft.Network/applicationGateways": (
        Limit(
            path="properties.probes.*.properties.interval",
            least=1,
            most=86400,
            source="application-gateway/application-gateway-probe-overview, Custom health probe settings",
        ),
        Limit(
            path="properties.probes.*.properties.timeout",
            least=1,
            most=86400,
            source="application-gateway/application-gateway-probe-overview, Custom health probe settings",
        ),
        Limit(
            path="properties.probes.*.properties.unhealthyThreshold",
            least=1,
            most=20,
            source="application-gateway/application-gateway-probe-overview, Custom health probe settings",
        ),
        Limit(
            path="properties.backendHttpSettingsCollection.*.properties.connectionDraining.drainTimeoutInSec",
            least=1,
            most=3600,
            source="application-gateway/configuration-http-settings: 1 to 3600 seconds",
        ),
        Limit(
            path="properties.autoscaleConfiguration.minCapacity",
            least=0,
            most=125,
            source="application-gateway-autoscaling-zone-redundant: 0 to 125 instances",
        ),
        Limit(
            path="properties.autoscaleConfiguration.maxCapacity",
            least=2,
            most=125,
            source="application-gateway-autoscaling-zone-redundant: 2 to 125 instances",
        ),
        Limit(
            path="properties.requestRoutingRules.*.properties.priority",
            least=1,
            most=20000,
            source="Microsoft.Network/applicationGateways, priority",
        ),
    ),
    "Microsoft.Network/dnsZones/A": (
        Limit(path="properties.TTL", least=1, most=2147483647, source="dns/dns-zones-records: 1 to 2^31-1"),
    ),
    "Microsoft.Network/dnsZones/CNAME": (
        Limit(path="properties.TTL", least=1, most=2147483647, source="dns/dns-zones-records: 1 to 2^31-1"),
    ),
    "Microsoft.Network/natGateways": (
        Limit(
            path="properties.idleTimeoutInMinutes",
            least=4,
            most=120,
            source="nat-gateway/nat-gateway-resource: 4 to 120 minutes",
        ),
    ),
    "Microsoft.Network/networkSecurityGroups": (
        Limit(
            path="properties.securityRules.*.properties.priority",
            least=100,
            most=4096,
            source="virtual-network/network-security-groups-overview: 100 to 4096",
        ),
    ),
    "Microsoft.Network/publicIPAddresses": (
        Limit(
            path="properties.idleTimeoutInMinutes",
            least=4,
            most=30,
            source="Microsoft.Network/publicIPAddresses: 4 to 30 minutes",
        ),
    ),
    "Microsoft.Network/trafficManagerProfiles": (
        Limit(
            path="properties.monitorConfig.intervalInSeconds",
            known=(10, 30),
            source="traffic-manager-monitoring, Configure endpoint monitoring: 30, or fast, 10",
        ),
        Limit(
            path="properties.monitorConfig.timeoutInSeconds",
            least=5,
            most=10,
            source="traffic-manager-monitoring: 5 to 10 seconds, to 9 where it is fast",
        ),
        Limit(
            path="properties.monitorConfig.toleratedNumberOfFailures",
            least=0,
            most=9,
            source="traffic-manager-monitoring: 0 to 9",
        ),
        Limit(path="properties.dnsConfig.ttl", least=0, most=2147483647, source="trafficManagerProfiles"),
        Limit(
            path="properties.endpoints.*.properties.priority",
            least=1,
            most=1000,
            source="traffic-manager-routing-methods: 1 to 1000",
        ),
    ),
    "Microsoft.OperationalInsights/workspaces": (
        Limit(
            path="properties.retentionInDays",
            least=30,
            most=730,
            source="azure-monitor/logs/data-retention-configure: 30 to 730 days",
        ),
        Limit(
            path="properties.workspaceCapping.dailyQuotaGb",
            least=0.023,
            source="azure-monitor/logs/daily-cap: 0.023 GB",
        ),
    ),
    "Microsoft.OperationalInsights/workspaces/tables": (
        Limit(
            path="properties.totalRetentionInDays",
            least=4,
            most=4383,
            source="azure-monitor/logs/data-retention-configure: 4 to 4,383 days",
        ),
    ),
    "Microsoft.Storage/storageAccounts/blobServices": (
        Limit(
            path="properties.deleteRetentionPolicy.days",
            least=1,
            most=365,
            source="storage/blobs/soft-delete-blob-overview: 1 to 365 days",
        ),
        Limit(
            path="properties.containerDeleteRetentionPolicy.days",
            least=1,
            most=365,
            source="storage/blobs/soft-delete-container-overview: 1 to 365 days",
        ),
    ),
}


def beyond(kind: str, name: str, body: Mapping[str, Any]) -> Iterator[str]:
    """What of a resource's name and values Azure does not take, in words with their source."""
    own = name.rpartition("/")[2]
    named = NAMES.get(kind)
    if (
        named is not None
        and not name.startswith("[")
        and not (named.least <= len(own) <= named.most and re.fullmatch(named.form, own))
    ):
        yield (
            f"{own} is no name of Azure's: {named.least} to {named.most} characters, {named.words} "
            "(resource-name-rules)"
        )
    for limit in VALUES.get(kind, ()):
        for value in at(body, tuple(limit.path.split("."))):
            if said := _outside(limit, value):
                yield f"{limit.path} is {value}: {said} ({limit.source})"


def _outside(limit: Limit, value: Any) -> str:
    if value is None or (isinstance(value, str) and value.startswith("[")):
        return ""
    if limit.known:
        known = " or ".join(map(str, limit.known))
        return "" if value in limit.known else f"{known} is taken"
    size = len(value) if isinstance(value, str) else value
    if (limit.least is not None and size < limit.least) or (limit.most is not None and size > limit.most):
        most = "or more" if limit.most is None else f"to {limit.most:g}"
        return f"{limit.least:g} {most} is taken"
    return ""

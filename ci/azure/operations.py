"""What is watched and guarded: logs, metrics, Key Vault, the registry, locks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from azure.mgmt.containerregistry import models as acr
from azure.mgmt.dashboard import models as grafana
from azure.mgmt.keyvault import models as kv
from azure.mgmt.loganalytics import models as logs
from azure.mgmt.resource.locks import models as locks

from ci.architecture.audit import TABLES, query
from ci.architecture.facts import REGIONS
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.alerting import action_group, budget, metric_alerts, rule_group
from ci.azure.arm import REGIONAL_ENDPOINTS_API, Resource, as_json, resource_id
from ci.azure.cluster import cluster_id
from ci.azure.network import group, private_endpoint, tags

__all__ = ["dashboards", "monitoring", "registry", "registry_endpoints", "vault", "watch"]

_WORKSPACE = "Microsoft.OperationalInsights/workspaces"
_REGISTRY = "Microsoft.ContainerRegistry/registries"
_VAULT = "Microsoft.KeyVault/vaults"
_ACCOUNT = "Microsoft.Monitor/accounts"
_RULE = "Microsoft.Insights/dataCollectionRules"

WEBHOOK_PARAMETER = "pushWebhook"
"""The template parameter with the address that the registry tells of arrived images."""


def monitoring(architecture: Architecture, region: str) -> Iterator[Resource]:
    """A region's logs and metrics; the action group once."""
    declared = architecture.monitoring
    home, common = group(architecture, region), {"location": region, "tags": tags(architecture)}
    own = name(architecture, "log analytics", region)
    workspace = resource_id(home, _WORKSPACE, own)
    yield Resource(
        type=_WORKSPACE,
        name=own,
        body=as_json(
            logs.Workspace(
                **common,
                sku=logs.WorkspaceSku(name="PerGB2018"),
                # Tables keep at least the default; audit logs are kept longer, by their own table's
                # retention.
                retention_in_days=declared.log_retention.days,
                workspace_capping=logs.WorkspaceCapping(daily_quota_gb=declared.daily_log_cap),
            )
        ),
    )
    # Tables keep at least the workspace's default; who did what is kept longer.
    for table in TABLES:
        yield Resource(
            type=f"{_WORKSPACE}/tables",
            name=f"{own}/{table}",
            body={
                "properties": {
                    "plan": "Analytics",
                    "retentionInDays": declared.log_retention.days,
                    "totalRetentionInDays": max(declared.audit_retention, declared.log_retention).days,
                }
            },
            depends_on=(workspace,),
        )
    yield Resource(
        type=f"{_WORKSPACE}/savedSearches",
        name=f"{own}/who-did-what",
        body=as_json(
            logs.SavedSearch(
                properties=logs.SavedSearchProperties(
                    category="audit",
                    display_name="who did what",
                    function_alias="WhoDidWhat",
                    query=query(declared.audit_retention.days),
                    version=2,
                )
            )
        ),
        depends_on=(workspace,),
    )
    if declared.managed_prometheus:
        yield Resource(type=_ACCOUNT, name=name(architecture, "prometheus", region), body=dict(common))
    if region == architecture.primary:
        yield action_group(architecture)


def dashboards(architecture: Architecture) -> Iterator[Resource]:
    """Grafana, over the metrics of all regions."""
    declared, region = architecture.monitoring, architecture.primary
    if not declared.grafana:
        return
    accounts = [
        grafana.AzureMonitorWorkspaceIntegration(
            azure_monitor_workspace_resource_id=resource_id(
                group(architecture, each), _ACCOUNT, name(architecture, "prometheus", each)
            )
        )
        for each in architecture.order
    ]
    yield Resource(
        type="Microsoft.Dashboard/grafana",
        name=name(architecture, "grafana"),
        body=as_json(
            grafana.ManagedGrafana(
                location=region,
                tags=tags(architecture),
                sku=grafana.ResourceSku(name="Standard"),
                identity=grafana.ManagedServiceIdentity(type="SystemAssigned"),
                properties=grafana.ManagedGrafanaProperties(
                    api_key="Disabled",
                    zone_redundancy="Enabled" if REGIONS[region].zones else "Disabled",
                    grafana_integrations=grafana.GrafanaIntegrations(
                        azure_monitor_workspace_integrations=accounts
                    )
                    if declared.managed_prometheus
                    else None,
                ),
            )
        ),
    )


def vault(architecture: Architecture, region: str) -> Iterator[Resource]:
    """A region's Key Vault.

    Secrets are named in the architecture and filled by people: no value is ever rendered.
    """
    declared = architecture.key_vault
    own = name(architecture, "key vault", region)
    own_id = resource_id(group(architecture, region), _VAULT, own)
    yield Resource(
        type=_VAULT,
        name=own,
        body=as_json(
            kv.Vault(
                location=region,
                tags=tags(architecture),
                properties=kv.VaultProperties(
                    tenant_id="[subscription().tenantId]",
                    sku=kv.Sku(family="A", name=declared.sku),
                    enable_rbac_authorization=True,
                    enable_soft_delete=True,
                    soft_delete_retention_in_days=declared.soft_delete.days,
                    enable_purge_protection=True if declared.purge_protection else None,
                    public_network_access="enabled" if declared.public_network else "disabled",
                    network_acls=kv.NetworkRuleSet(bypass="AzureServices", default_action="Deny"),
                ),
            )
        ),
    )
    yield _lock(own_id, "secrets must not be lost")
    yield _audit_logs(architecture, region, own_id, ("audit",))
    yield from private_endpoint(architecture, region, "key-vault", own_id, (own_id,))


def _lock(target: str, why: str) -> Resource:
    return Resource(
        type="Microsoft.Authorization/locks",
        name="no-delete",
        body=as_json(locks.ManagementLockObject(level="CanNotDelete", notes=why)),
        depends_on=(target,),
        scope=target,
    )


def _audit_logs(
    architecture: Architecture,
    region: str,
    target: str,
    groups: tuple[str, ...],
    *,
    categories: tuple[str, ...] = (),
) -> Resource:
    workspace = resource_id(
        group(architecture, region), _WORKSPACE, name(architecture, "log analytics", region)
    )
    logs_wanted = [{"categoryGroup": one, "enabled": True} for one in groups]
    logs_wanted += [{"category": one, "enabled": True} for one in categories]
    return Resource(
        type="Microsoft.Insights/diagnosticSettings",
        name="to-log-analytics",
        body={
            "properties": {
                "workspaceId": workspace,
                "logAnalyticsDestinationType": "Dedicated",
                "logs": logs_wanted,
                "metrics": [{"category": "AllMetrics", "enabled": True}] if not categories else [],
            }
        },
        depends_on=(target,),
        scope=target,
    )


def registry(architecture: Architecture) -> Iterator[Resource]:
    """The one registry with its replications, webhooks and lock."""
    declared = architecture.registry
    region = architecture.primary
    own = name(architecture, "registry")
    home = group(architecture)
    own_id = resource_id(home, _REGISTRY, own)
    premium = declared.sku == "Premium"
    body = as_json(
        acr.Registry(
            location=region,
            tags=tags(architecture),
            sku=acr.Sku(name=declared.sku),
            admin_user_enabled=declared.admin_user,
            anonymous_pull_enabled=declared.anonymous_pull,
            public_network_access="Enabled" if declared.public_network else "Disabled",
            network_rule_bypass_options="AzureServices",
            data_endpoint_enabled=premium,
            zone_redundancy="Enabled" if premium and REGIONS[region].zones else "Disabled",
            policies=acr.Policies(
                # Removing untagged manifests is unsafe where releases are pinned by digest.
                retention_policy=acr.RetentionPolicy(days=7, status="disabled"),
                trust_policy=acr.TrustPolicy(
                    type="Notary", status="enabled" if declared.content_trust else "disabled"
                ),
                # A token for Resource Manager is no token for images.
                azure_ad_authentication_as_arm_policy=acr.AzureADAuthenticationAsArmPolicy(status="disabled"),
            ),
        )
    )
    if declared.regional_endpoints:
        body["properties"]["regionalEndpoints"] = "Enabled"
    yield Resource(
        type=_REGISTRY,
        name=own,
        body=body,
        api=REGIONAL_ENDPOINTS_API if declared.regional_endpoints else "",
    )
    for each in sorted(declared.replicate_to):
        yield Resource(
            type=f"{_REGISTRY}/replications",
            name=f"{own}/{each}",
            body=as_json(
                acr.Replication(
                    location=each,
                    tags=tags(architecture),
                    region_endpoint_enabled=True,
                    zone_redundancy="Enabled" if REGIONS[each].zones else "Disabled",
                )
            ),
            depends_on=(own_id,),
        )
    for each in (region, *sorted(declared.replicate_to)) if declared.webhooks else ():
        needs = (
            (own_id,)
            if each == region
            else (own_id, resource_id(home, f"{_REGISTRY}/replications", own, each))
        )
        yield Resource(
            type=f"{_REGISTRY}/webhooks",
            name=f"{own}/arrived{REGIONS[each].short}",
            body=as_json(
                acr.WebhookCreateParameters(
                    location=each,
                    tags=tags(architecture),
                    service_uri=f"[parameters('{WEBHOOK_PARAMETER}')]",
                    actions=["push"],
                    status="enabled",
                )
            ),
            depends_on=needs,
        )
    if declared.delete_lock:
        yield _lock(own_id, "releases in production are pinned by digest")
    yield _audit_logs(architecture, region, own_id, ("audit",))


def registry_endpoints(architecture: Architecture, region: str) -> Iterator[Resource]:
    """The registry's private address in a region, once it is there."""
    target = resource_id(group(architecture), _REGISTRY, name(architecture, "registry"))
    yield from private_endpoint(architecture, region, "registry", target)


def watch(architecture: Architecture, region: str) -> Iterator[Resource]:
    """What watches the finished region: collection rules, audit logs, alert rules; once, the budget."""
    declared = architecture.monitoring
    home = group(architecture, region)
    target = cluster_id(architecture, region)
    if declared.managed_prometheus:
        account = resource_id(home, _ACCOUNT, name(architecture, "prometheus", region))
        rule = name(architecture, "data collection", region, part="prometheus")
        rule_id = resource_id(home, _RULE, rule)
        yield Resource(
            type=_RULE,
            name=rule,
            body={
                "kind": "Linux",
                "location": region,
                "properties": {
                    "dataFlows": [{"destinations": ["account"], "streams": ["Microsoft-PrometheusMetrics"]}],
                    "dataSources": {
                        "prometheusForwarder": [
                            {"name": "cluster", "streams": ["Microsoft-PrometheusMetrics"]}
                        ]
                    },
                    "destinations": {
                        "monitoringAccounts": [{"accountResourceId": account, "name": "account"}]
                    },
                },
                "tags": tags(architecture),
            },
        )
        yield _collected("prometheus", rule_id, target)
        yield rule_group(architecture, region, account)
    if declared.container_insights:
        workspace = resource_id(home, _WORKSPACE, name(architecture, "log analytics", region))
        rule = name(architecture, "data collection", region, part="containers")
        rule_id = resource_id(home, _RULE, rule)
        streams = ["Microsoft-ContainerInsights-Group-Default"]
        yield Resource(
            type=_RULE,
            name=rule,
            body={
                "kind": "Linux",
                "location": region,
                "properties": {
                    "dataFlows": [{"destinations": ["workspace"], "streams": streams}],
                    "dataSources": {
                        "extensions": [
                            {
                                "extensionName": "ContainerInsights",
                                "extensionSettings": {
                                    "dataCollectionSettings": {
                                        "enableContainerLogV2": True,
                                        "interval": "1m",
                                        "namespaceFilteringMode": "Off",
                                    }
                                },
                                "name": "ContainerInsightsExtension",
                                "streams": streams,
                            }
                        ]
                    },
                    "destinations": {
                        "logAnalytics": [{"name": "workspace", "workspaceResourceId": workspace}]
                    },
                },
                "tags": tags(architecture),
            },
        )
        yield _collected("containers", rule_id, target)
    account = resource_id(
        home,
        "Microsoft.Storage/storageAccounts/blobServices",
        name(architecture, "storage", region),
        "default",
    )
    gateway = resource_id(
        home, "Microsoft.Network/applicationGateways", name(architecture, "gateway", region)
    )
    redis = resource_id(
        home, "Microsoft.Cache/redisEnterprise/databases", name(architecture, "redis", region), "default"
    )
    logged = [
        _audit_logs(architecture, region, target, (), categories=("kube-audit-admin", "guard")),
        _audit_logs(
            architecture, region, account, (), categories=("StorageDelete", "StorageRead", "StorageWrite")
        ),
        _audit_logs(
            architecture,
            region,
            gateway,
            (),
            categories=("ApplicationGatewayAccessLog", "ApplicationGatewayFirewallLog"),
        ),
        _audit_logs(architecture, region, redis, (), categories=("ConnectionEvents",)),
    ]
    if region == architecture.primary:
        server = resource_id(
            home, "Microsoft.DBforPostgreSQL/flexibleServers", name(architecture, "postgres", region)
        )
        logged.append(_audit_logs(architecture, region, server, ("audit",)))
        yield from metric_alerts(architecture, server)
        yield budget(architecture)
    for one in logged:
        # Their targets are of earlier templates: there is nothing here to wait for.
        yield replace(one, depends_on=())


def _collected(what: str, rule_id: str, cluster: str) -> Resource:
    """That a cluster is watched by a collection rule."""
    return Resource(
        type="Microsoft.Insights/dataCollectionRuleAssociations",
        name=what,
        body={"properties": {"dataCollectionRuleId": rule_id}},
        depends_on=(rule_id,),
        scope=cluster,
    )

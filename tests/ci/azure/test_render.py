"""What is rendered: deterministic, complete, and as the architecture says; and our rules on templates."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ci.architecture import model
from ci.architecture.alerts import alerts
from ci.architecture.compliance import Item, report
from ci.architecture.cost import what_if
from ci.architecture.model import Declared
from ci.architecture.resources import role_of
from ci.architecture.topology import draw
from ci.azure import offline
from ci.azure.arm import API, REGIONAL_ENDPOINTS_API, ROLES, Module, Resource
from ci.azure.render import AREAS, render, write
from ci.azure.schema import misfits
from ci.errors import BadInput, StepFailed

TODAY = date(2026, 11, 23)
PROD = model.read("prod").architecture
MODULES = render(PROD)


def _find(kind: str, name: str = "", modules: tuple[Module, ...] = MODULES) -> list[Resource]:
    return [
        resource
        for module in modules
        for resource in module.resources
        if resource.type == kind and name in resource.name
    ]


def _one(kind: str, name: str = "", modules: tuple[Module, ...] = MODULES) -> dict[str, Any]:
    (found,) = [one for one in _find(kind, modules=modules) if one.name == name or not name]
    return found.as_dict()


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first = {file.name: file.read_bytes() for file in write(MODULES, tmp_path / "a")}
    second = {
        file.name: file.read_bytes()
        for file in write(render(model.read("prod").architecture), tmp_path / "b")
    }
    assert first == second
    assert len(list((tmp_path / "a").glob("*/*.json"))) == len(MODULES)


def test_a_file_that_no_longer_belongs_is_removed(tmp_path: Path) -> None:
    write(MODULES, tmp_path)
    (tmp_path / "eastus" / "99-old.json").write_text("{}")
    files = write(MODULES, tmp_path)
    assert sorted(tmp_path.glob("*/*.json")) == files


def test_every_template_is_sorted_and_has_an_api_version() -> None:
    for module in MODULES:
        template = module.template()
        keys = [(one["type"], one["name"]) for one in template["resources"]]
        assert keys == sorted(keys)
        assert all(one["apiVersion"] == API[one["type"]] for one in template["resources"])
        used = set(re.findall(r"parameters\('([^']+)'\)", json.dumps(template["resources"])))
        assert used == set(template.get("parameters", {}))


def test_every_area_has_something_in_production() -> None:
    assert {module.area for module in MODULES} == set(AREAS)
    assert [module.region for module in render(PROD, "westeurope")] == ["westeurope"] * len(
        render(PROD, "westeurope")
    )
    with pytest.raises(BadInput, match="no region 'uksouth'"):
        render(PROD, "uksouth")


def test_the_cluster_is_the_architectures() -> None:
    cluster = _one("Microsoft.ContainerService/managedClusters", "aks-voiceassistant-prod")["properties"]
    pools = {pool["name"]: pool for pool in cluster["agentPoolProfiles"]}
    assert {name: (pool["minCount"], pool["maxCount"]) for name, pool in pools.items()} == {
        "system": (2, 4),
        "livekit": (2, 10),
        "agents": (4, 20),
        "api": (2, 10),
    }
    assert pools["livekit"]["nodeTaints"] == ["livekit=true:NoSchedule"]
    assert [name for name, pool in pools.items() if pool["enableNodePublicIP"]] == ["livekit"]
    assert pools["agents"]["availabilityZones"] == ["1", "2", "3"]
    scaler = cluster["autoScalerProfile"]
    assert (scaler["scale-down-delay-after-add"], scaler["scale-down-unneeded-time"]) == ("10m", "10m")
    assert scaler["scale-down-utilization-threshold"] == "0.5"
    assert scaler["max-graceful-termination-sec"] == "18000", (
        "or scaling down would cut calls after ten minutes"
    )
    assert cluster["networkProfile"]["networkDataplane"] == "cilium"
    assert (
        cluster["oidcIssuerProfile"]["enabled"] and cluster["securityProfile"]["workloadIdentity"]["enabled"]
    )


def test_media_reach_the_nodes_and_leave_by_their_address() -> None:
    for cluster in _find("Microsoft.ContainerService/managedClusters"):
        pools = {pool["name"]: pool for pool in cluster.body["properties"]["agentPoolProfiles"]}
        open_ports = pools["livekit"]["networkProfile"]["allowedHostPorts"]
        assert [(one["portStart"], one["portEnd"], one["protocol"]) for one in open_ports] == [
            (50000, 60000, "UDP"),
            (7881, 7881, "TCP"),
        ]
        assert [name for name, pool in pools.items() if "'media'" in pool["vnetSubnetID"]] == ["livekit"]
        assert not any("networkProfile" in pool for name, pool in pools.items() if name != "livekit")
    for network in _find("Microsoft.Network/virtualNetworks"):
        behind = [
            one["name"] for one in network.body["properties"]["subnets"] if "natGateway" in one["properties"]
        ]
        assert behind == ["aks"]


def test_private_names_are_known_where_they_are_asked() -> None:
    kind = "Microsoft.Network/privateDnsZones"
    zones = [(module.region, one.name) for module in MODULES for one in module.resources if one.type == kind]
    # A registry has one name in all regions, and a zone one record of it: each region has its own.
    assert [region for region, zone in zones if zone == "privatelink.azurecr.io"] == list(PROD.order)
    linked = {one.name for one in _find(f"{kind}/virtualNetworkLinks")}
    for region in PROD.order:
        mine = {name.split("/")[1] for name in linked if name.startswith(f"privatelink.{region}.azmk8s.io/")}
        assert mine == {*PROD.order} - {region}, "AKS links the cluster's own network itself"
    for cluster in _find("Microsoft.ContainerService/managedClusters"):
        zone = cluster.body["properties"]["apiServerAccessProfile"]["privateDNSZone"]
        assert f"privatelink.{cluster.body['location']}.azmk8s.io" in zone


def test_who_asks_metrics_may_read_them() -> None:
    given = [
        one
        for one in _find("Microsoft.Authorization/roleAssignments")
        if "Monitor/accounts" in str(one.scope)
    ]
    who = Counter(one.body["properties"]["principalId"].split("'")[-2] for one in given)
    readers = [one.body["properties"]["principalId"] for one in given]
    assert len(given) == 3 * 4, who
    for reader in ("id-keda-", "Microsoft.Dashboard/grafana", "group-operator", "group-promoter"):
        assert sum(reader in one for one in readers) == 3, reader


def test_who_may_do_something_in_a_cluster_may_get_there() -> None:
    given = _find("Microsoft.Authorization/roleAssignments")
    entry = [one for one in given if role_of(one.body).endswith("Cluster User Role")]
    inside = {one.body["properties"]["principalId"] for one in given if "RBAC" in role_of(one.body)}
    assert {one.body["properties"]["principalId"] for one in entry} == inside and len(entry) == 3 * len(
        inside
    )


def test_each_identity_is_trusted_by_its_pods_only() -> None:
    kind = "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials"
    api = _one(kind, "id-api-voiceassistant-prod/aks-voiceassistant-prod")["properties"]
    assert api["subject"] == "system:serviceaccount:voice:voice-api"
    assert api["audiences"] == ["api://AzureADTokenExchange"]
    assert "oidcIssuerProfile.issuerUrl" in api["issuer"]
    canary = _one(kind, "id-api-voiceassistant-prod/aks-voiceassistant-prod-canary")
    assert canary["properties"]["subject"] == "system:serviceaccount:voice:voice-canary-api"
    assert [need for need in canary["dependsOn"] if "aks-voiceassistant-prod'" in need]
    assert not _find(kind, "id-ingress-voiceassistant-prod/aks-voiceassistant-prod-canary")
    livekit = _one(kind, "id-livekit-voiceassistant-prod/aks-voiceassistant-prod")["properties"]
    assert livekit["subject"] == "system:serviceaccount:voice-livekit:voice-livekit"


def test_the_gateway_is_the_architectures() -> None:
    gateway = _one("Microsoft.Network/applicationGateways", "appgw-voiceassistant-prod")["properties"]
    assert gateway["autoscaleConfiguration"] == {"minCapacity": 2, "maxCapacity": 10}
    assert gateway["sku"] == {"name": "WAF_v2", "tier": "WAF_v2"}
    assert gateway["enableHttp2"] is True
    assert gateway["sslPolicy"]["policyName"] == "AppGwSslPolicy20220101S"
    redirect = gateway["redirectConfigurations"][0]["properties"]
    assert redirect["redirectType"] == "Permanent"
    rules = gateway["urlPathMaps"][0]["properties"]["pathRules"]
    assert [rule["properties"]["paths"] for rule in rules] == [["/v1/*", "/readyz"]]
    own = {"/".join(re.findall(r"'([^']+)'", part["id"])[-1:]) for part in _parts(gateway)}
    named = {item["name"] for value in gateway.values() if isinstance(value, list) for item in value}
    assert own <= named, "every part that is referred to is there"
    for settings in gateway["backendHttpSettingsCollection"]:
        assert (settings["properties"]["port"], settings["properties"]["protocol"]) == (443, "Https")
        # What the certificate is for, so that Application Gateway takes it.
        assert settings["properties"]["hostName"] == f"{settings['name']}.voiceassistant.example.com"
    policy = _one(
        "Microsoft.Network/ApplicationGatewayWebApplicationFirewallPolicies", "wafvoiceassistantprod"
    )
    limits = [rule for rule in policy["properties"]["customRules"] if rule["ruleType"] == "RateLimitRule"]
    assert limits[0]["rateLimitThreshold"] == 600


def _parts(body: Any) -> list[dict[str, Any]]:
    if isinstance(body, dict):
        own = [body] if set(body) == {"id"} and "applicationGateways/" in body["id"] else []
        return own + [part for value in body.values() for part in _parts(value)]
    return [part for item in body for part in _parts(item)] if isinstance(body, list) else []


def test_the_database_its_replicas_and_its_backups() -> None:
    server = _one("Microsoft.DBforPostgreSQL/flexibleServers", "psql-voiceassistant-prod")["properties"]
    assert server["highAvailability"] == {"mode": "ZoneRedundant"}
    assert server["backup"] == {"backupRetentionDays": 35, "geoRedundantBackup": "Enabled"}
    assert server["authConfig"]["passwordAuth"] == "Disabled"
    replicas = [one for one in _find("Microsoft.DBforPostgreSQL/flexibleServers") if "-prod-" in one.name]
    assert sorted(one.body["location"] for one in replicas) == ["southeastasia", "westeurope"]
    assert all(one.body["properties"]["createMode"] == "Replica" for one in replicas)


def test_blobs_age_as_the_architecture_says() -> None:
    policy = _one("Microsoft.Storage/storageAccounts/managementPolicies", "stvoiceassistantprod/default")
    actions = policy["properties"]["policy"]["rules"][0]["definition"]["actions"]["baseBlob"]
    assert [value["daysAfterModificationGreaterThan"] for value in actions.values()] == [30, 90, 365]
    service = _one("Microsoft.Storage/storageAccounts/blobServices", "stvoiceassistantprod/default")[
        "properties"
    ]
    assert (
        service["deleteRetentionPolicy"] == {"days": 14, "enabled": True} and service["isVersioningEnabled"]
    )
    containers = _find("Microsoft.Storage/storageAccounts/blobServices/containers", "stvoiceassistantprod/")
    assert [one.name.split("/")[-1] for one in containers] == [
        "backups",
        "conversations",
        "recordings",
        "uploads",
    ]


def test_all_inbound_is_blocked_but_what_is_said() -> None:
    nsg = _one("Microsoft.Network/networkSecurityGroups", "nsg-gateway-voiceassistant-prod")["properties"]
    rules = {rule["name"]: rule["properties"] for rule in nsg["securityRules"]}
    assert rules["block-all-inbound"]["access"] == "Deny" and rules["block-all-inbound"]["priority"] == 4096
    assert rules["gateway-manager"]["destinationPortRange"] == "65200-65535"
    assert rules["gateway-manager"]["sourceAddressPrefix"] == "GatewayManager"


def test_the_registry_its_replications_webhooks_and_lock() -> None:
    registry = _one("Microsoft.ContainerRegistry/registries", "acrvoiceassistantprod")
    assert registry["sku"] == {"name": "Premium"} and registry["properties"]["adminUserEnabled"] is False
    assert [one.name for one in _find("Microsoft.ContainerRegistry/registries/replications")] == [
        "acrvoiceassistantprod/southeastasia",
        "acrvoiceassistantprod/westeurope",
    ]
    assert len(_find("Microsoft.ContainerRegistry/registries/webhooks")) == 3
    locked = [one.scope or "" for one in _find("Microsoft.Authorization/locks")]
    assert any("registries" in scope for scope in locked) and any("vaults" in scope for scope in locked)


def test_a_registry_with_an_endpoint_a_region_is_deployed_with_the_api_that_has_them(waivers: Path) -> None:
    (plain,) = _find("Microsoft.ContainerRegistry/registries")
    assert "regionalEndpoints" not in plain.body["properties"]

    modules = render(what_if(model.read("prod"), ["registry.regional_endpoints=true"]).architecture)
    (one,) = _find("Microsoft.ContainerRegistry/registries", modules=modules)
    assert one.as_dict()["apiVersion"] == REGIONAL_ENDPOINTS_API
    assert one.body["properties"] == {**plain.body["properties"], "regionalEndpoints": "Enabled"}
    assert _checked(modules, waivers, today=TODAY).problems == ()
    # At the version of the models, or misspelt, it is no property of a registry.
    for wrong in (dataclasses.replace(one, api=""), _misspelt(one)):
        assert [misfit.path for misfit in misfits(wrong)], wrong


def _misspelt(one: Resource) -> Resource:
    return dataclasses.replace(one, body={**one.body, "properties": {"regionalEndpoint": "Enabled"}})


def test_traffic_manager_knows_every_region_and_dns_leads_to_it() -> None:
    profile = _one("Microsoft.Network/trafficManagerProfiles", "tm-voiceassistant-prod")["properties"]
    assert [endpoint["name"] for endpoint in profile["endpoints"]] == [
        "eastus",
        "westeurope",
        "southeastasia",
    ]
    records = _find("Microsoft.Network/dnsZones/CNAME")
    assert {one.name.split("/")[1] for one in records} == {"api", "livekit", "*"}
    assert all("trafficManagerProfiles" in one.body["properties"]["targetResource"]["id"] for one in records)
    dev = render(model.read("dev").architecture)
    assert not _find("Microsoft.Network/trafficManagerProfiles", modules=dev)
    assert len(_find("Microsoft.Network/dnsZones/A", modules=dev)) == 3


def test_five_alert_rules_are_a_rule_group_in_every_region() -> None:
    groups = _find("Microsoft.AlertsManagement/prometheusRuleGroups")
    assert len(groups) == 3
    for group in groups:
        rules = group.body["properties"]["rules"]
        assert [rule["alert"] for rule in rules] == [one.name for one in alerts(PROD) if one.metric is None]
        assert all("actionGroups" in rule["actions"][0]["actionGroupId"] for rule in rules)


def test_connections_are_counted_by_azure_itself() -> None:
    # No exporter of ours shows them: a rule in PromQL would never fire.
    assert "pg_stat" not in json.dumps(
        [one.body for one in _find("Microsoft.AlertsManagement/prometheusRuleGroups")]
    )
    (alert,) = _find("Microsoft.Insights/metricAlerts")
    (criterion,) = alert.body["properties"]["criteria"]["allOf"]
    assert (criterion["metricName"], criterion["threshold"]) == ("active_connections", 1374)
    assert "psql-voiceassistant-prod" in alert.body["properties"]["scopes"][0]


def test_audit_logs_are_kept_for_ninety_days_and_others_for_thirty() -> None:
    (workspace, *_) = _find("Microsoft.OperationalInsights/workspaces", "log-voiceassistant-prod")
    assert workspace.body["properties"]["retentionInDays"] == 30
    tables = _find("Microsoft.OperationalInsights/workspaces/tables", "log-voiceassistant-prod/")
    assert {one.body["properties"]["totalRetentionInDays"] for one in tables} == {90}
    logged = {one.scope for one in _find("Microsoft.Insights/diagnosticSettings")}
    for kind in (
        "vaults", "registries", "flexibleServers", "managedClusters", "blobServices", "applicationGateways",
        "redisEnterprise/databases",
    ):  # fmt: skip
        assert any(kind in str(scope) for scope in logged), kind
    categories = {
        category.get("category")
        for one in _find("Microsoft.Insights/diagnosticSettings")
        for category in one.body["properties"]["logs"]
    }
    assert categories >= {"ApplicationGatewayAccessLog", "ApplicationGatewayFirewallLog", "ConnectionEvents"}


def test_who_changed_what_in_the_database_is_logged_by_statement() -> None:
    kind = "Microsoft.DBforPostgreSQL/flexibleServers/configurations"
    settings = {one.name.split("/")[1]: one.body["properties"]["value"] for one in _find(kind)}
    assert "pgaudit" in settings["shared_preload_libraries"].split(",")
    assert settings["azure.extensions"] == "PGAUDIT"
    assert {"write", "ddl", "role"} <= set(settings["pgaudit.log"].split(","))
    # A server takes one change at a time.
    waits = [one.depends_on for one in _find(kind)]
    assert len(set(waits)) == len(waits)


def test_people_and_services_get_their_roles_by_name() -> None:
    assignments = _find("Microsoft.Authorization/roleAssignments")
    assert {role_of(one.body) for one in assignments} <= set(ROLES)
    names = [one.name for one in assignments]
    in_region = [
        (module.group, one.name) for module in MODULES for one in module.resources if one in assignments
    ]
    assert len(set(in_region)) == len(in_region), names
    # Unique in the tenant: a name that is a constant would be the next environment's, too.
    assert all(name.startswith("[guid(resourceGroup().id, '") for name in names)


def test_one_budget_watches_all_groups_with_those_of_the_nodes() -> None:
    (budget,) = _find("Microsoft.Consumption/budgets")
    properties = budget.body["properties"]
    assert properties["amount"] == PROD.budget.monthly
    assert set(properties["notifications"]) == {"at-50-percent", "at-80-percent", "at-100-percent"}
    nodes = [
        one.body["properties"]["nodeResourceGroup"]
        for one in _find("Microsoft.ContainerService/managedClusters")
    ]
    assert len(nodes) == 3 and {*nodes, *(module.group for module in MODULES)} == set(
        properties["filter"]["dimensions"]["values"]
    )
    # Rendering asks no clock, and Azure takes no month that has gone by.
    assert properties["timePeriod"] == {"startDate": "[parameters('budgetSince')]"}
    nested = budget.as_dict()
    assert (nested["type"], nested["location"]) == ("Microsoft.Resources/deployments", "eastus")
    assert nested["properties"]["template"]["resources"][0]["type"] == "Microsoft.Consumption/budgets"


def _checked(modules: tuple[Module, ...], waivers: Path, *, today: date) -> offline.Checked:
    return asyncio.run(offline.check_templates(modules, waivers, today=today))


# --- offline checks ----------------------------------------------------------------------------


@pytest.fixture
def waivers(tmp_path: Path) -> Path:
    file = tmp_path / "waivers.yaml"
    file.write_text("waivers: []\n")
    return file


@pytest.mark.parametrize("environment", model.environments())
def test_our_rules_find_nothing(environment: str, waivers: Path) -> None:
    found = _checked(render(model.read(environment).architecture), waivers, today=TODAY)
    assert found.problems == () and found.resources > 100


def _broken(area: str, **changes: Any) -> tuple[Module, ...]:
    def change(resource: Resource) -> Resource:
        return dataclasses.replace(resource, **changes)

    return tuple(
        dataclasses.replace(module, resources=(change(module.resources[0]), *module.resources[1:]))
        if module.area == area and module.region == "eastus"
        else module
        for module in MODULES
    )


@pytest.mark.parametrize(
    ("area", "changes", "code"),
    [
        ("vault", {"body": {"properties": {}}}, "ARM-RULE"),
        ("network", {"depends_on": ("[resourceId('rg', 'Microsoft.Network/x', 'y')]",)}, "ARM-DEPENDS"),
        ("network", {"name": "a/b"}, "ARM-NAME"),
        ("access", {"scope": None}, "ARM-WIDE"),
        (
            "access",
            {"scope": "[resourceId('rg', 'Microsoft.KeyVault/vaults', 'kv-voiceassistant-prod')]"},
            "ARM-WIDE",
        ),
        ("network", {"body": {"adminPassword": "hunter2"}}, "ARM-SECRET"),
        ("network", {"body": {"zones": None}}, "ARM-NULL"),
    ],
)
def test_each_of_our_rules_finds_its_mistake(
    waivers: Path, area: str, changes: dict[str, Any], code: str
) -> None:
    found = _checked(_broken(area, **changes), waivers, today=TODAY)
    assert code in {problem.id for problem in found.problems}
    assert "hunter2" not in str(found.problems)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        (
            "Microsoft.ContainerService/managedClusters",
            ("apiServerAccessProfile", "disableRunCommand"),
            False,
        ),
        (
            "Microsoft.ContainerRegistry/registries",
            ("policies", "azureADAuthenticationAsArmPolicy", "status"),
            "enabled",
        ),
        ("Microsoft.Network/virtualNetworks", ("encryption", "enabled"), False),
        (
            "Microsoft.Network/applicationGateways",
            ("backendHttpSettingsCollection", 0, "properties", "protocol"),
            "Http",
        ),
        ("Microsoft.Network/applicationGateways", ("sslPolicy", "policyName"), "AppGwSslPolicy20150501"),
    ],
)
def test_what_lets_more_in_than_it_must_is_found(
    waivers: Path, kind: str, path: tuple[str | int, ...], value: object
) -> None:
    (home, own) = next((m, r) for m in MODULES for r in m.resources if r.type == kind)
    body = json.loads(json.dumps(own.body))
    inner = body["properties"]
    for key in path[:-1]:
        inner = inner[key]
    assert inner[path[-1]] != value
    inner[path[-1]] = value
    alone = dataclasses.replace(home, resources=(dataclasses.replace(own, body=body, depends_on=()),))
    found = _checked((alone,), waivers, today=TODAY)
    # Alone, it lacks others as well: who reads its metrics is not in this template.
    assert [one.id for one in found.problems if one.id != "ARM-READER"] == ["ARM-RULE"], found.problems


def test_what_is_rendered_twice_is_found(waivers: Path) -> None:
    twice = (*MODULES, dataclasses.replace(MODULES[0], area="again"))
    found = _checked(twice, waivers, today=TODAY)
    # A role's name is then there twice, too.
    assert {problem.id for problem in found.problems} == {"ARM-TWICE", "ARM-ROLE"}


def test_a_waiver_holds_until_it_expires(waivers: Path) -> None:
    vault = next(module for module in MODULES if module.area == "vault").resources[0]
    properties = {**vault.body["properties"], "enablePurgeProtection": False}
    broken = _broken("vault", body={**vault.body, "properties": properties})
    waiver = "{id: ARM-RULE, resource: vaults, reason: only a test of waivers, expires: 2026-12-31}"
    waivers.write_text(f"waivers:\n  - {waiver}\n")
    assert _checked(broken, waivers, today=TODAY).problems == ()
    late = _checked(broken, waivers, today=date(2027, 1, 1))
    assert {problem.id for problem in late.problems} == {"ARM-RULE", "WAIVER"}


def test_our_own_waivers_have_not_expired() -> None:
    found = _checked(MODULES, model.folder() / "waivers.yaml", today=TODAY)
    assert found.problems == ()


def test_checkovs_findings_are_ours(waivers: Path, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "checkov"
    tool.parent.mkdir()
    check = {
        "check_id": "CKV_X_1",
        "check_name": "Ensure it",
        "resource": "Microsoft.KeyVault/vaults.kv-voiceassistant-prod",
        "file_path": "/eastus/04-vault.json",
    }
    report = {"summary": {"passed": 1}, "results": {"failed_checks": [check]}}
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(report)}\nEND\nexit 1\n")
    tool.chmod(0o755)
    found = asyncio.run(offline.check_templates(MODULES, waivers, today=TODAY, checkov=tool))
    assert found.sources == ("ours", "schema", "checkov")
    assert [(one.id, one.resource, one.module) for one in found.problems] == [
        ("CKV_X_1", "Microsoft.KeyVault/vaults kv-voiceassistant-prod", "eastus/04-vault")
    ]
    tool.write_text("#!/bin/sh\necho no report\n")
    with pytest.raises(StepFailed, match="checkov gave no report"):
        asyncio.run(offline.check_templates(MODULES, waivers, today=TODAY, checkov=tool))


# --- the picture and the report ----------------------------------------------------------------


@pytest.mark.parametrize("environment", model.environments())
def test_the_picture_shows_every_region_and_is_xml(environment: str) -> None:
    architecture = model.read(environment).architecture
    picture = draw(architecture)
    ElementTree.fromstring(picture)
    assert all(str(plan.vnet) in picture for plan in architecture.regions.values())
    assert picture == draw(model.read(environment).architecture)
    # What is drawn under a name is rendered under it.
    rendered = json.dumps([one.as_dict() for module in render(architecture) for one in module.resources])
    drawn = re.findall(rf"\b[a-z]+-[a-z-]*{architecture.product}-{environment}[a-z-]*", picture)
    assert [name for name in {*drawn} if name not in rendered] == [] and len({*drawn}) > 5


def _report(declared: Declared) -> tuple[Item, ...]:
    modules = render(declared.architecture)
    return report(declared, [resource for module in modules for resource in module.resources])


def test_who_did_what_is_one_query_over_tables_that_are_kept() -> None:
    searches = _find("Microsoft.OperationalInsights/workspaces/savedSearches")
    assert len(searches) == 3
    asked = searches[0].body["properties"]["query"]
    assert "ago(90d)" in asked and asked.count("When = TimeGenerated, Who = ") == asked.count("(A") + 3
    kept = {one.name.split("/")[1] for one in _find("Microsoft.OperationalInsights/workspaces/tables")}
    assert set(re.findall(r"\((\w+) \| where", asked)) - {"AzureActivity"} <= kept


def test_the_report_has_evidence_for_every_promise_and_no_gap() -> None:
    items = _report(model.read("prod"))
    assert [item.promise for item in items if not item.met] == []
    assert all(any(line.startswith("setting ") for line in item.evidence) for item in items)


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ("monitoring.audit_retention=30d", "Audit logs are kept"),
        ("storage.tls_min='1.1'", "Encryption in transit"),
        ("private_endpoints=[storage]", "No public access"),
        ("shared_keys=true", "Least privilege"),
        ("redis.access_keys=false", "Least privilege"),
        ("api.azure_roles=[Storage Blob Data Contributor]", "Least privilege"),
        ("access.roles.publisher.kubernetes_role=admin", "Least privilege"),
        ("access.roles.promoter.namespaces=[]", "Least privilege"),
        ("access.roles.promoter.azure_roles=[AcrPush]", "Least privilege"),
        ("access.roles.promoter.group='env:ENTRA_GROUP_PUBLISHERS'", "Least privilege"),
        ("agents.vm_size=Standard_D4s_v3", "Encryption in transit"),
        ("key_vault.secrets={redis: {rotate_every: 9d, used_by: [api]}}", "GDPR: one person"),
        ("alerts.email=[]", "Someone is told"),
        ("postgres.replicas={}", "Recovery"),
        ("soft_delete=7d", "Data retention"),
        ("log_retention=7d", "Audit logging"),
    ],
)
def test_a_broken_promise_is_a_gap(change: str, promise: str) -> None:
    if change.startswith("soft_delete"):
        change = f"storage.{change}"
    gaps = [item.promise for item in _report(what_if(model.read("prod"), [change])) if not item.met]
    assert any(gap.startswith(promise) for gap in gaps), gaps


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        ("Microsoft.Insights/diagnosticSettings", "Audit logging"),
        ("Microsoft.Storage/storageAccounts", "Encryption at rest"),
    ],
)
def test_what_is_not_rendered_is_a_gap(kind: str, promise: str) -> None:
    resources = [one for module in MODULES for one in module.resources if one.type != kind]
    gaps = [item.promise for item in report(model.read("prod"), resources) if not item.met]
    assert any(gap.startswith(promise) for gap in gaps), gaps


def test_rendering_loads_no_clients_and_clients_can_still_be_had() -> None:
    code = (
        "import sys, ci.azure.render; "
        "assert 'azure.mgmt.network._client' not in sys.modules; "
        "from azure.mgmt.network import NetworkManagementClient, models; "
        "assert NetworkManagementClient.__name__ == 'NetworkManagementClient'; "
        "assert models is sys.modules['ci.azure.network'].net"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

"""What Azure refuses or leaves dead is found before it is asked: each rule on templates that were right."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from ci.architecture import model
from ci.architecture.cost import what_if
from ci.architecture.resources import role_of
from ci.azure.across import RULES, across
from ci.azure.arm import Module, Resource
from ci.azure.limits import NAMES, VALUES, beyond
from ci.azure.render import render

MODULES = render(model.read("prod").architecture)
ROLE = "Microsoft.Authorization/roleAssignments"
CLUSTER = "Microsoft.ContainerService/managedClusters"
Change = Callable[[Resource], Resource | None]


def _changed(kind: str, change: Change, *, region: str = "eastus") -> list[tuple[str, str]]:
    """What is found when all resources of a type in a region are changed, or taken away by None."""

    def of(module: Module) -> Module:
        if module.region != region:
            return module
        found = [change(one) if one.type == kind else one for one in module.resources]
        return dataclasses.replace(module, resources=tuple(one for one in found if one is not None))

    return [(one.code, one.message) for one in across([of(module) for module in MODULES])]


def _body(change: Callable[[Any], None]) -> Change:
    """A change of the properties alone."""

    def changed(resource: Resource) -> Resource:
        body = json.loads(json.dumps(resource.body))
        change(body["properties"])
        return dataclasses.replace(resource, body=body)

    return changed


def _pools(change: Callable[[Any], None]) -> Change:
    def changed(properties: Any) -> None:
        for pool in properties["agentPoolProfiles"]:
            change(pool)

    return _body(changed)


def _without(description: str) -> Change:
    return lambda one: None if role_of(one.body) == description else one


def _with(**changes: Any) -> Change:
    return lambda one: dataclasses.replace(one, **changes)


def test_what_is_rendered_is_right_together() -> None:
    for environment in model.environments():
        assert list(across(render(model.read(environment).architecture))) == []


@pytest.mark.parametrize(
    ("kind", "change", "code", "said"),
    [
        (ROLE, _with(name="5b1e3d4f-0000-0000-0000-000000000000"), "ARM-ROLE", "the next environment's"),
        (ROLE, _with(name="[guid(resourceGroup().id, 'same')]"), "ARM-ROLE", "two assignments of a group"),
        (
            ROLE,
            _with(scope="[resourceId('rg-of-somebody', 'Microsoft.KeyVault/vaults', 'kv')]"),
            "ARM-SCOPE",
            "its scope is in rg-of-somebody",
        ),
        (
            ROLE,
            lambda one: _with(scope=(one.scope or "").replace("KeyVault/vaults", "Web/sites") or None)(one),
            "ARM-SCOPE",
            "Key Vault Secrets User on Microsoft.Web/sites/secrets lets nobody do anything",
        ),
        (
            "Microsoft.DBforPostgreSQL/flexibleServers/configurations",
            _with(depends_on=()),
            "ARM-BUSY",
            "it takes one change at a time",
        ),
        (
            "Microsoft.DBforPostgreSQL/flexibleServers/administrators",
            _with(depends_on=()),
            "ARM-BUSY",
            "it takes one change at a time",
        ),
        (
            "Microsoft.Network/virtualNetworks/virtualNetworkPeerings",
            _with(depends_on=()),
            "ARM-BUSY",
            "it takes one change at a time",
        ),
        (
            CLUSTER,
            _pools(lambda pool: pool.update(vnetSubnetID=pool["vnetSubnetID"].replace("'media'", "'aks'"))),
            "ARM-MEDIA",
            "the pool livekit is behind a NAT gateway",
        ),
        (
            CLUSTER,
            _pools(lambda pool: pool.pop("networkProfile", None)),
            "ARM-MEDIA",
            "lets nothing in to the nodes of livekit",
        ),
        (
            CLUSTER,
            _body(lambda cluster: cluster["apiServerAccessProfile"].pop("privateDNSZone")),
            "ARM-ENTRY",
            "is known in its own network alone",
        ),
        (
            "Microsoft.Consumption/budgets",
            _body(lambda budget: budget["timePeriod"].update(startDate="2026-11-01T00:00:00Z")),
            "ARM-BUDGET",
            "refused from the month after on",
        ),
        (
            "Microsoft.Consumption/budgets",
            _body(lambda budget: budget["filter"]["dimensions"]["values"].pop()),
            "ARM-BUDGET",
            "it does not see rg-voiceassistant-prod-southeastasia-nodes",
        ),
        (
            "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials",
            _body(lambda own: own.update(subject=own["subject"].replace("keda-operator", "keda"))),
            "ARM-READER",
            "nothing scales by them",
        ),
        (
            "Microsoft.AlertsManagement/prometheusRuleGroups",
            _body(lambda group: group["rules"][0].update(expression="sum(rabbitmq_queue_messages{}) > 5")),
            "ARM-METRIC",
            "rabbitmq_queue_messages, which nothing exports",
        ),
    ],
)
def test_each_rule_finds_its_mistake(kind: str, change: Change, code: str, said: str) -> None:
    found = _changed(kind, change)
    assert any(one == code and said in message for one, message in found), found


def test_a_role_that_nobody_has_is_missed_where_it_is_needed() -> None:
    everywhere = [
        dataclasses.replace(
            module,
            resources=tuple(
                one
                for one in module.resources
                if one.type != ROLE or "Monitor/accounts" not in (one.scope or "")
            ),
        )
        for module in MODULES
    ]
    said = [(one.resource.type, one.code) for one in across(everywhere)]
    assert said.count(("Microsoft.Dashboard/grafana", "ARM-READER")) == 1
    assert said.count((CLUSTER, "ARM-READER")) == 3
    entry = _changed(ROLE, _without("Azure Kubernetes Service Cluster User Role"))
    assert {code for code, _ in entry} == {"ARM-ENTRY"} and len(entry) == 5, entry


def test_a_second_endpoint_of_one_name_in_a_zone_takes_the_firsts_record() -> None:
    # As it was: one zone, in the primary region's group, for all regions' endpoints of the one registry.
    def to_one(one: Resource) -> Resource:
        own, zone = "rg-voiceassistant-prod-westeurope", "', 'Microsoft.Network/privateDnsZones"
        text = json.dumps(one.body).replace(own + zone, own.replace("westeurope", "eastus") + zone)
        return dataclasses.replace(one, body=json.loads(text))

    kind = "Microsoft.Network/privateEndpoints/privateDnsZoneGroups"
    found = _changed(kind, to_one, region="westeurope")
    assert [code for code, _ in found] == ["ARM-RECORD"]
    assert "acrvoiceassistantprod has one name" in found[0][1]


def test_both_ends_of_a_peering_are_made_in_turn() -> None:
    at_once = [dataclasses.replace(module, in_turn=False) for module in MODULES]
    assert {one.code for one in across(at_once)} == {"ARM-BUSY"}


def test_every_rule_says_where_its_word_is_from() -> None:
    assert all("[D]" in (rule.__doc__ or "") or "[X]" in (rule.__doc__ or "") for rule in RULES)
    assert all(limit.source for limits in VALUES.values() for limit in limits)


@pytest.mark.parametrize(
    ("kind", "name", "body", "said"),
    [
        ("Microsoft.KeyVault/vaults", "kv-of-a-product-with-a-long-name", {}, "3 to 24 characters"),
        ("Microsoft.KeyVault/vaults", "kv--two", {}, "single hyphens"),
        ("Microsoft.Storage/storageAccounts", "stVoice", {}, "small letters and digits"),
        ("Microsoft.Dashboard/grafana", "grafana-of-everything-we-have", {}, "2 to 23"),
        ("Microsoft.ContainerRegistry/registries/webhooks", "acr/push", {}, "5 to 50"),
        ("Microsoft.Network/privateEndpoints", "pe-" + "x" * 70, {}, "2 to 64"),
        (
            "Microsoft.Network/trafficManagerProfiles",
            "tm",
            {"monitorConfig": {"intervalInSeconds": 20}},
            "10 or 30 is taken",
        ),
        ("Microsoft.KeyVault/vaults", "kv-x", {"softDeleteRetentionInDays": 120}, "7 to 90 is taken"),
        ("Microsoft.Network/natGateways", "ng", {"idleTimeoutInMinutes": 3}, "4 to 120 is taken"),
        (
            "Microsoft.Cache/redisEnterprise/databases",
            "r/default",
            {"persistence": {"rdbFrequency": "24h"}},
            "1h or 6h or 12h is taken",
        ),
        ("Microsoft.Insights/metricAlerts", "ma", {"windowSize": "PT2M"}, "PT5M"),
        ("Microsoft.OperationalInsights/workspaces", "log-x", {"retentionInDays": 7}, "30 to 730"),
        ("Microsoft.Insights/actionGroups", "ag", {"groupShortName": "voice-assistant"}, "1 to 12"),
        ("Microsoft.DBforPostgreSQL/flexibleServers", "psql", {"storage": {"storageSizeGB": 100}}, "128"),
        (
            "Microsoft.ContainerService/managedClusters",
            "aks",
            {"agentPoolProfiles": [{"osDiskSizeGB": 128}, {"osDiskSizeGB": 16}]},
            "agentPoolProfiles.*.osDiskSizeGB is 16: 30 to 2048",
        ),
    ],
)
def test_what_azure_does_not_take_of_one_resource(
    kind: str, name: str, body: dict[str, Any], said: str
) -> None:
    (found,) = beyond(kind, name, {"properties": body})
    assert said in found and found.endswith(")"), "with its source"


def test_what_is_rendered_is_inside_all_limits() -> None:
    shown = [one for module in MODULES for one in module.resources]
    assert [said for one in shown for said in beyond(one.type, one.name, one.body)] == []
    # Whatever we limit is rendered, or the line is dead.
    assert {*NAMES, *VALUES} <= {one.type for one in shown} | {"Microsoft.Network/dnsZones/A"}


def test_a_probe_of_another_interval_is_found_in_what_is_rendered() -> None:
    modules = render(what_if(model.read("prod"), ["traffic_manager.probe_interval=15s"]).architecture)
    found = [
        s for module in modules for one in module.resources for s in beyond(one.type, one.name, one.body)
    ]
    assert len(found) == 2 and all("intervalInSeconds is 15" in one for one in found)

"""Who is told of what: alert rules on metrics, whom they reach, and the month's money."""

from __future__ import annotations

from collections.abc import Iterator

from azure.mgmt.consumption import models as money
from azure.mgmt.prometheusrulegroups import models as prometheus

from ci.architecture.alerts import alerts
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.arm import Resource, as_json, resource_id
from ci.azure.cluster import cluster_id
from ci.azure.network import group, tags

__all__ = ["BUDGET_PARAMETER", "action_group", "budget", "metric_alerts", "rule_group"]

BUDGET_PARAMETER = "budgetSince"
"""The template parameter with the day that the budget counts from: `2026-11-01T00:00:00Z`."""


def action_group(architecture: Architecture) -> Resource:
    """Whom alerts reach."""
    receivers = [
        {"name": f"mail-{number}", "emailAddress": address, "useCommonAlertSchema": True}
        for number, address in enumerate(architecture.monitoring.alerts.email, 1)
    ]
    return Resource(
        type="Microsoft.Insights/actionGroups",
        name=name(architecture, "action group"),
        body={
            "location": "global",
            "tags": tags(architecture),
            "properties": {"enabled": True, "groupShortName": "voice", "emailReceivers": receivers},
        },
    )


def _reached(architecture: Architecture) -> str:
    return resource_id(
        group(architecture), "Microsoft.Insights/actionGroups", name(architecture, "action group")
    )


def rule_group(architecture: Architecture, region: str, account: str) -> Resource:
    """The rules over what the clusters' metrics show."""
    action = _reached(architecture)
    rules = [
        prometheus.PrometheusRule(
            alert=alert.name,
            enabled=True,
            expression=alert.expression,
            severity=alert.severity,
            for_property=f"PT{alert.hold}M",
            labels=alert.labels,
            annotations={"summary": alert.summary, "action": alert.action},
            actions=[prometheus.PrometheusRuleGroupAction(action_group_id=action)],
            resolve_configuration=prometheus.PrometheusRuleResolveConfiguration(
                auto_resolved=True, time_to_resolve="PT10M"
            ),
        )
        for alert in alerts(architecture)
        if alert.metric is None
    ]
    return Resource(
        type="Microsoft.AlertsManagement/prometheusRuleGroups",
        name=name(architecture, "rule group", region, part="voice"),
        body=as_json(
            prometheus.PrometheusRuleGroupResource(
                location=region,
                tags=tags(architecture),
                description="The alert rules of the architecture that clusters' metrics show",
                enabled=True,
                cluster_name=name(architecture, "cluster", region),
                scopes=[account, cluster_id(architecture, region)],
                interval="PT1M",
                rules=rules,
            )
        ),
    )


def metric_alerts(architecture: Architecture, server: str) -> Iterator[Resource]:
    """The rules over what Azure itself counts of the database: nothing of ours exports it."""
    for alert in alerts(architecture):
        if alert.metric is None:
            continue
        kind = "Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria"
        yield Resource(
            type="Microsoft.Insights/metricAlerts",
            name=name(architecture, "metric alert", part=alert.name.lower()),
            body={
                "location": "global",
                "tags": tags(architecture),
                "properties": {
                    "description": f"{alert.summary}: {alert.action}",
                    "severity": alert.severity,
                    "enabled": True,
                    "scopes": [server],
                    "evaluationFrequency": "PT1M",
                    "windowSize": f"PT{alert.hold}M",
                    "autoMitigate": True,
                    "criteria": {
                        "odata.type": kind,
                        "allOf": [
                            {
                                "criterionType": "StaticThresholdCriterion",
                                "name": alert.name,
                                "metricName": alert.metric.name,
                                "metricNamespace": alert.metric.of,
                                "operator": "GreaterThan",
                                "threshold": alert.metric.above,
                                "timeAggregation": "Average",
                            }
                        ],
                    },
                    "actions": [{"actionGroupId": _reached(architecture)}],
                },
            },
        )


def budget(architecture: Architecture) -> Resource:
    """The month's money of all regions, those of the nodes with them, which AKS keeps in groups of its own.

    It is the subscription's, with the groups as its filter: a group's own budget sees nothing of the nodes.
    Its start is asked for when it is deployed: Azure takes no month that has gone by, but of one that it has.
    Source: learn.microsoft.com, Microsoft.Consumption/budgets, BudgetTimePeriod and BudgetFilter.
    """
    declared = architecture.budget
    groups = [group(architecture, region) for region in architecture.order]
    groups += [name(architecture, "node group", region) for region in architecture.order]
    return Resource(
        type="Microsoft.Consumption/budgets",
        name=name(architecture, "budget"),
        body=as_json(
            money.Budget(
                category="Cost",
                amount=declared.monthly,
                time_grain="Monthly",
                time_period=money.BudgetTimePeriod(start_date=f"[parameters('{BUDGET_PARAMETER}')]"),
                filter=money.BudgetFilter(
                    dimensions=money.BudgetComparisonExpression(
                        name="ResourceGroupName", operator="In", values_property=groups
                    )
                ),
                notifications={
                    f"at-{round(share * 100)}-percent": money.Notification(
                        enabled=True,
                        operator="GreaterThanOrEqualTo",
                        threshold=round(share * 100),
                        threshold_type="Actual",
                        contact_emails=list(declared.contacts),
                    )
                    for share in declared.alert_at
                },
            )
        ),
        subscription=architecture.primary,
    )

"""The six alert rules, once in PromQL; from it the PrometheusRule for the cluster and the dashboards.

An empty numerator is no errors (`or vector(0)`); an empty denominator is no verdict, so that no alert fires
on no traffic. Each rule has a runbook line: what to do at two in the morning. LiveKit's counters have no
`_total`, and a p95 over 1 s shows only in the instrumentator's high-resolution histogram.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ci.architecture.model import Architecture

__all__ = ["Alert", "Metric", "alerts", "prometheus_rule", "rule_file"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One of Azure's own: its name, the type whose it is, and above what it alerts."""

    name: str
    of: str
    above: int


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One rule. `severity` is Azure's, 0 (critical) to 4; `hold` is how long it must be true, in minutes."""

    name: str
    expression: str
    severity: int
    hold: int
    summary: str
    action: str
    metric: Metric | None = None
    """Where Azure itself counts, and no exporter runs for `expression`: what is alerted on there instead."""

    @property
    def labels(self) -> dict[str, str]:
        """What the alert is routed by."""
        return {"severity": "critical" if self.severity <= 1 else "warning"}


def alerts(architecture: Architecture) -> tuple[Alert, ...]:
    """The rules, with the limits of monitoring.alerts; each is tested with `promtool test rules`."""
    limits = architecture.monitoring.alerts
    requests = 'http_requests_total{job="api"'
    joins = 'livekit_participant_join_total{state=~"signal_.*failed|rtc_failure"}'
    operations = "livekit_node_service_operation"
    return (
        Alert(
            name="HighErrorRate",
            expression=(
                f'(sum(rate({requests},status="5xx"}}[5m])) or vector(0))'
                f" / (sum(rate({requests}}}[5m])) > 0) > {limits.error_rate:g}"
            ),
            severity=1,
            hold=2,
            summary=f"more than {limits.error_rate:.0%} of the API's requests fail",
            action="va status; if a release was promoted within the hour: va rollback",
        ),
        Alert(
            name="HighLatency",
            expression=(
                "histogram_quantile(0.95, sum by (le) "
                '(rate(http_request_duration_highr_seconds_bucket{job="api"}'
                f"[5m]))) > {limits.latency_p95.total_seconds():g}"
            ),
            severity=2,
            hold=5,
            summary=f"the API's p95 is over {limits.latency_p95.total_seconds():g} s",
            action="look at Redis' and LiveKit's latency on the api dashboard, then at the nodes' CPU",
        ),
        Alert(
            name="PodRestarts",
            expression=(
                "sum by (namespace, pod) "
                '(increase(kube_pod_container_status_restarts_total{namespace="voice"}[5m]))'
                f" > {limits.pod_restarts}"
            ),
            severity=2,
            hold=0,
            summary=f"a pod restarted more than {limits.pod_restarts} times in five minutes",
            action="kubectl -n voice logs --previous POD; an OOM kill shows in kubectl describe",
        ),
        Alert(
            name="NodeUsage",
            expression=(
                '1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[5m]))'
                f" > {limits.node_usage:g}"
                f" or 1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes > {limits.node_usage:g}"
            ),
            severity=3,
            hold=10,
            summary=f"a node's CPU or memory is over {limits.node_usage:.0%}",
            action="is its pool at its maximum? va cost --what-if shows what a larger one costs",
        ),
        Alert(
            name="DatabaseConnections",
            expression=(
                "sum by (server) (pg_stat_activity_count) / on (server) pg_settings_max_connections"
                f" > {limits.database_connections:g}"
            ),
            severity=2,
            hold=5,
            summary=f"over {limits.database_connections:.0%} of the database's connections are taken",
            action="who holds them: SELECT application_name, count(*) FROM pg_stat_activity GROUP BY 1",
            # "Supported metrics for Microsoft.DBforPostgreSQL/flexibleServers", read 2026-11.
            metric=Metric(
                name="active_connections",
                of="Microsoft.DBforPostgreSQL/flexibleServers",
                above=int(limits.database_connections * architecture.postgres.max_connections),
            ),
        ),
        Alert(
            name="LiveKitRoomErrors",
            expression=(
                f'(sum(rate({operations}{{status="error"}}[5m])) or vector(0))'
                f" / (sum(rate({operations}[5m])) > 0) > {limits.room_errors:g}"
                f" or (sum(rate({joins}[5m])) or vector(0))"
                f" / (sum(rate(livekit_participant_join_total[5m])) > 0) > {limits.room_errors:g}"
            ),
            severity=1,
            hold=2,
            summary=f"more than {limits.room_errors:.0%} of LiveKit's operations or joins fail",
            action="are UDP ports open to the livekit nodes? Is Redis up? Then the livekit dashboard",
        ),
    )


def _rules(architecture: Architecture) -> Iterator[dict[str, Any]]:
    for alert in alerts(architecture):
        yield {
            "alert": alert.name,
            "expr": alert.expression,
            "for": f"{alert.hold}m",
            "labels": alert.labels,
            "annotations": {"summary": alert.summary, "action": alert.action},
        }


def rule_file(architecture: Architecture) -> dict[str, Any]:
    """A Prometheus rule file."""
    return {"groups": [{"name": "voice", "interval": "30s", "rules": list(_rules(architecture))}]}


def prometheus_rule(architecture: Architecture) -> dict[str, Any]:
    """The same as a PrometheusRule for the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "voice", "labels": {"app.kubernetes.io/part-of": architecture.product}},
        "spec": rule_file(architecture),
    }

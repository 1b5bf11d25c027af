"""Grafana dashboards by code: api, agents, livekit, promotion. JSON that Grafana imports as it is.

Each panel is a title, PromQL and a unit; the layout follows from their order, two in a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["dashboards"]


@dataclass(frozen=True)
class _Panel:
    title: str
    queries: tuple[tuple[str, str], ...]
    """Legend and expression."""
    unit: str = "short"


_API = 'job="api"'
_P = "histogram_quantile({q}, sum by (le) (rate(http_request_duration_highr_seconds_bucket{{{job}}}[5m])))"

_BOARDS: dict[str, tuple[_Panel, ...]] = {
    "api": (
        _Panel(
            "Requests",
            (("{{status}}", f"sum by (status) (rate(http_requests_total{{{_API}}}[1m]))"),),
            "reqps",
        ),
        _Panel(
            "Errors",
            (
                (
                    "share of 5xx",
                    f'(sum(rate(http_requests_total{{{_API},status="5xx"}}[5m])) or vector(0))'
                    f" / (sum(rate(http_requests_total{{{_API}}}[5m])) > 0)",
                ),
            ),
            "percentunit",
        ),
        _Panel(
            "Latency", tuple((f"p{round(q * 100)}", _P.format(q=q, job=_API)) for q in (0.5, 0.95, 0.99)), "s"
        ),
        _Panel("Sessions", (("{{outcome}}", "sum by (outcome) (rate(voice_sessions_total[1m]))"),), "ops"),
        _Panel(
            "Pod restarts",
            (
                (
                    "{{pod}}",
                    "sum by (pod) "
                    '(increase(kube_pod_container_status_restarts_total{namespace="voice"}[5m]))',
                ),
            ),
        ),
    ),
    "agents": (
        _Panel("Active jobs", (("{{pod}}", "sum by (pod) (lk_agents_active_job_count)"),)),
        _Panel("Load", (("{{pod}}", "max by (pod) (lk_agents_worker_load)"),), "percentunit"),
        _Panel("Child processes", (("{{pod}}", "sum by (pod) (lk_agents_child_process_count)"),)),
        _Panel(
            "Node CPU",
            (("{{instance}}", '1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[5m]))'),),
            "percentunit",
        ),
    ),
    "livekit": (
        _Panel("Rooms", (("rooms", "sum(livekit_room_total)"),)),
        _Panel("Participants", (("participants", "sum(livekit_participant_total)"),)),
        _Panel(
            "Failed operations",
            (
                (
                    "share",
                    '(sum(rate(livekit_node_service_operation{status="error"}[5m])) or vector(0))'
                    " / (sum(rate(livekit_node_service_operation[5m])) > 0)",
                ),
            ),
            "percentunit",
        ),
        _Panel(
            "Joins by state",
            (("{{state}}", "sum by (state) (rate(livekit_participant_join_total[5m]))"),),
            "ops",
        ),
        _Panel("Packets", (("{{direction}}", "sum by (direction) (rate(livekit_packet_total[1m]))"),), "pps"),
    ),
    "promotion": (
        _Panel(
            "Requests by track", (("{{track}}", "sum by (track) (rate(http_requests_total[1m]))"),), "reqps"
        ),
        _Panel(
            "Failed sessions by track",
            (
                (
                    "{{track}}",
                    '(sum by (track) (rate(voice_sessions_total{outcome="error"}[5m]))'
                    " or 0 * sum by (track) (rate(voice_sessions_total[5m])))"
                    " / (sum by (track) (rate(voice_sessions_total[5m])) > 0)",
                ),
            ),
            "percentunit",
        ),
        _Panel(
            "p95 by track",
            (
                (
                    "{{track}}",
                    "histogram_quantile(0.95, sum by (le, track) "
                    "(rate(http_request_duration_highr_seconds_bucket[5m])))",
                ),
            ),
            "s",
        ),
        _Panel("Releases", (("{{release}} {{track}}", "count by (release, track) (up)"),)),
    ),
}


def dashboards() -> dict[str, dict[str, Any]]:
    """The four dashboards by name."""
    return {name: _board(name, panels) for name, panels in _BOARDS.items()}


def _board(name: str, panels: tuple[_Panel, ...]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "uid": f"voice-{name}",
        "title": f"Voice Assistant: {name}",
        "tags": ["voice-assistant"],
        "schemaVersion": 39,
        "editable": False,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": [
            {
                "id": number + 1,
                "type": "timeseries",
                "title": panel.title,
                "datasource": source,
                "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "targets": [
                    {
                        "refId": chr(65 + index),
                        "expr": expression,
                        "legendFormat": legend,
                        "datasource": source,
                    }
                    for index, (legend, expression) in enumerate(panel.queries)
                ],
            }
            for number, panel in enumerate(panels)
        ],
    }

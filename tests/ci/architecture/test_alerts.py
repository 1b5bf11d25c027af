"""The six alert rules: each proved by promtool on series that must and must not fire it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.architecture import model
from ci.architecture.alerts import alerts, prometheus_rule, rule_file
from ci.architecture.cost import what_if
from ci.architecture.dashboards import dashboards

PROD = model.read("prod").architecture
PROMTOOL = shutil.which("promtool")


def test_there_are_the_six_rules_of_the_architecture() -> None:
    assert [alert.name for alert in alerts(PROD)] == [
        "HighErrorRate",
        "HighLatency",
        "PodRestarts",
        "NodeUsage",
        "DatabaseConnections",
        "LiveKitRoomErrors",
    ]
    assert all(alert.action for alert in alerts(PROD)), "each says what to do"


def test_limits_come_from_the_files() -> None:
    changed = what_if(model.read("prod"), ["alerts.error_rate=7%", "alerts.pod_restarts=9"]).architecture
    expressions = {alert.name: alert.expression for alert in alerts(changed)}
    assert expressions["HighErrorRate"].endswith("> 0.07")
    assert expressions["PodRestarts"].endswith("> 9")


def test_the_prometheus_rule_holds_the_same_rules() -> None:
    assert prometheus_rule(PROD)["spec"] == rule_file(PROD)


# rule -> series that must fire it, and series that must not. `a+bxn` is promtool's: start, step, how often.
SERIES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "HighErrorRate": (
        {
            'http_requests_total{job="api",status="2xx"}': "0+90x30",
            'http_requests_total{job="api",status="5xx"}': "0+10x30",
        },
        {
            'http_requests_total{job="api",status="2xx"}': "0+96x30",
            'http_requests_total{job="api",status="5xx"}': "0+4x30",
        },
    ),
    "HighLatency": (
        {
            'http_request_duration_highr_seconds_bucket{job="api",le="1.5"}': "0+50x30",
            'http_request_duration_highr_seconds_bucket{job="api",le="2"}': "0+60x30",
            'http_request_duration_highr_seconds_bucket{job="api",le="5"}': "0+100x30",
            'http_request_duration_highr_seconds_bucket{job="api",le="+Inf"}': "0+100x30",
        },
        {
            'http_request_duration_highr_seconds_bucket{job="api",le="1.5"}': "0+99x30",
            'http_request_duration_highr_seconds_bucket{job="api",le="2"}': "0+99x30",
            'http_request_duration_highr_seconds_bucket{job="api",le="5"}': "0+100x30",
            'http_request_duration_highr_seconds_bucket{job="api",le="+Inf"}': "0+100x30",
        },
    ),
    "PodRestarts": (
        {'kube_pod_container_status_restarts_total{namespace="voice",pod="a"}': "0+1x30"},
        {
            'kube_pod_container_status_restarts_total{namespace="voice",pod="a"}': "0+0x10 1+0x20",
            'kube_pod_container_status_restarts_total{namespace="other",pod="a"}': "0+9x30",
        },
    ),
    "NodeUsage": (
        {'node_cpu_seconds_total{instance="n",cpu="0",mode="idle"}': "0+6x30"},
        {
            'node_cpu_seconds_total{instance="n",cpu="0",mode="idle"}': "0+30x30",
            'node_memory_MemAvailable_bytes{instance="n"}': "50+0x30",
            'node_memory_MemTotal_bytes{instance="n"}': "100+0x30",
        },
    ),
    "DatabaseConnections": (
        {
            'pg_stat_activity_count{server="s",state="active"}': "80+0x30",
            'pg_stat_activity_count{server="s",state="idle"}': "10+0x30",
            'pg_settings_max_connections{server="s"}': "100+0x30",
        },
        {
            'pg_stat_activity_count{server="s",state="active"}': "70+0x30",
            'pg_settings_max_connections{server="s"}': "100+0x30",
        },
    ),
    "LiveKitRoomErrors": (
        {
            'livekit_node_service_operation{status="ok"}': "0+97x30",
            'livekit_node_service_operation{status="error"}': "0+3x30",
        },
        {'livekit_node_service_operation{status="ok"}': "0+100x30"},
    ),
}
JOINS = {
    'livekit_participant_join_total{state="active"}': "0+90x30",
    'livekit_participant_join_total{state="rtc_failure"}': "0+10x30",
}
MEMORY = {
    'node_memory_MemAvailable_bytes{instance="n"}': "10+0x30",
    'node_memory_MemTotal_bytes{instance="n"}': "100+0x30",
}


def test_every_rule_has_series() -> None:
    assert set(SERIES) == {alert.name for alert in alerts(PROD)}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's prometheus) is not installed")
@pytest.mark.parametrize(
    ("rule", "series", "fires"),
    [
        *((rule, must, True) for rule, (must, _) in SERIES.items()),
        *((rule, must_not, False) for rule, (_, must_not) in SERIES.items()),
        *((rule, {}, False) for rule in SERIES),
        ("LiveKitRoomErrors", JOINS, True),
        ("NodeUsage", MEMORY, True),
    ],
)
def test_promtool_fires_it_exactly_when_it_must(
    tmp_path: Path, rule: str, series: dict[str, str], fires: bool
) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule_file(PROD)))
    # A query, not an alert list: `ALERTS` counts what fires, whatever labels and annotations it has.
    sample = [{"labels": "{}", "value": 1}] if fires else []
    test: dict[str, Any] = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'group(ALERTS{{alertname="{rule}",alertstate="firing"}})',
                        "eval_time": "25m",
                        "exp_samples": sample,
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's prometheus) is not installed")
def test_promtool_parses_every_rule_and_every_panel(tmp_path: Path) -> None:
    panels = [
        target["expr"]
        for board in dashboards().values()
        for panel in board["panels"]
        for target in panel["targets"]
    ]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(panels)]
    found = rule_file(PROD)
    found["groups"].append({"name": "panels", "rules": rules})
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(found))
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboards_cover_what_they_must() -> None:
    boards = dashboards()
    assert set(boards) == {"api", "agents", "livekit", "promotion"}
    for board in boards.values():
        spots = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(spots)) == len(spots), "no panel on top of another"
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])

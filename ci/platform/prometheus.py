"""Prometheus on the host: it scrapes the pods that `discovery` finds once a second."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import yaml

from ci import tools
from ci.platform.daemon import Daemon, answers, as_part
from ci.platform.discovery import targets_file
from ci.platform.instance import Instance
from ci.platform.node import node_folder
from ci.platform.part import Part

__all__ = ["prometheus"]


def prometheus(place: Instance) -> Part:
    """Scrapes pods that ask for it by annotations, the kubelet, LiveKit and the gateway."""
    folder = place.folder / "prometheus"

    def daemon() -> Daemon:
        config = place.folder / "prometheus.yaml"
        return Daemon(
            name="prometheus",
            argv=(
                str(tools.path("prometheus")),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder}",
                "--storage.tsdb.retention.time=6h",
                "--storage.tsdb.retention.size=512MB",
                f"--web.listen-address=127.0.0.1:{place.prometheus}",
                "--log.level=warn",
            ),
            check=answers(f"http://127.0.0.1:{place.prometheus}/-/ready"),
            files={config: yaml.safe_dump(_config(place, node_folder(place, place.cluster)))},
            ports=(place.prometheus,),
        )

    process = as_part(place, daemon, name="prometheus", tools=("prometheus",))

    async def down() -> None:
        await process.down()
        if folder.exists():
            await asyncio.to_thread(shutil.rmtree, folder)

    return Part(
        name="prometheus",
        up=process.up,
        status=process.status,
        down=down,
        tools=process.tools,
    )


def _config(place: Instance, home: Path) -> dict[str, Any]:
    pods = {
        "job_name": "pods",
        "scrape_interval": "1s",
        "scrape_timeout": "900ms",
        "file_sd_configs": [{"files": [str(targets_file(place))]}],
    }
    kubelet = {
        "scheme": "https",
        "scrape_interval": "5s",
        "tls_config": {
            "cert_file": str(home / "pki" / "apiserver-kubelet-client.crt"),
            "key_file": str(home / "pki" / "apiserver-kubelet-client.key"),
            # The kubelet signs its own certificate.
            "insecure_skip_verify": True,
        },
        "static_configs": [{"targets": [f"{place.cluster.node_ip}:10250"]}],
    }
    cadvisor = (
        "container_(oom_events_total|start_time_seconds|memory_working_set_bytes|cpu_usage_seconds_total)"
    )
    return {
        "global": {"scrape_interval": "5s", "scrape_timeout": "4s", "evaluation_interval": "5s"},
        "scrape_configs": [
            pods,
            {"job_name": "kubelet", "metrics_path": "/metrics/resource", **kubelet},
            {
                "job_name": "cadvisor",
                "metrics_path": "/metrics/cadvisor",
                "metric_relabel_configs": [
                    {"source_labels": ["__name__"], "regex": cadvisor, "action": "keep"},
                    {"source_labels": ["namespace"], "regex": ".+", "action": "keep"},
                ],
                **kubelet,
            },
            {
                "job_name": "livekit",
                "static_configs": [{"targets": [f"127.0.0.1:{place.livekit_metrics}"]}],
            },
            {"job_name": "gateway", "static_configs": [{"targets": [f"127.0.0.1:{place.gateway_admin}"]}]},
        ],
    }

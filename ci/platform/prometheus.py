"""Prometheus, where the gateway is: it scrapes the pods that `discovery` finds once a second."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from typing import Any

import yaml

from ci import tools
from ci.platform.daemon import Daemon, answers, as_part
from ci.platform.discovery import targets_file
from ci.platform.instance import Instance, Region
from ci.platform.node import enter, node_folder
from ci.platform.part import Part

__all__ = ["prometheus"]


def prometheus(place: Instance, region: Region) -> Part:
    """Scrapes pods that ask for it by annotations, the kubelet, LiveKit and the gateway."""
    name, address = place.named(region, "prometheus"), place.serving(region)
    home = node_folder(place, region) if place.apart else place.folder
    folder = home / "prometheus"

    def daemon() -> Daemon:
        config = home / "prometheus.yaml"
        return Daemon(
            name=name,
            argv=(
                str(tools.path("prometheus")),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder}",
                "--storage.tsdb.retention.time=6h",
                "--storage.tsdb.retention.size=512MB",
                f"--web.listen-address={address}:{place.prometheus}",
                "--log.level=warn",
            ),
            check=answers(f"http://{address}:{place.prometheus}/-/ready"),
            files={config: yaml.safe_dump(_config(place, region))},
            ports=() if place.apart else (place.prometheus,),
            enter=lambda: enter(place, region) if place.apart else (),
        )

    needs = (f"{region.node} namespaces",) if place.apart else ()
    process = as_part(place, daemon, name=name, needs=needs, tools=("prometheus",))

    async def down() -> None:
        await process.down()
        if folder.exists():
            await asyncio.to_thread(shutil.rmtree, folder)

    return replace(process, down=down)


def _config(place: Instance, region: Region) -> dict[str, Any]:
    pki = node_folder(place, region) / "pki"
    pods = {
        "job_name": "pods",
        "scrape_interval": "1s",
        "scrape_timeout": "900ms",
        "file_sd_configs": [{"files": [str(targets_file(place, region))]}],
    }
    kubelet = {
        "scheme": "https",
        "scrape_interval": "5s",
        "tls_config": {
            "cert_file": str(pki / "apiserver-kubelet-client.crt"),
            "key_file": str(pki / "apiserver-kubelet-client.key"),
            # The kubelet signs its own certificate.
            "insecure_skip_verify": True,
        },
        "static_configs": [{"targets": [f"{region.node_ip}:10250"]}],
    }
    livekit = region.host_ip if place.apart else "127.0.0.1"
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
            # There is one for all, beside the first.
            *([_one("livekit", f"{livekit}:{place.livekit_metrics}")] if region == place.cluster else []),
            _one("gateway", f"{place.serving(region)}:{place.gateway_admin}"),
        ],
    }


def _one(name: str, address: str) -> dict[str, Any]:
    return {"job_name": name, "static_configs": [{"targets": [address]}]}

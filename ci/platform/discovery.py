"""Tells Prometheus which pods to scrape: follows the cluster's pods and writes them as a file_sd file.

Debian's Prometheus is built without its Kubernetes discovery. Run as
`python -m ci.platform.discovery KUBECONFIG FILE`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from ci import places
from ci.platform.cluster import client
from ci.platform.daemon import Daemon, as_part
from ci.platform.instance import Instance, Region
from ci.platform.node import enter, node_folder
from ci.platform.part import Part

__all__ = ["discovery", "targets", "targets_file"]

_LABELS = {"app": "app.kubernetes.io/name", "track": "va.dev/track", "release": "va.dev/release"}


def discovery(place: Instance, region: Region) -> Part:
    """The process that keeps `targets_file` as the region's cluster is."""
    name, file = place.named(region, "discovery"), targets_file(place, region)
    kubeconfig = node_folder(place, region) / "kubernetes" / "discovery.conf"

    async def check() -> str:
        return "" if file.exists() else "no pods read yet"

    def daemon() -> Daemon:
        return Daemon(
            name=name,
            argv=(sys.executable, "-m", "ci.platform.discovery", str(kubeconfig), str(file)),
            env={"PYTHONPATH": str(places.checkout())},
            check=check,
            enter=lambda: enter(place, region) if place.apart else (),
        )

    return as_part(place, daemon, name=name, needs=(f"{region.node} objects",))


def targets_file(place: Instance, region: Region) -> Path:
    """What Prometheus reads; it sees a change at once."""
    return node_folder(place, region) / "pods.json"


def targets(pods: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The file's content: each running pod that asks to be scraped by prometheus.io/ annotations."""
    found = []
    for pod in pods:
        meta, status = pod["metadata"], pod.get("status", {})
        asks = meta.get("annotations", {})
        port = asks.get("prometheus.io/port")
        if asks.get("prometheus.io/scrape") != "true" or not port:
            continue
        # One that is ending is scraped to its last breath: its last requests count too.
        if status.get("phase") != "Running" or not status.get("podIP"):
            continue
        labels = {"namespace": meta["namespace"], "pod": meta["name"]}
        for label, source in _LABELS.items():
            if value := meta.get("labels", {}).get(source):
                labels[label] = value
        labels["__metrics_path__"] = asks.get("prometheus.io/path", "/metrics")
        found.append({"targets": [f"{status['podIP']}:{port}"], "labels": labels})
    return sorted(found, key=lambda target: (target["labels"]["namespace"], target["labels"]["pod"]))


async def _follow(kubeconfig: Path, file: Path) -> None:
    while True:
        # A cluster that restarts, a watch that ends: read everything again.
        with suppress(OSError, httpx.HTTPError, KeyError, ValueError):
            async with client(kubeconfig) as api:
                await _until_it_ends(api, file)
        await asyncio.sleep(0.5)


async def _until_it_ends(api: httpx.AsyncClient, file: Path) -> None:
    listing = (await api.get("/api/v1/pods")).raise_for_status().json()
    pods = {pod["metadata"]["uid"]: pod for pod in listing["items"] or []}
    _write(file, targets(pods.values()))
    watch = {
        "watch": "true",
        "resourceVersion": listing["metadata"]["resourceVersion"],
        "timeoutSeconds": "240",
    }
    async with api.stream("GET", "/api/v1/pods", params=watch, timeout=300) as events:
        async for line in events.aiter_lines():
            event = json.loads(line)
            pod = event["object"]
            if event["type"] == "DELETED":
                pods.pop(pod["metadata"]["uid"], None)
            elif event["type"] in ("ADDED", "MODIFIED"):
                pods[pod["metadata"]["uid"]] = pod
            else:
                return
            _write(file, targets(pods.values()))


def _write(file: Path, content: list[dict[str, Any]]) -> None:
    text = json.dumps(content, indent=1)
    if file.exists() and file.read_text() == text:
        return
    # Prometheus must never read half a file.
    draft = file.with_suffix(".new")
    draft.write_text(text)
    draft.replace(file)


if __name__ == "__main__":
    asyncio.run(_follow(Path(sys.argv[1]), Path(sys.argv[2])))

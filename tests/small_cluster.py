"""A cluster without a machine under it: real API server, controllers and Helm; pods are only said to run.

Deployments, ReplicaSets, EndpointSlices and the fence are Kubernetes' own. What stands in: the node, which
calls each pod ready (`Nodes`), and what is reached over the network: a gateway that splits requests by the
weights of the HTTPRoutes among the pods that are ready, and a Prometheus that counts what it answered
(`Gateway`). A release fails every n-th session, as a test says.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import ssl
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from api_server import TOKEN, ApiServer, api_server

from ci.delivery.fence import policy
from ci.delivery.lease import NAME

__all__ = ["SmallCluster", "small_cluster"]

_CONTROLLERS = "deployment,replicaset,endpointslice,garbage-collector-controller,namespace-controller"
_EVERY = 0.15


@dataclass
class SmallCluster:
    """The whole of it; a test breaks its parts."""

    server: ApiServer
    gateway: str = ""
    """Its URL, and Prometheus's."""
    nodes_down: bool = False
    """No pod gets ready meanwhile."""
    pulls_fail: bool = False
    """No image of a new pod is to be had meanwhile."""
    prometheus_down: bool = False
    fails_every: dict[str, int] = field(default_factory=dict)
    """By release: each n-th session fails."""
    weights: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By hostname: its namespace, and percent to the canary."""
    ready: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    """By namespace and track: name and release of the api's pods that are ready."""
    sessions: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    """By namespace, track, pod and outcome."""
    turn: Iterator[int] = field(default_factory=itertools.count)

    def answers(self, host: str) -> tuple[str, str, str, str] | None:
        """Namespace, track, pod and its release of the next request; None when nobody is there."""
        number = next(self.turn)
        namespace, weight = self.weights.get(host, ("", 0))
        # 37 has no common divisor with 100: every 100 requests are split exactly, and well mixed.
        track = "canary" if number * 37 % 100 < weight else "stable"
        pods = self.ready.get((namespace, track))
        return (namespace, track, *pods[number % len(pods)]) if pods else None

    def samples(self, query: str) -> list[dict[str, Any]]:
        """What Prometheus answers."""
        now = time.time()
        if "vector(1)" in query:
            return [{"metric": {}, "value": [now, "1"]}]
        namespace = re.search(r'namespace="([^"]*)"', query)
        rows: list[tuple[dict[str, str], float]] = []
        for (space, track), pods in self.ready.items():
            if namespace is None or space != namespace[1] or "sum" in query:
                continue
            for pod, _ in pods:
                labels = {"pod": pod, "track": track, "namespace": space}
                if query.startswith("up{"):
                    rows.append((labels, 1.0))
                elif query.startswith("timestamp"):
                    rows.append((labels, now))
                else:
                    rows += self._counted(labels)
        return [{"metric": labels, "value": [now, str(value)]} for labels, value in rows]

    def _counted(self, labels: dict[str, str]) -> Iterator[tuple[dict[str, str], float]]:
        counts = {
            one: self.sessions[labels["namespace"], labels["track"], labels["pod"], one]
            for one in ("ok", "error")
        }
        for outcome, count in counts.items():
            yield labels | {"__name__": "voice_sessions_total", "outcome": outcome}, count
        for bound in ("0.5", "1.0", "+Inf"):
            bucket = {"__name__": "voice_session_duration_seconds_bucket", "le": bound}
            yield labels | bucket, sum(counts.values())


@contextlib.contextmanager
def small_cluster(folder: Path) -> Iterator[SmallCluster]:
    """One while this lasts, with the fence's policy."""
    with api_server(folder, controllers=_CONTROLLERS) as server:
        server.kubectl("apply", "-f", "-", stdin=list(policy(NAME)))
        small = SmallCluster(server)
        web = _Web(("127.0.0.1", 0), _handler(small))
        small.gateway = f"http://127.0.0.1:{web.server_address[1]}"
        over = threading.Event()
        threads = [
            threading.Thread(target=web.serve_forever, daemon=True),
            threading.Thread(target=_nodes, args=(small, folder, over), daemon=True),
        ]
        for one in threads:
            one.start()
        try:
            yield small
        finally:
            over.set()
            web.shutdown()
            for one in threads:
                one.join(20)
            web.server_close()


def _nodes(small: SmallCluster, folder: Path, over: threading.Event) -> None:
    """Call pods ready, and look at the routes, until it is over; an API server that is away is waited for."""
    trust = ssl.create_default_context(cafile=str(folder / "certificates/apiserver.crt"))
    with httpx.Client(
        base_url=small.server.url, headers={"Authorization": f"Bearer {TOKEN}"}, verify=trust, timeout=10
    ) as api:
        while not over.wait(_EVERY):
            with contextlib.suppress(httpx.HTTPError):
                pods = api.get("/api/v1/pods").raise_for_status().json()["items"]
                for pod in pods:
                    _tend(api, pod, small)
                routes = api.get("/apis/gateway.networking.k8s.io/v1/httproutes").raise_for_status().json()
                small.ready = _ready(pods)
                small.weights = dict(weight for route in routes["items"] for weight in _weights(route))


def _tend(api: httpx.Client, pod: dict[str, Any], small: SmallCluster) -> None:
    meta, now = pod["metadata"], (pod.get("status") or {}).get("conditions") or []
    if "deletionTimestamp" in meta or any(one["type"] == "Ready" and one["status"] == "True" for one in now):
        return
    if small.nodes_down or (pod.get("status") or {}).get("phase") == "Succeeded":
        return
    once = pod["spec"].get("restartPolicy") == "Never"  # a test of the chart: it finds all well
    ready = not small.pulls_fail
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "the registry does not answer"}}
    told = [
        {
            "name": one["name"], "image": one["image"], "imageID": one["image"] if ready else "",
            "ready": ready, "restartCount": 0,
            "state": ({"terminated": {"exitCode": 0}} if once else {"running": {}}) if ready else waiting,
        }
        for one in pod["spec"]["containers"]
    ]  # fmt: skip
    said = "True" if ready and not once else "False"
    conditions = [{"type": one, "status": said} for one in ("Ready", "ContainersReady")]
    phase = ("Succeeded" if once else "Running") if ready else "Pending"
    status = {"phase": phase, "conditions": conditions, "podIP": "10.9.9.9",
              "podIPs": [{"ip": "10.9.9.9"}], "containerStatuses": told}  # fmt: skip
    api.patch(
        f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status",
        content=json.dumps({"status": status}),
        headers={"Content-Type": "application/strategic-merge-patch+json"},
    )


def _ready(pods: list[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for pod in pods:
        meta = pod["metadata"]
        labels, now = meta.get("labels") or {}, (pod.get("status") or {}).get("conditions") or []
        well = any(one["type"] == "Ready" and one["status"] == "True" for one in now)
        if well and "deletionTimestamp" not in meta and labels.get("app.kubernetes.io/name") == "api":
            of = (meta["namespace"], labels.get("va.dev/track", ""))
            found.setdefault(of, []).append((meta["name"], labels.get("va.dev/release", "")))
    return found


def _weights(route: dict[str, Any]) -> Iterator[tuple[str, tuple[str, int]]]:
    backends = route["spec"]["rules"][0]["backendRefs"]
    weight = next((one["weight"] for one in backends if "canary" in one["name"]), 0)
    for hostname in route["spec"].get("hostnames") or ():
        yield hostname, (route["metadata"]["namespace"], weight)


class _Web(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Whoever asked was killed."""


def _handler(small: SmallCluster) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, status: int, body: object = None, track: str = "") -> None:
            content = b"" if status == 204 else json.dumps(body).encode()
            self.send_response(status)
            if track:
                self.send_header("x-va-track", track)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _any(self) -> None:
            given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path.startswith("/api/v1/query"):
                if small.prometheus_down:
                    self._answer(503, {"status": "error", "error": "it is away"})
                    return
                query = urllib.parse.parse_qs(given.decode())["query"][0]
                self._answer(200, {"status": "success", "data": {"result": small.samples(query)}})
                return
            chosen = small.answers(self.headers.get("Host", ""))
            if chosen is None:
                self._answer(503)
                return
            namespace, track, pod, release = chosen
            if self.command != "POST":
                self._answer(200 if self.command == "GET" else 204, {}, track)
                return
            every = small.fails_every.get(release, 0)
            before = sum(small.sessions[namespace, track, pod, one] for one in ("ok", "error"))
            failed = every > 0 and before % every == 0
            small.sessions[namespace, track, pod, "error" if failed else "ok"] += 1
            self._answer(500 if failed else 201, {"session_id": "s"}, track)

        do_GET = do_POST = do_DELETE = _any  # noqa: N815

    return Handler

from __future__ import annotations

import copy
import http.client
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from test_decide import NAMES, RENEWED, lease, route
from voice_guard.__main__ import Guard, main, run
from voice_guard.kubernetes import Api, Refused, Unreachable

BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


class Cluster:
    """A namespace in memory."""

    def __init__(self) -> None:
        self.now = RENEWED
        self.stored: dict[str, Any] | None = route(("voice-api", 75), ("voice-canary-api", 25))
        self.held: dict[str, Any] | None = lease()
        self.endpoints = 1
        self.records: list[dict[str, str]] = []
        self.refuses: set[str] = set()

    def route(self, name: str) -> dict[str, Any] | None:
        self._may("route")
        return copy.deepcopy(self.stored)

    def write_route(self, route: dict[str, Any]) -> None:
        self._may("write")
        self.stored = route

    def lease(self, name: str) -> dict[str, Any] | None:
        return self.held

    def ready(self, service: str) -> int:
        return self.endpoints

    def record(self, name: str, data: dict[str, str]) -> None:
        self._may("record")
        self.records.append(data)

    def _may(self, what: str) -> None:
        if what in self.refuses:
            raise Refused(409, "the object has been modified")


class Clock:
    def __init__(self, cluster: Cluster) -> None:
        self.at, self.cluster = 0.0, cluster

    def __call__(self) -> float:
        return self.at

    def on(self, seconds: float) -> None:
        self.at += seconds
        self.cluster.now += seconds


def test_traffic_moves_once_and_the_record_says_why() -> None:
    cluster = Cluster()
    clock = Clock(cluster)
    guard = Guard(cluster, NAMES, release="r2", clock=clock)
    for _ in range(12):
        assert guard.look() == 25
        clock.on(1)
    assert [guard.look(), guard.look()] == [0, 0]
    assert cluster.stored == {
        "metadata": {"name": "voice", "annotations": {"va.dev/fence": "3"}},
        "spec": {"rules": [{"backendRefs": [{"name": "voice-api", "port": 80, "weight": 100}]}]},
    }
    (said,) = cluster.records
    assert (said["weight"], said["fence"], said["release"]) == ("25", "3", "r2")
    assert said["why"] == "anna has not renewed its lease for 12 s" and said["time"].endswith("+00:00")


def test_a_write_that_lost_a_race_is_tried_again_and_a_record_that_failed_is_made_up_for() -> None:
    cluster = Cluster()
    clock = Clock(cluster)
    guard = Guard(cluster, NAMES, clock=clock)
    guard.look()
    clock.on(20)
    cluster.refuses = {"write"}
    with pytest.raises(Refused):
        guard.look()
    cluster.refuses = {"record"}
    with pytest.raises(Refused):
        guard.look()
    assert cluster.records == [] and cluster.stored != route(("voice-api", 75), ("voice-canary-api", 25))
    cluster.refuses = set()
    assert guard.look() == 0 and len(cluster.records) == 1


def test_without_a_route_there_is_nothing_to_guard() -> None:
    cluster = Cluster()
    cluster.stored = None
    assert Guard(cluster, NAMES).look() == 0


def test_told_to_stop_it_stays_while_the_canary_has_traffic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster()
    looks: list[int] = []

    class Counting(Guard):
        def look(self) -> int:
            looks.append(super().look())
            if len(looks) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if len(looks) == 3:
                cluster.endpoints = 0  # the canary is removed with the guard
            return looks[-1]

    clock = Clock(cluster)
    monkeypatch.setattr("voice_guard.__main__.time.sleep", lambda _: clock.on(1))
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        run(Counting(cluster, NAMES, clock=clock), tmp_path / "alive", tmp_path / "ready")
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert looks[-1] == 0 and 5 <= len(looks) < 9
    assert (tmp_path / "alive").exists() and (tmp_path / "ready").exists()
    assert cluster.records[0]["why"] == "no pod of voice-canary-api is ready"


class Server(http.server.BaseHTTPRequestHandler):
    """An API server, without TLS."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, str, str, Any]]] = []
    answers: ClassVar[dict[str, tuple[int, Any]]] = {}

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        sent = json.loads(body) if body else None
        self.asked.append((self.command, self.path, self.headers["Authorization"], sent))
        code, found = self.answers.get(self.path, (404, {"message": "not found"}))
        content = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_PATCH = _answer  # noqa: N815  # http.server's own names

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "namespace").write_text("va-prod\n")
    (tmp_path / "token").write_text("one\n")
    shutil.copy(BUNDLE, tmp_path / "ca.crt")
    return tmp_path


@pytest.fixture
def api(account: Path) -> Iterator[Api]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        Server.asked, Server.answers = [], {}
        made = Api("127.0.0.1", server.server_port, account=account)
        made._connection = http.client.HTTPConnection("127.0.0.1", server.server_port)  # type: ignore[assignment]
        yield made
        made._connection.close()
        server.shutdown()
        thread.join()


LEASES = "/apis/coordination.k8s.io/v1/namespaces/va-prod/leases"
ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/va-prod/httproutes"
SLICES = (
    "/apis/discovery.k8s.io/v1/namespaces/va-prod/endpointslices"
    "?labelSelector=kubernetes.io/service-name%3Dvoice-canary-api"
)


def test_only_ready_endpoints_count(api: Api) -> None:
    ends = [
        {"conditions": {"ready": True}},
        {"conditions": {"ready": False}},
        {},
        {"conditions": {"ready": None}},
    ]
    Server.answers[SLICES] = (200, {"items": [{"endpoints": ends}, {"endpoints": None}]})
    assert api.ready("voice-canary-api") == 3


def test_what_is_not_there_is_none_and_what_is_refused_is_said(api: Api) -> None:
    assert api.route("voice") is None and api.lease("va-promotion") is None
    Server.answers[f"{LEASES}/va-promotion"] = (403, {"message": "forbidden"})
    with pytest.raises(Refused, match="403: forbidden"):
        api.lease("va-promotion")
    Server.answers[f"{ROUTES}/voice"] = (200, b"<html>")
    with pytest.raises(Unreachable):
        api.route("voice")


def test_the_token_is_read_anew_and_the_clusters_time_is_taken(api: Api, account: Path) -> None:
    Server.answers[f"{LEASES}/va-promotion"] = (200, lease())
    api.lease("va-promotion")
    (account / "token").write_text("two")
    assert api.lease("va-promotion") == lease()
    assert [asked[2] for asked in Server.asked] == ["Bearer one", "Bearer two"]
    assert api.now > 1_700_000_000


def test_it_writes_a_route_and_a_record_and_nothing_else(api: Api) -> None:
    Server.answers[f"{ROUTES}/voice"] = (200, {})
    Server.answers["/api/v1/namespaces/va-prod/configmaps/va-guard"] = (200, {})
    api.write_route(route())
    api.record("va-guard", {"why": "w"})
    assert [asked[0] for asked in Server.asked] == ["PUT", "PATCH"]
    assert Server.asked[1][3] == {"data": {"why": "w"}}


def test_outside_of_a_cluster_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main() == 2
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    assert main() == 2  # no account is mounted
    assert "not set" in (said := capsys.readouterr().err) and "not mounted" in said


def test_it_takes_less_than_30_mebibytes() -> None:
    """With its modules, and a TLS context with all of Debian's authorities instead of one."""
    script = (
        "import pathlib, ssl\nimport voice_guard.__main__\n"
        f"context = ssl.create_default_context(cafile={str(BUNDLE)!r})\n"
        "print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    source = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=source, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 30 * 1024

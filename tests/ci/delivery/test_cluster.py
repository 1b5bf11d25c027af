from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from listening import listening

from ci.delivery import cluster
from ci.errors import BadInput, SystemUnavailable

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:%d"}}]
users: [{name: u, user: {}}]
contexts: [{name: va-eastus, context: {cluster: c, user: u}}]
current-context: va-eastus
"""


def pod(**status: object) -> dict[str, object]:
    return {
        "metadata": {
            "name": "voice-api-1",
            "labels": {
                "app.kubernetes.io/name": "voice-api",
                "va.dev/track": "canary",
                "va.dev/release": "r2",
            },
        },
        "spec": {"containers": [{"resources": {"limits": {"memory": "256Mi"}}}]},
        "status": status,
    }


def test_a_ready_pod() -> None:
    made = cluster.understood_pod(
        pod(
            conditions=[{"type": "Ready", "status": "True"}],
            containerStatuses=[{"restartCount": 2, "state": {"running": {}}}],
        )
    )

    assert (made.app, made.track, made.release) == ("voice-api", "canary", "r2")
    assert (made.ready, made.leaving, made.restarts, made.trouble) == (True, False, 2, "")
    assert made.memory_limit == 256 * 2**20


@pytest.mark.parametrize(
    ("limits", "bytes"),
    [
        (["1503238553600m"], 1503238553.6),
        (["0.5Gi", "1e8"], 2**29 + 1e8),
        (["1E", "2Pi"], 1e18 + 2**51),
        (["256Mi", None], None),
        ([], None),
        (["a lot"], None),
    ],
)
def test_a_limit_is_any_quantity_that_an_api_server_stores(
    limits: list[str | None], bytes: float | None
) -> None:
    made = pod(phase="Running")
    made["spec"] = {
        "containers": [{"resources": {"limits": {"memory": one} if one else None}} for one in limits]
    }

    assert cluster.understood_pod(made).memory_limit == bytes


@pytest.mark.parametrize(
    ("phase", "runs", "ended"),
    [
        ("Running", True, False),
        ("Pending", False, False),
        ("Failed", False, True),
        ("Succeeded", False, True),
        ("Unknown", False, False),
        (None, False, False),
    ],
)
def test_a_pod_runs_or_waits_or_has_ended(phase: str | None, runs: bool, ended: bool) -> None:
    made = cluster.understood_pod(pod(**({"phase": phase} if phase else {}), reason="Evicted"))

    assert (made.runs, made.ended) == (runs, ended)


def test_a_pod_that_goes_does_not_run() -> None:
    going = pod(phase="Running")
    going["metadata"]["deletionTimestamp"] = "2026-12-01T10:00:00Z"  # type: ignore[index]

    assert not cluster.understood_pod(going).runs


def test_a_sidecar_counts_and_a_first_step_does_not() -> None:
    made = pod(
        phase="Running",
        containerStatuses=[{"name": "api", "restartCount": 1}],
        initContainerStatuses=[
            {"name": "proxy", "restartCount": 4},
            {"name": "migrate", "restartCount": 9,
             "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}},
        ],
    )  # fmt: skip
    limit = {"resources": {"limits": {"memory": "1Mi"}}}
    made["spec"] = {
        "containers": [{"name": "api", **limit}],
        "initContainers": [{"name": "proxy", "restartPolicy": "Always", **limit}, {"name": "migrate"}],
    }
    seen = cluster.understood_pod(made)

    assert (seen.restarts, seen.memory_limit) == (5, 2 * 2**20)
    assert seen.trouble == "CrashLoopBackOff: back-off"


def test_a_pod_that_does_not_start_says_why() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    made = cluster.understood_pod(pod(containerStatuses=[{"restartCount": 0, "state": waiting}]))

    assert (made.ready, made.trouble) == (False, "ImagePullBackOff: no such image")


@pytest.mark.parametrize("each", [None, "1Gi"])
def test_a_limit_of_the_pod_itself_is_the_one_that_holds(each: str | None) -> None:
    made = pod(phase="Running")
    one = {"name": "api", "resources": {"limits": {"memory": each} if each else None}}
    made["spec"] = {"resources": {"limits": {"memory": "1.5Gi"}}, "containers": [one, {"name": "proxy"}]}

    assert cluster.understood_pod(made).memory_limit == 1.5 * 2**30


def test_a_kill_for_memory_is_seen_after_the_restart_too() -> None:
    killed = {"restartCount": 1, "lastState": {"terminated": {"reason": "OOMKilled"}}}

    assert cluster.understood_pod(pod(containerStatuses=[killed])).out_of_memory


def test_a_pod_that_was_just_made_has_no_status() -> None:
    made = cluster.understood_pod(pod())

    assert (made.ready, made.restarts, made.out_of_memory) == (False, 0, False)


@pytest.mark.parametrize(("limit", "size"), [("1Gi", 2**30), ("500M", 5e8), ("1024", 1024.0), (None, None)])
def test_memory_limits_in_kubernetes_words(limit: str | None, size: float | None) -> None:
    resources = {"resources": {"limits": {"memory": limit}} if limit else {}}

    assert cluster._memory_limit({"containers": [resources]}) == size


def test_a_kubeconfig_or_context_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    with pytest.raises(SystemUnavailable, match="there is no kubeconfig"):
        cluster.connect(file, "va-eastus")
    file.write_text(KUBECONFIG % 1)
    with pytest.raises(BadInput, match="has no context 'va-westus'") as caught:
        cluster.connect(file, "va-westus")
    assert "va-eastus" in caught.value.hint
    file.write_text("not: a kubeconfig")
    with pytest.raises(BadInput, match="is not a usable kubeconfig"):
        cluster.connect(file, "va-eastus")


def test_a_cluster_that_is_down_is_said_so_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "kubeconfig").write_text(KUBECONFIG % port)
    down = cluster.connect(tmp_path / "kubeconfig", "va-eastus")

    with pytest.raises(SystemUnavailable, match="the cluster va-eastus does not answer"):
        asyncio.run(down.pods("ns"))


@dataclass
class Api:
    """An API server that answers as it is told, and keeps what it was asked."""

    url: str = ""
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """By `METHOD path`, its status and what it says: text as it is, all else as JSON."""
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    """`METHOD path?query`, the content's type and the content."""

    def cluster(self, folder: Path) -> cluster.Cluster:
        file = folder / "kubeconfig"
        file.write_text(KUBECONFIG % int(self.url.rpartition(":")[2]))
        return cluster.connect(file, "va-eastus")


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def _any(self) -> None:
            given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(given) if given else None
            made.asked.append((f"{self.command} {self.path}", self.headers.get("Content-Type") or "", body))
            nothing = (404, {"message": f"{self.path} is not there"})
            status, said = made.answers.get(f"{self.command} {self.path.partition('?')[0]}", nothing)
            content = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_PATCH = _any  # noqa: N815

    with listening(Handler) as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made


def test_labels_that_a_namespace_lacks_are_merged_into_it(api: Api, tmp_path: Path) -> None:
    path = "/api/v1/namespaces/va-x"
    there = {"metadata": {"name": "va-x", "labels": {"own": "1"}}}
    api.answers = {f"GET {path}": (200, there), f"PATCH {path}": (200, there)}
    asyncio.run(api.cluster(tmp_path).ensure_namespace("va-x", {"region": "eastus"}))
    _, merged = api.asked
    assert merged[:2] == (f"PATCH {path}", "application/merge-patch+json")
    assert merged[2]["metadata"]["labels"]["region"] == "eastus"
    api.answers[f"GET {path}"] = (200, {"metadata": {"name": "va-x"}, "status": {"phase": "Terminating"}})
    with pytest.raises(SystemUnavailable, match="is being deleted"):
        asyncio.run(api.cluster(tmp_path).ensure_namespace("va-x", {}))


def test_a_namespace_that_is_not_there_is_made_with_its_labels(api: Api, tmp_path: Path) -> None:
    def made() -> tuple[str, str, Any]:
        asyncio.run(api.cluster(tmp_path).ensure_namespace("va-x", {"region": "eastus"}))
        return api.asked[-1]

    api.answers = {"POST /api/v1/namespaces": (201, {"metadata": {"labels": {}}})}
    with pytest.raises(SystemUnavailable, match="is not there"):
        made()  # whoever answers so has not kept the labels
    ((asked, kind, body),) = [one for one in api.asked if one[0].startswith("POST")]
    assert (asked, kind) == ("POST /api/v1/namespaces", "application/json")
    api.answers = {"POST /api/v1/namespaces": (201, body)}
    assert made()[0] == "POST /api/v1/namespaces"
    labels = body["metadata"]["labels"]
    assert labels["region"] == "eastus" and labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize(
    ("has", "written"),
    [
        (None, [("POST /api/v1/namespaces/va-x/secrets", "application/json")]),
        ({"NEW": "b3RoZXI="}, [("PATCH /api/v1/namespaces/va-x/secrets/s", "application/merge-patch+json")]),
        ({"NEW": "dmFsdWU="}, []),
    ],
)
def test_a_secret_is_copied_where_it_is_not_the_same(
    api: Api, tmp_path: Path, has: dict[str, str] | None, written: list[tuple[str, str]]
) -> None:
    api.answers = {
        "GET /api/v1/namespaces/from/secrets/src": (200, {"data": {"old": "dmFsdWU=", "more": "eA=="}}),
        "POST /api/v1/namespaces/va-x/secrets": (201, {}),
        "PATCH /api/v1/namespaces/va-x/secrets/s": (200, {}),
    }
    if has is not None:
        api.answers["GET /api/v1/namespaces/va-x/secrets/s"] = (200, {"data": has})
    copy = api.cluster(tmp_path).ensure_secret_copy
    asyncio.run(copy("s", "va-x", source="src", source_namespace="from", keys={"NEW": "old"}))
    wrote = [one for one in api.asked if not one[0].startswith("GET")]
    assert [one[:2] for one in wrote] == written
    assert all(one[2]["data"] == {"NEW": "dmFsdWU="} for one in wrote)


def test_a_lease_is_made_or_replaced_and_somebody_else_may_be_first(api: Api, tmp_path: Path) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/va-x/leases"
    lease: dict[str, Any] = {"metadata": {"name": "l", "namespace": "va-x"}, "spec": {"holderIdentity": "a"}}
    api.answers = {f"POST {path}": (201, lease), f"PUT {path}/l": (409, {"message": "it was changed"})}
    assert asyncio.run(api.cluster(tmp_path).write_lease(lease)) == lease
    again = {**lease, "metadata": {**lease["metadata"], "resourceVersion": "7"}}
    assert asyncio.run(api.cluster(tmp_path).write_lease(again)) is None
    api.answers[f"PUT {path}/l"] = (403, {"message": "leases are not for you"})
    with pytest.raises(SystemUnavailable, match="leases are not for you") as refused:
        asyncio.run(api.cluster(tmp_path).write_lease(again))
    assert "rights" in refused.value.hint


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [(201, {}, ""), (403, {"message": "the image is not signed"}, "the image is not signed")],
)
def test_whether_a_pod_would_run_is_asked_without_making_one(
    api: Api, tmp_path: Path, status: int, said: object, why: str
) -> None:
    api.answers = {"POST /api/v1/namespaces/va-x/pods": (status, said)}
    assert asyncio.run(api.cluster(tmp_path).refuses("va-x", "r/i@sha256:1")) == why
    ((asked, _, body),) = api.asked
    assert asked.endswith("?dryRun=All") and body["spec"]["containers"][0]["image"] == "r/i@sha256:1"
    api.answers = {"POST /api/v1/namespaces/va-x/pods": (500, {"message": "etcd is away"})}
    with pytest.raises(SystemUnavailable, match="etcd is away"):
        asyncio.run(api.cluster(tmp_path).refuses("va-x", "r/i@sha256:1"))


def test_the_last_words_of_a_container_are_its_log_s(api: Api, tmp_path: Path) -> None:
    path = "/api/v1/namespaces/va-x/pods/p/log"
    api.answers = {f"GET {path}": (200, "first\nno database\n\n")}
    words = api.cluster(tmp_path).last_words
    assert asyncio.run(words("va-x", "p")) == "no database"
    assert api.asked[0][0] == f"GET {path}?tailLines=5&previous=true"
    api.answers = {}
    assert asyncio.run(words("va-x", "p", previous=False)) == ""


def test_why_no_pod_is_made_is_told_by_its_set(api: Api, tmp_path: Path) -> None:
    failed = {"type": "ReplicaFailure", "status": "True", "message": "over the quota"}
    sets = [
        {"metadata": {"name": "voice-api-1"}, "status": {"conditions": [failed]}},
        {"metadata": {"name": "voice-api-0"}, "status": {}},
    ]
    api.answers = {"GET /apis/apps/v1/namespaces/va-x/replicasets": (200, {"items": sets})}
    assert asyncio.run(api.cluster(tmp_path).refusals("va-x")) == {"voice-api-1": "over the quota"}

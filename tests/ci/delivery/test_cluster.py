from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

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

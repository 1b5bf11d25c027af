"""Lease and fence at a real API server, with promoters that are processes of their own, without a platform.

What runs on nodes is left out, but for the guard, which is a process with the rights that the chart gives it;
tests/e2e/test_promote.py has the whole of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from api_server import TOKEN, ApiServer, api_server
from waiting import until

from ci import places, tools
from ci.commands.env import env_fence
from ci.delivery import guard, traffic
from ci.delivery.chart import render
from ci.delivery.cluster import Cluster, connect
from ci.delivery.fence import ANNOTATION, policy
from ci.delivery.lease import LASTS, NAME, Held, LeaseLost, hold, holder
from ci.platform.objects import apply
from ci.reporting import SilentReporter

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SERVICES = {"voice-api": "voice-canary-api"}
ROOT = places.checkout()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("api")) as made:
        made.kubectl("apply", "-f", "-", stdin=list(policy(NAME)))
        # A policy counts from the moment that the API server has heard of it.
        made.kubectl("create", "namespace", "heard")
        made.kubectl("apply", "-f", "-", stdin=_lease("heard", fence=9))
        until(lambda: "denied" in would_apply(made, "heard", 1, "a"), seconds=300, every=0.5)
        yield made


@pytest.fixture
def namespace(server: ApiServer, request: pytest.FixtureRequest) -> str:
    name = f"va-{abs(hash(request.node.name)) % 10**8}"
    server.kubectl("create", "namespace", name)
    return name


@pytest.fixture
def cluster(server: ApiServer) -> Cluster:
    return connect(server.kubeconfig, server.context)


def _meta(name: str, namespace: str, fence: int | None) -> dict[str, Any]:
    carried = {"annotations": {ANNOTATION: str(fence)}} if fence is not None else {}
    return {"name": name, "namespace": namespace, "labels": {"va.dev/track": "stable"}, **carried}


def _lease(namespace: str, fence: int) -> dict[str, Any]:
    meta = {"name": NAME, "namespace": namespace}
    spec = {"leaseTransitions": fence, "holderIdentity": ""}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def _route(namespace: str, fence: int | None = None, weight: int = 0) -> dict[str, Any]:
    backends = [{"name": "voice-api", "port": 80, "weight": 100 - weight}]
    backends += [{"name": "voice-canary-api", "port": 80, "weight": weight}] if weight else []
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": _meta("voice", namespace, fence),
        "spec": {"parentRefs": [{"name": "voice"}], "rules": [{"backendRefs": backends}]},
    }


def _workload(namespace: str, fence: int | None = None, image: str = "a") -> dict[str, Any]:
    labels = {"app": "api"}
    spec = {"containers": [{"name": "api", "image": image}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta("voice-api", namespace, fence),
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def test_a_promoter_that_was_replaced_writes_nothing_whether_or_not_the_new_one_has(
    server: ApiServer, cluster: Cluster, namespace: str
) -> None:
    server.kubectl("apply", "-f", "-", stdin=[_workload(namespace, 3), _route(namespace, 3)])
    server.kubectl("apply", "-f", "-", stdin=_lease(namespace, fence=3))
    move = traffic.set_weight

    async def moved(weight: int, fence: int) -> None:
        await move(cluster, namespace, SERVICES, weight, fence=fence)

    asyncio.run(moved(25, fence=3))
    server.kubectl("apply", "-f", "-", stdin=_lease(namespace, fence=4))
    # The Lease is a copy in the API server's memory: it may be a moment old.
    until(lambda: "denied" in would_apply(server, namespace, 3, "stale"), seconds=60)
    # The new one has written nothing yet; the annotation is the same as what stands there.
    with pytest.raises(
        LeaseLost, match="the fence 3 of this write is older than 4 of the lease va-promotion"
    ):
        asyncio.run(moved(50, fence=3))
    said = apply_image(server, namespace, 3, "x", name="voice-canary-api")
    assert "another promoter has taken over here" in said  # a new object of the old one's
    asyncio.run(moved(0, fence=4))
    assert "configured" in apply_image(server, namespace, 4, "new")
    # What stands on the object is never old, as the Lease may be where it is read.
    server.kubectl("apply", "-f", "-", stdin=_lease(namespace, fence=1))
    until(lambda: "by which it was written last" in would_apply(server, namespace, 3, "again"), seconds=60)
    with pytest.raises(LeaseLost, match="by which it was written last"):
        asyncio.run(moved(25, fence=3))


def apply_image(
    server: ApiServer, namespace: str, fence: int, image: str, *more: str, name: str = "voice-api"
) -> str:
    given = _workload(namespace, fence, image)
    given["metadata"]["name"] = name
    return server.kubectl("apply", "-f", "-", *more, stdin=given, check=False)


def would_apply(server: ApiServer, namespace: str, fence: int, image: str) -> str:
    """The same, and nothing is written: kubectl does not send a second time what is there already."""
    return apply_image(server, namespace, fence, image, "--dry-run=server")


def test_controllers_autoscalers_gateways_and_people_are_let_through(
    server: ApiServer, namespace: str
) -> None:
    server.kubectl("apply", "-f", "-", stdin=[_workload(namespace, 3), _route(namespace, 3)])
    server.kubectl(
        "apply",
        "-f",
        "-",
        stdin=[_workload(namespace) | {"metadata": {"name": "other", "namespace": namespace}}],
    )
    server.kubectl("apply", "-f", "-", stdin=_lease(namespace, fence=4))
    until(lambda: "denied" in would_apply(server, namespace, 3, "stale"), seconds=60)
    on = ("-n", namespace)

    def patch(kind: str, name: str, body: dict[str, Any], *more: str) -> None:
        server.kubectl(*on, "patch", kind, name, "--type=merge", "-p", json.dumps(body), *more)

    # The Deployment controller, a gateway's, an autoscaler.
    patch("deployment", "voice-api", {"status": {"replicas": 1}}, "--subresource=status")
    condition = {
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
        "lastTransitionTime": "2026-11-29T20:15:03Z",
    }  # fmt: skip
    parent = {"controllerName": "e/c", "parentRef": {"name": "voice"}, "conditions": [condition]}
    patch("httproute", "voice", {"status": {"parents": [parent]}}, "--subresource=status")
    server.kubectl(*on, "scale", "deployment", "voice-api", "--replicas=3")
    patch(
        "deployment", "voice-api", {"metadata": {"annotations": {"deployment.kubernetes.io/revision": "2"}}}
    )
    # Somebody else's object, and one of ours from before there was a fence.
    server.kubectl(*on, "set", "image", "deployment/other", "api=c")
    # Whoever takes the lease writes its fence onto what is there; then people change what they like.
    asyncio.run(connect(server.kubeconfig, server.context).stamp(namespace, 4))
    server.kubectl(*on, "set", "image", "deployment/voice-api", "api=c")
    patch("httproute", "voice", {"spec": {"hostnames": ["a.example"]}})
    # Back to what an old manifest says is refused, until somebody switches it off there.
    assert "denied" in apply_image(server, namespace, 3, "old")
    server.kubectl("label", "namespace", namespace, f"{ANNOTATION}=off")
    until(lambda: "configured" in apply_image(server, namespace, 3, "old"), seconds=20)


def test_a_fence_that_is_no_number_is_refused(server: ApiServer, namespace: str) -> None:
    server.kubectl("apply", "-f", "-", stdin=_lease(namespace, fence=4))
    given = _workload(namespace, 4)
    given["metadata"]["annotations"] = {ANNOTATION: "latest"}
    applied = ("apply", "-f", "-", "--dry-run=server")
    until(lambda: "is no number" in server.kubectl(*applied, stdin=given, check=False), seconds=60)


def test_the_policy_that_is_printed_is_the_one(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    env_fence()
    printed = capsys.readouterr().out
    file = server.kubeconfig.parent / "fence.yaml"
    file.write_text(printed)
    get = ("get", "validatingadmissionpolicy", "va-fence", "-o", "json")
    before = json.loads(server.kubectl(*get))["metadata"]["generation"]
    server.kubectl("apply", "-f", str(file))
    checked = json.loads(server.kubectl(*get))
    assert checked["metadata"]["generation"] == before
    assert not (checked.get("status") or {}).get("typeChecking", {}).get("expressionWarnings")


PROMOTER = """\
import asyncio, sys
from pathlib import Path
from ci.delivery import traffic
from ci.delivery.cluster import connect
from ci.delivery.lease import hold
async def main(kubeconfig, namespace, who):
    cluster = connect(Path(kubeconfig), "va-eastus")
    async with hold(cluster, namespace, promotion="p-" + who, who=who) as lease:
        await cluster.stamp(namespace, lease.fence)
        weight = 1
        while True:
            print("writes", weight, flush=True)
            services = {"voice-api": "voice-canary-api"}
            await traffic.set_weight(cluster, namespace, services, weight, fence=lease.fence)
            weight = weight % 50 + 1
asyncio.run(main(*sys.argv[1:]))
"""


def promoter(server: ApiServer, namespace: str, who: str, state: Path) -> subprocess.Popen[str]:
    """One that writes the route without a pause, on a machine (a state folder) of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", PROMOTER, str(server.kubeconfig), namespace, who],
        env={**os.environ, "PYTHONPATH": str(ROOT), "VA_STATE": str(state)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def written(server: ApiServer, namespace: str) -> tuple[str, list[int]]:
    route = json.loads(server.kubectl("-n", namespace, "get", "httproute", "voice", "-o", "json"))
    backends = route["spec"]["rules"][0]["backendRefs"]
    return route["metadata"]["annotations"][ANNOTATION], [one["weight"] for one in backends]


def test_stopped_past_its_end_and_replaced_the_stale_one_writes_nothing(
    server: ApiServer, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    server.kubectl("apply", "-f", "-", stdin=_route(namespace, 0))
    stale = promoter(server, namespace, "anna on build-1", tmp_path / "a")
    try:
        assert stale.stdout is not None
        for _ in range(5):
            assert stale.stdout.readline().startswith("writes")
        with pytest.raises(Held, match="is being worked on by anna on build-1 since"):
            asyncio.run(_taken(cluster, namespace))
        stale.send_signal(signal.SIGSTOP)

        async def take_over() -> tuple[str, list[int]]:
            for _ in range(60):
                there = await holder(cluster, namespace)
                if there is not None and not there.alive:
                    break
                await asyncio.sleep(0.5)
            async with hold(cluster, namespace, promotion="p2", who="bert on build-2") as lease:
                # It has written nothing yet when the other one wakes up in the middle of its work.
                before = await asyncio.to_thread(written, server, namespace)
                stale.send_signal(signal.SIGCONT)
                _, err = await asyncio.to_thread(stale.communicate, timeout=60)
                assert "LeaseLost" in err, err
                lease.check()
                assert lease.fence == 2
                return before

        before = asyncio.run(take_over())
        assert written(server, namespace) == before and before[0] == "1"
    finally:
        stale.kill()
        stale.wait()


async def _taken(cluster: Cluster, namespace: str) -> None:
    async with hold(cluster, namespace, promotion="p2", who="bert on build-2"):
        pass


def test_killed_on_another_machine_its_target_is_free_when_its_lease_is_over(
    server: ApiServer, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    server.kubectl("apply", "-f", "-", stdin=_route(namespace, 0))
    killed = promoter(server, namespace, "anna on build-1", tmp_path / "a")
    assert killed.stdout is not None and killed.stdout.readline()
    killed.kill()
    killed.communicate()
    # On this machine the process is known to be gone, and nobody waits.
    asyncio.run(_taken(cluster, namespace))
    lease = json.loads(server.kubectl("-n", namespace, "get", "lease", NAME, "-o", "json"))
    assert (lease["spec"]["leaseTransitions"], lease["spec"].get("holderIdentity", "")) == (2, "")
    assert lease["spec"]["leaseDurationSeconds"] == LASTS


def test_what_the_guard_wrote_is_read(server: ApiServer, cluster: Cluster, namespace: str) -> None:
    assert asyncio.run(guard.record(cluster, namespace)) is None
    said = {"time": "2026-11-29T20:15:03+00:00", "why": "w", "weight": "25", "fence": "3", "release": "r"}
    map_ = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "va-guard", "namespace": namespace}}
    server.kubectl("apply", "-f", "-", stdin={**map_, "data": said})
    acted = asyncio.run(guard.record(cluster, namespace))
    assert acted is not None and (acted.weight, acted.fence, acted.why) == (25, 3, "w")


def test_stables_least_pods_are_held_while_a_canary_is_there(
    server: ApiServer, cluster: Cluster, namespace: str
) -> None:
    workload = _workload(namespace)
    workload["spec"]["replicas"] = 6
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "voice-api"}
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _meta("voice-api", namespace, None),
        "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 9},
    }
    server.kubectl("apply", "-f", "-", stdin=[workload, scaler])

    def least() -> tuple[int, bool]:
        one = json.loads(server.kubectl("-n", namespace, "get", "hpa", "voice-api", "-o", "json"))
        return one["spec"]["minReplicas"], "va.dev/held" in one["metadata"].get("annotations", {})

    for _ in range(2):  # run again it is the same
        asyncio.run(cluster.hold_scale(namespace, "stable"))
        assert least() == (6, True)
    asyncio.run(cluster.hold_scale(namespace, "canary"))
    asyncio.run(cluster.release_scale(namespace, "stable"))
    assert least() == (2, False)
    # Helm has set it anew meanwhile: its word counts.
    asyncio.run(cluster.hold_scale(namespace, "stable"))
    server.kubectl(
        "-n", namespace, "patch", "hpa", "voice-api", "--type=merge", "-p", '{"spec":{"minReplicas":3}}'
    )
    asyncio.run(cluster.release_scale(namespace, "stable"))
    assert least() == (3, False)


IMAGE = {"repository": "registry.example/x", "digest": f"sha256:{'a' * 64}"}
GUARD = """\
import sys
from pathlib import Path
from voice_guard.__main__ import Guard, run
from voice_guard.decide import Names
from voice_guard.kubernetes import Api
folder = Path(sys.argv[2])
api = Api("127.0.0.1", int(sys.argv[1]), account=folder)
run(Guard(api, Names(), release="r2"), folder / "alive", folder / "ready")
"""
MAY = [
    ("get", "httproutes", "voice"), ("update", "httproutes", "voice"), ("get", "leases", "va-promotion"),
    ("list", "endpointslices", ""), ("patch", "configmaps", "va-guard"),
]  # fmt: skip
MAY_NOT = [
    ("get", "secrets", "voice-livekit"), ("list", "secrets", ""), ("list", "pods", ""),
    ("create", "pods", ""),
    ("update", "leases", "va-promotion"), ("get", "leases", "other"), ("update", "httproutes", "other"),
    ("delete", "httproutes", "voice"), ("patch", "deployments", "voice-api"), ("get", "configmaps", "other"),
    ("delete", "configmaps", "va-guard"), ("get", "configmaps", "kube-root-ca.crt"),
]  # fmt: skip


def rights(server: ApiServer, namespace: str) -> None:
    """What the chart's canary brings for it, without its pod."""
    asyncio.run(tools.ensure(["helm"], SilentReporter()))
    given = {
        "track": "canary",
        "release": "r2",
        "images": {"api": IMAGE, "agent": IMAGE, "guard": IMAGE},
    }
    chart, helm = ROOT / "helm/voice-assistant", tools.path("helm")
    text = asyncio.run(render(chart, given, name="voice-canary", helm=helm, namespace=namespace))
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ConfigMap")
    found = [one for one in yaml.safe_load_all(text) if one and one["kind"] in kinds]
    server.kubectl("apply", "-f", "-", stdin=found)


@contextlib.contextmanager
def guarding(server: ApiServer, namespace: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir()
    token = server.kubectl("-n", namespace, "create", "token", "voice-canary-guard").strip()
    (folder / "token").write_text(token)
    (folder / "namespace").write_text(namespace)
    authority = server.kubeconfig.parent / "certificates/apiserver.crt"
    (folder / "ca.crt").write_bytes(authority.read_bytes())
    source = {"PYTHONPATH": str(ROOT / "images/guard/src")}
    port = server.url.rpartition(":")[2]
    child = subprocess.Popen([sys.executable, "-c", GUARD, port, str(folder)], env={**os.environ, **source})
    try:
        until((folder / "ready").exists, "it never looked", seconds=30)
        yield child
    finally:
        child.kill()
        child.wait()


def endpoints(namespace: str, *, ready: bool) -> dict[str, object]:
    meta = {
        "name": "voice-canary-api-1",
        "namespace": namespace,
        "labels": {"kubernetes.io/service-name": "voice-canary-api"},
    }
    ends = [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]
    head = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4"}
    return {**head, "metadata": meta, "endpoints": ends, "ports": []}


def test_it_may_do_one_thing(server: ApiServer, namespace: str) -> None:
    rights(server, namespace)
    who = f"system:serviceaccount:{namespace}:voice-canary-guard"

    def can(verb: str, kind: str, name: str) -> bool:
        on = f"{kind}/{name}" if name else kind
        asked = ("auth", "can-i", verb, on, "-n", namespace, f"--as={who}")
        return server.kubectl(*asked, check=False).splitlines()[0] == "yes"

    assert [one for one in MAY if not can(*one)] == []
    assert [one for one in MAY_NOT if can(*one)] == []


def test_killed_with_a_share_on_the_canary_stable_has_all_within_twenty_seconds(
    server: ApiServer, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    rights(server, namespace)
    server.kubectl("apply", "-f", "-", stdin=[_workload(namespace, 0), _route(namespace, 0)])
    server.kubectl("apply", "-f", "-", stdin=endpoints(namespace, ready=True))
    promoting = promoter(server, namespace, "anna on build-1", tmp_path / "a")
    try:
        assert promoting.stdout is not None
        with guarding(server, namespace, tmp_path / "guard"):
            for _ in range(10):
                assert promoting.stdout.readline().startswith("writes")
            promoting.kill()
            at = time.monotonic()
            promoting.communicate()
            assert len(written(server, namespace)[1]) == 2
            until(lambda: written(server, namespace)[1] == [100], seconds=60, every=0.2)
            took = time.monotonic() - at
            until(lambda: asyncio.run(guard.record(cluster, namespace)), seconds=10)
        acted = asyncio.run(guard.record(cluster, namespace))
        print(f"all on stable after {took:.1f} s")
        assert took < 20
        assert acted is not None and (acted.fence, acted.release) == (1, "r2")
        assert acted.why.startswith("anna on build-1 has not renewed its lease for 1")
    finally:
        promoting.kill()
        promoting.wait()


def test_an_empty_canary_is_given_nothing_though_its_promoter_is_well(
    server: ApiServer, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    rights(server, namespace)
    server.kubectl("apply", "-f", "-", stdin=_route(namespace, 5, weight=25))
    server.kubectl("apply", "-f", "-", stdin=endpoints(namespace, ready=True))
    server.kubectl("apply", "-f", "-", stdin=_held(namespace))
    with guarding(server, namespace, tmp_path / "guard"):
        time.sleep(3)
        assert written(server, namespace)[1] == [75, 25]
        server.kubectl("apply", "-f", "-", stdin=endpoints(namespace, ready=False))
        at = time.monotonic()
        until(lambda: written(server, namespace)[1] == [100], seconds=60, every=0.2)
        assert time.monotonic() - at < 20
        # Under the fence of now, or the cluster would have refused it.
        assert written(server, namespace)[0] == "6"
        until(lambda: asyncio.run(guard.record(cluster, namespace)), seconds=10)
    acted = asyncio.run(guard.record(cluster, namespace))
    assert acted is not None and (acted.weight, acted.why) == (25, "no pod of voice-canary-api is ready")


def _held(namespace: str) -> dict[str, object]:
    spec = {
        "leaseTransitions": 6, "holderIdentity": "anna on build-1", "leaseDurationSeconds": 12,
        "renewTime": "2999-01-01T00:00:00.000000Z", "acquireTime": "2026-11-29T20:15:00.000000Z",
    }  # fmt: skip
    meta = {"name": "va-promotion", "namespace": namespace}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def test_applied_again_as_the_platform_does_it_changes_nothing(server: ApiServer) -> None:
    trust = ssl.create_default_context(cafile=str(server.kubeconfig.parent / "certificates/apiserver.crt"))
    headers = {"Authorization": f"Bearer {TOKEN}"}

    async def run() -> list[bool]:
        async with httpx.AsyncClient(base_url=server.url, headers=headers, verify=trust, timeout=30) as api:
            return [await apply(api, one) for _ in range(3) for one in policy(NAME)]

    assert asyncio.run(run())[2:] == [False] * 4

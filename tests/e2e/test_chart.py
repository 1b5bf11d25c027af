"""The chart in production form on the embedded platform, as far as a small cluster can have it.

A real API server takes every object that needs no other controller, `restricted` is enforced, `helm test`
passes, and a caller meets an agent in a room of the chart's own LiveKit, over its range of UDP ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from installed_chart import copy_redis_password, routed
from kubernetes import client
from livekit import rtc
from waiting import until

from ci import places, platform, tools
from ci.concurrency import together
from ci.delivery.cluster import Cluster, connect
from ci.delivery.helm import Helm
from ci.engine import session
from ci.errors import StepFailed, SystemUnavailable
from ci.platform.instance import instance
from ci.registry import Registry, open_archive, push
from ci.reporting import SilentReporter
from pipelines.build import build
from pipelines.images import IMAGES, LIVEKIT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PLACE = platform.addresses()
NAMESPACE = f"va-chart-{os.getpid()}"
MEDIA = f"{NAMESPACE}-media"
HOST = f"{NAMESPACE}.voice.localhost"
KEYS = {"LIVEKIT_API_KEY": "api-key", "LIVEKIT_API_SECRET": "api-secret"}
PARTS = {"fastapi-backend": "api", "livekit-agent": "agent", "web-client": "web", "canary-guard": "guard"}


def values(images: dict[str, dict[str, str]], livekit: dict[str, str]) -> dict[str, Any]:
    small = {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
    return {
        "release": "chart-e2e",
        "images": images,
        "traffic": {"hostname": HOST, "probePath": "/readyz"},
        "livekit": {
            "url": f"ws://voice-livekit.{MEDIA}.svc.cluster.local:7880",
            "publicUrl": f"ws://{instance().cluster.node_ip}:7880",
            "server": {
                "enabled": True,
                "namespace": MEDIA,
                "image": livekit,
                "resources": small,
                "priorityClass": "voice-calls",
                "graceSeconds": 20,
                "udpTo": 50100,
            },
        },
        "api": {
            "resources": small,
            "drainSeconds": 10,
            "shutdownSeconds": 5,
            "autoscaling": {"by": "cpu", "min": 1, "max": 2, "target": 60},
        },
        "agent": {
            "replicas": 1,
            "resources": small,
            "drainTimeoutSeconds": 30,
            "priorityClass": "voice-calls",
        },
        "web": {"replicas": 1, "drainSeconds": 10, "shutdownSeconds": 2},
        "networkPolicy": {"enabled": True, "redis": ["10.0.0.0/8"], "livekit": ["10.0.0.0/8"]},
        "priorities": {"create": True},
    }


def helm() -> Helm:
    return Helm(kubeconfig=PLACE.kubeconfig, context=PLACE.context, namespace=NAMESPACE)


async def copy_secret(cluster: Cluster, namespace: str) -> None:
    await cluster.ensure_secret_copy(
        "voice-livekit", namespace, source="livekit", source_namespace="va-system", keys=KEYS
    )
    await copy_redis_password(cluster, namespace)


async def copy_once_there(cluster: Cluster, namespace: str) -> None:
    """The chart makes LiveKit's namespace; its Secret is someone else's, as External Secrets would be."""
    while True:
        try:
            return await copy_secret(cluster, namespace)
        except SystemUnavailable:
            await asyncio.sleep(0.5)


@pytest.fixture(scope="module")
def installed() -> Iterator[Cluster]:
    cluster = connect(PLACE.kubeconfig, PLACE.context)

    async def install() -> None:
        async with session(SilentReporter()) as (engine, _):
            built = await build(engine, reporter=SilentReporter(), images=(*IMAGES, LIVEKIT))
        endpoint = PLACE.registries["eastus"]
        async with Registry(endpoint) as registry:
            await together(push(registry, image.name, open_archive(image.archive)) for image in built)
        places_of = {
            one.name: {"repository": f"{endpoint}/{one.name}", "digest": one.digest} for one in built
        }
        livekit = places_of.pop(LIVEKIT.name)
        images = {PARTS[name]: place for name, place in places_of.items()}
        await cluster.ensure_namespace(NAMESPACE, {})
        await copy_secret(cluster, NAMESPACE)
        copying = asyncio.create_task(copy_once_there(cluster, MEDIA))
        try:
            chart = places.checkout() / "helm/voice-assistant"
            await helm().upgrade("voice", chart, values(images, livekit), timeout=300, description="a test's")
            await routed(HOST)
        finally:
            copying.cancel()

    try:
        asyncio.run(install())
        yield cluster
    finally:
        asyncio.run(helm().uninstall("voice", timeout=120))
        for namespace in (NAMESPACE, MEDIA):
            with contextlib.suppress(client.ApiException):
                client.CoreV1Api(cluster._api).delete_namespace(namespace)


def run_helm(*words: str) -> str:
    access = ("--kubeconfig", str(PLACE.kubeconfig), "--kube-context", PLACE.context, "-n", NAMESPACE)
    done = subprocess.run([tools.path("helm"), *words, *access], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_helm_test_makes_a_session_through_the_service(installed: Cluster) -> None:
    said = run_helm("test", "voice", "--logs", "--timeout", "2m")
    assert "Succeeded" in said and "POST /v1/sessions: 201" in said and "passed" in said


def test_what_became_of_a_pod_that_runs_once_is_told(installed: Cluster) -> None:
    core = client.CoreV1Api(installed._api)
    (test,) = core.list_namespaced_pod(NAMESPACE, label_selector="app.kubernetes.io/name=test").items
    spec = installed._api.sanitize_for_serialization(test.spec)
    spec = {key: value for key, value in spec.items() if key != "nodeName"}
    fails = {
        **spec["containers"][0],
        "args": ["print('one'); print('no session works'); raise SystemExit(1)"],
    }

    def make(name: str, **more: Any) -> None:
        core.create_namespaced_pod(NAMESPACE, {"metadata": {"name": name}, "spec": {**spec, **more}})

    make("fails", containers=[fails])
    make("waits", nodeSelector={"no": "node"})
    until(lambda: asyncio.run(installed.ran_once(NAMESPACE, "fails")).code is not None)
    ran = {name: asyncio.run(installed.ran_once(NAMESPACE, name)) for name in ("fails", "waits", "none")}
    assert (ran["fails"].code, ran["fails"].words) == (1, "one; no session works")
    assert ran["waits"].code is None and "node" in ran["waits"].words
    assert ran["none"].code is None
    core.delete_namespaced_pod("waits", NAMESPACE)


def test_a_pod_that_is_not_restricted_is_not_let_in(installed: Cluster) -> None:
    core = client.CoreV1Api(installed._api)
    pod = {"metadata": {"name": "any"}, "spec": {"containers": [{"name": "any", "image": "any"}]}}
    with pytest.raises(client.ApiException, match="violates PodSecurity"):
        core.create_namespaced_pod(NAMESPACE, pod, dry_run="All")


def test_what_a_gateway_probes_is_routed(installed: Cluster) -> None:
    answer = httpx.get(f"{PLACE.gateway}/readyz", headers={"host": HOST}, timeout=30)
    assert answer.json() == {"status": "ok"}


def test_livekit_runs_on_the_nodes_network_and_a_release_does_not_move_it(installed: Cluster) -> None:
    core = client.CoreV1Api(installed._api)
    (pod,) = core.list_namespaced_pod(MEDIA).items
    assert pod.spec.host_network and pod.status.pod_ip == pod.status.host_ip == instance().cluster.node_ip
    assert not {"va.dev/release", "helm.sh/chart"} & pod.metadata.labels.keys()
    run_helm("upgrade", "voice", str(places.checkout() / "helm/voice-assistant"), "--reuse-values",
             "--set", "release=another", "--wait", "--timeout", "3m")  # fmt: skip
    (after,) = core.list_namespaced_pod(MEDIA).items
    assert after.metadata.uid == pod.metadata.uid


@contextlib.asynccontextmanager
async def room() -> AsyncIterator[tuple[rtc.Room, asyncio.Future[rtc.RemoteParticipant]]]:
    async with httpx.AsyncClient(base_url=PLACE.gateway, headers={"host": HOST}, timeout=30) as http:
        made = (await http.post("/v1/sessions")).json()
    assert made["url"] == f"ws://{instance().cluster.node_ip}:7880"
    room, met = rtc.Room(), asyncio.get_running_loop().create_future()
    room.on("track_subscribed", lambda *who: None if met.done() else met.set_result(who[2]))
    await room.connect(made["url"], made["token"])
    try:
        yield room, met
    finally:
        await room.disconnect()


def test_a_caller_meets_an_agent_over_the_charts_own_livekit(installed: Cluster) -> None:
    async def call() -> None:
        async with room() as (joined, met):
            async with asyncio.timeout(90):
                agent = await met
            assert agent.attributes["va.track"] == "stable"
            assert joined.connection_state == rtc.ConnectionState.CONN_CONNECTED

    asyncio.run(call())


def test_a_helm_test_that_fails_is_an_error_and_its_pod_says_why(installed: Cluster) -> None:
    """Last of all: somebody has another release answer than the chart says."""
    patch = {"spec": {"template": {"spec": {"containers": [
        {"name": "api", "env": [{"name": "VA_RELEASE", "value": "a-strangers"}]}
    ]}}}}  # fmt: skip
    apps = client.AppsV1Api(installed._api)
    apps.patch_namespaced_deployment("voice-api", NAMESPACE, patch)

    def rolled_out() -> bool:
        api = apps.read_namespaced_deployment("voice-api", NAMESPACE)
        seen = api.status.observed_generation == api.metadata.generation
        return seen and api.status.updated_replicas == api.status.ready_replicas == api.status.replicas

    until(rolled_out, seconds=120)
    with pytest.raises(StepFailed, match="the tests of voice did not pass"):
        asyncio.run(helm().test("voice", timeout=60))
    ran = asyncio.run(installed.ran_once(NAMESPACE, "voice-test"))
    assert ran.code == 1 and "no session works: release a-strangers answered, not " in ran.words

"""A second, separate platform beside whatever runs here: brought up, used, hurt, and taken down."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from waiting import until_async

from ci import platform, tools
from ci.errors import SystemUnavailable
from ci.platform.cluster import client
from ci.platform.instance import ENVIRONMENTS, instance
from ci.platform.node import node_folder
from ci.platform.processes import marked
from ci.platform.sandbox import busybox_archive
from ci.registry import Registry, open_archive, push
from ci.reporting import SilentReporter

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="the embedded platform needs root"),
    pytest.mark.skipif(
        bool([status.name for status in tools.survey(platform.tools_needed()) if not status.found]),
        reason="tools are missing: va up provides them",
    ),
]

_INSTANCE = "7"
_NAMESPACE = "trial"
_SERVE = (
    "busybox mkdir /tmp/www; echo {track} > /tmp/www/index.html; echo up_and_well 1 > /tmp/www/metrics; "
    "exec busybox httpd -f -p 8000 -h /tmp/www"
)


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The second platform's state folder; whatever is left of it at the end is taken down."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VA_INSTANCE", _INSTANCE)
        patch.setenv("VA_STATE", str(folder))
        yield folder
        asyncio.run(platform.down(SilentReporter()))


@pytest.fixture
def up() -> platform.Platform:
    """The platform, up: the first test waits for it, the others find it there."""
    return asyncio.run(platform.up(SilentReporter()))


def _pids() -> dict[str, int]:
    return {part.name: part.pid for part in asyncio.run(platform.status()) if part.pid}


def _problems() -> dict[str, str]:
    return {part.name: part.problem for part in asyncio.run(platform.status()) if part.problem}


_until = partial(until_async, seconds=120)


def test_up_brings_every_part_up_and_again_changes_nothing(up: platform.Platform) -> None:
    assert _problems() == {}
    before = _pids()
    assert len(before) > 15

    again = asyncio.run(platform.up(SilentReporter()))

    assert again == up
    assert _pids() == before


def test_the_registries_take_pushes_on_the_hosts_side_only(up: platform.Platform) -> None:
    place = instance()
    nodes = f"http://{place.cluster.host_ip}:{place.registry('eastus')}"

    for address in up.registries.values():
        assert httpx.get(f"http://{address}/v2/").status_code == 200
        assert httpx.post(f"http://{address}/v2/trial/blobs/uploads/").status_code == 202
    assert httpx.get(f"{nodes}/v2/").status_code == 200
    assert httpx.post(f"{nodes}/v2/trial/blobs/uploads/").status_code == 405


# Who may do what ------------------------------------------------------------------------------------------


def test_nobody_reads_a_secret_from_etcd(up: platform.Platform) -> None:
    """An ordinary user of the machine read Secrets and wrote pods past the API server, without a password."""
    node = instance().cluster
    for url in (f"http://{node.node_ip}:2379", f"https://{node.node_ip}:2379"):
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/version", verify=False)
    inside = [tools.path("ip"), "netns", "exec", node.node, tools.path("busybox")]
    asked = subprocess.run(
        [*inside, "timeout", "5", tools.path("busybox"), "nc", "127.0.0.1", "2379"],
        input=b"GET /version HTTP/1.1\r\nHost: etcd\r\n\r\n",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert b"etcdserver" not in asked.stdout  # it listens there, and says nothing to who shows no certificate


def test_a_redis_is_for_its_environment_alone(up: platform.Platform) -> None:
    place = instance()
    passwords = {name: place.redis_password(name).read_text() for name in ENVIRONMENTS}
    for name in ENVIRONMENTS:
        port = place.redis(name)
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        for whose, password in passwords.items():
            with redis.Redis(port=port, username="voice", password=password) as client:
                if whose != name:
                    with pytest.raises(redis.AuthenticationError):
                        client.ping()
                    continue
                assert client.set("va:session:x", "1", ex=5)
                for forbidden in (("ACL", "LIST"), ("CONFIG", "GET", "dir"), ("KEYS", "*"), ("FLUSHALL",)):
                    with pytest.raises(redis.exceptions.NoPermissionError):
                        client.execute_command(*forbidden)
    for part in asyncio.run(platform.status()):
        if part.name.startswith("redis "):
            assert Path(f"/proc/{part.pid}").stat().st_uid == pwd.getpwnam("redis").pw_uid, part.name


def test_the_programs_around_the_cluster_may_only_read_what_they_need(up: platform.Platform) -> None:
    place = instance()
    may = {
        "coredns": {"/api/v1/services", "/api/v1/namespaces"},
        "gateway": {"/api/v1/services", "/api/v1/namespaces", "/api/v1/secrets"},
        "discovery": {"/api/v1/pods"},
    }
    every = {path for paths in may.values() for path in paths} | {"/api/v1/nodes"}

    async def main() -> None:
        for user, paths in may.items():
            async with client(node_folder(place, place.cluster) / "kubernetes" / f"{user}.conf") as api:
                seen = {path for path in sorted(every) if (await api.get(path)).is_success}
                assert seen == paths, user
                made = await api.post("/api/v1/namespaces", json={"metadata": {"name": "mine"}})
                assert made.status_code == 403, user

    asyncio.run(main())


# Pods ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _cluster() -> AsyncIterator[httpx.AsyncClient]:
    async with client(platform.addresses().kubeconfig) as api:
        await _apply(api, f"/api/v1/namespaces/{_NAMESPACE}", "v1", "Namespace", {})

        async def has_its_account() -> bool:  # without it no pod can be made
            path = f"/api/v1/namespaces/{_NAMESPACE}/serviceaccounts/default"
            return (await api.get(path)).is_success

        await _until(has_its_account)
        yield api


async def _apply(api: httpx.AsyncClient, path: str, version: str, kind: str, content: dict[str, Any]) -> None:
    response = await api.patch(
        path,
        params={"fieldManager": "trial", "force": "true"},
        json={"apiVersion": version, "kind": kind, "metadata": {"name": path.rsplit("/", 1)[-1]}, **content},
        headers={"Content-Type": "application/apply-patch+yaml"},
    )
    assert response.is_success, response.text


async def _image(folder: Path) -> str:
    """Push an image of busybox to the first registry; the reference by which pods pull it."""
    archive = folder / "busybox.tar"
    busybox_archive(tools.path("busybox"), archive, name="busybox", command=["true"])
    bundle = open_archive(archive)
    address = platform.addresses().registries["eastus"]
    async with Registry(address) as there:
        await push(there, "busybox", bundle)
    return f"{address}/busybox@{bundle.digest}"


def _pod_spec(image: str, script: str) -> dict[str, Any]:
    return {
        "terminationGracePeriodSeconds": 3,
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "containers": [
            {
                "name": "main",
                "image": image,
                "command": ["/bin/busybox", "sh", "-c", script],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
    }


async def _deploy(api: httpx.AsyncClient, track: str, image: str) -> None:
    spec = _pod_spec(image, _SERVE.format(track=track))
    spec["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1}
    labels = {"app.kubernetes.io/name": f"trial-{track}", "va.dev/track": track, "va.dev/release": "r1"}
    meta = {
        "labels": labels,
        "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"},
    }
    template = {"metadata": meta, "spec": spec}
    await _apply(
        api,
        f"/apis/apps/v1/namespaces/{_NAMESPACE}/deployments/{track}",
        "apps/v1",
        "Deployment",
        {"spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}},
    )
    await _apply(
        api,
        f"/api/v1/namespaces/{_NAMESPACE}/services/{track}",
        "v1",
        "Service",
        {"spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8000}]}},
    )


async def _route(api: httpx.AsyncClient, **weights: int) -> None:
    backends = [{"name": name, "port": 80, "weight": weight} for name, weight in weights.items()]
    await _apply(
        api,
        f"/apis/gateway.networking.k8s.io/v1/namespaces/{_NAMESPACE}/httproutes/trial",
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        {
            "spec": {
                "parentRefs": [{"name": "voice", "namespace": "va-system"}],
                "hostnames": ["trial.localhost"],
                "rules": [{"backendRefs": backends}],
            }
        },
    )


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, trust_env=False, timeout=30)


async def _ask(http: httpx.AsyncClient, times: int) -> Counter[str]:
    """Ask the gateway that often; count the answers by their text, and what is no answer by its status."""
    seen: Counter[str] = Counter()
    for _ in range(times):
        response = await http.get("/", headers={"Host": "trial.localhost"})
        seen[response.text.strip() if response.is_success else str(response.status_code)] += 1
    return seen


def test_a_route_splits_traffic_by_weight_and_loses_nothing(up: platform.Platform, tmp_path: Path) -> None:
    async def story() -> None:
        async with _cluster() as api, _client(up.gateway) as http:
            image = await _image(tmp_path)
            for track in ("stable", "canary"):
                await _deploy(api, track, image)
            await _route(api, stable=50, canary=50)

            async def both_answer() -> bool:
                return set(await _ask(http, 10)) == {"stable", "canary"}

            await _until(both_answer)

            async def splits(weight: int) -> bool:
                seen = await _ask(http, 200)
                assert set(seen) <= {"stable", "canary"}, seen  # while it changes, too
                return abs(seen["canary"] - 2 * weight) <= (4 if 0 < weight < 100 else 0)

            # All weights are followed soon, and exactly: the gateway deals them out in turn.
            for weight in (20, 80, 0, 100):
                await _route(api, stable=100 - weight, canary=weight)
                await _until(lambda weight=weight: splits(weight), seconds=30)

            # Traffic first, then the canary goes: nothing is lost.
            await _route(api, stable=100, canary=0)
            await _until(lambda: splits(0), seconds=30)
            await api.delete(f"/apis/apps/v1/namespaces/{_NAMESPACE}/deployments/canary")
            assert await _ask(http, 300) == {"stable": 300}

    asyncio.run(story())


def test_prometheus_sees_the_pods_with_their_labels(up: platform.Platform, tmp_path: Path) -> None:
    async def story() -> None:
        async with _cluster() as api, _client(up.prometheus) as http:
            await _deploy(api, "stable", await _image(tmp_path))

            async def labelled() -> bool:
                found = (await http.get("/api/v1/query", params={"query": "up_and_well"})).json()
                wanted = {"namespace": _NAMESPACE, "app": "trial-stable", "track": "stable", "release": "r1"}
                return any(wanted.items() <= item["metric"].items() for item in found["data"]["result"])

            async def all_up() -> bool:
                found = (await http.get("/api/v1/query", params={"query": "up"})).json()
                up_now = {item["metric"]["job"]: item["value"][1] for item in found["data"]["result"]}
                return {"pods", "kubelet", "cadvisor", "livekit", "gateway"} <= set(up_now)

            await _until(labelled)
            await _until(all_up)

    asyncio.run(story())


def test_a_pod_reaches_redis_and_livekit_by_name_and_its_own_logs_are_readable(
    up: platform.Platform, tmp_path: Path
) -> None:
    password = instance().redis_password("dev").read_text()
    script = (
        f"busybox printf 'PING\\r\\nAUTH voice {password}\\r\\nPING\\r\\nQUIT\\r\\n' | "
        "busybox timeout 30 busybox nc redis-dev.va-system.svc.cluster.local 6379;"
        "busybox wget -qO- http://livekit.va-system.svc.cluster.local:7880; echo;"
        "busybox nslookup nothing.example; echo done"
    )

    async def story() -> str:
        async with _cluster() as api:
            path = f"/api/v1/namespaces/{_NAMESPACE}/pods/asks"
            await api.delete(path)
            spec = {**_pod_spec(await _image(tmp_path), script), "restartPolicy": "Never"}
            await _apply(api, path, "v1", "Pod", {"spec": spec})

            async def ended() -> bool:
                return (await api.get(path)).json()["status"].get("phase") in ("Succeeded", "Failed")

            await _until(ended)
            return (await api.get(f"{path}/log")).text

    said = asyncio.run(story())

    assert "-NOAUTH" in said and "+PONG" in said
    assert "\nOK\n" in said
    assert said.endswith("done\n")


_PARTICIPANT = """
import asyncio, os, sys
from livekit import rtc

async def main():
    room, heard = rtc.Room(), asyncio.Event()

    async def listen(track):
        count = 0
        async for _ in rtc.AudioStream(track):
            count += 1
            if count == 20:
                heard.set()

    tasks = []
    room.on("track_subscribed", lambda track, *_: tasks.append(asyncio.ensure_future(listen(track))))
    await room.connect(sys.argv[1], sys.argv[2])
    source = rtc.AudioSource(48000, 1)
    await room.local_participant.publish_track(rtc.LocalAudioTrack.create_audio_track("tone", source))

    async def speak():
        while True:
            await source.capture_frame(rtc.AudioFrame.create(48000, 1, 480))

    tasks.append(asyncio.ensure_future(speak()))
    await asyncio.wait_for(heard.wait(), 60)
    print("heard", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # goes on until the other has heard, too
    os._exit(0)  # the SDK's threads may crash while Python ends

asyncio.run(main())
"""


def test_the_host_and_the_node_hear_each_other_through_livekit(up: platform.Platform) -> None:
    api = pytest.importorskip("livekit.api")
    pytest.importorskip("livekit.rtc")
    key = dict(line.split("=", 1) for line in up.livekit_env.read_text().split())
    region = instance().cluster
    into_node = ("nsenter", f"--net=/run/netns/{region.node}", "--")
    from_node = up.livekit.replace("127.0.0.1", region.host_ip)

    with ExitStack() as stack:
        processes = []
        for identity, enter, url in (("host", (), up.livekit), ("node", into_node, from_node)):
            grants = api.VideoGrants(room_join=True, room="trial")
            token = api.AccessToken(key["LIVEKIT_API_KEY"], key["LIVEKIT_API_SECRET"])
            words = [*enter, sys.executable, "-c", _PARTICIPANT, url]
            words.append(token.with_identity(identity).with_grants(grants).to_jwt())
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            process = stack.enter_context(subprocess.Popen(words, text=True, **pipes))
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            said = ""
            while not said.endswith("heard\n"):
                line = process.stdout.readline()
                assert line, f"it ended without hearing the other: {said}"
                said += line


# Faults --------------------------------------------------------------------------------------------------


def _kill(name: str) -> None:
    """Kill a part, and wait until it is gone: the kernel takes its time for a large one."""
    os.kill(_pids()[name], signal.SIGKILL)

    async def gone() -> bool:
        (found,) = [part for part in await platform.status() if part.name == name]
        return found.problem == "not running"

    asyncio.run(_until(gone, seconds=30))


@pytest.mark.parametrize(
    "name", ["registry eastus", "redis staging", "livekit", "gateway", "va7-eastus kube-apiserver"]
)
def test_a_part_that_died_is_named_and_restarted_alone(up: platform.Platform, name: str) -> None:
    before = _pids()
    _kill(name)

    asyncio.run(platform.up(SilentReporter()))

    assert _problems() == {}
    after = _pids()
    assert {part for part in before if before[part] != after[part]} == {name}


def test_a_node_that_died_comes_back_with_its_pods(up: platform.Platform, tmp_path: Path) -> None:
    async def deploy() -> None:
        async with _cluster() as api:
            await _deploy(api, "stable", await _image(tmp_path))
            await _route(api, stable=100)

    async def answers() -> None:
        async with httpx.AsyncClient(base_url=up.gateway, trust_env=False, timeout=2) as http:

            async def stable() -> bool:
                try:
                    return await _ask(http, 3) == {"stable": 3}
                except httpx.HTTPError:
                    return False

            await _until(stable)

    asyncio.run(deploy())
    asyncio.run(answers())
    _kill("va7-eastus namespaces")

    asyncio.run(platform.up(SilentReporter()))

    assert _problems() == {}
    asyncio.run(answers())


@pytest.fixture
def tiny_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A third platform's state folder on a disk of two megabytes."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=True)
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    monkeypatch.setenv("VA_INSTANCE", "8")
    yield tmp_path
    asyncio.run(platform.down(SilentReporter()))
    subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk_is_said_and_down_still_takes_all_away(tiny_disk: Path) -> None:
    with pytest.raises(SystemUnavailable, match=r"(?i)no space left on device"):
        asyncio.run(platform.up(SilentReporter(), ["registry eastus", "va8-eastus etcd"]))
    assert (tiny_disk / "platform-8").exists()

    asyncio.run(platform.down(SilentReporter()))

    assert list(tiny_disk.iterdir()) == []
    assert "va8-" not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


# The end -------------------------------------------------------------------------------------------------


def _traces(folder: Path) -> dict[str, object]:
    """All that the second platform may leave on this machine."""

    def output(*argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    rules = output("iptables-save").splitlines()
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {
        "processes": marked(folder),
        "namespaces": "va7-" in output("ip", "netns", "list"),
        "links": "va7-" in output("ip", "-brief", "link"),
        "routes": "10.207." in output("ip", "route"),
        "filter rules": [rule for rule in rules if "KUBE" in rule or "CNI" in rule],
        "mounts": [mount for mount in mounts if str(folder) in mount],
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").rglob("va7-*")],
        "files": folder.exists(),
    }


_NOTHING = {
    "processes": [],
    "namespaces": False,
    "links": False,
    "routes": False,
    "filter rules": [],
    "mounts": [],
    "cgroups": [],
    "files": False,
}


def test_down_leaves_nothing(up: platform.Platform) -> None:
    folder = instance().folder
    assert _traces(folder)["processes"]
    usual = [Path(path) for path in ("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/etc/cni/net.d")]
    there = [path.exists() for path in usual]
    mark = {"VA_PLATFORM": str(folder), "VA_PART": "a part of another version", "VA_FINGERPRINT": "x"}

    with subprocess.Popen(["sleep", "1000"], env={**os.environ, **mark}) as forgotten:
        asyncio.run(platform.down(SilentReporter()))
        assert forgotten.wait(5) == -signal.SIGTERM

    assert _traces(folder) == _NOTHING
    assert [path.exists() for path in usual] == there
    asyncio.run(platform.down(SilentReporter()))  # nothing there: no error


@pytest.mark.parametrize("seconds", [1.5, 4.0])
def test_after_ctrl_c_the_same_command_goes_on_and_down_leaves_nothing(seconds: float) -> None:
    command = [sys.executable, "-m", "ci.platform", "up"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0

    asyncio.run(platform.up(SilentReporter()))
    assert _problems() == {}

    interrupted = subprocess.Popen(
        [*command[:-1], "down"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(1.2)
    interrupted.send_signal(signal.SIGINT)
    interrupted.communicate(timeout=60)
    asyncio.run(platform.down(SilentReporter()))
    assert _traces(instance().folder) == _NOTHING

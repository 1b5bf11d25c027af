"""Three regions with a cluster each, beside whatever runs here: they come up, fail apart, and go."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml
from waiting import until

from ci import platform, tools
from ci.delivery.regions import GlobalTraffic, put_back, take_out, traffic_manager
from ci.errors import BadInput, PolicyBlocked
from ci.platform.certificates import administrator
from ci.platform.cluster import client
from ci.platform.instance import REGIONS, Region, instance
from ci.platform.network import cut
from ci.platform.processes import marked
from ci.platform.traffic_manager import HOST, profile_id
from ci.reporting import SilentReporter
from pipelines.regional import lose_region

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="the embedded platform needs root"),
    pytest.mark.skipif(
        bool([status.name for status in tools.survey(platform.tools_needed()) if not status.found]),
        reason="tools are missing: va up provides them",
    ),
]

_INSTANCE = "9"


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VA_INSTANCE", _INSTANCE)
        patch.setenv("VA_STATE", str(tmp_path_factory.mktemp("state")))
        yield instance().folder
        asyncio.run(platform.down(SilentReporter()))


def _regions() -> tuple[Region, ...]:
    return instance().regions


def _problems() -> dict[str, str]:
    return {part.name: part.problem for part in asyncio.run(platform.status()) if part.problem}


def _answers(region: Region) -> bool:
    """Whether the region's gateway says anything at all; it has no route yet."""
    try:
        return httpx.get(f"http://{region.node_ip}:{instance().gateway}/", timeout=2).status_code == 404
    except httpx.HTTPError:
        return False


def test_a_killed_up_goes_on_to_three_clusters(folder: Path) -> None:
    main = "from ci.commands.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", main, "up", "--clusters", "3"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until(lambda: any("etcd" in one.part for one in marked(folder)), "nothing came up")
        process.send_signal(signal.SIGKILL)

    asyncio.run(platform.up(SilentReporter()))  # without a word of how many

    assert [region.name for region in _regions()] == list(REGIONS)
    assert _problems() == {}


def test_each_region_is_a_cluster_a_gateway_and_a_prometheus_of_its_own() -> None:
    place = instance()
    contexts = yaml.safe_load(place.kubeconfig.read_text())["contexts"]
    assert [one["name"] for one in contexts] == [f"va9-{name}" for name in REGIONS]

    async def nodes(region: Region) -> list[str]:
        async with client(administrator(place, region)) as api:
            items = (await api.get("/api/v1/nodes")).json()["items"]
        return [str(item["metadata"]["name"]) for item in items]

    for region in _regions():
        assert asyncio.run(nodes(region)) == [region.node]
        assert _answers(region)
        asked = httpx.get(f"http://{region.node_ip}:{place.prometheus}/api/v1/targets?state=active").json()
        urls = {one["scrapeUrl"] for one in asked["data"]["activeTargets"]}
        assert f"https://{region.node_ip}:10250/metrics/resource" in urls
        assert not [url for other in _regions() if other != region for url in urls if other.node_ip in url]


def test_a_region_that_is_cut_off_is_the_only_one_that_is_missed() -> None:
    first, lost, last = _regions()
    asyncio.run(cut(lost))

    assert not _answers(lost)
    assert _answers(first) and _answers(last)
    assert f"{lost.node} kube-apiserver" in _problems()
    assert not [name for name in _problems() if name.startswith((first.node, last.node))]

    before = {one.part: one.pid for one in marked(instance().folder)}
    asyncio.run(platform.up(SilentReporter()))
    assert _answers(lost)
    assert {one.part: one.pid for one in marked(instance().folder)} == before  # it was well, but for the link


# Users -----------------------------------------------------------------------------------------------------


class _Api(BaseHTTPRequestHandler):
    """As much of the api as synthetic users and probes ask for; on the host, behind each gateway."""

    protocol_version = "HTTP/1.1"

    def _say(self, status: int, body: bytes = b"{}") -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(status)
        self.send_header("x-va-track", "stable")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self._say(201, b'{"session_id": "1"}')

    def do_GET(self) -> None:
        self._say(200)

    def do_DELETE(self) -> None:
        self._say(200)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


async def _expose(region: Region, port: int) -> None:
    """A route of the gateway to the host, with no pod: what is tried here is the way to the gateway."""
    meta = {"name": "voice", "namespace": "default"}
    wanted: dict[str, dict[str, object]] = {
        "/api/v1/namespaces/default/services/voice": {
            "apiVersion": "v1",
            "kind": "Service",
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": port}]},
        },
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/voice": {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [region.host_ip], "conditions": {"ready": True}}],
        },
        "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/voice": {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "spec": {
                "parentRefs": [{"name": "voice", "namespace": "va-system"}],
                "hostnames": [HOST],
                "rules": [{"backendRefs": [{"name": "voice", "port": 80}]}],
            },
        },
    }
    async with client(administrator(instance(), region)) as api:
        for path, one in wanted.items():
            labels = {"labels": {"kubernetes.io/service-name": "voice"}}
            applied = await api.patch(
                path,
                params={"fieldManager": "test"},
                json={**one, "metadata": {**meta, **(labels if "Slice" in str(one["kind"]) else {})}},
                headers={"Content-Type": "application/apply-patch+yaml"},
            )
            assert applied.is_success, applied.text


@asynccontextmanager
async def _traffic() -> AsyncIterator[GlobalTraffic]:
    place = instance()
    at = f"http://127.0.0.1:{place.traffic_manager}"
    async with traffic_manager(profile_id(), at=at, token=place.traffic_manager_token) as traffic:
        yield traffic


async def _all_online() -> bool:
    async with _traffic() as traffic:
        return all(one.online for one in (await traffic.look()).endpoints)


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[None]:
    """Each region's gateway has an api to lead to."""
    with ExitStack() as stack:
        for region in _regions():
            server = ThreadingHTTPServer((region.host_ip, 0), _Api)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            asyncio.run(_expose(region, server.server_port))
        until(lambda: asyncio.run(_all_online()), "the probes do not see the api", every=1)
        yield


@pytest.mark.usefixtures("served")
def test_users_leave_a_lost_region_and_come_back_to_it() -> None:
    done = asyncio.run(lose_region("westeurope", rate=20, reporter=SilentReporter()))

    assert [moment.what for moment in done.timeline if "westeurope" in moment.what] == [
        "westeurope is cut off", "westeurope is joined again", "users come to westeurope",
    ]  # fmt: skip
    assert 0 < done.lost < done.requests and 0 < done.broken <= done.sessions
    assert 0 < done.detection < 20 and 0 < done.rto < 30  # a busy machine's; what the drill says is measured
    assert not [problem for problem in done.problems if "came back" in problem]
    assert asyncio.run(_all_online()) and _problems() == {}


@pytest.mark.usefixtures("served")
def test_no_second_region_is_lost_on_purpose() -> None:
    async def with_one_out() -> None:
        async with _traffic() as traffic:
            await take_out(traffic, "southeastasia")
            try:
                await lose_region("westeurope", reporter=SilentReporter())
            finally:
                await put_back(traffic, "southeastasia")

    with pytest.raises(PolicyBlocked, match="southeastasia is taken out"):
        asyncio.run(with_one_out())
    assert all(_answers(region) for region in _regions())


def test_more_regions_than_there_are_is_refused() -> None:
    with pytest.raises(BadInput, match="from 1 to 3"):
        asyncio.run(platform.up(SilentReporter(), clusters=4))


def test_with_one_cluster_the_others_are_gone_and_the_first_stands_in(folder: Path) -> None:
    (folder / "clusters").unlink()  # what is remembered of its size is lost
    asyncio.run(platform.up(SilentReporter(), clusters=1))

    assert _problems() == {}
    assert [region.name for region in _regions()] == [REGIONS[0]]
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert [name for name in REGIONS if f"va9-{name}" in left] == [REGIONS[0]]
    assert httpx.get(f"http://127.0.0.1:{instance().gateway}/").status_code == 404


def test_down_leaves_nothing_of_any(folder: Path) -> None:
    asyncio.run(platform.down(SilentReporter()))

    assert marked(folder) == []
    assert not folder.exists()
    for words in (("netns",), ("-brief", "link"), ("route",)):
        said = subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
        assert "va9-" not in said and "10.209." not in said
    assert not list(Path("/sys/fs/cgroup").rglob("va9-*"))

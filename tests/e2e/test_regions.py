"""Three regions with a cluster each, beside whatever runs here: they come up, fail apart, and go."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from waiting import until

from ci import platform, tools
from ci.errors import BadInput
from ci.platform.certificates import administrator
from ci.platform.cluster import client
from ci.platform.instance import REGIONS, Region, instance
from ci.platform.network import cut
from ci.platform.processes import marked
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


def test_more_regions_than_there_are_is_refused() -> None:
    with pytest.raises(BadInput, match="from 1 to 3"):
        asyncio.run(platform.up(SilentReporter(), clusters=4))


def test_with_one_cluster_the_others_are_gone_and_the_first_stands_in() -> None:
    asyncio.run(platform.up(SilentReporter(), clusters=1))

    assert _problems() == {}
    assert [region.name for region in _regions()] == [REGIONS[0]]
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert [name for name in REGIONS if f"va9-{name}" in left] == [REGIONS[0]]
    assert httpx.get(f"http://127.0.0.1:{instance().gateway}/").status_code == 404


def test_down_leaves_nothing_of_any(folder: Path) -> None:
    asyncio.run(platform.up(SilentReporter(), clusters=3))
    (folder / "clusters").unlink()  # what was remembered of it is lost, too

    asyncio.run(platform.down(SilentReporter()))

    assert marked(folder) == []
    assert not folder.exists()
    for words in (("netns",), ("-brief", "link"), ("route",)):
        said = subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
        assert "va9-" not in said and "10.209." not in said
    assert not list(Path("/sys/fs/cgroup").rglob("va9-*"))

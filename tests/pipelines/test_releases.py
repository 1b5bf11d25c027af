from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from fake_registry import FakeRegistry
from oci import layer, write_image
from promotion_world import release as made
from rich.console import Console
from typer.testing import CliRunner

from ci import places
from ci.commands.cli import app
from ci.delivery.chart import package_chart
from ci.errors import BadInput, SystemUnavailable
from ci.files import write_whole
from ci.registry import Registry, open_archive, push
from ci.release import Chart, Commit, Image, Release, ScanSummary, TestSummary
from ci.scan import Findings, Package, Scanned
from ci.supply.attestations import RELEASES, release_bundle, scan_report
from ci.supply.comparison import ReleaseChange
from pipelines.releases import diff, pull, releases, show_diff, show_release, show_releases, with_regions

_TIME = datetime(2026, 1, 1, tzinfo=UTC)


async def publish(
    server: FakeRegistry,
    folder: Path,
    name: str,
    *,
    text: str,
    replicas: int,
    subject: str = "",
    later: str | None = None,
    names: bool = True,
) -> Release:
    """A release of one image with one package, and a chart with one value.

    `later`: the version that a scan says which was attached afterwards. `names`: whether it names its scan.
    """
    digest = write_image(folder / f"{name}.tar", layer(a=text))
    image = open_archive(folder / f"{name}.tar")
    (folder / "chart").mkdir(exist_ok=True)
    (folder / "chart/Chart.yaml").write_text("apiVersion: v2\nname: voice\nversion: 0.1.0\n")
    (folder / "chart/values.yaml").write_text(f"replicas: {replicas}\n")
    files = [path.relative_to(folder) for path in (folder / "chart").iterdir()]
    chart = package_chart(folder, map(PurePosixPath, files), PurePosixPath("chart"))
    findings = Findings(
        of=Scanned.IMAGE,
        subject=subject or digest,
        scanner="trivy 0",
        database=None,
        findings=(),
        packages=(Package(name="curl", version=text, type="debian"),),
    )
    async with Registry("127.0.0.1:5999", transport=server) as registry:
        await push(registry, "api", image)
        document = scan_report(findings.model_dump_json().encode()).bundle(image.root.descriptor)
        await push(registry, "api", document)
        if later is not None:
            others = findings.model_copy(
                update={"packages": (Package(name="curl", version=later, type="debian"),)}
            )
            await push(
                registry, "api", scan_report(others.model_dump_json().encode()).bundle(image.root.descriptor)
            )
        await push(registry, chart.name, chart.bundle)
    scan = ScanSummary(vulnerabilities=None, misconfigurations={}, secrets=0, licences={}, packages=1)
    tests = TestSummary(passed=1, failed=0, skipped=0)
    return Release(
        name=name,
        created=_TIME,
        commit=Commit(sha="a" * 40, dirty=True, time=_TIME),
        engine="embedded",
        images=(
            Image(
                name="api",
                digest=digest,
                size=image.size,
                tests=tests,
                scan=scan,
                attestations={"scan": document.root.descriptor.digest} if names else {},
            ),
        ),
        chart=Chart(name=chart.name, version=chart.version, digest=chart.digest),
    )


async def compared(server: FakeRegistry, before: Release, after: Release) -> ReleaseChange:
    async with Registry("127.0.0.1:5999", transport=server) as registry:
        return await diff(registry, before, after)


def text_of(shown: object) -> str:
    console = Console(width=200, record=True, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(shown)
    return console.export_text()


def test_a_diff_reads_what_the_registry_has_attached(tmp_path: Path) -> None:
    async def main() -> tuple[ReleaseChange, ReleaseChange]:
        server = FakeRegistry()
        one = await publish(server, tmp_path, "r1", text="1.0", replicas=1)
        two = await publish(server, tmp_path, "r2", text="2.0", replicas=3)
        return await compared(server, one, two), await compared(server, one, one)

    change, none = asyncio.run(main())
    assert [(one.name, one.before, one.after) for one in change.images[0].packages] == [
        ("curl", "1.0", "2.0")
    ]
    assert [(one.path, one.before, one.after) for one in change.values] == [("replicas", 1, 3)]
    assert none.same
    text = text_of(show_diff(change))
    assert "~ curl 1.0 -> 2.0" in text and "replicas: 1 -> 3" in text and "not scanned in both" in text
    assert "the same bytes" in text_of(show_diff(none))


@pytest.mark.parametrize("later", ["0.1", "9.9"])
def test_a_scan_that_was_attached_later_changes_no_diff(tmp_path: Path, later: str) -> None:
    async def main() -> ReleaseChange:
        server = FakeRegistry()
        one = await publish(server, tmp_path, "r1", text="1.0", replicas=1)
        two = await publish(server, tmp_path, "r2", text="2.0", replicas=1, later=later)
        return await compared(server, one, two)

    (image,) = asyncio.run(main()).images
    assert [(one.before, one.after) for one in image.packages] == [("1.0", "2.0")]


def test_a_release_of_before_scans_were_named_has_the_one_that_is_there(tmp_path: Path) -> None:
    async def main() -> ReleaseChange:
        server = FakeRegistry()
        one = await publish(server, tmp_path, "r1", text="1.0", replicas=1, names=False)
        return await compared(server, one, await publish(server, tmp_path, "r2", text="2.0", replicas=1))

    (image,) = asyncio.run(main()).images
    assert [(one.before, one.after) for one in image.packages] == [("1.0", "2.0")]


def test_an_image_without_a_scan_cannot_be_compared(tmp_path: Path) -> None:
    async def main() -> None:
        server = FakeRegistry()
        one = await publish(server, tmp_path, "r1", text="1.0", replicas=1)
        server.manifests = {at: what for at, what in server.manifests.items() if "sha256-" not in at[1]}
        await compared(server, one, one)

    with pytest.raises(BadInput, match="the scan that the release names is not attached"):
        asyncio.run(main())


def test_a_scan_of_another_image_is_not_believed(tmp_path: Path) -> None:
    async def main() -> None:
        server = FakeRegistry()
        one = await publish(server, tmp_path, "r1", text="1", replicas=1, subject="sha256:" + "0" * 64)
        await compared(server, one, one)

    with pytest.raises(SystemUnavailable, match="is one of sha256:0000"):
        asyncio.run(main())


def test_releases_are_listed_the_one_shipped_last_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    assert releases() == ()
    made = asyncio.run(publish(FakeRegistry(), tmp_path, "r1", text="1", replicas=1))
    for name, time in (("r1", 20), ("r2", 10)):
        file = places.state() / "releases" / f"{name}.json"
        write_whole(file, made.model_copy(update={"name": name}).model_dump_json())
        os.utime(file, (time, time))
    found = releases()
    assert [one.name for one in found] == ["r1", "r2"]
    assert "r2" in text_of(show_releases(found)) and "(dirty)" in text_of(show_releases(found))
    text = text_of(show_release(with_regions(found[0])))
    assert "not scanned" in text and "available in: not asked yet" in text


def test_a_release_is_brought_from_where_it_was_published(tmp_path: Path) -> None:
    server = FakeRegistry()

    async def main() -> None:
        made = await publish(server, tmp_path, "one", text="1", replicas=1)
        async with Registry("127.0.0.1:5999", transport=server) as registry:
            with pytest.raises(BadInput, match=r"there is no release .*/releases:one"):
                await pull(registry, "one")
            await push(registry, RELEASES, release_bundle(made), tags=["one", "other"])
            assert await pull(registry, "one") == made
            with pytest.raises(BadInput, match="releases:other is one, or was not written as"):
                await pull(registry, "other")
            await push(registry, RELEASES, open_archive(tmp_path / "one.tar"), tags=["image"])
            with pytest.raises(BadInput, match="releases:image is no release"):
                await pull(registry, "image")

    asyncio.run(main())


def test_a_broken_file_is_named_and_the_other_releases_are_listed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    folder = tmp_path / "releases"
    folder.mkdir()
    (folder / "r1.json").write_text(made("r1").model_dump_json())
    (folder / "cut.json").write_text(made("r2").model_dump_json()[:-20])
    (folder / "link.json").symlink_to(tmp_path / "nowhere")
    for words in (["release", "list"], ["release", "list", "--json"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2
        assert "r1" in done.stdout and "r2" not in done.stdout
        assert "cut.json" in done.stderr and "link.json" in done.stderr
    assert [one["name"] for one in json.loads(done.stdout)] == ["r1"]
    with pytest.raises(BadInput):  # who removes what no release needs does not guess
        releases()

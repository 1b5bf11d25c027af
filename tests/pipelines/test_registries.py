from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import pytest
from fake_registry import FakeRegistry
from promotion_world import environment
from rich.console import Console

from ci.errors import BadInput
from ci.registry import Bundle, Registry, artifact, push
from ci.release import Release
from ci.reporting import SilentReporter
from ci.supply.availability import State, contents
from ci.supply.replication import Pace, Replica
from pipelines import registries as registries_module
from pipelines.registries import (
    AvailableIn,
    EstateRegistries,
    RegionStatus,
    availability_line,
    available_in,
    proven,
    show_regions,
    where_available,
)


def release(chart: str) -> Release:
    digest = "sha256:" + "a" * 64
    scan = {"vulnerabilities": None, "misconfigurations": {}, "secrets": 0, "licences": {}, "packages": 1}
    tests = {"passed": 1, "failed": 0, "skipped": 0}
    return Release.model_validate(
        {
            "name": "r1",
            "created": "2026-01-01T00:00:00Z",
            "commit": {"sha": "a" * 40, "dirty": False, "time": "2026-01-01T00:00:00Z"},
            "engine": "embedded",
            "images": [{"name": "api", "digest": digest, "size": 1, "tests": tests, "scan": scan}],
            "chart": {"name": "chart", "version": "1.0.0", "digest": chart},
        }
    )


async def no_wait(_: float) -> None:
    pass


def shown(regions: tuple[RegionStatus, ...]) -> str:
    console = Console(width=250, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(show_regions(regions))
    return console.export_text()


def asked(*servers: FakeRegistry, replication: str | None = None) -> tuple[Bundle, AvailableIn]:
    """What is found when only the chart was pushed to the first of these regions, the home."""
    chart = artifact(artifact_type="x/chart", layers=())

    async def main() -> AvailableIn:
        clients = [
            Registry(f"127.0.0.1:{5001 + number}", transport=server, sleep=no_wait)
            for number, server in enumerate(servers)
        ]
        await push(clients[0], "chart", chart)
        names = ("eastus", "westeurope", "southeastasia")
        registries = EstateRegistries(
            home=clients[0], regions=dict(zip(names, clients, strict=False)), replication=replication
        )
        made = release(chart.digest)
        return await available_in(registries, made, reporter=SilentReporter(), deadline=0)

    return chart, asyncio.run(main())


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path))


def test_every_region_is_told_apart() -> None:
    _, found = asked(FakeRegistry(), FakeRegistry(gate=lambda _: httpx.Response(503)))
    home, down = found.regions
    assert [one.has.state for one in found.regions] == [State.LAGGING, State.DOWN]
    assert [one.home for one in found.regions] == [True, False]
    assert "api@sha256:" + "a" * 64 in home.has.missing
    assert [name for name in home.has.missing if name.startswith("releases@sha256:")]
    text = shown(found.regions)
    assert "api@sha256:aaaa" in text and "127.0.0.1:5002" in text and "did not answer" in text
    assert down.has.problem


def test_what_was_found_is_kept_and_told_later() -> None:
    chart, found = asked(FakeRegistry(), FakeRegistry())
    assert where_available(release(chart.digest)) == found
    assert availability_line(None).plain.startswith("available in: not asked yet")
    line = availability_line(found).plain
    assert line.startswith(
        "available in no region; not in eastus (lagging: 2 found, 4 missing); not in westeurope"
    )
    assert "; the home has no record of it: it was purged, or never whole there as of" in line


def test_what_is_kept_of_another_version_is_as_if_nobody_had_asked(tmp_path: Path) -> None:
    chart, _ = asked(FakeRegistry())
    (tmp_path / "availability" / "r1.json").write_text("{}")
    assert where_available(release(chart.digest)) is None


def test_what_was_attached_at_home_has_to_be_in_every_region() -> None:
    home, west = FakeRegistry(), FakeRegistry()

    async def main() -> tuple[RegionStatus, ...]:
        clients = [
            Registry(f"127.0.0.1:{port}", transport=server, sleep=no_wait)
            for port, server in ((5001, home), (5002, west))
        ]
        image = artifact(artifact_type="x/image", layers=())
        for client in clients:
            await push(client, "api", image)
        signature = artifact(
            artifact_type="x/signature", layers=(("x/y", b"signed", {}),), subject=image.root.descriptor
        )
        await push(clients[0], "api", signature)  # later, and not named by the release
        registries = EstateRegistries(
            home=clients[0], regions={"eastus": clients[0], "westeurope": clients[1]}
        )
        regions = await proven(registries, contents({"api": [image]}), name="x", reporter=SilentReporter())
        assert any(f"api@{signature.digest}" == name for name in regions[1].has.missing)
        assert any(name.endswith(f"lists no {signature.digest}") for name in regions[1].has.missing)
        return regions

    assert [one.has.state for one in asyncio.run(main())] == [State.THERE, State.LAGGING]


def test_a_home_that_is_down_does_not_keep_the_others_from_being_asked() -> None:
    home, west = FakeRegistry(), FakeRegistry()

    async def main() -> tuple[RegionStatus, ...]:
        clients = [
            Registry(f"127.0.0.1:{port}", transport=server, sleep=no_wait)
            for port, server in ((5001, home), (5002, west))
        ]
        image = artifact(artifact_type="x/image", layers=())
        await push(clients[1], "api", image)
        home.gate = lambda _: httpx.Response(503)
        registries = EstateRegistries(
            home=clients[0], regions={"eastus": clients[0], "westeurope": clients[1]}
        )
        return await proven(registries, contents({"api": [image]}), name="x", reporter=SilentReporter())

    assert [one.has.state for one in asyncio.run(main())] == [State.DOWN, State.THERE]


def test_how_replication_goes_is_shown_beside_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def said(_: str) -> dict[str, Replica]:
        one = Replica(
            region="westeurope",
            endpoint="127.0.0.1:5002",
            pace=Pace.FAILING,
            pending=3,
            lag=12.34,
            last_event=None,
            last_copied=None,
            reconciled=None,
            problem="the registry 127.0.0.1:5002 is full",
        )
        return {"westeurope": one}

    monkeypatch.setattr(registries_module, "ask_replicator", said)
    _, found = asked(FakeRegistry(), FakeRegistry(), FakeRegistry(), replication="http://127.0.0.1:1")
    text = shown(found.regions)
    assert "failing, 3 pending: the registry 127.0.0.1:5002 is full" in text and "12.3 s" in text
    assert "home" in text and "unknown" in text


def test_a_replicator_that_is_down_is_no_reason_not_to_ask_the_registries() -> None:
    _, found = asked(FakeRegistry(), FakeRegistry(), replication="http://127.0.0.1:1")
    assert [one.replication for one in found.regions] == [None, None]


def test_an_estate_that_names_no_replicator_cannot_be_told_to_reconcile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registries_module, "read_environments", lambda _: (environment(),))
    with pytest.raises(BadInput, match="names nobody who replicates"):
        asyncio.run(registries_module.reconcile("test", reporter=SilentReporter()))

"""Lock and purge on a plain docker-registry in memory, and on a registry that speaks ACR's protocol."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from azure_registry import AzureStandIn, Trouble, azure_registry
from fake_registry import FakeRegistry
from ledger_entries import happened, write
from oci import layer, write_image
from real_registry import free_port, registry_on
from rich.console import Console
from typer.testing import CliRunner, Result

from ci.commands.cli import app
from ci.delivery.ledger import Event, alone
from ci.delivery.results import TargetStatus
from ci.environments import read_environment
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable
from ci.files import write_whole
from ci.registry import AzureRegistry, Registry, artifact, open_archive, push
from ci.release import Chart, Commit, Image, Release, ScanSummary, TestSummary
from ci.reporting import SilentReporter, Step, StepStatus
from ci.supply.attestations import RELEASES, release_bundle, sbom, scan_report
from pipelines.registries import EstateRegistries
from pipelines.retention import (
    Purged,
    lock,
    needed_by,
    purge,
    purge_estate,
    show_locked,
    show_purged,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SINCE = NOW - timedelta(days=30)

needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed"
)


async def publish(registry: Registry, folder: Path, name: str, *, days: int, text: str = "") -> Release:
    """A release of one image (an index) with two attestations, and a chart; made `days` before now."""
    created = NOW - timedelta(days=days)
    write_image(folder / f"{name}.tar", layer(a=text or name), nested=True)
    image = open_archive(folder / f"{name}.tar")
    attached = [one.bundle(image.root.descriptor) for one in (sbom(b"{}"), scan_report(b"{}"))]
    chart = artifact(artifact_type="x/chart", layers=(("x/chart", (text or name).encode(), {}),))
    await push(registry, "api", image, tags=[name])
    for one in attached:
        await push(registry, "api", one)
    await push(registry, "voice-assistant", chart, tags=[name])
    release = Release(
        name=name,
        created=created,
        commit=Commit(sha="a" * 40, dirty=False, time=created),
        engine="embedded",
        images=(
            Image(
                name="api",
                digest=image.digest,
                size=1,
                tests=TestSummary(passed=1, failed=0, skipped=0),
                scan=ScanSummary(
                    vulnerabilities=None, misconfigurations={}, secrets=0, licences={}, packages=1
                ),
                attestations={"sbom": attached[0].digest, "scan": attached[1].digest},
            ),
        ),
        chart=Chart(name="voice-assistant", version="1.0.0", digest=chart.digest),
    )
    await push(registry, RELEASES, release_bundle(release), tags=[name])
    return release


async def is_whole(registry: Registry, release: Release) -> bool:
    """Whether all that a release names can be pulled."""
    image = release.images[0]
    wanted = [
        (RELEASES, release_bundle(release).digest),
        ("voice-assistant", release.chart.digest),
        ("api", image.digest),
        *(("api", digest) for digest in image.attestations.values()),
    ]
    found = [await registry.find_manifest(name, digest) for name, digest in wanted]
    if found[2] is not None:
        found += [await registry.find_manifest("api", child.digest) for child in found[2].manifests]
        referrers = {one.digest for one in await registry.referrers("api", image.digest)}
        if not set(image.attestations.values()) <= referrers:
            return False
    return all(found)


async def do_purge(registry: Registry, *, keep: int = 1, **how: object) -> Purged:
    needed: Mapping[str, str] = how.pop("needed", {})  # type: ignore[assignment]
    (done,) = await purge(
        [registry],
        keep=keep,
        since=SINCE,
        needed=needed,
        reporter=SilentReporter(),
        **how,  # type: ignore[arg-type]
    )
    return done


def text_of(shown: object) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(shown)
    return console.export_text()


class Plain:
    """A registry in memory."""

    def __init__(self) -> None:
        self.server = FakeRegistry()

    def client(self) -> Registry:
        return Registry("127.0.0.1:5999", transport=self.server)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureStandIn]:
    with azure_registry(tmp_path_factory.mktemp("acr")) as server:
        yield server


@pytest.fixture
def azure(server: AzureStandIn) -> AzureStandIn:
    """Empty, and its clock stands at a time long ago."""
    server.reset()
    server.now = lambda: (NOW - timedelta(days=100)).timestamp()
    return server


def acr(server: AzureStandIn) -> AzureRegistry:
    return AzureRegistry(server.endpoint, credential=server.entra)


def test_a_plain_registry_keeps_the_newest_whole_and_forgets_the_old(tmp_path: Path) -> None:
    async def main() -> None:
        async with Plain().client() as registry:
            old = await publish(registry, tmp_path, "r1", days=90)
            running = await publish(registry, tmp_path, "r2", days=80)
            new = await publish(registry, tmp_path, "r3", days=1)
            needed = {"r2": "runs on prod/eastus"}
            planned = await do_purge(registry, needed=needed, dry_run=True)
            assert all([await is_whole(registry, one) for one in (old, running, new)])
            done = await do_purge(registry, needed=needed)
            assert planned.gone == done.gone and done.releases == ("r1",)
            assert await is_whole(registry, running) and await is_whole(registry, new)
            for name, digest in [("api", old.images[0].digest), ("voice-assistant", old.chart.digest)]:
                assert await registry.find_manifest(name, digest) is None
            assert await registry.tags("api") == tuple(
                sorted(["r2", "r3", *(one.images[0].digest.replace(":", "-") for one in (running, new))])
            )
            assert done.gone[0].repository == RELEASES, "its record goes first: nobody promotes a half"
            again = await do_purge(registry, needed=needed)
            assert not again.gone and not again.releases
            text = text_of(show_purged([done]))
            assert "stays    release r2: runs on prod/eastus" in text and "gone     release r1" in text

    asyncio.run(main())


def test_what_an_old_and_a_kept_release_share_stays(tmp_path: Path) -> None:
    async def main() -> None:
        async with Plain().client() as registry:
            await publish(registry, tmp_path, "r1", days=90, text="same")
            new = await publish(registry, tmp_path, "r2", days=1, text="same")
            done = await do_purge(registry)
            assert done.releases == ("r1",)
            assert [one.repository for one in done.gone] == [RELEASES]
            assert await is_whole(registry, new)

    asyncio.run(main())


def test_a_purge_that_was_killed_goes_on(tmp_path: Path) -> None:
    plain = Plain()

    async def main() -> None:
        async with plain.client() as registry:
            old = await publish(registry, tmp_path, "r1", days=90)
            await publish(registry, tmp_path, "r2", days=1)
            plain.server.fail("DELETE", "/v2/api", *[httpx.Response(403)] * 9)
            with pytest.raises(SystemUnavailable, match="403"):
                await do_purge(registry)
            plain.server.faults.clear()
            assert await registry.find_manifest(RELEASES, "r1") is None
            left = (await do_purge(registry)).left
            assert {one.why for one in left} == {"of unknown age"}
            done = await do_purge(registry, made={"r1": old.created})
            assert "r1" in {tag for one in done.gone for tag in one.tags}
            assert "r1" not in await registry.tags("api")

    asyncio.run(main())


def test_nothing_is_removed_while_a_release_cannot_be_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with Plain().client() as registry:
            old = await publish(registry, tmp_path, "r1", days=90)
            await publish(registry, tmp_path, "r2", days=1)
            strange = artifact(
                artifact_type=release_bundle(old).root.artifact_type,
                layers=(("application/x", b'{"name": "from the future"}', {}),),
            )
            await push(registry, RELEASES, strange, tags=["r9"])
            with pytest.raises(SystemUnavailable, match=r"nothing was removed.*is no release we know"):
                await do_purge(registry)
            assert await is_whole(registry, old)

    asyncio.run(main())


@needs_registry
def test_a_real_docker_registry_forgets_the_same(tmp_path: Path) -> None:
    async def main(endpoint: str) -> None:
        async with Registry(endpoint) as registry:
            old = await publish(registry, tmp_path, "r1", days=90)
            new = await publish(registry, tmp_path, "r2", days=1)
            done = await do_purge(registry)
            assert done.releases == ("r1",)
            # Its record and chart; the image: index, child, two attestations and the list of these.
            assert len(done.gone) == 7
            for one in done.gone:
                assert await registry.find_manifest(one.repository, one.digest) is None
            assert await registry.find_manifest("api", "r1") is None
            assert await registry.referrers("api", old.images[0].digest) == ()
            assert await is_whole(registry, new)
            assert not (await do_purge(registry)).gone

    with registry_on(tmp_path / "registry", free_port()) as endpoint:
        asyncio.run(main(endpoint))


@needs_registry
def test_azure_forgets_old_and_untagged_manifests_page_after_page(
    tmp_path: Path, azure: AzureStandIn
) -> None:
    azure.page = 2

    async def main() -> None:
        async with acr(azure) as registry:
            old = await publish(registry, tmp_path, "r1", days=90)
            running = await publish(registry, tmp_path, "r2", days=80)
            orphan = artifact(artifact_type="x/orphan", layers=())
            await push(registry, "api", orphan)
            azure.now = lambda: NOW.timestamp()
            new = await publish(registry, tmp_path, "r3", days=1)
            fresh = artifact(artifact_type="x/fresh", layers=())
            await push(registry, "api", fresh)  # as of a release that is being published just now
            done = await do_purge(registry, needed={"r2": "runs on prod/eastus"})
            assert done.releases == ("r1",)
            assert await is_whole(registry, running) and await is_whole(registry, new)
            gone = {one.digest for one in done.gone}
            assert {orphan.digest, old.images[0].digest, old.chart.digest} <= gone
            assert [one.digest for one in done.left] == [fresh.digest]
            held = {one.digest for one in await registry.held("api")}
            assert not held & gone and fresh.digest in held
            assert not (await do_purge(registry, needed={"r2": "runs"})).gone

    asyncio.run(main())


@needs_registry
def test_a_locked_release_stays_whole_until_it_is_asked_for(tmp_path: Path, azure: AzureStandIn) -> None:
    async def main() -> None:
        async with acr(azure) as registry:
            old = await publish(registry, tmp_path, "r1", days=90)
            (locked,) = await lock([registry], old, reporter=SilentReporter())
            # Its record, the chart, the image: its index, the child, two attestations.
            assert (locked.manifests, locked.new, locked.tags) == (6, 6, 3)
            (again,) = await lock([registry], old, reporter=SilentReporter())
            assert (again.manifests, again.new) == (6, 0)
            assert "r1" in text_of(show_locked([locked]))
            other = artifact(artifact_type="x/y", layers=())
            with pytest.raises(SystemUnavailable, match="disallowed"):
                await push(registry, "api", other, tags=["r1"])
            azure.now = lambda: NOW.timestamp()
            await publish(registry, tmp_path, "r2", days=1)
            kept = await do_purge(registry)
            assert {one.release: one.why for one in kept.kept}["r1"] == "its record is locked"
            assert await is_whole(registry, old)
            assert [one.digest for one in kept.gone] == [other.digest]  # its tag had been refused
            done = await do_purge(registry, include_locked=True)
            assert done.releases == ("r1",) and len(done.gone) == 6
            assert not await is_whole(registry, old)

    asyncio.run(main())


@needs_registry
def test_a_release_whose_tag_was_moved_is_not_locked(tmp_path: Path, azure: AzureStandIn) -> None:
    async def main() -> None:
        async with acr(azure) as registry:
            release = await publish(registry, tmp_path, "r1", days=1)
            await push(registry, "api", artifact(artifact_type="x/y", layers=()), tags=["r1"])
            with pytest.raises(PolicyBlocked, match="api:r1 was moved from"):
                await lock([registry], release, reporter=SilentReporter())
            assert not any(one.locked for one in await registry.held("api"))

    asyncio.run(main())


@needs_registry
def test_a_lock_that_was_interrupted_goes_on(tmp_path: Path, azure: AzureStandIn) -> None:
    async def main() -> None:
        async with acr(azure) as registry:
            release = await publish(registry, tmp_path, "r1", days=1)
            azure.troubles.append(Trouble("PATCH /acr/v1/api/_manifests", status=403, times=1))
            with pytest.raises(SystemUnavailable, match="refused"):
                await lock([registry], release, reporter=SilentReporter())
            (done,) = await lock([registry], release, reporter=SilentReporter())
            assert 0 < done.new <= 6
            assert all(one.locked for one in await registry.held("api"))

    asyncio.run(main())


def test_a_release_that_is_not_there_or_a_registry_without_locks_is_bad_input(tmp_path: Path) -> None:
    async def main() -> None:
        async with Plain().client() as registry:
            release = await publish(registry, tmp_path, "r1", days=1)
            with pytest.raises(BadInput, match="has no locks"):
                await lock([registry], release, reporter=SilentReporter())
        async with Plain().client() as empty:
            with pytest.raises(BadInput, match="is not in the registry"):
                await lock([empty], release, reporter=SilentReporter())

    asyncio.run(main())


def test_endpoints_of_one_registry_are_purged_once(tmp_path: Path) -> None:
    plain = Plain()

    class Regional(Registry):
        @property
        def name(self) -> str:
            return "one"

    async def main() -> None:
        both = [Regional(f"127.0.0.1:{port}", transport=plain.server) for port in (5998, 5999)]
        await publish(both[0], tmp_path, "r1", days=90)
        done = await purge(both, keep=1, since=SINCE, needed={}, reporter=SilentReporter())
        assert [one.registry for one in done] == ["one"]

    asyncio.run(main())


def test_targets_and_the_ledger_say_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    before = happened(Event.PROMOTED, target="prod/eastus", release="before", time=SINCE - timedelta(1))
    write("prod", before)
    target = TargetStatus(
        target="prod/eastus",
        release="now",
        state="deployed",
        revision=3,
        digests={"api": "sha256:" + "a" * 64, "agent": ""},
        pods="1/1",
        canary="next",
        weight=10,
    )
    needed, running = asyncio.run(needed_by("local", [target], since=SINCE))
    assert needed == {
        "now": "runs on prod/eastus",
        "next": "is the canary on prod/eastus",
        "before": "was promoted last to prod/eastus",
    }
    assert running == {("api", "sha256:" + "a" * 64)}


def test_what_runs_by_digest_stays_though_no_release_names_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with Plain().client() as registry:
            old = await publish(registry, tmp_path, "r1", days=90)
            await publish(registry, tmp_path, "r2", days=1)
            done = await do_purge(registry, running={("api", old.images[0].digest)})
            assert done.releases == ("r1",)
            assert await registry.find_manifest("api", old.images[0].digest)
            assert len(await registry.referrers("api", old.images[0].digest)) == 2

    asyncio.run(main())


@pytest.fixture
def estate(azure: AzureStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AzureStandIn:
    """The local estate, with the stand-in as its only registry and one target that runs r2."""
    running = TargetStatus(
        target="prod/eastus",
        release="r2",
        state="deployed",
        revision=1,
        digests={},
        pods="1/1",
        canary=None,
        weight=0,
    )

    async def status(*_: object, **__: object) -> tuple[TargetStatus, ...]:
        return (running,)

    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("pipelines.registries.registry_at", lambda _: acr(azure))
    monkeypatch.setattr("pipelines.retention.status", status)

    async def releases() -> None:
        async with acr(azure) as registry:
            for name, days in (("r1", 3000), ("r2", 2000), ("r3", 1000)):
                release = await publish(registry, tmp_path, name, days=days)
                write_whole(tmp_path / f"state/releases/{name}.json", release.model_dump_json())

    asyncio.run(releases())
    return azure


@needs_registry
def test_the_commands_print_what_they_did(estate: AzureStandIn) -> None:
    def va(*words: str) -> Result:
        return CliRunner().invoke(app, ["registry", *words])

    done = va("lock", "r3", "--json")
    assert done.exit_code == 0, done.output
    assert [(one["manifests"], one["new"]) for one in json.loads(done.stdout)] == [(6, 6)]

    done = va("purge", "--keep", "1", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "would go release r1" in done.stdout
    assert "stays    release r2: runs on prod/eastus" in done.stdout
    assert "stays    release r3: one of the 1 newest" in done.stdout
    assert not estate.count("^DELETE ")

    done = va("purge", "--keep", "1", "--json")
    assert done.exit_code == 0, done.output
    (purged,) = json.loads(done.stdout)
    assert (purged["releases"], purged["dry_run"], len(purged["gone"])) == (["r1"], False, 6)
    assert sorted(tag for one in estate.manifests["api"].values() for tag in one.tags) == ["r2", "r3"]

    with alone(read_environment("local", "prod")):
        done = va("purge", "--keep", "1")
    assert done.exit_code == 8 and "is being worked on by" in done.output


class Told(SilentReporter):
    """Remembers its steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @contextmanager
    def step(self, name: str, *, under: Step | None = None) -> Iterator[Step]:
        with super().step(name, under=under) as step:
            self.steps.append(step)
            yield step


@pytest.mark.parametrize("replica", ["follows", "lags", "is down"])
def test_where_somebody_replicates_only_the_home_is_purged_and_replicas_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replica: str
) -> None:
    home, away = FakeRegistry(), FakeRegistry()
    reporter = Told()

    async def main() -> None:
        async with (
            Registry("127.0.0.1:5998", transport=home) as at_home,
            Registry("127.0.0.1:5999", transport=away, attempts=1) as there,
        ):
            await publish(at_home, tmp_path, "r1", days=3000)
            await publish(at_home, tmp_path, "r2", days=2000)
            away.blobs, away.manifests = dict(home.blobs), dict(home.manifests)
            registries = EstateRegistries(
                home=at_home,
                regions={"eastus": at_home, "westeurope": there},
                replication="http://127.0.0.1:1",
                deadline=20.0 if replica == "follows" else 0.0,
            )

            def late(_: httpx.Request) -> httpx.Response | None:
                if replica == "is down":
                    return httpx.Response(503)
                if replica == "follows" and len(away.asked) > 7:
                    away.manifests = dict(home.manifests)
                return None

            @asynccontextmanager
            async def estate_registries(_: str) -> AsyncIterator[EstateRegistries]:
                yield registries

            async def status(*_: object, **__: object) -> tuple[TargetStatus, ...]:
                return ()

            monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
            monkeypatch.setattr("pipelines.retention.estate_registries", estate_registries)
            monkeypatch.setattr("pipelines.retention.status", status)
            monkeypatch.setattr("pipelines.retention._PAUSE", 0.001)
            away.gate = late
            (done,) = await purge_estate("local", keep=1, older_than=timedelta(30), reporter=reporter)
            assert done.registry == "127.0.0.1:5998" and done.releases == ("r1",) and len(done.gone) == 7
            assert home.count("DELETE") == 7 and away.count("DELETE") == 0

    asyncio.run(main())
    _, last = reporter.steps
    assert "westeurope" in last.name
    assert (last.status, last.detail.partition(":")[0]) == {
        "follows": (StepStatus.DONE, "7 of 7 manifests are gone"),
        "lags": (StepStatus.SKIPPED, "7 of 7 manifests are there still"),
        "is down": (StepStatus.SKIPPED, "the registry 127.0.0.1"),
    }[replica]


@needs_registry
def test_a_target_that_does_not_answer_stops_a_purge(
    estate: AzureStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def status(*_: object, **__: object) -> tuple[TargetStatus, ...]:
        raise SystemUnavailable("the cluster of prod/eastus does not answer")

    monkeypatch.setattr("pipelines.retention.status", status)
    done = CliRunner().invoke(app, ["registry", "purge", "--keep", "1"])
    assert done.exit_code == 6 and "does not answer" in done.output
    assert not estate.count("^DELETE ")

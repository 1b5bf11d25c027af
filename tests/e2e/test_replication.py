"""Replication between real registries by the platform's own replicator: lag, losses, a dead replica."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from oci import layer, write_image
from real_registry import Replicator, free_port, registry_on
from regions import a_release
from waiting import until_async

from ci.registry import Registry, artifact, open_archive, push
from ci.release import Release
from ci.reporting import SilentReporter
from ci.supply.attestations import release_bundle, sbom
from ci.supply.availability import State, contents, survey, wait_until_there
from ci.supply.replication import Pace, Replica, ask_replicator, tell_to_reconcile
from pipelines.registries import AvailableIn, EstateRegistries, available_in, where_available
from pipelines.retention import purge

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed"),
]
WEST, ASIA = "westeurope", "southeastasia"
PATIENCE = 60.0
"""Seconds that a region may take for what has to come: nobody waits for as long as that."""


@dataclass
class World:
    """Three registries and what replicates between them; all can be stopped and started again."""

    folder: Path
    ports: dict[str, int]
    replicator: Replicator
    stack: ExitStack
    stops: dict[str, ExitStack]
    reconcile_every: float = 1000.0
    """Seconds; never within a test unless it says so."""

    def start(self, name: str) -> None:
        self.stops[name] = self.stack.enter_context(ExitStack())
        if name == "replicator":
            running = self.replicator.running(reconcile_every=self.reconcile_every)
            self.stops[name].enter_context(running)
            return
        notify = f"{self.replicator.address}/events" if name == "eastus" else ""
        self.stops[name].enter_context(registry_on(self.folder / name, self.ports[name], notify=notify))

    def stop(self, name: str) -> None:
        """As kill -9 does."""
        self.stops[name].close()

    @asynccontextmanager
    async def registries(self, deadline: float = PATIENCE) -> AsyncIterator[EstateRegistries]:
        async with AsyncExitStack() as stack:
            clients = {
                region: await stack.enter_async_context(Registry(f"127.0.0.1:{port}", attempts=2))
                for region, port in self.ports.items()
            }
            yield EstateRegistries(
                home=clients["eastus"],
                regions=clients,
                replication=self.replicator.address,
                deadline=deadline,
            )

    async def available(self, release: Release, deadline: float = PATIENCE) -> AvailableIn:
        async with self.registries(deadline) as registries:
            return await available_in(registries, release, reporter=SilentReporter())

    async def arrived(self, release: Release, region: str) -> None:
        """Wait until that region has all of it."""
        async with self.registries() as registries:
            what = await survey(registries.home, contents(release))
            said = await wait_until_there(registries.regions[region], what, deadline=PATIENCE)
        assert said.state is State.THERE, said

    async def state(self, region: str) -> Replica:
        return (await ask_replicator(self.replicator.address))[region]

    async def until(self, region: str, pace: Pace, seconds: float = 60.0) -> Replica:
        deadline = time.monotonic() + seconds
        while (now := await self.state(region)).pace is not pace:
            assert time.monotonic() < deadline, now
            await asyncio.sleep(0.05)
        return now


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    ports = {region: free_port() for region in ("eastus", WEST, ASIA)}
    replicas = {region: f"127.0.0.1:{ports[region]}" for region in (WEST, ASIA)}
    replicator = Replicator(tmp_path, free_port(), f"127.0.0.1:{ports['eastus']}", replicas)
    with ExitStack() as stack:
        made = World(tmp_path, ports, replicator, stack, {})
        for name in (*ports, "replicator"):
            made.start(name)
        asyncio.run(made.until(WEST, Pace.IN_STEP))
        asyncio.run(made.until(ASIA, Pace.IN_STEP))
        yield made


async def publish(
    home: Registry, folder: Path, name: str = "r1", *, between: Callable[[], Awaitable[None]] | None = None
) -> Release:
    """An image of some megabytes, a chart and the release; `between` is awaited before the release goes."""
    content = layer(b=name * 100_000)
    write_image(folder / f"{name}.tar", layer(a="1"), content, bytes(3_000_000) + content, nested=True)
    image = open_archive(folder / f"{name}.tar")
    note = sbom(b"{}").bundle(image.root.descriptor)
    chart = artifact(artifact_type="x/chart", layers=(("x/y", b"chart", {}),))
    release = a_release(name, image, chart, {"sbom": note})
    await push(home, "api", image, tags=[name])
    await push(home, "api", note)
    await push(home, "chart", chart, tags=[name])
    if between:
        await between()
    await push(home, "releases", release_bundle(release), tags=[name])
    return release


def test_what_is_pushed_to_one_endpoint_is_in_every_region(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with world.registries() as registries:
            release = await publish(registries.home, tmp_path)
            found = await available_in(registries, release, reporter=SilentReporter())
            assert found.there == ("eastus", WEST, ASIA) and where_available(release) == found
            digest = release.images[0].digest
            raw = [(await one.manifest("api", digest)).raw for one in registries.regions.values()]
            assert raw[0] == raw[1] == raw[2]
            for one in registries.regions.values():
                (attached,) = await one.referrers("api", digest)
                assert attached.digest == release.images[0].attestations["sbom"]
                assert (await one.manifest("api", "r1")).descriptor.digest == digest
            state = await world.until(WEST, Pace.IN_STEP)
            assert state.last_event and state.last_copied and state.lag == 0

    asyncio.run(main())


def test_a_region_that_lags_past_the_deadline_is_left_behind_and_catches_up(
    world: World, tmp_path: Path
) -> None:
    async def main() -> None:
        world.replicator.set(ASIA, delay=3600)
        async with world.registries(deadline=2.0) as registries:
            release = await publish(registries.home, tmp_path)
            await world.arrived(release, WEST)
            found = await available_in(registries, release, reporter=SilentReporter())
            assert found.there == ("eastus", WEST)
            (lagging,) = found.lacking
            assert (lagging.region, lagging.has.state) == (ASIA, State.LAGGING)
            assert f"api@{release.images[0].digest}" in lagging.has.missing
            assert 1.0 < lagging.has.seconds < 60.0
            assert lagging.replication is not None and lagging.replication.pace is Pace.BEHIND
            assert lagging.replication.pending >= 4 and lagging.replication.lag > 1
        world.replicator.set(ASIA)
        assert (await world.available(release)).there == ("eastus", WEST, ASIA)

    asyncio.run(main())


def test_events_that_come_in_any_order_lead_to_the_same(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        world.replicator.set(WEST, shuffle=True, delay=0.5)
        world.replicator.set(ASIA, shuffle=True)
        async with world.registries() as registries:
            releases = [await publish(registries.home, tmp_path, f"r{number}") for number in (1, 2, 3)]
        for release in releases:
            assert len((await world.available(release)).there) == 3

    asyncio.run(main())


def test_a_lost_event_is_seen_and_a_comparison_brings_it(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async def lose() -> None:
            await world.until(WEST, Pace.IN_STEP)
            world.replicator.set(WEST, lose=1)

        async with world.registries() as registries:
            release = await publish(registries.home, tmp_path, between=lose)
            found = await available_in(registries, release, reporter=SilentReporter())
            # The event of the release under its digest was lost, that under its tag brings it all the same …
            assert found.there == ("eastus", WEST, ASIA)
            world.replicator.set(WEST, lose=100)
            other = await publish(registries.home, tmp_path, "r2")
        await world.arrived(other, ASIA)
        found = await world.available(other, deadline=1.0)
        # … but not when all are lost: the replicator knows nothing, the proof does.
        assert found.there == ("eastus", ASIA)
        (lacking,) = found.lacking
        assert lacking.replication is not None and lacking.replication.pace is Pace.IN_STEP
        assert len(lacking.has.missing) >= 5
        await tell_to_reconcile(world.replicator.address)
        assert len((await world.available(other)).there) == 3

    asyncio.run(main())


async def two_everywhere(registries: EstateRegistries, folder: Path) -> tuple[Release, Release]:
    one, other = [await publish(registries.home, folder, name) for name in ("r1", "r2")]
    for release in (one, other):
        found = await available_in(registries, release, reporter=SilentReporter())
        assert len(found.there) == 3
    return one, other


async def same_tags(registries: EstateRegistries, replica: Registry) -> bool:
    names = await registries.home.repositories()
    # docker-registry lists them in no order.
    return all([set(await replica.tags(name)) == set(await registries.home.tags(name)) for name in names])


def test_what_is_purged_at_home_goes_from_every_region(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with world.registries(deadline=60.0) as registries:
            old, kept = await two_everywhere(registries, tmp_path)
            (done,) = await purge(
                [registries.home],
                keep=1,
                since=datetime(2026, 2, 1, tzinfo=UTC),
                needed={},
                reporter=SilentReporter(),
            )
            assert done.releases == ("r1",) and len(done.gone) == 5
            image = old.images[0]
            for region in (WEST, ASIA):
                replica = registries.regions[region]

                async def gone(replica: Registry = replica) -> bool:
                    still = [await replica.find_manifest(one.repository, one.digest) for one in done.gone]
                    attached = await replica.referrers(image.name, image.digest)
                    return not any(still) and not attached and await same_tags(registries, replica)

                await until_async(gone)
                await world.until(region, Pace.IN_STEP)
            found = await available_in(registries, kept, reporter=SilentReporter())
            assert found.there == ("eastus", WEST, ASIA)

    asyncio.run(main())


def test_a_lost_deletion_is_mended_by_a_comparison(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with world.registries(deadline=60.0) as registries:
            old, kept = await two_everywhere(registries, tmp_path)
            await world.until(WEST, Pace.IN_STEP)
            world.replicator.set(WEST, lose=1000)
            image = old.images[0]
            index = await registries.home.manifest(image.name, image.digest)
            listed = await registries.home.manifest(image.name, image.digest.replace(":", "-"))
            digests = [image.digest, *(one.digest for one in index.manifests), image.attestations["sbom"]]
            for digest in (*digests, listed.descriptor.digest):
                await registries.home.remove(image.name, digest)
            west, asia = registries.regions[WEST], registries.regions[ASIA]
            await until_async(lambda: same_tags(registries, asia))
            assert all([await west.find_manifest(image.name, digest) for digest in digests])
            await tell_to_reconcile(world.replicator.address)
            assert await same_tags(registries, west)
            for replica in (west, asia):
                assert not any([await replica.find_manifest(image.name, digest) for digest in digests])
            found = await available_in(registries, kept, reporter=SilentReporter())
            assert found.there == ("eastus", WEST, ASIA)

    asyncio.run(main())


def test_a_replica_that_is_down_during_a_push_stops_nobody_and_is_brought_up_to_date(
    world: World, tmp_path: Path
) -> None:
    async def main() -> None:
        world.stop(ASIA)
        async with world.registries(deadline=2.0) as registries:
            release = await publish(registries.home, tmp_path)
            await world.arrived(release, WEST)
            found = await available_in(registries, release, reporter=SilentReporter())
        assert found.there == ("eastus", WEST)
        (down,) = found.lacking
        assert down.has.state is State.DOWN and "did not answer" in down.has.problem
        failing = await world.until(ASIA, Pace.FAILING)
        assert failing.pending >= 4 and str(world.ports[ASIA]) in failing.problem
        world.start(ASIA)
        assert len((await world.available(release)).there) == 3
        assert (await world.until(ASIA, Pace.IN_STEP)).problem == ""

    asyncio.run(main())


@pytest.mark.parametrize("who", ["replicator", "eastus"])
def test_who_is_killed_in_the_middle_of_it_loses_nothing(world: World, tmp_path: Path, who: str) -> None:
    """Neither the replicator's memory nor that of the home registry's notifications is needed."""
    # The home registry may die before it has told of all: the next comparison finds it.
    world.stop("replicator")
    world.reconcile_every = 1.0
    world.start("replicator")

    async def main() -> None:
        await world.until(WEST, Pace.IN_STEP)
        await world.until(ASIA, Pace.IN_STEP)
        for region in (WEST, ASIA):
            world.replicator.set(region, delay=3600)
        async with world.registries() as registries:
            release = await publish(registries.home, tmp_path)
        await world.until(WEST, Pace.BEHIND)
        world.stop(who)
        if who == "eastus":
            for region in (WEST, ASIA):
                world.replicator.set(region)
            await world.until(WEST, Pace.FAILING)
        world.start(who)
        assert len((await world.available(release)).there) == 3

    asyncio.run(main())


def test_while_the_home_is_down_the_others_still_prove_what_they_have(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with world.registries() as registries:
            release = await publish(registries.home, tmp_path)
        assert len((await world.available(release)).there) == 3
        world.stop("eastus")
        assert (await world.available(release, deadline=0)).there == (WEST, ASIA)

    asyncio.run(main())


def test_an_interrupted_push_leaves_nothing_that_is_there_anywhere(world: World, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    async def stop() -> None:
        raise Stopped

    async def main() -> None:
        made: list[Release] = []
        async with world.registries() as registries:
            with pytest.raises(Stopped):
                await publish(registries.home, tmp_path, between=stop)
            complete = await publish(registries.home, tmp_path, "r2")
            unfinished = complete.model_copy(update={"name": "r1"})
            made.append(unfinished)
            assert len((await available_in(registries, complete, reporter=SilentReporter())).there) == 3
        assert (await world.available(made[0], deadline=0)).there == ()

    asyncio.run(main())


def test_a_tampered_layer_of_a_replica_is_not_called_there(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with world.registries() as registries:
            release = await publish(registries.home, tmp_path)
            assert len((await available_in(registries, release, reporter=SilentReporter())).there) == 3
            what = await survey(registries.home, contents(release))
            digest = release.images[0].digest
            stored = next((tmp_path / WEST).rglob(f"{digest[7:]}/data"))
            stored.write_bytes(stored.read_bytes().replace(b"amd64", b"arm64") + b" ")
            said = await wait_until_there(registries.regions[WEST], what, deadline=0)
            assert said.state is State.DOWN and said.problem

    asyncio.run(main())

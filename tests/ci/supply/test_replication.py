"""Replication and its proof, with registries in memory: whatever order events come in, whatever is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from fake_registry import FakeRegistry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from regions import Regions, two_releases

from benches.publishing import InRounds
from ci.concurrency import together
from ci.errors import BadInput
from ci.registry import Registry, artifact, push
from ci.release import Release
from ci.supply.attestations import release_bundle
from ci.supply.availability import Availability, Contents, State, contents, prove, survey, wait_until_there
from ci.supply.replication import Copier, Downloads, Event, Replicated, Visited, reconcile

T = TypeVar("T")


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Regions:
    return two_releases(tmp_path_factory.mktemp("images"))


async def follow(regions: Regions, events: list[Event]) -> Replicated:
    """Have what these events are about as it is at home, as the replicator does."""
    home, away = regions.clients()
    async with home, away:
        copier, visited = Copier(home, away), Visited()
        done = [await copier.follow(event, visited) for event in sorted(set(events))]
        return sum(done, Replicated(manifests=0, blobs=0, bytes_sent=0))


async def ask(regions: Regions, release: Release | Contents) -> Availability:
    _, away = regions.clients()
    async with away:
        return await prove(away, release)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_events_in_any_order_and_more_than_once_lead_to_the_same(made: Regions, data: st.DataObject) -> None:
    regions = made.fresh()
    order = data.draw(st.permutations(list(made.events)))
    for event in [*order, data.draw(st.sampled_from(made.events))]:
        run(follow(regions, [event]))
    assert regions.same()
    assert all(run(ask(regions, release)).state is State.THERE for release in made.releases)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_lost_events_leave_behind_is_said_and_mended_by_a_reconcile(
    made: Regions, data: st.DataObject
) -> None:
    regions = made.fresh()
    kept = data.draw(st.lists(st.sampled_from(made.events), unique=True))
    for event in kept:
        run(follow(regions, [event]))
    # The proof is right: what it calls there is there, byte by byte.
    for release in made.releases:
        if run(ask(regions, release)).state is State.THERE:
            image = release.images[0]
            for wanted in (image.digest, *image.attestations.values()):
                assert regions.away.manifests["api", wanted] == regions.home.manifests["api", wanted]
            assert ("chart", release.chart.digest) in regions.away.manifests

    async def mend() -> None:
        home, away = regions.clients()
        async with home, away:
            await reconcile(home, away)

    run(mend())
    assert regions.same()


def has_all(server: FakeRegistry, release: Release) -> bool:
    """Whether that registry has all of a release: looked up in its memory, not asked by our own means."""

    def whole(repository: str, reference: str) -> bool:
        if (repository, reference) not in server.manifests:
            return False
        fields = json.loads(server.manifests[repository, reference][1])
        blobs = [*([fields["config"]] if "config" in fields else []), *fields.get("layers", [])]
        return all((repository, one["digest"]) in server.blobs for one in blobs) and all(
            whole(repository, one["digest"]) for one in fields.get("manifests", [])
        )

    (image,) = release.images
    index = server.manifests.get((image.name, image.digest.replace(":", "-")))
    listed = {one["digest"] for one in json.loads(index[1])["manifests"]} if index else set()
    wanted = set(image.attestations.values())
    return (
        whole(image.name, image.digest)
        and whole(release.chart.name, release.chart.digest)
        and whole("releases", release_bundle(release).digest)
        and all(whole(image.name, digest) for digest in wanted)
        and wanted <= listed
    )


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_check_is_right_after_any_events_in_any_order_and_any_damage(
    made: Regions, data: st.DataObject
) -> None:
    regions = made.fresh()
    run(follow(regions, list(made.events)) if data.draw(st.booleans()) else asyncio.sleep(0))
    for event in data.draw(st.lists(st.sampled_from(made.events), unique=True)):
        run(follow(regions, [event]))
    away = regions.away
    if away.blobs and data.draw(st.booleans()):
        del away.blobs[data.draw(st.sampled_from(sorted(away.blobs)))]
    if away.manifests and data.draw(st.booleans()):
        del away.manifests[data.draw(st.sampled_from(sorted(away.manifests)))]

    async def known() -> Contents:
        home, _ = regions.clients()
        async with home:
            return await survey(home, contents(release))

    for release in made.releases:
        truth = State.THERE if has_all(away, release) else State.LAGGING
        assert run(ask(regions, release)).state is truth
        assert run(ask(regions, run(known()))).state is truth


@pytest.mark.parametrize("known", [True, False])
def test_a_region_is_asked_for_everything_at_once(made: Regions, known: bool) -> None:
    async def main() -> tuple[Availability, InRounds]:
        asked = InRounds(made.home, quiet=0.02)
        home, _ = made.clients()
        async with home, Registry("127.0.0.1:5002", transport=asked) as region:
            what = contents(made.releases[0])
            return await prove(region, await survey(home, what) if known else what), asked

    said, asked = run(main())
    assert said.state is State.THERE and asked.asked > 12
    assert asked.rounds == (1 if known else 2)


def test_what_was_found_before_is_not_asked_for_again(made: Regions) -> None:
    regions = made.fresh()
    release = made.releases[0]
    run(follow(regions, list(made.events)))

    async def twice() -> None:
        home, away = regions.clients()
        async with home, away:
            what = await survey(home, contents(release))
            found: set[str] = set()
            lost = ("chart", release.chart.digest)
            kept = regions.away.manifests.pop(lost)
            first = await prove(away, what, found=found)
            assert first.missing == (f"chart@{release.chart.digest}",)
            regions.away.manifests[lost] = kept
            regions.away.asked.clear()
            second = await prove(away, what, found=found)
            assert second.state is State.THERE and second.checked == first.checked + 1
            assert [path for _, path in regions.away.asked] == [f"/v2/chart/manifests/{release.chart.digest}"]

    run(twice())


def test_a_release_is_there_only_when_its_own_record_is(made: Regions) -> None:
    """It goes last: a push that was interrupted before has no release that could be promoted."""
    regions = made.fresh()
    run(follow(regions, [event for event in made.events if event.repository != "releases"]))
    said = run(ask(regions, made.releases[0]))
    digest = release_bundle(made.releases[0]).digest
    assert said.state is State.LAGGING and f"releases@{digest}" in said.missing
    assert all(name.startswith("releases@") for name in said.missing)


def test_a_replica_that_has_all_gets_nothing(made: Regions) -> None:
    regions = made.fresh()
    first = run(follow(regions, list(made.events)))
    assert first.bytes_sent > 0 and first.manifests == 10
    again = run(follow(regions, list(made.events)))
    assert again == Replicated(manifests=0, blobs=0, bytes_sent=0)


def test_replicas_that_want_a_blob_at_the_same_time_share_its_download(made: Regions) -> None:
    regions = made.fresh()
    other = FakeRegistry()
    regions.home.sent.clear()

    async def both() -> None:
        home, away = regions.clients()
        async with home, away, Registry("127.0.0.1:5003", transport=other) as third:
            downloads = Downloads(home)
            copiers = [Copier(home, replica, downloads) for replica in (away, third)]
            for event in made.events:
                await together(copier.follow(event, set()) for copier in copiers)

    run(both())
    assert regions.same() and other.blobs == regions.away.blobs
    sizes = {digest: len(content) for (_, digest), content in regions.home.blobs.items()}
    assert regions.home.sent == sizes


def test_one_who_no_longer_wants_a_download_leaves_it_to_the_others(made: Regions) -> None:
    regions = made.fresh()
    (_, digest), content = next((at, what) for at, what in regions.home.blobs.items() if at[0] == "api")

    async def main() -> None:
        home, _ = regions.clients()
        async with home:
            downloads = Downloads(home)

            async def read() -> tuple[bytes, Path]:
                async with downloads.blob("api", digest) as file:
                    return file.read_bytes(), file

            first, second = asyncio.create_task(read()), asyncio.create_task(read())
            await asyncio.sleep(0)
            first.cancel()
            got, file = await second
            assert got == content and not file.exists()
            with pytest.raises(BadInput, match="is not in the registry"):
                async with downloads.blob("api", "sha256:" + "0" * 64):
                    pass
            assert (await read())[0] == content

    run(main())


def test_what_the_push_found_at_home_is_not_asked_for_again() -> None:
    server = FakeRegistry()

    async def main() -> None:
        async with Registry("127.0.0.1:5001", transport=server) as home:
            bundle = artifact(artifact_type="x/y", layers=(("x/z", b"found", {}),))
            pushed = await push(home, "app", bundle)
            assert len(pushed.found) == 3
            what = contents({"app": [bundle]})
            server.asked.clear()
            said = await wait_until_there(home, what, deadline=0, found=pushed.found)
            assert said.state is State.THERE and said.checked == 3 and not server.asked
            del server.blobs["app", bundle.blobs[0].descriptor.digest]
            assert (await wait_until_there(home, what, deadline=0)).state is State.LAGGING

    run(main())


def test_a_tag_that_moved_meanwhile_is_taken_as_it_is_now(made: Regions) -> None:
    regions = made.fresh()
    run(follow(regions, [Event(repository="api", reference="newest")]))
    assert regions.away.manifests["api", "newest"] == made.home.manifests["api", "newest"]
    assert regions.away.manifests["api", "newest"][1] == made.home.manifests["api", "r2"][1]


def test_what_is_gone_again_is_no_error(made: Regions) -> None:
    assert run(follow(made.fresh(), [Event(repository="api", reference="gone")])).manifests == 0


def test_an_empty_region_lacks_everything_and_a_dead_one_is_down(made: Regions) -> None:
    regions = made.fresh()
    said = run(ask(regions, made.releases[0]))
    assert said.state is State.LAGGING and said.checked == 0
    assert f"api@{made.releases[0].images[0].digest}" in said.missing
    regions.away.gate = lambda _: httpx.Response(503)
    down = run(ask(regions, made.releases[0]))
    assert down.state is State.DOWN and "5002" in down.problem


@pytest.mark.parametrize("what", ["blob", "attestation", "chart", "referrers"])
def test_one_missing_piece_is_named(made: Regions, what: str) -> None:
    regions = made.fresh()
    run(follow(regions, list(made.events)))
    release = made.releases[0]
    image = release.images[0]
    away = regions.away
    if what == "blob":
        lost = next(at for at in away.blobs if at[0] == "api" and at in blobs_of(away, image.digest))
        del away.blobs[lost]
        wanted = f"api@{lost[1]}"
    elif what == "attestation":
        lost_digest = image.attestations["0"]
        del away.manifests["api", lost_digest]
        wanted = f"api@{lost_digest}"
    elif what == "chart":
        del away.manifests["chart", release.chart.digest]
        wanted = f"chart@{release.chart.digest}"
    else:
        del away.manifests["api", image.digest.replace(":", "-")]
        wanted = f"api@{image.digest} lists no {image.attestations['0']}"
    said = run(ask(regions, release))
    assert said.state is State.LAGGING and wanted in said.missing


def blobs_of(registry: FakeRegistry, image: str) -> set[tuple[str, str]]:
    fields = json.loads(registry.manifests["api", image][1])
    return {("api", one["digest"]) for one in (fields["config"], *fields["layers"])}


def test_a_tampered_manifest_is_not_called_there(made: Regions) -> None:
    regions = made.fresh()
    run(follow(regions, list(made.events)))
    at = ("api", made.releases[0].images[0].digest)
    kind, raw = regions.away.manifests[at]
    regions.away.manifests[at] = (kind, raw + b" ")
    said = run(ask(regions, made.releases[0]))
    assert said.state is State.DOWN and "bytes with the digest" in said.problem


def test_a_lagging_region_is_asked_less_and_less_often_until_it_has_all_or_the_deadline(
    made: Regions,
) -> None:
    def wait(catches_up: bool, deadline: float) -> tuple[Availability, list[float], list[State]]:
        regions = made.fresh()
        pauses: list[float] = []
        states: list[State] = []
        now = 0.0

        async def sleep(seconds: float) -> None:
            nonlocal now
            now += seconds
            pauses.append(seconds)
            if catches_up and len(pauses) == 3:
                await follow(regions, list(made.events))

        async def main() -> Availability:
            _, away = regions.clients()
            async with away:
                return await wait_until_there(
                    away,
                    made.releases[0],
                    deadline=deadline,
                    progress=lambda said: states.append(said.state),
                    sleep=sleep,
                    clock=lambda: now,
                )

        return run(main()), pauses, states

    said, pauses, states = wait(catches_up=True, deadline=60)
    assert said.state is State.THERE and said.seconds == sum(pauses)
    assert [round(pause, 3) for pause in pauses] == [0.1, 0.12, 0.144]
    assert states == [State.LAGGING] * 3 + [State.THERE]
    late, pauses, _ = wait(catches_up=False, deadline=60)
    assert late.state is State.LAGGING and late.missing
    assert sum(pauses) <= 60 and max(pauses) == 5.0


def test_a_push_is_interrupted_and_no_region_names_what_it_lacks(made: Regions, tmp_path: Path) -> None:
    regions = made.fresh()
    first = [event for event in made.events if event.reference == "r1"]
    run(follow(regions, first))
    regions.away.fail("PUT", "uploads", *[httpx.Response(507)] * 2)
    with pytest.raises(Exception, match="is full"):
        run(follow(regions, list(made.events)))
    assert regions.away.blobs and not regions.dangling()

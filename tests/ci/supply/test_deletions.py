"""What is deleted at home goes from a replica too, and nothing else does: with registries in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
import pytest
from fake_registry import FakeRegistry
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.errors import SystemUnavailable
from ci.registry import Bundle, Descriptor, Registry, artifact, digest_of, parse_manifest, push
from ci.supply.replication import Copier, Event, Replicated

T = TypeVar("T")


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


def image(text: str) -> Bundle:
    return artifact(artifact_type="x/image", layers=(("x/layer", text.encode(), {}),))


def index(*images: Bundle) -> Bundle:
    fields = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [one.root.descriptor.as_json() for one in images],
    }
    blobs = {blob.descriptor.digest: blob for one in images for blob in one.blobs}
    root = parse_manifest(json.dumps(fields, sort_keys=True).encode())
    return Bundle(manifests=(*(one.root for one in images), root), blobs=tuple(blobs.values()))


def note(text: str, subject: Descriptor) -> Bundle:
    return artifact(artifact_type="x/note", layers=(("x/note", text.encode(), {}),), subject=subject)


ARM, AMD, OTHER = image("arm"), image("amd"), image("other")
OLD, NEW = index(ARM, AMD), index(AMD, OTHER)
"""Two indexes that share a manifest."""
SBOM, SCAN = (note(text, OLD.root.descriptor) for text in ("sbom", "scan"))
LATER = note("later", AMD.root.descriptor)
UPON = note("upon", SBOM.root.descriptor)
BUNDLES = {"old": OLD, "new": NEW, "arm": ARM, "sbom": SBOM, "scan": SCAN, "later": LATER, "upon": UPON}


def list_tag(bundle: Bundle) -> str:
    return bundle.digest.replace(":", "-")


@dataclass
class World:
    """A home registry, a replica, and the events of home that the replica's copier was not told of yet."""

    home: FakeRegistry = field(default_factory=FakeRegistry)
    away: FakeRegistry = field(default_factory=FakeRegistry)

    def __post_init__(self) -> None:
        async def no_wait(_: float) -> None:
            pass

        self.at_home = Registry("127.0.0.1:5001", transport=self.home, sleep=no_wait)
        self.there = Registry("127.0.0.1:5002", transport=self.away, sleep=no_wait)
        self.copier = Copier(self.at_home, self.there)

    async def push(self, *bundles: Bundle, tags: tuple[str, ...] = (), repository: str = "api") -> None:
        """The first of them under these tags."""
        for bundle in bundles:
            await push(self.at_home, repository, bundle, tags=tags if bundle is bundles[0] else ())

    async def delete(self, *bundles: Bundle) -> None:
        for bundle in bundles:
            await self.at_home.remove("api", bundle.digest)

    async def tell(self) -> Replicated:
        """Follow all that home told of since the last time, in its order."""
        events, self.home.told = self.home.told, []
        done = [await self.follow(*event) for event in events]
        return sum(done, Replicated(manifests=0, blobs=0, bytes_sent=0))

    async def follow(self, repository: str, reference: str) -> Replicated:
        return await self.copier.follow(Event(repository=repository, reference=reference), set())

    def has(self, bundle: Bundle) -> bool:
        return ("api", bundle.digest) in self.away.manifests

    def listed(self, subject: Bundle) -> set[str]:
        return referrers(self.away, "api", subject.digest)


def referrers(registry: FakeRegistry, repository: str, subject: str) -> set[str]:
    """What is listed as attached to that manifest, and there."""
    _, raw = registry.manifests.get((repository, subject.replace(":", "-")), ("", b'{"manifests":[]}'))
    listed = {one["digest"] for one in json.loads(raw)["manifests"]}
    return {digest for digest in listed if (repository, digest) in registry.manifests}


def tags(registry: FakeRegistry) -> dict[tuple[str, str], str]:
    """Digest by repository and tag. Lists of referrers are compared as such: each registry keeps its own."""
    every = registry.manifests.items()
    return {at: digest_of(raw) for at, (_, raw) in every if ":" not in at[1] and "sha256-" not in at[1]}


def below_tags(registry: FakeRegistry) -> dict[tuple[str, str], bytes]:
    """Every manifest that is found from a tag: itself, what it names, what is listed as attached to these."""
    found: dict[tuple[str, str], bytes] = {}

    def add(repository: str, digest: str) -> None:
        at = (repository, digest)
        if at in found or at not in registry.manifests:
            return
        found[at] = registry.manifests[at][1]
        for one in json.loads(found[at]).get("manifests", []):
            add(repository, one["digest"])
        for one in referrers(registry, repository, digest):
            add(repository, one)

    for (repository, _), digest in tags(registry).items():
        add(repository, digest)
    for repository, tag in registry.manifests:
        if "sha256-" in tag:
            for one in referrers(registry, repository, tag.replace("-", ":")):
                add(repository, one)
    return found


def own(registry: FakeRegistry) -> dict[tuple[str, str], bytes]:
    """All manifests by digest but lists of referrers."""
    ours = {manifest.descriptor.digest for bundle in BUNDLES.values() for manifest in bundle.manifests}
    return {at: raw for at, (_, raw) in registry.manifests.items() if at[1] in ours}


def lists(registry: FakeRegistry) -> dict[tuple[str, str], set[str]]:
    every = [at for at in registry.manifests if "sha256-" in at[1]]
    found = {at: referrers(registry, at[0], at[1].replace("-", ":")) for at in every}
    return {at: digests for at, digests in found.items() if digests}


# Any order -------------------------------------------------------------------------------------------------

REPOSITORIES = st.sampled_from(["api", "web"])
CHANGES = st.one_of(
    st.tuples(
        st.just("push"),
        REPOSITORIES,
        st.sampled_from(sorted(BUNDLES)),
        st.sets(st.sampled_from(["r1", "r2", "new"])),
    ),
    st.tuples(st.just("delete"), st.integers(0, 99), st.booleans()),
)
NETWORK = st.one_of(
    st.tuples(st.just("deliver"), st.integers(0, 99), st.booleans()), st.tuples(st.just("compare"))
)


async def change(world: World, what: tuple[object, ...]) -> None:
    """Push a bundle under tags; or delete a manifest that no index names, or only the tags that it has."""
    if what[0] == "push":
        _, repository, name, names = what
        assert isinstance(repository, str) and isinstance(name, str) and isinstance(names, set)
        await world.push(BUNDLES[name], tags=tuple(sorted(names)), repository=repository)
        return
    _, number, only_tags = what
    assert isinstance(number, int)
    named = {
        (at[0], one["digest"])
        for at, raw in own(world.home).items()
        for one in json.loads(raw).get("manifests", [])
    }
    free = sorted(at for at in world.home.manifests if ":" in at[1] and at not in named)
    if free:
        repository, digest = free[number % len(free)]
        manifest = await world.at_home.manifest(repository, digest)
        await world.at_home.remove(repository, digest)
        if only_tags:
            await world.at_home.put_manifest(repository, manifest)


async def play(world: World, steps: list[tuple[object, ...]]) -> None:
    """Changes at home, between which the replicator is told of some, in any order, and twice."""
    for step in steps:
        if step[0] == "compare":
            await world.copier.reconcile(deep=False)
        elif step[0] != "deliver":
            with suppress(SystemUnavailable):  # home takes no list that names what is gone
                await change(world, step)
        elif world.home.told:
            _, number, twice = step
            assert isinstance(number, int)
            event = world.home.told[number % len(world.home.told)]
            await world.follow(*event)
            if not twice:
                world.home.told.remove(event)


@settings(max_examples=120, deadline=None)
@given(steps=st.lists(CHANGES | NETWORK, max_size=25))
def test_whatever_happened_and_whichever_events_are_lost_a_comparison_makes_it_the_same(
    steps: list[tuple[object, ...]],
) -> None:
    world = World()

    async def main() -> None:
        await play(world, steps)
        await world.copier.reconcile(deep=False)
        assert tags(world.away) == tags(world.home)
        assert below_tags(world.home).items() <= below_tags(world.away).items(), "what home serves is there"
        # What is gone while a list at home still names it is seen by who looks at each entry.
        await world.copier.reconcile()

    run(main())
    assert tags(world.away) == tags(world.home)
    assert lists(world.away) == lists(world.home)
    assert below_tags(world.away) == below_tags(world.home)


@settings(max_examples=120, deadline=None)
@given(steps=st.lists(CHANGES | NETWORK, max_size=25), data=st.data())
def test_when_no_event_is_lost_untagged_manifests_are_the_same_too_without_a_comparison(
    steps: list[tuple[object, ...]], data: st.DataObject
) -> None:
    world = World()

    async def main() -> None:
        await play(world, steps)
        for event in data.draw(st.permutations(world.home.told)):
            await world.follow(*event)

    run(main())
    assert own(world.away) == own(world.home)
    assert tags(world.away) == tags(world.home)
    assert lists(world.away) == lists(world.home)


# Each rule -------------------------------------------------------------------------------------------------


def assert_whole(registry: FakeRegistry) -> None:
    """That nothing with a tag names a manifest that is not there."""
    for (repository, name), (_, raw) in registry.manifests.items():
        if ":" not in name:
            for one in json.loads(raw).get("manifests", []):
                assert (repository, one["digest"]) in registry.manifests


def test_what_goes_at_home_goes_in_its_order_and_what_another_index_names_stays() -> None:
    world = World()

    async def main() -> None:
        await world.push(OLD, SBOM, SCAN, tags=("r1",))
        await world.push(NEW, tags=("r2",))
        await world.tell()
        assert own(world.away) == own(world.home) and world.listed(OLD) == {SBOM.digest, SCAN.digest}
        world.away.gate = lambda _: assert_whole(world.away)

        await world.delete(OLD)
        done = await world.tell()
        assert done.removed == 1 and not world.has(OLD)
        assert world.has(ARM) and world.has(SBOM), "at home they are there still"
        assert set(tags(world.away)) == {("api", "r2")}

        await world.delete(ARM, SBOM)
        await world.tell()
        assert not world.has(ARM) and not world.has(SBOM) and world.listed(OLD) == {SCAN.digest}
        assert world.has(AMD) and world.has(OTHER)

    run(main())


def test_a_digest_that_home_has_again_stays() -> None:
    world = World()

    async def main() -> None:
        await world.push(ARM, tags=("r1",))
        await world.tell()
        await world.delete(ARM)
        await world.push(ARM, tags=("r1",))
        assert (await world.tell()).removed == 0
        assert world.has(ARM) and tags(world.away) == tags(world.home)
        assert world.away.count("DELETE") == 0

    run(main())


def no_answer(request: httpx.Request) -> httpx.Response | None:
    raise httpx.ConnectError("refused", request=request)


def something_else(_: httpx.Request) -> httpx.Response | None:
    return httpx.Response(404, text="Not Found")


def no_listing(request: httpx.Request) -> httpx.Response | None:
    return httpx.Response(500) if request.url.path == "/v2/_catalog" else None


def no_lists(request: httpx.Request) -> httpx.Response | None:
    path = request.url.path
    return httpx.Response(404) if path == "/v2/" or "sha256-" in path or "referrers" in path else None


def not_itself(request: httpx.Request) -> httpx.Response | None:
    return httpx.Response(503) if request.url.path == "/v2/" else None


@pytest.mark.parametrize("trouble", [no_answer, something_else, no_lists, no_listing, not_itself])
@pytest.mark.parametrize("how", ["event", "list", "comparison"])
def test_nothing_is_removed_because_home_has_a_problem(trouble: object, how: str) -> None:
    world = World()

    async def main() -> None:
        await world.push(OLD, SBOM, tags=("r1",))
        await world.push(ARM, repository="web", tags=("r1",))
        await world.tell()
        before = dict(world.away.manifests)
        if trouble in (no_listing, not_itself):
            await world.delete(SBOM, OLD)  # such is what it would not be believed
        world.home.gate = trouble  # type: ignore[assignment]
        work = {
            "event": lambda: world.follow("api", OLD.digest),
            "list": lambda: world.follow("api", list_tag(OLD)),
            "comparison": lambda: world.copier.reconcile(),
        }[how]
        with pytest.raises(SystemUnavailable):
            await work()
        assert world.away.manifests == before and world.away.count("DELETE") == 0

    run(main())


def test_a_home_that_lost_its_storage_takes_nothing_along() -> None:
    world = World()

    async def main() -> None:
        await world.push(OLD, SBOM, tags=("r1",))
        await world.tell()
        before = dict(world.away.manifests)
        world.home.manifests.clear()
        world.home.blobs.clear()
        with pytest.raises(SystemUnavailable, match="5001 has no repository at all: nothing is removed from"):
            await world.copier.reconcile()
        with pytest.raises(SystemUnavailable, match="has no repository at all"):
            await world.follow("api", OLD.digest)
        assert world.away.manifests == before

    run(main())


def test_a_home_where_everything_was_deleted_is_believed() -> None:
    world = World()

    async def main() -> None:
        await world.push(ARM, tags=("r1",))
        await world.tell()
        await world.delete(ARM)
        await world.tell()
        assert not world.away.manifests

    run(main())


def test_a_tag_that_was_taken_off_goes_and_its_manifest_is_there_all_the_time() -> None:
    world = World()

    async def main() -> None:
        await world.push(OLD, SBOM, tags=("r1",))
        await world.push(OLD, tags=("r2",))
        await world.tell()
        (manifest,) = [one for one in OLD.manifests if one.descriptor.digest == OLD.digest]
        await world.delete(OLD)
        await world.at_home.put_manifest("api", manifest, "r2")

        def there(_: httpx.Request) -> None:
            assert world.has(OLD) and ("api", "r2") in world.away.manifests

        world.away.gate = there
        await world.tell()
        assert tags(world.away) == tags(world.home) == {("api", "r2"): OLD.digest}
        assert own(world.away) == own(world.home)

    run(main())


def test_a_comparison_removes_tags_and_repositories_that_home_has_not_and_what_they_alone_led_to() -> None:
    world = World()

    async def main() -> None:
        await world.push(OLD, SBOM, UPON, tags=("r1",))
        await world.push(NEW, tags=("r2",))
        await world.push(SCAN)
        await world.tell()
        stray = image("stray")
        await push(world.there, "elsewhere", stray, tags=["x"])
        untagged = image("untagged")
        await push(world.there, "api", untagged)
        for bundle in (OLD, ARM, SBOM, UPON, SCAN):
            await world.delete(bundle)
        for tag in (list_tag(OLD), list_tag(SBOM)):
            await world.at_home.remove("api", (await world.at_home.manifest("api", tag)).descriptor.digest)
        world.home.told.clear()  # all of it is lost

        done = await world.copier.reconcile(deep=False)
        assert done.removed >= 6
        assert own(world.away) == own(world.home) and tags(world.away) == tags(world.home)
        assert not any("sha256-" in name for _, name in world.away.manifests)
        assert ("elsewhere", stray.digest) not in world.away.manifests
        # This one nothing leads to: no registry lists it, so nobody can find it.
        assert world.has(untagged)
        assert (await world.copier.reconcile(deep=False)).removed == 0

    run(main())


def test_a_tag_that_went_along_with_an_old_manifest_is_brought_where_it_is_now() -> None:
    world = World()

    async def main() -> None:
        await world.push(ARM, tags=("a", "new", "z"))
        await world.copier.reconcile(deep=False)
        await world.copier.reconcile(deep=False)  # has seen that all three are as at home
        await world.push(AMD, tags=("a", "z"))
        await world.delete(ARM)
        world.home.told = world.home.told[-2:]  # the moves are lost, the deletion is not
        await world.tell()
        await world.copier.reconcile(deep=False)
        assert tags(world.away) == tags(world.home) == dict.fromkeys([("api", "a"), ("api", "z")], AMD.digest)

    run(main())


def test_what_home_has_again_while_it_is_removed_comes_back() -> None:
    class Slow(FakeRegistry):
        pushes: asyncio.Task[Replicated] | None = None

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "DELETE" and self.pushes is None:
                await world.push(ARM, tags=("r1",))
                self.pushes = asyncio.create_task(world.tell())
                await asyncio.sleep(0.05)  # time enough for it to find that all is there, if it did not wait
            return await super().handle_async_request(request)

    world = World(away=Slow())

    async def main() -> None:
        await world.push(ARM, tags=("r1",))
        await world.tell()
        await world.delete(ARM)
        world.home.told.clear()
        assert (await world.copier.reconcile(deep=False)).removed == 1
        assert isinstance(world.away, Slow) and world.away.pushes
        await world.away.pushes
        assert world.has(ARM) and tags(world.away) == tags(world.home) == {("api", "r1"): ARM.digest}

    run(main())


def test_an_index_that_home_has_only_half_stops_nothing_else() -> None:
    world = World()

    async def main() -> None:
        await world.push(OLD, tags=("r1",))
        await world.delete(ARM)
        await world.push(OTHER, tags=("r2",))
        for deep in (False, True):
            await world.copier.reconcile(deep=deep)
            assert tags(world.away) == {("api", "r2"): OTHER.digest}
        await world.push(OLD, tags=("r1",))
        await world.copier.reconcile(deep=False)
        assert tags(world.away) == tags(world.home) and len(tags(world.home)) == 2

    run(main())


def test_a_tag_that_went_and_came_back_is_not_taken_for_compared() -> None:
    world = World()

    async def main() -> None:
        await world.push(ARM, tags=("r1",))
        await world.copier.reconcile(deep=False)
        await world.copier.reconcile(deep=False)
        await world.delete(ARM)
        await world.tell()
        await world.push(ARM, tags=("r1",))
        world.home.told.clear()
        await world.copier.reconcile(deep=False)
        assert tags(world.away) == tags(world.home) == {("api", "r1"): ARM.digest}

    run(main())


def test_a_list_that_home_made_anew_is_not_lost_with_the_old_one() -> None:
    world = World()

    async def main() -> None:
        await world.push(OLD, SBOM, SCAN, tags=("r1",))
        await world.tell()
        old = await world.at_home.manifest("api", list_tag(OLD))
        await world.at_home.remove("api", old.descriptor.digest)
        listed = [SCAN.root.descriptor, SBOM.root.descriptor]
        await world.at_home.set_referrers("api", OLD.digest, listed)
        await world.follow("api", list_tag(OLD))  # comes before that of the old list
        await world.follow("api", old.descriptor.digest)
        assert world.listed(OLD) == {SBOM.digest, SCAN.digest}

    run(main())


def test_who_is_off_a_list_at_home_is_off_it_and_the_others_are_on_it_all_the_time() -> None:
    world = World()

    async def main() -> None:
        await world.push(OLD, SBOM, SCAN, tags=("r1",))
        await world.tell()

        def on_it(_: httpx.Request) -> None:
            assert SCAN.digest in world.listed(OLD)

        world.away.gate = on_it
        await world.delete(SBOM)
        await world.at_home.set_referrers("api", OLD.digest, [SCAN.root.descriptor])
        world.home.told.clear()
        await world.copier.reconcile(deep=False)
        assert world.listed(OLD) == {SCAN.digest} and not world.has(SBOM)

    run(main())

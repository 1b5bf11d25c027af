from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from fake_registry import FakeRegistry
from vulnerability_database import NOW, database_bundle, layered, metadata, packed, tarred

from ci.errors import BadInput, PipelineError, PolicyBlocked, SystemUnavailable
from ci.registry import Bundle, Registry, artifact, parse_reference, push
from ci.scan import JAVA, LocalDatabase, Mirrored, fetch, mirror
from ci.scan import database as database_module

T = TypeVar("T")
_SOURCE = parse_reference("source.example/aquasecurity/trivy-db:2")
_MIRROR = parse_reference("mirror.example/trivy-db")
_DAY = timedelta(hours=24)


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


class World:
    """Two registries; the source has a database."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.source, self.target = FakeRegistry(), FakeRegistry()
        self.said: list[str] = []

    def client(self, server: FakeRegistry, endpoint: str = "source.example") -> Registry:
        async def no_wait(_: float) -> None: ...

        return Registry(endpoint, transport=server, attempts=2, sleep=no_wait)

    def offer(self, bundle: Bundle, tag: str = "2") -> str:
        run(push(self.client(self.source), _SOURCE.repository, bundle, tags=[tag]))
        self.source.asked.clear()
        return bundle.digest

    def mirror(self, wanted: str | None = None, max_age: timedelta | None = _DAY, to: str = "") -> Mirrored:
        reference = parse_reference(wanted) if wanted else _SOURCE

        async def main() -> Mirrored:
            source, target = self.client(self.source), self.client(self.target, "mirror.example")
            destination = parse_reference(to) if to else _MIRROR
            return await mirror(
                source, reference, target, destination, max_age=max_age, now=NOW, say=self.said.append
            )

        return run(main())

    def fetch(self, reference: str = str(_SOURCE)) -> LocalDatabase:
        return run(fetch(self.client(self.source), parse_reference(reference), say=self.said.append))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    return World(tmp_path / "cache" / "trivy")


def test_a_mirror_has_the_same_digest_and_a_second_time_nothing_is_read_or_sent(world: World) -> None:
    bundle = database_bundle(NOW - timedelta(hours=5))
    digest = world.offer(bundle)

    done = world.mirror()
    assert done.database.digest == digest and done.destination == f"mirror.example/trivy-db@{digest}"
    assert (done.kind, done.tag, done.unchanged) == ("trivy-db", "2", False)
    assert world.target.manifests["trivy-db", "2"][1] == bundle.root.raw
    assert world.target.blobs["trivy-db", bundle.blobs[1].descriptor.digest] == bundle.blobs[1].read()
    assert not list((world.cache / "downloads").iterdir())

    world.source.asked.clear()
    again = world.mirror()
    assert again.unchanged and again.bytes_sent == 0
    assert world.source.count("GET", bundle.blobs[1].descriptor.digest) == 0


def test_the_index_of_java_archives_is_mirrored_alike(world: World) -> None:
    world.offer(database_bundle(kind=JAVA), tag="1")
    done = world.mirror("source.example/aquasecurity/trivy-db:1", to="mirror.example/trivy-java-db:latest")
    assert (done.kind, done.tag, done.database.version) == ("trivy-java-db", "latest", 1)


@pytest.mark.parametrize(
    ("age", "max_age", "what"),
    [
        (timedelta(hours=25), _DAY, "25 h old; 24 h are allowed; a newer one was due on"),
        (timedelta(hours=3), timedelta(hours=2), "3 h old; 2 h are allowed"),
        (timedelta(hours=-1), _DAY, "in the future"),
    ],
)
def test_one_that_is_too_old_or_from_the_future_reaches_no_mirror(
    world: World, age: timedelta, max_age: timedelta, what: str
) -> None:
    world.offer(database_bundle(NOW - age))
    for _ in range(2):  # the second time from what is remembered of it
        with pytest.raises(PolicyBlocked, match=what):
            world.mirror(max_age=max_age)
    assert not world.target.blobs and not world.target.manifests


def test_an_old_one_that_the_mirror_has_already_is_refused_too(world: World) -> None:
    world.offer(database_bundle(NOW - timedelta(hours=25)))
    world.mirror(max_age=None)
    with pytest.raises(PolicyBlocked):
        world.mirror()


def test_a_pinned_digest_decides_and_not_the_tag(world: World) -> None:
    pinned = world.offer(database_bundle(content=b"first"))
    world.offer(database_bundle(content=b"second"))
    assert world.mirror(f"{_SOURCE}@{pinned}").database.digest == pinned


def test_a_registry_that_sends_another_database_for_a_digest_is_not_believed(world: World) -> None:
    digest = world.offer(database_bundle(content=b"first"))
    other = database_bundle(content=b"second")
    world.source.manifests[_SOURCE.repository, digest] = (other.root.descriptor.media_type, other.root.raw)
    for act in (lambda: world.mirror(f"{_SOURCE}@{digest}"), lambda: world.fetch(f"{_SOURCE}@{digest}")):
        with pytest.raises(SystemUnavailable, match=f"bytes with the digest {other.digest}"):
            act()
    assert not world.target.manifests


def test_a_layer_that_was_altered_is_not_believed(world: World) -> None:
    bundle = database_bundle()
    world.offer(bundle)
    layer = bundle.blobs[1]
    world.source.blobs[_SOURCE.repository, layer.descriptor.digest] = layer.read()[:-1] + b"!"
    for act in (world.mirror, world.fetch):
        with pytest.raises(SystemUnavailable, match="other bytes"):
            act()
    assert not world.target.blobs


_JUNK = b"\x1f\x8b" + b"not a gzip" * 50


@pytest.mark.parametrize(
    ("bundle", "what"),
    [
        (artifact(artifact_type="x/y", layers=(("text/plain", b"hello", {}),)), "not a database of Trivy's"),
        (packed({"trivy.db": b"x"}), "no metadata.json in it"),
        (packed({"trivy.db": b"x", "metadata.json": b"{}"}), "does not say when it was made"),
        (packed({"trivy.db": b"x", "metadata.json": b"<html>"}), "does not say when it was made"),
        (packed({"trivy.db": b"x", "metadata.json": metadata(version=3)}), "has the schema 3"),
        (layered(_JUNK), "not a gzipped tar"),
        (
            layered(tarred({"trivy.db": b"x" * 100000, "metadata.json": metadata()})[:-40]),
            "not a gzipped tar",
        ),
    ],
)
def test_what_is_no_database_is_refused_and_leaves_nothing(world: World, bundle: Bundle, what: str) -> None:
    world.offer(bundle)
    for act in (world.mirror, world.fetch):
        with pytest.raises(BadInput, match=what):
            act()
    assert not world.target.manifests
    assert not list(world.cache.glob("db/*"))


def test_a_file_that_is_larger_than_it_can_be_is_not_unpacked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.offer(packed({"metadata.json": metadata() + b" " * 2**21, "trivy.db": b"bolt"}))
    with pytest.raises(BadInput, match=r"its metadata\.json has \d+ bytes, more than 1048576"):
        world.fetch()
    monkeypatch.setattr(database_module, "_LARGEST_DATABASE", 1000)
    world.offer(packed({"metadata.json": metadata(), "trivy.db": bytes(1001)}))
    with pytest.raises(BadInput, match=r"its trivy\.db has 1001 bytes, more than 1000"):
        world.fetch()
    assert not list((world.cache / "db").glob("[0-9a-f]*"))


def test_an_archive_without_the_database_itself_is_refused(world: World) -> None:
    world.offer(packed({"metadata.json": metadata()}))
    with pytest.raises(BadInput, match=r"no trivy\.db in it"):
        world.fetch()


def test_a_mirror_that_has_no_such_database_is_bad_input(world: World) -> None:
    with pytest.raises(BadInput, match=r"there is no source\.example/aquasecurity/trivy-db:2"):
        world.fetch()


def test_a_database_is_downloaded_once_and_used_by_digest(world: World) -> None:
    digest = world.offer(database_bundle(content=b"bolt"))
    found = world.fetch()
    assert (found.database.digest, found.database.updated, found.problem) == (digest, NOW, "")
    assert (found.folder / "trivy.db").read_bytes() == b"bolt"
    world.source.asked.clear()
    assert world.fetch() == found
    assert world.source.count("GET", "/blobs/") == 0 and world.source.count("GET", "/manifests/") == 1
    world.source.asked.clear()
    assert world.fetch(f"{_SOURCE}@{digest}").folder == found.folder
    assert not world.source.asked  # a pinned one that is here: nobody is asked


def test_a_newer_one_under_the_tag_is_taken(world: World) -> None:
    world.offer(database_bundle(content=b"old"))
    world.fetch()
    digest = world.offer(database_bundle(content=b"new"))
    assert world.fetch().database.digest == digest


def test_when_the_mirror_is_down_the_last_one_is_used_and_that_is_said(world: World) -> None:
    with pytest.raises(SystemUnavailable):
        down(world).fetch()
    digest = world.offer(database_bundle())
    world.fetch()
    found = down(world).fetch()
    assert found.database.digest == digest
    assert "source.example did not answer" in found.problem
    with pytest.raises(SystemUnavailable):  # of that reference only
        down(world).fetch("source.example/aquasecurity/trivy-db:3")


def down(world: World) -> World:
    world.source.fail("GET", "manifests", *[httpx.ConnectError("refused")] * 2)
    return world


def test_one_of_another_kind_is_not_used(world: World) -> None:
    world.offer(database_bundle(kind=JAVA))
    with pytest.raises(BadInput, match="is trivy-java-db, not trivy-db"):
        world.fetch()


def test_a_copy_that_lost_a_file_is_made_anew(world: World) -> None:
    world.offer(database_bundle(content=b"bolt"))
    (world.fetch().folder / "trivy.db").unlink()  # as Trivy does with one that it cannot open
    assert (world.fetch().folder / "trivy.db").read_bytes() == b"bolt"


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on_where_it_was(world: World, ranges: bool) -> None:
    bundle = database_bundle(content=os.urandom(5000))
    world.offer(bundle)
    world.source.has_ranges = ranges
    layer = bundle.blobs[1].descriptor
    left = world.cache / "downloads" / layer.digest.removeprefix("sha256:")
    left.parent.mkdir(parents=True)
    left.write_bytes(bundle.blobs[1].read()[:2500])

    assert (world.fetch().folder / "trivy.db").stat().st_size == 5000
    assert world.source.sent[layer.digest] == layer.size - (2500 if ranges else 0)
    assert not left.exists()


def test_what_an_interruption_left_of_something_else_is_thrown_away(world: World) -> None:
    bundle = database_bundle(content=b"bolt")
    world.offer(bundle)
    left = world.cache / "downloads" / bundle.blobs[1].descriptor.digest.removeprefix("sha256:")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"something else")
    assert (world.fetch().folder / "trivy.db").read_bytes() == b"bolt"


def test_a_mirror_that_breaks_off_has_no_tag_and_the_same_command_finishes_it(world: World) -> None:
    bundle = database_bundle()
    world.offer(bundle)
    world.target.fail("PUT", "/manifests/", *[httpx.ConnectError("cut")] * 2)
    with pytest.raises(SystemUnavailable):
        world.mirror()
    assert not world.target.manifests and world.target.blobs
    done = world.mirror()
    assert done.bytes_sent == 0 and not done.unchanged
    assert world.target.manifests["trivy-db", "2"][1] == bundle.root.raw
    assert world.target.finished.count(bundle.blobs[1].descriptor.digest) == 1


def test_two_that_want_the_same_database_download_it_once(world: World) -> None:
    bundle = database_bundle()
    world.offer(bundle)

    async def both() -> list[LocalDatabase]:
        clients = [world.client(world.source) for _ in range(2)]
        return await asyncio.gather(*(fetch(one, _SOURCE, say=world.said.append) for one in clients))

    one, other = run(both())
    assert one == other
    assert world.source.count("GET", bundle.blobs[1].descriptor.digest) == 1


def test_only_the_last_used_stay_on_this_machine(world: World) -> None:
    for number in range(5):
        world.offer(database_bundle(content=str(number).encode()))
        last = world.fetch().folder
        os.utime(last, (number, number))
    kept = {path for path in last.parent.iterdir() if not path.name.startswith(".")}
    assert len(kept) == 3 and last in kept


def test_errors_are_of_the_tree(world: World) -> None:
    with pytest.raises(PipelineError) as caught:
        world.fetch()
    assert caught.value.hint

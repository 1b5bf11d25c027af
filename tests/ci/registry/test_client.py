from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from fake_registry import FakeRegistry, error
from oci import layer, write_image

from ci.errors import BadInput, SystemUnavailable
from ci.registry import (
    BearerAuth,
    Blob,
    Bundle,
    Challenge,
    Descriptor,
    Outcome,
    Registry,
    Token,
    artifact,
    digest_of,
    missing,
    open_archive,
    password_tokens,
    push,
)
from ci.registry import blobs as blobs_module
from ci.registry.auth import parse_challenge

T = TypeVar("T")


@dataclass
class World:
    """A registry in memory, a client of it, and the seconds that the client waited."""

    server: FakeRegistry = field(default_factory=FakeRegistry)
    waited: list[float] = field(default_factory=list)
    auth: httpx.Auth | None = None

    def client(self) -> Registry:
        async def sleep(seconds: float) -> None:
            self.waited.append(seconds)

        return Registry("127.0.0.1:5999", transport=self.server, sleep=sleep, auth=self.auth)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def image(tmp_path: Path) -> Bundle:
    write_image(tmp_path / "image.tar", layer(a="1"), layer(b="2"))
    return open_archive(tmp_path / "image.tar")


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


def test_a_push_stores_the_exact_bytes_and_a_second_one_sends_nothing(world: World, image: Bundle) -> None:
    first = run(push(world.client(), "app", image, tags=["v1"]))
    assert (first.sent, first.there, first.mounted) == (3, 0, 0)
    assert first.bytes_sent == image.size
    assert world.server.manifests["app", image.digest][1] == image.root.raw
    assert world.server.manifests["app", "v1"][1] == image.root.raw
    for blob in image.blobs:
        assert world.server.blobs["app", blob.descriptor.digest] == blob.read()

    world.server.asked.clear()
    second = run(push(world.client(), "app", image, tags=["v1"]))
    assert second.unchanged and second.bytes_sent == 0
    assert {method for method, _ in world.server.asked} == {"GET", "HEAD"}
    assert len(world.server.asked) == 5  # one manifest, three blobs, one tag: one request each


def test_a_tag_that_names_something_else_is_moved(world: World, image: Bundle) -> None:
    other = artifact(artifact_type="x/y", layers=())
    run(push(world.client(), "app", other, tags=["v1"]))
    run(push(world.client(), "app", image, tags=["v1"]))
    assert world.server.manifests["app", "v1"][1] == image.root.raw


def test_only_what_is_missing_is_sent(world: World, image: Bundle) -> None:
    run(push(world.client(), "app", image))
    lost = image.blobs[1].descriptor.digest
    del world.server.blobs["app", lost]
    assert run(missing(world.client(), "app", image)) == (lost,)
    again = run(push(world.client(), "app", image))
    assert (again.sent, again.there) == (1, 2)
    assert run(missing(world.client(), "app", image)) == ()


def test_a_layer_that_images_share_is_sent_once_and_mounted(world: World, tmp_path: Path) -> None:
    shared = layer(base="x" * 1000)
    write_image(tmp_path / "one.tar", shared, layer(a="1"), env="A=1")
    write_image(tmp_path / "two.tar", shared, layer(b="2"), env="A=2")

    async def both() -> list[int]:
        async with world.client() as registry:
            done = await asyncio.gather(
                push(registry, "one", open_archive(tmp_path / "one.tar")),
                push(registry, "two", open_archive(tmp_path / "two.tar")),
            )
        return [sum(one.sent for one in done), sum(one.mounted for one in done)]

    assert run(both()) == [5, 1]
    assert world.server.blobs["one", digest_of(shared)] == world.server.blobs["two", digest_of(shared)]


def test_a_registry_that_cannot_mount_gets_the_bytes(world: World, image: Bundle) -> None:
    async def both() -> int:
        async with world.client() as registry:
            await push(registry, "one", image)
            real = world.server.blobs
            world.server.uploads["u"] = bytearray()

            def no_mount(request: httpx.Request) -> httpx.Response | None:
                begun = httpx.Response(202, headers={"Location": "/v2/two/blobs/uploads/u"})
                return begun if "mount" in request.url.params else None

            world.server.gate = no_mount
            blob = image.blobs[0]
            assert await registry.push_blob("two", blob) is Outcome.SENT
            return len(real["two", blob.descriptor.digest])

    assert run(both()) == image.blobs[0].descriptor.size


def big_blob(size: int) -> Blob:
    content = b"0123456789" * (size // 10)
    descriptor = Descriptor(media_type="x/y", digest=digest_of(content), size=len(content))
    return Blob(descriptor=descriptor, source=content)


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("cut_after", [0, 1, 1_500_000])
def test_an_upload_goes_on_after_a_cut_connection(
    world: World, monkeypatch: pytest.MonkeyPatch, cut_after: int, forget: bool
) -> None:
    monkeypatch.setattr(blobs_module, "_PIECE_BYTES", 2 * 2**20)
    blob = big_blob(5_000_000)
    world.server.cut_after, world.server.forget_cut_uploads = cut_after, forget
    assert run(world.client().push_blob("app", blob)) is Outcome.SENT
    assert world.server.blobs["app", blob.descriptor.digest] == blob.read()
    assert world.server.count("POST", "uploads") == (2 if forget or cut_after <= 1 else 1)


def test_a_registry_that_refuses_the_range_is_asked_where_it_stands(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "_PIECE_BYTES", 2**20)
    blob = big_blob(3_000_000)
    world.server.fail("PATCH", "uploads", error(416, "RANGE_INVALID"))
    assert run(world.client().push_blob("app", blob)) is Outcome.SENT
    assert world.server.blobs["app", blob.descriptor.digest] == blob.read()


def test_bytes_with_another_digest_are_refused_at_once(world: World) -> None:
    blob = Blob(descriptor=Descriptor(media_type="x/y", digest=digest_of(b"right"), size=5), source=b"wrong")
    with pytest.raises(BadInput, match="another digest"):
        run(world.client().push_blob("app", blob))
    assert world.server.count("PUT") == 1
    assert not world.server.blobs


def test_a_file_that_shrank_while_it_is_sent_is_bad_input(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    descriptor = Descriptor(media_type="x/y", digest=digest_of(b"12345"), size=5)
    with pytest.raises(BadInput, match="ends in the middle"):
        run(world.client().push_blob("app", Blob(descriptor=descriptor, source=tmp_path / "file")))


def test_a_busy_registry_is_asked_again_when_it_says(world: World) -> None:
    in_nine = email.utils.formatdate(time.time() + 9, usegmt=True)
    world.server.fail(
        "GET",
        "/v2/$",
        httpx.Response(429, headers={"Retry-After": "7"}),
        httpx.Response(503, headers={"Retry-After": in_nine}),
        httpx.Response(429, headers={"Retry-After": "86400"}),
        httpx.Response(502),
    )
    run(world.client().ping())
    assert world.waited[0] == 7
    assert world.waited[1] == pytest.approx(9, abs=2)
    assert world.waited[2] == 60  # nobody waits for a day
    assert 0 < world.waited[3] < 5


@pytest.mark.parametrize("skew", [-86400, 86400])
def test_a_date_to_wait_for_is_by_the_registrys_clock(world: World, skew: int) -> None:
    there = time.time() + skew
    dates = {
        "Date": email.utils.formatdate(there, usegmt=True),
        "Retry-After": email.utils.formatdate(there + 9, usegmt=True),
    }
    world.server.fail("GET", "/v2/$", httpx.Response(503, headers=dates))
    run(world.client().ping())
    assert world.waited == [9]


@pytest.mark.parametrize(
    "fault",
    [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.Response(500), httpx.Response(503)],
)
def test_a_registry_that_is_down_is_named_after_some_tries(world: World, fault: httpx.Response) -> None:
    world.server.fail("GET", "/v2/$", *[fault] * 9)
    with pytest.raises(SystemUnavailable, match=r"127\.0\.0\.1:5999 did not answer .* 5 times") as caught:
        run(world.client().ping())
    assert caught.value.exit_code == 6
    assert caught.value.hint
    assert len(world.waited) == 4
    assert world.waited[0] < world.waited[3] < 6


@pytest.mark.parametrize(
    "fault",
    [
        httpx.Response(507),
        httpx.Response(500, json={"errors": [{"code": "UNKNOWN", "detail": {"Enclosed": {"Err": 28}}}]}),
        httpx.Response(500, text="write /var/lib: no space left on device"),
    ],
)
def test_a_full_registry_is_said_to_be_full_and_not_asked_again(
    world: World, image: Bundle, fault: httpx.Response
) -> None:
    world.server.fail("PUT", "uploads", *[fault] * 9)
    with pytest.raises(SystemUnavailable, match="is full"):
        run(push(world.client(), "app", image))
    assert not world.waited
    assert not world.server.manifests


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_said_to_be(world: World, status: int) -> None:
    world.server.fail("GET", "/v2/$", error(status, "UNAUTHORIZED", "no"))
    with pytest.raises(SystemUnavailable, match="refused these credentials"):
        run(world.client().ping())


def test_a_digest_that_is_not_there_is_bad_input(world: World) -> None:
    digest = digest_of(b"nothing")
    with pytest.raises(BadInput, match=f"5999/app@{digest} is not in the registry"):
        run(world.client().manifest("app", digest))
    assert run(world.client().find_manifest("app", "v1")) is None
    with pytest.raises(BadInput, match="is not in the registry"):
        run(world.client().blob("app", digest))


def test_tampered_content_is_never_returned(world: World, image: Bundle) -> None:
    run(push(world.client(), "app", image, tags=["v1"]))
    media_type, raw = world.server.manifests["app", image.digest]
    world.server.manifests["app", image.digest] = (media_type, raw.replace(b'"size"', b'"Size"', 1))
    with pytest.raises(SystemUnavailable, match="bytes with the digest"):
        run(world.client().manifest("app", image.digest))
    with pytest.raises(SystemUnavailable, match="bytes with the digest"):
        run(missing(world.client(), "app", image))
    digest = image.blobs[0].descriptor.digest
    world.server.blobs["app", digest] = b"other"
    with pytest.raises(SystemUnavailable, match="bytes with the digest"):
        run(world.client().blob("app", digest))
    assert digest in run(missing_but_manifest(world, image))


async def missing_but_manifest(world: World, image: Bundle) -> tuple[str, ...]:
    world.server.manifests["app", image.digest] = (image.root.descriptor.media_type, image.root.raw)
    return await missing(world.client(), "app", image)


def test_a_download_is_checked_to_the_last_byte(world: World, image: Bundle, tmp_path: Path) -> None:
    run(push(world.client(), "app", image))
    blob = image.blobs[-1]
    digest = blob.descriptor.digest
    run(world.client().download("app", digest, tmp_path / "blob"))
    assert (tmp_path / "blob").read_bytes() == blob.read()
    world.server.blobs["app", digest] = blob.read()[:-1] + b"!"
    with pytest.raises(SystemUnavailable, match="other bytes"):
        run(world.client().download("app", digest, tmp_path / "blob"))
    with pytest.raises(BadInput, match="is not in the registry"):
        run(world.client().download("app", digest_of(b"none"), tmp_path / "blob"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_after_cut_connections(world: World, tmp_path: Path, ranges: bool) -> None:
    """As often as more of it comes: only an answer that brings no more counts as a failed try."""
    blob = big_blob(5_000)
    run(world.client().push_blob("app", blob))
    world.server.has_ranges = ranges
    world.server.cut_answers += [1000] * 4 + [0] if ranges else [1000, 4000, 0]
    seen: list[int] = []
    digest = blob.descriptor.digest
    run(world.client().download("app", digest, tmp_path / "blob", progress=seen.append))
    assert (tmp_path / "blob").read_bytes() == blob.read() and seen[-1] == 5_000
    assert len(world.waited) == 1
    if ranges:
        assert world.server.sent[digest] == 5000 + 4000 + 3000 + 2000 + 1000 + 1000
    world.server.cut_answers += [0] * 9
    with pytest.raises(SystemUnavailable, match=r"did not answer .* 5 times"):
        run(world.client().download("app", digest, tmp_path / "blob"))


def test_a_manifest_that_is_a_web_page_is_the_registrys_fault(world: World) -> None:
    world.server.fail("GET", "manifests", httpx.Response(200, text="<html>log in</html>"))
    with pytest.raises(SystemUnavailable, match="is not a manifest"):
        run(world.client().manifest("app", "v1"))


def test_a_push_whose_blob_vanished_is_not_a_success(world: World, image: Bundle) -> None:
    gone = image.blobs[0].descriptor.digest

    def lose(request: httpx.Request) -> httpx.Response | None:
        if request.method == "PUT" and "manifests" in request.url.path:
            return httpx.Response(201)  # says so, and stores nothing
        return None

    world.server.gate = lose
    with pytest.raises(SystemUnavailable, match=image.digest):
        run(push(world.client(), "app", image))
    assert ("app", gone) in world.server.blobs


def test_all_pages_of_tags_come(world: World) -> None:
    world.server.page = 2
    names = ["a", "b", "c", "d", "e"]
    run(push(world.client(), "app", artifact(artifact_type="x/y", layers=()), tags=names))
    assert run(world.client().tags("app")) == tuple(names)
    assert run(world.client().tags("none")) == ()


@pytest.mark.parametrize("has_api", [False, True])
def test_referrers_come_from_the_api_or_the_fallback_tag(world: World, image: Bundle, has_api: bool) -> None:
    world.server.has_referrers = has_api

    async def attach() -> tuple[Descriptor, ...]:
        async with world.client() as registry:
            await push(registry, "app", image)
            notes = [
                artifact(artifact_type=f"x/{n}", layers=(), subject=image.root.descriptor) for n in range(3)
            ]
            await asyncio.gather(*(push(registry, "app", note) for note in notes))
            await push(registry, "app", notes[0])
            await registry.put_manifest("app", notes[0].root)
            return await registry.referrers("app", image.digest)

    found = run(attach())
    assert sorted(str(one.artifact_type) for one in found) == ["x/0", "x/1", "x/2"]
    assert (("app", image.digest.replace(":", "-")) in world.server.manifests) is not has_api


def test_a_token_is_fetched_once_a_scope_and_renewed_when_it_expires(image: Bundle) -> None:
    fetched: list[Challenge] = []
    valid: set[str] = set()

    async def fetch(challenge: Challenge) -> Token:
        fetched.append(challenge)
        valid.add(f"t{len(fetched)}")
        return Token(text=f"t{len(fetched)}", seconds=1000)

    def gate(request: httpx.Request) -> httpx.Response | None:
        if request.headers.get("Authorization", "").removeprefix("Bearer ") in valid:
            return None
        scope = 'Bearer realm="https://auth.example/token",service="acr",scope="repository:app:pull,push"'
        return httpx.Response(401, headers={"WWW-Authenticate": scope})

    world = World(auth=BearerAuth(fetch))
    world.server.gate = gate

    async def twice() -> None:
        async with world.client() as registry:
            await push(registry, "app", image)
            assert len(fetched) == 1  # one scope was asked for, to read and to write
            valid.clear()
            await push(registry, "app", artifact(artifact_type="x/y", layers=(("t/p", b"late", {}),)))

    run(twice())
    assert len(fetched) == 2
    assert fetched[0] == Challenge(
        realm="https://auth.example/token", service="acr", scope="repository:app:pull,push"
    )


def test_a_token_for_a_password_comes_from_the_realm() -> None:
    def realm(request: httpx.Request) -> httpx.Response:
        assert request.url.params["scope"] == "repository:app:pull"
        assert request.headers["Authorization"].startswith("Basic ")
        return httpx.Response(200, json={"access_token": "abc"})

    challenge = Challenge(realm="https://auth.example/token", service="acr", scope="repository:app:pull")
    assert run(password_tokens("me", "pw", httpx.MockTransport(realm))(challenge)).text == "abc"
    broken = httpx.MockTransport(lambda _: httpx.Response(200, text="hello"))
    with pytest.raises(SystemUnavailable, match="gave no token") as caught:
        run(password_tokens("me", "pw", broken)(challenge))
    assert "pw" not in str(caught.value)


def test_other_challenges_are_not_bearer() -> None:
    assert parse_challenge('Basic realm="x"') is None
    assert parse_challenge('Bearer service="x"') is None


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("127.0.0.1:5501", "http://127.0.0.1:5501"),
        ("localhost:1", "http://localhost:1"),
        ("[::1]:5", "http://[::1]:5"),
        ("r.example", "https://r.example"),
        ("127.evil.example", "https://127.evil.example"),
    ],
)
def test_plain_http_is_for_this_machine_only(endpoint: str, url: str) -> None:
    assert str(Registry(endpoint)._connection.origin).rstrip("/") == url

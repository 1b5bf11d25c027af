"""The client of Azure's registries against one of ours: their sign-in before a real docker-registry."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure_registry import AzureStandIn, Trouble, azure_registry
from hypothesis import given
from hypothesis import strategies as st
from oci import layer, write_image

from ci import places
from ci.errors import BadInput, PipelineError, SystemUnavailable
from ci.registry import (
    AzureRegistry,
    Blob,
    Bundle,
    Descriptor,
    Outcome,
    Registry,
    artifact,
    digest_of,
    is_azure,
    missing,
    open_archive,
    push,
    registry_at,
)
from ci.registry import blobs as blobs_module

T = TypeVar("T")

needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed"
)


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class World:
    """The stand-in, and what clients of it waited for."""

    server: AzureStandIn
    clock: Clock = field(default_factory=Clock)
    waited: list[float] = field(default_factory=list)

    def client(self) -> AzureRegistry:
        async def sleep(seconds: float) -> None:
            self.waited.append(seconds)

        return AzureRegistry(
            self.server.endpoint, credential=self.server.entra, sleep=sleep, clock=self.clock
        )

    def run(self, work: Callable[[AzureRegistry], Awaitable[T]]) -> T:
        async def main() -> T:
            async with self.client() as registry:
                return await work(registry)

        return asyncio.run(main())

    def trouble(self, request: str, **how: object) -> None:
        self.server.troubles.append(Trouble(request, **how))  # type: ignore[arg-type]

    @property
    def exchanges(self) -> int:
        return self.server.count("POST /oauth2/exchange")

    @property
    def tokens(self) -> int:
        return self.server.count("POST /oauth2/token")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureStandIn]:
    with azure_registry(tmp_path_factory.mktemp("acr")) as server:
        yield server


@pytest.fixture
def world(server: AzureStandIn) -> World:
    server.reset()
    return World(server)


@pytest.fixture
def image(tmp_path: Path) -> Bundle:
    write_image(tmp_path / "image.tar", layer(a="1"), layer(b="2"), nested=True)
    return open_archive(tmp_path / "image.tar")


# --- which client --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "azure"),
    [
        ("acrvoiceassistant.azurecr.io", True),
        ("acrvoiceassistant-h4sh.azurecr.io", True),
        ("acrvoiceassistant.westeurope.geo.azurecr.io", True),
        ("ACRVoice.azurecr.io", True),
        ("acrvoiceassistant.westeurope.data.azurecr.io", False),
        ("azurecr.io", False),
        ("azurecr.io.evil.example", False),
        ("evil.example/acr.azurecr.io", False),
        ("a.b.azurecr.io", False),
        ("acr.azurecr.io.", False),
        ("xazurecr.io", False),
        ("127.0.0.1:5501", False),
        ("ghcr.io", False),
    ],
)
def test_the_name_chooses_the_client(endpoint: str, azure: bool) -> None:
    assert is_azure(endpoint) is azure
    if "/" not in endpoint and not endpoint.endswith("."):
        assert isinstance(registry_at(endpoint), AzureRegistry) is azure


@given(st.from_regex(r"[a-z0-9.:/@-]{0,40}(azurecr\.io)?[a-z0-9.:/@-]{0,10}", fullmatch=True))
def test_no_token_of_azure_goes_to_a_host_outside_azure(endpoint: str) -> None:
    if is_azure(endpoint):
        assert endpoint.endswith(".azurecr.io") and ".data." not in endpoint
        assert not set(endpoint) & set("/:@")


def test_every_registry_is_opened_by_its_name() -> None:
    """Whoever opens one in another way would meet ACR without a sign-in. The platform knows its own."""
    known = {"ci/registry/acr.py", "ci/engine/images.py"}
    root = places.checkout()
    files = [file for folder in ("ci", "pipelines") for file in (root / folder).rglob("*.py")]
    opened = {
        str(file.relative_to(root))
        for file in files
        if "platform" not in file.parts
        and re.search(r"(?<![\w.])Registry\((?!Registry)", re.sub(r"class \w+\(.*", "", file.read_text()))
    }
    assert opened <= known, f"use registry_at in {', '.join(sorted(opened - known))}"


def test_endpoints_of_one_registry_have_one_name() -> None:
    names = {
        AzureRegistry(endpoint).name
        for endpoint in (
            "acrvoice.azurecr.io",
            "acrvoice.eastus.geo.azurecr.io",
            "acrvoice.westeurope.geo.azurecr.io",
        )
    }
    assert names == {"acrvoice.azurecr.io"}


# --- signing in ----------------------------------------------------------------------------


@needs_registry
def test_a_push_signs_in_once_and_asks_for_each_scope_once(world: World, image: Bundle) -> None:
    async def work(registry: AzureRegistry) -> None:
        first = await push(registry, "app", image, tags=["v1"])
        assert first.sent == 3
        challenged = world.server.count("")
        assert (await push(registry, "app", image, tags=["v1"])).unchanged
        for blob in image.blobs:
            assert await registry.blob("app", blob.descriptor.digest) == blob.read()
        assert await registry.tags("app") == ("v1",)
        # Two for each blob: the login server, then the data endpoint that it names. Nothing was challenged.
        assert world.server.count("") - challenged == 6 + 2 * 3 + 1

    world.run(work)
    assert (world.exchanges, world.tokens) == (1, 2)  # one to pull, one to push
    assert len(world.server.entra.issued) == 1


@needs_registry
def test_a_token_is_renewed_before_it_expires(world: World, image: Bundle) -> None:
    world.server.now = lambda: 5e8 + world.clock()

    async def work(registry: AzureRegistry) -> None:
        await push(registry, "app", image)
        world.clock.seconds += world.server.access_seconds * 0.8
        await missing(registry, "app", image)
        assert world.tokens == 2
        world.clock.seconds += world.server.access_seconds * 0.15
        world.server.asked.clear()
        await missing(registry, "app", image)
        assert (world.exchanges, world.tokens) == (0, 1)
        # Five requests for five answers: nothing was refused first.
        assert world.server.count("/v2/") == 5
        world.clock.seconds += world.server.refresh_seconds
        await missing(registry, "app", image)
        assert (world.exchanges, world.tokens) == (1, 2)

    world.run(work)


@needs_registry
@pytest.mark.parametrize("skew", [-86400.0, -60.0, 60.0, 86400.0])
def test_a_clock_that_is_wrong_costs_nothing(world: World, image: Bundle, skew: float) -> None:
    world.server.now = lambda: time.time() + skew
    world.run(lambda registry: push(registry, "app", image))
    assert (world.exchanges, world.tokens) == (1, 2)


@needs_registry
def test_revoked_and_expired_tokens_are_replaced(world: World, image: Bundle) -> None:
    async def work(registry: AzureRegistry) -> None:
        await push(registry, "app", image)
        world.server.revoke()  # access and refresh tokens alike
        assert await missing(registry, "app", image) == ()
        await push(registry, "app", artifact(artifact_type="x/y", layers=(("t/p", b"late", {}),)))

    world.run(work)
    assert world.exchanges == 2


@needs_registry
def test_many_at_once_share_one_sign_in(world: World) -> None:
    notes = [artifact(artifact_type="x/y", layers=(("t/p", bytes([n]), {}),)) for n in range(6)]

    async def work(registry: AzureRegistry) -> None:
        await asyncio.gather(*(push(registry, "app", note) for note in notes))

    world.run(work)
    assert (world.exchanges, world.tokens) == (1, 2)


@needs_registry
def test_an_identity_without_the_role_is_told_so(world: World, image: Bundle) -> None:
    world.server.actions = frozenset({"pull"})
    with pytest.raises(
        SystemUnavailable, match=r"gives no token for repository:app:pull,push|refused"
    ) as caught:
        world.run(lambda registry: push(registry, "app", image))
    assert caught.value.exit_code == 6 and caught.value.hint
    assert "entra-" not in f"{caught.value} {caught.value.hint}"


@needs_registry
def test_nobody_signed_in_to_azure(world: World) -> None:
    class Nobody:
        def get_token(self, *_: str, **__: object) -> None:
            raise ClientAuthenticationError("DefaultAzureCredential failed to retrieve a token\nEnvironment…")

    async def work() -> None:
        async with AzureRegistry(world.server.endpoint, credential=Nobody()) as registry:  # type: ignore[arg-type]
            await registry.ping()

    with pytest.raises(SystemUnavailable, match=r"does not let us in, for .*failed to retrieve") as caught:
        asyncio.run(work())
    assert "az login" in caught.value.hint


@needs_registry
def test_an_entra_token_that_the_registry_does_not_take(world: World) -> None:
    world.trouble("/oauth2/exchange", status=401, times=9)
    with pytest.raises(SystemUnavailable, match="refused these credentials: 401"):
        world.run(lambda registry: registry.ping())


@needs_registry
@pytest.mark.parametrize("path", ["/oauth2/exchange", "/oauth2/token"])
def test_a_sign_in_that_is_not_found_is_no_manifest_that_is_not_found(world: World, path: str) -> None:
    world.trouble(path, status=404, times=9)
    with pytest.raises(SystemUnavailable, match="404"):
        world.run(lambda registry: registry.find_manifest("app", "v1"))


@needs_registry
@pytest.mark.parametrize("path", ["/oauth2/exchange", "/oauth2/token"])
def test_no_redirect_takes_a_token_elsewhere(world: World, path: str) -> None:
    world.trouble(path, status=307, to=f"http://{world.server.data_endpoint}/thief")
    with pytest.raises(SystemUnavailable, match="307"):
        world.run(lambda registry: registry.find_manifest("app", "v1"))
    assert not world.server.count("thief")


# --- faults --------------------------------------------------------------------------------


EVERYWHERE = [
    "POST /oauth2/exchange",
    "POST /oauth2/token",
    "GET /v2/app/manifests",
    "HEAD /v2/app/blobs",
    "POST /v2/app/blobs/uploads",
    "PUT /v2/app/blobs/uploads",
    "PUT /v2/app/manifests",
]


@needs_registry
@pytest.mark.parametrize("request_", EVERYWHERE)
def test_a_busy_registry_is_waited_for_as_long_as_it_says(world: World, image: Bundle, request_: str) -> None:
    world.trouble(request_, status=429, retry_after="3", times=2)
    assert world.run(lambda registry: push(registry, "app", image)).sent == 3
    assert world.waited.count(3.0) == 2
    assert world.run(lambda registry: missing(registry, "app", image)) == ()


@needs_registry
@pytest.mark.parametrize(
    ("request_", "status"), list(zip(EVERYWHERE, itertools.cycle([500, 502, 503, 504]), strict=False))
)
def test_a_failing_registry_is_asked_again(world: World, image: Bundle, request_: str, status: int) -> None:
    world.trouble(request_, status=status, times=2)
    assert world.run(lambda registry: push(registry, "app", image)).sent == 3
    assert len(world.waited) == 2


@needs_registry
@pytest.mark.parametrize("request_", EVERYWHERE[:3])
def test_a_registry_that_stays_down_is_given_up_with_its_name(
    world: World, image: Bundle, request_: str
) -> None:
    world.trouble(request_, status=503, times=99)
    with pytest.raises(SystemUnavailable, match=rf"{world.server.endpoint} did not answer .* 5 times: 503"):
        world.run(lambda registry: push(registry, "app", image))
    assert world.server.manifests.get("app", {}) == {}


@needs_registry
@pytest.mark.parametrize("request_", ["POST /oauth2/exchange", "POST /oauth2/token", "GET /v2/app/manifests"])
def test_half_an_answer_is_no_answer(world: World, image: Bundle, request_: str) -> None:
    world.run(lambda registry: push(registry, "app", image))
    world.trouble(request_, cut=True)
    found = world.run(lambda registry: registry.manifest("app", image.digest))
    assert found.raw == image.root.raw
    assert len(world.waited) == 1


@needs_registry
def test_half_a_blob_from_the_data_endpoint_is_asked_for_again(
    world: World, image: Bundle, tmp_path: Path
) -> None:
    world.run(lambda registry: push(registry, "app", image))
    blob = image.blobs[-1]
    world.server.troubles.append(Trouble("DATA /v2/app/blobs", cut=True, times=2))
    assert world.run(lambda registry: registry.blob("app", blob.descriptor.digest)) == blob.read()
    world.run(lambda registry: registry.download("app", blob.descriptor.digest, tmp_path / "blob"))
    assert (tmp_path / "blob").read_bytes() == blob.read()


@needs_registry
def test_altered_bytes_are_never_returned(world: World, image: Bundle, tmp_path: Path) -> None:
    world.run(lambda registry: push(registry, "app", image, tags=["v1"]))
    digest = image.blobs[-1].descriptor.digest

    def altered(request: str, work: Callable[[AzureRegistry], Awaitable[object]]) -> None:
        world.server.troubles[:] = [Trouble(request, alter=True, times=9)]
        with pytest.raises(SystemUnavailable, match="bytes"):
            world.run(work)

    altered("GET /v2/app/manifests", lambda registry: registry.manifest("app", image.digest))
    altered("GET /v2/app/manifests", lambda registry: registry.manifest("app", "v1"))
    altered("GET /v2/app/manifests", lambda registry: missing(registry, "app", image))
    altered("DATA /v2/app/blobs", lambda registry: registry.blob("app", digest))
    altered("DATA /v2/app/blobs", lambda registry: registry.download("app", digest, tmp_path / "blob"))


# --- pushing -------------------------------------------------------------------------------


@needs_registry
@pytest.mark.parametrize("cut_after", [100_000, 1_048_576])
def test_a_push_goes_on_where_the_connection_was_cut(
    world: World, monkeypatch: pytest.MonkeyPatch, cut_after: int
) -> None:
    monkeypatch.setattr(blobs_module, "_PIECE_BYTES", 2 * 2**20)
    content = os.urandom(5_000_000)
    blob = Blob(
        descriptor=Descriptor(media_type="x/y", digest=digest_of(content), size=len(content)), source=content
    )
    world.trouble("PATCH /v2/app/blobs/uploads", cut_upload=cut_after)

    async def work(registry: AzureRegistry) -> None:
        assert await registry.push_blob("app", blob) is Outcome.SENT
        assert await registry.blob("app", blob.descriptor, most=len(content)) == content

    world.run(work)
    begun = world.server.count("POST /v2/app/blobs/uploads")
    assert begun == 2  # challenged, then begun: it was not begun anew
    assert world.server.count("GET /v2/app/blobs/uploads") == 1


@needs_registry
def test_blobs_go_in_parallel_and_are_mounted_from_other_repositories(world: World, tmp_path: Path) -> None:
    shared = [os.urandom(50_000) for _ in range(3)]
    own = [os.urandom(50_000) for _ in range(4)]
    for name, layers in (("one", shared), ("two", own), ("three", [*shared, *own])):
        write_image(tmp_path / f"{name}.tar", *layers, env=f"NAME={name}")

    async def work(registry: AzureRegistry) -> None:
        bundles = [open_archive(tmp_path / f"{name}.tar") for name in ("one", "two")]
        await asyncio.gather(push(registry, "one", bundles[0]), push(registry, "two", bundles[1]))
        # From two homes at once: each needs a token of its own that lets it read there.
        third = await push(registry, "three", open_archive(tmp_path / "three.tar"))
        assert (third.mounted, third.sent) == (7, 1)

    world.run(work)
    assert world.exchanges == 1


@needs_registry
@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ("PUT /v2/app/blobs/uploads", 507, "storage"),
        ("PUT /v2/app/manifests", 500, "write /x: no space left on device"),
    ],
)
def test_a_full_registry_is_said_to_be_full_and_goes_on_later(
    world: World, image: Bundle, request_: str, status: int, said: str
) -> None:
    world.trouble(request_, status=status, said=said)
    with pytest.raises(SystemUnavailable, match=f"{world.server.endpoint} is full: {status}") as caught:
        world.run(lambda registry: push(registry, "app", image, tags=["v1"]))
    assert "free room" in caught.value.hint
    assert not world.waited
    assert world.run(lambda registry: registry.find_manifest("app", "v1")) is None
    world.run(lambda registry: push(registry, "app", image, tags=["v1"]))
    assert world.run(lambda registry: missing(registry, "app", image)) == ()


# --- what only ACR has ---------------------------------------------------------------------


@needs_registry
def test_a_locked_manifest_cannot_be_deleted_nor_its_tag_be_moved(world: World, image: Bundle) -> None:
    async def work(registry: AzureRegistry) -> None:
        await push(registry, "app", image, tags=["v1"])
        await registry.lock("app", image.digest, ["v1"])
        await registry.lock("app", image.digest, ["v1"])
        assert {one.digest: one.locked for one in await registry.held("app")}[image.digest]
        with pytest.raises(SystemUnavailable, match=r"may not be deleted: 405 .*disallowed"):
            await registry.remove("app", image.digest)
        other = artifact(artifact_type="x/y", layers=())
        with pytest.raises(PipelineError, match="disallowed"):
            await push(registry, "app", other, tags=["v1"])
        assert (await registry.manifest("app", "v1")).descriptor.digest == image.digest
        await registry.lock("app", image.digest, ["v1"], on=False)
        await registry.remove("app", image.digest)
        await registry.remove("app", image.digest)  # gone already
        assert await registry.find_manifest("app", image.digest) is None

    world.run(work)
    assert world.exchanges == 1, "the SDK was handed our tokens"


@needs_registry
def test_all_that_is_held_is_listed_page_after_page(world: World, image: Bundle) -> None:
    world.server.page = 2
    notes = [artifact(artifact_type=f"x/{n}", layers=()) for n in range(5)]

    async def work(registry: AzureRegistry) -> None:
        assert await registry.held("app") == ()
        await push(registry, "app", image, tags=["v1", "v2"])
        for note in notes:
            await push(registry, "app", note)
        held = {one.digest: one for one in await registry.held("app")}
        assert len(held) == 2 + len(notes)
        assert held[image.digest].tags == ("v1", "v2")
        assert all(one.updated and abs(one.updated.timestamp() - time.time()) < 60 for one in held.values())
        assert held[notes[0].digest].tags == () and not held[notes[0].digest].locked

    world.run(work)


@needs_registry
@pytest.mark.parametrize(
    "how",
    [
        {"status": 429, "retry_after": "0", "times": 2},
        {"status": 503, "times": 2},
        {"status": 500, "times": 1},
        {"cut": True},
    ],
)
def test_listing_and_locking_stand_the_same_faults(
    world: World, image: Bundle, how: dict[str, object]
) -> None:
    world.run(lambda registry: push(registry, "app", image, tags=["v1"]))
    world.trouble("GET /acr/v1/app/_manifests", **how)
    assert len(world.run(lambda registry: registry.held("app"))) == 2
    world.trouble("PATCH /acr/v1/app", **how)
    world.run(lambda registry: registry.lock("app", image.digest, ["v1"]))
    assert not world.server.manifests["app"][image.digest].locked["writeEnabled"]
    assert not world.server.tag_locks["app", "v1"]["writeEnabled"]


@needs_registry
def test_tokens_that_expire_under_the_sdk_are_replaced(world: World, image: Bundle) -> None:
    async def work(registry: AzureRegistry) -> None:
        await push(registry, "app", image, tags=["v1"])
        assert len(await registry.held("app")) == 2
        world.server.revoke()
        assert len(await registry.held("app")) == 2
        await registry.lock("app", image.digest)

    world.run(work)


@needs_registry
def test_what_is_not_there_cannot_be_locked(world: World, image: Bundle) -> None:
    async def work(registry: AzureRegistry) -> None:
        await push(registry, "app", image)
        await registry.lock("app", digest_of(b"nothing"))

    with pytest.raises(BadInput, match="does not have it"):
        world.run(work)


@needs_registry
def test_locking_without_the_right_to_says_which(world: World, image: Bundle) -> None:
    world.run(lambda registry: push(registry, "app", image))
    world.server.actions = frozenset({"pull", "push", "metadata_read"})
    with pytest.raises(SystemUnavailable, match="gives no token for repository:app:metadata_write"):
        world.run(lambda registry: registry.lock("app", image.digest))


def test_a_plain_registry_has_no_locks() -> None:
    with pytest.raises(BadInput, match=r"127\.0\.0\.1:5999 has no locks"):
        asyncio.run(Registry("127.0.0.1:5999").lock("app", digest_of(b"x")))

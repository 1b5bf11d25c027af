"""The registry client against real docker-registry processes of its own: cuts, a full disk, a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from oci import layer, write_image
from real_registry import free_port, registry_on

from ci.errors import BadInput, SystemUnavailable
from ci.registry import Outcome, Registry, artifact, missing, open_archive, push
from ci.registry import blobs as blobs_module

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed"),
]


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    with registry_on(tmp_path / "registry", free_port()) as address:
        yield address


@contextlib.asynccontextmanager
async def cutting_proxy(endpoint: str, *budgets: int) -> AsyncIterator[str]:
    """A TCP proxy that resets its n-th connection after that many bytes from the client; later ones live."""
    left = list(budgets)
    port = int(endpoint.rpartition(":")[2])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        budget = left.pop(0) if left else None
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)

        async def back() -> None:
            while data := await up_reader.read(65536):
                writer.write(data)
                await writer.drain()

        answering = asyncio.create_task(back())
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                if budget is not None:
                    budget -= len(data)
                    if budget < 0:
                        break
                up_writer.write(data)
                await up_writer.drain()
        answering.cancel()
        for one in (writer, up_writer):
            one.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_an_image_arrives_whole_and_skopeo_reads_it(endpoint: str, tmp_path: Path) -> None:
    digest = write_image(tmp_path / "image.tar", layer(a="1"), os.urandom(3_000_000), nested=True)
    bundle = open_archive(tmp_path / "image.tar")

    async def twice() -> None:
        async with Registry(endpoint) as registry:
            first = await push(registry, "voice/app", bundle, tags=["v1"])
            assert first.sent == 3
            assert (await push(registry, "voice/app", bundle, tags=["v1"])).unchanged
            assert await registry.tags("voice/app") == ("v1",)
            for blob in bundle.blobs:
                assert await registry.blob("voice/app", blob.descriptor.digest) == blob.read()

    asyncio.run(twice())
    if skopeo := shutil.which("skopeo"):
        raw = subprocess.check_output(
            [skopeo, "inspect", "--tls-verify=false", "--raw", f"docker://{endpoint}/voice/app@{digest}"]
        )
        assert raw == bundle.root.raw


def test_a_cut_upload_goes_on(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_module, "_PIECE_BYTES", 4 * 2**20)
    write_image(tmp_path / "image.tar", os.urandom(30_000_000))
    bundle = open_archive(tmp_path / "image.tar")

    async def through_cuts() -> None:
        async with cutting_proxy(endpoint, 22_000_000, 6_000_000) as proxied, Registry(proxied) as registry:
            done = await push(registry, "app", bundle)
            assert done.sent == 2
        async with Registry(endpoint) as registry:
            assert await missing(registry, "app", bundle) == ()
            big = bundle.blobs[1]
            assert await registry.blob("app", big.descriptor, most=2**25) == big.read()

    asyncio.run(through_cuts())


def test_a_registry_that_starts_again_meanwhile_is_waited_for(tmp_path: Path) -> None:
    port = free_port()
    write_image(tmp_path / "image.tar", layer(a="1"))
    bundle = open_archive(tmp_path / "image.tar")

    async def main() -> None:
        # Patient enough for a program that takes its time to start: the attempts span half a minute.
        async with Registry(f"127.0.0.1:{port}", attempts=10) as registry:
            pushing = asyncio.create_task(push(registry, "app", bundle))
            await asyncio.sleep(0.3)
            with registry_on(tmp_path / "registry", port):
                await pushing
                assert await missing(registry, "app", bundle) == ()

    asyncio.run(main())


def test_a_registry_that_is_down_is_said_to_be_within_seconds() -> None:
    async def main() -> None:
        async with Registry(f"127.0.0.1:{free_port()}") as registry:
            await registry.ping()

    started = time.monotonic()
    with pytest.raises(SystemUnavailable, match="did not answer"):
        asyncio.run(main())
    assert time.monotonic() - started < 30


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_of_the_registry_is_said_and_can_be_mended(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    write_image(tmp_path / "image.tar", os.urandom(6_000_000))
    bundle = open_archive(tmp_path / "image.tar")

    async def main() -> None:
        with registry_on(disk / "registry", free_port()) as endpoint:
            async with Registry(endpoint) as registry:
                with pytest.raises(SystemUnavailable, match="is full"):
                    await push(registry, "app", bundle)
                assert await registry.find_manifest("app", bundle.digest) is None
                subprocess.run(["mount", "-o", "remount,size=32m", disk], check=True)  # noqa: ASYNC221
                assert (await push(registry, "app", bundle)).sent
                assert await missing(registry, "app", bundle) == ()

    try:
        asyncio.run(main())
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_damage_in_the_registrys_storage_is_found(tmp_path: Path) -> None:
    write_image(tmp_path / "image.tar", layer(a="1"))
    bundle = open_archive(tmp_path / "image.tar")

    async def main() -> None:
        with registry_on(tmp_path / "registry", free_port()) as endpoint:
            async with Registry(endpoint) as registry:
                await push(registry, "app", bundle)
                stored = next((tmp_path / "registry").rglob(f"{bundle.digest[7:]}/data"))
                stored.write_bytes(stored.read_bytes().replace(b"amd64", b"arm64").replace(b"gzip", b"gzjp"))
                with pytest.raises(
                    SystemUnavailable, match=r"bytes with the digest|is not a manifest|answered"
                ):
                    await registry.manifest("app", bundle.digest)
                with pytest.raises(SystemUnavailable):
                    await missing(registry, "app", bundle)

    asyncio.run(main())


def test_a_blob_shared_by_two_repositories_is_mounted(endpoint: str, tmp_path: Path) -> None:
    shared = os.urandom(1_000_000)
    write_image(tmp_path / "one.tar", shared, env="A=1")
    write_image(tmp_path / "two.tar", shared, env="A=2")

    async def main() -> None:
        async with Registry(endpoint) as registry:
            await push(registry, "one", open_archive(tmp_path / "one.tar"))
            second = await push(registry, "two", open_archive(tmp_path / "two.tar"))
            assert (second.mounted, second.sent) == (1, 1)

    asyncio.run(main())


def test_referrers_are_found_on_a_registry_without_the_api(endpoint: str, tmp_path: Path) -> None:
    write_image(tmp_path / "image.tar", layer(a="1"))
    bundle = open_archive(tmp_path / "image.tar")
    note = artifact(
        artifact_type="application/x", layers=(("text/plain", b"x", {}),), subject=bundle.root.descriptor
    )

    async def main() -> None:
        async with Registry(endpoint) as registry:
            await push(registry, "app", bundle)
            await push(registry, "app", note)
            (found,) = await registry.referrers("app", bundle.digest)
            assert (found.digest, found.artifact_type) == (note.digest, "application/x")
            assert await registry.push_blob("app", note.blobs[0]) is Outcome.THERE
            with pytest.raises(BadInput, match="is not in the registry"):
                await registry.manifest("app", "sha256:" + "0" * 64)

    asyncio.run(main())

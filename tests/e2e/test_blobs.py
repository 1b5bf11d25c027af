"""Blobs as they are stored, on two accounts of Azurite: encodings that are true, lie, or are nobody's."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import secrets
import stat
import subprocess
import zlib
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from azure.core.exceptions import AzureError
from azure.storage.blob import ContentSettings
from real_registry import free_port
from waiting import until

from ci import tools
from ci.platform.daemon import connects
from ci.recovery import blobs, sets
from ci.recovery.blobs import Account
from ci.recovery.sets import BlobsBackup

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        bool([status.name for status in tools.survey(("node", "azurite")) if not status.found]),
        reason="tools are missing: va doctor --install provides them",
    ),
]

T = TypeVar("T")
PLAIN = b"caller: hello\nagent: good morning, what can I do for you?\n" * 40
HEADERS = {"content_type": "text/plain; charset=utf-8", "cache_control": "no-store", "content_language": "de"}
BLOBS: dict[str, tuple[bytes, dict[str, str]]] = {
    "gzip": (gzip.compress(PLAIN), {"content_encoding": "gzip"} | HEADERS),
    "deflate": (zlib.compress(PLAIN), {"content_encoding": "deflate"}),
    "brotli": (b"\x1b\xff\x00 no codec is asked", {"content_encoding": "br"}),
    "several": (gzip.compress(gzip.compress(PLAIN)), {"content_encoding": "gzip, gzip"}),
    "a lie": (PLAIN, {"content_encoding": "gzip"}),
    "half a truth": (gzip.compress(PLAIN)[:30], {"content_encoding": "gzip"}),
    "an unknown one": (PLAIN, {"content_encoding": "x-va"}),
    "empty": (b"", {"content_encoding": "gzip"}),
    "none, though it is": (gzip.compress(PLAIN), {"content_disposition": 'attachment; filename="a.gz"'}),
    "deep/ü blank +%25?.bin": (secrets.token_bytes(70_000), {}),
    "large": (gzip.compress(secrets.token_bytes(5_000_000)), {"content_encoding": "gzip"}),
}


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Account, Account, Account]]:
    """Here, where the copies go, and one that is empty."""
    name, key = "va", "a2V5IG9mIGEgdGVzdCwgbm90IGEgc2VjcmV0Li4u"
    running, found = [], []
    for _ in range(3):
        port, folder = free_port(), tmp_path_factory.mktemp("azurite")
        running.append(
            subprocess.Popen(
                [
                    tools.path("node"), tools.path("azurite"), "--location", folder,
                    "--blobHost", "127.0.0.1", "--blobPort", str(port),
                    "--skipApiVersionCheck", "--disableTelemetry", "--silent",
                ],
                env={**os.environ, "AZURITE_ACCOUNTS": f"{name}:{key}"},
            )
        )  # fmt: skip
        found.append(Account(url=f"http://127.0.0.1:{port}/{name}", name=name, key=key))
        check = connects("127.0.0.1", port)
        until(lambda check=check: not asyncio.run(check()), "Azurite")  # type: ignore[misc]
    try:
        yield found[0], found[1], found[2]
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


async def seed(account: Account, container: str) -> None:
    async with blobs.connect(account) as client:
        await client.create_container(container)
        for name, (content, headers) in BLOBS.items():
            await client.get_blob_client(container, name).upload_blob(
                content, content_settings=ContentSettings(**headers), metadata={"Call": name.encode().hex()}
            )


async def stored(account: Account, container: str) -> dict[str, tuple[bytes, dict[str, str], dict[str, str]]]:
    found = {}
    async with blobs.connect(account) as client:
        async for one in client.get_container_client(container).list_blobs():
            download = await client.get_blob_client(container, one.name).download_blob(decompress=False)
            kept = download.properties.content_settings
            headers = {key: value for key, value in vars(kept).items() if value and key != "content_md5"}
            metadata = {key.lower(): value for key, value in download.properties.metadata.items()}
            found[one.name] = (await download.readall(), headers, metadata)
    return found


@pytest.fixture
def backup(accounts: tuple[Account, Account, Account]) -> BlobsBackup:
    here, copies, _ = accounts
    container = f"c{secrets.token_hex(8)}"
    run(seed(here, container))
    return run(blobs.back_up(here, copies, (container,)))


def test_every_blob_comes_back_byte_for_byte_with_its_headers(accounts: Any, backup: BlobsBackup) -> None:
    here, copies, empty = accounts
    assert {blob.name: blob.size for blob in backup.blobs} == {
        name: len(content) for name, (content, _) in BLOBS.items()
    }
    assert all(blob.md5 == hashlib.md5(BLOBS[blob.name][0]).hexdigest() for blob in backup.blobs)
    assert [check.problem for check in run(blobs.check(backup, copies))] == [""]
    # Blobs that nobody gave an MD5 are known by their bytes.
    assert run(blobs.strangers(backup, here)) == []

    assert run(blobs.restore(backup, copies, empty)) == (len(BLOBS), [])

    (container,) = backup.containers
    before, after = run(stored(here, container)), run(stored(empty, container))
    assert after == before
    for name, (content, headers) in BLOBS.items():
        assert after[name][0] == content and headers.items() <= after[name][1].items()
    assert run(blobs.strangers(backup, empty)) == []
    assert run(blobs.restore(backup, copies, empty)) == (0, [])  # all there


def test_headers_alone_make_another_copy_and_nothing_makes_none(accounts: Any, backup: BlobsBackup) -> None:
    here, copies, _ = accounts
    again = run(blobs.back_up(here, copies, backup.containers))
    assert again.blobs == backup.blobs

    async def change() -> None:
        async with blobs.connect(here) as client:
            blob = client.get_blob_client(backup.containers[0], "a lie")
            await blob.set_http_headers(ContentSettings(content_encoding="identity"))

    run(change())
    changed = run(blobs.back_up(here, copies, backup.containers))
    others = {
        blob.name for blob in changed.blobs if blob.snapshot not in {one.snapshot for one in backup.blobs}
    }
    assert others == {"a lie"}


def test_what_is_wrong_with_one_blob_keeps_none_of_the_others(accounts: Any, backup: BlobsBackup) -> None:
    _, copies, empty = accounts
    (container,) = backup.containers
    gone = next(blob for blob in backup.blobs if blob.name == "deflate")
    other = next(blob for blob in backup.blobs if blob.name == "gzip")

    async def lose() -> None:
        async with blobs.connect(copies) as client:
            await client.get_blob_client(container, gone.name).delete_blob("include")

    run(lose())
    lied = backup.model_copy(
        update={
            "blobs": tuple(
                one.model_copy(update={"md5": "0" * 32}) if one == other else one for one in backup.blobs
            )
        }
    )
    bad = {
        f"{container}/deflate": "missing",
        f"{container}/gzip": f"MD5 {other.md5[:12]}… instead of 000000000000…",
    }

    assert {one.what: one.problem for one in run(blobs.check(lied, copies))} == bad
    sent, problems = run(blobs.restore(lied, copies, empty))

    assert {one.what: one.problem for one in problems} == bad
    assert sent == len(BLOBS) - 2 and set(run(stored(empty, container))) == set(BLOBS) - {"deflate", "gzip"}


def test_a_blob_that_is_not_the_sets_is_told_by_its_bytes(accounts: Any, backup: BlobsBackup) -> None:
    here, _, _ = accounts
    (container,) = backup.containers
    content = BLOBS["a lie"][0]

    async def change() -> None:
        async with blobs.connect(here) as client:
            await client.get_blob_client(container, "a lie").upload_blob(content[::-1], overwrite=True)
            await client.get_blob_client(container, "new").upload_blob(b"x")

    run(change())
    assert sorted(run(blobs.strangers(backup, here))) == [f"{container}/a lie", f"{container}/new"]


def test_an_account_that_is_not_there_is_one_error(backup: BlobsBackup) -> None:
    nowhere = Account(url=f"http://127.0.0.1:{free_port()}/va", name="va", key="a2V5")

    with pytest.raises((blobs.SystemUnavailable, AzureError)):
        run(blobs.check(backup, nowhere))


def test_nobody_else_reads_a_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "postgres").mkdir(parents=True, mode=0o755)
    (folder / "postgres" / "base.tar.gz").write_bytes(b"all that the stores hold")
    (folder / "manifest.json").write_text("{}")
    sets.make_private(folder)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert modes == {"set": 0o700, "postgres": 0o700, "base.tar.gz": 0o600, "manifest.json": 0o600}

"""The room for Blob Storage: copies an account's blobs to a second one and back, each checked by its MD5.

Bytes are taken as they are stored: a `Content-Encoding` is a header of theirs, which is kept and believed of
nobody. What is wrong with one blob is told of, and the others go on.

A copy is kept as a *snapshot* of the blob in the second account: what is overwritten or copied later cannot
change it. A blob whose content has a snapshot already is not sent again. On Azure, where versioning is on,
the service keeps versions by itself; the plain calls used here work on any account.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobServiceClient

from ci.concurrency import together
from ci.errors import StepFailed, SystemUnavailable
from ci.recovery.sets import BlobCopy, BlobsBackup, Check

__all__ = [
    "Account", "back_up", "blobs_in", "check", "connect", "get", "put", "raw", "remove", "restore",
    "strangers",
]  # fmt: skip

_AT_ONCE = 8
_PATIENCE = 5
"""How often a blob is read again that changes while it is read."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """A storage account: its address without credentials, and its key."""

    url: str
    name: str
    key: str = field(repr=False)


@asynccontextmanager
async def connect(account: Account) -> AsyncIterator[BlobServiceClient]:
    """A client; SystemUnavailable for what the account does not answer or refuses."""
    try:
        async with raw(account) as client:
            yield client
    except AzureError as error:
        said = str(error.message).strip().splitlines()[0]
        raise SystemUnavailable(f"the storage account {account.url}: {said}") from error


def raw(account: Account, *, retries: int = 2) -> BlobServiceClient:
    """A client that raises the SDK's own errors."""
    return BlobServiceClient(
        account.url,
        credential={"account_name": account.name, "account_key": account.key},
        # Proxies are for the network; an account on this machine is not behind one.
        transport=AioHttpTransport(use_env_settings="127.0.0.1" not in account.url),
        retry_total=retries,
        connection_timeout=10,
    )


async def put(client: BlobServiceClient, container: str, name: str, content: bytes) -> None:
    """Have that blob, with its MD5."""
    md5 = hashlib.md5(content, usedforsecurity=False).digest()
    await client.get_blob_client(container, name).upload_blob(
        content, overwrite=True, content_settings=ContentSettings(content_md5=bytearray(md5))
    )


async def get(client: BlobServiceClient, container: str, name: str) -> bytes | None:
    """A blob's content; None where there is no such blob."""
    try:
        download = await client.get_blob_client(container, name).download_blob(decompress=False)
    except ResourceNotFoundError:
        return None
    return await download.readall()


async def blobs_in(client: BlobServiceClient, container: str) -> list[Any]:
    """The properties of every blob of a container; none where there is no such container."""
    try:
        return [blob async for blob in client.get_container_client(container).list_blobs()]
    except ResourceNotFoundError:
        return []


async def back_up(source: Account, copies: Account, containers: tuple[str, ...]) -> BlobsBackup:
    """Have a snapshot of every blob of these containers in the second account."""
    async with connect(source) as here, connect(copies) as there:
        found: list[BlobCopy] = []
        for container in containers:
            await _have_container(there, container)
            known = await _snapshots(there, container)
            gate = asyncio.Semaphore(_AT_ONCE)
            copied = await together(
                _copy(here, there, container, blob.name, known, gate)
                for blob in await blobs_in(here, container)
            )
            found += [copy for copy in copied if copy is not None]
    return BlobsBackup(
        source=source.url,
        copies=copies.url,
        containers=containers,
        blobs=tuple(sorted(found, key=lambda blob: (blob.container, blob.name))),
    )


async def _have_container(client: BlobServiceClient, container: str) -> None:
    with suppress(ResourceExistsError):
        await client.create_container(container)


async def _snapshots(client: BlobServiceClient, container: str) -> dict[tuple[str, str, str], str]:
    """The snapshots that there are, by blob, MD5 and headers."""
    listed = client.get_container_client(container).list_blobs(include=["snapshots", "metadata"])
    return {(blob.name, _md5(blob), _headers(blob)): blob.snapshot async for blob in listed if blob.snapshot}


def _headers(properties: Any) -> str:
    """All that is kept of a blob beside its bytes, to be compared."""
    own = _settings(properties, b"")
    kept = (own.content_type, own.content_encoding, own.content_language, own.content_disposition)
    metadata = sorted((key.lower(), value) for key, value in (properties.metadata or {}).items())
    return repr(([value or "" for value in (*kept, own.cache_control)], metadata))


async def _copy(
    here: BlobServiceClient,
    there: BlobServiceClient,
    container: str,
    name: str,
    known: dict[tuple[str, str, str], str],
    gate: asyncio.Semaphore,
) -> BlobCopy | None:
    """None when the blob was removed since it was listed."""
    async with gate:
        try:
            content, properties = await _read(here, container, name)
        except ResourceNotFoundError:
            return None
        md5 = hashlib.md5(content, usedforsecurity=False).digest()
        snapshot = known.get((name, md5.hex(), _headers(properties)))
        if snapshot is None:
            blob = there.get_blob_client(container, name)
            await blob.upload_blob(
                content,
                overwrite=True,
                validate_content=True,  # the service refuses what arrives otherwise than it was sent
                metadata=properties.metadata,
                content_settings=_settings(properties, md5),
            )
            snapshot = str((await blob.create_snapshot())["snapshot"])
        return BlobCopy(
            container=container,
            name=name,
            size=len(content),
            md5=md5.hex(),
            etag=properties.etag.strip('"'),
            snapshot=snapshot,
        )


async def _read(client: BlobServiceClient, container: str, name: str) -> tuple[bytes, Any]:
    """A blob's content and properties, of one and the same state of it."""
    for _ in range(_PATIENCE):
        try:
            download = await client.get_blob_client(container, name).download_blob(decompress=False)
            # The SDK asks for the later parts only as long as the ETag is that of the first.
            return await download.readall(), download.properties
        except ResourceModifiedError:
            continue
    raise SystemUnavailable(
        f"{container}/{name} changes faster than it can be read", hint="run the same command again"
    )


def _settings(properties: Any, md5: bytes) -> ContentSettings:
    old = properties.content_settings
    return ContentSettings(
        content_type=old.content_type,
        content_encoding=old.content_encoding,
        content_language=old.content_language,
        content_disposition=old.content_disposition,
        cache_control=old.cache_control,
        content_md5=bytearray(md5),
    )


async def check(backup: BlobsBackup, copies: Account) -> list[Check]:
    """Read every snapshot of a set and compare its content with the MD5 that the set names."""
    gate = asyncio.Semaphore(_AT_ONCE)
    async with connect(copies) as there:

        async def one(blob: BlobCopy) -> str:
            async with gate:
                return await _problem(_whole(there, blob))

        problems = await together(one(blob) for blob in backup.blobs)
    bad = _told(zip(backup.blobs, problems, strict=True))
    good = len(backup.blobs) - len(bad)
    return [
        *bad,
        *([Check(part="blobs", what="MD5 of the copies", detail=f"{good} blobs")] if not bad else []),
    ]


def _told(found: Iterable[tuple[BlobCopy, str]]) -> list[Check]:
    return [
        Check(part="blobs", what=f"{blob.container}/{blob.name}", problem=problem)
        for blob, problem in found
        if problem
    ]


async def _problem(work: Awaitable[object]) -> str:
    """What is wrong with one blob; empty when nothing is. An account that is not there stays an error."""
    try:
        await work
    except ResourceNotFoundError:
        return "missing"
    except StepFailed as error:
        return error.message
    except HttpResponseError as error:
        if error.status_code is None or error.status_code in (401, 403) or error.status_code >= 500:
            raise
        return str(error.message).strip().splitlines()[0]
    return ""


async def _whole(client: BlobServiceClient, blob: BlobCopy) -> tuple[bytes, Any]:
    """A copy as it is stored. StepFailed when it is not what was copied."""
    content, properties = await _snapshot(client, blob)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != blob.md5:
        raise StepFailed(f"MD5 {found[:12]}… instead of {blob.md5[:12]}…")
    return content, properties


async def _snapshot(client: BlobServiceClient, blob: BlobCopy) -> tuple[bytes, Any]:
    copy = client.get_blob_client(blob.container, blob.name, snapshot=blob.snapshot)
    download = await copy.download_blob(decompress=False)
    return await download.readall(), download.properties


async def strangers(backup: BlobsBackup, target: Account) -> list[str]:
    """Blobs of `target` that a restore would overwrite or that are none of the set's: `container/name`.

    By their bytes, where the MD5 that stands at one is missing or another: it is whatever its sender wrote.
    """
    wanted = {(blob.container, blob.name): blob for blob in backup.blobs}
    gate = asyncio.Semaphore(_AT_ONCE)
    async with connect(target) as here:

        async def strange(container: str, found: Any) -> str:
            blob = wanted.get((container, found.name))
            name = f"{container}/{found.name}"
            if blob is None or found.size != blob.size:
                return name
            if _md5(found) == blob.md5:
                return ""
            async with gate:
                content = await get(here, container, found.name)
            digest = hashlib.md5(content or b"", usedforsecurity=False).hexdigest()
            return "" if content is not None and digest == blob.md5 else name

        names = [
            await together(strange(container, found) for found in await blobs_in(here, container))
            for container in backup.containers
        ]
    return [name for each in names for name in each if name]


def _md5(blob: Any) -> str:
    return bytes(blob.content_settings.content_md5 or b"").hex()


async def restore(backup: BlobsBackup, copies: Account, target: Account) -> tuple[int, list[Check]]:
    """Have every blob of a set in `target`, as it was; those that are there already stay.

    Returns how many were sent, and which could not be, and why: a copy that is missing, or not what was
    copied, keeps none of the others. The same command goes on where this one was stopped.
    """
    gate = asyncio.Semaphore(_AT_ONCE)
    sent = 0
    problems: list[Check] = []
    async with connect(copies) as there, connect(target) as here:

        async def send(blob: BlobCopy) -> None:
            content, properties = await _whole(there, blob)
            await here.get_blob_client(blob.container, blob.name).upload_blob(
                content,
                overwrite=True,
                validate_content=True,
                metadata=properties.metadata,
                content_settings=_settings(properties, bytes.fromhex(blob.md5)),
            )

        async def one(blob: BlobCopy) -> str:
            async with gate:
                return await _problem(send(blob))

        for container in backup.containers:
            await _have_container(here, container)
            present = {(blob.name, _md5(blob), blob.size) for blob in await blobs_in(here, container)}
            mine = [blob for blob in backup.blobs if blob.container == container]
            todo = [blob for blob in mine if (blob.name, blob.md5, blob.size) not in present]
            done = await together(one(blob) for blob in todo)
            problems += _told(zip(todo, done, strict=True))
            sent += done.count("")
    return sent, problems


async def remove(copies: Account, gone: Iterable[BlobCopy]) -> int:
    """Remove these snapshots, and then each blob that has none left. Returns how many were there.

    What is gone already is no error: a removal that was killed goes on.
    """
    gate = asyncio.Semaphore(_AT_ONCE)
    snapshots = {(one.container, one.name, one.snapshot) for one in gone}
    async with connect(copies) as there:

        async def one(container: str, name: str, snapshot: str | None) -> int:
            async with gate:
                try:
                    await there.get_blob_client(container, name, snapshot=snapshot).delete_blob()
                except ResourceNotFoundError:
                    return 0
                except HttpResponseError as error:
                    if snapshot is None and getattr(error, "error_code", "") == "SnapshotsPresent":
                        return 0
                    raise
                return 1

        removed = sum(await together(one(*each) for each in sorted(snapshots)))
        await together(one(*each, None) for each in sorted({(where, name) for where, name, _ in snapshots}))
    return removed

"""Geo-replication of the embedded platform: what ACR's replication service does between its regions.

The home registry tells of each push (an event: repository and digest or tag). An event is only a hint that a
repository has changed: whoever replicates then looks at what the home registry has *now* and brings it to the
replica. So it does not matter in which order events come, nor that one comes twice; and what a lost event
leaves behind, the next event of that repository or a `reconcile` brings along. Content goes before what names
it, tags last: at no moment does a replica name what it has not.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from weakref import WeakValueDictionary

import httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ci.concurrency import together
from ci.errors import SystemUnavailable
from ci.registry import Blob, Descriptor, Outcome, Registry

__all__ = [
    "Copier",
    "Downloads",
    "Event",
    "Pace",
    "Replica",
    "Replicated",
    "ask_replicator",
    "reconcile",
    "replicate",
    "tell_to_reconcile",
]

_REFERRERS_TAG = re.compile(r"(sha256)-([0-9a-f]{64})")
_BLOBS_AT_ONCE = 4
_PATIENCE = 10.0


@dataclass(frozen=True, kw_only=True, order=True)
class Event:
    """The home registry has a new manifest in that repository, under a digest or a tag."""

    repository: str
    reference: str


class Pace(StrEnum):
    """How a replica stands to the home registry, as far as its replicator knows."""

    IN_STEP = "in step"
    BEHIND = "behind"
    FAILING = "failing"
    """It or the home registry does not answer as it should; tried again and again."""


class Replica(BaseModel):
    """What a replicator says of one region. Times are UTC."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    region: str
    endpoint: str
    pace: Pace
    pending: int
    """Events that are not done yet."""
    lag: float
    """Age of the oldest of them in seconds; 0 when there is none."""
    last_event: datetime | None
    last_copied: datetime | None
    """When something was last brought there."""
    reconciled: datetime | None
    """When all of the home registry was last compared with it."""
    problem: str


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """What was brought to a replica."""

    manifests: int
    blobs: int
    bytes_sent: int

    def __add__(self, other: Replicated) -> Replicated:
        return Replicated(
            manifests=self.manifests + other.manifests,
            blobs=self.blobs + other.blobs,
            bytes_sent=self.bytes_sent + other.bytes_sent,
        )


_NOTHING = Replicated(manifests=0, blobs=0, bytes_sent=0)

Visited = set[tuple[str, str]]
"""Manifests (repository, digest) that were looked at, which need not be looked at again."""


async def replicate(home: Registry, replica: Registry, events: Iterable[Event]) -> Replicated:
    """Bring what these events are about to the replica; SystemUnavailable when one of the two is down."""
    copier, visited = Copier(home, replica), Visited()
    return sum([await copier.follow(event, visited) for event in sorted(set(events))], _NOTHING)


async def reconcile(home: Registry, replica: Registry, repositories: Iterable[str]) -> Replicated:
    """Bring everything that has a tag in these repositories of the home registry, whatever events said.

    All of it is compared, down to each blob. What is attached to an image comes with it.
    """
    return await Copier(home, replica).reconcile(repositories)


class Downloads:
    """Blobs of the home registry as files. All who want one at the same time share one download."""

    def __init__(self, home: Registry) -> None:
        self._home = home
        self._shared: dict[str, _Download] = {}

    @asynccontextmanager
    async def blob(self, repository: str, digest: str) -> AsyncIterator[Path]:
        """A file with that blob, until the block ends. Errors are those of Registry.download."""
        shared = self._shared.get(digest)
        if shared is None:
            folder = tempfile.TemporaryDirectory(prefix="va-replica-")
            file = Path(folder.name) / "blob"
            work = asyncio.create_task(self._home.download(repository, digest, file))
            shared = self._shared[digest] = _Download(folder=folder, file=file, work=work)
        shared.users += 1
        try:
            await asyncio.shield(shared.work)  # one who is cancelled does not take it from the others
            yield shared.file
        finally:
            shared.users -= 1
            if not shared.users:
                del self._shared[digest]
                shared.work.cancel()
                await asyncio.gather(shared.work, return_exceptions=True)
                shared.folder.cleanup()


@dataclass(kw_only=True)
class _Download:
    folder: tempfile.TemporaryDirectory[str]
    file: Path
    work: asyncio.Task[None]
    users: int = 0


class Copier:
    """Brings content from the home registry to one replica. Blobs that repositories share are sent once.

    `downloads` are those of the home registry that the copiers for other replicas use, too.
    """

    def __init__(self, home: Registry, replica: Registry, downloads: Downloads | None = None) -> None:
        self._home = home
        self._replica = replica
        self._downloads = downloads or Downloads(home)
        self._slots = asyncio.Semaphore(_BLOBS_AT_ONCE)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def follow(self, event: Event, visited: Visited) -> Replicated:
        """Bring what that event is about, and all below it, as the home registry has it now."""
        repository, reference = event.repository, event.reference
        if listed := _REFERRERS_TAG.fullmatch(reference):
            # A list of what is attached to a manifest. Each registry keeps its own; what is on it is copied.
            subject = ":".join(listed.groups())
            copied = await self._copy(repository, subject, visited)
            return copied + await self._attached(repository, subject, visited)
        manifest = await self._home.find_manifest(repository, reference)
        if manifest is None:
            return _NOTHING  # gone again: a newer event, or the next reconcile, is about what there is now
        digest = manifest.descriptor.digest
        total = await self._copy(repository, digest, visited)
        if ":" not in reference:
            held = await self._replica.find_manifest(repository, reference)
            if held is None or held.descriptor.digest != digest:
                await self._replica.put_manifest(repository, manifest, reference)
        return total

    async def reconcile(
        self, repositories: Iterable[str], known: dict[tuple[str, str], str] | None = None
    ) -> Replicated:
        """Compare all tags of these repositories, and bring what the replica lacks.

        With `known`, only down to each tag and each list of what is attached to a manifest: a registry takes
        no manifest without its blobs. Tags that are still at the digest that `known` has for them are passed
        over; it is filled with what was compared.
        """
        total = _NOTHING
        visited = Visited()
        for repository in sorted(set(repositories)):
            for tag in await self._home.tags(repository):
                if known is not None and await self._same(repository, tag, known):
                    continue
                total += await self.follow(Event(repository=repository, reference=tag), visited)
        return total

    async def _same(self, repository: str, tag: str, known: dict[tuple[str, str], str]) -> bool:
        wanted = await self._home.find_manifest(repository, tag)
        if wanted is None or known.get((repository, tag)) == wanted.descriptor.digest:
            return True
        if listed := _REFERRERS_TAG.fullmatch(tag):
            there = {
                one.digest for one in await self._replica.referrers(repository, ":".join(listed.groups()))
            }
            same = {one.digest for one in wanted.manifests} <= there
        else:
            held = await self._replica.find_manifest(repository, tag)
            same = held is not None and held.descriptor.digest == wanted.descriptor.digest
        if same:
            known[repository, tag] = wanted.descriptor.digest
        return same

    async def _copy(self, repository: str, digest: str, visited: Visited) -> Replicated:
        """Have one manifest, all that it names and all that is attached to it in the replica too."""
        if (repository, digest) in visited:
            return _NOTHING
        manifest = await self._home.find_manifest(repository, digest)
        if manifest is None:
            return _NOTHING
        done = await together(
            [
                *(self._copy(repository, child.digest, visited) for child in manifest.manifests),
                *(self._copy_blob(repository, blob) for blob in manifest.blobs),
            ]
        )
        new = await self._replica.find_manifest(repository, digest) is None
        if new:
            await self._replica.put_manifest(repository, manifest)
        visited.add((repository, digest))
        done.append(await self._attached(repository, digest, visited))
        return sum(done, Replicated(manifests=int(new), blobs=0, bytes_sent=0))

    async def _attached(self, repository: str, subject: str, visited: Visited) -> Replicated:
        """Have all that is attached to a manifest, and have it found by that manifest's digest."""
        wanted = [one.digest for one in await self._home.referrers(repository, subject)]
        if not wanted:
            return _NOTHING
        done = await together(self._copy(repository, digest, visited) for digest in wanted)
        listed = {one.digest for one in await self._replica.referrers(repository, subject)}
        for digest in wanted:
            if digest not in listed and (manifest := await self._home.find_manifest(repository, digest)):
                await self._replica.put_manifest(repository, manifest)
        return sum(done, _NOTHING)

    async def _copy_blob(self, repository: str, blob: Descriptor) -> Replicated:
        lock = self._locks.setdefault(blob.digest, asyncio.Lock())
        async with lock, self._slots:
            if await self._replica.blob_size(repository, blob.digest) == blob.size:
                return _NOTHING
            if await self._replica.mount_blob(repository, blob.digest):
                return Replicated(manifests=0, blobs=1, bytes_sent=0)
            async with self._downloads.blob(repository, blob.digest) as file:
                outcome = await self._replica.push_blob(repository, Blob(descriptor=blob, source=file))
        sent = blob.size if outcome is Outcome.SENT else 0
        return Replicated(manifests=0, blobs=1, bytes_sent=sent)


_REPLICAS = TypeAdapter(tuple[Replica, ...])


async def ask_replicator(
    address: str, *, transport: httpx.AsyncBaseTransport | None = None
) -> dict[str, Replica]:
    """How far each replica is, by region; SystemUnavailable when the replicator at that URL does not say."""
    response = await _call("GET", f"{address}/state", transport)
    try:
        return {one.region: one for one in _REPLICAS.validate_json(response.content)}
    except ValidationError as error:
        raise SystemUnavailable(
            f"the replicator at {address} does not say how far it is: {error.errors()[0]['msg']}",
            hint="it is another version, or something else listens there: va up",
        ) from error


async def tell_to_reconcile(address: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
    """Have all replicas compared with the home registry down to each blob, and mended; returns when done.

    SystemUnavailable when the replicator does not answer, or could not reach a registry.
    """
    await _call("POST", f"{address}/reconcile", transport, timeout=600.0)


async def _call(
    method: str, url: str, transport: httpx.AsyncBaseTransport | None, timeout: float = _PATIENCE
) -> httpx.Response:
    try:
        async with httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client:
            response = await client.request(method, url)
    except httpx.HTTPError as error:
        raise SystemUnavailable(
            f"the replicator {url} does not answer: {error or type(error).__name__}",
            hint="va status says which part is down, va up starts it again",
        ) from error
    if not response.is_success:
        raise SystemUnavailable(
            f"the replicator {url} answered {response.status_code}: {response.text[:300]}"
        )
    return response

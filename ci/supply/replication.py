"""Geo-replication of the embedded platform: what ACR's replication service does between its regions.

The home registry tells of each push and deletion (an event: repository and digest or tag). An event is only a
hint that something has changed: whoever replicates then looks at what the home registry has *now* under that
name, and brings it to the replica or removes it there. So it does not matter in which order events come, nor
that one comes twice; and what a lost event leaves behind, the next event of that repository or a `reconcile`
mends. Content comes before what names it, tags last, and goes after it where it did so at home. Nothing is
removed that home was not asked for, and said that it has not.
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

from ci.complaints import in_words
from ci.concurrency import together
from ci.errors import SystemUnavailable
from ci.reasons import reason_of
from ci.registry import Blob, Descriptor, Outcome, Registry, artifact, push

__all__ = [
    "Copier",
    "Downloads",
    "Event",
    "Pace",
    "Replica",
    "Replicated",
    "ask_replicator",
    "reconcile",
    "tell_to_reconcile",
]

_REFERRERS_TAG = re.compile(r"(sha256)-([0-9a-f]{64})")
_EMPTY_TYPE = "application/vnd.voice-assistant.nothing.v1"
_BLOBS_AT_ONCE = 4
_PATIENCE = 10.0


@dataclass(frozen=True, kw_only=True, order=True)
class Event:
    """Something has changed in that repository of the home registry, under a digest or a tag."""

    repository: str
    reference: str
    digest: str = ""
    """What the tag was pushed as; empty when it is no tag, or was deleted."""


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
    """When something was last brought there, or removed."""
    reconciled: datetime | None
    """When all of the home registry was last compared with it."""
    problem: str


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """What was brought to a replica, and how many manifests and tags were removed from it."""

    manifests: int
    blobs: int
    bytes_sent: int
    removed: int = 0

    def __add__(self, other: Replicated) -> Replicated:
        return Replicated(
            manifests=self.manifests + other.manifests,
            blobs=self.blobs + other.blobs,
            bytes_sent=self.bytes_sent + other.bytes_sent,
            removed=self.removed + other.removed,
        )


_NOTHING = Replicated(manifests=0, blobs=0, bytes_sent=0)
_REMOVED = Replicated(manifests=0, blobs=0, bytes_sent=0, removed=1)

Visited = set[tuple[str, str]]
"""Manifests (repository, digest) that were looked at, which need not be looked at again."""


async def reconcile(home: Registry, replica: Registry) -> Replicated:
    """Have everything with a tag, in either of the two, as the home registry has it, whatever events said.

    All of it is compared, down to each blob. What is attached to an image comes and goes with it. What has no
    tag is not listed by a registry: it is found only below something that has, or had it in the replica.
    """
    return await Copier(home, replica).reconcile()


class Downloads:
    """Blobs of the home registry as files. All who want one at the same time share one download."""

    def __init__(self, home: Registry) -> None:
        self._home = home
        self._shared: dict[str, _Download] = {}

    @asynccontextmanager
    async def blob(self, repository: str, wanted: str | Descriptor) -> AsyncIterator[Path]:
        """A file with that blob, until the block ends. Errors are those of Registry.download."""
        digest = wanted if isinstance(wanted, str) else wanted.digest
        shared = self._shared.get(digest)
        if shared is None:
            folder = tempfile.TemporaryDirectory(prefix="va-replica-")
            file = Path(folder.name) / "blob"
            work = asyncio.create_task(self._home.download(repository, wanted, file))
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
    """Keeps one replica like the home registry. Blobs that repositories share are sent once.

    Each repository is worked on by one call at a time: none removes what another one counts on. `downloads`
    are those of the home registry that the copiers for other replicas use, too.
    """

    def __init__(self, home: Registry, replica: Registry, downloads: Downloads | None = None) -> None:
        self._home = home
        self._replica = replica
        self._downloads = downloads or Downloads(home)
        self._slots = asyncio.Semaphore(_BLOBS_AT_ONCE)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._repositories: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._known: dict[tuple[str, str], str] = {}
        """Digests at home of tags that the replica has as they are there: (repository, tag) to digest."""

    async def follow(self, event: Event, visited: Visited) -> Replicated:
        """Have what that event is about, and all below it, as the home registry has it now, or has it not."""
        async with self._alone(event.repository):
            return await self._follow(event.repository, event.reference, visited)

    async def is_as_told(self, event: Event) -> bool:
        """Whether home has the tag of that event at what was pushed.

        docker-registry (2.8) tells of a manifest that was pushed, and only then sets its tag.
        """
        if not event.digest:
            return True
        found = await self._home.find_manifest(event.repository, event.reference)
        return found is not None and found.descriptor.digest == event.digest

    def _alone(self, repository: str) -> asyncio.Lock:
        return self._repositories.setdefault(repository, asyncio.Lock())

    async def _follow(self, repository: str, reference: str, visited: Visited) -> Replicated:
        if listed := _REFERRERS_TAG.fullmatch(reference):
            # A list of what is attached to a manifest. Each registry keeps its own; what is on it is copied.
            subject = ":".join(listed.groups())
            total = await self._follow(repository, subject, visited)
            return total + await self._attached(repository, subject, visited)
        manifest = await self._home.find_manifest(repository, reference)
        if manifest is None:
            return await self._forget(repository, reference, visited)
        digest = manifest.descriptor.digest
        total = await self._copy(repository, digest, visited)
        if manifest.subject:
            total += await self._attached(repository, manifest.subject.digest, visited)
        if ":" not in reference and (repository, digest) in visited:
            held = await self._replica.find_manifest(repository, reference)
            if held is None or held.descriptor.digest != digest:
                self._known.pop((repository, reference), None)
                await self._replica.put_manifest(repository, manifest, reference, refer=False)
        return total

    async def reconcile(self, *, deep: bool = True) -> Replicated:
        """Compare all tags of both registries; bring what the replica lacks, remove what home has not.

        Unless `deep`, only down to each tag and each list of what is attached to a manifest: a registry takes
        no manifest without its blobs. Tags that were found as at home, and are at the same digest there
        still, are passed over.
        """
        total = _NOTHING
        visited = Visited()
        for repository in sorted({*await self._home.repositories(), *await self._replica.repositories()}):
            async with self._alone(repository):
                for tag in sorted(
                    {*await self._home.tags(repository), *await self._replica.tags(repository)}
                ):
                    if deep or not await self._same(repository, tag):
                        total += await self._follow(repository, tag, visited)
        return total

    async def _same(self, repository: str, tag: str) -> bool:
        wanted = await self._home.find_manifest(repository, tag)
        if wanted is None:
            return False
        if self._known.get((repository, tag)) == wanted.descriptor.digest:
            return True
        if listed := _REFERRERS_TAG.fullmatch(tag):
            there = await self._replica.referrers(repository, ":".join(listed.groups()))
            same = _digests(wanted.manifests) == _digests(there)
        else:
            held = await self._replica.find_manifest(repository, tag)
            same = held is not None and held.descriptor.digest == wanted.descriptor.digest
        if same:
            self._known[repository, tag] = wanted.descriptor.digest
        return same

    async def _forget(self, repository: str, reference: str, visited: Visited) -> Replicated:
        """Remove what the replica still has under a tag or digest, when home has no such thing.

        Then what it named and had attached, each asked for at home as well: what another index there has need
        of too stays.
        """
        held = await self._replica.find_manifest(repository, reference)
        if held is None or not await self._gone(repository, reference):
            return _NOTHING
        digest = held.descriptor.digest
        if reference != digest and not await self._gone(repository, digest):
            await self._untag(repository, reference)
            return _REMOVED
        below = [await self._replica.find_manifest(repository, one.digest) for one in held.manifests]
        # With it go its tags, which may name something else at home now: all are to be compared again.
        self._known = {at: known for at, known in self._known.items() if at[0] != repository}
        visited.discard((repository, digest))
        if held.subject:
            listed = await self._replica.referrers(repository, held.subject.digest)
            if digest in _digests(listed):
                others = [one for one in listed if one.digest != digest]
                await self._replica.set_referrers(repository, held.subject.digest, others)
        await self._replica.remove(repository, digest)
        total = _REMOVED
        for child in held.manifests:
            total += await self._forget(repository, child.digest, visited)
        # It may have been a list of what is attached to something, by which that is to be found still.
        for subject in sorted({digest, *(one.subject.digest for one in below if one and one.subject)}):
            total += await self._attached(repository, subject, visited)
        return total

    async def _gone(self, repository: str, reference: str) -> bool:
        """Whether home says that it has no such manifest; SystemUnavailable when its word does not count."""
        if await self._home.find_manifest(repository, reference) is not None:
            return False
        await self._in_health()
        return True

    async def _in_health(self) -> None:
        """Make sure that what home has not was deleted there: nothing is removed because it has a problem.

        A registry lists a repository also when all in it was deleted. One that lists none is new or has lost
        its storage, and knows of no deletions.
        """
        await self._home.ping()
        if not await self._home.repositories():
            raise SystemUnavailable(
                f"{self._home.endpoint} has no repository at all: nothing is removed from "
                f"{self._replica.endpoint}",
                hint="it may have lost its storage: with the next push to it, its replicas follow it",
            )

    async def _untag(self, repository: str, tag: str) -> None:
        """Take a tag from a manifest that stays.

        docker-registry (2.8) deletes no tags, only manifests with all that name them. So the tag is moved to
        an empty one that can go.
        """
        self._known.pop((repository, tag), None)
        empty = artifact(artifact_type=_EMPTY_TYPE, layers=())
        await push(self._replica, repository, empty, tags=[tag])
        await self._replica.remove(repository, empty.digest)

    async def _copy(self, repository: str, digest: str, visited: Visited) -> Replicated:
        """Have one manifest, all that it names and all that is attached to it in the replica too.

        It is in `visited` then. An index of which home itself has lost a part is not: no registry takes it.
        """
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
        if new and any((repository, child.digest) not in visited for child in manifest.manifests):
            return sum(done, _NOTHING)
        if new:
            await self._replica.put_manifest(repository, manifest, refer=False)
        visited.add((repository, digest))
        done.append(await self._attached(repository, digest, visited))
        return sum(done, Replicated(manifests=int(new), blobs=0, bytes_sent=0))

    async def _attached(self, repository: str, subject: str, visited: Visited) -> Replicated:
        """Have what is attached to a manifest at home, and just that, found by that manifest's digest."""
        wanted = await self._home.referrers(repository, subject)
        done = await together(self._copy(repository, one.digest, visited) for one in wanted)
        there = [one for one in wanted if (repository, one.digest) in visited]
        listed = _digests(await self._replica.referrers(repository, subject))
        stale = listed - _digests(there)
        if stale:
            await self._in_health()
        if listed != _digests(there):
            await self._replica.set_referrers(repository, subject, there)
        for digest in sorted(stale):
            done.append(await self._forget(repository, digest, visited))
        return sum(done, _NOTHING)

    async def _copy_blob(self, repository: str, blob: Descriptor) -> Replicated:
        lock = self._locks.setdefault(blob.digest, asyncio.Lock())
        async with lock, self._slots:
            if await self._replica.blob_size(repository, blob.digest) == blob.size:
                return _NOTHING
            if await self._replica.mount_blob(repository, blob.digest):
                return Replicated(manifests=0, blobs=1, bytes_sent=0)
            async with self._downloads.blob(repository, blob) as file:
                outcome = await self._replica.push_blob(repository, Blob(descriptor=blob, source=file))
        sent = blob.size if outcome is Outcome.SENT else 0
        return Replicated(manifests=0, blobs=1, bytes_sent=sent)


def _digests(listed: Iterable[Descriptor]) -> set[str]:
    return {one.digest for one in listed}


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
            f"the replicator at {address} does not say how far it is: {in_words(error)}",
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
            f"the replicator {url} does not answer: {reason_of(error)}",
            hint="va status says which part is down, va up starts it again",
        ) from error
    if not response.is_success:
        raise SystemUnavailable(
            f"the replicator {url} answered {response.status_code}: {response.text[:300]}"
        )
    return response

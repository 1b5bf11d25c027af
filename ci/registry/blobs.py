"""The blobs of one registry: their sizes, whole or in a file, mounted or sent (specification 1.1).

Bytes that do not have the digest that was asked for are never returned, and none are taken beyond the size
that a descriptor, or the registry, has said.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

import httpx

from ci.errors import BadInput, SystemUnavailable
from ci.reasons import reason_of
from ci.registry.connection import (
    CUT,
    SMALL,
    Again,
    Answer,
    Connection,
    Replayable,
    Unusable,
    is_on_this_machine,
    pieces,
)
from ci.registry.content import Blob, Descriptor
from ci.registry.headers import number
from ci.registry.references import digest_of, parse_digest, parse_endpoint, parse_repository

__all__ = ["Blobs", "Outcome", "scheme"]

_PIECE_BYTES = 32 * 2**20
"""A larger blob is sent in several requests, so that a cut connection costs at most this much again."""
_ENOUGH_AT_ONCE = 8
_NOTHING = digest_of(b"")
_NO_HEAD = frozenset({400, 403, 405, 501})
"""What answers a HEAD where only GETs are known, such as storage by a link that was signed for one."""
_NO_RANGE = frozenset({400, 403, 416, 501})
"""What answers a Range where none is known, or where a link was signed for a request without."""
_NO_MOUNT = frozenset({400, 401, 403, 404, 405, 501})
_RANGE = re.compile(r"bytes\s+(?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII | re.IGNORECASE)


class Outcome(StrEnum):
    """What it took to have a blob in a repository."""

    THERE = "there"
    MOUNTED = "mounted"
    SENT = "sent"


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """One that was begun: where its next bytes go, how many arrived, and how many a request has at least."""

    place: httpx.URL
    at: int = 0
    least: int = 0


class Blobs:
    """A client of one registry endpoint (`host:port`), as far as blobs go; an async context manager.

    Plain HTTP is spoken to loopback addresses only. `auth` is any httpx.Auth; `transport` and `sleep` are for
    tests. Every method raises SystemUnavailable when the registry does not answer as it should.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        auth: httpx.Auth | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        attempts: int = 5,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.endpoint = parse_endpoint(endpoint)
        self._connection = Connection(
            f"{scheme(endpoint)}://{endpoint}",
            name=f"the registry {endpoint}",
            auth=auth,
            transport=transport,
            attempts=attempts,
            sleep=sleep,
        )
        self._slots = asyncio.Semaphore(_ENOUGH_AT_ONCE)
        self._blob_locks: dict[str, asyncio.Lock] = {}
        self._homes: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.__aexit__()

    # --- reading -------------------------------------------------------------------------

    async def blob_size(self, repository: str, digest: str) -> int | None:
        """Size in bytes of a blob that the repository has; None when it has not."""
        path = _path(repository, digest)
        answer = await self._connection.ask("HEAD", path, expect={200, 404, *_NO_HEAD})
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        size = _length(answer.headers) if answer.status == HTTPStatus.OK else None
        # A proxy that drops the body of an answer may say so: only one blob has no bytes.
        if size is None or (size == 0 and digest != _NOTHING):
            return await self._size_by_get(path)
        return size

    async def _size_by_get(self, path: str) -> int | None:
        """The same by its first byte, and where even that does not tell, by all of them."""
        part: dict[str, str] = {"Range": "bytes=0-0"}
        for headers, expect in ((part, {200, 206, 404, *_NO_RANGE}), ({}, {200, 404})):
            async for attempt in self._connection.retrying():
                with attempt:
                    async with self._connection.opened(
                        "GET",
                        path,
                        headers=headers,
                        expect=expect,
                    ) as response:
                        if response.status_code == HTTPStatus.NOT_FOUND:
                            return None
                        if response.status_code == HTTPStatus.OK:
                            size = _length(response.headers)
                            if size is None:
                                size = sum([len(piece) async for piece in pieces(response)])
                            return size
                        found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
                        if found and found[3] != "*":
                            return int(found[3])
        raise AssertionError("without a Range, each answer has a size")

    async def blob(self, repository: str, wanted: str | Descriptor, *, most: int = SMALL) -> bytes:
        """A small blob (a config, a chart, a report) by its digest or descriptor, its bytes checked.

        BadInput when it is not there; Unusable when it has more than `most` bytes, or than its descriptor
        says: then it is not read to its end, and not at all when the descriptor says so itself.
        """
        digest, size = (wanted, None) if isinstance(wanted, str) else (wanted.digest, wanted.size)
        name = f"{self.endpoint}/{repository}@{digest}"
        if size is not None and size > most:
            raise Unusable(
                f"{name} has {size} bytes: more than the {most} that such a thing may have",
                hint="somebody put something else there: find out what it is, and remove it",
            )
        answer = await self._connection.ask(
            "GET",
            _path(repository, digest),
            expect={200, 404},
            most=most if size is None else size,
            as_sent=True,  # storage sends what somebody once noted there as its encoding
        )
        if answer.status == HTTPStatus.NOT_FOUND:
            raise self._absent(repository, digest)
        check_digest(name, digest, answer.content)
        return answer.content

    async def download(
        self,
        repository: str,
        wanted: str | Descriptor,
        target: Path,
        *,
        resume: bool = False,
        progress: Callable[[int], None] = lambda _: None,
        anew: bool = True,
    ) -> None:
        """A blob of any size into a file, its bytes checked; BadInput when it is not there.

        By its descriptor, it is not asked for its size first, and ends where that says. After a cut
        connection it goes on behind what has arrived; with `resume`, behind what an interrupted call has left
        in `target`. `progress` is told how many bytes are there. What was joined of parts and does not have
        its digest is fetched once more (`anew`).
        """
        digest = wanted if isinstance(wanted, str) else wanted.digest
        size = await self.blob_size(repository, digest) if isinstance(wanted, str) else wanted.size
        if size is None:
            raise self._absent(repository, digest)
        left = target.stat().st_size if resume and target.is_file() else 0
        at = left if left <= size else 0
        joined = bool(at)
        with target.open("r+b" if at else "w+b") as file:
            arrived = await asyncio.to_thread(_Arrived, file)
            while (before := arrived.size) < size:
                async for attempt in self._connection.retrying():
                    with attempt:
                        joined |= bool(arrived.size)
                        cut = await self._receive(repository, digest, arrived, size, progress)
                        if arrived.size <= before:
                            raise Again(cut or f"it sent nothing of {digest}")
        if arrived.digest != digest:
            target.unlink()
            if joined and anew:  # of parts, one of which may not have been of this blob
                return await self.download(repository, wanted, target, progress=progress, anew=False)
            raise SystemUnavailable(
                f"{self.endpoint}/{repository}: the registry sent other bytes than those of {digest}",
                hint="its storage is damaged or was tampered with: find out why before you use it again",
            )
        return None

    async def _receive(
        self, repository: str, digest: str, arrived: _Arrived, size: int, progress: Callable[[int], None]
    ) -> str | None:
        """Add what comes of a blob to what has arrived, until all is there or it is cut: then says how."""
        at = arrived.size
        async with self._connection.opened(
            "GET",
            _path(repository, digest),
            headers={"Range": f"bytes={at}-{size - 1}"} if at else {},
            expect={200, 206, 404, 416},
        ) as response:
            if response.status_code == HTTPStatus.NOT_FOUND:
                raise self._absent(repository, digest)
            if response.status_code == HTTPStatus.OK:
                arrived.start_anew()  # it knows no ranges: this is all of it
            elif not _begins(response, at):
                arrived.start_anew()
                raise Again(f"it sent another part of {digest} than was asked for")
            try:
                async for piece in pieces(response):
                    if arrived.size + len(piece) > size:
                        if at:
                            arrived.start_anew()
                            raise Again(f"it sent more of {digest} than was asked for")
                        raise Unusable(
                            f"{self.endpoint}/{repository}@{digest} has more than its {size} bytes",
                            hint="what names it does not know its size: publish it again",
                        )
                    arrived.add(piece)
                    progress(arrived.size)
            except CUT as error:
                return reason_of(error)
        return None

    def _absent(self, repository: str, digest: str) -> BadInput:
        return BadInput(f"{self.endpoint}/{repository}@{digest} is not in the registry")

    # --- writing -------------------------------------------------------------------------

    async def push_blob(self, repository: str, blob: Blob) -> Outcome:
        """Have a blob in a repository: found there, mounted from another one of this client's, or sent.

        Two calls for one digest wait for each other, so that a layer that images share is sent once. BadInput
        when the blob's bytes do not have its digest.
        """
        digest = blob.descriptor.digest
        async with self._blob_locks.setdefault(digest, asyncio.Lock()):
            if await self.blob_size(repository, digest) is not None:
                self._homes.setdefault(digest, repository)
                return Outcome.THERE
            async with self._slots:
                outcome = await self._upload(repository, blob)
            self._homes.setdefault(digest, repository)
            return outcome

    async def mount_blob(self, repository: str, digest: str) -> bool:
        """Have a blob mounted from another repository that this client saw it in; False when it cannot be."""
        async with self._blob_locks.setdefault(digest, asyncio.Lock()):
            if self._homes.get(digest, repository) == repository:
                return False
            async for attempt in self._connection.retrying():
                with attempt:
                    return await self._begin(repository, digest) is None
        raise AssertionError("tenacity either returns or raises")

    async def _upload(self, repository: str, blob: Blob) -> Outcome:
        """Send a blob in pieces; after a cut connection, go on where the registry says it stopped.

        docker-registry (2.8) forgets an upload that was cut inside a piece: then the blob is sent anew.
        """
        digest, size = blob.descriptor.digest, blob.descriptor.size
        upload: _Upload | None = None
        cut = False
        async for attempt in self._connection.retrying():
            with attempt:
                if upload and cut:
                    upload = await self._how_far(upload)
                if upload is None:
                    upload = await self._begin(repository, digest)
                    if upload is None:
                        return Outcome.MOUNTED
                cut = True
                while size - upload.at > (piece := max(_PIECE_BYTES, upload.least)):
                    upload = await self._send(upload, blob, upload.at + piece)
                await self._send(upload, blob, size, close=True)
        return Outcome.SENT

    async def _begin(self, repository: str, digest: str) -> _Upload | None:
        """A new upload; None when the blob is there at once, mounted from where this client saw it."""
        home = self._homes.get(digest)
        path = f"/v2/{parse_repository(repository)}/blobs/uploads/"
        headers = {"Content-Length": "0"}
        if home and home != repository:
            mount = f"{path}?mount={quote(digest, safe='')}&from={quote(home, safe='')}"
            answer = await self._connection.once(
                "POST", mount, headers=headers, expect={201, 202, *_NO_MOUNT}
            )
            if answer.status == HTTPStatus.CREATED:
                return None
            if answer.status == HTTPStatus.ACCEPTED:
                return self._begun(answer)
        return self._begun(await self._connection.once("POST", path, headers=headers, expect={202}))

    def _begun(self, answer: Answer) -> _Upload:
        least = number(answer.headers.get("OCI-Chunk-Min-Length")) or 0
        return _Upload(place=self._connection.location(answer), least=least)

    async def _how_far(self, upload: _Upload) -> _Upload | None:
        """Where an upload stands; None when it must start anew."""
        answer = await self._connection.once("GET", upload.place, expect={*range(200, 500)} - {408, 425, 429})
        if answer.status not in (200, 202, 204):
            return None
        last = number(answer.headers.get("Range", "").removeprefix("bytes=").partition("-")[2])
        if not last:  # registries say 0-0 for one byte, and for none
            return None
        known = "Location" in answer.headers
        place = self._connection.location(answer) if known else upload.place
        return _Upload(place=place, at=last + 1, least=upload.least)

    async def _send(self, upload: _Upload, blob: Blob, stop: int, *, close: bool = False) -> _Upload:
        """Send a blob's bytes up to `stop`; with `close` that is its end."""
        start, digest = upload.at, blob.descriptor.digest
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(stop - start)}
        if not close or start:
            headers["Content-Range"] = f"{start}-{stop - 1}"

        async def body() -> AsyncIterator[bytes]:
            for chunk in blob.chunks(start, stop):
                yield chunk

        place = upload.place
        if close:  # behind what is there, letter by letter: it may be signed
            query = f"{place.query.decode()}&" if place.query else ""
            place = place.copy_with(query=f"{query}digest={quote(digest, safe='')}".encode())
        try:
            answer = await self._connection.once(
                "PUT" if close else "PATCH",
                place,
                headers=headers,
                content=Replayable(body),
                expect={201, 202, 204, 400, 404, 416},
            )
        except OSError as error:
            raise BadInput(f"cannot read {digest}: {error}", hint="run va build again") from error
        if answer.status == HTTPStatus.BAD_REQUEST and "DIGEST_INVALID" in answer.text:
            raise BadInput(
                f"what {self.endpoint} was sent as {digest} has another digest",
                hint="the image file changed or is damaged: delete it and run va build again",
            )
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise Again(f"it forgot the upload of {digest} ({answer.status})")
        if close:
            return upload
        return _Upload(place=self._connection.location(answer), at=stop, least=upload.least)


class _Arrived:
    """The beginning of a blob in a file, and its hash; what the file has already is read to its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        while piece := file.read(2**20):
            self._hash.update(piece)

    @property
    def size(self) -> int:
        return self._file.tell()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def add(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._file.write(piece)

    def start_anew(self) -> None:
        self._hash = hashlib.sha256()
        self._file.seek(0)
        self._file.truncate()


def check_digest(name: str, wanted: str, content: bytes) -> None:
    """Returns when these bytes have that digest, or one of an algorithm that is not known here."""
    algorithm, _, value = wanted.strip().partition(":")
    if algorithm not in ("sha256", "sha384", "sha512"):
        return
    found = hashlib.new(algorithm, content).hexdigest()
    if found != value:
        raise SystemUnavailable(
            f"{name}: the registry sent bytes with the digest {algorithm}:{found}, not {wanted}",
            hint="its storage is damaged or was tampered with: find out why before you publish again",
        )


def scheme(endpoint: str) -> str:
    """`http` for an address of this machine, `https` for any other."""
    return "http" if is_on_this_machine(httpx.URL(f"//{endpoint}").host) else "https"


def _path(repository: str, digest: str) -> str:
    return f"/v2/{parse_repository(repository)}/blobs/{parse_digest(digest)}"


def _length(headers: httpx.Headers) -> int | None:
    """The blob's bytes by Content-Length; None when that is not told, or is of something compressed."""
    encoded = headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")
    return None if encoded else number(headers.get("Content-Length"))


def _begins(response: httpx.Response, at: int) -> bool:
    """Whether this is the part of a blob that begins there, as far as it is told."""
    said = response.headers.get("Content-Range", f"bytes {at}-{at}/*").strip()
    found = _RANGE.fullmatch(said)
    return response.status_code == HTTPStatus.PARTIAL_CONTENT and bool(found and number(found[1]) == at)

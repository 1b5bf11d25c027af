"""One registry, over HTTP: the OCI distribution specification 1.1, as far as this project needs it.

Requests that a busy or restarting registry turned away (429, 500, 502, 503, 504, a lost connection) are tried
again, after the time it asks for or with exponential back-off; what then still fails is SystemUnavailable.
Content whose digest is not the one asked for is never returned.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import urljoin

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

from ci.concurrency import both, together
from ci.errors import BadInput, SystemUnavailable
from ci.registry.content import IMAGE_INDEX, MANIFEST_TYPES, Blob, Descriptor, Manifest, parse_manifest
from ci.registry.loopback import LoopbackTransport
from ci.registry.references import digest_of, parse_digest, parse_endpoint, parse_repository
from ci.retries import retry_after

__all__ = ["Held", "Outcome", "Registry"]

_PIECE_BYTES = 32 * 2**20
"""A larger blob is sent in several requests, so that a cut connection costs at most this much again."""
_LONGEST_WAIT = 60.0
AGAIN = frozenset({429, 500, 502, 503, 504})
_FULL = ("no space left on device", '"err":28', "quota")  # 28 is ENOSPC, as Go's errors print it
_ENOUGH_AT_ONCE = 8
_CUT = (httpx.TransportError, httpx.StreamError, httpx.DecodingError)
"""What ends a request before its answer is whole."""
_THIS_MACHINE = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")

Body = Callable[[], AsyncIterator[bytes]]


class Outcome(StrEnum):
    """What it took to have a blob in a repository."""

    THERE = "there"
    MOUNTED = "mounted"
    SENT = "sent"


@dataclass(frozen=True, kw_only=True)
class Held:
    """A manifest that a repository holds, as its registry tells of it."""

    repository: str
    digest: str
    tags: tuple[str, ...] = ()
    size: int | None = None
    """Bytes of all that it names; None where the registry does not say."""
    updated: datetime | None = None
    """When it was last written; None where the registry does not say."""
    locked: bool = False


class Again(Exception):
    """A request that may well work in a moment, or after as many seconds as the registry asked for."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class _Replayable:
    """A request body that can be read twice: when a token has expired, httpx sends the request again."""

    def __init__(self, body: Body) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body()


class Registry:
    """A client of one registry endpoint (`host:port`); an async context manager.

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
        self._attempts = attempts
        self._sleep = sleep
        self._slots = asyncio.Semaphore(_ENOUGH_AT_ONCE)
        self._blob_locks: dict[str, asyncio.Lock] = {}
        self._homes: dict[str, str] = {}
        self._subject_locks: dict[str, asyncio.Lock] = {}
        self._lacks_referrers = False
        secure = scheme(endpoint) == "https"
        self._client = httpx.AsyncClient(
            base_url=f"{scheme(endpoint)}://{endpoint}",
            auth=auth,
            transport=transport or (None if secure else LoopbackTransport()),
            timeout=httpx.Timeout(60.0, connect=5.0),
            headers={"User-Agent": "va"},
            follow_redirects=True,
            trust_env=secure,
            verify=secure,  # reading all certificates takes its time, and plain HTTP has no use for them
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    @property
    def name(self) -> str:
        """What is one registry, however many endpoints it has: what is locked or removed here is so there."""
        return self.endpoint

    async def ping(self) -> None:
        """Return when the registry is there and speaks the protocol."""
        await self._ask("GET", "/v2/", expect={200})

    async def repositories(self) -> tuple[str, ...]:
        """All repositories that this client may see, page after page."""
        return await self._listed("/v2/_catalog", "repositories")

    async def tags(self, repository: str) -> tuple[str, ...]:
        """All tags of a repository, page after page; none when there is no such repository."""
        return await self._listed(f"/v2/{parse_repository(repository)}/tags/list", "tags")

    async def _listed(self, path: str, key: str) -> tuple[str, ...]:
        url: str | None = path
        found: list[str] = []
        while url:
            response = await self._ask("GET", url, expect={200, 404})
            if response.status_code == HTTPStatus.NOT_FOUND:
                break
            found += self._json(response).get(key) or ()
            following = response.links.get("next", {}).get("url")
            url = urljoin(str(response.url), following) if following else None
        return tuple(found)

    async def find_manifest(self, repository: str, reference: str) -> Manifest | None:
        """The manifest of that tag or digest, its bytes checked; None when it is not there."""
        path = f"/v2/{parse_repository(repository)}/manifests/{reference}"
        response = await self._ask(
            "GET", path, headers={"Accept": ", ".join(MANIFEST_TYPES)}, expect={200, 404}
        )
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        name = f"{self.endpoint}/{repository}{'@' if ':' in reference else ':'}{reference}"
        wanted = reference if ":" in reference else response.headers.get("Docker-Content-Digest")
        self._check_digest(name, wanted, response.content)
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        try:
            return parse_manifest(response.content, media_type)
        except ValueError as error:
            raise SystemUnavailable(f"{name} is not a manifest: {error}") from error

    async def manifest(self, repository: str, reference: str) -> Manifest:
        """As `find_manifest`, but BadInput when it is not there."""
        found = await self.find_manifest(repository, reference)
        if found is None:
            mark = "@" if ":" in reference else ":"
            raise BadInput(
                f"{self.endpoint}/{repository}{mark}{reference} is not in the registry",
                hint="va publish puts a release there",
            )
        return found

    async def put_manifest(
        self, repository: str, manifest: Manifest, tag: str | None = None, *, refer: bool = True
    ) -> None:
        """Store a manifest under its digest (or under a tag as well). Its blobs must be there before.

        One with a subject becomes a referrer, by the fallback tag where the registry lacks the referrers API;
        unless `refer`, that list is left to `set_referrers`.
        """
        path = f"/v2/{parse_repository(repository)}/manifests/{tag or manifest.descriptor.digest}"
        response = await self._ask(
            "PUT",
            path,
            headers={"Content-Type": manifest.descriptor.media_type},
            content=manifest.raw,
            expect={200, 201, 202},
        )
        said = response.headers.get("Docker-Content-Digest")
        if said and said != manifest.descriptor.digest:
            raise SystemUnavailable(f"{self.endpoint} stored {manifest.descriptor.digest} as {said}")
        if refer and manifest.subject and "OCI-Subject" not in response.headers:
            await self._refer(repository, manifest.subject.digest, manifest)

    async def blob_size(self, repository: str, digest: str) -> int | None:
        """Size in bytes of a blob that the repository has; None when it has not."""
        path = f"/v2/{parse_repository(repository)}/blobs/{parse_digest(digest)}"
        response = await self._ask("HEAD", path, expect={200, 404})
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        return int(response.headers.get("Content-Length", -1))

    async def blob(self, repository: str, digest: str) -> bytes:
        """A small blob (a config, a chart, a report), its bytes checked; BadInput when it is not there."""
        path = f"/v2/{parse_repository(repository)}/blobs/{parse_digest(digest)}"
        response = await self._ask("GET", path, expect={200, 404})
        name = f"{self.endpoint}/{repository}@{digest}"
        if response.status_code == HTTPStatus.NOT_FOUND:
            raise BadInput(f"{name} is not in the registry")
        self._check_digest(name, digest, response.content)
        return response.content

    async def download(
        self,
        repository: str,
        digest: str,
        target: Path,
        *,
        resume: bool = False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """A blob of any size into a file, its bytes checked; BadInput when it is not there.

        After a cut connection it goes on behind what has arrived; with `resume`, behind what an interrupted
        call has left in `target`. `progress` is told how many bytes are there.
        """
        path = f"/v2/{parse_repository(repository)}/blobs/{parse_digest(digest)}"
        size = await self.blob_size(repository, digest)
        if size is None:
            raise BadInput(f"{self.endpoint}/{repository}@{digest} is not in the registry")
        left = target.stat().st_size if resume and target.is_file() else 0
        at = left if left <= size else 0
        with target.open("r+b" if at else "w+b") as file:
            arrived = await asyncio.to_thread(_Arrived, file)
            while (before := arrived.size) < size:
                async for attempt in self._retrying():
                    with attempt:
                        cut = await self._receive(path, arrived, size, progress)
                        if arrived.size <= before:
                            raise Again(cut or f"it sent nothing of {digest}")
        if arrived.digest != digest:
            target.unlink()
            if at:  # what was left there was not of this blob
                return await self.download(repository, digest, target, progress=progress)
            raise SystemUnavailable(
                f"{self.endpoint}/{repository}: the registry sent other bytes than those of {digest}",
                hint="its storage is damaged or was tampered with: find out why before you use it again",
            )
        return None

    async def _receive(
        self, path: str, arrived: _Arrived, size: int, progress: Callable[[int], None]
    ) -> str | None:
        """Add what comes of a blob to what has arrived, until all is there or it is cut: then says how."""
        at = arrived.size
        headers = {"Range": f"bytes={at}-{size - 1}"} if at else {}
        response = await self._once("GET", path, headers=headers, expect={200, 206}, stream=True)
        try:
            if at and response.status_code == HTTPStatus.OK:  # it knows no ranges: this is all of it
                arrived.start_anew()
            async for piece in response.aiter_bytes():
                arrived.add(piece)
                progress(arrived.size)
        except _CUT as error:
            return f"{type(error).__name__} {error}".strip()
        finally:
            await response.aclose()
        return None

    async def referrers(self, repository: str, digest: str) -> tuple[Descriptor, ...]:
        """What is attached to that manifest, by the referrers API or else by the fallback tag.

        Both are asked at once until it is known that this registry has no API: neither waits for the other.
        """
        fallback = self.find_manifest(repository, _fallback_tag(digest))
        if self._lacks_referrers:
            index = await fallback
            return index.manifests if index else ()
        path = f"/v2/{parse_repository(repository)}/referrers/{parse_digest(digest)}"
        api = self._ask("GET", path, headers={"Accept": IMAGE_INDEX}, expect={200, 404})
        response, index = await both(api, fallback)
        if response.status_code == HTTPStatus.OK:
            try:
                return parse_manifest(response.content, IMAGE_INDEX).manifests
            except ValueError as error:
                raise SystemUnavailable(f"{self.endpoint}: referrers of {digest}: {error}") from error
        # 404 is the answer of a registry without the API; with it, an image without any is an empty list.
        self._lacks_referrers = "NAME_UNKNOWN" not in response.text
        return index.manifests if index else ()

    async def set_referrers(self, repository: str, digest: str, listed: Sequence[Descriptor]) -> None:
        """Have just these listed as attached to that manifest, where the registry lacks the referrers API.

        They must be there. With none, the list under the fallback tag is deleted.
        """
        async with self._subject_locks.setdefault(digest, asyncio.Lock()):
            if listed:
                await self._list_referrers(repository, digest, listed)
            elif index := await self.find_manifest(repository, _fallback_tag(digest)):
                await self.remove(repository, index.descriptor.digest)

    async def held(self, repository: str) -> tuple[Held, ...]:
        """The manifests of a repository that can be listed: here those with a tag, of unknown age and size.

        The distribution specification lists no others and tells no times; AzureRegistry knows all of it.
        """

        async def named(tag: str) -> tuple[str, str]:
            async with self._slots:
                found = await self.find_manifest(repository, tag)
            return (found.descriptor.digest if found else "", tag)

        tags: dict[str, list[str]] = {}
        for digest, tag in await together(named(tag) for tag in await self.tags(repository)):
            tags.setdefault(digest, []).append(tag)
        tags.pop("", None)  # gone since they were listed
        return tuple(
            Held(repository=repository, digest=digest, tags=tuple(names)) for digest, names in tags.items()
        )

    async def remove(self, repository: str, digest: str) -> None:
        """Delete a manifest with all its tags; one that is gone already is no error.

        SystemUnavailable when it is locked, or when this registry deletes nothing.
        """
        path = f"/v2/{parse_repository(repository)}/manifests/{parse_digest(digest)}"
        response = await self._ask("DELETE", path, expect={200, 202, 404, 405})
        if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            raise SystemUnavailable(
                f"{self.endpoint}/{repository}@{digest} may not be deleted: {_explain(response)}",
                hint="it is locked, or deletion is switched off in this registry",
            )

    async def lock(  # what it is asked to do it cannot: see AzureRegistry
        self,
        repository: str,  # noqa: ARG002
        digest: str,  # noqa: ARG002
        tags: Collection[str] = (),  # noqa: ARG002
        *,
        on: bool = True,  # noqa: ARG002
    ) -> None:
        """Make a manifest and tags of its immutable (`on`), or free again. BadInput: it has no such thing."""
        raise BadInput(
            f"{self.endpoint} has no locks: that is not part of the OCI distribution specification",
            hint="a digest cannot be altered there either, only tags can be moved and manifests deleted",
        )

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
            async for attempt in self._retrying():
                with attempt:
                    return (await self._begin(repository, digest))[0] is None
        raise AssertionError("tenacity either returns or raises")

    async def _upload(self, repository: str, blob: Blob) -> Outcome:
        """Send a blob in pieces; after a cut connection, go on where the registry says it stopped.

        docker-registry (2.8) forgets an upload that was cut inside a piece: then the blob is sent anew.
        """
        digest, size = blob.descriptor.digest, blob.descriptor.size
        place: str | None = None
        at = 0
        cut = False
        async for attempt in self._retrying():
            with attempt:
                if place and cut:
                    place, at = await self._how_far(place)
                if place is None:
                    place, at = await self._begin(repository, digest)
                    if place is None:
                        return Outcome.MOUNTED
                cut = True
                while size - at > _PIECE_BYTES:
                    place = await self._send(place, blob, at, at + _PIECE_BYTES)
                    at += _PIECE_BYTES
                await self._send(place, blob, at, size, close=True)
        return Outcome.SENT

    async def _begin(self, repository: str, digest: str) -> tuple[str | None, int]:
        home = self._homes.get(digest)
        query = {"mount": digest, "from": home} if home and home != repository else {}
        response = await self._once(
            "POST",
            f"/v2/{parse_repository(repository)}/blobs/uploads/",
            params=query,
            headers={"Content-Length": "0"},
            expect={201, 202},
        )
        return (None, 0) if response.status_code == HTTPStatus.CREATED else (_location(response), 0)

    async def _how_far(self, place: str) -> tuple[str | None, int]:
        """Where an upload stands: (its address, bytes that arrived), or (None, 0) when it must start anew."""
        response = await self._once("GET", place, expect=set(range(200, 500)) - {429})
        if response.status_code not in (200, 202, 204):
            return None, 0
        last = response.headers.get("Range", "").removeprefix("bytes=").partition("-")[2]
        if not last.isdigit() or last == "0":  # registries say 0-0 for one byte, and for none
            return None, 0
        return _location(response), int(last) + 1

    async def _send(self, place: str, blob: Blob, start: int, stop: int, *, close: bool = False) -> str:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(stop - start)}
        if not close or start:
            headers["Content-Range"] = f"{start}-{stop - 1}"

        async def body() -> AsyncIterator[bytes]:
            for chunk in blob.chunks(start, stop):
                yield chunk

        digest = blob.descriptor.digest
        try:
            response = await self._once(
                "PUT" if close else "PATCH",
                place,
                params={"digest": digest} if close else {},
                headers=headers,
                content=_Replayable(body),
                expect={201, 202, 204, 400, 404, 416},
            )
        except OSError as error:
            raise BadInput(f"cannot read {digest}: {error}", hint="run va build again") from error
        if response.status_code == HTTPStatus.BAD_REQUEST and "DIGEST_INVALID" in response.text:
            raise BadInput(
                f"what {self.endpoint} was sent as {digest} has another digest",
                hint="the image file changed or is damaged: delete it and run va build again",
            )
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            raise Again(f"it forgot the upload of {digest} ({response.status_code})")
        return place if close else _location(response)

    async def _refer(self, repository: str, subject: str, manifest: Manifest) -> None:
        """Add a referrer to the index under the fallback tag `sha256-<hex>` (specification 1.1)."""
        async with self._subject_locks.setdefault(subject, asyncio.Lock()):
            index = await self.find_manifest(repository, _fallback_tag(subject))
            known = index.manifests if index else ()
            if any(known_one.digest == manifest.descriptor.digest for known_one in known):
                return
            config_type = manifest.config.media_type if manifest.config else None
            added = manifest.descriptor.model_copy(
                update={
                    "artifact_type": manifest.artifact_type or config_type,
                    "annotations": dict(manifest.annotations) or None,
                }
            )
            await self._list_referrers(repository, subject, (*known, added))

    async def _list_referrers(self, repository: str, subject: str, listed: Sequence[Descriptor]) -> None:
        raw = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": IMAGE_INDEX,
                "manifests": [one.as_json() for one in listed],
            },
            sort_keys=True,
            separators=(",", ":"),
        ).encode()
        await self.put_manifest(repository, parse_manifest(raw), _fallback_tag(subject))

    def _retrying(self) -> AsyncRetrying:
        backoff = wait_exponential(multiplier=0.2, max=5.0) + wait_random(0, 0.1)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.after if isinstance(error, Again) else None
            return backoff(state) if asked is None else min(asked, _LONGEST_WAIT)

        def give_up(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            raise SystemUnavailable(
                f"the registry {self.endpoint} did not answer as it should, {self._attempts} times: {error}",
                hint="va status says which part is down, va up starts it again; then run the same command"
                if scheme(self.endpoint) == "http"
                else "check the network and the registry's own status page; then run the same command",
            ) from error

        return AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=wait,
            retry=retry_if_exception_type(Again),
            sleep=self._sleep,
            retry_error_callback=give_up,
        )

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        expect: Collection[int],
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        async for attempt in self._retrying():
            with attempt:
                return await self._once(method, url, expect=expect, headers=headers, content=content)
        raise AssertionError("tenacity either returns or raises")

    async def _once(
        self,
        method: str,
        url: str,
        *,
        expect: Collection[int],
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | _Replayable | None = None,
        stream: bool = False,
    ) -> httpx.Response:
        """One request. `Again` when it is worth another try, SystemUnavailable when it is not.

        With `stream`, the body of an expected answer is not read yet: the caller does, and closes it.
        """
        target = httpx.URL(url).copy_merge_params(params) if params else url
        try:
            request = self._client.build_request(method, target, headers=headers, content=content)
            response = await self._client.send(request, stream=True)
            if stream and response.status_code in expect:
                return response
            try:
                await response.aread()
            finally:
                await response.aclose()
        except _CUT as error:
            raise Again(f"{type(error).__name__} {error}".strip()) from error
        if response.status_code in expect:
            return response
        said = _explain(response)
        if response.status_code == HTTPStatus.INSUFFICIENT_STORAGE or any(
            word in response.text.lower() for word in _FULL
        ):
            raise SystemUnavailable(
                f"the registry {self.endpoint} is full: {said}",
                hint="free room there, then run the same command: what has arrived is not sent again",
            )
        if response.status_code in AGAIN:
            raise Again(said, retry_after(response.headers))
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise SystemUnavailable(
                f"the registry {self.endpoint} refused these credentials: {said}",
                hint="log in again, or ask for the right to pull and push there",
            )
        locked = response.status_code == HTTPStatus.METHOD_NOT_ALLOWED
        raise SystemUnavailable(
            f"the registry {self.endpoint} answered {method} {url} with {said}",
            hint="what is there is locked, or this registry allows no such change" if locked else "",
        )

    def _check_digest(self, name: str, wanted: str | None, content: bytes) -> None:
        if wanted and digest_of(content) != wanted:
            raise SystemUnavailable(
                f"{name}: the registry sent bytes with the digest {digest_of(content)}, not {wanted}",
                hint="its storage is damaged or was tampered with: find out why before you publish again",
            )

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError as error:
            raise SystemUnavailable(f"{self.endpoint} answered {response.url} with no JSON") from error
        return answer if isinstance(answer, dict) else {}


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


def scheme(endpoint: str) -> str:
    """`http` for an address of this machine, `https` for any other."""
    return "http" if _THIS_MACHINE.fullmatch(endpoint) else "https"


def _location(response: httpx.Response) -> str:
    return str(response.url.join(response.headers.get("Location", "")))


def _fallback_tag(digest: str) -> str:
    return digest.replace(":", "-")


def _explain(response: httpx.Response) -> str:
    """Status and the registry's own words, on one line."""
    try:
        errors = response.json()["errors"]
        words = "; ".join(f"{item.get('code')} {item.get('message', '')}".strip() for item in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        words = response.text.strip()[:200]
    return f"{response.status_code} {response.reason_phrase}{': ' if words else ''}{words}"

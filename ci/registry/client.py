"""One registry, over HTTP: the OCI distribution specification 1.1, as far as this project needs it.

What is asked of it goes over a Connection: tried again, bounded, and with credentials for it alone. Content
whose digest is not the one asked for is never returned.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from ci.concurrency import both, together
from ci.errors import BadInput, SystemUnavailable
from ci.registry.blobs import Blobs, check_digest
from ci.registry.connection import SMALL, Answer, Unusable
from ci.registry.content import (
    EMPTY_TYPE,
    IMAGE_INDEX,
    MANIFEST_TYPES,
    Descriptor,
    Manifest,
    parse_manifest,
)
from ci.registry.references import digest_of, parse_digest, parse_repository

__all__ = ["Held", "Registry"]

_STORED = frozenset({200, 201, 202})
_NO_API = frozenset({400, 404, 405, 406, 410, 501})
"""What registries without the referrers API answer to it; others send a page of their own (with 200)."""


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


class Registry(Blobs):
    """A client of one registry endpoint, as Blobs: what it lists, its manifests, what is attached to them."""

    def __init__(
        self,
        endpoint: str,
        *,
        auth: httpx.Auth | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        attempts: int = 5,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(endpoint, auth=auth, transport=transport, attempts=attempts, sleep=sleep)
        self._subject_locks: dict[str, asyncio.Lock] = {}
        self._has_referrers: bool | None = None
        """Whether it has the referrers API; None until it was asked."""

    @property
    def name(self) -> str:
        """What is one registry, however many endpoints it has: what is locked or removed here is so there."""
        return self.endpoint

    async def ping(self) -> None:
        """Return when the registry is there and speaks the protocol."""
        await self._connection.ask("GET", "/v2/", expect={200})

    # --- lists ---------------------------------------------------------------------------

    async def repositories(self) -> tuple[str, ...]:
        """All repositories that this client may see, page after page."""
        return await self._listed("/v2/_catalog", "repositories")

    async def tags(self, repository: str) -> tuple[str, ...]:
        """All tags of a repository, page after page; none when there is no such repository."""
        return await self._listed(f"/v2/{parse_repository(repository)}/tags/list", "tags")

    async def _listed(self, path: str, key: str) -> tuple[str, ...]:
        found: list[str] = []
        async for page in self._connection.pages(path, expect={200, 404}):
            if page.status == HTTPStatus.NOT_FOUND:
                break
            fields = page.fields()
            names = fields.get(key)
            # Of a repository without tags, some write null and some nothing at all.
            if names is None and (key in fields or "name" in fields):
                continue
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise SystemUnavailable(f"{self.endpoint}{path} answered with no list of {key}")
            found += names
        return tuple(found)

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

    # --- manifests -----------------------------------------------------------------------

    async def find_manifest(self, repository: str, reference: str, *, most: int = SMALL) -> Manifest | None:
        """The manifest of that tag or digest, its bytes checked; None when it is not there.

        Unusable when it has more than `most` bytes, or is no manifest.
        """
        answer = await self._fetched(repository, reference, most)
        try:
            return parse_manifest(answer.content, answer.media_type) if answer else None
        except ValueError as error:
            raise Unusable(f"{self._called(repository, reference)} is not a manifest: {error}") from error

    async def _fetched(self, repository: str, reference: str, most: int = SMALL) -> Answer | None:
        """What is there under a tag or digest, whatever it is, its bytes checked."""
        answer = await self._connection.ask(
            "GET",
            _path(repository, "manifests", reference),
            headers={"Accept": ", ".join(MANIFEST_TYPES)},
            expect={200, 404},
            most=most,
        )
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if wanted := reference if ":" in reference else answer.headers.get("Docker-Content-Digest"):
            check_digest(self._called(repository, reference), wanted, answer.content)
        return answer

    def _called(self, repository: str, reference: str) -> str:
        return f"{self.endpoint}/{repository}{'@' if ':' in reference else ':'}{reference}"

    async def manifest(self, repository: str, reference: str) -> Manifest:
        """As `find_manifest`, but BadInput when it is not there."""
        found = await self.find_manifest(repository, reference)
        if found is None:
            raise BadInput(
                f"{self._called(repository, reference)} is not in the registry",
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
        digest = manifest.descriptor.digest
        answer = await self._put(repository, tag or digest, manifest.raw, manifest.descriptor.media_type)
        if refer and manifest.subject and "OCI-Subject" not in answer.headers:
            await self._refer(repository, manifest.subject.digest, manifest)

    async def _put(
        self,
        repository: str,
        reference: str,
        raw: bytes,
        media_type: str,
        expect: Collection[int] = _STORED,
    ) -> Answer:
        answer = await self._connection.ask(
            "PUT",
            _path(repository, "manifests", reference),
            headers={"Content-Type": media_type},
            content=raw,
            expect=expect,
        )
        if answer.status in _STORED and (said := answer.headers.get("Docker-Content-Digest")):
            check_digest(f"{self.endpoint} stored {digest_of(raw)} as {said}", said, raw)
        return answer

    async def remove(self, repository: str, digest: str) -> None:
        """Delete a manifest with all its tags; one that is gone already is no error.

        SystemUnavailable when it is locked, or when this registry deletes nothing.
        """
        path = _path(repository, "manifests", parse_digest(digest))
        answer = await self._connection.ask("DELETE", path, expect={200, 202, 404, 405})
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            raise SystemUnavailable(
                f"{self.endpoint}/{repository}@{digest} may not be deleted: {answer.explained}",
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

    # --- what is attached ----------------------------------------------------------------

    async def referrers(
        self, repository: str, digest: str, *, artifact_type: str | None = None
    ) -> tuple[Descriptor, ...]:
        """What is attached to that manifest, by the referrers API or else by the fallback tag.

        With `artifact_type`, what is of that type, and what the list says no type of (or that of an empty
        config, as go-containerregistry 0.22 does). What it names by digests of another kind is left out:
        nothing here could fetch it.
        """
        by_api: list[Descriptor] | None = None
        by_tag: list[dict[str, Any]] | SystemUnavailable | None = None
        if self._has_referrers is None:  # both are asked at once: neither waits for the other
            by_api, by_tag = await both(
                self._by_api(repository, digest, artifact_type), self._by_tag_or_why_not(repository, digest)
            )
        elif self._has_referrers:
            by_api = await self._by_api(repository, digest, artifact_type)
        if by_api is not None:
            return tuple({one.digest: one for one in by_api}.values())
        if isinstance(by_tag, SystemUnavailable):
            raise by_tag
        listed = await self._by_tag(repository, digest) if by_tag is None else by_tag
        return tuple({one.digest: one for one in _descriptors(listed, artifact_type)}.values())

    async def _by_api(
        self, repository: str, digest: str, artifact_type: str | None
    ) -> list[Descriptor] | None:
        """What all pages list; None when the registry has no such API, by status or by what it sent."""
        path = _path(repository, "referrers", parse_digest(digest))
        path += f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
        found: list[Descriptor] = []
        pages = self._connection.pages(path, expect={200, *_NO_API}, headers={"Accept": IMAGE_INDEX})
        async for page in pages:
            if page.status != HTTPStatus.OK or page.media_type != IMAGE_INDEX:
                if found:
                    raise SystemUnavailable(f"{self.endpoint}{path} goes on with what is no list")
                # Of an unknown repository, one with the API may say so too.
                if page.status != HTTPStatus.OK and "NAME_UNKNOWN" not in page.text:
                    self._has_referrers = False
                return None
            found += _descriptors(_manifests(page), artifact_type)
        self._has_referrers = True
        return found

    async def _by_tag(self, repository: str, digest: str) -> list[dict[str, Any]]:
        """What the fallback tag lists. Unusable when something else has that name: it is not overwritten."""
        index = await self._fetched(repository, _fallback_tag(digest))
        if index is not None and "manifests" not in index.fields():
            raise Unusable(
                f"{self._called(repository, _fallback_tag(digest))} is no list of what is attached, "
                f"but {index.media_type or 'something else'}",
                hint="that tag is for such a list alone: give what is there another one",
            )
        return _manifests(index) if index else []

    async def _by_tag_or_why_not(
        self, repository: str, digest: str
    ) -> list[dict[str, Any]] | SystemUnavailable:
        try:
            return await self._by_tag(repository, digest)
        except SystemUnavailable as error:
            return error

    async def set_referrers(self, repository: str, digest: str, listed: Sequence[Descriptor]) -> None:
        """Have just these listed as attached to that manifest, where the registry lacks the referrers API.

        They must be there. With none, the list under the fallback tag is deleted.
        """
        async with self._subject_locks.setdefault(digest, asyncio.Lock()):
            if listed:
                await self._list_referrers(repository, digest, [one.as_json() for one in listed])
            elif index := await self.find_manifest(repository, _fallback_tag(digest)):
                await self.remove(repository, index.descriptor.digest)

    async def _refer(self, repository: str, subject: str, manifest: Manifest) -> None:
        """Add a referrer to the index under the fallback tag `sha256-<hex>` (specification 1.1)."""
        async with self._subject_locks.setdefault(subject, asyncio.Lock()):
            known = await self._by_tag(repository, subject)
            if any(one.get("digest") == manifest.descriptor.digest for one in known):
                return
            config_type = manifest.config.media_type if manifest.config else None
            added = manifest.descriptor.model_copy(
                update={
                    "artifact_type": manifest.artifact_type or config_type,
                    "annotations": dict(manifest.annotations) or None,
                }
            )
            await self._list_referrers(repository, subject, [*known, added.as_json()])

    async def _list_referrers(self, repository: str, subject: str, listed: Sequence[dict[str, Any]]) -> None:
        """Store that list. Who deletes a referrer need not know of it, and docker-registry takes no list of
        what is gone: then it is stored with what is there.
        """
        tag = _fallback_tag(subject)
        answer = await self._put(repository, tag, _index(listed), IMAGE_INDEX, {*_STORED, 400, 404})
        if answer.status in _STORED:
            return
        there = await together(self.find_manifest(repository, str(one.get("digest"))) for one in listed)
        left = [one for one, found in zip(listed, there, strict=True) if found]
        if len(left) == len(listed) or not left:
            raise SystemUnavailable(
                f"the registry {self.endpoint} did not take the list of what is attached to "
                f"{repository}@{subject}: {answer.explained}"
            )
        await self._put(repository, tag, _index(left), IMAGE_INDEX)


def _path(repository: str, kind: str, reference: str) -> str:
    return f"/v2/{parse_repository(repository)}/{kind}/{quote(reference, safe=':')}"


def _fallback_tag(digest: str) -> str:
    return digest.replace(":", "-")


def _index(listed: Sequence[dict[str, Any]]) -> bytes:
    fields = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": list(listed)}
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _manifests(page: Answer) -> list[dict[str, Any]]:
    """What a list of referrers, or a page of it, names; one without any may say null."""
    listed = page.fields().get("manifests", ())
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise SystemUnavailable(f"{page.url} answered with no list of manifests")
    return listed


def _descriptors(listed: Iterable[dict[str, Any]], artifact_type: str | None) -> Iterator[Descriptor]:
    """Those of a list that name something which can be fetched here, and that may be of that type."""
    for one in listed:
        with suppress(ValidationError):
            descriptor = Descriptor.model_validate(one)
            unsaid = descriptor.artifact_type in (None, "", EMPTY_TYPE)
            if artifact_type is None or unsaid or descriptor.artifact_type == artifact_type:
                yield descriptor

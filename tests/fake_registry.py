"""A small registry in memory, behind an httpx transport: the distribution protocol, and the faults we want.

Like docker-registry it deletes a manifest with all its tags and no tag alone, takes no index without its
manifests, and lists a repository also when all in it was deleted. `answers` are responses (or exceptions)
given to the next requests that match instead of the real one.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ci.registry import digest_of

Fault = httpx.Response | Exception


@dataclass
class FakeRegistry(httpx.AsyncBaseTransport):
    """What it holds, what it was asked, and which faults come next."""

    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    emptied: set[str] = field(default_factory=set)
    """Repositories in which something was deleted."""
    told: list[tuple[str, str]] = field(default_factory=list)
    """Repository and tag or digest of each manifest that was put or deleted, as docker-registry notifies."""
    uploads: dict[str, bytearray] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    """Digests of the blobs whose bytes were sent, one entry each time."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of each blob that were asked for."""
    faults: list[tuple[str, str, Fault]] = field(default_factory=list)
    cut_after: int | None = None
    """Cut the next upload's connection after as many bytes of a request's body."""
    cut_answers: list[int] = field(default_factory=list)
    """Cut the next answers with a blob after as many bytes, one each."""
    forget_cut_uploads: bool = False
    has_referrers: bool = False
    has_ranges: bool = True
    lax: bool = False
    """Takes a manifest without what it names."""
    page: int = 1000
    gate: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
    slow: Callable[[], Awaitable[None]] | None = None
    """Awaited before an upload begins."""

    def fail(self, method: str, path: str, *faults: Fault) -> None:
        """The next requests of that method whose path matches the pattern get these, one each."""
        self.faults += [(method, path, fault) for fault in faults]

    def count(self, method: str, path: str = "") -> int:
        return sum(m == method and bool(re.search(path, p)) for m, p in self.asked)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        method, path = request.method, request.url.path
        self.asked.append((method, path))
        for fault in self.faults:
            if fault[0] == method and re.search(fault[1], path):
                self.faults.remove(fault)
                if isinstance(fault[2], Exception):
                    raise fault[2]
                return fault[2]
        if refused := self.gate(request):
            return refused
        if path == "/v2/":
            return httpx.Response(200)
        if path == "/v2/_catalog":
            names = sorted({repository for repository, _ in self.manifests} | self.emptied)
            return httpx.Response(200, json={"repositories": names})
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags|referrers)/(.*)", path)
        assert found, path
        repository, kind, rest = found.groups()
        if rest.startswith("uploads") or repository.endswith("/blobs"):
            repository = repository.removesuffix("/blobs")
            return await self._upload(request, repository, rest.removeprefix("uploads/"))
        if kind == "blobs":
            content = self.blobs.get((repository, rest))
            if content is None:
                return error(404, "BLOB_UNKNOWN")
            if method == "DELETE":
                del self.blobs[repository, rest]
                return httpx.Response(202)
            headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": rest}
            if method == "HEAD":
                return httpx.Response(200, headers={**headers, "Content-Length": str(len(content))})
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
            status = 200
            if wanted and wanted.group() != "bytes=-" and self.has_ranges:
                size = len(content)
                start = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
                stop = min(int(wanted[2]) + 1, size) if wanted[1] and wanted[2] else size
                if start >= stop:
                    return httpx.Response(416, headers={"Content-Range": f"bytes */{size}"})
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
                status, content = 206, content[start:stop]
            self.sent[rest] += len(content)
            if self.cut_answers:
                body = cut(content, self.cut_answers.pop(0))
                return httpx.Response(status, headers=headers, content=body)
            return httpx.Response(status, headers=headers, content=content)
        if kind == "manifests":
            return await self._manifest(request, repository, rest)
        if kind == "tags":
            return self._tags(request, repository)
        return self._referrers(request, repository, rest)

    async def _upload(self, request: httpx.Request, repository: str, name: str) -> httpx.Response:
        query = request.url.params
        if request.method == "POST":
            if self.slow:
                await self.slow()
            mounted = self.blobs.get((query.get("from", ""), query.get("mount", "")))
            if mounted is not None:
                self.blobs[repository, query["mount"]] = mounted
                return httpx.Response(201, headers=_at(repository, "blobs", query["mount"]))
            name = uuid.uuid4().hex
            self.uploads[name] = bytearray()
        if name not in self.uploads:
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        upload = self.uploads[name]
        if request.method in ("PATCH", "PUT"):
            start = request.headers.get("Content-Range", f"{len(upload)}-").partition("-")[0]
            if int(start) != len(upload):
                return error(416, "RANGE_INVALID")
            got = 0
            assert isinstance(request.stream, httpx.AsyncByteStream)
            async for chunk in request.stream:
                if self.cut_after is not None and got + len(chunk) > self.cut_after:
                    upload += chunk[: self.cut_after - got]
                    self.cut_after = None
                    if self.forget_cut_uploads:
                        del self.uploads[name]
                    raise httpx.WriteError("connection reset by peer")
                got += len(chunk)
                upload += chunk
            assert got == int(request.headers.get("Content-Length", got))
        if request.method == "PUT":
            if digest_of(upload) != query["digest"]:
                return error(400, "DIGEST_INVALID")
            self.blobs[repository, query["digest"]] = bytes(self.uploads.pop(name))
            self.finished.append(query["digest"])
            return httpx.Response(201, headers=_at(repository, "blobs", query["digest"]))
        headers = {
            "Location": f"/v2/{repository}/blobs/uploads/{name}",
            "Range": f"0-{max(0, len(upload) - 1)}",
        }
        return httpx.Response(204 if request.method == "GET" else 202, headers=headers)

    async def _manifest(self, request: httpx.Request, repository: str, reference: str) -> httpx.Response:
        if request.method == "PUT":
            content = await request.aread()
            if ":" in reference and reference != digest_of(content):
                return error(400, "DIGEST_INVALID")
            fields = json.loads(content)
            named = [fields["config"], *fields["layers"]] if "config" in fields else []
            needed = [one for one in named if "nondistributable" not in one["mediaType"]]
            below = fields.get("manifests", [])
            if not self.lax and (
                any((repository, one["digest"]) not in self.blobs for one in needed)
                or any((repository, one["digest"]) not in self.manifests for one in below)
            ):
                return error(400, "MANIFEST_BLOB_UNKNOWN")
            for name in {reference, digest_of(content)}:
                self.manifests[repository, name] = (request.headers["Content-Type"], content)
            self.told.append((repository, reference))
            headers = _at(repository, "manifests", digest_of(content))
            if self.has_referrers and "subject" in fields:
                headers["OCI-Subject"] = fields["subject"]["digest"]
            return httpx.Response(201, headers=headers)
        if request.method == "DELETE" and ":" not in reference:
            return error(400, "DIGEST_INVALID")
        if (repository, reference) not in self.manifests:
            return error(404, "MANIFEST_UNKNOWN")
        if request.method == "DELETE":
            gone = self.manifests[repository, reference]
            names = [name for at, name in self.manifests if at == repository]
            for name in (name for name in names if self.manifests[repository, name] == gone):
                del self.manifests[repository, name]
                self.told.append((repository, name))
            self.emptied.add(repository)
            return httpx.Response(202)
        media_type, content = self.manifests[repository, reference]
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(content)}
        return httpx.Response(200, headers=headers, content=content)

    def _tags(self, request: httpx.Request, repository: str) -> httpx.Response:
        names = sorted(name for at, name in self.manifests if at == repository and ":" not in name)
        if not names:
            return error(404, "NAME_UNKNOWN")
        after = request.url.params.get("last", "")
        names = [name for name in names if name > after]
        page = min(self.page, int(request.url.params.get("n", self.page)))
        more = len(names) > page > 0
        names = names[:page]
        link = {"Link": f'</v2/{repository}/tags/list?last={names[-1]}&n={page}>; rel="next"'} if more else {}
        return httpx.Response(200, headers=link, json={"name": repository, "tags": names})

    def _referrers(self, request: httpx.Request, repository: str, digest: str) -> httpx.Response:
        if not self.has_referrers:
            return error(404, "UNSUPPORTED")
        found = {}
        for (at, _), (media_type, content) in self.manifests.items():
            fields = json.loads(content)
            if at == repository and fields.get("subject", {}).get("digest") == digest:
                config = fields.get("config", {}).get("mediaType")
                found[digest_of(content)] = {
                    "mediaType": media_type,
                    "digest": digest_of(content),
                    "size": len(content),
                    **({"artifactType": kind} if (kind := fields.get("artifactType") or config) else {}),
                    **({"annotations": notes} if (notes := fields.get("annotations")) else {}),
                }
        headers = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
        listed = [found[name] for name in sorted(found)]
        if wanted := request.url.params.get("artifactType"):
            headers["OCI-Filters-Applied"] = "artifactType"
            listed = [one for one in listed if one.get("artifactType") == wanted]
        if (start := int(request.url.params.get("start", 0))) + self.page < len(listed):
            query = httpx.QueryParams({**request.url.params, "start": str(start + self.page)})
            headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'
        listed = listed[start : start + self.page]
        index = {"schemaVersion": 2, "mediaType": headers["Content-Type"], "manifests": listed}
        return httpx.Response(200, headers=headers, content=json.dumps(index))


def app(registry: FakeRegistry) -> Starlette:
    """The same registry over HTTP."""

    async def answer(request: Request) -> Response:
        asked = httpx.Request(
            request.method, str(request.url), headers=request.headers.raw, content=request.stream()
        )
        found = await registry.handle_async_request(asked)
        content = await found.aread()
        return Response(content, found.status_code, dict(found.headers))

    methods = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]
    return Starlette(routes=[Route("/{path:path}", answer, methods=methods)])


async def cut(content: bytes, after: int) -> AsyncIterator[bytes]:
    """The beginning of a body whose connection is then lost."""
    yield content[:after]
    raise httpx.ReadError("connection reset by peer")


def _at(repository: str, kind: str, digest: str) -> dict[str, str]:
    return {"Location": f"/v2/{repository}/{kind}/{digest}", "Docker-Content-Digest": digest}


def error(status: int, code: str, message: str = "") -> httpx.Response:
    return httpx.Response(status, json={"errors": [{"code": code, "message": message}]})

"""An Azure Container Registry on this machine: ACR's sign-in and data plane before a real docker-registry.

It speaks `/oauth2/exchange` and `/oauth2/token` (access tokens of one scope that expire by its own clock),
checks each request's token, answers `/acr/v1`, keeps locks, lists referrers, sends blobs by a redirect to a
data endpoint that accepts no token, and makes the trouble it is told to. Content is kept by docker-registry.
What it says on the wire follows the public swagger and threads of Azure/acr; it was not compared with Azure.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
from anyio.from_thread import start_blocking_portal
from azure.core.credentials import AccessToken
from real_registry import free_port, registry_on
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ci.serving import serving

__all__ = ["AzureStandIn", "Entra", "Trouble", "azure_registry"]

ADMIN = "admin"
AUDIENCE = "https://containerregistry.azure.net/.default"
_ACTIONS = frozenset({"pull", "push", "delete", "metadata_read", "metadata_write"})
_DISALLOWED = (
    "The operation is disallowed on this registry, repository or image. View troubleshooting steps at "
    "https://aka.ms/acr/faq/#why-does-my-pull-or-push-request-fail-with-disallowed-operation"
)


@dataclass
class Entra:
    """Signs in to Entra; a TokenCredential."""

    issued: list[str] = field(default_factory=list)

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert scopes == (AUDIENCE,), scopes
        self.issued.append(f"entra-{len(self.issued)}-{secrets.token_hex(4)}")
        return AccessToken(self.issued[-1], int(time.time()) + 3600)

    def close(self) -> None:
        pass


@dataclass
class Trouble:
    """What goes wrong with the next `times` requests whose `METHOD /path` the pattern finds.

    A GET of a blob comes twice: at the login server, and as `DATA /path` at the data endpoint.
    """

    request: str
    times: int = 1
    status: int = 0
    """Answered with this instead; 0: with what is right, but …"""
    retry_after: str = ""
    said: str = "as the test asked"
    to: str = ""
    """Where the answer redirects to."""
    cut: bool = False
    """… with half the bytes, then the connection is closed."""
    alter: bool = False
    """… with one byte changed."""
    cut_upload: int | None = None
    """… after so many bytes of the request's body were kept the connection is closed."""


@dataclass
class _Manifest:
    media_type: str
    size: int
    subject: str | None
    artifact_type: str | None
    created: float
    tags: set[str] = field(default_factory=set)
    locked: dict[str, bool] = field(default_factory=lambda: {"deleteEnabled": True, "writeEnabled": True})


@dataclass
class AzureStandIn:
    """What it holds and how it behaves; `endpoint` is its address, `asked` all requests in order."""

    backend: str
    storage: Path
    endpoint: str = ""
    data_endpoint: str = ""
    entra: Entra = field(default_factory=Entra)
    now: Callable[[], float] = time.time
    """Its clock."""
    access_seconds: float = 4500.0
    refresh_seconds: float = 10800.0
    actions: frozenset[str] = _ACTIONS
    """What the identity may do."""
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    """That of the admin user, with which Docker's clients sign in."""
    scheme: str = "https"
    """Of the realm that a challenge names: Azure's, though this one speaks http."""
    page: int = 100
    troubles: list[Trouble] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    manifests: dict[str, dict[str, _Manifest]] = field(default_factory=dict)
    tag_locks: dict[tuple[str, str], dict[str, bool]] = field(default_factory=dict)
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    _epoch: int = 0
    _resumed: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _backend(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(trust_env=False, timeout=30)

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, one)) for one in self.asked)

    def reset(self) -> None:
        """As it was when it was started: empty and well. Its addresses stay."""
        shutil.rmtree(self.storage, ignore_errors=True)
        fresh = AzureStandIn(self.backend, self.storage, self.endpoint, self.data_endpoint)
        self.__dict__.update(fresh.__dict__)

    def revoke(self) -> None:
        """All tokens that were given are refused from now on."""
        self._epoch += 1

    def app(self) -> Starlette:
        methods = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])

    async def _answer(self, request: Request) -> Response:
        on_data = request.url.netloc == self.data_endpoint
        line = f"{'DATA' if on_data else request.method} {request.url.path}"
        self.asked.append(line)
        trouble = next((one for one in self.troubles if one.times > 0 and re.search(one.request, line)), None)
        if trouble and trouble.cut_upload is not None and "authorization" not in request.headers:
            trouble = None  # only what would have been stored
        if trouble:
            trouble.times -= 1
            if trouble.status:
                headers = {"Retry-After": trouble.retry_after} if trouble.retry_after else {}
                if trouble.to:
                    headers["Location"] = trouble.to
                return _error(trouble.status, "FAULT", trouble.said, headers)
        if on_data:
            answer = await self._data(request)
        elif request.url.path.startswith("/oauth2/"):
            answer = await self._oauth(request)
        elif missing := self._unauthorized(request):
            answer = missing
        elif request.url.path.startswith("/acr/v1/"):
            answer = await self._acr(request)
        else:
            answer = await self._v2(request, trouble)
        if trouble and trouble.cut:
            return _Cut(bytes(answer.body), answer)
        if trouble and trouble.alter:
            body = bytearray(answer.body)
            body[len(body) // 2] ^= 1
            return Response(bytes(body), answer.status_code, dict(answer.headers))
        return answer

    # --- sign-in -------------------------------------------------------------------------

    def _token(self, kind: str, seconds: float, **claims: Any) -> str:
        now = self.now()
        claims = {"iat": now, "nbf": now, "exp": now + seconds, "kind": kind, "epoch": self._epoch, **claims}
        payload = _encoded(json.dumps(claims).encode())
        return f"{_encoded(b'{}')}.{payload}.{self._signed(payload)}"

    def _signed(self, payload: str) -> str:
        return _encoded(hmac.digest(self._key, payload.encode(), "sha256"))

    def _claims(self, token: str, kind: str) -> dict[str, Any] | None:
        head, _, rest = token.partition(".")
        payload, _, signature = rest.partition(".")
        if not head or not hmac.compare_digest(signature, self._signed(payload)):
            return None
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        good = claims["kind"] == kind and claims["epoch"] == self._epoch and self.now() < claims["exp"]
        return dict(claims) if good else None

    async def _oauth(self, request: Request) -> Response:
        if request.method == "GET":
            return self._for_password(request)
        form = parse_qsl((await request.body()).decode(), keep_blank_values=True)
        fields = dict(form)
        if fields.get("service") != self.endpoint:
            return _error(400, "INVALID_SERVICE", "service is not this registry")
        if request.url.path == "/oauth2/exchange":
            if fields.get("grant_type") != "access_token" or fields["access_token"] not in self.entra.issued:
                return _error(401, "UNAUTHORIZED", "authentication required")
            return JSONResponse({"refresh_token": self._token("refresh", self.refresh_seconds)})
        if fields.get("grant_type") != "refresh_token" or not self._claims(
            fields["refresh_token"], "refresh"
        ):
            return _error(401, "UNAUTHORIZED", "authentication required")
        return self._access([value for key, value in form if key == "scope"])

    def _for_password(self, request: Request) -> Response:
        """The admin user of a registry: a token as Docker asks for one."""
        wanted = base64.b64encode(f"{ADMIN}:{self.password}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {wanted}":
            return _error(401, "UNAUTHORIZED", "authentication required")
        return self._access([one for each in request.query_params.getlist("scope") for one in each.split()])

    def _access(self, scopes: list[str]) -> Response:
        access = []
        for scope in scopes:
            kind, name, actions = scope.rsplit(":", 2) if scope.count(":") > 1 else ("", "", "")
            granted = [one for one in actions.split(",") if one in self.actions or one == "*"]
            if not granted:
                return _error(401, "UNAUTHORIZED", "authentication required")
            access.append({"type": kind, "name": name, "actions": granted})
        return JSONResponse({"access_token": self._token("access", self.access_seconds, access=access)})

    def _unauthorized(self, request: Request) -> Response | None:
        """A challenge, unless the request's token holds all that it needs."""
        needed = _needed(request)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        claims = self._claims(token, "access") if token else None
        held = {
            f"{one['type']}:{one['name']}:{action}"
            for one in (claims or {}).get("access", ())
            for action in one["actions"]
        }
        wanted = {
            f"{kind}:{name}:{action}" for kind, name, actions in needed for action in actions.split(",")
        }
        if claims and wanted <= held:
            return None
        scope = " ".join(":".join(one) for one in needed)
        challenge = f'Bearer realm="{self.scheme}://{self.endpoint}/oauth2/token",service="{self.endpoint}"'
        challenge += f',scope="{scope}"' if scope else ""
        challenge += ',error="invalid_token"' if token else ""
        headers = {"WWW-Authenticate": challenge}
        return _error(
            401, "UNAUTHORIZED", "authentication required, visit https://aka.ms/acr/authorization", headers
        )

    # --- content, kept by docker-registry ------------------------------------------------

    async def _v2(self, request: Request, trouble: Trouble | None) -> Response:
        found = re.fullmatch(r"/v2/(.+?)/(manifests|blobs|tags|referrers)/(.*)", request.url.path)
        if not found:
            return Response(status_code=200)
        repository, kind, rest = found.groups()
        if kind == "referrers":
            return self._referrers(repository, rest)
        if kind == "manifests" and request.method in ("PUT", "DELETE"):
            return await self._change(request, repository, rest)
        if kind == "blobs" and request.method == "GET" and not rest.startswith("uploads"):
            if (await self._passed(request, method="HEAD")).status_code != 200:
                return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
            signature = self._signed(request.url.path)
            secure = "" if ":" in self.data_endpoint else "s"  # by a name of Azure's, at the usual port
            location = f"http{secure}://{self.data_endpoint}{request.url.path}?sig={signature}"
            return Response(status_code=307, headers={"Location": location})
        if trouble and trouble.cut_upload is not None:
            return await self._cut_upload(request, trouble.cut_upload)
        if request.method == "GET" and request.url.path in self._resumed:
            # docker-registry wants the state that it gave last, which the client that was cut off never got.
            query = self._resumed.pop(request.url.path)
            request = Request({**request.scope, "query_string": query.encode()})
            return await self._passed(request)
        return await self._passed(request, content=request.stream())

    async def _data(self, request: Request) -> Response:
        """The data endpoint: storage, which knows signatures only and refuses a token it did not make."""
        if "authorization" in request.headers:
            return Response("InvalidAuthenticationInfo", status_code=400)
        if request.query_params.get("sig") != self._signed(request.url.path):
            return Response("AuthenticationFailed", status_code=403)
        return await self._passed(request)

    async def _passed(
        self, request: Request, *, method: str = "", content: AsyncIterator[bytes] | bytes | None = None
    ) -> Response:
        """What docker-registry says to this request."""
        names = ("content-type", "content-length", "content-range", "accept", "range")
        headers = {
            name: ", ".join(request.headers.getlist(name)) for name in names if name in request.headers
        }
        if isinstance(content, bytes):
            headers["content-length"] = str(len(content))
        if content is None:
            headers.pop("content-length", None)
        if method == "HEAD":
            headers.pop("range", None)
        query = urlencode([(k, v) for k, v in request.query_params.multi_items() if k != "sig"])
        url = f"http://{self.backend}{request.url.path}{'?' if query else ''}{query}"
        answer = await self._backend.request(method or request.method, url, headers=headers, content=content)
        kept = {
            k: v for k, v in answer.headers.items() if k not in ("date", "connection", "transfer-encoding")
        }
        if "location" in kept:
            kept["location"] = kept["location"].removeprefix(f"http://{self.backend}")  # as ACR: a path
        return Response(answer.content, answer.status_code, kept)

    async def _cut_upload(self, request: Request, after: int) -> Response:
        got = bytearray()
        async for chunk in request.stream():
            got += chunk
            if len(got) >= after:
                break
        content = bytes(got[:after])
        if request.method == "PATCH":
            start = int(request.headers.get("content-range", "0-").partition("-")[0])
            headers = {"content-type": "application/octet-stream", "content-length": str(len(content))}
            headers["content-range"] = f"{start}-{start + len(content) - 1}"
            query = urlencode(request.query_params.multi_items())
            url = f"http://{self.backend}{request.url.path}?{query}"
            answer = await self._backend.patch(url, headers=headers, content=content)
            assert answer.status_code == 202, answer.text
            self._resumed[request.url.path] = str(answer.headers["location"]).partition("?")[2]
        return _Cut(b"cut", Response(status_code=500))

    async def _change(self, request: Request, repository: str, reference: str) -> Response:
        kept = self.manifests.setdefault(repository, {})
        by_tag = next((digest for digest, one in kept.items() if reference in one.tags), None)
        digest = reference if reference.startswith("sha256:") else by_tag
        if request.method == "DELETE":
            if digest in kept and not self._free(repository, digest):
                return _error(405, "REGISTRY_DISALLOWED_OPERATION", _DISALLOWED)
            answer = await self._passed(request)
            if answer.status_code == 202 and digest in kept:
                del kept[digest]
                for gone in [one for one, what in kept.items() if what.subject == digest]:
                    del kept[gone]
            return answer
        content = await request.body()
        new = f"sha256:{hashlib.sha256(content).hexdigest()}"
        tag = None if reference.startswith("sha256:") else reference
        moves = tag is not None and by_tag not in (None, new)
        if moves and not self.tag_locks.get((repository, reference), _FREE)["writeEnabled"]:
            return _error(405, "REGISTRY_DISALLOWED_OPERATION", _DISALLOWED)
        answer = await self._passed(request, content=content)
        if answer.status_code == 201:
            self._keep(repository, new, request.headers["content-type"], content, tag)
            if subject := kept[new].subject:
                answer.headers["OCI-Subject"] = subject
        return answer

    def _free(self, repository: str, digest: str) -> bool:
        one = self.manifests[repository][digest]
        locks = [one.locked, *(self.tag_locks.get((repository, tag), _FREE) for tag in one.tags)]
        return all(lock["deleteEnabled"] and lock["writeEnabled"] for lock in locks)

    def _keep(self, repository: str, digest: str, media_type: str, content: bytes, tag: str | None) -> None:
        kept = self.manifests[repository]
        fields = json.loads(content)
        named = [fields.get("config"), *fields.get("layers", ()), *fields.get("manifests", ())]
        if digest not in kept:
            kept[digest] = _Manifest(
                media_type=media_type,
                size=len(content) + sum(one["size"] for one in named if one),
                subject=fields.get("subject", {}).get("digest"),
                artifact_type=fields.get("artifactType") or (fields.get("config") or {}).get("mediaType"),
                created=self.now(),
            )
        if tag:
            for one in kept.values():
                one.tags.discard(tag)
            kept[digest].tags.add(tag)

    def _referrers(self, repository: str, digest: str) -> Response:
        found = [
            {"mediaType": one.media_type, "digest": name, "size": one.size, "artifactType": one.artifact_type}
            for name, one in self.manifests.get(repository, {}).items()
            if one.subject == digest
        ]
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": found}
        return JSONResponse(index, headers={"Content-Type": _INDEX})

    # --- /acr/v1 -------------------------------------------------------------------------

    async def _acr(self, request: Request) -> Response:
        path = request.url.path.removeprefix("/acr/v1/")
        if path == "_catalog":
            return JSONResponse({"repositories": sorted(self.manifests)})
        found = re.fullmatch(r"(.+)/(_manifests|_tags)(?:/(.+))?", path)
        if not found or not self.manifests.get(found[1]):
            return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        repository, kind, name = found.groups()
        kept = self.manifests[repository]
        if name is None:
            return self._page(request, repository, kind)
        if kind == "_manifests":
            if name not in kept:
                return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            if request.method == "PATCH":
                kept[name].locked |= await request.json()
            shown = self._shown(name, kept[name])
            return JSONResponse({"registry": self.endpoint, "imageName": repository, "manifest": shown})
        digest = next((one for one, what in kept.items() if name in what.tags), None)
        if digest is None:
            return _error(404, "TAG_UNKNOWN", "tag unknown")
        if request.method == "PATCH":
            self.tag_locks[repository, name] = {
                **self.tag_locks.get((repository, name), _FREE),
                **await request.json(),
            }
        tag = self._tag(repository, name, digest)
        return JSONResponse({"registry": self.endpoint, "imageName": repository, "tag": tag})

    def _page(self, request: Request, repository: str, kind: str) -> Response:
        kept = self.manifests[repository]
        key, every = "manifests", {digest: self._shown(digest, one) for digest, one in kept.items()}
        if kind == "_tags":
            key = "tags"
            every = {
                tag: self._tag(repository, tag, digest) for digest, one in kept.items() for tag in one.tags
            }
        names = [name for name in sorted(every) if name > request.query_params.get("last", "")]
        page, more = names[: self.page], len(names) > self.page
        query = urlencode({"last": page[-1]}) if page else ""
        headers = {"Link": f'<{request.url.path}?{query}>; rel="next"'} if more else {}
        body = {"registry": self.endpoint, "imageName": repository, key: [every[name] for name in page]}
        return JSONResponse(body, headers=headers)

    def _shown(self, digest: str, one: _Manifest) -> dict[str, Any]:
        shown = {
            "digest": digest,
            "imageSize": one.size,
            "createdTime": _time(one.created),
            "lastUpdateTime": _time(one.created),
            "mediaType": one.media_type,
            "changeableAttributes": {**one.locked, "readEnabled": True, "listEnabled": True},
        }
        return {**shown, "tags": sorted(one.tags)} if one.tags else shown

    def _tag(self, repository: str, tag: str, digest: str) -> dict[str, Any]:
        locked = self.tag_locks.get((repository, tag), _FREE)
        return {
            "name": tag,
            "digest": digest,
            "createdTime": _time(0),
            "lastUpdateTime": _time(0),
            "signed": False,
            "changeableAttributes": {**locked, "readEnabled": True, "listEnabled": True},
        }


_INDEX = "application/vnd.oci.image.index.v1+json"
_FREE = {"deleteEnabled": True, "writeEnabled": True}


class _Cut(Response):
    """Half of a body whose length says that there is more; then the server closes the connection."""

    def __init__(self, content: bytes, like: Response) -> None:
        super().__init__(content, like.status_code, dict(like.headers))
        self._half = content[: len(content) // 2]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._half, "more_body": True})


def _needed(request: Request) -> list[tuple[str, str, str]]:
    path, method = request.url.path, request.method
    if found := re.fullmatch(r"/v2/(.+?)/(?:manifests|blobs|tags|referrers)/.*", path):
        read = "pull" if method in ("GET", "HEAD") else "delete" if method == "DELETE" else "pull,push"
        scopes = [("repository", found[1], read)]
        home = request.query_params.get("from")
        return [*scopes, ("repository", home, "pull")] if home else scopes
    if path == "/acr/v1/_catalog":
        return [("registry", "catalog", "*")]
    if found := re.fullmatch(r"/acr/v1/(.+)/_(?:manifests|tags)(?:/.*)?", path):
        return [("repository", found[1], "metadata_read" if method == "GET" else "metadata_write")]
    return []


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"errors": [{"code": code, "message": message}]}, status, headers)


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


@contextlib.contextmanager
def azure_registry(folder: Path) -> Iterator[AzureStandIn]:
    """The stand-in in a thread, before a docker-registry that keeps its content in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(registry_on(folder / "storage", free_port()))
        world = AzureStandIn(backend, folder / "storage")
        portal = stack.enter_context(start_blocking_portal())
        ports = [
            stack.enter_context(portal.wrap_async_context_manager(serving(world.app()))) for _ in range(2)
        ]
        world.endpoint, world.data_endpoint = (f"127.0.0.1:{port}" for port in ports)
        yield world

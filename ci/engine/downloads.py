"""The answer of Query.http: a file of the web, kept by what it is.

A checksum finds it again without asking anybody. Without one the server is asked whether it changed since
(RFC 9110, 13.1: If-None-Match, If-Modified-Since), once a session; what it gives is known by its digest.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import posixpath
import re
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from ci.engine.chain import Call
from ci.engine.engine import Engine, answer
from ci.engine.network import refuse_metadata
from ci.engine.secrets import plaintext
from ci.engine.store import digest_of, full_disk_is_told
from ci.engine.values import File, Service
from ci.errors import BadInput, SystemUnavailable

__all__: list[str] = []

_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_REDIRECTS = 10
_LONGEST = 255
_SHA256 = re.compile(r"sha256:([0-9a-f]{64})")


@answer("Query.http")
async def http(engine: Engine, parent: None, call: Call) -> File:
    args = call.args
    url = _url(args["url"])
    name = args["name"] or posixpath.basename(url.path) or "index"
    if "/" in name or "\0" in name or name in (".", "..") or len(os.fsencode(name)) > _LONGEST:
        raise BadInput(
            f"{name[:80]!r}: the name of a file has no slash, no NUL and {_LONGEST} bytes at most",
            hint="give name=",
        )
    mode = 0o600 if args["permissions"] is None else args["permissions"]
    wanted = args["checksum"] or ""
    if wanted and not _SHA256.fullmatch(wanted):
        raise BadInput(f"the checksum {wanted[:80]!r} is not sha256: and 64 hexadecimal digits")
    secret = args["authHeader"] and await engine.value(args["authHeader"])
    service = args["experimentalServiceHost"] and await engine.value(args["experimentalServiceHost"])
    header = (await plaintext(engine, secret)).decode().strip() if secret else ""

    async def get() -> dict[str, Any]:
        known = await asyncio.to_thread(_kept, engine, wanted, name, mode) if wanted else None
        return known or await _got(engine, url, name, mode, wanted, header, service)

    row = await engine.once(("http", call.digest), get)
    return File(tuple(row["layers"]), name, name)


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise BadInput(f"{text[:200]!r} is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise BadInput(f"{text[:200]!r} is no URL of http or https")
    return url


def _file_key(digest: str, name: str, mode: int, changed: str = "") -> str:
    return digest_of("http file", digest, name, mode, changed)


def _kept(engine: Engine, digest: str, name: str, mode: int) -> dict[str, Any] | None:
    return engine.store.result(_file_key(digest, name, mode))


async def _got(
    engine: Engine, url: httpx.URL, name: str, mode: int, wanted: str, header: str, service: Service | None
) -> dict[str, Any]:
    """The file as the server has it now; from the cache, where it says that it is the same."""
    store = engine.store
    # With who asks in the key: what one is shown is not for another.
    last_seen = digest_of("http", str(url), engine.secrets.mac("http", header.encode()) if header else "",
                          service.key if service else "")  # fmt: skip
    seen: dict[str, Any] = {}
    if not wanted:
        row = await asyncio.to_thread(store.result, last_seen)
        seen = row or {}
    kept = store.result(_file_key(seen["digest"], name, mode, seen["changed"])) if seen else None
    title = f"http {engine.masker.mask(str(url.copy_with(userinfo=b'', query=None)))}"
    with engine.reporter.step(title), store.work("http") as folder:
        answer, total = await _asked(engine, url, header, service, seen if kept else {}, folder / name)
        if answer.status_code == httpx.codes.NOT_MODIFIED and kept:
            return kept
        # What a checksum names is the same whoever fetches it, and when: it has no date.
        digest, changed = f"sha256:{total}", "" if wanted else answer.headers.get("Last-Modified", "")
        if wanted and digest != wanted:
            raise BadInput(
                f"{_shown(url)} has {digest}, and not {wanted}",
                hint="the checksum of the pipeline is another file's",
            )

        def keep() -> dict[str, Any]:
            with full_disk_is_told(store.root):
                (folder / name).chmod(mode)
                when = _when(changed)
                os.utime(folder / name, (when, when))
                id = digest_of("http layer", digest, name, mode, changed)
                row = {"layers": [store.add_layer(folder, id)]}
                tag = answer.headers.get("ETag", "")
                if not wanted:
                    store.replace(last_seen, {"digest": digest, "changed": changed, "etag": tag})
                return store.keep(_file_key(digest, name, mode, changed), row)

        return await asyncio.to_thread(keep)


def _shown(url: httpx.URL) -> httpx.URL:
    """A URL for people: without who asks, and their password."""
    return url.copy_with(userinfo=b"")


def _when(changed: str) -> float:
    """The file's time: when the server says that it changed, else 1970."""
    try:
        return parsedate_to_datetime(changed).timestamp() if changed else 0
    except (ValueError, OverflowError):
        return 0


async def _asked(
    engine: Engine,
    url: httpx.URL,
    header: str,
    service: Service | None,
    seen: Mapping[str, str],
    target: Path,
) -> tuple[httpx.Response, str]:
    """The server's answer, and the SHA-256 of what it sent, which is in the target."""
    headers = {"User-Agent": "va", "Accept-Encoding": "identity"}
    if seen.get("etag"):
        headers["If-None-Match"] = seen["etag"]
    elif seen.get("changed"):
        headers["If-Modified-Since"] = seen["changed"]
    trusted = ssl.create_default_context(cafile=str(_AUTHORITIES) if _AUTHORITIES.exists() else None)
    doors = {"all://127.0.0.1": None} if service else None  # no proxy reaches those
    try:
        async with httpx.AsyncClient(
            verify=trusted, timeout=httpx.Timeout(60, connect=10), mounts=doors
        ) as client:
            here = url
            for _ in range(_REDIRECTS):
                to, more = await _door(engine, here, url, service)
                own = (here.scheme, here.host, here.port) == (url.scheme, url.host, url.port)
                if header and own:  # not to where a redirect leads
                    more |= {"Authorization": header}
                async with client.stream("GET", to, headers=headers | more) as answer:
                    if answer.has_redirect_location:
                        here = _url(str(here.join(answer.headers["Location"])))
                        continue
                    if answer.status_code == httpx.codes.NOT_MODIFIED and seen:
                        return answer, ""
                    if answer.status_code != httpx.codes.OK:
                        told = (
                            f"{_shown(url)}: the server answers {answer.status_code} {answer.reason_phrase}"
                        )
                        raise (SystemUnavailable if answer.is_server_error else BadInput)(told)
                    return answer, await _write(engine, answer, target)
            raise BadInput(f"{_shown(url)} leads on more than {_REDIRECTS} times")
    except httpx.HTTPError as error:
        raise SystemUnavailable(f"{_shown(url)} is not reached: {error or type(error).__name__}") from error


async def _door(
    engine: Engine, here: httpx.URL, first: httpx.URL, service: Service | None
) -> tuple[httpx.URL, dict[str, str]]:
    """Where to ask for a URL, and what else to say there: a service's port is reached by one of the
    loopback."""
    if service and (here.host, here.port) == (first.host, first.port):
        port = here.port or (443 if here.scheme == "https" else 80)
        door = await engine.services.reached(service, port)
        return here.copy_with(host="127.0.0.1", port=door), {"Host": here.netloc.decode()}
    await refuse_metadata(here.host, led_by=None if here == first else first.host)
    return here, {}


async def _write(engine: Engine, answer: httpx.Response, target: Path) -> str:
    total = hashlib.sha256()
    with full_disk_is_told(engine.store.root), target.open("wb") as file:
        async for data in answer.aiter_raw(1 << 20):
            total.update(data)
            if engine.store.is_full():
                raise OSError(errno.ENOSPC, "left for others")
            await asyncio.to_thread(file.write, data)
    return total.hexdigest()

"""`python -m benches.listing`: 10,000 tags and 2,000 referrers of a registry on loopback, a hundred a page.

Told as JSON on stdout: seconds of each, and the MiB by which the process grew. The registry is a process of
its own (`python -m benches.listing serve PORT`), whose pages are made before it is asked: what is measured is
ours.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ci.registry import Registry, digest_of
from ci.registry.content import IMAGE_INDEX, IMAGE_MANIFEST
from tests.real_registry import free_port

TAGS = 10_000
REFERRERS = 2_000
_PAGE = 100
_SUBJECT = digest_of(b"subject")


def _pages(path: str, media_type: str, rows: Sequence[Any], key: str) -> Route:
    """A list as registries send it: a page for each `last`, with a link to the next."""
    made = {}
    for start in range(0, len(rows), _PAGE):
        end = start + _PAGE
        headers = {"Content-Type": media_type}
        if end < len(rows):
            headers["Link"] = f'<{path}?last={end}>; rel="next"'
        body = {"schemaVersion": 2, "mediaType": media_type, "name": "app", key: rows[start:end]}
        made[str(start)] = (json.dumps(body).encode(), headers)

    async def answer(request: Request) -> Response:
        body, headers = made[request.query_params.get("last", "0")]
        return Response(body, headers=headers)

    return Route(path, answer)


def app() -> Starlette:
    """The registry: one repository, one manifest with what is attached to it."""
    attached = [
        {
            "mediaType": IMAGE_MANIFEST,
            "digest": digest_of(str(n).encode()),
            "size": 700,
            "artifactType": f"application/vnd.example.{n % 7}+json",
            "annotations": {"org.opencontainers.image.created": "2026-11-29T12:00:00Z", "n": str(n)},
        }
        for n in range(REFERRERS)
    ]
    tags = [f"2026.11.{n:05}-{digest_of(str(n).encode())[7:19]}" for n in range(TAGS)]
    return Starlette(
        routes=[
            _pages("/v2/app/tags/list", "application/json", tags, "tags"),
            _pages(f"/v2/app/referrers/{_SUBJECT}", IMAGE_INDEX, attached, "manifests"),
        ]
    )


async def measure(endpoint: str) -> dict[str, float]:
    """Seconds and MiB of both lists."""

    async def once(listed: Awaitable[Sequence[object]], count: int) -> float:
        started = time.perf_counter()
        found = await listed
        seconds = time.perf_counter() - started
        if len(found) != count:
            sys.exit(f"{len(found)} of {count} were listed")
        return seconds

    async with Registry(endpoint) as registry:
        await registry.find_manifest("app", "none")  # what every client needs once, whatever it lists
        before = _mib()
        tags = await once(registry.tags("app"), TAGS)
        referrers = await once(registry.referrers("app", _SUBJECT), REFERRERS)
    return {"tags": tags, "referrers": referrers, "mib": _mib() - before}


def _mib() -> float:
    """What this process had at most. Not by getrusage, which begins with the peak of whoever started it."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "benches.listing", "serve", str(port)])
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit("the registry of this bench does not answer")
            time.sleep(0.1)
        json.dump(asyncio.run(measure(f"127.0.0.1:{port}")), sys.stdout)
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
    except httpx.TransportError:
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvicorn.run(app(), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
    else:
        main()

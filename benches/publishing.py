"""`python -m benches.publishing REGIONS RUNS NAME=ARCHIVE...`: push to one region until all have it.

REGIONS are endpoints, comma-separated, the home first. Told as JSON on stdout, an entry for each run:
seconds, blobs and bytes sent. With `rounds` in place of RUNS: how many rounds of requests it takes to prove
that one region has a release of these images with its documents, and how many requests to all of them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx

from ci.concurrency import together
from ci.registry import Bundle, Registry, artifact, open_archive, push
from ci.reporting import SilentReporter
from ci.supply.availability import State, contents, prove
from pipelines.registries import EstateRegistries, proven

_KINDS = ("sbom", "scan", "provenance", "tests")
_TAG = "bench"


class InRounds(httpx.AsyncBaseTransport):
    """Sends nothing on until nobody has asked for `quiet` seconds, and counts such rounds."""

    def __init__(self, within: httpx.AsyncBaseTransport, *, quiet: float = 0.1) -> None:
        self.asked = self.rounds = 0
        self._within = within
        self._quiet = quiet
        self._open: asyncio.Event | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self._open is None:
            self.rounds += 1
            self._open = asyncio.Event()
            self._closing = asyncio.create_task(self._answer(self._open))
        await self._open.wait()
        return await self._within.handle_async_request(request)

    async def _answer(self, opening: asyncio.Event) -> None:
        seen = -1
        while seen != self.asked:
            seen = self.asked
            await asyncio.sleep(self._quiet)
        self._open = None
        opening.set()


def _documents(image: Bundle) -> list[Bundle]:
    """What a release attaches to an image, as far as its requests go."""
    return [
        artifact(
            artifact_type=f"application/x-{kind}",
            layers=((f"application/x-{kind}", kind.encode() * 1000, {}),),
            subject=image.root.descriptor,
        )
        for kind in _KINDS
    ]


async def runs(regions: list[str], count: int, archives: dict[str, Path]) -> list[dict[str, Any]]:
    said = []
    for _ in range(count):
        started = time.perf_counter()
        async with AsyncExitStack() as stack:
            clients = {each: await stack.enter_async_context(Registry(each)) for each in regions}
            home = clients[regions[0]]
            images = {name: open_archive(path) for name, path in archives.items()}
            pushed = await together(push(home, name, image, tags=[_TAG]) for name, image in images.items())
            what = contents({name: [image] for name, image in images.items()})
            estate = EstateRegistries(home=home, regions=clients)
            at_home = frozenset().union(*(one.found for one in pushed))
            found = await proven(
                estate, what, name=_TAG, reporter=SilentReporter(), deadline=120, found=at_home
            )
        seconds = time.perf_counter() - started
        if not all(one.has.state is State.THERE for one in found):
            sys.exit(f"a region has not got it: {found}")
        said.append(
            {
                "seconds": seconds,
                "blobs": sum(one.sent for one in pushed),
                "bytes": sum(one.bytes_sent for one in pushed),
            }
        )
    return said


async def rounds(regions: list[str], archives: dict[str, Path]) -> dict[str, int]:
    """How many rounds the proof of a release with documents takes in the region where it takes most."""
    images = {name: open_archive(path) for name, path in archives.items()}
    bundles = {name: [image, *_documents(image)] for name, image in images.items()}
    what = contents(bundles)
    async with AsyncExitStack() as stack:
        clients = {each: await stack.enter_async_context(Registry(each)) for each in regions}
        home = clients[regions[0]]
        for name, each in bundles.items():
            await push(home, name, each[0])
            await together(push(home, name, bundle) for bundle in each[1:])
        estate = EstateRegistries(home=home, regions=clients)
        await proven(estate, what, name="documents", reporter=SilentReporter(), deadline=120)
        counted = {each: InRounds(httpx.AsyncHTTPTransport()) for each in regions}
        slow = [
            await stack.enter_async_context(Registry(each, transport=transport))
            for each, transport in counted.items()
        ]
        found = await together(prove(registry, what) for registry in slow)
    if not all(one.state is State.THERE for one in found):
        sys.exit(f"a region has not got it: {found}")
    return {
        "rounds": max(one.rounds for one in counted.values()),
        "asked": sum(one.asked for one in counted.values()),
    }


if __name__ == "__main__":
    where, wanted, *words = sys.argv[1:]
    named = {name: Path(path) for name, path in (word.split("=", 1) for word in words)}
    endpoints = where.split(",")
    work = rounds(endpoints, named) if wanted == "rounds" else runs(endpoints, int(wanted), named)
    json.dump(asyncio.run(work), sys.stdout)

"""The HTTP face of the engine: one address on 127.0.0.1, basic auth, always status 200 for a GraphQL
answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ci.engine import limits
from ci.engine.engine import Engine, LogLine
from ci.engine.queries import as_json
from ci.engine.run import NO_LAYER
from ci.engine.schema import query
from ci.engine.services import RunningServices
from ci.engine.store import Store
from ci.errors import RootNeeded
from ci.reporting import Reporter
from ci.serving import serving

__all__ = ["Address", "embedded", "serve"]


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a session is reached: what the SDK reads as DAGGER_SESSION_PORT and DAGGER_SESSION_TOKEN."""

    port: int
    token: str


@contextlib.asynccontextmanager
async def serve(engine: Engine) -> AsyncIterator[Address]:
    """Serve the engine until the block ends."""
    token = secrets.token_hex(16)
    expected = "Basic " + base64.b64encode(f"{token}:".encode()).decode()

    async def answer(request: Request) -> Response:
        if not secrets.compare_digest(request.headers.get("authorization", ""), expected):
            return JSONResponse({"errors": [{"message": "wrong session token"}]}, status_code=401)
        try:
            body = await request.json()
            text = body["query"]
        except (ValueError, KeyError, TypeError, ClientDisconnect):
            return JSONResponse({"errors": [{"message": "the body is no GraphQL request"}]})
        work = asyncio.ensure_future(query(engine, text, body.get("variables")))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if work.cancelled():
            return JSONResponse({"errors": [{"message": "cancelled"}]})
        return Response(as_json(work.result()), media_type="application/json")

    app = Starlette(routes=[Route("/query", answer, methods=["POST"])])
    async with serving(app) as port:
        yield Address(port=port, token=token)


async def _gone(request: Request) -> None:
    """Returns when the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@contextlib.asynccontextmanager
async def embedded(
    reporter: Reporter,
    log: Callable[[LogLine], None] | None = None,
    *,
    workdir: Path | None = None,
    store: Path | None = None,
    epoch: int | None = None,
) -> AsyncIterator[Address]:
    """The embedded engine, served until the block ends. `store`: its cache, if not the usual one."""
    if os.geteuid() != 0 or sys.platform != "linux":
        raise RootNeeded(
            "the embedded engine needs root on Linux: it mounts file systems and makes namespaces",
            hint="sudo, or `dagger run` in front of the same command",
        )
    held = Store(store)
    try:
        (held.layers / NO_LAYER).mkdir(exist_ok=True)
        limits.remove_of_the_dead()
        engine = Engine(held, reporter, services=RunningServices, log=log, workdir=workdir, epoch=epoch)
        try:
            async with serve(engine) as address:
                yield address
        finally:
            await engine.close()
    finally:
        held.close()

"""An HTTP server as a part of this program, on a free port of this machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import uvicorn
from starlette.types import ASGIApp

__all__ = ["serving"]

_GRACE_SECONDS = 1.0


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[int]:
    """Serve `app` on 127.0.0.1 until the block ends; yields the port.

    Requests under way get a second to end, then they are cancelled. This is `uvicorn.Server.serve` without
    what only a program of its own needs: signals stay with this program, and it ends at once; uvicorn's own
    looks ten times a second whether it should, and then sleeps.
    """
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",  # nor its imports
        # The default lets go of a connection that was silent for 5 s, maybe as a client sends on it.
        timeout_keep_alive=24 * 3600,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    await server.on_tick(0)  # makes the headers that all answers have
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        for one in server.servers:
            one.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        if under_way := set(server.server_state.tasks):
            _, late = await asyncio.wait(under_way, timeout=_GRACE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

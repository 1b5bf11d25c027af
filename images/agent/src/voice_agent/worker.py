"""The worker: registers with LiveKit, takes calls as long as it has places, drains when told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web
from livekit.agents import AgentServer, JobRequest
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from voice_agent.call import REPORTS_VARIABLE, answer
from voice_agent.calls import Calls, receive_reports
from voice_agent.settings import Settings

__all__ = ["Readiness", "serve"]

_LOOK_SECONDS = 1.0

log = logging.getLogger("voice_agent.worker")


class Readiness:
    """Whether LiveKit gives us calls: once it registered us, until we are told to stop."""

    def __init__(self) -> None:
        self.registered = False
        self.draining = False

    @property
    def problem(self) -> str:
        """Why not; empty when ready."""
        if self.draining:
            return "draining"
        return "" if self.registered else "LiveKit has not registered this worker"


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Take calls until `stop` is set, then wait for the running ones, at most `drain_timeout_seconds`.

    Raises RuntimeError when LiveKit cannot be reached any more.
    """
    calls = Calls(max_calls=settings.max_calls, registry=REGISTRY)
    readiness = Readiness()
    with tempfile.TemporaryDirectory(prefix="voice-agent-") as folder:
        reports = Path(folder) / "reports"
        os.environ[REPORTS_VARIABLE] = str(reports)
        server = _server(settings, calls, readiness)
        async with receive_reports(reports, calls), _metrics_site(settings, readiness):
            running = asyncio.create_task(server.run(), name="livekit worker")
            looking = asyncio.create_task(_look(server, calls), name="look for lost calls")
            stopping = asyncio.create_task(stop.wait(), name="wait for a signal")
            try:
                await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    await running
                    raise RuntimeError("the LiveKit worker ended by itself")
                readiness.draining = True
                await _drain(server)
                await server.aclose()
                await running
            finally:
                for task in (looking, stopping, running):
                    task.cancel()
                await asyncio.gather(looking, stopping, running, return_exceptions=True)


def _server(settings: Settings, calls: Calls, readiness: Readiness) -> AgentServer:
    server = AgentServer(
        ws_url=settings.livekit_url,
        api_key=settings.livekit_api_key,
        api_secret=settings.livekit_api_secret.get_secret_value(),
        host=settings.host,
        port=settings.health_port,
        num_idle_processes=settings.idle_processes,
        drain_timeout=settings.drain_timeout_seconds,
        # LiveKit weighs workers by this; whether there is a place for a call, `take` alone decides. (The
        # framework's own threshold is too careful: it refuses the second of two calls that come at once.)
        load_fnc=lambda: calls.load,
        load_threshold=math.inf,
    )

    async def on_request(request: JobRequest) -> None:
        if not calls.take(request.id):
            await request.reject(terminate=False)
            return
        try:
            await request.accept(
                name="Assistant",
                identity=f"agent-{request.id}",
                attributes={"va.track": settings.va_track, "va.release": settings.va_release},
            )
        except Exception:
            calls.withdraw(request.id)
            raise

    server.rtc_session(answer, agent_name=settings.agent_name, on_request=on_request)

    def on_registered(*_: object) -> None:
        readiness.registered = True

    server.on("worker_registered", on_registered)
    return server


async def _drain(server: AgentServer) -> None:
    try:
        await server.drain()
    except TimeoutError:
        log.warning("calls are still running and will be cut off", extra={"calls": len(server.active_jobs)})


async def _look(server: AgentServer, calls: Calls) -> None:
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        calls.look({running.job.id for running in server.active_jobs})


@contextlib.asynccontextmanager
async def _metrics_site(settings: Settings, readiness: Readiness) -> AsyncIterator[None]:
    """/metrics, with the framework's own lk_agents_* too, and /readyz (its health port says OK too early)."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def readyz(_: web.Request) -> web.Response:
        problem = readiness.problem
        return web.json_response({"status": problem or "ok"}, status=503 if problem else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.metrics_port).start()
        yield
    finally:
        await runner.cleanup()

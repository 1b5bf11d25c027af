"""The HTTP API: create, look at and end voice sessions; erase a person's data; health; metrics."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import structlog
from fastapi import Depends, FastAPI, Header, HTTPException, Path, Request, Response, status
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator, metrics
from pydantic import BaseModel, StringConstraints
from redis.exceptions import RedisError

from voice_api.bodies import BoundedBodies
from voice_api.history import History, HistoryUnavailable
from voice_api.livekit import LiveKitRooms, Rooms, RoomsUnavailable, caller_token
from voice_api.observe import BUCKETS, Lifecycle, Observed, SessionMetrics
from voice_api.ratelimit import RateLimit, client_key
from voice_api.settings import Settings
from voice_api.store import Session, SessionStore, connect

__all__ = ["CreatedSession", "Erased", "NewSession", "NewToken", "ToErase", "create_app"]

_READY_SECONDS = 1.0
SessionId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{22}$")]
ParticipantId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""The caller's pseudonym: their name or address is none of ours. LiveKit knows them by it too."""


class NewSession(BaseModel):
    """What may be said of a session to be made. Without an id its caller is a new person."""

    participant_id: ParticipantId | None = None


class ToErase(BaseModel):
    """Whose data is to be erased: in the body, since addresses are written to the logs of every gateway."""

    participant_id: ParticipantId


class Erased(BaseModel):
    """What there was of a person: rows of the history, and sessions that had not ended. Now nothing is."""

    history: int
    sessions: int


class CreatedSession(BaseModel):
    """A new session, and what its caller needs to join it. The token is shown this once and never stored."""

    session_id: str
    participant_id: str
    room: str
    token: str
    url: str
    expires_at: datetime


class NewToken(BaseModel):
    """A token for a caller of a session that goes on: who comes back after minutes needs a new one."""

    token: str
    url: str


def create_app(
    settings: Settings,
    *,
    lifecycle: Lifecycle | None = None,
    rooms: Rooms | None = None,
    chance: Callable[[], float] = random.random,
) -> FastAPI:
    """The application. `rooms` and `chance` (uniform in [0, 1)) are for tests."""
    lifecycle = lifecycle or Lifecycle()
    registry = CollectorRegistry()
    sessions_seen = SessionMetrics(registry)
    log = structlog.get_logger("voice_api")
    redis = connect(settings)
    store = SessionStore(redis)
    history = History(settings, registry)
    limit = RateLimit(redis, per_minute=settings.rate_limit_per_minute, burst=settings.rate_limit_burst)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(redis.aclose)
            app.state.rooms = rooms
            if rooms is None:
                app.state.rooms = livekit = LiveKitRooms(settings)
                stack.push_async_callback(livekit.aclose)
            await stack.enter_async_context(history.running())
            log.info("started", agent_name=settings.agent_name, fault_error_rate=settings.fault_error_rate)
            yield
            log.info("stopped")

    app = FastAPI(title="Voice Assistant API", version=settings.va_release, lifespan=lifespan)

    async def counted() -> AsyncIterator[None]:
        """Count the session that this request makes: ok, or error when it is our fault that there is none."""
        started = time.perf_counter()
        try:
            yield
        except HTTPException as error:
            if error.status_code >= 500:
                sessions_seen.count("error", time.perf_counter() - started)
            raise
        except Exception:
            sessions_seen.count("error", time.perf_counter() - started)
            raise
        sessions_seen.count("ok", time.perf_counter() - started)

    @app.exception_handler(RedisError)
    async def redis_is_down(_: Request, error: Exception) -> Response:
        log.error("redis does not answer", error=type(error).__name__)
        return _unavailable("sessions cannot be kept at the moment")

    @app.exception_handler(RoomsUnavailable)
    async def livekit_is_down(_: Request, error: Exception) -> Response:
        log.error("livekit does not answer", error=str(error))
        return _unavailable("calls cannot be reached at the moment")

    @app.exception_handler(HistoryUnavailable)
    async def postgresql_is_down(_: Request, error: Exception) -> Response:
        log.error("postgresql does not answer", error=str(error))
        return _unavailable("the history cannot be reached at the moment: send the same request again")

    def administrator(authorization: Annotated[str, Header()] = "") -> None:
        """Whoever shows ADMIN_TOKEN."""
        if settings.admin_token is None:
            raise HTTPException(403, "nobody may do this here: ADMIN_TOKEN is not set")
        wanted = f"Bearer {settings.admin_token.get_secret_value()}"
        if not secrets.compare_digest(authorization.encode(), wanted.encode()):
            raise HTTPException(401, "not an administrator", {"www-authenticate": "Bearer"})

    @app.post(
        "/v1/sessions",
        status_code=status.HTTP_201_CREATED,
        dependencies=[Depends(counted, scope="function")],
        responses={429: {"description": "Too many sessions; Retry-After says when"}, 503: {}},
    )
    async def create_session(
        request: Request, response: Response, wanted: NewSession | None = None
    ) -> CreatedSession:
        """Create a session: the token lets its caller join the room, where an agent answers."""
        decision = await limit.take(client_key(request.client.host if request.client else None))
        if not decision.allowed:
            wait = str(max(1, math.ceil(decision.retry_after)))
            raise HTTPException(429, "too many sessions", {"retry-after": wait})
        if chance() < settings.fault_error_rate:
            raise HTTPException(500, "injected fault")
        now = datetime.now(UTC).replace(microsecond=0)
        session_id = secrets.token_urlsafe(16)
        participant_id = (wanted and wanted.participant_id) or f"caller-{secrets.token_hex(8)}"
        session = Session(
            session_id=session_id,
            room=f"va-{session_id}",
            participant_id=participant_id,
            created_at=now,
            expires_at=now + timedelta(seconds=settings.session_ttl_seconds),
            track=settings.va_track,
            release=settings.va_release,
        )
        token = caller_token(settings, room=session.room, identity=participant_id)
        await store.put(session)
        history.record(session)
        response.headers["location"] = f"/v1/sessions/{session_id}"
        response.headers["cache-control"] = "no-store"
        return CreatedSession(
            session_id=session_id,
            participant_id=participant_id,
            room=session.room,
            token=token,
            url=settings.caller_url,
            expires_at=session.expires_at,
        )

    @app.get("/v1/sessions/{session_id}", responses={404: {}, 503: {}})
    async def read_session(session_id: SessionId) -> Session:
        """A session that has not ended or expired."""
        return _found(await store.get(session_id))

    @app.post("/v1/sessions/{session_id}/token", responses={404: {}, 503: {}})
    async def renew_token(session_id: SessionId, response: Response) -> NewToken:
        """A new token for the same caller and room; none once the session has ended or been erased."""
        session = _found(await store.get(session_id))
        response.headers["cache-control"] = "no-store"
        token = caller_token(settings, room=session.room, identity=session.participant_id)
        return NewToken(token=token, url=settings.caller_url)

    @app.delete("/v1/sessions/{session_id}", status_code=204, responses={404: {}, 503: {}})
    async def end_session(session_id: SessionId, request: Request) -> None:
        """End a session: its call is over and its token of no more use here."""
        session = _found(await store.get(session_id))
        # The room first: should it fail, the session is still there and the same request can be sent again.
        await request.app.state.rooms.close(session.room)
        await store.remove(session_id)
        history.record(session, ended_at=datetime.now(UTC))

    @app.post(
        "/v1/erasures",
        dependencies=[Depends(administrator)],
        responses={401: {}, 403: {"description": "No ADMIN_TOKEN is set"}, 503: {}},
    )
    async def erase(whom: ToErase, request: Request) -> Erased:
        """End a person's calls and erase all that is kept of them here. Sent again, it finds nothing more."""
        live = await store.of_participant(whom.participant_id)
        for session in live:
            await request.app.state.rooms.close(session.room)
            await store.remove(session.session_id)
        # Last: what the calls above may have had written is erased too.
        rows = await history.erase(whom.participant_id)
        # Who it was is in no log: the request's id leads to whoever asked for it.
        log.info("participant erased", audit=True, history=rows, sessions=len(live))
        return Erased(history=rows, sessions=len(live))

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        """The process is alive, whatever else is not: restarting it would not help."""
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz(response: Response) -> dict[str, str]:
        """It makes sense to send requests here: Redis answers and nobody told the process to stop.

        Without PostgreSQL sessions go on and only their history waits: it is said, and changes nothing.
        """
        reason = "draining" if lifecycle.draining else await _problem(store.ping)
        if reason:
            response.status_code = 503
        return {"status": reason or "ok", **({"history": history.problem} if history.problem else {})}

    Instrumentator(
        excluded_handlers=["/healthz", "/readyz", "/metrics"],
        should_group_untemplated=True,
        registry=registry,
    ).add(metrics.default(latency_highr_buckets=BUCKETS, registry=registry)).instrument(app).expose(
        app, include_in_schema=False
    )
    app.add_middleware(BoundedBodies)
    app.add_middleware(Observed, settings=settings, lifecycle=lifecycle)
    return app


def _found(session: Session | None) -> Session:
    if session is None:
        raise HTTPException(404, "no such session")
    return session


def _unavailable(detail: str) -> Response:
    return JSONResponse({"detail": detail}, 503, {"retry-after": "1"})


async def _problem(ping: Callable[[], Awaitable[None]]) -> str:
    try:
        async with asyncio.timeout(_READY_SECONDS):
            await ping()
    except (RedisError, TimeoutError, OSError):
        return "redis does not answer"
    return ""

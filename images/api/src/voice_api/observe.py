"""What the API tells about itself: JSON logs, Prometheus metrics, and headers that name the release."""

from __future__ import annotations

import logging
import re
import sys
import time
import uuid
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voice_api.settings import Settings

__all__ = ["BUCKETS", "Lifecycle", "Observed", "SessionMetrics", "configure_logging"]

# Fine enough to count calls over any sensible threshold between 5 ms and 10 s.
BUCKETS = (
    *(0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3),
    *(0.4, 0.5, 0.6, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0),
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class Lifecycle:
    """Whether the process was told to stop: it still serves, but asks for no more work."""

    draining: bool = False


class SessionMetrics:
    """One count and one duration for each session that was created, or that we failed to create.

    A request that is refused because of its sender (a wrong body, too many requests) is neither.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._total = Counter(
            "voice_sessions", "Sessions created (ok) or failed (error).", ["outcome"], registry=registry
        )
        self._seconds = Histogram(
            "voice_session_duration_seconds",
            "Time from a session's request to its answer, ok or error.",
            buckets=BUCKETS,
            registry=registry,
        )
        for outcome in ("ok", "error"):
            self._total.labels(outcome=outcome)  # a zero is a measurement, a missing series is not

    def count(self, outcome: Literal["ok", "error"], seconds: float) -> None:
        self._total.labels(outcome=outcome).inc()
        self._seconds.observe(seconds)


class Observed:
    """ASGI middleware around everything: it names the release on each answer, logs it, answers a crash."""

    def __init__(self, app: ASGIApp, *, settings: Settings, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._log = structlog.get_logger("voice_api.access")
        self._headers = [
            (b"x-va-track", settings.va_track.encode()),
            (b"x-va-release", settings.va_release.encode()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [*self._headers, (b"x-request-id", request_id.encode())]
                if self._lifecycle.draining:
                    extra.append((b"connection", b"close"))  # the next request goes to another replica
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, observed_send)
            except Exception:
                self._log.exception("request crashed")
                if status:
                    raise  # the answer is half sent: only breaking the connection is honest
                await JSONResponse({"detail": "internal error"}, 500)(scope, receive, observed_send)
            finally:
                self._access(scope, status, time.perf_counter() - started)

    def _access(self, scope: Scope, status: int, seconds: float) -> None:
        # The route, not the path: whoever knows a session's id may end it, so ids stay out of the logs.
        route = getattr(scope.get("route"), "path", "none")
        quiet = route in ("/healthz", "/readyz", "/metrics") and status < 400
        self._log.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(given := value.decode("latin-1")):
            return str(given)
    return uuid.uuid4().hex


def configure_logging(level: str, **always: str) -> None:
    """One JSON object a line on stdout, structlog's and the standard library's alike, `always` in each."""

    def add_always(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**always, **event}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.dict_tracebacks,
        add_always,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)  # libraries' debug lines may quote what is secret
    logging.getLogger("voice_api").setLevel(level)

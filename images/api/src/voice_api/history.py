"""The history of sessions in PostgreSQL: who had one when.

No request waits for it or fails with it. What happened is put into a queue, and one task writes that down,
again and again until the server takes it; of what comes while the queue is full, only the number is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

import asyncpg
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from voice_api.database import UNAVAILABLE, connection_options
from voice_api.settings import Settings
from voice_api.store import Session

__all__ = ["History", "HistoryUnavailable"]

_WAITING = 10_000
"""Events, a few hundred bytes each: minutes of a database that fails over."""
_BATCH = 200
_STATEMENT_SECONDS = 5.0
_AGAIN_SECONDS = 1.0
_LOOK_SECONDS = 15.0
_TRIM_SECONDS = 3600.0
_CLOSE_SECONDS = 3.0

# Each event says all of its session: an end may be written by another replica, and before the beginning.
_WRITE = """
    INSERT INTO sessions (session_id, room, participant_id, started_at, expires_at, ended_at, track, release)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8
    WHERE NOT EXISTS (
        SELECT FROM erased WHERE participant = sha256(convert_to($3, 'UTF8')) AND erased_at >= $4
    )
    ON CONFLICT (session_id) DO UPDATE SET ended_at = coalesce(sessions.ended_at, excluded.ended_at)
"""
_Event = tuple[str, str, str, datetime, datetime, datetime | None, str, str]


class HistoryUnavailable(Exception):
    """PostgreSQL did not answer, or refused; the message says which error, and no value."""


class History:
    """Records sessions while `running` lasts; without DATABASE_URL it records nothing."""

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._log = structlog.get_logger("voice_api.history")
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(_WAITING)
        self._pool: asyncpg.Pool | None = None
        self._waiting = 0
        self._problem = ""
        self._trimmed = float("-inf")
        if self.enabled:
            self._written = Counter("voice_history_written", "Events in the history.", registry=registry)
            self._dropped = Counter("voice_history_dropped", "Events that are lost.", registry=registry)
            Gauge("voice_history_waiting", "Events not yet written.", registry=registry).set_function(
                lambda: self._waiting
            )
            Gauge(
                "voice_history_up", "Whether PostgreSQL took the last write.", registry=registry
            ).set_function(lambda: 0.0 if self._problem else 1.0)

    @property
    def enabled(self) -> bool:
        return self._settings.database_url is not None

    @property
    def problem(self) -> str:
        """Why nothing is written at the moment; empty when all is well."""
        return self._problem

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write while this lasts; at its end what waits is written if that works at once."""
        if not self.enabled:
            yield
            return
        self._pool = asyncpg.create_pool(
            **connection_options(self._settings), min_size=0, max_size=2, command_timeout=_STATEMENT_SECONDS
        )
        await self._pool  # with min_size 0 it connects to nothing yet
        writer = asyncio.create_task(self._write_on())
        try:
            yield
        finally:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._queue.join(), 0 if self._problem else _CLOSE_SECONDS)
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            if left := self._waiting:
                self._dropped.inc(left)
                self._log.error("history lost", events=left)
            self._pool.terminate()

    def record(self, session: Session, *, ended_at: datetime | None = None) -> None:
        """Note that a session began, or that it ended. Never waits and never raises."""
        if not self.enabled:
            return
        try:
            self._queue.put_nowait(
                (
                    session.session_id,
                    session.room,
                    session.participant_id,
                    session.created_at,
                    session.expires_at,
                    ended_at,
                    session.track,
                    session.release,
                )
            )
        except asyncio.QueueFull:
            self._dropped.inc()
        else:
            self._waiting += 1

    async def erase(self, participant_id: str) -> int:
        """Delete all rows of a person, and let no replica write one of before now: how many there were.

        Raises HistoryUnavailable.
        """
        if self._pool is None:
            return 0
        try:
            async with self._pool.acquire(timeout=_STATEMENT_SECONDS) as connection, connection.transaction():
                # Writes under way end first, and those that wait for this see what it left.
                await connection.execute("LOCK TABLE sessions IN SHARE ROW EXCLUSIVE MODE")
                await connection.execute("DELETE FROM erased WHERE erased_at < now() - interval '1 day'")
                await connection.execute(
                    "INSERT INTO erased VALUES (sha256(convert_to($1, 'UTF8')), clock_timestamp())"
                    " ON CONFLICT (participant) DO UPDATE SET erased_at = excluded.erased_at",
                    participant_id,
                )
                done = await connection.execute(
                    "DELETE FROM sessions WHERE participant_id = $1", participant_id
                )
        except UNAVAILABLE as error:
            raise HistoryUnavailable(type(error).__name__) from error
        return int(done.rpartition(" ")[2])

    async def _write_on(self) -> None:
        batch: list[_Event] = []  # first of all, whether the server answers
        while True:
            if await self._try(batch):
                for _ in batch:
                    self._queue.task_done()
                batch = await self._next()
            else:
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _next(self) -> list[_Event]:
        """What waits, up to a batch; nothing when nothing came for a while: then only the server is asked."""
        try:
            batch = [await asyncio.wait_for(self._queue.get(), _LOOK_SECONDS)]
        except TimeoutError:
            return []
        while len(batch) < _BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _try(self, batch: Sequence[_Event]) -> bool:
        assert self._pool is not None
        try:
            async with self._pool.acquire(timeout=_STATEMENT_SECONDS) as connection:
                await connection.executemany(_WRITE, batch) if batch else await connection.execute("SELECT 1")
                if time.monotonic() - self._trimmed >= _TRIM_SECONDS:
                    await connection.execute(
                        "DELETE FROM sessions WHERE started_at < now() - $1::interval",
                        timedelta(days=self._settings.history_days),
                    )
                    self._trimmed = time.monotonic()
        except UNAVAILABLE as error:
            if not self._problem:
                self._log.error("postgresql does not answer", error=type(error).__name__)
            self._problem = f"postgresql does not answer: {type(error).__name__}"
            return False
        if self._problem:
            self._log.info("postgresql answers again")
        self._problem = ""
        self._written.inc(len(batch))
        self._waiting -= len(batch)
        return True

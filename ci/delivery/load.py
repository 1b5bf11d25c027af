"""Synthetic users: real sessions through the gateway, at a steady rate, each request accounted for.

    async with generate(target.gateway, target.hostname, rate=50) as load:
        …
        load.counts      # live: sent, ok, failed, lost, by the track that answered

A session is POST /v1/sessions, GET it, DELETE it. What counts as *failed* was answered so by the application
(its header says which track); what the way there lost (a refused or cut connection, a timeout, an answer
that no application gave) is *lost*. A roll-back must lose nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from ci.delivery.traffic import TRACK_HEADER

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Answer", "Counts", "Find", "Load", "Lost", "Send", "generate"]

_LOST_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One response. `track` is None when no application of ours gave it."""

    status: int
    track: str | None
    body: bytes = b""


class Lost(Exception):
    """A request that got no answer, and why."""


Send = Callable[[str, str, object], Awaitable[Answer]]
"""Sends one request (method, path, JSON body or None); raises Lost."""

Find = Callable[[int, str], Awaitable[str]]
"""The address that the user of that number has for a name; raises Lost."""


@dataclass
class Counts:
    """Requests since the generator started. `skipped` sessions were due while too many were under way."""

    sent: int = 0
    ok: int = 0
    failed: int = 0
    lost: int = 0
    sessions: int = 0
    broken: int = 0
    """Sessions of which a request was lost."""
    skipped: int = 0
    by_track: Counter[str] = field(default_factory=Counter)
    failed_by_track: Counter[str] = field(default_factory=Counter)
    by_address: Counter[str] = field(default_factory=Counter)
    """Answers by where they came from, for users who ask for names."""
    lost_how: list[str] = field(default_factory=list)
    """The first few losses, in words."""


@dataclass(frozen=True)
class Load:
    """A running generator."""

    counts: Counts
    started: float


@asynccontextmanager
async def generate(
    gateway: str,
    hostname: str,
    *,
    rate: float,
    timeout: float = 5.0,
    concurrency: int = 64,
    longest: float = 24 * 3600.0,
    find: Find | None = None,
    send: Send | None = None,
) -> AsyncIterator[Load]:
    """Send `rate` sessions per second while the block runs, for `longest` seconds at most.

    At most `concurrency` sessions are under way: a gateway that hangs cannot pile them up here. When the
    block ends, those under way are finished first, so that none is lost by our stopping. With `find` the
    gateway's host is a name that users look up (ci.delivery.names). `send` is for tests.
    """
    # Not httpx: a fifth of its processor time, which the pods being measured need. Imported where it is used:
    # a plan does without.
    import aiohttp

    counts = Counts()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency),
        timeout=aiohttp.ClientTimeout(total=timeout),
        headers={"Host": hostname},
    ) as http:
        stop = asyncio.Event()

        def users(number: int) -> Send:
            return send or _over(http, gateway, counts, partial(find, number) if find else None)

        driver = asyncio.create_task(_drive(users, counts, rate, concurrency, longest, stop))
        try:
            yield Load(counts, time.monotonic())
        finally:
            stop.set()
            await driver


def _over(
    http: aiohttp.ClientSession, gateway: str, counts: Counts, find: Callable[[str], Awaitable[str]] | None
) -> Send:
    from aiohttp import ClientError

    # Its certificate is of the name that it is asked for, and not of the address that it is reached at.
    name = http.headers["Host"] if gateway.startswith("https:") else None

    async def send(method: str, path: str, body: object) -> Answer:
        base = gateway
        if find is not None:
            parts = urlsplit(gateway)
            address = await find(parts.hostname or "")
            base = urlunsplit(parts._replace(netloc=f"{address}:{parts.port or 80}"))
        try:
            async with http.request(method, base + path, json=body, server_hostname=name) as response:
                content = await response.read()
                if find is not None:
                    counts.by_address[address] += 1
                return Answer(status=response.status, track=response.headers.get(TRACK_HEADER), body=content)
        except (ClientError, TimeoutError, OSError) as error:
            raise Lost(f"{type(error).__name__}: {error}") from error

    return send


async def _drive(
    users: Callable[[int], Send],
    counts: Counts,
    rate: float,
    concurrency: int,
    longest: float,
    stop: asyncio.Event,
) -> None:
    """Start sessions on schedule, whatever the ones before take: an open loop, as users are."""
    running: set[asyncio.Task[None]] = set()
    started = time.monotonic()
    due = 0
    while not stop.is_set() and time.monotonic() - started < longest:
        now_due = int((time.monotonic() - started) * rate) + 1
        for number in range(due, now_due):
            if len(running) >= concurrency:
                counts.skipped += 1
                continue
            task = asyncio.create_task(_session(users(number), counts))
            running.add(task)
            task.add_done_callback(running.discard)
        due = now_due
        try:
            await asyncio.wait_for(stop.wait(), max(0.0, started + due / rate - time.monotonic()))
        except TimeoutError:
            continue
    if running:
        await asyncio.wait(running)


async def _session(send: Send, counts: Counts) -> None:
    counts.sessions += 1
    made = await _request(send, counts, "POST", "/v1/sessions", {})
    if made is None or made.status != 201:
        counts.broken += made is None
        return
    try:
        session = json.loads(made.body)["session_id"]
    except (ValueError, KeyError, TypeError):
        counts.failed += 1
        return
    read = await _request(send, counts, "GET", f"/v1/sessions/{session}")
    ended = await _request(send, counts, "DELETE", f"/v1/sessions/{session}")
    counts.broken += None in (read, ended)


async def _request(send: Send, counts: Counts, method: str, path: str, body: object = None) -> Answer | None:
    counts.sent += 1
    try:
        answer = await send(method, path, body)
    except Lost as error:
        _lose(counts, f"{method} {error}")
        return None
    if answer.track is None:
        _lose(counts, f"{method} answered {answer.status} by the gateway itself")
        return None
    counts.by_track[answer.track] += 1
    if answer.status < 400:
        counts.ok += 1
    else:
        counts.failed += 1
        counts.failed_by_track[answer.track] += 1
    return answer


def _lose(counts: Counts, how: str) -> None:
    counts.lost += 1
    if len(counts.lost_how) < _LOST_SHOWN:
        counts.lost_how.append(how)

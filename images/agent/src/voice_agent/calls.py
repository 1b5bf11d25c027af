"""The calls of this worker: how many there are, what became of each, and that none vanishes uncounted.

A call runs in a process of its own, so that it cannot harm the others. It tells how it ended in one datagram
on a Unix socket. A call whose process died could not tell: the worker sees it is gone, and counts an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["Calls", "Outcome", "receive_reports", "report"]

_NEVER_CAME_SECONDS = 60.0
_GONE_SECONDS = 3.0


class Outcome(StrEnum):
    """What became of a call."""

    OK = "ok"
    ERROR = "error"
    NO_SHOW = "no_show"
    """The caller never came to the room."""
    REJECTED = "rejected"
    """There was no room for it on this worker."""


@dataclass
class _Call:
    offered: float
    seen: float | None = None


class Calls:
    """The calls this worker took on, at most `max_calls`. Times are seconds of `clock`."""

    def __init__(
        self, *, max_calls: int, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max = max_calls
        self._clock = clock
        self._calls: dict[str, _Call] = {}
        self._total = Counter("voice_calls", "Calls by what became of them.", ["outcome"], registry=registry)
        for outcome in Outcome:
            self._total.labels(outcome=outcome)  # a zero is a measurement, a missing series is not
        self._seconds = Histogram(
            "voice_call_duration_seconds",
            "How long calls lasted.",
            buckets=(1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
            registry=registry,
        )
        active = Gauge("voice_calls_active", "Calls taken on and not over.", registry=registry)
        active.set_function(lambda: len(self._calls))

    @property
    def load(self) -> float:
        """The taken share of our places, 0 to 1: LiveKit prefers workers with little load."""
        return len(self._calls) / self._max

    def take(self, call: str) -> bool:
        """Take on a call that is offered, if there is a place for it."""
        if len(self._calls) >= self._max:
            self._total.labels(outcome=Outcome.REJECTED).inc()
            return False
        self._calls[call] = _Call(self._clock())
        return True

    def withdraw(self, call: str) -> None:
        """The call went to another worker after all."""
        self._calls.pop(call, None)

    def ended(self, call: str, outcome: Outcome, seconds: float) -> None:
        """A call told how it ended."""
        if self._calls.pop(call, None):
            self._total.labels(outcome=outcome).inc()
            self._seconds.observe(seconds)

    def look(self, running: Collection[str]) -> None:
        """Compare with the calls that have a process now; one that had it and told nothing has crashed."""
        now = self._clock()
        for name, call in list(self._calls.items()):
            if name in running:
                call.seen = now
            elif call.seen is None and now - call.offered > _NEVER_CAME_SECONDS:
                self.withdraw(name)
            elif call.seen is not None and now - call.seen > _GONE_SECONDS:
                self.ended(name, Outcome.ERROR, now - call.offered)


def report(to: Path, call: str, outcome: Outcome, seconds: float) -> None:
    """Tell the worker how a call ended. It may be gone by now: then nobody counts any more."""
    message = json.dumps({"call": call, "outcome": outcome, "seconds": seconds}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.sendto(message, str(to))


class _Reports(asyncio.DatagramProtocol):
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def datagram_received(self, data: bytes, _: object) -> None:
        told = json.loads(data)
        self._calls.ended(told["call"], Outcome(told["outcome"]), told["seconds"])


@contextlib.asynccontextmanager
async def receive_reports(at: Path, calls: Calls) -> AsyncIterator[None]:
    """While this lasts, what `report` tells `at` is counted."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    receiver.bind(str(at))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Reports(calls), sock=receiver)
    try:
        yield
    finally:
        transport.close()

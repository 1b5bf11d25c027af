"""`python -m voice_guard`: look every second until SIGTERM; longer while the canary has traffic."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from voice_guard.decide import Look, Names, Seen, canaries, judged, on_stable, seen, weight
from voice_guard.kubernetes import Api, Refused, Unreachable

LOOK = 1.0
STAYS = 25.0
"""Seconds after SIGTERM: whoever removes a canary that still has traffic takes its guard away with it."""


class Cluster(Protocol):
    """What the guard asks (voice_guard.kubernetes.Api does)."""

    now: float

    def route(self, name: str) -> dict[str, Any] | None: ...
    def write_route(self, route: dict[str, Any]) -> None: ...
    def lease(self, name: str) -> dict[str, Any] | None: ...
    def ready(self, service: str) -> int: ...
    def record(self, name: str, data: dict[str, str]) -> None: ...


class Guard:
    """Looks, and does the one thing it can."""

    def __init__(
        self,
        cluster: Cluster,
        names: Names,
        *,
        release: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._names, self._release, self._clock = cluster, names, release, clock
        self._seen = Seen()
        self._unsaid: dict[str, str] | None = None

    def look(self) -> int:
        """One look, and what follows from it; returns the canary's percentage after it.

        Unreachable or Refused when that did not work: then the next look tries again.
        """
        if self._unsaid is not None:
            self._cluster.record(self._names.record, self._unsaid)
            self._unsaid = None
        route = self._cluster.route(self._names.route)
        share = weight(route, self._names)
        if route is None or not share:
            self._seen = Seen()
            return 0
        lease = self._cluster.lease(self._names.lease)
        now = self._cluster.now
        ready = {name: self._cluster.ready(name) for name in canaries(route, self._names)}
        look = Look(at=self._clock(), now=now, weight=share, lease=lease, ready=ready)
        self._seen = seen(look, self._seen)
        why = judged(look, self._seen)
        if not why:
            return share
        fence = ((lease or {}).get("spec") or {}).get("leaseTransitions")
        self._cluster.write_route(on_stable(route, self._names, fence))
        say(f"all traffic to stable, from {share} % on the canary: {why}")
        self._unsaid = {
            "time": datetime.fromtimestamp(now, UTC).isoformat(),
            "why": why,
            "weight": str(share),
            "fence": str(fence or 0),
            "release": self._release,
        }
        self._cluster.record(self._names.record, self._unsaid)
        self._unsaid = None
        return 0


def say(text: str) -> None:
    """A line of the log."""
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}", flush=True)


def run(guard: Guard, alive: Path, ready: Path) -> None:
    """Look until SIGTERM. `alive` is touched at each look, `ready` is there once one worked."""
    ended: list[float] = []

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.append(time.monotonic())

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    trouble = ""
    while True:
        share: int | None = None
        try:
            share = guard.look()
            trouble = ""
            ready.touch()
        except (Unreachable, Refused) as error:
            if str(error) != trouble:
                trouble = str(error)
                say(trouble)
        alive.touch()
        if ended and (share == 0 or time.monotonic() - ended[0] > STAYS):
            return
        time.sleep(LOOK if not ended else LOOK / 2)


def main() -> int:
    """The exit code: 0 after SIGTERM, 2 when it is not in a pod of a cluster."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        print("KUBERNETES_SERVICE_HOST is not set: this runs in a pod", file=sys.stderr)
        return 2
    try:
        cluster = Api(host, int(port))
    except OSError as error:
        print(f"the service account is not mounted: {error}", file=sys.stderr)
        return 2
    folder = Path(os.environ.get("GUARD_FOLDER", "/tmp"))  # noqa: S108  # nosec B108  a pod's own
    guard = Guard(cluster, Names(), release=os.environ.get("VA_RELEASE", ""))
    say("looking")
    run(guard, folder / "alive", folder / "ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What becomes of the users when a promotion is killed (kill -9): nobody is there, and the guard has to act.

A drill: `va promote` runs as a process of its own. Once the canary of one target is at its last step, and has
users, that process gets a SIGKILL. Then nothing is done but to count what users of this drill's own are
answered, until stable has them all (images/guard takes them there) and for a moment longer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci import process
from ci.delivery import guard, load
from ci.delivery.guard import Acted
from ci.delivery.ledger import Action, Entry, Kind, Ledger, open_ledger
from ci.delivery.load import Counts
from ci.delivery.promotion.run import counted
from ci.delivery.results import Requests
from ci.delivery.site import Site, open_site
from ci.environments import Environment
from ci.errors import StepFailed
from ci.layout import Page, page, words
from ci.process import Completed
from ci.release import Release
from ci.reporting import Reporter

__all__ = ["Killed", "kill", "show_killed"]

_SESSIONS = 7.3
"""A second, of the drill's own users; those of the promotion end with it. No part of a promotion's rate: a
gateway that deals requests out in turn would deal one kind to one track."""
_INTO = 1.5
"""Seconds into the last step, when it is killed."""
_LOOK = 0.2
_PATIENCE = 60.0
_LONGER = 3.0
_LATE = 30.0
"""Seconds for an answer: late is not lost."""


@dataclass(frozen=True, kw_only=True)
class Killed:
    """What came of it. Times are in seconds since the kill."""

    promotion: str
    """Its name in the ledger, by which the same command goes on."""
    target: str
    weight: int
    """Percent of the traffic that the canary had."""
    answered: int
    """Requests that the canary had answered by then."""
    on_stable: float | None
    """When the route gave stable everything; None: not while it was waited for."""
    last: float
    """When the canary answered its last request."""
    users: Requests
    """All requests of the drill's own users, from the canary's first step on."""
    guard: Acted | None
    """What the guard left word of, if it was this canary's; None: nothing."""


async def kill(release: Release, environment: Environment, region: str, *, reporter: Reporter) -> Killed:
    """Promote a release through its estate, and kill the promotion on that target, at its last step.

    StepFailed when the promotion comes to an end before.
    """
    weights = [step.weight for step in environment.canary.steps]
    async with open_ledger(environment) as ledger, open_site(environment, region) as site:
        before = await ledger.entries()
        since = before[-1].sequence if before else 0
        with reporter.step("va promote, as a process of its own") as step:
            async with _promoting(release, reporter) as (pid, promotion):
                await _baking(ledger, since, site, weights[0], promotion)
                async with _users(site) as counts:
                    begun = await _baking(ledger, since, site, weights[-1], promotion)
                    await asyncio.sleep(_INTO)
                    weight, answered = await site.weight(), counts.by_track["canary"]
                    _alive(promotion, site)
                    at = time.monotonic()
                    os.kill(pid, signal.SIGKILL)
                    on_stable, last, acted = await _watched(site, counts, begun, at)
            step.say(
                f"killed at {weight} % of {site.target.name}; {counts.sent} requests, {counts.lost} lost"
            )
    return Killed(
        promotion=begun.promotion,
        target=site.target.name,
        weight=weight,
        answered=answered,
        on_stable=on_stable,
        last=last,
        users=counted(counts),
        guard=acted,
    )


@asynccontextmanager
async def _promoting(
    release: Release, reporter: Reporter
) -> AsyncIterator[tuple[int, asyncio.Task[Completed]]]:
    """The promotion's process id, and its end; what it prints is told. It ends with the block."""
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    va = Path(sys.executable).with_name("va")
    promotion = asyncio.create_task(
        process.run(
            *(va, "promote", release.name, "--again"),
            on_start=started.set_result,
            on_line=reporter.note,
            check=False,
        )
    )
    try:
        either: list[asyncio.Future[Any]] = [started, promotion]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            await promotion  # why it did not start
        yield started.result(), promotion
    finally:
        promotion.cancel()
        await asyncio.wait([promotion])


@asynccontextmanager
async def _users(site: Site) -> AsyncIterator[Counts]:
    async with load.generate(
        site.target.gateway, site.target.hostname, rate=_SESSIONS, timeout=_LATE, send=site.send
    ) as running:
        yield running.counts


async def _baking(
    ledger: Ledger, since: int, site: Site, weight: int, promotion: asyncio.Task[Completed]
) -> Entry:
    """What the ledger says when the canary's step of that weight begins."""
    while True:
        for entry in await ledger.entries(after=since):
            if (entry.kind, entry.action, entry.target, entry.weight) == (
                Kind.INTENT, Action.STEP, site.target.name, weight,
            ):  # fmt: skip
                return entry
        _alive(promotion, site)
        await asyncio.sleep(_LOOK)


def _alive(promotion: asyncio.Task[Completed], site: Site) -> None:
    if promotion.done():
        code = promotion.result().code
        raise StepFailed(
            f"the promotion ended, with exit code {code}, before it could be killed on {site.target.name}",
            hint="what it printed says why",
        )


async def _watched(
    site: Site, counts: Counts, begun: Entry, killed: float
) -> tuple[float | None, float, Acted | None]:
    """When the route was on stable, when the canary answered last, and what the guard says."""
    seen = counts.by_track["canary"]
    on_stable: float | None = None
    last = 0.0
    acted: Acted | None = None
    while True:
        now = time.monotonic() - killed
        if counts.by_track["canary"] > seen:
            seen, last = counts.by_track["canary"], now
        if on_stable is None and await site.on_stable():
            on_stable = time.monotonic() - killed
        if on_stable is not None and acted is None:
            found = await guard.record(site.cluster, site.target.namespace)
            acted = found if found is not None and found.fence == begun.fence else None
        if now > (_PATIENCE if on_stable is None or acted is None else on_stable + _LONGER):
            return on_stable, last, acted
        await asyncio.sleep(_LOOK)


def show_killed(killed: Killed) -> Page:
    """When it was killed, what the guard did, and what the users had of it."""
    users = killed.users
    route = "not in time" if killed.on_stable is None else f"after {killed.on_stable:.1f} s"
    return page(
        words((f"{killed.target}: killed while the canary had {killed.weight} % of the traffic", "bold")),
        f"  {killed.answered} requests of our own users were answered by the canary until then",
        f"  {killed.guard}" if killed.guard else words(("  the guard left word of nothing", "red")),
        f"  all traffic on stable: {route}; the canary's last answer: after {killed.last:.1f} s",
        words(
            f"  our users, before and after: {users.sent} requests, {users.failed} failed, ",
            (f"{users.lost} lost", "red") if users.lost else "none lost",
        ),
        *(words((f"    lost: {how}", "yellow")) for how in users.lost_how),
    )

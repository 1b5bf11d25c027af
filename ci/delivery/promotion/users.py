"""The users of a region, while its stable release is upgraded: they leave before and come back after.

Where an environment says `traffic`: the region's endpoint is disabled, the TTL of the answers that name it is
waited for, then sessions and calls there are watched until there are none or their time is over. The ledger
knows that this promotion had them leave, so that a killed run's next one puts the region back, and that what
somebody else has taken out stays out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from ci.delivery.ledger import Entry
from ci.delivery.regions import Profile, put_back, take_out
from ci.delivery.site import Site
from ci.errors import PolicyBlocked

__all__ = ["are_away", "come_back", "leave"]

_KEY, _AWAY, _HERE = "users", "leave", "come back"
_LOOK_SECONDS = 1.0

Show = Callable[[str], None]


class Note(Protocol):
    """Writes that down in the ledger."""

    def __call__(self, *, users: str) -> Awaitable[None]: ...


def are_away(entries: Iterable[Entry], promotion: str, target: str) -> bool:
    """Whether that promotion had the users of that target leave, and has not yet let them come back."""
    told = [
        entry.detail[_KEY]
        for entry in entries
        if entry.promotion == promotion and entry.target == target and _KEY in entry.detail
    ]
    return bool(told) and told[-1] == _AWAY


async def leave(site: Site, *, away: bool, note: Note, show: Show) -> None:
    """Have the users of a target's region leave. May be cut off at any moment and done again (`away`).

    PolicyBlocked when the region may not go: it is the last that is online, or another one is out and does
    not come back. SystemUnavailable when Traffic Manager does not answer. Nothing without `traffic`.
    """
    regions, wanted, region = site.regions, site.environment.traffic, site.target.region
    if regions is None or wanted is None:
        return
    if not away:
        if not (await regions.look()).endpoint(region).enabled:
            show("the region is out already: who has taken it out puts it back")
            return
        await note(users=_AWAY)
    profile = await _its_turn(site, show)
    show(f"no new users; answers are remembered for {profile.ttl} s")
    await asyncio.sleep(profile.ttl)
    begun = time.monotonic()
    while (left := await site.busy()) != 0 and time.monotonic() - begun < wanted.drain:
        show(
            "nobody says how many are left"
            if left is None
            else f"{left:.1f} sessions a second and calls left"
        )
        await asyncio.sleep(min(_LOOK_SECONDS, wanted.drain))
    if left == 0:
        show("all have left")


async def come_back(site: Site, *, away: bool, note: Note) -> bool:
    """Let the users of a target's region come again, if it was us who had them leave. Whether it was."""
    if site.regions is None or not away:
        return False
    await put_back(site.regions, site.target.region)
    await note(users=_HERE)
    return True


async def _its_turn(site: Site, show: Show) -> Profile:
    """How it is once the region is out. Those of one wave go one after the other, each with all its time."""
    assert site.regions is not None and site.environment.traffic is not None
    each = site.environment.traffic.drain + 2 * site.environment.canary.install
    begun = time.monotonic()
    while True:
        try:
            return await take_out(site.regions, site.target.region)
        except PolicyBlocked as error:
            if time.monotonic() - begun > each * len(site.environment.targets):
                raise
            show(error.message)
        await asyncio.sleep(min(_LOOK_SECONDS, each))

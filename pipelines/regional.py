"""The drill of a lost region: cut its network, see users find another one, join it again; all of it measured.

Users are synthetic, and find a region as real ones do: by its name, whose answer they keep for its TTL.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ci import platform
from ci.delivery.load import Counts, generate
from ci.delivery.names import Names
from ci.delivery.regions import GlobalTraffic, Profile, may_go, traffic_manager
from ci.errors import BadInput, PolicyBlocked, StepFailed
from ci.platform.instance import Instance, instance
from ci.platform.traffic_manager import HOST, profile_id
from ci.reporting import Reporter

if TYPE_CHECKING:
    from ci.layout import Page

__all__ = ["Moment", "RegionDrilled", "lose_region", "show_region"]

_LOOK_SECONDS = 0.1
_USERS_SECONDS = 2.0
"""After which a user gives an answer up."""
_BACK_WITHIN = 120.0
_INTERVALS = 3
"""Of probes, in which a lost region is to be seen."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What was seen, so many seconds after the region was cut off."""

    seconds: float
    what: str


@dataclass(frozen=True, kw_only=True)
class RegionDrilled:
    """What the drill measured; all times in seconds."""

    region: str
    detection: float
    """From the cut until Traffic Manager's probes said so, and it sent nobody there any more."""
    rto: float
    """From the cut until the last request that a user lost."""
    back: float
    """From the joining until the region's users came again."""
    requests: int
    lost: int
    sessions: int
    broken: int
    """Sessions of which a request was lost."""
    timeline: tuple[Moment, ...]
    problems: tuple[str, ...]


@dataclass
class _Watch:
    """The clock of one drill, and what was seen by it."""

    started: float = field(default_factory=time.monotonic)
    seen: list[Moment] = field(default_factory=list)

    @property
    def now(self) -> float:
        return time.monotonic() - self.started

    def note(self, what: str) -> float:
        """Returns when."""
        self.seen.append(Moment(seconds=self.now, what=what))
        return self.seen[-1].seconds


async def lose_region(
    region: str, *, before: float = 3.0, rate: float = 30.0, reporter: Reporter
) -> RegionDrilled:
    """Cut that region of the embedded platform off, with `rate` sessions a second at work, and join it again.

    BadInput where there is no such region; PolicyBlocked where its users would have nowhere to go.
    """
    place = instance()
    at = f"http://127.0.0.1:{place.traffic_manager}"
    if not place.apart:
        raise BadInput("one cluster stands in for all regions here", hint="va up --clusters 3 makes three")
    async with traffic_manager(profile_id(), at=at, token=place.traffic_manager_token) as traffic:
        profile = await traffic.look()
        may_go(profile, region)
        if not (lost := profile.endpoint(region)).online:
            raise PolicyBlocked(
                f"{region} is {lost.monitor}: there is nothing to lose",
                hint="VA_ESTATE=regions va ship, then va promote: the drill needs a release in prod",
            )
        names = Names("127.0.0.1", place.traffic_manager + 1)
        gateway = f"http://{profile.fqdn}:{place.gateway}"
        async with generate(gateway, HOST, rate=rate, timeout=_USERS_SECONDS, find=names.find) as load:
            return await _drilled(place, traffic, profile, region, load.counts, before, reporter)


async def _drilled(
    place: Instance,
    traffic: GlobalTraffic,
    profile: Profile,
    region: str,
    counts: Counts,
    before: float,
    reporter: Reporter,
) -> RegionDrilled:
    lost = profile.endpoint(region)

    async def monitored() -> bool:
        return (await traffic.look()).endpoint(region).online

    with reporter.step(f"{region}: users at work"):
        await asyncio.sleep(before)
        if counts.lost or not counts.by_address[lost.target]:
            what = "lose requests" if counts.lost else f"do not come to {region}"
            why = "; ".join(counts.lost_how) or "no answer came from there"
            raise StepFailed(f"users {what} before anything was cut: {why}", hint="va status")
    async with platform.cut_off(region):
        watch = _Watch()
        watch.note(f"{region} is cut off")
        with reporter.step(f"{region}: cut off, until the probes see it") as step:
            await _until(lambda: _not(monitored()), "the probes do not see it")
            detection = watch.note("Traffic Manager sends nobody there any more")
            step.say(f"{detection:.1f} s")
        with reporter.step(f"{region}: users find another region") as step:
            rto = await _until_nothing_is_lost(watch, counts, profile.ttl + _USERS_SECONDS + 1)
            watch.seen.append(Moment(seconds=rto, what="the last request that a user lost"))
            step.say(f"{counts.lost} of {counts.sent} requests lost, the last one after {rto:.1f} s")
        served = counts.by_address[lost.target]
        gone = counts.lost
    joined = watch.note(f"{region} is joined again")
    with reporter.step(f"{region}: joined again, until its users are back") as step:
        await _until(monitored, "its probes do not succeed again")
        watch.note("its probes succeed")

        async def came() -> bool:
            return counts.by_address[lost.target] > served

        await _until(came, "no user comes back")
        back = watch.note(f"users come to {region}") - joined
        step.say(f"{back:.1f} s")
    with reporter.step(f"{region}: its cluster is well"):
        node = place.region(region).node

        async def well() -> bool:
            return all(part.healthy for part in await platform.status() if part.name.startswith(node))

        await _until(well, "va status names what is not well")
        watch.note("its cluster is well")
    problems = []
    if detection > _INTERVALS * profile.interval:
        problems.append(
            f"seen after {detection:.1f} s, more than {_INTERVALS} intervals of {profile.interval:g} s"
        )
    if counts.lost > gone:
        problems.append(f"{counts.lost - gone} requests were lost as it came back")
    return RegionDrilled(
        region=region,
        detection=detection,
        rto=rto,
        back=back,
        requests=counts.sent,
        lost=counts.lost,
        sessions=counts.sessions,
        broken=counts.broken,
        timeline=tuple(sorted(watch.seen, key=lambda moment: moment.seconds)),
        problems=tuple(problems),
    )


async def _until_nothing_is_lost(watch: _Watch, counts: Counts, quiet: float) -> float:
    """When the last request was lost, once none has been for `quiet` seconds."""
    last, seen = 0.0, 0
    while watch.now - last < quiet:
        if counts.lost > seen:
            if not seen:
                watch.note("a user loses a request")
            last, seen = watch.now, counts.lost
        if watch.now > _BACK_WITHIN:
            raise StepFailed(f"users still lose requests after {_BACK_WITHIN:g} s", hint="va status")
        await asyncio.sleep(_LOOK_SECONDS)
    return last


async def _not(asked: Awaitable[bool]) -> bool:
    return not await asked


async def _until(happens: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    deadline = time.monotonic() + _BACK_WITHIN
    while not await happens():
        if time.monotonic() > deadline:
            raise StepFailed(f"{otherwise}, {_BACK_WITHIN:g} s later", hint="va status; va up mends a cut")
        await asyncio.sleep(_LOOK_SECONDS)


def show_region(done: RegionDrilled) -> Page:
    """The figures, and what was seen when."""
    from ci.layout import Column, Table, page, words

    table = Table("after", Column(name="what", prose=True))
    for moment in done.timeline:
        table.add(f"{moment.seconds:.1f} s", moment.what)
    verdict = ("as it should", "green") if not done.problems else ("not as it should", "red")
    return page(
        table,
        "",
        f"seen after {done.detection:.1f} s; users recovered after {done.rto:.1f} s (RTO); "
        f"back {done.back:.1f} s after it was joined",
        f"{done.requests} requests, {done.lost} lost; {done.sessions} sessions, {done.broken} broken",
        words(f"{done.region}: ", verdict),
        *done.problems,
    )

"""The embedded platform: registries, a real Kubernetes, a gateway, Prometheus, Redis, LiveKit, all here.

    up       brings it up, or what is missing of it; idempotent
    lose     destroys parts, for drills;   cut_off  a region's network
    down     takes it down and leaves nothing: no process, mount, network namespace, filter rule or file
    status   says of each part how it is

It needs root, for namespaces and mounts, and nothing else that a bare Debian 12 lacks: see `ci.tools`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from ci import tools
from ci.errors import BadInput, RootNeeded, SystemUnavailable
from ci.locks import locked
from ci.platform import daemon, network
from ci.platform.instance import REGIONS, Instance, instance, sized
from ci.platform.part import PartStatus, bring_up, look, take_down
from ci.platform.plan import all_parts, chosen, tools_of
from ci.platform.processes import end, marked
from ci.reasons import reason_of
from ci.reporting import Reporter, SilentReporter

__all__ = [
    "PartStatus",
    "Platform",
    "addresses",
    "cut_off",
    "down",
    "last_words",
    "lose",
    "status",
    "tools_needed",
    "up",
]


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Where a platform is, as seen from the host."""

    kubeconfig: Path
    context: str
    registries: dict[str, str]
    """By region, the home first: `127.0.0.1:5501`, without a scheme (they speak HTTP)."""
    replicator: str
    prometheus: str
    gateway: str
    livekit: str
    livekit_env: Path
    signing: Path
    """The folder of the key pair that releases are signed with: see ci.supply.signing.KeyPair."""


def addresses(place: Instance | None = None) -> Platform:
    """Where the platform is, up or not."""
    place = place or instance()
    return Platform(
        kubeconfig=place.kubeconfig,
        context=place.cluster.node,
        registries={region: f"127.0.0.1:{place.registry(region)}" for region in REGIONS},
        replicator=f"http://127.0.0.1:{place.replicator}",
        prometheus=f"http://{place.serving(place.cluster)}:{place.prometheus}",
        gateway=f"http://{place.serving(place.cluster)}:{place.gateway}",
        livekit=f"ws://127.0.0.1:{place.livekit}",
        livekit_env=place.livekit_env,
        signing=place.signing,
    )


def tools_needed() -> tuple[str, ...]:
    """What `up` provides first, in the order in which it builds."""
    return tools_of(chosen(all_parts(instance()), None))


async def up(
    reporter: Reporter, parts: Sequence[str] | None = None, *, clusters: int | None = None
) -> Platform:
    """Bring the platform up, or only the named parts and what they need; returns when all are healthy.

    So many of its regions get a cluster of their own, or lose it again; None: as many as now.

    Raises RootNeeded, ToolMissing (a tool that cannot be had), SystemUnavailable (a port is taken, with its
    owner; a part does not come up, with the end of its log), BadInput (an unknown part).
    """
    place = instance()
    wanted = chosen(all_parts(place), parts)
    if os.geteuid() != 0:
        raise RootNeeded("the embedded platform needs root", hint="sudo va up")
    await tools.ensure(tools_of(wanted), reporter)
    with _said_plainly(place):
        async with _alone(place, reporter):
            place, size = _as_it_is(), clusters or instance().clusters
            if size != place.clusters:
                place = await _resized(place, size, reporter)
            await _end_the_forgotten(place)
            await bring_up(chosen(all_parts(place), parts), reporter)
    return addresses(place)


async def _resized(place: Instance, clusters: int, reporter: Reporter) -> Instance:
    """Take down what it has not with so many clusters. Only then it is of that size: a killed run goes on."""
    kept = {part.name for part in all_parts(replace(place, clusters=clusters))}
    await take_down([part for part in all_parts(place) if part.name not in kept], reporter)
    return sized(place, clusters)


async def down(reporter: Reporter) -> None:
    """Take everything down, whatever there is of it, and remove the platform's folder."""
    place = instance()
    with _said_plainly(place):
        async with _alone(place, reporter):
            place = _as_it_is()
            await take_down(all_parts(place), reporter)
            await _end_the_forgotten(place)
            await asyncio.to_thread(shutil.rmtree, place.folder)


def _as_it_is() -> Instance:
    """The platform with every cluster that there is something of, whatever is remembered of its size."""
    place = instance()
    named = [(Path("/run/netns") / place.region(name).node).exists() for name in REGIONS]
    return replace(place, clusters=max([place.clusters, *(n for n, there in enumerate(named, 1) if there)]))


async def _end_the_forgotten(place: Instance) -> None:
    """End what another version of this code started, as a part that there is no more."""
    known = {part.name for part in all_parts(place)}
    await end(lambda: [one.pid for one in marked(place.folder) if one.part not in known])


async def lose(names: Sequence[str]) -> None:
    """Destroy the named parts and their data, as a disaster would: without a word to them before."""
    place = instance()
    async with locked(place.folder / ".lock", lambda: None):
        place = instance()
        for process in marked(place.folder):
            if process.part in names:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        await take_down([part for part in all_parts(place) if part.name in names], SilentReporter())


@asynccontextmanager
async def cut_off(name: str) -> AsyncIterator[None]:
    """A region is without its network while the block runs; nobody else changes the platform meanwhile.

    BadInput when there is no such region with a cluster of its own.
    """
    place = instance()
    region = next((one for one in place.regions if one.name == name), None)
    if region is None or not place.apart:
        raise BadInput(
            f"no region {name!r} can be cut off here",
            hint="va up --clusters 3 makes three: " + ", ".join(REGIONS),
        )
    async with locked(place.folder / ".lock", lambda: None):
        await network.cut(region)
        try:
            yield
        finally:
            await asyncio.shield(network.join(region))


def last_words(name: str) -> str:
    """The end of a part's log: why it died, where it did."""
    return daemon.last_words(instance(), name)


async def status() -> list[PartStatus]:
    """How each part is now, in the order in which they come up; of those on request, the ones that run."""
    found = await look(parts := all_parts(instance()))
    return [one for part, one in zip(parts, found, strict=True) if one.pid or not part.on_request]


def _alone(place: Instance, reporter: Reporter) -> AbstractAsyncContextManager[None]:
    """Nobody else may change the platform meanwhile."""
    return locked(place.folder / ".lock", lambda: reporter.note("waiting: another va changes the platform"))


@contextmanager
def _said_plainly(place: Instance) -> Iterator[None]:
    """A full disk, a folder that cannot be written, a part too busy to answer: failures like others."""
    try:
        yield
    except httpx.HTTPError as error:
        raise SystemUnavailable(
            f"a part of the platform does not answer: {reason_of(error)}",
            hint="va status says which; the same command goes on",
        ) from error
    except OSError as error:
        raise SystemUnavailable(
            f"the platform's folder {place.folder} cannot be used: {error}",
            hint="make room or set VA_STATE to another folder, then run the same command again",
        ) from error

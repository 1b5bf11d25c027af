"""The registries of an estate: one that is pushed to, and which regions have a release, digest by digest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from ci import places
from ci.concurrency import together
from ci.environments import geography, read_environments
from ci.errors import BadInput, PipelineError, SystemUnavailable
from ci.files import write_whole
from ci.layout import Column, Line, Page, Table, page, words
from ci.registry import Bundle, Registry, registry_at
from ci.release import Release
from ci.reporting import Reporter
from ci.supply.attestations import RELEASES
from ci.supply.availability import Availability, Contents, State, contents, survey, wait_until_there
from ci.supply.replication import Pace, Replica, ask_replicator, tell_to_reconcile

__all__ = [
    "AvailableIn",
    "EstateRegistries",
    "RegionStatus",
    "availability_line",
    "available_in",
    "estate_registries",
    "proven",
    "reconcile",
    "show_available",
    "show_regions",
    "where_available",
]

_LOOK = {State.THERE: "green", State.LAGGING: "yellow", State.DOWN: "red"}
_PACE = {Pace.IN_STEP: "green", Pace.BEHIND: "yellow", Pace.FAILING: "red"}
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class EstateRegistries:
    """Clients of an estate's registries. Only `home` is pushed to."""

    home: Registry
    regions: Mapping[str, Registry] = field(default_factory=dict)
    """By region, the home's region first if it has one."""
    replication: str | None = None
    """The URL of who replicates, if somebody can be asked."""
    deadline: float = 60.0
    """Seconds that a region may lag before it is left behind."""

    @property
    def every(self) -> tuple[Registry, ...]:
        """Every endpoint once, the home first."""
        return tuple(dict.fromkeys((self.home, *self.regions.values())))


@asynccontextmanager
async def estate_registries(estate: str) -> AsyncIterator[EstateRegistries]:
    """The registry that is published to, and the endpoint of every region that a target pulls from."""
    where = geography(read_environments(estate))
    async with AsyncExitStack() as stack:
        clients = {
            endpoint: await stack.enter_async_context(registry_at(endpoint))
            for endpoint in {where.home, *where.regions.values()}
        }
        yield EstateRegistries(
            home=clients[where.home],
            regions={region: clients[endpoint] for region, endpoint in where.regions.items()},
            replication=where.replication,
            deadline=where.deadline,
        )


class RegionStatus(BaseModel):
    """What one region has, and how replication to it goes."""

    model_config = ConfigDict(frozen=True)

    region: str
    home: bool
    """Whether its endpoint is the one that is pushed to."""
    has: Availability
    replication: Replica | None = None
    """What the replicator says; None for the home, or when it cannot be asked."""


class AvailableIn(BaseModel):
    """Which regions have a release, as it was last asked. Kept beside the release, which never changes."""

    model_config = ConfigDict(frozen=True)

    release: str
    asked: datetime
    regions: tuple[RegionStatus, ...]

    @property
    def there(self) -> tuple[str, ...]:
        """The regions that have all of it."""
        return tuple(one.region for one in self.regions if one.has.state is State.THERE)

    @property
    def lacking(self) -> tuple[RegionStatus, ...]:
        """The regions that have not."""
        return tuple(one for one in self.regions if one.has.state is not State.THERE)


async def proven(
    registries: EstateRegistries,
    what: Contents,
    *,
    name: str,
    reporter: Reporter,
    deadline: float = 0.0,
    found: Iterable[str] = (),
) -> tuple[RegionStatus, ...]:
    """Ask each region's own endpoint for all of it, again and again for at most `deadline` seconds.

    `found` is what the push has just found in the home registry by digest, which is not asked for twice.
    What is attached to it is what the home registry lists; when that is down, what is known without it.
    """
    try:
        wanted = await survey(registries.home, what)
    except SystemUnavailable as error:
        reporter.note(f"{error}: what was attached to {name} later is not asked for")
        wanted = what

    async def one(region: str, registry: Registry) -> Availability:
        with reporter.step(f"{name} in {region}") as step:
            has = await wait_until_there(
                registry,
                wanted,
                deadline=deadline,
                found=found if registry is registries.home else (),
                progress=lambda said: step.say(_line(said)),
            )
            if has.state is not State.THERE:
                step.skipped(f"not there after {has.seconds:.1f} s: {_line(has)}")
            return has

    said = await together(one(*region) for region in registries.regions.items())
    replicas = await _replicas(registries, reporter)
    return tuple(
        RegionStatus(
            region=region,
            home=registry is registries.home,
            has=has,
            replication=None if registry is registries.home else replicas.get(region),
        )
        for (region, registry), has in zip(registries.regions.items(), said, strict=True)
    )


async def available_in(
    registries: EstateRegistries,
    release: Release,
    *,
    reporter: Reporter,
    deadline: float | None = None,
    bundles: Iterable[Bundle] = (),
    found: Iterable[str] = (),
) -> AvailableIn:
    """Prove in which regions a release is, and keep that beside it.

    `deadline`: seconds that a region may lag; None for the estate's own. `bundles`: those of its parts that
    are at hand, which then need not be read from a registry. `found`: as of `proven`.
    """
    patience = registries.deadline if deadline is None else deadline
    what = contents(release)
    at_hand = {manifest.descriptor.digest: manifest for bundle in bundles for manifest in bundle.manifests}
    what = replace(what, known={**what.known, **at_hand})
    regions = await proven(
        registries, what, name=release.name, reporter=reporter, deadline=patience, found=found
    )
    available = AvailableIn(release=release.name, asked=datetime.now(UTC), regions=regions)
    path = places.state() / "availability" / f"{release.name}.json"
    await asyncio.to_thread(write_whole, path, available.model_dump_json(indent=2) + "\n")
    return available


def where_available(release: Release) -> AvailableIn | None:
    """What was last found out about a release; None when nobody asked, or what is kept cannot be read."""
    try:
        path = places.state() / "availability" / f"{release.name}.json"
        return AvailableIn.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def availability_line(found: AvailableIn | None) -> Line:
    """`available in eastus, westeurope; not in southeastasia (lagging: 3 missing)`, for people."""
    if found is None:
        return words(("available in: not asked yet (va registry status)", "dim"))
    pieces: list[str | tuple[str, str]] = ["available in ", (", ".join(found.there) or "no region", "bold")]
    for one in found.lacking:
        pieces.append((f"; not in {one.region} ({_line(one.has)})", "yellow"))
    missing_at_home = [name for one in found.lacking if one.home for name in one.has.missing]
    if any(name.startswith(f"{RELEASES}@") for name in missing_at_home):
        pieces.append(("; the home has no record of it: it was purged, or never whole there", "yellow"))
    return words(*pieces, (f" as of {found.asked:%Y-%m-%d %H:%M:%S} UTC", "dim"))


def show_available(found: AvailableIn) -> Page:
    """The table of regions and what it comes to, for people."""
    return page(show_regions(found.regions), availability_line(found))


async def reconcile(estate: str, *, reporter: Reporter) -> None:
    """Have who replicates compare all replicas with the home registry and mend them.

    BadInput when the estate names nobody who does; SystemUnavailable when a registry could not be reached.
    """
    address = geography(read_environments(estate)).replication
    if address is None:
        raise BadInput(
            f"the estate {estate} names nobody who replicates",
            hint="`registries: {replication: URL}` in its environments; Azure replicates by itself",
        )
    with reporter.step("compare all replicas with the home registry"):
        await tell_to_reconcile(address)


def show_regions(regions: tuple[RegionStatus, ...]) -> Page:
    """What each region has and how replication to it goes, for people."""
    table = Table(
        "region",
        Column(name="registry", rank=3, below=True),
        "release",
        Column(name="found", rank=5, right=True),
        Column(name="replication", rank=2, below=True, prose=True),
        Column(name="lag", rank=4, right=True),
        Column(name="missing", rank=1, below=True, prose=True),
    )
    for one in regions:
        has = one.has
        missing = [*has.missing[:_SHOWN]]
        if len(has.missing) > _SHOWN:
            missing.append(f"and {len(has.missing) - _SHOWN} more")
        what = "\n".join(missing) or "nothing"
        table.add(
            one.region,
            has.endpoint,
            (has.state, _LOOK[has.state]),
            str(has.checked),
            *_replication_cells(one),
            has.problem if has.state is State.DOWN else what,
        )
    return page(table)


def _replication_cells(one: RegionStatus) -> tuple[Line, str]:
    if one.home:
        return words("home"), "-"
    if one.replication is None:
        return words(("unknown", "dim")), "-"
    said = one.replication
    pace = f"{said.pace}" + (f", {said.pending} pending" if said.pending else "")
    if said.problem:
        pace += f": {said.problem}"
    return words((pace, _PACE[said.pace])), f"{said.lag:.1f} s"


async def _replicas(registries: EstateRegistries, reporter: Reporter) -> Mapping[str, Replica]:
    if registries.replication is None:
        return {}
    try:
        return await ask_replicator(registries.replication)
    except PipelineError as error:
        reporter.note(str(error))
        return {}


def _line(said: Availability) -> str:
    return f"{said.state}: {said.checked} found" + (f", {said.problem}" if said.problem else "")

"""Lock a release in the registries, and purge what no release and no target has need of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from pydantic import ValidationError

from ci.complaints import in_words
from ci.concurrency import together
from ci.delivery.ledger import alone, open_ledger
from ci.delivery.results import TargetStatus
from ci.environments import read_environments
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable
from ci.layout import Column, Line, Page, Table, page, words
from ci.registry import Held, Manifest, Registry
from ci.release import Release
from ci.reporting import Reporter
from ci.supply.attestations import RELEASE_TYPE, RELEASES, release_bundle
from ci.supply.retention import AGE_UNKNOWN, Kept, Place, Unneeded, in_the_ledger, plan, staying
from pipelines.registries import EstateRegistries, estate_registries
from pipelines.releases import releases
from pipelines.status import answered, status

__all__ = [
    "Locked",
    "Purged",
    "lock",
    "needed_by",
    "purge",
    "purge_estate",
    "replicas_follow",
    "show_locked",
    "show_purged",
]

_PAUSE = 0.5


@dataclass(frozen=True, kw_only=True)
class Locked:
    """A release that is immutable in a registry: so many manifests, `new` of them since now, and its tags."""

    registry: str
    release: str
    manifests: int
    new: int
    tags: int


@dataclass(frozen=True, kw_only=True)
class Purged:
    """What was removed from a registry, or would be (`dry_run`)."""

    registry: str
    dry_run: bool
    kept: tuple[Kept, ...]
    releases: tuple[str, ...]
    """Those that are gone."""
    gone: tuple[Unneeded, ...]
    left: tuple[Unneeded, ...]
    """Unneeded, but locked, young, or of unknown age."""


async def lock(registries: Sequence[Registry], release: Release, *, reporter: Reporter) -> tuple[Locked, ...]:
    """Make a release immutable: its own record, its images, what is attached to them, its chart, their tags.

    BadInput: a registry has no locks, or not the release. PolicyBlocked: something in it is not the release
    any more. Each registry is checked as a whole before anything in it is locked.
    """

    async def one(registry: Registry) -> Locked:
        with reporter.step(f"lock {release.name} in {registry.name}") as step:
            roots = [
                (RELEASES, release_bundle(release).digest),
                (release.chart.name, release.chart.digest),
                *((image.name, image.digest) for image in release.images),
            ]
            await together(_still_names(registry, place, release.name) for place in roots)
            places = set(roots)
            for below in await together(_needs(registry, place) for place in roots):
                places |= below
            locked = {
                (each.repository, each.digest)
                for held in await together(
                    registry.held(name) for name in sorted({name for name, _ in roots})
                )
                for each in held
                if each.locked
            }
            # Tags too, each time, and before what they name: none can be moved in between.
            await together(registry.lock(*root, tags=[release.name]) for root in roots)
            new = places - locked
            await together(registry.lock(*place) for place in sorted(new - set(roots)))
            step.say(f"{len(places)} manifests and {len(roots)} tags, {len(new)} of them new")
            return Locked(
                registry=registry.name,
                release=release.name,
                manifests=len(places),
                new=len(new),
                tags=len(roots),
            )

    return tuple([await one(registry) for registry in _each_once(registries)])


async def purge(
    registries: Sequence[Registry],
    *,
    keep: int,
    since: datetime,
    needed: Mapping[str, str],
    running: Iterable[Place] = (),
    made: Mapping[str, datetime] = MappingProxyType({}),
    dry_run: bool = False,
    include_locked: bool = False,
    reporter: Reporter,
) -> tuple[Purged, ...]:
    """Remove releases beyond the `keep` newest that were made before `since`, and what only they named.

    `needed` are releases that stay in any case, with the reason; `running` what targets run by digest; `made`
    when releases were made whose records may be gone: a purge that was killed goes on. Only repositories that
    some release of the registry names are looked at. SystemUnavailable before anything is removed when a
    release cannot be read: what it needs would not be known.
    """

    async def one(registry: Registry) -> Purged:
        with reporter.step(f"purge {registry.name}") as step:
            records = await registry.held(RELEASES)
            found = await _releases(registry, records)
            # A record that has to stay keeps all that it names: half a release could be promoted.
            fixed = plan(records, needed=(), ages={}, since=since, include_locked=include_locked).left
            said = {
                found[place].name: each.why for each in fixed if (place := (RELEASES, each.digest)) in found
            }
            kept = staying(list(found.values()), keep=keep, since=since, needed=needed)
            names = {each.release for each in kept}
            kept += tuple(
                Kept(release=name, why=f"its record is {why}")
                for name, why in sorted(said.items())
                if name not in names and why != AGE_UNKNOWN
            )
            names = {each.release for each in kept}
            stay = {place: release for place, release in found.items() if release.name in names}
            go = {place: release for place, release in found.items() if release.name not in names}
            repositories = {RELEASES} | {name for release in found.values() for name, _ in _roots(release)}
            step.say(f"{len(stay)} of {len(found)} releases stay; looking for what they need")
            wanted: set[Place] = {place for place in running if place[0] in repositories} | set(stay)
            wanted |= {place for release in stay.values() for place in _roots(release)}
            for below in await together(_needs(registry, place) for place in sorted(wanted)):
                wanted |= below
            ages, children = await _ages(registry, go)
            held = [
                each
                for listed in await together(registry.held(name) for name in sorted(repositories))
                for each in listed
            ]
            for each in held:
                for time in (made[tag] for tag in each.tags if tag in made):
                    place = (each.repository, each.digest)
                    ages[place] = max(time, ages.get(place, time))
            known = {(each.repository, each.digest) for each in held}
            # What a registry does not list for want of a tag, but a release that goes had need of.
            held += [Held(repository=name, digest=digest) for name, digest in sorted(ages.keys() - known)]
            decided = plan(held, needed=wanted, ages=ages, since=since, include_locked=include_locked)
            for place in ((each.repository, each.digest) for each in decided.gone):
                if place not in children:
                    children[place] = await _needs(registry, place)
            # Records first, then what names others: at no time something names what is gone.
            gone = sorted(
                decided.gone,
                key=lambda each: (
                    each.repository != RELEASES,
                    -len(children[each.repository, each.digest]),
                    each.repository,
                    each.digest,
                ),
            )
            if not dry_run:
                for number, unneeded in enumerate(gone):
                    step.say(f"{number} of {len(gone)} manifests removed")
                    if unneeded.locked:
                        with suppress(BadInput):  # gone with what it was attached to
                            await registry.lock(unneeded.repository, unneeded.digest, unneeded.tags, on=False)
                    await registry.remove(unneeded.repository, unneeded.digest)
            left = f", {len(decided.left)} unneeded ones stay" if decided.left else ""
            step.say(f"{len(gone)} manifests {'would go' if dry_run else 'removed'}{left}")
            gone_places = {(each.repository, each.digest) for each in gone}
            return Purged(
                registry=registry.name,
                dry_run=dry_run,
                kept=kept,
                releases=tuple(sorted(release.name for place, release in go.items() if place in gone_places)),
                gone=tuple(gone),
                left=decided.left,
            )

    return tuple([await one(registry) for registry in _each_once(registries)])


async def purge_estate(
    estate: str,
    *,
    keep: int,
    older_than: timedelta,
    dry_run: bool = False,
    include_locked: bool = False,
    reporter: Reporter,
) -> tuple[Purged, ...]:
    """Purge the registries of an estate; its targets are asked what they run, and none is promoted meanwhile.

    Where somebody replicates, only the home: a replica follows it, and by itself would keep what is newest of
    the releases that it has got. SystemUnavailable when a target does not answer: what it runs would not be
    known.
    """
    since = datetime.now(UTC) - older_than
    with ExitStack() as held:
        for environment in () if dry_run else read_environments(estate):
            held.enter_context(alone(environment))
        needed, running = await needed_by(
            estate, answered(await status(estate, reporter=reporter)), since=since
        )
        async with estate_registries(estate) as registries:
            done = await purge(
                [registries.home] if registries.replication else registries.every,
                keep=keep,
                since=since,
                needed=needed,
                running=running,
                made={release.name: release.created for release in releases()},
                dry_run=dry_run,
                include_locked=include_locked,
                reporter=reporter,
            )
            if registries.replication and not dry_run:
                gone = [(each.repository, each.digest) for one in done for each in one.gone]
                await replicas_follow(registries, gone, reporter=reporter)
            return done


async def replicas_follow(registries: EstateRegistries, gone: Sequence[Place], *, reporter: Reporter) -> None:
    """Wait until the replicas have not got either what went from the home, at most the estate's deadline.

    Of one that lags, or is down, it is only said: it follows later, whether or not somebody waits.
    """

    async def one(region: str, registry: Registry) -> None:
        until = time.monotonic() + registries.deadline
        left = list(gone)
        with reporter.step(f"purge {region}, as replication brings it there") as step:
            try:
                while True:
                    found = await together(registry.find_manifest(*place) for place in left)
                    left = [place for place, held in zip(left, found, strict=True) if held]
                    step.say(f"{len(gone) - len(left)} of {len(gone)} manifests are gone")
                    if not left:
                        return
                    if time.monotonic() > until:
                        step.skipped(f"{len(left)} of {len(gone)} manifests are there still: they go later")
                        return
                    await asyncio.sleep(_PAUSE)
            except SystemUnavailable as error:
                step.skipped(f"{error}; it follows when it answers")

    home = registries.home.name
    replicas = [(region, each) for region, each in registries.regions.items() if each.name != home]
    await together(one(*each) for each in replicas if gone)


async def needed_by(
    estate: str, targets: Iterable[TargetStatus], *, since: datetime
) -> tuple[dict[str, str], set[Place]]:
    """The releases that targets and the estate's ledger have need of, and the images that run by digest."""
    needed: dict[str, str] = {}
    for environment in read_environments(estate):
        async with open_ledger(environment) as ledger:
            needed |= in_the_ledger(await ledger.entries(), since)
    running: set[Place] = set()
    for target in targets:
        for name, what in ((target.canary, "is the canary on"), (target.release, "runs on")):
            if name:
                needed[name] = f"{what} {target.target}"
        running |= {(name, digest) for name, digest in target.digests.items() if digest}
    return needed, running


def show_locked(locked: Sequence[Locked]) -> Page:
    """What is locked where, for people."""
    table = Table(
        "registry",
        Column(name="release", rank=1, below=True),
        Column(name="manifests", rank=3, right=True),
        Column(name="locked now", rank=2, right=True),
        Column(name="tags", rank=4, right=True),
    )
    for one in locked:
        table.add(one.registry, one.release, str(one.manifests), str(one.new), str(one.tags))
    return page(table)


def show_purged(purged: Sequence[Purged]) -> Page:
    """What went, what stays and why, for people."""
    lines: list[Line] = []
    for one in purged:
        lines.append(words((one.registry, "bold")))
        for kept in one.kept:
            lines.append(words(f"  stays    release {kept.release}: {kept.why}"))
        word = "would go" if one.dry_run else "gone"
        for name in one.releases:
            lines.append(words((f"  {word:<8} release {name}", "yellow")))
        for each in one.gone:
            lines.append(words((f"  {word:<8} {_shown(each)}", "yellow")))
        for each in one.left:
            lines.append(words((f"  stays    {_shown(each)}: {each.why}", "dim")))
        size = sum(each.size or 0 for each in one.gone)
        total = f"{len(one.gone)} manifests" + (f" that name {size / 2**20:.1f} MiB" if size else "")
        lines.append(words(f"  {total} {'would go' if one.dry_run else 'removed'}"))
    return page(*lines)


def _shown(one: Unneeded) -> str:
    tags = f" ({', '.join(one.tags)})" if one.tags else ""
    return f"{one.repository}@{one.digest[:19]}{tags}"


def _each_once(registries: Sequence[Registry]) -> list[Registry]:
    """One endpoint of each registry: what is done at one is replicated to the others."""
    return list({registry.name: registry for registry in reversed(registries)}.values())[::-1]


def _roots(release: Release) -> list[Place]:
    images = [(image.name, image.digest) for image in release.images]
    attached = [(image.name, digest) for image in release.images for digest in image.attestations.values()]
    return [*images, *attached, (release.chart.name, release.chart.digest)]


async def _still_names(registry: Registry, place: Place, tag: str) -> None:
    name, digest = place
    manifest, tagged = await together(
        [registry.find_manifest(name, digest), registry.find_manifest(name, tag)]
    )
    if manifest is None or tagged is None:
        lost = f"@{digest}" if manifest is None else f":{tag}"
        raise BadInput(
            f"{registry.endpoint}/{name}{lost} is not in the registry",
            hint="va ship publishes a release; va registry status says what a region lacks",
        )
    if tagged.descriptor.digest != digest:
        raise PolicyBlocked(
            f"{registry.endpoint}/{name}:{tag} was moved from {digest} to {tagged.descriptor.digest}",
            hint="find out by whom before you lock anything; va ship puts it back",
        )


async def _needs(registry: Registry, root: Place) -> set[Place]:
    """A manifest, all below it and all that is attached to any of these. Lost ones are needed too."""
    name = root[0]
    found: set[Place] = set()

    async def add(digest: str) -> None:
        if (name, digest) in found:
            return
        found.add((name, digest))
        manifest = await registry.find_manifest(name, digest)
        children = manifest.manifests if manifest else ()
        attached = await registry.referrers(name, digest)
        await together(add(one.digest) for one in (*children, *attached))

    await add(root[1])
    return found


async def _releases(registry: Registry, records: Iterable[Held]) -> dict[Place, Release]:
    """Every release in a registry, by where its record is."""

    async def read(held: Held) -> tuple[Place, Release] | None:
        manifest = await registry.find_manifest(RELEASES, held.digest)
        if manifest is None or manifest.artifact_type != RELEASE_TYPE:
            return None
        return (RELEASES, held.digest), await _release(registry, manifest)

    found = await together(read(one) for one in records)
    return dict(one for one in found if one)


async def _release(registry: Registry, manifest: Manifest) -> Release:
    digest = manifest.descriptor.digest
    try:
        (layer,) = manifest.layers
        return Release.model_validate_json(await registry.blob(RELEASES, layer))
    except (ValidationError, ValueError, BadInput) as error:
        said = in_words(error) if isinstance(error, ValidationError) else str(error)
        raise SystemUnavailable(
            f"nothing was removed: {registry.endpoint}/{RELEASES}@{digest} is no release we know: {said}",
            hint="it is damaged, or another version of this project made it: purge with that one, "
            "or remove it by hand",
        ) from error


async def _ages(
    registry: Registry, go: Mapping[Place, Release]
) -> tuple[dict[Place, datetime], dict[Place, set[Place]]]:
    """When that was made which releases name that go, the last release counts; and what each of it names."""
    ages: dict[Place, datetime] = {}
    children: dict[Place, set[Place]] = {}

    async def look(place: Place, release: Release) -> None:
        below = children[place] = await _needs(registry, place)
        for each in below:
            ages[each] = max(release.created, ages.get(each, release.created))

    for place, release in go.items():
        await together(look(each, release) for each in (place, *_roots(release)))
    return ages, children

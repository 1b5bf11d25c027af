"""Proof that a region's registry has all of a release, by digest, asked at that region's own endpoint.

Nothing is believed that was not asked for there: every manifest is fetched and its bytes checked against its
digest, every config and layer is asked for by digest and size, and so is everything attached. All questions
are asked at once: one round, when the manifests are known from where they were pushed to (`survey`), else one
more for what lies below each manifest. However many layers there are, none waits for another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ci.concurrency import both, together
from ci.errors import PipelineError
from ci.registry import Bundle, Descriptor, Manifest, Registry
from ci.release import Release
from ci.supply.attestations import RELEASES, release_bundle

__all__ = ["Availability", "Contents", "State", "contents", "prove", "survey", "wait_until_there"]

_FIRST_PAUSE = 0.1
_SLOWER = 1.2
_LONGEST_PAUSE = 5.0

Place = tuple[str, str]
"""A repository and a digest in it."""


class State(StrEnum):
    """What one question to a region found out."""

    THERE = "there"
    LAGGING = "lagging"
    """It answers, and lacks something: replication is not done, or lost an event."""
    DOWN = "down"
    """It does not answer, or not as it should (a digest that is not the one asked for)."""


@dataclass(frozen=True, kw_only=True)
class Availability:
    """What one region has of a release. `seconds`: how long it was waited for."""

    endpoint: str
    state: State
    missing: tuple[str, ...]
    """`repository@digest` of what is not there; what lies below a missing manifest only where it is known."""
    checked: int
    """How many manifests and blobs were found there."""
    seconds: float
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What has to be in a registry."""

    roots: frozenset[Place]
    """Manifests; what they name has to be there too."""
    attached: Mapping[Place, frozenset[str]]
    """Digests that the registry has to list as attached to a manifest; they have to be there too."""
    known: Mapping[str, Manifest] = field(default_factory=dict)
    """Manifests by digest, so that what they name can be asked for without reading them first."""


def contents(what: Release | Mapping[str, Iterable[Bundle]]) -> Contents:
    """All that a release names, and the release itself; or these bundles, by repository.

    A bundle with a subject has to be listed as attached to it.
    """
    attached: dict[Place, frozenset[str]] = {}
    if isinstance(what, Release):
        roots = {(what.chart.name, what.chart.digest)}
        for image in what.images:
            roots.add((image.name, image.digest))
            if image.attestations:
                attached[image.name, image.digest] = frozenset(image.attestations.values())
        made = contents({RELEASES: [release_bundle(what)]})
        return replace(made, roots=made.roots | roots, attached=attached)
    known: dict[str, Manifest] = {}
    roots = set()
    for repository, bundles in what.items():
        for bundle in bundles:
            known |= {manifest.descriptor.digest: manifest for manifest in bundle.manifests}
            if subject := bundle.root.subject:
                place = (repository, subject.digest)
                attached[place] = attached.get(place, frozenset()) | {bundle.digest}
            else:
                roots.add((repository, bundle.digest))
    return Contents(roots=frozenset(roots), attached=attached, known=known)


async def survey(home: Registry, what: Contents) -> Contents:
    """The same, with the manifests and all that is attached to them as the home registry has them.

    What it lacks is left out: to prove the home itself says what that is. SystemUnavailable when it is down.
    """
    known = dict(what.known)
    attached = dict(what.attached)
    seen: set[Place] = set()

    async def manifest(repository: str, digest: str) -> None:
        if (repository, digest) in seen:
            return
        seen.add((repository, digest))
        await both(below(repository, digest), listed(repository, digest))

    async def below(repository: str, digest: str) -> None:
        found = known.get(digest) or await home.find_manifest(repository, digest)
        if found is not None:
            known[digest] = found
            await together(manifest(repository, child.digest) for child in found.manifests)

    async def listed(repository: str, digest: str) -> None:
        found = {one.digest for one in await home.referrers(repository, digest)}
        wanted = attached.get((repository, digest), frozenset()) | found
        if wanted:
            attached[repository, digest] = wanted
            await together(manifest(repository, one) for one in wanted)

    await together(manifest(*root) for root in what.roots)
    return Contents(roots=what.roots, attached=attached, known=known)


async def prove(
    registry: Registry, what: Release | Contents, *, found: set[str] | None = None
) -> Availability:
    """Ask one region once for everything. Never raises for what the region does.

    `found` is what was there before, which is not asked for again; what is there now is added to it.
    """
    started = time.monotonic()
    wanted = contents(what) if isinstance(what, Release) else what
    found = set() if found is None else found
    asked: set[str] = set()
    missing: list[str] = []

    def answered(name: str, *, there: bool) -> None:
        if there:
            found.add(name)
        else:
            missing.append(name)

    async def manifest(repository: str, digest: str) -> None:
        name = f"{repository}@{digest}"
        if name in asked:
            return
        asked.add(name)
        known = wanted.known.get(digest)
        if known is not None:
            await both(itself(name, repository, digest), below(repository, known))
        elif held := await itself(name, repository, digest):
            await below(repository, held)

    async def itself(name: str, repository: str, digest: str) -> Manifest | None:
        if name in found and digest in wanted.known:
            return None
        held = await registry.find_manifest(repository, digest)
        answered(name, there=held is not None)
        return held

    async def below(repository: str, held: Manifest) -> None:
        await together(
            [
                *(blob(repository, descriptor) for descriptor in held.blobs),
                *(manifest(repository, child.digest) for child in held.manifests),
            ]
        )

    async def blob(repository: str, descriptor: Descriptor) -> None:
        name = f"{repository}@{descriptor.digest}"
        if name not in asked and name not in found:
            asked.add(name)
            answered(name, there=await registry.blob_size(repository, descriptor.digest) == descriptor.size)

    async def referrers(repository: str, digest: str, attached: frozenset[str]) -> None:
        """That they are there is not enough: whoever has the image's digest must find them by it."""
        names = {one: f"{repository}@{digest} lists {one}" for one in attached}
        if found.issuperset(names.values()):
            return
        listed = {one.digest for one in await registry.referrers(repository, digest)}
        for one, name in names.items():
            if one in listed:
                found.add(name)
            else:
                missing.append(f"{repository}@{digest} lists no {one}")

    work = [manifest(*root) for root in wanted.roots]
    for (repository, digest), attached in wanted.attached.items():
        work += [manifest(repository, one) for one in attached]
        work.append(referrers(repository, digest, attached))
    try:
        await together(work)
        state, problem = (State.LAGGING, f"{len(missing)} missing") if missing else (State.THERE, "")
    except PipelineError as error:
        state, problem = State.DOWN, str(error)
    return Availability(
        endpoint=registry.endpoint,
        state=state,
        missing=tuple(sorted(missing)),
        checked=sum(" lists " not in name for name in found),
        seconds=time.monotonic() - started,
        problem=problem,
    )


async def wait_until_there(
    registry: Registry,
    what: Release | Contents,
    *,
    deadline: float,
    found: Iterable[str] = (),
    progress: Callable[[Availability], None] = lambda _: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Availability:
    """Ask again for what was not there, less and less often, until all is or `deadline` seconds are over.

    `found` is what this registry was found to have a moment ago, by digest: it is not asked for again.
    """
    started = clock()
    pause = _FIRST_PAUSE
    there = set(found)
    while True:
        said = await prove(registry, what, found=there)
        waited = clock() - started
        said = replace(said, seconds=waited)
        progress(said)
        if said.state is State.THERE or waited + pause > deadline:
            return said
        await sleep(pause)
        pause = min(pause * _SLOWER, _LONGEST_PAUSE)

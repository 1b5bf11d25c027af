"""What a registry may forget: which releases stay, and which manifests nothing that stays has need of.

Pure decisions over what was asked before. In doubt a manifest stays: when it is locked, when it is younger
than the limit, when nobody knows its age.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ci.delivery.ledger import Entry, left_by
from ci.registry import Held
from ci.release import Release

__all__ = [
    "AGE_UNKNOWN",
    "Kept",
    "Place",
    "Plan",
    "Unneeded",
    "in_the_ledger",
    "plan",
    "staying",
]

Place = tuple[str, str]
"""A repository and a digest in it."""

_ATTACHED = re.compile(r"sha256-([0-9a-f]{64})(?:\..+)?")
"""Tags of what is attached to a digest: the referrers fallback, and cosign's `sha256-….sig`."""
AGE_UNKNOWN = "of unknown age"
_GOES_BACK = 2
"""How many releases of a target stay: the one that was promoted last, and the one before, to go back to."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A release that stays, and why."""

    release: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Unneeded:
    """A manifest that no release and no target has need of. `why` it stays all the same; empty: it goes."""

    repository: str
    digest: str
    tags: tuple[str, ...]
    size: int | None
    locked: bool
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which manifests go, and which unneeded ones stay."""

    gone: tuple[Unneeded, ...]
    left: tuple[Unneeded, ...]


def in_the_ledger(entries: Iterable[Entry], since: datetime) -> dict[str, str]:
    """Releases that one environment's ledger still has need of, each with the reason.

    What each target runs by its word and what it would go back to; and all that anything happened with, or
    was intended to, since then: it may be on its way.
    """
    needed: dict[str, str] = {}
    promoted: dict[str, list[str]] = {}
    for entry in entries:
        if not entry.target:
            continue
        if name := left_by(entry):
            names = promoted.setdefault(entry.target, [])
            if name in names:
                names.remove(name)
            names.append(name)
        if entry.release and entry.when >= since:
            what = entry.result or entry.action
            needed[entry.release] = f"{what} on {entry.target} at {entry.when:%Y-%m-%d %H:%M}"
    for target, names in promoted.items():
        for name in names[-_GOES_BACK:]:
            needed[name] = f"{target} goes back to it"
        needed[names[-1]] = f"was promoted last to {target}"
    return needed


def staying(
    releases: Sequence[Release], *, keep: int, since: datetime, needed: Mapping[str, str]
) -> tuple[Kept, ...]:
    """The releases that stay: the `keep` newest, all made since then, and those that somebody needs."""
    newest = sorted(releases, key=lambda release: (release.created, release.name), reverse=True)
    found = []
    for number, release in enumerate(newest):
        why = needed.get(release.name, "")
        if not why and number < keep:
            why = f"one of the {keep} newest"
        if not why and release.created >= since:
            why = f"made {release.created:%Y-%m-%d}"
        if why:
            found.append(Kept(release=release.name, why=why))
    return tuple(found)


def plan(
    held: Iterable[Held],
    *,
    needed: Collection[Place],
    ages: Mapping[Place, datetime],
    since: datetime,
    include_locked: bool = False,
) -> Plan:
    """What goes of what a registry holds. `needed`: with all that lies below it and is attached to it.

    `ages` says when something was made whose age the registry may not tell; the later time counts.
    """
    every = tuple(held)
    gone: list[Unneeded] = []
    left: list[Unneeded] = []
    for one in every:
        place = (one.repository, one.digest)
        subjects = [
            (one.repository, f"sha256:{found[1]}") for tag in one.tags if (found := _ATTACHED.fullmatch(tag))
        ]
        if place in needed or any(subject in needed for subject in subjects):
            continue
        times = [time for time in (one.updated, ages.get(place), *map(ages.get, subjects)) if time]
        if not times:
            why = AGE_UNKNOWN
        elif max(times) >= since:
            why = f"written {max(times):%Y-%m-%d}"
        elif one.locked and not include_locked:
            why = "locked"
        else:
            why = ""
        found_one = Unneeded(
            repository=one.repository,
            digest=one.digest,
            tags=one.tags,
            size=one.size,
            locked=one.locked,
            why=why,
        )
        (left if why else gone).append(found_one)
    return Plan(gone=tuple(gone), left=tuple(left))

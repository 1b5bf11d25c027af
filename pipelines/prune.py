"""Forget old backup sets: their files, the copies of blobs that they alone name, the log before the rest."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ci import platform, tools
from ci.errors import BadInput
from ci.platform.instance import instance
from ci.platform.stores import stores
from ci.recovery import blobs, postgres, sets
from ci.recovery.sets import BackupSet, BlobCopy
from ci.reporting import Reporter
from pipelines.recovery import account_of, sets_locked

if TYPE_CHECKING:
    from ci.layout import Page

__all__ = ["Kept", "Pruned", "prune", "show_pruned"]

_GOING = ".pruned-"
"""What a set's folder is called from when it is given up until all that was its alone is gone."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A set that stays, and why."""

    name: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was removed, or would be (`dry_run`); `size` in bytes, of files of sets."""

    dry_run: bool
    kept: tuple[Kept, ...]
    gone: tuple[str, ...]
    size: int
    snapshots: int
    """Copies of blobs that no set needs any more: that were there; in a dry run, that are named."""
    segments: int
    """Files of archived logs that lie before every set that stays."""


async def prune(
    *,
    keep: int,
    older_than: timedelta,
    folder: Path | None = None,
    dry_run: bool = False,
    reporter: Reporter,
) -> Pruned:
    """Remove sets that are older, beyond the `keep` newest of each store of each source.

    A set disappears from the list first, then what it alone had: interrupted, the same command goes on.
    BadInput before anything is removed when a set cannot be read: what it needs would not be known. Sets of
    other folders are not seen: copies of blobs that they share with these go with the last set of this one.
    """
    folder = folder or sets.sets_folder()
    since = datetime.now(UTC) - older_than
    async with sets_locked(folder, reporter):
        found = {path: _read(path) for path in sets.sets_in(folder)}
        why = sets.staying(found.values(), keep=keep, since=since)
        # A name is what a set says of itself; its folder may have been copied.
        stay = {path: one for path, one in found.items() if one.name in why}
        go = {path: one for path, one in found.items() if one.name not in why}
        half = {path: _half_gone(path) for path in sorted(folder.glob(f"{_GOING}*"))}
        copies = _unneeded([*go.values(), *(one for one in half.values() if one)], stay.values())
        size = sum(file.size for one in go.values() for file in one.files)
        segments = await _cut_logs(stay, dry_run=dry_run)
        if dry_run:
            snapshots = sum(map(len, copies.values()))
        else:
            going = [_give_up(path) for path in go]
            snapshots = await _remove_copies(copies, reporter)
            with reporter.step("remove sets") as step:
                for path in [*going, *half]:
                    await asyncio.to_thread(shutil.rmtree, path)
                step.say(f"{len(go)} of {len(found)}, {size / 2**20:.1f} MiB")
    return Pruned(
        dry_run=dry_run,
        kept=tuple(Kept(name=one.name, why=why[one.name]) for one in stay.values()),
        gone=tuple(one.name for one in go.values()),
        size=size,
        snapshots=snapshots,
        segments=segments,
    )


def _read(path: Path) -> BackupSet:
    try:
        return sets.read_set(path)
    except BadInput as error:
        raise BadInput(
            f"{error}. What it needs of the others cannot be told: nothing was removed",
            hint=f"move {path} away, or remove it, and run the same command again",
        ) from error


def _give_up(path: Path) -> Path:
    going = path.with_name(f"{_GOING}{path.name}")
    path.rename(going)
    return going


def _half_gone(path: Path) -> BackupSet | None:
    """The set that an earlier run has given up; None when its manifest is gone: then its copies are, too."""
    try:
        return sets.read_set(path)
    except (OSError, BadInput):
        return None


def _unneeded(go: Collection[BackupSet], stay: Collection[BackupSet]) -> dict[str, set[BlobCopy]]:
    """By source: the copies of blobs that sets which go name, and none that stays."""

    def key(one: BlobCopy) -> tuple[str, str, str]:
        return one.container, one.name, one.snapshot

    needed = {(each.source, *key(one)) for each in stay for one in (each.blobs.blobs if each.blobs else ())}
    found: dict[str, set[BlobCopy]] = {}
    for each in go:
        for one in each.blobs.blobs if each.blobs else ():
            if (each.source, *key(one)) not in needed:
                found.setdefault(each.source, set()).add(one)
    return found


async def _remove_copies(copies: dict[str, set[BlobCopy]], reporter: Reporter) -> int:
    removed = 0
    for source, mine in sorted(copies.items()):
        own = stores(instance(), source)
        await platform.up(reporter, [own.secondary])
        with reporter.step(f"remove copies of {source}'s blobs") as step:
            removed += (count := await blobs.remove(account_of(own, "secondary"), mine))
            step.say(f"{count} snapshots")
    return removed


async def _cut_logs(stay: dict[Path, BackupSet], *, dry_run: bool) -> int:
    """Take away what lies before the first segment that any set needs which stays, of each archived log."""
    first: dict[Path, str] = {}
    for path, one in stay.items():
        archive = one.postgres.archive if one.postgres else None
        if archive is not None and archive.is_dir():
            needed = await asyncio.to_thread(postgres.first_segment, path)
            # The first eight digits are the timeline, which says nothing of the order.
            first[archive] = min(first.get(archive, needed), needed, key=lambda name: name[8:])
    programs = tools.path("postgres").parent if first else Path()
    return sum(
        [
            await postgres.cut_log(archive, segment, programs, dry_run=dry_run)
            for archive, segment in sorted(first.items())
        ]
    )


def show_pruned(done: Pruned) -> Page:
    """What went and what stays, for people."""
    from ci.layout import Column, Table, page

    table = Table("set", Column(name="what becomes of it", rank=1, below=True, prose=True))
    verb = "would go" if done.dry_run else "gone"
    for name in done.gone:
        table.add(name, (verb, "red"))
    for one in done.kept:
        table.add(one.name, f"stays: {one.why}")
    return page(
        table,
        f"{len(done.gone)} sets {verb} ({done.size / 2**20:.1f} MiB), with {done.snapshots} copies of blobs "
        f"and {done.segments} files of the log; {len(done.kept)} stay",
    )

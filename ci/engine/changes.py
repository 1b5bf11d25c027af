"""Answers of Changeset, and of what applies changes to a Directory: patches and changesets.

What counts as a change is what git counts: content, kind, and whether a file may be run; of folders that they
are there. Patches are made and applied by git, in folders of ours and without anybody's configuration.
"""

from __future__ import annotations

import asyncio
import posixpath
import shutil
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from ci.engine import git
from ci.engine.chain import Call
from ci.engine.engine import Engine, NotSupported, answer
from ci.engine.files import copied_directory
from ci.engine.host import exported, removed_below
from ci.engine.store import digest_of, full_disk_is_told
from ci.engine.tree import Entry, Layer, Tree
from ci.engine.values import Directory, File, Record
from ci.errors import BadInput

__all__ = ["Changeset", "altered"]

_PATCH = "diff.patch"
Entries = dict[str, Entry]


@dataclass(frozen=True, kw_only=True)
class Changeset:
    """Two directories, the second one made of the first."""

    before: Directory = field(default_factory=Directory)
    after: Directory = field(default_factory=Directory)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Paths from the folder's root; those of folders end with a slash."""

    added: tuple[str, ...]
    modified: tuple[str, ...]
    removed: tuple[str, ...]
    """Without what is in a folder that is removed."""


def _entries(tree: Tree, place: Directory, without: str = "") -> Entries:
    """All that is in a folder, by its path from there, each folder before what is in it."""
    start = tree.need(place.path)
    if not start.is_dir:
        raise BadInput(f"/{place.path} is not a directory")
    found = {entry.path[len(start.path) :].lstrip("/"): entry for entry in tree.walk(start)}
    hidden = f"{without}/"
    return {name: one for name, one in found.items() if not without or not f"{name}/".startswith(hidden)}


def _changes(old: Entries, new: Entries) -> Changes:
    def told(name: str, entry: Entry) -> str:
        return f"{name}/" if entry.is_dir else name

    def order(names: Sequence[str]) -> tuple[str, ...]:
        return (*(n for n in names if not n.endswith("/")), *(n for n in names if n.endswith("/")))

    both = [(name, old[name], new[name]) for name in new if name in old]
    turned = [name for name, before, after in both if before.is_dir != after.is_dir]
    gone = sorted(told(name, old[name]) for name in old if name not in new or name in turned)
    top: list[str] = []
    for name in gone:
        if not (top and top[-1].endswith("/") and name.startswith(top[-1])):
            top.append(name)
    return Changes(
        added=order([told(name, new[name]) for name in new if name not in old or name in turned]),
        modified=tuple(name for name, before, after in both if not before.is_dir and not _same(before, after)
                       and name not in turned),
        removed=tuple(top),
    )  # fmt: skip


def _same(one: Entry, other: Entry) -> bool:
    """Whether git would see no change of what is no folder in both."""
    if (one.stat.st_dev, one.stat.st_ino) == (other.stat.st_dev, other.stat.st_ino):
        return True
    if stat.S_IFMT(one.stat.st_mode) != stat.S_IFMT(other.stat.st_mode):
        return False
    if one.is_link:
        return one.link() == other.link()
    if not one.is_file:
        return True
    if (one.mode ^ other.mode) & stat.S_IXUSR or one.stat.st_size != other.stat.st_size:
        return False
    with one.open() as left, other.open() as right:
        while data := left.read(1 << 20):
            if data != right.read(len(data)):
                return False
    return True


async def _paths(engine: Engine, found: Changeset) -> Changes:
    """The paths of a changeset, compared once."""
    before, after = found.before, found.after

    def fact() -> dict[str, list[str]]:
        old = _entries(engine.tree(before.layers), before)
        made = _changes(old, _entries(engine.tree(after.layers), after))
        return {name: list(getattr(made, name)) for name in ("added", "modified", "removed")}

    if before == after:
        return Changes(added=(), modified=(), removed=())
    needs = tuple(dict.fromkeys((*before.layers, *after.layers)))
    key = ("changes", before.layers, before.path, after.layers, after.path)
    row = await engine.remembered(key, needs, fact)
    return Changes(**{name: tuple(paths) for name, paths in row.items()})


def _write(layer: Layer, base: str, old: Entries, new: Entries, changes: Changes) -> None:
    """Make the changes below a path of the layer's tree. `old`: what is there before them."""
    for name in changes.removed:
        if (bare := name.rstrip("/")) in old:
            layer.remove(posixpath.join(base, bare))
    for name in (*changes.added, *changes.modified):
        bare = name.rstrip("/")
        target = posixpath.join(base, bare)
        if bare in old and old[bare].is_dir and not new[bare].is_dir and name not in changes.removed:
            layer.remove(target)
        layer.copy(new[bare], target, link=True)


async def altered(
    engine: Engine,
    place: Directory,
    what: tuple[Any, ...],
    change: Callable[[Path], Awaitable[Any]],
    *,
    without: str = "",
) -> Directory:
    """A directory after `change` was let loose on a copy of it; `what` says all that it depends on.

    The copy shares its files with the layers: whatever changes one has to write it anew, as git does. What is
    at `without` is not in the copy, and stays as it is.
    """
    loop = asyncio.get_running_loop()

    def write(layer: Layer) -> None:
        old = _entries(engine.tree(place.layers), place, without)
        folder = engine.store.scratch("work")
        copy = Layer(Tree([]), folder)
        for name, entry in old.items():
            copy.copy(entry, name, link=True)
        asyncio.run_coroutine_threadsafe(_run(change, folder), loop).result()
        new = _entries(Tree([folder]), Directory())
        _write(layer, place.path, old, new, _changes(old, new))
        engine.store.discard(folder)

    return replace(
        place, layers=await engine.layered(place.layers, ("altered", place.path, without, *what), write)
    )


async def _run(change: Callable[[Path], Awaitable[Any]], folder: Path) -> None:
    await change(folder)


# patches


@answer("Directory.withPatch")
async def with_patch(engine: Engine, parent: Directory, call: Call) -> Directory:
    return await _patched(engine, parent, call.args["patch"])


@answer("Directory.withPatchFile")
async def with_patch_file(engine: Engine, parent: Directory, call: Call) -> Directory:
    file: File = await engine.value(call.args["patch"])
    data = await asyncio.to_thread(engine.tree(file.layers).read, file.path)
    return await _patched(engine, parent, data.decode("utf-8", "surrogateescape"))


async def _patched(engine: Engine, parent: Directory, patch: str) -> Directory:
    if not patch.strip():
        return parent

    async def change(folder: Path) -> None:
        file = engine.store.scratch("patch") / _PATCH
        file.write_bytes(patch.encode("utf-8", "surrogateescape"))
        done = await git.neutral("apply", "--", file, cwd=folder, check=False)
        if done.code:
            raise BadInput("failed to apply patch: " + " ".join(done.stderr.split())[:500])

    return await altered(engine, parent, ("patch", patch), change)


@answer("Changeset.asPatch")
async def as_patch(engine: Engine, parent: Changeset, call: Call) -> File:
    key = digest_of("patch", _named(parent))

    async def make() -> dict[str, Any]:
        known = await asyncio.to_thread(engine.store.result, key)
        if known is None:
            folder = engine.store.scratch("patch")
            (folder / _PATCH).touch()
            await _diff(engine, parent, f"--output={folder / _PATCH}", "--binary")
            known = engine.store.keep(key, {"layers": [engine.store.add_layer(folder)]})
        return known

    return File(tuple((await engine.once(key, make))["layers"]), _PATCH, _PATCH)


def _named(found: Changeset) -> list[Any]:
    return [found.before.layers, found.before.path, found.after.layers, found.after.path]


async def _diff(engine: Engine, found: Changeset, *options: str) -> str:
    """What git tells of the changes, between folders `a` and `b` that hold what differs."""
    changes = await _paths(engine, found)
    folder = engine.store.scratch("diff")

    def copy() -> None:
        for side, place in (("a", found.before), ("b", found.after)):
            (folder / side).mkdir()
            layer = Layer(Tree([]), folder / side)
            entries = _entries(engine.tree(place.layers), place)
            named = {*changes.added, *changes.modified, *changes.removed}
            folders = tuple(name for name in changes.removed if name.endswith("/"))
            for name, entry in entries.items():
                if not entry.is_dir and (name in named or name.startswith(folders)):
                    layer.copy(entry, name, link=True)

    with full_disk_is_told(engine.store.root):
        await asyncio.to_thread(copy)
        done = await git.neutral(
            "diff", "--no-prefix", "--no-index", *options, "a", "b", cwd=folder, check=False
        )
        await asyncio.to_thread(shutil.rmtree, folder)
    if done.code not in (0, 1):
        raise BadInput(f"git cannot tell the changes: {done.stderr.strip()[-500:]}")
    return done.stdout


# changesets


@answer("Query.changeset")
async def changeset(engine: Engine, parent: None, call: Call) -> Changeset:
    return Changeset()


@answer("Directory.changes")
async def directory_changes(engine: Engine, parent: Directory, call: Call) -> Changeset:
    return Changeset(before=await engine.value(call.args["from"]), after=parent)


@answer("Changeset.before")
async def before(engine: Engine, parent: Changeset, call: Call) -> Directory:
    return parent.before


@answer("Changeset.after")
async def after(engine: Engine, parent: Changeset, call: Call) -> Directory:
    return parent.after


@answer("Changeset.addedPaths")
async def added_paths(engine: Engine, parent: Changeset, call: Call) -> list[str]:
    return list((await _paths(engine, parent)).added)


@answer("Changeset.modifiedPaths")
async def modified_paths(engine: Engine, parent: Changeset, call: Call) -> list[str]:
    return list((await _paths(engine, parent)).modified)


@answer("Changeset.removedPaths")
async def removed_paths(engine: Engine, parent: Changeset, call: Call) -> list[str]:
    return list((await _paths(engine, parent)).removed)


@answer("Changeset.isEmpty")
async def is_empty(engine: Engine, parent: Changeset, call: Call) -> bool:
    """As git sees it: a folder more or less is none."""
    found = await _paths(engine, parent)
    files = [name for name in (*found.added, *found.modified, *found.removed) if not name.endswith("/")]
    return not files and not await _diff(engine, parent, "--name-only", "-z")


@answer("Changeset.layer")
async def layer(engine: Engine, parent: Changeset, call: Call) -> Directory:
    """What was added or modified, alone."""
    changes = await _paths(engine, parent)

    def write(layer: Layer) -> None:
        new = _entries(engine.tree(parent.after.layers), parent.after)
        _write(layer, "", {}, new, changes)

    return Directory(await engine.layered((), ("changes", _named(parent)), write))


@answer("Changeset.diffStats")
async def diff_stats(engine: Engine, parent: Changeset, call: Call) -> list[Record]:
    changes = await _paths(engine, parent)
    told = await _diff(engine, parent, "--numstat", "--no-renames", "-z")
    lines: dict[str, tuple[int, int]] = {}
    words = iter(told.split("\0"))
    for word in words:
        if not word:
            continue
        added, removed, path = word.split("\t")
        paths = [path] if path else [next(words), next(words)]
        name = next(one for one in paths if one != "/dev/null").partition("/")[2]
        lines[name] = (0, 0) if added == "-" else (int(added), int(removed))
    kinds = {"ADDED": changes.added, "MODIFIED": changes.modified, "REMOVED": changes.removed}
    return [
        Record(
            {
                "path": name,
                "oldPath": None,
                "kind": kind,
                "addedLines": lines.get(name, (0, 0))[0],
                "removedLines": lines.get(name, (0, 0))[1],
            }
        )
        for kind, names in kinds.items()
        for name in names
    ]


@answer("Directory.withChanges")
async def with_changes(engine: Engine, parent: Directory, call: Call) -> Directory:
    return await _with(engine, parent, await engine.value(call.args["changes"]))


async def _with(engine: Engine, place: Directory, found: Changeset) -> Directory:
    changes = await _paths(engine, found)

    def write(layer: Layer) -> None:
        old = _entries(engine.tree(place.layers), place)
        _write(layer, place.path, old, _entries(engine.tree(found.after.layers), found.after), changes)

    what = ("with changes", place.path, _named(found))
    return replace(place, layers=await engine.layered(place.layers, what, write))


@answer("Changeset.withChangeset")
async def with_changeset(engine: Engine, parent: Changeset, call: Call) -> Changeset:
    other: Changeset = await engine.value(call.args["changes"])
    return await _merged(engine, [parent, other], call.args["onConflict"])


@answer("Changeset.withChangesets")
async def with_changesets(engine: Engine, parent: Changeset, call: Call) -> Changeset:
    others: list[Changeset] = await asyncio.gather(*(engine.value(one) for one in call.args["changes"]))
    return await _merged(engine, [parent, *others], call.args["onConflict"])


async def _merged(engine: Engine, found: Sequence[Changeset], on_conflict: str) -> Changeset:
    """One changeset of several that touch different paths."""
    touched = [await _paths(engine, one) for one in found]
    for one, other in combinations(touched, 2):
        both = _clashing(one, other) | _clashing(other, one)
        if both and on_conflict == "FAIL_EARLY":
            raise BadInput(f"conflict between changesets at path {min(both)!r}")
        if both:
            raise NotSupported(
                f"Changeset.withChangeset of two that touch {min(both)}",
                "Directory.withChanges, one after another",
            )
    start = found[0].before
    for each in found[1:]:  # what any of them began with is there
        if each.before != start:
            layers = await copied_directory(engine, start.layers, start.path, each.before, {}, None)
            start = replace(start, layers=layers)
    end = start
    for each in found:
        end = await _with(engine, end, each)
    return Changeset(before=start, after=end)


def _clashing(one: Changes, other: Changes) -> set[str]:
    """What the other touches that is, or is in, a file that one makes or something that it removes."""
    made = {*one.modified, *(name for name in one.added if not name.endswith("/"))}
    gone, gone_too = {name.rstrip("/") for name in one.removed}, {*other.removed}
    found = set()
    for name in (*other.added, *other.modified, *other.removed):
        path = bare = name.rstrip("/")
        while path:
            if path in made or (path in gone and name not in gone_too):
                found.add(bare)
            path = posixpath.dirname(path)
    return found


@answer("Changeset.export")
async def export(engine: Engine, parent: Changeset, call: Call) -> str:
    """Write what was added or modified into a folder of this machine, and remove from it what was removed:
    what was in the first directory, and nothing that it was made without."""
    changes = await _paths(engine, parent)
    path = call.args["path"]

    def gone() -> list[str]:
        entries = _entries(engine.tree(parent.before.layers), parent.before)
        folders = tuple(name for name in changes.removed if name.endswith("/"))
        names = (f"{name}/" if entry.is_dir else name for name, entry in entries.items())
        return [name for name in names if name in changes.removed or name.startswith(folders)]

    if changes.removed:
        await removed_below(engine, path, await asyncio.to_thread(gone))
    return await exported(engine, await layer(engine, parent, call), path, keep_modes=True)

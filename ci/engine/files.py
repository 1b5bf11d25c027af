"""Answers of Directory and File: everything that reads and changes trees without running a command."""

from __future__ import annotations

import asyncio
import os
import posixpath
import stat
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ci.engine.chain import Call
from ci.engine.engine import Engine, NotSupported, answer
from ci.engine.patterns import choose, glob
from ci.engine.tree import MOST_BYTES, Entry, Layer, Tree, content_digest, too_large
from ci.engine.values import Directory, File, Host, Place, Record
from ci.errors import BadInput

__all__ = [
    "base_name",
    "copied_directory",
    "copied_file",
    "file_at",
    "folder_at",
    "inside",
    "numeric_owner",
    "text_of",
]

_LARGE = 1 << 20
Owner = tuple[int, int] | None


def inside(place: Place | str, path: str) -> str:
    """A path below a place; `..` does not lead out of it."""
    base = place if isinstance(place, str) else place.path
    return posixpath.join(base, posixpath.normpath(posixpath.join("/", path)).lstrip("/")).rstrip("/")


def numeric_owner(owner: str) -> Owner:
    """`1000:1000` or `1000`; names mean nothing without a container."""
    if not owner:
        return None
    user, _, group = owner.partition(":")
    if not user.isdigit() or (group and not group.isdigit()):
        raise BadInput(f"owner {owner!r}: a directory knows numbers only, as in 1000:1000")
    return int(user), int(group or user)


async def copied_directory(
    engine: Engine, base: tuple[str, ...], path: str, source: Directory, args: dict[str, Any], owner: Owner
) -> tuple[str, ...]:
    """`base` with a copy of `source`, or what the filters leave of it, at `path`."""
    filters: dict[str, Any] = {
        "include": args.get("include") or (),
        "exclude": args.get("exclude") or (),
        "gitignore": bool(args.get("gitignore")),
    }
    mode = args.get("permissions")

    def selected() -> list[tuple[str, Entry]]:
        tree = engine.tree(source.layers)
        return choose(tree, folder_at(tree, source), **filters)

    digest = await engine.remembered(
        ("selected", source.path, filters), source.layers, lambda: content_digest(selected())
    )

    def write(layer: Layer) -> None:
        target = layer.target(path)
        for name, entry in selected():
            layer.copy(entry, posixpath.join(target, name).rstrip("/"), owner=owner, mode=mode, link=True)

    made = await engine.layered(base, ("copy", digest, path, owner, mode), write)
    return engine.vouch(made, base, source.layers)


async def copied_file(
    engine: Engine, base: tuple[str, ...], path: str, source: File, mode: int | None, owner: Owner
) -> tuple[str, ...]:
    """`base` with a copy of a file at `path`, or in it when that is a folder there."""

    def fact() -> str:
        return content_digest([("", file_at(engine.tree(source.layers), source))])

    digest = await engine.remembered(("file", source.path), source.layers, fact)
    there = engine.tree(base).find(path)
    if there and there.is_dir:
        path = posixpath.join(path, base_name(source))

    def write(layer: Layer) -> None:
        entry = file_at(engine.tree(source.layers), source)
        layer.copy(entry, layer.target(path), owner=owner, mode=mode, link=True)

    made = await engine.layered(base, ("copy file", digest, path, owner, mode), write)
    return engine.vouch(made, base, source.layers)


def base_name(file: File) -> str:
    """The name that a file is copied under."""
    return file.name or posixpath.basename(file.path)


def folder_at(tree: Tree, place: Place) -> Entry:
    """The folder that a place is; BadInput where it is none."""
    entry = tree.need(place.path)
    if not entry.is_dir:
        raise BadInput(f"/{place.path} is not a directory")
    return entry


def file_at(tree: Tree, place: Place) -> Entry:
    """The file that a place is; BadInput where it is none."""
    entry = tree.need(place.path)
    if not entry.is_file:
        raise BadInput(f"/{place.path} is not a file")
    return entry


async def text_of(engine: Engine, file: File) -> str:
    """A file that is to be text, in UTF-8."""
    data = await asyncio.to_thread(engine.tree(file.layers).read, file.path)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"/{file.path} is no text in UTF-8 ({error.reason} at byte {error.start})") from error


# directory


@answer("Query.directory")
async def directory(engine: Engine, parent: None, call: Call) -> Directory:
    return Directory()


@answer("Query.file")
async def new_file(engine: Engine, parent: None, call: Call) -> File:
    name, data, mode = call.args["name"], _bytes(call.args["contents"]), call.args["permissions"]
    if "/" in name:
        raise BadInput(f"{name!r}: the name of a file has no slash")
    layers = await engine.layered(
        (), ("file", name, call.args["contents"], mode), lambda layer: layer.write(name, data, mode=mode)
    )
    return File(engine.vouch(layers), name, name)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@answer("Directory.directory")
async def directory_directory(engine: Engine, parent: Directory, call: Call) -> Directory:
    place = Directory(parent.layers, inside(parent, call.args["path"]))
    folder_at(engine.tree(place.layers), place)
    return place


@answer("Directory.file")
async def directory_file(engine: Engine, parent: Directory, call: Call) -> File:
    place = File(parent.layers, inside(parent, call.args["path"]), posixpath.basename(call.args["path"]))
    file_at(engine.tree(place.layers), place)
    return place


@answer("Directory.withNewFile")
async def directory_with_new_file(engine: Engine, parent: Directory, call: Call) -> Directory:
    path, mode = inside(parent, call.args["path"]), call.args["permissions"]
    data = _bytes(call.args["contents"])
    layers = await engine.layered(
        parent.layers,
        ("new file", path, call.args["contents"], mode),
        lambda layer: layer.write(layer.target(path), data, mode=mode),
    )
    return replace(parent, layers=engine.vouch(layers, parent.layers))


@answer("Directory.withNewDirectory")
async def directory_with_new_directory(engine: Engine, parent: Directory, call: Call) -> Directory:
    path, mode = inside(parent, call.args["path"]), call.args["permissions"]
    mode = 0o755 if mode == 0o644 else mode
    layers = await engine.layered(
        parent.layers,
        ("new folder", path, mode),
        lambda layer: layer.folder(layer.target(path), mode=mode),
    )
    return replace(parent, layers=layers)


@answer("Directory.withSymlink")
async def directory_with_symlink(engine: Engine, parent: Directory, call: Call) -> Directory:
    path, target = inside(parent, call.args["linkName"]), call.args["target"]
    layers = await engine.layered(
        parent.layers,
        ("symlink", path, target),
        lambda layer: layer.symlink(
            posixpath.join(layer.target(posixpath.dirname(path)), posixpath.basename(path)), target
        ),
    )
    return replace(parent, layers=layers)


@answer("Directory.withDirectory")
async def directory_with_directory(engine: Engine, parent: Directory, call: Call) -> Directory:
    source: Directory = await engine.value(call.args["source"])
    path, owner = inside(parent, call.args["path"]), numeric_owner(call.args["owner"])
    return replace(
        parent, layers=await copied_directory(engine, parent.layers, path, source, call.args, owner)
    )


@answer("Directory.withFile")
async def directory_with_file(engine: Engine, parent: Directory, call: Call) -> Directory:
    source: File = await engine.value(call.args["source"])
    path = inside(parent, call.args["path"])
    owner = numeric_owner(call.args["owner"])
    layers = await copied_file(engine, parent.layers, path, source, call.args["permissions"], owner)
    return replace(parent, layers=layers)


@answer("Directory.withFiles")
async def directory_with_files(engine: Engine, parent: Directory, call: Call) -> Directory:
    layers = parent.layers
    for source in await asyncio.gather(*(engine.value(item) for item in call.args["sources"])):
        path = posixpath.join(inside(parent, call.args["path"]), base_name(source))
        layers = await copied_file(engine, layers, path, source, call.args["permissions"], None)
    return replace(parent, layers=layers)


@answer("Directory.withoutFile", "Directory.withoutDirectory", "Directory.withoutFiles")
async def directory_without(engine: Engine, parent: Directory, call: Call) -> Directory:
    given = call.args.get("paths") or [call.args["path"]]
    return replace(
        parent, layers=await removed(engine, parent.layers, [inside(parent, path) for path in given])
    )


async def removed(engine: Engine, layers: tuple[str, ...], paths: Sequence[str]) -> tuple[str, ...]:
    """Layers that show those paths (or what matches them) no more."""
    tree = engine.tree(layers)
    gone: list[str] = []
    for path in paths:
        entry, missing = tree.resolve(posixpath.dirname(path))
        if missing:
            continue
        if any(char in path for char in "*?["):
            names = [item.path for item in tree.walk(tree.root)]
            gone.extend(glob(path, names))
        elif tree.child(entry, posixpath.basename(path)):
            gone.append(posixpath.join(entry.path, posixpath.basename(path)))
    if not gone:
        return layers

    def write(layer: Layer) -> None:
        for path in gone:
            layer.remove(path)

    return engine.vouch(await engine.layered(layers, ("remove", gone), write), layers)


@answer("Directory.filter")
async def directory_filter(engine: Engine, parent: Directory, call: Call) -> Directory:
    return Directory(await copied_directory(engine, (), "", parent, call.args, None))


@answer("Directory.chown")
async def directory_chown(engine: Engine, parent: Directory, call: Call) -> Directory:
    owner = numeric_owner(call.args["owner"])
    path = inside(parent, call.args["path"])

    def write(layer: Layer) -> None:
        tree = engine.tree(parent.layers)
        entry = tree.need(path)
        for each in [entry, *(tree.walk(entry) if entry.is_dir else ())]:
            if each.is_dir:
                layer.folder(each.path, owner=owner)
            else:
                layer.copy(each, each.path, owner=owner)

    return replace(parent, layers=await engine.layered(parent.layers, ("chown", path, owner), write))


@answer("Directory.diff")
async def directory_diff(engine: Engine, parent: Directory, call: Call) -> Directory:
    """What `other` has that this has not, or has otherwise; what it lacks does not show."""
    other: Directory = await engine.value(call.args["other"])

    def write(layer: Layer) -> None:
        before, after = engine.tree(parent.layers), engine.tree(other.layers)
        start = folder_at(after, other)
        for entry in after.walk(start):
            name = posixpath.relpath(entry.path, start.path or ".")
            old = before.find(inside(parent, name), follow=False)
            if entry.is_dir and old and old.is_dir:
                continue
            if not old or content_digest([("", old)]) != content_digest([("", entry)]):
                layer.copy(entry, name, link=True)

    return Directory(
        await engine.layered((), ("diff", parent.layers, parent.path, other.layers, other.path), write)
    )


@answer("Directory.withTimestamps", "File.withTimestamps")
async def with_timestamps(engine: Engine, parent: Directory | File, call: Call) -> Directory | File:
    """Images have one time stamp for everything, so this only matters to commands."""
    when = call.args["timestamp"]

    def write(layer: Layer) -> None:
        tree = engine.tree(parent.layers)
        entry = tree.need(parent.path)
        for each in [entry, *(tree.walk(entry) if entry.is_dir else ())]:
            layer.copy(each, each.path)
            layer.touch(each.path, when * 10**9)

    return replace(parent, layers=await engine.layered(parent.layers, ("times", parent.path, when), write))


@answer("Directory.entries")
async def directory_entries(engine: Engine, parent: Directory, call: Call) -> list[str]:
    place = Directory(parent.layers, inside(parent, call.args["path"] or "."))
    tree = engine.tree(place.layers)
    return [_shown(entry) for entry in tree.children(folder_at(tree, place))]


def _shown(entry: Entry) -> str:
    return entry.name + ("/" if entry.is_dir else "")


@answer("Directory.glob")
async def directory_glob(engine: Engine, parent: Directory, call: Call) -> list[str]:
    tree = engine.tree(parent.layers)
    start = folder_at(tree, parent)
    names = {posixpath.relpath(item.path, start.path or "."): item for item in tree.walk(start)}
    return [name + ("/" if names[name].is_dir else "") for name in glob(call.args["pattern"], list(names))]


@answer("Directory.digest")
async def directory_digest(engine: Engine, parent: Directory, call: Call) -> str:
    def fact() -> str:
        tree = engine.tree(parent.layers)
        return content_digest(choose(tree, folder_at(tree, parent)))

    return f"sha256:{await engine.remembered(('digest', parent.path), parent.layers, fact)}"


@answer("Directory.name")
async def directory_name(engine: Engine, parent: Directory, call: Call) -> str:
    return (posixpath.basename(parent.path) or "") + "/"


@answer("Directory.exists")
async def directory_exists(engine: Engine, parent: Directory, call: Call) -> bool:
    return exists(engine.tree(parent.layers), inside(parent, call.args["path"]), call.args)


def exists(tree: Tree, path: str, args: dict[str, Any]) -> bool:
    """Whether something, of a kind if one is asked for, is at a path."""
    kind = args["expectedType"]
    follow = not args["doNotFollowSymlinks"] and kind != "SYMLINK_TYPE"
    entry = tree.find(path, follow=follow)
    if entry is None or kind is None:
        return entry is not None
    return {"DIRECTORY_TYPE": entry.is_dir, "REGULAR_TYPE": entry.is_file, "SYMLINK_TYPE": entry.is_link}[
        kind
    ]


@answer("Directory.stat", "File.stat")
async def place_stat(engine: Engine, parent: Directory | File, call: Call) -> Record:
    path = inside(parent, call.args["path"]) if "path" in call.args else parent.path
    return status(engine.tree(parent.layers), path, follow=not call.args.get("doNotFollowSymlinks"))


def status(tree: Tree, path: str, *, follow: bool) -> Record:
    """The Stat object of a path."""
    entry = tree.need(path, follow=follow)
    kind = (
        "DIRECTORY"
        if entry.is_dir
        else "SYMLINK"
        if entry.is_link
        else "REGULAR"
        if entry.is_file
        else "UNKNOWN"
    )
    return Record(
        {"name": entry.name, "size": entry.stat.st_size, "permissions": entry.mode, "fileType": kind}
    )


@answer("Directory.findUp", "Host.findUp")
async def find_up(engine: Engine, parent: Directory | Host, call: Call) -> str | None:
    name = call.args["name"]
    if isinstance(parent, Host):
        for folder in (engine.workdir, *engine.workdir.parents):
            if (folder / name).exists():
                return os.path.relpath(folder / name, engine.workdir)
        return None
    tree = engine.tree(parent.layers)
    here = posixpath.normpath(posixpath.join("/", call.args["start"])).lstrip("/")
    while True:
        if tree.find(inside(parent, posixpath.join(here, name))):
            return posixpath.join(here, name)
        if not here:
            return None
        here = posixpath.dirname(here)


# file


@answer("File.contents")
async def file_contents(engine: Engine, parent: File, call: Call) -> str:
    tree, first, most = engine.tree(parent.layers), call.args["offsetLines"], call.args["limitLines"]
    if first is None and most is None:
        data = await asyncio.to_thread(tree.read, parent.path)
    else:
        data = await asyncio.to_thread(_lines, file_at(tree, parent), first or 0, most)
    return data.decode("utf-8", errors="replace")


def _lines(entry: Entry, first: int, most: int | None) -> bytes:
    """At most so many lines (None: all) after the first ones; BadInput where they are too much to answer."""
    number, size, kept = 0, 0, []
    with entry.open() as file:
        while (most is None or number < first + most) and (piece := file.readline(_LARGE)):
            if number >= first:
                kept.append(piece)
                size += len(piece)
            if size > MOST_BYTES:
                raise too_large(entry.path)
            number += piece.endswith(b"\n")
    return b"".join(kept)


@answer("File.size")
async def file_size(engine: Engine, parent: File, call: Call) -> int:
    return file_at(engine.tree(parent.layers), parent).stat.st_size


@answer("File.name")
async def file_name(engine: Engine, parent: File, call: Call) -> str:
    return base_name(parent)


@answer("File.digest")
async def file_digest(engine: Engine, parent: File, call: Call) -> str:
    bare = call.args["excludeMetadata"]

    def fact() -> str:
        entry = file_at(engine.tree(parent.layers), parent)
        return content_digest([("", entry)], owner=(0, 0) if bare else None, mode=0o644 if bare else None)

    return f"sha256:{await engine.remembered(('digest', parent.path, bare), parent.layers, fact)}"


@answer("File.withName")
async def file_with_name(engine: Engine, parent: File, call: Call) -> File:
    name = call.args["name"]
    layers = await copied_file(engine, (), name, parent, None, None)
    return File(layers, name, name)


@answer("File.chown")
async def file_chown(engine: Engine, parent: File, call: Call) -> File:
    name = base_name(parent)
    layers = await copied_file(engine, (), name, parent, None, numeric_owner(call.args["owner"]))
    return File(layers, name, name)


@answer("File.withReplaced")
async def file_with_replaced(engine: Engine, parent: File, call: Call) -> File:
    search, new = call.args["search"], call.args["replacement"]
    if call.args["firstFrom"] is not None:
        raise NotSupported("File.withReplaced(firstFrom)", "all=True, or a longer search text")
    tree = engine.tree(parent.layers)
    entry = file_at(tree, parent)
    text = tree.read(parent.path).decode("utf-8", "surrogateescape")
    count = text.count(search)
    if count == 0 or (count > 1 and not call.args["all"]):
        raise BadInput(f"{search!r} occurs {count} times in {parent.path}")
    name = parent.name or posixpath.basename(parent.path)
    layers = await engine.layered(
        (),
        ("replaced", parent.layers, parent.path, search, new),
        lambda layer: layer.write(
            name, _bytes(text.replace(search, new)), mode=stat.S_IMODE(entry.stat.st_mode)
        ),
    )
    return File(engine.vouch(layers, parent.layers), name, name)

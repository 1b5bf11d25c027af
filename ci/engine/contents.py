"""Answers of Container about what it shows: its tree, and what is mounted in it.

A change of a path that is in a mounted folder changes that folder: the image's tree stays as it is, and what
the mount was made of, too. A change of a mount point itself takes the mount away first. Both as Dagger does
(core/container.go, locatePath and withoutPath).
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Awaitable, Callable
from dataclasses import replace

from ci.engine.chain import Call
from ci.engine.containers import absolute, expanded, grown_by, owner_of, path_of
from ci.engine.engine import Engine, answer
from ci.engine.files import base_name, copied_directory, copied_file, exists, inside, removed, status
from ci.engine.values import (
    CacheVolume,
    Container,
    Directory,
    File,
    MountKind,
    MountPoint,
    Place,
    Record,
    Secret,
    Service,
)
from ci.errors import BadInput

__all__ = ["mount_at", "place_of"]

Layers = tuple[str, ...]


def mount_at(parent: Container, path: str) -> tuple[MountPoint, str] | None:
    """The mount that a path (no leading slash) is in, and the path within it."""
    for mount in reversed(parent.mounts):  # what was mounted later covers what was there
        if (rest := within(path, mount.path.lstrip("/"))) is not None:
            return mount, rest
    return None


def within(path: str, folder: str) -> str | None:
    """The path as seen from a folder that it is, or is in; None where it is not. No leading slashes."""
    if not folder or path == folder:
        return path.removeprefix(folder)
    return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else None


def place_of(parent: Container, path: str) -> Place:
    """Where a path of the container really is."""
    found = mount_at(parent, path)
    if found is None:
        return Place(parent.layers, path)
    mount, rest = found
    if mount.kind not in (MountKind.DIRECTORY, MountKind.FILE):
        raise BadInput(f"/{path}: cannot be read from a mounted {mount.kind}")
    return Place(mount.place.layers, inside(mount.place, rest) if rest else mount.place.path)


async def _changed(
    parent: Container,
    path: str,
    comment: str,
    change: Callable[[Layers, str], Awaitable[Layers]],
    *,
    into: bool = False,
) -> Container:
    """The container with a path changed: `change` gets layers and the path in them, and returns layers.

    `into`: the path is a folder that takes something, so that a mounted one stays.
    """
    mounts = tuple(item for item in parent.mounts if item.kind is not MountKind.SECRET)
    found = mount_at(replace(parent, mounts=mounts), path)
    if found is None:
        return grown_by(parent, await change(parent.layers, path), comment)
    mount, rest = found
    if mount.kind in (MountKind.CACHE, MountKind.TEMP):
        raise BadInput(f"/{path}: only a command changes what is in a mounted {mount.kind}")
    if not rest and not (into and mount.kind is MountKind.DIRECTORY):
        kept = tuple(item for item in parent.mounts if item is not mount)
        return await _changed(replace(parent, mounts=kept), path, comment, change, into=into)
    if mount.kind is MountKind.FILE:
        raise BadInput(f"/{path}: {mount.path} is a file")
    layers = await change(mount.place.layers, inside(mount.place, rest))
    changed = replace(mount, place=Place(layers, mount.place.path))
    return replace(parent, mounts=tuple(changed if item is mount else item for item in parent.mounts), ref="")


@answer("Container.rootfs")
async def rootfs(engine: Engine, parent: Container, call: Call) -> Directory:
    return Directory(parent.layers)


@answer("Container.withRootfs")
async def with_rootfs(engine: Engine, parent: Container, call: Call) -> Container:
    source: Directory = await engine.value(call.args["directory"])
    layers = await copied_directory(engine, (), "", source, {}, None) if source.path else source.layers
    image = {key: value for key, value in parent.image.items() if key != "history"}
    return replace(parent, layers=layers, image=image, comments=("withRootfs",) * len(layers), ref="")


@answer("Container.directory")
async def container_directory(engine: Engine, parent: Container, call: Call) -> Directory:
    place = place_of(parent, path_of(parent, call))
    if not engine.tree(place.layers).need("/" + place.path).is_dir:
        raise BadInput(f"/{place.path} is not a directory")
    return Directory(place.layers, place.path)


@answer("Container.file")
async def container_file(engine: Engine, parent: Container, call: Call) -> File:
    path = path_of(parent, call)
    place = place_of(parent, path)
    if not engine.tree(place.layers).need("/" + place.path).is_file:
        raise BadInput(f"/{place.path} is not a file")
    return File(place.layers, place.path, posixpath.basename(path))


@answer("Container.exists")
async def container_exists(engine: Engine, parent: Container, call: Call) -> bool:
    place = place_of(parent, path_of(parent, call))
    return exists(engine.tree(place.layers), place.path, call.args)


@answer("Container.stat")
async def container_stat(engine: Engine, parent: Container, call: Call) -> Record:
    place = place_of(parent, path_of(parent, call))
    return status(engine.tree(place.layers), place.path, follow=not call.args["doNotFollowSymlinks"])


@answer("Container.withDirectory")
async def with_directory(engine: Engine, parent: Container, call: Call) -> Container:
    source: Directory = await engine.value(call.args["source"])
    owner = owner_of(engine, parent, call.args["owner"])

    async def change(layers: Layers, path: str) -> Layers:
        return await copied_directory(engine, layers, path, source, call.args, owner)

    path = path_of(parent, call)
    return await _changed(parent, path, f"withDirectory /{path}", change, into=True)


@answer("Container.withFile")
async def with_file(engine: Engine, parent: Container, call: Call) -> Container:
    source: File = await engine.value(call.args["source"])
    path = path_of(parent, call)
    return await _with_file(engine, parent, path, source, call, f"withFile /{path}")


@answer("Container.withFiles")
async def with_files(engine: Engine, parent: Container, call: Call) -> Container:
    path, grown = path_of(parent, call), parent
    for source in await asyncio.gather(*(engine.value(item) for item in call.args["sources"])):
        target = posixpath.join(path, base_name(source))
        grown = await _with_file(engine, grown, target, source, call, f"withFiles /{path}")
    return grown


async def _with_file(
    engine: Engine, parent: Container, path: str, source: File, call: Call, comment: str
) -> Container:
    mode, owner = call.args["permissions"], owner_of(engine, parent, call.args["owner"])

    async def change(layers: Layers, path: str) -> Layers:
        return await copied_file(engine, layers, path, source, mode, owner)

    return await _changed(parent, path, comment, change)


@answer("Container.withNewFile")
async def with_new_file(engine: Engine, parent: Container, call: Call) -> Container:
    text, mode = call.args["contents"], call.args["permissions"]
    owner = owner_of(engine, parent, call.args["owner"]) or (0, 0)
    data = text.encode("utf-8", "surrogateescape")

    async def change(layers: Layers, path: str) -> Layers:
        return await engine.layered(
            layers,
            ("new file", path, text, mode, owner),
            lambda layer: layer.write(layer.target(path), data, mode=mode, owner=owner),
        )

    path = path_of(parent, call)
    return await _changed(parent, path, f"withNewFile /{path}", change)


@answer("Container.withSymlink")
async def with_symlink(engine: Engine, parent: Container, call: Call) -> Container:
    target = expanded(parent, call.args["target"], call.args["expand"])

    async def change(layers: Layers, path: str) -> Layers:
        folder, name = posixpath.split(path)
        return await engine.layered(
            layers,
            ("symlink", path, target),
            lambda layer: layer.symlink(posixpath.join(layer.target(folder), name), target),
        )

    path = path_of(parent, call, "linkName")
    return await _changed(parent, path, f"withSymlink /{path}", change)


@answer("Container.withoutDirectory", "Container.withoutFile", "Container.withoutFiles")
async def without_paths(engine: Engine, parent: Container, call: Call) -> Container:
    given = call.args.get("paths") or [call.args["path"]]
    comment = "without " + " ".join(given)

    async def change(layers: Layers, path: str) -> Layers:
        return await removed(engine, layers, [path])

    for path in [expanded(parent, path, call.args["expand"]) for path in given]:
        parent = await _changed(parent, absolute(parent, path).lstrip("/"), comment, change)
    return parent


# mounts, secrets, services


def _with_mount(parent: Container, mount: MountPoint) -> Container:
    """It takes the place of what is mounted there and below. A secret is in nobody's way."""
    covers = mount.path.lstrip("/")

    def stays(other: MountPoint) -> bool:
        if MountKind.SECRET in (mount.kind, other.kind):
            return other.kind is not mount.kind or other.path != mount.path
        return within(other.path.lstrip("/"), covers) is None

    return replace(parent, mounts=(*filter(stays, parent.mounts), mount))


@answer("Container.withMountedDirectory")
async def with_mounted_directory(engine: Engine, parent: Container, call: Call) -> Container:
    source: Directory = await engine.value(call.args["source"])
    owner = owner_of(engine, parent, call.args["owner"])
    place: Place = source
    if owner:
        place = Place(await copied_directory(engine, (), "", source, {}, owner))
    return _with_mount(
        parent,
        MountPoint(
            kind=MountKind.DIRECTORY,
            path="/" + path_of(parent, call),
            place=Place(place.layers, place.path),
            read_only=call.args["readOnly"],
        ),
    )


@answer("Container.withMountedFile")
async def with_mounted_file(engine: Engine, parent: Container, call: Call) -> Container:
    source: File = await engine.value(call.args["source"])
    owner = owner_of(engine, parent, call.args["owner"])
    place: Place = source
    if owner:
        place = Place(await copied_file(engine, (), "file", source, None, owner), "file")
    return _with_mount(
        parent,
        MountPoint(
            kind=MountKind.FILE, path="/" + path_of(parent, call), place=Place(place.layers, place.path)
        ),
    )


@answer("Container.withMountedCache")
async def with_mounted_cache(engine: Engine, parent: Container, call: Call) -> Container:
    cache: CacheVolume = await engine.value(call.args["cache"])
    if call.args["sharing"] != "SHARED":
        cache = replace(cache, sharing=call.args["sharing"])
    if call.args["source"]:
        cache = replace(cache, source=await engine.value(call.args["source"]))
    return _with_mount(
        parent,
        MountPoint(
            kind=MountKind.CACHE,
            path="/" + path_of(parent, call),
            cache=cache,
            owner=call.args["owner"] or cache.owner,
        ),
    )


@answer("Container.withMountedTemp")
async def with_mounted_temp(engine: Engine, parent: Container, call: Call) -> Container:
    mount = MountPoint(kind=MountKind.TEMP, path="/" + path_of(parent, call), size=call.args["size"])
    return _with_mount(parent, mount)


@answer("Container.withMountedSecret")
async def with_mounted_secret(engine: Engine, parent: Container, call: Call) -> Container:
    secret: Secret = await engine.value(call.args["source"])
    return _with_mount(
        parent,
        MountPoint(
            kind=MountKind.SECRET,
            path="/" + path_of(parent, call),
            secret=secret,
            owner=call.args["owner"],
            mode=call.args["mode"],
        ),
    )


@answer("Container.withoutMount")
async def without_mount(engine: Engine, parent: Container, call: Call) -> Container:
    path = "/" + path_of(parent, call)
    return replace(parent, mounts=tuple(item for item in parent.mounts if item.path != path), ref="")


@answer("Container.mounts")
async def mounts(engine: Engine, parent: Container, call: Call) -> list[str]:
    return [mount.path for mount in parent.mounts]


@answer("Container.withSecretVariable")
async def with_secret_variable(engine: Engine, parent: Container, call: Call) -> Container:
    secret: Secret = await engine.value(call.args["secret"])
    others = tuple(item for item in parent.secret_env if item[0] != call.args["name"])
    return replace(parent, secret_env=(*others, (call.args["name"], secret)))


@answer("Container.withoutSecretVariable")
async def without_secret_variable(engine: Engine, parent: Container, call: Call) -> Container:
    return replace(
        parent, secret_env=tuple(item for item in parent.secret_env if item[0] != call.args["name"])
    )


@answer("Query.cacheVolume")
async def cache_volume(engine: Engine, parent: None, call: Call) -> CacheVolume:
    source = await engine.value(call.args["source"]) if call.args["source"] else None
    return CacheVolume(
        key=call.args["key"], sharing=call.args["sharing"], source=source, owner=call.args["owner"]
    )


@answer("Container.withServiceBinding")
async def with_service_binding(engine: Engine, parent: Container, call: Call) -> Container:
    service: Service = await engine.value(call.args["service"])
    others = tuple(item for item in parent.services if item[0] != call.args["alias"])
    return replace(parent, services=(*others, (call.args["alias"], service)))

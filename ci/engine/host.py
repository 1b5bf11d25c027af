"""Answers about this machine: its folders and files as layers, and layers as folders and files of it."""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from ci.below import make_folder, open_below, open_parent, remove
from ci.engine.chain import Call
from ci.engine.engine import Engine, answer
from ci.engine.files import file_at, folder_at
from ci.engine.patterns import choose
from ci.engine.store import digest_of, full_disk_is_told
from ci.engine.tree import Entry, Layer, Tree, content_digest, copy_data
from ci.engine.values import Directory, File, Host
from ci.errors import BadInput, SystemUnavailable

__all__ = ["exported", "file_export", "host_path", "imported_file", "removed_below"]

_LARGE = 1 << 20
_PERMISSIONS = 0o1777
"""What an export keeps of a mode: no program of a step becomes one that runs as root for all. The sticky bit
gives nothing: in a folder that all may write to, it keeps each from the files of others."""


def host_path(engine: Engine, path: str) -> Path:
    """A path of this machine, from the session's working folder; `~` is a home."""
    try:
        return engine.workdir / Path(path).expanduser()
    except RuntimeError as error:
        raise BadInput(f"{path}: there is no such user on this machine") from error


@answer("Query.host")
async def host(engine: Engine, parent: None, call: Call) -> Host:
    return Host()


@answer("Host.directory")
async def host_directory(engine: Engine, parent: Host, call: Call) -> Directory:
    """The folder as it is now: its layer is named by its content, so an unchanged folder is the same
    layer."""
    path = host_path(engine, call.args["path"])
    if not path.is_dir():
        raise BadInput(f"{path} is not a directory on this machine")
    filters = {name: call.args[name] for name in ("include", "exclude", "gitignore")}

    def read() -> tuple[str, ...]:
        tree = Tree([path.resolve()])
        chosen = choose(tree, tree.root, **filters)
        digest = content_digest(chosen, owner=(0, 0))
        known = engine.store.result(digest_of("host", digest))
        if known:
            return tuple(known["layers"])
        with full_disk_is_told(engine.store.root), engine.store.work("host") as folder:
            layer = Layer(Tree([]), folder)
            for name, entry in chosen:
                layer.copy(entry, name, owner=(0, 0))
            id = engine.store.add_layer(folder, digest)
        return tuple(engine.store.keep(digest_of("host", digest), {"layers": [id]})["layers"])

    return Directory(engine.vouch(await asyncio.to_thread(read)))


@answer("Host.file")
async def host_file(engine: Engine, parent: Host, call: Call) -> File:
    path = host_path(engine, call.args["path"])
    if not path.is_file():
        raise BadInput(f"{path} is not a file on this machine")
    found = await asyncio.to_thread(imported_file, engine, path)
    engine.vouch(found.layers)
    return found


def imported_file(engine: Engine, path: Path) -> File:
    """A file of this machine, as a layer named by its content."""
    path = path.resolve()
    tree = Tree([path.parent])
    entry = tree.need(path.name)
    digest = _digest_by_status(engine, path, entry)
    known = engine.store.result(digest_of("host", digest))
    if not known:
        with full_disk_is_told(engine.store.root), engine.store.work("host") as folder:
            Layer(Tree([]), folder).copy(entry, path.name, owner=(0, 0))
            id = engine.store.add_layer(folder, digest)
        known = engine.store.keep(digest_of("host", digest), {"layers": [id]})
    return File(tuple(known["layers"]), path.name, path.name)


def _digest_by_status(engine: Engine, path: Path, entry: Entry) -> str:
    """The digest of a file of this machine; a large one is read again only when the kernel says it
    changed."""
    status = entry.stat
    key = digest_of("status", str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
                    status.st_ctime_ns, status.st_mode)  # fmt: skip
    known = engine.store.result(key) if status.st_size > _LARGE else None
    if known is None:
        known = {"digest": content_digest([(path.name, entry)], owner=(0, 0))}
        engine.store.keep(key, known)
    digest: str = known["digest"]
    return digest


@answer("Directory.export")
async def directory_export(engine: Engine, parent: Directory, call: Call) -> str:
    return await exported(engine, parent, call.args["path"], wipe=call.args["wipe"])


async def exported(
    engine: Engine, place: Directory, path: str, *, wipe: bool = False, keep_modes: bool = False
) -> str:
    """Write a folder to this machine; `keep_modes`: of folders that are there already.

    Below the target nothing follows a link: an earlier export may have left one that a step made.
    """
    target = host_path(engine, path)

    def write() -> str:
        tree = engine.tree(place.layers)
        chosen = choose(tree, folder_at(tree, place))
        target.mkdir(parents=True, exist_ok=True)
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(root) if wipe else ():
                remove(root, name)
            for name, entry in chosen:
                if not (keep_modes and entry.is_dir and _is_folder(root, name)):
                    _export(entry, root, name)
        finally:
            os.close(root)
        return str(target)

    return await asyncio.to_thread(_told, write, target)


def _is_folder(root: int, path: str) -> bool:
    try:
        os.close(open_below(root, path, os.O_PATH | os.O_DIRECTORY))
    except OSError:
        return False
    return True


async def removed_below(engine: Engine, path: str, names: Iterable[str]) -> None:
    """Remove files from a folder of this machine, and folders (a slash at the end of the name) that are empty
    without them. What is not there, or of another kind, stays as it is."""
    target = host_path(engine, path)

    def clean() -> str:
        for name in sorted(names, reverse=True):  # what is in a folder before the folder
            above, _, last = name.rstrip("/").rpartition("/")
            try:
                folder = open_below(target, above, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
                try:
                    (os.rmdir if name.endswith("/") else os.unlink)(last, dir_fd=folder)
                finally:
                    os.close(folder)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise BadInput(f"cannot remove {name} from {target}: it is behind a link") from error
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
                    raise
        return str(target)

    await asyncio.to_thread(_told, clean, target)


def _export(entry: Entry, root: int, path: str) -> None:
    if entry.is_dir:
        folder = make_folder(root, path)
        os.fchmod(folder, entry.mode & _PERMISSIONS)
        os.close(folder)
        return
    folder, name = open_parent(root, path)
    try:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        if entry.is_link:
            os.symlink(entry.link(), name, dir_fd=folder)
        elif entry.is_file:
            _copy(entry, folder, name)
    finally:
        os.close(folder)


def _copy(entry: Entry, folder: int, name: str) -> None:
    """A file that is not there yet. It becomes root's: what a step had run as root is not run so by
    everybody."""
    made = open_below(folder, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with entry.open() as source, open(made, "wb") as file:
        copy_data(source, file)
        os.fchmod(file.fileno(), entry.mode & _PERMISSIONS)


def _told(write: Any, target: Path) -> str:
    """A target that cannot be written is the caller's mistake, and said as one."""
    try:
        result: str = write()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SystemUnavailable(f"cannot export to {target}: the disk is full") from error
        raise BadInput(f"cannot export to {target}: {error.strerror or error}") from error
    return result


@answer("File.export")
async def file_export(engine: Engine, parent: File, call: Call) -> str:
    target = host_path(engine, call.args["path"])
    if call.args["allowParentDirPath"] and target.is_dir():
        target = target / (parent.name or posixpath.basename(parent.path))

    def write() -> str:
        entry = file_at(engine.tree(parent.layers), parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(target.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        partial = f".{target.name}.{token_hex(6)}"
        try:
            _copy(entry, folder, partial)
            os.replace(partial, target.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            remove(folder, partial)
            raise
        finally:
            os.close(folder)
        return str(target)

    return await asyncio.to_thread(_told, write, target)

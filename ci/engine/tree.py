"""File trees made of overlayfs layers, read and written without mounting them.

A tree is a stack of layer folders, the lowest first. What a name shows is decided from the top down: a
character device 0/0 hides it (a whiteout), a folder marked opaque hides what lies below, folders merge, all
else covers. Symlinks are followed inside the tree only: nothing in an image can make us read or write outside
of it. Copies make a new layer that holds only what was copied, and the parent folders with the owner and mode
that they have in the tree below.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

from ci.below import make_folder, open_below, open_file
from ci.errors import BadInput

__all__ = [
    "MOST_BYTES",
    "Entry",
    "Layer",
    "Tree",
    "content_digest",
    "copy_data",
    "is_whiteout",
    "make_opaque",
    "make_whiteout",
    "too_large",
]

_OPAQUE = "trusted.overlay.opaque"
_LINKS = 40
_CHUNK = 1 << 20
MOST_BYTES = 128 * 2**20
"""What is read of a file into memory: its size is whatever a step says, and costs it nothing."""
_NOWHERE = os.stat_result((0o40755, 0, 0, 1, 0, 0, 0, 0, 0, 0), {"st_mtime_ns": 0})
"""The root of a tree without layers."""


@dataclass(frozen=True)
class Entry:
    """A file, folder or symlink of a tree: its path, and where it really lies (a folder: the top one
    first)."""

    path: str
    """From the tree's root, without a leading slash; the root is ``""``."""
    real: tuple[str, ...]
    stat: os.stat_result

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.stat.st_mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.stat.st_mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.stat.st_mode)

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    @property
    def mode(self) -> int:
        return stat.S_IMODE(self.stat.st_mode)

    def open(self) -> BufferedReader:
        """The file that this is, to be read. OSError when it is none any more."""
        return open(open_file(self._root, self.path), "rb")

    def link(self) -> str:
        """Where the symlink that this is leads."""
        return os.readlink(self.real[0])

    @property
    def _root(self) -> str:
        """The layer that it is in."""
        return self.real[0].removesuffix(f"/{self.path}") if self.path else self.real[0]


class Tree:
    """What a stack of layers shows. Cheap to make; nothing is read before it is asked for.

    `names` tells what is in the root of a layer that stays as it is: of hundreds of layers few have a name.
    """

    def __init__(self, layers: Sequence[Path], names: Callable[[str], frozenset[str]] | None = None) -> None:
        self._layers = tuple(str(layer) for layer in reversed(layers))
        self._names = names

    @property
    def root(self) -> Entry:
        if not self._layers:
            return Entry("", (), _NOWHERE)
        return Entry("", self._layers, os.lstat(self._layers[0]))

    def child(self, folder: Entry, name: str) -> Entry | None:
        """The entry of that name in a folder; symlinks are not followed."""
        found: list[str] = []
        top: os.stat_result | None = None
        for place in folder.real:
            if self._names and not folder.path and name not in self._names(place):
                continue
            path = f"{place}/{name}"
            try:
                status = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if is_whiteout(status):
                break
            if not stat.S_ISDIR(status.st_mode):
                if not found:
                    found, top = [path], status
                break
            top = top or status
            found.append(path)
            if _is_opaque(path):
                break
        return Entry(posixpath.join(folder.path, name), tuple(found), top) if top else None

    def children(self, folder: Entry) -> list[Entry]:
        """All entries of a folder, by name."""
        names = {name for place in folder.real for name in os.listdir(place)}
        return [entry for name in sorted(names) if (entry := self.child(folder, name))]

    def walk(self, folder: Entry) -> Iterator[Entry]:
        """Everything below a folder, each folder before what is in it, by name."""
        pending = [iter(self.children(folder))]
        while pending:
            entry = next(pending[-1], None)
            if entry is None:
                pending.pop()
                continue
            yield entry
            if entry.is_dir:
                pending.append(iter(self.children(entry)))

    def find(self, path: str, *, follow: bool = True) -> Entry | None:
        """The entry at a path, None where there is none. `follow` is about the last part only."""
        entry, missing = self.resolve(path, follow=follow)
        return None if missing else entry

    def need(self, path: str, *, follow: bool = True) -> Entry:
        """The entry at a path; BadInput where there is none."""
        entry = self.find(path, follow=follow)
        if entry is None:
            raise BadInput(f"{path}: no such file or directory")
        return entry

    def resolve(self, path: str, *, follow: bool = True) -> tuple[Entry, str]:
        """Follow a path as far as it exists: the last entry there, and the part that is missing."""
        here = [self.root]
        todo = [part for part in path.split("/") if part not in ("", ".")]
        links = 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                if len(here) > 1:
                    here.pop()
                continue
            entry = self.child(here[-1], part) if here[-1].is_dir else None
            if entry is None:
                return here[-1], posixpath.join(part, *todo)
            if entry.is_link and (todo or follow):
                links += 1
                if links > _LINKS:
                    raise BadInput(f"{path}: too many levels of symbolic links")
                target = entry.link()
                if target.startswith("/"):
                    here = here[:1]
                todo = [item for item in target.split("/") if item not in ("", ".")] + todo
                continue
            here.append(entry)
        return here[-1], ""

    def read(self, path: str, most: int = MOST_BYTES) -> bytes:
        """A file's bytes; BadInput when it is none, or has more than `most`."""
        entry = self.need(path)
        if not entry.is_file:
            raise BadInput(f"{path} is not a file")
        with entry.open() as file:
            data = file.read(min(most, entry.stat.st_size) + 1)
        if len(data) > most:
            raise too_large(path, most)
        return data


class Layer:
    """A layer being written on top of a tree, into a folder that is empty, or that a command has changed.

    Whatever is in the folder, it is written below it: nothing follows a link in there.
    """

    def __init__(self, below: Tree, folder: Path) -> None:
        self._below = below
        self._folder = str(folder)
        self._root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._root)
        self._begun = False
        self._linked: set[tuple[int, int]] = set()
        """Files of other layers that are in this one, each once: twice, an image would have a link, but only
        where the two happened to be one file before."""

    def target(self, path: str) -> str:
        """Where a path of the tree really leads once its symlinks are followed; what is missing stays as
        said."""
        entry, missing = self._below.resolve(path)
        return posixpath.normpath(posixpath.join("/", entry.path, missing)).lstrip("/")

    def folder(self, path: str, *, mode: int | None = None, owner: tuple[int, int] | None = None) -> None:
        """Make sure that a folder is there, its parents too.

        One that the tree has keeps its owner and mode, unless they are given.
        """
        folder = self._open(path)
        try:
            if owner:
                os.fchown(folder, *owner)
            if mode is not None:
                os.fchmod(folder, mode)
        finally:
            os.close(folder)

    def write(self, path: str, data: bytes, *, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
        """A new file with that content."""
        with self._place(path) as (folder, name), open(_created(folder, name), "wb") as file:
            file.write(data)
            os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)

    def adopt(self, path: str, file: Path, *, owner: tuple[int, int]) -> None:
        """A file, by moving one of this machine there; it must be on the same file system. One that the tree
        has keeps its mode; another is its owner's alone."""
        known = self._below.find(path)
        with self._place(path) as (folder, name):
            os.chown(file, *owner)
            file.chmod(known.mode if known and known.is_file else 0o600)
            os.rename(file, name, dst_dir_fd=folder)

    def symlink(self, path: str, target: str, *, owner: tuple[int, int] = (0, 0)) -> None:
        """A new symlink."""
        with self._place(path) as (folder, name):
            os.symlink(target, name, dir_fd=folder)
            os.chown(name, *owner, dir_fd=folder, follow_symlinks=False)

    def copy(
        self,
        entry: Entry,
        path: str,
        *,
        owner: tuple[int, int] | None = None,
        mode: int | None = None,
        link: bool = False,
    ) -> None:
        """Copy one entry (a folder: itself only). `link` shares the file's data with the entry's layer where
        owner and mode stay as they are: only for layers, which never change."""
        status = entry.stat
        kind = stat.S_IFMT(status.st_mode)
        own = owner or (status.st_uid, status.st_gid)
        if kind == stat.S_IFDIR:
            known = self._below.find(path, follow=False) if self._below.root.real else None
            self.folder(path, owner=None if known else own, mode=mode if known else mode or entry.mode)
            if not known:
                self.touch(path, status.st_mtime_ns)
            return
        with self._place(path) as (folder, name):
            if kind == stat.S_IFLNK:
                os.symlink(entry.link(), name, dir_fd=folder)
                os.chown(name, *own, dir_fd=folder, follow_symlinks=False)
            elif kind == stat.S_IFREG:
                same = own == (status.st_uid, status.st_gid) and mode in (None, entry.mode)
                file_id = (status.st_dev, status.st_ino)
                if link and same and file_id not in self._linked and _linked(entry, folder, name):
                    self._linked.add(file_id)
                    return
                with entry.open() as source, open(_created(folder, name), "wb") as file:
                    copy_data(source, file)
                    _copy_xattrs(source.fileno(), file.fileno())
                    os.fchown(file.fileno(), *own)
                    os.fchmod(file.fileno(), entry.mode if mode is None else mode)
            elif kind == stat.S_IFIFO:
                os.mkfifo(name, entry.mode, dir_fd=folder)
                os.chown(name, *own, dir_fd=folder, follow_symlinks=False)
            else:
                return  # a device or a socket: not something to copy
            when = (status.st_mtime_ns, status.st_mtime_ns)
            os.utime(name, ns=when, dir_fd=folder, follow_symlinks=False)

    def touch(self, path: str, when: int) -> None:
        """Set the time (in ns) of what the layer has at a path."""
        folder = self._open(posixpath.dirname(path))
        try:
            os.utime(posixpath.basename(path) or ".", ns=(when, when), dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(folder)

    def remove(self, path: str) -> None:
        """Hide what the tree has at a path; nothing happens where it has nothing."""
        if not path:
            raise BadInput("cannot remove /")
        if self._below.find(path, follow=False) is None:
            return
        with self._place(path) as (folder, name):
            make_whiteout(name, dir_fd=folder)

    def _open(self, path: str) -> int:
        """A folder of the layer as a descriptor; made where it is missing, as the tree has it."""
        begun, self._begun = self._begun, True
        missing: list[str] = []
        while path or begun:  # a loop: folders nest deeper than Python calls functions
            try:
                folder = open_below(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
                break
            except OSError as error:
                if not path or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
            missing.append(path)
            path, begun = posixpath.dirname(path), True
        else:
            folder = self._made("", self._below.root)
        known = self._below.find(path, follow=False) if missing else None
        for path in reversed(missing):
            os.close(folder)
            known = self._below.child(known, posixpath.basename(path)) if known and known.is_dir else None
            folder = self._made(path, known)
        return folder

    def _made(self, path: str, known: Entry | None) -> int:
        """A folder that the layer lacks, in one that it has; `known` is what the tree has there."""
        folder = make_folder(self._root, path)
        if known and known.is_dir:
            os.fchown(folder, known.stat.st_uid, known.stat.st_gid)
            os.fchmod(folder, known.mode)
            os.utime(folder, ns=(known.stat.st_mtime_ns, known.stat.st_mtime_ns))
        else:
            os.fchmod(folder, 0o755)  # nosec B103  # as Dagger makes folders
        return folder

    @contextmanager
    def _place(self, path: str) -> Iterator[tuple[int, str]]:
        """Where a new file goes, as folder and name: the folder is there, and no file of that name."""
        if not path:
            raise BadInput("the path of a file is missing")
        folder, name = self._open(posixpath.dirname(path)), posixpath.basename(path)
        try:
            with suppress(FileNotFoundError):
                if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise BadInput(f"/{path} is a directory")
                os.unlink(name, dir_fd=folder)
            yield folder, name
        finally:
            os.close(folder)


def too_large(path: str, most: int = MOST_BYTES) -> BadInput:
    """What is said of a file that is not read into memory."""
    return BadInput(f"/{path.lstrip('/')} has more than {most // 2**20} MiB: export it")


def copy_data(source: IO[bytes], target: IO[bytes]) -> None:
    """Copy a file to one that is empty. Holes stay holes: they cost a step nothing, and shall cost nothing
    here."""
    size, end = os.fstat(source.fileno()).st_size, 0
    while end < size:
        try:
            start = os.lseek(source.fileno(), end, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: nothing but a hole is left
        end = os.lseek(source.fileno(), start, os.SEEK_HOLE)
        source.seek(start)
        target.seek(start)
        while start < end and (data := source.read(min(_CHUNK, end - start))):
            target.write(data)
            start += len(data)
    target.truncate(size)


def _created(folder: int, name: str) -> int:
    return open_below(folder, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def content_digest(
    entries: Iterable[tuple[str, Entry]], *, owner: tuple[int, int] | None = None, mode: int | None = None
) -> str:
    """SHA-256 over names, kinds, owners, modes and contents of entries under the names given; not over times.

    `owner` and `mode` stand for those of the entries where they are given.
    """
    total = hashlib.sha256()
    for name, entry in entries:
        status = entry.stat
        uid, gid = owner or (status.st_uid, status.st_gid)
        kind = stat.S_IFMT(status.st_mode)
        bits = 0o777 if entry.is_link else entry.mode if mode is None else mode
        total.update(f"{name}\0{kind:o} {bits:o} {uid} {gid}\0".encode("utf-8", "surrogateescape"))
        if entry.is_link:
            # With an end: where a link leads is not to run on into the next name.
            total.update(f"{entry.link()}\0".encode("utf-8", "surrogateescape"))
        elif entry.is_file:
            with entry.open() as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
                for attribute in _kept_xattrs(file.fileno()):
                    total.update(f"{attribute}\0".encode() + os.getxattr(file.fileno(), attribute) + b"\0")
    return total.hexdigest()


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is how overlayfs hides a name."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def make_whiteout(path: str, *, dir_fd: int | None = None) -> None:
    """Hide a name of the layers below."""
    os.mknod(path, stat.S_IFCHR | 0o000, 0, dir_fd=dir_fd)


def make_opaque(path: str | int) -> None:
    """Let a folder hide all that the layers below have in it."""
    os.setxattr(path, _OPAQUE, b"y")


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, _OPAQUE) == b"y"
    except OSError:
        return False


def _linked(entry: Entry, folder: int, name: str) -> bool:
    try:
        with entry.open() as source:
            # Of the very file that was opened: its path may lead elsewhere now.
            os.link(f"/proc/self/fd/{source.fileno()}", name, dst_dir_fd=folder, follow_symlinks=True)
    except OSError:
        return False
    return True


def _copy_xattrs(source: int, target: int) -> None:
    for name in _kept_xattrs(source):
        os.setxattr(target, name, os.getxattr(source, name))


def _kept_xattrs(file: int) -> list[str]:
    """The extended attributes that mean something in an image."""
    return sorted(x for x in os.listxattr(file) if x.startswith("user.") or x == "security.capability")

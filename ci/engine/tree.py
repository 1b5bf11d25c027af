"""File trees made of overlayfs layers, read and written without mounting them.

A tree is a stack of layer folders, the lowest first. What a name shows is decided from the top down: a
character device 0/0 hides it (a whiteout), a folder marked opaque hides what lies below, folders merge, all
else covers. Symlinks are followed inside the tree only: nothing in an image can make us read or write outside
of it. Copies make a new layer that holds only what was copied, and the parent folders with the owner and mode
that they have in the tree below.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ci.errors import BadInput

__all__ = ["Entry", "Layer", "Tree", "content_digest", "is_whiteout", "make_opaque", "make_whiteout"]

_OPAQUE = "trusted.overlay.opaque"
_LINKS = 40
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


class Tree:
    """What a stack of layers shows. Cheap to make; nothing is read before it is asked for."""

    def __init__(self, layers: Sequence[Path]) -> None:
        self._layers = tuple(str(layer) for layer in reversed(layers))

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
        for entry in self.children(folder):
            yield entry
            if entry.is_dir:
                yield from self.walk(entry)

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
                target = os.readlink(entry.real[0])
                if target.startswith("/"):
                    here = here[:1]
                todo = [item for item in target.split("/") if item not in ("", ".")] + todo
                continue
            here.append(entry)
        return here[-1], ""

    def read(self, path: str, limit: int | None = None) -> bytes:
        """A file's bytes; BadInput when it is none."""
        entry = self.need(path)
        if not entry.is_file:
            raise BadInput(f"{path} is not a file")
        with open(entry.real[0], "rb") as file:
            return file.read() if limit is None else file.read(limit)


class Layer:
    """A layer being written on top of a tree, into an empty folder."""

    def __init__(self, below: Tree, folder: Path) -> None:
        self._below = below
        self._folder = str(folder)
        self._begun = False

    @property
    def path(self) -> str:
        """Where the layer is being written."""
        return self._folder

    def target(self, path: str) -> str:
        """Where a path of the tree really leads once its symlinks are followed; what is missing stays as
        said."""
        entry, missing = self._below.resolve(path)
        return posixpath.normpath(posixpath.join("/", entry.path, missing)).lstrip("/")

    def folder(self, path: str, *, mode: int | None = None, owner: tuple[int, int] | None = None) -> str:
        """Make sure that a folder is there, its parents too; returns where it lies in the layer.

        One that the tree has keeps its owner and mode, unless they are given.
        """
        real = f"{self._folder}/{path}" if path else self._folder
        known = self._below.find(path, follow=False)
        there = self._begun if not path else os.path.isdir(real) and not os.path.islink(real)
        self._begun = True
        if not there and path:
            self.folder(posixpath.dirname(path))
            if os.path.lexists(real):
                os.unlink(real)
            os.mkdir(real)
            if known and not known.is_dir:
                known = None
        if known and not there:
            os.chown(real, known.stat.st_uid, known.stat.st_gid)
            os.chmod(real, known.mode)
            os.utime(real, ns=(known.stat.st_mtime_ns, known.stat.st_mtime_ns))
        elif not there:
            os.chmod(real, 0o755)  # noqa: S103  # nosec B103  # as Dagger makes folders
        if owner:
            os.chown(real, *owner)
        if mode is not None:
            os.chmod(real, mode)
        return real

    def write(self, path: str, data: bytes, *, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
        """A new file with that content."""
        real = self._place(path)
        with open(real, "wb") as file:
            file.write(data)
        os.chown(real, *owner)
        os.chmod(real, mode)

    def symlink(self, path: str, target: str, *, owner: tuple[int, int] = (0, 0)) -> None:
        """A new symlink."""
        real = self._place(path)
        os.symlink(target, real)
        os.lchown(real, *owner)

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
            real = self.folder(path, owner=None if known else own, mode=mode if known else mode or entry.mode)
            if not known:
                os.utime(real, ns=(status.st_mtime_ns, status.st_mtime_ns))
            return
        real = self._place(path)
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(entry.real[0]), real)
            os.lchown(real, *own)
        elif kind == stat.S_IFREG:
            same = own == (status.st_uid, status.st_gid) and mode in (None, entry.mode)
            if link and same and _linked(entry.real[0], real):
                return
            shutil.copyfile(entry.real[0], real)
            _copy_xattrs(entry.real[0], real)
            os.chown(real, *own)
            os.chmod(real, entry.mode if mode is None else mode)
        elif kind == stat.S_IFIFO:
            os.mkfifo(real, entry.mode)
            os.chown(real, *own)
        else:
            return  # a device or a socket: not something to copy
        os.utime(real, ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)

    def remove(self, path: str) -> None:
        """Hide what the tree has at a path; nothing happens where it has nothing."""
        if not path:
            raise BadInput("cannot remove /")
        if self._below.find(path, follow=False) is None:
            return
        make_whiteout(self._place(path))

    def _place(self, path: str) -> str:
        """Where a new file goes: its folder is there, and no file of that name."""
        if not path:
            raise BadInput("the path of a file is missing")
        real = f"{self.folder(posixpath.dirname(path))}/{posixpath.basename(path)}"
        if os.path.isdir(real) and not os.path.islink(real):
            raise BadInput(f"/{path} is a directory")
        if os.path.lexists(real):
            os.unlink(real)
        return real


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
            total.update(os.readlink(entry.real[0]).encode("utf-8", "surrogateescape"))
        elif entry.is_file:
            with open(entry.real[0], "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is how overlayfs hides a name."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def make_whiteout(path: str) -> None:
    """Hide a name of the layers below."""
    os.mknod(path, stat.S_IFCHR | 0o000, 0)


def make_opaque(path: str) -> None:
    """Let a folder hide all that the layers below have in it."""
    os.setxattr(path, _OPAQUE, b"y")


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, _OPAQUE) == b"y"
    except OSError:
        return False


def _linked(source: str, target: str) -> bool:
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _copy_xattrs(source: str, target: str) -> None:
    for name in os.listxattr(source):
        if name.startswith("user.") or name == "security.capability":
            os.setxattr(target, name, os.getxattr(source, name))

"""A layer's tree as the tar that it is in an image, and back (OCI image-spec 1.1, layer.md)."""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from isal import igzip, isal_zlib

from ci.below import open_below, open_file, walk
from ci.engine.tree import is_whiteout, make_opaque, make_whiteout
from ci.errors import BadInput, SystemUnavailable

__all__ = ["Hashing", "make_whiteouts", "pack", "unpack"]

_CHUNK = 1 << 20
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


def unpack(blob: Path, folder: Path) -> str:
    """A layer's tar into a folder; returns the hexadecimal SHA-256 of the tar.

    GNU tar does it: it makes symlinks last, so that no entry is written through one. Of extended attributes
    it takes those that mean something in an image; overlayfs has its own, and believes them.
    """
    total = hashlib.sha256()
    with tempfile.TemporaryFile() as said:
        with (
            _plain(blob) as plain,
            subprocess.Popen(
                ["tar", "-x", "-f", "-", "-C", str(folder), "--numeric-owner", "--same-owner",
                 "--same-permissions", "--delay-directory-restore", "--xattrs", "--xattrs-include=user.*",
                 "--xattrs-include=security.capability"],
                stdin=subprocess.PIPE, stderr=said,
            ) as tar,
        ):  # fmt: skip
            assert tar.stdin is not None
            reads = True
            while data := plain.read(_CHUNK):
                total.update(data)
                try:
                    if reads:
                        tar.stdin.write(data)
                except BrokenPipeError:
                    reads = False  # it has ended, and says why, or that the archive has
            with suppress(BrokenPipeError):
                tar.stdin.close()
        said.seek(0)
        text = said.read(10000).decode(errors="replace").strip()
    if tar.returncode != 0:
        full = "No space left" in text
        raise (SystemUnavailable if full else BadInput)(
            f"a layer cannot be unpacked: {text[-500:]}",
            hint="va cache prune makes room" if full else "",
        )
    return total.hexdigest()


@contextmanager
def _plain(blob: Path) -> Iterator[IO[bytes]]:
    """A layer's blob, uncompressed."""
    with blob.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        try:
            if head[:2] == b"\x1f\x8b":
                with igzip.IGzipFile(fileobj=file, mode="rb") as plain:  # type: ignore[no-untyped-call]
                    yield plain  # type: ignore[misc]
            elif head == b"\x28\xb5\x2f\xfd":
                with subprocess.Popen(["zstd", "-dcq"], stdin=file, stdout=subprocess.PIPE) as program:
                    yield program.stdout  # type: ignore[misc]
                if program.returncode:
                    raise BadInput("a layer cannot be unpacked: zstd says that it is damaged")
            else:
                yield file
        except FileNotFoundError as error:
            raise BadInput("a layer is compressed with zstd, which is not installed") from error
        except (igzip.BadGzipFile, EOFError, isal_zlib.error) as error:  # type: ignore[misc]
            raise BadInput(f"a layer cannot be unpacked: {error}") from error


def make_whiteouts(folder: Path) -> None:
    """`.wh.` files of a layer as overlayfs has them (OCI image-spec, layer.md).

    One beside a file of that name says what the file does anyway; beside a folder, that nothing below shows
    in it. BadInput for one that is a folder, or hides no name.
    """
    for here, folders, files in walk(folder):
        for name in sorted(folder for folder in folders if folder.startswith(_WHITEOUT)):
            raise BadInput(f"a layer cannot be unpacked: {name!r} is a folder, and no mark of a deleted file")
        for name in sorted(file for file in files if file.startswith(_WHITEOUT)):
            os.unlink(name, dir_fd=here)
            hidden = name.removeprefix(_WHITEOUT)
            if name == _OPAQUE:
                make_opaque(here)
            elif hidden in ("", ".", ".."):
                raise BadInput(f"a layer cannot be unpacked: {name!r} names no file to delete")
            elif hidden.startswith(_WHITEOUT):
                continue  # a mark of AUFS's own
            elif hidden in folders:
                inner = open_below(here, hidden, os.O_RDONLY | os.O_DIRECTORY)
                make_opaque(inner)
                os.close(inner)
            elif hidden not in files:
                make_whiteout(hidden, dir_fd=here)


class Hashing:
    """A file that is written through a digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.total = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.total.update(data)
        self.size += len(data)
        self.file.write(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def pack(folder: Path, target: Hashing, epoch: int) -> int:
    """Write a layer's tree as a tar; returns how many entries it has."""
    count = 0
    linked: dict[int, str] = {}
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK) as tar:  # type: ignore[call-overload]
        for name, path in _entries(folder):
            status = os.lstat(path)
            info = tarfile.TarInfo(name)
            info.mtime = epoch
            info.uid, info.gid, info.mode = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
            if is_whiteout(status):
                info.name = posixpath.join(posixpath.dirname(name), f".wh.{posixpath.basename(name)}")
                info.uid = info.gid = 0
                info.mode = 0o644
                tar.addfile(info)
                count += 1
                continue
            info.pax_headers, opaque = _xattrs(path)
            if stat.S_ISDIR(status.st_mode):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                if opaque:
                    mark = tarfile.TarInfo(posixpath.join(name, ".wh..wh..opq"))
                    mark.mtime = epoch
                    tar.addfile(mark)
            elif stat.S_ISLNK(status.st_mode):
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
                tar.addfile(info)
            elif stat.S_ISREG(status.st_mode):
                if status.st_nlink > 1 and status.st_ino in linked:
                    info.type, info.linkname = tarfile.LNKTYPE, linked[status.st_ino]
                    tar.addfile(info)
                else:
                    linked[status.st_ino] = name
                    info.size = status.st_size
                    with open(open_file(folder, name), "rb") as file:
                        tar.addfile(info, file)
            elif stat.S_ISFIFO(status.st_mode):
                info.type = tarfile.FIFOTYPE
                tar.addfile(info)
            elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                info.type = tarfile.CHRTYPE if stat.S_ISCHR(status.st_mode) else tarfile.BLKTYPE
                info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
                tar.addfile(info)
            else:
                continue  # a socket
            count += 1
    return count


def _entries(folder: Path) -> Iterator[tuple[str, str]]:
    """What is below a folder, each folder before what is in it: its name, and where it is."""
    todo = [(name, f"{folder}/{name}") for name in sorted(os.listdir(folder), reverse=True)]
    while todo:
        name, path = todo.pop()
        yield name, path
        if os.path.isdir(path) and not os.path.islink(path):
            inner = sorted(os.listdir(path), reverse=True)
            todo += [(f"{name}/{each}", f"{path}/{each}") for each in inner]


def _xattrs(path: str) -> tuple[dict[str, str], bool]:
    """The extended attributes that belong into an image, and whether a folder is opaque."""
    headers: dict[str, str] = {}
    opaque = False
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        if name == "trusted.overlay.opaque":
            opaque = True
        elif name == "security.capability" or name.startswith("user."):
            value = os.getxattr(path, name, follow_symlinks=False)
            headers[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
    return headers, opaque

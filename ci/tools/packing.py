"""A made tool as an archive, to be kept elsewhere: a gzipped tar of a program, or of a folder of files.

An archive holds regular files and folders, all below one name. `unpack` takes no other, whoever made it: no
links, no devices, no path that leaves the name, no more bytes than are said.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ci.errors import BadInput

__all__ = ["pack", "unpack"]

_PIECE_BYTES = 2**20
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
_BROKEN = (
    *(tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError, OverflowError),
    *(FileExistsError, NotADirectoryError, IsADirectoryError),
)
"""What reading an archive ends with that is none, and writing one that has two things in one place."""


def pack(tool: Path, archive: Path) -> int:
    """Write the archive of a program or folder; returns how many bytes it unpacks to, with tar's own.

    The same tool gives the same bytes: there are no times, owners or places in it.
    """
    with archive.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w|") as tar:
            for path in _all(tool):
                member = tarfile.TarInfo(path.relative_to(tool.parent).as_posix())
                if path.is_dir():
                    member.type, member.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(member)
                    continue
                stat = path.stat()
                member.size, member.mode = stat.st_size, 0o755 if stat.st_mode & 0o100 else 0o644
                with path.open("rb") as file:
                    tar.addfile(member, file)
        return packed.tell()


def unpack(archive: Path, name: str, folder: Path, size: int) -> Path:
    """Unpack the tool of that name into an empty folder, and say where it is; `size` as `pack` returned it.

    BadInput when it is not such an archive; then the folder may hold a part of it.
    """
    try:
        with (
            gzip.open(archive, "rb") as packed,
            tarfile.open(fileobj=io.BufferedReader(_AtMost(packed, size)), mode="r|") as tar,
        ):
            for member in tar:
                _write(tar, member, name, folder)
    except _BROKEN as error:
        raise BadInput(f"it is no archive of {name}: {error}") from error
    if not (folder / name).exists():
        raise BadInput(f"it is no archive of {name}: there is no {name} in it")
    return folder / name


def _all(tool: Path) -> Iterator[Path]:
    yield tool
    if tool.is_dir():
        yield from sorted(tool.rglob("*"))


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, folder: Path) -> None:
    parts = member.name.split("/")
    if parts[0] != name or {"", ".", ".."} & set(parts):
        raise BadInput(f"it is no archive of {name}: {member.name!r} is not below {name}")
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.type == tarfile.DIRTYPE:
        path.mkdir()
        return
    content = tar.extractfile(member) if member.type in _PLAIN and not member.issparse() else None
    if content is None:
        raise BadInput(f"it is no archive of {name}: {member.name!r} is neither a file nor a folder")
    # A new file in a folder of our own, in which there are no links: nothing that is elsewhere is written.
    with path.open("xb") as file:
        shutil.copyfileobj(content, file, _PIECE_BYTES)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)


class _AtMost(io.RawIOBase):
    """So many bytes of a stream; it is an error when more come."""

    def __init__(self, stream: gzip.GzipFile, size: int) -> None:
        self._stream = stream
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._stream.read(min(len(buffer), self._left + 1))
        if len(piece) > self._left:
            raise tarfile.TarError("it unpacks to more bytes than are said")
        self._left -= len(piece)
        buffer[: len(piece)] = piece
        return len(piece)

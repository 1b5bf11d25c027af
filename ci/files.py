"""Files that are whole or not there: written beside their place, then moved into it; archives unpacked."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ci import places
from ci.errors import BadInput, PipelineError, SystemUnavailable

__all__ = ["extract", "new_file", "new_folder", "refused", "write_whole"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, content: str | bytes) -> None:
    """Have a file with that content so that nobody ever sees half of it.

    A file that has it already is left alone; what a link leads to is written, and a device as it is.
    BadInput says why a path cannot be written, SystemUnavailable that the disk is full.
    """
    raw = content.encode() if isinstance(content, str) else content
    with _explained(path):
        try:
            kind = path.stat().st_mode
        except FileNotFoundError:
            kind = stat.S_IFREG  # to be
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, "it is a folder, and a file is wanted")
        if not stat.S_ISREG(kind):
            path.write_bytes(raw)
            return
        path = Path(os.path.realpath(path))
        if path.is_file() and path.stat().st_size == len(raw) and path.read_bytes() == raw:
            return
    with new_file(path) as draft, _explained(path):
        draft.write_bytes(raw)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name to write to. What is there at the end replaces `path` in one move; an exception, nothing."""
    with _draft(path) as draft:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        with _explained(path):
            draft.replace(path)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end; what another process has put there first stays."""
    with _draft(path) as draft:
        draft.mkdir()
        yield draft
        try:
            draft.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpack an archive of files and folders into a folder of its own, and nothing beside that.

    A link, a device, or a name that leads out of the folder raises tarfile.ExtractError: no archive of ours
    has one. Owners, and the bits that let others write or become the owner, are not taken over.
    """
    # Not `extractall(filter="data")`: Debian 12's own Python, 3.11.2, has no filters yet.
    for member in archive:
        name = PurePosixPath(member.name)
        plain = member.isdir() or (member.isreg() and name.parts)
        if not plain or name.is_absolute() or ".." in name.parts or "\0" in member.name:
            raise tarfile.ExtractError(f"{member.name!r} is no file or folder of its own")
        target = folder / name
        try:
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # the last of a name counts
            content = archive.extractfile(member)
            assert content is not None
            with content, target.open("xb") as file:
                shutil.copyfileobj(content, file)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise tarfile.ExtractError(f"{member.name!r} is a file and a folder") from error
        target.chmod(member.mode & 0o755 | 0o600)
        os.utime(target, (member.mtime, member.mtime))


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        nest = tempfile.TemporaryDirectory(prefix=f".{path.name[:32]}.", dir=path.parent)
    try:
        with nest as folder:
            yield Path(folder) / path.name
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise refused(error, path) from error
        raise


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise refused(error, path) from error


def refused(error: OSError, path: Path | None = None) -> PipelineError:
    """What the system said against writing or reading a file, in one line; `path` if the error names none."""
    where = path or Path(str(error.filename or "")) if error.filename or path else None
    if error.errno in _NO_ROOM:
        ordinary = where is not None and (where.is_file() or not where.exists())
        free = (
            f" ({shutil.disk_usage(_existing(where)).free // 2**20} MiB free)" if where and ordinary else ""
        )
        return SystemUnavailable(
            f"no room to write {where or 'a file'}: the disk is full{free}",
            hint="free some room (va cache prune), then run the same command: it goes on from here",
        )
    said = error.strerror or "the system gave no reason"
    if where is None:
        return SystemUnavailable(f"this machine did not do it: {said}")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        above = next((one for one in where.parents if one.exists() and not one.is_dir()), None)
        said = f"{above} is a file, and a folder is wanted" if above else said
    # A home that nobody may write to is named by its outermost folder: mkdir begins there.
    if any(
        where.is_relative_to(folder) or (path is None and folder.is_relative_to(where))
        for folder in (places.state(), places.cache())
    ):
        return SystemUnavailable(
            f"{where} cannot be used: {said}", hint="VA_STATE and VA_CACHE name where va keeps things"
        )
    return BadInput(f"{where} cannot be used: {said}", hint="another path, or other rights to this one")


def _existing(path: Path) -> Path:
    return next(folder for folder in path.absolute().parents if folder.is_dir())

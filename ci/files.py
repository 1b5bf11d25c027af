"""Files that are whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ci.errors import SystemUnavailable

__all__ = ["new_file", "new_folder", "write_whole"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, content: str | bytes) -> None:
    """Have a file with that content so that nobody ever sees half of it; SystemUnavailable on a full disk.

    A file that has it already is left alone.
    """
    raw = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.stat().st_size == len(raw) and path.read_bytes() == raw:
        return
    with new_file(path) as draft:
        draft.write_bytes(raw)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name to write to. What is there at the end replaces `path` in one move; an exception, nothing."""
    with _draft(path) as draft:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
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


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as nest:
            yield Path(nest) / path.name
    except OSError as error:
        if error.errno in _NO_ROOM:
            free = shutil.disk_usage(_existing(path)).free // 2**20
            raise SystemUnavailable(
                f"no room to write {path}: the disk is full ({free} MiB free)",
                hint="free some room (va cache prune), then run the same command: it goes on from here",
            ) from error
        raise


def _existing(path: Path) -> Path:
    return next(folder for folder in path.absolute().parents if folder.is_dir())

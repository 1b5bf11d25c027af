"""What the cache on disk holds, and how it shrinks: all that needs no session.

A layer of an image needs the blob that it came as, or the image would be another once it is published: they
stay and go together. Whatever goes is away under its name at once, however long removing it takes: what is
there is whole.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ci import places
from ci.errors import SystemUnavailable

__all__ = [
    "FOLDERS",
    "LIMIT",
    "SCHEMA",
    "Usage",
    "full_disk_is_told",
    "limit",
    "lock",
    "needs",
    "prune",
    "remove",
    "size_of",
    "stands",
    "usage",
]

LIMIT = 20 * 2**30
"""Bytes the cache may keep after a session; `VA_ENGINE_CACHE_BYTES` overrides it."""

FOLDERS = {"layer": "layers", "blob": "blobs", "output": "outputs"}
"""Where things of a kind are, by their id."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, value TEXT, used REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS things (
    kind TEXT, id TEXT, size INTEGER, used REAL, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS originals (layer TEXT PRIMARY KEY, blob TEXT, value TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS originals_by_blob ON originals (blob);
"""
"""results: key of a step -> what it made. things: what is on disk, its bytes and last use. originals: layers
of images, and the blob that each came as."""

_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What the cache holds; sizes in bytes."""

    layers: int
    blobs: int
    volumes: int
    outputs: int
    """What steps printed, and the index of their results."""
    results: int
    """How many steps have a result."""
    size: int


def usage(root: Path | None = None) -> Usage:
    """What the cache holds now."""
    root = root or places.cache() / "engine"
    if not (root / "index.sqlite").exists():
        return Usage(layers=0, blobs=0, volumes=0, outputs=0, results=0, size=0)
    with closing(_opened(root)) as db:
        sizes = dict(db.execute("SELECT kind, SUM(size) FROM things GROUP BY kind"))
        results, index = db.execute(
            "SELECT COUNT(*), SUM(LENGTH(key) + LENGTH(CAST(value AS BLOB))) FROM results"
        ).fetchone()
    parts = {
        "layers": sizes.get("layer") or 0,
        "blobs": sizes.get("blob") or 0,
        "volumes": size_of(root / "volumes"),
        "outputs": (sizes.get("output") or 0) + (index or 0),
    }
    return Usage(**parts, results=results, size=sum(parts.values()) + size_of(root / "buildah"))


def prune(max_bytes: int | None = None, root: Path | None = None) -> Usage:
    """Delete what was used longest ago until the cache is within `max_bytes` (default: its limit).

    SystemUnavailable while a session uses the cache. Returns what is left.
    """
    root = root or places.cache() / "engine"
    if not (root / "index.sqlite").exists():
        return usage(root)
    try:
        held = lock(root / "sessions.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SystemUnavailable(
            f"the engine's cache {root} is in use by a running pipeline", hint="prune when it has ended"
        ) from error
    with held, closing(_opened(root)) as db:
        _drop_strays(root, db)
        most = limit() if max_bytes is None else max_bytes
        for drop in (_drop_buildah, _drop_things, _drop_results, _drop_volumes):
            if (over := usage(root).size - most) <= 0:
                break
            drop(root, db, over)
        with suppress(sqlite3.Error):  # a full disk: the file keeps its size
            db.execute("VACUUM")
    return usage(root)


def _opened(root: Path) -> sqlite3.Connection:
    db = sqlite3.connect(root / "index.sqlite", timeout=60)
    db.executescript(SCHEMA)
    return db


def _drop_strays(root: Path, db: sqlite3.Connection) -> None:
    """What a session that was killed had moved in, and not noted yet."""
    for kind, folder in FOLDERS.items():
        known = {id for (id,) in db.execute("SELECT id FROM things WHERE kind = ?", (kind,))}
        with suppress(FileNotFoundError):
            for name in os.listdir(root / folder):
                if _ID.fullmatch(name) and name not in known:
                    _take_away(root, root / folder / name)


def _drop_buildah(root: Path, db: sqlite3.Connection, over: int) -> None:
    _take_away(root, root / "buildah")


def _drop_things(root: Path, db: sqlite3.Connection, over: int) -> None:
    def drop(kind: str, id: str) -> int:
        found = db.execute("SELECT size FROM things WHERE kind = ? AND id = ?", (kind, id)).fetchone()
        if found is None:
            return 0
        freed: int = found[0]
        if kind == "blob":
            for (layer,) in db.execute("SELECT layer FROM originals WHERE blob = ?", (id,)).fetchall():
                freed += drop("layer", layer)
        _take_away(root, root / FOLDERS[kind] / id)
        with db:
            db.execute("DELETE FROM things WHERE kind = ? AND id = ?", (kind, id))
            if kind == "layer":
                db.execute("DELETE FROM originals WHERE layer = ?", (id,))
        return freed

    for kind, id in db.execute("SELECT kind, id FROM things ORDER BY used, kind, id").fetchall():
        if over <= 0:
            break
        over -= drop(kind, id)
    # A result of which something is left stays: what it lacks may be made again, and be the same.
    gone = [
        (key,)
        for key, value in db.execute("SELECT key, value FROM results")
        if (made := needs(json.loads(value))) and not any(_is_there(root, *one) for one in made)
    ]
    with db:
        db.executemany("DELETE FROM results WHERE key = ?", gone)


def _drop_results(root: Path, db: sqlite3.Connection, over: int) -> None:
    rows = db.execute(
        "SELECT key, LENGTH(key) + LENGTH(CAST(value AS BLOB)) FROM results ORDER BY used, key"
    ).fetchall()
    with db:
        for key, size in rows:
            if over <= 0:
                break
            db.execute("DELETE FROM results WHERE key = ?", (key,))
            over -= size


def _drop_volumes(root: Path, db: sqlite3.Connection, over: int) -> None:
    for volume in sorted((root / "volumes").iterdir(), key=lambda path: path.stat().st_mtime):
        if over <= 0:
            break
        over -= size_of(volume)
        _take_away(root, volume)


def _take_away(root: Path, path: Path) -> None:
    """Remove something that is not to be found half removed."""
    if path.exists():
        gone = root / "tmp" / f"gone-{secrets.token_hex(6)}"
        gone.mkdir(parents=True)
        path.rename(gone / "it")
        remove(gone)


def needs(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a result needs to stay valid, as kinds and ids of things."""
    return [(kind, id) for kind, name in FOLDERS.items() for id in value.get(name, ())]


def stands(root: Path, db: sqlite3.Connection, value: Mapping[str, Any]) -> bool:
    """Whether all that a result needs is still there, the blobs that its layers came as included."""
    layers = list(value.get("layers", ()))
    marks = ", ".join("?" * len(layers))
    blobs = db.execute(f"SELECT blob FROM originals WHERE layer IN ({marks})", layers).fetchall()  # noqa: S608  # nosec B608  # question marks
    return all(_is_there(root, *one) for one in [*needs(value), *(("blob", blob) for (blob,) in blobs)])


def _is_there(root: Path, kind: str, id: str) -> bool:
    return (root / FOLDERS[kind] / id).exists()


def limit() -> int:
    """Bytes that the cache may keep."""
    return int(os.environ.get("VA_ENGINE_CACHE_BYTES") or LIMIT)


@contextmanager
def full_disk_is_told(root: Path) -> Iterator[None]:
    """A full disk (or one that cannot be written) becomes SystemUnavailable with what to do."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "full" in str(error)
        readonly = getattr(error, "errno", None) in (errno.EROFS, errno.EACCES)
        if not full and not readonly:
            raise
        what = "the disk is full" if full else "it cannot be written"
        raise SystemUnavailable(
            f"the engine's cache {root}: {what} ({error})",
            hint="va cache prune makes room; VA_CACHE puts the cache on another disk",
        ) from error


def lock(path: Path, how: int) -> IO[bytes]:
    """A file, locked as `how` says (flock(2)); closing it lets go. BlockingIOError where it has to wait."""
    file = path.open("ab")
    try:
        fcntl.flock(file, how)
    except BaseException:
        file.close()
        raise
    return file


def remove(folder: Path) -> None:
    """Remove a tree, as far as that goes: what stays is for the next session."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except (OSError, RecursionError):  # a step may nest folders deeper than Python and a path's length go
        subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL, check=False)


def size_of(folder: Path) -> int:
    """Bytes on disk of a tree, as du counts them; a file that vanishes meanwhile counts nothing."""
    total, todo = 0, [str(folder)]
    while todo:  # a loop: a step nests folders deeper than Python calls functions
        with suppress(OSError), os.scandir(todo.pop()) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                    continue
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total

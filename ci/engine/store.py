"""The cache on disk: layers, blobs, cache volumes, and the index that says which step made which.

    index.sqlite        results: key of a step -> what it made; layers and blobs: size and last use
    layers/<id>/        what one step changed in a file tree, as overlayfs keeps it (whiteouts and all)
    blobs/<sha256>      compressed layers as they go into images
    volumes/<name>/     cache volumes
    tmp/<session>/      work under way; of a session that is gone, it is thrown away
    buildah/            images that buildah pulls and Dockerfiles it builds

A layer or blob appears by one rename when it is complete, and its result is written after it: killed
anywhere, or with a full disk, there is rubbish in tmp/ and nothing half-made. Two sessions may share it: both
may do the same step, the first result stands. Each session holds a shared lock; pruning needs the exclusive
one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ci import places
from ci.errors import SystemUnavailable

__all__ = ["LIMIT", "Store", "Usage", "digest_of", "full_disk_is_told", "prune", "usage"]

LIMIT = 20 * 2**30
"""Bytes the cache may keep after a session; `VA_ENGINE_CACHE_BYTES` overrides it."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, value TEXT, used REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS things (
    kind TEXT, id TEXT, size INTEGER, used REAL, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What the cache holds; sizes in bytes."""

    layers: int
    blobs: int
    volumes: int
    results: int
    """How many steps have a result."""
    size: int


def digest_of(*parts: Any) -> str:
    """The key of a step: SHA-256 over JSON of what went into it."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Store:
    """One session's hold on the cache. Close it when the session ends."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or places.cache() / "engine"
        self.layers = self.root / "layers"
        self.blobs = self.root / "blobs"
        self.volumes = self.root / "volumes"
        self.buildah = self.root / "buildah"
        with full_disk_is_told(self.root):
            for folder in (self.layers, self.blobs, self.volumes, self.root / "tmp"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.root.chmod(0o700)
            self._session_lock = _lock(self.root / "sessions.lock", fcntl.LOCK_SH)
            with _lock(self.root / "tmp.lock", fcntl.LOCK_EX):
                self._clear_rubbish()
                self.tmp = self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(4)}"
                self.tmp.mkdir(mode=0o700)
                self._tmp_lock = _lock(self.tmp / "lock", fcntl.LOCK_EX)
            self._db = sqlite3.connect(self.root / "index.sqlite", timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            self._mutex = threading.Lock()
        self._used: set[tuple[str, str]] = set()
        self._used_keys: set[str] = set()
        self._grew = False

    def close(self) -> None:
        """Note what was used, remove this session's work, and keep the cache within its limit."""
        now = time.time()
        with self._mutex:
            try:
                with self._db:
                    self._db.executemany(
                        "UPDATE things SET used = ? WHERE kind = ? AND id = ?",
                        [(now, kind, id) for kind, id in self._used],
                    )
                    self._db.executemany(
                        "UPDATE results SET used = ? WHERE key = ?", [(now, key) for key in self._used_keys]
                    )
            except sqlite3.Error:
                pass  # a full disk: the cache only forgets when it was used last
            finally:
                self._db.close()
        _remove(self.tmp)
        self._tmp_lock.close()
        self._session_lock.close()
        if self._grew and usage(self.root).size > _limit():
            with suppress(SystemUnavailable):  # another session runs: it prunes when it ends
                prune(root=self.root)

    # results

    def result(self, key: str) -> dict[str, Any] | None:
        """What the step of that key made, if all of it is still there."""
        with self._mutex:
            row = self._db.execute("SELECT value FROM results WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        value: dict[str, Any] = json.loads(row[0])
        if not _stands(self.root, value):
            return None
        self._used.update(("layer", id) for id in value.get("layers", ()))
        self._used.update(("blob", id) for id in value.get("blobs", ()))
        self._used_keys.add(key)
        return value

    def keep(self, key: str, value: dict[str, Any]) -> dict[str, Any]:
        """Write a step's result. If another session was first, its result stands and is returned.

        `layers` and `blobs` of the value name what it needs to stay valid.
        """
        with full_disk_is_told(self.root):
            known = self.result(key)
            if known is not None:
                return known
            with self._mutex, self._db:
                self._db.execute(
                    "INSERT OR REPLACE INTO results VALUES (?, ?, ?)",
                    (key, json.dumps(value, ensure_ascii=True), time.time()),
                )
        self._used.update(("layer", id) for id in value.get("layers", ()))
        return value

    def replace(self, key: str, value: dict[str, Any]) -> None:
        """Write what was seen last, over what was seen before; `keep` lets a result stand."""
        with full_disk_is_told(self.root), self._mutex, self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?)",
                (key, json.dumps(value, ensure_ascii=True), time.time()),
            )

    # layers and blobs

    def scratch(self, name: str = "w") -> Path:
        """A new empty folder for work, gone with the session."""
        folder = self.tmp / f"{name}-{secrets.token_hex(6)}"
        with full_disk_is_told(self.root):
            folder.mkdir(mode=0o755)
        return folder

    @contextmanager
    def work(self, name: str = "w") -> Iterator[Path]:
        """A new empty folder that goes with the block, however that ends: what stays was moved in before."""
        folder = self.scratch(name)
        try:
            yield folder
        finally:
            self.discard(folder)

    def discard(self, folder: Path) -> None:
        """Throw work away before the session ends."""
        _remove(folder)

    def add_layer(self, folder: Path, id: str | None = None) -> str:
        """Move a finished tree in. `id` is given where it follows from the content: then an equal layer
        that is there already stands, and the folder is thrown away."""
        id = id or secrets.token_hex(32)
        with full_disk_is_told(self.root):
            size = _size(folder)
            _move_in(folder, self.layers / id)
            self._note("layer", id, size)
        return id

    def has_layer(self, id: str) -> bool:
        """Whether the layer of that content is there."""
        return (self.layers / id).is_dir()

    def add_blob(self, file: Path, digest: str) -> None:
        """Move a finished blob in, by its hex SHA-256."""
        with full_disk_is_told(self.root):
            size = file.stat().st_size
            file.replace(self.blobs / digest)
            self._note("blob", digest, size)

    def volume(self, name: str) -> Path:
        """The folder of a cache volume; the caller makes it."""
        self._grew = True
        return self.volumes / hashlib.sha256(name.encode()).hexdigest()[:24]

    @contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Hold a lock between sessions without waiting; yields whether it was got."""
        file = (self.root / f"{name}.lock").open("ab")
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            file.close()

    def secret_key(self) -> bytes:
        """The key of this cache's MACs over secrets, made once. Without it a MAC tells nothing of a
        secret."""
        path = self.root / "mac.key"
        with full_disk_is_told(self.root):
            if not path.exists():
                new = self.tmp / "mac.key"
                new.touch(mode=0o600)
                new.write_bytes(secrets.token_bytes(32))
                with suppress(FileExistsError):
                    path.hardlink_to(new)
        return path.read_bytes()

    def _note(self, kind: str, id: str, size: int) -> None:
        self._grew = True
        with self._mutex, self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO things VALUES (?, ?, ?, ?)", (kind, id, size, time.time())
            )

    def _clear_rubbish(self) -> None:
        """Throw away the work of sessions that are gone: nobody holds their lock."""
        for folder in (self.root / "tmp").iterdir():
            try:
                held = _lock(folder / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, FileNotFoundError):  # in use, or its session takes it away just now
                continue
            _remove(folder)
            held.close()


def usage(root: Path | None = None) -> Usage:
    """What the cache holds now."""
    root = root or places.cache() / "engine"
    if not (root / "index.sqlite").exists():
        return Usage(layers=0, blobs=0, volumes=0, results=0, size=0)
    db = sqlite3.connect(root / "index.sqlite", timeout=60)
    try:
        sizes = dict(db.execute("SELECT kind, SUM(size) FROM things GROUP BY kind"))
        (results,) = db.execute("SELECT COUNT(*) FROM results").fetchone()
    finally:
        db.close()
    parts = {
        "layers": sizes.get("layer") or 0,
        "blobs": sizes.get("blob") or 0,
        "volumes": _size(root / "volumes"),
    }
    return Usage(**parts, results=results, size=sum(parts.values()) + _size(root / "buildah"))


def prune(max_bytes: int | None = None, root: Path | None = None) -> Usage:
    """Delete what was used longest ago until the cache is within `max_bytes` (default: its limit).

    SystemUnavailable while a session uses the cache. Returns what is left.
    """
    root = root or places.cache() / "engine"
    if not root.exists():
        return usage(root)
    try:
        lock = _lock(root / "sessions.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SystemUnavailable(
            f"the engine's cache {root} is in use by a running pipeline", hint="prune when it has ended"
        ) from error
    try:
        limit = _limit() if max_bytes is None else max_bytes
        left = usage(root)
        if left.size <= limit:
            return left
        over = left.size - limit
        if left.size > left.layers + left.blobs + left.volumes:
            over -= _size(root / "buildah")
            _remove(root / "buildah")
        over = _drop_things(root, over)
        for volume in sorted((root / "volumes").iterdir(), key=lambda path: path.stat().st_mtime):
            if over <= 0:
                break
            over -= _size(volume)
            _remove(volume)
        return usage(root)
    finally:
        lock.close()


def _drop_things(root: Path, over: int) -> int:
    db = sqlite3.connect(root / "index.sqlite", timeout=60)
    try:
        for kind, id, size in db.execute("SELECT kind, id, size FROM things ORDER BY used").fetchall():
            if over <= 0:
                break
            if kind == "layer":
                _remove(root / "layers" / id)
            else:
                (root / "blobs" / id).unlink(missing_ok=True)
            with db:
                db.execute("DELETE FROM things WHERE kind = ? AND id = ?", (kind, id))
            over -= size
        gone = [
            (key,)
            for key, value in db.execute("SELECT key, value FROM results")
            if not _stands(root, json.loads(value))
        ]
        with db:
            db.executemany("DELETE FROM results WHERE key = ?", gone)
    finally:
        db.close()
    return over


def _stands(root: Path, value: dict[str, Any]) -> bool:
    """Whether all that a result needs is still there."""
    return all((root / "layers" / id).exists() for id in value.get("layers", ())) and all(
        (root / "blobs" / id).exists() for id in value.get("blobs", ())
    )


def _limit() -> int:
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


def _lock(path: Path, how: int) -> IO[bytes]:
    file = path.open("ab")
    try:
        fcntl.flock(file, how)
    except BaseException:
        file.close()
        raise
    return file


def _remove(folder: Path) -> None:
    """Remove a tree, as far as that goes: what stays is for the next session."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except (OSError, RecursionError):  # a step may nest folders deeper than Python and a path's length go
        subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL, check=False)


def _size(folder: Path) -> int:
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


def _move_in(folder: Path, target: Path) -> None:
    """Rename, or throw away where an equal layer is there already."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _remove(folder)

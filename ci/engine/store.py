"""The cache on disk: layers, blobs, cache volumes, and the index that says which step made which.

    index.sqlite        results: key of a step -> what it made; things: size and last use (ci/engine/cache.py)
    layers/<id>/        what one step changed in a file tree, as overlayfs keeps it (whiteouts and all)
    blobs/<sha256>      compressed layers as they go into images
    outputs/<id>        what a step printed
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
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ci import places
from ci.engine.cache import (
    SCHEMA,
    full_disk_is_told,
    limit,
    lock,
    needs,
    prune,
    remove,
    size_of,
    stands,
    usage,
)
from ci.errors import SystemUnavailable

__all__ = ["Store", "digest_of", "full_disk_is_told"]

_LEAST_FREE, _MOST_FREE = 16 * 2**20, 512 * 2**20
"""A hundredth of the disk, but no less and no more bytes than these, are not for a step or a file to take."""


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
        self.outputs = self.root / "outputs"
        self.volumes = self.root / "volumes"
        self.buildah = self.root / "buildah"
        with full_disk_is_told(self.root):
            for folder in (self.layers, self.blobs, self.outputs, self.volumes, self.root / "tmp"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.root.chmod(0o700)
            self._session_lock = lock(self.root / "sessions.lock", fcntl.LOCK_SH)
            with lock(self.root / "tmp.lock", fcntl.LOCK_EX):
                self._clear_rubbish()
                self.tmp = self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(4)}"
                self.tmp.mkdir(mode=0o700)
                self._tmp_lock = lock(self.tmp / "lock", fcntl.LOCK_EX)
            self._db = sqlite3.connect(self.root / "index.sqlite", timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
            self._mutex = threading.Lock()
        self._used: set[tuple[str, str]] = set()
        self._used_keys: set[str] = set()
        self._names: dict[str, frozenset[str]] = {}
        self._there: set[tuple[str, str]] = set()
        """Layers and blobs that were seen here. Nothing goes while a session holds its lock."""
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
                        "UPDATE things SET used = ? WHERE kind = 'blob'"
                        " AND id IN (SELECT blob FROM originals WHERE layer = ?)",
                        [(now, id) for kind, id in self._used if kind == "layer"],
                    )
                    self._db.executemany(
                        "UPDATE results SET used = ? WHERE key = ?", [(now, key) for key in self._used_keys]
                    )
            except sqlite3.Error:
                pass  # a full disk: the cache only forgets when it was used last
            finally:
                self._db.close()
        remove(self.tmp)
        self._tmp_lock.close()
        self._session_lock.close()
        if self._grew and usage(self.root).size > limit():
            with suppress(SystemUnavailable):  # another session runs: it prunes when it ends
                prune(root=self.root)

    def is_full(self) -> bool:
        disk = os.statvfs(self.root)
        least = max(_LEAST_FREE, min(disk.f_blocks * disk.f_frsize // 100, _MOST_FREE))
        # Files without content take none of the room, but all of the inodes.
        return disk.f_bavail * disk.f_frsize < least or disk.f_favail < disk.f_files // 100

    # results

    def result(self, key: str) -> dict[str, Any] | None:
        """What the step of that key made, if all of it is still there."""
        with self._mutex:
            row = self._db.execute("SELECT value FROM results WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            value: dict[str, Any] = json.loads(row[0])
            needed = set(needs(value))
            if not needed <= self._there:
                if not stands(self.root, self._db, value):
                    return None
                self._there |= needed
        self._used |= needed
        self._used_keys.add(key)
        return value

    def keep(self, key: str, value: dict[str, Any]) -> dict[str, Any]:
        """Write a step's result. If another session was first, its result stands and is returned.

        `layers`, `blobs` and `outputs` of the value name what it needs to stay valid.
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
        self._grew = True
        self._used.update(needs(value))
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
        remove(folder)

    def add_layer(self, folder: Path, id: str | None = None) -> str:
        """Move a finished tree in. `id` is given where it follows from the content: then an equal layer
        that is there already stands, and the folder is thrown away."""
        id = id or secrets.token_hex(32)
        with full_disk_is_told(self.root):
            size = size_of(folder)
            _move_in(folder, self.layers / id)
            self._note("layer", id, size)
        return id

    def add_original(self, layer: str, blob: str, value: dict[str, Any]) -> None:
        """Note the blob that a layer of an image came as, and what is to be known of it. Before the layer is
        moved in: from then on it is not without."""
        with full_disk_is_told(self.root), self._mutex, self._db:
            row = (layer, blob, json.dumps(value))
            self._db.execute("INSERT OR REPLACE INTO originals VALUES (?, ?, ?)", row)

    def original(self, layer: str) -> dict[str, Any] | None:
        """What is known of the blob that a layer came as; None for a layer of no image."""
        with self._mutex:
            row = self._db.execute("SELECT blob, value FROM originals WHERE layer = ?", (layer,)).fetchone()
        if row is None:
            return None
        if not (self.blobs / row[0]).exists():
            raise SystemUnavailable(f"the engine's cache has lost the blob {row[0]}", hint="run it again")
        value: dict[str, Any] = json.loads(row[1])
        return value

    def add_output(self, said: dict[str, str]) -> str:
        """Keep what a step printed, by stream; returns its id."""
        id = secrets.token_hex(32)
        with full_disk_is_told(self.root), self.work("output") as folder:
            file = folder / "said"
            file.write_text(json.dumps(said))
            size = file.stat().st_blocks * 512
            file.replace(self.outputs / id)
            self._note("output", id, size)
        return id

    def output(self, id: str) -> dict[str, str]:
        """What a step printed."""
        said: dict[str, str] = json.loads((self.outputs / id).read_text())
        return said

    def names(self, layer: str) -> frozenset[str]:
        """What is in the root of a layer, by its path: a layer never changes."""
        if (known := self._names.get(layer)) is None:
            known = self._names[layer] = frozenset(os.listdir(layer))
        return known

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
                held = lock(folder / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, FileNotFoundError):  # in use, or its session takes it away just now
                continue
            remove(folder)
            held.close()


def _move_in(folder: Path, target: Path) -> None:
    """Rename, or throw away where an equal layer is there already."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        remove(folder)

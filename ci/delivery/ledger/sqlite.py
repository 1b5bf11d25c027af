"""A ledger in a file of this machine: SQLite, which several processes may read and write at once.

One table of lines by their sequence. SQLite's own count of what it ever put into it (AUTOINCREMENT) tells an
end that was cut off. The log is written ahead and synced before an append returns (WAL, synchronous FULL),
and so are the folders that are made for it. https://www.sqlite.org/wal.html, https://www.sqlite.org/autoinc.html
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ci.delivery.ledger.chain import Row, damaged
from ci.errors import PipelineError, SystemUnavailable
from ci.files import refused

__all__ = ["Sqlite"]

_PATIENCE = 30.0
"""Seconds that another process may hold the file; an append holds it for milliseconds."""
_TABLE = "CREATE TABLE entries (sequence INTEGER PRIMARY KEY AUTOINCREMENT, line BLOB NOT NULL)"
_MAY_NOT = ("READONLY", "CANTOPEN", "PERM", "AUTH")
_LITTLE = 64 * 2**10
"""Bytes: with less than that free a disk is full, whatever SQLite calls it."""


class Sqlite:
    """The store. Its methods block, and may be called from any thread."""

    def __init__(self, file: Path) -> None:
        self.where = str(file)
        self._file = file
        self._connection: sqlite3.Connection | None = None
        self._writes = False
        self._lock = threading.Lock()

    def rows(self, first: int) -> tuple[list[Row], int]:
        """The rows from that sequence on, and how many entries there are by SQLite's count."""
        with self._asked() as connection:
            if connection is None:
                return [], 0
            with _reads(connection):
                count = _count(connection)
                try:
                    found = connection.execute(
                        "SELECT sequence, line FROM entries WHERE sequence >= ? ORDER BY sequence", (first,)
                    ).fetchall()
                except sqlite3.DatabaseError as error:
                    if _name(error) != "CORRUPT" or not count:
                        raise
                    return list(self._one_by_one(connection, first, count)), count
        return [self._row(*one) for one in found], count

    def append(self, make: Callable[[Row | None, int], bytes]) -> None:
        """Add the line that `make` makes of the last row and the count; on disk when this returns."""
        with self._asked(writing=True) as connection:
            assert connection is not None
            with _writes(connection):
                last = connection.execute(
                    "SELECT sequence, line FROM entries ORDER BY sequence DESC LIMIT 1"
                ).fetchone()
                line = make(self._row(*last) if last else None, _count(connection))
                connection.execute(
                    "INSERT INTO entries (sequence, line) VALUES (?, ?)", (last[0] + 1 if last else 1, line)
                )

    def check(self) -> list[str]:
        """What SQLite itself finds wrong with its file."""
        with self._asked() as connection:
            if connection is None:
                return []
            found = connection.execute("PRAGMA integrity_check(20)").fetchall()
        return [one.decode(errors="replace") for (one,) in found if one != b"ok"]

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._writes = None, False

    @contextmanager
    def _asked(self, *, writing: bool = False) -> Iterator[sqlite3.Connection | None]:
        """The connection, for one at a time; None where there is nothing to read yet."""
        with self._lock:
            try:
                if writing and not self._writes:
                    _have(self._file)
                    self._connect(f"{self._file.as_uri()}?mode=rw")
                    self._writes = True
                elif self._connection is None and self._file.exists():
                    self._connect(f"{self._file.as_uri()}?{self._reading()}")
                yield self._connection
            except sqlite3.Error as error:
                if _name(error) in _MAY_NOT:
                    self._drop()  # it may still be read, in another way
                raise self._said(error) from error
            except UnicodeDecodeError as error:  # SQLite quotes a name that is damaged
                raise damaged(
                    self.where, "is no ledger as it was written (a name in it is no text)"
                ) from error
            except OSError as error:
                raise refused(error, self._file) from error

    def _connect(self, uri: str) -> None:
        self._drop()
        self._connection = sqlite3.connect(
            uri, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        self._connection.text_factory = bytes
        self._connection.execute("PRAGMA synchronous=FULL")

    def _reading(self) -> str:
        """Readers of a file with a log write beside it; who may not, can read it where there is no log."""
        if os.access(self._file, os.W_OK) and os.access(self._file.parent, os.W_OK):
            return "mode=rw"
        log = self._file.with_name(f"{self._file.name}-wal")
        return "mode=ro" if log.exists() else "mode=ro&immutable=1"

    def _one_by_one(self, connection: sqlite3.Connection, first: int, count: int) -> Iterator[Row]:
        """What can be read of a file that is damaged inside."""
        for number in range(first, count + 1):
            try:
                found = connection.execute(
                    "SELECT sequence, line FROM entries WHERE sequence = ?", (number,)
                ).fetchone()
            except sqlite3.DatabaseError as error:
                yield Row(where=self.where, line=b"", number=number, unreadable=str(error))
            else:
                if found:
                    yield self._row(*found)

    def _row(self, number: int, line: object) -> Row:
        content = line if isinstance(line, bytes) else str(line).encode()
        return Row(where=self.where, line=content, number=number)

    def _said(self, error: sqlite3.Error) -> PipelineError:
        """In one line what SQLite has against it."""
        name, folder = _name(error), self._file.parent
        if name == "BUSY":
            return SystemUnavailable(
                f"the ledger {self._file} is held by another process",
                hint="is one of them stopped? then end it; the same command goes on from here",
            )
        if name == "FULL" or (name == "IOERR" and shutil.disk_usage(folder).free < _LITTLE):
            return refused(OSError(errno.ENOSPC, ""), self._file)
        if name in _MAY_NOT:
            only_read = os.statvfs(folder).f_flag & os.ST_RDONLY
            code = errno.EISDIR if self._file.is_dir() else errno.EROFS if only_read else errno.EACCES
            return refused(OSError(code, os.strerror(code)), self._file)
        if name in ("IOERR", "NOMEM", "NOLFS"):
            return SystemUnavailable(f"the ledger {self._file} cannot be used: {error}")
        return damaged(self.where, f"is no ledger as it was written ({error})")


def _name(error: sqlite3.Error) -> str:
    """`BUSY` of SQLITE_BUSY and of all its extended codes."""
    return (getattr(error, "sqlite_errorname", "") + "_").split("_")[1]


def _count(connection: sqlite3.Connection) -> int:
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
    return found[0] if found and isinstance(found[0], int) else 0


@contextmanager
def _reads(connection: sqlite3.Connection) -> Iterator[None]:
    """What is read in the block is of one moment."""
    connection.execute("BEGIN DEFERRED")
    try:
        yield
    finally:
        with suppress(sqlite3.Error):  # of a damaged file it is refused, too
            connection.execute("ROLLBACK")


@contextmanager
def _writes(connection: sqlite3.Connection) -> Iterator[None]:
    """What is written in the block is there as a whole, or not at all."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _have(file: Path) -> None:
    """A ledger without entries, whole from its first moment on: a file that is empty is a damaged one."""
    _have_folder(file.parent)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not file.exists():
            draft = file.with_suffix(".new")
            for left in (draft, *(draft.with_suffix(f".new-{log}") for log in ("wal", "shm"))):
                left.unlink(missing_ok=True)
            connection = sqlite3.connect(draft, isolation_level=None)
            try:
                for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", _TABLE):
                    connection.execute(statement)
            finally:
                connection.close()
            draft.replace(file)
        os.fsync(folder)
    finally:
        os.close(folder)


def _have_folder(folder: Path) -> None:
    """A folder that is there after a loss of power, too: each new one is written into the one above."""
    if not folder.is_dir():
        _have_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        above = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(above)
        finally:
            os.close(above)

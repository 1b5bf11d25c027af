"""The room for PostgreSQL: backs a server up, checks what it has of it, and gives it back.

A backup is two things. The *base backup* is the cluster's files: with the archived write-ahead log it becomes
the cluster as it was at any moment since. The *dump* is the database's content: it goes into any server, of a
newer version or at Azure too, but is as old as the backup.
Sources: "Continuous Archiving and Point-in-Time Recovery" and "pg_dump", PostgreSQL 15 documentation.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString

import psycopg

from ci.concurrency import within
from ci.errors import BadInput, PipelineError, SystemUnavailable
from ci.files import extract
from ci.process import run
from ci.recovery.sets import Check, PostgresBackup, Table, file_of

__all__ = [
    "Server",
    "back_up",
    "check",
    "connect",
    "cut_log",
    "explain",
    "first_segment",
    "follow_log",
    "is_empty",
    "recovered",
    "restore_dump",
    "summary",
    "unpack",
]

_BASE, _WAL, _FILES = "base.tar.gz", "pg_wal.tar.gz", "backup_manifest"

# Of the user's tables, no system's. md5 as 64 bits, summed: no order changes it, and every version of
# PostgreSQL gives the same.
_TABLES: LiteralString = """
    SELECT format('%I.%I', schemaname, relname) FROM pg_stat_user_tables ORDER BY 1
"""
_SUM = """
    SELECT count(*), coalesce(sum(('x' || substr(md5(t::text), 1, 16))::bit(64)::bigint::numeric), 0)
    FROM {table} t
"""


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a server answers, and the folder of its programs (pg_dump and the like, of its version)."""

    host: str
    port: int
    database: str
    user: str
    programs: Path

    @property
    def env(self) -> dict[str, str]:
        """What libpq's programs read."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGDATABASE": self.database,
            "PGUSER": self.user,
            "PGAPPNAME": "va-dr",
        }


@asynccontextmanager
async def connect(server: Server) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """A connection that commits each statement; SystemUnavailable when the server does not answer."""
    try:
        connection = await psycopg.AsyncConnection.connect(
            host=server.host,
            port=server.port,
            dbname=server.database,
            user=server.user,
            autocommit=True,
            connect_timeout=5,
        )
    except psycopg.OperationalError as error:
        raise SystemUnavailable(
            f"PostgreSQL at {server.host} port {server.port} does not answer: {str(error).strip()}"
        ) from error
    async with connection:
        yield connection


# Backing up ----------------------------------------------------------------------------------------


async def back_up(server: Server, folder: Path, archive: Path | None) -> PostgresBackup:
    """Write a base backup and a dump to `folder`/postgres; StepFailed with what the program said.

    The dump and the sums of `tables` are of one snapshot: a restored dump is compared with what was dumped.
    """
    into = folder / "postgres"
    into.mkdir()
    async with connect(server) as connection:
        version, cluster = await _one(
            connection,
            "SELECT current_setting('server_version'), system_identifier::text FROM pg_control_system()",
        )
        await run(
            *(server.programs / "pg_basebackup", "-D", into, "--format=tar", "--gzip", "--compress=1"),
            *("--wal-method=stream", "--checkpoint=fast", "--manifest-checksums=SHA256", "--no-password"),
            env=server.env,
        )
        consistent = datetime.now(UTC)
        async with connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            (snapshot,) = await _one(connection, "SELECT pg_export_snapshot()")
            tables = await _tables(connection)
            await run(
                *(server.programs / "pg_dump", "--format=custom", "--no-password", f"--snapshot={snapshot}"),
                *("--file", into / f"{server.database}.dump"),
                env=server.env,
            )
    return PostgresBackup(
        version=str(version),
        cluster=str(cluster),
        database=server.database,
        files=tuple(file_of(file, folder) for file in sorted(into.iterdir())),
        tables=tables,
        consistent=consistent,
        archive=archive,
    )


async def summary(server: Server) -> tuple[Table, ...]:
    """Every table of the database, with its rows and their sum."""
    async with connect(server) as connection:
        return await _tables(connection)


async def is_empty(server: Server) -> bool:
    """Whether the database has no table of a user's."""
    async with connect(server) as connection:
        return not await (await connection.execute(_TABLES)).fetchall()


async def _tables(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> tuple[Table, ...]:
    names = [str(row[0]) for row in await (await connection.execute(_TABLES)).fetchall()]
    found = []
    for name in names:
        rows, checksum = await _one(connection, _SUM.format(table=name))
        found.append(Table(name=name, rows=int(str(rows)), checksum=str(checksum)))
    return tuple(found)


async def _one(connection: psycopg.AsyncConnection[tuple[object, ...]], query: str) -> tuple[object, ...]:
    # The names in a query of ours come quoted from the server itself.
    row = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row


# Checking ------------------------------------------------------------------------------------------


async def check(backup: PostgresBackup, folder: Path, programs: Path) -> list[Check]:
    """What PostgreSQL's own programs say of a base backup and a dump."""
    dump = folder / "postgres" / f"{backup.database}.dump"
    listed = await run(programs / "pg_restore", "--list", dump, check=False)
    tables = len(re.findall(r"^\d+; \d+ \d+ TABLE DATA ", listed.stdout, re.MULTILINE))
    problem = _last(listed.stderr) if listed.code else ""
    if not problem and tables != len(backup.tables):
        problem = f"the data of {tables} tables instead of {len(backup.tables)}"
    found = [Check(part="postgres", what="pg_restore --list", problem=problem, detail=f"{tables} tables")]
    # The list stands at the beginning of the file: only to write all of it out as SQL reads all of it.
    whole = await run(programs / "pg_restore", "--file", "/dev/null", dump, check=False)
    problem = _last(whole.stderr) if whole.code else ""
    found.append(Check(part="postgres", what="pg_restore", problem=problem, detail="the whole dump"))
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".check-") as work:
        cluster = Path(work) / "data"
        try:
            await asyncio.to_thread(unpack, folder, cluster)
        except (OSError, PipelineError) as error:
            return [*found, Check(part="postgres", what="pg_verifybackup", problem=str(error))]
        done = await run(programs / "pg_verifybackup", cluster, check=False)
    problem = _last(done.stderr) if done.code else ""
    return [*found, Check(part="postgres", what="pg_verifybackup", problem=problem, detail="files and log")]


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else "failed without a word"


# Forgetting ----------------------------------------------------------------------------------------


def first_segment(folder: Path) -> str:
    """The first segment of the log that a set's base backup needs, as the backup's own label says.

    BadInput when it says none: then it cannot be told what of the log is needed.
    """
    try:
        with tarfile.open(folder / "postgres" / _BASE) as archive:
            label = archive.extractfile("backup_label")
            text = label.read().decode() if label else ""
    except (OSError, EOFError, KeyError, tarfile.TarError, UnicodeDecodeError) as error:
        raise BadInput(f"{folder}: its base backup cannot be read: {error}", hint="va dr verify") from error
    found = re.search(r"^START WAL LOCATION: .* \(file ([0-9A-F]{24})\)$", text, re.MULTILINE)
    if found is None:
        raise BadInput(f"{folder}: the label of its base backup names no segment", hint="va dr verify")
    return found[1]


async def cut_log(archive: Path, first: str, programs: Path, *, dry_run: bool) -> int:
    """Remove from an archived log what is older than that segment; returns how many files it was.

    Segments of every timeline are compared by their place in the log (pg_archivecleanup).
    """
    listed = await run(programs / "pg_archivecleanup", "-n", archive, first)
    if not dry_run:
        await run(programs / "pg_archivecleanup", archive, first)
    return len(listed.stdout.split())


# Restoring -----------------------------------------------------------------------------------------


def unpack(folder: Path, data: Path) -> None:
    """Make a cluster's folder of a set's base backup: not yet one to start, see `recover`."""
    data.mkdir(parents=True, mode=0o700)
    source = folder / "postgres"
    for name, into in ((_BASE, data), (_WAL, data / "pg_wal")):
        try:
            with tarfile.open(source / name) as archive:
                extract(archive, into)
        except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
            raise BadInput(f"{source / name} cannot be unpacked: {error}", hint="va dr verify") from error
    shutil.copy(source / _FILES, data / _FILES)


def follow_log(data: Path, at: datetime | None) -> None:
    """Have an unpacked cluster replay its archived log when it starts: to its end, or up to a moment.

    Then it ends its recovery and takes writes. The server's `restore_command` says where the log is.
    """
    settings = data / "postgresql.auto.conf"
    # What an earlier restore of that cluster has left is not for this one.
    lines = [line for line in settings.read_text().splitlines() if not line.startswith("recovery_target")]
    if at is not None:
        lines += [
            f"recovery_target_time = '{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00'",
            "recovery_target_action = 'promote'",
        ]
    settings.write_text("\n".join(lines) + "\n")
    (data / "recovery.signal").touch()


async def recovered(server: Server, *, timeout: float) -> None:
    """Wait until a server that was told to `follow_log` has done so and takes writes.

    `timeout` is in seconds. SystemUnavailable when it does not happen in that time.
    """
    try:
        async with within(timeout), connect(server) as connection:
            # The server has no event for it.
            while (await _one(connection, "SELECT pg_is_in_recovery()"))[0]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            for setting in ("recovery_target_time", "recovery_target_action"):
                await connection.execute(f"ALTER SYSTEM RESET {setting}".encode())
    except (TimeoutError, psycopg.OperationalError) as error:
        raise SystemUnavailable(
            f"PostgreSQL has not recovered within {timeout:g} s: {error or 'it still replays its log'}",
            hint="its log says how far it is; the same command starts again",
        ) from error


def explain(error: SystemUnavailable, at: datetime | None, log: str) -> PipelineError:
    """Why a server that was told to `follow_log` does not start: BadInput for a moment it cannot reach.

    `log` is the end of the server's own: one that answers while it replays, and then gives up, tells its
    clients no more than that it is gone.
    """
    if at is not None and "before configured recovery target was reached" in log:
        return BadInput(
            f"the archived log ends before {at.isoformat()}: nothing was written later, or it is lost",
            hint="leave --at out: the restore goes to the last moment there is",
        )
    return error if log in str(error) else SystemUnavailable(f"{error}\n{log}", hint=error.hint)


async def restore_dump(server: Server, folder: Path, backup: PostgresBackup) -> None:
    """Load the dump into the empty database of a running server: all of it or nothing."""
    await run(
        *(server.programs / "pg_restore", "--dbname", server.database, "--no-password"),
        *("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"),
        folder / "postgres" / f"{backup.database}.dump",
        env=server.env,
    )

"""`python -m voice_api.migrate [--check]`: bring the database's tables to what this release needs.

The files of `migrations/` are applied in their order, each in a transaction of its own that also notes its
digest in `schema_migrations`. One process at a time does so; others wait for it. A file that was applied
never changes: the next change is the next file.

Canary and stable run side by side, and a release may be taken back: a migration only adds what the release
before can live with (a table, a column with a default, an index). What nothing uses any more is removed by a
later release than the one that stopped using it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from voice_api.database import UNAVAILABLE, connection_options
from voice_api.settings import DatabaseSettings, SettingsError, read_settings

__all__ = ["Migration", "MigrationError", "main", "migrate", "migrations", "pending"]

_FOLDER = Path(__file__).with_name("migrations")
_NAME = re.compile(r"[0-9]{4}_[a-z0-9_]+\.sql")
_LOCK = 0x766F696365  # "voice": nobody else's advisory lock
_TRIES, _AGAIN_SECONDS = 10, 2.0


class MigrationError(Exception):
    """The files and what was applied do not fit together; the message says where."""


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One file; `digest` is the SHA-256 of its content, in hex."""

    name: str
    digest: str
    sql: str


def migrations(folder: Path = _FOLDER) -> tuple[Migration, ...]:
    """All files in their order; MigrationError for a name that has no place in it, or a number used twice."""
    found = []
    for file in sorted(folder.glob("*.sql")):
        if not _NAME.fullmatch(file.name):
            raise MigrationError(f"{file.name}: a migration is called 0001_what_it_does.sql")
        content = file.read_bytes()
        found.append(
            Migration(name=file.name, digest=hashlib.sha256(content).hexdigest(), sql=content.decode())
        )
    for one, next_one in itertools.pairwise(found):
        if one.name[:4] == next_one.name[:4]:
            raise MigrationError(f"{one.name} and {next_one.name} have the same number")
    return tuple(found)


def pending(known: Sequence[Migration], applied: dict[str, str]) -> tuple[Migration, ...]:
    """Those to apply, by the digests of those that were; MigrationError when one of these changed.

    One that this release does not know is a newer release's, which ran here before: it is left alone.
    """
    for one in known:
        if applied.get(one.name, one.digest) != one.digest:
            raise MigrationError(f"{one.name} was applied with another content: undo the change, add a file")
    left = tuple(one for one in known if one.name not in applied)
    if left and applied and left[0].name < max(applied):
        raise MigrationError(f"{left[0].name} comes before {max(applied)}, which was applied: number it anew")
    return left


async def migrate(
    connection: asyncpg.Connection, known: Sequence[Migration], *, check: bool = False
) -> tuple[str, ...]:
    """The names of those that were applied, or with `check` would be."""
    if check:
        return tuple(one.name for one in pending(known, await _applied(connection)))
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            "name text PRIMARY KEY, digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        left = pending(known, await _applied(connection))
        for one in left:
            async with connection.transaction():
                await connection.execute(one.sql)
                await connection.execute(
                    "INSERT INTO schema_migrations (name, digest) VALUES ($1, $2)", one.name, one.digest
                )
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    return tuple(one.name for one in left)


async def _applied(connection: asyncpg.Connection) -> dict[str, str]:
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return {}
    rows = await connection.fetch("SELECT name, digest FROM schema_migrations")
    return {row["name"]: row["digest"] for row in rows}


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0 when all is applied; 1 when something is pending (`--check`) or a file does not fit;
    2 when the environment is wrong; 3 when PostgreSQL does not answer or refuses.
    """
    parser = argparse.ArgumentParser(prog="python -m voice_api.migrate", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only print what is pending; 1 if anything is")
    check = parser.parse_args(words).check
    try:
        settings = read_settings(DatabaseSettings)
        if settings.database_url is None:
            raise SettingsError("migrations need DATABASE_URL: postgresql://user@host:5432/voice")
        names = asyncio.run(_run(settings, check=check))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except MigrationError as error:
        print(error, file=sys.stderr)
        return 1
    except UNAVAILABLE as error:
        # No server's message quotes a password, and this one is what the person who reads it needs.
        print(f"PostgreSQL: {type(error).__name__}: {error}", file=sys.stderr)
        return 3
    for name in names:
        print(f"{'pending' if check else 'applied'} {name}")
    if not names:
        print("nothing is pending")
    return 1 if check and names else 0


async def _run(settings: DatabaseSettings, *, check: bool) -> tuple[str, ...]:
    connection = await _connect(settings)
    try:
        return await migrate(connection, migrations(), check=check)
    finally:
        await connection.close(timeout=5)


async def _connect(settings: DatabaseSettings) -> asyncpg.Connection:
    """A connection, if need be a little later: a server that fails over is back within seconds."""
    for left in reversed(range(_TRIES)):
        try:
            connection: asyncpg.Connection = await asyncpg.connect(**connection_options(settings))
        except (OSError, TimeoutError, asyncpg.CannotConnectNowError):
            if not left:
                raise
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
            return connection
    raise AssertionError  # the last try returned or raised


if __name__ == "__main__":
    sys.exit(main())

"""Back the stores of the embedded platform up, verify what was kept, restore it.

Each reads top to bottom. A backup is a whole set or none. A restore fills stores that are empty; one that was
interrupted is run again and starts over what it had half done.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ci import platform, tools
from ci.concurrency import together
from ci.errors import BadInput, StepFailed, SystemUnavailable
from ci.files import new_folder, write_whole
from ci.locks import locked
from ci.platform.instance import instance
from ci.platform.postgres import DATABASE, USER, archive_of, give
from ci.platform.redis import BACKUP
from ci.platform.stores import ACCOUNT, Stores, account_key, stores
from ci.recovery import blobs, postgres, redis, sets
from ci.recovery.sets import BackupSet, Check
from ci.reporting import Reporter

if TYPE_CHECKING:
    from ci.layout import Page

__all__ = [
    "ALL",
    "CONTAINERS",
    "Kind",
    "Restored",
    "account_of",
    "backup",
    "cache_of",
    "restore",
    "server_of",
    "sets_locked",
    "show_backup",
    "show_checks",
    "show_restored",
    "show_sets",
    "verify",
]

Kind = Literal["postgres", "redis", "blobs"]
ALL: tuple[Kind, ...] = ("postgres", "redis", "blobs")

CONTAINERS = ("conversations", "uploads", "recordings", "backups")
"""The architecture's four."""

_RECOVERY_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore has done, and what was checked afterwards."""

    name: str
    into: str
    stores: tuple[Kind, ...]
    seconds: float
    checks: tuple[Check, ...]


def server_of(own: Stores) -> postgres.Server:
    """The PostgreSQL of a namespace."""
    return postgres.Server(
        host=str(own.postgres_socket),
        port=own.postgres_port,
        database=DATABASE,
        user=USER,
        programs=_programs(),
    )


def cache_of(own: Stores) -> redis.Server:
    """How its Redis is reached."""
    return redis.Server(port=own.redis_port, user=BACKUP, password=own.redis_password)


def account_of(own: Stores, region: Literal["primary", "secondary"]) -> blobs.Account:
    """A storage account of a namespace."""
    port = own.storage_ports[0 if region == "primary" else 1]
    return blobs.Account(url=f"http://127.0.0.1:{port}/{ACCOUNT}", name=ACCOUNT, key=account_key(instance()))


def _programs() -> Path:
    return tools.path("postgres").parent


def _parts(own: Stores, kinds: Collection[Kind]) -> tuple[str, ...]:
    of: dict[Kind, tuple[str, ...]] = {
        "postgres": (own.postgres,),
        "redis": (own.redis,),
        "blobs": (own.primary, own.secondary),
    }
    return tuple(part for kind in ALL if kind in kinds for part in of[kind])


_PROGRAMS: dict[Kind, tuple[str, ...]] = {
    "postgres": ("postgres",),
    "redis": ("redis-cli", "redis-check-rdb"),
    "blobs": (),
}


async def _ready(own: Stores, kinds: Sequence[Kind], reporter: Reporter) -> None:
    """Have the programs and the stores that this takes."""
    await tools.ensure([program for kind in kinds for program in _PROGRAMS[kind]], reporter)
    await platform.up(reporter, _parts(own, kinds))


@asynccontextmanager
async def sets_locked(folder: Path, reporter: Reporter) -> AsyncIterator[None]:
    """One at a time in a folder of sets: a set must not go whose copies a new one is about to share."""
    file = folder / ".lock"
    async with locked(file, lambda: reporter.note(f"waiting for another va, which is at {folder}")):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


# Backup --------------------------------------------------------------------------------------------


async def backup(
    namespace: str, *, kinds: Sequence[Kind] = ALL, folder: Path | None = None, reporter: Reporter
) -> BackupSet:
    """Write one set of these stores; nothing is left of one that fails or is interrupted.

    SystemUnavailable when a store does not answer or the disk is full, StepFailed when a program fails.
    """
    folder = folder or sets.sets_folder()
    own = stores(instance(), namespace)
    await _ready(own, kinds, reporter)
    async with sets_locked(folder, reporter):
        started = datetime.now(UTC)
        name = sets.new_name(namespace, started)
        with new_folder(folder / name) as draft:
            made = BackupSet(name=name, source=namespace, started=started, finished=started)
            return await _fill(made, draft, own, kinds, reporter)


async def _fill(
    made: BackupSet, draft: Path, own: Stores, kinds: Sequence[Kind], reporter: Reporter
) -> BackupSet:
    async def database() -> sets.PostgresBackup:
        with reporter.step("back up PostgreSQL: base backup and dump") as step:
            archive = archive_of(own.postgres_folder)
            done = await postgres.back_up(server_of(own), draft, archive)
            step.say(f"{sum(table.rows for table in done.tables)} rows, {_mib(done.files)}")
            return done

    async def cache() -> sets.RedisBackup:
        with reporter.step("back up Redis: an RDB file") as step:
            done = await redis.back_up(
                cache_of(own),
                draft,
                cli=tools.path("redis-cli"),
                checker=tools.path("redis-check-rdb"),
            )
            step.say(f"{done.keys} keys, {_mib([done.file])}")
            return done

    async def files() -> sets.BlobsBackup:
        with reporter.step("back up blobs: snapshots in the second account") as step:
            accounts = account_of(own, "primary"), account_of(own, "secondary")
            done = await blobs.back_up(*accounts, CONTAINERS)
            step.say(f"{len(done.blobs)} blobs, {sum(blob.size for blob in done.blobs) / 2**20:.1f} MiB")
            return done

    work: dict[Kind, Callable[[], Coroutine[Any, Any, Any]]]
    work = {"postgres": database, "redis": cache, "blobs": files}
    done = dict(zip(kinds, await together(work[kind]() for kind in kinds), strict=True))
    made = made.model_copy(update=done | {"finished": datetime.now(UTC)})
    sets.write_manifest(made, draft)
    sets.make_private(draft)
    return made


def _mib(files: Sequence[sets.File]) -> str:
    return f"{sum(file.size for file in files) / 2**20:.1f} MiB"


# Verify --------------------------------------------------------------------------------------------


async def verify(
    name: str, *, kinds: Sequence[Kind] = ALL, folder: Path | None = None, reporter: Reporter
) -> tuple[Check, ...]:
    """Check a set as if it were needed now: every digest, and what each store's own program says of its part.

    BadInput when there is no such set or its manifest is not what was written. What is wrong with a part is a
    result, not an error.
    """
    return await _verify(sets.find_set(name, folder or sets.sets_folder()), kinds=kinds, reporter=reporter)


async def _verify(where: Path, *, kinds: Sequence[Kind], reporter: Reporter) -> tuple[Check, ...]:
    found = sets.read_set(where)
    own = stores(instance(), found.source)
    mine: list[Kind] = [kind for kind in kinds if getattr(found, kind) is not None]
    await tools.ensure([program for kind in mine for program in _PROGRAMS[kind]], reporter)
    with reporter.step(f"verify {found.name}: digests") as step:
        checks = [one for one in await asyncio.to_thread(sets.check_files, found, where) if one.part in mine]
        step.say(f"{len(checks)} files")
    broken = {one.part for one in checks if one.problem}
    if found.postgres is not None and "postgres" in mine and "postgres" not in broken:
        with reporter.step(f"verify {found.name}: PostgreSQL"):
            checks += await postgres.check(found.postgres, where, _programs())
    if found.redis is not None and "redis" in mine and "redis" not in broken:
        with reporter.step(f"verify {found.name}: Redis"):
            checks += await redis.check(found.redis, where, tools.path("redis-check-rdb"))
    if found.blobs is not None and "blobs" in mine:
        await platform.up(reporter, [own.secondary])
        with reporter.step(f"verify {found.name}: blobs"):
            checks += await blobs.check(found.blobs, account_of(own, "secondary"))
    return tuple(checks)


# Restore -------------------------------------------------------------------------------------------


async def restore(
    name: str,
    *,
    into: str | None = None,
    kinds: Sequence[Kind] = ALL,
    at: datetime | None = None,
    logical: bool = False,
    replace: bool = False,
    folder: Path | None = None,
    reporter: Reporter,
) -> Restored:
    """Fill the stores of a namespace (the set's own when left out) from a set, and compare.

    PostgreSQL comes back as it was at `at`, else at the last moment that the archived log has, or, `logical`,
    as it was when it was dumped. Stores that hold something are refused, or destroyed first with `replace`.
    Raises BadInput for what cannot be (nothing was touched), StepFailed when a part of the set is broken.
    """
    async with sets_locked(folder or sets.sets_folder(), reporter):
        where = sets.find_set(name, folder or sets.sets_folder())
        return await _restore(
            where, into=into, kinds=kinds, at=at, logical=logical, replace=replace, reporter=reporter
        )


async def _restore(
    where: Path,
    *,
    into: str | None,
    kinds: Sequence[Kind],
    at: datetime | None,
    logical: bool,
    replace: bool,
    reporter: Reporter,
) -> Restored:
    found = sets.read_set(where)
    own, source = stores(instance(), into or found.source), stores(instance(), found.source)
    mine: list[Kind] = [kind for kind in kinds if getattr(found, kind) is not None]
    _reachable(found, at, logical=logical, kinds=mine)
    started = datetime.now(UTC)
    checked = await _verify(where, kinds=mine, reporter=reporter)
    # A file of a store is whole or of no use; of blobs each is a thing of its own, and told of at the end.
    bad = [one for one in checked if one.problem and one.part != "blobs"]
    if bad:
        said = "; ".join(f"{one.what}: {one.problem}" for one in bad)
        raise StepFailed(
            f"{found.name} cannot be restored as it is: {said}",
            hint="take another set (va dr list), or only the parts that are whole: --only",
        )
    await _emptied(found, own, mine, replace=replace, reporter=reporter)
    _note_half(own, _half(own) | set(mine))

    async def one(kind: Kind) -> list[Check]:
        if kind == "postgres":
            return await _restore_postgres(found, where, own, at, logical=logical, reporter=reporter)
        if kind == "redis":
            return await _restore_redis(found, where, own, reporter)
        return await _restore_blobs(found, source, own, reporter)

    # One after the other: the parts of the platform change one at a time.
    checks = []
    for kind in mine:
        checks += await one(kind)
        _note_half(own, _half(own) - {kind})
    return Restored(
        name=found.name,
        into=own.name,
        stores=tuple(mine),
        seconds=(datetime.now(UTC) - started).total_seconds(),
        checks=tuple(checks),
    )


def _reachable(found: BackupSet, at: datetime | None, *, logical: bool, kinds: Sequence[Kind]) -> None:
    if at is None:
        return
    if found.postgres is None or "postgres" not in kinds:
        raise BadInput("--at is a moment for PostgreSQL, which is not among what is restored")
    if logical:
        raise BadInput("a dump is of the moment it was made: --at and --logical exclude each other")
    if at < found.postgres.consistent:
        raise BadInput(
            f"{found.name} reaches back to {found.postgres.consistent.isoformat(timespec='seconds')}, not to "
            f"{at.isoformat()}",
            hint="take an older set: va dr list",
        )
    if at > datetime.now(UTC):
        raise BadInput(f"{at.isoformat()} is in the future")


def _half(own: Stores) -> set[Kind]:
    """The stores that a restore has begun with and not ended: what they hold is its own half work."""
    file = own.folder / "restoring"
    words = file.read_text().split() if file.is_file() else []
    return {kind for kind in ALL if kind in words}


def _note_half(own: Stores, kinds: Collection[Kind]) -> None:
    file = own.folder / "restoring"
    if kinds:
        write_whole(file, "\n".join(sorted(kinds)) + "\n")
    else:
        file.unlink(missing_ok=True)


async def _emptied(
    found: BackupSet, own: Stores, kinds: Sequence[Kind], *, replace: bool, reporter: Reporter
) -> None:
    """Make sure that nothing is overwritten that anyone may still want."""
    # Blobs that a restore has sent are the set's own: they stay, and it goes on.
    half: set[Kind] = (_half(own) - {"blobs"}) & set(kinds)
    if gone := set(kinds) if replace else half:
        with reporter.step(f"destroy what {own.name} has: {', '.join(sorted(gone))}"):
            # Never the copies: they are what sets are restored from.
            await platform.lose([part for part in _parts(own, gone) if part != own.secondary])
    await _ready(own, kinds, reporter)
    full = []
    if "postgres" in kinds and not await postgres.is_empty(server_of(own)):
        full.append(f"the database {DATABASE}")
    if "redis" in kinds:
        async with redis.connect(cache_of(own)) as client:
            if await client.dbsize():
                full.append("Redis")
    if "blobs" in kinds and found.blobs is not None:
        others = await blobs.strangers(found.blobs, account_of(own, "primary"))
        full += [f"{len(others)} blobs that are not the set's, {others[0]} the first"] if others else []
    if full:
        raise BadInput(
            f"{own.name} is not empty: {', '.join(full)}. Nothing was changed",
            hint="restore beside it with --into, or destroy what is there with --replace",
        )


async def _restore_postgres(
    found: BackupSet, where: Path, own: Stores, at: datetime | None, *, logical: bool, reporter: Reporter
) -> list[Check]:
    assert found.postgres is not None
    server = server_of(own)
    if logical:
        with reporter.step("restore PostgreSQL from its dump"):
            await postgres.restore_dump(server, where, found.postgres)
        return _compare(found.postgres.tables, await postgres.summary(server))
    with reporter.step(
        f"restore PostgreSQL to {at.isoformat() if at else 'the last moment there is'}"
    ) as step:
        home = own.postgres_folder
        await platform.lose([own.postgres])
        step.say("unpacking")
        draft = home / "data.new"
        await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
        await asyncio.to_thread(postgres.unpack, where, draft)
        postgres.follow_log(draft, at)
        await asyncio.to_thread(give, draft)
        draft.rename(home / "data")
        _bring_log(found.postgres.archive, archive_of(home))
        step.say("replaying the log")
        try:
            await platform.up(reporter, [own.postgres])
            await postgres.recovered(server, timeout=_RECOVERY_SECONDS)
        except SystemUnavailable as error:
            raise postgres.explain(error, at, platform.last_words(own.postgres)) from error
        tables = await postgres.summary(server)
        step.say(f"{sum(table.rows for table in tables)} rows")
    # The log may have changed any of them since the backup: only that they are there can be compared.
    missing = {table.name for table in found.postgres.tables} - {table.name for table in tables}
    return [
        Check(
            part="postgres",
            what="tables",
            problem=f"missing: {', '.join(sorted(missing))}" if missing and at is None else "",
            detail=f"{len(tables)} tables, {sum(table.rows for table in tables)} rows",
        )
    ]


def _bring_log(source: Path | None, archive: Path) -> None:
    """The log archived in another namespace, for a restore beside it."""
    if source is None or source == archive or not source.is_dir():
        return
    shutil.copytree(source, archive, dirs_exist_ok=True)
    for path in (archive, *archive.iterdir()):
        shutil.chown(path, USER, USER)


def _compare(before: Sequence[sets.Table], after: Sequence[sets.Table]) -> list[Check]:
    there = {table.name: table for table in after}
    found = []
    for table in before:
        now = there.get(table.name)
        problem = ""
        if now is None:
            problem = "missing"
        elif now.rows != table.rows:
            problem = f"{now.rows} rows instead of {table.rows}"
        elif now.checksum != table.checksum:
            problem = "another content than what was dumped"
        found.append(Check(part="postgres", what=table.name, problem=problem, detail=f"{table.rows} rows"))
    return found


async def _restore_redis(found: BackupSet, where: Path, own: Stores, reporter: Reporter) -> list[Check]:
    assert found.redis is not None
    with reporter.step("restore Redis from its RDB file") as step:
        await platform.lose([own.redis])
        own.redis_folder.mkdir(parents=True, exist_ok=True)
        file = own.redis_folder / redis.DUMP
        write_whole(file, (where / found.redis.file.path).read_bytes())
        try:
            await platform.up(reporter, [own.redis])
            await redis.loaded(cache_of(own))
        finally:
            # It is read when Redis starts: once is enough, the next start must not bring these keys back.
            file.unlink(missing_ok=True)
        async with redis.connect(cache_of(own)) as client:
            keys = int(await client.dbsize())
        step.say(f"{keys} keys")
    # Keys whose time is over are in the file, but not in the server that has read it.
    lasting = found.redis.keys - found.redis.expires
    right = lasting <= keys <= found.redis.keys
    problem = "" if right else f"{keys} keys instead of {lasting} to {found.redis.keys}"
    return [Check(part="redis", what="keys", problem=problem, detail=f"{keys} of {found.redis.keys} keys")]


async def _restore_blobs(found: BackupSet, source: Stores, own: Stores, reporter: Reporter) -> list[Check]:
    assert found.blobs is not None
    with reporter.step("restore blobs from their copies") as step:
        await platform.up(reporter, [source.secondary])
        target = account_of(own, "primary")
        sent, lost = await blobs.restore(found.blobs, account_of(source, "secondary"), target)
        others = await blobs.strangers(found.blobs, target)
        there = len(found.blobs.blobs) - len(lost)
        step.say(
            f"{sent} sent, {there - sent} were there{f', {len(lost)} cannot be restored' if lost else ''}"
        )
    problem = f"not what was copied: {others[0]}" if others else ""
    return [*lost, Check(part="blobs", what="MD5", problem=problem, detail=f"{there} blobs")]


# What people see -----------------------------------------------------------------------------------


def show_backup(made: BackupSet) -> Page:
    """One set, as a table."""
    return show_sets((made,))


def show_sets(all_sets: Sequence[BackupSet]) -> Page:
    """Sets, a line each."""
    from ci.layout import Column, Table, page

    table = Table(
        "set",
        Column(name="took", rank=5, right=True),
        Column(name="PostgreSQL", rank=3),
        Column(name="Redis", rank=2),
        Column(name="blobs", rank=1, right=True),
        Column(name="size", rank=4, right=True),
    )
    for made in all_sets:
        rows = f"{sum(one.rows for one in made.postgres.tables)} rows" if made.postgres else "-"
        table.add(
            made.name,
            f"{(made.finished - made.started).total_seconds():.1f} s",
            rows,
            f"{made.redis.keys} keys" if made.redis else "-",
            str(len(made.blobs.blobs)) if made.blobs else "-",
            f"{made.size / 2**20:.1f} MiB",
        )
    return page(table)


def show_checks(checks: Sequence[Check]) -> Page:
    """Checks, a line each."""
    from ci.layout import Column, Table, page

    table = Table(
        "part",
        "check",
        Column(name="verdict", rank=1, below=True, prose=True),
        Column(name="detail", rank=2, below=True, prose=True),
    )
    for one in checks:
        verdict = (one.problem, "red") if one.problem else ("as it should be", "green")
        table.add(one.part, one.what, verdict, "" if one.problem else one.detail)
    return page(table)


def show_restored(done: Restored) -> Page:
    """A restore: its checks, and how long it took."""
    from ci.layout import page

    return page(show_checks(done.checks), f"{done.name} restored into {done.into} in {done.seconds:.1f} s")

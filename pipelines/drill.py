"""The drill: seed, back up, go on writing, lose everything, restore, compare; measures RTO and RPO.

It has stores of its own, which come up empty and go away at the end. Nothing of `va up` is touched.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from azure.core.exceptions import AzureError
from redis.exceptions import RedisError

import ci.recovery
from ci import platform, tools
from ci.architecture import model
from ci.errors import SystemUnavailable
from ci.platform.instance import instance
from ci.platform.stores import Stores, stores
from ci.recovery import blobs, postgres, redis
from ci.recovery.sets import BackupSet, Check, Table
from ci.recovery.steps import DRILL
from ci.reporting import Reporter
from pipelines.recovery import (
    ALL,
    CONTAINERS,
    Kind,
    account_of,
    backup,
    cache_of,
    restore,
    server_of,
    show_checks,
    verify,
)

if TYPE_CHECKING:
    from ci.layout import Page

__all__ = [
    "ACTIONS",
    "Drilled",
    "Lost",
    "Promise",
    "at_stake",
    "drill",
    "problems",
    "promise",
    "show_drilled",
]

NAMESPACE = "drill"
_ARCHIVED_WITHIN = 60.0
"""Seconds that PostgreSQL may take to archive the first of the writes; it switches segments every two."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What the architecture promises, in seconds, and of which stores the RPO."""

    rto: float
    rpo: float
    covers: tuple[Kind, ...]


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What became of the writes after the backup to one store. `rpo` is in seconds.

    `rpo` is how old the newest write that came back was when the store was lost; 0 when all came back.
    """

    written: int
    lost: int
    rpo: float


@dataclass(frozen=True, kw_only=True)
class Drilled:
    """What a drill measured. `rto` is in seconds, from the loss until all was compared."""

    name: str
    rto: float
    lost: Mapping[Kind, Lost]
    promised: Promise
    checks: tuple[Check, ...]
    backup_seconds: float
    restore_seconds: float
    started: datetime
    problems: tuple[str, ...]
    """What is not as it should be: differences, and promises that were not kept."""


def promise(env: str) -> Promise:
    """What `recovery` of an environment's file says."""
    stated = model.read(env).architecture.recovery
    return Promise(
        rto=stated.rto.total_seconds(),
        rpo=stated.rpo.total_seconds(),
        covers=tuple("blobs" if one == "storage" else one for one in stated.covers),
    )


@dataclass
class _World:
    """What the steps of one drill know of each other."""

    own: Stores
    sessions: int
    seconds: float
    folder: Path
    reporter: Reporter
    tables: tuple[Table, ...] = ()
    cache: redis.Contents | None = None
    blobs: dict[tuple[str, str], str] = field(default_factory=dict)
    set: BackupSet | None = None
    written: dict[Kind, list[tuple[str, float]]] = field(default_factory=lambda: {kind: [] for kind in ALL})
    """By store: the content of each write, and when it was acknowledged (time.monotonic)."""
    segments: list[str] = field(default_factory=list)
    """Of each write to PostgreSQL: the segment of the write-ahead log that it is in."""
    backed_up: float = 0.0
    lost: float = 0.0
    restored: float = 0.0
    compared: float = 0.0
    checks: list[Check] = field(default_factory=list)
    losses: dict[Kind, Lost] = field(default_factory=dict)
    writers: list[asyncio.Task[None]] = field(default_factory=list)


async def drill(
    *, sessions: int = 3000, seconds: float = 8.0, env: str = "prod", keep: bool = False, reporter: Reporter
) -> Drilled:
    """Go through the steps of `DRILL`. `seconds` is how long it writes after the backup.

    Differences and promises that were not kept are in the result. With `keep` the restored stores stay.
    """
    promised = promise(env)
    own = stores(instance(), NAMESPACE)
    await tools.ensure(["redis-cli", "redis-check-rdb"], reporter)
    async with _empty_stores(own, keep=keep, reporter=reporter):
        world = _World(
            own=own, sessions=sessions, seconds=seconds, folder=own.folder / "sets", reporter=reporter
        )
        started = datetime.now(UTC)
        try:
            for step in DRILL:
                reporter.note(step.title.lower())
                await ACTIONS[step.key](world)
        finally:
            for writer in world.writers:
                writer.cancel()
            await asyncio.gather(*world.writers, return_exceptions=True)
    assert world.set is not None
    rto = world.compared - world.lost
    return Drilled(
        name=world.set.name,
        rto=rto,
        lost=world.losses,
        promised=promised,
        checks=tuple(world.checks),
        backup_seconds=(world.set.finished - world.set.started).total_seconds(),
        restore_seconds=world.restored - world.lost,
        started=started,
        problems=tuple(problems(promised, rto, world.losses, world.checks)),
    )


def problems(
    promised: Promise, rto: float, lost: Mapping[Kind, Lost], checks: Sequence[Check]
) -> Iterator[str]:
    """Differences, and promises that were not kept."""
    yield from (f"{one.part} {one.what}: {one.problem}" for one in checks if one.problem)
    if rto > promised.rto:
        yield f"RTO {rto:.1f} s is over the promised {promised.rto:.0f} s"
    for kind in promised.covers:
        if lost[kind].rpo > promised.rpo:
            yield f"{kind}: RPO {lost[kind].rpo:.1f} s is over the promised {promised.rpo:.0f} s"


@asynccontextmanager
async def _empty_stores(own: Stores, *, keep: bool, reporter: Reporter) -> AsyncIterator[None]:
    """Stores without anything in them, whatever an interrupted drill has left; gone at the end."""
    await platform.lose(own.parts)
    shutil.rmtree(own.folder, ignore_errors=True)
    try:
        await platform.up(reporter, own.parts)
        yield
    finally:
        if not keep:
            await platform.lose(own.parts)
            await asyncio.to_thread(shutil.rmtree, own.folder, ignore_errors=True)


# The steps -----------------------------------------------------------------------------------------


async def _seed(world: _World) -> None:
    with world.reporter.step("seed PostgreSQL") as step:
        await _seed_postgres(server_of(world.own), world.sessions)
        world.tables = await postgres.summary(server_of(world.own))
        step.say(f"{sum(table.rows for table in world.tables)} rows")
    with world.reporter.step("seed Redis") as step:
        await _seed_redis(cache_of(world.own), world.sessions)
        world.cache = await redis.contents(cache_of(world.own))
        step.say(f"{world.cache.keys} keys")
    with world.reporter.step("seed blobs") as step:
        world.blobs = await _seed_blobs(account_of(world.own, "primary"))
        step.say(f"{len(world.blobs)} blobs")


async def _seed_postgres(server: postgres.Server, sessions: int) -> None:
    schema = (Path(ci.recovery.__file__).parent / "drill.sql").read_bytes()
    async with postgres.connect(server) as connection:
        await connection.execute(schema)
        await connection.execute(
            b"INSERT INTO sessions SELECT n, 'room-' || n, 'user-' || n %% 97, "
            b"timestamptz '2026-01-01 00:00+00' + n * interval '1 minute', NULL, "
            b"jsonb_build_object('language', 'en', 'seed', md5(n::text)) FROM generate_series(1, %s::int) n",
            (sessions,),
        )
        await connection.execute(
            b"INSERT INTO turns SELECT n, turn, CASE turn %% 2 WHEN 0 THEN 'agent' ELSE 'user' END, "
            b"repeat(md5(n || '/' || turn), 3) "
            b"FROM generate_series(1, %s::int) n, generate_series(1, 5) turn",
            (sessions,),
        )
        await connection.execute(b"ANALYZE")


async def _seed_redis(server: redis.Server, sessions: int) -> None:
    async with redis.connect(server) as client:
        pipe = client.pipeline(transaction=False)
        for number in range(sessions):
            key = f"voice:session:{number}"
            pipe.hset(key, mapping={"room": f"room-{number}", "state": "active", "turns": str(number % 7)})
            pipe.expire(key, 3600)
        for number in range(sessions // 10):
            pipe.rpush(f"voice:context:{number}", *(f"turn {turn} of {number}" for turn in range(5)))
            pipe.zadd("voice:rate", {f"user-{number}": number})
            pipe.sadd("voice:users", f"user-{number}")
        pipe.set("voice:version", "1")
        await pipe.execute()


async def _seed_blobs(account: blobs.Account) -> dict[tuple[str, str], str]:
    """A few of each size; the largest goes up in several blocks."""
    dice = random.Random(5)  # noqa: S311  # nosec B311  # content, not secrets
    seeded: dict[tuple[str, str], bytes] = {}
    async with blobs.connect(account) as client:
        for container in CONTAINERS:
            await client.create_container(container)
            for number, size in enumerate((0, 900, 40_000, 700_000)):
                seeded[container, f"2026/{number}.bin"] = dice.randbytes(size)
        seeded["recordings", "2026/long session.wav"] = dice.randbytes(9 * 2**20)
        for (container, name), content in seeded.items():
            await blobs.put(client, container, name, content)
    return {where: hashlib.sha256(content).hexdigest() for where, content in seeded.items()}


async def _backup(world: _World) -> None:
    world.backed_up = time.monotonic()
    world.set = await backup(NAMESPACE, folder=world.folder, reporter=world.reporter)


async def _verify(world: _World) -> None:
    world.checks += await verify("latest", folder=world.folder, reporter=world.reporter)


async def _write(world: _World) -> None:
    """Write to all stores, for a while and until a loss would show something: PostgreSQL has archived some
    of the writes and not yet the newest. The writers go on until they lose what they write to.
    """
    world.writers = [
        asyncio.create_task(writer(world)) for writer in (_write_postgres, _write_redis, _write_blobs)
    ]
    with world.reporter.step("write") as step:
        until = time.monotonic() + world.seconds
        latest = until + _ARCHIVED_WITHIN
        while time.monotonic() < until or not await _something_is_at_stake(world):
            if ended := next((writer for writer in world.writers if writer.done()), None):
                await ended  # raises what went wrong
            if time.monotonic() > latest:
                raise SystemUnavailable(
                    f"PostgreSQL archived none of {len(world.segments)} writes within "
                    f"{world.seconds + _ARCHIVED_WITHIN:.0f} s: only the backup would come back",
                    hint=f"its log is {instance().folder / 'logs' / world.own.postgres}.log",
                )
            await asyncio.sleep(0.1)
            step.say(", ".join(f"{len(world.written[kind])} to {kind}" for kind in ALL))


async def _something_is_at_stake(world: _World) -> bool:
    async with postgres.connect(server_of(world.own)) as connection:
        asked = await connection.execute(b"SELECT last_archived_wal FROM pg_stat_archiver")
        ((archived,),) = await asked.fetchall()
    acknowledged = [when for _, when in world.written["postgres"]]
    return at_stake(world.segments, acknowledged, archived=str(archived or ""), now=time.monotonic())


def at_stake(segments: Sequence[str], acknowledged: Sequence[float], *, archived: str, now: float) -> bool:
    """Whether some writes are archived, and the newest are in a segment that will not be at once.

    Of each write its segment of the log, and when it was acknowledged (as `now` in seconds); `archived` is
    the newest segment in the archive, which may lag: only the one being written is known not to be there.
    It is ended two seconds after it was begun, so the stores have a whole one to be lost in.
    """
    if not segments or not segments[0] <= archived < segments[-1]:
        return False
    return 0.3 < now - acknowledged[segments.index(segments[-1])] < 1.0


async def _write_postgres(world: _World) -> None:
    with _until_lost(world, psycopg.OperationalError):
        async with postgres.connect(server_of(world.own)) as connection:
            number = 0
            while True:
                content = f"write {number}"
                done = await connection.execute(
                    b"INSERT INTO writes VALUES (%s, %s) "
                    b"RETURNING pg_walfile_name(pg_current_wal_insert_lsn())",
                    (number, content),
                )
                world.segments += [str(segment) for (segment,) in await done.fetchall()]
                world.written["postgres"].append((content, time.monotonic()))
                number += 1
                await asyncio.sleep(0.02)


async def _write_redis(world: _World) -> None:
    with _until_lost(world, RedisError, OSError):
        async with redis.raw(cache_of(world.own)) as client:
            number = 0
            while True:
                await client.set(f"write:{number}", f"write {number}")
                world.written["redis"].append((f"write {number}", time.monotonic()))
                number += 1
                await asyncio.sleep(0.05)


async def _write_blobs(world: _World) -> None:
    with _until_lost(world, AzureError, OSError):
        async with blobs.raw(account_of(world.own, "primary"), retries=0) as client:
            number = 0
            while True:
                content = f"write {number}"
                await blobs.put(client, "conversations", f"write/{number:06}", content.encode())
                world.written["blobs"].append((content, time.monotonic()))
                number += 1
                await asyncio.sleep(0.25)


@contextmanager
def _until_lost(world: _World, *expected: type[Exception]) -> Iterator[None]:
    """What a writer meets when its store is lost ends it; earlier, it is an error."""
    try:
        yield
    except expected:
        if not world.lost:
            raise


async def _lose(world: _World) -> None:
    with world.reporter.step("kill and destroy PostgreSQL, Redis and the first storage account"):
        world.lost = time.monotonic()
        await platform.lose([world.own.postgres, world.own.redis, world.own.primary])
        await asyncio.gather(*world.writers)


async def _restore(world: _World) -> None:
    done = await restore("latest", folder=world.folder, reporter=world.reporter)
    world.restored = time.monotonic()
    world.checks += done.checks


async def _compare(world: _World) -> None:
    with world.reporter.step("compare rows, keys and blobs with what was written"):
        world.checks += await _compared(world)
        world.compared = time.monotonic()


async def _compared(world: _World) -> list[Check]:
    """Everything seeded is there again as it was; of what was written later, how much is."""
    checks = []
    now = {table.name: table for table in await postgres.summary(server_of(world.own))}
    for before in world.tables:
        if before.name == "public.writes":
            continue
        problem = "" if now.get(before.name) == before else f"{now.get(before.name)} instead of {before}"
        checks.append(
            Check(
                part="postgres",
                what=f"{before.name} as seeded",
                problem=problem,
                detail=f"{before.rows} rows, sum {before.checksum[:8]}…",
            )
        )
    async with postgres.connect(server_of(world.own)) as connection:
        rows = await (await connection.execute(b"SELECT content FROM writes ORDER BY id")).fetchall()
    checks.append(_account_for(world, "postgres", [str(row[0]) for row in rows]))

    async with redis.connect(cache_of(world.own)) as client:
        keys = [key async for key in client.scan_iter(match="write:*", count=1000)]
        keys.sort(key=lambda key: int(key.split(b":")[1]))
        found = [text.decode() for text in await client.mget(keys) if isinstance(text, bytes)]
        if keys:
            await client.delete(*keys)
    checks.append(_account_for(world, "redis", found))
    cache = await redis.contents(cache_of(world.own))
    assert world.cache is not None
    checks.append(
        Check(
            part="redis",
            what="keys as seeded",
            problem="" if cache == world.cache else f"{cache} instead of {world.cache}",
            detail=f"{cache.keys} keys, sum {cache.checksum[:8]}…",
        )
    )

    different, kept = [], []
    async with blobs.connect(account_of(world.own, "primary")) as storage:
        for (container, name), digest in world.blobs.items():
            content = await blobs.get(storage, container, name)
            if content is None or hashlib.sha256(content).hexdigest() != digest:
                different.append(f"{container}/{name}")
        for number in range(len(world.written["blobs"])):
            content = await blobs.get(storage, "conversations", f"write/{number:06}")
            kept += [content.decode()] if content is not None else []
    checks.append(
        Check(
            part="blobs",
            what="blobs as seeded",
            problem=f"not as they were: {', '.join(different)}" if different else "",
            detail=f"{len(world.blobs)} blobs by SHA-256",
        )
    )
    checks.append(_account_for(world, "blobs", kept))
    return checks


def _account_for(world: _World, kind: Kind, kept: list[str]) -> Check:
    """What came back must be the first of what was written, none missing between and none changed."""
    written = world.written[kind]
    expected = [content for content, _ in written]
    # One write may have been stored whose answer never came: the store was lost in between.
    whole = kept[: len(expected)] == expected[: len(kept)] and len(kept) <= len(expected) + 1
    newest = written[len(kept) - 1][1] if 0 < len(kept) <= len(written) else world.backed_up
    lost = max(0, len(expected) - len(kept))
    world.losses[kind] = Lost(
        written=len(expected), lost=lost, rpo=max(0.0, world.lost - newest) if lost else 0.0
    )
    return Check(
        part=kind,
        what="writes after the backup",
        problem=""
        if whole
        else f"{len(kept)} of {len(expected)} came back, but not the first ones as they were",
        detail=f"{len(kept)} of {len(expected)} came back, none missing between",
    )


ACTIONS: Mapping[str, Callable[[_World], Awaitable[None]]] = {
    "seed": _seed,
    "backup": _backup,
    "verify": _verify,
    "write": _write,
    "lose": _lose,
    "restore": _restore,
    "compare": _compare,
}
"""What each step of `DRILL` does."""


# What people see -----------------------------------------------------------------------------------


def show_drilled(done: Drilled) -> Page:
    """The figures, against what is promised."""
    from ci.layout import Column, Table, page, words

    table = Table(
        "figure",
        Column(name="measured", right=True),
        Column(name="promised", right=True),
        Column(name="of what", rank=1, below=True, prose=True),
    )

    def line(what: str, measured: float, promised: float | None, note: str) -> None:
        kept = promised is None or measured <= promised
        value = (f"{measured:.1f} s", "green" if kept else "red")
        table.add(what, value, "-" if promised is None else f"{_plain(promised)}", note)

    line(
        "RTO",
        done.rto,
        done.promised.rto,
        f"from the loss until all was compared; restored after {done.restore_seconds:.1f} s",
    )
    for kind, lost in done.lost.items():
        promised = done.promised.rpo if kind in done.promised.covers else None
        line(f"RPO {kind}", lost.rpo, promised, f"{lost.lost} of {lost.written} later writes lost")
    verdict = ("restored as promised", "green") if not done.problems else ("not as promised", "red")
    return page(show_checks(done.checks), "", table, "", words(f"{done.name}: ", verdict), *done.problems)


def _plain(seconds: float) -> str:
    return f"< {timedelta(seconds=seconds)}"

"""The room for Redis: its whole content as an RDB file, checked by Redis' own program, and back from it.

The file comes over the network, as a replica's first copy does: the server forks and writes it at one
moment (BGSAVE), whoever writes meanwhile. Back it goes as the file that a starting server reads.
Source: "Redis persistence", redis.io.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError

from ci.errors import SystemUnavailable
from ci.process import run
from ci.recovery.sets import Check, RedisBackup, file_of

__all__ = ["DUMP", "Contents", "Server", "back_up", "check", "connect", "contents", "loaded", "raw"]

DUMP = "dump.rdb"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a server has: its number of keys, and a digest of keys and values that no order changes."""

    keys: int
    checksum: str


@dataclass(frozen=True, kw_only=True)
class Server:
    """One on 127.0.0.1, and the file with the password of the user who may read and write all of it."""

    port: int
    user: str
    password: Path


@asynccontextmanager
async def connect(server: Server) -> AsyncIterator[Redis]:
    """A client of that server; SystemUnavailable for whatever it cannot do there."""
    try:
        async with raw(server) as client:
            yield client
    except RedisError as error:
        raise SystemUnavailable(f"Redis at 127.0.0.1:{server.port}: {error}") from error


def raw(server: Server) -> Redis:
    """A client that raises the library's own errors, and does not try again."""
    return Redis(
        host="127.0.0.1",
        port=server.port,
        username=server.user,
        password=server.password.read_text() if server.password.exists() else None,
        decode_responses=False,
        socket_timeout=10,
        retry=Retry(NoBackoff(), 0),
    )


async def back_up(server: Server, folder: Path, *, cli: Path, checker: Path) -> RedisBackup:
    """Write an RDB file to `folder`/redis. `cli` is redis-cli, `checker` redis-check-rdb."""
    into = folder / "redis"
    into.mkdir()
    async with connect(server) as client:
        version = str((await client.info("server"))["redis_version"])
    await run(
        *(cli, "-h", "127.0.0.1", "-p", str(server.port), "--user", server.user, "--rdb", into / DUMP),
        env={"REDISCLI_AUTH": server.password.read_text()},
        failure=SystemUnavailable,
    )
    keys, expires, problem = await _read(into / DUMP, checker)
    if problem:
        raise SystemUnavailable(f"the RDB file that Redis gave is broken: {problem}", hint="run it again")
    return RedisBackup(version=version, file=file_of(into / DUMP, folder), keys=keys, expires=expires)


async def check(backup: RedisBackup, folder: Path, checker: Path) -> list[Check]:
    """What redis-check-rdb says of the file."""
    keys, _, problem = await _read(folder / backup.file.path, checker)
    if not problem and keys != backup.keys:
        problem = f"{keys} keys instead of {backup.keys}"
    return [Check(part="redis", what="redis-check-rdb", problem=problem, detail=f"{keys} keys")]


async def _read(file: Path, checker: Path) -> tuple[int, int, str]:
    """Keys, those that expire, and what is wrong with the file."""
    done = await run(checker, file, check=False)
    found = re.search(r"(\d+) keys read\n.*?(\d+) expires\n", done.stdout)
    if done.code == 0 and found:
        return int(found[1]), int(found[2]), ""
    lines = [line for line in done.stdout.splitlines() if line.startswith("--- RDB ERROR") or "***" in line]
    return 0, 0, (lines or done.stdout.strip().splitlines() or ["failed without a word"])[-1].strip("- ")


async def loaded(server: Server, *, timeout: float = 60.0) -> None:
    """Wait until a server that starts has read its file. `timeout` is in seconds."""
    deadline = time.monotonic() + timeout
    while True:
        async with connect(server) as client:
            try:
                if not (await client.info("persistence"))["loading"]:
                    return
            except BusyLoadingError:
                pass
        if time.monotonic() > deadline:
            raise SystemUnavailable(
                f"Redis at 127.0.0.1:{server.port} still reads its file after {timeout:g} s"
            )
        await asyncio.sleep(0.05)


async def contents(server: Server) -> Contents:
    """Read everything: for stores of a drill's size."""
    total, keys = 0, 0
    async with connect(server) as client:
        async for key in client.scan_iter(count=1000):
            raw = repr((key, await _value(client, key))).encode()
            total ^= int.from_bytes(hashlib.sha256(raw).digest()[:16])
            keys += 1
    return Contents(keys=keys, checksum=f"{total:032x}")


async def _value(client: Any, key: bytes) -> Any:
    kind = (await client.type(key)).decode()
    if kind == "string":
        return kind, await client.get(key)
    if kind == "hash":
        return kind, sorted((await client.hgetall(key)).items())
    if kind == "list":
        return kind, await client.lrange(key, 0, -1)
    if kind == "set":
        return kind, sorted(await client.smembers(key))
    if kind == "zset":
        return kind, await client.zrange(key, 0, -1, withscores=True)
    if kind == "stream":
        return kind, await client.xrange(key)
    return kind, await client.dump(key)

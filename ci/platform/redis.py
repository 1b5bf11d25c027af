"""Redis, in memory only: the state of voice sessions, one server an environment.

It runs as Debian's user `redis`, from a folder below /run that only that user can read. Who logs in is
either `voice`, with the environment's password, to read and write; or `backup`, who may do everything, with a
password that only this user of the host can read.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

from ci import tools
from ci.platform.daemon import Daemon, as_part, connects
from ci.platform.instance import Instance
from ci.platform.part import Part
from ci.platform.secret import secret

__all__ = ["BACKUP", "own_redis", "redis", "redis_folder"]

BACKUP = "backup"
"""The user of `va dr`; its password is `place.redis_password(BACKUP)`."""


def redis(place: Instance, environment: str) -> Part:
    """An environment's. It listens on the host's 127.0.0.1 and on its end of the link, for pods."""
    name = f"redis {environment}"

    def daemon() -> Daemon:
        voice = secret(place.redis_password(environment))
        users = (
            _user(BACKUP, secret(place.redis_password(BACKUP)), "~* &* +@all"),
            _user("voice", voice, _VOICE),
        )
        addresses = ("127.0.0.1", place.cluster.host_ip)
        return _daemon(name, redis_folder(place, name), place.redis(environment), addresses, users)

    return _tidied(
        place, as_part(place, daemon, name=name, needs=(place.cluster.node,), tools=("redis-server",))
    )


def own_redis(place: Instance, *, name: str, port: int) -> Part:
    """One on request, for the host alone."""

    def daemon() -> Daemon:
        users = (_user(BACKUP, secret(place.redis_password(BACKUP)), "~* &* +@all"),)
        return _daemon(name, redis_folder(place, name), port, ("127.0.0.1",), users)

    return replace(
        _tidied(place, as_part(place, daemon, name=name, tools=("redis-server",))), on_request=True
    )


def redis_folder(place: Instance, name: str) -> Path:
    """Where that server looks for a dump.rdb as it starts. The platform's own folder is for root alone."""
    platform = hashlib.sha256(str(place.folder).encode()).hexdigest()[:12]
    return Path("/run") / f"va-{platform}-{name.replace(' ', '-')}"


_VOICE = (
    "~* &* +@all -@admin -@dangerous"  # LiveKit's server keeps its rooms there, beside the api's sessions
)


def _user(name: str, password: str, may: str) -> str:
    return f"user {name} on >{password} {may}"


def _tidied(place: Instance, process: Part) -> Part:
    async def down() -> None:
        await process.down()
        await asyncio.to_thread(shutil.rmtree, redis_folder(place, process.name), ignore_errors=True)

    return replace(process, down=down)


def _daemon(name: str, folder: Path, port: int, addresses: tuple[str, ...], users: tuple[str, ...]) -> Daemon:
    config = folder / "redis.conf"
    lines = (
        f"bind {' '.join(addresses)}",
        f"port {port}",
        f"dir {folder}",
        "user default off",
        *users,
        'save ""',
        "appendonly no",
        "repl-diskless-sync-delay 0",  # a backup is a replica's first copy: none has to wait for others
        "maxmemory 64mb",
        "maxmemory-policy noeviction",
        "set-proc-title no",  # it would overwrite the environment, by which we know our processes
    )
    return Daemon(
        name=name,
        argv=(str(tools.path("redis-server")), str(config)),
        check=connects("127.0.0.1", port),
        files={config: "\n".join(lines) + "\n"},
        ports=(port,),
        user="redis",
    )

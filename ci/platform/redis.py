"""Redis, in memory only: the state of voice sessions."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

from ci import tools
from ci.platform.daemon import Daemon, as_part, connects
from ci.platform.instance import Instance
from ci.platform.part import Part

__all__ = ["own_redis", "redis"]


def redis(place: Instance) -> Part:
    """It listens on the host's 127.0.0.1 and on its end of the link, for pods."""
    addresses = ("127.0.0.1", place.cluster.host_ip)
    return as_part(
        place,
        lambda: _daemon("redis", place.folder / "redis.conf", place.redis, addresses),
        name="redis",
        needs=(place.cluster.node,),
        tools=("redis-server",),
    )


def own_redis(place: Instance, *, name: str, folder: Path, port: int) -> Part:
    """One on request, with a folder of its own, for the host alone."""
    extra = (f"dir {folder}",)
    process = as_part(
        place,
        lambda: _daemon(name, folder / "redis.conf", port, ("127.0.0.1",), *extra),
        name=name,
        tools=("redis-server",),
    )

    async def down() -> None:
        await process.down()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    return replace(process, down=down, on_request=True)


def _daemon(name: str, config: Path, port: int, addresses: tuple[str, ...], *extra: str) -> Daemon:
    lines = (
        f"bind {' '.join(addresses)}",
        f"port {port}",
        "protected-mode no",  # it would refuse every address but 127.0.0.1
        'save ""',
        "appendonly no",
        "repl-diskless-sync-delay 0",  # a backup is a replica's first copy: none has to wait for others
        "maxmemory 64mb",
        "maxmemory-policy noeviction",
        "set-proc-title no",  # it would overwrite the environment, by which we know our processes
        *extra,
    )
    return Daemon(
        name=name,
        argv=(str(tools.path("redis-server")), str(config)),
        check=connects("127.0.0.1", port),
        files={config: "\n".join(lines) + "\n"},
        ports=(port,),
    )

"""Cache volumes of a command: which folders they are, and who waits for whom.

A SHARED one is for all at once, a LOCKED one for one command after the other, of whichever session. Of a
PRIVATE one each command that runs has a folder of its own, one that another has left where there is one.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import posixpath
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

from ci.below import walk
from ci.engine.containers import owner_of
from ci.engine.engine import Engine
from ci.engine.tree import Layer, Tree
from ci.engine.values import Container, MountPoint
from ci.errors import BadInput

__all__ = ["held", "volume_folder"]

_TOLD_SECONDS = 5.0
_POLL_SECONDS = 0.2


@asynccontextmanager
async def held(engine: Engine, container: Container, title: str) -> AsyncIterator[dict[str, str]]:
    """What the folders of a container's volumes are named, by the path that they are mounted at, while a
    command has them. Who has to wait is told of after some seconds, by the title of the command.

    BadInput for a LOCKED volume that a service has, which the command is bound to: it would wait for itself.
    """
    mounted = {mount.path: mount.cache for mount in container.mounts if mount.cache}
    locked = {cache.key for cache in mounted.values() if cache.sharing == "LOCKED"}
    private = {cache.key for cache in mounted.values() if cache.sharing == "PRIVATE"} - locked
    for key in sorted(locked & _of_services(container)):
        raise BadInput(
            f"{title}: the cache volume {key!r} is LOCKED, and a service that the command is bound to has it",
            hint="mount it as SHARED, or another volume",
        )
    async with AsyncExitStack() as stack:
        for key in sorted(locked):  # in one order: nobody has what the other waits for
            await _lock(engine, key, title, stack)
        names = {key: stack.enter_context(_private(engine, key)) for key in sorted(private)}
        yield {path: names.get(cache.key, cache.key) for path, cache in mounted.items()}


def _of_services(container: Container) -> set[str]:
    """The volumes that services of a container hold as long as they run."""
    found: set[str] = set()
    todo = [service.container for _, service in container.services]
    while todo:
        each = todo.pop()
        found |= {mount.cache.key for mount in each.mounts if mount.cache and mount.cache.sharing == "LOCKED"}
        todo += [service.container for _, service in each.services]
    return found


async def _lock(engine: Engine, key: str, title: str, stack: AsyncExitStack) -> None:
    """Hold a LOCKED volume against other commands of this session and of others."""

    async def wait() -> None:
        await stack.enter_async_context(engine.volume_locks.setdefault(key, asyncio.Lock()))
        while True:
            if _locked(engine, key, stack):
                return
            await asyncio.sleep(_POLL_SECONDS)

    waiting = asyncio.ensure_future(wait())
    try:
        done, _ = await asyncio.wait([waiting], timeout=_TOLD_SECONDS)
        if not done:
            engine.reporter.note(
                f"{title} waits for the cache volume {key!r}, which another command has LOCKED"
            )
        await waiting
    except BaseException:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        raise


def _locked(engine: Engine, name: str, stack: AsyncExitStack | ExitStack) -> bool:
    """Take a lock between sessions for as long as the stack lasts, if it can be had at once."""
    attempt = engine.store.locked(f"volume-{hashlib.sha256(name.encode()).hexdigest()[:16]}")
    got = attempt.__enter__()
    if got:
        stack.push(attempt.__exit__)
    else:
        attempt.__exit__(None, None, None)
    return got


@contextmanager
def _private(engine: Engine, key: str) -> Iterator[str]:
    """The first folder of a PRIVATE volume that no command has."""
    with ExitStack() as stack:
        yield next(name for number in itertools.count() if _locked(engine, name := f"{key}\0{number}", stack))


def volume_folder(engine: Engine, container: Container, mount: MountPoint, name: str) -> Path:
    """The folder of a volume, by its name; made when it is first used."""
    assert mount.cache is not None
    folder = engine.store.volume(name)
    if not folder.exists():
        with engine.store.work("volume") as new:
            if mount.cache.source:
                tree = engine.tree(mount.cache.source.layers)
                layer = Layer(Tree([]), new)
                start = tree.need("/" + mount.cache.source.path)
                for entry in tree.walk(start):
                    layer.copy(entry, posixpath.relpath(entry.path, start.path or "."))
            if owner := owner_of(engine, container, mount.owner):
                for here, folders, files in walk(new):
                    os.fchown(here, *owner)
                    for each in (*folders, *files):
                        os.chown(each, *owner, dir_fd=here, follow_symlinks=False)
            with suppress(OSError):  # another command made it meanwhile
                new.rename(folder)
    os.utime(folder)
    return folder

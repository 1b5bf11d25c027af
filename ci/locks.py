"""Locks between processes of this machine. The kernel frees one when its holder ends, however it ends."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["locked"]

_AGAIN_SECONDS = 0.25


@asynccontextmanager
async def locked(path: Path, waiting: Callable[[], None]) -> AsyncIterator[None]:
    """Hold the lock of that file, which is made where it is missing and may be removed by its holder.

    `waiting` is called once when another process holds it; can be cancelled while it waits.
    """
    told = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    waiting()
                    told = True
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            # Its last holder may have removed it meanwhile: then nobody else sees the file we have locked.
            if _is_open_as(path, file.fileno()):
                yield
                return


def _is_open_as(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False

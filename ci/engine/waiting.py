"""A container's start that waits for what it shall start: process and network, made before a step asks.

Both take longer than the rest of a small step. A session keeps one ready, and makes the next while one runs.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ci.engine.boundary import Boundary
from ci.engine.network import Network, Plug

__all__ = ["Spare", "Waiting"]

_CONTAINED = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ci.engine.contained import main; main()"
_PYTHON = os.path.realpath(sys.executable)
"""Not the environment's, which looks for its packages first: none is imported."""
_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(kw_only=True)
class Waiting:
    """`child` waits at the other end of a pipe for the arguments of `contained.contain`."""

    child: asyncio.subprocess.Process
    plug: Plug
    network: Network
    _start: int

    def start(self) -> int:
        """The pipe's end; it is the caller's from now on."""
        start, self._start = self._start, -1
        return start

    async def close(self) -> None:
        """Let the network go, and the process where nothing was started."""
        if self._start >= 0:
            os.close(self.start())
            await self.child.wait()
        self.network.forget(self.plug)
        self.plug.close()


class Spare:
    """One that waits for the next step."""

    def __init__(self, boundary: Boundary) -> None:
        self._boundary = boundary
        self._next: asyncio.Task[Waiting] | None = None

    async def take(self, wires: Sequence[Plug], *, stdin: bool) -> Waiting:
        """One for a step, with wires to those plugs: the spare one, but for a step with a standard input."""
        ready, self._next = (None, self._next) if stdin else (self._next, None)
        found = await (ready or asyncio.ensure_future(_make(self._boundary, stdin=stdin)))
        try:
            await self._boundary.network.use(found.plug, wires)
        except BaseException:
            await found.close()
            raise
        return found

    def refill(self) -> None:
        """Make the next one, now that the step runs: before, it would be in the way of its start."""
        if self._next is None:
            self._next = asyncio.ensure_future(_make(self._boundary))

    async def close(self) -> None:
        if self._next:
            found = (await asyncio.gather(self._next, return_exceptions=True))[0]
            if isinstance(found, Waiting):
                await found.close()


async def _make(boundary: Boundary, *, stdin: bool = False) -> Waiting:
    plug = await boundary.network.plug()
    reader, writer = os.pipe()
    try:
        child = await asyncio.create_subprocess_exec(
            _PYTHON, "-I", "-S", "-c", _CONTAINED, str(_CHECKOUT), str(reader), str(os.getpid()),
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(reader, plug.descriptor, *([boundary.userns] if boundary.userns >= 0 else [])),
            start_new_session=True,
        )  # fmt: skip
    except BaseException:
        os.close(writer)
        plug.close()
        raise
    finally:
        os.close(reader)
    return Waiting(child=child, plug=plug, network=boundary.network, _start=writer)

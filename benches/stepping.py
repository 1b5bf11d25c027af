"""`python -m benches.stepping FOLDER program|parallel|lines|layers`: steps of the embedded engine, as JSON.

FOLDER has a tiny image as `tiny.tar` and a folder `source`; the engine's cache is where VA_CACHE says.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.engine import session
from ci.reporting import SilentReporter

if TYPE_CHECKING:
    import dagger

_STEPS, _BYTES, _LAYERS = 40, 50 * 2**20, 300
_SMALL = 20


async def program(client: dagger.Client, base: dagger.Container, folder: Path) -> None:
    """What a Dockerfile of three lines does, with the image in an archive."""
    made = (
        base.with_directory("/source", client.host().directory("source"))
        .with_exec(["sh", "-c", "cat /source/* > /all"])
        .with_exec(["sh", "-c", "md5sum /all > /sum"])
    )
    await made.export(str(folder / "made.tar"))


async def parallel(_: dagger.Client, base: dagger.Container, __: Path) -> dict[str, float]:
    """Seconds of so many steps of one second, all asked for at once."""
    await base.with_exec(["true"]).sync()
    slept = [_numbered(base, number).with_exec(["sleep", "1"]) for number in range(_STEPS)]
    started = time.perf_counter()
    await asyncio.gather(*(one.sync() for one in slept))
    return {"seconds": time.perf_counter() - started, "steps": _STEPS}


async def lines(client: dagger.Client, base: dagger.Container, folder: Path) -> dict[str, float]:
    """Seconds of a step that prints so much in short and in long lines."""
    for name, size in (("short", 2), ("long", 100)):
        line = b"x" * (size - 1) + b"\n"
        (folder / "source" / name).write_bytes(line * (_BYTES // size))
    filled = base.with_mounted_directory("/source", client.host().directory("source"))
    await filled.with_exec(["true"]).sync()
    taken: dict[str, list[float]] = {"short": [], "long": []}
    for number in range(3):
        for name, each in taken.items():
            started = time.perf_counter()
            await _numbered(filled, number).with_exec(["cat", f"/source/{name}"]).sync()
            each.append(time.perf_counter() - started)
    return {name: min(each) for name, each in taken.items()}


async def layers(_: dagger.Client, base: dagger.Container, __: Path) -> dict[str, float]:
    """Median seconds of a small step in one layer and in hundreds, in turns."""
    grown = base
    for number in range(_LAYERS):
        grown = grown.with_new_file(f"/layer-{number}", "")
        if number % 50 == 49:
            grown = await grown.sync()
    taken: dict[str, list[float]] = {"one": [], "many": []}
    for number in range(_SMALL):
        for name, container in (("one", base), ("many", grown)):
            started = time.perf_counter()
            await _numbered(container, number).with_exec(["true"]).sync()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in taken.items()}


def _numbered(container: dagger.Container, number: int) -> dagger.Container:
    """One that no step was run in yet."""
    return container.with_env_variable("NUMBER", str(number))


PARTS: dict[str, Callable[[dagger.Client, dagger.Container, Path], Awaitable[Any]]] = {
    "program": program,
    "parallel": parallel,
    "lines": lines,
    "layers": layers,
}


async def main(folder: Path, part: str) -> Any:
    async with session(SilentReporter(), workdir=folder) as (client, _):
        base = client.container().import_(client.host().file("tiny.tar"))
        return await PARTS[part](client, base, folder)


if __name__ == "__main__":
    json.dump(asyncio.run(main(Path(sys.argv[1]), sys.argv[2])), sys.stdout)

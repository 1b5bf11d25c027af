"""What all benches share: a claim and its figure, a registry of their own, `ship` in its own process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci import places
from ci.files import extract
from pipelines.images import IMAGES
from tests.real_registry import Replicator, free_port, registry_on

__all__ = [
    "Figure",
    "Ship",
    "built",
    "promoted",
    "published",
    "registry",
    "replicated",
    "ship",
    "stepped",
    "timed",
    "timed_at_once",
    "unpacked",
]

_SHIP_SECONDS = 1800


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured claim. `value` must be at most `limit`, both in `unit`."""

    claim: str
    value: float
    limit: float
    unit: str
    detail: str = ""

    @property
    def holds(self) -> bool:
        """Whether the claim is true of this run."""
        return self.value <= self.limit


@dataclass(frozen=True, kw_only=True)
class Ship:
    """One run of `ship` in its own process: seconds with the start of Python, and what it says of itself."""

    seconds: float
    peak_mib: float
    """The process's own peak memory, without its children."""
    built: dict[str, bool]
    """Image: whether its digest is one that was built before."""
    tested: dict[str, bool]
    """Image: whether its tests' result came from the cache."""
    bytes_sent: int


def timed(*argv: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> float:
    """Seconds that a program takes; its output is shown when it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(str(word) for word in argv)} failed:\n{done.stdout[-3000:]}")
    return seconds


def timed_at_once(commands: Sequence[Sequence[str | Path]]) -> float:
    """Seconds until the last of these programs ends, all of which start at once."""
    with ThreadPoolExecutor(max_workers=len(commands)) as pool:
        started = time.perf_counter()
        list(pool.map(lambda words: timed(*words), commands))
        return time.perf_counter() - started


@contextlib.contextmanager
def registry(*, notify: str = "") -> Iterator[str]:
    """A registry of this bench's own, empty, as the platform configures it; gives its address."""
    with (
        tempfile.TemporaryDirectory(prefix="va-bench-") as folder,
        registry_on(Path(folder) / "data", free_port(), notify=notify) as address,
    ):
        yield address


@contextlib.contextmanager
def replicated(folder: Path) -> Iterator[tuple[str, ...]]:
    """Three empty registries with the platform's replicator between them; gives addresses, the home first."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(registry(notify=f"http://127.0.0.1:{port}/events"))
        replicas = {region: stack.enter_context(registry()) for region in ("west", "asia")}
        stack.enter_context(Replicator(folder, port, home, replicas).running())
        yield (home, *replicas.values())


def built(folder: Path) -> dict[str, Path]:
    """The newest tarball of each image, which is built first where it is missing."""

    def newest() -> dict[str, Path]:
        found = {image.name: [*(places.cache() / "images" / image.name).glob("*.tar")] for image in IMAGES}
        return {name: max(each, key=os.path.getmtime) for name, each in found.items() if each}

    if len(newest()) < len(IMAGES):
        ship("127.0.0.1:1", folder / "state", to="built")
    return newest()


def unpacked(archive: Path, folder: Path) -> Path:
    """An OCI layout's files, so that nobody has to unpack a tarball while it is timed."""
    with tarfile.open(archive) as tar:
        extract(tar, folder)
    return folder


def published(regions: Sequence[str], runs: int | str, archives: Mapping[str, Path]) -> tuple[Any, float]:
    """Push these images to the first region until all have them, `runs` times in one process; or `rounds`.

    Returns what benches.publishing says, and the seconds of the whole process.
    """
    words = [f"{name}={archive}" for name, archive in archives.items()]
    root = places.checkout()
    env = {**os.environ, "PYTHONPATH": str(root)}
    return _told(["benches.publishing", ",".join(regions), str(runs), *words], root, env)


def promoted() -> dict[str, float]:
    """What benches.promoting says, which has a cluster of its own."""
    root = places.checkout()
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    said: dict[str, float] = _told(["benches.promoting"], root, env)[0]
    return said


def ship(
    address: str,
    state: Path,
    *,
    checkout: Path | None = None,
    cache: Path | None = None,
    to: str = "published",
    images: Sequence[str] = (),
) -> Ship:
    """Run `ship` (or only up to `built`) on a checkout, with its state in `state`, to that registry."""
    root = checkout or places.checkout()
    env = {"VA_STATE": str(state), "PYTHONPATH": str(root)} | ({"VA_CACHE": str(cache)} if cache else {})
    words = ["benches.shipping", address, str(state / "reports"), to, *images]
    said, seconds = _told(words, root, _environment() | env)
    return Ship(seconds=seconds, **said)


def stepped(folder: Path, part: str) -> tuple[Any, float]:
    """What benches.stepping says of that part, with a cache in the folder; and its seconds."""
    root = places.checkout()
    env = {"VA_CACHE": str(folder / "cache"), "PYTHONPATH": str(root)}
    return _told(["benches.stepping", str(folder), part], root, _environment() | env)


def _told(words: Sequence[str], root: Path, env: Mapping[str, str]) -> tuple[Any, float]:
    """What a module of ours prints as JSON, in a process of its own; and the seconds of that."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=root, env=env, capture_output=True, text=True, check=False, timeout=_SHIP_SECONDS,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{words[0]} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout), seconds


def _environment() -> dict[str, str]:
    """Ours, but that the first run leaves its bytecode to the next, as everybody's does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

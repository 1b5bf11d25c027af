"""The processes of a platform, found by a mark in their environment.

Every process we start carries $VA_PLATFORM (the platform's folder), $VA_PART and $VA_FINGERPRINT. The process
table is the only record of what runs: unlike a pidfile it survives a crash of `va` at any point, and cannot
name a stranger that got a dead process's id.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Marked", "end", "forget", "is_ending", "lately", "marked", "port_owner"]

_LATELY_SECONDS = 0.2
_seen: dict[Path, tuple[float, list[Marked]]] = {}


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A process of ours. `program` is the file name of its executable."""

    pid: int
    part: str
    fingerprint: str
    program: str


def marked(folder: Path) -> list[Marked]:
    """The platform's processes, oldest first."""
    found = []
    for pid in _pids():
        # Gone since, or a kernel thread, or of another user: not ours.
        with suppress(OSError, ValueError):
            environment = _environment(pid)
            if environment.get("VA_PLATFORM") == str(folder) and _state(pid) != "Z":
                program = Path(f"/proc/{pid}/exe").readlink().name.removesuffix(" (deleted)")
                found.append(
                    Marked(
                        pid=pid,
                        part=environment.get("VA_PART", ""),
                        fingerprint=environment.get("VA_FINGERPRINT", ""),
                        program=program,
                    )
                )
    return sorted(found, key=lambda process: process.pid)


def lately(folder: Path) -> list[Marked]:
    """As `marked` a moment ago: of many parts that ask at once, one reads the process table for all."""
    since, found = _seen.get(folder, (float("-inf"), []))
    if time.monotonic() - since > _LATELY_SECONDS:
        found = marked(folder)
        _seen[folder] = (time.monotonic(), found)
    return found


def forget() -> None:
    """What comes now is to see what is there now."""
    _seen.clear()


async def end(alive: Callable[[], list[int]], *, grace: float = 10.0) -> None:
    """Send SIGTERM to what `alive` lists, and SIGKILL to what is left after `grace` seconds."""
    told: set[int] = set()
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        for pid in alive():
            told.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        # A process that exits loses its environment, and so its mark, before its sockets are closed.
        while alive() or any(_is_there(pid) for pid in told):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        else:
            return


def port_owner(port: int) -> tuple[int, str] | None:
    """Who listens on a TCP port of 127.0.0.1: process id (0 when it cannot be seen) and command line."""
    sockets = set(_listening(port))
    if not sockets:
        return None
    for pid in _pids():
        with suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if str(entry.readlink()) in sockets:
                        return pid, _command(pid)
    return 0, "a process that only root can see"


def _listening(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, hexadecimal = fields[1].rpartition(":")
                # One that listens on another address of the host is not in the way.
                taken = address == "0100007F" or not address.strip("0")
                if fields[3] == "0A" and taken and int(hexadecimal, 16) == port:
                    yield f"socket:[{fields[9]}]"


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _environment(pid: int) -> dict[str, str]:
    raw = Path(f"/proc/{pid}/environ").read_bytes()
    return dict(
        entry.split("=", 1) for entry in raw.decode(errors="replace").split("\0") if entry.startswith("VA_")
    )


def is_ending(pid: int) -> bool:
    """Whether a process is gone or about to be: it has lost its memory, and with it its environment."""
    try:
        return not Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError:
        return False
    except OSError:
        return True


def _is_there(pid: int) -> bool:
    try:
        return _state(pid) not in {"Z", "X"}
    except OSError:
        return False


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()

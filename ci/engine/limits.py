"""What a step may take of the machine: control groups with a bound on processes and memory, version 1 or 2.

Each step has a group of ours, and runc's own below it. A group says whether its bound was reached: that is
told with the error of the step. Groups of sessions that were killed are removed by the next one: their names
start with the namespace of process ids and the id of the process. Those of another namespace, a container's
or the machine's, are left alone: whether such a process is there cannot be seen from here.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ci.errors import BadInput

__all__ = [
    "Limits",
    "bounded",
    "expect_a_move",
    "parent_of",
    "path_of",
    "reached",
    "remove",
    "remove_of_the_dead",
    "unbounded",
]

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of each step: how many processes and threads, and how many bytes of memory."""

    processes: int
    memory: int

    @classmethod
    def of_environment(cls) -> Limits:
        """`VA_STEP_PROCESSES` (4096) and `VA_STEP_MEMORY` in bytes (three quarters of the machine's).

        BadInput for what is no number.
        """
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(
            processes=_number("VA_STEP_PROCESSES", 4096), memory=_number("VA_STEP_MEMORY", machine * 3 // 4)
        )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdigit() or int(text) == 0:
        raise BadInput(f"{name}={text}: a whole number above 0", hint="leave it unset for the default")
    return int(text)


def path_of(name: str) -> str:
    """Where runc makes the step's own group: below the one that has the bounds."""
    return f"{parent_of(name)}/step"


def parent_of(name: str) -> str:
    """The group that has the step's bounds."""
    return f"/{_group(name)}"


def _group(name: str) -> str:
    """Of a step; its name starts with the id of our process."""
    return f"va-engine-{os.stat('/proc/self/ns/pid').st_ino}-{name}"


def bounded(name: str, limits: Limits) -> None:
    """Make the step's groups. One that the machine does not have is left out: see `unbounded`."""
    for group, bounds in _groups(name, limits):
        with suppress(OSError):
            group.mkdir(exist_ok=True)
            for file, value in bounds.items():
                with suppress(OSError):
                    (group / file).write_text(str(value))


def expect_a_move() -> None:
    """Have the kernel ready for a process that is about to be moved into a group, which runc does soon.

    Its first move waits for a grace period of RCU (5 to 15 ms), those right after it do not. This process is
    moved to where it is, and the wait is over meanwhile.
    """
    with suppress(OSError, StopIteration):
        rows = (row.rstrip().split(":", 2) for row in Path("/proc/self/cgroup").read_text().splitlines())
        number, names, group = next(row for row in rows if row[0] == "0" or row[1] == "pids")
        folder = _ROOT if number == "0" and _version_2() else _ROOT / (names or "unified")
        (folder / group.lstrip("/") / "cgroup.procs").write_text("0")


def unbounded() -> str:
    """Empty, or why the machine cannot bound steps."""
    if _version_2():
        with suppress(OSError):
            (_ROOT / "cgroup.subtree_control").write_text("+pids +memory")
        have = set((_ROOT / "cgroup.subtree_control").read_text().split())
    else:
        have = {name for name in ("pids", "memory") if (_ROOT / name).is_dir()}
    missing = {"pids", "memory"} - have
    return f"no control group for {' and '.join(sorted(missing))}" if missing else ""


def _version_2() -> bool:
    return (_ROOT / "cgroup.controllers").is_file()


def _groups(name: str, limits: Limits) -> list[tuple[Path, dict[str, int]]]:
    group = _group(name)
    if _version_2():
        both = {"pids.max": limits.processes, "memory.max": limits.memory, "memory.swap.max": 0}
        return [(_ROOT / group, both)]
    return [
        (_ROOT / "pids" / group, {"pids.max": limits.processes}),
        (_ROOT / "memory" / group, {"memory.limit_in_bytes": limits.memory}),
    ]


def reached(name: str, limits: Limits, *, killed: bool = False) -> str:
    """Which bound the step runs or ran into, as words; empty for none. `killed`: it was, by SIGKILL.

    A group of version 1 counts only what its own processes meet, and runc removes that one at the end: so
    this is asked while the step runs, too.
    """
    told = []
    for group, bounds in _groups(name, limits):
        if "pids.max" in bounds and (
            _count(group / "step" / "pids.events", "max")
            or _count(group / "pids.events", "max")
            or _value(group / "pids.peak") >= limits.processes
        ):
            told.append(f"its limit of {limits.processes} processes (VA_STEP_PROCESSES)")
        if (
            _count(group / "memory.events", "oom_kill")
            or _count(group / "step" / "memory.oom_control", "oom_kill")
            or (killed and _value(group / "memory.failcnt"))
        ):
            told.append(f"its limit of {limits.memory // 2**20} MiB of memory (VA_STEP_MEMORY)")
    return " and ".join(told)


def _count(file: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        return int(dict(line.split() for line in file.read_text().splitlines()).get(name, 0))
    return 0


def _value(file: Path) -> int:
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return 0


async def remove(name: str) -> None:
    """Remove the step's groups; the kernel may need a moment until one is empty."""
    for _ in range(100):
        if not _remove(_group(name)):
            return
        await asyncio.sleep(0.02)


def remove_of_the_dead() -> None:
    """Remove groups of sessions that were killed."""
    for group in {path.name for pattern in ("", "*/") for path in _ROOT.glob(f"{pattern}{_group('*')}")}:
        pid = group.removeprefix(_group("")).partition("-")[0]
        if not Path("/proc", pid).exists():
            _remove(group)


def _remove(group: str) -> bool:
    """Whether something is left."""
    left = [path for pattern in ("", "*/") for path in _ROOT.glob(f"{pattern}{group}")]
    for path in left:
        for each in (path / "step", path):
            with suppress(OSError):
                each.rmdir()
    return any(path.exists() for path in left)

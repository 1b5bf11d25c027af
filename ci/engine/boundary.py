"""What stands between a step and this machine, as far as kernel and runtime have it; and what they lack, in
words.

A session has one: the ids of its steps, their network, their bounds.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from ci.engine import limits
from ci.engine.contained import STAGE, can_show_other_owners
from ci.engine.limits import Limits
from ci.engine.network import Network
from ci.errors import SystemUnavailable, ToolMissing

__all__ = ["IDS", "Boundary", "gaps", "privileged_allowed"]

IDS = 1 << 30
"""Ids from 0 to this inside are those from here to twice this outside, where nobody has them: beyond all
users, and beyond what newuidmap and systemd give away."""
_OLDEST_KERNEL = (5, 19)
_OLDEST_RUNC = (1, 1)


@dataclass
class Boundary:
    """`userns`: a descriptor of the user namespace whose ids steps have, -1 where there is none."""

    limits: Limits
    userns: int = -1
    gaps: tuple[str, ...] = ()
    """What is not protected on this machine; one line each."""
    network: Network = field(default_factory=Network)

    @classmethod
    async def of(cls, store: Path) -> Boundary:
        """The boundary for steps whose layers are in that folder. ToolMissing without runc."""
        found = cls(limits=Limits.of_environment())
        Path(STAGE).mkdir(mode=0o755, exist_ok=True)
        found.userns, gap = await asyncio.to_thread(_user_namespace, store)
        bounds = limits.unbounded()
        found.gaps = tuple(
            line for line in (gap, bounds and f"a step may take all processes and memory: {bounds}") if line
        )
        return found

    def outside(self, inside: int) -> int:
        """The machine's id of a step's."""
        return IDS + inside if self.userns >= 0 else inside

    async def close(self) -> None:
        await self.network.close()
        if self.userns >= 0:
            os.close(self.userns)


def privileged_allowed() -> bool:
    """Whether the operator lets steps have `insecureRootCapabilities`: root of this machine, in all but
    name."""
    return os.environ.get("VA_ALLOW_INSECURE") == "1"


def gaps(store: Path) -> tuple[str, ...]:
    """What would not be protected in a session now."""

    async def ask() -> tuple[str, ...]:
        found = await Boundary.of(store)
        await found.close()
        return found.gaps

    return asyncio.run(ask())


def _user_namespace(store: Path) -> tuple[int, str]:
    """The user namespace of steps, or why there is none."""
    lacking = "root in a step is root of this machine, but for its capabilities and its seccomp profile"
    kernel = _version(os.uname().release)
    if kernel < _OLDEST_KERNEL:
        return -1, f"{lacking}: Linux {os.uname().release} cannot show layers with other owners (5.19 can)"
    runc = _runc_version()
    if runc < _OLDEST_RUNC:
        told = ".".join(map(str, runc))
        return -1, f"{lacking}: runc {told} cannot mount for a user namespace (1.1 can)"
    try:
        made = _mapped()
    except OSError as error:
        return -1, f"{lacking}: the kernel makes no user namespace ({error.strerror})"
    if not can_show_other_owners(store, made):
        os.close(made)
        return -1, f"{lacking}: the file system of {store} cannot show other owners"
    return made, ""


def _mapped() -> int:
    """A descriptor of a new user namespace with the ids of steps. A process holds it while its ids are
    written."""
    holder = subprocess.Popen(
        ["unshare", "--user", "--", "sh", "-c", "echo; read _"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        if not holder.stdout.read(1):
            raise OSError(1, "unshare is refused")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text(f"0 {IDS} {IDS}")
        return os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        holder.communicate()


def _runc_version() -> tuple[int, ...]:
    try:
        done = subprocess.run(["runc", "--version"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ToolMissing("runc is not installed", hint="va doctor says how to get it") from error
    if done.returncode:
        raise SystemUnavailable(f"runc does not start: {done.stderr.strip()[-300:]}")
    return _version(done.stdout)


def _version(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)

"""One command in a container: overlayfs over layers of the store, run by runc behind the session's boundary.

`contained` is the process that it starts in: its namespaces end with it, and it ends with this process, kill
-9 included. The bundle (config, secrets, hosts file) goes to it through a pipe: secrets are on no disk and in
no argument list.
"""

from __future__ import annotations

import asyncio
import json
import marshal
import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from ci.engine import limits
from ci.engine.boundary import IDS, Boundary
from ci.engine.contained import MOST_LAYERS, STAGE
from ci.engine.masking import Masker
from ci.engine.seccomp import profile
from ci.engine.waiting import Waiting
from ci.errors import BadInput, StepFailed, SystemUnavailable, ToolMissing

__all__ = [
    "CAPABILITIES",
    "INIT",
    "NO_LAYER",
    "Mount",
    "Outcome",
    "Overlay",
    "Printed",
    "Process",
    "Run",
    "copy_of_init",
    "start",
]

CAPABILITIES = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID "
    "SYS_CHROOT"
)
"""What root in a step may do: Docker's list without NET_RAW, with which one reads and forges others' packets.
"""

NO_LAYER = "none"
"""An empty folder beside the layers, for a tree that has none."""

INIT = "/dev/init"
"""Where a step has its init: in a tmpfs, so that none of it is in an image."""
_TINI = Path("/usr/bin/tini-static")
_NOT_RUN = re.compile(r"\[FATAL tini \(\d+\)\] exec (.*) failed: (.*)")

_KEPT = 4 * 2**20
"""Bytes that are kept of the start and of the end of what a command prints."""

_TOLD = 2000
"""Bytes that are told of why a container could not be set up."""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A stack of layers to mount, lowest first, with the folder that takes the changes.

    Layers are folders of the store. `upper` None mounts them read-only.
    """

    layers: tuple[Path, ...]
    upper: Path | None
    work: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Mount:
    """Something mounted in the container: a folder or file of the store, an overlay (or the file `inner` of
    one), a tmpfs, or bytes given here."""

    path: str
    source: Path | Overlay | bytes | None
    inner: str = ""
    read_only: bool = False
    mode: int = 0o400
    owner: tuple[int, int] = (0, 0)
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Process:
    """What runs: arguments, environment (with secrets), user."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    privileged: bool = False


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What came through a stream, masked: its start, its end, and how many bytes in between are not kept."""

    start: str
    left_out: int = 0
    end: str = ""

    @property
    def text(self) -> str:
        mark = f"\n[… {self.left_out} bytes are left out here …]\n" if self.left_out else ""
        return self.start + mark + self.end

    def last(self, most: int) -> str:
        """At most that many bytes from the end; what is missing is told at their start, in Dagger's words
        (engine/buildkit/ref.go, ReadSnapshotPath)."""
        kept = (self.start + self.end).encode("utf-8", "surrogateescape")
        if (over := self.left_out + len(kept) - most) <= 0:
            return self.text
        mark = f"[omitting {over} bytes]..."
        return mark + kept[len(mark) - most :].decode(errors="replace")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it ended."""

    code: int
    stdout: Printed
    stderr: Printed
    reached: str = ""
    """The bound of the step that it ran into, in words."""


@dataclass
class Run:
    """A container that runs."""

    child: asyncio.subprocess.Process
    folder: Path
    name: str
    bounds: limits.Limits
    _reading: asyncio.Task[tuple[Printed, Printed]] = field(repr=False)
    _masker: Masker = field(repr=False)
    _reached: str = ""

    def reached(self) -> str:
        """The bound that it runs into, in words; empty for none."""
        self._reached = limits.reached(self.name, self.bounds) or self._reached
        return self._reached

    async def outcome(self) -> Outcome:
        """Wait for its end. StepFailed when it could not start at all."""
        stdout, stderr = await self._reading
        code = await self.child.wait()
        if code != 0 and not (self.folder / "runc.log").exists():
            raise SystemUnavailable(
                stderr.last(_TOLD).strip() or f"a container could not be set up (exit code {code})"
            )
        if code != 0 and (reason := self._masker.mask(self._refused())):
            missing = "not found" in reason or "no such file" in reason
            if not missing and "permission denied" not in reason:
                full = "no space left" in reason
                raise (SystemUnavailable if full else StepFailed)(f"the container could not start: {reason}")
            # A Dagger engine's init says 1 for both, where a shell says 127 and 126.
            return Outcome(code=1, stdout=stdout, stderr=Printed(start=reason))
        if found := code in (126, 127) and _NOT_RUN.fullmatch(stderr.last(_TOLD).strip()):
            said = Printed(start=f'exec: "{found[1]}": {found[2].lower()}')
            return Outcome(code=1, stdout=stdout, stderr=said)
        code = code if code >= 0 else 128 - code
        reached = limits.reached(self.name, self.bounds, killed=code == 137) or self._reached
        return Outcome(code=code, stdout=stdout, stderr=stderr, reached=reached)

    def _refused(self) -> str:
        """Why runc did not start the command, empty if it did."""
        try:
            lines = (self.folder / "runc.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row.get("level") == "error" and "runc run failed" in row.get("msg", ""):
                text: str = row["msg"].removeprefix("runc run failed: ")
                return text.removeprefix("unable to start container process: ")
        return ""

    async def end(self, grace: float = 0.0) -> None:
        """End it: with a grace time (seconds) the command is asked first, then everything is killed."""
        if self.child.returncode is None and grace > 0:
            self._signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.child.wait()), grace)
        if self.child.returncode is None:
            self._signal(signal.SIGKILL)
            await self.child.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await limits.remove(self.name)

    def kill(self) -> None:
        """Kill it; `outcome` tells."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)


def copy_of_init(folder: Path) -> Path:
    """tini as a file of that folder: the first process of a step, which reaps what nobody waits for, and ends
    as the command does. ToolMissing where the machine has none."""
    try:
        return Path(shutil.copy(_TINI, folder / "init"))
    except FileNotFoundError as error:
        raise ToolMissing(
            "tini is not installed: it is the first process of a step", hint="va doctor says how to get it"
        ) from error


async def start(
    process: Process,
    *,
    root: Overlay,
    mounts: Sequence[Mount],
    store: Path,
    folder: Path,
    name: str,
    boundary: Boundary,
    waiting: Waiting,
    stdin: bytes = b"",
    hostname: str = "dagger",
    masker: Masker,
    on_lines: Callable[[str], None] | None = None,
    redirects: Mapping[str, IO[bytes]] | None = None,
) -> Run:
    """Start a command in a container and return at once.

    `folder` is an empty folder of the caller, all paths are below `store`, `waiting` becomes it. `masker`
    hides the command's own secrets in what is shown of it. `redirects` take the bytes of `stdout` or `stderr`
    as they come; they have no buffer.
    """
    userns = -1 if process.privileged else boundary.userns
    given = _given(process, root, mounts, store, folder, hostname, name, boundary, userns)
    given |= {"network": waiting.plug.descriptor, "userns": userns}
    limits.bounded(name, boundary.limits)
    child = waiting.child
    streams = {"stdout": child.stdout, "stderr": child.stderr}
    kill = partial(os.killpg, child.pid, signal.SIGKILL)
    reading = asyncio.ensure_future(_read(streams, masker, on_lines, redirects or {}, kill))  # type: ignore[arg-type]
    run = Run(child, folder, name, boundary.limits, reading, masker)
    try:
        await asyncio.gather(
            asyncio.to_thread(_feed, waiting.start(), marshal.dumps(given)),
            _feed_stdin(child, stdin),
            asyncio.to_thread(limits.expect_a_move),
        )
    except BaseException:
        await run.end()
        raise
    return run


def _feed(writer: int, data: bytes) -> None:
    # A broken pipe: the helper ended early, and its exit code and output tell.
    with suppress(BrokenPipeError), open(writer, "wb") as pipe:
        pipe.write(data)


async def _feed_stdin(child: asyncio.subprocess.Process, data: bytes) -> None:
    if child.stdin is None:
        return
    try:
        child.stdin.write(data)
        await child.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the command did not read it
    finally:
        child.stdin.close()


async def _read(
    streams: Mapping[str, asyncio.StreamReader],
    masker: Masker,
    on_lines: Callable[[str], None] | None,
    redirects: Mapping[str, IO[bytes]],
    kill: Callable[[], None],
) -> tuple[Printed, Printed]:
    """Read both streams to their end, whatever happens: nobody sees the end of a process whose pipe is full.

    OSError where a redirect cannot be written; the command is killed then.
    """
    failed: list[OSError] = []

    async def one(name: str, stream: asyncio.StreamReader) -> Printed:
        kept = _Kept()
        rest = b""
        while data := await stream.read(65536):
            kept.add(data)
            if name in redirects and not failed:
                try:
                    _write(redirects[name], data)
                except OSError as error:
                    failed.append(error)
                    with suppress(ProcessLookupError):
                        kill()
            if on_lines is None:
                continue
            lines, end, rest = (rest + data).rpartition(b"\n")
            if end:
                on_lines(masker.mask(lines.decode(errors="replace")))
            if len(rest) > 65536:
                rest = b""
        if rest and on_lines:
            on_lines(masker.mask(rest.decode(errors="replace")))
        return kept.printed(masker)

    stdout, stderr = await asyncio.gather(*(one(name, stream) for name, stream in streams.items()))
    if failed:
        raise failed[0]
    return stdout, stderr


def _write(file: IO[bytes], data: bytes) -> None:
    """All of it, to a file without a buffer: what does not fit is known at once."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


class _Kept:
    """The start and the end of a stream."""

    def __init__(self) -> None:
        self._start = bytearray()
        self._end = bytearray()
        self._left_out = 0

    def add(self, data: bytes) -> None:
        room = _KEPT - len(self._start)
        self._start += data[:room]
        self._end += data[room:] if room > 0 else data
        if (over := len(self._end) - _KEPT) > _KEPT:  # seldom: what moves is as much as what goes
            del self._end[:over]
            self._left_out += over

    def printed(self, masker: Masker) -> Printed:
        if over := max(0, len(self._end) - _KEPT):
            del self._end[:over]
        if not (left_out := self._left_out + over):
            return Printed(start=masker.mask((self._start + self._end).decode(errors="replace")))
        # Where it is cut there may be half of a secret, which nothing finds.
        start = masker.mask(self._start.decode(errors="replace"))
        end = masker.mask(self._end.decode(errors="replace"))
        cut = max(0, masker.longest - 1)
        return Printed(start=start[: len(start) - cut], left_out=left_out, end=end[cut:])


def _given(
    process: Process,
    root: Overlay,
    mounts: Sequence[Mount],
    store: Path,
    folder: Path,
    hostname: str,
    name: str,
    boundary: Boundary,
    userns: int,
) -> dict[str, Any]:
    """What `contained.contain` takes, but for the namespaces."""

    def outside(owner: tuple[int, int]) -> tuple[int, int]:
        return owner if userns < 0 else (boundary.outside(owner[0]), boundary.outside(owner[1]))

    def below(path: Path) -> str:  # not by pathlib, which is slow, and there are hundreds
        return str(path).removeprefix(f"{store}/")

    def stack(at: str, overlay: Overlay) -> tuple[str, list[str], str | None, str | None]:
        layers = [below(path) for path in overlay.layers] or [f"layers/{NO_LAYER}"]
        if len(layers) >= 2 * MOST_LAYERS:
            raise BadInput(
                f"a command in {len(layers)} layers: the kernel shows {2 * MOST_LAYERS - 1} at most",
                hint="put files in by one withDirectory, not each by itself",
            )
        return (
            at,
            layers,
            below(overlay.upper) if overlay.upper else None,
            below(overlay.work) if overlay.work else None,
        )

    files: list[tuple[str, bytes, int, tuple[int, int]]] = []
    overlays = [stack("rootfs", root)]
    binds: list[tuple[str, str]] = []
    inside: list[dict[str, Any]] = []
    for number, mount in enumerate(mounts):
        match mount.source:
            case Overlay() as overlay:
                overlays.append(stack(f"m{number}", overlay))
            case bytes() as data:
                files.append((f"m{number}", data, mount.mode, outside(mount.owner)))
            case None:
                size = [f"size={mount.size}"] if mount.size else []
                options = ["nosuid", "nodev", "mode=1777", *size]
                inside.append(
                    {"destination": mount.path, "type": "tmpfs", "source": "tmpfs", "options": options}
                )
                continue
            case path:
                binds.append((f"m{number}", below(path)))
        options = ["bind", "ro" if mount.read_only else "rw"]
        source = f"{STAGE}/m{number}/{mount.inner}".rstrip("/")
        inside.append({"destination": mount.path, "type": "bind", "source": source, "options": options})
    config = json.dumps(_config(process, inside, hostname, name, userns >= 0))
    files.append(("config.json", config.encode(), 0o600, (0, 0)))
    log = str(folder / "runc.log")
    return {
        "argv": [
            "runc", "--root", f"{STAGE}/state", "--log", log, "--log-format", "json",
            "run", "--bundle", STAGE, name,
        ],
        "store": str(store),
        "files": files,
        "overlays": overlays,
        "binds": binds,
        "root": outside((0, 0))[0],
        "owner": outside((process.uid, process.gid)),
    }  # fmt: skip


def _config(
    process: Process, binds: Sequence[Mapping[str, Any]], hostname: str, name: str, userns: bool
) -> dict[str, Any]:
    """The config.json of the OCI runtime-spec 1.0. The network and /sys are those of the process that runc is
    in."""
    caps = [f"CAP_{name}" for name in (_bounding() if process.privileged else CAPABILITIES.split())]
    base = [
        ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),  # noqa: S108  # nosec B108  # of a container
        ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        (
            "/sys",
            "bind",
            f"{STAGE}/sys",
            ["bind", "nosuid", "noexec", "nodev", "rw" if process.privileged else "ro"],
        ),
    ]
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
        "cgroupsPath": limits.path_of(name),
    }
    if userns:
        ids = [{"containerID": 0, "hostID": IDS, "size": IDS}]
        linux["namespaces"].append({"type": "user"})
        linux |= {"uidMappings": ids, "gidMappings": ids}
    if not process.privileged:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
        linux["seccomp"] = profile(caps)
        linux["maskedPaths"] = [
            "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
            "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
            "/sys/devices/virtual/powercap", "/sys/firmware",
        ]  # fmt: skip
        linux["readonlyPaths"] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "root": {"path": f"{STAGE}/rootfs"},
        "process": {
            "terminal": False,
            "user": {
                "uid": process.uid,
                "gid": process.gid,
                "additionalGids": list(process.groups),
                "umask": 0o022,
            },
            "args": list(process.args),
            "env": list(process.env),
            "cwd": process.cwd,
            "noNewPrivileges": not process.privileged,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), caps)
            if process.uid == 0
            else {"bounding": caps},
        },
        "mounts": [
            {"destination": path, "type": kind, "source": source, "options": options}
            for path, kind, source, options in base
        ]
        + list(binds),
        "linux": linux,
    }


def _bounding() -> list[str]:
    """What this process itself may do at most."""
    status = Path("/proc/self/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("CapBnd:")).split()[1], 16)
    return [name for number, name in enumerate(_ALL) if mask >> number & 1]


_ALL = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
"""Every capability, by its number."""

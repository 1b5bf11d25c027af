"""One command in a container: overlayfs over layers of the store, run by runc.

Everything that a run needs from the kernel lives in namespaces of its own: the mounts in a mount namespace,
the processes in a pid namespace whose first process dies with us. So however this process ends, kill -9
included, no mount, process or container is left. The bundle (config, secrets, hosts file) comes as a tar
through a pipe into a tmpfs of that namespace: secrets are on no disk and in no argument list.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import tarfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ci.engine.masking import Masker
from ci.errors import StepFailed, SystemUnavailable, ToolMissing

__all__ = ["NO_LAYER", "Mount", "Outcome", "Overlay", "Process", "Run", "remove_cgroups_of_the_dead", "start"]

_CAPABILITIES = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP "
    "SETUID SYS_CHROOT"
)
"""What containers may do by default: the list that Docker and containerd use."""

NO_LAYER = "none"
"""An empty folder beside the layers, for a tree that has none."""

_CGROUP = "va-engine"
_CGROUPS = Path("/sys/fs/cgroup")

_HELPER = """
set -eu
bundle=$1 layers=$2
mount -t tmpfs -o mode=0700 va-bundle "$bundle"
tar -x -f "/proc/self/fd/$4" -C "$bundle"
cd "$layers"
. "$bundle/mounts.sh"
exec runc --root "$bundle/state" --log "$bundle/../runc.log" --log-format json run --bundle "$bundle" "$3"
"""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A stack of layers to mount, lowest first, with the folder that takes the changes.

    Layers are paths relative to the store's layers. `upper` None mounts them read-only.
    """

    layers: tuple[str, ...]
    upper: Path | None
    work: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Mount:
    """Something mounted in the container: a folder or file of the host, an overlay, a tmpfs, or bytes given
    here."""

    path: str
    source: Path | Overlay | bytes | None
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
class Outcome:
    """How it ended. Output is masked text."""

    code: int
    stdout: str
    stderr: str


@dataclass
class Run:
    """A container that runs."""

    child: asyncio.subprocess.Process
    folder: Path
    name: str
    _reading: asyncio.Task[tuple[str, str]] = field(repr=False)

    async def outcome(self) -> Outcome:
        """Wait for its end. StepFailed when it could not start at all."""
        stdout, stderr = await self._reading
        code = await self.child.wait()
        if code != 0 and not (self.folder / "runc.log").exists():
            raise SystemUnavailable(f"a container could not be set up (exit code {code})\n{stderr.strip()}")
        if code != 0 and (reason := self._refused()):
            missing = "not found" in reason or "no such file" in reason
            if not missing and "permission denied" not in reason:
                full = "no space left" in reason
                raise (SystemUnavailable if full else StepFailed)(f"the container could not start: {reason}")
            # A Dagger engine's init says 1 for both, where a shell says 127 and 126.
            return Outcome(code=1, stdout=stdout, stderr=reason)
        return Outcome(code=code if code >= 0 else 128 - code, stdout=stdout, stderr=stderr)

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
        await _remove_cgroups(self.name)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)


async def _remove_cgroups(name: str) -> None:
    """Remove what runc left because it was killed; the kernel may need a moment until a group is empty."""
    for _ in range(100):
        left = list(_CGROUPS.glob(f"*/{_CGROUP}-{name}"))
        for path in left:
            with suppress(OSError):
                path.rmdir()
        if not left:
            return
        await asyncio.sleep(0.02)


def remove_cgroups_of_the_dead() -> None:
    """Remove control groups of sessions that were killed: their names start with the id of the process."""
    for path in _CGROUPS.glob(f"*/{_CGROUP}-*"):
        pid = path.name.removeprefix(f"{_CGROUP}-").partition("-")[0]
        if not Path("/proc", pid).exists():
            with suppress(OSError):
                path.rmdir()


async def start(
    process: Process,
    *,
    root: Overlay,
    mounts: Sequence[Mount],
    layers: Path,
    folder: Path,
    name: str,
    stdin: bytes = b"",
    hostname: str = "dagger",
    network: Callable[[int], Awaitable[None]] | None = None,
    masker: Masker,
    on_line: Callable[[str], None] | None = None,
) -> Run:
    """Start a command in a container and return at once.

    `folder` is an empty folder of the caller. Without `network` it shares the host's network; with it, it
    gets a network namespace of its own, and `network` is called with the id of a process in it, before the
    start.
    """
    (folder / "bundle").mkdir()
    (folder / "rootfs").mkdir()
    bundle = _bundle(process, root, mounts, folder, hostname, name)
    reader, writer = os.pipe()
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    try:
        child = await asyncio.create_subprocess_exec(
            "setpriv", "--pdeathsig", "KILL", "--",
            *unshare, *(["--net"] if network else []), "--",
            "sh", "-c", _HELPER, "va-engine", str(folder / "bundle"), str(layers), name, str(reader),
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(reader,),
            start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError as error:
        os.close(writer)
        raise ToolMissing(
            f"{error.filename} is not installed", hint="va doctor says how to get it"
        ) from error
    finally:
        os.close(reader)
    streams = (child.stdout, child.stderr)
    run = Run(child, folder, name, asyncio.ensure_future(_read(streams, masker, on_line)))  # type: ignore[arg-type]
    try:
        if network:
            await network(child.pid)
        await asyncio.gather(asyncio.to_thread(_feed, writer, bundle), _feed_stdin(child, stdin))
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
    streams: tuple[asyncio.StreamReader, asyncio.StreamReader],
    masker: Masker,
    on_line: Callable[[str], None] | None,
) -> tuple[str, str]:
    async def one(stream: asyncio.StreamReader) -> str:
        chunks: list[bytes] = []
        rest = b""
        while data := await stream.read(65536):
            chunks.append(data)
            if on_line is None:
                continue
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                on_line(masker.mask(line.decode(errors="replace")).rstrip("\r"))
            if len(rest) > 65536:
                rest = b""
        if rest and on_line:
            on_line(masker.mask(rest.decode(errors="replace")))
        return masker.mask(b"".join(chunks).decode(errors="replace"))

    stdout, stderr = await asyncio.gather(*(one(stream) for stream in streams))
    return stdout, stderr


def _bundle(
    process: Process, root: Overlay, mounts: Sequence[Mount], folder: Path, hostname: str, name: str
) -> bytes:
    """The tar with all that the helper needs: config.json, mounts.sh, and the files given as bytes."""
    files: dict[str, tuple[bytes, int, tuple[int, int]]] = {}
    shell = ["umask 022", _mount_overlay(root, folder / "rootfs")]
    binds: list[dict[str, Any]] = []
    inside = folder / "bundle"
    for number, mount in enumerate(mounts):
        options = ["rbind", "ro" if mount.read_only else "rw"]
        match mount.source:
            case Overlay() as overlay:
                shell += [f"mkdir -p {inside}/m{number}", _mount_overlay(overlay, inside / f"m{number}")]
                source = f"{inside}/m{number}"
            case bytes() as data:
                files[f"f{number}"] = (data, mount.mode, mount.owner)
                source = f"{inside}/f{number}"
            case None:
                size = [f"size={mount.size}"] if mount.size else []
                binds.append(
                    {
                        "destination": mount.path,
                        "type": "tmpfs",
                        "source": "tmpfs",
                        "options": ["nosuid", "nodev", "mode=1777", *size],
                    }
                )
                continue
            case path:
                source = str(path)
        binds.append({"destination": mount.path, "type": "bind", "source": source, "options": options})
    config = json.dumps(_config(process, folder / "rootfs", binds, hostname, name))
    files["config.json"] = (config.encode(), 0o600, (0, 0))
    files["mounts.sh"] = ("\n".join(shell).encode(), 0o600, (0, 0))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (data, mode, owner) in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            info.uid, info.gid = owner
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _mount_overlay(overlay: Overlay, target: Path) -> str:
    """The mount command. Layers are named relative to the working folder: the kernel takes 4096 bytes of
    options."""
    lower = ":".join(reversed(overlay.layers or (NO_LAYER,)))
    if overlay.upper is None:
        if len(overlay.layers) < 2:
            return f"mount --bind {lower} {target}; mount -o remount,bind,ro {target}"
        return f"mount -t overlay overlay -o ro,lowerdir={lower} {target}"
    options = f"lowerdir={lower},upperdir={overlay.upper},workdir={overlay.work}"
    return f"mount -t overlay overlay -o {options},redirect_dir=off,metacopy=off,index=off {target}"


def _config(
    process: Process, rootfs: Path, binds: Sequence[Mapping[str, Any]], hostname: str, name: str
) -> dict[str, Any]:
    """The config.json of the OCI runtime-spec 1.0: Docker's defaults, the network left as it is."""
    caps = [f"CAP_{name}" for name in (_ALL if process.privileged else _CAPABILITIES).split()]
    base = [
        ("/proc", "proc", "proc", []),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),  # noqa: S108  # nosec B108  # of a container
        ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "rw" if process.privileged else "ro"]),
    ]
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
        "cgroupsPath": f"/{_CGROUP}-{name}",
    }
    if not process.privileged:
        linux["maskedPaths"] = [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/scsi",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
        ]  # fmt: skip
        linux["readonlyPaths"] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "root": {"path": str(rootfs)},
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


_ALL = (
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE "
    "DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE "
    "MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG "
    "SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG WAKE_ALARM"
)

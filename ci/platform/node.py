"""A region's node: the mount and process namespaces that its daemons and pods live in.

Its first process ends only by us; when it ends, the kernel ends every process in the namespace and drops
every mount: nothing of the node can stay behind on the host.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

from ci.errors import SystemUnavailable, ToolMissing
from ci.platform.daemon import Check, Daemon, as_part
from ci.platform.instance import Instance, Region
from ci.platform.part import Part, PartStatus, Say
from ci.platform.processes import lately

__all__ = ["enter", "first_process", "listens", "node", "node_folder"]

# Folders that Kubernetes' programs write to whatever their configuration says: the node has its own.
_OWN = ("/var/log", "/var/lib/kubelet", "/var/lib/cni")

# Its own /run has the sockets and the lock of iptables; what it adds to /var/lib is its own too. The
# platform's folder ($1) stays, wherever it is. bash ends adopted children, as a first process must.
_FIRST = """set -e
folder=$1; shift
exec 9<"$folder"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock /run/upper /run/work
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/upper,workdir=/run/work overlay /var/lib
mkdir -p "$folder"
mount --no-canonicalize --bind /proc/self/fd/9 "$folder"
exec 9<&-
while [ $# -gt 0 ]; do mkdir -p "$2"; mount --bind "$1" "$2"; shift 2; done
touch /run/node-ready
set +e
while :; do sleep 86400 & wait; done
"""


def node_folder(place: Instance, region: Region) -> Path:
    """Where the node keeps its files."""
    return place.folder / region.name


def node(place: Instance, region: Region) -> Part:
    """The node's first process. Takes the network's namespace over."""
    name = f"{region.node} namespaces"
    folder = node_folder(place, region)

    def daemon() -> Daemon:
        binds = [str(path) for own in _OWN for path in (_own(folder, own), own)]
        return Daemon(
            name=name,
            argv=(
                _program("unshare"),
                *("--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("--", _program("bash"), "-c", _FIRST, "node", str(place.folder), *binds),
            ),
            enter=lambda: (_program("nsenter"), f"--net=/run/netns/{region.node}", "--"),
            check=check,
        )

    async def check() -> str:
        first = _first_process(place, name)
        if first is None:
            return "no first process"
        try:
            here = Path(f"/run/netns/{region.node}").stat().st_ino
            there = Path(f"/proc/{first}/ns/net").stat().st_ino
            ready = Path(f"/proc/{first}/root/run/node-ready").exists()
        except OSError as error:
            return str(error)
        if here != there:
            return "in a network namespace that is gone"
        return "" if ready else "mounting"

    # unshare ignores SIGTERM, and its child needs no time.
    process = as_part(place, daemon, name=name, grace=0.0)

    async def up(say: Say) -> bool:
        for own in _OWN:
            _own(folder, own).mkdir(parents=True, exist_ok=True)
        for hierarchy in _hierarchies():
            (hierarchy / region.node).mkdir(exist_ok=True)
            _copy_cpuset(hierarchy, hierarchy / region.node)
        return await process.up(say)

    async def down() -> None:
        await process.down()
        for hierarchy in _hierarchies():
            await _remove_cgroup(hierarchy / region.node)
        if folder.exists():
            await asyncio.to_thread(shutil.rmtree, folder)

    async def status() -> PartStatus:
        return await process.status()

    return Part(name=name, up=up, status=status, down=down, needs=(region.node,), tools=("ip",))


def _own(folder: Path, name: str) -> Path:
    return folder / "own" / Path(name).name


def enter(place: Instance, region: Region) -> tuple[str, ...]:
    """The words before a command line that run it on the node; SystemUnavailable when the node is down."""
    target = f"--target={first_process(place, region)}"
    return (_program("nsenter"), target, "--mount", "--net", "--pid", "--")


def first_process(place: Instance, region: Region) -> int:
    """The process id, on the host, of the node's first process; SystemUnavailable when the node is down."""
    first = _first_process(place, f"{region.node} namespaces")
    if first is None:
        raise SystemUnavailable(f"the node {region.node} is down", hint="va up starts it")
    return first


def listens(place: Instance, region: Region, what: str, port: int) -> Check:
    """Its port is on the node's 127.0.0.1: read the node's table of sockets instead of connecting."""

    async def check() -> str:
        wanted = f"0100007F:{port:04X}"
        try:
            table = Path(f"/proc/{first_process(place, region)}/net/tcp").read_text()
        except (OSError, SystemUnavailable) as error:
            return str(error)
        if any(fields[1] == wanted and fields[3] == "0A" for fields in map(str.split, table.splitlines())):
            return ""
        return f"{what} does not listen on port {port}"

    return check


def _first_process(place: Instance, name: str) -> int | None:
    for process in lately(place.folder):
        if process.part == name and process.program == "unshare":
            with suppress(OSError, IndexError):
                return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    return None


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ToolMissing(f"{name} is not here", hint="sudo apt-get install util-linux bash")
    return found


def _hierarchies() -> list[Path]:
    """The roots of the cgroup hierarchies: one with cgroup v2, one a controller with v1."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [
        path for path in sorted(root.iterdir()) if (path / "cgroup.procs").exists() and not path.is_symlink()
    ]


def _copy_cpuset(parent: Path, child: Path) -> None:
    # With cgroup v1 a new cpuset is empty, and nothing can run in it.
    for name in ("cpuset.cpus", "cpuset.mems"):
        with suppress(OSError):
            if not (child / name).read_text().strip():
                (child / name).write_text((parent / name).read_text())


async def _remove_cgroup(cgroup: Path) -> None:
    for _ in range(100):
        for folder in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                folder.rmdir()
        with suppress(OSError):
            cgroup.rmdir()
        if not cgroup.exists():
            return
        await asyncio.sleep(0.1)  # its last processes are still ending
    raise SystemUnavailable(f"the cgroup {cgroup} has processes that do not end", hint="run va down again")

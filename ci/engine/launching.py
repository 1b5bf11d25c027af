"""How a command is put into a container: its mounts, its user, its services, and where its changes go.

A command sees the container's tree with its mounts, /etc/hosts with its services, this machine's resolver and
CA certificates. What only the run needed is taken out of its changes again.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from ci.below import open_below, open_file, read_file
from ci.engine import run
from ci.engine.containers import owner_of
from ci.engine.engine import Engine
from ci.engine.network import Plug
from ci.engine.secrets import plaintext
from ci.engine.steps import Command
from ci.engine.store import full_disk_is_told
from ci.engine.tree import Layer, Tree
from ci.engine.users import home, ids
from ci.engine.values import MountKind
from ci.engine.volumes import held, volume_folder
from ci.errors import BadInput

__all__ = ["Launched", "launch"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KERNEL_FOLDERS = ("proc", "sys", "dev")
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


class Launched:
    """A started command, where its changes go, and how to clear what only the run needed."""

    def __init__(self, below: Tree, upper: Path) -> None:
        self.below = below
        self.upper = upper
        self.mount_uppers: dict[str, Path] = {}
        self.work: list[Path] = [upper]
        """Folders that go with the run, but for those that have become layers."""
        self.targets: list[str] = []
        self.bundle = b""
        self.bundle_path = _BUNDLE
        self.ended = False
        """Whether it was ended, because it left no room on the disk."""
        self.plug: Plug
        self.run: run.Run

    def tidy(self) -> None:
        """Take away the mount points and the CA bundle that the run needed, and folders that are there for
        them."""
        with _folder(self.upper, "") as root:
            with suppress(OSError):
                if self.bundle and read_file(root, self.bundle_path, len(self.bundle)) == self.bundle:
                    _unlink(root, self.bundle_path)
            for target in [*self.targets, self.bundle_path]:
                with suppress(OSError), open(open_file(root, target), "rb") as file:
                    if not os.fstat(file.fileno()).st_size and not self.below.find(target):
                        _unlink(root, target)
                self._prune(root, target)

    def _prune(self, root: int, target: str) -> None:
        """Remove folders that the run left empty, and that show nothing but what is below anyway."""
        while target:
            with suppress(OSError), _folder(root, target) as folder:
                known = self.below.find(target, follow=False)
                status = os.fstat(folder)
                same = known is None or (
                    known.is_dir
                    and (known.stat.st_mode, known.stat.st_uid, known.stat.st_gid)
                    == (status.st_mode, status.st_uid, status.st_gid)
                    and not os.listxattr(folder)
                )
                if not same or os.listdir(folder):
                    return
                with _folder(root, posixpath.dirname(target)) as above:
                    os.rmdir(posixpath.basename(target), dir_fd=above)
            target = posixpath.dirname(target)


@contextmanager
def _folder(root: Path | int, path: str) -> Iterator[int]:
    folder = open_below(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


def _unlink(root: int, path: str) -> None:
    with _folder(root, posixpath.dirname(path)) as folder:
        os.unlink(posixpath.basename(path), dir_fd=folder)


@asynccontextmanager
async def launch(
    engine: Engine,
    command: Command,
    *,
    on_line: Callable[[str], None] | None = None,
    hostname: str = "dagger",
    redirects: Mapping[str, IO[bytes]] | None = None,
    volumes: Mapping[str, str] | None = None,
) -> AsyncIterator[Launched]:
    """A command that runs; it is ended with the block. `redirects`: see run.start; `volumes`: what `held`
    gives, where the caller holds them."""
    ctr = command.container
    async with AsyncExitStack() as stack:
        boundary = await engine.boundary()
        if volumes is None:
            volumes = await stack.enter_async_context(held(engine, ctr, command.title))
        services = await engine.services.bound(ctr)
        stdin = command.stdin.encode("utf-8", "surrogateescape")
        wires = [service.plug for service in services]
        plugging = asyncio.ensure_future((await engine.spare()).take(wires, stdin=bool(stdin)))
        try:
            with full_disk_is_told(engine.store.root):
                launched, overlay, mounts = await asyncio.to_thread(_prepare, engine, command, volumes)
            process = await _process(engine, command)
            for mount in ctr.mounts:
                if mount.secret:
                    owner = owner_of(engine, ctr, mount.owner) or (0, 0)
                    data = await plaintext(engine, mount.secret)
                    mounts.append(run.Mount(path=mount.path, source=data, mode=mount.mode, owner=owner))
            hosts = engine.services.hosts(ctr, hostname)
        except BaseException:
            await asyncio.gather(plugging, return_exceptions=True)
            if not plugging.cancelled() and plugging.exception() is None:
                await plugging.result().close()
            raise
        waiting = await plugging
        launched.plug = waiting.plug
        stack.push_async_callback(waiting.close)
        stack.push_async_callback(asyncio.to_thread, _discard, engine, launched)
        mounts.append(run.Mount(path="/etc/hosts", source=hosts, mode=0o644))
        mounts.append(run.Mount(path="/etc/resolv.conf", source=boundary.network.resolv_conf(), mode=0o644))
        layer = Layer(launched.below, launched.upper)
        launched.targets = [layer.target(mount.path) for mount in mounts]
        if command.init:
            init = await engine.once("init", lambda: asyncio.to_thread(run.copy_of_init, engine.store.tmp))
            mounts.append(run.Mount(path=run.INIT, source=init, read_only=True))
            process = replace(process, args=(run.INIT, "--", *process.args))
        folder = engine.store.scratch("run")
        launched.work.append(folder)
        launched.run = await run.start(
            process,
            root=overlay,
            mounts=sorted(mounts, key=lambda item: item.path.count("/")),
            store=engine.store.root,
            folder=folder,
            name=f"{engine.store.tmp.name}-{folder.name}",
            boundary=boundary,
            waiting=waiting,
            stdin=stdin,
            hostname=hostname,
            masker=engine.masker,
            on_line=on_line,
            redirects=redirects,
        )
        try:
            yield launched
        finally:
            await launched.run.end()


def _discard(engine: Engine, launched: Launched) -> None:
    """Give the room back at once, not with the session: of a step that failed it may be a whole disk."""
    for folder in launched.work:
        engine.store.discard(folder)


def _prepare(
    engine: Engine, command: Command, volumes: Mapping[str, str]
) -> tuple[Launched, run.Overlay, list[run.Mount]]:
    """The folders of a run, and what is mounted but for secrets."""
    ctr, store = command.container, engine.store
    below = engine.tree(ctr.layers)
    launched = Launched(below, store.scratch("upper"))

    def scratch(name: str) -> Path:
        folder = store.scratch(name)
        launched.work.append(folder)
        return folder

    layer = Layer(below, launched.upper)
    layer.folder("")
    for name in _KERNEL_FOLDERS:
        if below.find(name) is None:
            layer.folder(name)  # runc mounts on them; they stay in the image, as with a Dagger engine
    launched.bundle = _ca_bundle(below)
    if launched.bundle:
        launched.bundle_path = layer.target(_BUNDLE)
        layer.write(launched.bundle_path, launched.bundle)
    layers = tuple(store.layers / one for one in ctr.layers)
    overlay = run.Overlay(layers=layers, upper=launched.upper, work=scratch("work"))
    found: list[run.Mount] = []
    for mount in ctr.mounts:
        match mount.kind:
            case MountKind.TEMP:
                found.append(run.Mount(path=mount.path, source=None, size=mount.size))
            case MountKind.CACHE:
                volume = volume_folder(engine, ctr, mount, volumes[mount.path])
                found.append(run.Mount(path=mount.path, source=volume))
            case MountKind.FILE:
                entry = engine.tree(mount.place.layers).need("/" + mount.place.path)
                copy = scratch("file")
                Layer(Tree([]), copy).copy(entry, "file")
                found.append(run.Mount(path=mount.path, source=copy / "file"))
            case MountKind.DIRECTORY:
                entry = engine.tree(mount.place.layers).need("/" + mount.place.path)
                lower = tuple(Path(path) for path in reversed(entry.real))
                upper = None
                if not mount.read_only:
                    upper = scratch("upper")
                    Layer(Tree([]), upper).folder(
                        "", mode=entry.mode, owner=(entry.stat.st_uid, entry.stat.st_gid)
                    )
                    launched.mount_uppers[mount.path] = upper
                source = run.Overlay(layers=lower, upper=upper, work=scratch("work"))
                found.append(run.Mount(path=mount.path, source=source, read_only=mount.read_only))
    return launched, overlay, found


def _ca_bundle(below: Tree) -> bytes:
    """The container's CA bundle with this machine's own certificates added; this machine's, where it has
    none."""
    try:
        ours = _HOST_BUNDLE.read_bytes()
    except OSError:
        return b""
    entry = below.find(_BUNDLE)
    if entry is None or not entry.is_file:
        return ours
    theirs = below.read(_BUNDLE)
    mark = b"-----END CERTIFICATE-----"
    has = {_squeezed(part) for part in theirs.split(mark)}
    extra = [
        part.strip() + b"\n" + mark + b"\n" for part in ours.split(mark)[:-1] if _squeezed(part) not in has
    ]
    return theirs.rstrip() + b"\n" + b"".join(extra) if extra else b""


def _squeezed(part: bytes) -> bytes:
    return b"".join(part.partition(b"-----BEGIN CERTIFICATE-----")[2].split())


async def _process(engine: Engine, command: Command) -> run.Process:
    """The process: its environment with the secrets in it, its user by the container's own files."""
    ctr = command.container
    tree = engine.tree(ctr.layers)
    uid, gid, groups = ids(tree, ctr.config.get("User") or "0")
    env = {"PATH": _PATH} | ctr.env
    env.setdefault("HOME", home(tree, uid))
    for name, secret in ctr.secret_env:
        env[name] = (await plaintext(engine, secret)).decode("utf-8", "surrogateescape")
        if "\0" in env[name]:
            raise BadInput(f"the secret of {name} has a NUL byte, which no variable can have: mount it")
    return run.Process(
        args=command.args,
        env=tuple(f"{name}={value}" for name, value in env.items()),
        cwd=ctr.config.get("WorkingDir") or "/",
        uid=uid,
        gid=gid,
        groups=groups,
        privileged=command.privileged,
    )

"""How a command is put into a container: its mounts, its user, its services, and where its changes go.

A command sees the container's tree with its mounts, /etc/hosts with its services, this machine's resolver and
CA certificates. What only the run needed is taken out of its changes again.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from ci.below import open_below, open_file, read_file
from ci.engine import run
from ci.engine.containers import owner_of
from ci.engine.engine import Engine
from ci.engine.masking import Masker
from ci.engine.network import Plug
from ci.engine.secrets import plaintext
from ci.engine.steps import Command
from ci.engine.store import full_disk_is_told
from ci.engine.tree import Layer, Tree
from ci.engine.users import home, ids
from ci.engine.values import MountKind
from ci.engine.volumes import held, volume_folder
from ci.errors import BadInput

__all__ = ["FILE", "Launched", "Mounted", "launch"]

FILE = "file"
"""The name of a mounted file in the folder that it is mounted from."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KERNEL_FOLDERS = ("proc", "sys", "dev")
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """A mount that a command may change: layers that it shows, lowest first, and the folder that takes the
    changes."""

    layers: tuple[Path, ...]
    upper: Path
    path: str = ""
    """Of a folder that is part of a tree: where it is in there."""
    tree: Tree = field(default_factory=lambda: Tree([]))
    """That tree."""

    def written(self) -> Layer:
        """To write into it after the command."""
        return Layer(Tree([*self.layers, self.upper]), self.upper)

    def is_changed(self) -> bool:
        """Whether the command changed it."""
        if any(self.upper.iterdir()):
            return True
        before, after = Tree(self.layers).root.stat, self.upper.stat()
        return (before.st_mode, before.st_uid, before.st_gid) != (after.st_mode, after.st_uid, after.st_gid)


class Launched:
    """A started command, where its changes go, and how to clear what only the run needed."""

    def __init__(self, layers: tuple[Path, ...], work: Path, names: Callable[[str], frozenset[str]]) -> None:
        self.layers = layers
        """The container's, lowest first."""
        self.below = Tree(layers, names)
        self.work = work
        """The folder that goes with the run, with all that is in it and has not become a layer."""
        self.upper = self.made("upper")
        self.mounted: dict[str, Mounted] = {}
        """Folders and files that are mounted and may be changed, by their path."""
        self.volumes: dict[str, Mounted] = {}
        """Cache volumes, by the path that they are mounted at."""
        self.owner = (0, 0)
        """User and group that the command runs as."""
        self.targets: list[str] = []
        self.bundle = b""
        self.bundle_path = _BUNDLE
        self.ended = False
        """Whether it was ended, because it left no room on the disk."""
        self.turn = AsyncExitStack()
        """What it holds while it runs."""
        self.plug: Plug
        self.run: run.Run

    def made(self, name: str) -> Path:
        """A new folder for the run."""
        folder = self.work / f"{name}-{len(os.listdir(self.work))}"
        folder.mkdir(mode=0o755)
        return folder

    def layer_of(self, mounted: Mounted) -> Path:
        """The folder that becomes the layer of a mount's changes."""
        if not mounted.path:
            return mounted.upper
        folder = self.made("part")
        Layer(mounted.tree, folder).folder(posixpath.dirname(mounted.path))
        os.rename(mounted.upper, folder / mounted.path)
        return folder

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
    masker: Masker,
    *,
    on_lines: Callable[[str], None] | None = None,
    hostname: str = "dagger",
    redirects: Mapping[str, IO[bytes]] | None = None,
    volumes: Mapping[str, str] | None = None,
    turn: AbstractAsyncContextManager[None] | None = None,
) -> AsyncIterator[Launched]:
    """A command that runs. It is ended with the block, and what it wrote is given back, but for what became a
    layer before. `masker`, `redirects`: see run.start; `volumes`: what `held` gives, if the caller has it;
    `turn` is waited for when all is ready, and held as `Launched.turn`."""
    ctr = command.container
    async with AsyncExitStack() as stack:
        work = engine.store.scratch("step")
        stack.push_async_callback(asyncio.to_thread, engine.store.discard, work)
        boundary = await engine.boundary()
        if volumes is None:
            volumes = await stack.enter_async_context(held(engine, ctr, masker.mask(command.title)))
        services = await engine.services.bound(ctr)
        stdin = command.stdin.encode("utf-8", "surrogateescape")
        wires = [service.plug for service in services]
        spare = await engine.spare()
        plugging = asyncio.ensure_future(spare.take(wires, stdin=bool(stdin)))
        try:
            with full_disk_is_told(engine.store.root):
                launched, overlay, mounts = await asyncio.to_thread(_prepare, engine, command, volumes, work)
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
        mounts.append(run.Mount(path="/etc/hosts", source=hosts, mode=0o644))
        mounts.append(run.Mount(path="/etc/resolv.conf", source=boundary.network.resolv_conf(), mode=0o644))
        layer = Layer(launched.below, launched.upper)
        launched.targets = [layer.target(mount.path) for mount in mounts]
        launched.owner = (process.uid, process.gid)
        if command.init:
            init = await engine.once("init", lambda: asyncio.to_thread(run.copy_of_init, engine.store.tmp))
            mounts.append(run.Mount(path=run.INIT, source=init, read_only=True))
            process = replace(process, args=(run.INIT, "--", *process.args))
        folder = launched.made("run")
        await stack.enter_async_context(launched.turn)
        if turn:
            await launched.turn.enter_async_context(turn)
        launched.run = await run.start(
            process,
            root=overlay,
            mounts=sorted(mounts, key=lambda item: item.path.count("/")),
            store=engine.store.root,
            folder=folder,
            name=f"{engine.store.tmp.name}-{work.name}",
            boundary=boundary,
            waiting=waiting,
            stdin=stdin,
            hostname=hostname,
            masker=masker,
            on_lines=on_lines,
            redirects=redirects,
        )
        spare.refill()
        try:
            yield launched
        finally:
            await launched.run.end()


def _prepare(
    engine: Engine, command: Command, volumes: Mapping[str, str], work: Path
) -> tuple[Launched, run.Overlay, list[run.Mount]]:
    """The folders of a run, and what is mounted but for secrets."""
    ctr, store = command.container, engine.store
    launched = Launched(tuple(store.layers / one for one in ctr.layers), work, store.names)
    below = launched.below
    layer = Layer(below, launched.upper)
    layer.folder("")
    for name in _KERNEL_FOLDERS:
        if below.find(name) is None:
            layer.folder(name)  # runc mounts on them; they stay in the image, as with a Dagger engine
    launched.bundle = _ca_bundle(below)
    if launched.bundle:
        launched.bundle_path = layer.target(_BUNDLE)
        layer.write(launched.bundle_path, launched.bundle)
    overlay = run.Overlay(layers=launched.layers, upper=launched.upper, work=launched.made("work"))
    found: list[run.Mount] = []
    for mount in ctr.mounts:
        match mount.kind:
            case MountKind.TEMP:
                found.append(run.Mount(path=mount.path, source=None, size=mount.size))
            case MountKind.CACHE:
                volume = volume_folder(engine, ctr, mount, volumes[mount.path])
                launched.volumes[mount.path] = Mounted(layers=(), upper=volume)
                found.append(run.Mount(path=mount.path, source=volume))
            case MountKind.FILE:
                entry = engine.tree(mount.place.layers).need("/" + mount.place.path)
                lower, upper = launched.made("lower"), launched.made("upper")
                Layer(Tree([]), lower).copy(entry, FILE, link=True)
                Layer(Tree([]), upper).folder("")
                launched.mounted[mount.path] = Mounted(layers=(lower,), upper=upper)
                source = run.Overlay(layers=(lower,), upper=upper, work=launched.made("work"))
                found.append(run.Mount(path=mount.path, source=source, inner=FILE))
            case MountKind.DIRECTORY:
                tree = engine.tree(mount.place.layers)
                entry = tree.need("/" + mount.place.path)
                shown = tuple(Path(path) for path in reversed(entry.real))
                source = run.Overlay(layers=shown, upper=None)
                if not mount.read_only:
                    upper = launched.made("upper")
                    owner = (entry.stat.st_uid, entry.stat.st_gid)
                    Layer(Tree([]), upper).folder("", mode=entry.mode, owner=owner)
                    launched.mounted[mount.path] = Mounted(
                        layers=shown, upper=upper, path=entry.path, tree=tree
                    )
                    source = run.Overlay(layers=shown, upper=upper, work=launched.made("work"))
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

"""Answers of Container that run commands, and how a command is put into a container.

A command sees the container's tree with its mounts, /etc/hosts with its services, this machine's resolver and
CA certificates. What it changes becomes a layer; what only the run needed is taken out of it first.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import shlex
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ci.below import open_below, open_file, read_file
from ci.engine import run
from ci.engine.boundary import privileged_allowed
from ci.engine.chain import Call
from ci.engine.containers import absolute, expanded, grown_by, owner_of
from ci.engine.contents import place_of
from ci.engine.engine import Engine, ExecFailed, LogLine, NotSupported, answer
from ci.engine.network import Plug
from ci.engine.secrets import plaintext
from ci.engine.store import digest_of, full_disk_is_told
from ci.engine.tree import Layer, Tree
from ci.engine.users import home, ids
from ci.engine.values import Container, ExecResult, MountKind, MountPoint, Place
from ci.errors import BadInput, SystemUnavailable

__all__ = ["Command", "Launched", "command_of", "launch"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KERNEL_FOLDERS = ("proc", "sys", "dev")
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_WATCH_SECONDS = 0.5
_LEAST_FREE, _MOST_FREE = 16 * 2**20, 512 * 2**20
"""A hundredth of the disk, but no less and no more bytes than these, are not for a step to take."""


class Command:
    """A command as it will run: all that its result depends on, and nothing secret."""

    def __init__(
        self,
        container: Container,
        args: Sequence[str],
        *,
        stdin: str = "",
        privileged: bool = False,
    ) -> None:
        if not args:
            raise BadInput("no command has been set: give args, or set default args")
        self.container = container
        self.args = tuple(args)
        self.stdin = stdin
        self.privileged = privileged

    def key(self, secret_marks: Sequence[str]) -> str:
        """The key of the command's result."""
        ctr = self.container
        return digest_of(
            "exec 2",  # counts what a command's result means: another number does not find the older results
            ctr.layers,
            self.args,
            self.stdin,
            self.privileged,
            sorted(ctr.env.items()),
            [ctr.config.get("WorkingDir"), ctr.config.get("User")],
            [_mount_key(mount) for mount in ctr.mounts],
            [name for name, _ in ctr.secret_env],
            list(secret_marks),
            [[alias, service.key] for alias, service in ctr.services],
        )  # fmt: skip

    @property
    def title(self) -> str:
        text = shlex.join(self.args)
        return text if len(text) <= 70 else text[:69] + "…"


def _mount_key(mount: MountPoint) -> list[Any]:
    cache = [mount.cache.key, mount.cache.sharing] if mount.cache else None
    place = [mount.place.layers, mount.place.path]
    return [mount.kind, mount.path, place, mount.owner, mount.mode, mount.size, mount.read_only, cache]


def command_of(
    parent: Container, call: Call, *, use_entrypoint: bool, given: Sequence[str], stdin: str = ""
) -> Command:
    """The command of a withExec or asService call: its arguments or the default ones, after the
    entrypoint."""
    for name in ("experimentalPrivilegedNesting",):
        if call.args[name]:
            raise NotSupported(name)
    if call.args["insecureRootCapabilities"] and not privileged_allowed():
        raise BadInput(
            "insecureRootCapabilities makes a step root of this machine, and is refused",
            hint="VA_ALLOW_INSECURE=1 allows it, to who trusts every line that the step runs",
        )
    args = [expanded(parent, arg, call.args["expand"]) for arg in given]
    args = args or list(parent.config.get("Cmd") or ())
    if use_entrypoint:
        args = list(parent.config.get("Entrypoint") or ()) + args
    return Command(parent, args, stdin=stdin, privileged=call.args["insecureRootCapabilities"])


@answer("Container.withExec")
async def with_exec(engine: Engine, parent: Container, call: Call) -> Container:
    stdin = call.args["stdin"]
    if stdin and call.args["redirectStdin"]:
        raise BadInput("cannot set both stdin and redirectStdin")
    if call.args["redirectStdin"]:
        path = expanded(parent, call.args["redirectStdin"], call.args["expand"])
        place = place_of(parent, absolute(parent, path).lstrip("/"))
        data = await asyncio.to_thread(engine.tree(place.layers).read, "/" + place.path)
        stdin = data.decode("utf-8", "surrogateescape")
    command = command_of(
        parent, call, use_entrypoint=call.args["useEntrypoint"], given=call.args["args"], stdin=stdin
    )
    redirects = [
        (name, absolute(parent, expanded(parent, call.args[field], call.args["expand"])).lstrip("/"))
        for name, field in (("stdout", "redirectStdout"), ("stderr", "redirectStderr"))
        if call.args[field]
    ]
    marks = await _secret_marks(engine, parent)
    key = digest_of(command.key(marks), redirects)

    async def make() -> dict[str, Any]:
        known = await asyncio.to_thread(engine.store.result, key)
        if known is None or not _as_expected(known["code"], call.args["expect"]):
            known = await _execute(engine, command, key, redirects, call.args["expect"])
        return known

    row = await engine.once((key, call.args["expect"]), make)
    places = row["mounts"]
    mounts = tuple(
        replace(mount, place=Place((*mount.place.layers, places[mount.path]), mount.place.path))
        if mount.path in places
        else mount
        for mount in parent.mounts
    )
    layers = (*parent.layers, row["layer"]) if row["layer"] else parent.layers
    last = ExecResult(code=row["code"], stdout=row["stdout"], stderr=row["stderr"])
    grown = grown_by(parent, layers, f"withExec {posixpath.basename(command.args[0])}")
    return replace(grown, mounts=mounts, last=last, ref="")


def _as_expected(code: int, expect: str) -> bool:
    return expect == "ANY" or (code == 0) == (expect == "SUCCESS")


async def _secret_marks(engine: Engine, parent: Container) -> list[str]:
    """What stands for the values of the container's secrets in a key."""
    secrets = [secret for _, secret in parent.secret_env]
    secrets += [mount.secret for mount in parent.mounts if mount.secret]
    marks = []
    for secret in secrets:
        if secret.cache_key:
            marks.append(f"key {secret.cache_key}")
        elif secret.mac:
            marks.append(secret.mac)
        else:
            marks.append(engine.secrets.mac(secret.uri, await plaintext(engine, secret)))
    return marks


async def _execute(
    engine: Engine, command: Command, key: str, redirects: Sequence[tuple[str, str]], expect: str
) -> dict[str, Any]:
    """Run a command to its end, and keep what it changed and printed."""
    async with AsyncExitStack() as stack:
        title = engine.masker.mask(command.title)
        await engine.services.bound(command.container)
        await stack.enter_async_context(engine.slots)
        step = stack.enter_context(engine.reporter.step(title))

        def told(line: str) -> None:
            step.say(line[-200:])
            engine.log(LogLine(title, line))

        files = {name: engine.store.scratch("out") / "file" for name, _ in redirects}
        sinks = {name: stack.enter_context(file.open("wb")) for name, file in files.items()}
        launched = await stack.enter_async_context(launch(engine, command, on_line=told, redirects=sinks))
        watch = asyncio.ensure_future(_watch(engine, launched, title))
        try:
            outcome = await launched.run.outcome()
        finally:
            watch.cancel()
        for sink in sinks.values():
            sink.close()
        if outcome.code:
            _complain_of_full_disk(engine, title, launched.ended)
        if not _as_expected(outcome.code, expect):
            verb = (
                "did not complete successfully: exit code:" if expect == "SUCCESS" else "ended with exit code"
            )
            reached = f"; it reached {outcome.reached}" if outcome.reached else ""
            raise ExecFailed(
                engine.masker.mask(f'process "{" ".join(command.args)}" {verb} {outcome.code}{reached}'),
                cmd=[engine.masker.mask(arg) for arg in command.args],
                code=outcome.code,
                stdout=outcome.stdout,
                stderr=outcome.stderr,
            )
        moved = [(path, files[name]) for name, path in redirects]
        return await asyncio.to_thread(_finish, engine, command, key, moved, launched, outcome)


async def _watch(engine: Engine, launched: Launched, title: str) -> None:
    """End a step that leaves the machine no room on its disk, and tell of one that reaches another bound."""
    told = ""
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        if _is_full(engine):
            launched.ended = True
            launched.run.kill()
            return
        if (reached := launched.run.reached()) and reached != told:
            told = reached
            engine.reporter.note(f"{title}: reached {reached}")


def _is_full(engine: Engine) -> bool:
    disk = os.statvfs(engine.store.root)
    least = max(_LEAST_FREE, min(disk.f_blocks * disk.f_frsize // 100, _MOST_FREE))
    # Files without content take none of the room, but all of the inodes.
    return disk.f_bavail * disk.f_frsize < least or disk.f_favail < disk.f_files // 100


def _complain_of_full_disk(engine: Engine, title: str, ended: bool) -> None:
    """A command that failed on a full disk did not fail by its own fault, and must not be remembered."""
    if ended or _is_full(engine):
        raise SystemUnavailable(
            f"the disk of the engine's cache {engine.store.root} is full: {title}"
            + (" was ended, what it wrote is removed" if ended else ""),
            hint="va cache prune makes room; VA_CACHE puts the cache on another disk",
        )


def _finish(
    engine: Engine,
    command: Command,
    key: str,
    redirects: Sequence[tuple[str, Path]],
    launched: Launched,
    outcome: run.Outcome,
) -> dict[str, Any]:
    """Turn what a command changed into layers."""
    ctr = command.container
    with full_disk_is_told(engine.store.root):
        launched.tidy()
        if redirects:
            shown = Tree([*(engine.store.layers / layer for layer in ctr.layers), launched.upper])
            layer = Layer(shown, launched.upper)
            for path, file in redirects:
                layer.adopt(layer.target(path), file)
        made = engine.store.add_layer(launched.upper) if any(launched.upper.iterdir()) else None
        changed = {
            path: engine.store.add_layer(upper)
            for path, upper in launched.mount_uppers.items()
            if any(upper.iterdir())
        }
        needs = [*ctr.layers, *([made] if made else []), *changed.values()]
        return engine.store.keep(
            key,
            {
                "layer": made,
                "mounts": changed,
                "code": outcome.code,
                "stdout": outcome.stdout,
                "stderr": outcome.stderr,
                "layers": needs,
            },
        )


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
) -> AsyncIterator[Launched]:
    """A command that runs; it is ended with the block. `redirects`: see run.start."""
    ctr = command.container
    async with AsyncExitStack() as stack:
        boundary = await engine.boundary()
        for mount in sorted(ctr.mounts, key=lambda item: item.path):
            if mount.cache and mount.cache.sharing == "LOCKED":
                await _volume_lock(engine, mount.cache.key, stack)
        services = await engine.services.bound(ctr)
        stdin = command.stdin.encode("utf-8", "surrogateescape")
        wires = [service.plug for service in services]
        plugging = asyncio.ensure_future((await engine.spare()).take(wires, stdin=bool(stdin)))
        try:
            with full_disk_is_told(engine.store.root):
                launched, overlay, mounts = await asyncio.to_thread(_prepare, engine, command)
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


async def _volume_lock(engine: Engine, key: str, stack: AsyncExitStack) -> None:
    """Hold a LOCKED volume against other commands of this session and of others."""
    await stack.enter_async_context(engine.volume_locks.setdefault(key, asyncio.Lock()))
    while True:
        attempt = engine.store.locked(f"volume-{hashlib.sha256(key.encode()).hexdigest()[:16]}")
        if attempt.__enter__():
            stack.push(attempt.__exit__)
            return
        attempt.__exit__(None, None, None)
        await asyncio.sleep(0.2)


def _prepare(engine: Engine, command: Command) -> tuple[Launched, run.Overlay, list[run.Mount]]:
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
                assert mount.cache is not None
                found.append(run.Mount(path=mount.path, source=_volume(engine, ctr, mount)))
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


def _volume(engine: Engine, ctr: Container, mount: MountPoint) -> Path:
    """A cache volume's folder, made when it is first used. PRIVATE ones are a session's own."""
    assert mount.cache is not None
    name = mount.cache.key
    if mount.cache.sharing == "PRIVATE":
        name = f"{name}\0{engine.store.tmp.name}"
    folder = engine.store.volume(name)
    if not folder.exists():
        new = engine.store.scratch("volume")
        if mount.cache.source:
            tree = engine.tree(mount.cache.source.layers)
            layer = Layer(Tree([]), new)
            start = tree.need("/" + mount.cache.source.path)
            for entry in tree.walk(start):
                layer.copy(entry, posixpath.relpath(entry.path, start.path or "."))
        if owner := owner_of(engine, ctr, mount.owner):
            for _, folders, files, here in os.fwalk(new):
                os.fchown(here, *owner)
                for each in (*folders, *files):
                    os.chown(each, *owner, dir_fd=here, follow_symlinks=False)
        try:
            new.rename(folder)
        except OSError:
            engine.store.discard(new)  # another command made it meanwhile
    os.utime(folder)
    return folder


async def _process(engine: Engine, command: Command) -> run.Process:
    """The process: its environment with the secrets in it, its user by the container's own files."""
    ctr = command.container
    tree = engine.tree(ctr.layers)
    uid, gid, groups = ids(tree, ctr.config.get("User") or "0")
    env = {"PATH": _PATH} | ctr.env
    env.setdefault("HOME", home(tree, uid))
    for name, secret in ctr.secret_env:
        env[name] = (await plaintext(engine, secret)).decode("utf-8", "surrogateescape")
    return run.Process(
        args=command.args,
        env=tuple(f"{name}={value}" for name, value in env.items()),
        cwd=ctr.config.get("WorkingDir") or "/",
        uid=uid,
        gid=gid,
        groups=groups,
        privileged=command.privileged,
    )


def _last(parent: Container) -> ExecResult:
    if parent.last is None:
        raise BadInput("no command has been executed")
    return parent.last


@answer("Container.stdout")
async def stdout(engine: Engine, parent: Container, call: Call) -> str:
    return _last(parent).stdout


@answer("Container.stderr")
async def stderr(engine: Engine, parent: Container, call: Call) -> str:
    return _last(parent).stderr


@answer("Container.combinedOutput")
async def combined_output(engine: Engine, parent: Container, call: Call) -> str:
    return _last(parent).stdout + _last(parent).stderr


@answer("Container.exitCode")
async def exit_code(engine: Engine, parent: Container, call: Call) -> int:
    return _last(parent).code

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
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ci.engine import run
from ci.engine.chain import Call
from ci.engine.containers import absolute, expanded, grown_by, owner_of, place_of
from ci.engine.engine import Engine, ExecFailed, LogLine, NotSupported, answer
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

        launched = await stack.enter_async_context(launch(engine, command, on_line=told))
        outcome = await launched.run.outcome()
        if not _as_expected(outcome.code, expect):
            _complain_of_full_disk(engine)
            verb = (
                "did not complete successfully: exit code:" if expect == "SUCCESS" else "ended with exit code"
            )
            raise ExecFailed(
                engine.masker.mask(f'process "{" ".join(command.args)}" {verb} {outcome.code}'),
                cmd=[engine.masker.mask(arg) for arg in command.args],
                code=outcome.code,
                stdout=outcome.stdout,
                stderr=outcome.stderr,
            )
        if outcome.code:
            _complain_of_full_disk(engine)
        return await asyncio.to_thread(_finish, engine, command, key, redirects, launched, outcome)


def _complain_of_full_disk(engine: Engine) -> None:
    """A command that failed on a full disk did not fail by its own fault, and must not be remembered."""
    if shutil.disk_usage(engine.store.root).free < 16 * 2**20:
        raise SystemUnavailable(
            f"the disk of the engine's cache {engine.store.root} is full",
            hint="va cache prune makes room; VA_CACHE puts the cache on another disk",
        )


def _finish(
    engine: Engine,
    command: Command,
    key: str,
    redirects: Sequence[tuple[str, str]],
    launched: Launched,
    outcome: run.Outcome,
) -> dict[str, Any]:
    """Turn what a command changed into layers."""
    ctr = command.container
    with full_disk_is_told(engine.store.root):
        launched.tidy()
        below = engine.tree(ctr.layers)
        if redirects:
            layer = Layer(below, launched.upper)
            for name, path in redirects:
                layer.write(layer.target(path), getattr(outcome, name).encode("utf-8", "surrogateescape"))
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
        self.targets: list[str] = []
        self.bundle = b""
        self.bundle_path = _BUNDLE
        self.run: run.Run

    def tidy(self) -> None:
        """Take away the mount points and the CA bundle that the run needed, and folders that are there for
        them."""
        mine = self.upper / self.bundle_path
        if self.bundle and mine.is_file() and mine.read_bytes() == self.bundle:
            mine.unlink()
        for target in [*self.targets, self.bundle_path]:
            real = self.upper / target
            if (
                not real.is_symlink()
                and real.is_file()
                and not real.stat().st_size
                and not self.below.find(target)
            ):
                real.unlink()
            self._prune(target)

    def _prune(self, target: str) -> None:
        """Remove folders that the run left empty, and that show nothing but what is below anyway."""
        while target:
            real = self.upper / target
            if real.is_dir() and not real.is_symlink():
                known = self.below.find(target, follow=False)
                status = real.stat()
                same = known is None or (
                    known.is_dir
                    and (known.stat.st_mode, known.stat.st_uid, known.stat.st_gid)
                    == (status.st_mode, status.st_uid, status.st_gid)
                    and not os.listxattr(real)
                )
                if not same or any(real.iterdir()):
                    return
                real.rmdir()
            target = posixpath.dirname(target)


@asynccontextmanager
async def launch(
    engine: Engine,
    command: Command,
    *,
    on_line: Callable[[str], None] | None = None,
    network: Callable[[int], Awaitable[None]] | None = None,
    hostname: str = "dagger",
) -> AsyncIterator[Launched]:
    """A command that runs; it is ended with the block. `network`: see run.start."""
    ctr = command.container
    async with AsyncExitStack() as stack:
        for mount in sorted(ctr.mounts, key=lambda item: item.path):
            if mount.cache and mount.cache.sharing == "LOCKED":
                await _volume_lock(engine, mount.cache.key, stack)
        with full_disk_is_told(engine.store.root):
            launched, overlay, mounts = await asyncio.to_thread(_prepare, engine, command)
        process = await _process(engine, command)
        for mount in ctr.mounts:
            if mount.secret:
                owner = owner_of(engine, ctr, mount.owner) or (0, 0)
                data = await plaintext(engine, mount.secret)
                mounts.append(run.Mount(path=mount.path, source=data, mode=mount.mode, owner=owner))
        mounts.append(run.Mount(path="/etc/hosts", source=engine.services.hosts(ctr, hostname), mode=0o644))
        layer = Layer(launched.below, launched.upper)
        launched.targets = [layer.target(mount.path) for mount in mounts]
        folder = engine.store.scratch("run")
        launched.run = await run.start(
            process,
            root=overlay,
            mounts=sorted(mounts, key=lambda item: item.path.count("/")),
            layers=engine.store.layers,
            folder=folder,
            name=f"{engine.store.tmp.name}-{folder.name}",
            stdin=command.stdin.encode("utf-8", "surrogateescape"),
            hostname=hostname,
            network=network,
            masker=engine.masker,
            on_line=on_line,
        )
        try:
            yield launched
        finally:
            await launched.run.end()


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
    layer = Layer(below, launched.upper)
    layer.folder("")
    for name in _KERNEL_FOLDERS:
        if below.find(name) is None:
            layer.folder(name)  # runc mounts on them; they stay in the image, as with a Dagger engine
    launched.bundle = _ca_bundle(below)
    if launched.bundle:
        launched.bundle_path = layer.target(_BUNDLE)
        layer.write(launched.bundle_path, launched.bundle)
    overlay = run.Overlay(layers=ctr.layers, upper=launched.upper, work=store.scratch("work"))
    found: list[run.Mount] = []
    if Path("/etc/resolv.conf").exists():
        found.append(run.Mount(path="/etc/resolv.conf", source=_resolv_conf(), mode=0o644))
    for mount in ctr.mounts:
        match mount.kind:
            case MountKind.TEMP:
                found.append(run.Mount(path=mount.path, source=None, size=mount.size))
            case MountKind.CACHE:
                assert mount.cache is not None
                found.append(run.Mount(path=mount.path, source=_volume(engine, ctr, mount)))
            case MountKind.FILE:
                entry = engine.tree(mount.place.layers).need("/" + mount.place.path)
                copy = store.scratch("file") / "file"
                Layer(Tree([]), copy.parent).copy(entry, "file")
                found.append(run.Mount(path=mount.path, source=copy))
            case MountKind.DIRECTORY:
                entry = engine.tree(mount.place.layers).need("/" + mount.place.path)
                lower = tuple(os.path.relpath(path, store.layers) for path in reversed(entry.real))
                upper = None
                if not mount.read_only:
                    upper = store.scratch("upper")
                    Layer(Tree([]), upper).folder(
                        "", mode=entry.mode, owner=(entry.stat.st_uid, entry.stat.st_gid)
                    )
                    launched.mount_uppers[mount.path] = upper
                source = run.Overlay(layers=lower, upper=upper, work=store.scratch("work"))
                found.append(run.Mount(path=mount.path, source=source, read_only=mount.read_only))
    return launched, overlay, found


def _resolv_conf() -> bytes:
    return Path("/etc/resolv.conf").read_bytes()


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
            for path in [new, *new.rglob("*")]:
                os.lchown(path, *owner)
        try:
            new.rename(folder)
        except OSError:
            shutil.rmtree(new)  # another command made it meanwhile
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

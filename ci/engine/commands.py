"""Answers of Container that run commands. What one changed becomes a layer, kept with what it said."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ci.engine import run
from ci.engine.chain import Call
from ci.engine.containers import absolute, expanded, grown_by
from ci.engine.contents import mount_at, place_of
from ci.engine.engine import Engine, ExecFailed, answer
from ci.engine.launching import FILE, Launched, Mounted, launch
from ci.engine.steps import Command, command_of, masker_of, secret_marks
from ci.engine.store import digest_of, full_disk_is_told
from ci.engine.values import Container, ExecResult, MountKind, MountPoint, Place
from ci.engine.volumes import held
from ci.errors import BadInput, SystemUnavailable
from ci.reporting import Step

__all__: list[str] = []

_WATCH_SECONDS = 0.5


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
    for _, path in redirects:
        _may_be_written(parent, path)
    marks = await secret_marks(engine, parent)
    expect = call.args["expect"]
    key = digest_of(command.key(marks), redirects, expect)

    async def make() -> dict[str, Any]:
        known = await asyncio.to_thread(engine.store.result, key)
        return known or await _execute(engine, command, key, redirects, expect)

    row = await engine.once(key, make)
    mounts = tuple(_changed(mount, row["mounts"].get(mount.path)) for mount in parent.mounts)
    layers = (*parent.layers, row["layer"]) if row["layer"] else parent.layers
    last = ExecResult(code=row["code"], said=next(iter(row["outputs"]), ""))
    grown = grown_by(parent, layers, f"withExec {posixpath.basename(command.args[0])}")
    return replace(grown, mounts=mounts, last=last, ref="")


def _changed(mount: MountPoint, layer: str | None) -> MountPoint:
    """A mount after a command: what that changed is one layer more of a folder, and all of a file."""
    if layer and mount.kind is MountKind.DIRECTORY:
        return replace(mount, place=Place((*mount.place.layers, layer), mount.place.path))
    if layer and mount.kind is MountKind.FILE:
        return replace(mount, place=Place((layer,), FILE))
    return mount


def _may_be_written(parent: Container, path: str) -> None:
    """BadInput where output cannot go to: said before the command runs."""
    if (found := mount_at(parent, path)) is None:
        return
    mount, rest = found
    if mount.read_only or mount.kind is MountKind.SECRET:
        raise BadInput(f"/{path}: {mount.path} is mounted to be read only")
    if bool(rest) is (mount.kind is MountKind.FILE):
        raise BadInput(f"/{path}: {mount.path} is a {'file' if rest else 'folder'}")


def _as_expected(code: int, expect: str) -> bool:
    return expect == "ANY" or (code == 0) == (expect == "SUCCESS")


async def _execute(
    engine: Engine, command: Command, key: str, redirects: Sequence[tuple[str, str]], expect: str
) -> dict[str, Any]:
    """Run a command to its end, and keep what it changed and printed."""
    async with AsyncExitStack() as stack:
        masker = await masker_of(engine, command.container)
        title = masker.mask(command.title)
        await engine.services.bound(command.container)
        volumes = await stack.enter_async_context(held(engine, command.container, title))
        await stack.enter_async_context(engine.seats)
        steps: list[Step] = []

        @asynccontextmanager
        async def turn() -> AsyncIterator[None]:
            async with engine.slots:
                with engine.reporter.step(title) as step:
                    steps.append(step)
                    yield

        def told(lines: str) -> None:
            steps[0].say(lines[lines.rfind("\n") + 1 :].rstrip("\r")[-200:])
            engine.tell(title, lines)

        out = stack.enter_context(engine.store.work("out"))
        sinks = {name: stack.enter_context((out / name).open("wb", buffering=0)) for name, _ in redirects}
        launched = await stack.enter_async_context(
            launch(engine, command, masker, on_lines=told, redirects=sinks, volumes=volumes, turn=turn())
        )
        watch = asyncio.ensure_future(_watch(engine, launched, title))
        try:
            with full_disk_is_told(engine.store.root):
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
                masker.mask(f'process "{" ".join(command.args)}" {verb} {outcome.code}{reached}'),
                cmd=[masker.mask(arg) for arg in command.args],
                code=outcome.code,
                stdout=outcome.stdout,
                stderr=outcome.stderr,
            )
        await launched.turn.aclose()  # what follows keeps no other from running
        moved = [(path, out / name) for name, path in redirects]
        return await asyncio.to_thread(_finish, engine, command, key, moved, launched, outcome)


async def _watch(engine: Engine, launched: Launched, title: str) -> None:
    """End a step that leaves the machine no room on its disk, and tell of one that reaches another bound."""
    told = ""
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        if engine.store.is_full():
            launched.ended = True
            launched.run.kill()
            return
        if (reached := launched.run.reached()) and reached != told:
            told = reached
            engine.reporter.note(f"{title}: reached {reached}")


def _complain_of_full_disk(engine: Engine, title: str, ended: bool) -> None:
    """A command that failed on a full disk did not fail by its own fault, and must not be remembered."""
    if ended or engine.store.is_full():
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
        for path, file in redirects:
            _put(launched, ctr, path, file)
        made = engine.store.add_layer(launched.upper) if any(launched.upper.iterdir()) else None
        changed = {
            path: engine.store.add_layer(launched.layer_of(mounted))
            for path, mounted in launched.mounted.items()
            if mounted.is_changed()
        }
        needs = [*ctr.layers, *([made] if made else []), *changed.values()]
        said = {"stdout": outcome.stdout.text, "stderr": outcome.stderr.text}
        return engine.store.keep(
            key,
            {
                "layer": made,
                "mounts": changed,
                "code": outcome.code,
                "outputs": [engine.store.add_output(said)] if any(said.values()) else [],
                "layers": needs,
            },
        )


def _put(launched: Launched, ctr: Container, path: str, file: Path) -> None:
    """Put what a command printed where it was to go: into the image, or into what is mounted there."""
    layer = Mounted(layers=launched.layers, upper=launched.upper).written()
    if mount_at(ctr, path) is None:
        path = layer.target(path)  # a link may lead into a mount
    if (found := mount_at(ctr, path)) is None:
        layer.adopt(path, file, owner=launched.owner)
        return
    _may_be_written(ctr, path)
    mount, rest = found
    if place := launched.mounted.get(mount.path) or launched.volumes.get(mount.path):
        layer = place.written()
        layer.adopt(layer.target(rest or FILE), file, owner=launched.owner)
    # Else it is in a tmpfs, and gone with what the command wrote there.


def _last(parent: Container) -> ExecResult:
    if parent.last is None:
        raise BadInput("no command has been executed")
    return parent.last


async def _said(engine: Engine, parent: Container, stream: str) -> str:
    last = _last(parent)
    return (await asyncio.to_thread(engine.store.output, last.said))[stream] if last.said else ""


@answer("Container.stdout")
async def stdout(engine: Engine, parent: Container, call: Call) -> str:
    return await _said(engine, parent, "stdout")


@answer("Container.stderr")
async def stderr(engine: Engine, parent: Container, call: Call) -> str:
    return await _said(engine, parent, "stderr")


@answer("Container.combinedOutput")
async def combined_output(engine: Engine, parent: Container, call: Call) -> str:
    return await _said(engine, parent, "stdout") + await _said(engine, parent, "stderr")


@answer("Container.exitCode")
async def exit_code(engine: Engine, parent: Container, call: Call) -> int:
    return _last(parent).code

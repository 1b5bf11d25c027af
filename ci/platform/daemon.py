"""A part that is one long-running process: started when it is not there, restarted when it is not well."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ci.errors import PipelineError, SystemUnavailable
from ci.platform.instance import Instance
from ci.platform.part import Part, PartStatus, Say
from ci.platform.processes import Marked, end, forget, is_ending, lately, marked, port_owner
from ci.reasons import reason_of

__all__ = ["Daemon", "answers", "as_part", "connects", "last_words"]

_CLOSING_SECONDS = 3.0
_PATIENCE_SECONDS = (0.5, 2.0, 0.0)

Check = Callable[[], Awaitable[str]]
"""Asks a running daemon how it is; "" when it is well, else what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """What should run. `argv`[0] is the program's full path.

    `files` are its configuration files and their text; a change of them or of `argv` restarts it. `ports` are
    those of the host that it listens on. `enter` gives the words that go before `argv` to run it in a
    namespace. `up_within` is in seconds. It runs as `user`, one of the host's, who may read its files.
    """

    name: str
    argv: tuple[str, ...]
    check: Check
    files: Mapping[Path, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    enter: Callable[[], tuple[str, ...]] = tuple
    up_within: float = 60.0
    user: str = ""

    @property
    def program(self) -> str:
        """The file name of the executable."""
        return Path(self.argv[0]).resolve().name

    @property
    def fingerprint(self) -> str:
        """Changes when the daemon has to be restarted."""
        parts = [
            self.argv,
            sorted((str(path), text) for path, text in self.files.items()),
            sorted(self.env.items()),
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def as_part(
    place: Instance,
    make: Callable[[], Daemon],
    *,
    name: str,
    needs: tuple[str, ...] = (),
    tools: tuple[str, ...] = (),
    grace: float = 10.0,
) -> Part:
    """The part that keeps a daemon running. `make` is called late: it may need tools and earlier parts.

    `grace` is the time in seconds that the daemon has to end by itself.
    """

    async def up(say: Say) -> bool:
        daemon = make()
        running = _process(place, daemon)
        if running and running.fingerprint == daemon.fingerprint and await _settled(daemon) == "":
            return False
        if running:
            say("restarting")
            await _stop(place, name, daemon.program, grace)
        await _start(place, daemon, say)
        return True

    async def status() -> PartStatus:
        found = [process for process in lately(place.folder) if process.part == name]
        if not found:
            return PartStatus(name=name, problem="not running")
        try:
            daemon = make()
            running = _process(place, daemon)
            problem = "not running" if running is None else await daemon.check()
        except PipelineError as error:
            return PartStatus(name=name, problem=str(error), pid=found[0].pid)
        return PartStatus(name=name, problem=problem, pid=running.pid if running else None)

    async def down() -> None:
        await _stop(place, name, "", grace)

    return Part(name=name, up=up, status=status, down=down, needs=needs, tools=tools)


def _process(place: Instance, daemon: Daemon) -> Marked | None:
    # What a daemon leaves behind on purpose (containerd's shims) has its mark but another program.
    for process in lately(place.folder):
        if process.part == daemon.name and process.program == daemon.program:
            return process
    return None


async def _stop(place: Instance, name: str, program: str, grace: float) -> None:
    await end(
        lambda: [
            process.pid
            for process in marked(place.folder)
            if process.part == name and (not program or process.program == program)
        ],
        grace=grace,
    )
    forget()


async def _start(place: Instance, daemon: Daemon, say: Say) -> None:
    for port in daemon.ports:
        if owner := await _owner_that_stays(port):
            pid, command = owner
            raise SystemUnavailable(
                f"port {port}, which {daemon.name} needs, is taken by process {pid}: {command}",
                hint=f"end it (kill {pid}), or choose other ports with VA_INSTANCE=1, then run va up again",
            )
    for path, text in daemon.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
    whose = _given_to(daemon)
    log = _log(place, daemon.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    mark = {"VA_PLATFORM": str(place.folder), "VA_PART": daemon.name, "VA_FINGERPRINT": daemon.fingerprint}
    with log.open("wb") as output:
        # Not by asyncio, which kills its children when its loop ends: a daemon outlives us.
        process = subprocess.Popen(  # noqa: ASYNC220
            [*daemon.enter(), *daemon.argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **daemon.env, **mark},
            cwd=place.folder,
            start_new_session=True,
            **whose,
        )
    forget()
    say("starting")
    deadline = time.monotonic() + daemon.up_within
    problem = "starting"
    while problem:
        if (code := process.poll()) is not None:
            raise _failed(daemon, f"ended with exit code {code}", log)
        if time.monotonic() > deadline:
            raise _failed(daemon, f"is not well after {daemon.up_within:g} s: {problem}", log)
        await asyncio.sleep(0.1)
        problem = await daemon.check()
        say(problem)


def _given_to(daemon: Daemon) -> dict[str, Any]:
    """Let the daemon's user read the folders of its files, and write nothing there; how it is started so."""
    if not daemon.user:
        return {}
    try:
        entry = pwd.getpwnam(daemon.user)
    except KeyError as error:
        raise SystemUnavailable(
            f"{daemon.name} runs as the user {daemon.user}, whom this machine does not have",
            hint=f"Debian's package brings it: useradd --system --no-create-home {daemon.user}",
        ) from error
    for folder in {path.parent for path in daemon.files}:
        # Ours to write: where the user could, a link there would lead our next writing to another file.
        for path in folder.iterdir():
            os.chown(path, 0, entry.pw_gid)
            path.chmod(0o640)
        os.chown(folder, 0, entry.pw_gid)
        folder.chmod(0o750)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


async def _owner_that_stays(port: int) -> tuple[int, str] | None:
    """Who keeps a port. One that is ending gets time: its sockets close some moments after it is gone."""
    deadline = time.monotonic() + _CLOSING_SECONDS
    while True:
        owner = port_owner(port)
        if owner is None or not is_ending(owner[0]) or time.monotonic() > deadline:
            return owner
        await asyncio.sleep(0.05)


async def _settled(daemon: Daemon) -> str:
    """How a running daemon is; one that is busy for a moment gets a second and a third chance."""
    for patience in _PATIENCE_SECONDS:
        if not (problem := await daemon.check()):
            return ""
        await asyncio.sleep(patience)
    return problem


def _failed(daemon: Daemon, what: str, log: Path) -> SystemUnavailable:
    lines = _last_words(log.read_text(errors="replace"))
    return SystemUnavailable("\n".join([f"{daemon.name} {what}", *lines]), hint=f"its log is {log}")


def last_words(place: Instance, name: str) -> str:
    """The last lines that a daemon wrote since it was started last; empty when it never was."""
    log = _log(place, name)
    return "\n".join(_last_words(log.read_text(errors="replace"))) if log.exists() else ""


def _log(place: Instance, name: str) -> Path:
    return place.folder / "logs" / f"{name}.log"


def _last_words(log: str) -> list[str]:
    """The end of a log, without the stack that a Go program prints below its last words."""
    lines = log.splitlines()
    panics = [number for number, line in enumerate(lines) if line.startswith("panic: ")]
    return lines[: panics[0] + 1][-3:] if panics else lines[-8:]


def answers(url: str) -> Check:
    """A check that a plain HTTP `url` answers a GET with a 2xx status."""

    async def check() -> str:
        try:
            # verify: nothing to verify, and loading the authorities takes longer than the request.
            async with httpx.AsyncClient(timeout=3, trust_env=False, verify=False) as client:  # noqa: S501  # nosec B501  # plain HTTP to this machine
                response = await client.get(url)
        except httpx.HTTPError as error:
            return f"{url}: {reason_of(error)}"
        return "" if response.is_success else f"{url}: status {response.status_code}"

    return check


def connects(host: str, port: int) -> Check:
    """A check that a TCP port accepts connections."""

    async def check() -> str:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 3)
        except (OSError, TimeoutError) as error:
            return f"{host}:{port}: {str(error) or 'no answer'}"
        writer.close()
        return ""

    return check

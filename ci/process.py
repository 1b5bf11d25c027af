"""Other programs, run as child processes: the one place that starts them and waits for them."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ci.concurrency import within
from ci.errors import PipelineError, StepFailed, ToolMissing

__all__ = ["Completed", "mask", "run"]

_GRACE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Completed:
    """How a child process ended. `stdout` and `stderr` are text, masked already."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


def mask(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret replaced by `***`; the longest first, so that no tail of one survives."""
    for secret in sorted({s for s in secrets if s}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


async def run(
    *argv: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    stdin: str | bytes | None = None,
    timeout: float | None = None,
    on_start: Callable[[int], None] | None = None,
    on_line: Callable[[str], None] | None = None,
    secrets: Iterable[str] = (),
    errors: str = "replace",
    check: bool = True,
    failure: type[PipelineError] = StepFailed,
) -> Completed:
    """Run a program to its end and return what it printed.

    `env` is added to this process's environment, and what is None there is taken from it. Output is UTF-8;
    `errors` says what becomes of what is not, as in `bytes.decode`. `on_start` is told the process id;
    `on_line` sees each masked line of stdout and stderr as it comes. With `check`, a non-zero exit raises
    `failure` with the last lines of stderr. A missing program raises ToolMissing; a timeout (in seconds)
    raises `failure`. When cancelled, the child's whole process group gets SIGTERM, then SIGKILL, before the
    cancellation goes on: nothing is left running.
    """
    words = tuple(str(word) for word in argv)
    hidden = tuple(secrets)
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *words,
            cwd=cwd,
            env={key: value for key, value in {**os.environ, **(env or {})}.items() if value is not None},
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**24,
            start_new_session=True,
        )
    )
    try:
        child = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # It runs already, perhaps: asyncio would end the child alone, and not what that has started.
        await asyncio.wait([starting])
        if not starting.cancelled() and starting.exception() is None:
            await _end(starting.result())
        raise
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise failure(f"cannot run {words[0]}: the folder {cwd} does not exist") from error
        raise ToolMissing(f"{words[0]} is not installed", hint="va doctor says how to get it") from error
    if on_start:
        on_start(child.pid)
    lines: dict[str, list[str]] = {"stdout": [], "stderr": []}

    async def read(name: str, stream: asyncio.StreamReader) -> None:
        async for raw in stream:
            line = mask(raw.decode(errors=errors), hidden)
            lines[name].append(line)
            if on_line:
                on_line(line.rstrip("\n"))

    async def feed() -> None:
        if child.stdin is None or stdin is None:
            return
        try:
            child.stdin.write(stdin.encode() if isinstance(stdin, str) else stdin)
            await child.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the child ended without reading: its exit code tells
        finally:
            child.stdin.close()

    assert child.stdout is not None and child.stderr is not None
    try:
        async with within(timeout):
            await asyncio.gather(read("stdout", child.stdout), read("stderr", child.stderr), feed())
            code = await child.wait()
    except TimeoutError as error:
        await _end(child)
        shown = mask(shlex.join(words), hidden)
        raise failure(f"{shown} did not finish within {timeout:g} s") from error
    except BaseException:
        await _end(child)
        raise
    done = Completed(argv=words, code=code, stdout="".join(lines["stdout"]), stderr="".join(lines["stderr"]))
    if check and code != 0:
        tail = "\n".join((done.stderr or done.stdout).rstrip().splitlines()[-12:])
        raise failure(f"{mask(shlex.join(words), hidden)} ended with exit code {code}\n{tail}".rstrip())
    return done


async def _end(child: asyncio.subprocess.Process) -> None:
    """End the child's process group, which may have outlived it: SIGTERM, later SIGKILL for what is left."""
    _signal(child.pid, signal.SIGTERM)
    try:
        async with within(_GRACE_SECONDS):
            await child.wait()
            while _lives(child.pid):  # noqa: ASYNC110  the kernel has no event for it
                await asyncio.sleep(0.02)
    except TimeoutError:
        _signal(child.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), _GRACE_SECONDS)
    finally:
        child._transport.close()  # type: ignore[attr-defined]  # its pipes; there is no public way


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _lives(group: int) -> bool:
    """Whether a process of the group does; one that ended and that its parent has not asked for does not."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False

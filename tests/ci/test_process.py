from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ci import process
from ci.errors import StepFailed, SystemUnavailable, ToolMissing
from ci.process import mask, run


def test_returns_what_the_program_printed() -> None:
    done = asyncio.run(run(sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"))

    assert (done.code, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_a_failure_shows_the_command_its_code_and_the_last_lines() -> None:
    with pytest.raises(SystemUnavailable, match=r"exit code 3\nno such host"):
        asyncio.run(run("sh", "-c", "echo no such host >&2; exit 3", failure=SystemUnavailable))


def test_a_missing_program_is_named() -> None:
    with pytest.raises(ToolMissing, match="no-such-program"):
        asyncio.run(run("no-such-program"))


def test_secrets_are_masked_in_output_lines_and_errors() -> None:
    seen: list[str] = []
    with pytest.raises(StepFailed) as caught:
        asyncio.run(
            run("sh", "-c", "echo token=hunter2; exit 1", "hunter2", on_line=seen.append, secrets=["hunter2"])
        )

    assert seen == ["token=***"]
    assert "hunter2" not in str(caught.value)


def test_the_longest_secret_is_masked_first() -> None:
    assert mask("abcdef abc", ["abc", "abcdef", ""]) == "*** ***"


def test_large_output_on_both_streams_and_stdin_do_not_deadlock() -> None:
    script = "import sys; d = sys.stdin.read(); sys.stderr.write(d); sys.stdout.write(d)"
    text = "x" * 3_000_000

    done = asyncio.run(run(sys.executable, "-c", script, stdin=text, timeout=30))

    assert len(done.stdout) == len(done.stderr) == len(text)


def test_a_child_that_does_not_read_its_input_is_no_error() -> None:
    assert asyncio.run(run("true", stdin=b"x" * 1_000_000)).code == 0


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


_CHILDREN = {
    "waits for its child": "sleep 60 & echo $$ $! > {file}; wait",
    "is outlived by its child": "sleep 60 & echo $$ $! > {file}",
    "has a child that ignores SIGTERM": "(trap '' TERM; exec sleep 60) & echo $$ $! > {file}; wait",
}


def _written(pids: Path) -> bool:
    return pids.exists() and pids.read_text().endswith("\n")


def _all_end(pids: Path) -> bool:
    """Whether those processes do, of which this one is none."""
    children = [int(pid) for pid in pids.read_text().split()]
    assert len(children) == 2 and os.getpid() not in children
    deadline = time.monotonic() + 30
    while any(_alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(_alive(pid) for pid in children)


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(process, "_GRACE_SECONDS", 0.2)
    return tmp_path / "pids"


@pytest.mark.parametrize("script", _CHILDREN.values(), ids=_CHILDREN)
def test_a_timeout_leaves_no_process_behind(pids: Path, script: str) -> None:
    for seconds in (0.2, 2, 20):  # a machine too slow to start it in time gets more
        with pytest.raises(StepFailed, match="did not finish"):
            asyncio.run(run("sh", "-c", script.format(file=pids), timeout=seconds))
        if _written(pids):
            break
    assert _all_end(pids)


@pytest.mark.parametrize("script", _CHILDREN.values(), ids=_CHILDREN)
def test_a_cancellation_leaves_no_process_behind(pids: Path, script: str) -> None:
    async def go() -> None:
        task = asyncio.create_task(run("sh", "-c", script.format(file=pids)))
        while not _written(pids):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(go())
    assert _all_end(pids)


def test_a_cancellation_while_it_starts_leaves_no_process_behind(
    pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, running = asyncio.create_subprocess_exec, asyncio.Event()

    async def slowly(*words: Any, **how: Any) -> asyncio.subprocess.Process:
        child = await start(*words, **how)
        while not _written(pids):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        running.set()
        await asyncio.sleep(0.05)  # asyncio connects the pipes of a program that runs already
        return child

    async def go() -> None:
        task = asyncio.create_task(run("sh", "-c", _CHILDREN["waits for its child"].format(file=pids)))
        await running.wait()
        task.cancel()
        await task

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slowly)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(go())
    assert _all_end(pids)

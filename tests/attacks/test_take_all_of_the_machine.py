"""A step takes processes, memory, the disk or the log, or does not end."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dagger
import pytest

from ci.engine import LogLine, session
from ci.errors import BadInput, StepFailed
from ci.reporting import SilentReporter

if TYPE_CHECKING:
    from conftest import Machine


def _fails(machine: Machine, script: str) -> str:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> None:
        await base.with_exec(["sh", "-c", script]).sync()

    with pytest.raises(StepFailed) as caught:
        machine.run(pipeline)
    return str(caught.value)


def _processes(mark: str) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mark in text and "pytest" not in text:
            found.append(text)
    return found


def test_processes_without_end(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STEP_PROCESSES", "40")

    said = _fails(machine, "i=0; while [ $i -lt 200 ]; do sleep 5.5 & i=$((i+1)); done; sleep 2; exit 1")

    assert "its limit of 40 processes (VA_STEP_PROCESSES)" in said
    assert _processes("sleep 5.5") == []


def test_memory_without_end(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STEP_MEMORY", str(64 * 2**20))

    said = _fails(
        machine, "head -c 300000000 /dev/zero | tail -c 300000000 | wc -c; test ! 1; exec tail /dev/zero"
    )

    assert "its limit of 64 MiB of memory (VA_STEP_MEMORY)" in said


@pytest.mark.parametrize("name", ["VA_STEP_PROCESSES", "VA_STEP_MEMORY"])
@pytest.mark.parametrize("value", ["many", "-1", "0", "1.5"])
def test_a_bound_that_is_no_number(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(BadInput, match=f"{name}={value}: a whole number above 0"):
        machine.step("true")


@pytest.mark.parametrize(
    ("bound", "takes"),
    [
        ("size=80m", "cat /bin/busybox >> /big; sleep 0.02"),
        ("size=80m,nr_inodes=9000", "i=$((i+1)); mkdir /$i; test $((i % 50)) = 0 && sleep 0.05"),
    ],
)
def test_the_disk(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, takes: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", bound, "va-test", disk], check=True)
    try:
        monkeypatch.setenv("VA_CACHE", str(disk))

        async def pipeline(_: dagger.Client, base: dagger.Container) -> str:
            fill = base.with_exec(["sh", "-c", f"while true; do {takes}; done 2> /dev/null"])
            with pytest.raises(
                dagger.QueryError, match=r"is full: sh -c .* was ended, what it wrote is removed"
            ):
                await fill.sync()
            # The session goes on.
            return await base.with_exec(["echo", "still here"]).stdout()

        assert machine.run(pipeline) == "still here\n"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_output_without_end(machine: Machine) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> tuple[str, str]:
        noisy = "echo first; yes 0123456789 | head -c 50000000; echo last"
        good = await base.with_exec(["sh", "-c", noisy]).stdout()
        with pytest.raises(dagger.ExecError) as caught:
            await base.with_exec(["sh", "-c", f"{noisy}; exit 3"]).sync()
        return good, caught.value.stdout

    good, failed = machine.run(pipeline)

    assert good.startswith("first\n") and good.endswith("last\n")
    assert "bytes are left out here" in good and len(good) < 9_000_000
    assert failed.startswith("[omitting ") and failed.endswith("last") and len(failed) <= 100 * 1024


def test_a_step_that_will_not_end(machine: Machine) -> None:
    lines: list[LogLine] = []

    async def main() -> None:
        async with session(SilentReporter(), lines.append, workdir=machine.work) as (client, _):
            base = client.container().import_(client.host().file("tiny.tar"))
            script = "trap '' TERM INT HUP; setsid sleep 333.25 & echo on; while true; do sleep 333.25; done"
            step = asyncio.ensure_future(base.with_exec(["sh", "-c", script]).sync())
            while not lines:  # noqa: ASYNC110  # a line is told by a callback
                await asyncio.sleep(0.05)
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)

    asyncio.run(main())

    assert _processes("sleep 333.25") == []


def test_what_a_step_leaves_behind_ends_with_it(machine: Machine) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> list[str]:
        script = "(trap '' TERM HUP; setsid sleep 444.25 >/dev/null 2>&1) & httpd -p 9999; echo done"
        await base.with_exec(["sh", "-c", script]).sync()
        for _ in range(50):
            if not _processes("sleep 444.25"):
                break
            await asyncio.sleep(0.1)
        return _processes("sleep 444.25")

    assert machine.run(pipeline) == []


def test_folders_without_end(machine: Machine) -> None:
    """The session that made them goes on, and the next one begins."""

    async def pipeline(_: dagger.Client, base: dagger.Container) -> None:
        script = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done; exit 1"
        with pytest.raises(dagger.ExecError):
            await base.with_exec(["sh", "-c", script]).sync()

    machine.run(pipeline)
    started = time.monotonic()
    assert machine.step("echo fine") == "fine\n"
    assert time.monotonic() - started < 60

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ci import locks
from ci.locks import locked


def _ignore() -> None:
    pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_AGAIN_SECONDS", 0.01)


def test_one_at_a_time_and_the_other_is_told_once(tmp_path: Path) -> None:
    story: list[str] = []
    told = asyncio.Event()

    def waits(name: str) -> None:
        story.append(f"{name} waits")
        told.set()

    async def work(name: str) -> None:
        async with locked(tmp_path / "folder" / "lock", lambda: waits(name)):
            story.append(f"{name} in")
            await told.wait()
            await asyncio.sleep(0.05)  # some more tries
            story.append(f"{name} out")

    async def both() -> None:
        await asyncio.gather(work("a"), work("b"))

    asyncio.run(both())

    assert story == ["a in", "b waits", "a out", "b in", "b out"]


def test_a_holder_that_is_killed_does_not_keep_it(tmp_path: Path) -> None:
    script = (
        "import asyncio, pathlib, sys\n"
        "from ci.locks import locked\n"
        "async def main():\n"
        "    async with locked(pathlib.Path(sys.argv[1]), print):\n"
        "        print('held', flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGKILL)

    async def take() -> None:
        async with asyncio.timeout(30), locked(path, _ignore):
            pass

    asyncio.run(take())


def test_a_lock_whose_file_its_holder_removed_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    async def second(held: list[str], waits: asyncio.Event) -> None:
        async with locked(path, waits.set):
            held.append("second")
            # Held by its name, not by the file that is gone: a third one has to wait.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), locked(path, _ignore):
                    held.append("third")

    async def story() -> list[str]:
        held: list[str] = []
        async with locked(path, _ignore):
            waits = asyncio.Event()
            waiting = asyncio.create_task(second(held, waits))
            await waits.wait()  # it has opened the file
            path.unlink()
        await waiting
        return held

    assert asyncio.run(story()) == ["second"]

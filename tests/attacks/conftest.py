"""Attacks: what a step, an image or a Dockerfile would do to this machine, each a test that sees it fail.

Those that run steps need root and runc, not the embedded platform.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tarfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagger
import pytest
from tiny_image import can_run_containers, write_tiny_image

from ci.engine import session
from ci.reporting import SilentReporter

_HERE = Path(__file__).parent
_LEFT_OUT = {"test", "idlelib", "lib2to3", "tkinter", "ensurepip", "distutils", "pydoc_data", "__pycache__"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those with a session take containers, as the end-to-end tests do."""
    missing = can_run_containers()
    for item in items:
        if item.path.is_relative_to(_HERE) and "machine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(180))
            item.add_marker(pytest.mark.skipif(bool(missing), reason=missing))


@dataclass(frozen=True)
class Machine:
    """This machine, and a session on it whose working folder is `work`."""

    work: Path

    def run(self, pipeline: Callable[[dagger.Client, dagger.Container], Awaitable[Any]]) -> Any:
        """Run a piece of pipeline; it gets a client and the container of a tiny image."""

        async def main() -> Any:
            async with session(SilentReporter(), workdir=self.work) as (client, _):
                base = client.container().import_(client.host().file("tiny.tar"))
                return await pipeline(client, base)

        return asyncio.run(main())

    def step(self, script: str) -> str:
        """Run a shell script as root in a step; returns what it printed, errors too."""

        async def pipeline(_: dagger.Client, base: dagger.Container) -> str:
            done = base.with_exec(["sh", "-c", f"exec 2>&1\n{script}"], expect=dagger.ReturnType.ANY)
            return await done.stdout()

        return str(self.run(pipeline))

    def python(self, script: str, archive: Path) -> str:
        """Run a Python script as root in a step; returns what it printed, a traceback too."""

        async def pipeline(client: dagger.Client, base: dagger.Container) -> str:
            done = (
                base.with_directory("/", client.host().directory(str(archive)))
                .with_new_file("/attack.py", script)
                .with_exec(
                    ["sh", "-c", "exec /usr/bin/python3 -S -E /attack.py 2>&1"], expect=dagger.ReturnType.ANY
                )
            )
            return await done.stdout()

        return str(self.run(pipeline))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A session with an empty cache of its own."""
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VA_ENGINE", "embedded")
    monkeypatch.delenv("DAGGER_SESSION_PORT", raising=False)
    monkeypatch.delenv("VA_ALLOW_INSECURE", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    write_tiny_image(work / "tiny.tar")
    return Machine(work)


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This machine's Python as a folder that can be laid over an image."""
    folder = tmp_path_factory.mktemp("python")
    library = Path(sys.base_prefix) / "lib" / f"python3.{sys.version_info.minor}"
    program = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    modules = [*library.glob("lib-dynload/*.so")]
    needed = {
        Path(word)
        for each in (program, *(one for one in modules if one.name.startswith(("_ctypes.", "_struct."))))
        for line in subprocess.run(
            ["ldd", each], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for word in line.split()
        if word.startswith("/")
    }
    (folder / "usr" / "bin").mkdir(parents=True)
    (folder / "usr" / "bin" / "python3").write_bytes(program.read_bytes())
    (folder / "usr" / "bin" / "python3").chmod(0o755)
    for path in needed:
        target = folder / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        target.chmod(0o755)

    def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if _LEFT_OUT & set(Path(info.name).parts) else info

    archive = folder / "library.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(library, f"usr/lib/{library.name}", filter=kept)
    with tarfile.open(archive) as tar:
        tar.extractall(folder)
    archive.unlink()
    return folder


@pytest.fixture
def secret_file(tmp_path: Path) -> Iterator[Path]:
    """A file of this machine that no step may read or write: stands for /etc/shadow."""
    file = tmp_path / "shadow"
    file.write_text("root:of-this-machine")
    file.chmod(0o600)
    yield file
    assert file.read_text() == "root:of-this-machine"

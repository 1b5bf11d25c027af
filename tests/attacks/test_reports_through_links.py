"""Tests leave links, pipes, devices or gigabytes where their reports should be."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import dagger
import pytest

from ci.build.testreports import copy_reports, read_test_report
from ci.engine import session
from ci.errors import StepFailed
from ci.reporting import Reporter, SilentReporter
from pipelines.images import ImageSpec
from pipelines.test import test_image as run_tests_of

if TYPE_CHECKING:
    from conftest import Machine

_GOOD = '<testsuite><testcase classname="a" name="b"/></testsuite>'


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


_ODD: dict[str, Callable[[Path], None]] = {
    "link": lambda path: path.symlink_to("/etc/shadow"),
    "link to the other": lambda path: path.symlink_to("junit.xml"),
    "environment": lambda path: path.symlink_to("/proc/self/environ"),
    "pipe": os.mkfifo,
    "socket": _socket,
    "folder": Path.mkdir,
    "large": lambda path: (path.touch(), os.truncate(path, 200 * 2**20))[1],
    "endless": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", ["junit.xml", "coverage.xml"])
@pytest.mark.parametrize("kind", _ODD)
def test_only_a_plain_file_of_some_size_is_read(tmp_path: Path, name: str, kind: str) -> None:
    source, kept = tmp_path / "source", tmp_path / "kept"
    source.mkdir()
    if name != "junit.xml":
        (source / "junit.xml").write_text(_GOOD)
    _ODD[kind](source / name)

    with pytest.raises(StepFailed, match=f"the report {name}"):
        read_test_report(source / "junit.xml", source / "coverage.xml")
    with pytest.raises(StepFailed, match=f"the report {name}"):
        copy_reports(source, kept)
    assert not (kept / name).exists()


class _Image(ImageSpec):
    """An image whose tests leave in /reports what a script makes there."""

    entrypoint = ()
    inputs = ()

    async def runtime(self, client: dagger.Client, reporter: Reporter) -> dagger.Container:
        """Nobody asks for it."""
        raise NotImplementedError

    async def test(self, client: dagger.Client, *, reporter: Reporter | None = None) -> dagger.Container:
        """Run the script, which is its folder's name here."""
        base = client.container().import_(client.host().file("tiny.tar"))
        return base.with_exec(["sh", "-c", f"mkdir /reports; cd /reports; {self.folder}"])


@pytest.mark.parametrize(
    ("script", "kept"),
    [
        ("ln -s SECRET junit.xml", None),
        ("echo GOOD > junit.xml; ln -s SECRET coverage.xml", None),
        ("echo GOOD > junit.xml; ln -s SECRET more.txt; ln -s / root; echo 1 > large", ["junit.xml"]),
    ],
)
def test_a_run_s_reports_hold_nothing_of_the_machine(
    machine: Machine, secret_file: Path, tmp_path: Path, script: str, kept: list[str] | None
) -> None:
    script = script.replace("SECRET", str(secret_file)).replace("GOOD", f"'{_GOOD}'")
    reports = tmp_path / "reports"

    async def tested() -> None:
        async with session(SilentReporter(), workdir=machine.work) as (client, _):
            image = _Image(name="odd", folder=script, ports=())
            await run_tests_of(client, image, reporter=SilentReporter(), reports=reports)

    if kept is None:
        with pytest.raises(StepFailed, match="is a link: where it leads is not read"):
            asyncio.run(tested())
    else:
        asyncio.run(tested())
    found = [path for path in reports.rglob("*") if path.is_file()]
    assert not [path for path in found if "of-this-machine" in path.read_text()]
    assert kept is None or sorted(path.name for path in found) == kept

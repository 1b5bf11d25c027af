"""What costs a step nothing, and this machine much: files of holes, folders without end in what stays."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import dagger

from ci.engine.cache import usage

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Machine


def test_an_export_of_a_hole_takes_no_room(machine: Machine) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> None:
        script = "mkdir /o; printf a > /o/f; truncate -s 500M /o/f; printf b >> /o/f; truncate -s 700M /o/f"
        await base.with_exec(["sh", "-c", script]).directory("/o").export("out")

    machine.run(pipeline)

    status = (machine.work / "out" / "f").stat()
    assert status.st_size == 700 * 2**20 and status.st_blocks * 512 < 2**20
    with (machine.work / "out" / "f").open("rb") as file:
        assert file.read(1) == b"a"
        file.seek(500 * 2**20)
        assert file.read(2) == b"b\0"


def test_a_volume_of_folders_without_end(machine: Machine, tmp_path: Path) -> None:
    """It outlives the session, and ends neither this one nor a later one, nor what tidies up."""

    async def pipeline(client: dagger.Client, base: dagger.Container) -> str:
        script = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done; echo made"
        mounted = base.with_mounted_cache("/v", client.cache_volume("deep")).with_workdir("/v")
        return await mounted.with_exec(["sh", "-c", script]).stdout()

    assert machine.run(pipeline) == "made\n"
    assert machine.step("echo fine") == "fine\n"
    assert usage(tmp_path / "cache" / "engine").volumes == 0
    subprocess.run(["rm", "-rf", tmp_path / "cache"], check=True)  # pytest could not

"""A step or an image leaves links, and what this machine does after it writes or reads through them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagger
import pytest

from ci.errors import PipelineError

if TYPE_CHECKING:
    from conftest import Machine


def test_output_goes_into_no_file_of_the_machine(machine: Machine, secret_file: Path) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> list[str]:
        said = []
        for script, target in (
            (f"ln -s {secret_file} /out", "/out"),
            (f"ln -s {secret_file.parent} /dir", f"/dir/{secret_file.name}"),
            (f"rm -rf /home; ln -s {secret_file.parent} /home", f"/home/{secret_file.name}"),
            (
                f"mkdir -p /a; rmdir /a; ln -s ../../../../../../../../..{secret_file.parent} /a",
                f"/a/{secret_file.name}",
            ),
        ):
            done = base.with_exec(["sh", "-c", f"{script}; echo written"], redirect_stdout=target)
            said.append(await done.file(target).contents())
        return said

    assert machine.run(pipeline) == ["written\n"] * 4


def test_output_is_written_as_it_is(machine: Machine) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> str:
        done = base.with_exec(["printf", "\\377\\376\\0"], redirect_stdout="/deep/out")
        return await done.with_exec(["od", "-An", "-tx1", "/deep/out"]).stdout()

    assert machine.run(pipeline).split() == ["ff", "fe", "00"]


def test_tidying_up_deletes_no_file_of_the_machine(machine: Machine, tmp_path: Path) -> None:
    """Mount points that a run needed are taken away after it: empty files and folders, by their paths."""
    folder = tmp_path / "of-the-machine"
    (folder / "empty").mkdir(parents=True)
    for name in ("hosts", "resolv.conf", "point"):
        (folder / name).touch()

    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        mounted = base.with_mounted_file("/d/point", client.directory().with_new_file("x", "1").file("x"))
        mounted = mounted.with_mounted_directory("/d/empty", client.directory().with_new_file("x", "1"))
        await mounted.with_exec(["sh", "-c", f"umount /d/point; mv /d /e; ln -s {folder} /d; true"]).sync()
        for swapped in ("etc", "d"):
            await (
                base.with_new_file("/d/y", "1")
                .with_exec(["sh", "-c", f"mv /{swapped} /other; ln -s {folder} /{swapped}; true"])
                .sync()
            )

    machine.run(pipeline)

    assert sorted(path.name for path in folder.iterdir()) == ["empty", "hosts", "point", "resolv.conf"]


def test_an_export_over_an_earlier_one_writes_inside_alone(machine: Machine, secret_file: Path) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> None:
        folder = secret_file.parent
        links = f"mkdir /o; ln -s {folder} /o/a; ln -s {secret_file} /o/b; ln -s {folder} /o/c"
        await base.with_exec(["sh", "-c", links]).directory("/o").export("out")
        named = f"a/{secret_file.name} b c/d/e"
        files = f"mkdir -p /o/a /o/c/d; cd /o; for each in {named}; do echo mine > $each; done"
        await base.with_exec(["sh", "-c", files]).directory("/o").export("out")

    machine.run(pipeline)

    out = machine.work / "out"
    assert [(out / name).read_text() for name in (f"a/{secret_file.name}", "b", "c/d/e")] == ["mine\n"] * 3
    assert not (out / "a").is_symlink() and not (secret_file.parent / "d").exists()


def test_an_export_that_wipes_empties_no_other_folder(machine: Machine, secret_file: Path) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        await (
            base.with_exec(["sh", "-c", f"mkdir /o; ln -s {secret_file.parent} /o/a"])
            .directory("/o")
            .export("out")
        )
        await client.directory().with_new_file("b", "1").export("out", wipe=True)

    machine.run(pipeline)

    assert [path.name for path in (machine.work / "out").iterdir()] == ["b"]


@pytest.mark.parametrize("name", [".result.partial", "result"])
def test_a_file_is_exported_over_no_link(machine: Machine, secret_file: Path, name: str) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> None:
        (machine.work / name).symlink_to(secret_file)
        await base.with_exec(["sh", "-c", "echo mine > /result"]).file("/result").export("result")

    machine.run(pipeline)

    assert (machine.work / "result").read_text() == "mine\n" and not (machine.work / "result").is_symlink()


@pytest.mark.parametrize(
    "link", ["{secret}", "../../../../../../../../../../..{secret}", "/proc/self/root{secret}"]
)
def test_a_link_is_read_inside_of_the_image(machine: Machine, secret_file: Path, link: str) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> list[str]:
        made = base.with_exec(["sh", "-c", f"ln -s {link.format(secret=secret_file)} /link; mkfifo /pipe"])
        said = []
        for name in ("link", "pipe"):
            try:
                said.append(await made.file(f"/{name}").contents())
            except (dagger.DaggerError, PipelineError) as error:
                said.append(str(error))
        return said

    said = machine.run(pipeline)

    assert "of-this-machine" not in "".join(said) and "no such file" in said[0] and "not a file" in said[1]

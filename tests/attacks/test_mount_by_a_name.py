"""A name in an image becomes part of a command, or of the options of a mount, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagger
import pytest

if TYPE_CHECKING:
    from conftest import Machine


@pytest.mark.parametrize("by_a_link", [False, True])
def test_no_name_is_a_command(machine: Machine, tmp_path: Path, by_a_link: bool) -> None:
    mark = tmp_path / "done-by-a-name"
    name = "$(touch " + str(mark).replace("/", "${PWD%%[!/]*}") + ")"
    plain = "`touch done-by-a-name`"

    async def pipeline(_: dagger.Client, base: dagger.Container) -> list[str]:
        made = base.with_exec(
            [
                "sh",
                "-c",
                'for each; do mkdir -p "/d/$each"; echo in > "/d/$each/file"; done',
                "-",
                name,
                plain,
            ]
        )
        if by_a_link:
            made = made.with_exec(["sh", "-c", 'ln -s "$0" /d/one; ln -s "$1" /d/two', name, plain])
        said = []
        for each in ("one", "two") if by_a_link else (name, plain):
            mounted = base.with_mounted_directory("/mnt", made.directory(f"/d/{each}"))
            said.append(await mounted.with_exec(["cat", "/mnt/file"]).stdout())
        return said

    assert machine.run(pipeline) == ["in\n", "in\n"]
    assert not mark.exists() and not [*tmp_path.rglob("done-by-a-name")]


@pytest.mark.parametrize(
    "name",
    ["a b", "a,b", "a:b", "a;b", "a'b", 'a"b', "a\\b", "a\nb", "a=b,ro", "-o", "é", "a$b", "a\\:b", "#"],
)
def test_honest_names_are_mounted(machine: Machine, name: str) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> tuple[str, str, str]:
        folder = client.directory().with_new_file(f"{name}/{name}", "in")
        there = base.with_mounted_directory("/mnt", folder.directory(name))
        changed = there.with_exec(["sh", "-c", 'cp "/mnt/$0" /mnt/new && cat "/mnt/$0"', name])
        one = base.with_mounted_directory(f"/at/{name}", folder, read_only=True).with_exec(
            ["cat", f"/at/{name}/{name}/{name}"]
        )
        file = base.with_mounted_file(f"/f{name}", folder.file(f"{name}/{name}")).with_exec(
            ["cat", f"/f{name}"]
        )
        return await changed.stdout(), await one.stdout(), await file.stdout()

    assert machine.run(pipeline) == ("in", "in", "in")

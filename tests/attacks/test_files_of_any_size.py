"""A file's size costs a step nothing: what this machine reads of it into its memory has bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagger
import pytest

from ci.engine.tree import Tree
from ci.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Machine


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/group", "/etc/ssl/certs/ca-certificates.crt"])
def test_a_file_that_every_command_needs(machine: Machine, path: str) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> None:
        grown = base.with_exec(
            ["sh", "-c", f"mkdir -p ${{0%/*}}; truncate -s 64G {path}; chmod 644 {path}", path]
        )
        await grown.with_exec(["true"]).sync()

    with pytest.raises(BadInput, match=f"{path} has more than [0-9]+ MiB"):
        machine.run(pipeline)


def test_a_file_that_a_pipeline_reads(machine: Machine) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> list[str]:
        grown = base.with_exec(
            ["sh", "-c", "mkdir /a /b; truncate -s 64G /in; truncate -s 9M /a/Dockerfile /b/.dockerignore"]
        )
        ignored = grown.directory("/b").with_new_file("Dockerfile", "FROM scratch\n")
        said = []
        for work in (
            grown.with_exec(["wc", "-c"], redirect_stdin="/in").sync(),
            grown.file("/in").contents(),
            grown.file("/in").with_replaced("a", "b").sync(),
            grown.directory("/a").docker_build().sync(),
            ignored.docker_build().sync(),
        ):
            with pytest.raises(dagger.QueryError) as caught:
                await work
            said.append(str(caught.value))
        return said

    said = machine.run(pipeline)

    assert ["has more than" in each for each in said] == [True] * 5


@pytest.mark.parametrize(
    ("passwd", "group"),
    [
        ("app:x:many:1::/:/bin/sh", ""),
        ("app:x:\u00b2:1::/:/bin/sh", ""),
        ("app:x:1:-1::/:/bin/sh", ""),
        ("app:x:4294967295:1::/:/bin/sh", ""),
        (f"app:x:{'9' * 5000}:1::/:/bin/sh", ""),
        ("app:x:1:1::/:/bin/sh", "more:x:\u0663x:app"),
    ],
)
def test_an_id_that_is_none(machine: Machine, passwd: str, group: str) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> None:
        spoilt = base.with_new_file("/etc/passwd", f"{passwd}\n").with_new_file("/etc/group", f"{group}\n")
        await spoilt.with_user("app").with_exec(["id"]).sync()

    with pytest.raises(BadInput, match="is no id of a user or group"):
        machine.run(pipeline)


def test_a_read_stops_where_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")

    assert Tree([tmp_path]).read("a", 5) == b"12345"
    with pytest.raises(BadInput, match="/a has more than"):
        Tree([tmp_path]).read("a", 4)

"""A layer's marks of deleted files have names that lead elsewhere, or are no files."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import dagger
import pytest
from tiny_image import write_image

from ci.errors import BadInput

if TYPE_CHECKING:
    from conftest import Machine


def _tar(*names: str) -> bytes:
    """A layer with those names; one that ends with a slash is a folder, `a -> b` a symlink."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            path, _, target = name.partition(" -> ")
            info = tarfile.TarInfo(path.rstrip("/"))
            if target:
                info.type, info.linkname = tarfile.SYMTYPE, target
            elif path.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
    return buffer.getvalue()


def _shown(machine: Machine, *layers: bytes) -> list[str]:
    write_image(machine.work / "odd.tar", list(layers), config={})

    async def pipeline(client: dagger.Client, _: dagger.Container) -> list[str]:
        image = client.container().import_(client.host().file("odd.tar"))
        return await image.directory("/").glob("**")

    found: list[str] = machine.run(pipeline)
    return found


@pytest.mark.parametrize(
    "name", [".wh.", ".wh..", ".wh...", "d/.wh...", ".wh.d/", "d/.wh..wh..opq/", ".wh..wh..opq/"]
)
def test_what_hides_no_name_is_refused_in_one_line(machine: Machine, name: str) -> None:
    with pytest.raises(BadInput, match="a layer cannot be unpacked: ") as caught:
        _shown(machine, _tar("d/", "d/a"), _tar("d/", name))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("upper", "shown"),
    [
        (["d/", "d/.wh.a"], ["d/", "d/b", "d/c/", "d/c/e"]),
        (["d/", "d/.wh..wh..opq"], ["d/"]),
        (["d/", "d/.wh.a", "d/a"], ["d/", "d/a", "d/b", "d/c/", "d/c/e"]),
        (["d/", "d/c/", "d/.wh.c", "d/c/new"], ["d/", "d/a", "d/b", "d/c/", "d/c/new"]),
        (["d/", "d/.wh..wh.plnk", "d/.wh..wh.orph"], ["d/", "d/a", "d/b", "d/c/", "d/c/e"]),
        (["d/", "d/.wh.nothing"], ["d/", "d/a", "d/b", "d/c/", "d/c/e"]),
        (["d/", "d/.wh.a -> /etc/passwd"], ["d/", "d/b", "d/c/", "d/c/e"]),
    ],
)
def test_what_hides_names_hides_them(machine: Machine, upper: list[str], shown: list[str]) -> None:
    assert _shown(machine, _tar("d/", "d/a", "d/b", "d/c/", "d/c/e"), _tar(*upper)) == shown


def test_a_layer_says_nothing_to_overlayfs(machine: Machine, secret_file: Path) -> None:
    """Its own extended attributes lead from one file to the content of another."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("d")
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        info.pax_headers = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.mine": "kept"}
        tar.addfile(info)

    assert _shown(machine, _tar("d/", "d/a"), buffer.getvalue()) == ["d/", "d/a"]

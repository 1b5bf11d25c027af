"""Names that no file can have, and folders deeper than programs like: told in a line, or simply done."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci.below import make_folder, open_below, remove, walk
from ci.engine.oci import layer_blob
from ci.engine.patterns import choose
from ci.engine.store import Store
from ci.engine.tree import Layer, Tree, content_digest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root")

_DEPTH = 1100
"""More than the calls that Python lets one make inside each other."""


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder of folders; pytest could not remove it."""
    root = tmp_path / "deep"
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(_DEPTH):
        os.mkdir("n", dir_fd=here)
        inner = os.open("n", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    yield root
    subprocess.run(["rm", "-rf", root, tmp_path / "store", tmp_path / "out"], check=True)


_BAD = [
    "nul\0byte",
    "x" * 256,
    "é" * 128,
    "/".join(["long" * 60] * 20),
    "lone\ud800surrogate",
]


@pytest.mark.parametrize("path", _BAD)
@pytest.mark.parametrize(
    "asked",
    [
        'directory { withNewFile(path: %s, contents: "") { entries } }',
        "directory { withNewDirectory(path: %s) { entries } }",
        "directory { file(path: %s) { size } }",
        'directory { withSymlink(target: "t", linkName: %s) { entries } }',
        "directory { export(path: %s) }",
        "host { directory(path: %s) { entries } }",
        "host { file(path: %s) { contents } }",
        'container { withNewFile(path: %s, contents: "") { id rootfs { entries } } }',
        "container { directory(path: %s) { entries } }",
        'file(name: %s, contents: "") { size }',
    ],
)
def test_a_name_that_no_file_can_have_is_bad_input_in_a_line(ask: Any, path: str, asked: str) -> None:
    response = ask("query($p: String!) { " + asked % "$p" + " }", {"p": path})

    (error,) = response["errors"]
    assert error["extensions"]["kind"] == "BadInput", error
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "asked",
    [
        'withExec(args: ["echo", %s]) { stdout }',
        'withEnvVariable(name: "A", value: %s) { envVariable(name: "A") }',
        'withoutFiles(paths: ["a", %s]) { rootfs { entries } }',
        "withUser(name: %s) { user }",
        'withSymlink(target: %s, linkName: "t") { user }',
    ],
)
def test_a_nul_is_refused_in_whatever_the_kernel_ends_by_one(ask: Any, asked: str) -> None:
    (error,) = ask("query($p: String!) { container { " + asked % "$p" + " } }", {"p": "a\0b"})["errors"]

    assert error["extensions"]["kind"] == "BadInput" and "NUL" in error["message"]


def test_a_file_may_have_a_nul_in_it(ask: Any) -> None:
    asked = 'query($t: String!) { file(name: "f", contents: $t) { size contents } }'

    assert ask(asked, {"t": "a\0b"}) == {"data": {"file": {"size": 3, "contents": "a\0b"}}}


def test_a_home_of_nobody_is_bad_input(ask: Any) -> None:
    (error,) = ask('{ host { directory(path: "~nobody-has-this/x") { entries } } }')["errors"]

    assert error["extensions"]["kind"] == "BadInput"


def test_deep_folders_are_read_copied_and_packed(deep: Path, tmp_path: Path) -> None:
    tree = Tree([deep])
    assert len(choose(tree, tree.root)) == _DEPTH + 1
    assert len(choose(tree, tree.root, include=["**/n"], gitignore=True)) == _DEPTH + 1
    assert sum(1 for _ in walk(deep)) == _DEPTH + 1
    assert len(content_digest(choose(tree, tree.root))) == 64

    store = Store(tmp_path / "store")
    try:
        copy = store.scratch("copy")
        Layer(tree, copy).folder("/".join(["n"] * _DEPTH))
        assert sum(1 for _ in walk(copy)) == _DEPTH + 1
        assert layer_blob(store, store.add_layer(copy), compression="Gzip", epoch=0) is not None
    finally:
        store.close()


def test_deep_folders_are_made_and_removed(deep: Path) -> None:
    root = os.open(deep, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.close(make_folder(root, "/".join(["m"] * _DEPTH)))
        os.close(open_below(root, "/".join(["m"] * _DEPTH), os.O_RDONLY))
        remove(root, "m")
    finally:
        os.close(root)
    assert [path.name for path in deep.iterdir()] == ["n"]


def test_folders_too_deep_for_a_path_are_refused_in_a_line(ask: Any, tmp_path: Path) -> None:
    """And the next session on that cache begins."""
    root = tmp_path / "too-deep"
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, dir_fd=here)
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    try:
        for _ in range(2):
            (error,) = ask('{ host { directory(path: "too-deep") { digest } } }')["errors"]
            assert error["extensions"]["kind"] == "BadInput" and "too long" in error["message"]
        assert ask("{ directory { entries } }") == {"data": {"directory": {"entries": []}}}
    finally:
        subprocess.run(["rm", "-rf", root], check=True)


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o777, 0o2755, 0o1777])
@pytest.mark.parametrize("into", ["new/place", "there"])
def test_an_export_has_the_modes_of_folders_its_own_too(
    ask: Any, tmp_path: Path, mode: int, into: str
) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    made = (
        f'directory {{ withNewDirectory(path: "d", permissions: {mode}) {{ '
        f'withNewDirectory(path: "d/inner", permissions: {mode}) {{ '
        f'directory(path: "d") {{ export(path: "{into}") }} }} }} }}'
    )

    assert "errors" not in ask(f"{{ {made} }}")
    for folder in (tmp_path / into, tmp_path / into / "inner"):
        assert folder.stat().st_mode & 0o7777 == mode & 0o1777  # nothing that gives rights

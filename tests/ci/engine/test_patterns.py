from __future__ import annotations

from pathlib import Path

import pytest

from ci.engine.dockerfiles import _plain_http
from ci.engine.patterns import choose, glob, ignore_file, matcher
from ci.engine.tree import Tree
from ci.errors import BadInput


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        (["a"], "a", True),
        (["a"], "a/b/c", True),
        (["a"], "b/a", False),
        (["/a/"], "a", True),
        (["**/a"], "b/c/a", True),
        (["**/a"], "a", True),
        (["*.py"], "x.py", True),
        (["*.py"], "d/x.py", False),
        (["**/*.py"], "d/e/x.py", True),
        (["a/**"], "a/b/c", True),
        (["a?c"], "abc", True),
        (["[a-c]x"], "bx", True),
        (["[!a-c]x"], "bx", False),
        (["*.md", "!README.md"], "README.md", False),
        (["*.md", "!README.md"], "x.md", True),
        (["a.b"], "axb", False),
        ([], "a", False),
        (["a**b"], "a/x/b", True),
        (["a**b"], "ab", True),
        (["a**b"], "axb", False),
        (["**.env"], "d/x.env", True),
        (["**.env"], "x.env", True),
        (["**/x*"], "d/xy", True),
        (["a/**"], "a", False),
        (["a/../b"], "b", True),
        (["**"], ".hidden/x", True),
        (["*"], ".hidden", True),
        (["a\\*b"], "a*b", True),
        (["a\\*b"], "axb", False),
        (["d/**", "!d/e", "d/e/f"], "d/e/f", True),
        (["**", "!d/e", "d/e/f"], "d/e/g", False),
        ([" !a"], "a", False),
        (["a", "!a", "a/b"], "a/b/c", True),
    ],
)
def test_a_pattern_matches_as_in_a_dockerignore_file(patterns: list[str], path: str, expected: bool) -> None:
    assert matcher(patterns)(path) is expected


@pytest.mark.parametrize(
    ("data", "patterns"),
    [
        (b"", []),
        (b"a\nb/c\n", ["a", "b/c"]),
        (b"\xef\xbb\xbf# only here, after the mark\na", ["a"]),
        (b"\xef\xbb\xbfa\r\n!b\r\n", ["a", "!b"]),
        (b"  a  \n\t\n # no comment\n", ["a", "# no comment"]),
        (b"! a\n!\tb", ["!a", "!b"]),
        (b"a#b\n\xff", ["a#b", "\udcff"]),
    ],
)
def test_an_ignore_file_is_read_as_docker_does(data: bytes, patterns: list[str]) -> None:
    assert ignore_file(data) == patterns


@pytest.mark.parametrize("pattern", ["a[b", "[", "a\\", "[z-a]"])
def test_what_is_no_pattern_is_said_so(pattern: str) -> None:
    with pytest.raises(BadInput, match="the pattern"):
        matcher([pattern])


def test_an_exception_of_nothing_is_said_so() -> None:
    with pytest.raises(BadInput, match="nothing more"):
        ignore_file(b"a\n ! \n")


def test_every_loopback_address_is_spoken_to_plainly_and_nobody_else() -> None:
    conf = _plain_http(b"FROM 127.0.0.7:5000/a AS x\nFROM registry.example/b", [("R", "127.1.2.3:80")])

    assert [line for line in conf.splitlines() if "location" in line] == [
        f'location = "{host}"' for host in ("127.0.0.1", "127.0.0.7", "127.1.2.3", "localhost")
    ]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 30 + "b", "a" * 200),
        ("**/" * 30 + "b", "a/" * 60 + "a"),
        ("**/a*" * 20 + "/b", "a/" * 60 + "a"),
        ("*[a-z]" * 30 + "?b", "a" * 200),
    ],
)
def test_many_stars_end_soon(pattern: str, path: str) -> None:
    assert not matcher([pattern])(path + "-") and glob(pattern, [path]) == []


def test_glob_matches_names_themselves_only() -> None:
    assert glob("a", ["a", "a/b"]) == ["a"]
    assert glob("**/*.py", ["x.py", "a/y.py", "a/z.txt"]) == ["x.py", "a/y.py"]


def _tree(folder: Path, *names: str) -> Tree:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text(name)
    return Tree([folder])


def _chosen(tree: Tree, **filters: object) -> list[str]:
    return [name for name, _ in choose(tree, tree.root, **filters) if name]  # type: ignore[arg-type]


def test_excluded_folders_are_left_out_whole(tmp_path: Path) -> None:
    tree = _tree(tmp_path, "a/x", "b/x", "b/c/x")

    assert _chosen(tree, exclude=["b"]) == ["a", "a/x"]


def test_an_exception_brings_back_what_is_in_an_excluded_folder(tmp_path: Path) -> None:
    tree = _tree(tmp_path, "b/x", "b/keep")

    assert _chosen(tree, exclude=["b", "!b/keep"]) == ["b", "b/keep"]


def test_included_files_bring_their_folders_and_no_others(tmp_path: Path) -> None:
    tree = _tree(tmp_path, "a/b/x.py", "a/c/x.txt", "d/")

    assert _chosen(tree, include=["**/*.py"]) == ["a", "a/b", "a/b/x.py"]


def test_an_empty_folder_counts_without_filters(tmp_path: Path) -> None:
    assert _chosen(_tree(tmp_path, "d/")) == ["d"]


def test_gitignore_files_hold_for_their_folder_and_the_nearest_decides(tmp_path: Path) -> None:
    tree = _tree(
        tmp_path,
        ".git/HEAD",
        "a.log",
        "sub/b.log",
        "sub/keep.log",
        "sub/deep/keep.log",
        "build/x",
        "src/build/y",
    )
    (tmp_path / ".gitignore").write_text("*.log\n/build/\n")
    (tmp_path / "sub" / ".gitignore").write_text("!keep.log\n")

    names = _chosen(tree, gitignore=True)

    assert "sub/keep.log" in names and "sub/deep/keep.log" in names and "src/build/y" in names
    assert not {"a.log", "sub/b.log", "build", ".git"} & set(names)

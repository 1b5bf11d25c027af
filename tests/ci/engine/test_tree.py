from __future__ import annotations

import os
from pathlib import Path

import pytest

from ci.engine.store import Store
from ci.engine.tree import Layer, Tree, content_digest, is_whiteout, make_opaque, make_whiteout
from ci.errors import BadInput

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts and owners need root")


def _layer(folder: Path, name: str, **files: str) -> Path:
    layer = folder / name
    for path, content in files.items():
        place = layer / path.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
    layer.mkdir(exist_ok=True)
    return layer


def _names(tree: Tree) -> list[str]:
    return [entry.path for entry in tree.walk(tree.root)]


def test_folders_merge_and_the_upper_file_covers(tmp_path: Path) -> None:
    tree = Tree(
        [_layer(tmp_path, "low", d__a="low", d__b="low"), _layer(tmp_path, "up", d__b="up", d__c="up")]
    )

    assert _names(tree) == ["d", "d/a", "d/b", "d/c"]
    assert tree.read("d/b") == b"up"


def test_a_whiteout_hides_and_a_later_layer_may_show_again(tmp_path: Path) -> None:
    low, middle, top = (_layer(tmp_path, name) for name in ("low", "middle", "top"))
    _layer(tmp_path, "low", d__a="1")
    make_whiteout(str(middle / "d"))
    _layer(tmp_path, "top", d__b="2")

    assert _names(Tree([low, middle])) == []
    assert _names(Tree([low, middle, top])) == ["d", "d/b"]


def test_an_opaque_folder_hides_what_lies_below(tmp_path: Path) -> None:
    low, up = _layer(tmp_path, "low", d__a="1"), _layer(tmp_path, "up", d__b="2")
    make_opaque(str(up / "d"))

    assert _names(Tree([low, up])) == ["d", "d/b"]


def test_symlinks_are_followed_inside_the_tree_only(tmp_path: Path) -> None:
    low = _layer(tmp_path, "low", usr__lib__x="inside")
    (low / "lib").symlink_to("usr/lib")
    (low / "abs").symlink_to("/usr/lib/x")
    (low / "out").symlink_to("../../../../../../etc/passwd")
    tree = Tree([low])

    assert tree.read("/lib/x") == tree.read("abs") == b"inside"
    assert tree.find("out") is None
    assert tree.find("../../usr/lib/x") is not None


def test_a_loop_of_symlinks_is_told(tmp_path: Path) -> None:
    low = _layer(tmp_path, "low")
    (low / "a").symlink_to("b")
    (low / "b").symlink_to("a")

    with pytest.raises(BadInput, match="symbolic links"):
        Tree([low]).find("a/x")


def test_a_copy_through_a_symlinked_folder_lands_where_it_points(tmp_path: Path) -> None:
    low = _layer(tmp_path, "low", usr__lib__x="1")
    (low / "lib").symlink_to("usr/lib")
    up = _layer(tmp_path, "up")
    layer = Layer(Tree([low]), up)

    layer.write(layer.target("/lib/new"), b"2")

    assert (up / "usr/lib/new").read_bytes() == b"2"
    assert not (up / "lib").exists()
    assert Tree([low, up]).read("lib/new") == b"2"


def test_parents_keep_the_owner_and_mode_that_they_have_below(tmp_path: Path) -> None:
    low = _layer(tmp_path, "low", d__a="1")
    (low / "d").chmod(0o1777)
    os.chown(low / "d", 5, 6)
    up = _layer(tmp_path, "up")

    Layer(Tree([low]), up).write("d/new/file", b"x", mode=0o600, owner=(7, 8))

    status = (up / "d").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o1777, 5, 6)
    assert (up / "d/new").stat().st_mode & 0o7777 == 0o755
    assert ((up / "d/new/file").stat().st_mode & 0o777, (up / "d/new/file").stat().st_uid) == (0o600, 7)


def test_removing_hides_what_is_below_only_if_there_is_something(tmp_path: Path) -> None:
    low, up = _layer(tmp_path, "low", d__a="1", b="2"), _layer(tmp_path, "up")
    layer = Layer(Tree([low]), up)

    layer.remove("d/a")
    layer.remove("nothing")

    assert is_whiteout((up / "d/a").lstat())
    assert _names(Tree([low, up])) == ["b", "d"]
    assert not (up / "nothing").exists()


def test_a_file_is_not_written_over_a_folder(tmp_path: Path) -> None:
    up = _layer(tmp_path, "up", d__a="1")

    with pytest.raises(BadInput, match="is a directory"):
        Layer(Tree([]), up).write("d", b"x")


def test_a_linked_copy_shares_data_unless_owner_or_mode_change(tmp_path: Path) -> None:
    low, up = _layer(tmp_path, "low", a="1"), _layer(tmp_path, "up")
    tree = Tree([low])
    layer = Layer(Tree([]), up)

    layer.copy(tree.need("a"), "same", link=True)
    layer.copy(tree.need("a"), "other", link=True, owner=(1, 1))

    assert (up / "same").samefile(low / "a")
    assert not (up / "other").samefile(low / "a")
    assert (low / "a").stat().st_uid == 0


def test_the_digest_is_over_names_owners_modes_and_contents_and_not_times(tmp_path: Path) -> None:
    def digest(**files: str) -> str:
        digest.count += 1  # type: ignore[attr-defined]
        tree = Tree([_layer(tmp_path, str(digest.count), **files)])  # type: ignore[attr-defined]
        return content_digest([(entry.path, entry) for entry in tree.walk(tree.root)])

    digest.count = 0  # type: ignore[attr-defined]
    first = digest(a="1", d__b="2")
    os.utime(tmp_path / "1" / "a", (1, 1))
    tree = Tree([tmp_path / "1"])

    def again() -> str:
        return content_digest([(entry.path, entry) for entry in tree.walk(tree.root)])

    assert again() == first == digest(a="1", d__b="2")
    assert first not in (digest(a="2", d__b="2"), digest(a="1", d__c="2"))
    (tmp_path / "1" / "a").chmod(0o755)
    assert again() != first


def test_a_file_that_is_copied_twice_is_two_files_whether_it_was_one_before(tmp_path: Path) -> None:
    """Their layer is found by what they hold: an image of it has no link in one cache and not in another."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("same")
    (source / "b").hardlink_to(source / "a")
    tree = Tree([source])
    (tmp_path / "layer").mkdir()
    layer = Layer(Tree([]), tmp_path / "layer")

    for entry in tree.walk(tree.root):
        layer.copy(entry, entry.path, link=True)

    one, two = ((tmp_path / "layer" / name).stat() for name in "ab")
    assert one.st_ino == (source / "a").stat().st_ino != two.st_ino


def test_the_digest_of_content_is_over_extended_attributes_that_an_image_keeps(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("same")
    tree = Tree([tmp_path])
    before = content_digest([("a", tree.need("a"))])
    try:
        os.setxattr(tmp_path / "a", "user.kept", b"1")
    except OSError:
        pytest.skip("this file system has no extended attributes of users")

    assert content_digest([("a", tree.need("a"))]) != before


def test_of_many_layers_only_those_that_have_a_name_are_looked_at(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    try:
        layers = []
        for number in range(40):
            folder = store.scratch()
            Layer(Tree([]), folder).write(f"only-{number}/f" if number % 2 else "same/f", b"%d" % number)
            layers.append(store.layers / store.add_layer(folder))
        listed: list[str] = []

        def names(layer: str) -> frozenset[str]:
            listed.append(layer)
            return store.names(layer)

        tree = Tree(layers, names)
        assert tree.read("only-7/f") == b"7" and tree.read("same/f") == b"38"
        assert [entry.name for entry in tree.children(tree.root)] == [
            entry.name for entry in Tree(layers).children(Tree(layers).root)
        ]
        assert len(tree.need("only-7").real) == 1 and len(tree.need("same").real) == 20
        assert listed
    finally:
        store.close()

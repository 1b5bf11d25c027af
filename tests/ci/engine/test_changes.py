"""Changesets and patches, through the unmodified SDK."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dagger
import pytest

from ci.errors import BadInput

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root")


def _before(client: dagger.Client) -> dagger.Directory:
    return (
        client.directory()
        .with_new_file("kept", "kept\n")
        .with_new_file("edited", "one\ntwo\n")
        .with_new_file("gone/a", "a\n")
        .with_new_file("gone/b/c", "c\n")
        .with_new_file("turns", "a file\n")
        .with_new_file("run", "#!\n")
        .with_symlink("kept", "link")
    )


def _after(client: dagger.Client) -> dagger.Directory:
    return (
        _before(client)
        .with_new_file("edited", "one\nthree\n")
        .without_directory("gone")
        .without_file("turns")
        .with_new_file("turns/inner", "now a folder\n")
        .with_new_file("new/deep/file", "new\n")
        .without_file("run")
        .with_new_file("run", "#!\n", permissions=0o755)
        .with_new_directory("empty")
    )


def test_a_changeset_tells_what_was_added_modified_and_removed(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        changes = _after(client).changes(_before(client))
        stats = {
            await each.path(): (await each.kind(), await each.added_lines(), await each.removed_lines())
            for each in await changes.diff_stats()
        }
        return (
            await changes.added_paths(),
            await changes.modified_paths(),
            await changes.removed_paths(),
            stats["edited"],
            sorted(await changes.layer().glob("**")),
            [await changes.is_empty(), await _after(client).changes(_after(client)).is_empty()],
        )

    added, modified, removed, edited, layer, empty = run(pipeline)
    assert added == ["new/deep/file", "turns/inner", "empty/", "new/", "new/deep/", "turns/"]
    assert (modified, removed) == (["edited", "run"], ["gone/", "turns"])
    assert edited == (dagger.DiffStatKind.MODIFIED, 1, 1)
    assert "new/deep/file" in layer and "kept" not in layer
    assert empty == [False, True]


def test_changes_are_applied_to_another_folder_of_it(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        changes = _after(client).changes(_before(client))
        other = client.directory().with_directory("sub", _before(client).with_new_file("own", "1"))
        done = other.directory("sub").with_changes(changes)
        return sorted(await done.glob("**")), await done.file("edited").contents()

    names, edited = run(pipeline)
    told = "edited empty/ kept link new/ new/deep/ new/deep/file own run turns/ turns/inner"
    assert names == sorted(told.split())
    assert edited == "one\nthree\n"


def test_a_patch_of_changes_makes_them_again(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        patch = _after(client).changes(_before(client)).as_patch()
        patched = _before(client).with_patch(await patch.contents())
        same = _before(client).with_patch_file(patch)
        left = patched.changes(_after(client))
        return (
            await patch.contents(),
            await left.is_empty(),
            await left.removed_paths(),
            await same.digest() == (await patched.digest()),
        )

    patch, empty, removed, same = run(pipeline)
    assert "--- a/edited\n+++ b/edited\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n" in patch
    assert (empty, removed, same) == (True, ["empty/"], True)


@pytest.mark.parametrize(
    "patch",
    [
        "no patch",
        "--- a/edited\n+++ b/edited\n@@ -1,2 +1,2 @@\n other\n-two\n+three\n",
        "--- /dev/null\n+++ b/../out\n@@ -0,0 +1 @@\n+x\n",
        "--- /dev/null\n+++ b/out/of/it\n@@ -0,0 +1 @@\n+x\n",
    ],
    ids=["none", "another file's", "above", "through a link"],
)
def test_a_patch_that_does_not_fit_changes_nothing(run: Any, tmp_path: Path, patch: str) -> None:
    async def pipeline(client: dagger.Client) -> None:
        await _before(client).with_symlink(str(tmp_path), "out").with_patch(patch).sync()

    with pytest.raises(BadInput, match="failed to apply patch"):
        run(pipeline)
    assert not (tmp_path / "of").exists()


def test_changesets_of_different_paths_become_one(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        base = client.directory().with_new_file("a", "1").with_new_file("b", "1")
        one = base.with_new_file("a", "2").changes(base)
        two = base.without_file("b").with_new_file("c", "1").changes(base)
        both = one.with_changeset(two)
        return (
            await both.added_paths(), await both.modified_paths(), await both.removed_paths(),
            await base.with_changes(client.changeset().with_changesets([one, two])).entries(),
        )  # fmt: skip

    assert run(pipeline) == (["c"], ["a"], ["b"], ["a", "c"])


@pytest.mark.parametrize("how", ["FAIL", "FAIL_EARLY"])
def test_changesets_of_one_path_are_told(run: Any, how: str) -> None:
    async def pipeline(client: dagger.Client) -> None:
        base = client.directory().with_new_file("a", "1")
        one, two = (base.with_new_file("a", text).changes(base) for text in ("2", "3"))
        await one.with_changeset(two, on_conflict=dagger.ChangesetMergeConflict[how]).sync()

    with pytest.raises(BadInput, match="conflict .* 'a'" if how == "FAIL_EARLY" else "not supported .* a;"):
        run(pipeline)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("one", "two", "told"),
    [
        (lambda d: d.without_directory("d"), lambda d: d.with_new_file("d/f", "2"), "d/f"),
        (lambda d: d.without_directory("d"), lambda d: d.with_new_file("d/sub/new", "2"), "d/sub"),
        (lambda d: d.with_new_file("n", "1"), lambda d: d.with_new_file("n/m", "2"), "n"),
        (lambda d: d.with_new_file("n", "1"), lambda d: d.with_new_directory("n"), "n"),
        (lambda d: d.without_file("d/f"), lambda d: d.without_directory("d"), ""),
        (lambda d: d.with_new_file("n/a", "1"), lambda d: d.with_new_file("n/b", "2"), ""),
    ],
)
def test_changesets_that_meet_in_a_folder_are_told(
    run: Any, one: Callable[..., Any], two: Callable[..., Any], told: str, order: int
) -> None:
    async def pipeline(client: dagger.Client) -> None:
        base = client.directory().with_new_file("d/f", "1").with_new_file("d/g", "1")
        first, second = [each(base).changes(base) for each in (one, two)][::order]
        await first.with_changeset(second, on_conflict=dagger.ChangesetMergeConflict.FAIL_EARLY).sync()

    with pytest.raises(BadInput, match=f"conflict .* '{told}") if told else nullcontext():
        run(pipeline)


def test_an_export_of_changes_removes_what_they_removed(run: Any, tmp_path: Path) -> None:
    async def pipeline(client: dagger.Client) -> None:
        await _before(client).with_new_file("own", "1").export("out")
        await _after(client).changes(_before(client)).export("out")

    run(pipeline)
    out = tmp_path / "work" / "out"
    assert not (out / "gone").exists() and (out / "own").exists()
    assert (out / "edited").read_text() == "one\nthree\n" and (out / "turns/inner").exists()

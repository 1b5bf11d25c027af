from __future__ import annotations

import asyncio
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

from ci.build.source import commits_between, files, read_commit
from ci.errors import BadInput


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.com")
        monkeypatch.setenv(f"GIT_{role}_DATE", "1700000000 +0100")
    git(tmp_path, "init", "-q")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a ü.py").write_text("1")
    (tmp_path / "b.py").write_text("1")
    (tmp_path / ".gitignore").write_text("*.log\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", root, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_clean_checkout_names_its_commit_and_time(checkout: Path) -> None:
    (checkout / "noise.log").write_text("ignored")
    commit = asyncio.run(read_commit(checkout))
    assert commit.sha == git(checkout, "rev-parse", "HEAD")
    assert not commit.dirty
    assert commit.time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


@pytest.mark.parametrize("name", ["b.py", "new.py"])
def test_a_changed_or_new_file_makes_it_dirty(checkout: Path, name: str) -> None:
    (checkout / name).write_text("2")
    assert asyncio.run(read_commit(checkout)).dirty


@pytest.mark.parametrize(
    "told",
    [
        ("update-index", "--assume-unchanged", "b.py"),
        ("update-index", "--skip-worktree", "b.py"),
        ("sparse-checkout", "set", "--no-cone", "/sub"),
    ],
)
def test_a_file_that_git_was_told_not_to_look_at_is_in_no_clean_build(
    checkout: Path, told: tuple[str, ...]
) -> None:
    git(checkout, *told)
    if told[0] == "update-index":
        (checkout / "b.py").write_text("something else")

    assert asyncio.run(read_commit(checkout)).dirty
    assert not asyncio.run(read_commit(checkout, "sub")).dirty


def test_a_mode_that_the_checkout_does_not_look_at_makes_it_dirty(checkout: Path) -> None:
    git(checkout, "config", "core.fileMode", "false")
    (checkout / "b.py").chmod(0o755)

    assert asyncio.run(read_commit(checkout)).dirty


def test_the_files_are_those_git_would_track(checkout: Path) -> None:
    (checkout / "noise.log").write_text("ignored")
    (checkout / "new.py").write_text("untracked")
    (checkout / "b.py").unlink()
    assert [str(name) for name in asyncio.run(files(checkout))] == [".gitignore", "new.py", "sub/a ü.py"]
    assert [str(name) for name in asyncio.run(files(checkout, "sub"))] == ["sub/a ü.py"]


def test_a_folder_without_a_commit_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a git checkout"):
        asyncio.run(read_commit(tmp_path))
    git(tmp_path, "init", "-q")
    with pytest.raises(BadInput, match="with a commit"):
        asyncio.run(read_commit(tmp_path))


def test_the_commits_between_two_are_named_newest_first(checkout: Path) -> None:
    before = git(checkout, "rev-parse", "HEAD")
    for number in (2, 3):
        (checkout / "b.py").write_text(str(number))
        git(checkout, "commit", "-qam", f"change {number}")
    after = git(checkout, "rev-parse", "HEAD")
    names = [line.partition(" ")[2] for line in asyncio.run(commits_between(checkout, before, after))]
    assert names == ["change 3", "change 2"]
    assert asyncio.run(commits_between(checkout, after, after)) == ()
    assert asyncio.run(commits_between(checkout, "0" * 40, after)) == ()


# What a user may have set, and may not change.

NOISE = {
    "log.showSignature": "true",
    "log.date": "relative",
    "log.decorate": "full",
    "core.quotePath": "true",
    "core.abbrev": "40",
    "color.ui": "always",
    "color.status": "always",
    "status.short": "true",
    "status.branch": "true",
    "status.showUntrackedFiles": "no",
    "status.relativePaths": "false",
    "diff.ignoreSubmodules": "all",
    "format.pretty": "oneline",
    "i18n.logOutputEncoding": "ISO-8859-1",
}


def answers(root: Path) -> tuple[object, ...]:
    async def ask() -> tuple[object, ...]:
        commit = await read_commit(root)
        between = await commits_between(root, f"{commit.sha}~1", commit.sha)
        return commit, await read_commit(root, "sub"), await files(root), between

    return asyncio.run(ask())


@pytest.fixture
def second(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits, a changed file, a new one; a home folder of its own."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (checkout / "sub" / "a ü.py").write_text("2")
    git(checkout, "commit", "-qam", "zweitens: Ü")
    (checkout / "b.py").write_text("3")
    (checkout / "new.py").write_text("untracked")
    return checkout


@pytest.mark.parametrize("scope", ["--global", "--local"])
def test_no_setting_of_the_user_changes_an_answer(second: Path, scope: str) -> None:
    before = answers(second)
    ran, program, hooks, ignored = (Path.home() / name for name in ("ran", "program", "hooks", "ignored"))
    program.write_text(f"#!/bin/sh\ntouch {ran}\nexit 0\n")
    program.chmod(0o755)
    programs = ("core.fsmonitor", "diff.external", "core.pager", "gpg.program", "core.editor")
    for key, value in (NOISE | dict.fromkeys(programs, str(program))).items():
        git(second, "config", scope, key, value)
    hooks.mkdir()
    (hooks / "post-index-change").symlink_to(program)
    git(second, "config", scope, "core.hooksPath", str(hooks))
    ignored.write_text("new.py\n")
    git(second, "config", scope, "core.excludesFile", str(ignored))
    ran.unlink(missing_ok=True)

    (second / "b.py").touch()
    assert answers(second) == before
    assert not ran.exists()
    commit, of_sub, listed, between = before
    assert commit.dirty and not of_sub.dirty and len(listed) == 4  # type: ignore[attr-defined, arg-type]
    assert between == (f"{git(second, 'rev-parse', '--short=7', 'HEAD')} zweitens: Ü",)


def test_what_lies_in_the_home_folder_without_a_setting_changes_nothing(second: Path) -> None:
    before = answers(second)
    home = Path.home() / ".config" / "git"
    home.mkdir(parents=True)
    (home / "ignore").write_text("*.py\n")
    (home / "attributes").write_text("* text eol=crlf\n")
    (home / "config").write_text("[log]\n\tshowSignature = true\n")

    assert answers(second) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GIT_DIR", "/nowhere"),
        ("GIT_WORK_TREE", "/tmp"),
        ("GIT_INDEX_FILE", "/nowhere/index"),
        ("GIT_OBJECT_DIRECTORY", "/nowhere"),
        ("GIT_NAMESPACE", "x"),
        ("GIT_TRACE", "1"),
        ("GIT_LITERAL_PATHSPECS", "0"),
        ("GIT_GLOB_PATHSPECS", "1"),
        ("GIT_CEILING_DIRECTORIES", "/"),
        ("GIT_CONFIG_PARAMETERS", "'log.showsignature=true'"),
        ("GIT_EXTERNAL_DIFF", "/nowhere"),
        ("LC_ALL", "de_DE.UTF-8"),
    ],
)
def test_nothing_of_the_environment_changes_an_answer(
    second: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    before = answers(second)
    monkeypatch.setenv(name, value)

    assert answers(second) == before


def test_a_touched_file_is_a_clean_one(checkout: Path) -> None:
    (checkout / "b.py").touch()
    assert not asyncio.run(read_commit(checkout)).dirty


def test_a_replaced_commit_is_still_the_one_it_was(second: Path) -> None:
    before = answers(second)
    git(second, "replace", "HEAD", git(second, "commit-tree", "-m", "another", "HEAD^{tree}"))

    assert answers(second) == before


def test_a_detached_head_a_worktree_a_shallow_clone_and_a_submodule_are_checkouts(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    git(checkout, "commit", "-q", "--allow-empty", "-m", "nothing")
    head, place = git(checkout, "rev-parse", "HEAD"), tmp_path_factory.mktemp("copies")
    git(checkout, "worktree", "add", "-q", "--detach", str(place / "worktree"))
    git(place, "clone", "-q", "--depth", "1", f"file://{checkout}", "shallow")
    git(place, "init", "-q", "super")
    git(
        place / "super",
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        str(checkout),
        "part",
    )
    git(place / "super", "commit", "-qm", "with a part")
    git(checkout, "checkout", "-q", "--detach")

    for root in (checkout, place / "worktree", place / "shallow", place / "super" / "part"):
        commit = asyncio.run(read_commit(root))
        assert (commit.sha, commit.dirty) == (head, False), root
        assert [str(name) for name in asyncio.run(files(root))] == [".gitignore", "b.py", "sub/a ü.py"]
    assert not asyncio.run(read_commit(place / "super")).dirty
    assert [str(name) for name in asyncio.run(files(place / "super"))] == [".gitmodules"]
    git(place / "super" / "part", "checkout", "-q", "HEAD~1")  # another commit of it is another source
    assert asyncio.run(read_commit(place / "super")).dirty


def test_every_name_is_a_file_of_the_context(checkout: Path) -> None:
    odd = [b"line\nbreak", b'quo"te', b"\xff\xfe", b" blank ", b"*star", b":colon", b"-dash", b"tab\t"]
    for name in odd:
        Path(os.fsdecode(bytes(checkout) + b"/" + name)).write_text("x")
    (checkout / "dangling").symlink_to("nowhere")
    (checkout / "to-sub").symlink_to("sub")

    found = asyncio.run(files(checkout))

    assert {os.fsencode(str(name)) for name in found} >= {*odd, b"dangling", b"to-sub"}
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "odd")
    assert set(asyncio.run(files(checkout))) == set(found)
    assert asyncio.run(files(checkout, "*star")) == (PurePosixPath("*star"),)


def test_a_checkout_of_somebody_else_is_explained_by_git(
    second: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give files away")
    monkeypatch.delenv("SUDO_UID", raising=False)
    expected = answers(second)
    for path in (second, second / ".git"):
        os.chown(path, 12345, 12345)

    with pytest.raises(BadInput, match="git says: detected dubious ownership in repository at") as refused:
        asyncio.run(read_commit(second))
    assert f"git config --global --add safe.directory {second}" in refused.value.hint
    with pytest.raises(BadInput, match="dubious ownership"):
        asyncio.run(files(second))
    # What git says to do helps.
    git(tmp_path, "config", "--global", "--add", "safe.directory", str(second))
    assert answers(second) == expected


def test_a_folder_that_is_none_and_a_bare_repository_are_told_in_gits_words(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file or directory"):
        asyncio.run(read_commit(tmp_path / "none"))
    with pytest.raises(BadInput, match="not a git repository"):
        asyncio.run(files(tmp_path))
    git(tmp_path, "init", "-q", "--bare", "bare")
    with pytest.raises(BadInput, match="nothing was committed yet"):
        asyncio.run(read_commit(tmp_path / "bare"))
    with pytest.raises(BadInput, match="must be run in a work tree"):
        asyncio.run(files(tmp_path / "bare"))


def test_paths_that_no_commit_changed_are_named(checkout: Path) -> None:
    with pytest.raises(BadInput, match="no commit that changed nothing/here"):
        asyncio.run(read_commit(checkout, "nothing/here"))

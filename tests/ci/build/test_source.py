from __future__ import annotations

import asyncio
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci.build.source import commits_between, files, read_commit, source_date_epoch
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
    assert source_date_epoch(commit) == 1700000000


@pytest.mark.parametrize("name", ["b.py", "new.py"])
def test_a_changed_or_new_file_makes_it_dirty(checkout: Path, name: str) -> None:
    (checkout / name).write_text("2")
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

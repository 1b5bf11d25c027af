from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from ci.errors import SystemUnavailable
from ci.files import new_file, new_folder, write_whole


def test_a_file_is_written_whole_with_its_folders(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b.txt", "ü")
    write_whole(tmp_path / "a" / "b.txt", b"new")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_file_that_has_the_content_already_is_left_alone(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", "same")
    before = (tmp_path / "x").stat().st_ino
    write_whole(tmp_path / "x", "same")
    assert (tmp_path / "x").stat().st_ino == before
    write_whole(tmp_path / "x", "also")
    assert (tmp_path / "x").read_text() == "also"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, stop: type[BaseException]) -> None:
    write_whole(tmp_path / "file", "old")
    with pytest.raises(stop), new_file(tmp_path / "file") as draft:  # noqa: PT012
        draft.write_text("half")
        raise stop
    with pytest.raises(stop), new_folder(tmp_path / "folder") as draft:  # noqa: PT012
        (draft / "x").write_text("half")
        raise stop
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_another_process_made_first_stays(tmp_path: Path) -> None:
    with new_folder(tmp_path / "folder") as draft:
        (draft / "x").write_text("late")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "x").write_text("first")
    assert (tmp_path / "folder" / "x").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_is_said_and_nothing_half_is_left(tmp_path: Path) -> None:
    with pytest.raises(SystemUnavailable, match="disk is full") as caught, new_file(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "va cache prune" in caught.value.hint
    assert not list(tmp_path.iterdir())
    with pytest.raises(PermissionError), new_file(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "no")


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    seen: set[int] = set()
    done = threading.Event()
    write_whole(tmp_path / "x", b"a" * 100_000)

    def read() -> None:
        while not done.is_set():
            seen.add(len((tmp_path / "x").read_bytes()))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(30):
        write_whole(tmp_path / "x", bytes([number]) * 100_000)
    done.set()
    reader.join()
    assert seen == {100_000}

from __future__ import annotations

import errno
import io
import tarfile
import threading
from pathlib import Path

import pytest

from ci.errors import BadInput, PipelineError, SystemUnavailable
from ci.files import extract, new_file, new_folder, refused, write_whole


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
    with pytest.raises(PermissionError), new_file(tmp_path / "x"):  # of something else: not of this file
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


def _archive(*members: tuple[str, bytes, str, int], link: str = "") -> tarfile.TarFile:
    """Members as (name, type, content, mode)."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, kind, content, mode in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.linkname = kind, mode, len(content), link
            info.uid, info.uname = 4242, "nobody"
            tar.addfile(info, io.BytesIO(content.encode()))
    return tarfile.open(fileobj=io.BytesIO(raw.getvalue()))


def test_an_archive_is_unpacked_with_sane_modes_and_the_last_of_a_name(tmp_path: Path) -> None:
    folder, file = tarfile.DIRTYPE, tarfile.REGTYPE
    with _archive(
        ("./a", folder, "", 0o777),
        ("a/run", file, "first", 0o644),
        ("a/run", file, "second", 0o6777),
        ("./deep/er/x", file, "x", 0o000),
    ) as archive:
        extract(archive, tmp_path / "into")

    run, x = tmp_path / "into" / "a" / "run", tmp_path / "into" / "deep" / "er" / "x"
    assert (run.read_text(), x.read_text()) == ("second", "x")
    assert (run.stat().st_mode & 0o7777, x.stat().st_mode & 0o7777) == (0o755, 0o600)
    assert {run.stat().st_uid, x.stat().st_uid} == {tmp_path.stat().st_uid}


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../beside", tarfile.REGTYPE, ""),
        ("a/../../beside", tarfile.REGTYPE, ""),
        ("/beside", tarfile.REGTYPE, ""),
        ("..", tarfile.DIRTYPE, ""),
        (".", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.SYMTYPE, "a/inside"),
        ("link", tarfile.LNKTYPE, "../beside"),
        ("device", tarfile.CHRTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
        ("a", tarfile.REGTYPE, ""),
        ("a/inside/more", tarfile.REGTYPE, ""),
    ],
)
def test_an_archive_with_anything_else_is_refused(tmp_path: Path, name: str, kind: bytes, link: str) -> None:
    inside = ("a/inside", tarfile.REGTYPE, "ok", 0o644)
    with _archive(inside, (name, kind, "", 0o777), link=link) as archive, pytest.raises(tarfile.ExtractError):
        extract(archive, tmp_path / "into")

    assert [file.name for file in tmp_path.iterdir()] == ["into"]
    assert [file.name for file in (tmp_path / "into").rglob("*")] == ["a", "inside"]


@pytest.mark.parametrize(
    ("where", "kind", "said"),
    [
        ("file/x", BadInput, "file is a file, and a folder is wanted"),
        ("folder", BadInput, "it is a folder, and a file is wanted"),
        ("x" * 300, BadInput, "File name too long"),
        ("/proc/x", BadInput, "cannot be used: No such file"),
        ("/dev/full", SystemUnavailable, "the disk is full"),
        ("loop", BadInput, "symbolic links"),
    ],
)
def test_a_path_that_cannot_be_written_is_told_in_one_line(
    tmp_path: Path, where: str, kind: type[PipelineError], said: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(kind) as caught:
        write_whole(tmp_path / where, "text")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert "Errno" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "loop"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_home_that_nobody_may_write_to_is_no_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mkdir names the outermost folder that it could not make, above the one where va keeps things."""
    monkeypatch.setenv("VA_STATE", str(tmp_path / "home/.local/state/va"))
    outermost = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "home"))
    told = refused(outermost)
    assert isinstance(told, SystemUnavailable) and str(tmp_path / "home") in str(told)
    assert "VA_STATE" in (told.hint or "")
    assert isinstance(refused(outermost, tmp_path / "home"), BadInput)  # a path that somebody typed


def test_a_device_stays_one_and_a_link_is_followed(tmp_path: Path) -> None:
    write_whole(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "text"

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from ci.errors import BadInput
from ci.tools.packing import pack, unpack


@pytest.fixture
def definitions(tmp_path: Path) -> Path:
    """A tool that is a folder: with a folder in it, a program, and a name that is longer than tar's own."""
    folder = tmp_path / "definitions"
    (folder / "v1" / ("deep" * 40)).mkdir(parents=True)
    (folder / "a.yaml").write_text("kind: A\n")
    (folder / "v1" / ("deep" * 40) / "b.yaml").write_text("kind: Bé\n")
    (folder / "v1" / "run").write_text("#!/bin/sh\n")
    (folder / "v1" / "run").chmod(0o755)
    return folder


def _files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_comes_back_as_it_was(definitions: Path, tmp_path: Path) -> None:
    size = pack(definitions, tmp_path / "a.tar.gz")

    made = unpack(tmp_path / "a.tar.gz", "definitions", tmp_path / "out", size)

    assert made == tmp_path / "out" / "definitions"
    assert _files(made) == _files(definitions)


def test_a_program_stays_one_that_can_be_run(tmp_path: Path) -> None:
    (tmp_path / "helm").write_bytes(b"\x7fELF" * 1000)
    (tmp_path / "helm").chmod(0o700)
    size = pack(tmp_path / "helm", tmp_path / "a.tar.gz")

    made = unpack(tmp_path / "a.tar.gz", "helm", tmp_path / "out", size)

    assert (made.read_bytes(), made.stat().st_mode & 0o777) == (b"\x7fELF" * 1000, 0o755)


def test_the_same_tool_is_the_same_bytes(definitions: Path, tmp_path: Path) -> None:
    pack(definitions, tmp_path / "one.tar.gz")
    for path in definitions.rglob("*.yaml"):
        path.touch()
    pack(definitions, tmp_path / "two.tar.gz")

    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def _member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"evil", to: str = "") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, to, 0o4777
    content = content if kind == tarfile.REGTYPE else b""
    member.size = len(content)
    return member.tobuf() + content + bytes(-len(content) % 512)


def _archive(file: Path, *members: bytes) -> Path:
    file.write_bytes(gzip.compress(b"".join(members) + bytes(1024)))
    return file


@pytest.mark.parametrize(
    "members",
    [
        [_member("../helm")],
        [_member("helm/../../evil")],
        [_member("/helm")],
        [_member("/etc/cron.d/helm")],
        [_member("./helm")],
        [_member("helm//evil")],
        [_member("other")],
        [_member("helm"), _member("other")],
        [_member("helm", tarfile.SYMTYPE, to="/bin/sh")],
        [
            _member("helm", tarfile.DIRTYPE),
            _member("helm/in", tarfile.SYMTYPE, to=".."),
            _member("helm/in/evil"),
        ],
        [_member("helm", tarfile.LNKTYPE, to="/etc/passwd")],
        [_member("helm"), _member("helm/in")],
        [_member("helm"), _member("helm")],
        [_member("helm", tarfile.FIFOTYPE)],
        [_member("helm", tarfile.CHRTYPE)],
        [_member("helm", tarfile.GNUTYPE_SPARSE)],
        [_member("helm", b"Z")],
        [],
    ],
    ids=lambda members: " ".join(
        tarfile.TarInfo.frombuf(one[:512], "utf-8", "strict").name for one in members
    ),
)
def test_what_is_not_below_the_name_or_no_plain_file_is_refused(members: list[bytes], tmp_path: Path) -> None:
    archive = _archive(tmp_path / "a.tar.gz", *members)
    (tmp_path / "out").mkdir()

    with pytest.raises(BadInput, match="it is no archive of helm"):
        unpack(archive, "helm", tmp_path / "out", 2**20)

    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "out"}
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name == "evil" or path.is_symlink()]


def test_no_program_is_given_more_rights_than_to_be_run(tmp_path: Path) -> None:
    made = unpack(_archive(tmp_path / "a.tar.gz", _member("helm")), "helm", tmp_path / "out", 2**20)

    assert made.stat().st_mode & 0o7777 == 0o755


def test_more_bytes_than_are_said_are_not_written(tmp_path: Path) -> None:
    archive = _archive(tmp_path / "a.tar.gz", _member("helm", content=bytes(50 * 2**20)))

    with pytest.raises(BadInput, match="more bytes than are said"):
        unpack(archive, "helm", tmp_path / "out", 2**20)

    assert (tmp_path / "out" / "helm").stat().st_size <= 2**20


def test_a_sparse_file_does_not_grow_beyond_what_is_said(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    said = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "helm"}
    grows = {
        "GNU.sparse.map": f"0,4,{2**40 - 4},0",
        "GNU.sparse.size": str(2**40),
        "GNU.sparse.numblocks": "2",
    }
    with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={}) as tar:
        member = tarfile.TarInfo("helm")
        member.pax_headers, member.size = said | grows, 4
        tar.addfile(member, io.BytesIO(b"evil"))

    with pytest.raises(BadInput, match="it is no archive of helm"):
        unpack(archive, "helm", tmp_path / "out", 2**20)


@pytest.mark.parametrize(
    "broken", [lambda raw: b"no gzip", lambda raw: raw[: len(raw) // 2], lambda raw: raw[:-4] + b"\0\0\0\1"]
)
def test_what_is_cut_or_no_archive_is_refused(broken: object, tmp_path: Path) -> None:
    (tmp_path / "helm").write_bytes(bytes(range(256)) * 5000)
    size = pack(tmp_path / "helm", tmp_path / "a.tar.gz")
    raw = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(broken(raw))  # type: ignore[operator]

    with pytest.raises(BadInput, match="it is no archive of helm"):
        unpack(tmp_path / "a.tar.gz", "helm", tmp_path / "out", size)

"""The job that ran other people's code leaves a tarball: the signing one reads for ever, or its memory full.

tarfile goes where a header's size leads, back to the header itself too, and reads a header of names whole,
however long it says that it is.
"""

from __future__ import annotations

import resource
import struct
import tarfile
from pathlib import Path

import pytest

from ci.errors import BadInput
from ci.registry import open_archive


def header(name: str, size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header of 512 bytes, as ustar has it; `size` is the field of 12 bytes."""
    made = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    made[124:136] = size
    made[156:157] = kind
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def negative(value: int) -> bytes:
    """A number in base 256, as GNU tar writes what does not fit in octal: with its sign."""
    return b"\xff" + struct.pack(">q", value).rjust(11, b"\xff")


def refused(file: Path, said: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadInput, match=said) as caught:
        open_archive(file)
    assert "is not a whole OCI image" in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024, "KiB"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", [-512, -1024, -(2**40)])
def test_a_size_that_leads_back_is_not_followed(tmp_path: Path, size: int) -> None:
    file = tmp_path / "image.tar"
    file.write_bytes(header("a", b"%011o\0" % 0) + header("b", negative(size)) + bytes(1024))
    refused(file, "leads back|not an uncompressed tar file|is missing in it")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_names_does_not_fill_the_memory(tmp_path: Path, kind: bytes) -> None:
    file = tmp_path / "image.tar"
    length = 2**30
    file.write_bytes(header("x", b"%011o\0" % length, kind))
    with file.open("r+b") as hole:
        hole.truncate(length + 2048)
    refused(file, "a header of it is too large")


@pytest.mark.timeout(20)
def test_files_without_end_are_not_listed(tmp_path: Path) -> None:
    file = tmp_path / "image.tar"
    file.write_bytes(header("a", b"%011o\0" % 0) * 10_000 + bytes(1024))
    refused(file, "more than 4096 files")

"""The job that ran other people's code leaves links in its folder: to a secret of the machine that signs.

Followed, the signing job would have hashed, attested or pushed a file of its own machine, or hung on a pipe.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from made_folder import IMAGES, edit, made_folder

from ci.errors import BadInput
from ci.registry import digest_of
from ci.supply.handover import take

_SECRET = b'{"the": "signing key"}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made_folder(tmp_path / "made")
    (tmp_path / "secret").write_bytes(_SECRET)
    return tmp_path / "made"


def refused(folder: Path, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        take(folder, images=IMAGES)
    assert "signing key" not in f"{caught.value} {caught.value.hint}" and caught.value.place


_FILES = [
    "manifest.json",
    f"images/{IMAGES[0]}.tar",
    f"reports/{IMAGES[0]}/findings.json",
    f"reports/{IMAGES[1]}/sbom.cdx.json",
    "reports/chart/findings.json",
]


@pytest.mark.parametrize("name", _FILES)
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_to_a_file_is_not_followed(folder: Path, name: str, relative: bool) -> None:
    file = folder / name
    file.unlink()
    target = folder.parent / "secret"
    file.symlink_to(os.path.relpath(target, file.parent) if relative else target)
    refused(folder, f"{name}: it is a link")


@pytest.mark.parametrize("name", ["images", "reports", f"reports/{IMAGES[0]}", "reports/chart"])
def test_a_link_to_a_folder_is_not_followed(folder: Path, name: str) -> None:
    elsewhere = folder.parent / "elsewhere"
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    refused(folder, "lies behind one")


@pytest.mark.parametrize("name", _FILES)
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, f"{name}: it is not a regular file")


def test_a_file_of_the_machine_is_not_attested_as_an_sbom(folder: Path) -> None:
    """Its maker knows what is in the file that it wants: digest and size are right."""
    file = folder / f"reports/{IMAGES[0]}/sbom.cdx.json"
    file.unlink()
    file.symlink_to(folder.parent / "secret")
    said = {"digest": digest_of(_SECRET), "size": len(_SECRET)}
    edit(folder, lambda document: document["images"][0].update(sbom=said))
    refused(folder, "it is a link")

"""The descriptions of the images, as far as no engine is needed."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ci import places
from pipelines.images import IMAGES, LIVEKIT, ImageSpec, python

ROOT = places.checkout()

_METADATA = """Metadata-Version: 2.1
Name: PyJWT
Version: 2.10.1
License: MIT
Requires-Dist: cryptography>=3.4; extra == "crypto"

PyJWT
=====
    eyJhbGciOiJIUzI1NiJ9.example
"""


@pytest.mark.parametrize("image", [*IMAGES, LIVEKIT], ids=lambda image: image.name)
def test_what_goes_into_an_image_is_there(image: ImageSpec) -> None:
    assert all((ROOT / path).exists() for path in image.inputs)
    assert not any("test" in path for path in image.inputs), "its revision would change with its tests"


def test_everything_is_locked_by_hash_and_names_no_registry() -> None:
    lock = json.loads((ROOT / "images/web/package-lock.json").read_text())
    packages = {path: one for path, one in lock["packages"].items() if path}
    assert len(packages) > 10
    assert all(one["integrity"].startswith("sha512-") and "resolved" not in one for one in packages.values())
    for file in ROOT.glob("images/*/requirements/*.txt"):
        text = file.read_text()
        assert "://" not in text
        for requirement in filter(None, re.split(r"(?<!\\)\n", text.strip())):  # the guard needs none
            assert "==" in requirement and "--hash=sha256:" in requirement, f"{file}: {requirement}"


def test_a_readme_goes_and_all_that_programs_read_stays(tmp_path: Path) -> None:
    site = tmp_path / "lib/python3.11/site-packages"
    folder = site / "pyjwt-2.10.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(_METADATA)
    (folder / "RECORD").write_text(
        "jwt/__init__.py,sha256=abc,1\npyjwt-2.10.1.dist-info/METADATA,sha256=old,999\n"
        "pyjwt-2.10.1.dist-info/RECORD,,\n"
    )
    script = python._WITHOUT_READMES.replace("/opt/venv", str(tmp_path))
    for _ in range(2):  # a second time changes nothing
        subprocess.run([sys.executable, "-c", script], check=True)
        left = (folder / "METADATA").read_bytes()
        assert b"eyJ" not in left and left.endswith(b'extra == "crypto"\n\n')
        hashed = base64.urlsafe_b64encode(hashlib.sha256(left).digest()).decode().rstrip("=")
        assert (folder / "RECORD").read_text().splitlines() == [
            "jwt/__init__.py,sha256=abc,1",
            f"pyjwt-2.10.1.dist-info/METADATA,sha256={hashed},{len(left)}",
            "pyjwt-2.10.1.dist-info/RECORD,,",
        ]
    (found,) = importlib.metadata.distributions(path=[str(site)])
    assert (found.name, found.version) == ("PyJWT", "2.10.1")
    assert found.requires == ['cryptography>=3.4; extra == "crypto"']
    assert found.metadata["License"] == "MIT"

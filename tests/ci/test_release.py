from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from ci.errors import BadInput
from ci.release import Chart, Commit, Image, Release, ScanSummary, TestSummary, read_release

_DIGEST = "sha256:" + "a" * 64


def _release() -> Release:
    image = Image(
        name="fastapi-backend",
        digest=_DIGEST,
        size=1,
        tests=TestSummary(passed=3, failed=0, skipped=0),
        scan=ScanSummary(vulnerabilities=None, misconfigurations={}, secrets=0, licences={}, packages=2),
    )
    return Release(
        name="r1",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        commit=Commit(sha="c" * 40, dirty=False, time=datetime(2026, 1, 1, tzinfo=UTC)),
        engine="embedded",
        images=(image,),
        chart=Chart(name="voice-assistant", version="0.1.0", digest=_DIGEST),
    )


def test_a_release_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "r1.json"
    path.write_text(_release().model_dump_json())

    assert read_release(path) == _release()


def test_a_release_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _release().name = "r2"  # type: ignore[misc]


def test_a_wrong_key_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "r1.json"
    path.write_text(_release().model_dump_json().replace(_DIGEST, "latest", 1))

    with pytest.raises(BadInput, match=r"r1\.json is not a release: images\[0\]\.digest") as caught:
        read_release(path)
    assert caught.value.hint


def test_a_missing_release_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file") as caught:
        read_release(tmp_path / "none.json")
    assert "va ship" in caught.value.hint


def test_an_unknown_image_lists_the_known_ones() -> None:
    with pytest.raises(BadInput, match="has no image 'web'; it has fastapi-backend"):
        _release().image("web")

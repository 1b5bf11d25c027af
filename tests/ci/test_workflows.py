"""What actionlint does not look at: pins, permissions, and words of others in scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ci import places
from pipelines.images import IMAGES
from pipelines.scan import CHART

_FOLDER = places.checkout() / ".github" / "workflows"
_NAMES = ["ci.yml", "promote.yml", "release.yml"]


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((_FOLDER / name).read_text())
    return found


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in read(name)["jobs"].values():
        yield from job["steps"]


def test_these_are_all_workflows() -> None:
    assert sorted(file.name for file in _FOLDER.iterdir()) == _NAMES


@pytest.mark.parametrize("name", _NAMES)
def test_actions_are_pinned_by_commit_and_say_their_version(name: str) -> None:
    lines = [line for line in (_FOLDER / name).read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("name", _NAMES)
def test_no_script_is_put_together_from_words_of_others(name: str) -> None:
    for step in steps(name):
        assert "${{" not in step.get("run", "")


def test_rights_are_given_job_by_job() -> None:
    for name in ("promote.yml", "release.yml"):
        workflow = read(name)
        assert workflow["permissions"] == {}
        assert workflow["concurrency"]["cancel-in-progress"] is False
    ship, alerts = read("release.yml")["jobs"]["ship"], read("release.yml")["jobs"]["alerts"]
    assert ship["permissions"] == {"contents": "read", "id-token": "write"}
    assert "id-token" not in alerts["permissions"] and not any("run" in step for step in alerts["steps"])
    promote = read("promote.yml")["jobs"]["promote"]
    assert promote["permissions"] == {"contents": "read", "id-token": "write"}
    assert promote["environment"] == "${{ inputs.environment }}"


@pytest.mark.parametrize("name", _NAMES)
def test_no_token_is_left_in_a_checkout_that_does_more_than_test(name: str) -> None:
    for step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@") and name != "ci.yml":
            assert step["with"] == {"persist-credentials": False}


def test_each_image_and_the_chart_has_alerts_of_its_own() -> None:
    alerts = read("release.yml")["jobs"]["alerts"]
    subjects = alerts["strategy"]["matrix"]["subject"]
    assert subjects == [*(image.name for image in IMAGES), CHART]
    upload = alerts["steps"][-1]["with"]
    assert upload == {
        "sarif_file": "reports/${{ matrix.subject }}/findings.sarif",
        "category": "${{ matrix.subject }}/",  # as in the file itself: see ci.scan.trivy
    }

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from ci.delivery.chart import package_chart, render
from ci.errors import BadInput, StepFailed

_FOLDER = PurePosixPath("helm/voice")
_FILES = (_FOLDER / "templates" / "a.yaml", _FOLDER / "Chart.yaml", PurePosixPath("other.txt"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "helm/voice/templates").mkdir(parents=True)
    (tmp_path / "helm/voice/Chart.yaml").write_text(
        "apiVersion: v2\nname: voice\nversion: 1.2.3\ndescription: d\n"
    )
    (tmp_path / "helm/voice/templates/a.yaml").write_text("kind: Pod\n")
    (tmp_path / "other.txt").write_text("x")
    return tmp_path


def test_the_package_is_what_helm_expects(root: Path) -> None:
    chart = package_chart(root, _FILES, _FOLDER)
    assert (chart.name, chart.version) == ("voice", "1.2.3")
    with tarfile.open(fileobj=io.BytesIO(chart.archive)) as tar:
        assert tar.getnames() == ["voice/Chart.yaml", "voice/templates/a.yaml"]
        file = tar.extractfile("voice/templates/a.yaml")
        assert file is not None and file.read() == b"kind: Pod\n"
    manifest = chart.bundle.root
    assert manifest.config is not None
    assert manifest.config.media_type == "application/vnd.cncf.helm.config.v1+json"
    assert [one.media_type for one in manifest.layers] == [
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    ]
    assert json.loads(chart.bundle.blobs[0].read())["description"] == "d"


def test_the_same_files_give_the_same_digest_whatever_their_times_and_order(root: Path) -> None:
    first = package_chart(root, _FILES, _FOLDER).digest
    os.utime(root / "helm/voice/templates/a.yaml", (1, 1))
    (root / "helm/voice/templates/a.yaml").chmod(0o600)
    assert package_chart(root, reversed(_FILES), _FOLDER).digest == first
    (root / "other.txt").write_text("changed, but no part of the chart")
    assert package_chart(root, _FILES, _FOLDER).digest == first
    (root / "helm/voice/templates/a.yaml").write_text("kind: Job\n")
    assert package_chart(root, _FILES, _FOLDER).digest != first


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("apiVersion: v2\nname: voice\nversion: one\n", r"Chart\.yaml:3 \(version\)"),
        ("apiVersion: v2\nversion: 1.0.0\n", "name"),
        ("- 1\n", "mapping"),
    ],
)
def test_a_wrong_chart_names_file_line_and_key(root: Path, text: str, what: str) -> None:
    (root / "helm/voice/Chart.yaml").write_text(text)
    with pytest.raises(BadInput, match=what):
        package_chart(root, _FILES, _FOLDER)


def test_a_chart_that_git_ignores_is_refused(root: Path) -> None:
    with pytest.raises(BadInput, match="git ignores"):
        package_chart(root, _FILES[:1], _FOLDER)


def test_rendering_gives_helm_the_values_and_shows_its_words(tmp_path: Path) -> None:
    helm = tmp_path / "helm"
    helm.write_text('#!/bin/sh\n[ -d "$3" ] || { echo "Error: no chart" >&2; exit 1; }\ncat\n')
    helm.chmod(0o755)
    assert asyncio.run(render(tmp_path, {"a": 1}, name="voice", helm=helm)) == '{"a": 1}'
    with pytest.raises(StepFailed, match="no chart"):
        asyncio.run(render(tmp_path / "none", {}, name="voice", helm=helm))

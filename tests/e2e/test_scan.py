"""Trivy itself, offline, on an image made by hand: what it finds, and that it says the same twice."""

from __future__ import annotations

import asyncio
import json
import shutil
from datetime import date
from pathlib import Path

import jsonschema
import pytest
from oci import layer, write_image

from ci import places, tools
from ci.errors import ToolMissing
from ci.scan import Kind, judge, read_policy, scan_image, scan_manifests, summary

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

# Put together here, so that no scanner of this repository takes it for a leaked one.
_TOKEN = "ghp" + "_" + "a1B2c3D4e5" * 3 + "F6g7h8"
_POD = """
apiVersion: v1
kind: Pod
metadata: {name: x}
spec: {containers: [{name: a, image: b, securityContext: {privileged: true}}]}
"""
_STATUS = """Package: openssl
Status: install ok installed
Architecture: amd64
Version: 3.0.15-1~deb12u1
Maintainer: x <x@example.com>

Package: zlib1g
Status: install ok installed
Architecture: amd64
Source: zlib
Version: 1:1.2.13.dfsg-1
Maintainer: x <x@example.com>
"""


@pytest.fixture(scope="module")
def trivy() -> Path:
    try:
        return tools.path("trivy")
    except ToolMissing:
        pytest.skip("trivy is not here: va up builds it")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trivy: Path) -> None:
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))


def image(folder: Path, **files: str) -> tuple[Path, str]:
    content = {
        "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
        "etc/debian_version": "12.8\n",
        "var/lib/dpkg/status": _STATUS,
        "app/requests-2.20.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: requests\nVersion: 2.20.0\n"
        "License: Apache 2.0\n",
        **files,
    }
    return folder / "image.tar", write_image(folder / "image.tar", layer(**content))


def test_packages_licences_secrets_and_misconfigurations_are_found(tmp_path: Path, trivy: Path) -> None:
    archive, digest = image(tmp_path, **{"app/.env": f"GITHUB_TOKEN={_TOKEN}\n", "app/pod.yaml": _POD})
    scan = asyncio.run(scan_image(archive, digest, trivy=trivy))
    names = {(package.name, package.version) for package in scan.findings.packages}
    assert names == {("openssl", "3.0.15-1~deb12u1"), ("zlib1g", "1:1.2.13.dfsg-1"), ("requests", "2.20.0")}
    said = summary(scan.findings)
    assert said.secrets == 1 and said.misconfigurations["HIGH"] >= 1 and said.licences == {"notice": 1}
    assert said.vulnerabilities is None
    policy = read_policy(places.checkout() / "policy.yaml")
    verdict = judge(scan.findings, policy, name="x", today=date(2026, 1, 1))
    assert {finding.kind for finding in verdict.blocking} == {Kind.SECRET, Kind.MISCONFIGURATION}
    assert _TOKEN not in scan.report.read_text() + scan.document.read_text() + scan.sarif.read_text()
    assert json.loads(scan.sarif.read_bytes())["version"] == "2.1.0"
    sbom = json.loads(scan.sbom.read_bytes())
    assert {"openssl", "zlib1g", "requests"} <= {component["name"] for component in sbom["components"]}


def test_the_sarif_is_valid_and_has_what_github_asks_for(tmp_path: Path, trivy: Path) -> None:
    archive, digest = image(tmp_path, **{"app/.env": f"GITHUB_TOKEN={_TOKEN}\n", "app/pod.yaml": _POD})
    scans = [
        asyncio.run(scan_image(archive, digest, trivy=trivy, name="fastapi-backend")),
        asyncio.run(scan_manifests(_POD, trivy=trivy)),
    ]
    # The schema of the OASIS SARIF committee, as the npm package @microsoft/jest-sarif 1.0.0-beta.0 has it.
    schema = json.loads((places.checkout() / "tests/ci/scan/sarif-2.1.0-rtm.5.json").read_bytes())
    for scan in scans:
        document = json.loads(scan.sarif.read_bytes())
        jsonschema.Draft4Validator(schema).validate(document)
        (run,) = document["runs"]
        assert run["results"]
        rules = run["tool"]["driver"]["rules"]
        for result in run["results"]:
            assert result["message"]["text"] and rules[result["ruleIndex"]]["id"] == result["ruleId"]
            (location,) = result["locations"]
            uri = location["physicalLocation"]["artifactLocation"]["uri"]
            assert uri and " " not in uri and not uri.startswith("/")
        assert str(places.cache()) not in scan.sarif.read_text()
    categories = {json.loads(one.sarif.read_bytes())["runs"][0]["automationDetails"]["id"] for one in scans}
    assert categories == {"fastapi-backend/", "chart/"}


def test_a_clean_image_passes_and_says_the_same_twice(tmp_path: Path, trivy: Path) -> None:
    archive, digest = image(tmp_path)
    policy = read_policy(places.checkout() / "policy.yaml")
    first = asyncio.run(scan_image(archive, digest, trivy=trivy))
    assert judge(first.findings, policy, name="x", today=date(2026, 1, 1)).passes
    sbom = first.sbom.read_bytes()
    assert asyncio.run(scan_image(archive, digest, trivy=trivy)).cached
    shutil.rmtree(first.folder)
    again = asyncio.run(scan_image(archive, digest, trivy=trivy))
    assert not again.cached and again.findings == first.findings
    assert again.sbom.read_bytes() == sbom


def test_manifests_are_judged_by_the_line(tmp_path: Path, trivy: Path) -> None:
    scan = asyncio.run(scan_manifests(_POD, trivy=trivy))
    (privileged,) = [one for one in scan.findings.findings if one.id == "KSV017"]
    assert privileged.line == 5 and privileged.kind is Kind.MISCONFIGURATION


def test_after_a_changed_layer_the_others_are_not_looked_at_again(tmp_path: Path, trivy: Path) -> None:
    shared = layer(
        **{f"app/{n}.txt": "no secret\n" * 1000 for n in range(100)}, **{"app/.env": f"T={_TOKEN}\n"}
    )
    system = layer(**{"etc/os-release": 'ID=debian\nVERSION_ID="12"\n', "var/lib/dpkg/status": _STATUS})
    found: list[int] = []
    for number in (1, 2):
        archive = tmp_path / "image.tar"
        digest = write_image(archive, shared, system, layer(**{"app/new.txt": str(number)}))
        scan = asyncio.run(scan_image(archive, digest, trivy=trivy, name="same"))
        assert not scan.cached
        found.append(summary(scan.findings).secrets)
    # What was seen in the unchanged layer is still told, from Trivy's cache of layers.
    assert found == [1, 1]
    assert (places.cache() / "trivy-layers" / "same" / "fanal" / "fanal.db").is_file()


def test_two_scans_at_once_do_not_hinder_each_other(tmp_path: Path, trivy: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    images = [image(tmp_path / "a"), image(tmp_path / "b", **{"app/pod.yaml": _POD})]

    async def both() -> int:
        scans = await asyncio.gather(*(scan_image(*one, trivy=trivy) for one in images))
        return len({scan.findings.subject for scan in scans})

    assert asyncio.run(both()) == 2

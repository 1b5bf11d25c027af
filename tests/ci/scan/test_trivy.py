from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from oci import layer, write_image

from ci.errors import BadInput, PipelineError, StepFailed, SystemUnavailable, ToolMissing
from ci.scan import (
    VULNERABILITIES,
    Database,
    Findings,
    Kind,
    LocalDatabase,
    Scan,
    Scanned,
    scan_image,
    scan_manifests,
    summary,
)
from ci.scan import trivy as trivy_module

_REPORT: dict[str, Any] = {
    "SchemaVersion": 2,
    "ArtifactName": "image",
    "Results": [
        {
            "Target": "image (debian 12.8)",
            "Class": "os-pkgs",
            "Type": "debian",
            "Packages": [
                {"Name": "libc6", "Version": "2.36", "Release": "9+deb12u9", "Epoch": 0},
                {"Name": "tar", "Version": "1.34", "Epoch": 2},
            ],
            "Vulnerabilities": [
                {
                    "VulnerabilityID": "CVE-2026-1",
                    "PkgName": "libc6",
                    "InstalledVersion": "2.36-9+deb12u9",
                    "FixedVersion": "2.36-9+deb12u10",
                    "Severity": "HIGH",
                    "Title": "overflow",
                }
            ],
        },
        {
            "Target": "app/deploy.yaml",
            "Class": "config",
            "Misconfigurations": [
                {"ID": "KSV1", "Severity": "MEDIUM", "Title": "t", "Message": "m", "Status": "FAIL"},
                {"ID": "KSV2", "Severity": "HIGH", "Title": "t", "Status": "PASS"},
            ],
        },
        {
            "Target": "/app/.env",
            "Class": "secret",
            "Secrets": [{"RuleID": "github-pat", "Severity": "CRITICAL", "Title": "GitHub", "StartLine": 3}],
        },
        {
            "Target": "OS Packages",
            "Class": "license",
            "Licenses": [
                {"Name": "GPL-2.0", "Category": "restricted", "Severity": "HIGH", "PkgName": "tar"},
                {"Name": "GPL-2.0", "Category": "restricted", "Severity": "HIGH", "PkgName": "libc6"},
                {"Name": "MIT", "Category": "notice", "Severity": "LOW", "PkgName": "x", "FilePath": "/x"},
            ],
        },
    ],
}
_SBOM = {
    "bomFormat": "CycloneDX",
    "serialNumber": "urn:uuid:random",
    "metadata": {
        "timestamp": "now",
        "component": {"bom-ref": "r-RANDOM", "type": "container", "name": "image"},
    },
    "components": [{"bom-ref": "c-RANDOM", "type": "operating-system", "name": "debian"}],
    "dependencies": [{"ref": "r-RANDOM", "dependsOn": ["c-RANDOM"]}, {"ref": "c-RANDOM"}],
}
_SARIF = {
    "version": "2.1.0",
    "runs": [
        {
            "tool": {
                "driver": {
                    "rules": [
                        {"id": "tar:GPL-2.0", "name": "License"},
                        {"id": "CVE-2026-1", "name": "OsPackageVulnerability"},
                    ]
                }
            },
            "results": [
                {"ruleId": "tar:GPL-2.0", "ruleIndex": 0},
                {"ruleId": "CVE-2026-1", "ruleIndex": 1},
            ],
            "originalUriBaseIds": {"ROOTPATH": {"uri": "file:///home/me/.cache/trivy.json/"}},
        }
    ],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, str]:
    return tmp_path / "image.tar", write_image(tmp_path / "image.tar", layer(a="1"))


def fake_trivy(folder: Path, scan: str = "", convert: str = "") -> Path:
    """A program that answers as Trivy does; `scan` and `convert` are shell that runs before its answer."""
    (folder / "report.json").write_text(json.dumps(_REPORT))
    (folder / "sbom.json").write_text(json.dumps(_SBOM))
    (folder / "findings.sarif").write_text(json.dumps(_SARIF))
    program = folder / "trivy"
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {folder}/calls
[ "$1" = --version ] && {{ echo '{{"Version":"0.58.1"}}'; exit; }}
while [ $# -gt 0 ]; do
    case $1 in --output) out=$2;; --format) format=$2;; --input) input=$2;; --cache-dir) cache=$2;; esac
    shift
done
case $format in
    json) {scan or ":"}
          [ -z "$input" ] || [ -f "$input/index.json" ] || exit 9
          cp {folder}/report.json "$out";;
    cyclonedx) {convert or ":"}; sed "s/RANDOM/$$/g" {folder}/sbom.json > "$out";;
    sarif) cp {folder}/findings.sarif "$out";;
esac
"""
    )
    program.chmod(0o755)
    return program


def calls(folder: Path, word: str) -> int:
    return sum(line.startswith(word) for line in (folder / "calls").read_text().splitlines())


def scan(
    image: tuple[Path, str], trivy: Path, timeout: float = 20, database: LocalDatabase | None = None
) -> Scan:
    return asyncio.run(scan_image(*image, trivy=trivy, timeout=timeout, database=database))


def a_database(cache: Path, digest: str = "a", hour: int = 6) -> LocalDatabase:
    folder = cache / "trivy" / "db" / (digest * 64)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trivy.db").write_text(digest)
    updated = datetime(2026, 11, 20, hour, tzinfo=UTC)
    known = Database(version=2, updated=updated, digest=f"sha256:{digest * 64}")
    return LocalDatabase(kind=VULNERABILITIES, reference="r.example/db:2", database=known, folder=folder)


def test_a_scan_reads_what_trivy_found(tmp_path: Path, image: tuple[Path, str]) -> None:
    found = scan(image, fake_trivy(tmp_path))
    assert not found.cached
    assert found.findings.subject == image[1]
    assert found.findings.scanner == "trivy 0.58.1"
    kinds = [one.kind for one in found.findings.findings]
    assert kinds.count(Kind.LICENCE) == 3 and kinds.count(Kind.SECRET) == 1
    assert [one.id for one in found.findings.findings if one.kind is Kind.MISCONFIGURATION] == ["KSV1"]
    assert [(one.name, one.version) for one in found.findings.packages] == [
        ("libc6", "2.36-9+deb12u9"),
        ("tar", "2:1.34"),
    ]
    counted = summary(found.findings)
    assert counted.licences == {"notice": 1, "restricted": 2}
    assert counted.secrets == 1 and counted.packages == 2
    assert found.sbom.is_file() and found.sarif.is_file() and found.report.is_file()


def test_without_a_database_vulnerabilities_are_not_scanned_and_not_zero(
    tmp_path: Path, cache: Path, image: tuple[Path, str]
) -> None:
    trivy = fake_trivy(tmp_path)
    assert summary(scan(image, trivy).findings).vulnerabilities is None
    assert ",vuln " not in (tmp_path / "calls").read_text()

    again = scan(image, trivy, database=a_database(cache))
    assert not again.cached
    assert summary(again.findings).vulnerabilities == {"HIGH": 1}
    assert ",vuln " in (tmp_path / "calls").read_text()


def test_every_call_forbids_every_download(tmp_path: Path, image: tuple[Path, str]) -> None:
    scan(image, fake_trivy(tmp_path))
    (line,) = [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("image")]
    for flag in ("--skip-db-update", "--skip-java-db-update", "--skip-check-update", "--offline-scan"):
        assert flag in line.split()


def test_the_same_question_is_answered_from_the_cache(tmp_path: Path, image: tuple[Path, str]) -> None:
    trivy = fake_trivy(tmp_path)
    first = scan(image, trivy)
    before = (tmp_path / "calls").read_text()

    again = scan(image, trivy)

    assert again.cached and again.findings == first.findings
    assert (tmp_path / "calls").read_text() == before


def test_another_digest_trivy_or_database_is_another_question(
    tmp_path: Path, cache: Path, image: tuple[Path, str]
) -> None:
    trivy = fake_trivy(tmp_path)
    scan(image, trivy)
    other = (tmp_path / "other.tar", write_image(tmp_path / "other.tar", layer(b="2")))
    assert not scan(other, trivy).cached
    assert not scan(image, trivy, database=a_database(cache)).cached
    assert scan(image, trivy, database=a_database(cache)).cached
    assert not scan(image, trivy, database=a_database(cache, "b")).cached
    assert not scan(image, trivy, database=a_database(cache, "b", hour=7)).cached
    trivy.write_text(trivy.read_text().replace("0.58.1", "0.60.0"))
    os.utime(trivy, (1, 1))
    assert not scan(image, trivy).cached
    assert scan(image, trivy).cached


@pytest.mark.parametrize(
    "name", ["findings.json", "sbom.cdx.json", "trivy.json", "findings.sarif", "sha256.json"]
)
@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", None])
def test_a_damaged_cache_entry_is_made_anew(
    tmp_path: Path, image: tuple[Path, str], name: str, damage: bytes | None
) -> None:
    trivy = fake_trivy(tmp_path)
    kept = scan(image, trivy).folder
    (kept / name).unlink() if damage is None else (kept / name).write_bytes(damage)
    assert not scan(image, trivy).cached
    assert scan(image, trivy).cached


def test_the_sbom_is_the_same_each_time(tmp_path: Path, cache: Path, image: tuple[Path, str]) -> None:
    trivy = fake_trivy(tmp_path)
    first = scan(image, trivy)
    one = first.sbom.read_bytes()
    shutil.rmtree(first.folder)
    assert scan(image, trivy).sbom.read_bytes() == one
    document = json.loads(one)
    (system,) = document["components"]
    reference = document["metadata"]["component"]["bom-ref"]
    edges = {edge["ref"]: edge.get("dependsOn", []) for edge in document["dependencies"]}
    assert edges == {reference: [system["bom-ref"]], system["bom-ref"]: []}
    assert "timestamp" not in document["metadata"]


def test_reports_are_copied_for_people(tmp_path: Path, image: tuple[Path, str]) -> None:
    scan(image, fake_trivy(tmp_path)).copy_to(tmp_path / "reports" / "api")
    names = sorted(path.name for path in (tmp_path / "reports" / "api").iterdir())
    assert names == ["findings.json", "findings.sarif", "sbom.cdx.json", "trivy.json"]


def test_the_sarif_is_what_github_wants(tmp_path: Path, image: tuple[Path, str]) -> None:
    trivy = fake_trivy(tmp_path)
    api = asyncio.run(scan_image(*image, trivy=trivy, name="api"))
    chart = asyncio.run(scan_manifests("kind: Pod\n", trivy=trivy))
    for scan, category in ((api, "api/"), (chart, "chart/")):
        (run,) = json.loads(scan.sarif.read_bytes())["runs"]
        assert run["automationDetails"] == {"id": category}
        assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["CVE-2026-1"]
        (result,) = run["results"]  # a licence is no alert
        assert (result["ruleId"], result["ruleIndex"]) == ("CVE-2026-1", 0)
        # Trivy said nowhere; GitHub wants to be told a place.
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"] == category.removesuffix("/")
        assert "/home/me" not in scan.sarif.read_text()


def test_of_more_results_than_github_takes_the_most_severe_stay(
    tmp_path: Path, image: tuple[Path, str]
) -> None:
    trivy = fake_trivy(tmp_path)
    rules = [
        {"id": f"CVE-{score}", "name": "OsPackageVulnerability", "properties": {"security-severity": score}}
        for score in ("2.0", "9.8", "5.5")
    ]
    counts = {"CVE-2.0": 20_000, "CVE-9.8": 4_000, "CVE-5.5": 3_000}
    results = [{"ruleId": rule} for rule, count in counts.items() for _ in range(count)]
    run = {"tool": {"driver": {"rules": rules}}, "results": results}
    (tmp_path / "findings.sarif").write_text(json.dumps({"version": "2.1.0", "runs": [run]}))

    (fitted,) = json.loads(scan(image, trivy).sarif.read_bytes())["runs"]

    kept = Counter(result["ruleId"] for result in fitted["results"])
    assert kept == {"CVE-9.8": 4_000, "CVE-5.5": 3_000, "CVE-2.0": 18_000}
    assert len(fitted["results"]) == 25_000


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runs": [{}]}', '{"runs": []}'])
def test_a_corrupt_sarif_fails_the_scan(tmp_path: Path, image: tuple[Path, str], text: str) -> None:
    trivy = fake_trivy(tmp_path)
    (tmp_path / "findings.sarif").write_text(text)
    with pytest.raises(StepFailed, match="SARIF"):
        scan(image, trivy)


def test_manifests_are_scanned_without_an_sbom(tmp_path: Path) -> None:
    trivy = fake_trivy(tmp_path)
    found = asyncio.run(scan_manifests("kind: Pod\n", trivy=trivy))
    assert found.findings.of is Scanned.MANIFESTS
    assert not found.sbom.exists() and found.sarif.is_file()
    assert asyncio.run(scan_manifests("kind: Pod\n", trivy=trivy)).cached
    assert not asyncio.run(scan_manifests("kind: Job\n", trivy=trivy)).cached


@pytest.mark.parametrize(
    ("shell", "error", "what"),
    [
        ("echo FATAL boom >&2; exit 1", StepFailed, "boom"),
        ("kill -9 $$", StepFailed, "exit code -9"),
        ('echo "<html>" > "$out"; exit 0', StepFailed, "cannot be understood"),
        ('echo "{}" > "$out"; exit 0', StepFailed, "cannot be understood"),
        ('echo \'{"SchemaVersion":9,"ArtifactName":"x"}\' > "$out"; exit 0', StepFailed, "version 9"),
        (": > $out; exit 0", StepFailed, "cannot be understood"),
        ("exit 0", StepFailed, "wrote no report"),
        ("exec sleep 60", StepFailed, "did not finish within"),
    ],
)
def test_a_trivy_that_fails_is_a_clear_error_and_leaves_nothing_behind(
    tmp_path: Path, cache: Path, image: tuple[Path, str], shell: str, error: type[PipelineError], what: str
) -> None:
    trivy = fake_trivy(tmp_path, scan=shell)
    with pytest.raises(error, match=what):
        asyncio.run(scan_image(*image, trivy=trivy, timeout=0.5 if "sleep" in shell else 20))
    assert [path.name for path in (cache / "scans").iterdir() if path.is_dir()] == []
    assert not scan(image, fake_trivy(tmp_path)).cached


@pytest.mark.parametrize("shell", ["exit 3", 'echo "[]" > "$out"; exit 0', ': > "$out"; exit 0', "exit 0"])
def test_a_failed_sbom_fails_the_scan(tmp_path: Path, image: tuple[Path, str], shell: str) -> None:
    with pytest.raises(StepFailed):
        scan(image, fake_trivy(tmp_path, convert=shell))


def test_the_cache_keeps_the_newest_scans_only(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trivy_module, "_KEPT", 2)
    trivy = fake_trivy(tmp_path)
    for number, name in enumerate("abc"):
        kept = asyncio.run(scan_manifests(name, trivy=trivy)).folder
        os.utime(kept, (number, number))
    left = [path for path in (cache / "scans").iterdir() if path.is_dir()]
    assert len(left) == 2 and kept in left


def test_a_missing_trivy_is_said(tmp_path: Path, image: tuple[Path, str]) -> None:
    with pytest.raises(ToolMissing):
        scan(image, tmp_path / "no-trivy")


def test_a_trivy_without_a_version_is_refused(tmp_path: Path, image: tuple[Path, str]) -> None:
    program = tmp_path / "trivy"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    with pytest.raises(StepFailed, match="does not say its version"):
        scan(image, program)


def test_trivy_sees_the_database_that_it_is_given_and_no_other(
    tmp_path: Path, cache: Path, image: tuple[Path, str]
) -> None:
    trivy = fake_trivy(
        tmp_path, scan=f'cat "$cache/db/trivy.db" >> {tmp_path}/seen || echo none >> {tmp_path}/seen'
    )
    for database in (a_database(cache), a_database(cache, "b"), None):
        scan(image, trivy, database=database)
    assert (tmp_path / "seen").read_text() == "abnone\n"


def test_an_image_that_is_no_tarball_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("hello" * 500)
    with pytest.raises(BadInput, match="not an image"):
        scan((tmp_path / "x.tar", "sha256:" + "0" * 64), fake_trivy(tmp_path))


def test_cancelling_stops_trivy_and_leaves_nothing(
    tmp_path: Path, cache: Path, image: tuple[Path, str]
) -> None:
    pid = tmp_path / "pid"
    trivy = fake_trivy(tmp_path, scan=f"echo $$ > {pid}; exec sleep 60")

    async def main() -> None:
        task = asyncio.create_task(scan_image(*image, trivy=trivy))
        while not (pid.is_file() and pid.read_text()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert not [path for path in (cache / "scans").iterdir() if path.is_dir()]


def test_a_disk_that_is_full_while_the_result_is_kept_is_said(
    tmp_path: Path, image: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Findings, **_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Findings, "model_dump_json", full)
    with pytest.raises(SystemUnavailable, match="disk is full"):
        scan(image, fake_trivy(tmp_path))

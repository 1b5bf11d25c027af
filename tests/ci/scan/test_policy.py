from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci import places
from ci.errors import BadInput
from ci.scan import (
    Database,
    Finding,
    Findings,
    Kind,
    Package,
    Policy,
    Scanned,
    Severity,
    judge,
    read_policy,
)
from ci.scan.findings import OperatingSystem, read_report

_TODAY = date(2026, 11, 23)
_POLICY = """
vulnerabilities:
  block: [CRITICAL, HIGH]
  fixed_only: true
  required: false
  database_max_age_days: 7
misconfigurations:
  block: [CRITICAL]
licences:
  block: [forbidden]
  block_names: [AGPL-*]
allow:
  - id: CVE-2026-1
    package: openssl
    images: [fastapi-backend]
    owner: team-voice
    reason: not reachable from outside
    expires: 2026-11-30
"""


def policy(tmp_path: Path, text: str = _POLICY) -> Policy:
    (tmp_path / "policy.yaml").write_text(text)
    return read_policy(tmp_path / "policy.yaml")


def found(*findings: Finding, database_age: int | None = 0) -> Findings:
    updated = datetime(2026, 11, 23 - (database_age or 0), 12, tzinfo=UTC)
    return Findings(
        of=Scanned.IMAGE,
        subject="sha256:" + "a" * 64,
        scanner="trivy 0",
        database=None if database_age is None else Database(version=2, updated=updated),
        findings=findings,
        packages=(Package(name="openssl", version="3.0", type="debian"),),
    )


def cve(severity: Severity = Severity.HIGH, fixed: str = "3.1", package: str = "openssl") -> Finding:
    return Finding(
        kind=Kind.VULNERABILITY,
        id="CVE-2026-1",
        severity=severity,
        target="debian",
        package=package,
        version="3.0",
        fixed=fixed,
    )


def test_the_projects_own_policy_is_right() -> None:
    assert read_policy(places.checkout() / "policy.yaml").misconfigurations.block


@pytest.mark.parametrize(
    ("finding", "blocks"),
    [
        (cve(package="curl"), True),
        (cve(package="curl", severity=Severity.MEDIUM), False),
        (cve(package="curl", fixed=""), False),
        (Finding(kind=Kind.SECRET, id="aws-access-key-id", severity=Severity.LOW, target="a"), True),
        (Finding(kind=Kind.MISCONFIGURATION, id="KSV1", severity=Severity.HIGH, target="a"), False),
        (Finding(kind=Kind.MISCONFIGURATION, id="KSV1", severity=Severity.CRITICAL, target="a"), True),
        (
            Finding(
                kind=Kind.LICENCE, id="AGPL-3.0", severity=Severity.LOW, target="a", category="restricted"
            ),
            True,
        ),
        (
            Finding(
                kind=Kind.LICENCE, id="GPL-2.0", severity=Severity.HIGH, target="a", category="restricted"
            ),
            False,
        ),
        (
            Finding(
                kind=Kind.LICENCE, id="WTFPL", severity=Severity.CRITICAL, target="a", category="forbidden"
            ),
            True,
        ),
    ],
)
def test_what_the_policy_names_blocks(tmp_path: Path, finding: Finding, blocks: bool) -> None:
    verdict = judge(found(finding), policy(tmp_path), name="fastapi-backend", today=_TODAY)
    assert verdict.blocking == ((finding,) if blocks else ())
    assert verdict.passes is not blocks


@pytest.mark.parametrize(
    ("name", "today", "passes"),
    [
        ("fastapi-backend", date(2026, 11, 23), True),
        ("fastapi-backend", date(2026, 11, 30), True),
        ("fastapi-backend", date(2026, 12, 1), False),
        ("livekit-agent", date(2026, 11, 23), False),
    ],
)
def test_an_entry_lets_its_finding_through_in_its_image_until_its_day_ends(
    tmp_path: Path, name: str, today: date, passes: bool
) -> None:
    verdict = judge(found(cve(), database_age=None), policy(tmp_path), name=name, today=today)
    assert verdict.passes is passes
    if passes:
        assert [finding.id for finding, _ in verdict.allowed] == ["CVE-2026-1"]
        assert [entry.owner for entry in verdict.expiring] == ["team-voice"]
    elif today > date(2026, 11, 30):
        assert [entry.owner for entry in verdict.expired] == ["team-voice"]


def test_an_entry_is_for_its_package_only(tmp_path: Path) -> None:
    other = cve(package="curl")
    assert judge(found(other), policy(tmp_path), name="fastapi-backend", today=_TODAY).blocking == (other,)


@given(st.sampled_from(list(Severity)), st.text(max_size=5))
def test_a_secret_can_never_be_let_through(severity: Severity, package: str) -> None:
    secret = Finding(
        kind=Kind.SECRET, id="CVE-2026-1", severity=severity, target="a", package=package or "openssl"
    )
    allowing = Policy.model_validate(
        {
            "vulnerabilities": {"block": []},
            "misconfigurations": {"block": []},
            "licences": {"block": []},
            "allow": [
                {"id": "CVE-2026-1", "owner": "me", "reason": "because I say so", "expires": "2099-01-01"}
            ],
        }
    )
    assert judge(found(secret), allowing, name="x", today=_TODAY).blocking == (secret,)


def test_no_part_of_the_policy_can_let_a_secret_through(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown key 'secrets'"):
        policy(tmp_path, f"{_POLICY}secrets: {{published_examples: []}}\n")


def test_not_scanned_blocks_only_where_the_policy_asks_for_a_scan(tmp_path: Path) -> None:
    lax = policy(tmp_path)
    strict = policy(tmp_path, _POLICY.replace("required: false", "required: true"))
    unscanned = found(database_age=None)
    assert judge(unscanned, lax, name="x", today=_TODAY).passes
    (complaint,) = judge(unscanned, strict, name="x", today=_TODAY).complaints
    assert "not scanned" in complaint
    manifests = unscanned.model_copy(update={"of": Scanned.MANIFESTS})
    assert judge(manifests, strict, name="chart", today=_TODAY).passes


@pytest.mark.parametrize(
    ("system", "said"),
    [
        (OperatingSystem(family="debian", name="12.11"), ""),
        (OperatingSystem(family="alpine", name="3.21.0"), ""),
        (OperatingSystem(family="suse linux enterprise server", name="15.6"), ""),
        (OperatingSystem(family="alpine", name="3.9.4", ended=True), "alpine 3.9.4 is out of support"),
        (OperatingSystem(family="ubuntu", name="21.10", ended=True), "nobody writes advisories"),
        (OperatingSystem(family="fedora", name="41"), "no advisories for fedora 41"),
        (OperatingSystem(), "unknown to the scanner"),
        (None, ""),  # a scan of before it was asked
    ],
)
def test_a_system_that_nobody_writes_advisories_for_is_a_complaint_where_a_scan_is_required(
    tmp_path: Path, system: OperatingSystem | None, said: str
) -> None:
    strict = policy(tmp_path, _POLICY.replace("required: false", "required: true"))
    scanned = found().model_copy(update={"system": system})

    verdict = judge(scanned, strict, name="x", today=_TODAY)

    assert verdict.passes is not bool(said)
    assert all(said in complaint for complaint in verdict.complaints)
    lax = judge(scanned, policy(tmp_path), name="x", today=_TODAY)
    assert lax.passes and said in lax.unread and bool(lax.unread) is bool(said)  # it is said all the same
    manifests = scanned.model_copy(update={"of": Scanned.MANIFESTS})
    assert judge(manifests, strict, name="chart", today=_TODAY).passes


def report(**metadata: object) -> bytes:
    package = {"Name": "tar", "Version": "1.34"}
    results = [{"Target": "x", "Class": "os-pkgs", "Type": "debian", "Packages": [package]}]
    return json.dumps(
        {"SchemaVersion": 2, "ArtifactName": "x", "Metadata": metadata, "Results": results}
    ).encode()


@pytest.mark.parametrize(
    ("metadata", "system"),
    [
        ({"OS": {"Family": "debian", "Name": "9.13", "EOSL": True}},
         OperatingSystem(family="debian", name="9.13", ended=True)),
        ({"OS": {"Family": "debian", "Name": "12.11"}}, OperatingSystem(family="debian", name="12.11")),
        ({"OS": {"Family": "none", "Name": ""}}, OperatingSystem()),
        ({"OS": None}, OperatingSystem()),
        ({}, OperatingSystem()),
    ],
)  # fmt: skip
def test_what_an_image_is_comes_from_the_report(metadata: dict[str, object], system: OperatingSystem) -> None:
    more = {"subject": "sha256:" + "a" * 64, "scanner": "trivy 0", "database": None}

    assert read_report(report(**metadata), of=Scanned.IMAGE, **more).system == system  # type: ignore[arg-type]
    assert read_report(report(**metadata), of=Scanned.MANIFESTS, **more).system is None  # type: ignore[arg-type]


def test_an_image_in_which_nothing_was_found_at_all_is_blocked(tmp_path: Path) -> None:
    blind = found().model_copy(update={"packages": ()})
    (complaint,) = judge(blind, policy(tmp_path), name="x", today=_TODAY).complaints
    assert "could not read it" in complaint


@pytest.mark.parametrize(("age", "passes"), [(7, True), (8, False), (-1, False)])
def test_an_old_database_blocks(tmp_path: Path, age: int, passes: bool) -> None:
    verdict = judge(found(database_age=age), policy(tmp_path), name="x", today=_TODAY)
    assert verdict.passes is passes


@pytest.mark.parametrize(
    ("old", "new", "place", "what"),
    [
        ("  fixed_only: true", "  fixed_onyl: true", ":4 (vulnerabilities.fixed_onyl)", "fixed_only"),
        ("block: [CRITICAL, HIGH]", "block: [SEVERE]", ":3 (vulnerabilities.block[0])", "CRITICAL"),
        ("    owner: team-voice\n", "", ":13 (allow[0])", "owner"),
        ("expires: 2026-11-30", "expires: soon", ":18 (allow[0].expires)", "a day is expected"),
        ("reason: not reachable from outside", "reason: short", ":17 (allow[0].reason)", "10"),
        ("misconfigurations:\n  block: [CRITICAL]\n", "", ":1", "misconfigurations"),
        ("licences:", "secret: []\nlicences:", ":9 (secret)", "unknown key"),
        ("  required: false", "  database: trivy-db:2", ":5 (vulnerabilities.database)", "names no registry"),
        (
            "  required: false",
            "  database: r.example/A",
            ":5 (vulnerabilities.database)",
            "name of a repository",
        ),
    ],
)
def test_a_wrong_policy_names_file_line_and_key(
    tmp_path: Path, old: str, new: str, place: str, what: str
) -> None:
    assert old in _POLICY
    with pytest.raises(BadInput) as caught:
        policy(tmp_path, _POLICY.replace(old, new))
    assert f"policy.yaml{place}" in str(caught.value)
    assert what in f"{caught.value} {caught.value.hint}"

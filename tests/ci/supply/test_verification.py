from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from ci.environments import Trust, TrustedSigner
from ci.release import Chart, Commit, Image, Release, ScanSummary, TestSummary
from ci.scan import Policy
from ci.supply import attestations
from ci.supply.attestations import Attestation, Kind, provenance, sbom, scan_report
from ci.supply.keyless import Claims
from ci.supply.verification import checks

_DIGEST, _OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
_COMMIT = Commit(sha="c" * 40, dirty=False, time=datetime(2026, 1, 1, tzinfo=UTC))
_TESTS = TestSummary(passed=3, failed=0, skipped=0)
_IMAGE = Image(
    name="api",
    digest=_DIGEST,
    size=1,
    tests=_TESTS,
    scan=ScanSummary(vulnerabilities=None, misconfigurations={}, secrets=0, licences={}, packages=1),
    attestations={"scan": _OTHER},
)
_RELEASE = Release(
    name="r1",
    created=_COMMIT.time,
    commit=_COMMIT,
    engine="embedded",
    images=(_IMAGE,),
    chart=Chart(name="chart", version="1.0.0", digest=_OTHER),
)
_TRUST = Trust(signers=(TrustedSigner(key=Path("k")),), builders=("https://github.com/o/r/*",))
_POLICY = Policy.model_validate(
    {
        "vulnerabilities": {"block": ["HIGH"]},
        "misconfigurations": {"block": []},
        "licences": {"block": []},
        "allow": [
            {"id": "CVE-1", "owner": "us", "reason": "not reachable", "expires": "2026-03-01"},
        ],
    }
)
_BUILDER = "https://github.com/o/r/.github/workflows/ci.yml@refs/heads/main"


def built(**change: Any) -> Attestation:
    facts: dict[str, Any] = {
        "name": "api",
        "digest": _DIGEST,
        "commit": _COMMIT,
        "engine": "embedded",
        "options": {},
        "builder": _BUILDER,
    }
    return provenance(**(facts | change))


def reported(digest: str = _DIGEST, failed: int = 0) -> Attestation:
    summary = TestSummary(passed=3, failed=failed, skipped=0)
    return attestations.tests(name="api", digest=digest, summary=summary)


def scanned(*findings: str, digest: str = _DIGEST, **change: Any) -> Attestation:
    found = {
        "of": "image",
        "subject": digest,
        "scanner": "x",
        "database": {"version": 2, "updated": "2026-01-01T00:00:00Z"},
        "findings": [
            {"kind": "vulnerability", "id": one, "severity": "HIGH", "target": "t", "package": "p"}
            for one in findings
        ],
        "packages": [{"name": "p", "version": "1", "type": "debian"}],
    }
    return scan_report(json.dumps(found | change).encode())


_GOOD = {
    Kind.PROVENANCE: built(),
    Kind.TESTS: reported(),
    Kind.SCAN: scanned(),
    Kind.SBOM: sbom(b'{"bomFormat": "CycloneDX", "components": [{}, {}]}'),
}


def asked(
    today: date = date(2026, 2, 1),
    trust: Trust = _TRUST,
    claims: Claims | None = None,
    **change: Attestation | None,
) -> dict[str, str]:
    """What is said of each kind; a refusal with its mark."""
    documents = _GOOD | {Kind(kind): document for kind, document in change.items()}
    attached = {kind: document for kind, document in documents.items() if document}
    found = checks(_RELEASE, _IMAGE, attached, trust=trust, policy=_POLICY, today=today, claims=claims)
    assert {check.subject for check in found} == {"api"} and len(found) == 4
    return {check.what: check.said if check.passes else f"REFUSED {check.reason}" for check in found}


def test_a_release_that_proves_all_of_it_passes() -> None:
    assert asked() == {
        "provenance": f"commit cccccccccccc by {_BUILDER}",
        "tests": "3 passed",
        "scan": "passes",
        "sbom": "2 components",
    }


@pytest.mark.parametrize(
    ("kind", "document", "reason"),
    [
        ("provenance", None, "nothing says what it was built from"),
        ("tests", None, "nothing says that its tests passed"),
        ("scan", None, f"the registry lacks {_OTHER}, which the release names"),
        ("sbom", None, "nothing says what is in it"),
        ("provenance", built(builder="urn:x"), "built by urn:x; trusted are https://github.com/o/r/*"),
        ("provenance", built(digest=_OTHER), "it is about another image"),
        ("provenance", built(commit=_COMMIT.model_copy(update={"sha": "d" * 40})), "built of commit dddd"),
        ("provenance", built(commit=_COMMIT.model_copy(update={"dirty": True})), "uncommitted changes"),
        ("provenance", reported(), "not a https://slsa.dev/provenance/v1"),
        ("tests", reported(failed=1), "its tests: FAILED"),
        ("tests", reported(_OTHER), "it is about another image"),
        ("scan", scanned(digest=_OTHER), "it is about another image"),
        ("scan", scanned("CVE-2"), "the scan policy refuses it: HIGH vulnerability CVE-2 in p"),
        ("scan", scanned(packages=[]), "no package was found in it"),
        ("scan", scanned(nonsense=1), "it cannot be read: nonsense"),
        ("sbom", sbom(b"not JSON"), "it cannot be read"),
        ("sbom", sbom(b"[]"), "no CycloneDX document"),
    ],
)
def test_what_does_not_is_refused_with_the_reason(
    kind: str, document: Attestation | None, reason: str
) -> None:
    said = asked(**{kind: document})[kind]
    assert said.startswith("REFUSED") and reason in said


def test_uncommitted_changes_are_let_through_where_the_environment_says_so() -> None:
    dirty = built(commit=_COMMIT.model_copy(update={"dirty": True}))
    lenient = _TRUST.model_copy(update={"uncommitted_changes": True})
    assert asked(trust=lenient, provenance=dirty)["provenance"].startswith("commit")


def test_an_allowance_that_ran_out_since_the_build_blocks_now() -> None:
    assert asked(scan=scanned("CVE-1"))["scan"] == "passes, 1 allowed"
    assert (
        "the entry for CVE-1 ran out on 2026-03-01" in asked(date(2026, 3, 2), scan=scanned("CVE-1"))["scan"]
    )


def test_an_image_that_was_not_searched_for_vulnerabilities_is_said_to_be_so() -> None:
    assert "were not looked for" in asked(scan=scanned(database=None))["scan"]


_RUN = "https://github.com/o/r/actions/runs/12/attempts/1"
_KNOWN = Claims(
    signer=_BUILDER,
    runner="github-hosted",
    repository="https://github.com/o/r",
    commit="c" * 40,
    ref="refs/heads/main",
    run=_RUN,
)
_TOLD = {
    "repository": "https://github.com/o/r",
    "runner": "github-hosted",
    "made": {"run": _RUN},
    "handover": _OTHER,
}


def test_provenance_that_says_what_the_certificate_says_passes() -> None:
    assert asked(claims=_KNOWN, provenance=built(**_TOLD))["provenance"].startswith("commit")
    # What an older one says nothing of is not asked for.
    assert asked(claims=_KNOWN)["provenance"].startswith("commit")


def test_a_second_attempt_at_a_run_goes_on_with_what_the_first_made() -> None:
    again = replace(_KNOWN, run=_RUN.replace("attempts/1", "attempts/2"))
    assert asked(claims=again, provenance=built(**_TOLD))["provenance"].startswith("commit")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"signer": _BUILDER.replace("ci.yml", "x.yml")}, "its builder is .*ci.yml@.*certificate .*x.yml@"),
        ({"signer": ""}, "the certificate names no workflow"),
        ({"repository": "https://github.com/x/r"}, "its repository is https://github.com/o/r; .*x/r"),
        ({"commit": "d" * 40}, "its commit is cccc.*; .*dddd"),
        ({"ref": "refs/heads/topic"}, "its ref is refs/heads/main; .*refs/heads/topic"),
        ({"run": _RUN.replace("12", "13")}, r"its run is .*runs/12; .*runs/13"),
        ({"runner": "self-hosted"}, "its runner is github-hosted; .*self-hosted"),
    ],
)
def test_provenance_that_the_certificate_contradicts_is_refused(change: dict[str, str], said: str) -> None:
    found = asked(claims=replace(_KNOWN, **change), provenance=built(**_TOLD))["provenance"]
    assert found.startswith("REFUSED") and re.search(said, found), found


def test_a_document_as_deep_as_the_sea_is_refused() -> None:
    assert asked(sbom=sbom(b"[" * 200_000))["sbom"].startswith("REFUSED it cannot be read")

"""A real database, made of advisories of ours with Aqua Security's own module, on its whole way: pushed to a
registry, mirrored to another, used by Trivy, judged by the policy.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from oci import layer, write_image
from real_registry import free_port, registry_on
from vulnerability_database import debian_advisory, made_of, packed, python_advisory

from ci import tools
from ci.errors import PolicyBlocked, StepFailed, SystemUnavailable, ToolMissing
from ci.registry import Bundle, Registry, push
from ci.reporting import SilentReporter
from ci.scan import Finding, Findings, Policy, Scan, judge, scan_image, summary
from pipelines.database import Databases, database_status, databases, mirror

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

_TODAY = date(2026, 11, 24)
_STATUS = """Package: libssl3
Status: install ok installed
Architecture: amd64
Source: openssl
Version: 3.0.15-1~deb12u1
Maintainer: x <x@example.com>

Package: zlib1g
Status: install ok installed
Architecture: amd64
Source: zlib (1:1.2.13.dfsg-1)
Version: 1:1.2.13.dfsg-1
Maintainer: x <x@example.com>
"""


_ADVISORIES = (
    debian_advisory("CVE-2026-90001", "HIGH", "openssl", "3.0.17-1~deb12u3"),
    debian_advisory("CVE-2026-90002", "CRITICAL", "openssl", ""),  # nobody has mended it yet
    debian_advisory("CVE-2026-90003", "CRITICAL", "zlib", "1:1.2.13.dfsg-1"),  # mended in what is installed
    python_advisory("CVE-2026-90004", "CRITICAL", "requests", "<2.31.0", "2.31.0"),
    python_advisory("CVE-2026-90005", "MEDIUM", "requests", "<2.32.0", "2.32.0"),
    python_advisory("CVE-2026-90006", "CRITICAL", "requests", ">=2.21.0", "2.31.0"),  # of other versions
)


@pytest.fixture(scope="module")
def trivy() -> Path:
    try:
        for name in ("trivy-db", "docker-registry"):
            tools.path(name)
        return tools.path("trivy")
    except ToolMissing as missing:
        pytest.skip(f"{missing}: va doctor --install")


@pytest.fixture(scope="module")
def bundle(trivy: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return made_of(_ADVISORIES, tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="module")
def source(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with the database: what ghcr.io is to the world."""
    with registry_on(tmp_path_factory.mktemp("source") / "data", free_port()) as address:
        offer(address, bundle)
        yield f"{address}/aquasecurity/trivy-db:2"


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[str]:
    with registry_on(tmp_path / "registry", free_port()) as address:
        yield f"{address}/mirror/trivy-db"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VA_DATABASE", raising=False)
    return tmp_path / "cache"


def offer(address: str, bundle: Bundle) -> None:
    async def main() -> None:
        async with Registry(address) as registry:
            await push(registry, "aquasecurity/trivy-db", bundle, tags=["2"])

    asyncio.run(main())


def image(folder: Path) -> tuple[Path, str]:
    content = {
        "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
        "etc/debian_version": "12.8\n",
        "var/lib/dpkg/status": _STATUS,
        "app/requests-2.20.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: requests\n"
        "Version: 2.20.0\n\n",
    }
    return folder / "image.tar", write_image(folder / "image.tar", layer(**content))


def policy(database: str | None = None, allow: Sequence[Mapping[str, Any]] = (), **rule: Any) -> Policy:
    return Policy.model_validate(
        {
            "vulnerabilities": {
                "block": ["CRITICAL", "HIGH"],
                "fixed_only": True,
                "required": True,
                "database": database,
                "database_max_age_days": 7,
                **rule,
            },
            "misconfigurations": {"block": []},
            "licences": {"block": []},
            "allow": allow,
        }
    )


def allowing(id: str, expires: str) -> dict[str, Any]:
    return {"id": id, "owner": "team-voice", "reason": "not reachable from outside", "expires": expires}


def have(rules: Policy) -> Databases:
    return asyncio.run(databases(rules, reporter=SilentReporter()))


def scanned(folder: Path, trivy: Path, database: str) -> Scan:
    found = have(policy(database)).vulnerabilities
    return asyncio.run(scan_image(*image(folder), trivy=trivy, database=found))


def ids(findings: Sequence[Finding]) -> list[str]:
    return sorted(one.id for one in findings)


def verdict_of(findings: Findings, rules: Policy) -> tuple[list[str], list[str]]:
    verdict = judge(findings, rules, name="fastapi-backend", today=_TODAY)
    return ids(verdict.blocking), ids([finding for finding, _ in verdict.allowed])


def test_what_is_vulnerable_is_found_blocked_and_let_through_by_a_valid_entry_only(
    tmp_path: Path, trivy: Path, source: str, ours: str
) -> None:
    done = asyncio.run(
        mirror(source, ours, digest=None, max_age=timedelta(hours=24), reporter=SilentReporter())
    )
    scan = scanned(tmp_path, trivy, done.destination)
    findings = scan.findings
    assert findings.database is not None and findings.database.digest == done.database.digest
    assert {(one.id, one.package, one.version, one.fixed) for one in findings.findings} == {
        ("CVE-2026-90001", "libssl3", "3.0.15-1~deb12u1", "3.0.17-1~deb12u3"),
        ("CVE-2026-90002", "libssl3", "3.0.15-1~deb12u1", ""),
        ("CVE-2026-90004", "requests", "2.20.0", "2.31.0"),
        ("CVE-2026-90005", "requests", "2.20.0", "2.32.0"),
    }
    assert summary(findings).vulnerabilities == {"CRITICAL": 2, "HIGH": 1, "MEDIUM": 1}

    assert verdict_of(findings, policy()) == (["CVE-2026-90001", "CVE-2026-90004"], [])
    assert verdict_of(findings, policy(fixed_only=False))[0] == [f"CVE-2026-9000{n}" for n in (1, 2, 4)]
    valid = [allowing("CVE-2026-90001", "2026-11-24"), allowing("CVE-2026-90004", "2027-01-01")]
    assert verdict_of(findings, policy(allow=valid)) == ([], ["CVE-2026-90001", "CVE-2026-90004"])
    expired = [allowing("CVE-2026-90001", "2026-11-23"), allowing("CVE-2026-90004", "2027-01-01")]
    assert verdict_of(findings, policy(allow=expired)) == (["CVE-2026-90001"], ["CVE-2026-90004"])

    sarif = json.loads(scan.sarif.read_bytes())
    rules = {rule["id"] for rule in sarif["runs"][0]["tool"]["driver"]["rules"]}
    assert {"CVE-2026-90001", "CVE-2026-90004"} <= rules


def test_the_work_is_done_once_for_a_digest_and_a_database(tmp_path: Path, trivy: Path, source: str) -> None:
    assert not scanned(tmp_path, trivy, source).cached
    rules = policy(source)
    found = have(rules).vulnerabilities

    assert asyncio.run(scan_image(*image(tmp_path), trivy=trivy, database=found)).cached


def test_trivy_itself_accepts_the_mirror_as_its_repository(
    tmp_path: Path, trivy: Path, source: str, ours: str, bundle: Bundle
) -> None:
    asyncio.run(mirror(source, ours, digest=bundle.digest, max_age=None, reporter=SilentReporter()))
    words = ["image", "--download-db-only", "--db-repository", f"{ours}:2", "--cache-dir", tmp_path / "own"]
    subprocess.run([trivy, *words, "--quiet"], check=True, timeout=60)
    ours_copy = have(policy(f"{ours}:2")).vulnerabilities
    assert ours_copy is not None
    assert (tmp_path / "own/db/trivy.db").read_bytes() == (ours_copy.folder / "trivy.db").read_bytes()


def test_without_a_database_nothing_is_said_to_be_free_of_vulnerabilities(
    tmp_path: Path, trivy: Path
) -> None:
    assert have(policy()).vulnerabilities is None
    scan = asyncio.run(scan_image(*image(tmp_path), trivy=trivy))
    assert summary(scan.findings).vulnerabilities is None
    (complaint,) = judge(scan.findings, policy(), name="x", today=_TODAY).complaints
    assert "not scanned" in complaint


def test_a_mirror_that_is_down_fails_the_scan_unless_the_last_database_is_here(
    tmp_path: Path, trivy: Path, bundle: Bundle
) -> None:
    port = free_port()
    rules = policy(f"127.0.0.1:{port}/aquasecurity/trivy-db:2")
    with pytest.raises(SystemUnavailable):
        have(rules)
    with registry_on(tmp_path / "data", port) as address:
        offer(address, bundle)
        have(rules)
    found = have(rules).vulnerabilities
    assert found is not None and "did not answer" in found.problem
    assert not asyncio.run(scan_image(*image(tmp_path), trivy=trivy, database=found)).cached
    status = asyncio.run(database_status(rules, reporter=SilentReporter()))
    assert status.problem and not status.complaint and status.age_hours is not None and status.age_hours >= 1


def test_a_database_too_old_reaches_no_mirror(source: str, ours: str) -> None:
    with pytest.raises(PolicyBlocked, match="1 h old"):
        asyncio.run(
            mirror(source, ours, digest=None, max_age=timedelta(minutes=30), reporter=SilentReporter())
        )


def test_a_database_that_trivy_cannot_open_fails_the_scan(tmp_path: Path, trivy: Path, ours: str) -> None:
    address = ours.partition("/")[0]
    now = datetime.now(UTC).isoformat()
    said = json.dumps({"Version": 2, "UpdatedAt": now, "NextUpdate": now}).encode()
    offer(address, packed({"trivy.db": b"no database " * 4096, "metadata.json": said}))
    with pytest.raises(StepFailed, match="invalid database"):
        scanned(tmp_path, trivy, f"{address}/aquasecurity/trivy-db:2")


def test_images_that_are_scanned_at_once_share_the_database(tmp_path: Path, trivy: Path, source: str) -> None:
    found = have(policy(source)).vulnerabilities
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()

    async def all_at_once() -> list[Scan]:
        return await asyncio.gather(
            *(scan_image(*image(folder), trivy=trivy, database=found, name=folder.name) for folder in folders)
        )

    for scan in asyncio.run(all_at_once()):
        assert len(scan.findings.findings) == 4

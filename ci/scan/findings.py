"""What a scan found, as plain values: findings and packages, read from Trivy's JSON report."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_pascal

from ci.complaints import in_words
from ci.release import ScanSummary

__all__ = [
    "Database",
    "Finding",
    "Findings",
    "Kind",
    "OperatingSystem",
    "Package",
    "Scanned",
    "Severity",
    "read_report",
    "summary",
]

_SCHEMA = 2


class Kind(StrEnum):
    """What sort of finding it is."""

    VULNERABILITY = "vulnerability"
    MISCONFIGURATION = "misconfiguration"
    SECRET = "secret"  # noqa: S105
    LICENCE = "licence"


class Severity(StrEnum):
    """How bad, in Trivy's words, the worst first."""

    CRITICAL = "CRITICAL"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"
    UNKNOWN = "UNKNOWN"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Record):
    """One finding. `id` is a CVE, a check, a secret rule or a licence; `target` a file or set of packages."""

    kind: Kind
    id: str
    severity: Severity
    target: str
    title: str = ""
    package: str = ""
    version: str = ""
    fixed: str = ""
    """The version without this vulnerability; empty when there is none yet."""
    category: str = ""
    """Of a licence: forbidden, restricted, reciprocal, notice, permissive, unencumbered or unknown."""
    line: int | None = None

    @property
    def name(self) -> str:
        """One line for people: `CVE-2026-1 in openssl 3.0.1 (fixed in 3.0.2)`."""
        where = f"{self.package} {self.version}".strip() or self.target
        line = f":{self.line}" if self.line and not self.package else ""
        fixed = f" (fixed in {self.fixed})" if self.fixed else ""
        return f"{self.id} in {where}{line}{fixed}"


class Package(_Record):
    """An installed package: `type` is its ecosystem (debian, python-pkg, ...)."""

    name: str
    version: str
    type: str


class Database(_Record):
    """The vulnerability database that was used. `version` is its schema's, `digest` its manifest's.

    Scans that were made before databases were named by digest have neither `digest` nor `next_update`.
    """

    version: int
    updated: datetime
    next_update: datetime | None = None
    digest: str | None = None
    java: str | None = None
    """The digest of the index of Java archives that went with it."""


class Scanned(StrEnum):
    """What sort of thing was scanned. Manifests hold no packages, so no vulnerabilities to look for."""

    IMAGE = "image"
    MANIFESTS = "manifests"


class OperatingSystem(_Record):
    """What the scanner took an image for; no `family` where it knows none. `ended`: it is out of support."""

    family: str = ""
    name: str = ""
    ended: bool = False


class Findings(_Record):
    """All that one scan of one thing said. Without a `database`, vulnerabilities were not looked for."""

    of: Scanned
    subject: str
    """The digest that was scanned."""
    scanner: str
    database: Database | None
    findings: tuple[Finding, ...]
    packages: tuple[Package, ...]
    system: OperatingSystem | None = None
    """Of an image. Scans of before it was asked have none."""


def summary(findings: Findings) -> ScanSummary:
    """Counts, by severity, of licences by category; vulnerabilities None when they were not looked for."""

    def counts(kind: Kind) -> dict[str, int]:
        counted = Counter(one.severity for one in findings.findings if one.kind is kind)
        return {severity.value: counted[severity] for severity in Severity if counted[severity]}

    licences = Counter(one.category for one in findings.findings if one.kind is Kind.LICENCE)
    return ScanSummary(
        vulnerabilities=counts(Kind.VULNERABILITY) if findings.database else None,
        misconfigurations=counts(Kind.MISCONFIGURATION),
        secrets=sum(one.kind is Kind.SECRET for one in findings.findings),
        licences=dict(sorted(licences.items())),
        packages=len(findings.packages),
    )


class _Trivy(BaseModel):
    model_config = ConfigDict(alias_generator=to_pascal)


class _Vulnerability(_Trivy):
    vulnerability_id: str = Field(alias="VulnerabilityID")
    pkg_name: str
    installed_version: str = ""
    fixed_version: str = ""
    severity: Severity = Severity.UNKNOWN
    title: str = ""


class _Cause(_Trivy):
    start_line: int | None = None
    resource: str = ""


class _Misconfiguration(_Trivy):
    id: str = Field(alias="ID")
    severity: Severity = Severity.UNKNOWN
    title: str = ""
    message: str = ""
    status: str = "FAIL"
    cause_metadata: _Cause = _Cause()


class _Secret(_Trivy):
    rule_id: str = Field(alias="RuleID")
    severity: Severity = Severity.CRITICAL
    title: str = ""
    start_line: int | None = None


class _Licence(_Trivy):
    name: str
    category: str = "unknown"
    severity: Severity = Severity.UNKNOWN
    pkg_name: str = ""
    file_path: str = ""


class _Package(_Trivy):
    name: str
    version: str = ""
    release: str = ""
    epoch: int = 0


class _Result(_Trivy):
    target: str = ""
    type: str = ""
    class_: str = Field(default="", alias="Class")
    packages: list[_Package] = []
    vulnerabilities: list[_Vulnerability] = []
    misconfigurations: list[_Misconfiguration] = []
    secrets: list[_Secret] = []
    licenses: list[_Licence] = []


class _System(_Trivy):
    family: str = ""
    name: str = ""
    eosl: bool = Field(default=False, alias="EOSL")


class _Metadata(_Trivy):
    os: _System | None = Field(default=None, alias="OS")


class _Report(_Trivy):
    schema_version: int
    artifact_name: str
    metadata: _Metadata = _Metadata()
    results: list[_Result] = []


def read_report(
    raw: bytes, *, of: Scanned, subject: str, scanner: str, database: Database | None
) -> Findings:
    """Trivy's JSON as findings; ValueError says what is wrong with it."""
    try:
        report = _Report.model_validate_json(raw)
    except ValidationError as error:
        raise ValueError(in_words(error)) from error
    if report.schema_version != _SCHEMA:
        raise ValueError(f"its schema is version {report.schema_version}; this project reads {_SCHEMA}")
    found = sorted(
        {finding for result in report.results for finding in _findings(result)},
        key=lambda one: (list(Severity).index(one.severity), one.kind, one.id, one.target, one.package),
    )
    packages = {
        Package(name=package.name, version=_version(package), type=result.type)
        for result in report.results
        for package in result.packages
    }
    return Findings(
        of=of,
        subject=subject,
        scanner=scanner,
        database=database,
        findings=tuple(found),
        packages=tuple(sorted(packages, key=lambda one: (one.type, one.name, one.version))),
        system=_system(report.metadata.os) if of is Scanned.IMAGE else None,
    )


def _system(said: _System | None) -> OperatingSystem:
    if said is None or not said.family or said.family == "none":
        return OperatingSystem()
    return OperatingSystem(family=said.family, name=said.name, ended=said.eosl)


def _findings(result: _Result) -> list[Finding]:
    target = result.target
    return [
        *(
            Finding(
                kind=Kind.VULNERABILITY,
                id=one.vulnerability_id,
                severity=one.severity,
                target=target,
                title=one.title,
                package=one.pkg_name,
                version=one.installed_version,
                fixed=one.fixed_version,
            )
            for one in result.vulnerabilities
        ),
        *(
            Finding(
                kind=Kind.MISCONFIGURATION,
                id=one.id,
                severity=one.severity,
                target=target,
                title=f"{one.title}: {one.message}" if one.message else one.title,
                line=one.cause_metadata.start_line or None,
            )
            for one in result.misconfigurations
            if one.status == "FAIL"
        ),
        *(
            Finding(
                kind=Kind.SECRET,
                id=one.rule_id,
                severity=one.severity,
                target=target,
                title=one.title,
                line=one.start_line or None,
            )
            for one in result.secrets
        ),
        *(
            Finding(
                kind=Kind.LICENCE,
                id=one.name,
                severity=one.severity,
                target=one.file_path or target,
                package=one.pkg_name,
                category=one.category or "unknown",
            )
            for one in result.licenses
        ),
    ]


def _version(package: _Package) -> str:
    epoch = f"{package.epoch}:" if package.epoch else ""
    return f"{epoch}{package.version}{'-' if package.release else ''}{package.release}"

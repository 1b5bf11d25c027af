"""The scan policy: which findings block a release, and which are let through, by whom, why and until when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, field_validator
from pydantic_core import PydanticCustomError

from ci import yamlfile
from ci.environments import TrustedSigner
from ci.errors import BadInput
from ci.registry import parse_reference
from ci.scan.findings import Database, Finding, Findings, Kind, Scanned, Severity

__all__ = [
    "Allowance",
    "LicenceCategory",
    "Policy",
    "Verdict",
    "VulnerabilityRule",
    "database_complaint",
    "judge",
    "read_policy",
]

_SOON = timedelta(days=14)
_LOOKED_AFTER = frozenset(
    {
        *("alma", "alpine", "amazon", "azurelinux", "cbl-mariner", "centos", "chainguard", "debian"),
        *("opensuse.leap", "opensuse.tumbleweed", "opensuse-leap", "opensuse-tumbleweed", "oracle", "photon"),
        *("redhat", "rocky", "slem", "sles", "suse linux enterprise micro", "suse linux enterprise server"),
        *("ubuntu", "wolfi"),
    }
)
"""Whose packages Trivy knows advisories for (its pkg/detector/ospkg); of others it says nothing at all."""


class LicenceCategory(StrEnum):
    """Google's classes of licences, as Trivy names them, the strictest first."""

    FORBIDDEN = "forbidden"
    RESTRICTED = "restricted"
    RECIPROCAL = "reciprocal"
    NOTICE = "notice"
    PERMISSIVE = "permissive"
    UNENCUMBERED = "unencumbered"
    UNKNOWN = "unknown"


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VulnerabilityRule(_Rule):
    """Which vulnerabilities block, and what is asked of the database that looks for them."""

    block: tuple[Severity, ...]
    fixed_only: StrictBool = False
    """Block only those that a newer version of the package mends."""
    required: StrictBool = False
    """Block what was not scanned for vulnerabilities at all, or whose system nobody writes advisories for."""
    database: str | None = None
    """Where the database is: `host/repository:tag` or `…@sha256:…`; without one nothing is looked for."""
    java_database: str | None = None
    """Where the index of Java archives is; only images with some need it."""
    database_signers: tuple[TrustedSigner, ...] = ()
    """Who may have signed a database that is named by a tag: whoever moves a tag decides what scans find."""
    database_max_age_days: StrictInt | None = Field(default=None, ge=1)
    second_source: StrictBool = False
    """Ask PyPI and Debian too, and say what they find. It needs the network, and never blocks."""

    @field_validator("database", "java_database")
    @classmethod
    def _reference(cls, text: str | None) -> str | None:
        try:
            return str(parse_reference(text)) if text else None
        except BadInput as error:
            raise PydanticCustomError(
                "reference", "{what}", {"what": str(error), "hint": error.hint}
            ) from None


class MisconfigurationRule(_Rule):
    """Which misconfigurations of an image or of the rendered chart block."""

    block: tuple[Severity, ...]


class LicenceRule(_Rule):
    """Which licences block: by category, or by name (shell patterns: `AGPL-*`)."""

    block: tuple[LicenceCategory, ...]
    block_names: tuple[str, ...] = ()


class Allowance(_Rule):
    """Lets one finding through, until the end of the day `expires` in UTC; never a secret."""

    id: str = Field(min_length=3)
    package: str | None = None
    """Only in this package."""
    images: tuple[str, ...] = ()
    """Only in these images (or `chart`); empty: everywhere."""
    owner: str = Field(min_length=2)
    reason: str = Field(min_length=10)
    expires: date

    def covers(self, finding: Finding, name: str) -> bool:
        """Whether it is about this finding in the image of that name, be it expired or not."""
        return (
            finding.kind is not Kind.SECRET
            and finding.id == self.id
            and self.package in (None, finding.package)
            and (not self.images or name in self.images)
        )


class Policy(_Rule):
    """The whole policy file."""

    vulnerabilities: VulnerabilityRule
    misconfigurations: MisconfigurationRule
    licences: LicenceRule
    allow: tuple[Allowance, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the policy says of one image (or of the chart)."""

    name: str
    blocking: tuple[Finding, ...]
    complaints: tuple[str, ...]
    """What blocks although it is no finding: not scanned, a database too old."""
    allowed: tuple[tuple[Finding, Allowance], ...]
    expired: tuple[Allowance, ...]
    """Entries that would have let a blocking finding through, had they not run out."""
    expiring: tuple[Allowance, ...]
    """Entries in use that run out within two weeks."""
    unread: str = ""
    """Why finding no vulnerability says nothing of its packages; a complaint where a scan is required."""

    @property
    def passes(self) -> bool:
        """Whether nothing blocks."""
        return not self.blocking and not self.complaints


def read_policy(file: Path) -> Policy:
    """Read the policy file; BadInput names file, line and key of what is wrong in it."""
    return yamlfile.checked(Policy, yamlfile.load(file))


def judge(findings: Findings, policy: Policy, *, name: str, today: date) -> Verdict:
    """Apply the policy to what was found in the image of that name (or in `chart`)."""
    blocking: list[Finding] = []
    allowed: list[tuple[Finding, Allowance]] = []
    expired: dict[Allowance, None] = {}
    for finding in findings.findings:
        if not _blocks(finding, policy):
            continue
        entries = [entry for entry in policy.allow if entry.covers(finding, name)]
        valid = [entry for entry in entries if today <= entry.expires]
        if valid:
            allowed.append((finding, max(valid, key=lambda entry: entry.expires)))
        else:
            blocking.append(finding)
            expired |= dict.fromkeys(entries)
    used = dict.fromkeys(entry for _, entry in allowed)
    return Verdict(
        name=name,
        blocking=tuple(blocking),
        complaints=tuple(_complaints(findings, policy.vulnerabilities, today)),
        allowed=tuple(allowed),
        expired=tuple(expired),
        expiring=tuple(entry for entry in used if entry.expires - today < _SOON),
        unread=_unread(findings),
    )


def _blocks(finding: Finding, policy: Policy) -> bool:
    match finding.kind:
        case Kind.SECRET:
            return True
        case Kind.VULNERABILITY:
            rule = policy.vulnerabilities
            return finding.severity in rule.block and bool(finding.fixed or not rule.fixed_only)
        case Kind.MISCONFIGURATION:
            return finding.severity in policy.misconfigurations.block
        case Kind.LICENCE:
            named = any(fnmatchcase(finding.id, pattern) for pattern in policy.licences.block_names)
            return named or finding.category in policy.licences.block


def _complaints(findings: Findings, rule: VulnerabilityRule, today: date) -> list[str]:
    if findings.of is not Scanned.IMAGE:
        return []
    if not findings.packages:
        return ["no package was found in it: the scanner could not read it"]
    if findings.database is None:
        return ["vulnerabilities were not scanned: there is no database"] if rule.required else []
    complaint = database_complaint(findings.database, rule, today)
    unread = _unread(findings) if rule.required else ""
    return [one for one in (complaint, unread) if one]


def _unread(findings: Findings) -> str:
    """Why finding nothing says nothing about an image's packages; empty where somebody looks after them."""
    system = findings.system
    if findings.of is not Scanned.IMAGE or findings.database is None or system is None:
        return ""
    called = f"{system.family} {system.name}".strip()
    if not called:
        return "its operating system is unknown to the scanner: of its packages no vulnerability can be found"
    if system.ended:
        return f"{called} is out of support: nobody writes advisories for it any more, so none can be found"
    if system.family.lower() not in _LOOKED_AFTER:
        return f"the scanner reads no advisories for {called}: no vulnerability of its packages can be found"
    return ""


def database_complaint(database: Database, rule: VulnerabilityRule, today: date) -> str:
    """Why the policy does not accept what this database says; empty when it does."""
    age = (today - database.updated.astimezone(UTC).date()).days
    if age < 0:
        return (
            f"the vulnerability database is of {database.updated:%Y-%m-%d}: a clock is wrong, here or there"
        )
    if rule.database_max_age_days is not None and age > rule.database_max_age_days:
        return f"the vulnerability database is {age} days old; {rule.database_max_age_days} are allowed"
    return ""

"""Scan what was built, and the rendered chart, and let the policy decide.

What is found is cached by digest; the policy is applied each time, with today's date.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydantic_core import to_json

from ci import tools
from ci.concurrency import together
from ci.dates import end_of
from ci.errors import PolicyBlocked
from ci.files import write_whole
from ci.layout import Column, Line, Page, Table, page, words
from ci.release import ScanSummary
from ci.reporting import Reporter, Step
from ci.scan import (
    Advisory,
    Database,
    Kind,
    Opinion,
    Policy,
    Scan,
    Scanned,
    Verdict,
    judge,
    scan_image,
    scan_manifests,
    second_opinions,
    summary,
)
from pipelines.build import BuiltImage
from pipelines.database import Databases

__all__ = ["CHART", "ScannedSubject", "refuse_blocked", "scan", "scan_built", "scan_chart", "show_scanned"]

CHART = "chart"
"""The name under which policy.yaml speaks of the rendered chart."""
_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class ScannedSubject:
    """What a scan found in an image or in the chart, and what the policy says of it."""

    name: str
    of: Scanned
    digest: str
    scanner: str
    summary: ScanSummary
    verdict: Verdict
    database: Database | None
    """None: it was not scanned for vulnerabilities."""
    opinions: tuple[Opinion, ...]
    """What second sources say of its packages, and which did not answer; empty when none was asked."""
    news: tuple[Advisory, ...]
    """What they found and the scan did not."""
    cached: bool
    document: Path
    """The findings, as `ci.scan.Findings` reads them back."""
    sbom: Path | None
    """The packages of an image, as CycloneDX."""


async def scan(
    images: Sequence[BuiltImage],
    rendered_chart: str,
    *,
    policy: Policy,
    databases: Databases,
    today: date,
    reporter: Reporter,
    reports: Path,
) -> tuple[ScannedSubject, ...]:
    """Scan images and chart at the same time; once all are done, PolicyBlocked names everything that blocks.

    Reports land in `reports/<name>/`: the findings and the verdict as JSON, Trivy's own JSON, SARIF, and the
    SBOM (CycloneDX).
    """
    chart = scan_chart(rendered_chart, policy=policy, today=today, reporter=reporter, reports=reports)
    built = [
        scan_built(image, policy=policy, databases=databases, today=today, reporter=reporter, reports=reports)
        for image in images
    ]
    scanned = tuple(await together([*built, chart]))
    refuse_blocked({subject.name: subject.verdict for subject in scanned})
    return scanned


async def scan_built(
    image: BuiltImage,
    *,
    policy: Policy,
    databases: Databases,
    today: date,
    reporter: Reporter,
    reports: Path,
) -> ScannedSubject:
    """Scan one image's tarball; what the policy says of it is in the result, not raised."""
    with reporter.step(f"scan {image.name}") as step:
        found = await scan_image(
            image.archive,
            image.digest,
            trivy=tools.path("trivy"),
            database=databases.vulnerabilities,
            java=databases.java,
            name=image.name,
        )
        opinions: tuple[Opinion, ...] = ()
        if policy.vulnerabilities.second_source:
            step.say("asking second sources")
            opinions = await second_opinions(found.findings)
        return _judged(found, image.name, policy, today, step, reports, opinions)


async def scan_chart(
    rendered: str, *, policy: Policy, today: date, reporter: Reporter, reports: Path
) -> ScannedSubject:
    """Scan the manifests that Helm rendered."""
    with reporter.step("scan chart") as step:
        found = await scan_manifests(rendered, trivy=tools.path("trivy"))
        return _judged(found, CHART, policy, today, step, reports)


def refuse_blocked(verdicts: Mapping[str, Verdict]) -> None:
    """PolicyBlocked with every reason, if the policy refuses any of these subjects."""
    lines: list[str] = []
    for name, verdict in verdicts.items():
        lines += [f"  {name}: {complaint}" for complaint in verdict.complaints]
        lines += [
            f"  {name}: {finding.severity} {finding.kind} {finding.name}"
            + (f": {finding.title}" if finding.title else "")
            for finding in verdict.blocking
        ]
        lines += [
            f"  {name}: the entry for {entry.id} ({entry.owner}) ran out on {end_of(entry.expires)}"
            for entry in verdict.expired
        ]
    if not lines:
        return
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"  and {len(lines) - _SHOWN} more"]
    raise PolicyBlocked(
        "\n".join(["the scan policy refuses this build:", *lines]),
        hint="mend it, or add an entry with owner, reason and expiry date to `allow:` in policy.yaml",
    )


def show_scanned(scanned: Sequence[ScannedSubject]) -> Page:
    """What was found, what was let through by whom, and what second sources say, for people."""
    table = Table(
        "subject",
        Column(name="policy", rank=1, below=True, prose=True),
        Column(name="vulnerabilities", rank=2, below=True, prose=True),
        Column(name="misconfigurations", rank=4, prose=True),
        Column(name="secrets", rank=3, right=True),
        Column(name="licences", rank=5, prose=True),
        Column(name="packages", rank=6, right=True),
        title="scanned",
    )
    for subject in scanned:
        said = subject.summary
        passes = subject.verdict.passes
        table.add(
            subject.name,
            (_ruling(subject.verdict), "green" if passes else "red"),
            _vulnerabilities(subject),
            _counted(said.misconfigurations),
            str(said.secrets),
            _counted(said.licences) if subject.of is Scanned.IMAGE else "-",
            str(said.packages) if subject.of is Scanned.IMAGE else "-",
        )
    return page(table, *(line for subject in scanned for line in _remarks(subject)))


def _remarks(subject: ScannedSubject) -> Iterator[Line]:
    name = subject.name
    if subject.verdict.unread and subject.verdict.unread not in subject.verdict.complaints:
        yield words((f"{name}: {subject.verdict.unread}", "yellow"))
    for finding, entry in subject.verdict.allowed:
        soon = " (soon)" if entry in subject.verdict.expiring else ""
        until = f"{end_of(entry.expires)}{soon}"
        yield words(f"{name}: {finding.name} is allowed until {until} by {entry.owner}: {entry.reason}")
    for opinion in subject.opinions:
        yield words((f"{name}: {opinion.line}", "yellow" if opinion.problem else ""))
    for advisory in subject.news if subject.database else ():
        yield words((f"{name}: not found by {subject.scanner}: {advisory.name}", "yellow"))


def _judged(
    found: Scan,
    name: str,
    policy: Policy,
    today: date,
    step: Step,
    reports: Path,
    opinions: tuple[Opinion, ...] = (),
) -> ScannedSubject:
    found.copy_to(reports / name)
    counted = summary(found.findings)
    verdict = judge(found.findings, policy, name=name, today=today)
    subject = ScannedSubject(
        name=name,
        of=found.findings.of,
        digest=found.findings.subject,
        scanner=found.findings.scanner,
        summary=counted,
        verdict=verdict,
        database=found.findings.database,
        opinions=opinions,
        news=tuple(advisory for opinion in opinions for advisory in opinion.news(found.findings)),
        cached=found.cached,
        document=found.document,
        sbom=found.sbom if found.findings.of is Scanned.IMAGE else None,
    )
    write_whole(reports / name / "verdict.json", to_json(subject, indent=1))
    said = f"{_ruling(verdict)}; vulnerabilities {_vulnerabilities(subject)}"
    if found.cached:
        step.cached(said)
    step.say(said)
    return subject


def _vulnerabilities(subject: ScannedSubject) -> str:
    if subject.of is not Scanned.IMAGE:
        return "-"
    counts = subject.summary.vulnerabilities
    return "not scanned" if counts is None else _counted(counts)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {what.lower()}" for what, number in counts.items()) or "none found"


def _ruling(verdict: Verdict) -> str:
    allowed = f" ({len(verdict.allowed)} allowed)" if verdict.allowed else ""
    if verdict.passes:
        return f"passes{allowed}"
    kinds = Counter(finding.kind for finding in verdict.blocking)
    reasons = [f"{kinds[kind]} {kind}" for kind in Kind if kinds[kind]] + list(verdict.complaints)
    return f"blocks: {', '.join(reasons)}{allowed}"

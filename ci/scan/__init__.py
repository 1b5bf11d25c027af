"""Scans of images and manifests: what Trivy found, and what the policy says of it.

scan = await scan_image(archive, digest, trivy=tools.path("trivy"), database=await fetch(registry, reference))
verdict = judge(scan.findings, read_policy(file), name="fastapi-backend", today=dates.today())
"""

from ci.scan.database import JAVA, VULNERABILITIES, LocalDatabase, Mirrored, fetch, mirror
from ci.scan.database import Kind as DatabaseKind
from ci.scan.findings import (
    Database,
    Finding,
    Findings,
    Kind,
    Package,
    Scanned,
    Severity,
    read_report,
    summary,
)
from ci.scan.opinions import Advisory, Opinion, second_opinions
from ci.scan.policy import Allowance, Policy, Verdict, database_complaint, judge, read_policy
from ci.scan.trivy import Scan, scan_image, scan_manifests

__all__ = [
    "JAVA",
    "VULNERABILITIES",
    "Advisory",
    "Allowance",
    "Database",
    "DatabaseKind",
    "Finding",
    "Findings",
    "Kind",
    "LocalDatabase",
    "Mirrored",
    "Opinion",
    "Package",
    "Policy",
    "Scan",
    "Scanned",
    "Severity",
    "Verdict",
    "database_complaint",
    "fetch",
    "judge",
    "mirror",
    "read_policy",
    "read_report",
    "scan_image",
    "scan_manifests",
    "second_opinions",
    "summary",
]

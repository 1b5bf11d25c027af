"""checkov, a static checker of infrastructure: what it found in a folder. What stays: ci/scan/waivers.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ci.errors import StepFailed
from ci.process import run

__all__ = ["Found", "failed_checks"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """One check that failed.

    `resource` is `Deployment.voice.voice-api` or `Microsoft.KeyVault/vaults.kv-…`, `file` is relative to the
    folder.
    """

    id: str
    resource: str
    file: str
    title: str


async def failed_checks(
    program: Path, folder: Path, framework: Literal["arm", "kubernetes"]
) -> tuple[Found, ...]:
    """Every failed check in a folder's files. StepFailed when checkov gives no report."""
    done = await run(
        program, "-d", folder, "--framework", framework, "-o", "json", "--quiet", "--compact",
        "--skip-download", check=False, timeout=300,
    )  # fmt: skip
    try:
        reports = json.loads(done.stdout)
        reports = reports if isinstance(reports, list) else [reports]
        if not any(report.get("summary", {}).get("passed") for report in reports):
            raise ValueError("nothing passed")  # it understood none of the files
        failed = [check for report in reports for check in report["results"]["failed_checks"]]
    except (ValueError, AttributeError, LookupError) as error:
        raise StepFailed(f"checkov gave no report (exit code {done.code}): {done.stderr[-400:]}") from error
    return tuple(
        Found(
            id=check["check_id"],
            resource=str(check["resource"]),
            file=str(check["file_path"]).lstrip("/"),
            title=check["check_name"],
        )
        for check in failed
    )

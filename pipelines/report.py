"""The report of a promotion: read from the ledgers, written as one file for people who were not there.

    await leave_report("local", promoted.promotion, Path("reports"))    # reports/promotion-….html

It looks at whatever is there: a promotion that runs, one that failed, one of last year.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ci.delivery.ledger import Damaged, inspect_all
from ci.delivery.report import Report, as_html, as_markdown, report
from ci.errors import BadInput
from ci.files import refused, write_whole

__all__ = ["leave_report", "read_report", "summarise", "write_report"]

_SUMMARY = "GITHUB_STEP_SUMMARY"


async def read_report(estate: str, name: str | None = None, *, env: str | None = None) -> Report:
    """The report of the promotion of that name, or of the last one; `env`: by that one's ledger alone.

    BadInput when there is no such promotion; Damaged when that may be because entries cannot be read.
    """
    found = await inspect_all(estate, env)
    verified = [one for _, one in found]
    try:
        return report({one.environment: entries for entries, one in found}, verified, name)
    except BadInput:
        if problems := tuple(problem for one in verified for problem in one.problems):
            raise Damaged(problems) from None
        raise


def write_report(found: Report, file: Path | None = None, *, folder: Path = Path("reports")) -> Path:
    """Write the page, into `folder` under the promotion's name where no file is said; returns where it is."""
    # An id comes from a ledger that others may write to, too: no part of it is a folder here.
    where = file or folder / f"promotion-{re.sub(r'[^A-Za-z0-9-]+', '-', found.promotion)}.html"
    write_whole(where, as_html(found))
    return where


async def leave_report(estate: str, name: str | None, folder: Path) -> Path:
    """Read and write it: the one call for a flow that has promoted something."""
    return write_report(await read_report(estate, name), folder=folder)


def summarise(found: Report) -> bool:
    """In a job of GitHub: add it to the summary of the step. False elsewhere."""
    file = os.environ.get(_SUMMARY)
    if not file:
        return False
    try:
        with Path(file).open("a", encoding="utf-8") as summary:
            summary.write(as_markdown(found))
    except OSError as error:
        raise refused(error, Path(file)) from error
    return True

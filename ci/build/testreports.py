"""What a test run leaves behind, read back: JUnit XML (as pytest and Vitest write it) and Cobertura's XML."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree  # nosec B405  # see where it reads

from ci.below import read_file
from ci.errors import StepFailed
from ci.files import write_whole
from ci.release import TestSummary

__all__ = ["COVERAGE", "JUNIT", "FailedTest", "TestReport", "copy_reports", "read_test_report"]

_PLACE = re.compile(
    r"^(?P<file>[^\s:][^:\n]*\.py):(?P<line>\d+): |^ ❯ (?P<ts>[^\s:]+\.ts):(?P<at>\d+):\d+$", re.MULTILINE
)
JUNIT, COVERAGE = "junit.xml", "coverage.xml"
_LARGEST = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class FailedTest:
    """A test that failed: `file:line` is where it did, if the report says so."""

    name: str
    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = f"{self.file}{f':{self.line}' if self.line else ''}" if self.file else ""
        return f"{self.name}{f' ({place})' if place else ''}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class TestReport:
    """Counts, coverage, the tests that failed, and when the run started."""

    __test__ = False

    summary: TestSummary
    failed: tuple[FailedTest, ...]
    started: datetime | None


def read_test_report(junit: Path, coverage: Path) -> TestReport:
    """Read both files; without a coverage file the coverage is None.

    StepFailed when there is no usable JUnit file: tests whose outcome is not known have not passed.
    """
    root = _parse(junit)
    if root is None:
        raise StepFailed(
            f"the tests left no report at {junit.name}: they did not run to their end",
            hint="the lines above are the last they printed",
        )
    cases = list(root.iter("testcase"))
    failed = tuple(_failure(case) for case in cases if _verdict(case) == "failed")
    skipped = sum(_verdict(case) == "skipped" for case in cases)
    suite = root if root.tag == "testsuite" else root.find("testsuite")
    started = suite.get("timestamp") if suite is not None else None
    measured = _parse(coverage)
    rate = measured.get("line-rate") if measured is not None else None
    return TestReport(
        summary=TestSummary(
            passed=len(cases) - len(failed) - skipped,
            failed=len(failed),
            skipped=skipped,
            coverage=round(100 * float(rate), 1) if rate else None,
        ),
        failed=failed,
        started=datetime.fromisoformat(started) if started else None,
    )


def copy_reports(source: Path, target: Path) -> None:
    """Keep the two reports of a folder that tests left; StepFailed for what is no plain file of some size.

    Nothing else is taken along, and no link is followed: it would be a file of this machine.
    """
    for name in (JUNIT, COVERAGE):
        if (data := _read(source / name)) is not None:
            write_whole(target / name, data)


def _parse(file: Path) -> ElementTree.Element | None:
    text = _read(file)
    if text is None:
        return None
    if b"<!ENTITY" in text:  # never in a test report; expanding entities could fill the memory
        raise StepFailed(f"the report {file.name} declares XML entities, which no test runner does")
    try:
        return ElementTree.fromstring(text)  # noqa: S314  # nosec B314  # expat bounds what expands, and loads nothing from elsewhere
    except ElementTree.ParseError as error:
        raise StepFailed(f"the report {file.name} is not XML: {error}") from error


def _read(file: Path) -> bytes | None:
    try:
        return read_file(file.parent, file.name, _LARGEST)
    except FileNotFoundError:
        return None
    except OSError as error:
        what = {
            errno.EFBIG: f"has more than {_LARGEST // 2**20} MiB",
            errno.ELOOP: "is a link: where it leads is not read",
        }.get(error.errno or 0, f"cannot be read: {error.strerror}")
        raise StepFailed(f"the report {file.name} {what}") from error


def _verdict(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def _failure(case: ElementTree.Element) -> FailedTest:
    said = next(found for tag in ("failure", "error") if (found := case.find(tag)) is not None)
    text = said.text or ""
    places = list(_PLACE.finditer(text))
    where = places[-1] if places else None
    line = int(where["line"] or where["at"]) if where else int(case.get("line", -1)) + 1 or None
    file = where["file"] or where["ts"] if where else case.get("file", "")
    message = (said.get("message") or text).strip().splitlines() or ["no message"]
    name = "::".join(part for part in (case.get("classname", ""), case.get("name", "")) if part)
    return FailedTest(name=name, file=file, line=line, message=message[0])

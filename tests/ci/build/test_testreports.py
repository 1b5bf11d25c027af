from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci.build.testreports import read_test_report
from ci.errors import StepFailed

_COVERAGE = '<?xml version="1.0" ?><coverage line-rate="0.8765" version="7"></coverage>'


def write(folder: Path, junit: str, coverage: str | None = _COVERAGE) -> tuple[Path, Path]:
    (folder / "junit.xml").write_text(junit)
    if coverage is not None:
        (folder / "coverage.xml").write_text(coverage)
    return folder / "junit.xml", folder / "coverage.xml"


def test_what_pytest_itself_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        """
import pytest

def test_good(): pass

@pytest.mark.skip(reason="no")
def test_skipped(): pass

class TestThings:
    @pytest.mark.parametrize("n", [1, 2])
    def test_bad(self, n):
        helper(n)

def helper(n):
    assert n == 1, "the number is wrong"

@pytest.fixture
def broken(): raise OSError("no room")

def test_error(broken): pass
"""
    )
    before = datetime.now(UTC)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--junitxml=junit.xml",
            "test_it.py",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=False,
        capture_output=True,
    )
    report = read_test_report(tmp_path / "junit.xml", tmp_path / "coverage.xml")
    said = report.summary
    assert (said.passed, said.failed, said.skipped, said.coverage) == (2, 2, 1, None)
    bad, error = report.failed
    assert (bad.name, bad.file, bad.line) == ("test_it.TestThings::test_bad[2]", "test_it.py", 15)
    assert "the number is wrong" in bad.message
    assert (error.name, error.file, error.line) == ("test_it::test_error", "test_it.py", 18)
    assert str(bad).startswith("test_it.TestThings::test_bad[2] (test_it.py:15): AssertionError")
    assert report.started is not None and report.started.tzinfo is not None
    assert abs((report.started - before).total_seconds()) < 60


def test_coverage_is_a_percentage(tmp_path: Path) -> None:
    report = read_test_report(*write(tmp_path, '<testsuite><testcase name="a"/></testsuite>'))
    assert report.summary.coverage == 87.7 or report.summary.coverage == 87.6
    assert report.started is None


def test_a_failure_without_a_place_in_its_text_has_the_tests_own(tmp_path: Path) -> None:
    junit = '<testsuite><testcase name="a" file="t.py" line="6"><error/></testcase></testsuite>'
    (failed,) = read_test_report(*write(tmp_path, junit)).failed
    assert str(failed) == "a (t.py:7): no message"


@pytest.mark.parametrize(
    ("junit", "coverage", "what"),
    [
        ("<testsuite><testcase", _COVERAGE, r"junit\.xml is not XML"),
        ("<testsuite/>", "<coverage", r"coverage\.xml is not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><testsuite/>', _COVERAGE, "entities"),
    ],
)
def test_a_broken_report_is_a_failed_step(tmp_path: Path, junit: str, coverage: str, what: str) -> None:
    with pytest.raises(StepFailed, match=what):
        read_test_report(*write(tmp_path, junit, coverage))


def test_no_report_is_not_a_pass(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="did not run to their end"):
        read_test_report(tmp_path / "junit.xml", tmp_path / "coverage.xml")


def test_what_vitest_writes_is_read(tmp_path: Path) -> None:
    junit = """<?xml version="1.0" encoding="UTF-8" ?>
<testsuites name="vitest tests" tests="3" failures="1" errors="0" time="0.6">
    <testsuite name="tests/call.test.ts" timestamp="2026-11-24T16:23:46.794Z" tests="3" failures="1">
        <testcase classname="tests/call.test.ts" name="a call &gt; joins" time="0.005"></testcase>
        <testcase classname="tests/call.test.ts" name="a server &gt; runs" time="0"><skipped/></testcase>
        <testcase classname="tests/call.test.ts" name="a call &gt; ends" time="0.001">
            <failure message="expected 1 to be 2" type="AssertionError">
AssertionError: expected 1 to be 2
 ❯ helper node_modules/some/dist/index.js:358:24
 ❯ explain src/call.ts:200:30
 ❯ tests/call.test.ts:196:10
            </failure>
        </testcase>
    </testsuite>
</testsuites>"""
    coverage = (
        '<?xml version="1.0" ?>\n<!DOCTYPE coverage SYSTEM "x.dtd">\n<coverage line-rate="0.98"></coverage>'
    )
    report = read_test_report(*write(tmp_path, junit, coverage))
    assert (report.summary.passed, report.summary.failed, report.summary.skipped) == (1, 1, 1)
    assert report.summary.coverage == 98.0
    assert report.started == datetime(2026, 11, 24, 16, 23, 46, 794000, tzinfo=UTC)
    assert [str(one) for one in report.failed] == [
        "tests/call.test.ts::a call > ends (tests/call.test.ts:196): expected 1 to be 2"
    ]

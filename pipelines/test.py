"""Run each image's own tests inside a container of its test stage, and read what they leave behind."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ci.build.testreports import COVERAGE, JUNIT, FailedTest, TestReport, copy_reports, read_test_report
from ci.concurrency import together
from ci.engine.sdk import dagger
from ci.errors import StepFailed
from ci.layout import Column, Page, Table, page
from ci.release import TestSummary
from ci.reporting import Reporter
from pipelines.build import engine_errors
from pipelines.images import IMAGES, ImageSpec

__all__ = ["TestedImage", "show_tested", "test", "test_image"]

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class TestedImage:
    """What an image's tests said. `cached`: nothing that they depend on changed since they ran."""

    __test__ = False

    name: str
    summary: TestSummary
    cached: bool


async def test(
    client: dagger.Client,
    *,
    reporter: Reporter,
    reports: Path,
    images: Sequence[ImageSpec] = IMAGES,  # noqa: PT028  # no test function of pytest
) -> tuple[TestedImage, ...]:
    """Test these images at the same time; their JUnit and coverage files land in `reports/<image>/`.

    StepFailed names each test that failed, its place and its message.
    """
    work = [test_image(client, image, reporter=reporter, reports=reports) for image in images]
    return tuple(await together(work))


async def test_image(
    client: dagger.Client, image: ImageSpec, *, reporter: Reporter, reports: Path
) -> TestedImage:
    """Test one image."""
    started = datetime.now(UTC)
    with (
        reporter.step(f"test {image.name}") as step,
        engine_errors(f"testing {image.name}"),
        tempfile.TemporaryDirectory(prefix="va-test-") as scratch,
    ):
        tested = await image.test(client, reporter=reporter)
        await tested.directory("/reports").export(scratch)
        copy_reports(Path(scratch), reports / image.name)
        report = read_test_report(Path(scratch) / JUNIT, Path(scratch) / COVERAGE)
        said = _counts(report.summary)
        if report.failed:
            raise StepFailed(_names(image.name, report.failed), hint=f"the report: {reports / image.name}")
        if not report.summary.passed:
            raise StepFailed(f"no test of {image.name} ran: {said}")
        cached = _ran_before(report, started)
        if cached:
            step.cached(said)
        step.say(said)
    return TestedImage(name=image.name, summary=report.summary, cached=cached)


def show_tested(images: Sequence[TestedImage]) -> Page:
    """The tests' outcome, for people."""
    table = Table(
        "image",
        Column(name="passed", right=True),
        Column(name="failed", right=True),
        Column(name="skipped", rank=2, right=True),
        Column(name="coverage", rank=1, right=True),
        Column(name="", rank=3),
        title="tested",
    )
    for image in images:
        said = image.summary
        coverage = "not measured" if said.coverage is None else f"{said.coverage:.1f} %"
        cached = "cached" if image.cached else ""
        table.add(image.name, str(said.passed), str(said.failed), str(said.skipped), coverage, cached)
    return page(table)


def _ran_before(report: TestReport, started: datetime) -> bool:
    """Whether the run in this report was over before we asked for it: then an engine's cache answered."""
    return report.started is not None and report.started.astimezone(UTC) < started


def _counts(summary: TestSummary) -> str:
    skipped = f", {summary.skipped} skipped" if summary.skipped else ""
    failed = f", {summary.failed} failed" if summary.failed else ""
    covered = "" if summary.coverage is None else f", {summary.coverage:.1f} % covered"
    return f"{summary.passed} passed{failed}{skipped}{covered}"


def _names(image: str, failed: Sequence[FailedTest]) -> str:
    lines = [f"  {one}" for one in failed[:_SHOWN]]
    if len(failed) > _SHOWN:
        lines.append(f"  and {len(failed) - _SHOWN} more")
    plural = "test" if len(failed) == 1 else "tests"
    return "\n".join([f"{len(failed)} {plural} of {image} failed:", *lines])

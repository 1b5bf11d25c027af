"""The first half of a ship: build, test and scan, and leave it in a folder for whoever may push and sign.

It runs other people's code, so it needs no right and has none to give away: no registry, no key, no identity.
What it leaves is in `ci.supply.handover`; `pipelines.publish` is the half that takes it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from ci import dates, places
from ci.actions import this_job
from ci.build.source import read_commit
from ci.concurrency import both, together
from ci.engine.sdk import dagger
from ci.layout import Page, page, words
from ci.reporting import Reporter
from ci.scan import Policy, read_policy
from ci.supply import handover
from ci.supply.handover import Maker
from pipelines.build import BUILD_TOOLS, BuiltImage, build, build_image, show_built
from pipelines.chart import package_own_chart, rendered_chart
from pipelines.database import Databases, databases
from pipelines.images import IMAGES, ImageSpec
from pipelines.scan import ScannedSubject, refuse_blocked, scan, scan_built, scan_chart, show_scanned
from pipelines.test import TestedImage, show_tested, test_image

__all__ = [
    "MAKE_TOOLS",
    "Made",
    "MadeImage",
    "build_and_scan",
    "make",
    "make_image",
    "maker",
    "ready",
    "short_lived",
    "show_made",
]

MAKE_TOOLS = (*BUILD_TOOLS, "trivy", "helm")
"""The programs that this half calls."""
WORKSTATION = "urn:voice-assistant:workstation"
"""Who builds where nobody can say: anyone's machine, which proves nothing."""
_STALE_SECONDS = 86400.0


@dataclass(frozen=True, kw_only=True)
class MadeImage:
    """All that was done with one image before anything is pushed."""

    built: BuiltImage
    tested: TestedImage
    scanned: ScannedSubject


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was made; `digest` is that of the folder's manifest, for whoever publishes it to compare."""

    folder: Path
    digest: str
    built: tuple[BuiltImage, ...]
    tested: tuple[TestedImage, ...]
    scanned: tuple[ScannedSubject, ...]


async def make(
    client: dagger.Client,
    *,
    engine: str,
    to: Path,
    reporter: Reporter,
    reports: Path | None = None,
    images: Sequence[ImageSpec] = IMAGES,
    fault: float | None = None,
    linked: bool = False,
) -> Made:
    """Build, test and scan the checkout and leave it in the folder `to`; `engine` names what runs the
    pipeline.

    Reports for people land in `reports`, or in the folder. `linked` is for a folder that is gone in a moment
    (`ci.supply.handover.leave`). StepFailed: a step or a test failed;
    PolicyBlocked: the scan policy refuses it. In each case there is no manifest in the folder, and nothing
    can be published.
    """
    root = places.checkout()
    policy = read_policy(root / "policy.yaml")
    (to / handover.MANIFEST).unlink(missing_ok=True)  # of an earlier run: what fails now leaves none
    reports = reports or to / "reports"
    known = await databases(policy, reporter=reporter)
    commit = await read_commit(root)
    chart = await package_own_chart(root)
    today = dates.today()

    async def check_chart() -> ScannedSubject:
        rendered = await rendered_chart(root)
        return await scan_chart(rendered, policy=policy, today=today, reporter=reporter, reports=reports)

    work = [
        make_image(
            client,
            image,
            policy=policy,
            databases=known,
            today=today,
            fault=fault,
            reporter=reporter,
            reports=reports,
        )
        for image in images
    ]
    made, scanned_chart = await both(together(work), check_chart())
    scanned = (*(each.scanned for each in made), scanned_chart)
    refuse_blocked({subject.name: subject.verdict for subject in scanned})
    digest = handover.leave(
        to,
        maker=maker(),
        commit=commit,
        engine=engine,
        fault=fault,
        images=[ready(each) for each in made],
        chart=(chart.digest, scanned_chart.document),
        linked=linked,
    )
    return Made(
        folder=to,
        digest=digest,
        built=tuple(each.built for each in made),
        tested=tuple(each.tested for each in made),
        scanned=scanned,
    )


async def build_and_scan(
    client: dagger.Client,
    *,
    reporter: Reporter,
    reports: Path,
    images: Sequence[ImageSpec] = IMAGES,
    fault: float | None = None,
) -> tuple[ScannedSubject, ...]:
    """Build these images and scan them and the chart; PolicyBlocked when the policy refuses any of them."""
    root = places.checkout()
    policy = read_policy(root / "policy.yaml")
    known = await databases(policy, reporter=reporter)
    built, rendered = await both(
        build(client, reporter=reporter, images=images, fault=fault), rendered_chart(root)
    )
    today = dates.today()
    return await scan(
        built,
        rendered,
        policy=policy,
        databases=known,
        today=today,
        reporter=reporter,
        reports=reports,
    )


async def make_image(
    client: dagger.Client,
    image: ImageSpec,
    *,
    policy: Policy,
    databases: Databases,
    today: date,
    fault: float | None,
    reporter: Reporter,
    reports: Path,
) -> MadeImage:
    """Build, scan and test an image; what the policy says of it is in the result, not raised.

    The tests run while the image is exported and scanned: both stand on the same layers.
    """

    async def build_then_scan() -> tuple[BuiltImage, ScannedSubject]:
        built = await build_image(client, image, reporter=reporter, fault=fault)
        scanned = await scan_built(
            built, policy=policy, databases=databases, today=today, reporter=reporter, reports=reports
        )
        return built, scanned

    (built, scanned), tested = await both(
        build_then_scan(), test_image(client, image, reporter=reporter, reports=reports)
    )
    return MadeImage(built=built, tested=tested, scanned=scanned)


@contextmanager
def short_lived() -> Iterator[Path]:
    """Where one half leaves it to the other, beside the tarballs, so that they are linked and not copied."""
    home = places.cache() / "made"
    home.mkdir(parents=True, exist_ok=True)
    for old in home.iterdir():  # of processes that were killed
        if time.time() - old.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="ship-", dir=home) as name:
        yield Path(name)


def maker() -> Maker:
    """Who makes: the job on GitHub Actions, else a workstation."""
    job = this_job()
    if job is None:
        return Maker(by=WORKSTATION)
    return Maker(by=job.workflow, job=job.name or None, run=job.run or None)


def show_made(made: Made) -> Page:
    """The tables, and where it is, for people."""
    return page(
        show_built(made.built),
        "",
        show_tested(made.tested),
        "",
        show_scanned(made.scanned),
        "",
        words("made ", (str(made.folder), "bold"), f" {made.digest}"),
        (f"va publish --from {made.folder} --digest {made.digest}", "dim"),
    )


def ready(made: MadeImage) -> handover.Ready:
    """An image as it is left for the other half."""
    assert made.scanned.sbom is not None
    return handover.Ready(
        name=made.built.name,
        digest=made.built.digest,
        archive=made.built.archive,
        tests=made.tested.summary,
        findings=made.scanned.document,
        sbom=made.scanned.sbom,
    )

"""Build, test, scan, publish and sign: one release.

Nothing is pushed if a test fails or the policy blocks. Run again with nothing changed, every part finds its
result there already, and the release is the same one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import dagger
from rich.console import Group, RenderableType
from rich.text import Text

from ci import places, tools
from ci.architecture import model
from ci.build.source import files, read_commit
from ci.concurrency import both, together
from ci.delivery.chart import PackagedChart, package_chart, render
from ci.delivery.site import STABLE, release_values
from ci.files import write_whole
from ci.registry import Bundle, open_archive
from ci.release import Chart, Commit, Image, Release, read_release
from ci.reporting import Reporter
from ci.scan import Policy, read_policy
from ci.supply.attestations import Kind, provenance, release_bundle, sbom, scan_report, tests
from ci.supply.availability import contents
from ci.supply.signing import Signer
from pipelines.build import BUILD_TOOLS, BuiltImage, build, build_image, show_built
from pipelines.chart import CHART_FOLDER, rendered_for, stand_in_release
from pipelines.database import Databases, databases
from pipelines.images import IMAGES, ImageSpec
from pipelines.publish import Published, found_in_home, publish, show_published
from pipelines.registries import (
    AvailableIn,
    EstateRegistries,
    RegionStatus,
    availability_line,
    available_in,
    proven,
    show_regions,
)
from pipelines.scan import ScannedSubject, refuse_blocked, scan, scan_built, scan_chart, show_scanned
from pipelines.sign import Signed, sign_release
from pipelines.test import TestedImage, show_tested, test_image

__all__ = [
    "SHIP_TOOLS",
    "Made",
    "Shipped",
    "Untested",
    "attestations",
    "build_and_publish",
    "build_and_scan",
    "chart_of",
    "find_or_new",
    "keep",
    "make_image",
    "named",
    "rendered_chart",
    "ship",
    "show_shipped",
    "show_untested",
]

SHIP_TOOLS = (*BUILD_TOOLS, "trivy", "helm", "cosign")
"""The programs that the parts of `va ship` call."""
_PRODUCTION = "prod"
"""The architecture's environment whose rendering is scanned."""


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """The release and what it took to make it."""

    release: Release
    file: Path
    built: tuple[BuiltImage, ...]
    tested: tuple[TestedImage, ...]
    scanned: tuple[ScannedSubject, ...]
    published: tuple[Published, ...]
    signed: tuple[Signed, ...]
    available: AvailableIn
    """The regions that it can be promoted in; the others follow when replication has reached them."""


@dataclass(frozen=True, kw_only=True)
class Untested:
    """What was pushed to the home registry, neither tested nor scanned, and what each region has of it."""

    published: tuple[Published, ...]
    regions: tuple[RegionStatus, ...]


@dataclass(frozen=True, kw_only=True)
class Made:
    """All that was done with one image before anything is pushed."""

    built: BuiltImage
    tested: TestedImage
    scanned: ScannedSubject

    def as_image(self, attached: Mapping[Kind, Bundle]) -> Image:
        return Image(
            name=self.built.name,
            digest=self.built.digest,
            size=self.built.size,
            tests=self.tested.summary,
            scan=self.scanned.summary,
            attestations={kind.value: bundle.digest for kind, bundle in attached.items()},
        )


async def ship(
    client: dagger.Client,
    *,
    engine: str,
    registries: EstateRegistries,
    signer: Signer,
    reporter: Reporter,
    reports: Path,
    images: Sequence[ImageSpec] = IMAGES,
    fault: float | None = None,
) -> Shipped:
    """Make a release of the checkout and write its file; `engine` names what runs the pipeline.

    It is pushed to the home registry, and there is a release when it is whole there; then each region's own
    endpoint is asked for it, and one that lags or is down is left behind. StepFailed: a step or test failed;
    PolicyBlocked: the scan policy refuses it; SystemUnavailable: the home registry. In each case there is no
    release, and the same command goes on where this one stopped.
    """
    root = places.checkout()
    policy = read_policy(root / "policy.yaml")
    await registries.home.ping()  # rather now than after minutes of building
    known = await databases(policy, reporter=reporter)
    commit = await read_commit(root)
    chart = await chart_of(root)
    today = datetime.now(UTC).date()

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
    refuse_blocked(scanned)

    attached = {
        each.built.name: attestations(each, commit=commit, engine=engine, fault=fault) for each in made
    }
    release = find_or_new(
        named(
            Release(
                name="unnamed",
                created=datetime.now(UTC),
                commit=commit,
                engine=engine,
                images=tuple(each.as_image(attached[each.built.name]) for each in made),
                chart=Chart(name=chart.name, version=chart.version, digest=chart.digest),
            )
        )
    )
    published = await publish(
        registries.home,
        [each.built for each in made],
        chart,
        tag=release.name,
        reporter=reporter,
        attached={name: list(bundles.values()) for name, bundles in attached.items()},
        release=release_bundle(release),
    )
    signed = await sign_release(registries.home, release, signer=signer, reporter=reporter)
    file = keep(release)
    bundles = [
        chart.bundle,
        *(open_archive(each.built.archive) for each in made),
        *(bundle for each in attached.values() for bundle in each.values()),
    ]
    available = await available_in(
        registries, release, reporter=reporter, bundles=bundles, found=found_in_home(published)
    )
    return Shipped(
        release=release,
        file=file,
        built=tuple(each.built for each in made),
        tested=tuple(each.tested for each in made),
        scanned=scanned,
        published=published,
        available=available,
        signed=signed,
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
    today = datetime.now(UTC).date()
    return await scan(
        built,
        rendered,
        policy=policy,
        databases=known,
        today=today,
        reporter=reporter,
        reports=reports,
    )


async def build_and_publish(
    client: dagger.Client,
    *,
    registries: EstateRegistries,
    reporter: Reporter,
    images: Sequence[ImageSpec] = IMAGES,
    fault: float | None = None,
) -> Untested:
    """Build these images and push them and the chart, untested: only what `ship` made can be promoted."""
    root = places.checkout()
    await registries.home.ping()
    commit = await read_commit(root)
    built, chart = await both(build(client, reporter=reporter, images=images, fault=fault), chart_of(root))
    tag = f"untested-{commit.sha[:12]}{'-dirty' if commit.dirty else ''}"
    published = await publish(registries.home, built, chart, tag=tag, reporter=reporter)
    what = contents(
        {chart.name: [chart.bundle], **{image.name: [open_archive(image.archive)] for image in built}}
    )
    deadline = registries.deadline
    regions = await proven(
        registries, what, name=tag, reporter=reporter, deadline=deadline, found=found_in_home(published)
    )
    return Untested(published=published, regions=regions)


async def chart_of(root: Path) -> PackagedChart:
    """The checkout's chart, packaged."""
    return package_chart(root, await files(root, str(CHART_FOLDER)), CHART_FOLDER)


async def rendered_chart(root: Path) -> str:
    """The chart as Helm renders it, of its own values and of production's; for a release that stands for any.

    So that an unchanged chart is not scanned again because an image changed.
    """
    helm = tools.path("helm")
    own = release_values(stand_in_release(), "stable", "registry.example")
    small = await render(root / CHART_FOLDER, own, name=STABLE, helm=helm)
    region = model.read(_PRODUCTION).architecture.primary
    return f"{small}\n{await rendered_for(_PRODUCTION, region, 'stable', helm=helm)}"


def attestations(made: Made, *, commit: Commit, engine: str, fault: float | None) -> dict[Kind, Bundle]:
    """What is said of an image, ready to be attached to it."""
    built, scanned = made.built, made.scanned
    assert scanned.sbom is not None
    said = [
        sbom(scanned.sbom.read_bytes()),
        scan_report(scanned.document.read_bytes()),
        provenance(
            name=built.name,
            digest=built.digest,
            commit=commit,
            engine=engine,
            options={"fault": fault},
            builder=_builder(),
            repository=_repository(),
        ),
        tests(name=built.name, digest=built.digest, summary=made.tested.summary),
    ]
    subject = open_archive(built.archive).root.descriptor
    return {one.kind: one.bundle(subject) for one in said}


def named(release: Release) -> Release:
    """The same release under the name that its content gives it: `<commit time>-<short sha>-<short digest>`.

    Neither its name nor the time of its making are part of the content: what is made twice is one release.
    """
    content = release.model_dump_json(exclude={"name", "created"})
    digest = hashlib.sha256(content.encode()).hexdigest()
    time = release.commit.time.astimezone(UTC)
    name = f"{time:%Y%m%d-%H%M%S}-{release.commit.sha[:7]}-{digest[:8]}"
    return release.model_copy(update={"name": name})


def find_or_new(release: Release) -> Release:
    """That release as it was first made here, or this one: what is made twice was created once."""
    file = _file(release)
    return read_release(file) if file.is_file() else release


def keep(release: Release) -> Path:
    """Have the release's file; the newest file is the release that was shipped last."""
    file = _file(release)
    if file.is_file():
        file.touch()
    else:
        write_whole(file, release.model_dump_json(indent=2) + "\n")
    return file


def show_shipped(shipped: Shipped) -> RenderableType:
    """The tables and the release's name, for people."""
    release = shipped.release
    dirty = " with uncommitted changes" if release.commit.dirty else ""
    return Group(
        show_built(shipped.built),
        show_tested(shipped.tested),
        show_scanned(shipped.scanned),
        show_published(shipped.published),
        show_regions(shipped.available.regions),
        Text.assemble("release ", (release.name, "bold"), f" of {release.commit.sha[:12]}{dirty}"),
        availability_line(shipped.available),
        Text(_signed_line(shipped.signed), style="dim"),
        Text(f"engine {release.engine}, kept in {shipped.file}", style="dim"),
    )


def show_untested(untested: Untested) -> RenderableType:
    """What is where, for people."""
    return Group(show_published(untested.published), show_regions(untested.regions))


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
) -> Made:
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
    return Made(built=built, tested=tested, scanned=scanned)


def _signed_line(signed: Sequence[Signed]) -> str:
    new = sum(not one.cached for one in signed)
    by = ", ".join(dict.fromkeys(one.by for one in signed))
    return f"{len(signed)} signatures by {by}, {new} of them new"


def _file(release: Release) -> Path:
    return places.state() / "releases" / f"{release.name}.json"


def _builder() -> str:
    """Who builds, as a URI: the workflow on GitHub Actions, else a workstation, which proves nothing."""
    workflow = os.environ.get("GITHUB_WORKFLOW_REF")
    return f"https://github.com/{workflow}" if workflow else "urn:voice-assistant:workstation"


def _repository() -> str | None:
    """The repository's address where the builder knows it; a checkout's remotes may be anything."""
    name = os.environ.get("GITHUB_REPOSITORY")
    return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}" if name else None

"""`va build` to `va ship`: from a checkout to a release; and `va lint`.

`va make` and `va publish` are the two halves of `va ship`, for two jobs that trust each other as little as
they must.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci.commands.answers import answer, needs_root
from ci.commands.options import Digest, Estate, Fault, From, Images, Json, Reports, SignWith, To
from ci.errors import BadInput

if TYPE_CHECKING:
    import dagger

    from ci.reporting import Reporter
    from pipelines.build import BuiltImage
    from pipelines.images import ImageSpec
    from pipelines.make import Made
    from pipelines.publish import PublishedRelease
    from pipelines.scan import ScannedSubject
    from pipelines.ship import Shipped
    from pipelines.test import TestedImage

__all__ = ["build", "lint", "make", "needs_engine", "publish", "scan", "session", "ship", "test"]


def _uses_real_engine() -> bool:
    from ci.engine import uses_real_engine

    return uses_real_engine()


needs_engine = needs_root(
    "the embedded engine mounts file systems and makes namespaces", unless=_uses_real_engine
)
"""Declares that a command builds: as root, or on a Dagger engine."""


@needs_engine
def build(images: Images = None, fault: Fault = None, json: Json = False) -> None:
    """Build the images.

    Independent ones at the same time, each as one OCI tarball.

    Example: va build --image fastapi-backend
    """

    from pipelines.build import BUILD_TOOLS, show_built
    from pipelines.build import build as pipeline

    async def flow(reporter: Reporter) -> tuple[BuiltImage, ...]:
        picked = _chosen(images)
        async with session(reporter, BUILD_TOOLS) as (client, _):
            return await pipeline(client, reporter=reporter, images=picked, fault=fault)

    answer(flow, json=json, show=show_built)


@needs_engine
def test(images: Images = None, reports: Reports = Path("reports"), json: Json = False) -> None:
    """Run each image's own tests.

    Inside a container of its test stage, with Redis beside it.

    Example: va test --image livekit-agent
    """

    from pipelines.build import BUILD_TOOLS
    from pipelines.test import show_tested
    from pipelines.test import test as pipeline

    async def flow(reporter: Reporter) -> tuple[TestedImage, ...]:
        picked = _chosen(images)
        async with session(reporter, BUILD_TOOLS) as (client, _):
            return await pipeline(client, reporter=reporter, images=picked, reports=reports)

    answer(flow, json=json, show=show_tested)


@needs_engine
def scan(images: Images = None, reports: Reports = Path("reports"), json: Json = False) -> None:
    """Scan the images and the chart.

    With Trivy; policy.yaml says what blocks.

    Example: va scan --reports /tmp/reports
    """

    from pipelines.make import build_and_scan
    from pipelines.scan import show_scanned

    async def flow(reporter: Reporter) -> tuple[ScannedSubject, ...]:
        picked = _chosen(images)
        async with session(reporter) as (client, _):
            return await build_and_scan(client, reporter=reporter, images=picked, reports=reports)

    answer(flow, json=json, show=show_scanned)


@needs_engine
def ship(
    fault: Fault = None,
    estate: Estate = "local",
    reports: Reports = Path("reports"),
    sign_with: SignWith = "local",
    json: Json = False,
) -> None:
    """Build, test, scan, publish and sign: one release.

    Nothing is pushed if a test fails or the policy blocks.

    Example: va ship && va promote
    """
    from pipelines.registries import estate_registries
    from pipelines.ship import ship as pipeline
    from pipelines.ship import show_shipped
    from pipelines.sign import signer_of

    async def flow(reporter: Reporter) -> Shipped:
        async with session(reporter) as (client, engine), estate_registries(estate) as registries:
            return await pipeline(
                client,
                engine=engine,
                registries=registries,
                signer=await signer_of(sign_with, estate),
                reporter=reporter,
                reports=reports,
                fault=fault,
            )

    answer(flow, json=json, show=show_shipped)


@needs_engine
def make(
    to: To = Path("made"),
    fault: Fault = None,
    json: Json = False,
) -> None:
    """Build, test and scan: the first half of va ship.

    Needs no right at any registry and no identity. Leaves the images as OCI archives, the reports, and a
    manifest with the digests of all of it; prints the digest of that.

    Example: va make --to made
    """
    from pipelines.make import MAKE_TOOLS, show_made
    from pipelines.make import make as pipeline

    async def flow(reporter: Reporter) -> Made:
        async with session(reporter, MAKE_TOOLS) as (client, engine):
            return await pipeline(client, engine=engine, to=to, reporter=reporter, fault=fault)

    answer(flow, json=json, show=show_made)


def publish(
    source: From = Path("made"),
    digest: Digest = None,
    estate: Estate = "local",
    sign_with: SignWith = "local",
    json: Json = False,
) -> None:
    """Push, attest and sign what was made: the second half of va ship.

    Runs nothing that came with the folder. Every byte is that of a digest in its manifest, the chart is
    packaged from this checkout, and policy.yaml is applied again. What is there already is not pushed again.

    Example: va publish --from made --digest sha256:…
    """
    from ci import tools
    from ci.registry import parse_digest
    from pipelines.publish import PUBLISH_TOOLS, show_published_release
    from pipelines.publish import publish as pipeline
    from pipelines.registries import estate_registries
    from pipelines.sign import signer_of

    async def flow(reporter: Reporter) -> PublishedRelease:
        wanted = parse_digest(digest) if digest is not None else None
        await tools.ensure(PUBLISH_TOOLS, reporter)
        async with estate_registries(estate) as registries:
            return await pipeline(
                source,
                registries=registries,
                signer=await signer_of(sign_with, estate),
                reporter=reporter,
                digest=wanted,
            )

    answer(flow, json=json, show=show_published_release)


def lint() -> None:
    """Check the workflows and the chart.

    actionlint; helm lint and kubeconform with every environment's values.

    Example: va lint
    """
    from pipelines.lint import lint as pipeline

    answer(pipeline, json=False)


def _chosen(names: Sequence[str] | None) -> Sequence[ImageSpec]:
    """The images of these names, in the order they are built; those of a release when there are none."""
    from ci.yamlfile import did_you_mean
    from pipelines.images import IMAGES, LIVEKIT

    every = (*IMAGES, LIVEKIT)
    known = [image.name for image in every]
    for name in names or ():
        if name not in known:
            raise BadInput(f"there is no image {name!r}", hint=did_you_mean(name, known))
    return [image for image in every if image.name in names] if names else IMAGES


@asynccontextmanager
async def session(
    reporter: Reporter, programs: Sequence[str] = ()
) -> AsyncIterator[tuple[dagger.Client, str]]:
    """A Dagger session, and the programs that pipelines call beside it: those of `va ship` unless told."""
    from ci import tools
    from ci.engine import session as dagger_session
    from pipelines.ship import SHIP_TOOLS

    await tools.ensure(programs or SHIP_TOOLS, reporter)
    async with dagger_session(reporter) as (client, engine):
        yield client, engine

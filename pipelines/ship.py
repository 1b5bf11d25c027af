"""Build, test, scan, publish and sign: one release. Both halves, one after the other, on one machine.

Nothing is pushed if a test fails or the policy blocks. Run again with nothing changed, every part finds its
result there already, and the release is the same one. Where the two must not meet (a job that runs other
people's code, and one that signs), each is run for itself: `pipelines.make`, `pipelines.publish`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ci import places
from ci.engine.sdk import dagger
from ci.layout import Page, page
from ci.release import Release
from ci.reporting import Reporter
from ci.scan import read_policy
from ci.supply.signing import Signer
from pipelines.build import BuiltImage, show_built
from pipelines.images import IMAGES, ImageSpec
from pipelines.make import MAKE_TOOLS, make, short_lived
from pipelines.publish import (
    PUBLISH_TOOLS,
    Published,
    PublishedRelease,
    publish,
    show_published_release,
)
from pipelines.registries import AvailableIn, EstateRegistries
from pipelines.scan import ScannedSubject, show_scanned
from pipelines.sign import Signed
from pipelines.test import TestedImage, show_tested

__all__ = ["SHIP_TOOLS", "Shipped", "ship", "show_shipped"]

SHIP_TOOLS = tuple(dict.fromkeys((*MAKE_TOOLS, *PUBLISH_TOOLS)))
"""The programs that the parts of `va ship` call."""


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

    StepFailed: a step or test failed; PolicyBlocked: the scan policy refuses it; SystemUnavailable: the home
    registry. In each case there is no release, and the same command goes on where this one stopped.
    """
    read_policy(places.checkout() / "policy.yaml")
    await registries.home.ping()  # rather now than after minutes of building
    with short_lived() as folder:
        made = await make(
            client,
            engine=engine,
            to=folder,
            reporter=reporter,
            reports=reports,
            images=images,
            fault=fault,
            linked=True,
        )
        done = await publish(
            folder,
            registries=registries,
            signer=signer,
            reporter=reporter,
            digest=made.digest,
            images=[image.name for image in images],
        )
    return Shipped(
        release=done.release,
        file=done.file,
        built=made.built,
        tested=made.tested,
        scanned=made.scanned,
        published=done.published,
        signed=done.signed,
        available=done.available,
    )


def show_shipped(shipped: Shipped) -> Page:
    """The tables and the release's name, for people."""
    done = PublishedRelease(
        release=shipped.release,
        file=shipped.file,
        published=shipped.published,
        signed=shipped.signed,
        available=shipped.available,
    )
    return page(
        show_built(shipped.built),
        "",
        show_tested(shipped.tested),
        "",
        show_scanned(shipped.scanned),
        "",
        show_published_release(done),
    )

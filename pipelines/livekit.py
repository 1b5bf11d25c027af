"""LiveKit's server, which no release has: build, test and scan its image, publish and sign it, on its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dagger

from ci import dates, places
from ci.build.source import read_commit
from ci.concurrency import together
from ci.layout import Page, page
from ci.registry import open_archive, push
from ci.reporting import Reporter
from ci.scan import read_policy
from ci.supply.availability import State, contents
from ci.supply.signing import Signer
from pipelines.database import databases
from pipelines.images import LIVEKIT
from pipelines.make import make_image
from pipelines.publish import attestations
from pipelines.registries import EstateRegistries, RegionStatus, proven, show_regions
from pipelines.scan import refuse_blocked
from pipelines.sign import sign_at_home

__all__ = ["PublishedLiveKit", "publish_livekit", "show_livekit"]

KEY = "kubernetes.workloads.livekit.image"
"""Where the architecture names the image."""


@dataclass(frozen=True, kw_only=True)
class PublishedLiveKit:
    """`reference` names it by digest; `regions` says which have it."""

    reference: str
    digest: str
    cached: bool
    """Whether all of it, and a signature, was there before."""
    regions: tuple[RegionStatus, ...]


async def publish_livekit(
    client: dagger.Client,
    *,
    engine: str,
    registries: EstateRegistries,
    signer: Signer,
    reporter: Reporter,
    reports: Path,
) -> PublishedLiveKit:
    """Have the image of the pinned LiveKit in the home registry, with what is said of it, and signed.

    The same sources give the same digest: nothing is sent twice. StepFailed: its tests; PolicyBlocked: the
    scan policy; SystemUnavailable: the home registry. A region that lags or is down is said, and no error.
    """
    root = places.checkout()
    policy = read_policy(root / "policy.yaml")
    await registries.home.ping()
    known = await databases(policy, reporter=reporter)
    made = await make_image(
        client,
        LIVEKIT,
        policy=policy,
        databases=known,
        today=dates.today(),
        fault=None,
        reporter=reporter,
        reports=reports,
    )
    refuse_blocked({LIVEKIT.name: made.scanned.verdict})
    # Of what goes into it: another commit of the rest says the same of the same image.
    commit = await read_commit(root, *LIVEKIT.inputs)
    image = open_archive(made.built.archive)
    assert made.scanned.sbom is not None
    said = attestations(
        image,
        name=LIVEKIT.name,
        tested=made.tested.summary,
        scanned=made.scanned.document.read_bytes(),
        packages=made.scanned.sbom.read_bytes(),
        commit=commit,
        engine=engine,
        fault=None,
    )
    attached = list(said.values())
    with reporter.step(f"publish {LIVEKIT.name} to {registries.home.endpoint}") as step:
        pushed = [await push(registries.home, LIVEKIT.name, image)]
        pushed += await together(push(registries.home, LIVEKIT.name, one) for one in attached)
        sent = sum(one.sent for one in pushed)
        if not sent:
            step.cached("all of it was there")
        step.say(f"{sent} blobs sent")
    with reporter.step(f"sign {LIVEKIT.name}") as step:
        held, signed_before = await sign_at_home(
            registries.home, LIVEKIT.name, image.digest, signer=signer, say=step.say
        )
        if signed_before:
            step.cached("signed before")
    what = contents({LIVEKIT.name: [image, *attached, held]})
    regions = await proven(
        registries, what, name=LIVEKIT.name, reporter=reporter, deadline=registries.deadline
    )
    return PublishedLiveKit(
        reference=f"{registries.home.endpoint}/{LIVEKIT.name}@{image.digest}",
        digest=image.digest,
        cached=not sent and signed_before,
        regions=regions,
    )


def show_livekit(done: PublishedLiveKit) -> Page:
    """Where it is, and the line for the architecture's file."""
    there = sum(one.has.state is State.THERE for one in done.regions)
    return page(
        show_regions(done.regions),
        f"{there} of {len(done.regions)} regions have it. In environments/architecture, {KEY}:",
        done.reference,
    )

"""LiveKit's server, which no release has: build, test and scan its image, publish and sign it, on its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from ci import dates, places
from ci.build.source import read_commit
from ci.concurrency import together
from ci.engine.sdk import dagger
from ci.layout import Page, page
from ci.registry import push
from ci.release import Commit
from ci.reporting import Reporter
from ci.scan import judge, read_policy
from ci.supply import handover
from ci.supply.availability import State, contents
from ci.supply.signing import Signer
from pipelines.database import databases
from pipelines.images import LIVEKIT
from pipelines.make import Made, make_image, maker, ready, short_lived
from pipelines.publish import attested, same_source
from pipelines.registries import EstateRegistries, RegionStatus, proven, show_regions
from pipelines.scan import refuse_blocked
from pipelines.sign import sign_at_home

__all__ = ["PublishedLiveKit", "make_livekit", "publish_livekit", "publish_made_livekit", "show_livekit"]

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


async def make_livekit(
    client: dagger.Client,
    *,
    engine: str,
    to: Path,
    reporter: Reporter,
    reports: Path | None = None,
    linked: bool = False,
) -> Made:
    """Build, test and scan it, and leave it in a folder for whoever may push and sign; as `make` does.

    StepFailed: its tests; PolicyBlocked: the scan policy.
    """
    root = places.checkout()
    policy = read_policy(root / "policy.yaml")
    (to / handover.MANIFEST).unlink(missing_ok=True)
    known = await databases(policy, reporter=reporter)
    made = await make_image(
        client,
        LIVEKIT,
        policy=policy,
        databases=known,
        today=dates.today(),
        fault=None,
        reporter=reporter,
        reports=reports or to / "reports",
    )
    refuse_blocked({LIVEKIT.name: made.scanned.verdict})
    digest = handover.leave(
        to,
        maker=maker(),
        commit=await _commit(root),
        engine=engine,
        fault=None,
        images=[ready(made)],
        linked=linked,
    )
    return Made(folder=to, digest=digest, built=(made.built,), tested=(made.tested,), scanned=(made.scanned,))


async def publish_made_livekit(
    folder: Path,
    *,
    registries: EstateRegistries,
    signer: Signer,
    reporter: Reporter,
    digest: str | None = None,
) -> PublishedLiveKit:
    """Have what was made in the home registry, with what is said of it, and signed; as `publish` does.

    The same sources give the same digest: nothing is sent twice. BadInput: the folder; PolicyBlocked: the
    scan policy; SystemUnavailable: the home registry. A region that lags or is down is said, and no error.
    """
    root = places.checkout()
    policy = read_policy(root / "policy.yaml")
    taken = await asyncio.to_thread(handover.take, folder, images=[LIVEKIT.name], chart=False, digest=digest)
    (made,) = taken.images
    commit = same_source(folder, taken, await _commit(root))
    refuse_blocked({LIVEKIT.name: judge(made.findings, policy, name=LIVEKIT.name, today=dates.today())})
    image, attached = made.bundle, list(attested(made, taken, commit).values())
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


async def publish_livekit(
    client: dagger.Client,
    *,
    engine: str,
    registries: EstateRegistries,
    signer: Signer,
    reporter: Reporter,
    reports: Path,
) -> PublishedLiveKit:
    """Both halves, one after the other: from the source of the pinned LiveKit to the home registry."""
    await registries.home.ping()  # rather now than after minutes of building
    with short_lived() as folder:
        made = await make_livekit(
            client, engine=engine, to=folder, reporter=reporter, reports=reports, linked=True
        )
        return await publish_made_livekit(
            folder, registries=registries, signer=signer, reporter=reporter, digest=made.digest
        )


async def _commit(root: Path) -> Commit:
    """Of what goes into it: another commit of the rest says the same of the same image."""
    return await read_commit(root, *LIVEKIT.inputs)


def show_livekit(done: PublishedLiveKit) -> Page:
    """Where it is, and the line for the architecture's file."""
    there = sum(one.has.state is State.THERE for one in done.regions)
    return page(
        show_regions(done.regions),
        f"{there} of {len(done.regions)} regions have it. In environments/architecture, {KEY}:",
        done.reference,
    )

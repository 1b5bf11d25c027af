"""`va livekit`: LiveKit's server, an image that is in no release."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ci.commands.answers import answer
from ci.commands.options import Digest, Estate, From, Json, Reports, SignWith, To
from ci.commands.shipping import needs_engine, session

if TYPE_CHECKING:
    from ci.reporting import Reporter
    from pipelines.livekit import PublishedLiveKit
    from pipelines.make import Made

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="LiveKit's server: an image that is in no release.")


@app.command("make")
@needs_engine
def livekit_make(
    to: To = Path("made"),
    json: Json = False,
) -> None:
    """Build, test and scan LiveKit's image: the first half of va livekit publish.

    Needs no right and no identity, as va make. Example: va livekit make --to made
    """
    from pipelines.livekit import make_livekit
    from pipelines.make import MAKE_TOOLS, show_made

    async def flow(reporter: Reporter) -> Made:
        async with session(reporter, MAKE_TOOLS) as (client, engine):
            return await make_livekit(client, engine=engine, to=to, reporter=reporter)

    answer(flow, json=json, show=show_made)


@app.command("publish")
@needs_engine
def livekit_publish(
    estate: Estate = "local",
    reports: Reports = Path("reports"),
    sign_with: SignWith = "local",
    json: Json = False,
) -> None:
    """Build, test, scan, publish and sign LiveKit's image.

    Prints its reference by digest, for `kubernetes.workloads.livekit.image`. What is there stays.

    Example: va livekit publish
    """
    from pipelines.livekit import publish_livekit, show_livekit
    from pipelines.registries import estate_registries
    from pipelines.sign import signer_of

    async def flow(reporter: Reporter) -> PublishedLiveKit:
        async with session(reporter) as (client, engine), estate_registries(estate) as registries:
            return await publish_livekit(
                client,
                engine=engine,
                registries=registries,
                signer=await signer_of(sign_with, estate),
                reporter=reporter,
                reports=reports,
            )

    answer(flow, json=json, show=show_livekit)


@app.command("publish-made")
def livekit_publish_made(
    source: From = Path("made"),
    digest: Digest = None,
    estate: Estate = "local",
    sign_with: SignWith = "local",
    json: Json = False,
) -> None:
    """Push, attest and sign what va livekit make left: the second half of va livekit publish.

    Runs nothing that came with the folder, as va publish. Example: va livekit publish-made --from made
    """
    from ci import tools
    from ci.registry import parse_digest
    from pipelines.livekit import publish_made_livekit, show_livekit
    from pipelines.publish import PUBLISH_TOOLS
    from pipelines.registries import estate_registries
    from pipelines.sign import signer_of

    async def flow(reporter: Reporter) -> PublishedLiveKit:
        wanted = parse_digest(digest) if digest is not None else None
        await tools.ensure(PUBLISH_TOOLS, reporter)
        async with estate_registries(estate) as registries:
            return await publish_made_livekit(
                source,
                registries=registries,
                signer=await signer_of(sign_with, estate),
                reporter=reporter,
                digest=wanted,
            )

    answer(flow, json=json, show=show_livekit)

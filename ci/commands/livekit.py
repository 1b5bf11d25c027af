"""`va livekit`: LiveKit's server, an image that is in no release."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ci.commands.answers import answer
from ci.commands.options import Estate, Json, Reports, SignWith
from ci.commands.shipping import needs_engine, session

if TYPE_CHECKING:
    from ci.reporting import Reporter
    from pipelines.livekit import PublishedLiveKit

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="LiveKit's server: an image that is in no release.")


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

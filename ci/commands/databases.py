"""`va db`: the database of vulnerabilities that scans use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer
from ci.commands.options import Estate, Json

if TYPE_CHECKING:
    from ci.reporting import Reporter
    from ci.scan import Mirrored
    from pipelines.database import DatabaseStatus

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The database of vulnerabilities that scans use.")


@app.command("mirror")
def db_mirror(
    source: Annotated[str, typer.Argument(help="Where it is: host/repository:tag, or …@sha256:….")],
    destination: Annotated[str, typer.Argument(help="Where it goes: host/repository[:tag].")],
    digest: Annotated[str | None, typer.Option(help="Copy exactly this one, whatever the tag names.")] = None,
    max_age: Annotated[str, typer.Option(help="Refuse one that is older: 24h, 90m.")] = "24h",
    sign_with: Annotated[
        str | None,
        typer.Option("--sign", help="Have the copy signed: local, keyless, azurekms://<vault>/<key>."),
    ] = None,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Copy Trivy's database, or its index of Java archives, to a registry of ours.

    As it is, so with the same digest. Stopped, the same command goes on; what is there is not sent again.

    Example: va db mirror ghcr.io/aquasecurity/trivy-db:2 127.0.0.1:5501/trivy-db
    """
    from datetime import timedelta

    from ci import tools
    from ci.environments import parse_seconds
    from pipelines.database import mirror, show_mirrored
    from pipelines.sign import signer_of

    async def flow(reporter: Reporter) -> Mirrored:
        oldest = timedelta(seconds=parse_seconds(max_age, what="--max-age"))
        signer = None
        if sign_with:
            await tools.ensure(["cosign"], reporter)
            signer = await signer_of(sign_with, estate)
        return await mirror(
            source, destination, digest=digest, max_age=oldest, reporter=reporter, signer=signer
        )

    answer(flow, json=json, show=show_mirrored)


@app.command("status")
def db_status(json: Json = False) -> None:
    """Say which database scans use, its digest and age; exit code 8 when the policy refuses it.

    As policy.yaml says, or the environment: VA_DATABASE. Example: va db status
    """
    from ci import places
    from ci.scan import read_policy
    from pipelines.database import database_status, show_database

    async def flow(reporter: Reporter) -> DatabaseStatus:
        policy = read_policy(places.checkout() / "policy.yaml")
        return await database_status(policy, reporter=reporter)

    if answer(flow, json=json, show=show_database).complaint:
        raise typer.Exit(8)

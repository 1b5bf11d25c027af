"""`va estate`: where releases go, made from what is there."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ci.commands.answers import failing, write_json
from ci.commands.options import Json, Local, Subscription, load, on_azure
from ci.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.azure.connection import Azure
    from ci.azure.estate import Signer, Written
    from ci.azure.outputs import Facts
    from ci.delivery.kubeconfig import Server
    from ci.layout import Page

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Estates: where releases go.")

_REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+"


@app.callback()
def _estate() -> None:
    """A group of its own."""


@app.command("init")
def estate_init(
    estate: Annotated[str, typer.Argument(help="The estate's name: its folder below environments/.")],
    env: Annotated[
        list[str] | None,
        typer.Option("--env", help="Only this environment (again for more); all when left out."),
    ] = None,
    repository: Annotated[
        str, typer.Option(help="OWNER/NAME on GitHub: whose workflow release.yml builds and signs.")
    ] = "",
    signer_key: Annotated[
        str, typer.Option(help="The file of a public key, where releases are signed with a key instead.")
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make anew what was made and has been changed by hand.")
    ] = False,
    local: Local = False,
    subscription: Subscription = "",
    json: Json = False,
) -> None:
    """Write an estate's files, from the architecture and from what its deployments output.

    What is yours (hours, approvals, who may sign) is made once and left alone; what Azure made up is made
    anew each time, and ends with 8 where somebody changed it. Asks for what is missing, on a terminal.

    Example: va estate init azure --repository example/voice-assistant
    """
    from ci import places
    from ci.architecture import model
    from ci.azure.estate import in_order, the_files, write_estate
    from ci.azure.outputs import read_outputs, read_servers
    from ci.azure.render import render
    from ci.layout import show

    with failing(json):
        folder = places.checkout() / "environments"
        signer = _signer(estate, repository, signer_key)
        ordered = in_order([load(one).architecture for one in model.environments()])
        wanted = [load(one).architecture for one in env] if env else ordered

        async def work(azure: Azure) -> Any:
            facts: dict[str, Mapping[str, Facts]] = {}
            servers: dict[str, Server] = {}
            for one in wanted:
                facts[one.environment] = await read_outputs(azure, one.environment, render(one))
                servers |= await read_servers(azure, one)
            return facts, servers

        facts, servers = on_azure(work, subscription, local)
        people, made = the_files(estate, ordered, facts, servers, signer)
        done = write_estate(people, made, folder, overwrite=overwrite)
        if json:
            write_json(done)
            return
        show(_page(done))
        if any(
            "livekit" in one.kubernetes.workloads and not one.kubernetes.workloads["livekit"].image
            for one in wanted
        ):
            show(
                f"next: va livekit publish --estate {estate}, its line into environments/architecture "
                "(kubernetes.workloads.livekit.image), and this again: until then LiveKit is not installed"
            )
        show(f"next: va env check; va doctor --estate {estate}")


def _signer(estate: str, repository: str, key: str) -> Signer | None:
    """Who signs, as it was said or asked for; None where the estate says it already."""
    from ci import places
    from ci.azure.estate import Signer, needs_signer

    if re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", estate) is None:
        raise BadInput(
            f"{estate[:80]!r} is not the name of an estate", hint="it has small letters, digits and dashes"
        )
    if estate in ("local", "architecture"):
        raise BadInput(f"{estate} is not Azure's to be made of", hint="another name: va estate init azure")
    if not needs_signer(estate, places.checkout() / "environments"):
        if repository or key:
            raise BadInput(
                f"environments/{estate}.yaml says already who may sign",
                hint="change it there: it is yours; and leave --repository and --signer-key out",
            )
        return None
    if not repository and sys.stdin.isatty():
        repository = typer.prompt("Whose workflow release.yml builds and signs (OWNER/NAME on GitHub)")
    if not repository:
        raise BadInput("nobody is named who may sign", hint="--repository OWNER/NAME, on GitHub")
    if re.fullmatch(_REPOSITORY, repository) is None:
        raise BadInput(f"{repository[:80]!r} is no repository", hint="--repository OWNER/NAME, on GitHub")
    return Signer(repository=repository, key=key)


def _page(done: Sequence[Written]) -> Page:
    from ci.layout import Column, Table, page
    from ci.places import checkout

    colours = {"new": "green", "changed": "yellow"}
    table = Table("", Column(name="file", rank=1))
    for one in done:
        file = one.file.relative_to(checkout()) if one.file.is_relative_to(checkout()) else one.file
        table.add((one.what, colours.get(one.what, "dim")), str(file))
    return page(table)

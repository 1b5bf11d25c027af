"""The options that several commands share, and how the environment that they name is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ci.commands.answers import write_json
from ci.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ci.architecture.model import Declared
    from ci.azure.connection import Azure

__all__ = [
    "SETTINGS", "STAND_IN", "Digest", "Env", "Estate", "Fault", "From", "Images", "Json", "Local", "Only",
    "Region", "ReleaseName", "Reports", "SignWith", "Subscription", "To", "WhatIf", "Written", "check_only",
    "load", "on_azure", "said",
]  # fmt: skip

STAND_IN = "VA_AZURE_STAND_IN"
"""The variable that names a stand-in for Resource Manager, http://127.0.0.1:PORT: for tests."""
SETTINGS = {"help_option_names": ["-h", "--help"]}

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Env = Annotated[str, typer.Option("--env", help="The environment: a file of environments/architecture.")]
Region = Annotated[str | None, typer.Option("--region", help="Only this region; all when left out.")]
WhatIf = Annotated[
    list[str] | None,
    typer.Option("--what-if", help="key=value, again for more: agents.max=40. Nothing is written."),
]
Written = Annotated[bool, typer.Option("--written", help="The written architecture, as it literally stands.")]
Local = Annotated[
    bool, typer.Option("--local", help="A stand-in for Azure on this machine, which keeps its state.")
]
Subscription = Annotated[
    str, typer.Option(envvar="AZURE_SUBSCRIPTION_ID", help="The Azure subscription's id.", show_default=False)
]

Estate = Annotated[
    str, typer.Option(envvar="VA_ESTATE", help="The estate: a folder of environments/. `local` is `va up`'s.")
]
Images = Annotated[
    list[str] | None,
    typer.Option("--image", help="Only this image (again for more); those of a release when left out."),
]
Reports = Annotated[
    Path, typer.Option(help="Where JUnit, coverage, SBOM, SARIF and scan files go, a folder an image.")
]
Fault = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Build an api that fails this share of its sessions: for drills."),
]
SignWith = Annotated[
    str,
    typer.Option(
        envvar="VA_SIGN_WITH",
        help="`local` (va up's key), azurekms://<vault>.vault.azure.net/<key>, `keyless` (OIDC), or "
        "`keyless:<signing config>` for a Sigstore of one's own.",
    ),
]
ReleaseName = Annotated[
    str, typer.Argument(help="A release's name, its file, or `latest`: the newest that was shipped here.")
]


def _made_there(folder: Path) -> Path:
    """Tell of a folder with nothing to publish before the tools are built that would publish it."""
    from ci.supply.handover import MANIFEST

    if not (folder / MANIFEST).is_file():
        raise BadInput(
            f"nothing was made there: there is no {folder / MANIFEST}",
            hint="va make makes it; --from names it",
        )
    return folder


From = Annotated[
    Path, typer.Option("--from", callback=_made_there, help="The folder that the first half left.")
]
To = Annotated[Path, typer.Option(help="The folder that what was made is left in.")]
Digest = Annotated[
    str | None,
    typer.Option(help="What the digest of the folder's manifest has to be, as it was said: sha256:…."),
]
Only = Annotated[
    str | None,
    typer.Option(help="This environment alone: for a job that has no rights in those before it."),
]


def check_only(to: str | None, only: str | Sequence[str] | None) -> None:
    """BadInput when both are said."""
    if to is not None and only:
        raise BadInput("--to and --only say different things", hint="leave one of them out")


def load(env: str, what_if: Sequence[str] | None = None, written: bool = False) -> Declared:
    """An environment, or the written architecture, with what is asked of it in a what-if."""
    from ci.architecture import model

    file = model.folder() / "as-written" / "prod.yaml"
    found = model.read_file(file) if written else model.read(env)
    if what_if:
        from ci.architecture import cost

        found = cost.what_if(found, what_if)
    return found


def said(files: Sequence[Path], json: bool) -> None:
    """Which files were written."""
    if json:
        write_json(list(files))
    else:
        from ci.layout import show

        show(*map(str, files))


def on_azure(work: Callable[[Azure], Awaitable[Any]], subscription: str, local: bool) -> Any:
    """Run something against Azure, or against the stand-in with the state it keeps on this machine."""
    import asyncio
    import os

    from ci import places
    from ci.azure import connection, standin

    async def flow() -> Any:
        if not local:
            if not subscription:
                raise BadInput(
                    "no subscription", hint="set AZURE_SUBSCRIPTION_ID or --subscription; --local needs none"
                )
            standing_in = os.environ.get(STAND_IN) or None
            poll = 0.02 if standing_in else 5.0
            async with connection.connect(subscription, endpoint=standing_in, poll=poll) as azure:
                return await work(azure)
        places.state().mkdir(parents=True, exist_ok=True)  # said before anything is asked, if it cannot be
        world = standin.StandIn(file=places.state() / "azure.json", per_poll=25)
        async with standin.serve(world) as endpoint:
            name = "00000000-0000-0000-0000-000000000000"
            async with connection.connect(name, endpoint=endpoint, poll=0.02) as azure:
                return await work(azure)

    return asyncio.run(flow())

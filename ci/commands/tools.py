"""`va tools`: tools that were built once, for all machines of a team."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer
from ci.commands.options import Json, SignWith

if TYPE_CHECKING:
    from ci.reporting import Reporter
    from pipelines.tools import ListedModule, PushedModule

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Tools that were built once, for all machines of a team.")


@app.command("push")
def tools_push(
    registry: Annotated[
        str, typer.Argument(envvar="VA_TOOLS", help="Where they go: host[:port][/repository].")
    ],
    modules: Annotated[
        list[str] | None,
        typer.Option("--module", help="Only this folder of tools/ (again for more); all when left out."),
    ] = None,
    sign_with: SignWith = "local",
    json: Json = False,
) -> None:
    """Publish the Go tools that are built here, each module as one signed artifact.

    Only what the registry lacks is sent. Whoever names that registry by VA_TOOLS, and the signer by
    VA_TOOLS_TRUST (docs/tools.md), takes them from there instead of building them.

    Example: va tools push 127.0.0.1:5501/tools
    """
    from pipelines.tools import push_tools, show_pushed

    async def flow(reporter: Reporter) -> tuple[PushedModule, ...]:
        return await push_tools(registry, modules=modules or (), sign_with=sign_with, reporter=reporter)

    answer(flow, json=json, show=show_pushed)


@app.command("list")
def tools_list(
    registry: Annotated[
        str | None, typer.Argument(help="Look there, and not where VA_TOOLS or tools/registry.yaml says.")
    ] = None,
    json: Json = False,
) -> None:
    """Say which Go tools are built here, and which of them a registry has for this machine.

    Example: va tools list
    """
    from pipelines.tools import list_tools, show_listed

    async def flow(reporter: Reporter) -> tuple[ListedModule, ...]:
        return await list_tools(address=registry, reporter=reporter)

    answer(flow, json=json, show=show_listed)

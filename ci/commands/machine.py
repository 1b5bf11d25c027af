"""`va doctor`, `va up`, `va down`: this machine, its tools and the embedded platform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer, needs_root
from ci.commands.options import Json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ci.platform import PartStatus
    from ci.reporting import Reporter
    from ci.tools import ToolStatus

__all__ = ["doctor", "down", "needs_platform", "up"]

needs_platform = needs_root("the embedded platform mounts file systems and makes namespaces")
"""Declares that a command brings parts of the platform up, or takes them down."""


def doctor(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[TOOL]...", help="Tools; all when left out.")
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Install or build what is missing (apt-get as root, Go).")
    ] = False,
    json: Json = False,
) -> None:
    """Say where each tool is, or how to get it.

    Example: va doctor helm kubectl --install
    """
    from ci import tools

    async def flow(reporter: Reporter) -> list[tools.ToolStatus]:
        wanted = tuple(dict.fromkeys(names or tools.NAMES))
        if install:
            await tools.ensure(wanted, reporter)
        return tools.survey(wanted)

    found = answer(flow, json=json, show=_tools_table)
    if any(tool.path is None for tool in found):
        raise typer.Exit(7)


@needs_platform
def up(json: Json = False) -> None:
    """Bring the embedded platform up.

    Registries, Kubernetes, a gateway, Prometheus, Redis and LiveKit, all real.

    What runs already stays, what died is restarted. Example: va up
    """
    from ci import platform

    async def flow(reporter: Reporter) -> list[PartStatus]:
        await platform.up(reporter)
        return await platform.status()

    answer(flow, json=json, show=_parts_table)


@needs_platform
def down() -> None:
    """Take the embedded platform down.

    No process, mount, network namespace, iptables rule or file of it is left.

    Example: va down
    """
    from ci import platform

    answer(platform.down, json=False)


def _tools_table(found: Sequence[ToolStatus]) -> RenderableType:
    from rich.table import Table

    table = Table("tool", "version", "where", box=None, pad_edge=False)
    for tool in found:
        if tool.path is None:
            table.add_row(tool.name, "-", f"[red]missing[/]: {tool.advice}")
        else:
            table.add_row(tool.name, tool.version, f"{tool.path} [dim]({tool.origin})[/]")
    return table


def _parts_table(parts: Sequence[PartStatus]) -> RenderableType:
    from rich.table import Table

    table = Table("part", "state", "pid", "", box=None, pad_edge=False)
    for part in parts:
        state = "[green]well[/]" if part.healthy else f"[red]{part.problem}[/]"
        table.add_row(part.name, state, str(part.pid or "-"), part.detail)
    return table

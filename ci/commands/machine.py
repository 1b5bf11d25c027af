"""`va doctor`, `va up`, `va down`: this machine, its tools and the embedded platform."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from ci import places
from ci.commands.answers import answer, fail, needs_root
from ci.commands.options import Json
from ci.errors import BadInput, PipelineError, PolicyBlocked, SystemUnavailable

if TYPE_CHECKING:
    from ci.layout import Page
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
        bool,
        typer.Option("--install", help="Install, take or build what is missing (apt-get as root)."),
    ] = False,
    estate: Annotated[
        str | None,
        typer.Option(help="Not the tools, but an estate: what of it is reached from here, and allowed."),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", help="Only this environment of the estate (again for more).")
    ] = None,
    json: Json = False,
) -> None:
    """Say where each tool is, or how to get it; with --estate, what of it is reached and allowed.

    Built tools are taken from the registry that VA_TOOLS or tools/registry.yaml names (docs/tools.md). Of an
    estate each right that a promotion needs is tried by a read or a dry run; what is missing has the line
    that mends it. It ends with 6 where something is not reached, with 8 where something is not allowed.

    Example: va doctor helm kubectl --install; va doctor --estate azure --env prod
    """
    from ci import tools

    if estate is not None:
        if names or install:
            fail(BadInput("--estate asks no tools", hint="va doctor --install, on its own"), json=json)
        _doctor_of(estate, env, json=json)
        return
    if env:
        fail(BadInput("--env is one of an estate", hint="--estate azure"), json=json)

    async def flow(reporter: Reporter) -> list[tools.ToolStatus]:
        wanted = tuple(dict.fromkeys(names or tools.NAMES))
        if install:
            await tools.ensure(wanted, reporter)
        return tools.survey(wanted)

    found = answer(flow, json=json, show=_tools_table)
    if not names and os.geteuid() == 0:
        _tell_gaps()
    if any(tool.path is None for tool in found):
        raise typer.Exit(7)


def _doctor_of(estate: str, env: Sequence[str] | None, *, json: bool) -> None:
    from pipelines.reach import reach, show_reach

    tried = answer(lambda reporter: reach(estate, env, reporter=reporter), json=json, show=show_reach)
    if any(one.problem and not one.reached for one in tried):
        raise typer.Exit(SystemUnavailable.exit_code)
    if any(one.problem for one in tried):
        raise typer.Exit(PolicyBlocked.exit_code)


def _tell_gaps() -> None:
    """Say what a build step is not kept from on this machine; nothing where none could run."""
    from ci.engine.boundary import gaps

    with suppress(PipelineError, OSError):
        for line in gaps(places.cache()):
            print(f"not protected: {line} (docs/engines.md)", file=sys.stderr)


@needs_platform
def up(
    clusters: Annotated[
        int | None,
        typer.Option(
            "--clusters",
            min=1,
            max=3,
            help="Regions with a cluster of their own; left out: as now.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Bring the embedded platform up.

    Registries, Kubernetes, a gateway, Prometheus, Redis and LiveKit, all real.

    What runs already stays, what died is restarted. Example: va up --clusters 3
    """
    from ci import platform

    async def flow(reporter: Reporter) -> list[PartStatus]:
        await platform.up(reporter, clusters=clusters)
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


def _tools_table(found: Sequence[ToolStatus]) -> Page:
    from ci.layout import Column, Table, page, words

    table = Table("tool", "version", Column(name="where", rank=1, below=True, prose=True))
    for tool in found:
        if tool.path is None:
            table.add(tool.name, "-", words(("missing", "red"), f": {tool.advice}"))
        else:
            table.add(tool.name, tool.version, words(str(tool.path), (f" ({tool.origin})", "dim")))
    return page(table)


def _parts_table(parts: Sequence[PartStatus]) -> Page:
    from ci.layout import Column, Table, page

    table = Table(
        "part",
        Column(name="state", rank=2, below=True, prose=True),
        Column(name="pid", rank=3),
        Column(name="detail", rank=1, below=True, prose=True),
    )
    for part in parts:
        state = ("well", "green") if part.healthy else (part.problem, "red")
        table.add(part.name, state, str(part.pid or "-"), part.detail)
    return page(table)

"""`va cache`: what builds keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer
from ci.commands.options import Json

if TYPE_CHECKING:
    from ci.engine import Usage
    from ci.layout import Page
    from ci.reporting import Reporter

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The image layers and results that builds keep.")


@app.command()
def usage(json: Json = False) -> None:
    """Say how much the build cache holds. Example: va cache usage"""
    from ci.engine import usage as measure

    async def flow(_: Reporter) -> Usage:
        return measure()

    answer(flow, json=json, show=_usage_line)


@app.command()
def prune(
    keep: Annotated[
        float, typer.Option(min=0, max=1_000_000, help="GiB that may stay; the least recently used go.")
    ] = 0,
    json: Json = False,
) -> None:
    """Shrink the build cache. Example: va cache prune --keep 5"""
    from ci.engine import prune as shrink

    async def flow(_: Reporter) -> Usage:
        return shrink(int(keep * 2**30))

    answer(flow, json=json, show=_usage_line)


def _usage_line(usage: Usage) -> Page:
    from ci.layout import page

    gib = 2**30
    return page(
        f"{usage.size / gib:.2f} GiB: layers {usage.layers / gib:.2f}, blobs {usage.blobs / gib:.2f}, "
        f"cache volumes {usage.volumes / gib:.2f}, outputs {usage.outputs / gib:.2f}; "
        f"the results of {usage.results} steps"
    )

"""`va notify`: whether people are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer, fail
from ci.commands.options import Estate, Json
from ci.errors import SystemUnavailable

if TYPE_CHECKING:
    from ci.delivery.notify import Told
    from ci.layout import Page
    from ci.reporting import Reporter

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Telling people of promotions: Teams, Slack, mail, webhooks.")


@app.command("test")
def notify_test(
    environment: Annotated[str, typer.Argument(help="The environment whose channels are tried.")],
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Send a test message to each channel of an environment. Ends with 6 when one of them did not take it.

    Example: va notify test prod
    """
    from ci.delivery.notify import tried
    from ci.environments import read_environment

    async def flow(_: Reporter) -> tuple[Told, ...]:
        return await tried(read_environment(estate, environment))

    found = answer(flow, json=json, show=_page)
    if failed := [f"{one.channel}: {one.problem}" for one in found if one.problem]:
        hint = "mend what holds the URL, or the way there; a promotion goes on without"
        fail(SystemUnavailable("; ".join(failed), hint=hint), json=False)


def _page(found: tuple[Told, ...]) -> Page:
    from ci.layout import Column, Table, page

    table = Table("channel", Column(name="service", rank=1), Column(name="told", prose=True))
    for one in found:
        told = (one.problem, "red") if one.problem else ("yes", "green")
        table.add(one.channel, one.service or "-", told)
    return page(table)

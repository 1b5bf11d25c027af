"""`va history`: what was promoted where, how it went, and how well that is done on the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer
from ci.commands.options import Estate, Json
from ci.errors import BadInput

if TYPE_CHECKING:
    from ci.delivery.ledger import Entry, Figures, Promotion
    from ci.layout import Page
    from ci.reporting import Reporter

__all__ = ["history"]


def history(
    promotion: Annotated[
        str | None, typer.Argument(help="The timeline of this one; its first letters are enough.")
    ] = None,
    env: Annotated[str | None, typer.Option("--env", help="This environment alone.")] = None,
    days: Annotated[int, typer.Option(min=1, max=36_525, help="How far back.")] = 90,
    figures: Annotated[
        bool, typer.Option("--figures", help="DORA's four figures of each environment.")
    ] = False,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Show the promotions, the timeline of one, or DORA's four figures.

    From the ledgers: who, when, what, why, and by which numbers.

    Example: va history 2026-11-29T20
    """
    if figures and promotion:
        raise BadInput("--figures are of all promotions", hint="leave one of both out")
    if figures:
        _figures(estate, env, days, json)
    elif promotion is not None:
        _timeline(estate, env, promotion, json)
    else:
        _promotions(estate, env, days, json)


def _promotions(estate: str, env: str | None, days: int, json: bool) -> None:
    from datetime import UTC, datetime, timedelta

    from ci.delivery.ledger import promotions, read_all
    from ci.delivery.ledger.show import history_page

    async def flow(_: Reporter) -> list[Promotion]:
        since = datetime.now(UTC) - timedelta(days=days)
        return [one for one in promotions(await read_all(estate, env)) if one.began >= since]

    answer(flow, json=json, show=history_page)


def _timeline(estate: str, env: str | None, name: str, json: bool) -> None:
    from ci.delivery.ledger import meant, read_all
    from ci.delivery.ledger.show import timeline_page

    async def flow(_: Reporter) -> list[tuple[str, Entry]]:
        ledgers = await read_all(estate, env)
        wanted = meant(name, ledgers)
        found = [
            (environment, entry)
            for environment, entries in ledgers.items()
            for entry in entries
            if entry.promotion == wanted
        ]
        return sorted(found, key=lambda each: each[1].when)

    def shown(found: list[tuple[str, Entry]]) -> Page:
        return timeline_page(found[0][1].promotion, found)

    answer(flow, json=json, show=shown)


def _figures(estate: str, env: str | None, days: int, json: bool) -> None:
    from datetime import UTC, datetime, timedelta

    from ci.delivery.ledger import figures, read_all
    from ci.delivery.ledger.show import figures_page

    async def flow(_: Reporter) -> tuple[Figures, ...]:
        now = datetime.now(UTC)
        return figures(await read_all(estate, env), since=now - timedelta(days=days), until=now)

    answer(flow, json=json, show=figures_page)

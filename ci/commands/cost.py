"""`va cost`: what it costs a month, what a change would, and what a document says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ci.commands.answers import failing, write_json
from ci.commands.options import Env, Json, Region, WhatIf, Written, load

if TYPE_CHECKING:
    from ci.architecture.cost import Stated

__all__ = ["cost"]


def cost(
    env: Env = "prod",
    region: Region = None,
    what_if: WhatIf = None,
    written: Written = False,
    update_prices: Annotated[
        bool,
        typer.Option("--update-prices", help="Read current prices from the Azure Retail Prices API first."),
    ] = False,
    json: Json = False,
) -> None:
    """What an environment costs a month: low (pools at their minimum), high (at their maximum), the budget.

    Example: va cost --env prod --what-if agents.max=40
    """
    from ci.architecture.cost import estimate, stated

    with failing(json):
        if update_prices:
            _update_prices()
        now = load(env, None, written).architecture
        then = load(env, what_if, written).architecture if what_if else None
        before = estimate(now, region)
        after = estimate(then, region) if then is not None else None
        claims = now.claims
        if json:
            write_json(
                {
                    "environment": env,
                    "lines": (after or before).lines,
                    "low": (after or before).low,
                    "high": (after or before).high,
                    "budget": now.budget.monthly,
                    "before": {"low": before.low, "high": before.high} if after else None,
                    "stated": stated(claims) if claims else None,
                }
            )
            return
        if claims:
            _show_stated(stated(claims))
        _show_cost(
            "as written" if written else env, before, after, now.budget.monthly if region is None else None
        )


def _update_prices() -> None:
    import asyncio
    from datetime import datetime

    import httpx

    from ci.architecture.cost import prices_file
    from ci.architecture.retail import refresh

    async def flow() -> list[Any]:
        async with httpx.AsyncClient(timeout=30) as client:
            return await refresh(prices_file(), client, today=datetime.now().astimezone().date())

    for change in asyncio.run(flow()):
        said = f"{change.before:g} -> {change.after:g}" if change.after is not None else f"kept: {change.why}"
        sys.stderr.write(f"{change.item} {change.region}: {said}\n")


def _show_cost(env: str, before: Any, after: Any, budget: float | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"{env}: USD a month, list prices", title_justify="left", box=None, pad_edge=False)
    table.add_column("component")
    for column in ("low", "high", *(("low then", "high then") if after else ())):
        table.add_column(column, justify="right")
    then = after.by_component() if after else {}
    for name, (low, high) in before.by_component().items():
        more = [f"{value:,.0f}" for value in then.get(name, (0, 0))] if after else []
        table.add_row(name, f"{low:,.0f}", f"{high:,.0f}", *more)
    more = [f"{after.low:,.0f}", f"{after.high:,.0f}"] if after else []
    table.add_row("total", f"{before.low:,.0f}", f"{before.high:,.0f}", *more, style="bold")
    console.print(table)
    last = after or before
    if budget is not None:
        inside = "inside" if last.high <= budget else "inside at the low end, over it at the high end"
        inside = "over, even at the low end" if last.low > budget else inside
        console.print(f"budget {budget:,.0f} USD: {inside}")


def _show_stated(table: Stated) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="The written table, USD a month", title_justify="left", box=None, pad_edge=False)
    shown.add_column("component")
    shown.add_column("low", justify="right")
    shown.add_column("high", justify="right")
    for name, (low, high) in table.rows.items():
        shown.add_row(name, f"{low:,.0f}", f"{high:,.0f}")
    for label, values, style in (
        ("total, as written", table.total, "dim"),
        ("total, added up", table.sums, "bold"),
    ):
        marks = ["" if a == b else " (wrong)" for a, b in zip(values, table.sums, strict=True)]
        shown.add_row(
            label, *(f"{value:,.0f}{mark}" for value, mark in zip(values, marks, strict=True)), style=style
        )
    Console(highlight=False).print(shown)

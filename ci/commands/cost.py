"""`va cost`: what it costs a month, what a change would, and what a document says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ci import dates
from ci.commands.answers import failing, write_json
from ci.commands.options import Env, Json, Region, WhatIf, Written, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.architecture.cost import Estimate, PriceUsed, Stated
    from ci.layout import Page

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
    sources: Annotated[bool, typer.Option("--sources", help="Show each price, whose and when.")] = False,
    json: Json = False,
) -> None:
    """What an environment costs a month: low (pools at their minimum), high (at their maximum), the budget.

    Example: va cost --env prod --what-if agents.max=40
    """
    from ci.architecture.cost import estimate, stated
    from ci.layout import show

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
            show(_stated_page(stated(claims)))
        budget = now.budget.monthly if region is None else None
        show(_cost_page("as written" if written else env, before, after, budget))
        if sources:
            show(_sources_page((after or before).prices()))


def _update_prices() -> None:
    import asyncio

    import httpx

    from ci.architecture.cost import prices_file
    from ci.architecture.retail import refresh

    async def flow() -> list[Any]:
        async with httpx.AsyncClient(timeout=30) as client:
            return await refresh(prices_file(), client, today=dates.today())

    from ci.layout import show

    for change in asyncio.run(flow()):
        said = f"{change.before:g} -> {change.after:g}" if change.after is not None else f"kept: {change.why}"
        show(f"{change.item} {change.region}: {said}", to=sys.stderr)


def _cost_page(env: str, before: Estimate, after: Estimate | None, budget: float | None) -> Page:
    from ci.layout import Column, Table, page

    then = after.by_component() if after else {}
    columns = ("low", "high", *(("low then", "high then") if after else ()))
    table = Table(
        "component",
        *(Column(name=name, right=True) for name in columns),
        title=f"{env}: USD a month, list prices",
    )
    for name, (low, high) in before.by_component().items():
        more = [f"{value:,.0f}" for value in then.get(name, (0, 0))] if after else []
        table.add(name, f"{low:,.0f}", f"{high:,.0f}", *more)
    more = [f"{after.low:,.0f}", f"{after.high:,.0f}"] if after else []
    table.add("total", f"{before.low:,.0f}", f"{before.high:,.0f}", *more, style="bold")
    last = after or before
    said = _where_from(last.prices())
    if budget is None:
        return page(table, said)
    inside = "inside" if last.high <= budget else "inside at the low end, over it at the high end"
    inside = "over, even at the low end" if last.low > budget else inside
    return page(table, f"budget {budget:,.0f} USD: {inside}", said)


def _where_from(prices: Sequence[PriceUsed]) -> str:
    """How many of the prices were read of Azure, and since when; the others are remembered."""
    remembered = [one for one in prices if one.source.startswith("as remembered")]
    read = sorted(one.read for one in prices if one not in remembered)
    said = f"{len(read)} of {len(prices)} prices read from Azure's price list"
    said += f" ({read[0]} or later)" if read else ""
    if not remembered:
        return said
    return f"{said}; {len(remembered)} are remembered: --sources shows each, --update-prices reads them"


def _sources_page(prices: Sequence[PriceUsed]) -> Page:
    from ci.layout import Column, Table, page

    table = Table(
        "price",
        Column(name="region", rank=1),
        Column(name="USD", right=True),
        Column(name="a", rank=2),
        Column(name="of", rank=4),
        Column(name="source", rank=3, below=True, prose=True),
    )
    for one in sorted(prices, key=lambda one: (one.item, one.region)):
        table.add(one.item, one.region, f"{one.usd:g}", one.unit, one.read, one.source)
    return page(table)


def _stated_page(stated: Stated) -> Page:
    from ci.layout import Column, Table, page

    table = Table(
        "component",
        Column(name="low", right=True),
        Column(name="high", right=True),
        title="The written table, USD a month",
    )
    for name, (low, high) in stated.rows.items():
        table.add(name, f"{low:,.0f}", f"{high:,.0f}")
    for label, values, style in (
        ("total, as written", stated.total, "dim"),
        ("total, added up", stated.sums, "bold"),
    ):
        marks = ["" if a == b else " (wrong)" for a, b in zip(values, stated.sums, strict=True)]
        figures = (f"{value:,.0f}{mark}" for value, mark in zip(values, marks, strict=True))
        table.add(label, *figures, style=style)
    return page(table)

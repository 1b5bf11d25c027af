"""Rules about money: what a document says it costs, and the budget."""

from __future__ import annotations

from collections.abc import Iterator

from ci.architecture.check.rule import Broken, Estate, Rule, error, info

__all__ = ["ESTIMATED", "RULES"]


@error("COST-SUM")
def the_table_adds_up(estate: Estate) -> Iterator[Broken]:
    """A document's cost table has the total that its lines sum to."""
    claims = estate.architecture.claims
    if claims is None or not claims.costs or claims.total is None:
        return
    low = sum(claim.low for claim in claims.costs.values())
    high = sum(claim.high for claim in claims.costs.values())
    said = [
        f"the {which} sum to {real:,.0f}, not {stated:,.0f}"
        for which, real, stated in (("lows", low, claims.total.low), ("highs", high, claims.total.high))
        if real != stated
    ]
    if said:
        yield Broken(("claims", "total"), " and ".join(said), f"say {low:,.0f} - {high:,.0f} USD")


@error("COST-MISSING")
def the_table_is_whole(estate: Estate) -> Iterator[Broken]:
    """A document's cost table leaves no component and no region out."""
    claims = estate.architecture.claims
    if claims is None or not claims.costs or claims.total is None:
        return
    wanted = {
        "registry": "the container registry",
        "traffic-manager": "Traffic Manager" if estate.architecture.traffic_manager else "",
        "key-vault": "Key Vault",
    }
    missing = [words for key, words in wanted.items() if words and key not in claims.costs]
    others = estate.architecture.order[1:]
    if others:
        missing.append(f"the regions {' and '.join(others)}")
    if missing:
        yield Broken(
            ("claims", "costs"),
            f"the table leaves out {', '.join(missing)}",
            "`va cost` counts every component in every region",
        )


@error("COST-BUDGET")
def the_budget_is_possible(estate: Estate) -> Iterator[Broken]:
    """The lowest estimate is inside the budget."""
    from ci.architecture.cost import estimate

    budget, cost = estate.architecture.budget.monthly, estimate(estate.architecture)
    if cost.low > budget:
        yield Broken(
            ("budget", "monthly"),
            f"even the lowest estimate of {cost.low:,.0f} USD is over the budget of {budget:,.0f}",
            "`va cost` shows where it goes",
        )


@info("COST-BUDGET")
def the_budget_covers_it_all(estate: Estate) -> Iterator[Broken]:
    """The highest estimate, every pool at its maximum all month, is inside the budget."""
    from ci.architecture.cost import estimate

    budget, cost = estate.architecture.budget.monthly, estimate(estate.architecture)
    if cost.low <= budget < cost.high:
        yield Broken(
            ("budget", "monthly"),
            f"with every pool at its maximum all month it would cost {cost.high:,.0f} USD, over the budget "
            f"of {budget:,.0f}: the budget's alerts are what notices",
            "nothing, or a lower maximum; `va cost` shows where it goes",
        )


ESTIMATED: tuple[Rule, ...] = (the_budget_is_possible, the_budget_covers_it_all)
"""The rules that estimate what it costs."""

RULES: tuple[Rule, ...] = (the_table_adds_up, the_table_is_whole, *ESTIMATED)

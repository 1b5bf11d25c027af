"""Orders to a promotion that is under way, from any terminal: entries of the ledger, read look by look.

pause      all traffic to stable, and wait; resume goes on with the evidence
abort      traffic to stable, the canary goes, stable is what it was; what has ended stays
retry      a step that no gate could decide is baked again
skip-bake  the time between two waves is over
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger, open_ledger
from ci.delivery.promotion.states import unfinished
from ci.environments import Environment, read_environments
from ci.errors import BadInput

__all__ = ["give_order", "watch"]

_LOOK = 1.0


async def give_order(estate: str, action: Action, what: str | None, *, reason: str) -> tuple[Entry, ...]:
    """Write the order for the promotion of that name, or the one under way in `prod` or `prod/eastus`.

    Left out: whatever is under way in the estate. BadInput when nothing is, or no reason is given.
    """
    if not reason.strip():
        raise BadInput(f"{action} wants a reason", hint='--reason "…": it is kept in the ledger')
    given = []
    for environment in read_environments(estate):
        target = _target(environment, what)
        if target is None:
            continue
        async with open_ledger(environment) as ledger:
            for name, release in unfinished(await ledger.entries()).items():
                if _is_name(what) and name != what:
                    continue
                given.append(
                    await ledger.append(
                        Draft(
                            promotion=name, kind=Kind.ORDER, action=action, target=target, release=release,
                            reason=reason.strip(),
                        )
                    )
                )  # fmt: skip
    if not given:
        raise BadInput(
            f"nothing is being promoted{f' ({what})' if what else ''}",
            hint="va history lists promotions, va status shows what runs",
        )
    return tuple(given)


async def watch(estate: str, what: str | None) -> AsyncIterator[Entry]:
    """Each entry of the promotion of that name (or of the newest one) as it is written, until it has ended.

    Afterwards, too: then they come at once.
    """
    async with AsyncExitStack() as stack:
        ledgers = [
            await stack.enter_async_context(open_ledger(environment))
            for environment in read_environments(estate)
        ]
        name = what or await _newest(ledgers)
        seen = [0] * len(ledgers)
        while True:
            under_way = False
            new: list[Entry] = []
            for number, ledger in enumerate(ledgers):
                under_way |= name in unfinished(await ledger.entries(promotion=name))
                entries = await ledger.entries(after=seen[number])
                seen[number] = entries[-1].sequence if entries else seen[number]
                new += [one for one in entries if one.promotion == name]
            for entry in sorted(new, key=lambda one: one.time):
                yield entry
            if not under_way:
                return
            await asyncio.sleep(_LOOK)


async def _newest(ledgers: Sequence[Ledger]) -> str:
    begun = [
        one.promotion
        for ledger in ledgers
        for one in await ledger.entries()
        if one.action is Action.START and not one.target
    ]
    if not begun:
        raise BadInput("nothing was promoted yet", hint="va promote does")
    return max(begun)


def _is_name(what: str | None) -> bool:
    return what is not None and what[:1].isdigit()


def _target(environment: Environment, what: str | None) -> str | None:
    """What of the environment is meant: empty for all of it; None when nothing is."""
    if what is None or _is_name(what):
        return ""
    name, _, region = what.partition("/")
    if name != environment.name:
        return None
    return environment.target(region).name if region else ""

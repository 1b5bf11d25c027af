"""The time between two waves: what one wave got has to stand before the next gets it.

It is in the ledger when it began, so that a run which is killed meanwhile waits for the rest of it, and it
ends early only by an order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger
from ci.environments import Environment
from ci.reporting import Reporter

__all__ = ["bake_wave"]


async def bake_wave(
    promotion: str, release: str, environment: Environment, wave: int, ledger: Ledger, reporter: Reporter
) -> None:
    """Wait before wave number `wave` (from 0), if this promotion brought the wave before anything."""
    entries = await ledger.entries(promotion=promotion)
    before = {environment.target(region).name for region in environment.waves[wave - 1]}
    begun = next((one for one in reversed(entries) if _of(one, wave)), None)
    if not _brought(entries, before) or (begun is not None and begun.kind is Kind.OUTCOME):
        return
    draft = Draft(
        promotion=promotion, kind=Kind.INTENT, action=Action.WAVE, release=release, detail={"wave": wave}
    )
    began = (begun or await ledger.append(draft)).time
    with reporter.step(f"{environment.name}: wait before the next wave") as step:
        reason = await _wait(promotion, environment, began, ledger, step.say)
    came = draft.model_copy(update={"kind": Kind.OUTCOME, "result": "done", "reason": reason})
    await ledger.append(came)


async def _wait(
    promotion: str, environment: Environment, began: datetime, ledger: Ledger, say: Callable[[str], None]
) -> str:
    """Until it is over; returns why it was over before its time."""
    while True:
        left = environment.wave_bake - (datetime.now(UTC) - began).total_seconds()
        orders = [one for one in await ledger.entries(promotion=promotion) if one.kind is Kind.ORDER]
        ends = [one for one in orders if one.action in (Action.SKIP_BAKE, Action.ABORT) and one.time >= began]
        if ends:
            return f"{ends[-1].action} by {ends[-1].who}: {ends[-1].reason}"
        pauses = [one for one in orders if one.action in (Action.PAUSE, Action.RESUME)]
        if pauses and pauses[-1].action is Action.PAUSE:
            say(f"paused by {pauses[-1].who}: {pauses[-1].reason}")
        elif left <= 0:
            return ""
        else:
            say(f"{left:.0f} s of {environment.wave_bake:g} s")
        await asyncio.sleep(min(max(left, 0.05), max(environment.gates.look, 0.05)))


def _of(entry: Entry, wave: int) -> bool:
    return entry.action is Action.WAVE and entry.detail.get("wave") == wave


def _brought(entries: Iterable[Entry], targets: set[str]) -> bool:
    return any(
        entry.target in targets
        and entry.action in (Action.INSTALL, Action.UPGRADE)
        and entry.kind is Kind.INTENT
        for entry in entries
    )

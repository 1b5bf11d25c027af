"""The time that a promotion waits, and watches: between two waves, and for a while after the last.

It is in the ledger when it began, so that a run which is killed meanwhile waits for the rest of it, and it
ends early only by an order, or by harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime

from ci.delivery.gates import Finding
from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger
from ci.delivery.results import headline
from ci.environments import Environment
from ci.reporting import Reporter

__all__ = ["brought", "stand"]

Look = Callable[[], Awaitable[tuple[str, Finding] | None]]
"""The target that is harmed and how that shows; None while none is."""


async def stand(
    draft: Draft, seconds: float, environment: Environment, ledger: Ledger, reporter: Reporter, look: Look
) -> str:
    """Wait for what `draft` (of WAVE or WATCH) is about, if that is to be done; returns the harm seen."""
    entries = await ledger.entries(promotion=draft.promotion)
    begun = next((one for one in reversed(entries) if _same(one, draft)), None)
    if begun is not None and begun.kind is Kind.OUTCOME:
        return begun.reason if begun.result == "failed" else ""
    began = (begun or await ledger.append(draft)).time
    what = "wait before the next wave" if draft.action is Action.WAVE else "watch what was promoted"
    with reporter.step(f"{environment.name}: {what}") as step:
        result, reason, findings = await _wait(draft, seconds, environment, began, ledger, look, step.say)
    came = {"kind": Kind.OUTCOME, "result": result, "reason": reason, "findings": findings}
    await ledger.append(draft.model_copy(update=came))
    return reason if result == "failed" else ""


async def _wait(
    draft: Draft,
    seconds: float,
    environment: Environment,
    began: datetime,
    ledger: Ledger,
    look: Look,
    say: Callable[[str], None],
) -> tuple[str, str, tuple[Finding, ...]]:
    """Until it is over: how it ended, why before its time, and the finding that did it."""
    while True:
        left = seconds - (datetime.now(UTC) - began).total_seconds()
        orders = [one for one in await ledger.entries(promotion=draft.promotion) if one.kind is Kind.ORDER]
        ends = [one for one in orders if one.time >= began and one.action in _ENDS]
        if ends:
            return "done", f"{ends[-1].action} by {ends[-1].who}: {ends[-1].reason}", ()
        if (harmed := await look()) is not None:
            name, finding = harmed
            return "failed", f"{name}: {headline(finding)}", (finding,)
        pauses = [one for one in orders if one.action in (Action.PAUSE, Action.RESUME)]
        if pauses and pauses[-1].action is Action.PAUSE:
            say(f"paused by {pauses[-1].who}: {pauses[-1].reason}")
        elif left <= 0:
            return "done", "", ()
        else:
            say(f"{left:.0f} s of {seconds:g} s")
        await asyncio.sleep(min(max(left, 0.05), max(environment.gates.look, 0.05)))


_ENDS = (Action.SKIP_BAKE, Action.ABORT, Action.ROLL_BACK)


def brought(entries: Iterable[Entry], promotion: str) -> frozenset[str]:
    """The targets whose stable that promotion changed."""
    return frozenset(
        entry.target
        for entry in entries
        if entry.promotion == promotion
        and entry.action in (Action.INSTALL, Action.UPGRADE)
        and entry.kind is Kind.INTENT
    )


def _same(entry: Entry, draft: Draft) -> bool:
    return entry.action is draft.action and entry.detail.get("wave") == draft.detail.get("wave")

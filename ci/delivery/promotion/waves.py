"""The time that a promotion waits, and watches: between two waves, and for a while after the last.

A run that goes on after a kill waits for all of it: while nobody was there nobody looked, however long that
was, or seems to be where a clock was set. It ends early only by an order, or by harm. Which targets are
watched is what tells one wait from another: a region that got the release later is watched for all of the
time. An order counts by its place in the ledger, not by the clock of whoever gave it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from ci.delivery.findings import Finding, Verdict
from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger
from ci.delivery.promotion.show import paused_line
from ci.delivery.promotion.states import closing, paused_by
from ci.delivery.results import headline
from ci.environments import Environment
from ci.reporting import Reporter

__all__ = ["brought", "ordered", "stand"]

Look = Callable[[], Awaitable[tuple[str, Finding] | None]]
"""The target that is harmed and how that shows, or one that may be (INCONCLUSIVE); None while none is."""


async def stand(
    draft: Draft, seconds: float, environment: Environment, ledger: Ledger, reporter: Reporter, look: Look
) -> str:
    """Wait for what `draft` (of WAVE or WATCH) is about, if that is to be done; returns the harm seen."""
    entries = await ledger.entries(promotion=draft.promotion)
    begun = next((one for one in reversed(entries) if _same(one, draft)), None)
    if begun is not None and begun.kind is Kind.OUTCOME:
        since = [one.action for one in entries if one.kind is Kind.ORDER and one.sequence > begun.sequence]
        if begun.result != "failed" or Action.SKIP_BAKE in since:
            return ""
        if Action.RETRY not in since:
            return begun.reason
        begun = None
    begun = begun or await ledger.append(draft)
    what = "wait before the next wave" if draft.action is Action.WAVE else "watch what was promoted"
    with reporter.step(f"{environment.name}: {what}") as step:
        result, reason, findings = await _wait(
            begun, seconds, environment, ledger, look, say=step.say, note=reporter.note
        )
    came = {"kind": Kind.OUTCOME, "result": result, "reason": reason, "findings": findings}
    await ledger.append(draft.model_copy(update=came))
    return reason if result == "failed" else ""


async def _wait(
    begun: Entry,
    seconds: float,
    environment: Environment,
    ledger: Ledger,
    look: Look,
    *,
    say: Callable[[str], None],
    note: Callable[[str], None],
) -> tuple[str, str, tuple[Finding, ...]]:
    """Until it is over: how it ended, why before its time, and the finding that did it."""
    until = time.monotonic() + seconds
    told = 0
    while True:
        left = until - time.monotonic()
        entries = await ledger.entries(promotion=begun.promotion)
        if (ended := ordered(entries)) is not None:
            return *ended, ()
        orders = [one for one in entries if one.kind is Kind.ORDER]
        skips = [one for one in orders if one.sequence > begun.sequence and one.action is Action.SKIP_BAKE]
        if skips:
            return "done", f"{skips[-1].action} by {skips[-1].who}: {skips[-1].reason}", ()
        seen = await look()
        if seen is not None and seen[1].verdict is Verdict.FAIL:
            name, finding = seen
            return "failed", f"{name}: {headline(finding)}", (finding,)
        pauses = [one for one in orders if one.action in (Action.PAUSE, Action.RESUME)]
        if pauses and pauses[-1].action is Action.PAUSE:
            paused = paused_by(pauses[-1])
            say(paused)
            if told != pauses[-1].sequence:
                note(paused_line(environment.name, paused))
            told = pauses[-1].sequence
        elif seen is not None:  # until that is over, however long it was to be
            say(f"{seen[0]}: {seen[1].reason}")
        elif left <= 0:
            return "done", "", ()
        else:
            say(f"{left:.0f} s of {seconds:g} s")
        pace = max(environment.gates.look, 0.05)
        await asyncio.sleep(min(left, pace) if left > 0 else pace)


def ordered(entries: Iterable[Entry]) -> tuple[str, str] | None:
    """How the promotion that these entries are of is to end by an order, or by another one, and why."""
    by_order: tuple[str, str] | None = None
    closed: tuple[str, str] | None = None
    for entry in entries:
        if entry.kind is Kind.ORDER and entry.action in (Action.ABORT, Action.ROLL_BACK):
            result = "aborted" if entry.action is Action.ABORT else "rolled back"
            by_order = (result, f"{entry.action} by {entry.who}: {entry.reason}")
        elif not entry.target and entry.action is Action.START and entry.kind is Kind.INTENT:
            closed = None
        elif (why := closing(entry)) is not None:
            closed = ("aborted", why)
    return by_order or closed


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
    return entry.action is draft.action and entry.detail.get("targets") == draft.detail.get("targets")

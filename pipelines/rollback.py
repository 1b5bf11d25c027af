"""Take a target back to the release that was stable before, without building or asking a gate.

For two in the morning: it needs the target's cluster and nothing else. Traffic leaves a canary first, if
there is one; then Helm goes back to the newest revision of another release. Run again, nothing changes.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

from ci.concurrency import together
from ci.delivery.ledger import Event, Journal
from ci.delivery.notify import telling
from ci.delivery.results import Outcome, PromotionResult, TargetResult
from ci.delivery.revisions import Revision
from ci.delivery.site import TRACKS, Site, open_site
from ci.environments import Environment, read_environment
from ci.errors import BadInput
from ci.reporting import Reporter

__all__ = ["rollback"]


async def rollback(
    estate: str, place: str, *, to: str | None = None, canary_only: bool = False, reporter: Reporter
) -> PromotionResult:
    """Roll back one target (`prod/eastus`) or every target of an environment (`prod`).

    `to` names the release to go back to; the one before by default. While a canary is there, that is what a
    roll-back takes away, and stable stays (`canary_only` makes that explicit). BadInput when Helm's history
    has no such release.
    """
    started = time.monotonic()
    name, _, region = place.partition("/")
    environment = read_environment(estate, name)
    regions = [environment.target(region).region] if region else sorted(environment.targets)
    ledger = Journal(estate, name, shared=environment.ledger)
    async with telling([environment], reporter):
        with ledger.alone():
            results = await together(
                _roll_back(environment, one, ledger, reporter, to=to, canary_only=canary_only)
                for one in regions
            )
    release = ", ".join(sorted({result.release for result in results}))
    return PromotionResult(
        release=release, estate=estate, targets=tuple(results), seconds=time.monotonic() - started
    )


async def _roll_back(
    environment: Environment,
    region: str,
    ledger: Journal,
    reporter: Reporter,
    *,
    to: str | None,
    canary_only: bool,
) -> TargetResult:
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(open_site(environment, region))
        if await site.running("stable") is None and await site.running("canary") is None:
            raise BadInput(f"nothing is installed on {site.target.name}", hint="va status shows what runs")
        site = await stack.enter_async_context(site.held("a roll-back"))
        if acted := await site.guarded():
            reporter.note(f"{site.target.name}: {acted}")
        for track in TRACKS:
            if mended := await site.mend(track):
                reporter.note(f"{site.target.name}: {mended}")
        canary = await site.running("canary")
        if canary is not None or not await site.on_stable():
            with reporter.step(f"{site.target.name}: traffic to stable, remove the canary"):
                await site.move(0)
                await site.remove_canary()
            removed = canary.release if canary else ""
            ledger.write(
                Event.ROLLED_BACK, target=site.target.name, release=removed, reason="the canary was removed"
            )
            if to is None:
                canary_only = True
        history = await site.history("stable")
        if not history:
            raise BadInput(f"nothing is installed on {site.target.name}", hint="va status shows what runs")
        current = history[0]
        if canary_only:
            reason = "the canary was removed; stable stays" if canary else "there was no canary"
            outcome, now = (Outcome.BACK if canary else Outcome.CACHED), current.release
        else:
            outcome, now, reason = await _stable_back(site, history, to, ledger, reporter)
        return TargetResult(
            target=site.target.name,
            release=now,
            previous=current.release or None,
            outcome=outcome,
            reason=reason,
            seconds=time.monotonic() - started,
        )


async def _stable_back(
    site: Site, history: tuple[Revision, ...], to: str | None, ledger: Journal, reporter: Reporter
) -> tuple[Outcome, str, str]:
    current, name = history[0], site.target.name
    if to is not None and current.release == to and current.deployed:
        return Outcome.CACHED, to, "it runs there already"
    wanted = _revision_to(history, to)
    if wanted is None:
        kept = sorted({revision.release for revision in history if revision.release})
        what = f"release {to!r}" if to else f"release before {current.release!r}"
        raise BadInput(
            f"Helm's history on {name} has no {what}",
            hint=f"it has {', '.join(kept)}: va promote installs any other",
        )
    with reporter.step(f"{name}: back to {wanted.release}") as step:
        await site.back_to(wanted)
        step.say(f"revision {wanted.number} is running again")
    reason = f"rolled back from {current.release} to {wanted.release}"
    ledger.write(Event.ROLLED_BACK, target=name, release=current.release, reason=reason)
    ledger.write(Event.PROMOTED, target=name, release=wanted.release, reason=reason)
    return Outcome.BACK, wanted.release, reason


def _revision_to(history: tuple[Revision, ...], to: str | None) -> Revision | None:
    """The newest revision that once ran, of that release, or of any other than the current one."""
    current = history[0].release
    for revision in history[1:]:
        if revision.status not in ("deployed", "superseded") or not revision.release:
            continue
        if revision.release == to or (to is None and revision.release != current):
            return revision
    return None

"""Whether a release may go into environments now: asked of their policy before anything is touched.

    await permitted(environments, release.name, override="", reporter=reporter)     # or PolicyBlocked

What is read: the ledger of each environment that asks for something, the one of where a release soaks, and
on GitHub who approved the run. What is written: an approval that GitHub tells of, that a promotion waits for
one, and an override with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from ci.actions import this_job
from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger, open_ledger, person, promotion_id, whoami
from ci.delivery.refusals import Code, Refusal, approvers, blocked, refusals, runs_in, soaks_in, waits
from ci.delivery.reviews import Review, reviews
from ci.environments import Environment, read_environment
from ci.errors import BadInput
from ci.reporting import Reporter

__all__ = ["approve", "permitted"]


async def permitted(
    environments: Sequence[Environment], release: str, *, override: str | None, reporter: Reporter
) -> None:
    """Return when the release may go into each of them; an environment that has it already is not asked.

    `override` is the reason of an emergency, None when there is none. Raises PolicyBlocked with all that is
    in the way, BadInput for an override without a reason.
    """
    if override is not None and not override.strip():
        raise BadInput("an override needs its reason", hint='--override "what cannot wait": it is kept')
    found: list[Refusal] = []
    lifted: list[tuple[Environment, list[Refusal]]] = []
    for environment in environments:
        if not _asks(environment):
            continue
        left, over = await _refused(environment, release, override is not None)
        if over:
            lifted.append((environment, over))
        found += left
    if found:
        raise blocked(found)
    for environment, over in lifted:
        reporter.note(f"overridden: {'; '.join(map(str, over))}")
        async with open_ledger(environment) as ledger:
            draft = _draft(Kind.ORDER, Action.OVERRIDE, release, (override or "").strip())
            told = {one.code: one.reason for one in over}
            await ledger.append(draft.model_copy(update={"detail": told}))


async def approve(environment: Environment, release: str, *, reason: str) -> Entry:
    """Say yes to a release for an environment.

    BadInput for somebody whose word is not asked for there, or was given, and for a release that is there.
    """
    wanted, who = environment.approvals, person(whoami())
    if wanted is None:
        raise BadInput(f"{environment.name} asks for no approval", hint="va promote needs none")
    if wanted.by == "reviewers":
        raise BadInput(
            f"{environment.name} is approved by its reviewers on GitHub", hint="approve the run there"
        )
    if not wanted.may(who):
        raise BadInput(f"{who} may not approve {environment.name}", hint=f"it is for {', '.join(wanted.by)}")
    if not reason.strip():
        raise BadInput("an approval needs its reason", hint='--reason "…": it is kept in the ledger')
    async with open_ledger(environment) as ledger:
        entries = await ledger.entries()
        if runs_in(environment, release, entries):
            raise BadInput(f"{environment.name} has {release} already", hint="va status shows what runs")
        if who.casefold() in map(str.casefold, approvers(environment, release, entries, promoter="")):
            raise BadInput(
                f"{who} has approved {release} for {environment.name} already",
                hint=f"va promote {release} --to {environment.name} says who else is asked",
            )
        return await ledger.append(_draft(Kind.ORDER, Action.APPROVE, release, reason.strip()))


def _asks(environment: Environment) -> bool:
    return bool(environment.hours or environment.freezes or environment.soak or environment.approvals)


async def _refused(
    environment: Environment, release: str, overridden: bool
) -> tuple[list[Refusal], list[Refusal]]:
    """What is in the way, and what would be if it were not overridden."""
    before: tuple[Entry, ...] = ()
    if place := soaks_in(environment):
        async with open_ledger(read_environment(environment.estate, place)) as ledger:
            before = await ledger.entries()
    async with open_ledger(environment) as ledger:
        entries = await ledger.entries()
        if runs_in(environment, release, entries):
            return [], []
        for review in await _reviews(environment, entries):
            detail = {"who": review.login, "reviewer": True, "run": review.run}
            draft = _draft(Kind.ORDER, Action.APPROVE, release, review.comment or "approved on GitHub")
            entries = (*entries, await ledger.append(draft.model_copy(update={"detail": detail})))
        promoter, now = person(whoami()), datetime.now(UTC)
        found = refusals(environment, release, entries, now, promoter=promoter, before=before)
        over = [one for one in found if overridden and one.overridable]
        left = [one for one in found if one not in over]
        await _say_that_it_waits(ledger, release, entries, left)
    return left, over


async def _reviews(environment: Environment, entries: Sequence[Entry]) -> list[Review]:
    """Those of this run that the ledger does not have yet."""
    if environment.approvals is None or this_job() is None:
        return []
    known = {(entry.detail.get("who"), entry.detail.get("run")) for entry in entries}
    return [one for one in await reviews(environment.name) if (one.login, one.run) not in known]


async def _say_that_it_waits(
    ledger: Ledger, release: str, entries: Sequence[Entry], found: Sequence[Refusal]
) -> None:
    """Once, and when nothing else is in the way: people are asked for what they can do."""
    if [one.code for one in found] == [Code.NOT_APPROVED] and not waits(release, entries):
        draft = _draft(Kind.NOTE, Action.APPROVE, release, f"{found[0].reason}; {found[0].next_command}")
        await ledger.append(draft.model_copy(update={"result": "waiting"}))


def _draft(kind: Kind, action: Action, release: str, reason: str) -> Draft:
    return Draft(promotion=promotion_id(), kind=kind, action=action, release=release, reason=reason)

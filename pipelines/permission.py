"""Whether a release may go into environments now: asked before anything is touched, and before each wave.

    await permitted(environments, release.name, override=None, reporter=reporter)   # or PolicyBlocked
    found = await in_the_way(environment, release.name, ledgers)                    # the same, for a plan

What is read: the ledger of each environment, the one of where a release soaks, and on GitHub who approved the
run. What is written: an approval that GitHub tells of, that a promotion waits for one, and an override with
its reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from ci.actions import this_job
from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger, open_ledger, person, promotion_id, whoami
from ci.delivery.promotion.presence import rests
from ci.delivery.promotion.states import unfinished
from ci.delivery.refusals import (
    Code,
    Refusal,
    approvers,
    blocked,
    overridden,
    refusals,
    runs_in,
    soaks_in,
    waits,
)
from ci.delivery.reviews import Review, reviews
from ci.environments import Environment, read_environment
from ci.errors import BadInput
from ci.reporting import Reporter
from pipelines.before import Ledgers, others, read

__all__ = ["approve", "in_the_way", "permitted", "was_cut"]


async def _nothing() -> Sequence[Refusal]:
    return ()


async def permitted(
    environments: Sequence[Environment],
    release: str,
    *,
    override: str | None,
    reporter: Reporter,
    also: Callable[[], Awaitable[Sequence[Refusal]]] = _nothing,
    afresh: bool = False,
) -> None:
    """Return when the release may go into each of them.

    `override` is the reason of an emergency, None when there is none. `also` is asked, and has its word,
    where nothing else is in the way. `afresh`: see `in_the_way`. Raises PolicyBlocked with all that is in the
    way, before an override is written down; BadInput for one without a reason.
    """
    if override is not None and not override.strip():
        raise BadInput("an override needs its reason", hint='--override "what cannot wait": it is kept')

    def lifted(found: Sequence[Refusal]) -> list[Refusal]:
        over = [one for one in found if override is not None and one.overridable]
        if left := [one for one in found if one not in over]:
            raise blocked(left)
        return over

    found = [
        one
        for each in environments
        for one in await _refused(each, release, overriding=override is not None, afresh=afresh)
    ]
    over = lifted(found)
    over += lifted(await also())
    for environment in environments:
        own = [one for one in over if one.place.partition("/")[0] == environment.name]
        if own:
            reporter.note(f"overridden: {'; '.join(map(str, own))}")
            async with open_ledger(environment) as ledger:
                draft = _draft(Kind.ORDER, Action.OVERRIDE, release, (override or "").strip())
                told = {
                    one.code: "; ".join(str(each) for each in own if each.code == one.code) for one in own
                }
                await ledger.append(draft.model_copy(update={"detail": told}))


async def in_the_way(
    environment: Environment, release: str, ledgers: Ledgers, *, afresh: bool = False
) -> list[Refusal]:
    """What keeps the release out of that environment by its ledger and by its policy.

    The policy of an environment that has it already is not asked; nor where a run of its promotion was cut:
    what it has begun comes to its end, and the policy, alone, is asked before what it has not (`afresh`). Of
    `ledgers` its own is there; that of where the release has to soak is read where it is not.
    """
    entries = ledgers[environment.name]
    found = [] if afresh else await others(environment, release, entries)
    if overridden(release, entries):
        found = [one for one in found if not one.overridable]
    if runs_in(environment, release, entries) or (was_cut(release, entries) and not afresh):
        return found
    before: Sequence[Entry] = ()
    if place := soaks_in(environment):
        if place not in ledgers:
            ledgers = await read([read_environment(environment.estate, place)])
        before = ledgers[place]
    promoter, now = person(whoami()), datetime.now(UTC)
    return [*found, *refusals(environment, release, entries, now, promoter=promoter, before=before)]


def was_cut(release: str, entries: Sequence[Entry]) -> bool:
    """Whether the last run of a promotion of that release was ended there by something that nobody meant."""
    return any(
        what == release and not rests(one for one in entries if one.promotion == name)
        for name, what in unfinished(entries).items()
    )


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


async def _refused(
    environment: Environment, release: str, *, overriding: bool, afresh: bool
) -> list[Refusal]:
    """What is in the way there, once GitHub's word is in the ledger; and that it waits for somebody's."""
    async with open_ledger(environment) as ledger:
        entries = await ledger.entries()
        if not (afresh or runs_in(environment, release, entries)):
            for review in await _reviews(environment, entries):
                detail = {"who": review.login, "reviewer": True, "run": review.run}
                draft = _draft(Kind.ORDER, Action.APPROVE, release, review.comment or "approved on GitHub")
                entries = (*entries, await ledger.append(draft.model_copy(update={"detail": detail})))
        found = await in_the_way(environment, release, {environment.name: entries}, afresh=afresh)
        left = [one for one in found if not (overriding and one.overridable)]
        await _say_that_it_waits(ledger, release, entries, left)
    return found


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

"""Whether somebody is at work on a promotion: whom an order reaches now, and whether watching it has an end.

    present = await presence(environment, promotion, entries)
    present.who            # `anna on build-1, process 4711`; empty: nobody was seen

Who works on a target has its lease (ci.delivery.lease). Between two targets, and while waves bake, a run has
none: then it holds the environment on its own machine. Where the ledger is shared it may be another machine's
that waits: that is believed for as long as such a wait takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ci.concurrency import settled
from ci.delivery.lease import LASTS, Holder, at_work
from ci.delivery.ledger import Action, Entry, Kind, worked_on_by
from ci.environments import Environment, Target
from ci.errors import PipelineError

__all__ = ["QUIET", "Presence", "presence", "rests"]

QUIET = timedelta(seconds=LASTS)
"""Whoever wrote to the ledger since then is taken to be at work: nothing else is asked."""
_OF_PEOPLE = (Action.APPROVE, Action.OVERRIDE, Action.TOLD)
_LATE = timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True)
class Presence:
    """Who is at work on a promotion in one environment."""

    who: str
    """Empty: nobody was seen."""
    unknown: str = ""
    """Why that is not sure: a target does not answer, and another machine may work there."""


def rests(entries: Iterable[Entry]) -> bool:
    """Whether the last run of a promotion has ended in an environment, by that promotion's entries there.

    What people ordered since does not count: nobody has begun to obey.
    """
    last = _last(entries)
    return last is None or (last.action is Action.FINISH and not last.target)


async def presence(environment: Environment, promotion: str, entries: Iterable[Entry]) -> Presence:
    """Who works there on the promotion that these entries are of; no lock is taken, nobody is waited for."""
    if rests(entries := list(entries)):
        return Presence(who="")
    if here := worked_on_by(environment):
        return Presence(who=here)
    found = await settled(_holder(target) for target in environment.targets.values())
    held = [one for one in found if isinstance(one, Holder) and one.promotion == promotion]
    if held:
        return Presence(who=held[0].who)
    if environment.ledger is None:
        return Presence(who="")
    if (waits := _waits(environment, entries)) is not None:
        return Presence(who=f"the machine of {waits.who}")
    silent = [str(one) for one in found if isinstance(one, PipelineError)]
    return Presence(who="", unknown="; ".join(silent))


async def _holder(target: Target) -> Holder | None:
    from ci.delivery.cluster import connect  # a ledger alone is read without Kubernetes

    return await at_work(connect(target.kubeconfig, target.context), target.namespace)


def _last(entries: Iterable[Entry]) -> Entry | None:
    """What a run wrote last: not what people said."""
    return next(
        (
            one
            for one in reversed(list(entries))
            if one.kind is not Kind.ORDER and one.action not in _OF_PEOPLE
        ),
        None,
    )


def _waits(environment: Environment, entries: Iterable[Entry]) -> Entry | None:
    """The beginning of a wait that is not over by the clock."""
    last = _last(entries)
    if last is None or last.kind is not Kind.INTENT:
        return None
    seconds = {Action.WAVE: environment.wave_bake, Action.WATCH: environment.watch}.get(last.action)
    if seconds is None:
        return None
    return last if datetime.now(UTC) < last.time + timedelta(seconds=seconds) + _LATE else None

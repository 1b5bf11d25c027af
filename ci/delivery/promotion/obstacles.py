"""What stands in the way of a promotion besides the policy of an environment, as data: of its targets. Pure.

What its own promotion has begun is never in its way: the same command goes on there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ci.delivery.lease import LASTS
from ci.delivery.ledger import Action, Entry, Kind, committed
from ci.delivery.promotion.facts import Drift
from ci.delivery.promotion.states import left_open, unfinished
from ci.delivery.refusals import EMERGENCY, Code, Refusal, in_estate, promoting
from ci.environments import Environment, Target

__all__ = ["at_work", "downgrade", "drifted", "lacks", "others"]


def others(environment: Environment, release: str, entries: Sequence[Entry]) -> dict[str, Refusal]:
    """The promotions of other releases that have come to no end there, by name: this one would end them.

    Not one that only waits for a region's registry or cluster, and not one whose run ended with an error, as
    of an installation that did not come up: what it has begun has ended, or was put back by itself, and keeps
    no fix from anybody.
    """
    found = {}
    for name, what in unfinished(entries).items():
        own = [entry for entry in entries if entry.promotion == name]
        if what != release and not lacks(own, name) and not _in_error(own):
            found[name] = Refusal(
                code=Code.UNFINISHED,
                place=environment.name,
                reason=f"the promotion {name} of {what} has not come to its end",
                next_command=f"va rollback {name}{in_estate(environment)}, or "
                f"{promoting(environment, what)} (--only, where it was begun so): it goes on; {EMERGENCY}",
                overridable=True,
            )
    return found


def lacks(entries: Iterable[Entry], promotion: str) -> bool:
    """Whether that promotion's last word for an environment is that it waits for a region's registry or
    cluster."""
    whole = [
        one
        for one in entries
        if one.promotion == promotion and not one.target and one.action in (Action.START, Action.FINISH)
    ]
    return bool(whole) and whole[-1].action is Action.FINISH and whole[-1].result == "partly"


def _in_error(own: Sequence[Entry]) -> bool:
    """Whether its run ended by itself, with an error, on all targets that it has come to no end on."""
    ends = [
        [one.result for one in reversed(own) if one.target == target and one.kind is not Kind.ORDER]
        for target in left_open(own, own[0].promotion)
    ]
    last = [set(each[: each.index("") if "" in each else None]) for each in ends]  # since the last intent
    return any("error" in each for each in last) and all(each & {"error", "interrupted"} for each in last)


def at_work(place: str, promotion: str, reason: str) -> Refusal:
    """Somebody promotes something else there at this moment: nobody can override that."""
    then = (
        f"run the same command again when it has ended; if it was killed, it is free {LASTS:.0f} s after that"
    )
    return Refusal(
        code=Code.UNFINISHED,
        place=place,
        reason=reason,
        next_command=f"va watch {promotion}; {then}" if promotion else then,
    )


def drifted(environment: Environment, target: Target, release: str, found: Iterable[Drift]) -> Refusal | None:
    """What somebody changed there by hand: the promotion would undo it, or count it as the release's."""
    changed = "; ".join(map(str, found))
    if not changed:
        return None
    return Refusal(
        code=Code.DRIFT,
        place=target.name,
        reason=f"somebody changed what Helm installed: {changed}",
        next_command=f"va status {environment.name} --wide shows it: undo it, then "
        f"{promoting(environment, release)}; {EMERGENCY}",
        overridable=True,
    )


def downgrade(
    environment: Environment, target: Target, release: str, runs: str, entries: Sequence[Entry]
) -> Refusal | None:
    """Whether what runs there is newer: by the commits' times, which the names of releases begin with. Where
    names do not tell, because it took that release's place there."""
    if not runs or runs == release:
        return None
    mine, theirs = committed(release), committed(runs)
    came = [
        one.release
        for one in entries
        if one.target == target.name and one.kind is not Kind.INTENT and one.result == "promoted"
    ]
    if mine and theirs:
        newer = theirs > mine
    else:
        newer = release in came and runs in came and came.index(release) < came.index(runs)
    if not newer:
        return None
    estate = in_estate(environment)
    back = f"va rollback {target.name} --to {release}{estate}; or " if release in came else ""
    return Refusal(
        code=Code.DOWNGRADE,
        place=target.name,
        reason=f"it runs {runs}, which is newer than {release}",
        next_command=f"{back}va promote {release} --only {target.name}{estate} --again, if that is meant",
        overridable=True,
    )

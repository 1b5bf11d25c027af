"""Why a release may not go into an environment now, as data; and of that, freezes, hours, soak and approvals.

    found = refusals(prod, release.name, entries, now, promoter="anna", before=those_of_staging)
    raise blocked(found)                         # PolicyBlocked: each in a line, the first one's next command

Pure: what the environment says (ci.environments.policy), what the ledgers hold, and the clock. It is asked
before each wave: what began on a target in open hours may end behind them. Nothing here stands in the way of
a roll-back.

An order counts for one promotion: approvals and overrides are gone when the release was rolled back there,
and when another one took its place. An override is for freezes, hours and soak; somebody else's yes is
nobody's to override.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from ci.delivery.ledger import Action, Entry, Kind, person
from ci.environments import Environment
from ci.errors import PolicyBlocked
from ci.windows import covering, opens, said, span

__all__ = [
    "EMERGENCY", "Code", "Refusal", "approvers", "blocked", "overridden", "promoting", "refusals", "runs_in",
    "soaks_in", "waits",
]  # fmt: skip


_BACK = ("rolled back", "failed", "stopped", "aborted")
"""How a promotion ends on a target that has not got the release then."""
_ENDS = (Action.FINISH, Action.TAKEN_OVER)
EMERGENCY = 'in an emergency now, with --override "REASON"'


class Code(StrEnum):
    """What stands in the way."""

    FROZEN = "frozen"
    OUTSIDE_HOURS = "outside-hours"
    NOT_SOAKED = "not-soaked"
    NOT_APPROVED = "not-approved"
    NOT_VERIFIED = "not-verified"
    """It was not proven in the environment before."""
    UNSIGNED = "unsigned"
    """It does not prove what is asked of it."""
    NOT_REPLICATED = "not-replicated"
    DRIFT = "drift"
    """Somebody changed what Helm installed."""
    UNFINISHED = "unfinished"
    """Another promotion has not come to its end there."""
    DOWNGRADE = "downgrade"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One thing that stands in a release's way, and what to do about it."""

    code: str
    place: str
    """An environment or a target."""
    reason: str
    next_command: str
    until: datetime | None = None
    """When it is over by itself, where that is known."""
    overridable: bool = False
    """Whether an emergency, with its reason, is let through."""
    alone: bool = False
    """Whether that place alone is left out, and the others go on."""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


def refusals(
    environment: Environment,
    release: str,
    entries: Sequence[Entry],
    now: datetime,
    *,
    promoter: str,
    before: Sequence[Entry] = (),
) -> tuple[Refusal, ...]:
    """What keeps that release from going into that environment now; nothing when it may.

    `entries` are those of the environment's ledger, `before` of the one that a release soaks in (`soaks_in`),
    both in their order. `promoter` is the login of whoever promotes (ci.delivery.ledger.person).
    """
    found = [*_closed(environment, release, now), *_too_early(environment, release, before, now)]
    if overridden(release, entries):
        found = []
    return (*found, *_not_approved(environment, release, entries, promoter))


def overridden(release: str, entries: Sequence[Entry]) -> bool:
    """Whether somebody has answered for it that this promotion of that release cannot wait."""
    return bool(_standing(release, entries, Kind.ORDER, Action.OVERRIDE))


def soaks_in(environment: Environment) -> str | None:
    """The environment whose ledger says how long a release has run there; None where that is not asked."""
    return (environment.soak.environment or environment.after) if environment.soak else None


def blocked(found: Sequence[Refusal]) -> PolicyBlocked:
    """The error that a command ends with."""
    first, *others = found
    also = [f"also {one}: {one.next_command}" for one in others]
    return PolicyBlocked("\n".join([str(first), *also]), hint=first.next_command)


def approvers(
    environment: Environment, release: str, entries: Sequence[Entry], *, promoter: str
) -> tuple[str, ...]:
    """Who has approved that release for that environment, of those whose word counts, each once."""
    wanted = environment.approvals
    if wanted is None:
        return ()
    found: dict[str, str] = {}
    for entry in _standing(release, entries, Kind.ORDER, Action.APPROVE):
        name = person(entry.by)
        counts = entry.detail.get("reviewer") is True if wanted.by == "reviewers" else wanted.may(name)
        if counts and name.casefold() != promoter.casefold():
            found.setdefault(name.casefold(), name)
    return tuple(found.values())


def waits(release: str, entries: Sequence[Entry]) -> bool:
    """Whether it is written already that this promotion of that release waits for approval."""
    return bool(_standing(release, entries, Kind.NOTE, Action.APPROVE))


def runs_in(environment: Environment, release: str, entries: Sequence[Entry]) -> bool:
    """Whether by the ledger each target of the environment has that release now."""
    here = {target.name: "" for target in environment.targets.values()}
    for entry in entries:
        if entry.target in here and (_is_promoted(entry) or _is_back(entry)):
            here[entry.target] = _left(entry, here[entry.target])
    return all(found == release for found in here.values())


def _closed(environment: Environment, release: str, now: datetime) -> Iterator[Refusal]:
    """The calendar: at most one refusal, for one moment ends all that it holds."""
    freezes = [freeze.when for freeze in environment.freezes]
    until = opens(now, hours=environment.hours, freezes=freezes)
    if until == now:
        return
    frozen = [window for window, _ in covering(freezes, now, wide=True)]
    zone = (frozen or environment.hours)[0].zone
    moment = f"until {said(until, zone, now)}" if until else "with no end in sight"
    why = [freeze.why for freeze in environment.freezes if freeze.when in frozen]
    only = ", ".join(map(str, environment.hours))
    yield Refusal(
        code=Code.FROZEN if frozen else Code.OUTSIDE_HOURS,
        place=environment.name,
        reason=f"frozen {moment}: {'; '.join(why)}" if frozen else f"closed {moment}: only {only}",
        next_command=f"{promoting(environment, release)}, when it is over; {EMERGENCY}",
        until=until,
        overridable=True,
    )


def _too_early(
    environment: Environment, release: str, before: Sequence[Entry], now: datetime
) -> Iterator[Refusal]:
    place = soaks_in(environment)
    if environment.soak is None or place is None:
        return
    longest = timedelta(seconds=environment.soak.seconds)
    times = _times(release, before, now)
    spans = (max(end - begin for begin, end in each) for each in times.values())
    ran = max(timedelta(), min(spans, default=timedelta()))
    if times and ran >= longest:
        return
    asked = f"{span(longest)} are asked for"
    if times and all(each[-1][1] == now for each in times.values()):
        until = max(each[-1][0] for each in times.values()) + longest
        had = f"it has run in {place} for {_had(ran)}, {asked}: {span(until - now)} more"
        then = f"{promoting(environment, release)}, in {span(until - now)}; {EMERGENCY}"
    else:
        until = None
        back = any(_is_back(entry) and entry.release == release for entry in before)
        gone = f"it was rolled back from {place}" if back else f"it does not run in {place}"
        had = f"{f'it ran in {place} for {_had(ran)}' if times else gone}, {asked}"
        then = f"{promoting(environment, release, place)}; {EMERGENCY}"
    yield Refusal(
        code=Code.NOT_SOAKED,
        place=environment.name,
        reason=f"{release} has not soaked: {had}",
        next_command=then,
        until=until,
        overridable=True,
    )


def _not_approved(
    environment: Environment, release: str, entries: Sequence[Entry], promoter: str
) -> Iterator[Refusal]:
    wanted = environment.approvals
    if wanted is None:
        return
    given = approvers(environment, release, entries, promoter=promoter)
    if len(given) >= wanted.count:
        return
    names = f" ({', '.join(given)})" if given else ""
    have = f"{len(given)} of {wanted.count} approvals{names}"
    if wanted.by == "reviewers":
        asked = "a reviewer of the environment on GitHub, other than who promotes"
        then = f"approve the run on GitHub, where {environment.name} has required reviewers"
    else:
        asked = f"of {', '.join(wanted.by)}, other than who promotes ({promoter})"
        then = f'va approve {release} --to {environment.name} --reason "REASON", by one of them'
    yield Refusal(
        code=Code.NOT_APPROVED,
        place=environment.name,
        reason=f"{release} has {have}: {asked}",
        next_command=then,
    )


def _had(length: timedelta) -> str:
    """Rounded down: it has not run for longer than it has."""
    minutes = int(length.total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def promoting(environment: Environment, release: str, to: str | None = None) -> str:
    """The command that promotes a release to an environment of that estate, its own or the one of a name."""
    return f"va promote {release} --to {to or environment.name}{in_estate(environment)}"


def in_estate(environment: Environment) -> str:
    """What a command needs beside, to be of that environment's estate: nothing for `local`."""
    return "" if environment.estate == "local" else f" --estate {environment.estate}"


def _is_promoted(entry: Entry) -> bool:
    return entry.action in _ENDS and entry.result == "promoted"


def _is_back(entry: Entry) -> bool:
    """Whether it says that a release is not there any more, or did not get there."""
    if entry.action is Action.ROLL_BACK:
        return entry.kind is Kind.OUTCOME and entry.result == "done"
    return entry.action in _ENDS and entry.result in _BACK


def _times(
    release: str, entries: Sequence[Entry], now: datetime
) -> dict[str, list[tuple[datetime, datetime]]]:
    """From when until when each target has had that release, if it was not rolled back since.

    Entries stand in their order, clocks are set: none is older than one that stands before it.
    """
    found: dict[str, list[tuple[datetime, datetime]]] = {}
    running: dict[str, str] = {}
    latest = datetime.fromtimestamp(0, UTC)
    for entry in entries:
        latest = max(latest, entry.when)
        target = entry.target
        if not target or not (_is_promoted(entry) or _is_back(entry)):
            continue
        if _is_back(entry) and entry.release == release:
            found.pop(target, None)
        before = running.get(target, "")
        running[target] = after = _left(entry, before)
        if after == release != before:
            found.setdefault(target, []).append((latest, now))
        elif before == release != after and target in found:
            begin, _ = found[target].pop()
            found[target].append((begin, entry.when))
    return found


def _left(entry: Entry, before: str) -> str:
    """The release that a target has after an entry; `before` is the one that it had."""
    if _is_promoted(entry):
        return entry.release
    back = "" if before == entry.release else before
    return str(entry.detail.get("now", back))


def _standing(release: str, entries: Sequence[Entry], kind: Kind, action: Action) -> list[Entry]:
    """The entries of that kind that count for this promotion of that release."""
    own = {entry.promotion for entry in entries if entry.release == release}
    found: list[Entry] = []
    been = False
    for entry in entries:
        if _is_promoted(entry) and entry.release == release:
            been = True
        elif (_is_back(entry) and entry.release == release) or (been and _is_promoted(entry)):
            found, been = [], False
        elif action is Action.OVERRIDE and _is_promoted(entry):
            found = []  # whatever could not wait: another one went in since
        elif not entry.target and entry.result == "superseded" and entry.promotion in own:
            found, been = [], False
        elif (entry.kind, entry.action) == (kind, action) and (
            entry.release == release or (not entry.release and entry.promotion in own)
        ):
            found.append(entry)
    return found

"""What a report of a promotion says, as data. Pure: the same entries make the same report at any time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from ci.delivery.findings import Exposure, Finding
from ci.delivery.ledger import (
    Action,
    Entry,
    Figures,
    Kind,
    Promotion,
    Verified,
    figures,
    meant,
    person,
    promotions,
)
from ci.delivery.ledger import Event as Old
from ci.delivery.report.sentence import sentence
from ci.errors import BadInput

__all__ = ["FIGURES_DAYS", "Event", "Kept", "Look", "Report", "Share", "TargetStory", "Trial", "report"]

FIGURES_DAYS = 90
_WORST_FIRST = (
    "failed", "rolled back", "aborted", "stopped", "held", "interrupted", "begun", "partly", "superseded",
    "not there", "restored", "promoted",
)  # fmt: skip
_BAD = ("failed", "error", "damaged", Old.STEP_FAILED)
_ODD = (
    "inconclusive", "interrupted", "stopped", "aborted", "held", "rolled back", "waiting", "superseded",
    Old.NOT_THERE,
)  # fmt: skip
_BAKED = (Old.STEP_PASSED, Old.STEP_FAILED, Old.INCONCLUSIVE)


class Look(StrEnum):
    """How something is to look: its kind, for whoever draws it."""

    GOOD = "good"
    BAD = "bad"
    ODD = "odd"
    """Neither: something that a person should know."""
    PERSON = "person"
    """A person did it."""
    GUARD = "guard"
    """The guard did it, or the watch over what was promoted."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Share(_Record):
    """A stretch of time in which a target's users had the release in the same share."""

    since: datetime
    until: datetime
    percent: int
    stable: bool
    """It was what stable ran; else they had it of a canary."""


class Event(_Record):
    """Something that is more than the next step of the plan."""

    number: int
    """From 1, in the order of time: what marks it in the picture."""
    time: datetime
    environment: str
    target: str
    """Empty: the whole environment."""
    look: Look
    what: str
    by: str
    why: str


class Trial(_Record):
    """What gates said at once: at the end of a step, or while what was promoted was watched."""

    environment: str
    target: str
    """Empty: the whole environment."""
    weight: int | None
    """Percent of the traffic that the canary had; None: there was none any more."""
    began: datetime | None
    ended: datetime
    result: str
    reason: str
    overruled: bool
    """They could not decide, and the promotion went on all the same, as the environment says."""
    findings: tuple[Finding, ...]
    exposure: Exposure | None


class TargetStory(_Record):
    """What happened on one target."""

    target: str
    environment: str
    before: str
    """The release that was stable there; empty where none was, or the ledger does not say."""
    result: str
    """promoted, failed, rolled back, aborted, stopped, held, not there, begun, …"""
    reason: str
    began: datetime
    ended: datetime | None
    shares: tuple[Share, ...]


class Kept(_Record):
    """One of the entries that all this was made of."""

    environment: str
    sequence: int
    time: datetime
    target: str
    what: str
    by: str
    why: str
    hash: str


class Report(_Record):
    """Everything that is told of one promotion."""

    promotion: str
    release: str
    result: str
    """The worst of its environments'."""
    headline: str
    by: str
    began: datetime
    until: datetime
    """The last entry of it: what is told is how it stood then."""
    ended: bool
    environments: tuple[str, ...]
    """Those that it came to."""
    targets: tuple[TargetStory, ...]
    trials: tuple[Trial, ...]
    events: tuple[Event, ...]
    figures: tuple[Figures, ...]
    """Of the time before its last entry (FIGURES_DAYS)."""
    ledgers: tuple[Verified, ...]
    entries: tuple[Kept, ...]

    @property
    def whole(self) -> bool:
        """Whether every ledger that it was made of is as it was written."""
        return not any(one.problems for one in self.ledgers)

    @property
    def deeds(self) -> tuple[Event, ...]:
        """What people and the guard did."""
        return tuple(event for event in self.events if event.look in (Look.PERSON, Look.GUARD))


def report(
    ledgers: Mapping[str, Sequence[Entry]], verified: Sequence[Verified], name: str | None = None
) -> Report:
    """The report of the promotion of that name (its first letters do), or the last one of that release.

    Without a name: of the last one of all.

    `ledgers`: the entries of each environment, in the order of promotion; what verifying each
    found is in `verified`.
    BadInput when there is no such promotion, with those that there are.
    """
    known = {one.promotion: one for one in promotions(ledgers)}
    if not known:
        raise BadInput("nothing was promoted yet", hint="va promote does; va report tells of it then")
    promotion = known[next(iter(known)) if name is None else _meant(name, known, ledgers)]
    own = {
        environment: tuple(entry for entry in entries if entry.promotion == promotion.promotion)
        for environment, entries in ledgers.items()
    }
    own = {environment: entries for environment, entries in own.items() if entries}
    until = max(entry.when for entries in own.values() for entry in entries)
    targets = tuple(_targets(own, promotion, until))
    trials = tuple(_trials(own))
    result = _result(promotion)
    ended = all(went.ended is not None for went in promotion.environments)
    began = {environment: ledgers[environment] for environment in own}
    return Report(
        promotion=promotion.promotion,
        release=promotion.release,
        result=result,
        headline=sentence(promotion.release, result, own, targets_of(promotion)),
        by=promotion.by,
        began=promotion.began,
        until=until,
        ended=ended,
        environments=tuple(own),
        targets=targets,
        trials=trials,
        events=_events(own, _asked_before(ledgers, promotion, until)),
        figures=figures(began, since=until - timedelta(days=FIGURES_DAYS), until=until),
        ledgers=tuple(one for one in verified if one.environment in own or one.problems),
        entries=tuple(
            Kept(
                environment=environment,
                sequence=entry.sequence,
                time=entry.when,
                target=entry.target,
                what=entry.words,
                by=entry.by,
                why=entry.reason,
                hash=entry.hash,
            )
            for environment, entry in _in_time(own)
        ),
    )


def _meant(name: str, known: Mapping[str, Promotion], ledgers: Mapping[str, Iterable[Entry]]) -> str:
    """The last promotion of the release of that name, or else the one that is meant by it."""
    of_release = (one.promotion for one in known.values() if name and one.release == name)
    begun = {place: [one for one in entries if one.promotion in known] for place, entries in ledgers.items()}
    return next(of_release, "") or meant(name, begun)


def targets_of(promotion: Promotion) -> dict[str, str]:
    """How it went on each target that it has come to an end on."""
    return {target: how for went in promotion.environments for target, how in went.targets.items()}


def _result(promotion: Promotion) -> str:
    results = [went.result for went in promotion.environments]
    return next((word for word in _WORST_FIRST if word in results), results[-1])


def _in_time(own: Mapping[str, Iterable[Entry]]) -> list[tuple[str, Entry]]:
    found = [(environment, entry) for environment, entries in own.items() for entry in entries]
    return sorted(found, key=lambda each: each[1].when)


def _targets(
    own: Mapping[str, Sequence[Entry]], promotion: Promotion, until: datetime
) -> Iterator[TargetStory]:
    results = targets_of(promotion)
    for environment, entries in own.items():
        for target in dict.fromkeys(entry.target for entry in entries if entry.target):
            mine = [entry for entry in entries if entry.target == target]
            ends = [entry for entry in mine if _ends(entry)]
            started = next((entry for entry in mine if "before" in entry.detail), None)
            yield TargetStory(
                target=target,
                environment=environment,
                before=str(started.detail["before"]) if started else "",
                result=results.get(target, "begun"),
                reason=ends[-1].reason if ends else "",
                began=mine[0].when,
                ended=ends[-1].when if ends else None,
                shares=tuple(_shares(sorted(mine, key=lambda entry: entry.when), until)),
            )


def _ends(entry: Entry) -> bool:
    if entry.action is Action.TAKEN_OVER:
        return entry.result in (Old.PROMOTED, Old.ROLLED_BACK)
    return entry.action is Action.NOT_THERE or (entry.action is Action.FINISH and entry.kind is Kind.OUTCOME)


def _shares(entries: Sequence[Entry], until: datetime) -> Iterator[Share]:
    """What users had, stretch by stretch, from the first entry to the end of what is told."""
    points = [(entries[0].when, 0, False)]
    canary, stable, last = 0, False, entries[0].when
    for entry in entries:
        if entry.action is Action.TAKEN_OVER and entry.result in _BAKED and entry.weight is not None:
            points.append((last, entry.weight, stable))  # such a line is written when its step has ended
        canary, stable = _after(entry, canary, stable)
        points.append((entry.when, 100 if stable else canary, stable))
        last = entry.when
    changes = [
        point for number, point in enumerate(points) if not number or points[number - 1][1:] != point[1:]
    ]
    ends = [*(since for since, _, _ in changes[1:]), until]
    for (since, percent, of_stable), end in zip(changes, ends, strict=True):
        if end > since:
            yield Share(since=since, until=end, percent=percent, stable=of_stable)


def _after(entry: Entry, canary: int, stable: bool) -> tuple[int, bool]:
    """The canary's weight, and whether stable is the release, when that was written."""
    done = entry.kind is Kind.OUTCOME and entry.result == "done"
    match entry.action:
        case Action.MOVE if entry.kind is Kind.OUTCOME and entry.weight is not None:
            # One that did not come to its end may have moved something: what is more is shown.
            canary = entry.weight if done else max(canary, entry.weight)
        case Action.INSTALL | Action.UPGRADE if done:
            stable = True
        case Action.ROLL_BACK if done:
            stable = False
        case Action.REMOVE if done:
            canary = 0
        case Action.GUARD:
            canary = 0
        case Action.FINISH if entry.kind is Kind.OUTCOME and entry.result == "promoted":
            stable = True
        case Action.TAKEN_OVER:
            canary = entry.weight or 0 if entry.result in _BAKED else canary
            if entry.result in (Old.PROMOTED, Old.ROLLED_BACK):
                canary, stable = 0, entry.result == Old.PROMOTED
        case _:
            pass
    return canary, stable


def _trials(own: Mapping[str, Sequence[Entry]]) -> Iterator[Trial]:
    for environment, entries in own.items():
        begun: dict[tuple[Action, str], datetime] = {}
        for entry in entries:
            here = (entry.action, entry.target)
            if entry.kind is Kind.INTENT:
                begun[here] = entry.when
                continue
            again = entry.action is Action.TAKEN_OVER and entry.result == Old.ROLLED_BACK
            if again or not (entry.findings or (entry.action is Action.STEP and entry.kind is Kind.OUTCOME)):
                continue
            yield Trial(
                environment=environment,
                target=entry.target,
                weight=entry.weight,
                began=begun.get(here),
                ended=entry.when,
                result=entry.result,
                reason=entry.reason,
                overruled="overruled" in entry.detail,
                findings=entry.findings,
                exposure=entry.exposure,
            )


def _asked_before(
    ledgers: Mapping[str, Iterable[Entry]], promotion: Promotion, until: datetime
) -> list[tuple[str, Entry]]:
    """What people said of the release before it was promoted: an approval is no promotion's."""
    return [
        (environment, entry)
        for environment, entries in ledgers.items()
        for entry in entries
        if entry.action in (Action.APPROVE, Action.OVERRIDE)
        and entry.release == promotion.release
        and entry.promotion != promotion.promotion
        and entry.when <= until
    ]


def _events(own: Mapping[str, Sequence[Entry]], before: list[tuple[str, Entry]]) -> tuple[Event, ...]:
    watched = {
        entry.reason
        for entries in own.values()
        for entry in entries
        if entry.action in (Action.WATCH, Action.WAVE) and entry.result == "failed"
    }
    found: list[Event] = []
    for environment, entry in sorted([*before, *_in_time(own)], key=lambda each: each[1].when):
        look = _look(entry)
        if look is None:
            continue
        by = "the guard" if entry.action is Action.GUARD else person(entry.by)
        if entry.kind is Kind.ORDER and entry.action is Action.ROLL_BACK and entry.reason in watched:
            look, by = Look.GUARD, "the watch"  # it gives the order for what it saw
        told = next((one for one in reversed(found) if one.target == entry.target), None)
        found.append(
            Event(
                number=len(found) + 1,
                time=entry.when,
                environment=environment,
                target=entry.target,
                look=look,
                what=_what(entry),
                by=by,
                why="" if told and told.why == entry.reason else entry.reason,
            )
        )
    return tuple(found)


def _look(entry: Entry) -> Look | None:
    """None: it is only the next step of the plan."""
    if entry.kind is Kind.ORDER:
        return Look.PERSON
    if entry.action in (Action.GUARD, Action.MENDED):
        return Look.GUARD
    if entry.kind is Kind.INTENT or entry.action is Action.TOLD:
        return None
    if entry.result in _BAD:
        return Look.BAD
    if entry.result in _ODD or entry.action is Action.NOT_THERE:
        return Look.ODD
    if entry.kind is Kind.NOTE and entry.action is Action.START:
        return Look.ODD
    ends = entry.action is Action.FINISH or entry.result == Old.PROMOTED
    return Look.GOOD if ends and entry.target and entry.result == "promoted" else None


def _what(entry: Entry) -> str:
    if entry.action is Action.GUARD:
        return "all traffic to stable"
    if entry.action is Action.NOT_THERE:
        return "left out"
    if entry.action is Action.START and entry.kind is Kind.NOTE:
        return "taken up again"
    return entry.result if entry.action is Action.FINISH else entry.words

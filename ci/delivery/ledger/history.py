"""What a ledger's entries come to: promotions, each with how it went, and DORA's four figures. Pure.

The figures (https://dora.dev/guides/dora-metrics-four-keys/), as far as a ledger can know them:

    deployment frequency    how often a release became stable on any target of the environment
    lead time for changes   from its commit (the time in its name) until it was stable on the last target
    change failure rate     of the promotions that came to an end, those that a gate stopped or that were
                            rolled back; what a person stopped before that is neither
    time to restore         from the moment that the failure was seen (a gate's verdict, the order to roll
                            back) until the release before was stable again on all targets; DORA calls it
                            the recovery time of a failed deployment

Of times the median is told: DORA asks for what is typical, and one bad night would hide it in a mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median

from pydantic import BaseModel, ConfigDict

from ci.complaints import did_you_mean
from ci.delivery.ledger.entry import Action, Entry, Kind
from ci.errors import BadInput

__all__ = ["Figures", "Promotion", "Went", "committed", "figures", "left_by", "meant", "promotions"]

_BACK = "rolled back"
_OF_EVENTS = {
    "promoted": "promoted", "rolled back": _BACK, "step failed": "failed", "inconclusive": "held",
    "interrupted": "interrupted", "not there": "not there",
}  # fmt: skip
"""What the events of before come to."""
_WORST_FIRST = (
    "failed",
    _BACK,
    "aborted",
    "stopped",
    "held",
    "interrupted",
    "not there",
    "restored",
    "promoted",
)
_UNFINISHED = ("begun", "held", "interrupted", "partly")
_GONE = ("failed", _BACK, "aborted", "stopped")
"""Of one target: the environment has not got the release, whatever became of the others."""
_TESTS = (Action.STEP, Action.SMOKE, Action.VERIFY, Action.WATCH)
_FAILED = ("failed", _BACK)
_COUNTED = (*_FAILED, "promoted", "partly")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Went(_Record):
    """How a promotion went in one environment."""

    environment: str
    promotion: str
    release: str
    by: str
    began: datetime
    ended: datetime | None
    """None: it has not come to an end."""
    result: str
    """promoted, failed, rolled back, aborted, stopped, held, interrupted, partly (not in every region's
    registry), superseded, restored (a roll-back brought it back), begun."""
    targets: dict[str, str]
    """How it went on each."""
    promoted: datetime | None
    """When it had become stable on the last target that has got it."""
    failure_seen: datetime | None
    restored: datetime | None
    """When the release before was stable again on the last target that went back."""


class Promotion(_Record):
    """A promotion through the environments."""

    promotion: str
    release: str
    by: str
    began: datetime
    environments: tuple[Went, ...]


class Figures(_Record):
    """DORA's four figures of one environment in a time. None: nothing to tell it by."""

    environment: str
    since: datetime
    until: datetime
    deployments: int
    per_week: float
    lead_time: float | None
    """Seconds, the median."""
    ended: int
    """Promotions that came to an end, good or bad."""
    failed: int
    failure_rate: float | None
    """Of those that ended, the share that failed."""
    time_to_restore: float | None
    """Seconds, the median."""


def promotions(ledgers: Mapping[str, Iterable[Entry]]) -> tuple[Promotion, ...]:
    """The promotions in the ledgers of these environments, the newest first."""
    found: dict[str, list[Went]] = {}
    for environment, entries in ledgers.items():
        for went in _in_one(environment, entries):
            found.setdefault(went.promotion, []).append(went)
    return tuple(
        Promotion(
            promotion=name,
            release=went[0].release,
            by=went[0].by,
            began=min(one.began for one in went),
            environments=tuple(went),
        )
        for name, went in sorted(
            found.items(), key=lambda item: min(one.began for one in item[1]), reverse=True
        )
    )


def meant(name: str, ledgers: Mapping[str, Iterable[Entry]]) -> str:
    """The promotion of that name, or the only one whose name begins so; BadInput says which there are."""
    known = sorted({entry.promotion for entries in ledgers.values() for entry in entries} - {""})
    found = [one for one in known if one == name] or [one for one in known if name and one.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"{len(found)} promotions begin with {name!r}", hint=", ".join(found[-5:]))
    nothing = "nothing was promoted yet: va promote does"
    raise BadInput(f"no promotion {name!r}", hint=did_you_mean(name, known[-20:]) or nothing)


def figures(
    ledgers: Mapping[str, Iterable[Entry]], *, since: datetime, until: datetime
) -> tuple[Figures, ...]:
    """The four figures of each environment: of what was deployed, or came to an end, in that time."""
    return tuple(
        _figures(environment, tuple(_in_one(environment, entries)), since, until)
        for environment, entries in ledgers.items()
    )


def _figures(environment: str, all_of_them: Sequence[Went], since: datetime, until: datetime) -> Figures:
    deployed = [one for one in all_of_them if one.promoted and since <= one.promoted <= until]
    ended = [
        one
        for one in all_of_them  # one that found its release there on every target has touched none
        if one.ended and since <= one.ended <= until and one.result in _COUNTED and one.targets
    ]
    failed = [one for one in ended if one.result in _FAILED]
    leads = [_seconds(committed(one.release), one.promoted) for one in deployed]
    restored = [_seconds(one.failure_seen, one.restored) for one in failed]
    return Figures(
        environment=environment,
        since=since,
        until=until,
        deployments=len(deployed),
        per_week=len(deployed) / ((until - since) / timedelta(weeks=1)),
        lead_time=_median(leads),
        ended=len(ended),
        failed=len(failed),
        failure_rate=len(failed) / len(ended) if ended else None,
        time_to_restore=_median(restored),
    )


def _median(values: Iterable[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return median(told) if told else None


def _seconds(since: datetime | None, until: datetime | None) -> float | None:
    """None where one of them is not known, or clocks disagree."""
    return (until - since).total_seconds() if since and until and until >= since else None


def committed(release: str) -> datetime | None:
    """The commit's time, which a release's name begins with."""
    found = re.match(r"(\d{8}-\d{6})-", release)
    try:
        return datetime.strptime(found[1], "%Y%m%d-%H%M%S").replace(tzinfo=UTC) if found else None
    except ValueError:
        return None


def _in_one(environment: str, entries: Iterable[Entry]) -> Iterator[Went]:
    """The promotions in one ledger, in the order in which they began."""
    grouped: dict[str, list[Entry]] = {}
    for entry in entries:
        grouped.setdefault(entry.promotion, []).append(entry)
    for name, those in grouped.items():
        if name and any(_does(entry) for entry in those):
            yield _went(environment, name, those)


def _does(entry: Entry) -> bool:
    """Whether it is of a promotion that began: a mere approval is not."""
    if entry.action in (Action.TAKEN_OVER, Action.NOT_THERE):
        return entry.result != "damaged"
    return entry.kind in (Kind.INTENT, Kind.OUTCOME)


def _went(environment: str, name: str, entries: Sequence[Entry]) -> Went:
    targets: dict[str, str] = {}
    whole: str | None = None
    ended: datetime | None = None
    promoted = failure_seen = restored = None
    for entry in entries:
        came = _came(entry)
        if entry.action is Action.START and entry.kind is Kind.INTENT and not entry.target:
            whole = ""
        if entry.action in _TESTS and came == "" and entry.result == "failed" and entry.kind is Kind.OUTCOME:
            failure_seen = failure_seen or entry.when
        if came == "failed" and entry.action is not Action.FINISH:
            failure_seen = failure_seen or entry.when
        if entry.kind is Kind.ORDER and entry.action is Action.ROLL_BACK:
            failure_seen = failure_seen or entry.when
        if not came:
            continue
        ended = entry.when
        if not entry.target:
            whole = came
            continue
        if came == _BACK and targets.get(entry.target) == "failed":
            came = "failed"  # that is how it goes on after a failure
        if came == "promoted":
            promoted = entry.when
        elif came in (*_FAILED, "stopped"):
            restored = entry.when
        targets[entry.target] = came
    result = _result(whole, targets)
    first = next(entry for entry in entries if _does(entry))
    return Went(
        environment=environment,
        promotion=name,
        release=first.release or next((entry.release for entry in entries if entry.release), ""),
        by=first.by,
        began=first.when,
        ended=None if whole in ("", "waits") or result in _UNFINISHED else ended,
        result=result,
        targets=targets,
        promoted=promoted,
        failure_seen=failure_seen,
        restored=restored,
    )


def _result(whole: str | None, targets: Mapping[str, str]) -> str:
    """In a word. `whole`: how far its run says that it came, empty while it has not; None without such a run.

    How it went is for the targets to say, and may change after its end: it may be taken back.
    """
    worst = next((word for word in _WORST_FIRST if word in targets.values()), "")
    if worst in _GONE or whole is None:
        return worst or "begun"
    match whole:
        case "done":
            return worst or "promoted"
        case "not done":
            return worst if worst and worst != "promoted" else "stopped"
        case "waits":
            return "held"
        case _:
            return whole or (worst if worst in _UNFINISHED else "begun")


def _came(entry: Entry) -> str:
    """How it ended by this entry; empty when the entry says nothing of that."""
    if entry.action is Action.TAKEN_OVER or entry.kind is Kind.OUTCOME or entry.action is Action.NOT_THERE:
        if entry.result == "promoted" and entry.reason.startswith("rolled back from "):
            return "restored"
        if entry.action is Action.FINISH:
            return entry.result
        if entry.action is Action.NOT_THERE:
            return "not there"
        return _OF_EVENTS.get(entry.result, "")
    return ""


def left_by(entry: Entry) -> str | None:
    """The release that an ended promotion left as stable; None when the entry is no such end."""
    if (
        entry.action is Action.FINISH
        and entry.kind is Kind.OUTCOME
        and entry.result in ("promoted", "rolled back")
    ):
        return entry.release if entry.result == "promoted" else str(entry.detail.get("now", ""))
    if entry.action is Action.TAKEN_OVER and entry.result in ("promoted", "rolled back"):
        return entry.release if entry.result == "promoted" else ""
    return None

"""The first sentence of a report: what came of it, where, and why, for somebody who reads no further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from ci.delivery.findings import Finding, Verdict
from ci.delivery.ledger import Action, Entry, Event, Kind, person
from ci.delivery.ledger.show import span

__all__ = ["measured", "sentence"]

_BADLY = {"errors": "failed", "latency": "were too slow"}
_STOPPED = ("failed", Event.STEP_FAILED)


def sentence(
    release: str, result: str, own: Mapping[str, Sequence[Entry]], targets: Mapping[str, str]
) -> str:
    """`own`: the promotion's entries, by environment; `targets`: how it went on each."""
    entries = sorted((entry for those in own.values() for entry in those), key=lambda entry: entry.when)
    there = [target for target, how in targets.items() if how in ("promoted", "restored")]
    stays = f" It is stable on {_places(there)}." if there else " No target has it now."
    match result:
        case "promoted":
            return f"{release} is stable on {_places(there or list(own))}: {_by_gates(entries)}."
        case "failed":
            return f"{release} was stopped{_where_and_why(entries)}.{_back(entries)}{stays}"
        case "rolled back" | "aborted":
            what = "was taken back" if result == "rolled back" else "was called off"
            return f"{release} {what}{_ordered(entries)}.{stays}"
        case "held" | "interrupted":
            why = next((entry.reason for entry in reversed(entries) if entry.result == "inconclusive"), "")
            waits = "waits for a person" if result == "held" else "was interrupted, and can go on"
            return f"{release} {waits}{f': {why}' if why else ''}.{stays}"
        case "begun":
            last = entries[-1]
            return f"{release} is on its way: {last.target or 'all of it'}, {last.words}.{stays}"
        case "partly":
            return f"{release} is stable on {_places(there)}, and was left out elsewhere{_left_out(entries)}."
        case "not there":
            return f"{release} was left out{_left_out(entries)}.{stays}"
        case "superseded":
            return f"{release} came to no end: a newer release took its place.{stays}"
        case "restored":
            return f"{release} was brought back to {_places(there)}."
        case _:
            return f"{release}: {result}.{stays}"


def measured(finding: Finding) -> str:
    """What was counted: `5 of 93 of the canary's sessions failed (5.38%), 0 of 296 of stable's (0.00%)`."""
    tally, badly = finding.tally, _BADLY.get(finding.metric)
    if tally is None or badly is None:
        return f"{finding.metric}: {finding.reason}"
    told = []
    if tally.canary:
        told.append(
            f"{tally.canary_bad} of {tally.canary} of the canary's sessions {badly} "
            f"({tally.canary_bad / tally.canary:.2%})"
        )
    if tally.stable:
        of = "stable's" if told else f"stable's sessions {badly}"
        told.append(f"{tally.stable_bad} of {tally.stable} of {of} ({tally.stable_bad / tally.stable:.2%})")
    return ", ".join(told) or f"{finding.metric}: {finding.reason}"


def _places(targets: Sequence[str]) -> str:
    if len(targets) <= 3:
        return " and ".join(", ".join(targets).rsplit(", ", 1))
    environments = dict.fromkeys(target.partition("/")[0] for target in targets)
    return f"{len(targets)} targets in {' and '.join(', '.join(environments).rsplit(', ', 1))}"


def _by_gates(entries: Sequence[Entry]) -> str:
    said = [finding.verdict for entry in entries for finding in entry.findings if not finding.dry_run]
    if not said:
        return "no gate was asked, as there was nothing to compare it with"
    passed = said.count(Verdict.PASS)
    if passed == len(said):
        return f"each of the {passed} answers of its gates was a pass"
    return f"{passed} of the {len(said)} answers of its gates were a pass"


def _failed(entries: Sequence[Entry]) -> Entry | None:
    tests = [entry for entry in entries if entry.result in _STOPPED and entry.action is not Action.FINISH]
    return next(iter(tests), None) or next((entry for entry in entries if entry.result in _STOPPED), None)


def _where_and_why(entries: Sequence[Entry]) -> str:
    entry = _failed(entries)
    if entry is None:
        return ""
    where = f" in {entry.target}" if entry.target else ""
    weight = f" at {entry.weight} % of the traffic" if entry.weight else ""
    bad = [
        measured(finding)
        for finding in entry.findings
        if finding.verdict is Verdict.FAIL and not finding.dry_run
    ]
    return f"{where}{weight}: {'; '.join(bad) or entry.reason or 'it failed'}"


def _back(entries: Sequence[Entry]) -> str:
    """How long the canary's users had it after the verdict."""
    entry = _failed(entries)
    if entry is None or entry.weight is None:
        return ""
    moved = next(
        (
            one.when
            for one in entries
            if one.target == entry.target and one.when >= entry.when and _gave_back(one)
        ),
        None,
    )
    if moved is None:
        return ""
    return f" Its users were back on stable {_soon(entry.when, moved)} after the verdict."


def _gave_back(entry: Entry) -> bool:
    if entry.action is Action.MOVE:
        return entry.kind is Kind.OUTCOME and entry.weight == 0 and entry.result == "done"
    return entry.action is Action.TAKEN_OVER and entry.result == Event.ROLLED_BACK


def _soon(since: datetime, until: datetime) -> str:
    seconds = (until - since).total_seconds()
    return f"{seconds:.1f} s" if seconds < 10 else span(seconds)


def _ordered(entries: Sequence[Entry]) -> str:
    orders = [
        entry
        for entry in entries
        if entry.kind is Kind.ORDER and entry.action in (Action.ABORT, Action.ROLL_BACK)
    ]
    return f" by {person(orders[-1].by)}: {orders[-1].reason}" if orders else ""


def _left_out(entries: Sequence[Entry]) -> str:
    why = {entry.target: entry.reason for entry in entries if entry.action is Action.NOT_THERE}
    told = "; ".join(f"{target}: {reason}" for target, reason in why.items())
    return f" ({told})" if told else ""

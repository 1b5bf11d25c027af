"""Orders to a promotion that is under way, from any terminal: entries of the ledger, read look by look.

pause      all traffic to stable, and wait; resume goes on with the evidence
abort      traffic to stable, the canary goes, stable is what it was; what has ended stays
retry      a step that no gate could decide is baked again
skip-bake  the time between two waves is over
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from ci.complaints import did_you_mean
from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger, meant, open_ledger
from ci.delivery.promotion.presence import QUIET, presence, rests
from ci.delivery.promotion.states import past_of, unfinished
from ci.delivery.refusals import promoting
from ci.environments import Environment, read_environments
from ci.errors import BadInput
from ci.reporting import Reporter, SilentReporter

__all__ = ["give_order", "taken_up", "watch"]

_LOOK = 1.0
_LOOKS_STILL = 3


async def give_order(estate: str, action: Action, what: str | None, *, reason: str) -> tuple[Entry, ...]:
    """Write the order for the promotion of that name, or the one under way in `prod` or `prod/eastus`.

    Left out: whatever is under way in the estate. BadInput when nothing is, when there is nothing that the
    order could change, or no reason is given.
    """
    if not reason.strip():
        raise BadInput(f"{action} wants a reason", hint='--reason "…": it is kept in the ledger')
    given, senseless = [], []
    environments = read_environments(estate)
    _check_place(environments, what)
    for environment in environments:
        target = _target(environment, what)
        if target is None:
            continue
        async with open_ledger(environment) as ledger:
            entries = await ledger.entries()
            for name, release in unfinished(entries).items():
                if _is_name(what) and not name.startswith(what or ""):
                    continue
                if why := _senseless(action, environment, target, entries, name):
                    senseless.append(f"{target or environment.name}: {why}")
                    continue
                given.append(
                    await ledger.append(
                        Draft(
                            promotion=name, kind=Kind.ORDER, action=action, target=target, release=release,
                            reason=reason.strip(),
                        )
                    )
                )  # fmt: skip
    if not given and senseless:
        raise BadInput("; ".join(senseless), hint="va watch shows what it does now")
    if not given:
        raise BadInput(
            f"nothing is being promoted{f' ({what})' if what else ''}",
            hint="va history lists promotions, va status shows what runs",
        )
    return tuple(given)


async def taken_up(estate: str, given: Sequence[Entry]) -> tuple[str, ...]:
    """Who obeys each of these orders, in a line: who is at work there now, or whatever command comes next."""
    told = []
    for environment in read_environments(estate):
        async with open_ledger(environment) as ledger:
            entries = await ledger.entries()
        for order in given:
            if order not in entries:
                continue
            place, own = order.target or environment.name, _of(entries, order.promotion)
            there = await presence(environment, order.promotion, own)
            if there.who:
                told.append(f"{place}: {there.who} is at work, and reads it at the next look")
                continue
            seen = f"nobody was seen at work ({there.unknown})" if there.unknown else "nobody is at work"
            line = f"{place}: {seen}: it is kept for the next run of {promoting(environment, order.release)}"
            at_once = f"; va rollback {place} takes it away at once" if order.action is Action.ABORT else ""
            told.append(line + at_once)
    return tuple(told)


async def watch(estate: str, what: str | None, *, reporter: Reporter | None = None) -> AsyncIterator[Entry]:
    """Each entry of the promotion of that name (or of the newest one) as it is written, until its run ends.

    Afterwards, too: then they come at once. One that has not come to its end is told of: what it waits for,
    or that nobody is at work on it. BadInput for a name that no ledger has.
    """
    reporter = reporter or SilentReporter()
    environments = read_environments(estate)
    async with AsyncExitStack() as stack:
        ledgers = {one.name: (one, await stack.enter_async_context(open_ledger(one))) for one in environments}
        name = await _named(ledgers, what)
        seen: dict[str, list[Entry]] = {environment: [] for environment in ledgers}
        still = 0
        while True:
            new: list[Entry] = []
            for environment, (_, ledger) in ledgers.items():
                last = seen[environment][-1].sequence if seen[environment] else 0
                found = await ledger.entries(after=last)
                seen[environment] += found
                new += [one for one in found if one.promotion == name]
            for entry in sorted(new, key=lambda one: one.time):
                yield entry
            left = [
                environment
                for environment, _ in ledgers.values()
                if name in unfinished(seen[environment.name])
            ]
            ends = [await _stays(one, name, _of(seen[one.name], name)) for one in left]
            # From one environment to the next it takes a moment, in which none has begun.
            still = 0 if new else still + 1
            if all(ends) and (still >= _LOOKS_STILL or _is_past(seen, name)):
                for line in ends:
                    reporter.note(line)
                return
            await asyncio.sleep(_LOOK)


def _is_past(seen: Mapping[str, Iterable[Entry]], name: str) -> bool:
    newest = max(one.time for entries in seen.values() for one in entries if one.promotion == name)
    return datetime.now(UTC) - newest > QUIET


async def _stays(environment: Environment, name: str, entries: Sequence[Entry]) -> str:
    """Why nothing more comes of a promotion that has not ended there; empty while somebody is at work."""
    release = next(one.release for one in entries if one.release)
    goes_on = f"{promoting(environment, release)} goes on with it"
    if rests(entries):
        return f"{environment.name}: it waits: {goes_on}"
    if datetime.now(UTC) - entries[-1].time < QUIET:
        return ""
    there = await presence(environment, name, entries)
    if there.who:
        return ""
    since = f"{entries[-1].time:%Y-%m-%d %H:%M:%S} UTC"
    unknown = f" ({there.unknown})" if there.unknown else ""
    seen = "was seen at work" if unknown else "is at work"
    return f"{environment.name}: nobody {seen} on it, the last word is of {since}{unknown}: {goes_on}"


async def _named(ledgers: dict[str, tuple[Environment, Ledger]], what: str | None) -> str:
    entries = {name: await ledger.entries() for name, (_, ledger) in ledgers.items()}
    if what is not None and what.partition("/")[0] not in ledgers:
        return meant(what, entries)
    begun = [
        one.promotion
        for name, those in entries.items()
        for one in those
        if (one.action is Action.START and not one.target and what is None)
        or (one.action is Action.START and name == (what or "").partition("/")[0])
    ]
    if not begun:
        where = f" in {what}" if what else ""
        raise BadInput(f"nothing was promoted{where} yet", hint="va promote does")
    return max(begun)


def _senseless(
    action: Action, environment: Environment, target: str, entries: Sequence[Entry], name: str
) -> str:
    """Why that order would change nothing there; empty when it may."""
    names = [target] if target else [one.name for one in environment.targets.values()]
    pasts = [past_of(entries, name, one) for one in names]
    own = _of(entries, name)
    wait = next((one for one in reversed(own) if one.action in (Action.WAVE, Action.WATCH)), None)
    open_or_harmed = wait is not None and (wait.kind is Kind.INTENT or wait.result == "failed")
    match action:
        case Action.RESUME if not any(past.paused for past in pasts):
            return "it is not paused"
        case Action.SKIP_BAKE if not open_or_harmed:
            return "it does not wait between two waves, nor watch what was promoted: there is nothing to skip"
        case Action.RETRY if not (open_or_harmed or rests(own) or any(past.held for past in pasts)):
            return "no step of it waits for a person"
        case _:
            return ""


def _of(entries: Iterable[Entry], promotion: str) -> list[Entry]:
    return [one for one in entries if one.promotion == promotion]


def _check_place(environments: Iterable[Environment], what: str | None) -> None:
    """BadInput for a place that is none: misspelt, it would look as if nothing were under way there."""
    names = [one.name for one in environments]
    name = (what or "").partition("/")[0]
    if what is not None and not _is_name(what) and name not in names:
        raise BadInput(f"unknown environment {name!r}", hint=did_you_mean(name, names))


def _is_name(what: str | None) -> bool:
    return what is not None and what[:1].isdigit()


def _target(environment: Environment, what: str | None) -> str | None:
    """What of the environment is meant: empty for all of it; None when nothing is."""
    if what is None or _is_name(what):
        return ""
    name, slash, region = what.partition("/")
    if name != environment.name:
        return None
    return environment.target(region).name if slash else ""

"""What a promotion would do: targets in order, what changes on each, how long it takes; or why it may not.

Pure: from the release, what each target is (facts), what the ledgers say, and the traffic of now.
`va promote --plan` does exactly a plan, or says what `moved`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from ci.delivery import gates
from ci.delivery.helm import changes
from ci.delivery.ledger import Action, Entry, Kind
from ci.delivery.promotion.facts import Facts
from ci.delivery.revisions import Values
from ci.environments import Environment, Gates

__all__ = ["Change", "Plan", "PlannedStep", "PlannedTarget", "Refused", "moved", "planned", "proven", "total"]

_START_SECONDS = 20.0
"""Helm and the start of pods, where nothing is known of how long they take."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Change(StrEnum):
    """What would be done on a target."""

    INSTALL = "install"
    """Nothing runs there."""
    CANARY = "canary"
    UPGRADE = "upgrade at once"
    NOTHING = "nothing"
    """It runs there already."""
    LEFT = "left alone"
    """It was proven there before, and another release runs there since."""
    UNKNOWN = "unknown"
    """Its cluster or its registry does not answer: it would be left out."""


class Refused(_Model):
    """One thing that stands in the way (as ci.delivery.refusals has those of an environment's policy)."""

    code: str
    place: str
    reason: str
    next_command: str


class PlannedStep(_Model):
    """A canary step, and how long its gates need."""

    weight: int
    bake: float
    """Seconds, at least."""
    sessions: int
    """Of the canary, without an error, until its safety is shown."""
    seconds: float | None
    """Expected at the traffic of now; None when there is too little of it before the deadline."""


class PlannedTarget(_Model):
    """What would happen on one target."""

    target: str
    wave: int
    """From 1."""
    change: Change
    runs: str
    """The release that is stable now."""
    revision: int | None
    """Helm's, of that: a plan is of this state."""
    changes: tuple[str, ...] = ()
    steps: tuple[PlannedStep, ...] = ()
    seconds: float | None = 0.0
    """Expected; None when a step's gates would not decide."""
    reason: str = ""


class Plan(_Model):
    """The whole of it."""

    release: str
    estate: str
    made: datetime
    to: str | None = None
    only: tuple[str, ...] = ()
    again: bool = False
    """As it was asked for."""
    targets: tuple[PlannedTarget, ...]
    refusals: tuple[Refused, ...] = ()
    seconds: float | None = None
    """Expected in all, waits between waves included."""


def planned(
    environment: Environment,
    region: str,
    facts: Facts | None,
    *,
    stable: Values,
    sessions: float | None,
    reason: str = "",
    left: bool = False,
) -> PlannedTarget:
    """One target. `sessions`: a second, through its gateway now; None when nobody knows. `left`: see LEFT."""
    target = environment.target(region)
    wave = 1 + next(number for number, each in enumerate(environment.waves) if region in each)
    now = facts.stable if facts else None
    runs, revision = (now.release, now.number) if now else ("", None)
    steps: tuple[PlannedStep, ...] = ()
    told: tuple[str, ...] = ()
    if left or facts is None:
        change = Change.LEFT if left else Change.UNKNOWN
    elif now is None:
        change = Change.INSTALL
    elif now.deployed and dict(now.values) == dict(stable):
        change = Change.NOTHING
    else:
        change = Change.CANARY if environment.canary.steps else Change.UPGRADE
        told = changes(now.values, stable)
    if change is Change.CANARY:
        steps = tuple(
            _step(environment.gates, one.weight, one.bake, sessions) for one in environment.canary.steps
        )
    works = change in (Change.CANARY, Change.UPGRADE, Change.INSTALL)
    takes = [one.seconds for one in steps]
    seconds: float | None = _START_SECONDS * (2 if change is Change.CANARY else 1) if works else 0.0
    if None in takes:
        seconds = None
    elif seconds is not None and steps:
        seconds += sum(one for one in takes if one is not None) + environment.canary.drain
    return PlannedTarget(
        target=target.name, wave=wave, change=change, runs=runs, revision=revision, changes=told, steps=steps,
        seconds=seconds, reason=reason,
    )  # fmt: skip


def moved(before: Plan, now: Plan) -> tuple[str, ...]:
    """What is not as it was when the plan was made, in words; nothing when it can be done exactly so."""
    told = []
    if (before.release, before.estate) != (now.release, now.estate):
        told.append(f"it is a plan of {before.release} in {before.estate}")
    was = {one.target: one for one in before.targets}
    for one in now.targets:
        then = was.pop(one.target, None)
        if then is None:
            told.append(f"{one.target} is not in it")
        elif (then.runs, then.revision) != (one.runs, one.revision):
            told.append(
                f"{one.target} ran {then.runs or 'nothing'} (rev. {then.revision}), and runs "
                f"{one.runs or 'nothing'} (rev. {one.revision})"
            )
        elif then.change is not one.change or then.changes != one.changes:
            told.append(f"{one.target} was to get: {then.change}; it would be: {one.change}")
    told += [f"{name} is no target any more" for name in was]
    return tuple(told)


def proven(environment: Environment, release: str, entries: Sequence[Entry]) -> bool:
    """Whether by the ledger it was promoted on each of its targets, and neither taken back nor harmful."""
    had: dict[str, bool] = {target.name: False for target in environment.targets.values()}
    harmed = False
    for entry in entries:
        if entry.release == release and entry.action in (Action.WAVE, Action.WATCH):
            harmed = entry.result == "failed"
        elif entry.release == release and entry.action is Action.SKIP_BAKE:
            harmed = False  # somebody answers for it
        if entry.release != release or entry.target not in had or entry.kind in (Kind.INTENT, Kind.ORDER):
            continue
        if entry.result == "promoted":
            had[entry.target], harmed = True, False
        elif entry.result in ("failed", "rolled back") and entry.action in (Action.FINISH, Action.ROLL_BACK):
            had[entry.target] = False
    return bool(had) and all(had.values()) and not harmed


def total(environments: Iterable[Environment], targets: Iterable[PlannedTarget]) -> float | None:
    """Seconds expected in all: the slowest of each wave, one after another, and the waits between waves."""
    by_wave: dict[tuple[str, int], list[float | None]] = {}
    for one in targets:
        by_wave.setdefault((one.target.partition("/")[0], one.wave), []).append(one.seconds)
    if any(None in each for each in by_wave.values()):
        return None
    waits = {one.name: one.wave_bake for one in environments}
    seconds = 0.0
    for (name, wave), each in by_wave.items():
        longest = max(one for one in each if one is not None)
        seconds += longest + (waits.get(name, 0.0) if wave > 1 and longest else 0.0)
    return seconds


def _step(limits: Gates, weight: int, bake: float, sessions: float | None) -> PlannedStep:
    needed = _needed(limits.errors.tolerated, limits.beta)
    share = (sessions or 0.0) * weight / 100
    seconds = max(bake, needed / share) if share else None
    if seconds is not None and seconds > limits.deadline:
        seconds = None
    return PlannedStep(weight=weight, bake=bake, sessions=needed, seconds=seconds)


@lru_cache(maxsize=64)
def _needed(tolerated: float, beta: float) -> int:
    """The least sessions without an error that show a rate below `tolerated`, by the gate's own test."""
    low, high = 1, 2
    # The gate takes the mean of this and of the comparison with stable, which says nothing without errors.
    wanted = -math.log(beta) + math.log(2)
    while gates.log_e_more(high, 0, 1 - tolerated) < wanted and high < 10**7:
        high *= 2
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if gates.log_e_more(middle, 0, 1 - tolerated) >= wanted else (middle + 1, high)
        )
    return low

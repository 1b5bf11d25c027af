"""What a promotion would do: targets in order, what changes on each, how long it takes; or why it may not.

Pure: from the release, what each target is (facts), what the ledgers say, and the traffic of now.
`va promote --plan` does exactly a plan, or says what `moved`. A plan is a file: its seal tells whether it is
as it was made, and names it in the ledger, so that the same command goes on after a kill.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from ci.delivery import gates
from ci.delivery.helm import changes
from ci.delivery.ledger import Action, Entry, Kind
from ci.delivery.masked import masked
from ci.delivery.promotion.facts import Facts
from ci.delivery.promotion.rendered import (
    ObjectChange,
    differences,
    digest,
    images,
    object_changes,
    replicas,
)
from ci.delivery.promotion.states import past_of
from ci.delivery.refusals import Refusal
from ci.delivery.revisions import Values
from ci.environments import CanaryStep, Environment, Gates
from ci.registry import digest_of

__all__ = [
    "VERSION",
    "Change",
    "Plan",
    "PlannedEnvironment",
    "PlannedStep",
    "PlannedTarget",
    "as_it_was_made",
    "change_of",
    "moved",
    "planned",
    "planned_environment",
    "plans",
    "proven",
    "sealed",
    "total",
    "under_way",
]  # fmt: skip

VERSION: Final = 2
"""Of the file. The first had neither rules nor manifests."""
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


class PlannedStep(_Model):
    """A canary step, and how long its gates need."""

    weight: int
    bake: float
    """Seconds, at least."""
    sessions: int
    """Of the canary: until it was watched enough, or in the last step, without an error, is proven safe."""
    seconds: float | None
    """Expected at the traffic of now; None when there is too little of it before the deadline."""
    needs: float | None = None
    """Seconds, whatever the deadline; None where there is no traffic."""


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
    images: Mapping[str, str] = {}
    """By name, the digest that would run."""
    images_now: Mapping[str, str] = {}
    changes: tuple[str, ...] = ()
    """Of the chart's values: `key: old -> new`."""
    replicas: Mapping[str, str] = {}
    """By workload: `3`, or `2 to 10`."""
    replicas_now: Mapping[str, str] = {}
    manifests: tuple[ObjectChange, ...] = ()
    """What the chart renders, against what Helm installed."""
    installs: str = ""
    """The digest of what the chart renders; empty where nothing is done."""
    steps: tuple[PlannedStep, ...] = ()
    sessions: float | None = None
    """A second through its gateway, synthetic ones included; None when nobody counts."""
    seconds: float | None = 0.0
    """Expected; None when a step's gates would not decide."""
    reason: str = ""


class PlannedEnvironment(_Model):
    """By what rules, besides the targets' own changes."""

    name: str
    rules: Mapping[str, str]
    """`gates.errors.tolerated: 0.03`: waves, waits, canary, gates, approvals, soak, hours, freezes, …"""
    approved: tuple[str, ...] = ()
    """By whom; the rules say how many are asked for."""


class Plan(_Model):
    """The whole of it."""

    version: Literal[2] = VERSION
    release: str
    digest: str = ""
    """Of the release's file."""
    estate: str
    made: datetime
    to: str | None = None
    only: tuple[str, ...] = ()
    again: bool = False
    """As it was asked for."""
    environments: tuple[PlannedEnvironment, ...] = ()
    targets: tuple[PlannedTarget, ...]
    refusals: tuple[Refusal, ...] = ()
    seconds: float | None = None
    """Expected in all, waits between waves included."""
    seal: str = ""
    """A digest of all the rest."""


def sealed(plan: Plan) -> Plan:
    """The same with its seal."""
    return plan.model_copy(update={"seal": _seal(plan)})


def as_it_was_made(plan: Plan) -> bool:
    """Whether nobody has changed it since: by mistake, that is; a seal is no signature."""
    return plan.seal == _seal(plan)


def _seal(plan: Plan) -> str:
    content = plan.model_dump_json(exclude={"seal"})
    return digest_of(content.encode())


def planned_environment(environment: Environment, approved: Sequence[str] = ()) -> PlannedEnvironment:
    """The rules that a promotion through it keeps to."""
    said: dict[str, Any] = environment.model_dump(
        mode="json",
        include={
            "after", "wave_bake", "watch", "on_harm", "targets", "canary", "gates", "load", "soak",
            "approvals", "trust", "traffic",
        },
    )  # fmt: skip
    said["waves"] = " then ".join(" and ".join(wave) for wave in environment.waves)
    said["hours"] = ", ".join(map(str, environment.hours))
    said["freezes"] = {str(one.when): one.why for one in environment.freezes}
    rules = {path: value for path, value in _flat(masked(said), "") if value}
    return PlannedEnvironment(name=environment.name, rules=rules, approved=tuple(approved))


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _flat(one, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        for number, one in enumerate(value, 1):
            yield from _flat(one, f"{path}[{number}]")
    elif isinstance(value, list):
        yield path, ", ".join(map(str, value))
    elif value is not None:
        yield path, f"{value:g}" if isinstance(value, float) else str(value)


def planned(
    environment: Environment,
    region: str,
    facts: Facts | None,
    *,
    stable: Values,
    manifest: str = "",
    sessions: float | None,
    reason: str = "",
    left: bool = False,
) -> PlannedTarget:
    """One target. `manifest`: what the chart renders of `stable`. `left`: see LEFT.

    `sessions`: a second, through its gateway now; None when nobody knows.
    """
    target = environment.target(region)
    wave = 1 + next(number for number, each in enumerate(environment.waves) if region in each)
    now = facts.stable if facts else None
    change = change_of(environment, facts, stable, left=left)
    works = change in (Change.CANARY, Change.UPGRADE, Change.INSTALL)
    if sessions is not None and environment.load is not None:
        sessions += environment.load.rate
    steps: tuple[PlannedStep, ...] = ()
    if change is Change.CANARY:
        *_, last = environment.canary.steps
        steps = tuple(
            _step(environment.gates, one, sessions, last=one is last) for one in environment.canary.steps
        )
    takes = [one.seconds for one in steps]
    seconds: float | None = _START_SECONDS * (2 if change is Change.CANARY else 1) if works else 0.0
    if None in takes:
        seconds = None
    elif seconds is not None and steps:
        seconds += sum(one for one in takes if one is not None) + environment.canary.drain
    had = now.manifest if now else ""
    return PlannedTarget(
        target=target.name,
        wave=wave,
        change=change,
        runs=now.release if now else "",
        revision=now.number if now else None,
        images=images(stable) if works else {},
        images_now=images(now.values) if now else {},
        changes=changes(now.values, stable) if now and works else (),
        replicas=replicas(manifest) if works else {},
        replicas_now=replicas(had),
        manifests=object_changes(had, manifest) if works and manifest else (),
        installs=digest(manifest) if works and manifest else "",
        steps=steps,
        sessions=sessions,
        seconds=seconds,
        reason=reason,
    )


def change_of(environment: Environment, facts: Facts | None, stable: Values, *, left: bool = False) -> Change:
    """What would be done on a target that is so, to have it at those values."""
    if left or facts is None:
        return Change.LEFT if left else Change.UNKNOWN
    if facts.stable is None or facts.stable.first_left:
        return Change.INSTALL
    if facts.stable.deployed and dict(facts.stable.values) == dict(stable):
        return Change.NOTHING
    return Change.CANARY if environment.canary.steps else Change.UPGRADE


def moved(before: Plan, now: Plan, begun: Collection[str] = ()) -> tuple[str, ...]:
    """What is not as it was when the plan was made, in words; nothing when it can be done exactly so.

    `begun`: targets where this very plan is being done, or was. How long anything takes may change.
    """
    told = []
    if (before.release, before.estate) != (now.release, now.estate):
        told.append(f"it is a plan of {before.release} in {before.estate}")
    elif before.digest != now.digest:
        told.append(f"{before.release}: it is another file of that name: {before.digest} -> {now.digest}")
    rules = {one.name: one.rules for one in before.environments}
    for here in now.environments:
        had = rules.pop(here.name, None)
        told += [f"{here.name} is not in it"] if had is None else []
        told += [f"{here.name}: {line}" for line in differences(had or here.rules, here.rules)]
    told += [f"{name}: the promotion does not go there any more" for name in rules]
    was = {one.target: one for one in before.targets}
    for one in now.targets:
        then = was.pop(one.target, None)
        if then is None:
            told.append(f"{one.target} is not in it")
        elif one.target not in begun:
            told += [f"{one.target}{line}" for line in _moved(then, one)]
        elif one.installs:
            told += [f"{one.target}{line}" for line in _to_come(then, one)]
    told += [f"{name} is no target any more" for name in was]
    order = [one.target for one in now.targets if one.target not in was]
    if not told and [one.target for one in before.targets] != order:
        told.append(f"the order of targets: it would be {', '.join(order)}")
    return tuple(told)


def _moved(then: PlannedTarget, now: PlannedTarget) -> Iterator[str]:
    if (then.runs, then.revision) != (now.runs, now.revision):
        yield (
            f" ran {then.runs or 'nothing'} (rev. {then.revision}), and runs "
            f"{now.runs or 'nothing'} (rev. {now.revision})"
        )
        return  # what would change follows from it
    if then.change is not now.change:
        why = f" ({now.reason})" if now.reason else ""
        yield f" was to get: {then.change}; it would be: {now.change}{why}"
        return
    if then.wave != now.wave:
        yield f": wave {then.wave} -> {now.wave}"
    values, would = ([one for one in each.changes if not one.startswith("images.")] for each in (then, now))
    told = [f": was to change {one}" for one in values if one not in would]
    told += [f": would change {one}" for one in would if one not in values]
    told += _to_come(then, now)
    if not told and then.installs != now.installs:
        planned = {one.thing: one.diff for one in then.manifests}
        told = [
            f": {one.thing} would be {one.became} otherwise than planned"
            for one in now.manifests
            if planned.get(one.thing) != one.diff
        ] or [": what the chart renders is not as planned"]
    yield from told


def _to_come(then: PlannedTarget, now: PlannedTarget) -> list[str]:
    """What differs of what is to be there, whatever is there now."""
    told = [f": image {line}" for line in differences(then.images, now.images)]
    told += [f": replicas of {line}" for line in differences(then.replicas, now.replicas)]
    steps, would = ({f"{one.weight} %": f"{one.bake:g} s" for one in each.steps} for each in (then, now))
    return told + [f": the step of {line}" for line in differences(steps, would)]


def plans(entries: Iterable[Entry], promotion: str) -> set[str]:
    """The seals of the plans that a promotion does, by the ledger."""
    return {
        str(entry.detail["plan"])
        for entry in entries
        if entry.promotion == promotion and entry.action is Action.START and "plan" in entry.detail
    }


def under_way(plan: Plan, now: Plan, entries: Sequence[Entry]) -> set[str]:
    """The targets where that very plan was begun, by one environment's ledger, and has not ended otherwise.

    What runs there is the plan's own doing. `now` is what would be done at present.
    """
    names = [one.promotion for one in entries if one.detail.get("plan") == plan.seal]
    found = set()
    for name in dict.fromkeys(names):
        for one in now.targets:
            past = past_of(entries, name, one.target)
            if past.started and (
                not past.ended or (past.ended == "promoted" and one.change is Change.NOTHING)
            ):
                found.add(one.target)
    return found


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


def _step(limits: Gates, one: CanaryStep, sessions: float | None, *, last: bool) -> PlannedStep:
    """An early step takes its watch, the last one a proof: by the gate's own test, without an error."""
    proof = gates.least_sessions(limits.errors.tolerated, limits.beta) if last else 0
    needed = max(one.sessions, proof)
    share = (sessions or 0.0) * one.weight / 100
    needs = max(one.bake, needed / share) if share else None
    seconds = needs if needs is not None and needs <= limits.deadline else None
    return PlannedStep(weight=one.weight, bake=one.bake, sessions=needed, seconds=seconds, needs=needs)

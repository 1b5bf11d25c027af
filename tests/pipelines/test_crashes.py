"""A promotion through environments and waves, ended by kill -9 before and after each entry about all of one.

What is done on one target is cut in tests/ci/delivery/promotion/test_run.py; here it is what is between them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from promotion_world import World, environment, release, stand_in

from ci.delivery import traffic
from ci.delivery.findings import Exposure, Finding, Tally, Verdict
from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger, open_named
from ci.delivery.promotion import run as loop
from ci.delivery.promotion.states import unfinished
from ci.delivery.results import StepResult
from ci.delivery.site import CANARY, STABLE
from ci.environments import Environment
from ci.release import Release
from ci.reporting import SilentReporter
from pipelines import promote as flow

GOOD, BETTER, OTHER = release("good"), release("better"), release("other")


class Killed(BaseException):
    """kill -9: nothing of the process happens any more."""


@dataclass
class Machine:
    """What the process runs on: when it is to die, and what it was about to do then."""

    at: int | None = None
    happened: list[str] = field(default_factory=list)
    dead: bool = False

    def reached(self, what: str) -> None:
        """It is so far; what is of one target is only kept from happening after the end."""
        if what:
            self.happened.append(what)
            self.dead = self.dead or len(self.happened) - 1 == self.at
        if self.dead:
            raise Killed


@dataclass(frozen=True)
class Case:
    """An estate, what fails in it, and where it always ends."""

    environments: tuple[Environment, ...]
    stable: dict[str, str]
    fails: Callable[[str, int], bool] = lambda *_: False
    """By namespace and weight of a step."""
    harmed: bool = False
    """Sessions fail once the release is stable."""
    first: bool = False
    """Another release came to no end there before."""


def two_waves(**more: Any) -> Environment:
    return environment("prod", "eastus", "westeurope").model_copy(update={"load": None, **more})


def staging(**more: Any) -> Environment:
    return environment("staging").model_copy(update={"load": None, **more})


CASES = {
    "good": Case(
        (two_waves(wave_bake=0.01, watch=0.01),),
        {"prod/eastus": "better", "prod/westeurope": "better"},
    ),
    "bad in the second wave": Case(
        (two_waves(),),
        {"prod/eastus": "better", "prod/westeurope": "good"},
        fails=lambda namespace, weight: namespace.endswith("westeurope") and weight == 50,
    ),
    "harm while it is watched": Case(
        (staging(watch=0.05), two_waves()),
        {"staging/eastus": "good", "prod/eastus": "good", "prod/westeurope": "good"},
        harmed=True,
    ),
    "another one before it": Case((staging(),), {"staging/eastus": "better"}, first=True),
}


async def at_once(*_: object, **__: object) -> float:
    return 0.0


def step_result(verdict: Verdict, weight: int) -> StepResult:
    tally = Tally(stable_bad=0, stable=1000)
    finding = Finding(metric="errors", verdict=verdict, reason="1 of 9", tally=tally)
    exposure = Exposure(intended=0.2, observed=None, log_e=0.0, mismatch=False)
    return StepResult(
        weight=weight, verdict=verdict, reason="errors", seconds=1, findings=(finding,), exposure=exposure,
        p95_canary=None, p95_stable=None,
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_killed_anywhere_the_same_command_comes_to_the_same_end(
    monkeypatch: pytest.MonkeyPatch, memory: Path, name: str
) -> None:
    moment = 0
    while True:
        with monkeypatch.context() as patch:
            patch.setenv("VA_STATE", str(memory / str(moment)))
            machine = Machine()
            killed_at(moment, CASES[name], machine, patch)
        if not machine.dead:
            break
        moment += 1
    assert moment > 3, machine.happened


def killed_at(moment: int, case: Case, machine: Machine, patch: pytest.MonkeyPatch) -> None:
    """Promote, be killed at that moment if it comes, and give the same command once more."""
    made = World()
    stand_in(patch, made)
    patch.setattr(traffic, "followed", at_once)
    append, look = Ledger.append, flow.Watch.look
    now = Machine()  # that the process runs on

    async def watched(self: Ledger, draft: Draft, **more: Any) -> Entry:
        what = "" if draft.target else f"{draft.kind} {draft.action}"
        now.reached(what and f"before {what}")
        entry = await append(self, draft, **more)
        now.reached(what and f"after {what}")
        return entry

    async def bake(environment: Environment, step: Any, **more: Any) -> StepResult:
        failed = case.fails(more["target"].namespace, step.weight)
        return step_result(Verdict.FAIL if failed else Verdict.PASS, step.weight)

    async def used(self: flow.Watch) -> object:
        found = await look(self)
        made.fails_every = {"better": 2} if case.harmed else {}
        for site in self.sites:
            for _ in range(50):
                await made.place(site.target.name).send("POST", "/v1/sessions", {})
        made.fails_every = {}
        return found

    def promote(wanted: Release) -> None:
        override = "the one before it came to no end" if case.first and wanted is BETTER else None
        asyncio.run(flow.promote(wanted, "test", override=override, reporter=SilentReporter()))

    patch.setattr(flow, "read_environments", lambda estate, through=None: case.environments)
    patch.setattr(Ledger, "append", watched)
    patch.setattr(loop, "bake", bake)
    patch.setattr(flow.Watch, "look", used)
    made.on = lambda _: now.reached("")
    promote(GOOD)
    if case.first:
        now = Machine(at=2)
        with pytest.raises(Killed):
            promote(OTHER)
    now = machine
    now.at = moment
    with contextlib.suppress(Killed):
        promote(BETTER)
    now = Machine()
    promote(BETTER)

    where = f"killed at {moment}: {machine.happened[-1]}" if machine.dead else "not killed"
    runs = {place: made.places[place].revisions[STABLE][-1] for place in case.stable}
    assert {place: one.release for place, one in runs.items()} == case.stable, where
    assert all(one.deployed for one in runs.values()), where
    assert not any(one.revisions[CANARY] or one.weight() for one in made.places.values()), where
    for environment_ in case.environments:
        entries = asyncio.run(read(environment_.name))
        assert not unfinished(entries), where
        done = [
            (one.promotion, one.target, one.action, one.weight, one.result)
            for one in entries
            if one.kind is Kind.OUTCOME and one.target and one.action not in AS_OFTEN_AS_IT_TAKES
        ]
        assert len(done) == len(set(done)), where


AS_OFTEN_AS_IT_TAKES = (Action.MOVE, Action.REMOVE, Action.MEND)


async def read(name: str) -> tuple[Entry, ...]:
    async with open_named("test", name) as ledger:
        assert await ledger.verify() == ()
        return await ledger.entries()

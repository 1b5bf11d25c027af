"""The main job on this machine, from nothing, in acts: a good release reaches prod, a bad one is caught.

Three releases are made of one commit. They differ in one switch of the api, and so in their digests:

- the baseline, which is installed where nothing runs yet;
- a good one, that is promoted dev -> staging -> prod beside the baseline, canary by canary. That promotion is
  killed in the middle; the guard takes its users back to stable, and the same command goes on;
- a bad one, that fails 5 % of its sessions: a gate has to catch it and give its traffic back.

Between them someone alters an image of the good one: neither the promotion nor the cluster may take it. In
the end both are undone, so that everything runs what it ran before.

Each act says what it is about to show. When that is not what is seen, the demonstration ends there, and says
so. Run again, the parts that are there already are found and the rest is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ci import engine, platform, tools
from ci.delivery.ledger import (
    Action,
    Entry,
    Kind,
    Promotion,
    Verified,
    open_ledger,
    promotions,
    read_all,
    verify_all,
)
from ci.delivery.ledger.show import history_page, verified_page
from ci.delivery.promotion.plan import Change, Plan
from ci.delivery.promotion.show import entry_line, plan_page
from ci.delivery.promotion.states import unfinished
from ci.delivery.results import PromotionResult, status_matrix, summary
from ci.environments import Environment, read_environments
from ci.errors import BadInput, GateFailed, StepFailed
from ci.layout import Page, page, words
from ci.release import Release
from ci.reporting import Reporter
from pipelines.killing import Killed, kill, show_killed
from pipelines.plan import plan
from pipelines.promote import promote
from pipelines.registries import estate_registries
from pipelines.report import leave_report
from pipelines.rollback import rollback
from pipelines.ship import SHIP_TOOLS, Shipped, ship, show_shipped
from pipelines.sign import signer_of
from pipelines.status import answered, status
from pipelines.tampering import Tampered, show_tampered, tamper

__all__ = ["Act", "Demonstrated", "demo", "show_demonstrated"]

ESTATE = "local"
BAD = 0.05
"""The share of its sessions that the bad release fails."""
_ACTS = 10
_GUARDED = 20.0
"""Seconds after a kill within which nobody is on the canary any more."""

Tell = Callable[[Page], None]


@dataclass(frozen=True, kw_only=True)
class Act:
    """One part of the demonstration and how long it took, in seconds."""

    title: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Demonstrated:
    """What was shipped and what became of it."""

    good: Shipped
    planned: Plan
    killed: Killed
    promoted: PromotionResult
    tampered: Tampered
    bad: Release
    caught: PromotionResult
    undone: tuple[PromotionResult, ...]
    history: tuple[Promotion, ...]
    acts: tuple[Act, ...]


async def demo(*, reporter: Reporter, reports: Path, tell: Tell) -> Demonstrated:
    """Do the main job on the embedded platform, act by act, and bring that up first.

    `tell` is given the heading of each act and what there is to see. StepFailed when an act does not show
    what it is there for; what did not work at all is raised as it is.
    """
    began, stage = datetime.now(UTC), _Stage(tell)
    *_, prod = read_environments(ESTATE)

    with stage.act(
        "The machine: its tools, and a platform to promote on",
        "Kubernetes, a gateway, registries, Prometheus, Redis: real ones, without Docker.",
        "va up",
    ):
        await tools.ensure([*platform.tools_needed(), *SHIP_TOOLS], reporter)
        await platform.up(reporter)

    with stage.act(
        "A baseline: what runs before, and a canary is compared with",
        "Built, tested, scanned, signed; installed where nothing runs yet.",
        "va ship",
    ):
        baseline = await _ship(reporter, reports, None)
        before = await _installed(baseline.release, reporter)

    with stage.act(
        "A good release: the same commit, one switch of the api set",
        "Other digests: there is something to promote. It behaves as the baseline does.",
        "va ship",
    ):
        good = await _ship(reporter, reports, 0.0)
        if {before[target.name] for target in prod.targets.values()} == {good.release.name}:
            good = baseline  # an interrupted demonstration left the good one: the other one is new there
        tell(show_shipped(good))

    name = good.release.name
    with stage.act(
        "A plan: what promoting it would do, target by target",
        "So that nobody has to find out by doing it. Nothing is touched.",
        f"va plan {name} --again",
    ):
        planned = await plan(good.release, ESTATE, again=True, reporter=reporter)
        tell(plan_page(planned))
        region = _to_be_killed(planned, prod)

    with stage.act(
        "Its promotion, killed (kill -9) while users are on prod's canary",
        f"Nobody is left to move them: the guard beside the canary has to, in {_GUARDED:.0f} s.",
        f"va promote {name} --again",
    ):
        killed = await kill(good.release, prod, region, reporter=reporter)
        tell(show_killed(killed))
        _guarded(killed)

    with stage.act(
        "The same command again: it knows, says so, and goes on to the end",
        "What passed before the kill is not asked again; the regions after it follow.",
        f"va promote {name} --again",
    ):
        promoted = await promote(good.release, ESTATE, again=True, reporter=reporter)
        tell(summary(promoted))
        if promoted.error is not None:
            raise promoted.error
        seen = await _seen(prod, killed)
        tell(page(f"\nthe ledger of {prod.name} has of that", *map(entry_line, seen)))
        _went_on(killed, promoted, seen)

    with stage.act(
        "Somebody alters one of its images",
        "Neither a promotion nor a cluster may take what was not signed.",
    ):
        tampered = await tamper(good.release, prod, reporter=reporter)
        tell(show_tampered(tampered))
        _claim(tampered.refused, "an altered image was not refused", "va status says which part is not well")

    with stage.act(
        f"A bad release: {BAD:.0%} of its sessions fail",
        "dev has no canary, and takes it. The gates of staging have to catch it.",
        "va ship; va promote",
    ):
        bad = await _ship(reporter, reports, BAD)
        caught = await promote(bad.release, ESTATE, reporter=reporter)
        tell(summary(caught))
        _caught(caught)

    with stage.act(
        "Both are undone: each target gets back what it ran before",
        "By a promotion's name, only where it went. No gate is asked, nothing is built.",
        f"va rollback {caught.promotion}",
        f"va rollback {promoted.promotion}",
    ):
        undone = [await _undo(one, reporter, tell) for one in (caught, promoted)]
        after = answered(await status(ESTATE, reporter=reporter))
        tell(status_matrix(after))
        _put_back(before, {row.target: row.release for row in after})

    with stage.act(
        "What is remembered: who promoted what, and how it went",
        "Each entry has the hash of the one before: one changed or missing is named.",
        "va history",
        "va ledger verify",
        f"va report {promoted.promotion} --open",
    ):
        found = [one for one in promotions(await read_all(ESTATE)) if one.began >= began]
        verified = await verify_all(ESTATE)
        tell(page(history_page(found), "", verified_page(verified)))
        told = [await leave_report(ESTATE, one.promotion, reports) for one in (promoted, caught)]
        tell(page("", "both on a page each, for people who were not there:", *(f"  {file}" for file in told)))
        _remembered(found, verified, (caught, promoted))

    return Demonstrated(
        good=good,
        planned=planned,
        killed=killed,
        promoted=promoted,
        tampered=tampered,
        bad=bad.release,
        caught=caught,
        undone=tuple(undone),
        history=tuple(found),
        acts=tuple(stage.acts),
    )


def show_demonstrated(shown: Demonstrated) -> Page:
    """The last lines: what was shown, and where the time went."""
    total = sum(act.seconds for act in shown.acts)
    return page(
        words(("\nAll of it was seen\n", "bold")),
        *(words(("  ✓ ", "green"), f"{act.seconds:6.1f} s  {act.title}") for act in shown.acts),
        f"    {total:6.1f} s  in all",
    )


class _Stage:
    """Tells what comes, act by act, and keeps how long each took."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.acts: list[Act] = []

    @contextmanager
    def act(self, title: str, why: str, *commands: str) -> Iterator[None]:
        """Say what the block is about to show and why, and what is typed for it."""
        number = len(self.acts) + 1
        self._tell(
            page(
                words(("\n" if number > 1 else "", ""), (f"{number}/{_ACTS}  {title}", "bold")),
                words((why, "dim")),
                *(words((f"$ {command}", "cyan")) for command in commands),
            )
        )
        started = time.monotonic()
        yield
        self.acts.append(Act(title=title, seconds=time.monotonic() - started))


async def _ship(reporter: Reporter, reports: Path, fault: float | None) -> Shipped:
    async with engine.session(reporter) as (client, name), estate_registries(ESTATE) as registries:
        return await ship(
            client,
            engine=name,
            registries=registries,
            signer=await signer_of("local", "local"),
            reporter=reporter,
            reports=reports,
            fault=fault,
        )


async def _installed(baseline: Release, reporter: Reporter) -> dict[str, str | None]:
    """What runs on each target; first the baseline is installed where nothing does.

    What an interrupted demonstration left under way is taken back, or, a baseline's, brought to its end.
    """
    for name, release in (await _under_way()).items():
        if release != baseline.name:
            with suppress(BadInput):  # the first release there: the baseline goes over it
                await rollback(
                    ESTATE, name, reason="an earlier demonstration was interrupted", reporter=reporter
                )
    rows = answered(await status(ESTATE, reporter=reporter))
    if any(row.release is None for row in rows) or await _under_way():
        result = await promote(baseline, ESTATE, again=True, reporter=reporter)
        if result.error is not None:
            raise result.error
        rows = answered(await status(ESTATE, reporter=reporter))
    return {row.target: row.release for row in rows}


async def _under_way() -> dict[str, str]:
    """The promotions that came to no end, each with its release."""
    found: dict[str, str] = {}
    for environment in read_environments(ESTATE):
        async with open_ledger(environment) as ledger:
            found |= unfinished(await ledger.entries())
    return found


async def _seen(environment: Environment, killed: Killed) -> list[Entry]:
    """What the ledger has of the target of the kill: how its steps ended, what the run after it found.

    Without the numbers of the gates, which `va history` shows.
    """
    async with open_ledger(environment) as ledger:
        entries = await ledger.entries(promotion=killed.promotion)
    told = {
        (Kind.OUTCOME, Action.STEP), (Kind.OUTCOME, Action.FINISH),
        (Kind.NOTE, Action.GUARD), (Kind.NOTE, Action.START),
    }  # fmt: skip
    return [
        entry.model_copy(update={"reason": ""}) if entry.action is Action.STEP else entry
        for entry in entries
        if entry.target == killed.target and (entry.kind, entry.action) in told
    ]


async def _undo(promotion: PromotionResult, reporter: Reporter, tell: Tell) -> PromotionResult:
    result = await rollback(
        ESTATE, promotion.promotion, reason="the demonstration is over", reporter=reporter
    )
    tell(summary(result))
    if result.error is not None:
        raise result.error
    return result


# What each act has to show.


def _claim(shown: object, otherwise: str, hint: str = "va status and va history say more") -> None:
    """StepFailed, with what is so instead, when something was not shown."""
    if not shown:
        raise StepFailed(f"not what was to be shown: {otherwise}", hint=hint)


def _to_be_killed(planned: Plan, prod: Environment) -> str:
    """The region of prod where the promotion will be killed: the first that gets a canary."""
    for refused in planned.refusals:
        _claim(False, f"the plan is refused: {refused.place}: {refused.reason}", refused.next_command)
    canaries = {one.target for one in planned.targets if one.change is Change.CANARY}
    found = [region for wave in prod.waves for region in wave if prod.target(region).name in canaries]
    _claim(found, f"no region of {prod.name} would get a canary: the release runs there already")
    return found[0]


def _guarded(killed: Killed) -> None:
    _claim(killed.answered, f"no user was on the canary of {killed.target} when the promotion was killed")
    late = killed.on_stable is None or max(killed.on_stable, killed.last) > _GUARDED
    _claim(not late, f"users were on the canary of {killed.target} more than {_GUARDED:.0f} s after the kill")
    _claim(
        killed.guard is not None and not killed.guard.of_canary,
        "it was not the guard that took the users to stable for a promoter that was not heard of",
    )
    _claim(not killed.users.lost, f"the users lost {killed.users.lost} requests")


def _went_on(killed: Killed, promoted: PromotionResult, seen: Sequence[Entry]) -> None:
    _claim(promoted.promotion == killed.promotion, "the same command began a promotion of its own")
    noted = {entry.action for entry in seen if entry.kind is Kind.NOTE}
    _claim(Action.GUARD in noted, "the run after the kill does not know what the guard did")
    _claim(Action.START in noted, "the run after the kill does not say that it goes on")
    steps = [step.weight for one in promoted.targets if one.target == killed.target for step in one.steps]
    _claim(
        steps == [killed.weight],
        f"on {killed.target} the steps {steps} were taken, and not the one of the kill alone",
    )


def _caught(caught: PromotionResult) -> None:
    _claim(isinstance(caught.error, GateFailed), "the bad release was not caught")
    lost = sum(target.moving.lost for target in caught.targets if target.moving)
    _claim(not lost, f"while the traffic of the bad release moved back {lost} requests were lost")


def _put_back(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> None:
    for target, release in after.items():
        _claim(release == before[target], f"{target} runs {release} and not {before[target]}, as before")


def _remembered(
    found: Sequence[Promotion], verified: Sequence[Verified], told: Sequence[PromotionResult]
) -> None:
    known = {one.promotion for one in found}
    _claim(all(one.promotion in known for one in told), "a promotion of this demonstration is not remembered")
    _claim(not any(one.problems for one in verified), "a ledger is not as it was written", "va ledger verify")

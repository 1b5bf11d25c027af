"""Promote a release: environment after environment, wave after wave, region by region, behind canary gates.

    result = await promote(release, "local", through="prod", reporter=reporter)
    raise result.error            # if there is one: GateFailed or GateInconclusive

On each target the canary is installed beside stable, traffic moves to it step by step, and each step's gates
decide (ci.delivery.gates). When all pass, stable is upgraded, traffic moves back and the canary is removed.
When one fails, traffic goes to stable first. What comes next on a target is decided by one table
(ci.delivery.promotion.states), so that the same command goes on after whatever stopped it; after a kill -9
the guard in the cluster takes traffic to stable meanwhile (images/guard). Each target is this run's alone
while it works there (ci.delivery.lease). A region whose own registry has not got all of the release is left
as it is, and the others go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from ci.concurrency import together
from ci.delivery.lease import Held, at_work
from ci.delivery.ledger import Action, Draft, Kind, Ledger, alone, open_ledger
from ci.delivery.notify import telling
from ci.delivery.promotion.everywhere import everywhere, report
from ci.delivery.promotion.obstacles import lacks
from ci.delivery.promotion.plan import plans, proven
from ci.delivery.promotion.run import Harm, Work, run
from ci.delivery.promotion.states import Goal, left_open, past_of, unfinished
from ci.delivery.promotion.watch import Watch, stood
from ci.delivery.promotion.waves import brought, ordered, stand
from ci.delivery.refusals import Code, Refusal, runs_in
from ci.delivery.results import Outcome, PromotionResult, TargetResult
from ci.delivery.site import chart_values, open_site
from ci.environments import Environment, OnHarm, Target, read_environment, read_environments
from ci.errors import PolicyBlocked, SystemUnavailable
from ci.release import Release
from ci.reporting import Reporter
from ci.supply.availability import Availability
from pipelines.before import Asked, Ledgers, Place, ask, lack, named, read, whole
from pipelines.permission import permitted, was_cut

__all__ = ["chosen", "promote"]


async def promote(
    release: Release,
    estate: str,
    *,
    through: str | None = None,
    only: str | Sequence[str] | None = None,
    override: str | None = None,
    again: bool = False,
    plan: str = "",
    reporter: Reporter,
) -> PromotionResult:
    """Promote a release through an estate's environments, in their order, up to and with `through`.

    An environment on the way that it was proven in before, and where another release runs since, is left
    alone, unless `again`. With `only`, to that environment or those targets (`prod/eastus`) alone: whoever
    may not reach the environments before answers for the release being there; for single targets the ledger
    does. A target whose cluster does not answer is left out, and the others go on.

    Returns what happened, gates that failed included (`result.error`). Raises BadInput, or PolicyBlocked with
    all that is in the way (pipelines.permission, pipelines.before, as a plan has it; `override` is the reason
    of an emergency), before anything is touched, and again before each later environment and wave, which then
    are not touched; SystemUnavailable or StepFailed when a target's system or installation did not work.
    `plan` is the seal of the plan that this does: the ledger keeps it.
    """
    started = time.monotonic()
    environments = await chosen(release.name, estate, through, only)
    ledgers = await read(environments)
    left = set() if again or only else left_behind(release.name, environments, ledgers)
    for one in (one for one in environments if one.name in left):
        reporter.note(f"{one.name}: {release.name} was proven there, and is left behind: not touched")
    environments = tuple(one for one in environments if one.name not in left)
    async with telling(environments, reporter):
        name = named(release.name, {one.name: ledgers[one.name] for one in environments})
        course = _Course(name, release, reporter, plan, override, again)
        ahead = _up_to_where_it_was_cut(release.name, environments, ledgers)
        course = await _asked(course, ahead, ledgers, first=True)
        done: list[TargetResult] = []
        stopped = ""
        for number, environment in enumerate(environments, 1):
            try:
                if number > 1:
                    course = await _asked(course, [environment], await read([environment]))
                results, stopped = await _promote(course, environment)
            except PolicyBlocked as refused:
                report(done, {environment.name: refused}, reporter)
                raise refused from None
            done += results
            if stopped or not (_may_go_on(results) and any(one.outcome in _THERE for one in results)):
                # It is nowhere here, or not to be here: it may go no further.
                if stopped or not _waits(results):
                    await _close(course, environments[number:])
                break
    return PromotionResult(
        release=release.name,
        estate=estate,
        targets=tuple(done),
        seconds=time.monotonic() - started,
        promotion=course.promotion,
        stopped=stopped,
    )


@dataclass(frozen=True)
class _Course:
    """What a promotion has wherever it is."""

    promotion: str
    release: Release
    reporter: Reporter
    plan: str
    override: str | None
    again: bool
    asked: Asked | None = None
    """What was said when the environment that it is in was asked."""

    @property
    def places(self) -> Mapping[str, Place]:
        """Each target as it was then, by its name."""
        assert self.asked is not None
        return self.asked.places

    def draft(self, kind: Kind, action: Action, **more: Any) -> Draft:
        return Draft(
            promotion=self.promotion, kind=kind, action=action, **({"release": self.release.name} | more)
        )


_THERE = (Outcome.PROMOTED, Outcome.INSTALLED, Outcome.CACHED)


def _may_go_on(results: Iterable[TargetResult]) -> bool:
    return all(result.outcome in (*_THERE, Outcome.NOT_THERE) for result in results)


async def chosen(
    release: str, estate: str, through: str | None, only: str | Sequence[str] | None
) -> tuple[Environment, ...]:
    """The environments to go through, each with the targets that are meant.

    PolicyBlocked for single targets of an environment whose release was not proven in the one before.
    """
    if not only:
        return read_environments(estate, through)
    wanted: dict[str, list[str]] = {}
    for place in [only] if isinstance(only, str) else only:
        name, slash, region = place.partition("/")
        wanted.setdefault(name, []).extend([region] if slash else [])
    found = []
    for name, regions in wanted.items():
        environment = read_environment(estate, name)
        if regions:
            environment = _of(environment, regions)
            await _proven_before(release, environment)
        found.append(environment)
    return tuple(found)


def _of(environment: Environment, regions: Iterable[str]) -> Environment:
    """With these regions alone."""
    targets = {region: environment.target(region) for region in regions}
    waves = tuple(tuple(one for one in wave if one in targets) for wave in environment.waves)
    kept = tuple(wave for wave in waves if wave)
    return environment.model_copy(update={"targets": targets, "waves": kept})


async def _proven_before(release: str, environment: Environment) -> None:
    if environment.after is None:
        return
    before = read_environment(environment.estate, environment.after)
    async with open_ledger(before) as ledger:
        if not proven(before, release, await ledger.entries()):
            raise PolicyBlocked(
                f"{release} was not proven in {before.name}: nothing of {environment.name} may have it",
                hint=f"va promote {release} --to {before.name}",
            )


def left_behind(release: str, environments: Sequence[Environment], ledgers: Ledgers) -> set[str]:
    """Those on the way that are left alone: going through them would take their users back."""
    return {
        one.name
        for one in environments[:-1]
        if proven(one, release, ledgers[one.name]) and not runs_in(one, release, ledgers[one.name])
    }


async def _promote(course: _Course, environment: Environment) -> tuple[list[TargetResult], str]:
    """One environment, wave after wave; harm in one region is every other one's, too.

    Second is the order that it obeyed, and goes no further by; empty when there was none.
    """
    done: list[TargetResult] = []
    stopped = ""
    harm = Harm()
    with alone(environment):
        async with open_ledger(environment) as ledger:
            await _begin(course, environment, ledger)
            for number, wave in enumerate(environment.waves):
                regions, refused = await _open(course, environment, wave, ledger)
                done += await _all(course, environment, regions, harm, ledger)
                last = number == len(environment.waves) - 1
                if regions and _may_go_on(done):
                    done = await _stand(course, environment, number, done, ledger, last=last)
                if _may_go_on(done):
                    done, stopped = await _obey(course, environment, done, ledger)
                if stopped or not _may_go_on(done):
                    break
                if refused is not None:
                    waits = course.draft(Kind.OUTCOME, Action.FINISH, result="waits", reason=refused.message)
                    await ledger.append(waits)
                    report(done, {environment.name: refused}, course.reporter)
                    raise refused
            if taken := [one for one in done if one.outcome is Outcome.BACK]:
                stopped = "; ".join(f"{one.target}: {one.reason}" for one in taken)
            left = left_open(await ledger.entries(), course.promotion)
            ended = "not done" if stopped else _ended(done, left)
            await ledger.append(course.draft(Kind.OUTCOME, Action.FINISH, result=ended))
    return done, stopped


async def _open(
    course: _Course, environment: Environment, wave: Iterable[str], ledger: Ledger
) -> tuple[list[str], PolicyBlocked | None]:
    """The regions of a wave that may be worked on now, and why the others may not.

    What has begun on a target comes to its end there, whatever has begun since: half a release is no way to
    spend a freeze.
    """
    entries = await ledger.entries(promotion=course.promotion)
    begun = {
        region: past_of(entries, course.promotion, environment.target(region).name).started for region in wave
    }
    new = [region for region, there in begun.items() if not there]
    if not new:
        return list(begun), None
    try:
        await permitted(
            [_of(environment, new)],
            course.release.name,
            override=course.override,
            reporter=course.reporter,
            afresh=True,
        )
    except PolicyBlocked as refused:
        goes_on = [region for region, there in begun.items() if there]
        for region in goes_on:
            name = environment.target(region).name
            course.reporter.note(f"{refused.message}: what has begun on {name} comes to its end all the same")
        return goes_on, refused
    return list(begun), None


async def _obey(
    course: _Course, environment: Environment, done: list[TargetResult], ledger: Ledger
) -> tuple[list[TargetResult], str]:
    """After an order to abort or to go back, each target that got the release is asked again what to do.

    Where it has ended an abort leaves it; the order, if there was one, is what the promotion ends by.
    """
    entries = await ledger.entries(promotion=course.promotion)
    if (order := ordered(entries)) is None:
        return done, ""
    here = brought(entries, course.promotion)
    regions = [region for region, target in environment.targets.items() if target.name in here]
    found = await _all(course, environment, regions, Harm(), ledger, again=True)
    gone = {one.target: one for one in found if one.outcome not in _THERE}
    return [gone.get(one.target, one) for one in done], order[1]


async def _asked_again(
    course: _Course, environment: Environment, region: str, harm: Harm, ledger: Ledger
) -> TargetResult:
    """Go on there, or see whoever takes this very promotion back come to its end."""
    told = False
    while True:
        try:
            return await _promote_target(course, environment, region, harm, ledger)
        except Held as held:
            if held.promotion != course.promotion:
                raise
            if not told:
                course.reporter.note(f"{environment.target(region).name}: {held.who} takes it back there")
            told = True
        await asyncio.sleep(max(environment.gates.look, 0.05))


async def _close(course: _Course, environments: Iterable[Environment]) -> None:
    """It does not come so far any more: nothing takes it up again where it had begun before."""
    for environment in environments:
        async with open_ledger(environment) as ledger:
            if course.promotion in unfinished(await ledger.entries()):
                await ledger.append(course.draft(Kind.OUTCOME, Action.FINISH, result="not done"))


async def _stand(
    course: _Course,
    environment: Environment,
    number: int,
    done: list[TargetResult],
    ledger: Ledger,
    *,
    last: bool,
) -> list[TargetResult]:
    """Wait before the next wave, or after the last, and watch what was promoted; harm takes it back."""
    action = Action.WATCH if last else Action.WAVE
    seconds = environment.watch if last else environment.wave_bake
    entries = await ledger.entries(promotion=course.promotion)
    here = brought(entries, course.promotion)
    regions = [region for region, target in environment.targets.items() if target.name in here]
    wave = {environment.target(region).name for region in environment.waves[number]}
    if not seconds or not (here if last else here & wave):
        return done
    async with AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(open_site(environment, region)) for region in regions]
        draft = course.draft(
            Kind.INTENT, action, detail={"wave": number + 1, "targets": ", ".join(sorted(here))}
        )
        watch = Watch(environment, sites, stood(entries, course.promotion))
        harmed = await stand(draft, seconds, environment, ledger, course.reporter, watch.look)
    if not harmed:
        if watch.blind:
            course.reporter.note(
                f"{environment.name}: NOBODY SAW how its users fared while it was watched: {watch.blind}"
            )
        return done
    if environment.on_harm is OnHarm.ALERT:
        course.reporter.note(f"{environment.name}: HARM: {harmed}: nothing is taken back, as it is set")
        return [
            one.model_copy(update={"outcome": Outcome.HARMED, "reason": harmed})
            if one.target in here
            else one
            for one in done
        ]
    await ledger.append(course.draft(Kind.ORDER, Action.ROLL_BACK, reason=harmed))
    back = await _all(course, environment, regions, Harm(), ledger, again=True)
    failed = {
        one.target: one.model_copy(
            update={
                "outcome": Outcome.FAILED if one.outcome is Outcome.BACK else one.outcome,
                "reason": f"{harmed}; {one.reason}",
                "release": course.release.name,
            }
        )
        for one in back
    }
    return [failed.get(one.target, one) for one in done]


async def _begin(course: _Course, environment: Environment, ledger: Ledger) -> None:
    """Write down that it begins here, and that another one which came to no end will have none.

    Held when that one is at work: it goes on, and nothing was written.
    """
    entries = await ledger.entries()
    left = unfinished(entries)
    if others := set(left) - {course.promotion}:
        await _nobody_works_on(others, whole(environment), course)
    for name, what in left.items():
        if name != course.promotion:
            over = course.draft(Kind.OUTCOME, Action.FINISH, release=what, result="superseded")
            reason = f"{course.release.name} is promoted"
            await ledger.append(over.model_copy(update={"promotion": name, "reason": reason}))
    detail = {"plan": course.plan} if course.plan else {}
    if course.promotion not in left:
        await ledger.append(course.draft(Kind.INTENT, Action.START, detail=detail))
    elif lacks(entries, course.promotion) or (
        course.plan and course.plan not in plans(entries, course.promotion)
    ):
        await ledger.append(course.draft(Kind.NOTE, Action.START, detail=detail))


async def _nobody_works_on(promotions: Collection[str], environment: Environment, course: _Course) -> None:
    """Held where somebody does, in whichever region, also one that is not meant here."""

    async def at(target: Target) -> None:
        there = None
        with suppress(SystemUnavailable):
            async with open_site(environment, target.region) as site:
                there = await at_work(site.cluster, target.namespace)
        if there is not None and there.promotion in promotions:
            raise Held(target.namespace, there)

    silent = {name for name, one in course.places.items() if one.silent}
    await together(at(one) for one in environment.targets.values() if one.name not in silent)


def _waits(done: Iterable[TargetResult]) -> bool:
    """Whether a person has to decide how it goes on."""
    return any(one.outcome in (Outcome.HELD, Outcome.HARMED) for one in done)


def _ended(done: Sequence[TargetResult], left: Collection[str]) -> str:
    """In a word, for the ledger; how it ended on each target is said there. `left`: where it has not."""
    outcomes = {one.outcome for one in done}
    if _waits(done):
        return "waits"
    if not _may_go_on(done):
        return "not done"
    if left:
        return "waits"
    return "partly" if Outcome.NOT_THERE in outcomes else "done"


async def _all(
    course: _Course,
    environment: Environment,
    regions: Iterable[str],
    harm: Harm,
    ledger: Ledger,
    *,
    again: bool = False,
) -> list[TargetResult]:
    """These regions at once, each to its end: one whose system does not work is told of after it.

    `again`: see _asked_again.
    """
    one = _asked_again if again else _promote_target
    done, errors = await everywhere(
        {
            environment.target(region).name: one(course, environment, region, harm, ledger)
            for region in regions
        }
    )
    if error := report(done, errors, course.reporter):
        raise error
    return done


async def _promote_target(
    course: _Course, environment: Environment, region: str, harm: Harm, ledger: Ledger
) -> TargetResult:
    target, release = environment.target(region), course.release
    assert course.asked is not None
    source, why = course.asked.sources[target.registry], course.places[target.name].why
    if isinstance(source, Availability) or why:
        return await _not_there(course, target, why, ledger)
    goal = Goal(
        promotion=course.promotion,
        target=target.name,
        release=release.name,
        stable=chart_values(environment, target, release, "stable"),
        canary=chart_values(environment, target, release, "canary"),
        weights=tuple(step.weight for step in environment.canary.steps),
    )
    async with open_site(environment, region) as opened, opened.held(course.promotion) as site:
        return await run(
            Work(
                goal=goal,
                site=site,
                ledger=ledger,
                reporter=course.reporter,
                harm=harm,
                release=release,
                chart=source,
            )
        )


async def _not_there(course: _Course, target: Target, reason: str, ledger: Ledger) -> TargetResult:
    """The region's registry has not got all of it, or it does not answer: the target is not touched."""
    name = course.release.name
    with course.reporter.step(f"{target.name}: {name}") as step:
        step.skipped(reason)
    await ledger.append(course.draft(Kind.NOTE, Action.NOT_THERE, target=target.name, reason=reason))
    return TargetResult(
        target=target.name, release=name, previous=None, outcome=Outcome.NOT_THERE, reason=reason
    )


def _up_to_where_it_was_cut(
    release: str, environments: Sequence[Environment], ledgers: Ledgers
) -> Sequence[Environment]:
    """Whom to ask at the beginning: all of them.

    But what a run that was killed has begun is brought to its end whatever stands in the way of what would
    come after: that is asked when it comes.
    """
    cut = [number for number, one in enumerate(environments, 1) if was_cut(release, ledgers[one.name])]
    return environments[: max(cut, default=None)]


async def _asked(
    course: _Course, environments: Sequence[Environment], ledgers: Ledgers, *, first: bool = False
) -> _Course:
    """Everything that a promotion needs there, as it is now: nothing is in its way, or PolicyBlocked.

    A region that does not answer, or whose own endpoint has not got all of the release, is left out. At the
    first, before anything is touched, it is SystemUnavailable when none answers, or none has.
    """
    found: list[Asked] = []

    async def there() -> Sequence[Refusal]:
        found.append(await _check(course, environments, ledgers, first=first))
        return [one for one in found[0].refusals if not one.alone]

    await permitted(
        environments, course.release.name, override=course.override, reporter=course.reporter, also=there
    )
    return replace(course, asked=found[0])


async def _check(
    course: _Course, environments: Sequence[Environment], ledgers: Ledgers, *, first: bool
) -> Asked:
    release, reporter, again = course.release, course.reporter, course.again
    where = environments[0].name if len(environments) == 1 else "every target"
    with reporter.step(f"check {release.name} in {where}") as step:
        asked = await ask(
            release, environments, ledgers, promotion=course.promotion, again=again, reporter=reporter
        )
        down = {name: one.silent for name, one in asked.places.items() if one.silent is not None}
        if first and len(down) == len(asked.places):
            raise next(iter(down.values()))
        others = [one for one in asked.refusals if not one.alone and one.code != Code.UNSIGNED]
        if asked.unproven is not None and not (others and isinstance(asked.unproven, PolicyBlocked)):
            raise asked.unproven
        there = len(asked.sources) - len(asked.lacking)
        if first and not there and asked.unproven is None:
            raise SystemUnavailable(
                f"{release.name} is in none of the registries: {'; '.join(map(lack, asked.lacking))}",
                hint="va registry status says what is missing; va ship publishes it again",
            )
        step.say(f"{len(release.images)} images and the chart verified in {there} registries")
    for one in asked.lacking:
        reporter.note(f"{lack(one)}: nothing is promoted to its region")
    for target, error in down.items():
        reporter.note(f"{target}: {error.message}: nothing is promoted there")
    return asked

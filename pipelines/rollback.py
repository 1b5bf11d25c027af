"""Undo a promotion: each target that it went to gets back the release that was stable before it.

For two in the morning: it needs the targets' clusters and the ledger, builds nothing and asks no gate.
Traffic leaves a canary first, always; then Helm is brought back; then the canary goes. It is an order in the
ledger, and goes by the same table of states as a promotion (ci.delivery.promotion.states): stopped anywhere
the same command goes on, and run again it changes nothing. Where the ledger knows of no promotion (it was
done from another machine), Helm's own history says what ran before.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ci.concurrency import settled
from ci.delivery.lease import Held
from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger, open_ledger, promotion_id
from ci.delivery.notify import telling
from ci.delivery.promotion.everywhere import everywhere, report
from ci.delivery.promotion.facts import Facts, look
from ci.delivery.promotion.run import Work, run
from ci.delivery.promotion.states import Goal, Past, left_open, past_of, unfinished
from ci.delivery.results import Outcome, PromotionResult, TargetResult
from ci.delivery.revisions import ONCE_RAN, Revision
from ci.delivery.site import Site, open_site
from ci.environments import Environment, read_environment, read_environments
from ci.errors import BadInput, PipelineError
from ci.reporting import Reporter

__all__ = ["rollback"]

_PROMOTION = re.compile(r"\d{4}-\d\d-\d\dT\d{4,6}-\w+")


async def rollback(
    estate: str,
    what: str,
    *,
    to: str | None = None,
    canary_only: bool = False,
    reason: str = "",
    reporter: Reporter,
) -> PromotionResult:
    """Undo a promotion, by its name, or the last one that went to a place (`prod/eastus`, or `prod`).

    `to` names another release to go back to. `canary_only` takes a canary away, and stable stays. BadInput
    when nothing is known of what was there before.
    """
    started = time.monotonic()
    results: list[TargetResult] = []
    errors: dict[str, PipelineError] = {}
    promotion = what if _PROMOTION.fullmatch(what) else ""
    places = _places(estate, what, promotion)
    async with telling([environment for environment, _ in places], reporter):
        for environment, regions in places:
            wanted = _Wanted(promotion or None, to, canary_only, reason or f"va rollback {what}")
            try:
                done, failed = await _undo(environment, regions, wanted, reporter)
            except PipelineError as error:  # the other environments of a promotion go back all the same
                done, failed = [], {environment.name: error}
                if not promotion:
                    await settled(_to_stable(environment, region, reporter) for region in regions)
            results += done
            errors |= failed
    if (wrong := report(results, errors, reporter)) is not None:
        raise wrong
    releases = {result.release for result in results} or await _known([one for one, _ in places], promotion)
    if not releases:
        raise BadInput(f"no promotion {what} is known", hint="va history lists them")
    return PromotionResult(
        release=", ".join(sorted(releases)),
        estate=estate,
        targets=tuple(results),
        seconds=time.monotonic() - started,
        promotion=promotion,
    )


async def _known(environments: Iterable[Environment], promotion: str) -> set[str]:
    """The release of a promotion that went to no target before it was stopped; none where nobody knows it."""
    found: set[str] = set()
    for environment in environments if promotion else ():
        async with open_ledger(environment) as ledger:
            found |= {entry.release for entry in await ledger.entries(promotion=promotion) if entry.release}
    return found


_Looks = Mapping[str, asyncio.Task[Facts]]
"""By region: each is asked once, all at the same time."""


@dataclass(frozen=True)
class _Wanted:
    promotion: str | None
    """None: the last one; where the ledger knows of none, Helm's history decides."""
    to: str | None
    canary_only: bool
    reason: str


async def _undo(
    environment: Environment, regions: Sequence[str], wanted: _Wanted, reporter: Reporter
) -> tuple[list[TargetResult], dict[str, PipelineError]]:
    """In one environment: all targets at once, each to its end; then what was under way has ended."""
    async with open_ledger(environment) as ledger:
        entries = await ledger.entries()
        if wanted.promotion is None and not (wanted.to or wanted.canary_only):
            wanted = replace(wanted, promotion=_last(entries, environment, regions))
        whole = set(regions) == set(environment.targets)
        if whole and wanted.promotion in unfinished(entries):
            # First of all, and for the regions where it has not begun, too.
            order = Draft(
                promotion=wanted.promotion or "", kind=Kind.ORDER, action=Action.ROLL_BACK,
                release=unfinished(entries)[wanted.promotion or ""], reason=wanted.reason,
            )  # fmt: skip
            await ledger.append(order)
        if wanted.promotion is not None:
            regions = _went_to(entries, wanted.promotion, environment, regions)
        looks = {region: asyncio.ensure_future(_look(environment, region)) for region in regions}
        done, errors = await everywhere(
            {
                environment.target(region).name: _roll_back(
                    environment, region, wanted, ledger, reporter, looks
                )
                for region in regions
            }
        )
        for name, release in unfinished(entries).items() if not errors else ():
            ended = whole or not left_open(await ledger.entries(), name)
            # One that went to no target has nothing to take back, and ends all the same.
            if ended and (name == wanted.promotion or (regions and wanted.promotion is None)):
                over = Draft(
                    promotion=name, kind=Kind.OUTCOME, action=Action.FINISH, release=release,
                    result="not done", reason=wanted.reason,
                )  # fmt: skip
                await ledger.append(over)
        return done, errors


async def _look(environment: Environment, region: str) -> Facts:
    async with open_site(environment, region) as site:
        return await look(site.cluster, site.target.namespace)


async def _never_came(
    environment: Environment, wanted: _Wanted, entries: Sequence[Entry], own: Facts, looks: _Looks
) -> str:
    """The release that went in last, where another runs here, and the ledger does not explain it all.

    Somebody promoted from elsewhere, perhaps to some regions alone: the others never had that release, and
    what Helm remembers of them is no reason to touch them.
    """
    answers = await settled(_seen(one) for one in looks.values())
    found = {one: facts for one, facts in zip(looks, answers, strict=True) if isinstance(facts, Facts)}
    name = wanted.promotion
    if name is not None and all(
        _explains(facts, *_told(entries, name, environment.target(one).name)) for one, facts in found.items()
    ):
        return ""
    stable = [facts.stable for facts in found.values() if facts.stable and not facts.stable.put_back]
    if not stable or (own.stable and own.stable.put_back):
        return ""
    last = max(stable, key=lambda one: one.updated).release
    return "" if own.runs == last else last


async def _seen(look: asyncio.Task[Facts]) -> Facts:
    return await asyncio.shield(look)  # it is another region's, too


def _told(entries: Iterable[Entry], promotion: str, target: str) -> tuple[Past, str]:
    """What the ledger knows of a promotion there, and its release."""
    entries = list(entries)
    release = next(one.release for one in entries if one.promotion == promotion and one.release)
    return past_of(entries, promotion, target), release


async def _to_stable(environment: Environment, region: str, reporter: Reporter) -> None:
    """Where the ledger cannot be read a canary loses its traffic all the same, if nobody else works there."""
    async with open_site(environment, region) as opened:
        if await opened.on_stable():
            return
        async with opened.held("") as site:
            await site.move(0)
    reporter.note(f"{environment.target(region).name}: stable has all the traffic; nothing else was done")


def _places(estate: str, what: str, promotion: str) -> list[tuple[Environment, Sequence[str]]]:
    if promotion:
        return [(one, sorted(one.targets)) for one in reversed(read_environments(estate))]
    name, slash, region = what.partition("/")
    environment = read_environment(estate, name)
    return [(environment, [environment.target(region).region] if slash else sorted(environment.targets))]


def _last(entries: Iterable[Entry], environment: Environment, regions: Sequence[str]) -> str | None:
    """The last promotion that went to any of these regions."""
    names = {environment.target(region).name for region in regions}
    begun = [name for name, target in _began(entries) if target in names]
    return begun[-1] if begun else None


def _went_to(
    entries: Iterable[Entry], promotion: str, environment: Environment, regions: Sequence[str]
) -> list[str]:
    there = {target for name, target in _began(entries) if name == promotion}
    return [region for region in regions if environment.target(region).name in there]


def _began(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """The promotions and the targets that each went to, as they began: not where it found itself already.

    It went where something else ran, and where it changed stable or had a canary: the name of a release stays
    the same when only its values change.
    """
    began: list[tuple[str, str]] = []
    went: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.kind is not Kind.INTENT or not entry.target:
            continue
        here = (entry.promotion, entry.target)
        if entry.action is Action.START:
            began.append(here)
            if entry.detail.get("before") != entry.release:
                went.add(here)
        elif entry.action in (Action.INSTALL, Action.UPGRADE, Action.CANARY, Action.ROLL_BACK):
            went.add(here)
    return [here for here in began if here in went]


async def _roll_back(
    environment: Environment,
    region: str,
    wanted: _Wanted,
    ledger: Ledger,
    reporter: Reporter,
    looks: _Looks,
) -> TargetResult:
    target = environment.target(region)
    facts = await looks[region]
    async with open_site(environment, region) as site:
        if facts.stable is None and facts.canary is None:
            raise BadInput(f"nothing is installed on {target.name}", hint="va status shows what runs")
        entries = await ledger.entries()
        promotion, release = wanted.promotion, ""
        past = Past()
        several = len(looks) > 1 and not (wanted.to or wanted.canary_only)
        calm = facts.canary is None and facts.on_stable  # else others are not asked: traffic leaves first
        last = await _never_came(environment, wanted, entries, facts, looks) if several and calm else ""
        if last:
            return _left_alone(target.name, facts, last, reporter)
        if promotion is not None:
            past, release = _told(entries, promotion, target.name)
        if promotion is None or not _explains(facts, past, release):
            # Somebody did something else, or from elsewhere: what Helm remembers has to do.
            before = await _before(site, facts, wanted)
            if isinstance(before, TargetResult):
                return before
            promotion, release = promotion_id(), facts.runs
            begin = Draft(
                promotion=promotion, kind=Kind.INTENT, action=Action.START, target=target.name,
                release=release, reason=wanted.reason,
                detail={"before": before.release, "revision": before.number},
            )  # fmt: skip
            await ledger.append(begin)
        elif past.before is None and facts.canary is None:
            raise BadInput(
                f"{release} was the first release on {target.name}: there is none to go back to",
                hint="va promote installs any other",
            )
        if not past.ordered_back:
            order = Draft(
                promotion=promotion, kind=Kind.ORDER, action=Action.ROLL_BACK, target=target.name,
                release=release, reason=wanted.reason,
            )  # fmt: skip
            await ledger.append(order)
        goal = Goal(promotion=promotion, target=target.name, release=release)
        return await _go_back(Work(goal=goal, site=site, ledger=ledger, reporter=reporter))


def _left_alone(name: str, facts: Facts, last: str, reporter: Reporter) -> TargetResult:
    runs = facts.runs or "nothing of ours"
    reason = f"{last} never came here, {runs} stays"
    reporter.note(f"{name}: {reason} (va rollback {name} takes it back)")
    return TargetResult(
        target=name, release=facts.runs, previous=facts.runs or None, outcome=Outcome.CACHED, reason=reason
    )


async def _go_back(work: Work) -> TargetResult:
    """Obey the order ourselves, or see whoever has that very promotion in hand obey it."""
    told = False
    while True:
        try:
            async with work.site.held(work.goal.promotion) as site:
                return await run(replace(work, site=site))
        except Held as held:
            if held.promotion != work.goal.promotion:
                raise
            if not told:
                work.reporter.note(f"{work.name}: {held.who} works there, and was ordered to take it back")
            told = True
        await asyncio.sleep(max(1.0, work.site.environment.gates.look))


def _explains(facts: Facts, past: Past, release: str) -> bool:
    """Whether what is there came of that promotion, as far as names say."""
    if past.ended and (facts.canary is not None or not facts.on_stable):
        return False
    return facts.runs in {release, past.before.release if past.before else ""}


async def _before(site: Site, facts: Facts, wanted: _Wanted) -> Revision | TargetResult:
    """What ran before, by Helm's history; a result when nothing is to be done."""
    history = await site.history("stable")
    name = site.target.name
    current = history[0] if history else None

    def already(reason: str) -> TargetResult:
        return TargetResult(
            target=name,
            release=facts.runs,
            previous=facts.runs or None,
            outcome=Outcome.CACHED,
            reason=reason,
        )

    if facts.canary is not None or not facts.on_stable:
        if current is None:
            raise BadInput(f"nothing but a canary is on {name}", hint="va promote installs a release")
        if wanted.to in (None, current.release):
            return current  # the canary goes, stable stays
    elif wanted.canary_only:
        return already("there was no canary")
    if current is not None and current.deployed:
        if wanted.to == current.release:
            return already("it runs there already")
        if wanted.to is None and current.put_back:
            return already(f"it was rolled back to {current.release} already")
    found = next((one for one in history[1:] if _fits(one, facts.stable, wanted.to)), None)
    if found is None:
        kept = sorted({revision.release for revision in history if revision.release})
        which = f"release {wanted.to!r}" if wanted.to else f"release before {facts.runs!r}"
        raise BadInput(
            f"Helm's history on {name} has no {which}",
            hint=f"it has {', '.join(kept)}: va promote installs any other",
        )
    return found


def _fits(revision: Revision, current: Revision | None, to: str | None) -> bool:
    """Whether it once ran, and is of that release, or installed anything else than the current one."""
    if revision.status not in ONCE_RAN or not revision.release:
        return False
    return revision.release == to if to else current is None or revision.values != current.values

"""What is asked before a promotion, and by its plan: registries, clusters, ledgers. Nothing is touched.

    ledgers = await read(environments)
    name = named(release.name, ledgers)
    found = await ask(release, environments, ledgers, promotion=name, again=False, reporter=reporter)
    found.refusals          # what of that is in the way
    found.places            # each target, as it is; `why` where it would be left out

What the environments themselves say (freezes, approvals, …) is pipelines.permission's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ci.concurrency import both, together
from ci.delivery.helm import pull_chart
from ci.delivery.lease import Held, at_work
from ci.delivery.ledger import Entry, open_ledger, promotion_id
from ci.delivery.metrics import SESSIONS
from ci.delivery.promotion import obstacles
from ci.delivery.promotion.facts import Facts, drift, look
from ci.delivery.promotion.presence import presence
from ci.delivery.promotion.states import unfinished
from ci.delivery.refusals import Code, Refusal, overridden
from ci.delivery.site import Site, chart_values, open_site
from ci.environments import Environment, Target, geography, read_environment
from ci.errors import PipelineError, SystemUnavailable
from ci.registry import registry_at
from ci.release import Release
from ci.reporting import Reporter
from ci.supply.availability import Availability, Contents, State, contents, prove, survey
from pipelines.verify import verify

__all__ = ["Asked", "Ledgers", "Place", "Source", "ask", "lack", "named", "others", "read", "whole"]

Ledgers = Mapping[str, Sequence[Entry]]
"""What each environment's has, by the environment's name."""

Source = Path | Availability
"""Of an endpoint that has all of a release: the chart, pulled from it. Of another one: what it lacks."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A target as it is."""

    facts: Facts | None = None
    """None where it does not answer, or has not got all of the release."""
    sessions: float | None = None
    """A second through its gateway, over the last minutes; None where nobody counts."""
    silent: SystemUnavailable | None = None
    """Why it does not answer."""
    why: str = ""
    """Why it would be left out."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What they said."""

    sources: Mapping[str, Source]
    """By the endpoint of a registry."""
    places: Mapping[str, Place]
    """By the target's name."""
    refusals: tuple[Refusal, ...]
    unproven: PipelineError | None
    """Why the release does not prove what is asked of it; it is one of the refusals, too."""

    @property
    def lacking(self) -> tuple[Availability, ...]:
        """The endpoints that have not got all of it."""
        return tuple(one for one in self.sources.values() if isinstance(one, Availability))


async def read(environments: Sequence[Environment]) -> dict[str, tuple[Entry, ...]]:
    """All of their ledgers, read at once: what follows looks into these."""

    async def one(environment: Environment) -> tuple[Entry, ...]:
        async with open_ledger(environment) as ledger:
            return await ledger.entries()

    found = await together(map(one, environments))
    return {environment.name: each for environment, each in zip(environments, found, strict=True)}


def named(release: str, ledgers: Ledgers) -> str:
    """The name of a promotion: that of one of this release which came to no end, or else a new one."""
    left = [unfinished(entries) for entries in ledgers.values()]
    return max(
        (name for each in left for name, what in each.items() if what == release), default=promotion_id()
    )


async def others(environment: Environment, release: str, entries: Sequence[Entry]) -> list[Refusal]:
    """The promotions of other releases that have come to no end there.

    One that somebody is at work on is nobody's to override: in whichever region of the environment that is,
    whatever of it is meant here, and while it waits between two waves.
    """
    found = obstacles.others(environment, release, entries)
    begun = {name: what for name, what in unfinished(entries).items() if what != release}
    if not begun:
        return []
    everywhere, busy = whole(environment), dict[str, str]()

    async def at(target: Target) -> None:
        with suppress(SystemUnavailable):
            async with open_site(everywhere, target.region) as site:
                holder = await at_work(site.cluster, target.namespace)
            if holder is not None:
                busy[holder.promotion] = holder.who

    await together(map(at, everywhere.targets.values()))
    for name, what in begun.items():
        own = [one for one in entries if one.promotion == name]
        if who := busy.get(name) or (await presence(everywhere, name, own)).who:
            found[name] = obstacles.at_work(environment.name, name, f"{who} promotes {what} there ({name})")
    return list(found.values())


def whole(environment: Environment) -> Environment:
    """With all its targets, where some of them are meant."""
    return read_environment(environment.estate, environment.name)


async def ask(
    release: Release,
    environments: Sequence[Environment],
    ledgers: Ledgers,
    *,
    promotion: str,
    again: bool = False,
    reporter: Reporter,
) -> Asked:
    """Ask all of them at once. What a registry or a target does is in the answer, never raised.

    `ledgers` has at least those of the environments. `promotion` is the one that would go on: what it has
    begun is not in its own way. `again`: a release that is older than what runs is meant.
    """
    endpoints = sorted({target.registry for one in environments for target in one.targets.values()})
    targets = [(one, target) for one in environments for target in one.targets.values()]

    async def of_registries() -> tuple[dict[str, Source], PipelineError | None]:
        wanted = await _wanted(release, geography(environments).home, reporter)
        found = dict(
            zip(endpoints, await together(_fetch(release, one, wanted) for one in endpoints), strict=True)
        )
        lacking = {name for name, one in found.items() if isinstance(one, Availability)}
        reached = [one for one in (_without(each, lacking) for each in environments) if one.targets]
        try:
            return found, (await verify(release, reached or environments)).error
        except PipelineError as error:
            return found, error

    async def of_targets() -> list[tuple[Place, list[Refusal]]]:
        return await together(
            _target(release, one, target, ledgers[one.name], promotion, again=again)
            for one, target in targets
        )

    (sources, unproven), answers = await both(of_registries(), of_targets())
    places, refused = {}, []
    for (_, target), (place, stands) in zip(targets, answers, strict=True):
        source = sources[target.registry]
        if place.silent is None and isinstance(source, Availability):
            place = Place(why=lack(source))
        else:
            refused += stands
        places[target.name] = place
    refused += [_not_replicated(release, one) for one in sources.values() if isinstance(one, Availability)]
    if unproven is not None:
        _, *lines = unproven.message.splitlines()
        refused.append(
            Refusal(
                code=Code.UNSIGNED,
                place=release.name,
                reason="; ".join(map(str.strip, lines)) or unproven.message,
                next_command=unproven.hint or f"va release verify {release.name}",
            )
        )
    return Asked(sources=sources, places=places, refusals=tuple(refused), unproven=unproven)


def lack(found: Availability) -> str:
    """What that registry has not got, in words."""
    if found.state is State.DOWN:
        return found.problem
    missing = ", ".join(found.missing[:2]) + (" and more" if len(found.missing) > 2 else "")
    return f"{found.endpoint} lacks {len(found.missing)} of its parts ({missing})"


def _not_replicated(release: Release, found: Availability) -> Refusal:
    return Refusal(
        code=Code.NOT_REPLICATED,
        place=found.endpoint,
        reason=f"{release.name} is not in its registry: {lack(found)}",
        next_command=f"va registry status {release.name}",
        alone=True,
    )


async def _fetch(release: Release, endpoint: str, wanted: Contents) -> Source:
    async with registry_at(endpoint) as registry:
        found = await prove(registry, wanted)
        return await pull_chart(registry, release.chart) if found.state is State.THERE else found


async def _wanted(release: Release, home: str, reporter: Reporter) -> Contents:
    """All that has to be in a region: what the release names, and what home lists as attached to it."""
    wanted = contents(release)
    try:
        async with registry_at(home) as registry:
            return await survey(registry, wanted)
    except SystemUnavailable as error:
        # The other regions need no home to run what they have.
        reporter.note(f"{error}: only what the release itself names is asked for")
        return wanted


def _without(environment: Environment, lacking: Collection[str]) -> Environment:
    """Its targets whose endpoint is none of these."""
    targets = {name: one for name, one in environment.targets.items() if one.registry not in lacking}
    return environment.model_copy(update={"targets": targets})


async def _target(
    release: Release,
    environment: Environment,
    target: Target,
    entries: Sequence[Entry],
    promotion: str,
    *,
    again: bool,
) -> tuple[Place, list[Refusal]]:
    try:
        async with open_site(environment, target.region) as site:
            (_, found), (facts, holder) = await both(
                both(
                    site.cluster.version(),
                    site.prometheus.instant(f'sum(rate({SESSIONS}{{namespace="{target.namespace}"}}[5m]))'),
                ),
                both(
                    look(site.cluster, target.namespace),
                    at_work(site.cluster, target.namespace),
                ),
            )
            place = Place(facts=facts, sessions=found[0].value if found else None)
            if holder is not None and holder.promotion != promotion:
                held = Held(target.namespace, holder).message
                return place, [obstacles.at_work(target.name, holder.promotion, held)]
            if overridden(release.name, entries) or promotion in unfinished(entries):
                return place, []  # what was asked when it began is not asked again where it goes on
            return place, await _obstacles(release, site, facts, entries, again=again)
    except SystemUnavailable as error:
        return Place(silent=error, why=error.message), []


async def _obstacles(
    release: Release, site: Site, facts: Facts, entries: Sequence[Entry], *, again: bool
) -> list[Refusal]:
    """What is in the way on a target that the promotion has not begun on."""
    environment, target, stable = site.environment, site.target, facts.stable
    if stable is None or not stable.deployed:
        return []  # nothing, or what Helm left in between: it is mended
    if dict(stable.values) == dict(chart_values(environment, target, release, "stable")):
        return []  # nothing is done there
    found = [None if again else obstacles.downgrade(environment, target, release.name, facts.runs, entries)]
    if facts.canary is None:  # beside one, what scales stable is held
        changed = await drift(site.cluster, target.namespace, (stable,))
        found.append(obstacles.drifted(environment, target, release.name, changed))
    return [one for one in found if one is not None]

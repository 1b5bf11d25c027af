"""What `va promote` would do now, and what stands in its way: everybody is asked, and nothing is touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from ci.concurrency import both, together
from ci.delivery.ledger import Entry, open_ledger, person, whoami
from ci.delivery.metrics import SESSIONS, Prometheus
from ci.delivery.promotion.facts import Facts, drift, look
from ci.delivery.promotion.plan import Plan, PlannedTarget, Refused, moved, planned, proven, total
from ci.delivery.promotion.states import unfinished
from ci.delivery.refusals import refusals, runs_in, soaks_in
from ci.delivery.site import chart_values, open_site
from ci.environments import Environment, read_environment
from ci.errors import BadInput, PipelineError, PolicyBlocked, SystemUnavailable
from ci.registry import registry_at
from ci.release import Release
from ci.reporting import Reporter
from ci.supply.availability import State, prove
from pipelines.promote import chosen
from pipelines.verify import verify

__all__ = ["as_planned", "plan", "read_plan"]


async def plan(
    release: Release,
    estate: str,
    *,
    through: str | None = None,
    only: Sequence[str] | None = None,
    again: bool = False,
    reporter: Reporter,
) -> Plan:
    """What a promotion of that release would do now. What stands in its way is in it (`refusals`)."""
    stands: list[Refused] = []
    try:
        environments = await chosen(release.name, estate, through, only)
    except PolicyBlocked as error:
        names = sorted({place.partition("/")[0] for place in only or ()})
        environments = await chosen(release.name, estate, through, names)
        place = next(place for place in only or () if "/" in place)
        stands.append(_refused("not-verified", place, error))
    with reporter.step("ask registries, ledgers and targets"):
        found, (there, unsigned) = await both(
            together(
                _environment(release, one, last=number == len(environments) - 1, leave=not (again or only))
                for number, one in enumerate(environments)
            ),
            both(
                together(_replicated(release, one) for one in _endpoints(environments)),
                _signed(release, environments),
            ),
        )
    stands += [one for each in there for one in each] + unsigned
    targets = tuple(target for each, _ in found for target in each)
    stands += [one for _, each in found for one in each]
    return Plan(
        release=release.name,
        estate=estate,
        made=datetime.now(UTC),
        to=through,
        only=tuple(only or ()),
        again=again,
        targets=targets,
        refusals=tuple(stands),
        seconds=total(environments, targets),
    )


def read_plan(file: Path) -> Plan:
    """A plan that was written by `va plan --out`; BadInput when it is none."""
    try:
        return Plan.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadInput(f"{file} is no plan", hint="va plan RELEASE --out FILE writes one") from error


def as_planned(before: Plan, now: Plan) -> None:
    """Return when that is still what would be done; PolicyBlocked says what moved, or what refuses it."""
    if told := moved(before, now):
        raise PolicyBlocked(
            "\n".join(["that is not the plan any more:", *(f"  {one}" for one in told)]),
            hint="va plan makes it anew; nothing was touched",
        )
    if now.refusals:
        first, *_ = now.refusals
        raise PolicyBlocked(
            "\n".join(f"{one.place}: {one.reason}" for one in now.refusals), hint=first.next_command
        )


async def _environment(
    release: Release, environment: Environment, *, last: bool, leave: bool
) -> tuple[list[PlannedTarget], list[Refused]]:
    async with open_ledger(environment) as ledger:
        entries = await ledger.entries()
    left = (
        leave
        and not last
        and proven(environment, release.name, entries)
        and not runs_in(environment, release.name, entries)
    )
    regions = [region for wave in environment.waves for region in wave]
    asked = await together(_target(release, environment, region, left=left) for region in regions)
    stands: list[Refused] = []
    if not left:
        stands = await _policy(release, environment, entries)
        stands += _unfinished(release, environment, entries)
    return [target for target, _ in asked], stands + [one for _, each in asked for one in each]


async def _target(
    release: Release, environment: Environment, region: str, *, left: bool
) -> tuple[PlannedTarget, list[Refused]]:
    target = environment.target(region)
    values = chart_values(environment, target, release, "stable")
    facts: Facts | None = None
    sessions: float | None = None
    stands: list[Refused] = []
    reason = "it was proven there, and another release runs there since" if left else ""
    if not left:
        try:
            async with open_site(environment, region) as site:
                found, sessions = await both(
                    look(site.cluster, target.namespace), _sessions(site.prometheus, target.namespace)
                )
                changed = await drift(site.cluster, target.namespace, (found.stable,))
            facts = found
            if found.canary is None:
                stands = [
                    Refused(
                        code="drift",
                        place=target.name,
                        reason=str(one),
                        next_command=f"va status {environment.name}: undo it, or promote without a plan",
                    )
                    for one in changed
                ]
        except PipelineError as error:
            reason = error.message
    if sessions is not None and environment.load is not None:
        sessions += environment.load.rate
    one = planned(environment, region, facts, stable=values, sessions=sessions, reason=reason, left=left)
    return one, stands


async def _sessions(prometheus: Prometheus, namespace: str) -> float | None:
    """Sessions a second, over the last minutes; None when nobody counts."""
    try:
        found = await prometheus.instant(f'sum(rate({SESSIONS}{{namespace="{namespace}"}}[5m]))')
    except SystemUnavailable:
        return None
    return found[0].value if found else None


async def _policy(release: Release, environment: Environment, entries: Sequence[Entry]) -> list[Refused]:
    before: tuple[Entry, ...] = ()
    if place := soaks_in(environment):
        async with open_ledger(read_environment(environment.estate, place)) as ledger:
            before = await ledger.entries()
    if runs_in(environment, release.name, entries):
        return []
    now, promoter = datetime.now(UTC), person(whoami())
    found = refusals(environment, release.name, entries, now, promoter=promoter, before=before)
    return [
        Refused(code=one.code, place=one.place, reason=one.reason, next_command=one.next_command)
        for one in found
    ]


def _unfinished(release: Release, environment: Environment, entries: Sequence[Entry]) -> Iterator[Refused]:
    for name, what in unfinished(entries).items():
        if what != release.name:
            yield Refused(
                code="unfinished",
                place=environment.name,
                reason=f"the promotion {name} of {what} has not come to its end",
                next_command=f"va rollback {name}, or va promote {what}: it goes on",
            )


def _endpoints(environments: Sequence[Environment]) -> list[str]:
    return sorted({target.registry for one in environments for target in one.targets.values()})


async def _replicated(release: Release, endpoint: str) -> list[Refused]:
    async with registry_at(endpoint) as registry:
        found = await prove(registry, release)
    if found.state is State.THERE:
        return []
    lacks = found.problem or f"it lacks {', '.join(found.missing[:2])}"
    return [
        Refused(
            code="not-replicated",
            place=endpoint,
            reason=f"{release.name} is not in its registry: {lacks}",
            next_command=f"va registry status {release.name}",
        )
    ]


async def _signed(release: Release, environments: Sequence[Environment]) -> list[Refused]:
    try:
        error = (await verify(release, environments)).error
    except PipelineError as problem:
        error = problem
    return [] if error is None else [_refused("unsigned", release.name, error)]


def _refused(code: str, place: str, error: PipelineError) -> Refused:
    return Refused(code=code, place=place, reason=error.message, next_command=error.hint)

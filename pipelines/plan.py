"""What `va promote` would do now, and what stands in its way: everybody is asked, and nothing is touched."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ci import tools, yamlfile
from ci.concurrency import together
from ci.delivery.chart import render
from ci.delivery.ledger import open_ledger, person, whoami
from ci.delivery.promotion.plan import (
    VERSION,
    Change,
    Plan,
    PlannedTarget,
    as_it_was_made,
    change_of,
    moved,
    planned,
    planned_environment,
    sealed,
    total,
    under_way,
)
from ci.delivery.refusals import Code, Refusal, approvers
from ci.delivery.site import STABLE, chart_values
from ci.environments import Environment, read_environment
from ci.errors import BadInput, PipelineError, Place, PolicyBlocked
from ci.release import Release
from ci.reporting import Reporter
from ci.supply.attestations import release_bundle
from pipelines.before import Asked, ask, named, read
from pipelines.permission import in_the_way
from pipelines.promote import chosen, left_behind

__all__ = ["as_planned", "plan", "read_plan"]

_HINT = "va plan RELEASE --out FILE writes one"


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
    stands: list[Refusal] = []
    try:
        environments = await chosen(release.name, estate, through, only)
    except PolicyBlocked as error:
        names = sorted({place.partition("/")[0] for place in only or ()})
        environments = await chosen(release.name, estate, through, names)
        place = next(place for place in only or () if "/" in place)
        stands.append(
            Refusal(code=Code.NOT_VERIFIED, place=place, reason=error.message, next_command=error.hint)
        )
    with reporter.step("ask registries, ledgers and targets"):
        entries = await read(environments)
        left = set() if again or only else left_behind(release.name, environments, entries)
        there = [one for one in environments if one.name not in left]
        for found in await together(in_the_way(one, release.name, entries) for one in there):
            stands += found
        name = named(release.name, {one.name: entries[one.name] for one in there})
        asked = await ask(release, there, entries, promotion=name, again=again, reporter=reporter)
    helms = asyncio.Semaphore(os.cpu_count() or 1)  # so many at once
    with reporter.step("render the chart for each target"):
        targets = await together(
            _target(release, one, region, asked, helms, left=one.name in left)
            for one in environments
            for wave in one.waves
            for region in wave
        )
    promoter = person(whoami())
    return sealed(
        Plan(
            release=release.name,
            digest=release_bundle(release).digest,
            estate=estate,
            made=datetime.now(UTC),
            to=through,
            only=tuple(only or ()),
            again=again,
            environments=tuple(
                planned_environment(one, approvers(one, release.name, entries[one.name], promoter=promoter))
                for one in there
            ),
            targets=tuple(targets),
            refusals=(*stands, *asked.refusals),
            seconds=total(there, targets),
        )
    )


def read_plan(file: Path) -> Plan:
    """A plan that `va plan` wrote; BadInput says in one line, with its place, why it is none any more."""
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", place=Place(file=file), hint=_HINT) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadInput("it is no text", place=Place(file=file, line=line), hint=_HINT) from error
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number may be too long, too
        line = getattr(error, "lineno", 1)
        whole = not text.strip() or text.rstrip()[-1] == "}"
        wrong = "it is no plan: no JSON" if whole else "the plan ends in the middle: the file was cut off"
        raise BadInput(wrong, place=Place(file=file, line=line), hint=_HINT) from error
    top = Place(file=file, line=1)
    if not isinstance(found, dict) or not {"release", "estate", "targets"} <= found.keys():
        raise BadInput("it is no plan, but something else in JSON", place=top, hint=_HINT)
    version = found.get("version", 1)
    if version != VERSION:
        whose = "an earlier" if isinstance(version, int) and version < VERSION else "another"
        raise BadInput(f"the plan is of {whose} version of va: make it anew", place=top, hint=_HINT)
    try:
        made = Plan.model_validate_json(text)
    except ValidationError as error:
        raise _wrong(file, text) from error
    if not as_it_was_made(made):
        raise _wrong(file, text)
    return made


def _wrong(file: Path, text: str) -> BadInput:
    """What is wrong in it, with its line: JSON is YAML."""
    try:
        yamlfile.checked(Plan, yamlfile.parse(text, file))
    except BadInput as error:
        first, *_ = error.message.splitlines()
        return BadInput(f"the plan was changed after it was made: {first}", place=error.place, hint=_HINT)
    return BadInput("the plan was changed after it was made", place=Place(file=file, line=1), hint=_HINT)


async def as_planned(before: Plan, now: Plan) -> None:
    """Return when that is still what would be done; PolicyBlocked says line by line what moved.

    What the plan itself has begun did not move: after a kill the same command goes on.
    """
    begun: set[str] = set()
    for one in now.environments:
        async with open_ledger(read_environment(now.estate, one.name)) as ledger:
            begun |= under_way(before, now, await ledger.entries())
    if told := moved(before, now, begun):
        raise PolicyBlocked(
            "\n".join(["that is not the plan any more:", *(f"  {one}" for one in told)]),
            hint="va plan makes it anew; nothing was touched",
        )


async def _target(
    release: Release,
    environment: Environment,
    region: str,
    asked: Asked,
    helms: asyncio.Semaphore,
    *,
    left: bool,
) -> PlannedTarget:
    target = environment.target(region)
    values = chart_values(environment, target, release, "stable")
    if left:
        reason = "it was proven there, and another release runs there since"
        return planned(environment, region, None, stable=values, sessions=None, reason=reason, left=True)
    place = asked.places[target.name]
    facts, reason, manifest = place.facts, place.why, ""
    chart = asked.sources[target.registry]
    works = change_of(environment, facts, values) not in (Change.NOTHING, Change.UNKNOWN)
    if works and isinstance(chart, Path):
        try:
            async with helms:
                manifest = await render(
                    chart,
                    values,
                    name=STABLE,
                    helm=tools.path("helm"),
                    namespace=target.namespace,
                    hooks=False,
                )
        except PipelineError as error:
            reason = f"the chart does not take its values: {error.message}"
    return planned(
        environment, region, facts, stable=values, manifest=manifest, sessions=place.sessions, reason=reason
    )

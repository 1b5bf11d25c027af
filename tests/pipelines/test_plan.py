"""What a promotion would do, and where it goes: on the small world, with ledgers that remember."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from promotion_world import AnyRegistry, World, environment, release

from ci.delivery.ledger import Action, Draft, Kind, open_named
from ci.delivery.promotion import run as loop
from ci.delivery.promotion.plan import Change, Plan
from ci.delivery.results import Outcome, PromotionResult
from ci.delivery.site import STABLE, chart_values
from ci.environments import Environment
from ci.errors import PolicyBlocked, SystemUnavailable
from ci.reporting import SilentReporter
from pipelines import plan as planning
from pipelines import promote as flow
from pipelines.verify import Verification

OLD, NEW = release("20261101-old"), release("20261129-new")


def estate() -> dict[str, Environment]:
    def at_once(one: Environment) -> Environment:
        return one.model_copy(update={"canary": one.canary.model_copy(update={"steps": ()})})

    prod = environment("prod", "eastus", "westeurope").model_copy(update={"after": "staging"})
    return {
        "dev": at_once(environment("dev")),
        "staging": at_once(environment("staging").model_copy(update={"after": "dev"})),
        "prod": at_once(prod),
    }


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = World()
    known = estate()
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    monkeypatch.setattr(loop, "SMOKE_SECONDS", 0.01)
    monkeypatch.setattr(loop, "SMOKE_RATE", 500)

    def through(estate: str, name: str | None = None) -> tuple[Environment, ...]:
        names = list(known)
        return tuple(known[one] for one in names[: names.index(name) + 1 if name else None])

    async def chart(*_: object) -> Path:
        return Path("chart.tgz")

    async def proves(wanted: Any, _: object) -> Verification:
        return Verification(release=wanted.name, digest=wanted.chart.digest, places=())

    for module in (flow, planning):
        monkeypatch.setattr(module, "read_environment", lambda _, name: known[name])
        monkeypatch.setattr(module, "registry_at", AnyRegistry)
        monkeypatch.setattr(module, "prove", AnyRegistry.has)
        monkeypatch.setattr(module, "verify", proves)
        monkeypatch.setattr(module, "open_site", made.open_site)
    monkeypatch.setattr(flow, "read_environments", through)
    monkeypatch.setattr(flow, "survey", AnyRegistry.known)
    monkeypatch.setattr(flow, "pull_chart", chart)
    return made


def promote(wanted: Any, **more: Any) -> PromotionResult:
    return asyncio.run(flow.promote(wanted, "test", reporter=SilentReporter(), **more))


def plan(wanted: Any, **more: Any) -> Plan:
    return asyncio.run(planning.plan(wanted, "test", reporter=SilentReporter(), **more))


def outcomes(result: PromotionResult) -> dict[str, Outcome]:
    return {one.target: one.outcome for one in result.targets}


def down(world: World, name: str) -> None:
    async def refused() -> str:
        raise SystemUnavailable(f"the cluster of {name} does not answer")

    world.place(name).version = refused  # type: ignore[method-assign]


def test_an_old_release_goes_to_prod_and_leaves_alone_where_it_was_proven(world: World) -> None:
    promote(OLD, through="staging")
    promote(NEW)
    world.log.clear()

    result = promote(OLD, through="prod")

    assert set(outcomes(result)) == {"prod/eastus", "prod/westeurope"}
    assert not any("dev" in event or "staging" in event for event in world.log)
    promoted = promote(OLD, through="prod", again=True)
    assert outcomes(promoted)["dev/eastus"] is Outcome.PROMOTED


def test_one_region_that_is_down_keeps_it_from_no_other(world: World) -> None:
    promote(OLD)
    down(world, "prod/eastus")

    result = promote(NEW)

    assert outcomes(result)["prod/eastus"] is Outcome.NOT_THERE
    assert outcomes(result)["prod/westeurope"] is Outcome.PROMOTED
    assert "the cluster of prod/eastus does not answer" in str(result.error)


def test_a_release_proven_in_staging_goes_to_one_region_of_prod_while_dev_is_down(world: World) -> None:
    promote(OLD)
    with pytest.raises(PolicyBlocked, match="was not proven in staging"):
        promote(NEW, only=["prod/westeurope"])
    promote(NEW, through="staging")
    down(world, "dev/eastus")

    result = promote(NEW, only=["prod/westeurope"])

    assert outcomes(result) == {"prod/westeurope": Outcome.PROMOTED}
    assert world.place("prod/eastus").revisions[STABLE][-1].release == OLD.name


def test_a_plan_says_what_would_change_and_touches_nothing(world: World) -> None:
    promote(OLD)
    world.log.clear()

    made = plan(NEW)

    assert [(one.target, one.wave, one.change) for one in made.targets] == [
        ("dev/eastus", 1, Change.UPGRADE),
        ("staging/eastus", 1, Change.UPGRADE),
        ("prod/eastus", 1, Change.UPGRADE),
        ("prod/westeurope", 2, Change.UPGRADE),
    ]
    assert all(one.runs == OLD.name and one.changes for one in made.targets)
    assert made.refusals == () and made.seconds and world.log == []


def test_a_plan_is_done_or_what_moved_is_said(world: World, tmp_path: Path) -> None:
    promote(OLD)
    file = tmp_path / "plan.json"
    file.write_text(plan(NEW).model_dump_json())
    made = planning.read_plan(file)
    planning.as_planned(made, plan(NEW))

    place = world.place("prod/eastus")
    values = chart_values(estate()["prod"], estate()["prod"].target("eastus"), release("other"), "stable")
    asyncio.run(place.upgrade(STABLE, Path(), dict(values), timeout=1, description=""))

    with pytest.raises(PolicyBlocked, match=r"prod/eastus ran 20261101-old \(rev\. 1\), and runs other"):
        planning.as_planned(made, plan(NEW))


def test_what_stands_in_the_way_has_a_code_a_place_and_the_next_command(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(OLD)
    monkeypatch.setattr(AnyRegistry, "lacks", {"westeurope.registry"})

    async def killed() -> None:
        async with open_named("test", "dev") as ledger:
            begun = Draft(
                promotion="2026-11-29T000000-kill", kind=Kind.INTENT, action=Action.START, release="x"
            )
            await ledger.append(begun)

    asyncio.run(killed())

    made = plan(NEW, only=["prod/eastus", "dev", "prod/westeurope"])

    found = {(one.code, one.place): one for one in made.refusals}
    assert set(found) == {
        ("not-verified", "prod/eastus"),
        ("not-replicated", "westeurope.registry"),
        ("unfinished", "dev"),
    }
    assert all(one.reason and one.next_command for one in made.refusals)
    with pytest.raises(PolicyBlocked):
        planning.as_planned(made, made)

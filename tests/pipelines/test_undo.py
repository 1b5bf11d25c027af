"""Undoing where something else is broken, too: a region, the gateway, the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from promotion_world import AnyRegistry, Place, World, environment, release

from ci.delivery.promotion import run as loop
from ci.delivery.results import PromotionResult
from ci.delivery.site import CANARY, STABLE
from ci.environments import Environment
from ci.errors import StepFailed, SystemUnavailable
from ci.release import Release
from ci.reporting import SilentReporter
from pipelines import promote as flow
from pipelines import rollback as back
from pipelines.verify import Verification

GOOD, BETTER, BAD = release("good"), release("better"), release("bad")
Use = Callable[..., None]


class Notes(SilentReporter):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = World()
    made.fails_every = {"bad": 10}
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    monkeypatch.setattr(flow, "open_site", made.open_site)
    monkeypatch.setattr(back, "open_site", made.open_site)
    monkeypatch.setattr(flow, "registry_at", AnyRegistry)
    monkeypatch.setattr(flow, "survey", AnyRegistry.known)
    monkeypatch.setattr(flow, "prove", AnyRegistry.has)
    monkeypatch.setattr(loop, "SMOKE_SECONDS", 0.03)
    monkeypatch.setattr(loop, "SMOKE_RATE", 500)

    async def chart(*_: object) -> Path:
        return Path("chart.tgz")

    async def proven(wanted: Release, _: object) -> Verification:
        return Verification(release=wanted.name, digest=wanted.chart.digest, places=())

    monkeypatch.setattr(flow, "pull_chart", chart)
    monkeypatch.setattr(flow, "verify", proven)
    return made


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    def these(*environments: Environment) -> None:
        by_name = {one.name: one for one in environments}
        for module in (flow, back):
            monkeypatch.setattr(module, "read_environments", lambda estate, through=None: environments)
            monkeypatch.setattr(module, "read_environment", lambda estate, name: by_name[name])

    return these


def promote(wanted: Release, reporter: Notes | None = None) -> PromotionResult:
    return asyncio.run(flow.promote(wanted, "test", reporter=reporter or Notes()))


def rollback(what: str = "prod", reporter: Notes | None = None) -> PromotionResult:
    return asyncio.run(back.rollback("test", what, reporter=reporter or Notes()))


def runs(place: Place) -> str:
    return place.revisions[STABLE][-1].release


async def silent(*_: object, **__: object) -> None:
    await asyncio.sleep(0)
    raise SystemUnavailable("the cluster does not answer")


def slow(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going back takes longer there than it takes the others to find that theirs is silent."""
    before = place.rollback

    async def later(*given: object, **more: object) -> None:
        for _ in range(200):
            await asyncio.sleep(0)
        await before(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(place, "rollback", later)


def test_one_silent_region_keeps_none_of_the_others_from_going_back(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(environment("prod", "sea", "eastus", "asia"))
    promote(GOOD), promote(BETTER)
    sea, eastus, asia = (world.place(f"prod/{region}") for region in ("sea", "eastus", "asia"))
    with monkeypatch.context() as down:
        down.setattr(eastus, "pods", silent)
        slow(sea, down), slow(asia, down)
        notes = Notes()
        with pytest.raises(SystemUnavailable, match="does not answer"):
            rollback(reporter=notes)
    assert (runs(sea), runs(eastus), runs(asia)) == ("good", "better", "good")
    told = "\n".join(notes.told)
    assert "prod/sea: rolled back" in told and "prod/asia: rolled back" in told
    assert {one.release for one in rollback().targets} == {"good"}  # and all of it when it answers again


def test_two_silent_regions_are_both_named(world: World, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use(environment("prod", "sea", "eastus", "asia"))
    promote(GOOD), promote(BETTER)
    for name in ("prod/sea", "prod/asia"):
        monkeypatch.setattr(world.place(name), "pods", silent)
    with pytest.raises(SystemUnavailable, match=r"(?s)prod/asia: .*prod/sea: "):
        rollback()
    assert runs(world.place("prod/eastus")) == "good"


def test_a_promotion_goes_back_in_each_environment_whatever_one_says(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(environment("staging"), environment("prod"))
    promote(GOOD)
    name = promote(BETTER).promotion
    monkeypatch.setattr(world.place("prod/eastus"), "pods", silent)
    with pytest.raises(SystemUnavailable):
        rollback(name)
    assert runs(world.place("staging/eastus")) == "good"


def test_a_canary_that_cannot_start_ends_no_bake_elsewhere(world: World, use: Use) -> None:
    both = environment("prod", "sea", "eastus").model_copy(update={"waves": (("sea", "eastus"),)})
    use(both)
    promote(GOOD)
    world.place("prod/eastus").upgrade_fails = CANARY
    notes = Notes()
    with pytest.raises(StepFailed, match="timed out"):
        promote(BETTER, notes)
    assert runs(world.place("prod/sea")) == "better"
    assert any(line.startswith("prod/sea: promoted") for line in notes.told)


def test_what_went_back_stays_so_for_who_knows_nothing_of_it(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(environment())
    promote(GOOD), promote(BETTER)
    for folder in "abc":  # each a machine with a ledger of its own
        monkeypatch.setenv("VA_STATE", str(tmp_path / folder))
        rollback()
        assert runs(world.place("prod/eastus")) == "good"

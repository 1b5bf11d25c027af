"""What a promotion would do, and where it goes: on the small world, with ledgers that remember."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from promotion_world import AnyRegistry, Leases, World, environment, release
from typer.testing import CliRunner

from ci.delivery.ledger import Action, Draft, Entry, Kind, open_ledger, open_named
from ci.delivery.promotion import run as loop
from ci.delivery.promotion.plan import Change, Plan, sealed
from ci.delivery.promotion.show import plan_page
from ci.delivery.refusals import Code
from ci.delivery.results import Outcome, PromotionResult
from ci.delivery.site import STABLE, chart_values
from ci.environments import CanaryStep, Environment, Traffic
from ci.environments.policy import Approvals
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable
from ci.reporting import SilentReporter
from pipelines import before, permission
from pipelines import plan as planning
from pipelines import promote as flow
from pipelines import rollback as back
from pipelines.verify import Verification

OLDEST, OLD, NEW = release("20261001-oldest"), release("20261101-old"), release("20261129-new")


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

    async def rendered(_: object, values: Any, **__: object) -> str:
        return made.renders(values)

    monkeypatch.setattr("ci.delivery.cluster.connect", lambda *_: Leases(made))
    for module in (flow, planning, permission, before, back):
        monkeypatch.setattr(module, "read_environment", lambda _, name: known[name])
    monkeypatch.setattr(before, "registry_at", AnyRegistry)
    monkeypatch.setattr(before, "prove", AnyRegistry.has)
    monkeypatch.setattr(before, "survey", AnyRegistry.known)
    monkeypatch.setattr(before, "pull_chart", chart)
    monkeypatch.setattr(before, "verify", proves)
    monkeypatch.setattr(planning, "render", rendered)
    monkeypatch.setattr(planning.tools, "path", lambda name: Path(name))
    for module in (flow, before, back):
        monkeypatch.setattr(module, "open_site", made.open_site)
        if module is not before:
            monkeypatch.setattr(module, "read_environments", through)
    made.environments = known  # type: ignore[attr-defined]
    return made


def promote(wanted: Any, **more: Any) -> PromotionResult:
    return asyncio.run(flow.promote(wanted, "test", reporter=SilentReporter(), **more))


def plan(wanted: Any, **more: Any) -> Plan:
    return asyncio.run(planning.plan(wanted, "test", reporter=SilentReporter(), **more))


def as_planned(made: Plan, now: Plan) -> None:
    asyncio.run(planning.as_planned(made, now))


def test_a_plan_reads_each_ledger_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(OLD)
    opened: list[str] = []

    def counted(one: Environment) -> Any:
        opened.append(one.name)
        return open_ledger(one)

    for module in (before, permission, planning, flow):
        monkeypatch.setattr(module, "open_ledger", counted)
    assert {one.change for one in plan(NEW).targets} == {Change.UPGRADE}
    assert sorted(opened) == ["dev", "prod", "staging"]


def test_whether_another_promotion_is_at_work_is_asked_of_all_regions_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    prod = estate()["prod"]
    draft = Draft(promotion="other", kind=Kind.INTENT, action=Action.START, release=OLD.name)

    async def main() -> list[str]:
        all_there = asyncio.Barrier(len(prod.targets))

        @asynccontextmanager
        async def met(_: Environment, region: str) -> AsyncIterator[Any]:
            async with asyncio.timeout(20):
                await all_there.wait()
            raise SystemUnavailable(f"{region} does not answer")
            yield

        monkeypatch.setattr(before, "open_site", met)
        async with open_ledger(prod) as ledger:
            await ledger.append(draft)
            return [one.code for one in await before.others(prod, NEW.name, await ledger.entries())]

    assert asyncio.run(main()) == [Code.UNFINISHED]


def codes(made: Plan) -> set[tuple[str, str]]:
    return {(one.code, one.place) for one in made.refusals}


def ledgers() -> list[tuple[Entry, ...]]:
    async def read() -> list[tuple[Entry, ...]]:
        found = []
        for name in ("dev", "staging", "prod"):
            async with open_named("test", name) as ledger:
                found.append(await ledger.entries())
        return found

    return asyncio.run(read())


def set_up(world: World, name: str, **update: Any) -> None:
    """Somebody edits the file of an environment."""
    known = world.environments  # type: ignore[attr-defined]
    known[name] = known[name].model_copy(update=update)


def deployment(values: Any, *, replicas: int = 1) -> str:
    image = values["images"]["api"]
    return yaml.safe_dump(
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "voice-api"},
            "spec": {
                "replicas": values.get("replicas", replicas),
                "template": {"spec": {"containers": [
                    {"name": "api", "image": f"{image['repository']}@{image['digest']}",
                     "env": [{"name": "ADMIN_TOKEN", "value": values.get("adminToken", "none")}]},
                ]}},
            },
        }
    )  # fmt: skip


def as_installed(world: World) -> None:
    """The clusters have what Helm installed."""
    for place in world.places.values():
        path = f"/apis/apps/v1/namespaces/va-{place.target.replace('/', '-')}/deployments"
        place.listed[path] = tuple(yaml.safe_load_all(place.revisions[STABLE][-1].manifest))


def outcomes(result: PromotionResult) -> dict[str, Outcome]:
    return {one.target: one.outcome for one in result.targets}


def down(world: World, name: str) -> None:
    async def refused() -> str:
        raise SystemUnavailable(f"the cluster of {name} does not answer")

    world.place(name).version = refused  # type: ignore[method-assign]


def test_an_old_release_goes_to_prod_and_leaves_alone_where_it_was_proven(world: World) -> None:
    promote(OLDEST)
    promote(OLD, through="staging")
    promote(NEW, through="staging")
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
    as_planned(made, plan(NEW))

    place = world.place("prod/eastus")
    values = chart_values(estate()["prod"], estate()["prod"].target("eastus"), release("other"), "stable")
    asyncio.run(place.upgrade(STABLE, Path(), dict(values), timeout=1, description=""))

    with pytest.raises(PolicyBlocked, match=r"prod/eastus ran 20261101-old \(rev\. 1\), and runs other"):
        as_planned(made, plan(NEW))


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
    assert [one.place for one in made.refusals if one.alone] == ["westeurope.registry"]


def scaled_by_hand(world: World) -> None:
    (found,) = world.place("staging/eastus").listed["/apis/apps/v1/namespaces/va-staging-eastus/deployments"]
    found["spec"]["replicas"] = 7


def killed_with_another(world: World) -> None:
    async def begun() -> None:
        async with open_named("test", "prod") as ledger:
            draft = Draft(
                promotion="2026-11-29T000000-kill", kind=Kind.INTENT, action=Action.START, release="other"
            )
            await ledger.append(draft)
            await ledger.append(draft.model_copy(update={"target": "prod/eastus"}))

    asyncio.run(begun())


STANDS = {
    "drift": (scaled_by_hand, ("drift", "staging/eastus"), "Deployment voice-api has replicas 7, not 1"),
    "unfinished": (killed_with_another, ("unfinished", "prod"), "2026-11-29T000000-kill of other"),
}


@pytest.mark.parametrize("what", STANDS)
def test_what_a_plan_refuses_a_promotion_refuses_before_anything_is_touched(world: World, what: str) -> None:
    world.renders = deployment
    promote(OLD)
    as_installed(world)
    happens, refused, said = STANDS[what]
    happens(world)
    world.log.clear()
    written = ledgers()

    assert codes(plan(NEW)) == {refused}
    with pytest.raises(PolicyBlocked, match=said) as blocked:
        promote(NEW)
    assert blocked.value.exit_code == 8 and "--override" in blocked.value.hint
    assert world.log == [] and ledgers() == written

    result = promote(NEW, override="calls drop, this mends them")
    assert result.error is None and set(outcomes(result).values()) == {Outcome.PROMOTED}
    orders = [one for each in ledgers() for one in each if one.action is Action.OVERRIDE]
    assert [(one.reason, set(one.detail)) for one in orders] == [("calls drop, this mends them", {what})]


def test_an_older_release_than_what_runs_is_refused_and_goes_back_or_is_meant(world: World) -> None:
    promote(OLD)
    promote(NEW)
    world.log.clear()

    made = plan(OLD, through="prod")

    assert codes(made) == {("downgrade", "prod/eastus"), ("downgrade", "prod/westeurope")}
    assert {one.next_command.partition(";")[0] for one in made.refusals} == {
        f"va rollback prod/{region} --to {OLD.name} --estate test" for region in ("eastus", "westeurope")
    }
    with pytest.raises(PolicyBlocked, match=f"it runs {NEW.name}, which is newer than {OLD.name}"):
        promote(OLD, through="prod")
    assert world.log == []
    assert plan(OLD, through="prod", again=True).refusals == ()
    assert set(outcomes(promote(OLD, through="prod", again=True)).values()) == {Outcome.PROMOTED}


def test_what_its_own_killed_run_has_begun_is_not_in_its_way(world: World) -> None:
    world.renders = deployment
    promote(OLD)
    as_installed(world)

    async def killed() -> None:
        task = asyncio.create_task(flow.promote(NEW, "test", reporter=SilentReporter()))
        world.on = lambda event: (
            task.cancel() if event == f"staging/eastus install {STABLE} {NEW.name}" else None
        )
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(killed())
    world.on = lambda event: None
    world.place("staging/eastus").listed.clear()  # half of it is there

    assert plan(NEW).refusals == ()
    assert promote(NEW).error is None


def test_a_region_that_is_down_leaves_nothing_in_the_way_of_the_fix(world: World) -> None:
    promote(OLD)
    down(world, "prod/eastus")
    promote(NEW)

    fix = release("20261130-fix")
    assert plan(fix).refusals == ()
    assert outcomes(promote(fix))["prod/westeurope"] is Outcome.PROMOTED


def test_a_promotion_that_came_to_no_target_is_ended_by_its_roll_back(world: World) -> None:
    promote(OLD)

    async def begun() -> None:
        async with open_named("test", "dev") as ledger:
            await ledger.append(
                Draft(promotion="2026-11-29T000000-kill", kind=Kind.INTENT, action=Action.START, release="x")
            )

    asyncio.run(begun())
    assert codes(plan(NEW)) == {("unfinished", "dev")}

    ended = asyncio.run(back.rollback("test", "2026-11-29T000000-kill", reporter=SilentReporter()))

    assert (ended.release, ended.targets) == ("x", ())
    assert plan(NEW).refusals == ()


def test_a_plan_has_images_values_replicas_and_manifests_and_no_secret(world: World) -> None:
    world.renders = deployment
    promote(OLD)
    as_installed(world)
    set_up(world, "prod", values={"replicas": 4, "adminToken": "hunter2"})

    made = plan(NEW)

    dev, prod = made.targets[0], made.targets[2]
    assert dev.images == {"api": NEW.image("fastapi-backend").digest} != dev.images_now
    assert dev.images_now == {"api": OLD.image("fastapi-backend").digest}
    assert (prod.replicas_now, prod.replicas) == ({"voice-api": "1"}, {"voice-api": "4"})
    assert "replicas: nothing -> 4" in prod.changes
    assert any(one.startswith("adminToken: ") and "hunter2" not in one for one in prod.changes)
    (changed,) = prod.manifests
    assert changed.thing == "Deployment voice-api" and "+  replicas: 4" in changed.diff
    assert "hunter2" not in made.model_dump_json()
    page = [line.plain for line in plan_page(made).lines(110)]
    whole = [line.plain for line in plan_page(made, diff=True).lines(110)]
    assert any("prod/eastus, prod/westeurope: replicas: voice-api 1 -> 4" in line for line in page)
    assert not any("+  replicas: 4" in line for line in page)
    assert any("+  replicas: 4" in line for line in whole)
    assert max(map(len, whole)) <= 110


MOVES = {
    "waves": (
        "prod", {"waves": (("westeurope",), ("eastus",))},
        ["prod: waves: eastus then westeurope -> westeurope then eastus"],
    ),
    "a step": (
        "prod",
        {"canary": estate()["prod"].canary.model_copy(update={"steps": (CanaryStep(weight=9, bake="1m"),)})},
        ["prod: canary.steps[1].weight: nothing -> 9", "prod/eastus was to get: upgrade at once"],
    ),
    "a gate": ("prod", {"gates": environment(alpha=0.2).gates}, ["prod: gates.alpha: 0.05 -> 0.2"]),
    "approvals": (
        "staging", {"approvals": Approvals(by=["anna"])}, ["staging: approvals.by: nothing -> anna"]
    ),
    "values": (
        "prod", {"values": {"replicas": 3}},
        ["prod/eastus: would change replicas: nothing -> 3",
         "prod/westeurope: replicas of voice-api: 1 -> 3"],
    ),
    "a secret": (
        "staging", {"values": {"adminToken": "hunter2"}}, ["staging/eastus: would change adminToken: "]
    ),
    "who leaves before": (
        "prod",
        {"traffic": Traffic(
            profile="/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/trafficManagerProfiles/p",
            drain="10m",
        )},
        ["prod: traffic.drain: nothing -> 600"],
    ),
    "the wait": ("prod", {"wave_bake": 60.0}, ["prod: wave_bake: 0 -> 60"]),
    "the cluster": (
        "dev", {"targets": {"eastus": estate()["dev"].target("eastus").model_copy(update={"context": "b"})}},
        ["dev: targets.eastus.context: c -> b"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MOVES)
def test_each_thing_that_moved_is_a_line(world: World, what: str) -> None:
    world.renders = deployment
    promote(OLD)
    as_installed(world)
    made = plan(NEW)
    as_planned(made, plan(NEW))
    name, update, lines = MOVES[what]
    set_up(world, name, **update)

    with pytest.raises(PolicyBlocked) as moved:
        as_planned(made, plan(NEW))

    told = str(moved.value).splitlines()
    for line in lines:
        assert any(one.strip().startswith(line) for one in told), (line, told)
    assert "hunter2" not in str(moved.value) and len(told) == len(set(told))


def test_a_plan_of_no_environment_is_told_in_a_line_an_environment(world: World) -> None:
    promote(OLD)
    made = plan(NEW)
    with pytest.raises(PolicyBlocked) as moved:
        as_planned(sealed(made.model_copy(update={"environments": ()})), made)
    assert str(moved.value).splitlines() == [
        "that is not the plan any more:", *(f"  {name} is not in it" for name in ("dev", "staging", "prod"))
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["prod/", "prod/nowhere"])
def test_half_a_place_is_none(world: World, place: str) -> None:
    for wanted in (lambda: promote(NEW, only=place), lambda: plan(NEW, only=[place])):
        with pytest.raises(BadInput, match="unknown target prod/"):
            wanted()
    with pytest.raises(BadInput, match="unknown target prod/"):
        asyncio.run(back.rollback("test", place, reporter=SilentReporter()))


def test_an_approval_that_came_since_and_a_freeze_that_ended_did_not_move_a_plan(world: World) -> None:
    promote(OLD)
    set_up(world, "prod", approvals=Approvals(by=["anna"]))
    made = plan(NEW)
    assert codes(made) == {("not-approved", "prod")}

    async def approved() -> None:
        async with open_named("test", "prod") as ledger:
            order = Draft(
                promotion="2026-11-29T000000-yes", kind=Kind.ORDER, action=Action.APPROVE, release=NEW.name,
                detail={"who": "anna@desk"},
            )  # fmt: skip
            await ledger.append(order)

    asyncio.run(approved())
    now = plan(NEW)
    assert now.refusals == () and now.environments[-1].approved == ("anna",)
    as_planned(made, now)


def test_killed_in_the_middle_of_a_plan_the_same_command_goes_on(world: World) -> None:
    promote(OLD)
    made = plan(NEW)

    async def done_until(place: str) -> None:
        now = await planning.plan(NEW, "test", reporter=SilentReporter())
        await planning.as_planned(made, now)
        task = asyncio.create_task(flow.promote(NEW, "test", plan=made.seal, reporter=SilentReporter()))
        world.on = lambda event: task.cancel() if event == f"{place} install {STABLE} {NEW.name}" else None
        if place:
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert (await task).error is None

    for place in ("dev/eastus", "staging/eastus", "prod/westeurope", "", ""):
        asyncio.run(done_until(place))
    asyncio.run(back.rollback("test", "staging", reporter=SilentReporter()))
    with pytest.raises(PolicyBlocked, match=r"staging/eastus ran 20261101-old \(rev\. 1\)"):
        as_planned(made, plan(NEW))


@pytest.mark.parametrize("status", ["pending-install", "failed", "deployed"])
def test_killed_in_a_first_installation_the_plan_goes_on(world: World, status: str) -> None:
    for name in ("dev", "staging", "prod"):
        set_up(world, name, canary=environment(name).canary)
    made = plan(NEW)
    assert {one.change for one in made.targets} == {Change.INSTALL}

    async def killed() -> None:
        task = asyncio.create_task(flow.promote(NEW, "test", plan=made.seal, reporter=SilentReporter()))
        event = f"staging/eastus install {STABLE} {NEW.name}"
        world.on = lambda happened: task.cancel() if happened == event else None
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(killed())
    world.on = lambda _: None
    staging = world.place("staging/eastus")
    (installed,) = world.place("dev/eastus").revisions[STABLE]
    known = world.environments["staging"]  # type: ignore[attr-defined]
    values = chart_values(known, known.target("eastus"), NEW, "stable")
    staging.revisions[STABLE] = [replace(installed, status=status, values=values)]  # as kill -9 leaves it

    as_planned(made, plan(NEW))
    assert promote(NEW, plan=made.seal).error is None


def test_another_plan_does_not_go_on_with_what_a_killed_one_began(world: World) -> None:
    promote(OLD)
    made = plan(NEW)
    promote(NEW, through="dev", plan="sha256:another")
    with pytest.raises(PolicyBlocked, match="dev/eastus ran 20261101-old"):
        as_planned(made, plan(NEW))


SPOILT = {
    "cut off": (lambda text: text[: len(text) // 2], r"plan\.json:\d+: the plan ends in the middle"),
    "cut off within the last line": (lambda text: text.rstrip()[:-1], r":\d+: the plan ends in the middle"),
    "empty": (lambda text: "", r"plan\.json:1: it is no plan"),
    "not JSON": (lambda text: f"# mine\n{text}", r"plan\.json:1: it is no plan: no JSON"),
    "a wave of another number": (
        lambda text: text.replace('"wave": 2', '"wave": 1'), r"plan\.json:1: the plan was changed after"
    ),
    "a word for a number": (
        lambda text: text.replace('"wave": 2', '"wave": "two"'),
        r"plan\.json:\d\d+ \(targets\[3\]\.wave\): the plan was changed after it was made",
    ),
    "a key too many": (
        lambda text: text.replace('"wave": 2', '"wave": 2, "force": true'), r"plan\.json:\d\d+ \(targets"
    ),
    "a refusal taken out": (
        lambda text: re.sub(r'"again": false', '"again": true', text), "the plan was changed after"
    ),
    "of before": (lambda text: re.sub(r'"version": 2,', "", text), "of an earlier version of va"),
    "of tomorrow": (lambda text: text.replace('"version": 2', '"version": 3'), "of another version of va"),
    "a release": (lambda text: OLD.model_dump_json(), "it is no plan, but something else in JSON"),
    "a list": (lambda text: "[1, 2]", "it is no plan"),
    "not text": (lambda text: "\udcff", "it is no text"),
    "a number without end": (lambda text: '{"seconds":1' + "0" * 5000 + "}", "it is no plan"),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_plan_is_told_in_one_line_with_its_place(world: World, tmp_path: Path, how: str) -> None:
    promote(OLD)
    file = tmp_path / "plan.json"
    spoil, said = SPOILT[how]
    text = spoil(plan(NEW).model_dump_json(indent=2))
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInput, match=said) as wrong:
        planning.read_plan(file)
    assert len(str(wrong.value).splitlines()) == 1 and str(file) in str(wrong.value)
    assert wrong.value.hint == "va plan RELEASE --out FILE writes one"


def test_no_file_is_no_plan(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(BadInput, match=str(file)):
            planning.read_plan(file)


BESIDE = {
    "another release": ((OLD.name, "--to", "prod"), f"the release {OLD.name}, not {NEW.name}"),
    "another end": (("--to", "staging"), "--to staging, not prod"),
    "targets": (("--only", "prod/eastus"), "--only prod/eastus, not all targets"),
    "again": (("--again",), "--again, which it does without"),
    "another estate": (("--estate", "azure"), "--estate azure, not test"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_is_said_beside_a_plan_agrees_with_it_or_is_refused(
    world: World, tmp_path: Path, what: str
) -> None:
    from ci.commands.cli import app

    (tmp_path / "releases").mkdir()
    for one in (OLD, NEW):
        (tmp_path / "releases" / f"{one.name}.json").write_text(one.model_dump_json())
    promote(OLD)
    file = tmp_path / "plan.json"
    file.write_text(plan(NEW, through="prod").model_dump_json())
    world.log.clear()
    words, said = BESIDE[what]

    refused = CliRunner().invoke(app, ["promote", "--plan", str(file), *words])
    agreed = CliRunner().invoke(
        app, ["promote", NEW.name, "--to", "prod", "--estate", "test", "--plan", str(file)]
    )

    assert refused.exit_code == 2 and said in " ".join(refused.output.split()), refused.output
    assert agreed.exit_code == 0, agreed.output


def test_a_plan_is_sealed_by_all_that_it_says(world: World) -> None:
    made = plan(NEW)
    assert sealed(made) == made
    assert sealed(made.model_copy(update={"again": True})).seal != made.seal

"""Plan, apply, drift and destroy: the real SDK against an ARM server that keeps state and makes trouble."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ci.architecture import model
from ci.architecture.cost import what_if
from ci.architecture.model import Architecture
from ci.azure import connection, deploy, standin
from ci.azure.arm import Module
from ci.azure.connection import Azure, connect
from ci.azure.deleted import destroy
from ci.azure.given import resolve
from ci.azure.network import group, tags
from ci.azure.refusals import Refused
from ci.azure.render import parameters, render
from ci.errors import BadInput, StepFailed, SystemUnavailable
from ci.reporting import SilentReporter

T = TypeVar("T")

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
DEV = model.read("dev").architecture
VALUES = {name: f"value-of-{name}" for name in parameters(DEV)} | {"budgetSince": "2026-11-01T00:00:00Z"}


@pytest.fixture
def world() -> standin.StandIn:
    """An empty subscription."""
    return standin.StandIn()


@pytest.fixture(scope="module")
def once() -> standin.StandIn:
    """A subscription that dev was applied to, once for all tests."""
    world = standin.StandIn()
    _run(world, apply)
    return world


@pytest.fixture
def applied(world: standin.StandIn, once: standin.StandIn) -> standin.StandIn:
    """This test's subscription, dev applied to it."""
    for part in ("groups", "resources", "deployments"):
        setattr(world, part, copy.deepcopy(getattr(once, part)))
    return world


@pytest.fixture
def on(world: standin.StandIn) -> Callable[[Callable[[Azure], Awaitable[Any]]], Any]:
    """Run something that takes an `Azure` against the stand-in."""

    return lambda work: _run(world, work)


def _run(world: standin.StandIn, work: Callable[[Azure], Awaitable[T]]) -> T:
    async def flow() -> T:
        async with (
            standin.serve(world) as endpoint,
            connect(SUBSCRIPTION, endpoint=endpoint, poll=0.01) as azure,
        ):
            return await work(azure)

    return asyncio.run(flow())


def few(architecture: Architecture) -> tuple[Module, ...]:
    """Four areas that need no other: every request to the server takes its time."""
    return tuple(m for m in render(architecture) if m.area in ("identity", "network", "links", "data"))


def apply(azure: Azure, modules: Sequence[Module] = ()) -> Awaitable[tuple[deploy.Applied, ...]]:
    """Apply, quietly."""
    return deploy.apply(azure, modules or few(DEV), VALUES, SilentReporter(), tags=tags(DEV))


def plan(azure: Azure, modules: Sequence[Module] = ()) -> Awaitable[tuple[deploy.Change, ...]]:
    """Plan, quietly."""
    return deploy.plan(azure, modules or few(DEV), VALUES, SilentReporter())


RESOURCES = sum(len(module.resources) for module in few(DEV))


def _actions(changes: tuple[deploy.Change, ...]) -> Counter[str]:
    return Counter(change.action for change in changes)


def _results(applied: tuple[deploy.Applied, ...]) -> Counter[str]:
    return Counter(one.result for one in applied)


def test_an_empty_subscription_is_planned_as_all_creation(on: Any, world: standin.StandIn) -> None:
    assert _actions(on(plan)) == {"create": RESOURCES}
    assert world.resources == {}, "a plan changes nothing"


def test_a_plan_names_roles_and_what_they_are_on(on: Any, applied: standin.StandIn) -> None:
    # Before the group is there, and when one of its assignments is gone: no bare ids.
    new = [one.name for one in on(plan) if one.type.endswith("/roleAssignments")]
    expected = "Network Contributor for id-cluster-voiceassistant-dev on rg-voiceassistant-dev-eastus"
    assert expected in new and "Reader for group-developer on rg-voiceassistant-dev-eastus" in new
    gone = next(key for key, one in applied.resources.items() if "Network Contributor" in str(one))
    del applied.resources[gone]
    assert [one.name for one in on(plan) if one.action == "create"] == [expected]
    applied.groups.clear()
    empty = [one.name for one in on(plan)]
    assert expected in empty and not [name for name in empty if "[" in name or "(" in name]


def test_apply_brings_everything_about_and_a_second_time_nothing(on: Any, world: standin.StandIn) -> None:
    assert _results(on(apply)) == {"deployed": len(few(DEV))}
    assert len(world.resources) == RESOURCES
    assert _actions(on(plan)) == {"same": RESOURCES}
    world.requests.clear()
    assert _results(on(apply)) == {"unchanged": len(few(DEV))}
    assert not [request for request in world.requests if request.startswith("PUT")], (
        "nothing was written again"
    )


def test_every_environment_has_its_own_roles_in_one_tenant(on: Any, world: standin.StandIn) -> None:
    # The names of their assignments: the second environment was refused when they were the first one's.
    staging = model.read("staging").architecture
    for architecture in (DEV, staging):
        few_areas = tuple(m for m in render(architecture) if m.area == "identity")
        on(lambda azure, few_areas=few_areas: apply(azure, few_areas))
    kept = [one for one in world.resources.values() if one["type"].endswith("/roleAssignments")]
    assert len({one["name"] for one in kept}) == len(kept) > 20


@pytest.mark.parametrize(
    ("same_name", "said"), [(True, "RoleAssignmentUpdateNotPermitted"), (False, "RoleAssignmentExists")]
)
def test_a_role_assignment_says_for_ever_who_may_what_on_what(on: Any, same_name: bool, said: str) -> None:
    (home,) = [module for module in few(DEV) if module.area == "identity"]
    (own, other) = [one for one in home.resources if one.scope is None and one.type.endswith("Assignments")][
        -2:
    ]
    wrong = (
        dataclasses.replace(other, name=own.name) if same_name else dataclasses.replace(own, name=other.name)
    )
    rest = tuple(one for one in home.resources if one not in (own, other))
    on(lambda azure: apply(azure, (dataclasses.replace(home, resources=(*rest, own)),)))
    with pytest.raises(StepFailed) as caught:
        on(lambda azure: apply(azure, (dataclasses.replace(home, resources=(*rest, wrong)),)))
    assert said in str(caught.value)


@pytest.mark.timeout(240)
def test_production_in_three_regions_comes_about_in_order(on: Any, world: standin.StandIn) -> None:
    # The server refuses what refers to something that is not there: the order of the areas is right.
    prod = model.read("prod").architecture
    on(lambda azure: apply(azure, render(prod)))
    assert len(world.groups) == 3
    assert len(world.resources) == sum(len(module.resources) for module in render(prod))
    assert any("/psql-voiceassistant-prod-weu" in resource for resource in world.resources)


def test_a_change_is_planned_property_by_property_and_applied_alone(
    on: Any, applied: standin.StandIn
) -> None:
    changed = few(
        what_if(
            model.read("dev"), ["storage.lifecycle.cool_after=20d", "gateway-manager.priority=105"]
        ).architecture
    )
    changes = [change for change in on(lambda azure: plan(azure, changed)) if change.action != "same"]
    assert {(change.type, change.action) for change in changes} == {
        ("Microsoft.Network/networkSecurityGroups", "modify"),
        ("Microsoft.Storage/storageAccounts/managementPolicies", "modify"),
    }
    (age,) = [change for change in changes if "managementPolicies" in change.type]
    assert age.delta[0].path == "properties.policy.rules"
    results = on(lambda azure: apply(azure, changed))
    assert {one.module for one in results if one.result == "deployed"} == {"network", "data"}
    kept = applied.resources[
        _id("Microsoft.Storage/storageAccounts/stvoiceassistantdev/managementPolicies/default")
    ]
    (rule,) = kept["properties"]["policy"]["rules"]
    assert rule["definition"]["actions"]["baseBlob"]["tierToCool"] == {"daysAfterModificationGreaterThan": 20}


def _id(rest: str) -> str:
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group(DEV)}/providers/{rest}".lower()


def test_what_somebody_changed_by_hand_is_drift_and_is_put_right(on: Any, applied: standin.StandIn) -> None:
    look = lambda azure: deploy.drift(azure, few(DEV), SilentReporter())  # noqa: E731
    assert on(look) == ()
    account = applied.resources[_id("Microsoft.Storage/storageAccounts/stvoiceassistantdev")]
    account["properties"]["allowBlobPublicAccess"] = True
    (change,) = on(look)
    assert (change.name, change.action) == ("stvoiceassistantdev", "modify")
    assert [(one.path, one.before, one.after) for one in change.delta] == [
        ("properties.allowBlobPublicAccess", True, False)
    ]
    assert {one.module for one in on(apply) if one.result == "deployed"} == {"data"}
    assert on(look) == ()


def test_a_change_of_ours_is_no_drift(on: Any, applied: standin.StandIn) -> None:
    changed = few(what_if(model.read("dev"), ["cool_after=20d"]).architecture)
    assert on(lambda azure: deploy.drift(azure, changed, SilentReporter())) == ()


def test_what_was_deleted_by_hand_is_drift(on: Any, applied: standin.StandIn) -> None:
    del applied.resources[_id("Microsoft.Network/natGateways/ng-voiceassistant-dev")]
    (change,) = on(lambda azure: deploy.drift(azure, few(DEV), SilentReporter()))
    assert (change.action, change.name) == ("create", "ng-voiceassistant-dev")


def test_what_is_not_ours_is_shown_and_left(on: Any, applied: standin.StandIn) -> None:
    applied.resources[_id("Microsoft.Web/sites/somebody")] = {
        "id": _id("Microsoft.Web/sites/somebody"),
        "type": "Microsoft.Web/sites",
        "name": "somebody",
    }
    foreign = [change for change in on(plan) if change.action == "foreign"]
    assert [change.name for change in foreign] == ["somebody"]
    on(apply)
    assert _id("Microsoft.Web/sites/somebody") in applied.resources


def test_throttling_is_waited_out(on: Any, world: standin.StandIn) -> None:
    world.faults = [standin.Fault(times=3, status=429, path="deployments/va-data", retry_after="0.01")]
    assert _results(on(apply)) == {"deployed": len(few(DEV))}


def test_a_deployment_that_is_busy_is_asked_again(
    on: Any, world: standin.StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_BUSY_SECONDS", 0.01)
    original = world._deployment
    tries = iter(range(2))

    def busy(method: str, subscription: str, home: str, name: str, *more: Any) -> Any:
        if method == "PUT" and name == "va-network" and next(tries, None) is not None:
            raise Refused(409, "DeploymentActive", "already running")
        return original(method, subscription, home, name, *more)

    world._deployment = busy  # type: ignore[method-assign]
    assert _results(on(apply)) == {"deployed": len(few(DEV))}


def test_a_partial_failure_names_the_resource_and_the_same_command_goes_on(
    on: Any, world: standin.StandIn
) -> None:
    world.faults = [standin.Fault(times=1, resource="Microsoft.Cache/redisEnterprise/redis")]
    with pytest.raises(StepFailed) as caught:
        on(apply)
    assert "data in eastus: Microsoft.Cache/redisEnterprise/redis-voiceassistant-dev" in str(caught.value)
    assert "SkuNotAvailable" in str(caught.value)
    made = set(world.resources)
    results = on(apply)
    assert {one.module for one in results if one.result == "deployed"} == {"data"}
    assert made < set(world.resources)


def test_killed_while_azure_works_and_run_again(on: Any, world: standin.StandIn) -> None:
    world.per_poll = 1

    async def until_the_network(azure: Azure) -> None:
        task = asyncio.ensure_future(apply(azure))
        while not any("virtualnetworks" in resource for resource in world.resources):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on(until_the_network)
    assert 0 < len(world.resources) < RESOURCES
    world.per_poll = 1000
    on(apply)
    assert len(world.resources) == RESOURCES


def test_a_running_deployment_of_an_earlier_run_is_waited_for(tmp_path: Path) -> None:
    # Another process: the server comes back from its file with the deployment half done.
    first = standin.StandIn(file=tmp_path / "state.json", per_poll=1)

    async def start(world: standin.StandIn, work: Any) -> Any:
        async with (
            standin.serve(world) as endpoint,
            connect(SUBSCRIPTION, endpoint=endpoint, poll=0.01) as azure,
        ):
            return await work(azure)

    async def begin(azure: Azure) -> None:
        task = asyncio.ensure_future(apply(azure))
        while not first.deployments or not next(iter(first.deployments.values()))["done"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(start(first, begin))
    second = standin.StandIn(file=tmp_path / "state.json", per_poll=1000)
    assert any(one["state"] == "Running" for one in second.deployments.values())
    results = asyncio.run(start(second, apply))
    assert results[0].result == "unchanged", "it was waited for, not begun again"
    assert len(second.resources) == RESOURCES


def test_destroy_unlocks_and_deletes_and_can_be_repeated(on: Any, applied: standin.StandIn) -> None:
    network = _id("Microsoft.Network/virtualNetworks/vnet-voiceassistant-dev")
    lock = f"{network}/providers/Microsoft.Authorization/locks/x"
    applied.resources[lock.lower()] = {"id": lock, "name": "x", "type": "Microsoft.Authorization/locks"}
    groups = [group(DEV)]
    assert on(lambda azure: destroy(azure, groups, [], SilentReporter())) == (group(DEV),)
    assert (applied.groups, applied.resources) == ({}, {})
    assert on(lambda azure: destroy(azure, groups, [], SilentReporter())) == ()


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, SystemUnavailable), (403, SystemUnavailable), (400, BadInput), (501, SystemUnavailable)],
)
def test_refusals_are_told_apart(
    on: Any, world: standin.StandIn, status: int, error: type[Exception]
) -> None:
    world.faults = [standin.Fault(times=100, status=status, path="deployments/va-network")]
    with pytest.raises(error):
        on(apply)


def test_no_answer_at_all() -> None:
    async def flow() -> None:
        async with connect(SUBSCRIPTION, endpoint="http://127.0.0.1:9", poll=0.01) as azure:
            for client in (azure.deployments, azure.groups, azure.locks):
                client._config.retry_policy.total_retries = 0
            await plan(azure)

    with pytest.raises(SystemUnavailable, match="does not answer"):
        asyncio.run(flow())


def test_only_this_machine_can_be_a_stand_in() -> None:
    async def flow() -> None:
        async with connect(SUBSCRIPTION, endpoint="http://azure.example.com"):
            pass

    with pytest.raises(BadInput, match="no stand-in on this machine"):
        asyncio.run(flow())


def test_all_missing_parameters_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    references = parameters(DEV)
    for reference in references.values():
        monkeypatch.delenv(reference.partition(":")[2], raising=False)
    with pytest.raises(BadInput) as caught:
        resolve(references, list(references))
    assert "group-admin (env:ENTRA_GROUP_ADMINS)" in str(caught.value)
    assert "pushWebhook (env:VA_PUSH_WEBHOOK)" in str(caught.value)
    for reference in references.values():
        monkeypatch.setenv(reference.partition(":")[2], "value")
    # What Azure knows is asked of Azure.
    assert set(resolve(references, list(references))) == set(VALUES) - {"budgetSince"}

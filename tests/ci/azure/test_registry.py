"""Replications as Azure Resource Manager tells of them: the official SDK against the stand-in."""

from __future__ import annotations

import asyncio
import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ci.architecture import model
from ci.architecture.names import name
from ci.azure import standin
from ci.azure.connection import connect
from ci.azure.network import group
from ci.azure.registry import RegistryState, registry_state, show_registry
from ci.azure.render import render
from ci.commands.cli import app
from ci.errors import BadInput, SystemUnavailable

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
PROD = model.read("prod").architecture
NAME, GROUP = name(PROD, "registry"), group(PROD)
_PROVIDER = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.ContainerRegistry"
_ID = f"{_PROVIDER}/registries/{NAME}"


def ask(world: standin.StandIn, **how: Any) -> RegistryState:
    async def flow() -> RegistryState:
        async with (
            standin.serve(world) as endpoint,
            connect(SUBSCRIPTION, endpoint=endpoint, poll=0.01) as azure,
        ):
            wanted = {"home": PROD.primary, "replicas": PROD.registry.replicate_to}
            return await registry_state(azure, group=GROUP, name=NAME, **{**wanted, **how})

    return asyncio.run(flow())


def stored(world: standin.StandIn, below: str = "") -> dict[str, Any]:
    found: dict[str, Any] = world.resources[f"{_ID}{below}".lower()]
    return found


@pytest.fixture
def world(once: standin.StandIn) -> standin.StandIn:
    """This test's subscription, with the registry that prod declares."""
    return copy.deepcopy(once)


@pytest.fixture(scope="module")
def once() -> standin.StandIn:
    """A subscription that holds the registry that prod declares, as its own template makes it."""
    world = standin.StandIn()
    world.groups[GROUP.lower()] = {"name": GROUP}
    for module in render(PROD):
        for one in module.resources:
            if one.type.startswith("Microsoft.ContainerRegistry/registries"):
                kinds, names = one.type.split("/")[1:], one.name.split("/")
                path = "/".join(f"{kind}/{each}" for kind, each in zip(kinds, names, strict=True))
                known = f"{_PROVIDER}/{path}"
                body = json.loads(json.dumps(dict(one.body)))
                body["properties"] = {**body.get("properties", {}), "provisioningState": "Succeeded"}
                world.resources[known.lower()] = {**body, "id": known, "name": names[-1], "type": one.type}
    return world


def test_a_registry_as_declared_has_no_problem(world: standin.StandIn) -> None:
    state = ask(world)
    assert state.problems == ()
    assert (state.sku, state.retention_days, state.login_server) == ("Premium", None, f"{NAME}.azurecr.io")
    assert [one.region for one in state.regions] == [PROD.primary, *sorted(PROD.registry.replicate_to)]
    assert state.regions[0].home and not state.regions[1].home
    assert all(one.state == "Succeeded" and one.routed and one.webhook for one in state.regions)
    assert state.regional_endpoints == "Disabled"
    assert not any(one.endpoint for one in state.regions)


def _status(said: str, message: str = "") -> dict[str, Any]:
    return {"displayStatus": said, "message": message, "timestamp": "2026-06-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda one: one["properties"].update(provisioningState="Creating"), "its state is Creating"),
        (
            lambda one: one["properties"].update(
                provisioningState="Failed", status=_status("Failed", "no quota")
            ),
            "its state is Failed: no quota",
        ),
        (
            lambda one: one["properties"].update(status=_status("Syncing", "3 left")),
            "it says Syncing: 3 left",
        ),
        (lambda one: one["properties"].update(regionEndpointEnabled=False), "sends nobody there"),
    ],
)
def test_each_trouble_of_a_replication_is_named(
    world: standin.StandIn, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    region = sorted(PROD.registry.replicate_to)[0]
    change(stored(world, f"/replications/{region}"))
    (said,) = ask(world).problems
    assert said.startswith(f"{region}: ") and problem in said


def test_a_replication_that_is_ready_is_well(world: standin.StandIn) -> None:
    for region in PROD.registry.replicate_to:
        stored(world, f"/replications/{region}")["properties"]["status"] = _status("Ready")
    assert ask(world).problems == ()


def test_missing_and_undeclared_replications_are_found(world: standin.StandIn) -> None:
    region = sorted(PROD.registry.replicate_to)[0]
    moved = world.resources.pop(f"{_ID}/replications/{region}".lower())
    world.resources[f"{_ID}/replications/brazilsouth".lower()] = {**moved, "location": "Brazil South"}
    problems = "\n".join(ask(world).problems)
    assert f"{region}: declared, but there is no such replication" in problems
    assert "brazilsouth: there, but not declared" in problems


def test_azures_own_entry_of_the_home_region_counts_once(world: standin.StandIn) -> None:
    one = dict(stored(world, f"/replications/{sorted(PROD.registry.replicate_to)[0]}"))
    world.resources[f"{_ID}/replications/{PROD.primary}".lower()] = {**one, "location": PROD.primary}
    assert [each.region for each in ask(world).regions].count(PROD.primary) == 1


def test_retention_of_untagged_manifests_is_a_problem(world: standin.StandIn) -> None:
    stored(world)["properties"]["policies"]["retentionPolicy"] = {"days": 7, "status": "enabled"}
    (said,) = ask(world).problems
    assert "after 7 days" in said


def test_regional_endpoints_are_told_where_the_api_has_them(world: standin.StandIn) -> None:
    stored(world)["properties"]["regionalEndpoints"] = "Enabled"
    state = ask(world)
    assert state.regional_endpoints == "Enabled"
    assert state.regions[1].endpoint == f"{NAME}.{state.regions[1].region}.geo.azurecr.io"


def test_a_webhook_that_is_off_tells_of_nothing(world: standin.StandIn) -> None:
    hook = next(key for key in world.resources if "/webhooks/" in key)
    world.resources[hook]["properties"]["status"] = "disabled"
    assert [one.webhook for one in ask(world).regions].count("") == 1


def test_throttling_is_waited_for_and_an_outage_is_said(world: standin.StandIn) -> None:
    world.faults.append(standin.Fault(times=2, status=429, path="/replications", retry_after="0.01"))
    assert ask(world).problems == ()
    world.faults.append(standin.Fault(times=1, status=501, path="/replications"))
    with pytest.raises(SystemUnavailable, match="the replications of"):
        ask(world)


def test_no_registry_is_bad_input() -> None:
    with pytest.raises(BadInput, match=f"there is no registry {NAME} in {GROUP}"):
        ask(standin.StandIn())


def test_the_command_prints_a_table_or_json_and_ends_with_6_on_a_problem(
    world: standin.StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    done = CliRunner().invoke(app, ["registry", "replications", "--env", "prod", "--local"])
    assert done.exit_code == 2 and "va infra apply" in done.output
    # What `va infra apply --local` keeps.
    nobody = "00000000-0000-0000-0000-000000000000"
    kept = json.dumps({"groups": world.groups, "resources": world.resources, "deployments": {}})
    (tmp_path / "azure.json").write_text(kept.replace(SUBSCRIPTION, nobody))
    done = CliRunner().invoke(app, ["registry", "replications", "--env", "prod", "--local", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == NAME
    region = sorted(PROD.registry.replicate_to)[0]
    del world.resources[f"{_ID}/replications/{region}".lower()]
    kept = json.dumps({"groups": world.groups, "resources": world.resources, "deployments": {}})
    (tmp_path / "azure.json").write_text(kept.replace(SUBSCRIPTION, nobody))
    done = CliRunner().invoke(app, ["registry", "replications", "--local"])
    assert done.exit_code == 6 and "missing" in done.stdout


def test_the_table_has_a_line_a_region(world: standin.StandIn) -> None:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(show_registry(ask(world)))
    text = console.export_text()
    assert all(region in text for region in PROD.registry.replicate_to) and f"{PROD.primary} (home)" in text

"""What the stand-in refuses as Azure does; and a vault that was deleted comes back, by the real SDK."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any

import pytest

from ci.architecture import model
from ci.azure import deploy, standin
from ci.azure.arm import Module, Resource
from ci.azure.connection import Azure, connect
from ci.azure.deleted import destroy
from ci.azure.free import names_are_free
from ci.azure.refusals import Refused, World, refuse, refuse_at_once
from ci.azure.render import render
from ci.errors import BadInput, StepFailed
from ci.reporting import SilentReporter

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
HOME = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"
TODAY = date(2026, 12, 3)


def _world(*there: dict[str, Any], elsewhere: tuple[str, ...] = (), deleted: tuple[str, ...] = ()) -> World:
    return World(
        there={one["id"].lower(): one for one in there},
        deleted=dict.fromkeys(deleted),
        elsewhere=elsewhere,
        today=TODAY,
    )


def _wanted(kind: str, name: str, body: dict[str, Any], *, scope: str = HOME) -> dict[str, Any]:
    namespace, *types = kind.split("/")
    path = "/".join(f"{a}/{b}" for a, b in zip(types, name.split("/"), strict=True))
    return {
        "id": f"{scope}/providers/{namespace}/{path}",
        "type": kind,
        "name": name,
        "home": HOME,
        "scope": scope,
        "body": {"properties": body},
    }


def _there(wanted: dict[str, Any]) -> dict[str, Any]:
    return {"id": wanted["id"], "type": wanted["type"], "name": wanted["name"], **wanted["body"]}


def _said(wanted: dict[str, Any], world: World) -> str:
    with pytest.raises(Refused) as caught:
        refuse(wanted, world)
    return f"{caught.value.code}: {caught.value}"


def _budget(start: str) -> dict[str, Any]:
    return _wanted("Microsoft.Consumption/budgets", "budget-x", {"timePeriod": {"startDate": start}})


@pytest.mark.parametrize("start", ["2026-12-01T00:00:00Z", "2027-12-01T00:00:00Z"])
def test_a_budget_starts_in_this_month_or_a_later_one(start: str) -> None:
    refuse(_budget(start), _world())


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("2026-11-01T00:00:00Z", "within the time grain"),
        ("2028-01-01T00:00:00Z", "twelve months ahead"),
        ("2026-12-02T00:00:00Z", "the first of a month"),
        ("2016-12-01T00:00:00Z", "from June 2017 on"),
        ("soon", "is no day"),
    ],
)
def test_no_budget_starts_on_another_day(start: str, said: str) -> None:
    assert said in _said(_budget(start), _world())


def test_a_budget_that_is_there_keeps_its_start() -> None:
    old = _budget("2026-03-01T00:00:00Z")
    refuse(old, _world(_there(old)))
    assert "time grain" in _said(_budget("2026-04-01T00:00:00Z"), _world(_there(old)))


def test_one_name_has_one_record_in_a_zone() -> None:
    registry = f"{HOME}/providers/Microsoft.ContainerRegistry/registries/acrx"
    zone = f"{HOME}/providers/Microsoft.Network/privateDnsZones/privatelink.azurecr.io"
    ends = [
        _wanted(
            "Microsoft.Network/privateEndpoints",
            name,
            {"privateLinkServiceConnections": [{"properties": {"privateLinkServiceId": registry}}]},
        )
        for name in ("pe-one", "pe-two")
    ]
    kind = "Microsoft.Network/privateEndpoints/privateDnsZoneGroups"
    config = {"privateDnsZoneConfigs": [{"properties": {"privateDnsZoneId": zone}}]}
    first, second = (_wanted(kind, f"{end['name']}/default", config) for end in ends)
    world = _world(*map(_there, ends), _there(first))
    refuse(first, world)  # once more: it is its own
    assert "PrivateDnsRecordTaken" in _said(second, world)
    elsewhere = {"privateDnsZoneConfigs": [{"properties": {"privateDnsZoneId": f"{zone}.other"}}]}
    refuse({**second, "body": {"properties": elsewhere}}, world)


def test_a_role_is_given_in_its_deployments_group() -> None:
    body = {"principalId": "p", "roleDefinitionId": "r"}
    kind = "Microsoft.Authorization/roleAssignments"
    refuse(_wanted(kind, "n", body), _world())
    inside = f"{HOME}/providers/Microsoft.KeyVault/vaults/kv-x"
    refuse(_wanted(kind, "n", body, scope=inside), _world())
    outside = f"{HOME}-of-others/providers/Microsoft.KeyVault/vaults/kv-x"
    assert "is not in" in _said(_wanted(kind, "n", body, scope=outside), _world())


def test_both_ends_of_a_peering_are_not_made_at_once() -> None:
    kind = "Microsoft.Network/virtualNetworks/virtualNetworkPeerings"
    other = f"{HOME}/providers/Microsoft.Network/virtualNetworks/vnet-b"
    one = _wanted(kind, "vnet-a/to-b", {"remoteVirtualNetwork": {"id": other}})
    refuse(one, _world())
    busy = _world(elsewhere=(f"{other}/virtualNetworkPeerings/to-a",))
    assert "ReferencedResourceNotProvisioned" in _said(one, busy)


def test_a_server_takes_one_change_at_a_time() -> None:
    def setting(key: str, *needs: str) -> dict[str, Any]:
        kind = "Microsoft.DBforPostgreSQL/flexibleServers/configurations"
        return {**_wanted(kind, f"psql/{key}", {"value": "on"}), "dependsOn": list(needs)}

    one = setting("a")
    refuse_at_once([one, setting("b", one["id"])])
    # Behind one another, though not directly.
    refuse_at_once([one, middle := setting("b", one["id"]), setting("c", middle["id"])])
    with pytest.raises(Refused, match="one change at a time"):
        refuse_at_once([one, setting("b", one["id"]), setting("c", one["id"])])


def test_sizes_and_names_are_refused_as_they_are_found() -> None:
    wanted = _wanted("Microsoft.KeyVault/vaults", "kv-x", {"softDeleteRetentionInDays": 5})
    assert "7 to 90 is taken" in _said(wanted, _world())
    assert "3 to 24 characters" in _said(_wanted("Microsoft.KeyVault/vaults", "kv" * 20, {}), _world())


# --- a vault that was deleted ------------------------------------------------------------------

VAULT = Module(
    area="vault",
    region="eastus",
    group="rg-x",
    resources=(
        Resource(
            type="Microsoft.KeyVault/vaults",
            name="kv-x",
            body={
                "location": "eastus",
                "properties": {
                    "sku": {"family": "A", "name": "standard"},
                    "softDeleteRetentionInDays": 90,
                    "tenantId": "[subscription().tenantId]",
                },
            },
        ),
    ),
)


async def _apply(azure: Azure) -> str:
    (done,) = await deploy.apply(azure, [VAULT], {}, SilentReporter(), tags={})
    return done.result


def _run(world: standin.StandIn, *work: Any) -> list[Any]:
    async def flow() -> list[Any]:
        async with (
            standin.serve(world) as endpoint,
            connect(SUBSCRIPTION, endpoint=endpoint, poll=0.01) as azure,
        ):
            return [await one(azure) for one in work]

    return asyncio.run(flow())


def test_a_deleted_vault_comes_back_with_what_it_held() -> None:
    world = standin.StandIn()
    _run(world, _apply)
    (key,) = world.resources
    world.resources[key]["properties"]["held"] = "secrets"
    _run(world, lambda azure: destroy(azure, ["rg-x"], [], SilentReporter()))
    assert world.resources == {} and list(world.deleted) == ["kv-x"]
    assert _run(world, _apply) == ["deployed"]
    assert key in world.resources and world.deleted == {}


def test_a_deleted_vaults_name_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> None:
        pass

    world = standin.StandIn()
    _run(world, _apply, lambda azure: destroy(azure, ["rg-x"], [], SilentReporter()))
    monkeypatch.setattr(deploy, "recover", nothing)
    with pytest.raises(StepFailed, match="deleted state"):
        _run(world, _apply)


# --- names that are one's own in all of Azure --------------------------------------------------


def test_names_that_somebody_has_are_said_before_anything_is_made() -> None:
    world = standin.StandIn(others={"kv-voiceassistant-dev", "stvoiceassistantdev", "kv-x"})
    with pytest.raises(BadInput) as caught:
        _run(world, lambda azure: names_are_free(azure, render(model.read("dev").architecture)))
    said = str(caught.value)
    assert "kv-voiceassistant-dev (" in said and "stvoiceassistantdev (" in said
    assert "psql-" not in said and "acr" not in said and world.groups == {}


def test_what_is_ours_is_no_name_of_others() -> None:
    world = standin.StandIn()
    free = lambda azure: names_are_free(azure, [VAULT])  # noqa: E731
    _run(world, free, _apply, free)
    _run(world, lambda azure: destroy(azure, ["rg-x"], [], SilentReporter()))
    assert list(world.deleted) == ["kv-x"]
    _run(world, free)  # it comes back

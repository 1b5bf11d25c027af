"""The ages of secrets as Azure Resource Manager lists them: the official SDK against the stand-in."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ci.architecture import model
from ci.architecture.names import name
from ci.azure import standin
from ci.azure.connection import connect
from ci.azure.network import group
from ci.azure.secrets import SecretAge, secret_ages
from ci.errors import BadInput

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
STAGING = model.read("staging").architecture


def _put(world: standin.StandIn, region: str, kind: str, its_name: str, properties: dict[str, Any]) -> None:
    home = group(STAGING, region)
    world.groups[home.lower()] = {"name": home}
    path = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{home}/providers/Microsoft.KeyVault/{its_name}"
    last = its_name.rpartition("/")[2]
    world.resources[path.lower()] = {"id": path, "name": last, "type": kind, "properties": properties}


def _secret(world: standin.StandIn, region: str, secret: str, days: float, **more: Any) -> None:
    """A secret whose current version is so many days old. Times are seconds since 1970, as Azure has them."""
    vault = name(STAGING, "key vault", region)
    made = (NOW - timedelta(days=days)).timestamp()
    attributes = {"enabled": True, "created": int(made), "updated": int(NOW.timestamp()), **more}
    kind = "Microsoft.KeyVault/vaults/secrets"
    _put(world, region, kind, f"vaults/{vault}/secrets/{secret}", {"attributes": attributes})


@pytest.fixture
def world() -> standin.StandIn:
    """Every declared secret in both vaults, ten days old."""
    made = standin.StandIn()
    for region in STAGING.order:
        vault = name(STAGING, "key vault", region)
        _put(made, region, "Microsoft.KeyVault/vaults", f"vaults/{vault}", {"tenantId": "a"})
        for secret in STAGING.key_vault.secrets:
            _secret(made, region, secret, 10)
    return made


def _ask(world: standin.StandIn) -> tuple[SecretAge, ...]:
    async def flow() -> tuple[SecretAge, ...]:
        async with (
            standin.serve(world) as endpoint,
            connect(SUBSCRIPTION, endpoint=endpoint, poll=0.01) as azure,
        ):
            return await secret_ages(azure, STAGING, now=NOW)

    return asyncio.run(flow())


def test_young_secrets_are_well_in_every_region(world: standin.StandIn) -> None:
    found = _ask(world)
    assert len(found) == 2 * len(STAGING.key_vault.secrets)
    assert {one.region for one in found} == set(STAGING.order)
    assert {(one.age, one.problem, one.soon) for one in found} == {(10, "", False)}
    assert {one.rotate_every for one in found if one.secret == "livekit-api-key"} == {180}


@pytest.mark.parametrize(
    ("days", "more", "problem", "soon"),
    [
        (89.5, {}, "", True),
        (95.0, {}, "5 days overdue", False),
        (10.0, {"enabled": False}, "disabled", False),
        (10.0, {"exp": int((NOW - timedelta(hours=1)).timestamp())}, "expired on 2026-11-24", False),
    ],
)
def test_each_trouble_of_a_secret_is_named(
    world: standin.StandIn, days: float, more: dict[str, Any], problem: str, soon: bool
) -> None:
    _secret(world, "westeurope", "openai-api-key", days, **more)
    (one,) = [one for one in _ask(world) if one.problem or one.soon]
    assert (one.region, one.secret, one.soon) == ("westeurope", "openai-api-key", soon)
    assert one.problem.startswith(problem) and bool(one.problem) == bool(problem)


def test_a_missing_secret_and_a_missing_vault_are_told_apart(world: standin.StandIn) -> None:
    key = next(key for key in world.resources if key.endswith("/secrets/redis"))
    del world.resources[key]
    (one,) = [one for one in _ask(world) if one.problem]
    assert one.secret == "redis" and one.age is None and "not in the vault" in one.problem

    vault = name(STAGING, "key vault", "westeurope")
    del world.resources[next(key for key in world.resources if key.endswith(f"/vaults/{vault}".lower()))]
    with pytest.raises(BadInput, match=f"no Key Vault {vault}"):
        _ask(world)

"""The secrets of each region's Key Vault, as Azure Resource Manager lists them: never their values.

The vaults answer nobody outside the network; Resource Manager tells a reader of the resource group which
secrets there are and when their current versions were made (`vaults/secrets`, REST reference of Key Vault).
That is enough to hold `rotate_every` against.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from azure.core.exceptions import ResourceNotFoundError

from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.connection import Azure, call
from ci.azure.network import group
from ci.concurrency import together
from ci.errors import BadInput
from ci.layout import Column, Page, Table, page

__all__ = ["SecretAge", "secret_ages", "show_secrets"]

_SOON = timedelta(days=14)


@dataclass(frozen=True, kw_only=True)
class SecretAge:
    """One declared secret in one vault. `problem` is empty when it is there, usable and young enough."""

    region: str
    vault: str
    secret: str
    rotate_every: int
    """Days after which it is to be changed."""
    age: int | None
    """Days since its current version was made; None when there is none, or Azure does not say."""
    problem: str = ""
    soon: bool = False
    """Whether it has to be changed within two weeks."""


async def secret_ages(azure: Azure, architecture: Architecture, *, now: datetime) -> tuple[SecretAge, ...]:
    """Every declared secret in every region's vault, the primary region first. BadInput: no vault."""
    from azure.mgmt.keyvault import KeyVaultManagementClient

    client = azure.client(KeyVaultManagementClient)

    async def of(region: str) -> list[SecretAge]:
        vault, home = name(architecture, "key vault", region), group(architecture, region)
        try:
            # The list of a vault that is not there may be empty rather than an error.
            await call(lambda: client.vaults.get(home, vault), f"reading {vault}")
            listed = await call(lambda: list(client.secrets.list(home, vault)), f"the secrets of {vault}")
        except ResourceNotFoundError as error:
            raise BadInput(
                f"there is no Key Vault {vault} in {home}", hint="va infra apply makes it; or another --env"
            ) from error
        there = {str(one.name).lower(): one for one in listed}
        return [
            _age(region, vault, secret, wanted.rotate_every, there.get(secret.lower()), now)
            for secret, wanted in sorted(architecture.key_vault.secrets.items())
        ]

    found = await together(of(region) for region in architecture.order)
    return tuple(one for each in found for one in each)


def _age(
    region: str, vault: str, secret: str, rotate_every: timedelta, found: Any, now: datetime
) -> SecretAge:
    attributes = found.properties.attributes if found is not None and found.properties else None
    created = attributes.created if attributes is not None else None
    age = now - created if created is not None else None
    if found is None:
        problem = "not in the vault: its pods do not start without it"
    elif attributes is not None and attributes.enabled is False:
        problem = "disabled: nothing can read it"
    elif attributes is not None and attributes.expires is not None and attributes.expires <= now:
        problem = f"expired on {attributes.expires:%Y-%m-%d}"
    elif age is None:
        problem = "Azure does not say how old it is"
    elif age > rotate_every:
        problem = f"{(age - rotate_every).days} days overdue: make a new version"
    else:
        problem = ""
    return SecretAge(
        region=region,
        vault=vault,
        secret=secret,
        rotate_every=rotate_every.days,
        age=age.days if age is not None else None,
        problem=problem,
        soon=not problem and age is not None and rotate_every - age <= _SOON,
    )


def show_secrets(found: tuple[SecretAge, ...]) -> Page:
    """Each secret with its age, for people."""
    table = Table(
        "vault",
        "secret",
        Column(name="days old", rank=2, right=True),
        Column(name="rotated every", rank=3, right=True),
        Column(name="verdict", rank=1, below=True, prose=True),
    )
    for one in found:
        said = (one.problem, "red") if one.problem else ("soon", "yellow") if one.soon else ("well", "green")
        age = "-" if one.age is None else str(one.age)
        table.add(one.vault, one.secret, age, f"{one.rotate_every} d", said)
    return page(table)

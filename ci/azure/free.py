"""Names that are one's own in all of Azure: asked for before anything is made, not found taken in the middle.

Sources: the operations `checkNameAvailability` of each service's REST reference. Azure Managed Redis and
Managed Grafana have none; of public addresses the label is a region's own, and is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ci.azure.arm import API, Module, Resource
from ci.azure.connection import Azure, call
from ci.azure.deleted import was_deleted
from ci.concurrency import together
from ci.errors import BadInput

__all__ = ["names_are_free"]

Ask = Callable[[Mapping[str, str]], Any]


def _questions(azure: Azure) -> dict[str, Ask]:
    from azure.mgmt.containerregistry import ContainerRegistryManagementClient
    from azure.mgmt.keyvault import KeyVaultManagementClient
    from azure.mgmt.postgresqlflexibleservers import PostgreSQLManagementClient
    from azure.mgmt.storage import StorageManagementClient
    from azure.mgmt.trafficmanager import TrafficManagerManagementClient

    profiles = azure.client(TrafficManagerManagementClient).profiles
    return {
        "Microsoft.ContainerRegistry/registries": azure.client(
            ContainerRegistryManagementClient
        ).registries.check_name_availability,
        "Microsoft.DBforPostgreSQL/flexibleServers": azure.client(
            PostgreSQLManagementClient
        ).name_availability.check_globally,
        "Microsoft.KeyVault/vaults": azure.client(KeyVaultManagementClient).vaults.check_name_availability,
        "Microsoft.Network/trafficManagerProfiles": profiles.check_traffic_manager_name_availability_v2,
        "Microsoft.Storage/storageAccounts": azure.client(
            StorageManagementClient
        ).storage_accounts.check_name_availability,
    }


async def names_are_free(azure: Azure, modules: Sequence[Module]) -> None:
    """BadInput names all that somebody else has; what is there and ours already is ours."""
    questions = _questions(azure)
    wanted = [
        (module, resource)
        for module in modules
        for resource in module.resources
        if resource.type in questions
    ]
    said = await together(_taken(azure, questions[one.type], module, one) for module, one in wanted)
    if taken := [one for one in said if one]:
        raise BadInput(
            f"names that are not to be had: {'; '.join(taken)}",
            hint="another product, or another name of the environment, in environments/architecture",
        )


async def _taken(azure: Azure, ask: Ask, module: Module, resource: Resource) -> str:
    """What Azure says of a name that is somebody else's; empty when it is free, or ours."""
    name, what = resource.name, f"asking for the name {resource.name}"
    answer = await call(partial(ask, {"name": name, "type": resource.type}), what)
    if answer.name_available:
        return ""
    home = f"/subscriptions/{azure.subscription}/resourceGroups/{module.group}"
    own = f"{home}/providers/{resource.type}/{name}"
    exists = partial(azure.groups.resources.check_existence_by_id, own, api_version=API[resource.type])
    if await call(exists, what):
        return ""
    if resource.type == "Microsoft.KeyVault/vaults" and await was_deleted(azure, name, module.region):
        return ""  # one of ours that comes back
    return f"{name} ({answer.message or 'it is taken'})"

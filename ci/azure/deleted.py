"""What is deleted, for good or until it is wanted back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.mgmt.resource.deployments import models as arm

from ci.azure.arm import API, Module, Resource, template
from ci.azure.connection import Azure, call
from ci.reporting import Reporter, Step

__all__ = ["destroy", "recover", "was_deleted"]


async def recover(azure: Azure, module: Module, step: Step) -> None:
    """A module's vaults that were deleted come back with what they held: else their names are taken.

    By a deployment of its own, which says nothing else of them: what is declared follows.
    Source: learn.microsoft.com, "Azure Key Vault soft-delete overview", Key vault recovery.
    """
    for resource in module.resources:
        if resource.type != "Microsoft.KeyVault/vaults":
            continue
        own = resource.name
        if not await was_deleted(azure, own, module.region):
            continue
        step.say(f"{own} was deleted, and comes back")
        wanted = resource.body["properties"]
        back = Resource(
            type=resource.type,
            name=own,
            body={
                "location": module.region,
                "properties": {
                    "createMode": "recover",
                    "sku": wanted["sku"],
                    "tenantId": wanted["tenantId"],
                },
            },
        )
        await call(partial(_deploy, azure, module.group, f"va-recover-{own}", back), f"recovering {own}")


async def was_deleted(azure: Azure, vault: str, region: str) -> bool:
    """Whether there was a vault of that name in the subscription, which can come back."""
    from azure.mgmt.keyvault import KeyVaultManagementClient

    vaults = azure.client(KeyVaultManagementClient).vaults
    try:
        await call(partial(vaults.get_deleted, vault, region), f"looking for a deleted {vault}")
    except ResourceNotFoundError:
        return False
    return True


def _deploy(azure: Azure, group: str, name: str, resource: Resource) -> None:
    properties = arm.DeploymentProperties(mode="Incremental", template=template([resource]))
    azure.deployments.deployments.begin_create_or_update(
        group, name, arm.Deployment(properties=properties), polling_interval=azure.poll
    ).result()


async def destroy(
    azure: Azure, groups: Sequence[str], beyond: Sequence[Resource], reporter: Reporter
) -> tuple[str, ...]:
    """Delete these resource groups with all that is in them, locks first; returns those that were there.

    `beyond` is what the subscription has of it: nothing of that would go with a group.

    The caller has asked for confirmation. A group that is gone already is none to delete: the call can be
    repeated.
    """

    async def one(group: str) -> str | None:
        with reporter.step(f"delete {group}") as step:
            if not await call(
                lambda: azure.groups.resource_groups.check_existence(group), f"looking for {group}"
            ):
                step.skipped("not there")
                return None
            locks = azure.locks.management_locks
            held = await call(
                lambda: list(locks.list_at_resource_group_level(group)), f"the locks of {group}"
            )
            for lock in held:
                scope = str(lock.id).rsplit("/providers/Microsoft.Authorization/locks/", 1)[0].lstrip("/")
                await call(partial(locks.delete_by_scope, scope, lock.name), f"unlocking {scope}")
            step.say(f"{len(held)} locks removed; deleting")
            await call(
                lambda: azure.groups.resource_groups.begin_delete(
                    group, polling_interval=azure.poll
                ).result(),
                f"deleting {group}",
            )
            return group

    done = await asyncio.gather(*(one(group) for group in groups))
    for resource in beyond:
        own = f"/subscriptions/{azure.subscription}/providers/{resource.type}/{resource.name}"
        api = API[resource.type]
        with reporter.step(f"delete {resource.name}"):
            await call(
                partial(_gone, azure.groups.resources, own, api, azure.poll), f"deleting {resource.name}"
            )
    return tuple(group for group in done if group is not None)


def _gone(resources: Any, own: str, api: str, poll: float) -> None:
    # What is not there is deleted already.
    with contextlib.suppress(ResourceNotFoundError):
        resources.begin_delete_by_id(own, api_version=api, polling_interval=poll).result()

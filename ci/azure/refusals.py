"""What the stand-in refuses of a resource beyond the template's language, because Azure does.

Each says its source: a page of learn.microsoft.com, or that it is from experience. What is not here (quotas,
sizes that a region is out of, what only the service itself knows) only Azure shows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from ci.azure.across import at_once, one_at_a_time
from ci.azure.limits import beyond

__all__ = ["Refused", "World", "refuse", "refuse_at_once"]


class Refused(Exception):
    """An ARM error answer: its HTTP status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True, kw_only=True)
class World:
    """What a resource is made beside.

    `there` are the resources by id, in small letters; `deleted` the vaults that can come back, by name;
    `elsewhere` the ids that other deployments are making at this moment.
    """

    there: Mapping[str, Any]
    deleted: Mapping[str, Any]
    elsewhere: Collection[str]
    today: date


def refuse(wanted: Mapping[str, Any], world: World) -> None:
    """Refused, where Azure would not make `wanted` (its id, type, name, home, scope, body) in this world."""
    for said in beyond(wanted["type"], wanted["name"], wanted["body"]):
        raise Refused(400, "InvalidParameter", said)
    rule = _RULES.get(wanted["type"])
    if rule is not None:
        rule(wanted, world)


def refuse_at_once(wanted: Sequence[Mapping[str, Any]]) -> None:
    """Refused, where a template would change something twice at the same time: see ci.azure.across."""
    parts = [(one["id"], one_at_a_time(one["type"], one["name"]), one["dependsOn"]) for one in wanted]
    for one, other in at_once(parts):
        raise Refused(
            409, "ServerIsBusy", f"{other} and {one} at the same time: it takes one change at a time."
        )


def _assigned(wanted: Mapping[str, Any], world: World) -> None:
    """A role assignment's name is one's own in the whole tenant, and says for ever who may what on what.

    Its scope is in its deployment's group. Sources: "Troubleshoot Azure RBAC" (RoleAssignmentExists,
    RoleAssignmentUpdateNotPermitted); "Extension resources in ARM templates".
    """
    if not f"{wanted['scope'].lower()}/".startswith(f"{wanted['home'].lower()}/"):
        raise Refused(400, "InvalidTemplate", f"The scope {wanted['scope']} is not in {wanted['home']}.")

    def fact(key: str, properties: Any) -> tuple[str, ...]:
        scope = key.lower().rpartition("/providers/microsoft.authorization/")[0]
        return scope, properties["principalId"], properties["roleDefinitionId"].lower()

    mine = fact(wanted["id"], wanted["body"]["properties"])
    for key, other in world.there.items():
        if other["type"] != wanted["type"]:
            continue
        named = other["name"].lower() == wanted["name"].lower()
        same = fact(key, other["properties"]) == mine
        if named and not same:
            raise Refused(
                400,
                "RoleAssignmentUpdateNotPermitted",
                "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.",
            )
        if same and not named:
            raise Refused(409, "RoleAssignmentExists", "The role assignment already exists.")


def _recorded(wanted: Mapping[str, Any], world: World) -> None:
    """What has one name has one record in a private zone.

    Azure takes the second endpoint's and deletes the record of the first: here it is refused, so that it is
    seen. Source: "Azure Private Endpoint DNS integration".
    """

    def records(group: Mapping[str, Any], key: str) -> set[tuple[str, str]]:
        endpoint = world.there.get(key.lower().rpartition("/privatednszonegroups/")[0], {})
        connections = endpoint.get("properties", {}).get("privateLinkServiceConnections", ())
        zones = group["properties"].get("privateDnsZoneConfigs", ())
        return {
            (
                zone["properties"]["privateDnsZoneId"].lower(),
                one["properties"]["privateLinkServiceId"].lower(),
            )
            for zone in zones
            for one in connections
        }

    mine = records(wanted["body"], wanted["id"])
    for key, other in world.there.items():
        if other["type"] == wanted["type"] and key != wanted["id"].lower() and records(other, key) & mine:
            raise Refused(409, "PrivateDnsRecordTaken", f"{key} has its record in this zone already.")


def _budgeted(wanted: Mapping[str, Any], world: World) -> None:
    """A budget starts on the first of a month: a new one in this month or one of the next twelve.

    Source: Microsoft.Consumption/budgets, BudgetTimePeriod.
    """
    start = str(wanted["body"]["properties"]["timePeriod"]["startDate"])[:10]
    try:
        day = date.fromisoformat(start)
    except ValueError as error:
        raise Refused(400, "BadRequest", f"The start date {start} is no day.") from error
    if day.day != 1 or day < date(2017, 6, 1):
        raise Refused(400, "BadRequest", "The start date is the first of a month, from June 2017 on.")
    months = (day.year - world.today.year) * 12 + day.month - world.today.month
    known = world.there.get(wanted["id"].lower())
    if known is not None and str(known["properties"]["timePeriod"]["startDate"])[:10] == start:
        return
    if not 0 <= months <= 12:
        raise Refused(400, "BadRequest", "The start date is within the time grain, or twelve months ahead.")


def _peered(wanted: Mapping[str, Any], world: World) -> None:
    """Both ends of a peering change both networks: not at the same time. From experience."""
    other = wanted["body"]["properties"]["remoteVirtualNetwork"]["id"].lower()
    for busy in world.elsewhere:
        if busy.lower().startswith(f"{other}/virtualnetworkpeerings/"):
            raise Refused(409, "ReferencedResourceNotProvisioned", f"{other} has an operation in progress.")


def _kept(wanted: Mapping[str, Any], world: World) -> None:
    """A vault that was deleted keeps its name, until it is recovered or its time is over.

    Source: "Azure Key Vault soft-delete overview", Key vault recovery.
    """
    mode = str(wanted["body"]["properties"].get("createMode", "default")).lower()
    if wanted["name"].lower() in world.deleted and mode != "recover":
        raise Refused(
            409, "ConflictError", f"A vault {wanted['name']} exists in deleted state; recover or purge it."
        )


_RULES = {
    "Microsoft.Authorization/roleAssignments": _assigned,
    "Microsoft.Consumption/budgets": _budgeted,
    "Microsoft.KeyVault/vaults": _kept,
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": _recorded,
    "Microsoft.Network/virtualNetworks/virtualNetworkPeerings": _peered,
}

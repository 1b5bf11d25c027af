"""What the stand-in refuses beyond the template's language, because Azure does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Refused", "refuse"]


class Refused(Exception):
    """An ARM error answer: its HTTP status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def refuse(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Refused, where Azure would not make `wanted` beside what is `there`."""
    if wanted["type"] == "Microsoft.Authorization/roleAssignments":
        _assigned(wanted, there)


def _assigned(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """A role assignment's name is one's own in the whole tenant, and says for ever who may what on what.

    Source: learn.microsoft.com, "Troubleshoot Azure RBAC": RoleAssignmentUpdateNotPermitted and
    RoleAssignmentExists.
    """

    def fact(key: str, properties: Any) -> tuple[str, ...]:
        scope = key.lower().rpartition("/providers/microsoft.authorization/")[0]
        return scope, properties["principalId"], properties["roleDefinitionId"].lower()

    mine = fact(wanted["id"], wanted["body"]["properties"])
    for key, other in there.items():
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

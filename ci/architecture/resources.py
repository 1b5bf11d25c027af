"""What is rendered for Azure, as far as evidence is in it: read, never rendered, on this floor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Fact", "Rendered", "at", "role_of", "words"]


class Rendered(Protocol):
    """One resource."""

    @property
    def type(self) -> str:
        """`Microsoft.Storage/storageAccounts`."""

    @property
    def name(self) -> str:
        """Its name; a child's holds its parents'."""

    @property
    def body(self) -> Mapping[str, Any]:
        """Its ARM JSON."""

    @property
    def scope(self) -> str | None:
        """The id of what it is attached to."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something found out from what is rendered, and whether it is as promised."""

    text: str
    right: bool


def at(value: Any, path: Sequence[str]) -> list[Any]:
    """The values at a path; several where it goes through each of a list (`*`)."""
    if not path:
        return [value]
    first, *rest = path
    if first == "*":
        return [found for one in value or () for found in at(one, rest)]
    return at(value.get(first) if isinstance(value, Mapping) else None, rest)


def role_of(assignment: Mapping[str, Any]) -> str:
    """The role of a role assignment, by name: its description is `ROLE for WHOM`."""
    return str(assignment["properties"].get("description", "")).partition(" for ")[0]


def words(expression: str) -> list[str]:
    """The quoted words of an ARM expression: of an id the group, the type and the names."""
    return re.findall(r"'([^']*)'", expression)

"""The whole deployment architecture of one environment, and how it is read from its files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ci.architecture.data import BlobStorage, PostgreSql, Redis
from ci.architecture.edge import Certificates, Gateway, LiveKitPath, TrafficManager
from ci.architecture.kinds import Frozen, Region, Slug
from ci.architecture.kubernetes import Kubernetes
from ci.architecture.network import DnsZone, Network, RegionPlan
from ci.architecture.operations import (
    Access,
    Budget,
    Claims,
    KeyVault,
    Monitoring,
    Recovery,
    Registry,
    Residency,
)
from ci.errors import BadInput, Place
from ci.places import checkout
from ci.yamlfile import Document, checked, did_you_mean, load_overlaid

__all__ = ["Architecture", "Declared", "environments", "folder", "read", "read_file", "schema"]


class Architecture(Frozen):
    """Everything that one environment consists of."""

    environment: Slug
    product: Slug
    regions: dict[Region, RegionPlan] = Field(min_length=1)
    residency: Residency
    network: Network
    dns: DnsZone
    certificates: Certificates
    traffic_manager: TrafficManager | None = None
    gateway: Gateway
    livekit: LiveKitPath
    kubernetes: Kubernetes
    postgres: PostgreSql
    redis: Redis
    storage: BlobStorage
    key_vault: KeyVault
    registry: Registry
    monitoring: Monitoring
    access: Access
    budget: Budget
    recovery: Recovery
    claims: Claims | None = None

    @model_validator(mode="after")
    def _one_primary(self) -> Self:
        priorities = [plan.priority for plan in self.regions.values()]
        if len(set(priorities)) != len(priorities):
            raise ValueError(
                "two regions have the same priority; each needs its own place in the failover order"
            )
        return self

    @cached_property
    def primary(self) -> str:
        """The region that holds what exists once: the database, the registry, the DNS zone."""
        return min(self.regions, key=lambda region: self.regions[region].priority)

    @cached_property
    def media_apart(self) -> bool:
        """Whether LiveKit's nodes have subnets of their own."""
        return any("media" in plan.purposes for plan in self.regions.values())

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The regions, the primary one first."""
        return tuple(sorted(self.regions, key=lambda region: self.regions[region].priority))


@dataclass(frozen=True)
class Declared:
    """An architecture and where each of its keys is written."""

    architecture: Architecture
    document: Document

    def place(self, *loc: str | int) -> Place:
        """Where a key is written, or the nearest thing around it."""
        return self.document.place(*loc)


def folder() -> Path:
    """Where the environments' architecture files are."""
    return checkout() / "environments" / "architecture"


def environments(where: Path | None = None) -> tuple[str, ...]:
    """The environments there are: each file but the base."""
    return tuple(
        sorted(
            file.stem for file in (where or folder()).glob("*.yaml") if file.stem not in ("base", "waivers")
        )
    )


def read(environment: str, where: Path | None = None) -> Declared:
    """One environment, its overlays laid over their base; BadInput says what is wrong and where."""
    where = where or folder()
    if environment not in environments(where):
        raise BadInput(
            f"there is no environment {environment!r}", hint=did_you_mean(environment, environments(where))
        )
    declared = read_file(where / f"{environment}.yaml")
    if declared.architecture.environment != environment:
        raise BadInput(
            f"the file is named {environment} but says {declared.architecture.environment!r}",
            place=declared.place("environment"),
        )
    return declared


def read_file(file: Path) -> Declared:
    """One file and what it extends, wherever it is."""
    own = folder().parent  # files of the checkout share what is below environments/; any other, its folder
    document = load_overlaid(file, within=own if file.resolve().is_relative_to(own.resolve()) else None)
    return Declared(checked(Architecture, document), document)


def schema() -> dict[str, Any]:
    """The JSON Schema of architecture files, for editors: `# yaml-language-server: $schema=…`.

    Overlays leave keys out and take keys away with null, so that nothing is required at the top.
    """
    found = Architecture.model_json_schema()
    found["properties"]["extends"] = {"type": "string", "description": "the file that this one is laid over"}
    overlay: dict[str, Any] = _for_overlays(found)
    return overlay


def _for_overlays(node: Any) -> Any:
    if isinstance(node, list):
        return [_for_overlays(item) for item in node]
    if isinstance(node, dict):
        return {
            key: _for_overlays(value)
            for key, value in node.items()
            if key != "required" or not isinstance(value, list)
        }
    return node

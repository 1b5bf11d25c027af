"""What the objects of the API are once their chain is evaluated: frozen values, nothing that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ci.engine.chain import Call

__all__ = [
    "CacheVolume",
    "Container",
    "Directory",
    "ExecResult",
    "File",
    "Forward",
    "Host",
    "MountKind",
    "MountPoint",
    "Place",
    "Port",
    "Record",
    "Secret",
    "Service",
]


@dataclass(frozen=True)
class Place:
    """A path (no leading slash) in a tree of layers, lowest first."""

    layers: tuple[str, ...] = ()
    path: str = ""


@dataclass(frozen=True)
class Directory(Place):
    """A folder. It need not exist when it is the root of nothing."""


@dataclass(frozen=True)
class File(Place):
    """A file."""

    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A secret by name (`setSecret`) or URI; `mac` stands for its value in cache keys."""

    name: str
    uri: str = ""
    mac: str = ""
    cache_key: str = ""


@dataclass(frozen=True, kw_only=True)
class CacheVolume:
    """A folder that outlives runs."""

    key: str
    sharing: str = "SHARED"
    source: Directory | None = None
    owner: str = ""


class MountKind(StrEnum):
    """What a mount is of."""

    DIRECTORY = "directory"
    FILE = "file"
    CACHE = "cache"
    SECRET = "secret"  # noqa: S105
    TEMP = "temp"


@dataclass(frozen=True, kw_only=True)
class MountPoint:
    """A mount of a container; not part of its image."""

    kind: MountKind
    path: str
    place: Place = field(default_factory=Place)
    cache: CacheVolume | None = None
    secret: Secret | None = None
    owner: str = ""
    mode: int = 0o400
    size: int | None = None
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port that a container listens on."""

    port: int
    protocol: str = "TCP"
    description: str | None = None
    skip_check: bool = False


@dataclass(frozen=True, kw_only=True)
class ExecResult:
    """What the last command gave."""

    code: int
    said: str = ""
    """The id of what it printed, in the store; empty for nothing."""


@dataclass(frozen=True, kw_only=True)
class Forward:
    """A port that leads to one of the other side; without a frontend a tunnel takes a free one."""

    backend: int
    frontend: int | None = None


@dataclass(frozen=True, kw_only=True)
class Service:
    """A container to run in the background, and under which key one session runs it once."""

    container: Container
    args: tuple[str, ...]
    privileged: bool = False
    init: bool = True
    hostname: str = ""
    named: bool = False
    """Whether the pipeline gave the name: then it is one for the whole session."""
    key: str = ""
    tunnel: Service | None = None
    """Of a tunnel from this machine's loopback: what it leads to."""
    forwards: tuple[Forward, ...] = ()
    """Ports of a tunnel, or without one of the loopback, which is lent to steps as a service."""
    hosts: tuple[str, ...] = ()
    """Of what is lent: its addresses."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container: its tree, its image's config, and what surrounds its commands."""

    layers: tuple[str, ...] = ()
    image: Mapping[str, Any] = field(default_factory=dict)
    """The image's config object; its `config` part is what most fields change."""
    platform: str
    comments: tuple[str, ...] = ()
    """History of the layers made here: one text for each of the last layers."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[MountPoint, ...] = ()
    secret_env: tuple[tuple[str, Secret], ...] = ()
    services: tuple[tuple[str, Service], ...] = ()
    ports: tuple[Port, ...] = ()
    last: ExecResult | None = None
    ref: str = ""

    @property
    def config(self) -> dict[str, Any]:
        """The run part of the image's config, as a copy."""
        return dict(self.image.get("config") or {})

    @property
    def env(self) -> dict[str, str]:
        pairs = (item.partition("=") for item in self.config.get("Env") or ())
        return {name: value for name, _, value in pairs}


@dataclass(frozen=True)
class Host:
    """The machine that the session runs on."""


@dataclass(frozen=True)
class Record:
    """A small object that only has fields: a label, an environment variable, a port, a file's status."""

    fields: Mapping[str, Any]


Value = Container | Directory | File | Service | Secret | CacheVolume | Host | Record | Call

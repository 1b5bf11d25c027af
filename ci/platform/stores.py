"""Where state lives, for `va dr`: PostgreSQL, Redis and Blob Storage, in namespaces that do not touch.

`live` belongs to the platform, and its Redis is that of prod. `drill` is what a drill seeds, destroys
and restores. None of these parts comes up unless it is asked for by name; `va down` takes all of them away.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ci.errors import BadInput
from ci.files import new_file
from ci.platform.azurite import azurite
from ci.platform.instance import REGIONS, Instance
from ci.platform.part import Part
from ci.platform.postgres import postgres
from ci.platform.redis import BACKUP, own_redis, redis_folder

__all__ = ["ACCOUNT", "NAMESPACES", "Stores", "account_key", "store_parts", "stores"]

NAMESPACES = ("live", "drill")

ACCOUNT = "stvoiceassistantlocal"
"""The storage account's name, in both regions; `account_key` opens it."""


@dataclass(frozen=True, kw_only=True)
class Stores:
    """One namespace of stores: the names of its parts, and where each answers.

    The blobs of region `primary` are copied to region `secondary`, which outlives a loss of the first.
    """

    name: str
    folder: Path
    postgres_socket: Path
    """What libpq takes as the host: the folder of a socket that lets only this user in."""
    postgres_port: int
    redis_port: int
    redis_password: Path
    """What the user `BACKUP` logs in with."""
    redis_folder: Path
    """Where Redis looks for a dump.rdb as it starts."""
    storage_ports: tuple[int, int]

    @property
    def postgres(self) -> str:
        return self._part("postgres")

    @property
    def redis(self) -> str:
        return "redis prod" if self.name == NAMESPACES[0] else self._part("redis")

    @property
    def primary(self) -> str:
        return self._part(f"storage {REGIONS[0]}")

    @property
    def secondary(self) -> str:
        return self._part(f"storage {REGIONS[1]}")

    @property
    def parts(self) -> tuple[str, ...]:
        """All of them."""
        return self.postgres, self.redis, self.primary, self.secondary

    @property
    def postgres_folder(self) -> Path:
        """`data`, and `archive`: the write-ahead log, which outlives a loss of `data`."""
        return self.folder / "postgres"

    def _part(self, kind: str) -> str:
        return kind if self.name == NAMESPACES[0] else f"{self.name} {kind}"


def stores(place: Instance, name: str) -> Stores:
    """The namespace with that name; BadInput where there is none."""
    if name not in NAMESPACES:
        raise BadInput(f"there are no stores {name!r}", hint=f"known: {', '.join(NAMESPACES)}")
    number = NAMESPACES.index(name)
    folder = place.folder / "stores" / name
    live = number == 0
    return Stores(
        name=name,
        folder=folder,
        # Not in `folder`: the kernel takes no path of a socket that is longer than 107 characters.
        postgres_socket=Path("/run") / f"va-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}",
        postgres_port=place.postgres(number),
        redis_port=place.redis("prod") if live else place.store_redis(number),
        redis_password=place.redis_password(BACKUP),
        redis_folder=redis_folder(place, "redis prod" if live else f"{name} redis"),
        storage_ports=(place.storage(number, REGIONS[0]), place.storage(number, REGIONS[1])),
    )


def store_parts(place: Instance, own: Stores) -> Iterator[Part]:
    """The parts of a namespace, all of them on request."""
    yield postgres(
        place,
        name=own.postgres,
        home=own.postgres_folder,
        socket=own.postgres_socket,
        port=own.postgres_port,
    )
    if own.name != NAMESPACES[0]:
        yield own_redis(place, name=own.redis, port=own.redis_port)
    for name, port in zip((own.primary, own.secondary), own.storage_ports, strict=True):
        yield azurite(
            place,
            name=name,
            folder=own.folder / name.replace(" ", "-"),
            port=port,
            account=ACCOUNT,
            key=lambda: account_key(place),
        )


def account_key(place: Instance) -> str:
    """The key of `ACCOUNT`: made once for each platform; only this user can read it."""
    file = place.folder / "stores" / "account-key"
    if not file.exists():
        # Whole or not there: a run that is killed here must not leave an empty key for good.
        with new_file(file) as draft:
            draft.touch(mode=0o600)
            draft.write_text(base64.b64encode(secrets.token_bytes(64)).decode())
    return file.read_text()

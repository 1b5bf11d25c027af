"""What Helm itself keeps of its releases: Secrets of type helm.sh/release.v1, read as they are.

No `helm` process is asked, so nobody waits for one that is at work. A revision is the JSON of Helm's
`release.Release`, gzipped, in base64, and once more in base64 as every Secret is (helm.sh/helm/v3,
pkg/storage/driver/util.go); labels say name, status and version.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ci.errors import SystemUnavailable

__all__ = [
    "BACK", "FENCE", "IN_BETWEEN", "ONCE_RAN", "Revision", "Values", "given_up", "newest", "read_revision",
]  # fmt: skip

Values = Mapping[str, Any]

IN_BETWEEN = ("pending-install", "pending-upgrade", "pending-rollback", "uninstalling")
"""The statuses that Helm gives while it works: found when it does not, something killed it."""
ONCE_RAN = ("deployed", "superseded")
BACK = "back to revision"
"""How the description of a revision begins that goes back to an earlier one; Helm's own is `Rollback to`."""
FENCE = "fence"
"""Among the values: of the run that installed it, and nothing of what it is."""
_LARGEST = 64 * 2**20
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One revision of a Helm release. `values` are those that were given, without the chart's defaults.

    Nor with the fence: two of the same values are the same, whoever installed them.
    """

    name: str
    number: int
    status: str
    """Helm's word: deployed, failed, superseded, pending-upgrade, …"""
    updated: datetime
    description: str
    values: Values
    manifest: str = field(default="", repr=False)
    """What it installed, as YAML; hooks are not in it."""
    chart: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """As Helm keeps it: `metadata`, `values`, `schema`; the files of `templates` and `files` in base64."""
    tests: tuple[str, ...] = ()
    """The names of its hooks that `helm test` runs."""
    untouched: float = field(default=0.0, compare=False)
    """Seconds from when it was written last until it was read, both by the cluster's own clock; 0: not known.

    `updated` is of the clock of whoever installed it.
    """

    @property
    def release(self) -> str:
        """The name of our Release that it installed; empty when it was not us."""
        return str(self.values.get("release", ""))

    @property
    def deployed(self) -> bool:
        """Whether this revision is what runs."""
        return self.status == "deployed"

    @property
    def first_left(self) -> bool:
        """Whether it is a first installation that came to no end: nothing ran before, and it is removed."""
        return not self.deployed and (self.number == 1 or self.status == "pending-install")

    @property
    def put_back(self) -> bool:
        """Whether it made an earlier revision the current one again: by us, or by Helm's own roll-back."""
        return self.description.startswith((BACK, "Rollback to"))

    @property
    def in_between(self) -> bool:
        """Whether Helm was (or is) at work on it."""
        return self.status in IN_BETWEEN


def read_revision(secret: Mapping[str, Any], now: datetime | None = None) -> Revision:
    """The revision in a Secret of Helm's; SystemUnavailable names one that is damaged.

    `now` is the cluster's time, by which it is told how long the Secret is untouched.
    """
    try:
        release = _unpacked(secret)
        info = release["info"]
        return Revision(
            name=str(release["name"]),
            number=int(release["version"]),
            status=str(info["status"]),
            updated=_time(info.get("last_deployed") or ""),
            description=str(info.get("description") or ""),
            values={key: value for key, value in (release.get("config") or {}).items() if key != FENCE},
            chart=release.get("chart") or {},
            manifest=str(release.get("manifest") or ""),
            tests=tuple(str(hook["name"]) for hook in release.get("hooks") or () if _tests(hook)),
            untouched=max(0.0, (now - _written(secret["metadata"])).total_seconds()) if now else 0.0,
        )
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error, zlib.error) as error:
        name = (secret.get("metadata") or {}).get("name", "without a name")
        raise SystemUnavailable(
            f"what Helm keeps in the Secret {name} cannot be read",
            hint="kubectl delete it when another revision is deployed: Helm goes on with those that are left",
        ) from error


def given_up(secret: Mapping[str, Any]) -> dict[str, Any]:
    """The Secret of a revision that was left in between, as a failed one: Helm works on no other any more."""
    release = _unpacked(secret)
    was = release["info"]["status"]
    release["info"] |= {"status": "failed", "description": f"left {was}"}
    packed = base64.b64encode(gzip.compress(json.dumps(release).encode(), mtime=0))
    meta = secret["metadata"]
    return {
        **secret,
        "metadata": {**meta, "labels": {**(meta.get("labels") or {}), "status": "failed"}},
        "data": {**secret["data"], "release": base64.b64encode(packed).decode()},
    }


def newest(revisions: Iterable[Revision], name: str) -> Revision | None:
    """The newest revision of that Helm release, whatever its status; None when it is not installed.

    What was uninstalled with its history kept is not installed.
    """
    found = max((one for one in revisions if one.name == name), key=lambda one: one.number, default=None)
    return None if found is None or found.status == "uninstalled" else found


def _unpacked(secret: Mapping[str, Any]) -> dict[str, Any]:
    packed = base64.b64decode(base64.b64decode(secret["data"]["release"]))
    if packed[:2] == b"\x1f\x8b":
        unpacked = zlib.decompressobj(_GZIP)
        packed = unpacked.decompress(packed, _LARGEST)
    release: dict[str, Any] = json.loads(packed)
    return release


def _tests(hook: Mapping[str, Any]) -> bool:
    return "test" in (hook.get("events") or ())


def _written(meta: Mapping[str, Any]) -> datetime:
    """When the API server wrote it last (ObjectMeta.creationTimestamp, ManagedFieldsEntry.time)."""
    times = [meta.get("creationTimestamp"), *(one.get("time") for one in meta.get("managedFields") or ())]
    return max((_time(one) for one in times if one), default=datetime.max.replace(tzinfo=UTC))


def _time(text: str) -> datetime:
    """Go's RFC 3339, with nanoseconds; that of a revision which was never deployed is in year 1."""
    if text[:4] <= "0001":
        return datetime.fromtimestamp(0, UTC)
    return datetime.fromisoformat(text).astimezone(UTC)

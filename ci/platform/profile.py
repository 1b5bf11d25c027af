"""A Traffic Manager profile: what becomes of a probe, of a change, and who is answered. Nothing here acts.

The rules are Azure's (https://learn.microsoft.com/azure/traffic-manager/traffic-manager-monitoring and
…/traffic-manager-routing-methods), but for the interval of probes: on one machine it may be under 10 s.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ci.delivery.regions import Monitor

__all__ = [
    "Definition",
    "Probes",
    "Refused",
    "Steered",
    "answered",
    "as_json",
    "changed",
    "chosen",
    "endpoint_json",
    "named",
    "probed",
    "started",
]

_TYPE = "Microsoft.Network/trafficManagerProfiles"
_KIND = "ExternalEndpoints"
_MOST = 1000
_SERVES = (Monitor.ONLINE, Monitor.CHECKING, Monitor.UNMONITORED)


class Refused(Exception):
    """What Azure refuses: its code, and why."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Steered(BaseModel):
    """One endpoint: who it is, what is wanted of it, and how its last probes went."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    target: str
    """An address, or a host name."""
    priority: int = Field(ge=1, le=_MOST)
    weight: int = Field(default=1, ge=1, le=_MOST)
    enabled: bool = True
    monitor: Monitor = Monitor.CHECKING
    failures: int = 0
    """Probes that failed in a row."""


class Probes(BaseModel):
    """How endpoints are asked how they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["HTTP", "TCP"] = "HTTP"
    port: int
    path: str = "/"
    host: str = ""
    """The header of that name; empty: the target."""
    interval: float = Field(default=10.0, gt=0)
    """Seconds between two starts."""
    timeout: float = Field(default=9.0, gt=0)
    """Seconds."""
    tolerated: int = Field(default=3, ge=0, le=9)
    """Failures in a row that change nothing; one more does."""


class Definition(BaseModel):
    """A profile as it is set up; what is changed later is laid over its endpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """The resource id; its last word is the name."""
    fqdn: str
    ttl: int = Field(ge=0, le=2**31 - 1)
    routing: Literal["Priority", "Weighted"]
    probes: Probes
    endpoints: tuple[Steered, ...]


def started(endpoint: Steered) -> Steered:
    """An endpoint that nobody has asked yet how it is."""
    monitor = Monitor.CHECKING if endpoint.enabled else Monitor.DISABLED
    return endpoint.model_copy(update={"monitor": monitor, "failures": 0})


def probed(endpoint: Steered, *, well: bool, tolerated: int) -> Steered:
    """What a probe's end makes of an endpoint. One that was disabled meanwhile stays so."""
    if not endpoint.enabled:
        return endpoint
    if well:
        return endpoint.model_copy(update={"monitor": Monitor.ONLINE, "failures": 0})
    failures = endpoint.failures + 1
    monitor = Monitor.DEGRADED if failures > tolerated else endpoint.monitor
    return endpoint.model_copy(update={"monitor": monitor, "failures": failures})


def answered(endpoints: Sequence[Steered]) -> tuple[Steered, ...]:
    """Those that users may be sent to: the healthy, or all that are enabled when none is."""
    enabled = tuple(one for one in endpoints if one.enabled)
    return tuple(one for one in enabled if one.monitor in _SERVES) or enabled


def chosen(candidates: Sequence[Steered], routing: str) -> Steered | None:
    """The one that the next user gets; None when there is none to be had."""
    if not candidates:
        return None
    if routing == "Priority":
        return min(candidates, key=lambda one: one.priority)
    weights = [one.weight for one in candidates]
    return random.choices(candidates, weights)[0]  # noqa: S311  # nosec B311  # a spread, no secret


def named(endpoints: Sequence[Steered], name: str) -> Steered:
    """The endpoint of that name; Refused when there is none."""
    found = next((one for one in endpoints if one.name == name), None)
    if found is None:
        raise Refused("ResourceNotFound", f"The resource '{_KIND}/{name}' was not found.", 404)
    return found


def changed(endpoints: Sequence[Steered], name: str, wanted: Mapping[str, Any]) -> tuple[Steered, ...]:
    """The endpoints once that one has the `properties` of a PATCH; Refused, and then nothing is changed."""
    before = named(endpoints, name)
    update: dict[str, Any] = {}
    for key in ("priority", "weight"):
        value = wanted.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
            raise Refused("BadRequest", f"The {key} of endpoint '{name}' must be from 1 to {_MOST}.")
        update[key] = value
    status = wanted.get("endpointStatus")
    if status not in (None, "Enabled", "Disabled"):
        raise Refused(
            "BadRequest", f"The endpointStatus of '{name}' must be Enabled or Disabled: {status!r}."
        )
    if other := next(
        (one for one in endpoints if one.name != name and one.priority == update.get("priority")), None
    ):
        raise Refused("BadRequest", f"The priority {other.priority} is that of endpoint '{other.name}'.")
    after = before.model_copy(update=update)
    if status is not None and (status == "Enabled") != before.enabled:
        after = started(after.model_copy(update={"enabled": status == "Enabled"}))
    return tuple(after if one.name == name else one for one in endpoints)


def as_json(profile: Definition, endpoints: Sequence[Steered]) -> dict[str, Any]:
    """The profile as Azure Resource Manager shows it."""
    probes, name = profile.probes, profile.id.rpartition("/")[2]
    return {
        "id": profile.id,
        "name": name,
        "type": _TYPE,
        "location": "global",
        "properties": {
            "profileStatus": "Enabled",
            "trafficRoutingMethod": profile.routing,
            "dnsConfig": {"relativeName": name, "fqdn": profile.fqdn, "ttl": profile.ttl},
            "monitorConfig": {
                "profileMonitorStatus": _of_all(endpoints),
                "protocol": probes.protocol,
                "port": probes.port,
                "path": probes.path if probes.protocol == "HTTP" else None,
                "intervalInSeconds": probes.interval,
                "timeoutInSeconds": probes.timeout,
                "toleratedNumberOfFailures": probes.tolerated,
            },
            "endpoints": [endpoint_json(profile, one) for one in endpoints],
        },
    }


def endpoint_json(profile: Definition, one: Steered) -> dict[str, Any]:
    """One endpoint, as in the profile."""
    return {
        "id": f"{profile.id}/{_KIND}/{one.name}",
        "name": one.name,
        "type": f"{_TYPE}/{_KIND}",
        "properties": {
            "target": one.target,
            "endpointStatus": "Enabled" if one.enabled else "Disabled",
            "endpointMonitorStatus": str(one.monitor),
            "priority": one.priority,
            "weight": one.weight,
        },
    }


def _of_all(endpoints: Sequence[Steered]) -> str:
    monitors = {one.monitor for one in endpoints}
    for monitor, said in (
        (Monitor.DEGRADED, "Degraded"),
        (Monitor.ONLINE, "Online"),
        (Monitor.CHECKING, "CheckingEndpoints"),
    ):
        if monitor in monitors:
            return said
    return "Inactive"

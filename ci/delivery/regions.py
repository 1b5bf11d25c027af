"""How users find a region: the endpoints of a Traffic Manager profile, and who may be taken out of it.

    async with traffic_manager(profile, at=…, token=…) as traffic:
        await take_out(traffic, "westeurope")       # PolicyBlocked: the last one, or another is out already
        …
        await put_back(traffic, "westeurope")

Azure's own client speaks to Azure, or to the Traffic Manager of the embedded platform, which has the same
protocol and answers DNS itself: ci.platform.traffic_manager.

https://learn.microsoft.com/rest/api/trafficmanager/endpoints/update,
https://learn.microsoft.com/azure/traffic-manager/traffic-manager-monitoring.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ci import entra
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken
    from azure.mgmt.trafficmanager import TrafficManagerManagementClient

__all__ = [
    "Endpoint",
    "GlobalTraffic",
    "Monitor",
    "Profile",
    "may_go",
    "put_back",
    "take_out",
    "traffic_manager",
]

T = TypeVar("T")

_PROFILE = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.Network/trafficManagerProfiles/(?P<profile>[^/]+)",
    re.IGNORECASE,
)
_RETRIES, _CONNECT_SECONDS, _READ_SECONDS = 3, 5, 20
"""Of one question: a promotion that waits for Azure has deadlines of its own."""


class Monitor(StrEnum):
    """What Traffic Manager's probes say of an endpoint, in its own words."""

    CHECKING = "CheckingEndpoint"
    """Enabled, and not yet probed: it gets users."""
    ONLINE = "Online"
    DEGRADED = "Degraded"
    DISABLED = "Disabled"
    INACTIVE = "Inactive"
    """The profile is disabled."""
    STOPPED = "Stopped"
    UNMONITORED = "Unmonitored"
    """It always serves: nobody asks how it is."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One region as users may be sent to it."""

    region: str
    """The endpoint's name."""
    target: str
    """A host name or an address."""
    enabled: bool
    monitor: Monitor
    priority: int | None = None
    """From 1 to 1000, the smallest first; by this the routing method `Priority` chooses."""
    weight: int | None = None
    """From 1 to 1000; by this `Weighted` chooses."""

    @property
    def online(self) -> bool:
        """Whether users are sent there because it is known to be well."""
        return self.enabled and self.monitor in (Monitor.ONLINE, Monitor.UNMONITORED)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What users ask for one name, and whom they may get."""

    fqdn: str
    ttl: int
    """Seconds for which an answer is remembered, and so users still come to what was taken out."""
    routing: str
    interval: float
    """Seconds between two probes of an endpoint."""
    tolerated: int
    """Failures in a row that change nothing."""
    endpoints: tuple[Endpoint, ...]

    def endpoint(self, region: str) -> Endpoint:
        """The one of that name; BadInput lists the known ones."""
        for one in self.endpoints:
            if one.region == region:
                return one
        known = ", ".join(one.region for one in self.endpoints) or "none"
        raise BadInput(f"{self.fqdn} has no endpoint {region!r}", hint=f"it has {known}")


class GlobalTraffic(Protocol):
    """What sends users to regions."""

    async def look(self) -> Profile:
        """How it is now."""

    async def change(
        self,
        region: str,
        *,
        enabled: bool | None = None,
        priority: int | None = None,
        weight: int | None = None,
    ) -> Endpoint:
        """Change what is given and leave the rest; BadInput for what cannot be, before it is."""


async def take_out(traffic: GlobalTraffic, region: str) -> Profile:
    """Send no new users to a region; those who asked before still come for `ttl` seconds.

    Never the last that is online, and never a second one. Two who take out two regions at the same moment
    cannot both go on: each looks again afterwards, and takes its own step back. Returns how it is then.
    """
    before = await traffic.look()
    may_go(before, region)
    if not before.endpoint(region).enabled:
        return before
    await traffic.change(region, enabled=False)
    after = await traffic.look()
    try:
        may_go(after, region)
    except PolicyBlocked:
        await traffic.change(region, enabled=True)
        raise
    return after


async def put_back(traffic: GlobalTraffic, region: str) -> None:
    """Send users to a region again."""
    if not (await traffic.look()).endpoint(region).enabled:
        await traffic.change(region, enabled=True)


def may_go(profile: Profile, region: str) -> None:
    """PolicyBlocked when users have nowhere else to go, or a second region is out already."""
    profile.endpoint(region)
    others = [one for one in profile.endpoints if one.region != region]
    if not any(one.online for one in others):
        raise PolicyBlocked(
            f"{region} is the last region of {profile.fqdn} that could serve: it stays",
            hint="bring another one back first: va status",
        )
    if away := next((one for one in others if not one.online), None):
        how = "taken out" if not away.enabled else f"not online ({away.monitor})"
        raise PolicyBlocked(
            f"{region} stays with {profile.fqdn}: {away.region} is {how}, and two are never out at once",
            hint=f"once {away.region} is back, run the same command again",
        )


# Traffic Manager's own protocol --------------------------------------------------------------------------


@asynccontextmanager
async def traffic_manager(
    profile: str, *, at: str | None = None, token: Path | None = None
) -> AsyncIterator[GlobalTraffic]:
    """The profile with that resource id: of Azure, or of this machine's stand-in `at` an http address.

    The stand-in is shown what is in the file `token`. BadInput for what is no profile's id; what goes wrong
    later is SystemUnavailable (no answer, no right), BadInput (what Azure refuses, what is not there).
    """
    from azure.mgmt.trafficmanager import TrafficManagerManagementClient

    named = _PROFILE.fullmatch(profile)
    if named is None:
        raise BadInput(
            f"{profile!r} is no Traffic Manager profile's resource id",
            hint="/subscriptions/…/resourceGroups/…/providers/Microsoft.Network/trafficManagerProfiles/NAME",
        )
    options: dict[str, Any] = {
        "retry_total": _RETRIES,
        "connection_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
    }
    if at is not None:
        if not at.startswith("http://127.0.0.1:"):
            raise BadInput(f"{at} is no Traffic Manager of this machine", hint="only http://127.0.0.1:PORT")
        options |= {
            "base_url": at,
            "credential_scopes": ["http://local/.default"],
        }
    who = entra.credential() if at is None else _Shown(token)
    client = TrafficManagerManagementClient(who, named["subscription"], **options)
    try:
        # The SDK sends tokens over https only, unless it is told that this is a stand-in.
        yield _TrafficManager(client, named["group"], named["profile"], {"enforce_https": at is None})
    finally:
        client.close()


class _Shown:
    """Signs in to the stand-in: shows it what is in a file."""

    def __init__(self, token: Path | None) -> None:
        self._token = token

    def get_token(self, *_scopes: str, **_: Any) -> AccessToken:
        from azure.core.credentials import AccessToken

        return AccessToken(self._token.read_text() if self._token else "local", 2**40)


class _TrafficManager:
    def __init__(
        self, client: TrafficManagerManagementClient, group: str, name: str, options: dict[str, bool]
    ) -> None:
        self._client = client
        self._options = options
        self._group = group
        self._name = name

    async def look(self) -> Profile:
        found = await self._profile()
        return Profile(
            fqdn=str(found.dns_config.fqdn),
            ttl=int(found.dns_config.ttl),
            interval=float(found.monitor_config.interval_in_seconds or 30),
            tolerated=int(found.monitor_config.tolerated_number_of_failures or 0),
            routing=str(getattr(found.traffic_routing_method, "value", found.traffic_routing_method)),
            endpoints=tuple(map(_endpoint, found.endpoints or ())),
        )

    async def change(
        self,
        region: str,
        *,
        enabled: bool | None = None,
        priority: int | None = None,
        weight: int | None = None,
    ) -> Endpoint:
        found = await self._profile()
        kind = next((str(one.type) for one in found.endpoints or () if one.name == region), "")
        if not kind:
            raise BadInput(
                f"{self._name} has no endpoint {region!r}", hint="its endpoints bear regions' names"
            )
        status = None if enabled is None else "Enabled" if enabled else "Disabled"
        wanted = {"endpointStatus": status, "priority": priority, "weight": weight}
        body = {"properties": {key: value for key, value in wanted.items() if value is not None}}
        changed = await self._call(
            lambda: self._client.endpoints.update(
                self._group, self._name, kind.rpartition("/")[2], region, body, **self._options
            )
        )
        return _endpoint(changed)

    async def _profile(self) -> Any:
        return await self._call(lambda: self._client.profiles.get(self._group, self._name, **self._options))

    async def _call(self, function: Callable[[], T]) -> T:
        from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

        try:
            return await asyncio.to_thread(function)
        except ClientAuthenticationError as error:
            raise entra.not_let_in(error, f"the Traffic Manager profile {self._name}") from error
        except HttpResponseError as error:
            said = f"Traffic Manager says of {self._name}: {entra.said(error)}"
            if error.status_code in (400, 404, 409):
                raise BadInput(said, hint="nothing was changed") from error
            if error.status_code == 403:
                hint = "who asks needs the role Traffic Manager Contributor on the profile"
                raise SystemUnavailable(said, hint=hint) from error
            raise SystemUnavailable(said, hint="the same command asks again") from error
        except AzureError as error:
            raise SystemUnavailable(
                f"Traffic Manager does not answer about {self._name}: {entra.said(error)}",
                hint="the same command asks again",
            ) from error


def _endpoint(found: Any) -> Endpoint:
    return Endpoint(
        region=str(found.name),
        target=str(found.target or found.target_resource_id),
        enabled=found.endpoint_status == "Enabled",
        monitor=Monitor(found.endpoint_monitor_status or Monitor.CHECKING),
        priority=found.priority,
        weight=found.weight,
    )

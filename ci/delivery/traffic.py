"""How a target's requests are split between stable and canary: weights of its HTTPRoute (Gateway API v1).

The chart declares the route with all traffic to stable; a running promotion lays the canary's share over it
and takes it away again. A weight that is written is not yet one that is followed: `followed` sends requests
and reads which track answered (`x-va-track`), because only that says what users get.
"""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx

from ci.delivery.fence import ANNOTATION
from ci.errors import SystemUnavailable
from ci.trusted import trusted

if TYPE_CHECKING:
    from ci.delivery.cluster import Cluster

__all__ = [
    "TRACK_HEADER",
    "Services",
    "canary_weight",
    "followed",
    "on_stable",
    "probes_needed",
    "set_weight",
    "weighted",
]

Services = Mapping[str, str]
"""Each of stable's services that a route may split, and the canary's beside it."""

ROUTE = "voice"
TRACK_HEADER = "x-va-track"

_WRITES = 5
_PROBE = "/v1/sessions/probe"
_MISS = 1e-4
_AGAIN_SECONDS = 0.2
"""The chance that a probe of the split sees no answer of a track that does get its share."""


def canary_weight(route: dict[str, Any], services: Services) -> int:
    """Percent of the requests that the route sends to the canary's services; the most that any rule does."""
    canaries = set(services.values())
    most = 0
    for rule in route["spec"].get("rules", []):
        weights = [(backend["name"], backend.get("weight", 1)) for backend in rule.get("backendRefs", [])]
        if whole := sum(weight for _, weight in weights):
            part = sum(weight for name, weight in weights if name in canaries)
            most = max(most, round(100 * part / whole))
    return most


def weighted(route: dict[str, Any], services: Services, weight: int) -> dict[str, Any]:
    """The route with `weight` percent to the canary's services and the rest to stable's, in every rule.

    At 0 the canary is not in it at all, so that it can be removed. Whatever a rule says now, also one that
    names the canary alone, it becomes that.
    """
    changed = copy.deepcopy(route)
    stable_of = {canary: stable for stable, canary in services.items()}
    for rule in changed["spec"].get("rules", []):
        backends = rule.get("backendRefs") or []
        ours = [one for one in backends if one["name"] in services or one["name"] in stable_of]
        if not ours:
            continue
        model = next((one for one in ours if one["name"] in services), ours[0])
        stable = stable_of.get(model["name"], model["name"])
        canary = services[stable]
        others = [backend for backend in backends if backend not in ours]
        split = [model | {"name": stable, "weight": 100 - weight}]
        if weight:
            split.append(model | {"name": canary, "weight": weight})
        rule["backendRefs"] = split + others
    return changed


def on_stable(route: dict[str, Any], services: Services) -> bool:
    """Whether the route sends everything that is split to stable, and names the canary nowhere."""
    return bool(weighted(route, services, 0)["spec"] == route["spec"])


async def set_weight(
    cluster: Cluster, namespace: str, services: Services, weight: int, *, fence: int | None = None
) -> int:
    """Write the canary's weight (percent) into the target's route and return the one it had before.

    With whose `fence` it is: LeaseLost when the cluster knows a newer one. Nothing is written when it is so
    already. Without a route there is nothing to split: 0 when `weight` is 0, else SystemUnavailable.
    """
    for attempt in range(_WRITES):
        route = await cluster.route(ROUTE, namespace)
        if route is None:
            if weight == 0:
                return 0
            raise SystemUnavailable(
                f"{namespace} has no HTTPRoute {ROUTE!r} to split",
                hint="the stable release's chart makes it: helm history says what happened to it",
            )
        before = canary_weight(route, services)
        changed = weighted(route, services, weight)
        if changed["spec"] == route["spec"]:
            return before
        if fence is not None:
            meta = changed["metadata"]
            meta["annotations"] = {**(meta.get("annotations") or {}), ANNOTATION: str(fence)}
        try:
            await cluster.replace_route(changed)
            return before
        except SystemUnavailable as error:
            if attempt == _WRITES - 1 or "has been modified" not in error.message:
                raise
    raise AssertionError("the last attempt returns or raises")


def probes_needed(before: int, weight: int) -> int:
    """How many answers tell the new split from the old one: both tracks seen, and the shares told apart."""
    rarest = min((w for w in (weight, 100 - weight, before, 100 - before) if w > 0), default=100) / 100
    seen = math.log(_MISS) / math.log1p(-rarest) if rarest < 1 else 1
    gap = abs(weight - before) / 100
    told_apart = 4 / gap**2 if gap else 0
    return math.ceil(min(400, max(20, seen, told_apart)))


def follows(canary: int, stable: int, *, before: int, weight: int) -> bool:
    """Whether these answers came from the new split rather than the old one."""
    whole = canary + stable
    if not whole:
        return False
    if weight == 0:
        return canary == 0
    share = 100 * canary / whole
    return canary > 0 and abs(share - weight) <= abs(share - before)


async def followed(
    gateway: str,
    hostname: str,
    *,
    before: int,
    weight: int,
    timeout: float,
    transport: httpx.AsyncBaseTransport | None = None,
) -> float:
    """Wait until the gateway really splits the requests so, and return how long that took (seconds).

    Cheap requests are sent through the gateway (for a session that cannot be: refused before anything is
    looked up), and the tracks that answer are counted.
    SystemUnavailable after `timeout` seconds.
    """
    started = time.monotonic()
    count = probes_needed(before, weight)
    seen = "nothing answered"
    async with httpx.AsyncClient(
        base_url=gateway, transport=transport, timeout=5.0, verify=trusted()
    ) as http:

        async def ask() -> str:
            try:
                answer = await http.get(
                    _PROBE, headers={"Host": hostname}, extensions={"sni_hostname": hostname}
                )
                return str(answer.headers.get(TRACK_HEADER, ""))
            except httpx.HTTPError:
                return ""

        while True:
            tracks: list[str] = []
            for _ in range(0, count, 10):
                tracks += await asyncio.gather(*(ask() for _ in range(min(10, count - len(tracks)))))
            canary, stable = tracks.count("canary"), tracks.count("stable")
            # A busy gateway may leave some unanswered: those say nothing, but most have to say something.
            if canary + stable > count / 2 and follows(canary, stable, before=before, weight=weight):
                return time.monotonic() - started
            seen = (
                f"of {count} requests {canary} went to the canary and {stable} to stable, "
                f"{count - canary - stable} got no answer from either"
            )
            if time.monotonic() - started > timeout:
                raise SystemUnavailable(
                    f"the gateway {gateway} does not follow the weight {weight} % for {hostname}: {seen}",
                    hint="look at the status of the HTTPRoute and at the gateway's log",
                )
            await asyncio.sleep(_AGAIN_SECONDS)

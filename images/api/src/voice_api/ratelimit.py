"""How many sessions a client may create: GCRA, kept in Redis so that all replicas count together.

The generic cell rate algorithm (ITU-T I.371, annex A.1) stores one number per client, the theoretical arrival
time of its next request. It lets `burst` requests through at once, then one every `60 / per_minute` seconds.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voice_api.store import Redis

__all__ = ["Decision", "RateLimit", "client_key"]

# One key and the server's own clock: the script runs the same on a single Redis, a shard and a replica.
_GCRA = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval = tonumber(ARGV[1])
local tolerance = interval * tonumber(ARGV[2])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + interval
local wait = arrival - tolerance - now
if wait > 0 then
    return math.ceil(wait)
end
redis.call('SET', KEYS[1], string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000))
return 0
"""


@dataclass(frozen=True)
class Decision:
    """Whether a request may pass, and if not after how many seconds it may."""

    allowed: bool
    retry_after: float = 0.0


class RateLimit:
    """`per_minute` requests in the long run, `burst` at once, for each key."""

    def __init__(self, redis: Redis, *, per_minute: float, burst: int) -> None:
        self._script = redis.register_script(_GCRA)
        self._interval_us = 60_000_000 / per_minute
        self._burst = burst

    async def take(self, key: str) -> Decision:
        """Count one request of `key`. Raises redis.RedisError when Redis does not answer."""
        wait_us = await self._script(keys=[f"va:rate:{key}"], args=[self._interval_us, self._burst])
        return Decision(wait_us == 0, wait_us / 1_000_000)


def client_key(host: str | None) -> str:
    """Who a request is counted for: an IPv4 address, or the /64 an IPv6 address is in (one household)."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)

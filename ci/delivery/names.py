"""How users find a region: they ask DNS for a name, and remember the answer for as long as it says (its TTL).

names = Names("127.0.0.1", 5521)
await names.find(7, "voice-prod.trafficmanager.test")  # 10.200.1.2, for the next two seconds
"""

from __future__ import annotations

import asyncio
from time import monotonic

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from ci.delivery.load import Lost

__all__ = ["Names"]

_PATIENCE_SECONDS = 1.0
_ASKED = 2
"""Times: a datagram may be lost."""


class _User:
    """What is remembered is remembered for this one alone."""

    def __init__(self, server: str, port: int) -> None:
        self._server = server
        self._port = port
        self._known: dict[str, tuple[str, float]] = {}
        self._asking = asyncio.Lock()

    async def address(self, name: str) -> str:
        async with self._asking:
            address, until = self._known.get(name, ("", 0.0))
            if monotonic() >= until:
                address, ttl = await self._ask(name)
                self._known[name] = (address, monotonic() + ttl)
        return address

    async def _ask(self, name: str) -> tuple[str, int]:
        query = dns.message.make_query(name, dns.rdatatype.A)
        why = ""
        for _ in range(_ASKED):
            try:
                said = await dns.asyncquery.udp(query, self._server, _PATIENCE_SECONDS, self._port)
                if said.flags & dns.flags.TC:
                    said = await dns.asyncquery.tcp(query, self._server, _PATIENCE_SECONDS, self._port)
            except (dns.exception.DNSException, OSError, EOFError) as error:
                why = str(error) or type(error).__name__
                continue
            for found in said.answer:
                if found.rdtype in (dns.rdatatype.A, dns.rdatatype.CNAME):
                    return str(found[0]).rstrip("."), found.ttl
            raise Lost(f"{name}: {dns.rcode.to_text(said.rcode())}, no address")
        raise Lost(f"{name}: {self._server}:{self._port} does not say: {why}")


class Names:
    """Many users of one server, so that they do not all move at the same moment."""

    def __init__(self, server: str, port: int, *, users: int = 16) -> None:
        self._users = [_User(server, port) for _ in range(users)]

    async def find(self, number: int, name: str) -> str:
        """What that user has for a name: an address, or the host name that it stands for.

        There are only so many users, then the first one comes again. Lost, when there is none to be had.
        """
        return await self._users[number % len(self._users)].address(name)

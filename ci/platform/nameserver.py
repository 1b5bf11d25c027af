"""A DNS server for one name, whose answer is chosen anew each time, as Traffic Manager's are.

RFC 1035, 2308 (what is not there), 6891 (EDNS), 7766 (TCP).
Messages are read and written by dnspython. What it wrote is kept by the question's bytes and the answer's
choice, so that the same question costs a look into a table: thousands of users ask the same.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

__all__ = ["Answers", "listening"]

_KEPT = 4096
_HEADER = 12
_NEGATIVE_SECONDS = 1
_PAYLOAD = 1232  # what passes anywhere unfragmented: dnsflagday.net/2020
_IDLE_SECONDS = 10.0


class Answers:
    """What is answered to whoever asks for `fqdn`. `choose` gives a target each time: an address, or a host
    name; None when there is none to be had."""

    def __init__(self, fqdn: str, ttl: int, choose: Callable[[], str | None]) -> None:
        self._name = dns.name.from_text(fqdn)
        self._zone = self._name.parent()
        self._ttl = ttl
        self._choose = choose
        self._kept: dict[tuple[bytes, str | None], bytes] = {}

    def __call__(self, wire: bytes) -> bytes | None:
        """The answer to a message; None for what is no question at all, so that two servers never chat."""
        if len(wire) < _HEADER or wire[2] & 0x80:
            return None
        target = self._choose()
        key = (wire[2:], target)
        if (rest := self._kept.get(key)) is None:
            rest = self._written(wire, target)[2:]
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[key] = rest
        return wire[:2] + rest

    def _written(self, wire: bytes, target: str | None) -> bytes:
        if dns.opcode.from_flags(int.from_bytes(wire[2:4], "big")) != dns.opcode.QUERY:
            return _said(wire, dns.rcode.NOTIMP)
        try:
            asked = dns.message.from_wire(wire, ignore_trailing=True)
            answer = dns.message.make_response(asked, our_payload=_PAYLOAD)
        except (dns.exception.DNSException, ValueError):
            return _said(wire, dns.rcode.FORMERR)
        if len(asked.question) != 1:
            answer.set_rcode(dns.rcode.FORMERR)
        else:
            self._fill(answer, asked.question[0], target)
        return answer.to_wire(max_size=_PAYLOAD)

    def _fill(self, answer: dns.message.Message, asked: dns.rrset.RRset, target: str | None) -> None:
        if asked.rdclass != dns.rdataclass.IN or not asked.name.is_subdomain(self._zone):
            answer.set_rcode(dns.rcode.REFUSED)
            return
        answer.flags |= dns.flags.AA
        if asked.name == self._name and target is not None:
            kind, value = _record(target)
            if asked.rdtype in (kind, dns.rdatatype.ANY) or kind == dns.rdatatype.CNAME:
                found = dns.rrset.from_text(asked.name, self._ttl, dns.rdataclass.IN, kind, value)
                answer.answer.append(found)
                return
        if asked.name not in (self._name, self._zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        soa = f"{self._zone} nobody.invalid. 1 3600 600 86400 {_NEGATIVE_SECONDS}"
        answer.authority.append(dns.rrset.from_text(self._zone, _NEGATIVE_SECONDS, "IN", "SOA", soa))


def _said(wire: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """A header alone: who it is for, what was asked for, and what was wrong."""
    return wire[:2] + bytes([0x80 | wire[2] & 0x79, rcode]) + bytes(8)


def _record(target: str) -> tuple[dns.rdatatype.RdataType, str]:
    try:
        four = ipaddress.ip_address(target).version == 4
    except ValueError:
        return dns.rdatatype.CNAME, f"{target.rstrip('.')}."
    return (dns.rdatatype.A if four else dns.rdatatype.AAAA), target


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if (answer := self._answer(data)) is not None:
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def listening(
    answer: Callable[[bytes], bytes | None], *, port: int, address: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """Answer over UDP and TCP while the block runs; yields the port, a free one for 0."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # One that is silent, ends in the middle, or asks nothing, is let go of.
        with suppress(OSError, EOFError, TimeoutError):
            while True:
                async with asyncio.timeout(_IDLE_SECONDS):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    said = answer(await reader.readexactly(size))
                    if said is None:
                        break
                    writer.write(len(said).to_bytes(2, "big") + said)
                    await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, address, port)
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    try:
        datagrams, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(answer), local_addr=(address, port)
        )
        try:
            yield port
        finally:
            datagrams.close()
    finally:
        server.close()

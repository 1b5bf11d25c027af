"""Names for steps: those of the session's services, and a door to this machine's resolver, wherever that is.

Many programs ask the same question at once (an installer for each of fifty packages), which small resolvers
answer by losing some. The same question is asked once at a time here, and again soon when it is lost; its
answer serves for a moment. Messages are passed on as they are (RFC 1035, 4.1): only the id, their first two
bytes, is each asker's own.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from ci.concurrency import within

__all__ = ["Resolver", "answered", "nameservers", "search_domains"]

_ATTEMPT_SECONDS = 1.0
_ATTEMPTS = 9
_AT_ONCE = 256
"""Questions of one asker that are under way; each may hold a socket. What more it asks is lost, as on any
network."""
_SERVES_SECONDS = 5.0
_HEADER = 12
_A = b"\0\1"
_OWN_SECONDS = 1
_FALLBACK = "127.0.0.1"
"""What resolv.conf(5) means when it names none."""


def nameservers() -> list[str]:
    """This machine's resolvers, in order."""
    found: list[str] = []
    with suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                found.append(words[1])
    return found or [_FALLBACK]


def search_domains() -> list[str]:
    """The domains in which this machine looks for a name (resolv.conf(5): the last line that says so)."""
    found: list[str] = []
    with suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            words = line.split()
            if words[:1] in (["search"], ["domain"]):
                found = [word.rstrip(".").lower() for word in words[1:]]
    return found


class Resolver(asyncio.DatagramProtocol):
    """Answers on a socket of steps' network until it is closed."""

    def __init__(self) -> None:
        self._answers: dict[bytes, tuple[float, asyncio.Task[bytes]]] = {}
        self._asked: dict[asyncio.Task[None], str | object] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self.names: dict[str, str] = {}
        """Names that are answered here, in small letters, and their addresses."""

    async def serve(self, door: socket.socket) -> None:
        """Serve on a bound UDP socket."""
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=door)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's: the socket is ours now."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        """asyncio's: a question."""
        busy = sum(asker == addr[0] for asker in self._asked.values())
        if len(data) > _HEADER and busy < _AT_ONCE:
            task = asyncio.ensure_future(self._answer(data, addr))
            self._asked[task] = addr[0]
            task.add_done_callback(self._asked.pop)

    async def close(self) -> None:
        if self._transport:
            self._transport.close()
        tasks = [*self._asked, *(task for _, task in self._answers.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, question: bytes, asker: tuple[str | object, int]) -> None:
        if own := answered(question, self.names):
            if self._transport:
                self._transport.sendto(own, asker)
            return
        now = time.monotonic()
        for known, (until, task) in list(self._answers.items()):
            if until < now and task.done():
                del self._answers[known]
        key = question[2:]
        if key not in self._answers:
            task = asyncio.ensure_future(_asked(question))
            self._answers[key] = (now + _SERVES_SECONDS, task)
        # Without an answer there is none: the asker's own time limit is what it goes by.
        with suppress(OSError, TimeoutError):
            answer = await asyncio.shield(self._answers[key][1])
            if self._transport:
                self._transport.sendto(question[:2] + answer[2:], asker)


def answered(question: bytes, names: Mapping[str, str]) -> bytes:
    """The answer (RFC 1035, 4.1) to a question for one of the names, alone or with a domain of this machine's
    search list, which is what programs try first; empty for one that is not ours."""
    labels, at = [], _HEADER
    while at < len(question) and (size := question[at]):
        labels.append(question[at + 1 : at + 1 + size].decode("ascii", errors="replace").lower())
        at += 1 + size
    kind, end = question[at + 1 : at + 3], at + 5
    if not names or question[4:6] != b"\0\1" or len(question) < end:
        return b""
    asked = ".".join(labels)
    mine = [asked, *(asked.removesuffix(f".{domain}") for domain in search_domains())]
    if not (address := next((names[name] for name in mine if name in names), "")):
        return b""
    found = kind == _A
    flags = bytes([question[2] & 1 | 0x84, 0x80])
    head = question[:2] + flags + struct.pack(">4H", 1, int(found), 0, 0) + question[_HEADER:end]
    record = b"\xc0\x0c" + _A + b"\0\1" + struct.pack(">IH", _OWN_SECONDS, 4)
    return head + (record + socket.inet_aton(address) if found else b"")


async def _asked(question: bytes) -> bytes:
    """What this machine's resolvers answer, asked in turns."""
    loop = asyncio.get_running_loop()
    servers = nameservers()
    for attempt in range(_ATTEMPTS):
        server = servers[attempt % len(servers)]
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as connection, suppress(OSError, TimeoutError):
            connection.setblocking(False)
            await loop.sock_connect(connection, (server, 53))  # answers of nobody else are taken
            mark = secrets.token_bytes(2)
            async with within(_ATTEMPT_SECONDS):
                await loop.sock_sendall(connection, mark + question[2:])
                while True:
                    answer = await loop.sock_recv(connection, 65535)
                    if answer[:2] == mark and len(answer) >= _HEADER:
                        return answer
    raise TimeoutError

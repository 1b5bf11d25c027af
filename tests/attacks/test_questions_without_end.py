"""A step asks for names faster than anybody answers: it takes neither sockets nor others' answers."""

from __future__ import annotations

import asyncio
import socket

import pytest

from ci.engine import resolver


def test_one_asker_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def slow(question: bytes) -> bytes:
        asked.append(question)
        if b"quick" not in question:
            await asyncio.sleep(60)
        return question

    monkeypatch.setattr(resolver, "_asked", slow)

    async def main() -> bytes:
        served = resolver.Resolver()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
            door.setblocking(False)
            door.bind(("127.0.0.1", 0))
            await served.serve(door)
            for number in range(5000):
                served.datagram_received(b"id" + number.to_bytes(12, "big"), ("10.213.2.0", 1))
            await asyncio.sleep(0)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_sendto(other, b"ID" + b"quick question", door.getsockname())
                answer = await asyncio.wait_for(loop.sock_recv(other, 100), 10)
            await served.close()
        return answer

    assert asyncio.run(main()) == b"IDquick question"
    assert len(asked) < 1000

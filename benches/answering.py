"""How many questions the name server of regions answers for a second of one core, whatever else runs."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import dns.message

from benches.measure import Figure
from ci import places
from ci.platform.instance import Instance
from ci.platform.nameserver import Answers, listening
from ci.platform.traffic_manager import Manager, definition

__all__ = ["answering"]

_NAME = "voice-prod.trafficmanager.test"
_SECONDS = 3.0
_AT_ONCE = 50
_WANTED = 5000


def answering() -> list[Figure]:
    """Questions by UDP, fifty under way at once, as fast as they are answered."""
    command = [sys.executable, "-m", "benches.answering"]
    env = {**os.environ, "PYTHONPATH": str(places.checkout())}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as server:
        assert server.stdin and server.stdout
        port = int(server.stdout.readline())
        answered = _asked(port)
        server.stdin.close()
        spent = float(json.loads(server.stdout.readline()))
    return [
        Figure(
            claim=f"time of a core for {_WANTED:,} answers of DNS",
            value=spent / answered * _WANTED,
            limit=1.0,
            unit="s",
            detail=f"{answered:,} answers took {spent:.2f} s: {answered / spent:,.0f} a second",
        )
    ]


def _asked(port: int) -> int:
    wire = dns.message.make_query(_NAME, "A", use_edns=0).to_wire()[2:]
    answered, number = 0, 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect(("127.0.0.1", port))
        asker.settimeout(1.0)
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            for _ in range(_AT_ONCE):
                number = (number + 1) % 65536
                asker.send(number.to_bytes(2, "big") + wire)
            for _ in range(_AT_ONCE):
                asker.recv(512)
                answered += 1
    return answered


async def _serve() -> None:
    place = Instance(number=0, folder=Path("/nowhere"), clusters=3)
    manager = Manager(definition(place), Path("/nowhere/changes.json"))
    async with listening(Answers(_NAME, 2, manager.choose), port=0) as port:
        print(port, flush=True)
        began = time.process_time()
        await asyncio.to_thread(sys.stdin.read)
        print(json.dumps(time.process_time() - began), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())

"""A step reads what the machine's loopback carries: the session's token is in each request on it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import dagger

if TYPE_CHECKING:
    from conftest import Machine

_SNIFF = """
import socket, time
try:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
except OSError as error:
    print("refused:", error)
else:
    wire.bind(("lo", 0))
    wire.settimeout(0.2)
    end, seen = time.time() + 4, b""
    while time.time() < end:
        try:
            seen += wire.recv(65536)
        except TimeoutError:
            pass
    print(seen)
"""


def test_a_step_hears_nothing_of_the_loopback(machine: Machine, python: Path) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> str:
        prepared = base.with_directory("/", client.host().directory(str(python))).with_new_file(
            "/a.py", _SNIFF
        )
        step = asyncio.ensure_future(prepared.with_exec(["/usr/bin/python3", "-S", "-E", "/a.py"]).stdout())
        number = 0
        while not step.done():  # each is a request with the token in it
            number += 1
            await client.directory().with_new_file("x", str(number)).entries()
            await asyncio.sleep(0.1)
        return await step

    heard = machine.run(pipeline)

    assert heard.startswith("refused: ") and "uthorization" not in heard

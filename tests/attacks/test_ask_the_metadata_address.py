"""A step asks the cloud who it is: a token of the machine's identity is the answer."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Machine


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Give the machine's token away, as the real one does."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a-token-of-the-machine")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(params=["169.254.169.254", "168.63.129.16"])
def metadata(request: pytest.FixtureRequest) -> Iterator[str]:
    """A metadata service, as far as this machine's programs can tell: its loopback has the address."""
    address: str = request.param
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    try:
        with HTTPServer((address, 80), _Answers) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield address
            server.shutdown()
    finally:
        subprocess.run(["ip", "address", "delete", f"{address}/32", "dev", "lo"], check=True)


def test_a_step_gets_no_token_of_the_machine(machine: Machine, metadata: str) -> None:
    said = machine.step(f"timeout 5 wget -qO- http://{metadata}/metadata/identity; echo ended with $?")

    assert "a-token-of-the-machine" not in said and "ended with 1" in said

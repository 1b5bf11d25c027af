"""A step calls what listens on this machine: on its loopback, on its other addresses, on abstract sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Machine


@contextlib.contextmanager
def _telling(family: int, address: tuple[str, int] | str) -> Iterator[socket.socket]:
    """A server that tells everybody a secret."""
    with socket.socket(socket.AddressFamily(family)) as server:
        server.bind(address)
        server.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as client:
                        client.sendall(b"HTTP/1.0 200 OK\r\n\r\nonly-for-this-machine")

        threading.Thread(target=serve, daemon=True).start()
        yield server
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def _addresses() -> list[str]:
    said = subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, text=True, check=True).stdout
    return [each["local"] for link in json.loads(said) for each in link.get("addr_info", ())]


@pytest.mark.parametrize("listens", ["127.0.0.1", "0.0.0.0"])
def test_a_step_finds_nobody_at_this_machine_s_addresses(machine: Machine, listens: str) -> None:
    with _telling(socket.AF_INET, (listens, 0)) as server:
        port = server.getsockname()[1]
        # Its own way out, too: slirp4netns and bridges answer for the machine at addresses like these.
        asked = {*_addresses(), "127.0.0.1", "0.0.0.0", "10.213.0.1", "10.213.0.2", "10.0.2.2", "172.17.0.1"}
        script = "\n".join(f"timeout 3 wget -qO- http://{one}:{port}/" for one in sorted(asked))
        gateway = "for each in $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); do "
        gateway += f"timeout 3 wget -qO- http://$each:{port}/; done"
        said = machine.step(f"{script}\n{gateway}\necho done")

    assert said.endswith("done\n") and "only-for-this-machine" not in said


def test_a_step_finds_no_abstract_socket(machine: Machine, python: Path) -> None:
    name = f"\0va-attack-{id(machine)}"
    script = f"""
import socket
s = socket.socket(socket.AF_UNIX)
try:
    s.connect({name!r})
    print(s.recv(100))
except OSError as error:
    print("refused:", error)
"""
    with _telling(socket.AF_UNIX, name):
        assert machine.python(script, python).startswith("refused: ")


def test_a_step_makes_no_socket_to_the_hypervisor(machine: Machine, python: Path) -> None:
    said = machine.python("import socket\nsocket.socket(40, socket.SOCK_STREAM)", python)

    assert "OSError" in said or "PermissionError" in said

"""Azure's own names on this machine: a proxy that leads each to its stand-in, over TLS and under that name.

`led_to` gives the environment in which real programs (httpx, azure-identity, cosign) find them: nothing else
of them is changed, and nobody's resolver is asked. Any other name is refused.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from cryptography import x509
from listening import certified, listening

__all__ = ["led_to"]


@contextlib.contextmanager
def led_to(folder: Path, names: Mapping[str, int], *trusted: Path) -> Iterator[dict[str, str]]:
    """Each name leads to a port of 127.0.0.1 that speaks plain HTTP; `trusted` are more certificates."""
    context = certified(folder / "names.crt", "azure.test", *map(x509.DNSName, names))
    system = Path(ssl.get_default_verify_paths().openssl_cafile)
    bundle = [folder / "names.crt", *trusted, *([system] if system.is_file() else [])]
    (folder / "trusted.pem").write_text("\n".join(file.read_text() for file in bundle))

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Not on a test's output."""

        def do_CONNECT(self) -> None:
            port = names.get(self.path.removesuffix(":443"))
            self.close_connection = True
            if port is None:
                self.send_error(502, "no such name here")
                return
            self.send_response(200)
            self.end_headers()
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.connection, server_side=True) as inside,
                socket.create_connection(("127.0.0.1", port)) as there,
            ):
                _joined(inside, there)

    with listening(Proxy) as port:
        yield {
            "HTTPS_PROXY": f"http://127.0.0.1:{port}",
            "NO_PROXY": "127.0.0.1,localhost",
            "SSL_CERT_FILE": str(folder / "trusted.pem"),
            "REQUESTS_CA_BUNDLE": str(folder / "trusted.pem"),
        }


def _joined(one: ssl.SSLSocket, other: socket.socket) -> None:
    """What each says goes to the other, until one has said all."""
    while True:
        ready = [one] if one.pending() else select.select([one, other], [], [], 60)[0]
        if not ready:
            return
        for each in ready:
            said = each.recv(2**16)
            if not said:
                return
            (other if each is one else one).sendall(said)

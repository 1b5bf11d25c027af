"""Azure's own names on this machine: a proxy that leads each to its stand-in, over TLS and under that name.

`led_to` gives the environment in which real programs (httpx, azure-identity, cosign) find them: nothing else
of them is changed, and nobody's resolver is asked. Any other name is refused.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["led_to"]


@contextlib.contextmanager
def led_to(folder: Path, names: Mapping[str, int], *trusted: Path) -> Iterator[dict[str, str]]:
    """Each name leads to a port of 127.0.0.1 that speaks plain HTTP; `trusted` are more certificates."""
    context = _tls(folder, names)
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield {
            "HTTPS_PROXY": f"http://127.0.0.1:{server.server_port}",
            "NO_PROXY": "127.0.0.1,localhost",
            "SSL_CERT_FILE": str(folder / "trusted.pem"),
            "REQUESTS_CA_BUNDLE": str(folder / "trusted.pem"),
        }
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


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


def _tls(folder: Path, names: Mapping[str, int]) -> ssl.SSLContext:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "azure.test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(called)
        .issuer_name(called)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "names.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    (folder / "names.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "names.crt", folder / "names.key")
    return context

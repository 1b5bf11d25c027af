"""Azure Key Vault's part of signing, on 127.0.0.1, for real programs: only their environment is set.

`serve()` is three things on one port: a proxy that answers CONNECT itself, behind it the vault with TLS and a
certificate of its name, and the endpoint where a managed identity gets its token.

Wire: https://learn.microsoft.com/rest/api/keyvault/keys (get key, sign); App Service's IDENTITY_ENDPOINT.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from listening import certified, listening

__all__ = ["KeyVault"]

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384"}


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _number(value: int, size: int = 0) -> str:
    return _b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


@dataclass
class KeyVault:
    """A vault with one key, and what it was asked. With `refuses`, whoever asks may not."""

    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    name: str = "voice.vault.azure.net"
    refuses: bool = False
    asked: list[str] = field(default_factory=list)

    def answer(
        self, method: str, path: str, body: bytes, token: str, issued: Collection[str]
    ) -> tuple[int, dict[str, Any]]:
        """Status and document of one request to the vault itself."""
        words = [word for word in path.partition("?")[0].split("/") if word]
        self.asked.append(f"{method} {'/'.join(words)}")
        if token not in issued:
            return 401, {"error": {"code": "Unauthorized", "message": "AKV10000: no token"}}
        if self.refuses:
            return 403, {"error": {"code": "Forbidden", "message": "Caller is not authorized to sign"}}
        if method == "GET" and words[:2] == ["keys", "release"]:
            return 200, {"key": self._public(), "attributes": {"enabled": True}}
        if method == "POST" and words[:2] == ["keys", "release"] and words[-1] == "sign":
            asked = json.loads(body)
            digest = base64.urlsafe_b64decode(asked["value"] + "==")
            return 200, {"kid": self._kid, "value": _b64(self._sign(asked["alg"], digest))}
        return 404, {"error": {"code": "KeyNotFound", "message": f"{path} is not in this key vault"}}

    @property
    def _kid(self) -> str:
        return f"https://{self.name}/keys/release/1"

    def _public(self) -> dict[str, Any]:
        public = self.key.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            return {"kid": self._kid, "kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
        size, at = public.curve.key_size // 8, public.public_numbers()
        curve = _CURVES[public.curve.name]
        # A key that a hardware module keeps says so by its type.
        return {
            "kid": self._kid,
            "kty": "EC-HSM",
            "crv": curve,
            "x": _number(at.x, size),
            "y": _number(at.y, size),
        }

    def _sign(self, algorithm: str, digest: bytes) -> bytes:
        """Of an elliptic curve: both numbers side by side, not DER."""
        hashed = Prehashed(_HASHES[algorithm[2:]])
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(digest, padding.PKCS1v15(), hashed)
        size = self.key.curve.key_size // 8
        return b"".join(
            number.to_bytes(size, "big")
            for number in decode_dss_signature(self.key.sign(digest, ec.ECDSA(hashed)))
        )

    def public_pem(self) -> bytes:
        """Of its key."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(serialization.Encoding.PEM, form)

    @contextmanager
    def plainly(self, issued: Sequence[str], tenant: str) -> Iterator[int]:
        """The vault alone, at a port where plain HTTP is spoken: whoever has a token of Entra's is let in."""
        with listening(self._handler(issued, tenant)) as port:
            yield port

    def _handler(self, issued: Collection[str], tenant: str) -> type[BaseHTTPRequestHandler]:
        """Who shows one of these tokens, now or issued later, is let in."""
        vault = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Not on a test's output."""

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                code, document = vault.answer(self.command, self.path, body, token, issued)
                content = json.dumps(document).encode()
                self.send_response(code)
                if code == 401:
                    where = f'Bearer authorization="https://login.example/{tenant}"'
                    self.send_header("WWW-Authenticate", f'{where}, resource="https://vault.azure.net"')
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815

        return Handler

    @contextmanager
    def serve(self, folder: Path) -> Iterator[dict[str, str]]:
        """The environment of a program that asks this vault, as a machine with a managed identity."""
        vault, token, header = self, secrets.token_urlsafe(16), secrets.token_urlsafe(8)
        context = certified(folder / "ca.pem", self.name, x509.DNSName(self.name))

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Not on a test's output."""

            def send(self, code: int, document: dict[str, Any], **more: str) -> None:
                content = json.dumps(document).encode()
                self.send_response(code)
                for name, value in {**more, "Content-Length": str(len(content))}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(content)

        inside_tls = self._handler((token,), "t")

        class Proxy(Answers):
            def do_CONNECT(self) -> None:
                if self.path != f"{vault.name}:443":
                    return self.send(502, {})
                self.send_response(200)
                self.end_headers()
                with context.wrap_socket(self.connection, server_side=True) as inside:
                    inside_tls(inside, self.client_address, self.server)
                self.close_connection = True
                return None

            def do_GET(self) -> None:
                if self.headers.get("X-IDENTITY-HEADER") != header:
                    return self.send(401, {})
                return self.send(
                    200,
                    {
                        "access_token": token,
                        "expires_on": str(int(time.time()) + 3600),
                        "resource": "https://vault.azure.net",
                        "token_type": "Bearer",
                    },
                )

        with listening(Proxy) as port:
            url = f"http://127.0.0.1:{port}"
            yield {
                "HTTPS_PROXY": url,
                "NO_PROXY": "",
                "SSL_CERT_FILE": str(folder / "ca.pem"),
                "IDENTITY_ENDPOINT": f"{url}/token",
                "IDENTITY_HEADER": header,
            }

"""Who a job of GitHub Actions is, on 127.0.0.1: the runner's endpoint for OIDC tokens, and Entra, which
takes them.

`Identities` plays both, each on a port of its own; Entra over TLS, for azure-identity speaks to nothing else.
`environment` is what a job would find in its environment.

Wire: "Requesting the JWT", docs.github.com; the OAuth 2.0 client credentials flow with a federated
credential, learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from listening import certified, listening

__all__ = ["LOGIN", "Identities"]

LOGIN = "login.microsoftonline.com"
_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class Identities:
    """`subject` is the job's; Entra trusts `trusted` for the one application. `broken` answers come first."""

    subject: str = "repo:o/r:environment:publish"
    trusted: str = "repo:o/r:environment:publish"
    tenant: str = "11111111-1111-1111-1111-111111111111"
    client: str = "22222222-2222-2222-2222-222222222222"
    life: int = 3600
    broken: list[tuple[int, bytes]] = field(default_factory=list)
    token_tenant: str = ""
    """Whose tokens Entra gives, said in them; plain words when empty."""
    groups: tuple[str, ...] = ()
    """The groups of Entra that a token says its holder is in."""
    issuer: str = ""
    """What those tokens are issued by: its keys are told, as OpenID Connect's Discovery has it."""
    refusal: str = ""
    """What Entra says no with."""
    given: list[str] = field(default_factory=list)
    """The audiences that tokens of GitHub were given for."""
    scopes: list[str] = field(default_factory=list)
    """What Entra gave tokens for."""
    issued: list[str] = field(default_factory=list)
    """The tokens of Entra; several jobs may share the list."""
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0
    """Where both are without TLS."""

    def metadata(self, path: str) -> dict[str, object] | None:
        """What Entra says of itself, under its own name, to a program that asks before it signs in."""
        here = f"https://{LOGIN}/{self.tenant}"
        if path.startswith("/common/discovery/instance"):
            known = {"preferred_network": LOGIN, "preferred_cache": LOGIN, "aliases": [LOGIN]}
            found = f"{here}/v2.0/.well-known/openid-configuration"
            return {"tenant_discovery_endpoint": found, "metadata": [known]}
        if path.startswith(f"/{self.tenant}/v2.0/.well-known/openid-configuration"):
            ends = {"token_endpoint": "oauth2/v2.0/token", "authorization_endpoint": "oauth2/v2.0/authorize"}
            return {"issuer": f"{here}/v2.0", **{name: f"{here}/{end}" for name, end in ends.items()}}
        return None

    def token(self, number: int, scope: str, key: ec.EllipticCurvePrivateKey) -> str:
        """The access token number so much."""
        if not self.token_tenant:
            return f"entra-{number}"
        now = datetime.now(UTC)
        claims = {
            "iss": self.issuer, "aud": scope.removesuffix("/.default"), "iat": now, "jti": str(number),
            "exp": now + timedelta(seconds=self.life), "tid": self.token_tenant, "oid": self.client,
            "groups": self.groups,
        }  # fmt: skip
        return jwt.encode(claims, key, algorithm="ES256")

    def told(self, path: str, key: ec.EllipticCurvePrivateKey) -> object | None:
        """What Entra says to everybody of who issues its tokens; None of anything else."""
        issuer = urlsplit(self.issuer)
        own = {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }
        public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        keys = {"keys": [{**public, "use": "sig", "alg": "ES256"}]}
        return {
            f"{issuer.path}/.well-known/openid-configuration": own,
            f"{issuer.path}/keys": keys,
        }.get(path)

    @contextmanager
    def serve(self, folder: Path) -> Iterator[Identities]:
        key, secret = ec.generate_private_key(ec.SECP256R1()), secrets.token_urlsafe(16)

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Not on a test's output."""

            def answer(self, code: int, content: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self) -> None:
                """GitHub: who holds the job's secret gets a token for the audience that is asked for."""
                named = self.headers.get("Host", "") == LOGIN
                told = identities.metadata(self.path) if named else identities.told(self.path, key)
                if told is not None:
                    return self.answer(200, json.dumps(told).encode())
                if identities.broken:
                    return self.answer(*identities.broken.pop(0))
                (audience,) = parse_qs(urlsplit(self.path).query)["audience"]
                if self.headers["Authorization"] != f"Bearer {secret}":
                    return self.answer(401, b"{}")
                identities.given.append(audience)
                now = datetime.now(UTC)
                claims = {
                    "sub": identities.subject,
                    "aud": audience,
                    "iat": now,
                    "exp": now + timedelta(minutes=5),
                }
                value = jwt.encode(claims, key, algorithm="ES256")
                return self.answer(200, json.dumps({"count": 1, "value": value}).encode())

            def do_POST(self) -> None:
                """Entra: a token of GitHub that it trusts is worth one of the application."""
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                assert self.path == f"/{identities.tenant}/oauth2/v2.0/token", self.path
                assert form["grant_type"] == ["client_credentials"]
                assert form["client_assertion_type"] == [_BEARER]
                said = jwt.decode(
                    form["client_assertion"][0],
                    key.public_key(),
                    algorithms=["ES256"],
                    audience="api://AzureADTokenExchange",
                )
                error = identities.refusal
                if said["sub"] != identities.trusted or form["client_id"] != [identities.client]:
                    error = (
                        "AADSTS700213: No matching federated identity record found for presented assertion"
                    )
                if error:
                    return self.answer(
                        401, json.dumps({"error": "invalid_client", "error_description": error}).encode()
                    )
                identities.scopes += form["scope"]
                count = len(identities.issued) + 1
                identities.issued.append(identities.token(count, form["scope"][0], key))
                given = {
                    "token_type": "Bearer",
                    "expires_in": identities.life,
                    "access_token": identities.issued[-1],
                }
                return self.answer(200, json.dumps(given).encode())

        identities = self
        certificate = folder / "entra.crt"
        # A name of its own: whoever trusts several finds each one's key by it.
        called = f"entra-{secrets.token_hex(4)}.test"
        tls = certified(certificate, called, x509.IPAddress(ip_address("127.0.0.1")))
        with listening(Handler) as github, listening(Handler, tls) as entra:
            self.issuer = f"https://127.0.0.1:{entra}/{self.tenant}/v2.0"
            self.port = github
            self.environment = {
                "ACTIONS_ID_TOKEN_REQUEST_URL": f"http://127.0.0.1:{github}/token?api-version=2.0",
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN": secret,
                "AZURE_AUTHORITY_HOST": f"https://127.0.0.1:{entra}",
                "AZURE_CLIENT_ID": self.client,
                "AZURE_TENANT_ID": self.tenant,
                "REQUESTS_CA_BUNDLE": str(certificate),
            }
            yield self

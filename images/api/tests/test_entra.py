"""Tokens of a workload identity, against a small server that answers as Entra ID does."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from voice_api.entra import POSTGRESQL, EntraUnavailable, Tokens
from voice_api.settings import DatabaseSettings


@dataclass
class Entra:
    url: str = ""
    status: int = 200
    seconds: int = 3600
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)


@pytest.fixture
def entra() -> Iterator[Entra]:
    server = Entra()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = urllib.parse.parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode())
            server.asked.append((self.path, dict(form)))
            said: dict[str, object] = {"error": "invalid_client", "error_description": "secret things"}
            if server.status == 200:
                said = {"access_token": f"token-{len(server.asked)}", "expires_in": server.seconds}
            body = json.dumps(said).encode()
            self.send_response(server.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server.url = f"http://127.0.0.1:{listener.server_port}/"
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield server
        listener.shutdown()


def settings(entra: Entra, file: Path) -> DatabaseSettings:
    return DatabaseSettings(
        database_entra=True,
        azure_client_id="client",
        azure_tenant_id="tenant",
        azure_federated_token_file=file,
        azure_authority_host=entra.url,
    )


def test_the_service_accounts_token_is_exchanged_once_for_many(entra: Entra, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("of-the-service-account")

    async def twice() -> list[str]:
        tokens = Tokens(settings(entra, file), POSTGRESQL)
        return [*await asyncio.gather(tokens.token(), tokens.token()), await tokens.token()]

    assert asyncio.run(twice()) == ["token-1"] * 3
    ((path, form),) = entra.asked
    assert path == "/tenant/oauth2/v2.0/token"
    assert form == {
        "grant_type": "client_credentials",
        "client_id": "client",
        "scope": POSTGRESQL,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": "of-the-service-account",
    }


def test_a_token_that_ends_soon_is_not_used_again(entra: Entra, tmp_path: Path) -> None:
    file, entra.seconds = tmp_path / "token", 299
    file.write_text("one")

    async def twice() -> list[str]:
        tokens = Tokens(settings(entra, file), POSTGRESQL)
        first = await tokens.token()
        file.write_text("two")
        return [first, await tokens.token()]

    assert asyncio.run(twice()) == ["token-1", "token-2"]
    assert [form["client_assertion"] for _, form in entra.asked] == ["one", "two"]


def test_a_refusal_is_told_by_its_code_alone(entra: Entra, tmp_path: Path) -> None:
    file, entra.status = tmp_path / "token", 401
    file.write_text("hush-hush")
    with pytest.raises(EntraUnavailable, match=r"^401 invalid_client$"):
        asyncio.run(Tokens(settings(entra, file), POSTGRESQL).token())


def test_a_pod_without_an_identity_is_told_at_its_start() -> None:
    with pytest.raises(ValueError, match="no workload identity"):
        DatabaseSettings(database_entra=True)

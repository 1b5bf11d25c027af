from __future__ import annotations

import asyncio
import base64
import json
import urllib.parse
from pathlib import Path

import httpx
import pytest

from ci.errors import BadInput
from ci.registry import Registry, log_in, password_auth
from ci.registry import login as login_module

_PASSWORD = "not-to-be-seen"


def config(folder: Path, auths: object) -> None:
    (folder / "config.json").write_text(json.dumps({"auths": auths}))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


class Guarded(httpx.AsyncBaseTransport):
    """A registry that wants a token, and the realm that gives one; keeps who asked for it."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token" and request.method == "POST":
            self.asked.append(request.content.decode())
            return httpx.Response(200, json={"access_token": "t"})
        if request.url.path == "/token":
            self.asked.append(request.headers.get("Authorization"))
            return httpx.Response(200, json={"token": "t"})
        if request.headers.get("Authorization") == "Bearer t":
            return httpx.Response(200)
        challenge = 'Bearer realm="https://r.example/token",service="r",scope="repository:db:pull"'
        return httpx.Response(401, headers={"WWW-Authenticate": challenge})


def who_asks(monkeypatch: pytest.MonkeyPatch, endpoint: str = "r.example") -> str | None:
    world = Guarded()
    monkeypatch.setattr(
        login_module,
        "password_auth",
        lambda user, password, **kept: password_auth(user, password, world, **kept),
    )

    async def main() -> None:
        async with Registry(endpoint, auth=log_in(endpoint), transport=world) as registry:
            await registry.ping()

    asyncio.run(main())
    (asked,) = world.asked
    return asked


def test_a_login_of_docker_is_used_for_its_registry_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    basic = base64.b64encode(f"me:{_PASSWORD}".encode()).decode()
    config(folder, {"r.example": {"auth": basic}, "https://other.example": {"auth": basic}})
    assert who_asks(monkeypatch) == f"Basic {basic}"
    assert who_asks(monkeypatch, "other.example") == f"Basic {basic}"
    assert who_asks(monkeypatch, "third.example") is None


@pytest.mark.parametrize("entry", [{}, {"auth": None}, {"auth": ""}])
def test_user_and_password_may_stand_beside_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, entry: dict[str, object]
) -> None:
    config(folder, {"r.example": {**entry, "username": "me", "password": _PASSWORD}})
    assert who_asks(monkeypatch) == f"Basic {base64.b64encode(f'me:{_PASSWORD}'.encode()).decode()}"


def test_an_identity_token_is_what_signs_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `docker login` and `az acr login` leave it: a user, no password, and a refresh token."""
    user = base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode()
    config(folder, {"r.example": {"auth": user, "identitytoken": _PASSWORD}})
    asked = dict(urllib.parse.parse_qsl(who_asks(monkeypatch) or ""))
    assert asked.pop("client_id")
    assert asked == {
        "grant_type": "refresh_token",
        "refresh_token": _PASSWORD,
        "service": "r",
        "scope": "repository:db:pull",
    }


def test_without_a_login_a_token_is_asked_for_as_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert who_asks(monkeypatch) is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": {"r.example": {"auth": "%%%"}}}',
        '{"auths": {"r.example": {"auth": 5}}}',
        '{"auths": {"r.example": "%%%"}}',
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_its_content_is_not(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text.replace("%%%", "\x00%" + _PASSWORD))
    with pytest.raises(BadInput, match=r"config\.json") as caught:
        log_in("r.example")
    assert _PASSWORD not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"

"""Dashboards, put into a Grafana that asks for Entra's token as Azure's does, where Azure says that it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from job_identity import Identities
from listening import listening

from ci.architecture import model
from ci.architecture.cost import what_if
from ci.architecture.dashboards import dashboards
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure import standin
from ci.azure.connection import connect
from ci.azure.grafana import deploy
from ci.errors import BadInput, SystemUnavailable
from ci.reporting import SilentReporter

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
DEV = model.read("dev").architecture
NAME = name(DEV, "grafana")


class Grafana:
    """What it has by uid, and what goes wrong with it."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.url, self.status = tokens, "", 200
        self.boards: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, int] = {}

    def take(self, path: str, token: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if token not in self.tokens:
            return 401, {"message": "Unauthorized"}
        if self.status != 200:
            return self.status, {"message": "no"}
        assert path == "/api/dashboards/db"
        uid = body["dashboard"]["uid"]
        if uid in self.boards and not body["overwrite"]:
            return 412, {"status": "name-exists"}
        self.boards[uid] = body["dashboard"]
        self.versions[uid] = self.versions.get(uid, 0) + 1
        return 200, {"uid": uid, "url": f"/d/{uid}", "version": self.versions[uid], "status": "success"}


@pytest.fixture
def grafana(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Grafana]:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("RUNNER_TEMP", raising=False)
    with Identities().serve(tmp_path) as identities:
        for variable, value in identities.environment.items():
            monkeypatch.setenv(variable, value)
        made = Grafana(identities.issued)

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Not on a test's output."""

            def do_POST(self) -> None:
                said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                code, answer = made.take(self.path, token, said)
                content = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        with listening(Handler) as port:
            made.url = f"http://127.0.0.1:{port}"
            yield made


def _world(endpoint: str | None) -> standin.StandIn:
    group = "rg-voiceassistant-dev-eastus"
    id_ = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Dashboard/grafana/{NAME}"
    world = standin.StandIn()
    if endpoint is not None:
        world.groups[group.lower()] = {"name": group, "location": "eastus"}
        world.resources[id_.lower()] = {"id": id_, "name": NAME, "properties": {"endpoint": endpoint}}
    return world


def run(world: standin.StandIn, architecture: Architecture = DEV) -> tuple[str, ...]:
    async def main() -> tuple[str, ...]:
        async with (
            standin.serve(world) as endpoint,
            connect(SUBSCRIPTION, endpoint=endpoint, poll=0.01) as azure,
        ):
            return await deploy(azure, architecture, SilentReporter())

    return asyncio.run(main())


def test_every_dashboard_is_there_and_again_in_its_place(grafana: Grafana) -> None:
    for times in (1, 2):
        addresses = run(_world(f"{grafana.url}/"))
        assert addresses == tuple(f"{grafana.url}/d/voice-{one}" for one in dashboards())
        assert list(grafana.boards.values()) == list(dashboards().values())
        assert set(grafana.versions.values()) == {times}


@pytest.mark.parametrize(
    ("spoil", "said", "hint"),
    [
        (
            lambda it: setattr(it, "status", 403),
            "did not take Voice Assistant: api: it answered 403",
            "Grafana Editor",
        ),
        (lambda it: setattr(it, "tokens", []), "it answered 401", "Grafana Editor"),
    ],
)
def test_a_missing_right_is_said(
    grafana: Grafana, spoil: Callable[[Grafana], object], said: str, hint: str
) -> None:
    spoil(grafana)
    with pytest.raises(SystemUnavailable, match=said) as refused:
        run(_world(grafana.url))
    assert hint in refused.value.hint and not grafana.boards


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        (None, "grafana-.*-dev is not there"),
        ("", "no https address"),
        ("http://x.test", "no https"),
    ],
)
def test_a_token_goes_only_where_a_grafana_is(grafana: Grafana, endpoint: str | None, said: str) -> None:
    with pytest.raises(SystemUnavailable, match=said):
        run(_world(endpoint))


def test_an_environment_without_one_says_so() -> None:
    without = what_if(model.read("dev"), ["monitoring.grafana=false"]).architecture
    with pytest.raises(BadInput, match="dev has no Grafana"):
        run(_world(None), without)

"""What the platform does while its API server is only just there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from ci.errors import SystemUnavailable
from ci.platform import _said_plainly, objects
from ci.platform.instance import Instance


def _api(*answers: tuple[str, ...]) -> tuple[httpx.AsyncClient, list[str]]:
    """An API server that serves these kinds, one look after the other, and what it was asked."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        kinds = answers[min(len(asked), len(answers) - 1)]
        asked.append(request.url.path)
        return httpx.Response(200, json={"resources": [{"name": kind} for kind in kinds]})

    return httpx.AsyncClient(base_url="http://api", transport=httpx.MockTransport(answer)), asked


def test_it_waits_for_every_kind_of_the_gateway_api_that_it_uses() -> None:
    api, asked = _api(
        ("httproutes",), ("httproutes", "gateways"), ("gateways", "gatewayclasses", "httproutes")
    )

    asyncio.run(objects._established(api))

    assert len(asked) == 3


def test_an_api_server_that_never_serves_it_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_ESTABLISHED_WITHIN", 0.0)
    api, _ = _api(("httproutes",))

    with pytest.raises(SystemUnavailable, match="does not serve the Gateway API"):
        asyncio.run(objects._established(api))


def test_a_part_that_is_too_busy_to_answer_is_said_plainly(tmp_path: Path) -> None:
    with (
        pytest.raises(SystemUnavailable, match="does not answer: no answer in time") as caught,
        _said_plainly(Instance(number=0, folder=tmp_path)),
    ):
        raise httpx.ReadTimeout("")
    assert "the same command goes on" in caught.value.hint

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import dagger
import pytest
from dagger.client import _session
from tiny_image import write_tiny_image

from ci.engine import session
from ci.engine.engine import Engine
from ci.engine.schema import query
from ci.engine.services import RunningServices
from ci.engine.store import Store
from ci.reporting import Reporter, SilentReporter


@pytest.fixture
def reporter() -> Reporter:
    """What a session of `run` tells, and whom."""
    return SilentReporter()


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reporter: Reporter
) -> Callable[[Callable[[dagger.Client], Awaitable[Any]]], Any]:
    """Run a piece of pipeline in a session whose working folder is tmp_path/work; needs root."""
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VA_ENGINE", "embedded")
    monkeypatch.delenv("DAGGER_SESSION_PORT", raising=False)
    # Plain HTTP: reading this machine's authorities takes as long as what most of these tests ask.
    monkeypatch.setattr(_session, "TelemetryTransport", partial(_session.TelemetryTransport, verify=False))
    (tmp_path / "work").mkdir()

    def go(pipeline: Callable[[dagger.Client], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with session(reporter, workdir=tmp_path / "work") as (client, engine):
                assert engine == "embedded"
                return await pipeline(client)

        return asyncio.run(main())

    return go


@pytest.fixture
def step(run: Any, tmp_path: Path) -> Any:
    """Run a piece of pipeline; it gets a client and the tiny image's container."""
    write_tiny_image(tmp_path / "work" / "tiny.tar")

    def go(pipeline: Callable[[dagger.Client, dagger.Container], Awaitable[Any]]) -> Any:
        async def whole(client: dagger.Client) -> Any:
            return await pipeline(client, client.container().import_(client.host().file("tiny.tar")))

        return run(whole)

    return go


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Answer a query in GraphQL, without the SDK, in a session of its own; all of them have one cache."""

    def answer(text: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        async def main() -> dict[str, Any]:
            store = Store(tmp_path / "store")
            engine = Engine(store, SilentReporter(), services=RunningServices, workdir=tmp_path)
            try:
                return await query(engine, text, variables)
            finally:
                await engine.close()
                store.close()

        return asyncio.run(main())

    return answer

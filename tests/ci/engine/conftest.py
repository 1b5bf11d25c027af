from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import dagger
import pytest

from ci.engine import session
from ci.reporting import SilentReporter


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[dagger.Client], Awaitable[Any]]], Any]:
    """Run a piece of pipeline in a session whose working folder is tmp_path/work; needs root."""
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VA_ENGINE", "embedded")
    monkeypatch.delenv("DAGGER_SESSION_PORT", raising=False)
    (tmp_path / "work").mkdir()

    def go(pipeline: Callable[[dagger.Client], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with session(SilentReporter(), workdir=tmp_path / "work") as (client, engine):
                assert engine == "embedded"
                return await pipeline(client)

        return asyncio.run(main())

    return go

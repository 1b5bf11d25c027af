"""Cache volumes: who shares them, who waits, and who must not. Needs root and runc."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import dagger
import pytest
from dagger import CacheSharingMode
from tiny_image import can_run_containers, write_tiny_image

from ci.engine import session, volumes
from ci.errors import BadInput
from ci.reporting import SilentReporter

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(can_run_containers()), reason=can_run_containers()),
    pytest.mark.timeout(120),
]


class _Notes(SilentReporter):
    def __init__(self) -> None:
        self.told: list[str] = []
        self.some = asyncio.Event()

    def note(self, text: str) -> None:
        self.told.append(text)
        self.some.set()


@pytest.fixture
def notes() -> _Notes:
    return _Notes()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: _Notes) -> Any:
    """Run a piece of pipeline; it gets a client and the tiny image's container."""
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VA_ENGINE", "embedded")
    monkeypatch.delenv("DAGGER_SESSION_PORT", raising=False)
    write_tiny_image(tmp_path / "tiny.tar")

    def go(pipeline: Callable[[dagger.Client, dagger.Container], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with session(notes, workdir=tmp_path) as (client, _):
                return await pipeline(client, client.container().import_(client.host().file("tiny.tar")))

        return asyncio.run(main())

    return go


def _with(
    client: dagger.Client, base: dagger.Container, sharing: CacheSharingMode, **paths: str
) -> dagger.Container:
    for path, key in paths.items():
        base = base.with_mounted_cache(f"/{path}", client.cache_volume(key), sharing=sharing)
    return base


def test_two_locked_volumes_in_any_order_and_one_of_them_twice(run: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> list[str]:
        orders = [{"a": "x", "b": "y"}, {"a": "y", "b": "x"}, {"a": "y", "b": "y"}, {"a": "x", "b": "x"}]
        script = "for each in a b; do mkdir /$each/mine || exit 1; rmdir /$each/mine; done; echo {}"
        steps = [
            _with(client, base, CacheSharingMode.LOCKED, **orders[number % 4]).with_exec(
                ["sh", "-c", script.format(number)]
            )
            for number in range(12)
        ]
        return list(await asyncio.gather(*(step.stdout() for step in steps)))

    assert run(pipeline) == [f"{number}\n" for number in range(12)]


def test_who_waits_for_a_volume_takes_no_slot_and_is_told_of(
    run: Any, notes: _Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "_TOLD_SECONDS", 0.1)

    async def pipeline(client: dagger.Client, base: dagger.Container) -> str:
        mounted = _with(client, base, CacheSharingMode.LOCKED, v="kept").with_mounted_cache(
            "/signal", client.cache_volume("signal")
        )
        ended = "until [ -e /signal/end ]; do sleep 0.05; done"
        holder = asyncio.ensure_future(mounted.with_exec(["sh", "-c", f"> /signal/held; {ended}"]).sync())
        shared = base.with_mounted_cache("/signal", client.cache_volume("signal"))
        await shared.with_exec(["sh", "-c", "until [ -e /signal/held ]; do sleep 0.05; done"]).sync()
        many = range(4 * (os.cpu_count() or 1) + 8)
        waiting = [asyncio.ensure_future(mounted.with_exec(["echo", str(number)]).sync()) for number in many]
        await notes.some.wait()
        free = await shared.with_exec(["sh", "-c", "> /signal/end; echo free"]).stdout()
        await asyncio.gather(holder, *waiting)
        return free

    assert run(pipeline) == "free\n"
    assert any("waits for the cache volume 'kept'" in note for note in notes.told)


def test_a_volume_that_a_service_of_the_command_has_locked(run: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        mounted = _with(client, base, CacheSharingMode.LOCKED, v="data")
        inner = mounted.as_service(args=["sleep", "100"])
        outer = base.with_service_binding("inner", inner).as_service(args=["sleep", "100"])
        await mounted.with_service_binding("outer", outer).with_exec(["true"]).sync()

    with pytest.raises(BadInput, match="'data' is LOCKED"):
        run(pipeline)


def test_commands_at_once_have_a_private_volume_each_and_the_next_has_one_of_them(run: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> tuple[list[str], str]:
        private = _with(client, base, CacheSharingMode.PRIVATE, v="own")
        meet = private.with_mounted_cache("/meet", client.cache_volume("meet"))
        script = (
            "echo {0} >> /v/said; > /meet/{0}; "
            "until [ -e /meet/1 ] && [ -e /meet/2 ]; do sleep 0.05; done; cat /v/said"
        )
        said = await asyncio.gather(
            *(meet.with_exec(["sh", "-c", script.format(number)]).stdout() for number in (1, 2))
        )
        return sorted(said), await private.with_exec(["cat", "/v/said"]).stdout()

    said, later = run(pipeline)
    assert said == ["1\n", "2\n"]
    assert later in said

    async def again(client: dagger.Client, base: dagger.Container) -> str:
        private = _with(client, base, CacheSharingMode.PRIVATE, v="own")
        return await private.with_exec(["sh", "-c", "cat /v/said; : again"]).stdout()

    assert run(again) in said

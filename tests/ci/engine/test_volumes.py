"""Cache volumes: who shares them, who waits, and who must not. Needs root and runc."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import dagger
import pytest
from dagger import CacheSharingMode
from tiny_image import can_run_containers

from ci.engine import volumes
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
def reporter(notes: _Notes) -> _Notes:
    return notes


def _with(
    client: dagger.Client, base: dagger.Container, sharing: CacheSharingMode, **paths: str
) -> dagger.Container:
    for path, key in paths.items():
        base = base.with_mounted_cache(f"/{path}", client.cache_volume(key), sharing=sharing)
    return base


def test_two_locked_volumes_in_any_order_and_one_of_them_twice(step: Any) -> None:
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

    assert step(pipeline) == [f"{number}\n" for number in range(12)]


def test_who_waits_for_a_volume_takes_no_slot_and_is_told_of(
    step: Any, notes: _Notes, monkeypatch: pytest.MonkeyPatch
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

    assert step(pipeline) == "free\n"
    assert any("waits for the cache volume 'kept'" in note for note in notes.told)


def test_a_volume_that_a_service_of_the_command_has_locked(step: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        mounted = _with(client, base, CacheSharingMode.LOCKED, v="data")
        inner = mounted.as_service(args=["sleep", "100"])
        outer = base.with_service_binding("inner", inner).as_service(args=["sleep", "100"])
        await mounted.with_service_binding("outer", outer).with_exec(["true"]).sync()

    with pytest.raises(BadInput, match="'data' is LOCKED"):
        step(pipeline)


def test_commands_at_once_have_a_private_volume_each_and_the_next_has_one_of_them(step: Any) -> None:
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

    said, later = step(pipeline)
    assert said == ["1\n", "2\n"]
    assert later in said

    async def again(client: dagger.Client, base: dagger.Container) -> str:
        private = _with(client, base, CacheSharingMode.PRIVATE, v="own")
        return await private.with_exec(["sh", "-c", "cat /v/said; : again"]).stdout()

    assert step(again) in said

"""Guard and lease on the embedded platform: real releases, pods, gateway, and a promoter that is killed.

The environment, the releases and the other process are those of test_promote.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator

import pytest
from test_promote import (
    NAMESPACE,
    Estate,
    another_process,
    estate,
    kubectl,
    promote,
    releases,
    stable,
    until_no_canary,
    weights,
)
from waiting import until

from ci.delivery import load
from ci.delivery.results import Outcome
from ci.errors import PolicyBlocked
from ci.release import Release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
__all__ = ["estate", "releases", "stable"]


def record() -> dict[str, str]:
    with contextlib.suppress(subprocess.CalledProcessError):
        found = json.loads(kubectl("-n", NAMESPACE, "get", "configmap", "va-guard", "-o", "json"))
        return dict(found.get("data") or {})
    return {}


def seconds_until_on_stable(since: float) -> float:
    until(lambda: weights() == [100], seconds=60, every=0.2)
    return time.monotonic() - since


@contextlib.asynccontextmanager
async def users(estate: Estate) -> AsyncIterator[load.Load]:
    async with estate.site() as site:
        target = site.target
        async with load.generate(
            target.gateway, target.hostname, rate=20, timeout=30, concurrency=12
        ) as running:
            yield running


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda one: one.name)
def test_a_promoter_that_is_gone_leaves_nobody_on_the_canary(
    stable: Release, estate: Estate, releases, number: signal.Signals
) -> None:
    before = record()

    async def run() -> tuple[float, load.Counts, str]:
        async with users(estate) as running, another_process(estate, releases["better"]) as (child, line):
            await line("✓ e2e/eastus: 30 % to the canary")
            assert weights()[0] < 100
            at = time.monotonic()
            child.send_signal(number)
            took = await asyncio.to_thread(seconds_until_on_stable, at)
            # The gateway follows a moment later; users go on.
            await asyncio.sleep(3)
            said = ""
            if number is signal.SIGSTOP:
                route = kubectl("-n", NAMESPACE, "get", "httproute", "voice", "-o", "json")
                child.send_signal(signal.SIGCONT)
                _, err = await asyncio.wait_for(child.communicate(), 60)
                said = err.decode()
                written = json.loads(kubectl("-n", NAMESPACE, "get", "httproute", "voice", "-o", "json"))
                assert written["spec"] == json.loads(route)["spec"]
        return took, running.counts, said

    took, counts, said = asyncio.run(run())
    print(f"{number.name}: all traffic on stable after {took:.1f} s, {counts}")
    assert took < 20
    assert counts.sent > 100 and (counts.lost, counts.failed) == (0, 0)
    until(lambda: record() not in ({}, before), seconds=10)
    assert "has not renewed its lease" in record()["why"] and record()["release"] == releases["better"].name
    if number is signal.SIGSTOP:
        assert "is not ours any more" in said

    result = promote(releases["better"])
    assert [target.outcome for target in result.targets] == [Outcome.PROMOTED]
    assert weights() == [100]
    until_no_canary(estate)


def test_a_canary_without_a_ready_pod_gives_its_traffic_back(
    stable: Release, estate: Estate, releases
) -> None:
    async def run() -> float:
        async with another_process(estate, releases["better"]) as (child, line):
            await line("✓ e2e/eastus: install the canary")
            until(lambda: weights()[0] < 100)
            at = time.monotonic()
            kubectl("-n", NAMESPACE, "scale", "deployment", "voice-canary-api", "--replicas=0")
            took = await asyncio.to_thread(seconds_until_on_stable, at)
            child.send_signal(signal.SIGINT)
            await asyncio.wait_for(child.communicate(), 120)
            return took

    took = asyncio.run(run())
    print(f"no ready pod: all traffic on stable after {took:.1f} s")
    assert took < 20 and "voice-canary-api" in record()["why"]


def test_a_second_promoter_is_told_who_is_at_work(
    stable: Release, estate: Estate, releases, tmp_path
) -> None:
    async def run() -> str:
        async with another_process(estate, releases["better"]) as (child, line):
            await line("✓ e2e/eastus: install the canary")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("VA_STATE", str(tmp_path / "another-machine"))
                with pytest.raises(PolicyBlocked) as error:
                    await asyncio.to_thread(promote, releases["bad"])
            child.send_signal(signal.SIGINT)
            await asyncio.wait_for(child.communicate(), 120)
            return str(error.value)

    said = asyncio.run(run())
    assert f"{NAMESPACE} is being worked on by" in said and "since" in said
    assert weights() == [100]

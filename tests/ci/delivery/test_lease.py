from __future__ import annotations

import asyncio
import copy
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ci.delivery import lease as room
from ci.delivery.lease import LASTS, Held, LeaseLost, hold, holder
from ci.errors import SystemUnavailable

NS = "va-prod-eastus"
BEGAN = datetime(2026, 11, 29, 20, 15, tzinfo=UTC)


class World:
    """One API server's Leases, and one clock for it and for those who ask."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.stored: dict[str, Any] | None = None
        self.version = 0
        self.down = False
        self.fence = 0
        self.maps: dict[str, dict[str, str]] = {}
        self.writes = 0

    def clock(self) -> float:
        return self.now

    async def lease(self, name: str, namespace: str) -> tuple[dict[str, Any] | None, datetime]:
        self._answer()
        return copy.deepcopy(self.stored), BEGAN + timedelta(seconds=self.now - 1000)

    async def write_lease(self, lease: dict[str, Any]) -> dict[str, Any] | None:
        self._answer()
        there = self.stored["metadata"]["resourceVersion"] if self.stored else None
        if lease["metadata"].get("resourceVersion") != there:
            return None
        self.version += 1
        self.writes += 1
        meta = {**lease["metadata"], "resourceVersion": str(self.version)}
        self.stored = {**copy.deepcopy(lease), "metadata": meta}
        return copy.deepcopy(self.stored)

    async def highest_fence(self, namespace: str) -> int:
        return self.fence

    async def config_map(self, name: str, namespace: str) -> dict[str, str] | None:
        return self.maps.get(name)

    def _answer(self) -> None:
        if self.down:
            raise SystemUnavailable("the cluster c does not answer")

    def hold(self, who: str = "anna on build-1", promotion: str = "p1"):
        return hold(self, NS, promotion=promotion, who=who, clock=self.clock)

    def edit(self, **spec: object) -> None:
        """As somebody else does."""
        assert self.stored is not None
        self.version += 1
        self.stored["metadata"]["resourceVersion"] = str(self.version)
        self.stored["spec"] |= spec


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(room, "_RENEW", 0.001)
    monkeypatch.setattr(room, "_AGAIN", 0.001)
    # Nobody of these is a process of this machine.
    monkeypatch.setattr(room, "_process", lambda pid: "")
    return World()


async def turns(world: World, writes: int) -> None:
    """Until it was renewed so many times more."""
    wanted = world.writes + writes
    async with asyncio.timeout(30):
        while world.writes < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_the_second_is_told_who_has_it_since_when_and_what_to_do(world: World) -> None:
    async def run() -> Held:
        async with world.hold():
            world.now += 3
            with pytest.raises(Held) as error:
                async with world.hold("bert on build-2"):
                    pytest.fail("both have it")
            return error.value

    said = asyncio.run(run())
    assert str(said) == f"{NS} is being worked on by anna on build-1 since 2026-11-29 20:15:00 UTC (p1)"
    assert "run the same command again" in said.hint and said.exit_code == 8
    assert (said.code, said.who, said.since, said.promotion) == ("held", "anna on build-1", BEGAN, "p1")


def test_it_is_free_at_once_when_its_holder_has_ended_and_the_fence_grows(world: World) -> None:
    async def run() -> list[int]:
        fences = []
        for who in ("anna", "bert", "anna"):
            async with world.hold(who) as lease:
                fences.append(lease.fence)
            assert await holder(world, NS) is None
        return fences

    assert asyncio.run(run()) == [1, 2, 3]


def test_one_that_was_removed_begins_above_all_that_was_written(world: World) -> None:
    world.fence = 41

    async def run() -> int:
        async with world.hold() as lease:
            return lease.fence

    assert asyncio.run(run()) == 42


def test_an_expired_one_is_taken_over_and_its_old_holder_notices(world: World) -> None:
    async def run() -> tuple[int, int]:
        async with world.hold() as first:
            world.down = True  # cut off: it cannot renew
            world.now += LASTS - 1
            world.down = False
            with pytest.raises(Held):
                await room._take(world, NS, "p2", "bert", world.clock)
            world.down = True
            world.now += 1
            with pytest.raises(LeaseLost, match="not renewed for 12 s"):
                first.check()
            world.down = False
            second = await room._take(world, NS, "p2", "bert", world.clock)
            await first._renew()
            with pytest.raises(LeaseLost, match="bert has it now"):
                first.check()
            now = await holder(world, NS)
            assert now is not None and (now.who, now.promotion, now.alive) == ("bert", "p2", True)
            return first.fence, second.fence

    fences: list[tuple[int, int]] = []
    with suppress(LeaseLost):  # if its block was still at work
        fences.append(asyncio.run(run()))
    assert fences in ([], [(1, 2)])
    assert world.stored is not None and world.stored["spec"]["holderIdentity"] == "bert"


def test_the_holder_stops_believing_before_others_may_take_it(world: World) -> None:
    async def run() -> None:
        async with world.hold() as lease:
            lease.check()
            world.down = True
            world.now += LASTS - 1.5
            with pytest.raises(LeaseLost):
                lease.check()
            world.down = False
            now = await holder(world, NS)
            assert now is not None and now.alive

    with suppress(LeaseLost):  # it stood still
        asyncio.run(run())


def test_a_process_that_was_stopped_past_the_end_finds_its_work_cancelled(world: World) -> None:
    async def run() -> str:
        async with world.hold():
            await turns(world, 2)
            world.now += LASTS + 30  # SIGSTOP, SIGCONT
            await asyncio.sleep(60)
        return "went on"

    with pytest.raises(LeaseLost, match="this process stood still for 42 s"):
        asyncio.run(run())


def test_one_that_somebody_took_ends_the_block_and_is_not_given_back(world: World) -> None:
    async def run() -> None:
        async with world.hold():
            await turns(world, 1)
            world.edit(holderIdentity="bert", leaseTransitions=9)
            await asyncio.sleep(60)

    with pytest.raises(LeaseLost, match="bert has it now"):
        asyncio.run(run())
    assert world.stored is not None
    assert world.stored["spec"]["holderIdentity"] == "bert"


def test_a_cancellation_of_somebody_else_stays_one(world: World) -> None:
    async def run() -> None:
        async with world.hold():
            await asyncio.sleep(60)

    async def cancelled() -> None:
        task = asyncio.create_task(run())
        await turns(world, 2)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert world.stored is not None and world.stored["spec"]["holderIdentity"] == ""


def test_a_label_that_a_person_sets_on_it_takes_it_from_nobody(world: World) -> None:
    async def run() -> None:
        async with world.hold() as lease:
            assert world.stored is not None
            world.edit()
            await turns(world, 2)
            lease.check()
            world.edit()
            await lease.confirm()

    asyncio.run(run())
    assert world.stored is not None and world.stored["spec"]["holderIdentity"] == ""


def test_an_api_server_that_was_away_for_longer_takes_it_from_nobody(world: World) -> None:
    """Nobody could take it then; only a process that stood still has to look anew."""

    async def run(acted: bool) -> None:
        lease = await room._take(world, NS, "p1", "anna", world.clock)
        world.down = True
        world.now += LASTS + 8
        await lease._renew()
        with pytest.raises(LeaseLost, match="does not answer"):
            lease.check()
        world.down = False
        if acted:
            world.maps["va-guard"] = {
                "time": "2026-11-29T20:15:20Z", "why": "w", "weight": "25", "fence": str(lease.fence),
            }  # fmt: skip
        await lease._renew()
        lease.check()

    asyncio.run(run(acted=False))
    world.edit(holderIdentity="")
    with pytest.raises(LeaseLost, match="the guard took all traffic to stable"):
        asyncio.run(run(acted=True))


def test_a_guard_that_took_the_traffic_away_ends_the_block_and_the_lease_is_free(world: World) -> None:
    async def run() -> None:
        async with world.hold() as lease:
            world.maps["va-guard"] = {
                "time": "2026-11-29T20:15:20Z", "why": "nobody renews the lease", "weight": "25",
                "fence": str(lease.fence),
            }  # fmt: skip
            await asyncio.sleep(60)

    said = f"{NS}: the guard took all traffic to stable at 2026-11-29 20:15:20 UTC, from 25 % on the canary"
    with pytest.raises(LeaseLost, match=said):
        asyncio.run(run())
    assert asyncio.run(holder(world, NS)) is None

    async def again() -> int:  # what it did for another one's canary stops nobody
        async with world.hold() as lease:
            await turns(world, 3)
            lease.check()
            return lease.fence

    assert asyncio.run(again()) == 2


def test_a_guard_that_acted_for_a_canary_without_pods_leaves_the_verdict_to_the_promoter(
    world: World,
) -> None:
    async def run() -> None:
        async with world.hold() as lease:
            world.maps["va-guard"] = {
                "time": "2026-11-29T20:15:20Z", "why": "no pod of voice-canary-web is ready", "weight": "25",
                "fence": str(lease.fence),
            }  # fmt: skip
            await turns(world, 3)
            lease.check()

    asyncio.run(run())


def test_confirm_asks_the_cluster(world: World) -> None:
    async def run() -> None:
        lease = await room._take(world, NS, "p1", "anna", world.clock)
        await lease.confirm()
        world.edit(holderIdentity="bert", leaseTransitions=2)
        lease.check()  # nobody has told it
        await lease.confirm()

    with pytest.raises(LeaseLost, match="bert has it now"):
        asyncio.run(run())


def test_two_at_once_get_one(world: World) -> None:
    async def one(who: str) -> str:
        try:
            await room._take(world, NS, "p", who, world.clock)
        except Held as error:
            return f"{who} waits for {error.who}"
        return f"{who} has it"

    async def run() -> list[str]:
        return list(await asyncio.gather(one("anna"), one("bert")))

    assert asyncio.run(run()) in (
        ["anna has it", "bert waits for anna"],
        ["anna waits for bert", "bert has it"],
    )


def test_a_process_of_this_machine_that_is_gone_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    own = room._process
    monkeypatch.setattr(room, "_process", lambda pid: own(child.pid if pid == room.os.getpid() else pid))

    async def run() -> int:
        await room._take(world, NS, "p1", "anna", world.clock)
        monkeypatch.setattr(room, "_process", own)
        with pytest.raises(Held):
            await room._take(world, NS, "p2", "bert", world.clock)
        child.kill()
        child.wait()
        return (await room._take(world, NS, "p2", "bert", world.clock)).fence

    try:
        assert asyncio.run(run()) == 2
    finally:
        child.kill()
        child.wait()


def test_times_are_as_kubernetes_reads_them(world: World) -> None:
    asyncio.run(room._take(world, NS, "p1", "anna", world.clock))
    assert world.stored is not None
    assert world.stored["spec"]["renewTime"] == "2026-11-29T20:15:00.000000Z"

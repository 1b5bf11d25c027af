"""Who works on a target: one promoter at a time, by a Kubernetes Lease in the target's namespace.

    async with hold(cluster, namespace, promotion="2026-11-29T2015-ab12", who="anna on build-1") as lease:
        lease.check()              # before each effect: LeaseLost when it is ours no more
        lease.fence                # goes with what is written: see ci.delivery.fence

It is renewed every few seconds while the block runs, and free at once when that ends. Whoever dies with it
loses it after `LASTS`. Each one who takes it has a higher fence (`leaseTransitions`) than all before.

Times in it are the cluster's (the Date of its answers), so that no two machines' clocks are compared. Whether
it is still ours is judged by a clock of this machine that also counts while we are stopped or asleep. The
holder believes in it for less long than everybody else does.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from ci.delivery import guard
from ci.errors import PolicyBlocked, SystemUnavailable

__all__ = ["LASTS", "NAME", "Held", "Holder", "Lease", "LeaseLost", "at_work", "hold", "holder", "promoter"]

NAME = "va-promotion"
LASTS = 12.0
"""Seconds without a renewal after which it is anybody's, and the guard takes traffic away from the canary."""
_RENEW = 3.0
_AGAIN = 1.0
_BELIEVED = LASTS - 2
"""Seconds: the cluster says its time in whole seconds, and an answer takes a while."""
_TRIES = 3
_WHO, _PROMOTION, _PROCESS = "va.dev/who", "va.dev/promotion", "va.dev/process"

_LEFT: set[tuple[str, int]] = set()
"""The namespaces and fences that this process has done with."""

Clock = Callable[[], float]


class Leases(Protocol):
    """What is asked of a cluster here (ci.delivery.cluster.Cluster is one)."""

    async def lease(self, name: str, namespace: str) -> tuple[dict[str, Any] | None, datetime]:
        """The Lease, None when there is none, and the cluster's time."""

    async def write_lease(self, lease: dict[str, Any]) -> dict[str, Any] | None:
        """Make or replace it; None when somebody else was first."""

    async def highest_fence(self, namespace: str) -> int:
        """The highest that stands on anything in the namespace; 0 when none does."""

    async def config_map(self, name: str, namespace: str) -> dict[str, str] | None:
        """Its data; None when there is none."""


class Held(PolicyBlocked):
    """Somebody else works on that target; nothing was touched."""

    code = "held"

    def __init__(self, namespace: str, holder: Holder) -> None:
        self.who, self.since, self.promotion = holder.who, holder.since, holder.promotion
        self.next_command = "run the same command again when it has ended"
        super().__init__(
            f"{namespace} is being worked on by {holder.who} since {holder.since:%Y-%m-%d %H:%M:%S} UTC"
            + (f" ({holder.promotion})" if holder.promotion else ""),
            hint=f"{self.next_command}; if it was killed, {LASTS:.0f} s after that it is free by itself",
        )


class LeaseLost(PolicyBlocked):
    """The target is not ours any more; nothing else was written. The same command goes on from there."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who has a target, as its Lease says."""

    who: str
    promotion: str
    since: datetime
    renewed: datetime
    fence: int
    alive: bool
    """Whether it was renewed in time: else whoever asks for it gets it."""
    process: str = ""
    """Which process of which machine."""


class Lease:
    """A target that is ours while `hold` lasts."""

    def __init__(
        self, cluster: Leases, written: dict[str, Any], *, asked: float, clock: Clock, server: datetime
    ) -> None:
        self._cluster, self._written, self._clock = cluster, written, clock
        self._renewed = asked
        # The cluster's time is this machine's steady clock and a constant.
        self._server = (asked, server)
        self._lost: LeaseLost | None = None
        self._trouble = ""

    @property
    def fence(self) -> int:
        """Higher than that of everybody who had the target before."""
        return int(self._written["spec"]["leaseTransitions"])

    @property
    def promotion(self) -> str:
        """What it was taken for."""
        return str(self._written["metadata"]["annotations"][_PROMOTION])

    @property
    def namespace(self) -> str:
        """Where it is."""
        return str(self._written["metadata"]["namespace"])

    def check(self) -> None:
        """LeaseLost when somebody else took it, or when it was not renewed in time. Asks nobody."""
        if self._lost is not None:
            raise self._lost
        if (late := self._clock() - self._renewed) > _BELIEVED:
            why = self._trouble or "this process stood still"
            raise self._gone(f"it was not renewed for {late:.0f} s: {why}")

    async def confirm(self) -> None:
        """As `check`, and the cluster says so: for what no fence can hold back, as a removal."""
        self.check()
        await self._again()
        self.check()

    async def keep(self, lost: Callable[[], object]) -> None:
        """Renew it until cancelled; `lost` is called once it is gone for good."""
        seen, pause = self._clock(), _RENEW
        while True:
            await asyncio.sleep(pause)
            if (stood := self._clock() - seen) > _BELIEVED:
                # Others may have worked here meanwhile: what we know of the target is not true any more.
                self._lost = self._gone(f"this process stood still for {stood:.0f} s")
            else:
                await self._renew()
            if self._lost is not None:
                lost()
                return
            seen, pause = self._clock(), _AGAIN if self._trouble else _RENEW

    async def give_back(self) -> None:
        """Leave it to whoever wants it next, if it is still ours."""
        with suppress(SystemUnavailable):  # then it ends by itself
            for _ in range(_TRIES):
                freed = self._changed({"holderIdentity": ""})
                if await self._cluster.write_lease(freed) is not None or not await self._again():
                    return

    async def _renew(self) -> None:
        asked = self._clock()
        try:
            lapsed = asked - self._renewed > _BELIEVED
            written = await self._cluster.write_lease(self._changed({"renewTime": _written(self._now())}))
            if written is None:
                await self._again()
                return
            self._written = written
            if not lapsed:
                self._renewed, self._trouble = asked, ""
            # It cannot take the lease, but nothing that is done here goes on without the canary's traffic.
            acted = await guard.record(self._cluster, self.namespace)
        except SystemUnavailable as error:
            self._trouble = error.message
            return
        # For a canary without a ready pod the promoter has lost nothing: it is to say that it failed.
        if acted is not None and acted.fence == self.fence and not acted.of_canary:
            self._lost = LeaseLost(
                f"{self.namespace}: {acted}", hint="run the same command again: it looks first, and goes on"
            )
        self._renewed, self._trouble = asked, ""

    async def _again(self) -> bool:
        """Read it anew, where somebody wrote it: whether it is still ours."""
        found, _ = await self._cluster.lease(NAME, self.namespace)
        spec = (found or {}).get("spec") or {}
        own = self._written["spec"]
        if all(spec.get(key) == own[key] for key in ("holderIdentity", "leaseTransitions")):
            assert found is not None
            self._written = found
            return True
        if self._lost is None:
            who = spec.get("holderIdentity") or "somebody who removed it or gave it back"
            self._lost = self._gone(f"{who} has it now")
        return False

    def _changed(self, spec: dict[str, Any]) -> dict[str, Any]:
        return {**self._written, "spec": {**self._written["spec"], **spec}}

    def _now(self) -> datetime:
        asked, server = self._server
        return server + timedelta(seconds=self._clock() - asked)

    def _gone(self, why: str) -> LeaseLost:
        return LeaseLost(
            f"{self.namespace} is not ours any more: {why}",
            hint="nothing else was written there; run the same command again: it looks first, and goes on",
        )


def _steady() -> float:
    """Seconds, also while this machine sleeps or the process is stopped; no clock that somebody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@asynccontextmanager
async def hold(
    cluster: Leases, namespace: str, *, promotion: str, who: str = "", clock: Clock = _steady
) -> AsyncIterator[Lease]:
    """Have the target in that namespace, which is there, to oneself while the block runs.

    Held when somebody else has it. When it is lost on the way, the block is cancelled where it waits, and
    LeaseLost comes out of it.
    """
    lease = await _take(cluster, namespace, promotion, who or promoter(), clock)
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    keeping = asyncio.create_task(lease.keep(task.cancel))
    try:
        yield lease
    except asyncio.CancelledError as error:
        if lease._lost is not None and task.uncancel() <= before:
            raise lease._lost from error
        raise
    finally:
        keeping.cancel()
        try:
            await asyncio.wait([keeping])
        except asyncio.CancelledError:
            if lease._lost is None:
                raise
            task.uncancel()  # it was lost when there was nothing left to be done
        _LEFT.add((namespace, lease.fence))
        await lease.give_back()


async def holder(cluster: Leases, namespace: str) -> Holder | None:
    """Who has the target in that namespace; None when nobody does."""
    found, now = await cluster.lease(NAME, namespace)
    return _holder(found, now) if found else None


async def at_work(cluster: Leases, namespace: str) -> Holder | None:
    """Who has the target in that namespace and is alive, so that nobody else gets it; None when nobody is."""
    there = await holder(cluster, namespace)
    return there if there is not None and _keeps(namespace, there) else None


def promoter() -> str:
    """Who we are, for the one who is told to wait: `anna on build-1, process 4711`, or a run on GitHub."""
    if run := os.environ.get("GITHUB_RUN_ID"):
        actor, repository = (os.environ.get(f"GITHUB_{one}", "") for one in ("ACTOR", "REPOSITORY"))
        return f"{actor}, run {run} of {repository}"
    return f"{getpass.getuser()} on {socket.gethostname()}, process {os.getpid()}"


async def _take(cluster: Leases, namespace: str, promotion: str, who: str, clock: Clock) -> Lease:
    for _ in range(_TRIES):
        asked = clock()
        found, now = await cluster.lease(NAME, namespace)
        there = _holder(found, now) if found else None
        if there is not None and _keeps(namespace, there):
            raise Held(namespace, there)
        if found is None:
            fence = await cluster.highest_fence(namespace) + 1
        else:
            fence = int(found["spec"].get("leaseTransitions") or 0) + 1
        meta = {"name": NAME, "namespace": namespace, "annotations": {}} | (found or {}).get("metadata", {})
        own = {_WHO: who, _PROMOTION: promotion, _PROCESS: _process(os.getpid())}
        wanted = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {**meta, "annotations": {**(meta.get("annotations") or {}), **own}},
            "spec": {
                "holderIdentity": who,
                "leaseDurationSeconds": int(LASTS),
                "acquireTime": _written(now),
                "renewTime": _written(now),
                "leaseTransitions": fence,
            },
        }
        written = await cluster.write_lease(wanted)
        if written is not None:
            return Lease(cluster, written, asked=asked, clock=clock, server=now)
    raise SystemUnavailable(
        f"several promoters want {namespace} at once", hint="va status says who has it; run it again"
    )


def _holder(lease: dict[str, Any], now: datetime) -> Holder | None:
    spec, annotations = lease.get("spec") or {}, lease["metadata"].get("annotations") or {}
    if not spec.get("holderIdentity"):
        return None
    renewed = _read(spec.get("renewTime"))
    lasts = float(spec.get("leaseDurationSeconds") or LASTS)
    return Holder(
        who=annotations.get(_WHO) or spec["holderIdentity"],
        promotion=annotations.get(_PROMOTION, ""),
        since=_read(spec.get("acquireTime")),
        renewed=renewed,
        fence=int(spec.get("leaseTransitions") or 0),
        alive=now < renewed + timedelta(seconds=lasts),
        process=annotations.get(_PROCESS, ""),
    )


def _keeps(namespace: str, there: Holder) -> bool:
    return there.alive and not (_ended(there.process) or _left(namespace, there))


def _process(pid: int) -> str:
    """Names a process for as long as this machine runs; empty when there is none of that number."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if started[0] in "ZX":
            return ""
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}/{pid}/{started[19]}"
    except OSError:
        return ""


def _left(namespace: str, there: Holder) -> bool:
    """Whether this very process had it, and could not give it back: the cluster did not answer then."""
    return (namespace, there.fence) in _LEFT and there.process == _process(os.getpid()) != ""


def _ended(process: str) -> bool:
    """Whether it was one of this machine, and is no more: then nobody has to wait for its lease to end."""
    own = _process(os.getpid())
    boot, _, rest = process.partition("/")
    space, _, rest = rest.partition("/")
    pid = rest.partition("/")[0]
    if not pid.isdigit() or not own.startswith(f"{boot}/{space}/"):
        return False
    return _process(int(pid)) != process


def _written(time: datetime) -> str:
    """As Kubernetes' MicroTime wants it: always with six digits."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _read(time: str | None) -> datetime:
    return datetime.fromisoformat(time) if time else datetime.fromtimestamp(0, UTC)

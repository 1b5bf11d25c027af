"""`python -m benches.promoting`: what a promotion costs beside what it waits for, told as JSON on stdout.

A cluster with a real API server, controllers and Helm, whose pods are only said to run, is a process of its
own (`serve FOLDER`). What proves a release stands in, so nothing of registries or signatures is in it.
`many ROOT` plans two hundred targets and watches them in one process, and tells its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_cluster import small_cluster
from small_estate import stand_in, va, whole, write_environment, write_release

from ci import environments, tools
from ci.delivery.cluster import connect
from ci.delivery.helm import Helm
from ci.delivery.promotion import run as loop
from ci.delivery.promotion.facts import look
from ci.delivery.promotion.watch import Watch
from ci.delivery.site import Site, open_site
from ci.reporting import SilentReporter
from pipelines import plan as planning
from pipelines import promote as flow

__all__ = ["main"]

MANY = 200
_LOOKS = 20
_RUNS = 3


@dataclass
class Clock:
    """Seconds of what is not a promotion's own, and from its last verdict until traffic was moved."""

    others: float = 0.0
    judged: float = 0.0
    moved: float = 0.0
    followed: float = 0.0

    def counts(self, work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The same, its seconds counted as others'."""

        async def timed(*words: Any, **more: Any) -> Any:
            started = time.perf_counter()
            try:
                return await work(*words, **more)
            finally:
                self.judged = time.perf_counter()
                self.others += self.judged - started

        return timed

    def sees(self, move: Callable[[Site, int], Awaitable[float]]) -> Callable[[Site, int], Awaitable[float]]:
        """The same; how long after a verdict it was over is known."""

        async def timed(site: Site, weight: int) -> float:
            judged, seconds = self.judged, await move(site, weight)
            self.moved = time.perf_counter() - judged
            self.followed += seconds
            return seconds

        return timed


@contextlib.contextmanager
def _cluster(folder: Path) -> Iterator[dict[str, str]]:
    folder.mkdir()
    words = [sys.executable, "-m", "benches.promoting", "serve", str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        try:
            yield json.loads(child.stdout.readline())
        finally:
            child.stdin.close()


def _serve(folder: Path) -> None:
    with small_cluster(folder) as small:
        small.fails_every["bad"] = 2
        print(json.dumps({"kubeconfig": str(small.server.kubeconfig), "gateway": small.gateway}), flush=True)
        sys.stdin.read()


async def _promoted() -> dict[str, float]:
    """Overhead of a good promotion, and from a bad one's verdict to all traffic on stable; seconds.

    Bakes, Helm (with the start of pods) and the gateway, until it was seen to follow, are others'.
    """
    clock = Clock()
    loop.bake = clock.counts(loop.bake)  # type: ignore[assignment]
    Helm.upgrade = clock.counts(Helm.upgrade)  # type: ignore[method-assign,assignment]
    Helm.uninstall = clock.counts(Helm.uninstall)  # type: ignore[method-assign,assignment]
    Helm.test = clock.counts(Helm.test)  # type: ignore[method-assign,assignment]
    Site.move = clock.sees(Site.move)  # type: ignore[method-assign]

    async def one(name: str) -> float:
        clock.others, clock.followed, started = 0.0, 0.0, time.perf_counter()
        await flow.promote(whole(name), "test", reporter=SilentReporter())
        return time.perf_counter() - started - clock.others

    await one("good")
    overhead, followed = await one("better") - clock.followed, clock.followed
    await one("bad")
    return {"overhead": overhead, "followed": followed, "back": clock.moved}


async def _facts(kubeconfig: Path, namespace: str) -> float:
    cluster = connect(kubeconfig, "va-eastus")
    taken = []
    for _ in range(_LOOKS):
        started = time.perf_counter()
        await look(cluster, namespace)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _timed(root: Path, state: Path, *words: str) -> tuple[float, float]:
    """Seconds of a command with Python's start, and of a processor."""
    line, env = va(root, state, *words)
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 8):
        sys.exit(done.stdout + done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, worked


def main() -> dict[str, float]:
    """All of it, but what is measured of one process."""
    asyncio.run(tools.ensure(["helm"], SilentReporter()))
    with tempfile.TemporaryDirectory(prefix="va-bench-") as made:
        folder = Path(made)
        state, root = folder / "state", folder / "environments"
        os.environ["VA_STATE"] = str(state)
        with _cluster(folder / "cluster") as there:
            kubeconfig, gateway = Path(there["kubeconfig"]), there["gateway"]
            write_environment(root, "dev", kubeconfig, gateway, {"eastus": "va-bench"}, drain="0s")
            stand_in(root, "promote")
            found = asyncio.run(_promoted())
            found["facts"] = asyncio.run(_facts(kubeconfig, "va-bench"))
            regions = dict.fromkeys(("eastus", "westeurope", "southeastasia"), "va-bench")
            for name in ("dev", "staging", "prod"):
                write_environment(root, name, kubeconfig, gateway, regions)
            write_release(state, "better")
            for name, words in {"status": ["status"], "plan": ["plan", "better"]}.items():
                seconds, worked = min(_timed(root, state, *words) for _ in range(_RUNS))
                found |= {name: seconds, f"{name}_worked": worked}
            many = folder / "many"
            each = {f"region{number}": "va-bench" for number in range(MANY)}
            write_environment(many, "prod", kubeconfig, gateway, each)
            words = [sys.executable, "-m", "benches.promoting", "many", str(many)]
            found |= json.loads(subprocess.check_output(words))
        return found


async def _many(root: Path) -> dict[str, float]:
    stand_in(root, "plan")
    started = time.perf_counter()
    made = await planning.plan(whole("better"), "test", reporter=SilentReporter())
    planned = time.perf_counter() - started
    assert len(made.targets) == MANY and all(one.runs for one in made.targets), made.targets[0]
    (environment,) = environments.read_environments("test", None, root)
    async with contextlib.AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(open_site(environment, one)) for one in environment.targets]
        watch = Watch(environment, sites)
        started = time.perf_counter()
        for _ in range(3):
            await watch.look()
        looked = (time.perf_counter() - started) / 3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"many": peak, "many_planned": planned, "many_looked": looked}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", folder]:
            _serve(Path(folder))
        case ["many", root]:
            json.dump(asyncio.run(_many(Path(root))), sys.stdout)
        case _:
            json.dump(main(), sys.stdout)

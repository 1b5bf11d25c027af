from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from promotion_world import NOW, World, environment, release

from ci import places
from ci.delivery.results import TargetStatus, status_matrix
from ci.delivery.site import STABLE, chart_values
from ci.errors import SystemUnavailable
from ci.layout import lines
from ci.reporting import SilentReporter
from pipelines import status as flow

MANIFEST = """\
apiVersion: v1
kind: Service
metadata: {name: voice-api}
"""
ROOT = places.checkout()
GOOD = release("good")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Two regions of prod: the good release runs in one, the cluster of the other does not answer."""
    made = World()
    prod = environment("prod", "eastus", "westeurope")
    targets = {name: one.model_copy(update={"context": one.name}) for name, one in prod.targets.items()}
    prod = prod.model_copy(update={"targets": targets})
    monkeypatch.setattr(flow, "read_environments", lambda estate: (prod,))

    def connect(_: Path, context: str, threads: object) -> object:
        if context == "prod/westeurope":
            raise SystemUnavailable("the cluster c does not answer: refused")
        return made.place(context)

    monkeypatch.setattr(flow.clusters, "connect", connect)
    place = made.place("prod/eastus")
    values = chart_values(prod, prod.target("eastus"), GOOD, "stable")
    asyncio.run(place.upgrade(STABLE, Path(), dict(values), timeout=1, description=""))
    return made


def status() -> tuple[TargetStatus, ...]:
    return asyncio.run(flow.status("test", reporter=SilentReporter()))


def test_what_runs_is_told_of_those_that_answer(world: World) -> None:
    here, there = status()

    assert (here.target, here.release, here.pods, here.canary, here.weight) == (
        "prod/eastus", "good", "1/1", None, 0,
    )  # fmt: skip
    assert here.digests == {"api": GOOD.images[0].digest} and here.since is not None and not here.drift
    assert (there.release, there.problem) == (None, "the cluster c does not answer: refused")


def test_who_wants_the_whole_truth_gets_an_error(world: World) -> None:
    with pytest.raises(SystemUnavailable, match="prod/westeurope: the cluster c does not answer"):
        flow.answered(status())


def test_who_works_on_a_target_is_told(world: World) -> None:
    place = world.place("prod/eastus")
    now = datetime.now(UTC)

    def held(renewed: datetime) -> str:
        written = {"acquireTime": NOW.isoformat(), "renewTime": renewed.isoformat(), "leaseTransitions": 3}
        notes = {"va.dev/who": "anna on build-1", "va.dev/promotion": "2026-11-29T201500-ab12"}
        place.held = {
            "metadata": {"annotations": notes},
            "spec": {"holderIdentity": "anna", "leaseDurationSeconds": 12, **written},
        }
        return status()[0].holder

    assert held(now) == "anna on build-1 works on it since 2026-01-01 00:00:00 UTC (2026-11-29T201500-ab12)"
    assert "has not been heard of since" in held(now - timedelta(minutes=1))


def test_the_matrix_says_what_is_not_well(world: World) -> None:
    place = world.place("prod/eastus")
    place.revisions[STABLE] = [
        type(one)(**{**one.__dict__, "manifest": MANIFEST}) for one in place.revisions[STABLE]
    ]

    shown = [line.plain for line in lines(status_matrix(status()), 110)]

    assert shown[0].split() == ["environment", "eastus", "westeurope"]
    assert any("1/1 ready, 1 changed" in line for line in shown)
    assert "prod/eastus: Service voice-api is not there any more" in shown
    assert any("prod/westeurope: the cluster c does not answer" in line for line in shown)


def test_targets_of_one_cluster_share_a_connection_and_ask_it_for_its_nodes_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    prod = environment("prod", "eastus", "westeurope", "southeastasia")
    monkeypatch.setattr(flow, "read_environments", lambda estate: (prod,))
    place = world.place("prod/eastus")
    asked: list[str] = []

    async def images_on_nodes() -> dict[str, frozenset[str]]:
        asked.append("nodes")
        return {}

    def connect(_: Path, context: str, threads: object) -> object:
        asked.append(context)
        return place

    monkeypatch.setattr(place, "images_on_nodes", images_on_nodes)
    monkeypatch.setattr(flow.clusters, "connect", connect)
    assert [row.release for row in status()] == ["good"] * 3
    assert asked == ["c", "nodes"]


def test_a_status_needs_neither_helm_nor_the_gates() -> None:
    heavy = "'pyhelm3', 'scipy', 'aiohttp', 'ci.delivery.site', 'kubernetes.client.api.core_v1_api'"
    asked = f"import sys, pipelines.status; print([one for one in ({heavy}) if one in sys.modules])"
    plans = "import pipelines.plan; print('aiohttp' in sys.modules)"  # what it would send, a plan does not
    done = subprocess.run(
        [sys.executable, "-c", f"{asked}; {plans}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["[]", "False"]


def test_a_status_leaves_its_callers_threads_as_they_are(world: World) -> None:
    async def asked() -> str:
        own = ThreadPoolExecutor(1, thread_name_prefix="own")
        asyncio.get_running_loop().set_default_executor(own)
        await flow.status("test", reporter=SilentReporter())
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert asyncio.run(asked()) == "own_0"

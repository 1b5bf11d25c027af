"""The pods of what was promoted: which of what may happen to them is harm, and from when on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from promotion_world import Place, World, environment

from ci.delivery.cluster import Pod
from ci.delivery.findings import Verdict
from ci.delivery.ledger import Action, Draft, Kind, open_named
from ci.delivery.promotion.upright import Upright, missing
from ci.delivery.promotion.watch import Watch
from ci.delivery.promotion.waves import stand
from ci.environments import Canary
from ci.reporting import SilentReporter

PATIENCE = Canary(steps=(), follow="30s", drain="0s", install="300s")


def pod(name: str, *, app: str = "api", **more: Any) -> Pod:
    said = {"track": "stable", "release": "r", "ready": True, "leaving": False, "restarts": 0, "trouble": ""}
    return Pod(name=name, app=app, out_of_memory=False, memory_limit=None, **(said | more))


WELL = (pod("api-1"), pod("api-2", restarts=7), pod("agent-1", app="agent"))


def looked(*looks: tuple[float, tuple[Pod, ...], str]) -> list[tuple[Verdict, str] | None]:
    upright = Upright(PATIENCE)
    found = [upright.look(pods, {"a Deployment": away} if away else {}, now) for now, pods, away in looks]
    return [None if one is None else (one.verdict, one.reason) for one in found]


def test_pods_that_stay_up_are_well_however_often_they_restarted_before() -> None:
    leaving = (*WELL, pod("api-0", ready=False, leaving=True), pod("old", ready=False, phase="Failed"))
    canary = (*WELL, pod("canary-1", track="canary", ready=False))
    assert looked((0, WELL, ""), (900, leaving, ""), (1800, canary, "")) == [None, None, None]


def test_a_pod_that_restarts_again_and_again_is_harm_though_it_is_ready_each_time() -> None:
    def after(restarts: int) -> tuple[Pod, ...]:
        return (pod("api-1", restarts=restarts, trouble="CrashLoopBackOff: back-off 20s"), *WELL[1:])

    none, _, last = looked((0, WELL, ""), (10, after(2), ""), (20, after(3), ""))
    assert none is None and last is not None and last[0] is Verdict.FAIL
    assert last[1] == "api-1 has restarted 3 times: CrashLoopBackOff: back-off 20s"
    new = (*WELL, pod("api-9", restarts=3))  # made since: all its restarts are of the release
    assert [one and one[0] for one in looked((0, WELL, ""), (9, new, ""))] == [None, Verdict.FAIL]


AWAY = {
    "not ready": ((pod("api-1", ready=False, trouble="ImagePullBackOff"), *WELL[1:]), "", 300),
    "missing": (WELL, "voice-api has 2 of 3 pods", 300),
    "none of a service": ((*WELL[:2], pod("agent-1", app="agent", ready=False)), "", 30),
    "none at all": ((), "", 30),
}


@pytest.mark.parametrize("what", AWAY)
def test_what_is_away_may_come_back_for_a_while_and_is_harm_then(what: str) -> None:
    pods, away, patience = AWAY[what]
    found = looked((0, WELL, ""), (10, pods, away), (10 + patience, pods, away), (11 + patience, pods, away))
    assert [one and one[0] for one in found] == [
        None, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, Verdict.FAIL
    ]  # fmt: skip
    well = (WELL, "")
    again = looked(
        (0, *well), (1, pods, away), (5, *well), (4 + patience, pods, away), (6 + patience, pods, away)
    )
    assert [one and one[0] for one in again] == [
        None, Verdict.INCONCLUSIVE, None, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE
    ]  # fmt: skip


def test_replicas_that_the_cluster_does_not_even_make_are_missed() -> None:
    place = Place(World(), "prod/eastus")

    def deployment(name: str, wanted: int, **status: int) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"replicas": wanted}, "status": status}

    path = "/apis/apps/v1/namespaces/va-prod-eastus/deployments"
    place.listed[path] = (deployment("voice-agent", 0), deployment("voice-api", 3, replicas=1))
    found = asyncio.run(missing(place, "va-prod-eastus"))  # type: ignore[arg-type]
    assert found == {"Deployment voice-api": "voice-api has 1 of 3 pods"}
    place.listed[path] = (
        deployment("voice-api", 3, replicas=3, readyReplicas=1),
    )  # its pods say it themselves
    assert asyncio.run(missing(place, "va-prod-eastus")) == {}  # type: ignore[arg-type]


def test_each_is_away_from_when_it_went_itself() -> None:
    """Nodes that are renewed: a pod of twenty is away at each look, and none of them for over a minute."""
    names = [f"api-{number}" for number in range(20)]

    def without(away: str) -> tuple[Pod, ...]:
        return tuple(pod(name, ready=name != away) for name in names)

    found = looked(*((60.0 * minute, without(f"api-{minute}"), "") for minute in range(20)))
    assert {one and one[0] for one in found} == {Verdict.INCONCLUSIVE}
    starting = (*WELL, pod("api-3", ready=False))  # an autoscaler's, for minutes
    down = (*WELL[:2], pod("api-3", ready=False), pod("agent-1", app="agent", ready=False))
    last = looked((0, starting, ""), (180, starting, ""), (190, down, ""))[-1]
    assert last == (Verdict.INCONCLUSIVE, "no pod of agent is ready")
    both = looked((0, down, ""), (31, down, ""))[-1]
    assert both == (Verdict.FAIL, "no pod of agent is ready, for 31 s")


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_watch_does_not_end_while_pods_are_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, comes_back: bool
) -> None:
    """Its sessions are well: those of the pods that are left."""
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    wanted = environment()
    patience = wanted.canary.model_copy(update={"install": 0.2 if not comes_back else 300.0})
    wanted = wanted.model_copy(update={"canary": patience})
    world, looks = World(), 0
    place = world.place("prod/eastus")
    listed = place.pods

    async def pods(namespace: str) -> tuple[Pod, ...]:
        nonlocal looks
        looks += 1
        away = looks > 1 and not (comes_back and looks > 20)
        return (*await listed(namespace), replace(pod("voice-api-2"), ready=not away))

    place.pods = pods  # type: ignore[method-assign]
    draft = Draft(promotion="p1", kind=Kind.INTENT, action=Action.WATCH, release="r", detail={"targets": "a"})

    async def run() -> str:
        await place.upgrade("voice", Path(), {"release": "r"}, timeout=1, description="")
        async with open_named("test", "prod") as ledger, world.open_site(wanted, "eastus") as site:
            watch = Watch(wanted, [site])
            return await stand(draft, 0.05, wanted, ledger, SilentReporter(), watch.look)

    harmed = asyncio.run(run())
    if comes_back:
        assert harmed == "" and looks > 20
    else:
        assert harmed.startswith("prod/eastus: pods fail: voice-api-2 is not ready, for ")

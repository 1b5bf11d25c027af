"""Users who leave: waited for, not for ever; a region after the other; what a person took out stays out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from promotion_world import environment

from ci.delivery.metrics import Prometheus
from ci.delivery.promotion import users
from ci.delivery.regions import Endpoint, Monitor, Profile
from ci.delivery.site import Site
from ci.environments import Traffic
from ci.errors import PolicyBlocked

PROFILE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/trafficManagerProfiles/p"
ENDPOINTS = {
    name: Endpoint(region=name, target="t", enabled=True, monitor=Monitor.ONLINE)
    for name in ("eastus", "westeurope", "southeastasia")
}


class Regions:
    def __init__(self, **out: Monitor) -> None:
        self.now = dict(ENDPOINTS)
        for name, monitor in out.items():
            self.now[name] = replace(self.now[name], enabled=monitor != Monitor.DISABLED, monitor=monitor)
        self.changes: list[str] = []
        self.looked: Callable[[], None] = lambda: None

    async def look(self) -> Profile:
        self.looked()
        return Profile(
            fqdn="v", ttl=0, routing="Weighted", interval=1, tolerated=1, endpoints=tuple(self.now.values())
        )

    async def change(self, region: str, *, enabled: bool | None = None, **_: int | None) -> Endpoint:
        self.changes.append(f"{region} {enabled}")
        monitor = Monitor.ONLINE if enabled else Monitor.DISABLED
        self.now[region] = replace(self.now[region], enabled=bool(enabled), monitor=monitor)
        return self.now[region]


class Tried:
    """One region, `left` of whose users are there at each look."""

    def __init__(self, regions: Regions, *left: float | None, drain: str = "60s") -> None:
        self.regions, self.left, self.notes, self.shown = regions, list(left), [], []
        prod = environment("prod", *ENDPOINTS)
        quick = prod.canary.model_copy(update={"install": 0.01})
        wanted = {"traffic": Traffic(profile=PROFILE, drain=cast(Any, drain)), "canary": quick}
        self.site = cast(
            Site,
            SimpleNamespace(
                regions=regions, environment=prod.model_copy(update=wanted),
                target=prod.target("eastus"), busy=self._busy,
            ),
        )  # fmt: skip

    async def _busy(self) -> float | None:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]

    async def note(self, *, users: str) -> None:
        self.notes.append(users)

    def leave(self, *, away: bool = False) -> None:
        asyncio.run(users.leave(self.site, away=away, note=self.note, show=self.shown.append))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_LOOK_SECONDS", 0.001)


def test_nothing_goes_on_before_the_last_one_has_left() -> None:
    tried = Tried(Regions(), 3.0, None, 0.5, 0.0)
    tried.leave()

    assert tried.left == [0.0]
    assert (tried.regions.changes, tried.notes) == (["eastus False"], ["leave"])
    assert tried.shown[-1] == "all have left"


@pytest.mark.parametrize("left", [2.0, None])
def test_who_does_not_leave_is_not_waited_for_for_ever(left: float | None) -> None:
    tried = Tried(Regions(), left, drain="20ms")
    tried.leave()

    assert tried.regions.changes == ["eastus False"]
    assert "all have left" not in tried.shown


def test_a_region_waits_until_the_one_before_it_is_back() -> None:
    regions = Regions(westeurope=Monitor.DISABLED)
    looks = iter(range(100))

    def looked() -> None:
        if next(looks) == 3:
            regions.now["westeurope"] = ENDPOINTS["westeurope"]

    regions.looked = looked
    tried = Tried(regions, 0.0)
    tried.leave()

    assert tried.regions.changes == ["eastus False"]
    assert any("westeurope is taken out" in line for line in tried.shown)


def test_one_that_never_comes_back_keeps_the_others_from_leaving() -> None:
    tried = Tried(Regions(westeurope=Monitor.DEGRADED), 0.0, drain="1ms")
    with pytest.raises(PolicyBlocked, match="two are never out at once"):
        tried.leave()

    assert tried.regions.changes == []


def test_what_a_person_has_taken_out_is_not_ours_to_put_back() -> None:
    tried = Tried(Regions(eastus=Monitor.DISABLED), 0.0)
    tried.leave()

    assert (tried.regions.changes, tried.notes) == ([], [])
    assert not asyncio.run(users.come_back(tried.site, away=False, note=tried.note))
    assert tried.regions.changes == []


def test_a_killed_runs_region_is_put_back_by_the_next() -> None:
    tried = Tried(Regions(eastus=Monitor.DISABLED), 0.0)
    tried.leave(away=True)
    assert asyncio.run(users.come_back(tried.site, away=True, note=tried.note))

    assert (tried.regions.changes, tried.notes) == (["eastus True"], ["come back"])


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"voice_sessions_total": ["1.5"], "voice_calls_active": ["2"]}, 3.5),
        ({"voice_sessions_total": ["0"], "voice_calls_active": []}, 0.0),
        ({"voice_sessions_total": [], "voice_calls_active": ["0"]}, None),  # no data is not nobody
        ({}, None),
    ],
)
def test_sessions_and_calls_are_counted_where_the_target_is(
    answers: dict[str, list[str]], expected: float | None
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        query = httpx.QueryParams(request.content.decode())["query"]
        found = next((one for name, one in answers.items() if name in query), None)
        if found is None:
            return httpx.Response(503)
        assert 'namespace="va-prod-eastus"' in query
        result = [{"metric": {}, "value": [1, value]} for value in found]
        return httpx.Response(
            200, json={"status": "success", "data": {"resultType": "vector", "result": result}}
        )

    async def busy() -> float | None:
        prod = environment()
        async with Prometheus("http://p", transport=httpx.MockTransport(answer)) as prometheus:
            site = Site(prod, prod.target("eastus"), cast(Any, None), cast(Any, None), prometheus)
            return await site.busy()

    assert asyncio.run(busy()) == expected

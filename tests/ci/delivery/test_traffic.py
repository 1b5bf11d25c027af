from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from ci.delivery import traffic
from ci.errors import SystemUnavailable

SERVICES = {"s": "c", "s2": "c2"}


def route(*backends: tuple[str, int]) -> dict[str, Any]:
    refs = [{"name": name, "port": 80, "weight": weight} for name, weight in backends]
    other = {"matches": [{"path": {"value": "/other"}}], "backendRefs": [{"name": "web", "port": 80}]}
    return {
        "metadata": {"name": "voice", "namespace": "ns", "resourceVersion": "7"},
        "spec": {"hostnames": ["h"], "rules": [{"backendRefs": refs}, other]},
    }


def test_the_canary_gets_its_share_and_everything_else_stays() -> None:
    before = route(("s", 100))
    changed = traffic.weighted(before, SERVICES, 20)

    assert changed["spec"]["rules"] == route(("s", 80), ("c", 20))["spec"]["rules"]
    assert changed["metadata"] == before["metadata"]
    assert before == route(("s", 100))


def test_at_zero_the_canary_is_not_in_the_route_at_all() -> None:
    changed = traffic.weighted(route(("s", 50), ("c", 50)), SERVICES, 0)

    assert changed["spec"] == route(("s", 100))["spec"]


@pytest.mark.parametrize(
    ("backends", "weight"), [([("s", 80), ("c", 20)], 20), ([("s", 1), ("c", 1)], 50), ([("s", 100)], 0)]
)
def test_the_weight_is_read_as_percent(backends: list[tuple[str, int]], weight: int) -> None:
    made = route(*backends)
    made["spec"]["rules"].pop()

    assert traffic.canary_weight(made, SERVICES) == weight


def test_every_service_is_split_in_its_own_rule_and_the_most_counts() -> None:
    made = route(("s", 100))
    made["spec"]["rules"][1]["backendRefs"] = [{"name": "s2", "port": 80, "weight": 100}]

    changed = traffic.weighted(made, SERVICES, 20)

    pages = changed["spec"]["rules"][1]["backendRefs"]
    assert [(one["name"], one["weight"]) for one in pages] == [("s2", 80), ("c2", 20)]
    assert traffic.canary_weight(changed, SERVICES) == 20
    pages[0]["weight"], pages[1]["weight"] = 50, 50  # left by one that was cut off between two writes
    assert traffic.canary_weight(changed, SERVICES) == 50
    assert traffic.weighted(changed, SERVICES, 0)["spec"] == made["spec"]


@pytest.mark.parametrize(
    "backends",
    [
        [("c", 100)],
        [("c", 1)],
        [("c", 0)],
        [("s", 0)],
        [("s", 0), ("c", 0)],
        [("c", 30), ("s", 70)],
        [("c", 30), ("c", 30)],
        [("s", 10), ("c2", 90)],
        [("s", 100), ("c", 0)],
    ],
)
def test_any_split_is_mended_to_stable(backends: list[tuple[str, int]]) -> None:
    cluster = Cluster(route(*backends))
    assert cluster.held is not None and not traffic.on_stable(cluster.held, SERVICES)

    set_weight(cluster, 0)

    assert cluster.held["spec"] == route(("s", 100))["spec"] and traffic.on_stable(cluster.held, SERVICES)
    assert cluster.writes == 1


def test_a_backend_that_is_nobodys_stays() -> None:
    changed = traffic.weighted(route(("c", 40), ("status-page", 5)), SERVICES, 0)

    assert [(one["name"], one["weight"]) for one in changed["spec"]["rules"][0]["backendRefs"]] == [
        ("s", 100),
        ("status-page", 5),
    ]


def test_a_rule_that_names_the_canary_alone_can_be_split_again() -> None:
    assert traffic.weighted(route(("c", 7)), SERVICES, 20)["spec"] == route(("s", 80), ("c", 20))["spec"]


class Cluster:
    def __init__(self, held: dict[str, Any] | None, conflicts: int = 0) -> None:
        self.held, self.conflicts, self.writes = held, conflicts, 0

    async def route(self, name: str, namespace: str) -> dict[str, Any] | None:
        return self.held

    async def replace_route(self, changed: dict[str, Any]) -> None:
        if self.conflicts:
            self.conflicts -= 1
            raise SystemUnavailable("the object has been modified; please apply your changes")
        self.held, self.writes = changed, self.writes + 1


def set_weight(cluster: Cluster, weight: int) -> int:
    return asyncio.run(
        traffic.set_weight(cluster, "ns", SERVICES, weight)  # type: ignore[arg-type]
    )


def test_setting_a_weight_returns_the_one_before_and_writes_once() -> None:
    made = route(("s", 100))
    made["spec"]["rules"].pop()
    cluster = Cluster(made, conflicts=2)

    assert [set_weight(cluster, 20), set_weight(cluster, 20), set_weight(cluster, 0)] == [0, 20, 20]
    assert cluster.writes == 2


def test_without_a_route_there_is_nothing_to_split() -> None:
    assert set_weight(Cluster(None), 0) == 0
    with pytest.raises(SystemUnavailable, match="no HTTPRoute"):
        set_weight(Cluster(None), 10)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "_AGAIN_SECONDS", 0.01)


def followed(answers: list[int], *, before: int, weight: int, timeout: float = 30.0) -> int:
    """How many requests it took when the gateway splits by these weights, 100 requests each."""
    sent = 0

    def handle(request: httpx.Request) -> httpx.Response:
        nonlocal sent
        assert request.headers["host"] == "h"
        now = answers[min(sent // 100, len(answers) - 1)]
        track = "canary" if sent * 37 % 100 < now else "stable"
        sent += 1
        return httpx.Response(200, headers={"x-va-track": track}) if now >= 0 else httpx.Response(503)

    asyncio.run(
        traffic.followed(
            "http://g",
            "h",
            before=before,
            weight=weight,
            timeout=timeout,
            transport=httpx.MockTransport(handle),
        )
    )
    return sent


def test_it_waits_until_the_answers_come_from_the_new_split() -> None:
    assert followed([20, 20, 50], before=20, weight=50) > 200
    assert followed([50, 50, 0], before=50, weight=0) > 200
    assert followed([0, 10], before=0, weight=10) > 100


def test_a_gateway_that_does_not_follow_is_said_so() -> None:
    with pytest.raises(
        SystemUnavailable, match="does not follow the weight 20 % for h: of 100 requests 0 went"
    ):
        followed([0], before=0, weight=20, timeout=0.05)
    with pytest.raises(SystemUnavailable, match="0 went to the canary and 0 to stable, 20 got no answer"):
        followed([-1], before=0, weight=0, timeout=0.05)


def test_what_a_busy_gateway_leaves_unanswered_says_nothing() -> None:
    turns = iter(range(10_000))

    def handle(request: httpx.Request) -> httpx.Response:
        turn = next(turns)
        if turn % 3 == 0:
            raise httpx.ReadTimeout("busy")
        return httpx.Response(200, headers={"x-va-track": "canary" if turn * 37 % 100 < 50 else "stable"})

    transport = httpx.MockTransport(handle)
    asyncio.run(traffic.followed("http://g", "h", before=0, weight=50, timeout=5, transport=transport))


def test_enough_probes_to_see_the_rarer_track() -> None:
    for before, weight in ((0, 5), (5, 20), (50, 0), (0, 50)):
        count = traffic.probes_needed(before, weight)
        rare = min(w for w in (before, weight, 100 - before, 100 - weight) if w) / 100
        assert (1 - rare) ** count < 2e-4

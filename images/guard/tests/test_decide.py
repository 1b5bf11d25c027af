from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from voice_guard.decide import Look, Names, Seen, canaries, judged, on_stable, seen, weight

NAMES = Names()
RENEWED = 1_780_000_000.0


def route(*shares: tuple[str, int]) -> dict[str, Any]:
    refs = [{"name": name, "port": 80, "weight": share} for name, share in shares]
    return {"metadata": {"name": "voice"}, "spec": {"rules": [{"backendRefs": refs}]}}


def lease(who: str = "anna", renewed: float = RENEWED) -> dict[str, Any]:
    time = datetime.fromtimestamp(renewed, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {
        "holderIdentity": who, "renewTime": time, "leaseDurationSeconds": 12, "leaseTransitions": 3,
    }  # fmt: skip
    return {"spec": spec}


def follow(*looks: Look) -> list[str]:
    memory, said = Seen(), []
    for look in looks:
        memory = seen(look, memory)
        said.append(judged(look, memory))
    return said


def look(at: float, *, renewed: float = RENEWED, weight: int = 25, ready: int = 1, **more: Any) -> Look:
    given = {"lease": lease(renewed=renewed), **more}
    return Look(at=at, now=RENEWED + at, weight=weight, ready={"voice-canary-api": ready}, **given)


@pytest.mark.parametrize(
    ("shares", "percent"),
    [
        ([("voice-api", 100)], 0),
        ([("voice-api", 75), ("voice-canary-api", 25)], 25),
        ([("voice-api", 9999), ("voice-canary-api", 1)], 1),  # one in ten thousand is one
        ([("voice-canary-web", 1)], 100),
        ([("voice-api", 0), ("voice-canary-api", 0)], 0),
        ([], 0),
    ],
)
def test_the_share_of_the_canary(shares: list[tuple[str, int]], percent: int) -> None:
    assert weight(route(*shares), NAMES) == percent


def test_without_a_route_there_is_no_share() -> None:
    assert weight(None, NAMES) == 0 and canaries(None, NAMES) == []


def test_all_to_stable_and_nothing_else_is_touched() -> None:
    before = route(("voice-api", 75), ("voice-canary-api", 25), ("elsewhere", 5))
    before["spec"]["rules"].append({"backendRefs": [{"name": "voice-canary-web", "port": 80, "weight": 1}]})
    before["spec"]["rules"].append({"backendRefs": [{"name": "livekit", "port": 7880}]})
    before["spec"]["rules"].append({"filters": []})
    kept = copy.deepcopy(before)
    after = on_stable(before, NAMES, fence=7)
    assert before == kept
    rules = [rule.get("backendRefs") for rule in after["spec"]["rules"]]
    assert rules == [
        [{"name": "voice-api", "port": 80, "weight": 100}, {"name": "elsewhere", "port": 80, "weight": 5}],
        [{"name": "voice-web", "port": 80, "weight": 100}],
        [{"name": "livekit", "port": 7880}],
        None,
    ]
    assert after["metadata"]["annotations"] == {"va.dev/fence": "7"}
    assert weight(after, NAMES) == 0
    assert "annotations" not in on_stable(before, NAMES, fence=None)["metadata"]


def test_a_lease_that_is_renewed_is_left_alone() -> None:
    assert follow(*(look(at, renewed=RENEWED + at - 3) for at in range(60))) == [""] * 60


def test_a_promoter_that_died_is_noticed_when_its_lease_is_over() -> None:
    said = follow(*(look(at) for at in range(16)))
    assert said[:12] == [""] * 12
    assert said[12] == "anna has not renewed its lease for 12 s"


def test_an_old_lease_is_not_judged_at_first_sight() -> None:
    """An API server that was away comes back with it, and its promoter renews it in a moment."""
    said = follow(*(look(at) for at in (100, 101, 102)), look(103, renewed=RENEWED + 103))
    assert said == [""] * 4
    assert follow(*(look(at) for at in (100, 101, 102, 103, 104)))[-1]


def test_where_nobody_ever_promoted_or_it_was_given_back_the_canary_is_nobodys() -> None:
    for given in (None, {"spec": {}}, lease(who="")):
        said = follow(*(look(at, lease=given) for at in range(14)))
        assert said[:12] == [""] * 12 and said[12] == "nobody is promoting"


def test_a_canary_without_a_ready_pod() -> None:
    fresh = [look(at, renewed=RENEWED + at, ready=0) for at in range(4)]
    assert follow(*fresh) == ["", "", "", "no pod of voice-canary-api is ready"]
    fresh[2] = look(2, renewed=RENEWED + 2)
    assert follow(*fresh) == [""] * 4


def test_a_service_of_two_without_a_ready_pod_is_enough() -> None:
    looks = [
        Look(
            at=at, now=RENEWED, weight=5, lease=lease(), ready={"voice-canary-api": 2, "voice-canary-web": 0}
        )
        for at in (0.0, 3.0)
    ]
    assert follow(*looks)[-1] == "no pod of voice-canary-web is ready"


def test_without_traffic_nothing_is_judged() -> None:
    assert not any(follow(*(look(at, weight=0, ready=0) for at in range(60))))

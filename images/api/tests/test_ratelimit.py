from __future__ import annotations

import asyncio

import pytest
from conftest import settings_with
from voice_api.ratelimit import Decision, RateLimit, client_key
from voice_api.store import connect


async def take(url: str, times: int, *, per_minute: float, burst: int, pause: float = 0) -> list[Decision]:
    redis = connect(settings_with(redis_url=url))
    try:
        limit = RateLimit(redis, per_minute=per_minute, burst=burst)
        decisions = []
        for _ in range(times):
            decisions.append(await limit.take("someone"))
            await asyncio.sleep(pause)
        return decisions
    finally:
        await redis.aclose()


@pytest.mark.parametrize("burst", [1, 2, 7])
def test_a_burst_passes_and_no_more(redis_url: str, burst: int) -> None:
    decisions = asyncio.run(take(redis_url, burst + 3, per_minute=1, burst=burst))
    assert [decision.allowed for decision in decisions] == [True] * burst + [False] * 3


def test_the_wait_is_that_for_the_next_place(redis_url: str) -> None:
    decisions = asyncio.run(take(redis_url, 4, per_minute=6, burst=3))
    assert 9 < decisions[-1].retry_after <= 10  # 6 a minute: one every 10 s


def test_the_long_run_rate_holds(redis_url: str) -> None:
    # 1200 a minute is one every 50 ms; asked every 10 ms for about a second, some 20 of 100 pass.
    decisions = asyncio.run(take(redis_url, 80, per_minute=1200, burst=1, pause=0.01))
    assert 14 <= sum(decision.allowed for decision in decisions) <= 40


def test_a_refused_request_costs_nothing(redis_url: str) -> None:
    first, *_, last = asyncio.run(take(redis_url, 6, per_minute=60, burst=1))
    assert first.allowed and last.retry_after <= 1


def test_clients_are_counted_apart(redis_url: str) -> None:
    async def two() -> tuple[Decision, Decision, Decision]:
        redis = connect(settings_with(redis_url=redis_url))
        limit = RateLimit(redis, per_minute=1, burst=1)
        decisions = await limit.take("a"), await limit.take("b"), await limit.take("a")
        await redis.aclose()
        return decisions

    assert [decision.allowed for decision in asyncio.run(two())] == [True, True, False]


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        (None, "unknown"),
        ("testclient", "unknown"),
    ],
)
def test_who_is_counted(host: str | None, key: str) -> None:
    assert client_key(host) == key

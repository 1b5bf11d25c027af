"""The rules of others that our gates are measured against do what their documentation says."""

from __future__ import annotations

import numpy as np
import pytest

from benches import canaries
from benches.canaries import Threshold, Traffic, mann_whitney

LOOKS = 2400 // 15


def traffic(bad: dict[int, int], sessions: int = 100, stable_bad: int = 0) -> Traffic:
    """One run; `bad` sessions of the canary by look, none in the others."""
    canary_bad = np.zeros((1, LOOKS), dtype=np.int64)
    for look, count in bad.items():
        canary_bad[0, look] = count
    whole = np.full((1, LOOKS), sessions)
    return Traffic(
        canary=whole,
        canary_bad=canary_bad,
        stable=whole,
        stable_bad=np.full((1, LOOKS), stable_bad),
        begins=0,
    )


def test_the_interval_of_mann_and_whitney_has_its_published_value() -> None:
    x, y = np.array([10.0, 20.0, 30.0, 40.0]), np.array([1.0, 2.0, 3.0, 4.0])

    assert mann_whitney(x, y, 0.95) == (6.0, 39.0, 22.5)
    low, high, _ = mann_whitney(y, x, 0.95)
    assert (low, high) == (-39.0, -6.0)


def test_argo_takes_back_at_the_fourth_failure_of_what_it_samples() -> None:
    """Each five minutes the last sample alone: what is bad between is not seen."""
    sampled = {20 * number - 1: 6 for number in (1, 3, 4, 6)}

    assert canaries.argo(traffic(sampled))[0] == 6 * 20
    assert canaries.argo(traffic(dict.fromkeys(sampled, 5)))[0] > LOOKS  # 95 % is well
    assert canaries.argo(traffic({look - 1: 90 for look in sampled}))[0] > LOOKS


def test_flagger_takes_back_at_the_fifth_failed_check() -> None:
    minutes = {4 * number: 5 for number in (2, 3, 9, 10, 20)}

    assert canaries.flagger(traffic(minutes))[0] == 21 * 4
    assert canaries.flagger(traffic(dict.fromkeys(minutes, 4)))[0] > LOOKS  # 1 % of 400


def test_a_threshold_is_never_to_be_passed_and_waits_for_its_minutes() -> None:
    rule = Threshold(minutes=5, most=0.01)

    assert rule(traffic({0: 21}))[0] == 20
    assert rule(traffic({0: 20}))[0] > LOOKS


@pytest.mark.parametrize(("stable", "caught"), [(0, True), (3, False)])
def test_kayenta_compares_minutes_with_stables(stable: int, caught: bool) -> None:
    bad = {look: 3 + look % 2 * 2 * caught for look in range(LOOKS)}

    assert bool(canaries.kayenta(traffic(bad, stable_bad=stable))[0] < LOOKS) is caught


def test_what_is_suffered_counts_from_the_fault_until_it_is_taken_back() -> None:
    late = traffic({3: 7, 10: 2, 100: 30})

    assert canaries._suffered(late, np.array([11]))[0] == 9
    assert canaries._suffered(late, np.array([canaries._NEVER]))[0] == 39


def test_the_same_seed_is_the_same_traffic() -> None:
    one, two = (canaries.simulated(runs=2, seed=7, rate=5, base=0.1, bad=0.3, step=2) for _ in range(2))

    assert (one.canary_bad == two.canary_bad).all() and one.begins == 100
    assert one.canary_bad[:, 100:].sum() / one.canary[:, 100:].sum() == pytest.approx(0.3, rel=0.1)

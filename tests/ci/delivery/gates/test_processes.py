from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.delivery import gates
from ci.delivery.gates import processes

LN100 = math.log(100)


# The check values of the method.


@pytest.mark.parametrize(("x", "e"), [(10, 93.09), (11, 170.67)])
def test_the_two_sided_process_has_its_published_values(x: int, e: float) -> None:
    assert math.exp(gates.log_e_two_sided(x, 0, 0.5)) == pytest.approx(e, abs=0.005)


def test_the_one_sided_process_has_its_published_value() -> None:
    assert math.exp(gates.log_e_more(20, 5, 0.5)) == pytest.approx(48.52, abs=0.005)


@pytest.mark.parametrize(("rho", "least"), [(0.5, 9), (0.1, 4)])
def test_the_least_errors_that_fail_without_any_in_the_baseline(rho: float, least: int) -> None:
    assert next(x for x in range(50) if gates.log_e_more(x, 0, rho) >= LN100) == least


@pytest.mark.parametrize(("n", "least"), [(50, 10), (100, 15), (200, 23), (500, 45), (1000, 78)])
def test_the_least_slow_sessions_that_fail_a_p95_objective(n: int, least: int) -> None:
    assert next(x for x in range(n) if gates.log_e_more(x, n - x, 0.05) >= LN100) == least


@pytest.mark.parametrize(
    ("horizon", "critical"), [(1, 2.853937), (5, 3.297183), (10, 3.467952), (20, 3.628123)]
)
def test_the_maxsprt_has_its_published_critical_values(horizon: float, critical: float) -> None:
    assert gates.maxsprt_critical(horizon, 0.05) == pytest.approx(critical, abs=1e-6)


def test_a_long_watch_has_its_critical_value_as_well_as_a_short_one() -> None:
    """Simulated: the highest that the statistic comes to, under the known rate."""
    chance, horizon = np.random.default_rng(8), 100.0
    critical, signals = gates.maxsprt_critical(horizon, 0.1), 0
    for _ in range(1500):
        at = np.cumsum(chance.exponential(size=200))
        at = at[at < horizon]
        count = np.arange(1, len(at) + 1)
        signals += bool(np.any((count > at) & (at - count + count * np.log(count / at) >= critical)))
    assert signals / 1500 == pytest.approx(0.1, abs=0.025)


@pytest.mark.parametrize(("floor", "least"), [(0.005, (4, 5, 10, 15)), (0.03, (7, 11, 30, 51))])
def test_the_least_bad_sessions_over_a_floor(floor: float, least: tuple[int, ...]) -> None:
    def found(n: int) -> int:
        return next(x for x in range(n) if gates.log_e_more(x, n - x, floor) >= math.log(60))

    assert tuple(found(n) for n in (50, 100, 500, 1000)) == least


@pytest.mark.parametrize(("x", "n", "tau", "e"), [(0, 100, 0.03, 13.8248), (2, 1500, 0.005, 4.23723)])
def test_the_proof_of_a_low_rate_has_its_published_values(x: int, n: int, tau: float, e: float) -> None:
    assert math.exp(gates.log_e_below(x, n, tau)) == pytest.approx(e, rel=5e-6)


@pytest.mark.parametrize(("tau", "proof", "least"), [(0.005, 20, 687), (0.03, 10, 89)])
def test_the_least_sessions_without_an_error_that_prove_a_low_rate(
    tau: float, proof: float, least: int
) -> None:
    assert next(n for n in range(1000) if gates.log_e_below(0, n, tau) >= math.log(proof)) == least
    # Half of the whole proof compares with stable, which says nothing where nobody errs.
    assert gates.log_e_below(0, gates.least_sessions(tau, 1 / proof), tau) >= math.log(2 * proof - 1)
    assert gates.log_e_below(0, gates.least_sessions(tau, 1 / proof) - 1, tau) < math.log(2 * proof - 1)


def test_the_maxsprt_statistic() -> None:
    assert gates.maxsprt_llr(3, 1.0) == pytest.approx(-2 + 3 * math.log(3))
    assert gates.maxsprt_llr(1, 3.0) == 0.0


# How often they err, and how soon they see.


def test_looking_at_every_event_hardly_ever_raises_a_false_alarm_where_a_z_test_does() -> None:
    chance, runs, events, rho = random.Random(1), 200, 500, 0.5
    alarms = z_alarms = 0
    for _ in range(runs):
        x = 0
        alarmed = z_alarmed = False
        for n in range(1, events + 1):
            x += chance.random() < rho
            alarmed = alarmed or gates.log_e_more(x, n - x, rho) >= LN100
            z_alarmed = z_alarmed or (x - n * rho) / math.sqrt(n * rho * (1 - rho)) > 2.33
        alarms, z_alarms = alarms + alarmed, z_alarms + z_alarmed
    assert alarms / runs <= 0.02
    assert z_alarms / runs > 0.08  # the same data does tempt


@pytest.mark.parametrize(
    ("rho", "ratio", "median"), [(0.5, 3, 36), (0.1, 3, 53), (0.5, 2, 89), (0.1, 2, 166)]
)
def test_errors_until_a_worse_canary_is_caught(rho: float, ratio: float, median: int) -> None:
    chance, runs = random.Random(4), 101
    share = gates.with_margin(rho, ratio - 1)
    taken = []
    for _ in range(runs):
        x = n = 0
        while gates.log_e_more(x, n - x, rho) < LN100:
            n += 1
            x += chance.random() < share
        taken.append(n)
    assert sorted(taken)[runs // 2] == pytest.approx(median, rel=0.25)


# Numbers.


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.floats(0.001, 0.999))
def test_any_counts_give_a_finite_number(x: int, y: int, rho: float) -> None:
    assert math.isfinite(gates.log_e_more(x, y, rho))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0.0001, 0.9))
def test_any_proof_is_a_finite_number_and_another_bad_session_makes_it_less(
    bad: int, good: int, tau: float
) -> None:
    proof = gates.log_e_below(bad, bad + good, tau)

    assert math.isfinite(proof)
    if good:
        assert gates.log_e_below(bad + 1, bad + good, tau) <= proof + 1e-9 * max(1, abs(proof))


@pytest.mark.parametrize(("tau", "rate"), [(0.03, 0.03), (0.2, 0.25)])
def test_a_proof_has_a_mean_of_at_most_one_where_there_is_harm(tau: float, rate: float) -> None:
    n = 60
    each = (math.comb(n, x) * rate**x * (1 - rate) ** (n - x) for x in range(n + 1))

    assert sum(p * math.exp(gates.log_e_below(x, n, tau)) for x, p in enumerate(each)) <= 1 + 1e-9


@pytest.mark.parametrize(("a", "b", "rho"), [(10, 2000, 0.5), (300, 5000, 0.6), (2, 9000, 0.1)])
def test_the_tail_series_continues_the_library_function(a: float, b: float, rho: float) -> None:
    from scipy import integrate

    def density(t: float) -> float:  # scaled by its value at rho, which dominates the tail
        return math.exp((a - 1) * math.log(t / rho) + (b - 1) * math.log((1 - t) / (1 - rho)))

    area, _ = integrate.quad(density, rho, min(1.0, rho + 60 / b), epsabs=0, epsrel=1e-10)
    beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    expected = math.log(area) + (a - 1) * math.log(rho) + (b - 1) * math.log1p(-rho) - beta
    assert processes._log_upper(a, b, rho) == pytest.approx(expected, rel=1e-6)


def test_what_cannot_be_tested_is_refused() -> None:
    for x, y, rho in ((1, 1, 0.0), (1, 1, 1.0), (-1, 1, 0.5)):
        with pytest.raises(ValueError, match="no test"):
            gates.log_e_more(x, y, rho)
    for x, n, tau in ((1, 1, 0.0), (2, 1, 0.5), (-1, 1, 0.5), (0, 1, math.nan)):
        with pytest.raises(ValueError, match="no test"):
            gates.log_e_below(x, n, tau)

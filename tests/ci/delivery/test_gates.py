from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.delivery import gates
from ci.delivery.findings import NOTHING_CARRIED, Carried, Finding, Levels, Tally, Verdict

LEVELS = Levels(alpha=0.01, beta=0.1)
LN100 = math.log(100)


def error_gate(tally: Tally | None, *, baked: bool = True, carried: Carried = NOTHING_CARRIED) -> Finding:
    return gates.errors(tally, margin=0, harm=1, tolerated=0.03, levels=LEVELS, baked=baked, carried=carried)


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


@pytest.mark.parametrize(("rate", "weight"), [(0.02, 0.2), (0.3, 0.5)])
def test_a_canary_no_worse_than_stable_is_hardly_ever_failed(rate: float, weight: float) -> None:
    """The whole gate, with observed exposure, errors rare or not, looked at every 40 sessions."""
    chance, runs = random.Random(2), 100
    failed = 0
    for _ in range(runs):
        counts = {"canary_bad": 0, "canary": 0, "stable_bad": 0, "stable": 0}
        for _ in range(60):
            for _ in range(40):
                track = "canary" if chance.random() < weight else "stable"
                counts[track] += 1
                counts[f"{track}_bad"] += chance.random() < rate
            if error_gate(Tally(**counts)).verdict is Verdict.FAIL:
                failed += 1
                break
    assert failed / runs <= 0.02


def test_a_harmful_canary_hardly_ever_passes() -> None:
    """Exactly at the edge of what is accepted: twice stable's rate, and the tolerated rate itself."""
    chance, runs = random.Random(3), 100
    passed = 0
    for _ in range(runs):
        x = y = n = 0
        for _ in range(60):
            n += 20
            x += sum(chance.random() < 0.03 for _ in range(20))
            y += sum(chance.random() < 0.015 for _ in range(20))
            finding = error_gate(Tally(canary_bad=x, canary=n, stable_bad=y, stable=n))
            if finding.verdict is Verdict.PASS:
                passed += 1
                break
    assert passed / runs <= 0.1


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


@pytest.mark.parametrize(("a", "b", "rho"), [(10, 2000, 0.5), (300, 5000, 0.6), (2, 9000, 0.1)])
def test_the_tail_series_continues_the_library_function(a: float, b: float, rho: float) -> None:
    from scipy import integrate

    def density(t: float) -> float:  # scaled by its value at rho, which dominates the tail
        return math.exp((a - 1) * math.log(t / rho) + (b - 1) * math.log((1 - t) / (1 - rho)))

    area, _ = integrate.quad(density, rho, min(1.0, rho + 60 / b), epsabs=0, epsrel=1e-10)
    beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    expected = math.log(area) + (a - 1) * math.log(rho) + (b - 1) * math.log1p(-rho) - beta
    assert gates._log_upper(a, b, rho) == pytest.approx(expected, rel=1e-6)


def test_what_cannot_be_tested_is_refused() -> None:
    for x, y, rho in ((1, 1, 0.0), (1, 1, 1.0), (-1, 1, 0.5)):
        with pytest.raises(ValueError, match="no test"):
            gates.log_e_more(x, y, rho)


# The verdicts.


def test_errors_fail_pass_or_stay_open() -> None:
    bad = error_gate(Tally(canary_bad=12, canary=200, stable_bad=0, stable=200))
    good = error_gate(Tally(canary_bad=0, canary=200, stable_bad=0, stable=200))
    little = error_gate(Tally(canary_bad=0, canary=20, stable_bad=0, stable=80))

    assert (bad.verdict, good.verdict, little.verdict) == (Verdict.FAIL, Verdict.PASS, Verdict.INCONCLUSIVE)
    assert bad.reason == "12 of 200 (6.00%) of the canary's sessions, 0 of 200 (0.00%) of stable's"
    assert bad.log_harm is not None and bad.log_fail_at is not None and bad.log_harm >= bad.log_fail_at


def test_a_canary_as_bad_as_a_bad_stable_passes() -> None:
    both = Tally(canary_bad=200, canary=2000, stable_bad=200, stable=2000)

    assert error_gate(both).verdict is Verdict.PASS


def test_nothing_passes_before_the_minimum_bake_but_it_fails_at_once() -> None:
    good = Tally(canary_bad=0, canary=500, stable_bad=0, stable=500)
    bad = Tally(canary_bad=25, canary=500, stable_bad=0, stable=500)

    assert error_gate(good, baked=False).verdict is Verdict.INCONCLUSIVE
    assert error_gate(bad, baked=False).verdict is Verdict.FAIL


@pytest.mark.parametrize("tally", [None, Tally(), Tally(stable=100), Tally(canary=100)])
def test_no_data_is_never_a_pass(tally: Tally | None) -> None:
    finding = error_gate(tally, carried=Carried(harm=0, safe=99))

    assert (finding.verdict, finding.reason) == (Verdict.INCONCLUSIVE, "no data")
    assert finding.carried == Carried(harm=0, safe=99)


def test_the_factors_of_the_steps_multiply() -> None:
    step = Tally(canary_bad=4, canary=50, stable_bad=0, stable=50)
    first = error_gate(step)
    second = error_gate(step, carried=first.carried)

    assert first.verdict is Verdict.INCONCLUSIVE
    assert first.log_harm is not None
    assert second.log_harm == pytest.approx(2 * first.log_harm)


def test_a_margin_takes_more_to_fail() -> None:
    tally = Tally(canary_bad=12, canary=200, stable_bad=3, stable=200)
    strict = gates.errors(tally, margin=0, harm=1, tolerated=0.01, levels=LEVELS, baked=True)
    lax = gates.errors(tally, margin=1, harm=3, tolerated=0.01, levels=LEVELS, baked=True)

    assert strict.log_harm is not None and lax.log_harm is not None
    assert strict.log_harm > lax.log_harm


@pytest.mark.parametrize(
    ("slow", "verdict"), [(0, Verdict.PASS), (15, Verdict.FAIL), (8, Verdict.INCONCLUSIVE)]
)
def test_latency_against_an_objective(slow: int, verdict: Verdict) -> None:
    finding = gates.latency(
        Tally(canary_bad=slow, canary=100), share=0.05, margin=0, harm=0.5,
        levels=LEVELS, baked=True, against_stable=False,
    )  # fmt: skip

    assert finding.verdict is verdict


def test_latency_against_the_baseline_compares_slow_sessions() -> None:
    def verdict(slow: int) -> Verdict:
        tally = Tally(canary_bad=slow, canary=500, stable_bad=25, stable=500)
        return gates.latency(
            tally, share=0.05, margin=0, harm=1, levels=LEVELS, baked=True, against_stable=True
        ).verdict

    assert verdict(25) is Verdict.PASS
    assert verdict(100) is Verdict.FAIL


def _restarts(canary: int | None, known: float | None = None, baked: bool = True) -> Verdict:
    return gates.restarts(
        canary, 0, canary_pod_hours=0.01, stable_pod_hours=0.02, margin=0,
        levels=LEVELS, baked=baked, per_pod_hour=known, horizon_pod_hours=0.1,
    ).verdict  # fmt: skip


def test_restarts_guard() -> None:
    assert _restarts(0) is Verdict.PASS
    assert _restarts(0, baked=False) is Verdict.INCONCLUSIVE
    assert _restarts(None) is Verdict.INCONCLUSIVE
    assert _restarts(1) is Verdict.PASS
    assert _restarts(8) is Verdict.FAIL
    assert _restarts(0, known=0.05) is Verdict.PASS
    assert _restarts(2, known=0.05) is Verdict.FAIL


def _saturation(*used: float | None, killed: tuple[str, ...] = (), baked: bool = True) -> Verdict:
    return gates.saturation(used, limit=0.9, samples=3, out_of_memory=killed, baked=baked).verdict


def test_saturation_takes_several_looks_in_a_row_and_a_memory_kill_none() -> None:
    assert _saturation(0.5, 0.95, 0.95) is Verdict.PASS
    assert _saturation(0.5, 0.95, 0.95, 0.95) is Verdict.FAIL
    assert _saturation(0.95, 0.5, 0.95, 0.95) is Verdict.PASS
    assert _saturation(0.1, killed=("pod-1",), baked=False) is Verdict.FAIL
    assert _saturation(0.1, None) is Verdict.INCONCLUSIVE
    assert _saturation() is Verdict.INCONCLUSIVE
    assert _saturation(0.1, baked=False) is Verdict.INCONCLUSIVE


def test_exposure_reports_a_split_that_is_not_the_intended_one() -> None:
    right = gates.exposure(Tally(canary=105, stable=395), weight=20, alpha=0.01)
    wrong = gates.exposure(Tally(canary=200, stable=300), weight=20, alpha=0.01)

    assert (right.mismatch, wrong.mismatch) == (False, True)
    assert wrong.observed == 0.4
    assert gates.exposure(None, weight=20, alpha=0.01).observed is None


def test_alpha_is_split_over_metrics_and_regions() -> None:
    assert gates.levels(alpha=0.06, beta=0.1, metrics=3, regions=2) == Levels(alpha=0.01, beta=0.1)


def test_one_fail_fails_and_only_passes_pass() -> None:
    def one(verdict: Verdict) -> Finding:
        return Finding(metric="m", verdict=verdict, reason="")

    good, bad, open_ = one(Verdict.PASS), one(Verdict.FAIL), one(Verdict.INCONCLUSIVE)
    assert gates.decide([good, good]) is Verdict.PASS
    assert gates.decide([good, open_, bad]) is Verdict.FAIL
    assert gates.decide([good, open_]) is Verdict.INCONCLUSIVE
    assert gates.decide([]) is Verdict.INCONCLUSIVE

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.delivery import gates
from ci.delivery.findings import NOTHING_CARRIED, Carried, Factor, Finding, Levels, Tally, Verdict
from ci.delivery.gates import Evidence, Place

LEVELS = Levels(alpha=0.01, beta=0.1)
LAST = Place(planned=(50,), weight=50, baked=True)
EARLY = Place(planned=(20, 50), weight=20, baked=True, sessions=50)


def evidence(*looks: tuple[int, float, int, float], weight: float = 0.5, harm: float = 1.0) -> Evidence:
    found = Evidence.begin(weight=weight, margin=0.0, harm=harm)
    for look in looks:
        found = found.look(*look)
    return found


def judged(
    *looks: tuple[int, float, int, float],
    place: Place = LAST,
    floor: float = 0.01,
    carried: Carried = NOTHING_CARRIED,
    known: bool = True,
) -> Finding:
    return gates.errors(
        evidence(*looks, weight=place.weight / 100),
        place=place, floor=floor, tolerated=0.03, levels=LEVELS, known=known, carried=carried,
    )  # fmt: skip


# How often they err, and how soon they see.


@pytest.mark.parametrize(("rate", "weight"), [(0.02, 0.2), (0.3, 0.5)])
def test_a_canary_no_worse_than_stable_is_hardly_ever_failed(rate: float, weight: float) -> None:
    """With observed exposure, errors rare or not, looked at every 40 sessions."""
    chance, runs, failed = np.random.default_rng(2), 60, 0
    for _ in range(runs):
        seen = Evidence.begin(weight=weight, margin=0, harm=1)
        for _ in range(40):
            canary = int(chance.binomial(40, weight))
            x, y = (int(chance.binomial(n, rate)) for n in (canary, 40 - canary))
            seen = seen.look(x, canary, y, 40 - canary)
            finding = gates.errors(seen, place=LAST, floor=0.001, tolerated=0.03, levels=LEVELS)
            if finding.verdict is Verdict.FAIL:
                failed += 1
                break
    assert failed / runs <= 0.02


def test_a_harmful_canary_hardly_ever_passes() -> None:
    """Exactly at the edge of what is accepted: twice stable's rate, and the tolerated rate itself."""
    chance, runs, passed = np.random.default_rng(3), 60, 0
    for _ in range(runs):
        seen = Evidence.begin(weight=0.5, margin=0, harm=1)
        for _ in range(40):
            x, y = (int(chance.binomial(30, rate)) for rate in (0.03, 0.015))
            seen = seen.look(x, 30, y, 30)
            finding = gates.errors(seen, place=LAST, floor=0.01, tolerated=0.03, levels=LEVELS)
            if finding.verdict is Verdict.PASS:
                passed += 1
                break
    assert passed / runs <= 0.1


@pytest.mark.parametrize(("rate", "most"), [(0.02, 130), (0.03, 60), (0.06, 36)])
def test_a_fault_of_the_last_step_is_seen_as_if_the_clean_steps_had_not_been(rate: float, most: int) -> None:
    """Canary errors until FAIL, where 1 % becomes more from the third of three steps on, 20 sessions/s."""
    levels = Levels(alpha=0.05 / 3, beta=0.05)
    chance, taken = np.random.default_rng(4), []
    for _ in range(9):
        carried, errors = NOTHING_CARRIED, 0
        for weight in (5, 20, 50):
            place = Place(planned=(5, 20, 50), weight=weight, baked=False)
            seen = Evidence.begin(weight=weight / 100, margin=0.1, harm=0.5)
            now, errors = (rate, 0) if weight == 50 else (0.01, 0)
            for _ in range(60 if weight < 50 else 2000):
                canary = 3 * weight  # 15 s
                x = int(chance.binomial(canary, now))
                y = int(chance.binomial(300 - canary, 0.01))
                errors += x
                seen = seen.look(x, canary, y, 300 - canary)
                found = gates.errors(
                    seen, place=place, floor=0.005, tolerated=0.005, levels=levels, carried=carried
                )
                if found.verdict is Verdict.FAIL:
                    break
            carried = found.carried
        taken.append(errors)
    assert sorted(taken)[4] <= most


# The verdicts.


def test_errors_fail_pass_or_stay_open() -> None:
    bad = judged((12, 200, 0, 200))
    good = judged((0, 200, 0, 200))
    little = judged((0, 20, 0, 80))

    assert (bad.verdict, good.verdict, little.verdict) == (Verdict.FAIL, Verdict.PASS, Verdict.INCONCLUSIVE)
    assert bad.reason == "12 of 200 (6.00%) of the canary's sessions, 0 of 200 (0.00%) of stable's"
    assert bad.log_harm is not None and bad.log_fail_at is not None and bad.log_harm >= bad.log_fail_at


def test_a_canary_as_bad_as_a_bad_stable_passes() -> None:
    assert judged((200, 2000, 200, 2000)).verdict is Verdict.PASS


def test_what_is_tolerated_fails_nothing_however_good_stable_is() -> None:
    looks = (30, 60_000, 6, 60_000)  # .05 % against .01 %
    found = judged(looks, floor=0.005)

    assert found.log_harm is not None and found.log_fail_at is not None and found.log_harm > found.log_fail_at
    assert found.verdict is Verdict.PASS
    assert judged(looks, floor=0.0001).verdict is Verdict.FAIL


def test_nothing_passes_before_the_minimum_bake_but_it_fails_at_once() -> None:
    early = Place(planned=(50,), weight=50, baked=False)

    assert judged((0, 500, 0, 500), place=early).verdict is Verdict.INCONCLUSIVE
    assert judged((25, 500, 0, 500), place=early).verdict is Verdict.FAIL


def test_an_early_step_takes_its_sessions_and_no_proof() -> None:
    assert judged((0, 49, 0, 200), place=EARLY).verdict is Verdict.INCONCLUSIVE
    watched = judged((0, 50, 0, 200), place=EARLY)
    assert (watched.verdict, watched.log_safe) == (Verdict.PASS, None)
    assert judged((9, 50, 0, 200), place=EARLY).verdict is Verdict.FAIL


def test_a_suspected_canary_gets_no_more_traffic_until_it_was_luck() -> None:
    suspected = judged((4, 60, 1, 240), place=EARLY)
    assert suspected.verdict is Verdict.INCONCLUSIVE
    assert suspected.log_harm is not None and suspected.log_harm > math.log(5)

    assert judged((4, 60, 1, 240), (0, 200, 6, 800), place=EARLY).verdict is Verdict.PASS
    assert judged((4, 60, 1, 240), place=EARLY, floor=0.2).verdict is Verdict.PASS  # as few as are tolerated


def test_clean_steps_prove_nothing_for_the_last_one() -> None:
    clean = judged((0, 10_000, 0, 40_000), place=EARLY)
    last = Place(planned=(20, 50), weight=50, baked=True, sessions=10)

    assert judged((0, 20, 0, 20), place=last, carried=clean.carried).verdict is Verdict.INCONCLUSIVE
    assert judged((0, 200, 0, 200), place=last, carried=clean.carried).verdict is Verdict.PASS


@pytest.mark.parametrize("look", [None, (0, 0, 0, 100), (0, 100, 0, 0)])
def test_no_data_is_never_a_pass(look: tuple[int, float, int, float] | None) -> None:
    carried = Carried(factors=(Factor(weight=50, as_stable=99, less_harm=99),))
    finding = judged(*([look] if look else []), carried=carried)

    assert (finding.verdict, finding.reason) == (Verdict.INCONCLUSIVE, "no data")
    assert finding.carried.factors[0].less_harm >= 98
    assert judged((0, 500, 0, 500), known=False).verdict is Verdict.INCONCLUSIVE


@given(st.floats(allow_nan=True), st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_nan_never_passes(harm: float, as_stable: float, less_harm: float) -> None:
    factor = Factor(weight=50, harm=harm, as_stable=as_stable, less_harm=less_harm)
    for place in (LAST, EARLY):
        finding = judged((0, 500, 0, 500), place=place, carried=Carried(factors=(factor,)))
        assert finding.verdict is not Verdict.PASS or not math.isnan(finding.log_harm or 0.0)
        assert finding.verdict is not Verdict.PASS or not math.isnan(finding.log_safe or 0.0)


@given(st.integers(0, 60), st.integers(0, 100), st.booleans(), st.booleans())
def test_more_bad_sessions_never_help(x: int, y: int, early: bool, baked: bool) -> None:
    place = Place(planned=(20, 50), weight=20 if early else 50, baked=baked, sessions=50)
    order = [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]

    less, more = (judged((bad, 200, y, 400), place=place).verdict for bad in (x, x + 1))
    assert order.index(less) <= order.index(more)


def test_two_runs_of_a_step_are_one_step() -> None:
    first = judged((4, 50, 0, 50))
    second = judged((4, 50, 0, 50), carried=first.carried)

    assert first.verdict is Verdict.INCONCLUSIVE
    assert first.log_harm is not None
    assert second.log_harm == pytest.approx(2 * first.log_harm)
    (factor,) = second.carried.factors
    assert factor.tally == Tally(canary_bad=8, canary=100, stable=100)
    assert second.tally == Tally(canary_bad=4, canary=50, stable=50)  # what this run has seen


def test_evidence_of_the_time_when_only_a_product_was_kept_counts_from_the_first_step_on() -> None:
    old = Finding(metric="errors", verdict=Verdict.PASS, reason="", log_harm=3.0, log_safe=9.0)
    last = Place(planned=(20, 50), weight=50, baked=True)

    found = judged((0, 20, 0, 20), place=last, carried=old.carried)
    own = evidence((0, 20, 0, 20)).worse.log_e
    assert found.log_harm == pytest.approx(gates.from_any_step([3.0, own], 2))
    assert found.verdict is Verdict.INCONCLUSIVE  # its proof of safety is none of this step


@pytest.mark.parametrize(
    ("slow", "verdict"), [(0, Verdict.PASS), (15, Verdict.FAIL), (8, Verdict.INCONCLUSIVE)]
)
def test_latency_against_an_objective(slow: int, verdict: Verdict) -> None:
    finding = gates.latency(
        evidence((slow, 100, 0, 0)), place=LAST, share=0.05, margin=0, harm=0.5,
        levels=LEVELS, against_stable=False,
    )  # fmt: skip

    assert finding.verdict is verdict


def test_latency_against_the_baseline_compares_slow_sessions() -> None:
    def verdict(slow: int, stable: int = 25) -> Verdict:
        return gates.latency(
            evidence((slow, 500, stable, 500)), place=LAST, share=0.05, margin=0, harm=1,
            levels=LEVELS, against_stable=True,
        ).verdict  # fmt: skip

    assert verdict(25) is Verdict.PASS
    assert verdict(100) is Verdict.FAIL
    assert verdict(20, stable=0) is not Verdict.FAIL  # a share that may be slow anyhow


def _restarts(
    *looks: tuple[int, float, int, float],
    known: float | None = None,
    place: Place = LAST,
    carried: Carried = NOTHING_CARRIED,
) -> Finding:
    return gates.restarts(
        evidence(*looks, weight=1 / 3), place=place, levels=LEVELS, per_pod_hour=known, watched=0.1,
        carried=carried,
    )  # fmt: skip


def test_restarts_guard() -> None:
    early = Place(planned=(50,), weight=50, baked=False)

    assert _restarts((0, 0.01, 0, 0.02)).verdict is Verdict.PASS
    assert _restarts((0, 0.01, 0, 0.02), place=early).verdict is Verdict.INCONCLUSIVE
    assert _restarts().verdict is Verdict.INCONCLUSIVE
    assert _restarts((1, 0.01, 0, 0.02)).verdict is Verdict.PASS
    assert _restarts((8, 0.01, 0, 0.02)).verdict is Verdict.FAIL
    assert _restarts((0, 0.01, 0, 0.02), known=0.05).verdict is Verdict.PASS
    assert _restarts((2, 0.01, 0, 0.02), known=0.05).verdict is Verdict.FAIL


def test_scaling_out_is_no_evidence_of_the_restarts_before() -> None:
    """Three restarts in three hours with a pod each; then ten canaries more, for a minute."""
    before = [(1, 1.0, 1, 1.0)] * 3
    grown = _restarts(*before, (0, 10 / 60, 0, 1 / 60))

    assert grown.log_harm is not None and grown.log_harm <= (_restarts(*before).log_harm or 0) + 0.05


def test_a_known_rate_has_one_test_in_the_whole_promotion() -> None:
    planned = (5, 20, 50)
    carried, events = NOTHING_CARRIED, 0
    for weight in planned:
        place = Place(planned=planned, weight=weight, baked=True)
        found = _restarts((1, 10.0, 0, 20.0), known=0.05, place=place, carried=carried)
        carried, events = found.carried, events + 1
        assert found.log_harm == pytest.approx(gates.maxsprt_llr(events, 0.05 * 10 * events))
    assert carried.horizon == pytest.approx(0.05 * 0.1 * 4)


def test_a_known_rate_that_is_watched_on_and_on_has_few_boundaries_each_on_the_safe_side() -> None:
    boundaries = {}
    for hours in range(100, 130):
        found = _restarts((1, float(hours), 0, 20.0), known=0.1)
        assert found.log_fail_at is not None
        assert found.log_fail_at >= gates.maxsprt_critical(0.1 * hours, LEVELS.alpha)
        boundaries[hours] = found.log_fail_at
    assert len(set(boundaries.values())) <= 4


def _saturation(*used: float | None, baked: bool = True) -> Verdict:
    return gates.saturation(used, limit=0.9, samples=3, baked=baked).verdict


def test_saturation_takes_several_looks_in_a_row_and_a_memory_kill_none() -> None:
    assert _saturation(0.5, 0.95, 0.95) is Verdict.PASS
    assert _saturation(0.5, 0.95, 0.95, 0.95) is Verdict.FAIL
    assert _saturation(0.95, 0.5, 0.95, 0.95) is Verdict.PASS
    assert gates.killed("saturation", ["pod-1"]).verdict is Verdict.FAIL
    assert _saturation(0.1, None) is Verdict.INCONCLUSIVE
    assert _saturation(0.1, math.nan) is Verdict.INCONCLUSIVE
    assert _saturation() is Verdict.INCONCLUSIVE
    assert _saturation(0.1, baked=False) is Verdict.INCONCLUSIVE


def test_exposure_reports_a_split_that_is_not_the_intended_one() -> None:
    right = gates.exposure(Tally(canary=105, stable=395), weight=20, alpha=0.01)
    wrong = gates.exposure(Tally(canary=200, stable=300), weight=20, alpha=0.01)

    assert (right.mismatch, wrong.mismatch) == (False, True)
    assert wrong.observed == 0.4
    assert gates.exposure(None, weight=20, alpha=0.01).observed is None


@pytest.mark.parametrize(
    ("canary", "stable", "verdict"),
    [
        (105, 395, Verdict.PASS),
        (80, 420, Verdict.PASS),  # a little off is no reason to wait
        (250, 250, Verdict.INCONCLUSIVE),
        (20, 480, Verdict.INCONCLUSIVE),
        (0, 10, Verdict.PASS),
        (0, 200, Verdict.FAIL),
        (0, 0, Verdict.INCONCLUSIVE),
    ],
)
def test_a_step_with_another_split_is_held_and_a_canary_that_answers_nothing_fails(
    canary: int, stable: int, verdict: Verdict
) -> None:
    tally = Tally(canary=canary, stable=stable)

    assert gates.split(tally, place=EARLY, margin=0.5, levels=LEVELS).verdict is verdict
    assert gates.split(tally, place=EARLY, margin=0.5, levels=LEVELS, known=False).verdict is not Verdict.PASS
    soon = Place(planned=(20, 50), weight=20, baked=False)
    assert gates.split(tally, place=soon, margin=0.5, levels=LEVELS).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("looks", "place"), [((1, 60, 0, 60), LAST), ((0, 20, 0, 80), EARLY)])
def test_what_is_missing_is_what_it_takes(looks: tuple[int, float, int, float], place: Place) -> None:
    found = judged(looks, place=place)
    more = gates.missing(found, place=place, tolerated=0.03)

    assert found.verdict is Verdict.INCONCLUSIVE and more is not None
    x, n, y, m = looks
    assert judged((x, n, y, m), (0, more, 0, 1), place=place).verdict is Verdict.PASS


def test_nothing_is_missing_where_it_has_passed_and_no_sessions_where_it_lacks_something_else() -> None:
    passed = judged((0, 500, 0, 500))
    waits = judged((0, 500, 0, 500), place=Place(planned=(50,), weight=50, baked=False))
    blind = judged((0, 500, 0, 500), known=False)

    assert passed.verdict is Verdict.PASS and gates.missing(passed, place=LAST, tolerated=0.03) is None
    for found in (waits, blind):
        assert found.verdict is Verdict.INCONCLUSIVE
        assert gates.missing(found, place=LAST, tolerated=0.03) == 0


def test_one_fail_fails_and_only_passes_pass() -> None:
    def one(verdict: Verdict) -> Finding:
        return Finding(metric="m", verdict=verdict, reason="")

    good, bad, open_ = one(Verdict.PASS), one(Verdict.FAIL), one(Verdict.INCONCLUSIVE)
    assert gates.decide([good, good]) is Verdict.PASS
    assert gates.decide([good, open_, bad]) is Verdict.FAIL
    assert gates.decide([good, open_]) is Verdict.INCONCLUSIVE
    assert gates.decide([]) is Verdict.INCONCLUSIVE
    dry = [each.model_copy(update={"dry_run": True}) for each in (good, bad, open_)]
    assert gates.decide([good, *dry]) is Verdict.PASS
    assert gates.decide(dry) is Verdict.INCONCLUSIVE

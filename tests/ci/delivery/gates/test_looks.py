from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.delivery.gates import Evidence, Process, from_any_step, log_e_more, with_margin
from ci.delivery.gates.looks import _NODES

LN60 = math.log(60)


def process(*looks: tuple[int, int, float], weight: float = 0.2, margin: float = 0.0) -> Process:
    found = Process.begin(weight=weight, margin=margin)
    for x, y, rho in looks:
        found = found.look(x, y, rho)
    return found


# The check values of the method.


@pytest.mark.parametrize(
    ("looks", "margin", "e"),
    [
        ([(3, 4, 0.2), (2, 1, 0.2)], 0.0, 4.98846),
        ([(1, 3, 0.1), (4, 2, 0.3)], 0.0, 4.25777),
        ([(1, 3, 0.1), (4, 2, 0.3)], 0.1, 3.39933),
        ([(2, 8, 0.1), (30, 70, 0.3)], 0.0, 0.159088),
    ],
)
def test_looks_with_shares_of_their_own_have_their_published_values(
    looks: list[tuple[int, int, float]], margin: float, e: float
) -> None:
    assert math.exp(process(*looks, margin=margin).log_e) == pytest.approx(e, rel=3e-6)


def test_pooled_shares_say_the_opposite() -> None:
    assert math.exp(log_e_more(32, 78, 0.2)) == pytest.approx(3.36628, rel=3e-6)


def test_a_fault_may_begin_in_any_step() -> None:
    assert math.exp(from_any_step([math.log(e) for e in (0.2, 0.5, 40)], 3)) == pytest.approx(
        21.3333, rel=1e-5
    )
    assert math.exp(from_any_step([], 4)) == pytest.approx(1)
    assert math.exp(from_any_step([math.log(40)], 3)) == pytest.approx(14)


def test_the_proof_against_stable_has_its_published_value() -> None:
    seen = Evidence.begin(weight=0.5, margin=0, harm=0.5).look(10, 100, 20, 100)

    assert (math.exp(seen.log_ratio) + math.exp(seen.better.log_e)) / 2 == pytest.approx(21.3594, rel=3e-6)


# The closed form, where the share does not move.


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=6),
    st.floats(0.03, 0.5),
    st.floats(0, 1),
)
def test_looks_with_one_share_are_the_closed_form(
    looks: list[tuple[int, int]], rho: float, margin: float
) -> None:
    x, y = sum(look[0] for look in looks), sum(look[1] for look in looks)
    found = process(*((*look, rho) for look in looks), weight=rho, margin=margin).log_e

    assert found == pytest.approx(log_e_more(x, y, with_margin(rho, margin)), abs=0.02)


# What makes it an e-process.


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.floats(0.001, 0.999), st.floats(0.01, 1)), min_size=1, max_size=4
    ),
    st.floats(0.01, 0.99),
    st.floats(0, 3),
    st.floats(0.01, 1),
)
def test_its_mean_is_at_most_one_for_any_shares_drifts_and_margins(
    looks: list[tuple[int, float, float]], weight: float, margin: float, part: float
) -> None:
    """Node by node, exactly: given how many sessions of a look were bad, the canary's are binomial."""
    started = Process.begin(weight=weight, margin=margin)
    grown = np.zeros(_NODES)  # ln of the mean on each node
    for events, rho, further in looks:
        ratio = (1 + margin) * (part if further > 0.5 else 1.0)  # any ratio of the null, which may change
        p = ratio * rho / (1 - rho + ratio * rho)
        of = [math.comb(events, x) * p**x * (1 - p) ** (events - x) for x in range(events + 1)]
        nodes = [started.look(x, events - x, rho).seen for x in range(events + 1)]
        grown += np.log(sum(chance * np.exp(node) for chance, node in zip(of, nodes, strict=True)))
    assert np.exp(started.grid.log_prior).sum() == pytest.approx(1)
    assert np.exp(started.grid.log_prior + grown).sum() <= 1 + 1e-9


@given(
    st.integers(1, 4), st.integers(1, 4), st.floats(0.01, 0.99), st.floats(0.0, 2.0),
    st.floats(0.001, 0.999), st.floats(0.0, 1.0),
)  # fmt: skip
def test_a_table_has_a_mean_of_at_most_one_under_every_pair_of_the_null(
    n: int, m: int, known: float, margin: float, rate: float, part: float
) -> None:
    """Whatever was thought of stable's rate before, and on each node."""
    started = Process.begin(weight=0.3, margin=margin)
    canary = min(1.0, part * (1 + margin) * rate)
    mean = np.zeros(_NODES)
    for x, y in itertools.product(range(n + 1), range(m + 1)):
        chance = math.comb(n, x) * canary**x * (1 - canary) ** (n - x)
        chance *= math.comb(m, y) * rate**y * (1 - rate) ** (m - y)
        mean += chance * np.exp(started.table(x, n, y, m, known).seen)
    assert mean.max() <= 1 + 1e-9


def test_where_bad_sessions_are_not_rare_tables_see_harm_sooner() -> None:
    """40 % become 55 %: half of the sessions do, and the counts of rare events are tempted by none of it."""
    chance = np.random.default_rng(9)
    looks = [(int(chance.binomial(50, 0.55)), int(chance.binomial(50, 0.4))) for _ in range(40)]

    def until_seen(*, tables: bool) -> int:
        seen = Evidence.begin(weight=0.5, margin=0, harm=1, tables=tables)
        for number, (x, y) in enumerate(looks):
            seen = seen.look(x, 50, y, 50)
            if seen.worse.log_e >= LN60:
                return number
        return len(looks)

    assert until_seen(tables=True) <= 0.7 * until_seen(tables=False)


def test_a_rate_is_taken_from_the_looks_before_and_none_that_is_still_open() -> None:
    begun = Evidence.begin(weight=0.5, margin=0, harm=1, tables=True)
    first = begun.look(60, 100, 60, 100)
    assert first.worse.log_e == begun.worse.look(60, 60, 0.5).log_e  # nothing was known before it
    second = first.look(0, 0, 90, 100).look(60, 100, 0, 0)  # the tracks are scraped one after the other
    assert second.worse.log_e == first.worse.table(60, 100, 90, 100, 60.5 / 101).log_e


def test_the_mean_over_where_a_fault_begins_is_at_most_one() -> None:
    """All outcomes of two steps with two fair factors each, of which the second has looked at the first."""
    factors = [math.log(0.5), math.log(1.5)]
    both = [from_any_step(each, 3) for each in itertools.product(factors, factors)]

    assert sum(math.exp(one) for one in both) / 4 == pytest.approx(1)


def alarms(shares: tuple[float, float], rates: tuple[float, float], runs: int = 150) -> tuple[float, float]:
    """How often it errs where share and rate drift together, and how often a pooled share does."""
    chance = np.random.default_rng(6)
    wrong = pooled = 0
    for _ in range(runs):
        found = Process.begin(weight=0.2, margin=0.0)
        bad = [0, 0]
        sent = [0, 0]
        erred = erred_pooled = False
        for share, rate in zip(np.linspace(*shares, 40), np.linspace(*rates, 40), strict=True):
            canary = int(chance.binomial(100, share))
            x, y = int(chance.binomial(canary, rate)), int(chance.binomial(100 - canary, rate))
            bad, sent = [bad[0] + x, bad[1] + y], [sent[0] + canary, sent[1] + 100 - canary]
            if 0 < canary < 100:
                found = found.look(x, y, canary / 100)
            erred = erred or found.log_e >= LN60
            if sent[0]:
                erred_pooled = erred_pooled or log_e_more(*bad, sent[0] / sum(sent)) >= LN60
        wrong, pooled = wrong + erred, pooled + erred_pooled
    return wrong / runs, pooled / runs


def test_a_share_that_drifts_while_both_tracks_have_an_incident_is_no_harm() -> None:
    wrong, pooled = alarms(shares=(0.05, 0.35), rates=(0.0, 0.6))

    assert wrong <= 0.02
    assert pooled > 0.2  # the same data does tempt


# Numbers.


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0.0001, 0.9999)), max_size=3),
    st.floats(0.001, 0.999),
)
def test_any_looks_give_a_finite_number(looks: list[tuple[int, int, float]], weight: float) -> None:
    assert math.isfinite(process(*looks, weight=weight).log_e)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=4), st.integers(0, 3))
def test_another_bad_session_of_the_canary_never_helps_it(looks: list[tuple[int, int]], which: int) -> None:
    def seen(more: int) -> Evidence:
        found = Evidence.begin(weight=0.3, margin=0.1, harm=0.5)
        for number, (x, y) in enumerate(looks):
            found = found.look(x + more * (number == which % len(looks)), 100, y, 200)
        return found

    before, after = seen(0), seen(1)
    assert after.worse.log_e >= before.worse.log_e
    assert after.log_ratio <= before.log_ratio
    assert after.better.log_e <= before.better.log_e


def test_a_share_that_excuses_bursts_makes_nothing_safer() -> None:
    begun = Evidence.begin(weight=0.2, margin=0, harm=0.5)
    sessions, pods = begun.look(9, 200, 20, 800), begun.look(9, 200, 20, 800, share=0.4)

    assert pods.worse.log_e < sessions.worse.log_e
    assert (pods.better.log_e, pods.log_ratio) == (sessions.better.log_e, sessions.log_ratio)


@pytest.mark.parametrize(
    "look", [(1, math.nan, 1, 5.0), (-1, 5.0, 1, 5.0), (1, math.inf, 1, 5.0), (1, 5.0, 1, -5.0)]
)
def test_what_is_no_number_is_no_look(look: tuple[int, float, int, float]) -> None:
    with pytest.raises(ValueError, match="no look"):
        Evidence.begin(weight=0.3, margin=0, harm=0.5).look(*look)


@pytest.mark.parametrize("look", [(1, 1, 1.5), (1, 0, 0.0), (0, 1, 1.0), (-1, 0, 0.5)])
def test_what_cannot_be_tested_is_refused(look: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="no test"):
        process(look)
    with pytest.raises(ValueError, match="no test"):
        Process.begin(weight=0.0, margin=0.0)


def test_tracks_that_are_scraped_one_after_the_other_lose_no_bad_session() -> None:
    begun = Evidence.begin(weight=0.5, margin=0, harm=1)
    apart = begun.look(6, 100, 0, 0).look(0, 0, 2, 100)
    together = begun.look(6, 100, 2, 100)

    assert apart.worse.log_e == together.worse.log_e
    assert begun.look(6, 100, 0, 0).worse.log_e == pytest.approx(0)


def test_counts_that_fell_are_no_look() -> None:
    seen = Evidence.begin(weight=0.5, margin=0, harm=1).until(6, 100, 2, 100)

    assert seen.until(5, 90, 2, 100) is seen
    assert seen.until(7, 120, 2, 110).canary == 120


def test_looks_of_a_whole_day_take_no_more_memory_than_one() -> None:
    chance = random.Random(7)
    seen = Evidence.begin(weight=0.05, margin=0.1, harm=0.5)
    for _ in range(2000):
        seen = seen.look(chance.random() < 0.01, 5, chance.random() < 0.1, 95)

    assert seen.worse.seen.shape == (_NODES,)
    assert seen.open == (0, 0.0, 0, 0.0)

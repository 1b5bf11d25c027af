from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from promotion_world import environment

from ci.delivery.asking import Told, begin, compared
from ci.delivery.findings import Carried, Finding, Tally, Verdict
from ci.delivery.promotion.measurements import Look
from ci.delivery.promotion.replay import replayed
from ci.environments import Environment, RestartGate

WORLD = environment("prod")
NOON = datetime(2026, 11, 20, tzinfo=UTC)


def bake(step: int, weight: int, *counts: tuple[int, int, int, int]) -> list[Look]:
    """A look a second, by what had been counted since the bake began; no counts: a hole."""
    looks = []
    for second, each in enumerate(counts, 1):
        tally = Tally(canary_bad=each[0], canary=each[1], stable_bad=each[2], stable=each[3])
        findings = tuple(
            Finding(metric=metric, verdict=Verdict.INCONCLUSIVE, reason="no data" if not each[1] else "so",
                    tally=tally if metric == "errors" else tally.model_copy(update={"canary_bad": 0}))
            for metric in ("errors", "latency")
        )  # fmt: skip
        looks.append(
            Look(
                step=step,
                time=NOON + timedelta(seconds=second),
                weight=weight,
                seconds=second,
                findings=findings,
            )
        )
    return looks


GOOD = bake(7, 20, (0, 40, 0, 160), (0, 80, 0, 320)) + bake(12, 50, (0, 90, 0, 90), (1, 400, 1, 400))
BAD = bake(7, 20, (3, 10, 0, 40), (9, 45, 0, 180), (20, 200, 0, 800)) + bake(12, 50, (0, 90, 0, 90))


def said(looks: Sequence[Look], of: Environment = WORLD) -> list[tuple[int, Verdict, float]]:
    return [(one.weight, one.verdict, one.seconds) for one in replayed(of, looks)]


def test_a_good_promotion_passes_again() -> None:
    assert said(GOOD) == [(20, Verdict.PASS, 2.0), (50, Verdict.PASS, 2.0)]


def test_a_bad_one_fails_at_the_look_that_shows_it_and_nothing_comes_after() -> None:
    assert said(BAD) == [(20, Verdict.FAIL, 2.0)]


def test_with_another_alpha_it_would_have_failed_later() -> None:
    strict = WORLD.model_copy(update={"gates": WORLD.gates.model_copy(update={"alpha": 1e-5})})

    assert said(BAD, strict) == [(20, Verdict.FAIL, 3.0)]


def test_a_hole_passes_nothing_and_the_bake_begins_anew() -> None:
    holed = bake(7, 20, (0, 60, 0, 240), (0, 0, 0, 0), (0, 80, 0, 320))

    assert said(holed)[0] == (20, Verdict.PASS, 1.0)
    assert said(holed[1:2]) == [(20, Verdict.INCONCLUSIVE, 2.0)]


def test_a_step_that_is_planned_no_more_is_left_out() -> None:
    assert said(bake(3, 33, (0, 60, 0, 240)) + GOOD) == said(GOOD)


def test_restarts_come_from_the_pod_hours_that_were_kept() -> None:
    world = environment("prod", restarts=RestartGate(margin=0.0), latency=None)
    step = world.canary.steps[0]
    looks, gathered = [], begin(world.gates, step, ())
    carried: dict[str, Carried] = {}
    for second in range(1, 5):
        seen = gathered.evidence
        gathered = replace(
            gathered,
            evidence={
                "errors": seen["errors"].look(0, 20, 0, 80),
                "restarts": seen["restarts"].look(3, 0.001, 0, 0.004),
            },
        )
        findings = compared(world, step, gathered, Told(baked=False), carried)
        looks.append(Look(step=7, time=NOON, weight=20, seconds=second, findings=findings))

    (found,) = replayed(world, looks)
    assert found.verdict is Verdict.FAIL
    assert {finding.metric: finding.verdict for finding in found.findings}["restarts"] is Verdict.FAIL


def test_what_was_recorded_without_pod_hours_is_not_asked_for_them() -> None:
    world = environment("prod", restarts=RestartGate(margin=0.0))
    old = Finding(metric="restarts", verdict=Verdict.PASS, reason="0 of 1", log_harm=0.0)
    looks = [look.model_copy(update={"findings": (*look.findings, old)}) for look in GOOD]

    assert said(looks, world) == said(GOOD)

"""Simulated promotions, judged by the errors gate alone with the cloud's settings: `python -m benches gates`.

Three steps of 5, 20 and 50 % that bake 10, 15 and 15 minutes, alpha' = 1/60, a look every 15 s, sessions
independent of each other. Each row has its own seed, so that it is the same in every run.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benches.measure import Figure
from ci.delivery import gates
from ci.delivery.findings import NOTHING_CARRIED, Levels, Verdict
from ci.delivery.gates import Evidence, Place, Process

__all__ = ["figures"]

_STEPS = {5: 600.0, 20: 900.0, 50: 900.0}
_LEVELS = Levels(alpha=1 / 60, beta=0.05)
_LOOK = 15.0
_LONGEST = 7200.0
_TOLERATED = 0.005


@dataclass(frozen=True, kw_only=True)
class _Ended:
    verdict: Verdict
    errors: int
    """Of the canary, since the fault began."""
    seconds: float


def _promotion(
    chance: np.random.Generator,
    rate: float,
    stable: float,
    bad: float,
    *,
    begins: int = 0,
) -> _Ended:
    """One promotion at `rate` sessions a second. The canary fails as stable does, and from step `begins` on
    `bad` of its sessions."""
    carried, seconds, errors = NOTHING_CARRIED, 0.0, 0
    for number, (weight, bake) in enumerate(_STEPS.items()):
        seen, since = Evidence.begin(weight=weight / 100, margin=0.1, harm=0.5), seconds
        fails = bad if number >= begins else stable
        while True:
            if seconds >= _LONGEST:
                return _Ended(verdict=Verdict.INCONCLUSIVE, errors=errors, seconds=seconds)
            seconds += _LOOK
            sessions = int(chance.poisson(rate * _LOOK))
            canary = int(chance.binomial(sessions, weight / 100))
            x = int(chance.binomial(canary, fails))
            y = int(chance.binomial(sessions - canary, stable))
            errors += x if number >= begins else 0
            seen = seen.look(x, canary, y, sessions - canary)
            place = Place(planned=tuple(_STEPS), weight=weight, baked=seconds - since >= bake, sessions=50)
            found = gates.errors(
                seen, place=place, floor=_TOLERATED, tolerated=_TOLERATED, levels=_LEVELS, carried=carried
            )
            if found.verdict is Verdict.FAIL:
                return _Ended(verdict=Verdict.FAIL, errors=errors, seconds=seconds)
            if found.verdict is Verdict.PASS:
                break
        carried = found.carried
    return _Ended(verdict=Verdict.PASS, errors=errors, seconds=seconds)


def _many(runs: int, seed: int, one: Callable[[np.random.Generator], _Ended]) -> list[_Ended]:
    chance = np.random.default_rng(seed)
    return [one(chance) for _ in range(runs)]


def _share(ended: list[_Ended], verdict: Verdict) -> float:
    return sum(one.verdict is verdict for one in ended) / len(ended)


def _decided(runs: int) -> list[Figure]:
    """Good canaries come to a verdict, and hardly ever to the wrong one."""
    found = []
    rows = ((0.5, 0.0), (2, 0.001), (5, 0.002), (30, 0.004), (15, 0.01), (3, 0.05))
    for seed, (rate, errors) in enumerate(rows):
        ended = _many(runs, seed, lambda chance, r=rate, e=errors: _promotion(chance, r, e, e))
        minutes = statistics.median(one.seconds for one in ended) / 60
        found += [
            Figure(
                claim=f"good canaries without a verdict in two hours, {rate:g}/s, {errors:.1%} errors",
                value=_share(ended, Verdict.INCONCLUSIVE),
                limit=0.02,
                unit="",
                detail=f"{runs} runs, seed {seed}, median {minutes:.0f} min, "
                f"failed {_share(ended, Verdict.FAIL):.3f}",
            )
        ]
    return found


def _caught(runs: int) -> list[Figure]:
    """Errors of a canary whose fault begins in the last step."""
    found = []
    rows = (
        (20, 0.01, 0.02, 100), (20, 0.01, 0.03, 47), (20, 0.01, 0.06, 27),
        (20, 0.001, 0.01, 26), (20, 0.0, 0.02, 11), (100, 0.0, 0.02, 16),
    )  # fmt: skip
    for seed, (rate, stable, bad, wanted) in enumerate(rows, 20):
        ended = _many(
            runs, seed, lambda chance, r=rate, s=stable, b=bad: _promotion(chance, r, s, b, begins=2)
        )
        errors = [one.errors for one in ended if one.verdict is Verdict.FAIL]
        found.append(
            Figure(
                claim=f"errors until FAIL, {stable:.1%} to {bad:.0%} from the third step on, {rate}/s",
                value=statistics.median(errors),
                limit=1.15 * wanted,
                unit="",
                detail=f"median of {runs} runs, seed {seed}, wanted {wanted}; {len(errors)} failed",
            )
        )
    return found


def _tolerated(runs: int) -> list[Figure]:
    """What is tolerated hardly ever fails, however good stable is."""
    return [
        Figure(
            claim=f"FAIL at {rate:.2%} against .01 %, 200/s, {_TOLERATED:.1%} tolerated",
            value=_share(
                _many(runs, seed, lambda chance, r=rate: _promotion(chance, 200, 0.0001, r)), Verdict.FAIL
            ),
            limit=limit,
            unit="",
            detail=f"{runs} runs, seed {seed}",
        )
        for seed, rate, limit in ((40, _TOLERATED / 2, 0.01), (41, _TOLERATED, 0.2))
    ]


def _harmful(runs: int) -> list[Figure]:
    """Harm that is there when the last step begins: half as much again as stable's, and over `tolerated`."""
    ended = _many(runs, 50, lambda chance: _promotion(chance, 100, 0.01, 0.015, begins=2))
    return [
        Figure(
            claim="canaries that do harm from the third step on, and pass: 1 % to 1.5 %, 100/s",
            value=_share(ended, Verdict.PASS),
            limit=_LEVELS.beta,
            unit="",
            detail=f"{runs} runs, seed 50",
        )
    ]


def _drifts(runs: int) -> list[Figure]:
    """The share goes from .1 to .3 while both tracks have an incident; looked at 40 times, 20/s."""
    chance, wrong, pooled = np.random.default_rng(60), 0, 0
    for _ in range(runs):
        seen, bad, sent, erred, erred_pooled = (
            Process.begin(weight=0.2, margin=0.1),
            [0, 0],
            [0, 0],
            False,
            False,
        )
        for share, rate in zip(np.linspace(0.1, 0.3, 40), np.linspace(0.0, 0.5, 40), strict=True):
            canary = int(chance.binomial(300, share))
            x, y = int(chance.binomial(canary, rate)), int(chance.binomial(300 - canary, rate))
            bad, sent = [bad[0] + x, bad[1] + y], [sent[0] + canary, sent[1] + 300 - canary]
            seen = seen.look(x, y, canary / 300)
            erred = erred or seen.log_e >= np.log(60)
            whole = gates.with_margin(sent[0] / sum(sent), 0.1)
            erred_pooled = erred_pooled or gates.log_e_more(*bad, whole) >= np.log(60)
        wrong, pooled = wrong + erred, pooled + erred_pooled
    return [
        Figure(
            claim="false alarms where the share drifts while both tracks have an incident",
            value=wrong / runs,
            limit=0.003,
            unit="",
            detail=f"{runs} runs, seed 60; pooled over the step: {pooled / runs:.2f}",
        )
    ]


def _speed() -> list[Figure]:
    """A thousand gates look once; and one gate for a day."""
    place = Place(planned=tuple(_STEPS), weight=50, baked=True, sessions=50)
    seen = Evidence.begin(weight=0.5, margin=0.1, harm=0.5)

    def look(x: int) -> None:
        nonlocal seen
        seen = seen.look(x, 50, x, 50)
        gates.errors(seen, place=place, floor=_TOLERATED, tolerated=_TOLERATED, levels=_LEVELS)

    taken = []
    for _ in range(7):
        started = time.perf_counter()
        for number in range(1000):
            look(number % 7 == 0)
        taken.append(time.perf_counter() - started)
    tracemalloc.start()
    for number in range(960):
        look(number % 7 == 0)
    before, _ = tracemalloc.get_traced_memory()
    for number in range(4800):
        look(number % 7 == 0)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return [
        Figure(
            claim="1,000 gates, a look each", value=min(taken), limit=0.1, unit="s", detail="the best of 7"
        ),
        Figure(
            claim="memory that one gate grows by in 20 hours of looks",
            value=(after - before) / 2**10,
            limit=2048,
            unit="KiB",
            detail="what is remembered of the closed forms is bounded",
        ),
    ]


def figures(runs: int = 200) -> list[Figure]:
    """All of it."""
    return [
        *_speed(),
        *_drifts(5 * runs),
        *_caught(runs),
        *_tolerated(runs),
        *_harmful(runs),
        *_decided(runs),
    ]

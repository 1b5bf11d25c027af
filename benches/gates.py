"""Simulated promotions, judged by the errors gate alone with the cloud's settings: `python -m benches gates`.

Three steps of 5, 20 and 50 % that bake 10, 15 and 15 minutes, alpha' = 1/60, a look every 15 s, sessions
independent of each other, where a row says nothing else. Each row has its own seed, so that it is the same in
every run.
"""

from __future__ import annotations

import math
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benches.canaries import LEVELS, LONGEST, LOOK, STEPS, TOLERATED, faults, nulls
from benches.measure import Figure
from ci.delivery import gates
from ci.delivery.findings import NOTHING_CARRIED, Verdict
from ci.delivery.gates import Evidence, Place, Process

__all__ = ["figures"]


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
    for number, (weight, bake) in enumerate(STEPS.items()):
        seen = Evidence.begin(weight=weight / 100, margin=0.1, harm=0.5, tables=True)
        since = seconds
        fails = bad if number >= begins else stable
        while True:
            if seconds >= LONGEST:
                return _Ended(verdict=Verdict.INCONCLUSIVE, errors=errors, seconds=seconds)
            seconds += LOOK
            sessions = int(chance.poisson(rate * LOOK))
            canary = int(chance.binomial(sessions, weight / 100))
            x = int(chance.binomial(canary, fails))
            y = int(chance.binomial(sessions - canary, stable))
            errors += x if number >= begins else 0
            seen = seen.look(x, canary, y, sessions - canary)
            place = Place(planned=tuple(STEPS), weight=weight, baked=seconds - since >= bake, sessions=50)
            found = gates.errors(
                seen, place=place, floor=TOLERATED, tolerated=TOLERATED, levels=LEVELS, carried=carried
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
            claim=f"FAIL at {rate:.2%} against .01 %, 200/s, {TOLERATED:.1%} tolerated",
            value=_share(
                _many(runs, seed, lambda chance, r=rate: _promotion(chance, 200, 0.0001, r)), Verdict.FAIL
            ),
            limit=limit,
            unit="",
            detail=f"{runs} runs, seed {seed}",
        )
        for seed, rate, limit in ((40, TOLERATED / 2, 0.01), (41, TOLERATED, 0.2))
    ]


def _harmful(runs: int) -> list[Figure]:
    """Harm that is there when the last step begins: half as much again as stable's, and over `tolerated`."""
    ended = _many(runs, 50, lambda chance: _promotion(chance, 100, 0.01, 0.015, begins=2))
    return [
        Figure(
            claim="canaries that do harm from the third step on, and pass: 1 % to 1.5 %, 100/s",
            value=_share(ended, Verdict.PASS),
            limit=LEVELS.beta,
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
    place = Place(planned=tuple(STEPS), weight=50, baked=True, sessions=50)
    seen = Evidence.begin(weight=0.5, margin=0.1, harm=0.5, tables=True)

    def look(x: int) -> None:
        nonlocal seen
        seen = seen.look(x, 50, x, 50)
        gates.errors(seen, place=place, floor=TOLERATED, tolerated=TOLERATED, levels=LEVELS)

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


def _bursts(runs: int) -> list[Figure]:
    """Twenty pods, 100/s, of which one fails all for five seconds in each promotion; and harm at 20/s."""
    wrong = dict.fromkeys((False, True), 0)
    for mode in wrong:
        chance = np.random.default_rng(70)
        wrong[mode] = sum(
            _pods(chance, 0.001, 0.001, rate=100, mode=mode, burst=True) is not None for _ in range(runs)
        )
    found = [
        Figure(
            claim="good canaries taken back where a pod fails for 5 s, in the mode for bursts",
            value=wrong[True] / runs,
            limit=2 * LEVELS.alpha,
            unit="",
            detail=f"{runs} runs with a burst in each, seed 70; without the mode {wrong[False] / runs:.3f}",
        )
    ]
    for seed, (base, bad, wanted) in enumerate(((0.001, 0.051, 4), (0.01, 0.03, 21), (0.05, 0.15, 70)), 71):
        taken = {}
        for mode in (False, True):
            chance = np.random.default_rng(seed)
            errors = [_pods(chance, base, bad, mode=mode) for _ in range(max(20, runs // 4))]
            taken[mode] = statistics.median(math.inf if one is None else one for one in errors)
        found.append(
            Figure(
                claim=f"errors until FAIL in the mode for bursts, {base:.1%} to {bad:.1%}, from step 1 on",
                value=taken[True],
                limit=1.2 * wanted,
                unit="",
                detail=f"median, seed {seed}; without the mode {taken[False]:g}, wanted {wanted}",
            )
        )
    return found


def _pods(
    chance: np.random.Generator, base: float, bad: float, *, mode: bool, rate: float = 20, burst: bool = False
) -> int | None:
    """The canary's bad sessions until it FAILS; None when it does not in the time that the steps bake.

    It has pods as it has weight: 1, 4 and 10 of twenty. A look every 5 s, `rate` sessions a second.
    """
    carried, errors = NOTHING_CARRIED, 0
    looks = int(sum(STEPS.values()) / 5)
    at, which = (int(chance.integers(looks)), int(chance.integers(20))) if burst else (-1, -1)
    look = 0
    for weight, seconds in STEPS.items():
        own = weight * 20 // 100
        seen = Evidence.begin(weight=weight / 100, margin=0.1, harm=0.5, tables=not mode)
        place = Place(planned=tuple(STEPS), weight=weight, baked=False, sessions=50)
        for _ in range(int(seconds / 5)):
            sessions = chance.poisson(rate * 5 / 20, 20)  # of each pod
            fails = chance.binomial(sessions, np.where(np.arange(20) < own, bad, base))
            if look == at:
                fails[which] = sessions[which]
            look += 1
            errors += int(fails[:own].sum())
            if mode:
                came = [
                    ("canary" if pod < own else "stable", int(fails[pod]), int(sessions[pod]))
                    for pod in range(20)
                ]
                seen = seen.of_pods(came, (own, 20 - own))
            else:
                seen = seen.look(
                    int(fails[:own].sum()), int(sessions[:own].sum()), int(fails[own:].sum()),
                    int(sessions[own:].sum()),
                )  # fmt: skip
            found = gates.errors(
                seen, place=place, floor=TOLERATED, tolerated=TOLERATED, levels=LEVELS, carried=carried
            )
            if found.verdict is Verdict.FAIL:
                return errors
        carried = found.carried
    return None


def _against(runs: int) -> list[Figure]:
    """The goals: our bad sessions against theirs, and false alarms."""
    bad, found = list(faults(runs)), []
    said = f"{runs} runs a cell"
    for rule in ("Argo", "Flagger", "Kayenta", "one threshold", "its own threshold"):
        for step in (1, 3):
            cells = [cell for cell in bad if cell.begins == step and rule in cell.keeps]
            if not cells:
                continue
            ratios = [max(cell.bad["ours"][0], 0.5) / max(cell.bad[rule][0], 0.5) for cell in cells]
            lost = [cell.what for cell, ratio in zip(cells, ratios, strict=True) if ratio > 1]
            of = len([cell for cell in bad if cell.begins == step])
            found.append(
                Figure(
                    claim=f"our bad sessions / those of {rule}, from step {step} on",
                    value=math.exp(sum(map(math.log, ratios)) / len(ratios)),
                    limit=1.0 if (rule, step) == ("its own threshold", 1) else 0.5,
                    unit="x",
                    detail=f"geometric mean of the {len(cells)} of {of} services whose good canaries it "
                    f"keeps, {said}; it has fewer at {'; '.join(lost) or 'none'}",
                )
            )
    wrong = {cell.what: cell.shares["ours"] for cell in nulls(runs) if "a track" not in cell.what}
    worst = max(wrong, key=lambda what: wrong[what])
    found.append(
        Figure(
            claim="good canaries that our gate takes back",
            value=sum(wrong.values()) / len(wrong),
            limit=LEVELS.alpha,
            unit="",
            detail=f"mean of {len(wrong)} cells, {said}; worst {wrong[worst]:.3f}: {worst}",
        )
    )
    return found


def figures(runs: int = 200) -> list[Figure]:
    """All of it."""
    return [
        *_speed(),
        *_drifts(5 * runs),
        *_caught(runs),
        *_tolerated(runs),
        *_harmful(runs),
        *_decided(runs),
        *_bursts(runs),
        *_against(runs // 4),
    ]

"""Canaries simulated, judged by our errors gate and by the rules of others: `python -m benches.canaries`.

The rules are reimplemented from what their documentation shows, for one metric, the share of failed sessions:

- Argo Rollouts, "Analysis & Progressive Delivery": every 5 minutes `irate` of the last two samples, at least
  95 % well, failureLimit 3;
- Flagger, "Metrics Analysis": each minute over a minute, at least 99 % well, 5 failed checks roll back;
- Kayenta's judge: minutes of canary and stable by a Mann-Whitney interval of 98 %, beyond a quarter of its
  estimate above nothing; asked every 5 minutes about all minutes so far;
- a threshold for the share of some minutes, as either of the first two has it, tuned to take back 1 %.

Where they have no traffic to see, they are let pass. All look at the same sessions: steps of 5, 20 and 50 %
that bake 10, 15 and 15 minutes. They are over then; ours goes on until it has a verdict, two hours at most.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ci.delivery import gates
from ci.delivery.findings import NOTHING_CARRIED, Levels, Verdict
from ci.delivery.gates import Evidence, Place

__all__ = [
    "LEVELS",
    "LONGEST",
    "LOOK",
    "STEPS",
    "TOLERATED",
    "Cell",
    "Threshold",
    "Traffic",
    "faults",
    "mann_whitney",
    "nulls",
    "simulated",
    "table",
]

STEPS = {5: 600, 20: 900, 50: 900}
LOOK, LONGEST = 15, 7200
_OVER = sum(STEPS.values()) // LOOK
"""Looks until the others are done."""
_MINUTE = 60 // LOOK
LEVELS = Levels(alpha=1 / 60, beta=0.05)
TOLERATED = 0.005
_NEVER = LONGEST // LOOK
_Counts = NDArray[np.int64]
_Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Sessions and bad ones of both tracks, by run and look; and when the fault begins, in looks."""

    canary: _Counts
    canary_bad: _Counts
    stable: _Counts
    stable_bad: _Counts
    begins: int


def weights() -> _Numbers:
    """By look, the canary's; that of the last step goes on."""
    ends = np.cumsum([seconds // LOOK for seconds in STEPS.values()])
    step = np.minimum(np.searchsorted(ends, np.arange(_NEVER), side="right"), len(STEPS) - 1)
    return np.array(list(STEPS))[step] / 100


def simulated(
    *,
    runs: int,
    seed: int,
    rate: float,
    base: float,
    bad: float | None = None,
    step: int = 0,
    noise: str = "",
    looks: int = _NEVER,
) -> Traffic:
    """`rate` sessions a second of which `base` fail, and from `step` on `bad` of the canary's.

    `noise`: what happens to both tracks, or to the canary, that is no fault of it. See NOISES.
    """
    chance = np.random.default_rng(seed)
    share = np.tile(weights()[:looks], (runs, 1))
    common = np.full((runs, looks), base)
    canary, stable = common.copy(), common
    times = np.arange(looks) / _OVER
    if noise in ("AR(1)", "AR(1) a track"):
        canary, stable = (base * np.exp(_drifting(chance, runs, looks)) for _ in range(2))
        canary = stable if noise == "AR(1)" else canary
    elif noise == "the share drifts in an incident":
        share = share * (0.6 + 0.8 * np.minimum(times, 1))
        canary = stable = base + 0.2 * np.clip(times - 0.3, 0, 0.7)
    elif noise == "an incident":
        canary = stable = np.where((times > 0.5) & (times < 0.8), 10 * base, base)[None].repeat(runs, 0)
    elif noise == "twice the base":
        canary = stable = 2 * common
    begins = sum(list(STEPS.values())[:step]) // LOOK
    if bad is not None:
        canary = canary.copy()
        since = np.arange(looks) - begins
        ramp = np.clip(since / (600 / LOOK), 0, 1) if noise == "ramp" else np.ones(looks)
        canary[:, begins:] = (base + (bad - base) * ramp)[begins:]
    sessions = chance.poisson(rate * LOOK, (runs, looks))
    if noise == "holes":
        there = chance.random((runs, looks)) > 0.2
        sessions = sessions * there  # what is not seen is of nobody: the least that a hole does
    n = chance.binomial(sessions, share)
    m = sessions - n
    return Traffic(
        canary=n,
        canary_bad=chance.binomial(n, np.clip(canary, 0, 1)),
        stable=m,
        stable_bad=chance.binomial(m, np.clip(stable, 0, 1)),
        begins=begins,
    )


NOISES = (
    "",
    "AR(1)",
    "AR(1) a track",
    "an incident",
    "the share drifts in an incident",
    "twice the base",
    "holes",
)


def _drifting(chance: np.random.Generator, runs: int, looks: int) -> _Numbers:
    """ln of a rate that wanders about its mean: .7 of the look before, and so that its deviation is .5."""
    found = np.zeros((runs, looks))
    for look in range(1, looks):
        found[:, look] = 0.7 * found[:, look - 1] + chance.normal(0, 0.5 * math.sqrt(1 - 0.49), runs)
    return found


# The rules: by run, the look after which the canary is taken back; _NEVER where it is not.


def ours(traffic: Traffic) -> tuple[_Counts, _Counts]:
    """And the look after which it passed, likewise."""
    fails, passes = (np.full(len(traffic.canary), _NEVER) for _ in range(2))
    for run in range(len(traffic.canary)):
        verdict, look = _judged(traffic, run)
        if verdict is Verdict.FAIL:
            fails[run] = look
        elif verdict is Verdict.PASS:
            passes[run] = look
    return fails, passes


def _judged(traffic: Traffic, run: int) -> tuple[Verdict, int]:
    carried, look = NOTHING_CARRIED, 0
    for weight, seconds in STEPS.items():
        seen, since = Evidence.begin(weight=weight / 100, margin=0.1, harm=0.5, tables=True), look
        last = weight == max(STEPS)
        while True:
            if look == (_NEVER if last else since + seconds // LOOK):
                break  # the traffic is of a canary that goes on: the others' steps have an end
            seen = seen.look(
                int(traffic.canary_bad[run, look]), int(traffic.canary[run, look]),
                int(traffic.stable_bad[run, look]), int(traffic.stable[run, look]),
            )  # fmt: skip
            look += 1
            baked = (look - since) * LOOK >= seconds
            place = Place(planned=tuple(STEPS), weight=weight, baked=baked, sessions=50)
            found = gates.errors(
                seen, place=place, floor=TOLERATED, tolerated=TOLERATED, levels=LEVELS, carried=carried
            )
            if found.verdict is Verdict.FAIL or (last and found.verdict is Verdict.PASS):
                return found.verdict, look
        carried = found.carried
    return Verdict.INCONCLUSIVE, look


def _over(part: _Counts, whole: _Counts, looks: int) -> _Numbers:
    """The share of bad sessions in the last `looks`, after each look; NaN where there was none."""
    sums = [np.cumsum(np.pad(each, ((0, 0), (looks, 0))), axis=1) for each in (part, whole)]
    bad, all_ = (each[:, looks:] - each[:, :-looks] for each in sums)
    with np.errstate(invalid="ignore"):
        return bad / np.where(all_ == 0, np.nan, all_)


def _checked(traffic: Traffic, *, most: float, window: int, every: int, failures: int) -> _Counts:
    """Taken back at the failure that is one more than `failures`."""
    rates = _over(traffic.canary_bad[:, :_OVER], traffic.canary[:, :_OVER], window)
    looks = np.arange(1, _OVER + 1)
    asked = (looks % every == 0) & (looks >= window)
    failed = np.cumsum((rates > most) & asked, axis=1) > failures
    return np.where(failed.any(axis=1), failed.argmax(axis=1) + 1, _NEVER)


def argo(traffic: Traffic) -> _Counts:
    """As its documentation shows it."""
    return _checked(traffic, most=0.05, window=1, every=5 * _MINUTE, failures=3)


def flagger(traffic: Traffic) -> _Counts:
    """As its documentation shows it."""
    return _checked(traffic, most=0.01, window=_MINUTE, every=_MINUTE, failures=4)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """For the share of bad sessions in so many minutes, asked each minute: it is never to be passed."""

    minutes: int
    most: float

    def __call__(self, traffic: Traffic) -> _Counts:
        return _checked(traffic, most=self.most, window=self.minutes * _MINUTE, every=_MINUTE, failures=0)


_WINDOWS = (1, 5, 15)


def thresholds(good: list[Traffic]) -> dict[int, Threshold]:
    """By minutes, the tightest that 99 of 100 good canaries of each of these services stay under."""
    found = {}
    for minutes in _WINDOWS:
        most = 0.0
        for one in good:
            rates = _over(one.canary_bad[:, :_OVER], one.canary[:, :_OVER], minutes * _MINUTE)
            worst = np.nanmax(rates[:, minutes * _MINUTE - 1 :: _MINUTE], axis=1)
            most = max(most, float(np.quantile(worst, 0.99, method="higher")))
        found[minutes] = Threshold(minutes=minutes, most=most)
    return found


def mann_whitney(x: _Numbers, y: _Numbers, confidence: float) -> tuple[float, float, float]:
    """The interval of the shift from y to x, and its estimate (Hodges & Lehmann), by the normal approximation
    with its correction for continuity and ties."""
    differences = np.sort(np.subtract.outer(x, y).ravel())
    pairs, both = len(differences), len(x) + len(y)
    _, ties = np.unique(np.concatenate([x, y]), return_counts=True)
    correction = (ties**3 - ties).sum() / (both * (both - 1))
    deviation = math.sqrt(pairs / 12 * (both + 1 - correction))
    z = float(special.ndtri(0.5 + confidence / 2))
    low = min(max(math.ceil(pairs / 2 - 0.5 - z * deviation), 1), pairs)
    return float(differences[low - 1]), float(differences[pairs - low]), float(np.median(differences))


def kayenta(traffic: Traffic) -> _Counts:
    """Mann-Whitney of minutes, as its judge has it."""
    rates = [
        _over(part[:, :_OVER], whole[:, :_OVER], _MINUTE)[:, _MINUTE - 1 :: _MINUTE]
        for part, whole in (
            (traffic.canary_bad, traffic.canary),
            (traffic.stable_bad, traffic.stable),
        )
    ]
    found = np.full(len(traffic.canary), _NEVER)
    for run, (canary, stable) in enumerate(zip(*rates, strict=True)):
        for minutes in range(5, len(canary) + 1, 5):
            x, y = (each[:minutes][~np.isnan(each[:minutes])] for each in (canary, stable))
            if not len(x) or not len(y) or np.array_equal(x, y):
                continue
            low, _, estimate = mann_whitney(x, y, 0.98)
            if low > 0.25 * abs(estimate) and low > 0:
                found[run] = minutes * _MINUTE
                break
    return found


# What came of it.


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A kind of traffic, and by rule: how often it took the canary back, when, after how much harm."""

    what: str
    begins: int
    """The step, from 1; 0: there is no fault."""
    shares: dict[str, float]
    seconds: dict[str, tuple[float, float]]
    """Median and 90 %, of those that were taken back."""
    bad: dict[str, tuple[float, float]]
    """Likewise of the canary's bad sessions since the fault began; one that is not taken back has all of
    them, until the steps are over."""
    keeps: frozenset[str] = frozenset()
    """The rules that take back at most 1 % of good canaries of this service, as far as the runs tell."""
    open: float = 0.0
    """Ours that had no verdict in two hours."""


_Rules = Mapping[str, Callable[[Traffic], _Counts]]


def _cell(traffic: Traffic, what: str, step: int, rules: _Rules, good: Traffic | None = None) -> Cell:
    """`good`: the same service's, without a fault."""
    fails, passes = ours(traffic)
    taken = {"ours": fails} | {name: rule(traffic) for name, rule in rules.items()}
    shares, seconds, bad = {}, {}, {}
    for name, looks in taken.items():
        caught = (looks < _NEVER) & (looks > traffic.begins)
        shares[name] = float(caught.mean())
        late = (looks[caught] - traffic.begins) * LOOK
        seconds[name] = _quantiles(late) if caught.any() else (math.nan, math.nan)
        bad[name] = _quantiles(_suffered(traffic, looks))
    still = float(((fails == _NEVER) & (passes == _NEVER)).mean())
    most = 0.01 + 2 * math.sqrt(0.01 / len(traffic.canary))
    keeps = (name for name, rule in rules.items() if good is None or (rule(good) < _NEVER).mean() <= most)
    return Cell(
        what=what, begins=step, shares=shares, seconds=seconds, bad=bad, keeps=frozenset(keeps), open=still
    )


def _suffered(traffic: Traffic, looks: _Counts) -> _Counts:
    """Bad sessions of the canary from its fault on until it is taken back, or until the steps are over."""
    sums = np.cumsum(np.pad(traffic.canary_bad, ((0, 0), (1, 0))), axis=1)
    until = np.maximum(np.where(looks < _NEVER, looks, _OVER), traffic.begins)
    runs = np.arange(len(looks))
    return np.asarray(sums[runs, until] - sums[runs, traffic.begins])


def _quantiles(values: NDArray[np.generic]) -> tuple[float, float]:
    return float(np.quantile(values, 0.5)), float(np.quantile(values, 0.9))


_DOCUMENTED: dict[str, Callable[[Traffic], _Counts]] = {"Argo": argo, "Flagger": flagger, "Kayenta": kayenta}
_FAULTS = ((0.0, 0.02), (0.001, 0.01), (0.01, 0.03), (0.01, 0.06), (0.05, 0.15))
_RATES = (5, 20, 100)


def _good(runs: int, seed: int, rate: float, base: float) -> Traffic:
    return simulated(runs=runs, seed=seed, rate=rate, base=base, looks=_OVER)


@cache
def _for_all(runs: int) -> Threshold:
    """One that keeps 1 % for all of these services."""
    services = ((rate, base) for rate in _RATES for base, _ in _FAULTS)
    good = [_good(10 * runs, number, rate, base) for number, (rate, base) in enumerate(services)]
    return thresholds(good)[5]


def faults(runs: int, seed: int = 100) -> Iterator[Cell]:
    """Canaries that fail from the first or the last step on, at once; and one that does so slowly."""
    everyone = _for_all(runs)
    cells = [
        (float(rate), base, bad, step, "") for rate in _RATES for base, bad in _FAULTS for step in (0, 2)
    ]
    cells.append((20.0, 0.01, 0.06, 0, "ramp"))
    for number, (rate, base, bad, step, noise) in enumerate(cells, seed):
        traffic = simulated(runs=runs, seed=number, rate=rate, base=base, bad=bad, step=step, noise=noise)
        own = thresholds([_good(10 * runs, 1000 + number, rate, base)])
        # The best of them for this very fault: nobody can know it beforehand.
        best = min(own.values(), key=lambda one: float(np.median(_suffered(traffic, one(traffic)))))
        rules = {**_DOCUMENTED, "one threshold": everyone, "its own threshold": best}
        said = f"{rate:g}/s, {base:.1%} to {bad:.0%}" + (" in ten minutes" if noise else "")
        good = _good(max(runs, 100), 2000 + number, rate, base)
        yield _cell(traffic, said, step + 1, rules, good)


def nulls(runs: int, seed: int = 5000) -> Iterator[Cell]:
    """Canaries as good as stable is."""
    everyone = _for_all(runs)
    cells = [(20.0, 0.01, noise) for noise in NOISES]
    cells += [(1.0, 0.001, ""), (1.0, 0.05, ""), (100.0, 0.001, ""), (20.0, 0.05, ""), (20.0, 0.2, "")]
    for number, (rate, base, noise) in enumerate(cells, seed):
        own = thresholds([_good(10 * runs, 1000 + number, rate, base)])[1]
        rules = {**_DOCUMENTED, "one threshold": everyone, "its own threshold": own}
        said = f"{rate:g}/s, {base:.1%}" + (f", {noise}" if noise else "")
        yield _cell(simulated(runs=runs, seed=number, rate=rate, base=base, noise=noise), said, 0, rules)


_HEAD = """\
# Gates against the rules of others

Made by `python -m benches.canaries {runs} > docs/bench/gates.md`: {runs} runs a cell; the seeds are in that module, which
also says what each rule is. `one threshold` is the tightest for the share of bad sessions in five minutes that takes 1 % of
the good canaries of any of these services back. `its own threshold` is such a one for the very service, over one, five or
fifteen minutes: whichever is best for this very fault, which nobody knows beforehand.

## Bad sessions of the canary until it is taken back

Median / 90 % (share that is taken back). One that is not has all bad sessions of its forty minutes. The least median of the
rules that keep their word is bold; ~~struck~~ is a rule that takes more than 1 % of the good canaries of that service back:
what it suffers there is no measure.
"""  # noqa: E501


def table(runs: int) -> str:
    """Both tables, as Markdown."""
    rules = ("ours", *_DOCUMENTED, "one threshold", "its own threshold")
    lines = [
        *_HEAD.format(runs=runs).splitlines(),
        "",
        "| service and fault | from step | " + " | ".join(rules) + " |",
        "|---|---|" + "---|" * len(rules),
    ]
    wins = dict.fromkeys(rules, 0)
    lost, cells_of = [], 0
    for cell in faults(runs):
        honest = [rule for rule in rules if rule == "ours" or rule in cell.keeps]
        least = min(cell.bad[rule][0] for rule in honest)
        shown = []
        for rule in rules:
            median, most = cell.bad[rule]
            text = f"{median:.0f} / {most:.0f} ({cell.shares[rule]:.0%})"
            best = rule in honest and median == least
            wins[rule] += best
            shown.append(f"**{text}**" if best else text if rule in honest else f"~~{text}~~")
        cells_of += 1
        own = cell.bad["ours"][0]
        fewer = [f"{rule} {cell.bad[rule][0]:.0f}" for rule in honest if cell.bad[rule][0] < own]
        if fewer:
            lost.append(f"- {cell.what}, from step {cell.begins}: {', '.join(fewer)}; ours {own:.0f}")
        lines.append(f"| {cell.what} | {cell.begins} | " + " | ".join(shown) + " |")
    lines += [
        "",
        f"Of {cells_of} cells: "
        + ", ".join(f"{rule} {count}" for rule, count in wins.items())
        + " (ties count for each).",
        "",
        "Where others win:",
        "",
        *(lost or ["- nowhere"]),
        "",
        "## Good canaries that are taken back",
        "",
        "Ours without a verdict in two hours stands behind it. `its own threshold` is that for one minute.",
        "",
        "| service | " + " | ".join(rules) + " |",
        "|---|" + "---|" * len(rules),
    ]
    for cell in nulls(runs):
        shares = [f"{cell.shares[rule]:.1%}" for rule in rules]
        shares[0] += f" (open {cell.open:.0%})" if cell.open else ""
        lines.append(f"| {cell.what} | " + " | ".join(shares) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table(int(sys.argv[1]) if len(sys.argv) > 1 else 100))

"""What gates are asked and what they say: data alone, for all that writes it down or shows it.

The statistics are in gates, beside this; who reads a ledger needs none of them.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

__all__ = [
    "NOTHING_CARRIED",
    "Carried",
    "Exposure",
    "Factor",
    "Finding",
    "Levels",
    "Tally",
    "Verdict",
]


class Verdict(StrEnum):
    """What a gate says."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Tally(_Record):
    """Sessions of both tracks in one step, and how many of them were bad (failed, or slow)."""

    canary_bad: int = 0
    canary: int = 0
    stable_bad: int = 0
    stable: int = 0


class Factor(_Record):
    """What one step showed of one metric, in numbers that a later run of the same step goes on from.

    Logarithms of e-values, each 0 before the first look; those of two runs add up.
    """

    weight: int
    """The step's; 0: of a promotion that began when only the product of all steps was kept."""
    tally: Tally = Tally()
    beyond: int = 0
    """More bad sessions of the canary than `tally` has: what of a burst is no harm, and no safety either."""
    pod_hours: tuple[float, float] = (0.0, 0.0)
    """Of canary and stable, where that is the exposure."""
    harm: float = 0.0
    """Against "no worse than stable"."""
    as_stable: float = 0.0
    """For "as stable is" against "harmful"."""
    less_harm: float = 0.0
    """For anything less than harmful against "harmful"."""

    def __add__(self, other: Factor) -> Factor:
        """Both, as one; of the first one's step."""
        return Factor(
            weight=self.weight,
            tally=Tally(
                canary_bad=self.tally.canary_bad + other.tally.canary_bad,
                canary=self.tally.canary + other.tally.canary,
                stable_bad=self.tally.stable_bad + other.tally.stable_bad,
                stable=self.tally.stable + other.tally.stable,
            ),
            beyond=self.beyond + other.beyond,
            pod_hours=(self.pod_hours[0] + other.pod_hours[0], self.pod_hours[1] + other.pod_hours[1]),
            harm=self.harm + other.harm,
            as_stable=self.as_stable + other.as_stable,
            less_harm=self.less_harm + other.less_harm,
        )


class Carried(_Record):
    """What earlier looks of a promotion showed of one metric."""

    factors: tuple[Factor, ...] = ()
    """By step, in the order in which they began."""
    horizon: float | None = None
    """How many events a known rate may expect in the whole promotion, fixed before the first look."""


NOTHING_CARRIED = Carried()


class Levels(_Record):
    """The chances of error that one test of one metric in one region may use up."""

    alpha: float
    beta: float


class Finding(_Record):
    """One gate's verdict and the numbers behind it."""

    metric: str
    verdict: Verdict
    reason: str
    dry_run: bool = False
    """It is reported, and decides nothing."""
    tally: Tally | None = None
    log_harm: float | None = None
    """ln of the e-value against "no worse", over all steps; FAIL from `log_fail_at` on …"""
    log_fail_at: float | None = None
    log_floor: float | None = None
    """… and when the ln of this one, against "no more than is tolerated anyhow", reaches `log_floor_at`."""
    log_floor_at: float | None = None
    log_safe: float | None = None
    """ln of the e-value against "harmful", where safety is to be proven; PASS from `log_pass_at` on."""
    log_pass_at: float | None = None
    evidence: Carried | None = None
    """What the next look of this promotion goes on from; None in what was written before it was kept."""

    @property
    def carried(self) -> Carried:
        """What the next look starts from: of an old finding, its product as that of the first step."""
        if self.evidence is not None or self.log_harm is None:
            return self.evidence or NOTHING_CARRIED
        return Carried(factors=(Factor(weight=0, harm=self.log_harm),))


class Exposure(_Record):
    """The share of sessions that the canary got, against the share that it was meant to get."""

    intended: float
    observed: float | None
    log_e: float
    mismatch: bool

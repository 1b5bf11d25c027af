"""What gates are asked and what they say: data alone, for all that writes it down or shows it.

The statistics are in gates, beside this; who reads a ledger needs none of them.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

__all__ = ["NOTHING_CARRIED", "Carried", "Exposure", "Finding", "Levels", "Tally", "Verdict"]


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


class Carried(_Record):
    """What earlier steps showed about one metric: the logarithms of the products of their factors."""

    harm: float = 0.0
    safe: float = 0.0


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
    tally: Tally | None = None
    log_harm: float | None = None
    """ln of the e-value against "no worse"; FAIL from `log_fail_at` on."""
    log_fail_at: float | None = None
    log_safe: float | None = None
    """ln of the e-value against "harmful"; PASS from `log_pass_at` on."""
    log_pass_at: float | None = None

    @property
    def carried(self) -> Carried:
        """What the next step starts from."""
        return Carried(harm=self.log_harm or 0.0, safe=self.log_safe or 0.0)


class Exposure(_Record):
    """The share of sessions that the canary got, against the share that it was meant to get."""

    intended: float
    observed: float | None
    log_e: float
    mismatch: bool

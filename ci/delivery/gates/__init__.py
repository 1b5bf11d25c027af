"""How a canary gate decides: pure functions from counts to PASS, FAIL or INCONCLUSIVE, with the numbers.

A canary is looked at again and again. A fixed threshold or a repeated test errs more with every look, so
these gates use e-processes: numbers that are 1 on average as long as the null hypothesis holds, whatever has
been seen so far. Each metric has up to three of them:

- `harm`, against "the canary is no worse than stable (plus a margin)", and
- `floor`, against "it is no worse than is tolerated anyhow": when both are large the gate FAILS;
- `safe`, against "the canary is worse by more than we accept": the last step's PASS takes it.

In between it is INCONCLUSIVE. All are kept as natural logarithms: counts may be large. The unit is the
session, never the request: requests of one session fail together. No data is never a pass.

    processes    closed forms of counts; the sequential test of a known rate
    looks        evidence look by look, each with its own share; a fault may begin in any step
    decisions    the gates
"""

from __future__ import annotations

from ci.delivery.gates.decisions import (
    FLOOR_AT,
    Place,
    decide,
    errors,
    exposure,
    killed,
    latency,
    missing,
    restarts,
    saturation,
    split,
)
from ci.delivery.gates.looks import Evidence, Process, from_any_step
from ci.delivery.gates.processes import (
    least_sessions,
    log_e_below,
    log_e_more,
    log_e_two_sided,
    maxsprt_critical,
    maxsprt_llr,
    with_margin,
)

__all__ = [
    "FLOOR_AT",
    "Evidence",
    "Place",
    "Process",
    "decide",
    "errors",
    "exposure",
    "from_any_step",
    "killed",
    "latency",
    "least_sessions",
    "log_e_below",
    "log_e_more",
    "log_e_two_sided",
    "maxsprt_critical",
    "maxsprt_llr",
    "missing",
    "restarts",
    "saturation",
    "split",
    "with_margin",
]

from __future__ import annotations

import json
import math

from rich.console import Console

from ci.delivery import results
from ci.delivery.findings import Exposure, Finding, Tally, Verdict
from ci.delivery.results import Outcome, PromotionResult, Requests, StepResult, TargetResult, TargetStatus
from ci.errors import GateFailed, GateInconclusive

FINDING = Finding(
    metric="errors",
    verdict=Verdict.FAIL,
    reason="12 of 240 (5.00%) of the canary's sessions, 0 of 960 (0.00%) of stable's",
    tally=Tally(canary_bad=12, canary=240, stable_bad=0, stable=960),
    log_harm=math.log(12345),
    log_fail_at=math.log(180),
    log_safe=-2.0,
    log_pass_at=math.log(10),
)
STEP = StepResult(
    weight=20,
    verdict=Verdict.FAIL,
    reason=results.headline(FINDING),
    seconds=12.3,
    findings=(FINDING,),
    exposure=Exposure(intended=0.2, observed=0.2, log_e=-1.0, mismatch=False),
    p95_canary=0.043,
    p95_stable=None,
)


def target(outcome: Outcome, name: str = "prod/eastus") -> TargetResult:
    return TargetResult(
        target=name,
        release="r2",
        previous="r1",
        outcome=outcome,
        reason=f"at 20 %: {STEP.reason}",
        steps=(STEP,),
        requests=Requests(sent=4000, ok=3988, failed=12, lost=0),
        moving=Requests(sent=300, ok=300, failed=0, lost=0),
    )


def result(*targets: TargetResult) -> PromotionResult:
    return PromotionResult(release="r2", estate="local", targets=targets, seconds=30.0)


def test_the_error_of_a_result_is_the_worst_of_its_targets() -> None:
    assert result(target(Outcome.PROMOTED), target(Outcome.CACHED)).error is None
    assert isinstance(result(target(Outcome.PROMOTED), target(Outcome.HELD)).error, GateInconclusive)
    failed = result(target(Outcome.PROMOTED), target(Outcome.FAILED, "prod/westeurope")).error
    assert isinstance(failed, GateFailed)
    assert "prod/westeurope: at 20 %: errors fail, E 12345 (fails at 180): 12 of 240" in str(failed)
    assert "prod/eastus" in failed.hint


def test_the_table_shows_the_numbers_and_json_the_same() -> None:
    shown = Console(width=140, record=True, file=None, quiet=False)
    with shown.capture() as captured:
        shown.print(results.summary(result(target(Outcome.FAILED))))
    text = captured.get()

    row = next(line for line in text.splitlines() if "20 %" in line)
    assert row.split() == [
        *("prod/eastus", "20", "%", "fail", "240/960", "12/0", "12345", "180", "0.14", "10", "43"),
        *("ms", "12", "s"),
    ]
    assert "4000 requests, 12 failed, none lost; while traffic moved back: 300 requests, 0 lost" in text
    plain = json.loads(result(target(Outcome.FAILED)).model_dump_json())
    errors = plain["targets"][0]["steps"][0]["findings"][0]
    assert errors["tally"] == {"canary_bad": 12, "canary": 240, "stable_bad": 0, "stable": 960}
    assert math.isclose(errors["log_harm"], math.log(12345))


def test_a_step_without_numbers_can_be_shown() -> None:
    blind = STEP.model_copy(update={"findings": (), "p95_canary": None, "verdict": Verdict.INCONCLUSIVE})
    held = target(Outcome.HELD).model_copy(update={"steps": (blind,), "requests": None, "moving": None})
    console = Console(width=140)
    with console.capture() as captured:
        console.print(results.summary(result(held)))

    assert "inconclusive" in captured.get()


def test_numbers_are_short_however_large() -> None:
    assert [results.number(value) for value in (0.0, math.log(0.0123), math.log(180.4), 5000.0)] == [
        "1", "0.012", "180", "1e2171",
    ]  # fmt: skip


def test_status_says_what_runs_where() -> None:
    console = Console(width=160)
    rows = [
        TargetStatus(target="prod/eastus", release="r1", state="deployed", revision=3,
                     digests={"api": "sha256:" + "a" * 64}, pods="3/3", canary="r2", weight=20),
        TargetStatus(target="prod/westeurope", release=None, state="nothing installed", revision=None,
                     digests={}, pods="0/0", canary=None, weight=0),
    ]  # fmt: skip
    with console.capture() as captured:
        console.print(results.status_table(rows))
    text = captured.get()

    assert "deployed (rev. 3)" in text and "api aaaaaaaaaaaa" in text and "20 %" in text
    assert "nothing installed" in text

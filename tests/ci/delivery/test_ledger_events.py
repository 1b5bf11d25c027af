from __future__ import annotations

from pathlib import Path

import pytest

from ci.delivery.findings import Carried, Finding, Verdict
from ci.delivery.ledger import Event, Journal
from ci.errors import BadInput

STEP = (
    Finding(metric="errors", verdict=Verdict.PASS, reason="0 of 9", log_harm=-1.5, log_safe=2.5),
    Finding(metric="restarts", verdict=Verdict.PASS, reason="none", log_harm=0.0),
)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    return Journal("local", "prod")


def write(
    ledger: Journal, event: Event, release: str = "r2", target: str = "prod/eastus", **more: object
) -> None:
    ledger.write(event, target=target, release=release, **more)  # type: ignore[arg-type]


def test_entries_come_back_as_they_were_written(ledger: Journal) -> None:
    assert ledger.entries() == ()
    written = ledger.write(
        Event.STEP_PASSED, target="prod/eastus", release="r2", weight=20, findings=STEP, reason="ok"
    )

    assert ledger.entries() == (written,)
    assert written.who and written.time.tzinfo


def test_an_interrupted_promotion_carries_its_last_passed_step_and_its_evidence(ledger: Journal) -> None:
    write(ledger, Event.STEP_PASSED, weight=20, findings=STEP)
    write(ledger, Event.STEP_PASSED, weight=99, findings=STEP, target="prod/westeurope")

    assert ledger.carried("prod/eastus", "r2") == (
        20,
        {"errors": Carried(harm=-1.5, safe=2.5), "restarts": Carried()},
    )
    write(ledger, Event.INTERRUPTED, findings=(STEP[0].model_copy(update={"log_harm": 4.0}),))
    passed, carried = ledger.carried("prod/eastus", "r2")
    assert (passed, carried["errors"].harm) == (20, 4.0)


@pytest.mark.parametrize("end", [Event.STEP_FAILED, Event.PROMOTED, Event.ROLLED_BACK])
def test_a_promotion_that_ended_carries_nothing(ledger: Journal, end: Event) -> None:
    write(ledger, Event.STEP_PASSED, weight=20, findings=STEP)
    write(ledger, end)

    assert ledger.carried("prod/eastus", "r2") == (0, {})
    assert ledger.carried("prod/eastus", "r3") == (0, {})


def test_another_release_in_between_ends_what_was_carried(ledger: Journal) -> None:
    write(ledger, Event.STEP_PASSED, weight=20, findings=STEP)
    write(ledger, Event.STARTED, release="r3")

    assert ledger.carried("prod/eastus", "r2") == (0, {})


def test_one_process_at_a_time(ledger: Journal) -> None:
    with (
        ledger.alone(),
        pytest.raises(BadInput, match=r"prod is being worked on by process \d+ of"),
        Journal("local", "prod").alone(),
    ):
        pass
    with ledger.alone():
        pass

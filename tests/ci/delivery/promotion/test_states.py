from __future__ import annotations

import pytest
from ledger_entries import Book

from ci.delivery.findings import Carried, Finding, Verdict
from ci.delivery.ledger import Action, Kind
from ci.delivery.promotion.states import past_of

HERE = "prod/eastus"
STEP = (
    Finding(metric="errors", verdict=Verdict.PASS, reason="0 of 9", log_harm=-1.5, log_safe=2.5),
    Finding(metric="restarts", verdict=Verdict.PASS, reason="none", log_harm=0.0),
)


@pytest.fixture
def book() -> Book:
    """A canary that has passed its first step, at 20 %."""
    made = Book()
    made.write(Kind.INTENT, Action.START, target=HERE)
    made.write(Kind.INTENT, Action.CANARY, target=HERE)
    made.write(Kind.OUTCOME, Action.STEP, target=HERE, weight=20, result="passed", findings=STEP)
    return made


def test_a_promotion_carries_its_last_passed_step_and_its_evidence(book: Book) -> None:
    book.write(Kind.OUTCOME, Action.STEP, target="prod/westeurope", weight=99, result="passed", findings=STEP)
    past = past_of(book.entries, "p1", HERE)
    assert (past.passed, past.baked) == (20, True)
    assert past.carried == {"errors": Carried(harm=-1.5, safe=2.5), "restarts": Carried()}

    later = STEP[0].model_copy(update={"log_harm": 4.0})
    book.write(Kind.OUTCOME, Action.STEP, target=HERE, weight=50, result="stopped", findings=(later,))
    past = past_of(book.entries, "p1", HERE)
    assert (past.passed, past.carried["errors"].harm) == (20, 4.0)


@pytest.mark.parametrize("result", ["failed", "promoted", "rolled back"])
def test_another_promotion_carries_nothing(book: Book, result: str) -> None:
    book.write(Kind.OUTCOME, Action.FINISH, target=HERE, result=result)
    past = past_of(book.entries, "p2", HERE)
    assert (past.started, past.passed, past.baked, past.carried) == (False, 0, False, {})


def test_a_canary_that_is_installed_anew_begins_with_the_first_step(book: Book) -> None:
    book.write(Kind.INTENT, Action.CANARY, target=HERE)
    past = past_of(book.entries, "p1", HERE)
    assert (past.started, past.passed, past.baked, past.carried) == (True, 0, False, {})

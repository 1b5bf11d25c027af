from __future__ import annotations

import pytest
from ledger_entries import Book

from ci.delivery.findings import Carried, Factor, Finding, Tally, Verdict
from ci.delivery.ledger import Action, Kind
from ci.delivery.promotion.states import past_of

HERE = "prod/eastus"
STEP = (
    Finding(metric="errors", verdict=Verdict.PASS, reason="0 of 9", log_harm=-1.5, log_safe=2.5),
    Finding(metric="saturation", verdict=Verdict.PASS, reason="none"),
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
    old = Carried(factors=(Factor(weight=0, harm=-1.5),))  # of an entry that kept the product alone
    assert past.carried == {"errors": old, "saturation": Carried()}

    kept = Carried(factors=(*old.factors, Factor(weight=50, tally=Tally(canary=9), harm=4.0)), horizon=0.5)
    later = STEP[0].model_copy(update={"log_harm": 2.5, "evidence": kept})
    book.write(Kind.OUTCOME, Action.STEP, target=HERE, weight=50, result="stopped", findings=(later,))
    past = past_of(book.entries, "p1", HERE)
    assert (past.passed, past.carried["errors"]) == (20, kept)


@pytest.mark.parametrize("result", ["failed", "promoted", "rolled back"])
def test_another_promotion_carries_nothing(book: Book, result: str) -> None:
    book.write(Kind.OUTCOME, Action.FINISH, target=HERE, result=result)
    past = past_of(book.entries, "p2", HERE)
    assert (past.started, past.passed, past.baked, past.carried) == (False, 0, False, {})


def test_a_canary_that_is_installed_anew_begins_with_the_first_step(book: Book) -> None:
    book.write(Kind.INTENT, Action.CANARY, target=HERE)
    past = past_of(book.entries, "p1", HERE)
    assert (past.started, past.passed, past.baked, past.carried) == (True, 0, False, {})

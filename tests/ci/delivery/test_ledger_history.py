"""What entries come to: promotions, timelines, the four figures; and exports."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from ledger_entries import NOON, RELEASE, Book

from ci.delivery.findings import Finding, Verdict
from ci.delivery.ledger import Action, Entry, Event, Kind, figures, promotions
from ci.delivery.ledger.export import as_csv, as_json
from ci.delivery.ledger.show import figures_page, history_page, span, timeline_page


def failed(book: Book, promotion: str = "p2") -> None:
    """A gate fails; five minutes later stable has all again."""
    book.begin(promotion)
    book.write(Kind.INTENT, Action.START, promotion, target="prod/a")
    book.write(Kind.OUTCOME, Action.STEP, promotion, target="prod/a", weight=25, result="failed", minutes=5)
    book.write(Kind.OUTCOME, Action.FINISH, promotion, target="prod/a", result="failed")
    book.end("failed", promotion)


def test_a_promotion_through_two_environments_is_one() -> None:
    dev, prod = Book(), Book(NOON + timedelta(hours=1))
    for book, name in ((dev, "dev/a"), (prod, "prod/a")):
        book.begin()
        book.target(name, "promoted")
    prod.target("prod/b", "promoted")
    prod.end("promoted")
    dev.end("promoted")
    dev.begin("p2")

    second, first = promotions({"dev": dev.entries, "prod": prod.entries})[::-1][::-1]
    assert (first.promotion, first.release, first.by, first.began) == ("p1", RELEASE, "alice@here", NOON)
    assert [(one.environment, one.result) for one in first.environments] == [
        ("dev", "promoted"),
        ("prod", "promoted"),
    ]
    assert first.environments[1].targets == {"prod/a": "promoted", "prod/b": "promoted"}
    assert first.environments[1].promoted == NOON + timedelta(hours=1, minutes=4)
    assert (second.promotion, second.environments[0].result, second.environments[0].ended) == (
        "p2",
        "begun",
        None,
    )


def test_an_approval_or_an_order_alone_is_no_promotion() -> None:
    book = Book()
    book.write(Kind.ORDER, Action.APPROVE, "p1", reason="looks good")
    book.write(Kind.ORDER, Action.OVERRIDE, "", reason="fire")
    book.write(Kind.NOTE, Action.APPROVE, "p2")
    assert promotions({"prod": book.entries}) == ()


def test_what_failed_or_was_rolled_back_later_is_no_success() -> None:
    book = Book()
    failed(book)
    book.begin()
    book.target("prod/a", "promoted")
    book.target("prod/b", "failed")
    book.end("not done")
    book.begin("p3")
    book.target("prod/a", "promoted", "p3")
    book.end("promoted", "p3", minutes=60)
    book.write(Kind.ORDER, Action.ROLL_BACK, "p3", reason="users complain", minutes=10)
    book.write(Kind.OUTCOME, Action.FINISH, "p3", target="prod/a", result="rolled back")
    book.end("rolled back", "p3")

    third, first, second = (one.environments[0] for one in promotions({"prod": book.entries}))
    assert (second.result, second.restored, second.promoted) == ("failed", NOON + timedelta(minutes=7), None)
    assert (first.result, first.targets) == ("failed", {"prod/a": "promoted", "prod/b": "failed"})
    assert (third.result, third.targets) == ("rolled back", {"prod/a": "rolled back"})
    assert third.restored is not None and third.failure_seen is not None
    assert third.restored - third.failure_seen == timedelta(minutes=10)


@pytest.mark.parametrize(
    ("targets", "said", "result", "ended"),
    [
        (["promoted", "promoted"], "done", "promoted", True),
        (["failed", "stopped"], "not done", "failed", True),
        (["promoted", "failed"], "not done", "failed", True),
        (["aborted"], "not done", "aborted", True),
        (["promoted", "held"], "waits", "held", False),
        (["promoted"], "waits", "held", False),  # harm was seen, and a person decides
        (["promoted", "not there"], "partly", "partly", False),
        (["held"], "superseded", "superseded", True),
        ([], "not done", "stopped", True),
        (["promoted"], "", "begun", False),  # another region is still at it
        (["failed"], "", "failed", False),
    ],
)
def test_how_it_went_is_for_its_targets_to_say(
    targets: list[str], said: str, result: str, ended: bool
) -> None:
    """In the words that a run writes: of an environment it says how far it came."""
    book = Book()
    book.begin()
    for number, how in enumerate(targets):
        if how == "not there":
            book.write(Kind.NOTE, Action.NOT_THERE, target=f"prod/{number}", reason="it lacks a blob")
        else:
            book.target(f"prod/{number}", how)
    if said:
        book.end(said)
    (went,) = promotions({"prod": book.entries})[0].environments
    assert (went.result, went.ended is not None) == (result, ended)


def test_what_was_done_and_is_taken_back_later_has_failed() -> None:
    book = Book()
    book.begin()
    book.target("prod/a", "promoted")
    book.end("done", minutes=60)
    book.write(Kind.ORDER, Action.ROLL_BACK, target="prod/a", reason="users complain", minutes=10)
    book.write(Kind.OUTCOME, Action.FINISH, target="prod/a", result="rolled back")
    (one,) = figures({"prod": book.entries}, since=NOON, until=NOON + timedelta(days=1))
    assert (one.deployments, one.ended, one.failed, one.time_to_restore) == (1, 1, 1, 600)


@pytest.mark.parametrize(
    ("events", "result", "ended"),
    [
        ([Event.STARTED], "begun", False),
        ([Event.STARTED, Event.CANARY, Event.INTERRUPTED], "interrupted", False),
        ([Event.STARTED, Event.STEP_PASSED, Event.PROMOTED], "promoted", True),
        ([Event.STARTED, Event.STEP_FAILED, Event.ROLLED_BACK], "failed", True),
        ([Event.STARTED, Event.INCONCLUSIVE, Event.INCONCLUSIVE], "held", False),
        ([Event.STARTED, Event.PROMOTED, Event.ROLLED_BACK], "rolled back", True),
        ([Event.NOT_THERE], "not there", True),
    ],
)
@pytest.mark.parametrize("kind", [Kind.NOTE, Kind.OUTCOME])
def test_the_events_of_before_are_told_in_the_same_words(
    kind: Kind, events: list[Event], result: str, ended: bool
) -> None:
    book = Book()
    for event in events:
        what: dict[str, object] = {"detail": {"time": "2026-11-02T10:00:00+00:00", "who": "bob"}}
        if kind is Kind.NOTE:
            book.write(kind, Action.TAKEN_OVER, target="prod/a", result=event, **what)
        else:
            finish = event in (Event.PROMOTED, Event.INTERRUPTED)
            action = (
                Action.FINISH if finish else Action.NOT_THERE if event is Event.NOT_THERE else Action.STEP
            )
            book.write(kind, action, target="prod/a", result=event, **what)
    (found,) = promotions({"prod": book.entries})
    (went,) = found.environments
    assert (went.result, went.ended is not None, went.by) == (result, ended, "bob")
    assert went.began == datetime(2026, 11, 2, 10, tzinfo=UTC)


def test_the_four_figures() -> None:
    book = Book()
    book.begin()
    book.target("prod/a", "promoted")  # 12:02, four hours and two minutes after the commit
    book.end("promoted", minutes=60)
    failed(book)  # five minutes
    later = "20261120-110000-abcdef1-01234567"
    book.begin("p3", release=later)
    book.target("prod/a", "promoted", "p3", release=later)  # 13:14
    book.end("promoted", "p3", release=later)
    book.begin("p4")
    book.write(Kind.OUTCOME, Action.FINISH, "p4", target="prod/a", result="aborted")
    book.end("aborted", "p4")
    book.begin("p5")
    book.begin("p6")
    book.end("promoted", "p6")  # it was there already

    since = NOON - timedelta(days=7)
    found, nothing = figures({"prod": book.entries, "dev": []}, since=since, until=since + timedelta(weeks=2))
    assert (found.deployments, found.per_week) == (2, 1.0)
    assert (found.ended, found.failed, found.failure_rate) == (3, 1, 1 / 3)
    assert found.time_to_restore == 300
    assert found.lead_time == ((4 * 60 + 2) + (2 * 60 + 14)) * 60 / 2
    assert (nothing.deployments, nothing.lead_time, nothing.failure_rate, nothing.time_to_restore) == (
        0,
        None,
        None,
        None,
    )
    (before,) = figures({"prod": book.entries}, since=since - timedelta(days=7), until=since)
    assert (before.deployments, before.ended) == (0, 0)


def test_a_clock_that_went_back_and_a_release_of_another_name_tell_no_time() -> None:
    book = Book()
    for name in ("local-build", "20269920-080000-abcdef1-01234567", "20261121-080000-abcdef1-01234567"):
        book.begin(name, release=name)
        book.target("prod/a", "promoted", name, release=name)
    (found,) = figures({"prod": book.entries}, since=NOON - timedelta(days=1), until=NOON + timedelta(days=1))
    assert (found.deployments, found.lead_time) == (3, None)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"),
        (0, "0 s"),
        (119, "119 s"),
        (150, "2.5 min"),
        (7200, "2.0 h"),
        (36 * 3600, "36 h"),
        (4e6, "6.6 weeks"),
    ],
)
def test_times_are_told_in_the_unit_that_suits_them(seconds: float | None, said: str) -> None:
    assert span(seconds) == said


@pytest.mark.parametrize("width", [20, 80, 110, 150])
def test_pages_fit_the_screen_and_lose_nothing(width: int) -> None:
    book = Book()
    finding = Finding(metric="errors", verdict=Verdict.FAIL, reason="9 of 90", log_harm=9.0, log_fail_at=5.0)
    failed(book)
    book.write(Kind.OUTCOME, Action.STEP, target="prod/a", weight=25, result="failed", findings=(finding,),
               reason="errors failed at 25 % of the users")  # fmt: skip
    book.write(Kind.ORDER, Action.PAUSE, "p2", reason="somebody \x1b[31mlooks\x1b[0m at it")
    pages = (
        history_page(promotions({"prod": book.entries})),
        timeline_page("p2", [("prod", entry) for entry in book.entries]),
        figures_page(figures({"prod": book.entries}, since=NOON, until=NOON + timedelta(days=90))),
    )
    for page in pages:
        lines = [line.plain for line in page.lines(width)]
        assert all(len(line) <= width for line in lines)
    said = " ".join(" ".join(line.plain.split()) for line in pages[1].lines(150))
    assert "errors fail, E 8103 (fails at 148): 9 of 90" in said and "order to pause" in said
    assert "step 25 %: failed" in said and "alice" in said


@pytest.mark.parametrize(
    "formula", ["=1+1", " =1+1", "\t@SUM(A1)", "\n+1", "＝1+1", "-1", "\r=1", "=\x1b]0;x\x07"]
)
def test_what_people_typed_steers_no_terminal_and_is_no_formula(formula: str) -> None:
    book = Book()
    escapes = "\x1b[2Jgone \x9b1m \u202eback\u2069 \x08"
    book.write(Kind.ORDER, Action.PAUSE, reason=formula)
    book.write(Kind.ORDER, Action.RESUME, reason=escapes, detail={"=note": escapes})
    text = as_csv({"prod": book.entries})
    assert all(one.isprintable() or one in "\r\n" for one in text)
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert first["reason"].startswith("'") and "gone" in second["reason"]
    as_said = as_json({"prod": book.entries})
    assert all(one.isprintable() or one == "\n" for one in as_said)
    assert [one["reason"] for one in json.loads(as_said)] == [formula, escapes]


def test_an_export_has_every_entry_in_json_and_in_csv() -> None:
    book = Book()
    failed(book)
    book.write(Kind.ORDER, Action.ABORT, "p2", reason='=HYPERLINK("x"),\n"quoted"', detail={"n": 1})
    found = json.loads(as_json({"prod": book.entries, "dev": []}))
    assert [row["sequence"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert found[5]["reason"] == '=HYPERLINK("x"),\n"quoted"' and found[5]["environment"] == "prod"
    assert (
        Entry.model_validate({k: v for k, v in found[2].items() if k not in ("environment", "when", "by")})
        == (book.entries[2])
    )
    rows = list(csv.DictReader(io.StringIO(as_csv({"prod": book.entries}), newline="")))
    assert [row["sequence"] for row in rows] == [str(n) for n in range(1, 7)]
    assert rows[5]["reason"] == '\'=HYPERLINK("x"),\n"quoted"'  # no formula of a spreadsheet
    assert json.loads(rows[5]["detail"]) == {"n": 1} and rows[5]["hash"] == book.entries[5].hash

"""What keeps a release from going into an environment: by the calendar, by what ran before, by whose word."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from promotion_world import environment as plain

from ci.delivery.ledger import Action, Entry, Kind
from ci.delivery.refusals import Refusal, approvers, blocked, refusals, runs_in, soaks_in
from ci.environments import Environment

MONDAY = datetime(2026, 11, 30, 10, 0, tzinfo=UTC)  # 11:00 in Amsterdam


def prod(**said: Any) -> Environment:
    base = plain("prod", "eastus", "westeurope")
    whole = {name: getattr(base, name) for name in base.model_fields_set}
    return Environment.model_validate(whole | {"estate": "local", "after": "staging"} | said)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def entry(at: str, action: Action, **said: Any) -> Entry:
    base = {"promotion": "p1", "kind": Kind.OUTCOME, "release": "r2", "target": "staging/eastus"}
    rest = {"sequence": 1, "who": "pat@laptop", "previous": "0" * 64, "hash": "0" * 64}
    return Entry(**(base | rest | {"time": utc(at), "action": action} | said))


def ran(at: str, release: str = "r2", target: str = "staging/eastus", **said: Any) -> Entry:
    return entry(at, Action.FINISH, result="promoted", release=release, target=target, **said)


def back(at: str, release: str = "r2", target: str = "staging/eastus") -> Entry:
    return entry(at, Action.ROLL_BACK, result="done", release=release, target=target)


def order(at: str, action: Action, who: str, **said: Any) -> Entry:
    return entry(at, action, kind=Kind.ORDER, who=who, target="", reason="it is good", **said)


def found(
    environment: Environment, *entries: Entry, now: datetime = MONDAY, before: tuple[Entry, ...] = ()
) -> tuple[Refusal, ...]:
    return refusals(environment, "r2", entries, now, promoter="pat", before=before)


def test_an_environment_that_asks_for_nothing_refuses_nothing() -> None:
    assert found(prod()) == ()
    assert soaks_in(prod()) is None


# The calendar --------------------------------------------------------------------------------------------

FREEZES = [
    {"when": "2026-12-18 to 2027-01-04 Europe/Amsterdam", "why": "the holidays"},
    {"when": "Fri 15:00 to Mon 09:00 Europe/Amsterdam", "why": "the weekend"},
]


def test_a_freeze_says_why_until_when_and_what_to_do_then() -> None:
    (one,) = found(prod(freezes=FREEZES), now=utc("2026-11-29 18:00"))

    assert (one.code, one.place, one.until) == ("frozen", "prod", utc("2026-11-30 08:00"))
    assert one.reason == "frozen until Mon 09:00 Europe/Amsterdam (in 14 h): the weekend"
    assert one.next_command.startswith("va promote r2 --to prod, when it is over; in an emergency now, with")
    assert found(prod(freezes=FREEZES), now=utc("2026-11-30 08:00")) == ()


def test_two_freezes_and_closed_hours_are_one_refusal_until_all_are_over() -> None:
    hours = "Tue-Thu 09:00-16:00 Europe/Amsterdam"
    (one,) = found(prod(freezes=FREEZES, hours=hours), now=utc("2026-12-19 12:00"))

    assert one.reason == (
        "frozen until Tue 5 Jan 2027 09:00 Europe/Amsterdam (in 17 d): the holidays; the weekend"
    )


def test_outside_of_the_hours() -> None:
    (one,) = found(prod(hours=["Tue 09:00-12:00 Asia/Tokyo", "Thu 09:00-12:00 Asia/Tokyo"]))

    assert (one.code, one.until) == ("outside-hours", utc("2026-12-01 00:00"))
    assert one.reason == (
        "closed until Tue 09:00 Asia/Tokyo (in 14 h): "
        "only Tue 09:00-12:00 Asia/Tokyo, Thu 09:00-12:00 Asia/Tokyo"
    )


def test_on_the_day_on_which_clocks_go_back_a_freeze_holds_in_both_hours() -> None:
    freeze = [{"when": "Sun 01:00-02:30 Europe/Amsterdam", "why": "backups"}]
    frozen = [found(prod(freezes=freeze), now=utc(f"2026-10-25 {at}")) for at in ("00:45", "01:29", "01:30")]
    assert [len(each) for each in frozen] == [1, 1, 0]


def test_an_override_is_for_times_alone_and_for_one_promotion() -> None:
    frozen = prod(freezes=FREEZES, soak="2h", approvals={"by": ["anna"]})
    now = utc("2026-12-19 12:00")
    lifted = order("2026-12-19 11:00", Action.OVERRIDE, "pat@laptop")

    assert [one.code for one in found(frozen, now=now)] == ["frozen", "not-soaked", "not-approved"]
    assert [one.overridable for one in found(frozen, now=now)] == [True, True, False]
    assert [one.code for one in found(frozen, lifted, now=now)] == ["not-approved"]
    other = order("2026-12-19 11:00", Action.OVERRIDE, "pat@laptop", release="r1", promotion="p0")
    assert len(found(frozen, other, now=now)) == 3
    gone = back("2026-12-19 11:30", target="prod/eastus")
    assert len(found(frozen, lifted, gone, now=now)) == 3
    # It never came so far: what could not wait then is nothing that may overtake what came since.
    newer = ran("2026-12-19 11:40", release="r3", target="prod/eastus", promotion="p3")
    assert len(found(frozen, lifted, newer, now=now)) == 3
    over = entry("2026-12-19 11:40", Action.FINISH, result="superseded", target="", promotion="p1")
    assert len(found(frozen, lifted, over, now=now)) == 3


# Soak ----------------------------------------------------------------------------------------------------


def soaked(*before: Entry, soak: str = "2h", now: datetime = MONDAY) -> str:
    refused = found(prod(soak=soak), before=before, now=now)
    return refused[0].reason if refused else ""


def test_a_release_soaks_for_as_long_as_is_asked() -> None:
    assert soaked(ran("2026-11-30 08:00")) == ""
    assert soaked(ran("2026-11-30 08:00:01")) == (
        "r2 has not soaked: it has run in staging for 1 h 59 min, 2 h are asked for: 1 s more"
    )
    (one,) = found(prod(soak="90m in staging"), before=(ran("2026-11-30 09:30"),))
    assert one.until == utc("2026-11-30 11:00")
    assert one.next_command.startswith("va promote r2 --to prod, in 60 min; in an emergency")


def test_a_release_that_never_was_there_or_was_taken_back_has_not_soaked() -> None:
    assert soaked().startswith("r2 has not soaked: it does not run in staging, 2 h")
    assert soaked(ran("2026-11-30 01:00", release="r1")).startswith("r2 has not soaked: it does not run")
    rolled = (ran("2026-11-30 01:00"), back("2026-11-30 07:00"))
    assert "it was rolled back from staging" in soaked(*rolled)
    (one,) = found(prod(soak="2h"), before=rolled)
    assert one.next_command.startswith("va promote r2 --to staging;") and one.until is None
    again = ran("2026-11-30 09:30")
    assert "for 30 min" in soaked(*rolled, again)  # from anew


def test_a_release_that_was_followed_by_another_keeps_the_time_it_ran() -> None:
    followed = (ran("2026-11-30 01:00"), ran("2026-11-30 04:00", release="r3"))
    assert soaked(*followed) == ""
    assert soaked(*followed, soak="4h").endswith("it ran in staging for 3 h 0 min, 4 h are asked for")
    back_again = (*followed, back("2026-11-30 09:30", release="r3"), ran("2026-11-30 09:30"))
    assert soaked(*back_again) == ""


def test_whoever_is_back_on_a_release_has_it_again_from_then_on() -> None:
    """As a roll-back says it: what is gone, and in its detail what is there now."""
    gone = entry("2026-11-30 05:00", Action.FINISH, result="rolled back", release="r3", detail={"now": "r2"})
    before = (ran("2026-11-30 01:00"), ran("2026-11-30 02:00", release="r3"), gone)
    assert soaked(*before, soak="5h") == ""
    assert "for 5 h 0 min, 6 h are asked for: 60 min more" in soaked(*before, soak="6h")


@pytest.mark.parametrize("result", ["failed", "stopped", "aborted"])
def test_however_a_promotion_came_to_no_good_end_the_release_is_not_there(result: str) -> None:
    assert "rolled back from staging" in soaked(
        ran("2026-11-30 01:00"), entry("2026-11-30 02:00", Action.FINISH, result=result, detail={"now": "r1"})
    )


def test_what_is_said_of_the_whole_environment_is_of_no_target() -> None:
    whole = ran("2026-11-30 01:00", target="")
    assert soaked(whole, ran("2026-11-30 01:00"), back("2026-11-30 02:00")) != ""


def test_an_order_to_go_back_is_not_yet_back() -> None:
    ordered = entry("2026-11-30 05:00", Action.ROLL_BACK, kind=Kind.ORDER)
    assert soaked(ran("2026-11-30 01:00"), ordered) == ""


def test_the_region_that_had_it_last_decides() -> None:
    two = (ran("2026-11-30 01:00"), ran("2026-11-30 09:00", target="staging/westeurope"))
    assert "for 1 h 0 min" in soaked(*two)


def test_what_was_taken_over_counts_from_when_it_happened() -> None:
    old = entry(
        "2026-11-30 09:59", Action.TAKEN_OVER, kind=Kind.NOTE, result="promoted",
        detail={"time": "2026-11-30T07:00:00+00:00", "who": "pat"},
    )  # fmt: skip
    assert soaked(old) == ""


def test_a_release_that_is_said_again_to_be_there_goes_on_soaking() -> None:
    assert soaked(ran("2026-11-30 07:00"), ran("2026-11-30 09:59")) == ""


def test_a_clock_that_was_set_makes_no_release_soak_longer() -> None:
    """It is ten: what the ledger says of half past ten was written by a clock that was ahead."""
    assert "for 0 min" in soaked(ran("2026-11-30 10:30"))
    behind = (ran("2026-11-30 09:50", release="r1"), ran("2026-11-30 05:00"))
    assert "it has run in staging for 10 min" in soaked(*behind)


# Approvals -----------------------------------------------------------------------------------------------

TWO = {"count": 2, "by": ["anna", "Bert", "pat"]}


def test_others_than_the_promoter_who_are_named_approve_each_once() -> None:
    given = (
        order("2026-11-30 09:00", Action.APPROVE, "anna@desk"),
        order("2026-11-30 09:01", Action.APPROVE, "Anna@laptop"),
        order("2026-11-30 09:02", Action.APPROVE, "pat@laptop"),
        order("2026-11-30 09:03", Action.APPROVE, "mallory@laptop"),
        order("2026-11-30 09:04", Action.APPROVE, "bert@desk", release="r9", promotion="p9"),
    )
    (one,) = found(prod(approvals=TWO), *given)

    assert one.code == "not-approved" and not one.overridable
    assert one.reason == ("r2 has 1 of 2 approvals (anna): of anna, Bert, pat, other than who promotes (pat)")
    assert one.next_command == 'va approve r2 --to prod --reason "REASON", by one of them'
    enough = (*given, order("2026-11-30 09:05", Action.APPROVE, "bert (O/R/promote.yml@main, run 7)"))
    assert found(prod(approvals=TWO), *enough) == ()
    assert approvers(prod(approvals=TWO), "r2", enough, promoter="pat") == ("anna", "bert")


def test_an_order_for_a_promotion_is_one_for_its_release() -> None:
    begun = entry("2026-11-30 09:00", Action.START, kind=Kind.INTENT, target="prod/eastus", promotion="p7")
    yes = order("2026-11-30 09:05", Action.APPROVE, "anna@desk", release="", promotion="p7")
    assert found(prod(approvals={"by": ["anna"]}), begun, yes) == ()
    assert len(found(prod(approvals={"by": ["anna"]}), yes)) == 1


@pytest.mark.parametrize(
    ("then", "counts"),
    [
        (back("2026-11-30 09:30", target="prod/eastus"), False),
        (back("2026-11-30 09:30", release="r1", target="prod/eastus"), True),
        (ran("2026-11-30 09:30", release="r3", target="prod/eastus"), True),  # it was not there yet
        (ran("2026-11-30 09:30", target="prod/eastus"), True),  # the first wave
    ],
)
def test_an_approval_lasts_until_the_release_was_taken_back(then: Entry, counts: bool) -> None:
    yes = order("2026-11-30 09:00", Action.APPROVE, "anna@desk")
    assert (found(prod(approvals={"by": ["anna"]}), yes, then) == ()) is counts


def test_an_approval_is_used_up_when_another_release_took_its_place() -> None:
    used = (
        order("2026-11-30 09:00", Action.APPROVE, "anna@desk"),
        ran("2026-11-30 09:30", target="prod/eastus"),
        ran("2026-11-30 09:40", release="r3", target="prod/eastus"),
    )
    assert len(found(prod(approvals={"by": ["anna"]}), *used)) == 1


def test_reviewers_are_those_of_whom_github_says_so() -> None:
    wanted = prod(approvals={"by": "reviewers"})
    own_word = order("2026-11-30 09:00", Action.APPROVE, "anna@desk")
    (one,) = found(wanted, own_word)
    assert "GitHub" in one.next_command
    reviewed = order("2026-11-30 09:00", Action.APPROVE, "bot", detail={"who": "anna", "reviewer": True})
    assert found(wanted, reviewed) == ()
    herself = order("2026-11-30 09:00", Action.APPROVE, "bot", detail={"who": "Pat", "reviewer": True})
    assert len(found(wanted, herself)) == 1


def test_all_that_is_in_the_way_is_one_error_with_its_exit_code() -> None:
    error = blocked(found(prod(freezes=FREEZES, approvals={"by": ["anna"]}), now=utc("2026-12-19 12:00")))
    assert error.exit_code == 8
    assert str(error).startswith("prod: frozen until")
    assert "\nalso prod: r2 has 0 of 1 approvals" in str(error)
    assert error.hint.startswith("va promote r2 --to prod, when it is over")


def test_whether_it_runs_there_by_the_ledger() -> None:
    both = (ran("2026-11-30 09:00", target="prod/eastus"), ran("2026-11-30 09:00", target="prod/westeurope"))
    assert runs_in(prod(), "r2", both)
    assert not runs_in(prod(), "r2", both[:1])
    assert not runs_in(prod(), "r2", (*both, back("2026-11-30 09:30", target="prod/eastus")))
    assert not runs_in(prod(), "r2", (*both, ran("2026-11-30 09:30", release="r3", target="prod/eastus")))

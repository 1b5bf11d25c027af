"""Times in a zone: as they are written, on days on which clocks change, and until when they last."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta

import pytest
from pydantic_core import PydanticCustomError

from ci.windows import Window, covering, opens, said, span, window


def utc(text: str) -> datetime:
    """`2026-11-29 20:15`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def covers(written: str, moment: str, *, wide: bool = True) -> bool:
    """Whether that window covers that moment, UTC."""
    return any(covering([window(written)], utc(moment), wide=wide))


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("Mon-Thu 09:00-16:00 Europe/Amsterdam", "2026-11-30 08:00", "2026-11-30 07:59"),
        ("Mon-Thu 09:00-16:00 Europe/Amsterdam", "2026-12-03 14:59", "2026-12-03 15:00"),
        ("monday – thursday 9:00 – 16:00 Europe/Amsterdam", "2026-07-06 07:00", "2026-07-06 14:00"),
        ("Mon, Wed 09:00-10:00 UTC", "2026-12-02 09:30", "2026-12-01 09:30"),
        ("daily 22:00-24:00 Asia/Kolkata", "2026-12-01 16:30", "2026-12-01 18:30"),
        ("Sat,Sun Asia/Tokyo", "2026-12-04 15:00", "2026-12-06 15:00"),
        ("Sat-Mon UTC", "2026-12-07 23:59", "2026-12-08 00:00"),
        ("Fri 15:00 to Mon 08:00 America/New_York", "2026-12-07 12:59", "2026-12-07 13:00"),
        ("Tue 09:00 to Mon 09:00 UTC", "2026-12-07 08:59", "2026-12-07 09:00"),
        ("2026-12-18 to 2027-01-04 Europe/Amsterdam", "2027-01-04 22:59", "2027-01-04 23:00"),
        ("2026-12-18 to 2027-01-04 Europe/Amsterdam", "2026-12-17 23:00", "2026-12-17 22:59"),
        ("2026-12-24 Pacific/Auckland", "2026-12-23 11:00", "2026-12-24 11:00"),
        ("2026-12-18 16:30 to 2026-12-18 17:00 UTC", "2026-12-18 16:30", "2026-12-18 17:00"),
    ],
)
def test_from_the_first_moment_until_before_the_last(written: str, inside: str, outside: str) -> None:
    assert covers(written, inside)
    assert not covers(written, outside)


@pytest.mark.parametrize(
    ("written", "problem", "hint"),
    [
        ("Mon-Thu 09:00-16:00", "has no time zone", "Mon-Thu 09:00-16:00 Europe/Amsterdam"),
        ("2026-12-18 to 2027-01-04", "has no time zone", ""),
        ("Sat", "has no time zone", ""),
        ("Mon-Thu 09:00-16:00 Europe/Amsterdan", "'Europe/Amsterdan' is no time zone", "Europe/Amsterdam"),
        ("Mon-Thu 09:00-16:00 europe/berlin", "is no time zone", "Europe/Berlin"),
        ("Mon-Thu 09:00-16:00 CET", "'CET' is no time zone", "name of a place"),
        ("Mon-Thu 09:00-16:00 +02:00", "is no time zone", ""),
        ("Mon-Thu 09:00-16:00 ../../etc/passwd", "is no time zone", ""),
        ("Mon-Thu 09:00-16:00 right/Europe/Rome", "is no time zone", ""),
        ("Mon-Thu 16:00-09:00 UTC", "ends before it begins", "over midnight"),
        ("Mon-Thu 16:00-16:00 UTC", "ends before it begins", ""),
        ("2027-01-04 to 2026-12-18 UTC", "ends before it begins", ""),
        ("2026-12-18 09:00 to 2026-12-18 09:00 UTC", "ends before it begins", ""),
        ("2026-12-18 to 2028-01-04 UTC", "longer than a year", ""),
        ("2026-12-18 to UTC", "never ends", "until when"),
        ("Mon 16:00 to Mon 09:00 UTC", "ends before it begins", "another day"),
        ("from 2026-12-18 UTC", "never ends", "until when"),
        ("Fri 15:00 to Fri 15:00 UTC", "never ends", ""),
        ("2026-02-30 UTC", "no day 2026-02-30", ""),
        ("Mon 09:00-24:30 UTC", "no 24:30 on a clock", ""),
        ("Mon 09:60-12:00 UTC", "no 09:60 on a clock", ""),
        ("Mno 09:00-12:00 UTC", "'Mno' is no day of the week", "Mon"),
        ("Mon-Mon 09:00-12:00 UTC", "no days of the week", "daily"),
        ("whenever it suits UTC", "no time of the week", "write"),
        (960, "no time of the week", ""),
        (None, "no time of the week", ""),
    ],
)
def test_what_is_none_is_refused_with_what_to_do(written: object, problem: str, hint: str) -> None:
    with pytest.raises(PydanticCustomError) as refused:
        window(written)
    assert problem in refused.value.message()
    assert hint in (refused.value.context or {})["hint"]


def test_the_hour_that_is_left_out_in_spring() -> None:
    """In Amsterdam 02:00 becomes 03:00 on 28 March 2027, at 01:00 UTC."""
    days = window("Sun 02:30-05:00 Europe/Amsterdam").spans(utc("2027-03-28 00:00"), wide=True)
    (begins,) = [begin for begin, _ in days if begin.date() == utc("2027-03-28 00:00").date()]
    assert begins == utc("2027-03-28 01:00")
    assert covers("Sun 01:00-02:30 Europe/Amsterdam", "2027-03-28 00:59")
    assert not covers("Sun 01:00-02:30 Europe/Amsterdam", "2027-03-28 01:00")
    assert not covers("Sun 02:10-02:50 Europe/Amsterdam", "2027-03-28 01:00")  # there is none that day
    assert covers("Sun 02:10-02:50 Europe/Amsterdam", "2027-03-21 01:30")


def test_of_the_hour_that_comes_twice_a_freeze_has_both_and_open_hours_neither() -> None:
    """In Amsterdam 03:00 becomes 02:00 again on 25 October 2026, at 01:00 UTC."""
    freeze = "Sun 01:00-02:30 Europe/Amsterdam"
    assert [covers(freeze, f"2026-10-25 {at}") for at in ("00:29", "00:45", "01:29", "01:30")] == [
        True,
        True,
        True,
        False,
    ]
    assert [covers(freeze, f"2026-10-25 {at}", wide=False) for at in ("00:29", "00:45", "01:29")] == [
        True,
        False,
        False,
    ]
    assert not covers("Sun 02:30-05:00 Europe/Amsterdam", "2026-10-25 00:45", wide=False)
    assert covers("Sun 02:30-05:00 Europe/Amsterdam", "2026-10-25 01:30", wide=False)


def test_a_day_has_its_own_length() -> None:
    (begin, end) = next(iter(window("2026-10-25 Europe/Amsterdam").spans(utc("2026-10-25 00:00"), wide=True)))
    assert end - begin == timedelta(hours=25)
    (begin, end) = next(iter(window("2027-03-28 Europe/Amsterdam").spans(utc("2027-03-28 00:00"), wide=True)))
    assert end - begin == timedelta(hours=23)


def test_midnight_that_is_left_out() -> None:
    """In Cairo the 24th of April 2026 begins at 01:00."""
    (begin, _) = next(iter(window("2026-04-24 Africa/Cairo").spans(utc("2026-04-24 00:00"), wide=True)))
    assert begin == utc("2026-04-23 22:00")


def test_it_opens_behind_all_that_is_closed_one_after_the_other() -> None:
    hours = [window("Mon-Thu 09:00-16:00 Europe/Amsterdam")]
    weekend = window("Fri 15:00 to Mon 08:00 UTC")
    holidays = window("2026-12-18 to 2027-01-04 Europe/Amsterdam")
    assert opens(utc("2026-11-30 10:00"), hours=hours, freezes=[weekend]) == utc("2026-11-30 10:00")
    assert opens(utc("2026-12-03 15:00"), hours=hours, freezes=[weekend]) == utc("2026-12-07 08:00")
    assert opens(utc("2026-12-18 10:00"), hours=hours, freezes=[holidays, weekend]) == utc("2027-01-05 08:00")
    assert opens(utc("2026-12-19 10:00"), hours=[], freezes=[weekend]) == utc("2026-12-21 08:00")


def test_what_is_never_open_is_found() -> None:
    always = [window("Mon-Fri UTC"), window("Sat-Sun Europe/London"), window("Fri 12:00 to Sat 12:00 UTC")]
    assert opens(utc("2026-01-05 10:00"), hours=[], freezes=always, within=timedelta(days=15)) is None
    hours = [window("Sat 09:00-12:00 UTC")]
    assert opens(utc("2026-01-05 10:00"), hours=hours, freezes=[window("Sat UTC")]) is None


@pytest.mark.parametrize(
    ("to_come", "words"),
    [
        ("2026-11-30 08:00", "Mon 09:00 Europe/Amsterdam (in 14 h)"),
        ("2026-11-29 18:25", "Sun 19:25 Europe/Amsterdam (in 25 min)"),
        ("2026-12-02 08:00", "Wed 09:00 Europe/Amsterdam (in 3 d)"),
        ("2027-01-04 23:00", "Tue 5 Jan 2027 00:00 Europe/Amsterdam (in 37 d)"),
    ],
)
def test_a_moment_to_come_in_words(to_come: str, words: str) -> None:
    assert said(utc(to_come), "Europe/Amsterdam", utc("2026-11-29 18:00")) == words


def test_lengths_are_rounded_up() -> None:
    assert [span(timedelta(seconds=s)) for s in (0, 0.2, 90, 91, 5400, 5401, 172800, 172801)] == [
        "0 s", "1 s", "90 s", "2 min", "90 min", "2 h", "48 h", "3 d",
    ]  # fmt: skip


def test_a_machine_without_a_database_of_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoneinfo, "TZPATH", ())
    zoneinfo.reset_tzpath(to=())
    zoneinfo.ZoneInfo.clear_cache()
    try:
        assert covers("Mon-Thu 09:00-16:00 Europe/Amsterdam", "2026-11-30 08:00")
        with pytest.raises(PydanticCustomError, match="is no time zone"):
            window("Mon 09:00-16:00 Europe/Atlantis")
    finally:
        zoneinfo.reset_tzpath()
        zoneinfo.ZoneInfo.clear_cache()


def test_a_window_is_read_once() -> None:
    once = window("Sat UTC")
    assert window(once) is once
    assert str(once) == "Sat UTC"
    assert isinstance(once, Window)

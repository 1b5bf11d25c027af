"""Retry-After, as servers write it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.retries import retry_after

NOON = 1_796_385_600.0  # 2026-12-04 12:00:00 UTC


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("17", 17.0),
        (" 17 ", 17.0),
        ("0.25", 0.25),
        ("Fri, 04 Dec 2026 12:01:30 GMT", 90.0),
        ("Friday, 04-Dec-26 12:01:30 GMT", 90.0),
        ("Fri Dec  4 12:01:30 2026", 90.0),
        ("Fri, 04 Dec 2026 11:00:00 GMT", 0.0),  # it is over
        ("", None),
        ("soon", None),
        ("-3", None),
        ("1e3", None),
        ("²", None),
        ("inf", None),
        ("Fri, 99 Dec 2026 12:01:30 GMT", None),
    ],
)
def test_all_forms_are_read(header: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": header}, now=NOON) == seconds


def test_a_date_counts_from_the_servers_own_clock() -> None:
    headers = {"Retry-After": "Fri, 04 Dec 2026 12:01:30 GMT", "Date": "Fri, 04 Dec 2026 12:01:20 GMT"}

    assert retry_after(headers, now=0.0) == 10.0
    assert retry_after({**headers, "Date": "today"}, now=NOON) == 90.0
    assert retry_after({}) is None


@given(st.text(max_size=60), st.text(max_size=40))
def test_whatever_a_server_sends_is_seconds_or_nothing(header: str, date: str) -> None:
    found = retry_after({"Retry-After": header, "Date": date}, now=NOON)

    assert found is None or (found >= 0 and math.isfinite(found))

"""What people mean who write other units than ours; nothing is made of what means nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.units import meant_duration, meant_percent, meant_size, meant_usd


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("45 minutes", "45m"),
        ("2hrs", "2h"),
        ("1.5h", "90m"),
        ("PT15M", "15m"),
        ("P1DT12H", "36h"),
        ("1w", "7d"),
        ("1h30m", "90m"),
        ("00:02:00", "2m"),
        ("20 S", "20s"),
        (40, "40s' or '40m"),
        ("0.5", ""),
        ("soon", ""),
        ("10 parsecs", ""),
        ("", ""),
        (True, ""),
        (None, ""),
        ("-5m", ""),
        ("9" * 40 + "d", ""),
        ("250ms", ""),
    ],
)
def test_durations(text: object, ours: str) -> None:
    assert meant_duration(text) == ours


def test_finer_durations_where_they_are_known() -> None:
    assert meant_duration("0.25 s", smallest="ms") == "250ms"


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("7Gi", "7 GB"),
        ("7 GiB", "7 GB"),
        ("7g", "7 GB"),
        ("2048 MB", "2 GB"),
        ("1.5 TB", "1536 GB"),
        ("2Ti", "2 TB"),
        (64, "64 GB"),
        ("64", "64 GB"),
        ("100 MB", ""),
        ("big", ""),
        ("5 apples", ""),
        ([], ""),
    ],
)
def test_sizes(text: object, ours: str) -> None:
    assert meant_size(text) == ours


@pytest.mark.parametrize(
    ("text", "ours"),
    [("0.25", "25%"), (75, "75%"), ("75 percent", "75%"), (0.5, "50%"), ("140%", ""), ("most", "")],
)
def test_shares(text: object, ours: str) -> None:
    assert meant_percent(text) == ours


@pytest.mark.parametrize(
    ("text", "ours"),
    [("$2,500", "2500 USD"), (900, "900 USD"), ("12 500 usd", "12500 USD"), ("50 EUR", ""), ("free", "")],
)
def test_money(text: object, ours: str) -> None:
    assert meant_usd(text) == ours


@given(st.one_of(st.text(max_size=80), st.integers(), st.floats(), st.none(), st.lists(st.integers())))
def test_anything_is_answered(value: object) -> None:
    for meant in (meant_duration, meant_size, meant_percent, meant_usd):
        assert isinstance(meant(value), str)

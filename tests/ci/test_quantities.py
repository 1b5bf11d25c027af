"""Quantities, by the grammar of apimachinery's quantity.go.

The table's values are those that Kubernetes' own parser (v0.30) gave; 30,000 made-up strings were compared
with it, too.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.quantities import quantity, whole

DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}

digits = st.text("0123456789", min_size=1, max_size=12)
numbers = st.one_of(
    digits,
    st.builds("{}.{}".format, digits, digits),
    st.builds("{}.".format, digits),
    st.builds(".{}".format, digits),
)
signs = st.sampled_from(["", "+", "-"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1503238553600m", "1503238553.6"),
        ("0", "0"),
        ("-0", "0"),
        ("+2", "2"),
        ("007", "7"),
        ("5.", "5"),
        (".5", "0.5"),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("1e-3", "0.001"),
        ("12e+06", "12000000"),
        ("5E", "5000000000000000000"),
        ("3Ei", "3458764513820540928"),
        ("8Ei", "9223372036854775807"),
        ("-8Ei", "-9223372036854775807"),
        ("1500u", "0.0015"),
        ("250000000n", "0.25"),
        ("1.1Gi", "1181116006.4"),
        ("1n", "1e-9"),
        (".5n", "1e-9"),
        ("-1e-12", "-1e-9"),
        ("1G", "1e9"),
        ("7P", "7e15"),
        ("4096k", "4096000"),
    ],
)
def test_what_kubernetes_reads(text: str, value: str) -> None:
    assert quantity(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", " 1", "1 ", "1Gb", "1gi", "1K", "1KI", "1ki", "e3", "1e", "1e3.5", "1e3k", "1mi"),
        *("--1", "1,5", "0x10", "nan", "inf", "Infinity", "1_000", "٣", "１Gi", "1.2.3", ".", "Mi"),
        *("1e100000000", "9" * 65, "True"),
    ],
)  # fmt: skip
def test_what_it_does_not(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|beyond"):
        quantity(text)


def test_plain_numbers_of_yaml_are_some_but_no_truth() -> None:
    assert (quantity(2), quantity(0.25), quantity(1e21)) == (2, Decimal("0.25"), Decimal("1e21"))
    with pytest.raises(ValueError, match="True is no quantity"):
        quantity(True)


@given(signs, numbers, st.sampled_from([*DECIMAL.items(), *((f"e{n}", n) for n in range(-8, 19))]))
def test_decimal_quantities_are_exact_down_to_a_billionth(
    sign: str, number: str, unit: tuple[str, int]
) -> None:
    exact = _exact(sign, number) * Fraction(10) ** unit[1]

    assert _rounded(exact) == Fraction(quantity(f"{sign}{number}{unit[0]}"))


@given(signs, numbers, st.sampled_from(list(BINARY.items())))
def test_binary_quantities_are_exact_and_end_at_63_bits(
    sign: str, number: str, unit: tuple[str, int]
) -> None:
    exact = _exact(sign, number) * 2 ** unit[1]
    most = Fraction(2**63 - 1)

    assert max(-most, min(most, _rounded(exact))) == Fraction(quantity(f"{sign}{number}{unit[0]}"))


@given(st.text("0123456789.eEinumkKMGTP+- ", max_size=12))
def test_whatever_is_written_is_read_or_refused_in_words(text: str) -> None:
    try:
        assert quantity(text).is_finite()
    except ValueError as error:
        assert "quantity" in str(error) or "beyond" in str(error)  # noqa: PT017


def test_a_part_of_one_is_a_whole_one() -> None:
    assert [whole(quantity(text)) for text in ("1", "1.000000001", "1n", "-1.5")] == [1, 2, 1, -1]


def _exact(sign: str, number: str) -> Fraction:
    ahead, _, behind = number.partition(".")
    value = Fraction(int(f"{ahead}{behind}"), 10 ** len(behind))
    return -value if sign == "-" else value


def _rounded(exact: Fraction) -> Fraction:
    nano = exact * 10**9
    return Fraction((1 if nano >= 0 else -1) * -(-abs(nano).numerator // nano.denominator), 10**9)

"""Durations, sizes, shares and money in other notations than ours: what was meant, for `did you mean`.

    meant_duration("10min") == "10m"      meant_size("5Gi") == "5 GB"
    meant_percent("0.8") == "80%"         meant_usd("$1,200") == "1200 USD"

Each answers "" where nothing can be made of it.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["meant", "meant_duration", "meant_percent", "meant_size", "meant_usd"]

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATIONS = {
    **_MILLISECONDS,
    "": 1000, "msec": 1, "msecs": 1, "millis": 1, "millisecond": 1, "milliseconds": 1,
    "sec": 1000, "secs": 1000, "second": 1000, "seconds": 1000,
    "min": 60_000, "mins": 60_000, "minute": 60_000, "minutes": 60_000,
    "hr": 3_600_000, "hrs": 3_600_000, "hour": 3_600_000, "hours": 3_600_000,
    "day": 86_400_000, "days": 86_400_000, "w": 604_800_000, "week": 604_800_000, "weeks": 604_800_000,
    "y": 31_536_000_000, "year": 31_536_000_000, "years": 31_536_000_000,
}  # fmt: skip
_SIZES = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_NUMBER = r"(?:(?<![0-9])[0-9]{1,12}(?:[.,][0-9]{1,6})?(?![0-9]))"


def meant(suggestion: str) -> str:
    """`did you mean '10m'?`, or nothing."""
    return f"did you mean '{suggestion}'?" if suggestion else ""


def meant_duration(value: object, *, smallest: str = "s") -> str:
    """In our notation, by the largest unit that gives a whole number; nothing finer than `smallest`.

    A bare number may be of seconds or of minutes: both are named.
    """
    text = _plain(value).lower()
    if text.isdigit() and text.isascii() and len(text) <= 12:
        return f"{int(text)}s' or '{int(text)}m"  # as likely
    if clock := re.fullmatch(r"([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])", text):
        total = Fraction(int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3])) * 1000
    else:
        if re.fullmatch(r"p(?:[0-9]+[dw])?(?:t(?:[0-9]+[hms])+)?", text):  # ISO 8601: PT10M, P1DT2H
            text = text.replace("p", "").replace("t", "")
        if not re.fullmatch(rf"({_NUMBER} *[a-z]* *)+", text):
            return ""
        parts = re.findall(rf"({_NUMBER}) *([a-z]*)", text)
        if any(unit not in _DURATIONS for _, unit in parts):
            return ""
        total = sum((_fraction(number) * _DURATIONS[unit] for number, unit in parts), Fraction(0))
    for unit in ("d", "h", "m", "s", "ms"):
        if (number := total / _MILLISECONDS[unit]).denominator == 1:
            return f"{number}{unit}"
        if unit == smallest:
            break
    return ""


def meant_size(value: object) -> str:
    """Whole GB or TB (2^30 and 2^40 bytes)."""
    match = re.fullmatch(rf"({_NUMBER}) ?(?:([kmgtp])i?)?(?:b|bytes?)?", _plain(value).lower())
    if match is None:
        return ""
    if match[2] is None:
        return f"{match[1]} GB" if match[1].isdigit() and int(match[1]) < 100_000 else ""
    gigabytes = _fraction(match[1]) * Fraction(2) ** (_SIZES[match[2]] - _SIZES["g"])
    if gigabytes.denominator != 1 or not gigabytes:
        return ""
    whole = match[2] == "t" and gigabytes % 1024 == 0
    return f"{gigabytes // 1024} TB" if whole else f"{gigabytes} GB"


def meant_percent(value: object) -> str:
    """0% to 100%; a share of at most one counts as one."""
    match = re.fullmatch(rf"({_NUMBER}) ?(%|percent|pct|per cent)?", _plain(value).lower())
    if match is None:
        return ""
    number = _fraction(match[1])
    if match[2] is None and number <= 1:
        number *= 100
    return f"{float(number):g}%" if number <= 100 else ""


def meant_usd(value: object) -> str:
    """US dollars, without marks between thousands."""
    text = re.sub(r"(?<=[0-9])[,_' ](?=[0-9]{3}\b)", "", _plain(value).lower())
    match = re.fullmatch(r"(?:usd|us\$|\$)? ?([0-9]{1,12}(?:\.[0-9]{1,2})?) ?(?:usd|us\$|\$|dollars?)?", text)
    return f"{match[1]} USD" if match else ""


def _plain(value: object) -> str:
    """Numbers and text; of anything else nothing can be made."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(value).strip()[:60]


def _fraction(number: str) -> Fraction:
    return Fraction(number.replace(",", "."))

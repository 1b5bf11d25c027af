"""When to ask a server again that said so itself: its Retry-After header (RFC 9110, 10.2.3).

wait = retry_after(response.headers)
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["retry_after"]

_LONGEST = 1e9
"""Some thirty years: a number that any clock can add."""


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds from a Retry-After header, never negative; None when there is none that can be understood.

    It holds seconds, or a date in any of HTTP's three forms (RFC 9110, 5.6.7). A date counts from the
    server's own `Date`, else from `now` (Unix seconds, the clock by default): the clocks need not agree. A
    fraction of a second is no form of the standard, but servers send it.
    """
    header = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", header):
        return min(float(header), _LONGEST)
    until = _moment(header)
    if until is None:
        return None
    start = _moment(headers.get("Date", ""))
    if start is None:
        start = time.time() if now is None else now
    return min(max(0.0, until - start), _LONGEST)


def _moment(text: str) -> float | None:
    try:
        found = parsedate_to_datetime(text)
        # A date of HTTP is one in UTC, also in the form that does not say so (asctime's).
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None

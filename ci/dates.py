"""The day: one everywhere, whatever time zone a machine is in."""

from __future__ import annotations

from datetime import UTC, date, datetime

__all__ = ["end_of", "today"]


def today() -> date:
    """The day in UTC. What lasts until the end of a day ends with it, at midnight UTC, on every machine."""
    return datetime.now(UTC).date()


def end_of(day: date) -> str:
    """The moment at which what lasts until that day ends, for people."""
    return f"{day} 24:00 UTC"

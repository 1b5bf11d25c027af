"""Findings that stay, in a file: each waiver says what, why, and until when.

An expired waiver is itself a finding, and so is one that nothing needs any more where all that it could cover
was looked at: waivers do not outlive their reason.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pydantic import Field, field_validator

from ci.architecture.kinds import Frozen
from ci.complaints import shown
from ci.dates import end_of
from ci.errors import Place
from ci.yamlfile import checked, load

__all__ = ["Outdated", "Sorted", "Waiver", "sort_out"]


class Waiver(Frozen):
    """One accepted finding, until the end of the day `expires` in UTC.

    `resource` is a regular expression, searched in the checker's name of it.
    """

    id: str
    resource: str
    reason: str = Field(min_length=20)
    expires: date

    @field_validator("resource")
    @classmethod
    def _readable(cls, expression: str) -> str:
        try:
            with warnings.catch_warnings(action="ignore"):  # of what a later Python will read otherwise
                re.compile(expression)
        except (re.error, OverflowError, RecursionError) as error:
            said = error.msg if isinstance(error, re.error) else "it is too large"
            at = (
                f" (character {error.pos + 1})"
                if isinstance(error, re.error) and error.pos is not None
                else ""
            )
            raise ValueError(f"{shown(expression)} is no regular expression: {said}{at}") from None
        return expression


class _Waivers(Frozen):
    waivers: tuple[Waiver, ...] = ()


class _Finding(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def resource(self) -> str: ...


Found = TypeVar("Found", bound=_Finding)


@dataclass(frozen=True, kw_only=True)
class Outdated:
    """A waiver to be taken away, where it stands, and why."""

    place: Place
    waiver: Waiver
    message: str


@dataclass(frozen=True, kw_only=True)
class Sorted(Generic[Found]):
    """What has no valid waiver, what has one, and the waivers that expired or that covered nothing."""

    left: tuple[Found, ...]
    waived: tuple[Found, ...]
    expired: tuple[Outdated, ...]
    unused: tuple[Outdated, ...]


def sort_out(found: Iterable[Found], file: Path, *, today: date) -> Sorted[Found]:
    """Hold findings against the waivers of a file. BadInput when the file is wrong."""
    document = load(file)
    waivers = checked(_Waivers, document).waivers
    left: list[Found] = []
    waived: list[Found] = []
    used: set[int] = set()
    for one in found:
        hits = {
            number
            for number, waiver in enumerate(waivers)
            if waiver.id == one.id and re.search(waiver.resource, one.resource)
        }
        used |= hits
        valid = any(waivers[number].expires >= today for number in hits)
        (waived if valid else left).append(one)
    expired, unused = [], []
    for number, waiver in enumerate(waivers):
        place = document.place("waivers", number)
        if waiver.expires < today:
            message = f"the waiver of {waiver.id} expired on {end_of(waiver.expires)}: {waiver.reason}"
            expired.append(Outdated(place=place, waiver=waiver, message=message))
        elif number not in used:
            message = f"nothing needs the waiver of {waiver.id}: take it away"
            unused.append(Outdated(place=place, waiver=waiver, message=message))
    return Sorted(left=tuple(left), waived=tuple(waived), expired=tuple(expired), unused=tuple(unused))

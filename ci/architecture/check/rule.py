"""What a rule is: a code, how bad it is when it does not hold, what holds, and where to look.

A rule is a function from an `Estate` to the places where it is broken, made a `Rule` by its decorator:

    @error("NET-VNET")
    def inside_its_network(estate: Estate) -> Iterator[Broken]:
        \"\"\"A subnet lies inside its region's virtual network.\"\"\"
        …
        yield Broken(("regions", region, "subnets", name, "cidr"), reason, fix)

Its docstring is what must hold, in the words of `va env rules`. One code may have a rule of each severity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from functools import cache
from ipaddress import ip_network
from pathlib import Path

from ci.architecture.chart import Fit
from ci.architecture.model import Architecture, Declared
from ci.errors import Place

__all__ = ["Broken", "Estate", "Finding", "Rule", "Severity", "error", "info", "no_range", "said", "warning"]


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, where it is written (`quote` is that line), why, and what to do."""

    code: str
    severity: Severity
    place: Place
    quote: str
    reason: str
    fix: str


@dataclass(frozen=True)
class Broken:
    """Where a rule does not hold (a key of the architecture, or a place elsewhere), why, and what to do."""

    at: Place | tuple[str | int, ...]
    reason: str
    fix: str


@dataclass(frozen=True)
class Estate:
    """What the rules look at. `today` decides what is retired."""

    declared: Declared
    workloads: tuple[Fit, ...]
    today: date

    @property
    def architecture(self) -> Architecture:
        """The architecture itself."""
        return self.declared.architecture


Look = Callable[[Estate], Iterator[Broken]]


@dataclass(frozen=True)
class Rule:
    """`holds` is what must be true, `look` finds where it is not."""

    code: str
    severity: Severity
    holds: str
    look: Look

    def findings(self, estate: Estate) -> Iterator[Finding]:
        """Every place where it is broken, with the line that is written there."""
        for broken in self.look(estate):
            place = broken.at if isinstance(broken.at, Place) else estate.declared.place(*broken.at)
            yield Finding(
                code=self.code,
                severity=self.severity,
                place=place,
                quote=_quote(place),
                reason=broken.reason,
                fix=broken.fix,
            )


def error(code: str) -> Callable[[Look], Rule]:
    """A rule whose break must be mended: deploying fails, loses data, exposes something, breaks a promise."""
    return _rule(code, Severity.ERROR)


def warning(code: str) -> Callable[[Look], Rule]:
    """A rule whose break should be mended: it will become an error."""
    return _rule(code, Severity.WARNING)


def info(code: str) -> Callable[[Look], Rule]:
    """A rule whose break only explains a choice."""
    return _rule(code, Severity.INFO)


def _rule(code: str, severity: Severity) -> Callable[[Look], Rule]:
    return lambda look: Rule(code, severity, " ".join((look.__doc__ or "").split()), look)


@cache
def _lines(file: Path) -> tuple[str, ...]:
    try:
        return tuple(file.read_text(encoding="utf-8").splitlines())
    except OSError:
        return ()


def _quote(place: Place) -> str:
    lines = _lines(place.file)
    return lines[place.line - 1].strip() if place.line and place.line <= len(lines) else ""


_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def said(duration: timedelta) -> str:
    """As it is written in the files, by the largest unit."""
    seconds = int(duration.total_seconds())
    return next(f"{seconds // size}{unit}" for unit, size in _UNITS.items() if seconds % size == 0)


def no_range(at: tuple[str | int, ...], text: str) -> Iterator[Broken]:
    """That this text is no range of addresses, where it is none."""
    try:
        ip_network(text)
    except ValueError:
        yield Broken(at, f"{text!r} is no address and no range of them", "as 203.0.113.0/24")

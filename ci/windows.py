"""Hours of the week and days of the calendar in a place's own time, as people write them.

    Mon-Thu 09:00-16:00 Europe/Amsterdam                on each of those days, from then until then
    Sat, Sun Europe/Amsterdam                           whole days; `daily` is each
    Fri 15:00 to Mon 08:00 America/New_York             begins on the one day and ends on the other
    2026-12-18 to 2027-01-04 Europe/Amsterdam           whole days, the last one too
    2026-12-18 16:00 to 2027-01-04 08:00 Asia/Singapore

Zones are those of the IANA database, the machine's own or else the one of the package tzdata. On a day on
which clocks change, what begins or ends inside the hour that is left out does so at the change; of an hour
that comes twice, a freeze has both (`wide`), and hours in which something is allowed have neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from ci.complaints import did_you_mean, mistake, shown

__all__ = ["Window", "covering", "opens", "said", "span", "window"]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY = 24 * 60
_WEEK = 7 * _DAY
_LONGEST = timedelta(days=366)
_STEPS = 400
_FORM = (
    "Mon-Thu 09:00-16:00 Europe/Amsterdam, Fri 15:00 to Mon 08:00 UTC, or 2026-12-18 to 2027-01-04 Asia/Tokyo"
)
_OVER_MIDNIGHT = (
    "over midnight, write both days (Mon 22:00 to Tue 06:00) or two of them (daily 22:00-24:00, 00:00-06:00)"
)
_TIME = r"[0-9]{1,2}:[0-9]{2}"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_WORD = r"[a-z]+"
_NO_ZONE = rf"{_DATE}|to|({_TIME}|{_WORD})(-({_TIME}|{_WORD}))+|{_TIME}"

Span = tuple[datetime, datetime]
"""From one moment until before another, UTC."""


@dataclass(frozen=True)
class Window:
    """Times that come again each week, or one time of the calendar."""

    text: str
    """As it was written."""
    zone: str
    weekly: tuple[tuple[int, int], ...] = ()
    """From and until before, in minutes since Monday 00:00 by its clocks; an end may be next week's."""
    dated: tuple[datetime, datetime] | None = None
    """From and until before, by its clocks."""

    def __str__(self) -> str:
        return self.text

    def spans(self, around: datetime, *, wide: bool) -> Iterator[Span]:
        """The moments that it covers, of a week before and two weeks after `around`; of the calendar, all."""
        zone = ZoneInfo(self.zone)
        if self.dated is not None:
            written = [self.dated]
        else:
            today = around.astimezone(zone).date()
            monday = datetime.combine(today - timedelta(days=today.weekday()), time())
            written = [
                (week + timedelta(minutes=begin), week + timedelta(minutes=end))
                for week in (monday + timedelta(days=7 * number) for number in (-1, 0, 1, 2))
                for begin, end in self.weekly
            ]
        for begin, end in written:
            first, last = _moment(begin, zone, later=not wide), _moment(end, zone, later=wide)
            if first < last:
                yield first, last


def _moment(clock: datetime, zone: ZoneInfo, *, later: bool) -> datetime:
    """When clocks show that; of two such moments the `later` one; of none, when they were put forward."""
    first, second = (clock.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:
        return second if later else first
    low, high = second, first
    before = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        low, high = (middle, high) if middle.astimezone(zone).utcoffset() == before else (low, middle)
    return high


def covering(windows: Iterable[Window], moment: datetime, *, wide: bool) -> Iterator[tuple[Window, datetime]]:
    """Those that cover the moment, each with the moment at which it ends."""
    for one in windows:
        ends = [end for begin, end in one.spans(moment, wide=wide) if begin <= moment < end]
        if ends:
            yield one, max(ends)


def opens(
    moment: datetime, *, hours: Sequence[Window], freezes: Sequence[Window], within: timedelta = timedelta.max
) -> datetime | None:
    """The first moment from then on that is in one of the `hours` (of none: at any) and in no freeze.

    None when there is none `within` that time, or in the years that are looked at.
    """
    now = moment
    for _ in range(_STEPS):
        if now - moment > within:
            break
        if ends := [end for _, end in covering(freezes, now, wide=True)]:
            now = max(ends)
        elif not hours or any(covering(hours, now, wide=False)):
            return now
        else:
            begins = [begin for one in hours for begin, _ in one.spans(now, wide=False) if begin > now]
            if not begins:
                break
            now = min(begins)
    return None


def said(moment: datetime, zone: str, now: datetime) -> str:
    """A moment to come, for people: `Mon 09:00 Europe/Amsterdam (in 14 h)`; with its date where it is far."""
    there = moment.astimezone(ZoneInfo(zone))
    far = moment - now >= timedelta(days=6)
    day = f" {there.day} {_MONTHS[there.month - 1]} {there.year}" if far else ""
    return f"{_DAYS[there.weekday()]}{day} {there:%H:%M} {zone} (in {span(moment - now)})"


def span(length: timedelta) -> str:
    """`40 s`, `25 min`, `14 h`, `12 d`: rounded up, as one waits."""
    seconds = max(0, -(-length // timedelta(seconds=1)))
    for unit, size, until in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 48 * 3600)):
        if seconds <= until:
            return f"{-(-seconds // size)} {unit}"
    return f"{-(-seconds // 86400)} d"


def window(value: object) -> Window:
    """What somebody wrote, read; a complaint with what to do when it is none."""
    if isinstance(value, Window):
        return value
    if isinstance(value, (date, datetime)):
        raise mistake(f"{value} has no time zone", f"write {_FORM}")
    if not isinstance(value, str) or not value.strip():
        raise mistake(f"{shown(value)} is no time of the week or of the calendar", f"write {_FORM}")
    text = " ".join(value.replace("–", "-").split())
    rest, _, zone = text.rpartition(" ")
    if re.fullmatch(_NO_ZONE, zone.lower()) or zone.lower() in (*_days(), "daily"):
        hint = f"add the place whose clocks count: {text} Europe/Amsterdam"
        raise mistake(f"{shown(value)} has no time zone", hint)
    _known(zone)
    times = re.sub(r" *([-,]) *", r"\1", rest.lower())
    if found := re.fullmatch(rf"({_WORD}(?:[-,]{_WORD})*)(?: ({_TIME})-({_TIME}))?", times):
        return Window(text, zone, weekly=_weekly(found[1], found[2], found[3], shown(value)))
    if found := re.fullmatch(rf"({_WORD}) ({_TIME}) to ({_WORD}) ({_TIME})", times):
        return Window(text, zone, weekly=_over_days(found[1], found[2], found[3], found[4], shown(value)))
    if found := re.fullmatch(rf"(?:from )?({_DATE})(?: ({_TIME}))?( to)?", times):
        if found[2] or found[3] or times.startswith("from"):
            hint = f"say until when: {found[1]} to {found[1]} {zone} is that day"
            raise mistake(f"{shown(value)} never ends", hint)
        return Window(text, zone, dated=_dated(found[1], None, found[1], None, shown(value)))
    if found := re.fullmatch(rf"({_DATE})(?: ({_TIME}))? to ({_DATE})(?: ({_TIME}))?", times):
        return Window(text, zone, dated=_dated(found[1], found[2], found[3], found[4], shown(value)))
    raise mistake(f"{shown(value)} is no time of the week or of the calendar", f"write {_FORM}")


def _days() -> dict[str, int]:
    return {name[:length]: number for number, name in enumerate(_NAMES) for length in (3, len(name))}


def _known(zone: str) -> None:
    """A name without a place is refused: `EST` is in the database, and has no summer."""
    if zone == "UTC":
        return
    if "/" in zone and not zone.startswith(("/", ".", "posix/", "right/")):
        try:
            ZoneInfo(zone)
        except (KeyError, OSError, ValueError):  # no such zone, or no name of one
            pass
        else:
            return
    near = did_you_mean(zone, _places())
    hint = near if near.startswith("did you") else "write the name of a place, as Europe/Amsterdam, or UTC"
    raise mistake(f"{shown(zone)} is no time zone", hint)


@cache
def _places() -> frozenset[str]:
    names = available_timezones()
    return frozenset(name for name in names if "/" in name and not name.startswith("Etc/"))


def _clock(text: str, of: str) -> int:
    """Minutes since midnight; 24:00 is the end of a day."""
    hours, minutes = (int(part) for part in text.split(":"))
    if minutes > 59 or hours * 60 + minutes > _DAY:
        raise mistake(f"{of}: there is no {text} on a clock", "from 00:00 to 24:00")
    return hours * 60 + minutes


def _day(text: str, of: str) -> int:
    if text not in (known := _days()):
        near = did_you_mean(text.capitalize(), [*_DAYS, *(name.capitalize() for name in _NAMES)])
        raise mistake(f"{of}: {shown(text.capitalize())} is no day of the week", near)
    return known[text]


def _weekly(days: str, begin: str | None, end: str | None, of: str) -> tuple[tuple[int, int], ...]:
    first, last = (_clock(begin, of), _clock(end, of)) if begin and end else (0, _DAY)
    if last <= first:
        raise mistake(f"{of} ends before it begins", _OVER_MIDNIGHT)
    chosen: list[int] = []
    for part in days.split(","):
        if part == "daily":
            chosen += range(7)
            continue
        names = [_day(name, of) for name in part.split("-")]
        if len(names) > 2 or (len(names) == 2 and names[0] == names[1]):
            hint = "write Mon-Thu, or Mon, Wed; each of them is `daily`"
            raise mistake(f"{of}: {shown(part)} are no days of the week", hint)
        chosen += [(names[0] + number) % 7 for number in range((names[-1] - names[0]) % 7 + 1)]
    return tuple((day * _DAY + first, day * _DAY + last) for day in sorted(set(chosen)))


def _over_days(first: str, begin: str, last: str, end: str, of: str) -> tuple[tuple[int, int], ...]:
    starts = _day(first, of) * _DAY + _clock(begin, of)
    length = (_day(last, of) * _DAY + _clock(end, of) - starts) % _WEEK
    if not length:
        raise mistake(f"{of} never ends: the next begins where it does", "let it end earlier")
    if first == last and length > _DAY:
        raise mistake(f"{of} ends before it begins", "the later time comes last, or another day")
    return ((starts, starts + length),)


def _dated(first: str, begin: str | None, last: str, end: str | None, of: str) -> tuple[datetime, datetime]:
    starts = _date(first, of) + timedelta(minutes=_clock(begin, of) if begin else 0)
    ends = _date(last, of) + timedelta(minutes=_clock(end, of) if end else _DAY)
    if ends <= starts:
        raise mistake(f"{of} ends before it begins", "the first day comes first")
    if ends - starts > _LONGEST:
        raise mistake(f"{of} is longer than a year", "a freeze has an end that somebody waits for")
    return starts, ends


def _date(text: str, of: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = datetime.min
    if not 2000 <= found.year <= 2100:
        raise mistake(f"{of}: there is no day {text}", "year, month and day: 2026-12-18")
    return found

"""The chain: an entry as the line that is stored, and how lines are found to be whole and in order.

A line is the entry as JSON with its keys in order and no blanks, ASCII throughout, and at its end the hash:

    {"action":"start", …,"previous":"<64 hex digits>", …,"who":"alice@laptop","hash":"<64 hex digits>"}

The hash is the SHA-256 of what stands before `,"hash"` and a closing brace: of bytes as they are, never of
what a program makes of them again. So a line can be checked by any other means, today or in ten years. Each
names the hash of the line before it, which makes a changed, removed, added or moved line visible. What no
chain shows by itself is an end that was cut off: each store keeps a count of its own for that.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ci.complaints import in_words
from ci.delivery.ledger.entry import Draft, Entry
from ci.errors import SystemUnavailable

__all__ = ["FIRST", "Damaged", "Problem", "Row", "damaged", "entry_of", "read", "sealed"]

FIRST = "0" * 64
"""What the first entry names as the one before."""

_SEAL = re.compile(rb',"hash":"([0-9a-f]{64})"\}')
_SEALED = len(',"hash":""}') + len(FIRST)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line as it was found."""

    where: str
    line: bytes
    number: int | None = None
    """The sequence that the store files it under, where it has one."""
    unreadable: str = ""
    """Why there is no line."""


class Problem(BaseModel):
    """One thing that is wrong with a ledger: at which sequence, where that is kept, and what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: int
    """Of the entry; 0 where it is about the whole."""
    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {f'entry {self.sequence} ' if self.sequence else ''}{self.problem}"


class Damaged(SystemUnavailable):
    """The ledger is not as it was written: nothing that depends on it goes on."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(
            f"the ledger is damaged: {problems[0]}{more}",
            hint="nothing was done: va ledger verify lists what is wrong, a copy from before mends it",
        )
        self.problems = problems


def damaged(where: str, problem: str) -> Damaged:
    """The whole of it cannot be read."""
    return Damaged((Problem(sequence=0, where=where, problem=problem),))


def sealed(draft: Draft, last: Entry | None, *, who: str, time: datetime) -> tuple[Entry, bytes]:
    """The draft as the entry that follows on `last`, and its line."""
    said = draft.model_dump(mode="json", exclude_defaults=True) | {
        "sequence": last.sequence + 1 if last else 1,
        "time": time.isoformat(),
        "who": who,
        "previous": last.hash if last else FIRST,
    }
    body = json.dumps(_text(said), sort_keys=True, separators=(",", ":")).encode()
    line = body[:-1] + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'
    return Entry.model_validate_json(line), line


def _text(value: Any) -> Any:
    """Names of files may hold bytes that are no text: written out, for JSON cannot hold them."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_text(key): _text(each) for key, each in value.items()}
    return [_text(each) for each in value] if isinstance(value, list) else value


def read(
    rows: Iterable[Row], *, since: Row | None = None, count: int | None = None, where: str = ""
) -> Iterator[Entry | Problem]:
    """What these rows hold, in their order, and each thing that is wrong with them.

    `since` is the row that they follow on, where they are not the first; it is not told itself. `count` is
    how many entries there are by what the store `where` keeps beside them.
    """
    expected, link = 1, FIRST  # no link: it follows on something that cannot be read
    if since is not None:
        known = entry_of(since)
        expected = (known.sequence if isinstance(known, Entry) else since.number or 0) + 1
        link = known.hash if isinstance(known, Entry) else ""
    for row in rows:
        found = entry_of(row)
        number = found.sequence if isinstance(found, Entry) else row.number or expected
        if row.number is not None and number != row.number:
            found = f"is not in its place: entry {number} is"
            number = row.number
        if number > expected:
            yield _missing(expected, number - 1, row.where)
            link = ""
        if number < expected:
            yield Problem(sequence=number, where=row.where, problem=f"stands where entry {expected} is due")
            link = ""
            continue
        expected = number + 1
        if isinstance(found, str):
            yield Problem(sequence=number, where=row.where, problem=found)
            link = ""
            continue
        if link and found.previous != link:
            what = f"does not follow on entry {number - 1} as it is now: one of both was changed"
            yield Problem(sequence=number, where=row.where, problem=what)
        link = found.hash
        yield found
    if count is not None and count >= expected:
        yield _missing(expected, count, where)
    elif count is not None and count < expected - 1:
        what = f"there are {expected - 1} entries, and {count} by the count that is kept beside them"
        yield Problem(sequence=0, where=where, problem=what)


def _missing(first: int, last: int, where: str) -> Problem:
    what = "is missing" if first == last else f"and all up to entry {last} are missing"
    return Problem(sequence=first, where=where, problem=what)


def entry_of(row: Row) -> Entry | str:
    """The entry that a row holds, or what is wrong with it."""
    if row.unreadable:
        return f"cannot be read: {row.unreadable}"
    seal = _SEAL.fullmatch(row.line[-_SEALED:])
    body = row.line[:-_SEALED] + b"}"
    if seal is None or hashlib.sha256(body).hexdigest().encode() != seal[1]:
        return "is not what was written: its hash is another"
    try:
        return Entry.model_validate_json(row.line)
    except ValidationError as error:
        return f"is whole, but of a kind that this version does not know ({in_words(error)})"

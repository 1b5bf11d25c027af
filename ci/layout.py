"""What people read: tables and lines, laid out for the width that there is.

Whatever is shown is made of `words`, `Table`s and `page`s of them; nothing else in the project asks rich for
a table or a text (lint holds that). So three things are true of all of it:

- No line is wider than the screen, and no name is cut. What does not fit goes, the least important first:
  columns by their rank; what must not be lost moves to a line under its row; prose breaks between words and
  goes on a little further in. Only a word that is longer than a line breaks, after one of its `/`, `@`, `:`.
- Where there is no screen (a pipe, a file) nothing goes and nothing breaks: a line is a line.
- Data is data: it is no markup, and a control character in it is shown (`\\x1b`), not sent to the terminal.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import UnsupportedOperation
from typing import TextIO, TypeAlias

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

__all__ = [
    "Column",
    "Line",
    "Page",
    "Table",
    "clean",
    "lines",
    "page",
    "printable_json",
    "screen",
    "short",
    "show",
    "width_of",
    "words",
]

Line: TypeAlias = Text
"""Clean text with its styles, as `words` makes it; it may have several lines."""
Words: TypeAlias = "str | tuple[str, str] | Line"
"""Text; text and its style; or what `words` made of them."""
Part: TypeAlias = "Words | Table | Page"

_NARROWEST = 20
_GAP = "  "
_PROSE = 30
"""A column of prose is not made narrower than this: it goes under the row instead."""
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_LEAD = " │├└"
"""What a line may begin with that its continuation shall begin to the right of."""
_NOTHING = ("", "-")
"""Cells that need no line of their own."""
_UNSEEN = re.compile(r"[^\x20-\x7e\n]")
_JOINTS = re.compile(r"[/@:=,&?]")


def clean(text: str) -> str:
    """`text` without colours, and what would steer a terminal written out (`\\x1b`); newlines stay."""
    text = _COLOURS.sub("", text).replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(
        one
        if one.isprintable() or one == "\n"
        else " "
        if one.isspace()
        else one.encode("unicode_escape").decode("ascii")
        for one in text
    )


def printable_json(text: str) -> str:
    """JSON that says the same, in which nothing steers a terminal: `\\u009b` for such a letter."""
    return _UNSEEN.sub(lambda one: one[0] if one[0].isprintable() else json.dumps(one[0])[1:-1], text)


def words(*pieces: Words, style: str = "") -> Line:
    """One text of these pieces, each in its own style and all in `style`."""
    line = Text(style=style)
    for piece in pieces:
        if isinstance(piece, Text):
            line.append_text(piece)
        else:
            text, look = piece if isinstance(piece, tuple) else (piece, "")
            line.append(clean(text), look or None)
    return line


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column, and what becomes of it where there is no room for all of them."""

    name: str
    rank: int = 0
    """0 stays; of the others the highest goes first."""
    below: bool = False
    """Where it does not fit it goes under its row, as `name: value`: it is not lost, and what matters less
    may take the room."""
    prose: bool = False
    """Its cells are sentences: they may break between words."""
    right: bool = False


@dataclass(frozen=True, eq=False)
class _Row:
    cells: tuple[Line, ...]
    style: str


class Table:
    """Rows under columns (a plain string is a column that always stays).

    Without a name for any column there is no head. A cell may have several lines.
    """

    def __init__(self, *columns: str | Column, title: str = "") -> None:
        self._columns = tuple(Column(name=one) if isinstance(one, str) else one for one in columns)
        if all(column.rank for column in self._columns):
            raise ValueError("one column has to stay")
        self._title = title
        self._rows: list[_Row] = []

    def add(self, *cells: Words, style: str = "") -> None:
        """A row: a cell for each column."""
        if len(cells) != len(self._columns):
            raise ValueError(f"{len(cells)} cells for {len(self._columns)} columns")
        self._rows.append(_Row(tuple(words(cell) for cell in cells), style))

    def lines(self, width: int | None = None) -> Iterator[Line]:
        """The table's lines, none wider than `width`."""
        if self._title:
            yield from _broken(words((self._title, "italic")), width)
        shown = self._fitting(width)
        yield from self._drawn(width, shown) if shown else self._records(width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _for_rich(self.lines(options.max_width))

    def _fitting(self, width: int | None) -> Sequence[int]:
        """The columns that there is room for; none where there is none for those that have to stay."""
        by_rank = sorted(range(len(self._columns)), key=lambda each: self._columns[each].rank)
        if width is None:
            return sorted(by_rank)
        shown: list[int] = []
        for each in by_rank:
            if self._least([*shown, each]) <= width:
                shown.append(each)
            elif not self._columns[each].rank:
                return ()
            elif not self._columns[each].below:
                break  # what matters less than a column that goes, goes too
        return sorted(shown)

    def _drawn(self, width: int | None, shown: Sequence[int]) -> Iterator[Line]:
        widths = self._widths(shown, width)
        if any(column.name for column in self._columns):
            names = [words((self._columns[each].name, "bold")) for each in shown]
            yield self._row(names, shown, widths, "")
            yield words(("─" * (sum(widths) + len(_GAP) * (len(widths) - 1)), "dim"))
        for row in self._rows:
            # A word that is longer than its column is broken only where the whole line has no room for it.
            out = [
                each for each, room in zip(shown, widths, strict=True)
                if self._columns[each].below and _longest_word(row.cells[each]) > room
            ]  # fmt: skip
            cells = [
                [] if each in out
                else [line for part in row.cells[each].split("\n") for line in _broken(part, room, further=0)]
                for each, room in zip(shown, widths, strict=True)
            ]  # fmt: skip
            for number in range(max(map(len, cells), default=0)):
                parts = [cell[number] if number < len(cell) else words() for cell in cells]
                yield self._row(parts, shown, widths, row.style)
            yield from self._below(row, [each for each in shown if each not in out], width)

    def _row(self, cells: Sequence[Line], shown: Sequence[int], widths: Sequence[int], style: str) -> Line:
        line = words(style=style)
        for number, (cell, each, room) in enumerate(zip(cells, shown, widths, strict=True)):
            padding = " " * (room - cell_len(cell.plain))
            line.append(_GAP if number else "")
            line.append_text(words(padding, cell) if self._columns[each].right else words(cell, padding))
        line.rstrip()
        return line

    def _below(self, row: _Row, shown: Sequence[int], width: int | None) -> Iterator[Line]:
        for each, column in enumerate(self._columns):
            if column.below and each not in shown and row.cells[each].plain not in _NOTHING:
                yield from _broken(_named(column.name, row.cells[each], "    "), width)

    def _records(self, width: int | None) -> Iterator[Line]:
        """For a screen that has no room for what must not go: a line a cell."""
        first, *others = (each for each, column in enumerate(self._columns) if not column.rank)
        for row in self._rows:
            yield from _broken(words(_flat(row.cells[first]), style=row.style), width)
            for each in others:
                if row.cells[each].plain not in _NOTHING:
                    yield from _broken(_named(self._columns[each].name, row.cells[each], "  "), width)
            yield from self._below(row, (first, *others), width)

    def _natural(self, each: int) -> int:
        cells = (row.cells[each].plain for row in self._rows)
        found = max((cell_len(line) for cell in cells for line in cell.split("\n")), default=0)
        return max(found, cell_len(self._columns[each].name))

    def _narrow(self, each: int) -> int:
        """How narrow the column may be made."""
        column, natural = self._columns[each], self._natural(each)
        if not column.prose:
            return natural
        longest = max((_longest_word(row.cells[each]) for row in self._rows), default=0)
        return min(natural, _PROSE if column.below else max(_PROSE, longest))

    def _least(self, shown: Sequence[int]) -> int:
        return sum(map(self._narrow, shown)) + len(_GAP) * (len(shown) - 1)

    def _widths(self, shown: Sequence[int], width: int | None) -> list[int]:
        if width is None:
            return [self._natural(each) for each in shown]
        spare = width - self._least(shown)
        found = []
        for each in shown:
            least, natural = self._narrow(each), self._natural(each)
            found.append(min(natural, least + spare))
            spare -= found[-1] - least
        return found


@dataclass(frozen=True)
class Page:
    """Tables and lines, one after the other."""

    parts: tuple[Line | Table | Page, ...]

    def lines(self, width: int | None = None) -> Iterator[Line]:
        """The page's lines, none wider than `width`."""
        for part in self.parts:
            yield from lines(part, width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _for_rich(self.lines(options.max_width))


def page(*parts: Part) -> Page:
    """These parts, one after the other: each begins a line."""
    return Page(tuple(part if isinstance(part, (Table, Page)) else words(part) for part in parts))


def lines(part: Line | Table | Page, width: int | None = None) -> Iterator[Line]:
    """A part's lines, none wider than `width`."""
    if isinstance(part, Text):
        for line in part.split("\n", allow_blank=True):
            yield from _broken(line, width)
    else:
        yield from part.lines(width)


def short(text: str, width: int) -> str:
    """As much of `text` as fits into one line of `width`, ending after a word and with `…`."""
    text = " ".join(clean(text).split())
    if cell_len(text) <= width:
        return text
    if width < 1:
        return ""
    whole = _fitting(text, width - 1) if width > 1 else 0
    space = text.rfind(" ", 0, whole + 1)
    return text[: space if 3 * space > 2 * whole else whole].rstrip(" ,;:|") + "…"


def show(*parts: Part, to: TextIO | None = None) -> None:
    """Print these on `to` (stdout when left out), as wide as its terminal is."""
    file = to or sys.stdout
    console, width = screen(file), width_of(file)
    for line in page(*parts).lines(width):
        console.print(line, soft_wrap=True)


def screen(file: TextIO) -> Console:
    """A console on a stream: colours on a terminal or where FORCE_COLOR is set, none where NO_COLOR is."""
    with suppress(AttributeError, UnsupportedOperation, ValueError):
        # A terminal that does not know a letter shows a question mark for it.
        file.reconfigure(errors="replace")  # type: ignore[union-attr,attr-defined,unused-ignore]
    told = "COLUMNS" in os.environ  # else rich asks the terminal each time, and sees it change
    return Console(
        file=file,
        force_terminal=bool(os.environ.get("FORCE_COLOR")) or file.isatty(),
        width=width_of(file) if told else None,
        height=_size_of(file).lines if told else None,
        highlight=False,
        soft_wrap=True,
    )


def width_of(file: TextIO) -> int | None:
    """The columns of its terminal, or what COLUMNS says; None: there is no end to a line."""
    said = os.environ.get("COLUMNS", "")
    if said.isascii() and said.isdigit() and int(said):
        return max(_NARROWEST, int(said))
    return max(_NARROWEST, _size_of(file).columns) if file.isatty() else None


def _size_of(file: TextIO) -> os.terminal_size:
    with suppress(OSError, ValueError):
        size = os.get_terminal_size(file.fileno())
        if all(size):
            return size
    return os.terminal_size((80, 24))


def _named(name: str, value: Line, lead: str) -> Line:
    label = words((f"{name}: ", "dim")) if name else words()
    return words(lead, label, _flat(value))


def _longest_word(text: Line) -> int:
    return max(map(cell_len, text.plain.split()), default=0)


def _flat(value: Line) -> Line:
    return words(", ").join(value.split("\n"))


def _for_rich(found: Iterator[Line]) -> Iterator[Text]:
    for line in found:
        line.no_wrap, line.overflow = True, "ignore"
        yield line


def _broken(line: Line, width: int | None, further: int = 2) -> list[Line]:
    """A line as lines of at most `width`; all but the first begin `further` in than it does."""
    line = line.copy()
    line.rstrip()
    if width is None or cell_len(line.plain) <= width:
        return [line]
    plain = line.plain
    lead = len(plain) - len(plain.lstrip(_LEAD))
    hang = min(lead + further, width // 2)
    rows: list[Line] = []
    start, room = 0, width
    if lead > width // 2:
        start = lead - width // 2
        lead = width // 2
    while start < len(plain):
        end = start + _end(plain[start:], room, 0 if rows else lead)
        row = line[start:end]
        row.rstrip()
        rows.append(words(" " * hang, row) if rows else row)
        start = end + len(plain[end:]) - len(plain[end:].lstrip(" "))
        room = width - hang
    return rows


def _fitting(text: str, room: int) -> int:
    """How many letters of `text` fit into `room` columns; never none."""
    used = 0
    for number, letter in enumerate(text):
        used += cell_len(letter)
        if used > room:
            return max(1, number)
    return len(text)


def _end(text: str, room: int, lead: int) -> int:
    """Where a line of `room` columns that begins as `text` does ends: after a word, or else inside of one."""
    fits = _fitting(text, room)
    if fits == len(text):
        return fits
    space = text.rfind(" ", lead, fits + 1)
    if space > lead:
        return space
    joints = [one.end() for one in _JOINTS.finditer(text, lead, fits)]
    return joints[-1] if joints else fits

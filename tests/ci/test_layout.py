from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from ci import layout
from ci.layout import Column, Part, Table, clean, page, short, show, words

_LETTERS = st.text(
    st.sampled_from("ab-/@: \n世é") | st.characters(), max_size=120
)  # every kind of character, most often those that breaks are about


def laid(part: Part, width: int | None) -> list[str]:
    return [line.plain for line in page(part).lines(width)]


@given(_LETTERS)
def test_nothing_clean_steers_a_terminal(text: str) -> None:
    shown = clean(text)
    assert all(one.isprintable() or one == "\n" for one in shown)
    assert clean(shown) == shown


def test_a_control_character_is_shown_and_a_colour_is_not() -> None:
    assert clean("\x1b[1;31mred\x1b[0m \x1b[2J\x07 a\tb\r\nc\x9b2J \u202eevil \udcff") == (
        "red \\x1b[2J\\x07 a b\nc\\x9b2J \\u202eevil \\udcff"
    )


@given(_LETTERS, st.integers(4, 60))
def test_no_line_is_wider_than_the_screen_and_nothing_is_lost(text: str, width: int) -> None:
    found = laid(text, width)
    assert all(cell_len(line) <= width for line in found)
    assert "".join("".join(found).split()) == "".join(clean(text).split())
    assert all(len(short(text, room)) <= room for room in range(width))


@given(st.lists(st.tuples(_LETTERS, _LETTERS, _LETTERS, _LETTERS), max_size=4), st.integers(20, 160))
def test_a_table_fits_and_keeps_what_has_to_stay(rows: list[tuple[str, str, str, str]], width: int) -> None:
    table = Table(
        "name",
        Column(name="size", rank=2, right=True),
        Column(name="why", rank=1, below=True, prose=True),
        "verdict",
    )
    for row in rows:
        table.add(*row)
    found = laid(table, width)
    assert all(cell_len(line) <= width for line in found)
    for name, _, why, verdict in rows:
        for kept in (name, why, verdict):
            assert all(
                word in " ".join(found) for word in clean(kept).split() if cell_len(word) <= width // 2
            )


def test_what_matters_least_goes_first_and_what_must_not_be_lost_goes_below() -> None:
    table = Table(
        "target",
        Column(name="p95", rank=3, right=True),
        Column(name="canary", rank=1, below=True),
        Column(name="weight", rank=2, right=True),
        "verdict",
    )
    canary = "20261128-124435-d292a58-ea228095"
    table.add("prod/southeastasia", "12 ms", canary, "25 %", "failed, rolled back")
    table.add("prod/eastus", "9 ms", "-", "", "there already")

    assert laid(table, None) == laid(table, 200) == [
        "target                p95  canary                            weight  verdict",
        "────────────────────────────────────────────────────────────────────────────────────────",
        "prod/southeastasia  12 ms  20261128-124435-d292a58-ea228095    25 %  failed, rolled back",
        "prod/eastus          9 ms  -                                         there already",
    ]  # fmt: skip
    assert laid(table, 87)[0] == "target              canary                            weight  verdict"
    assert laid(table, 80)[2] == ("prod/southeastasia  20261128-124435-d292a58-ea228095  failed, rolled back")
    assert laid(table, 60)[2:] == [
        "prod/southeastasia  12 ms    25 %  failed, rolled back",
        "    canary: 20261128-124435-d292a58-ea228095",
        "prod/eastus          9 ms          there already",
    ]
    assert laid(table, 50)[0] == "target              weight  verdict"  # what matters least goes first
    assert laid(table, 30)[:3] == [
        "prod/southeastasia",
        "  verdict: failed, rolled back",
        "    canary:",
    ]


def test_prose_stays_beside_its_row_while_there_is_room_and_goes_on_below_it() -> None:
    table = Table("what", Column(name="why", rank=1, below=True, prose=True))
    table.add("api", "there is no such replication: va infra apply makes it")
    table.add("web", f"sha256:{'a' * 64} is not there")

    assert laid(table, 50)[2:] == [
        "api   there is no such replication: va infra apply",
        "      makes it",
        "web",
        "    why:",
        "      sha256:",
        "      " + "a" * 44,
        "      " + "a" * 20 + " is not there",
    ]


def test_a_sentence_goes_on_further_in_than_it_begins() -> None:
    assert laid("  the cluster: admission webhook denied it", 24) == [
        "  the cluster: admission",
        "    webhook denied it",
    ]
    assert laid(" " * 60 + "far to the right", 20) == [" " * 10 + "far to the", " " * 10 + "right"]
    reference = "127.0.0.1:5503/fastapi-backend@sha256:" + "4" * 40
    assert laid(f"not there: {reference}", 50) == [
        "not there:",
        "  127.0.0.1:5503/fastapi-backend@sha256:",
        "  " + "4" * 40,
    ]


def test_data_is_no_markup_whatever_style_it_has() -> None:
    table = Table("name")
    table.add(("[red]x[/] [/nothing]", "green"))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(page(table, "[bold]y[/]"))
    text = console.export_text()
    assert "[red]x[/] [/nothing]" in text and "[bold]y[/]" in text


def test_a_cell_for_each_column_and_one_column_that_stays() -> None:
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        Table("name").add("a", "b")
    with pytest.raises(ValueError, match="has to stay"):
        Table(Column(name="a", rank=1))
    assert laid(Table("name"), 80) == ["name", "────"]


class Stream(io.TextIOWrapper):
    """A terminal or a pipe that tells its letters as `encoding` has them."""

    def __init__(self, *, terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def fileno(self) -> int:
        return 9

    @property
    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_a_pipe_gets_whole_lines_and_a_terminal_lines_of_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "word " * 60
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((60, 20)))
    pipe, terminal, told = Stream(terminal=False), Stream(terminal=True), Stream(terminal=False)
    show(long, to=pipe)
    show(long, to=terminal)
    monkeypatch.setenv("COLUMNS", "40")
    show(long, to=told)
    assert pipe.text == long.strip() + "\n"
    assert max(map(len, terminal.text.splitlines())) in range(55, 61)
    assert max(map(len, told.text.splitlines())) in range(35, 41)


@pytest.mark.parametrize(
    ("environment", "terminal", "coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colours_are_for_terminals_or_for_who_asks(
    environment: dict[str, str], terminal: bool, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Stream(terminal=terminal)
    show(words(("red", "red")), to=stream)
    assert ("\x1b[31m" in stream.text) is coloured


def test_a_terminal_without_the_letter_shows_a_question_mark() -> None:
    stream = Stream(terminal=True, encoding="ascii")
    show(words(("✓", "green"), " well"), to=stream)
    assert "?" in stream.text and " well" in stream.text


@pytest.mark.parametrize("columns", ["0", "1", "-5", "wide", "²", "99999"])
def test_strange_widths_are_no_accident(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    stream = Stream(terminal=True)  # whose size nobody knows
    show("a sentence of a few words that is longer than the narrowest of all screens", to=stream)
    assert "narrowest" in stream.text


def test_there_is_no_other_way_to_the_screen() -> None:
    """What `nox -s lint` holds: rich is for this module and for the live display alone."""
    import tomllib

    from ci.places import checkout

    ruff = tomllib.loads((checkout() / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "rich" in ruff["flake8-tidy-imports"]["banned-api"] and "TID" in ruff["select"]
    assert [key for key, codes in ruff["per-file-ignores"].items() if "TID251" in codes] == [
        "ci/{layout,reporting}.py",
        "tests/**/test_*.py",
    ]
    assert layout.__all__

"""Everything that a person is shown, with realistic and with nasty data, on screens of several widths.

The functions are found by what they return, and what they are called with is made after their annotations:
one that is new is held to the same.
"""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, date, datetime
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any, Literal, Union

import pydantic
import pytest
from rich.cells import cell_len

from ci import places
from ci.delivery.results import Outcome
from ci.layout import Line, Page, Table, lines

_FLOWS = ("ci", "pipelines")
_MAKERS = ("ci/layout.py", "ci/reporting.py")

RELEASE = "20261128-124435-d292a58-ea228095"
OTHER = "20261127-090102-a395c9f-0f1e2d3c"
DIGEST = "sha256:" + "42ef87d7c39382bf" * 4
REALISTIC: Mapping[str, str] = {
    "target": "prod/southeastasia",
    "release": RELEASE,
    "canary": OTHER,
    "previous": OTHER,
    "digest": DIGEST,
    "region": "southeastasia",
    "endpoint": "voiceassistantprod.southeastasia.geo.azurecr.io",
    "registry": "voiceassistantprod.azurecr.io",
    "sha": "d292a58" * 5 + "abcde",
    "reason": "every step passed; traffic was back on stable within 0.4 s",
}
NASTY = "[bold]x[/] [/nothing] \x1b[2J\x1b]0;t\x07\x9b1m \u202egnp 世界世界 " + "n" * 300
NEVER = frozenset("\x1b\x07\x9b\u202e\r")


def _functions() -> Iterator[Callable[..., Page]]:
    for top in _FLOWS:
        for file in sorted((places.checkout() / top).rglob("*.py")):
            name = str(file.relative_to(places.checkout()))
            if name in _MAKERS or "layout" not in (text := file.read_text()):
                continue
            for node in ast.parse(text).body:
                if (
                    isinstance(node, ast.FunctionDef)
                    and node.args.args
                    and node.returns is not None
                    and ast.unparse(node.returns) in {"Page", "Table"}
                ):
                    yield getattr(import_module(name[:-3].replace("/", ".")), node.name)


FUNCTIONS = {f"{one.__module__}.{one.__name__}": one for one in _functions()}


@cache
def _hints(what: Any) -> dict[str, Any]:
    """Annotations, with what is imported only for type checkers."""
    module = import_module(what.__module__)
    names = dict(vars(module))
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (*_FLOWS, "collections"):
            found = import_module(str(node.module))
            names |= {one.name: getattr(found, one.name) for one in node.names if hasattr(found, one.name)}
    return typing.get_type_hints(what, names)


class Maker:
    """Values of any type of ours, out of nothing."""

    def __init__(self, text: Callable[[str], str], *, choice: int = 0, full: bool = True) -> None:
        self._text = text
        self._choice = choice
        self._full = full
        """Whether what may be None is there."""

    def call(self, function: Callable[..., Page]) -> Page:
        hints = _hints(function)
        return function(*(self.make(hint, name) for name, hint in hints.items() if name != "return"))

    def make(self, hint: Any, name: str = "") -> Any:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return self._text(name)
        if origin in (Union, types.UnionType):
            if type(None) in arguments and not self._full:
                return None
            return self.make(next(one for one in arguments if one is not type(None)), name)
        if origin is Literal:
            return arguments[self._choice % len(arguments)]
        if origin is typing.Annotated or isinstance(hint, typing.NewType):
            return self.make(arguments[0] if arguments else hint.__supertype__, name)
        if origin is tuple and arguments[-1] is not Ellipsis:
            return tuple(self.make(one, name) for one in arguments)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {self.make(arguments[0], "key"): self.make(arguments[1], name)}
        if isinstance(origin, type) and issubclass(origin, (Collection, typing.Iterable)):  # type: ignore[arg-type]
            made = [self.make(arguments[0], name)]
            return frozenset(made) if issubclass(origin, (set, frozenset)) else tuple(made)
        return self._plain(hint, name)

    def _plain(self, hint: Any, name: str) -> Any:
        known: dict[type, Any] = {
            str: self._text(name), int: 1234, float: 60.5, bool: self._choice % 2 == 0, bytes: b"",
            datetime: datetime(2026, 11, 28, 12, 44, tzinfo=UTC), date: date(2026, 11, 28),
        }  # fmt: skip
        if hint is pydantic.AwareDatetime:
            hint = datetime
        if hint in known:
            return known[hint]
        if issubclass(hint, PurePath):
            return Path(self._text(name).replace("\0", ""))
        if issubclass(hint, Enum):
            return list(hint)[self._choice % len(hint)]
        fields = {field: self.make(one, field) for field, one in _fields(hint).items()}
        if issubclass(hint, pydantic.BaseModel):
            return hint.model_construct(**fields)
        made = hint.__new__(hint)
        for field, value in fields.items():
            object.__setattr__(made, field, value)
        return made


def _fields(hint: type) -> dict[str, Any]:
    hints = _hints(hint)
    if issubclass(hint, pydantic.BaseModel):
        return {name: hints[name] for name in hint.model_fields}
    if dataclasses.is_dataclass(hint):
        return {field.name: hints[field.name] for field in dataclasses.fields(hint)}
    return hints


def realistic(name: str) -> str:
    return REALISTIC.get(name, f"southeastasia-{name}")


def _text(page: Page, width: int | None) -> list[str]:
    assert isinstance(page, (Page, Table, Line))
    return [line.plain for line in lines(page, width)]


def test_they_are_found() -> None:
    assert len(FUNCTIONS) > 25
    assert {"ci.delivery.results.summary", "pipelines.demo.show_demonstrated"} <= set(FUNCTIONS)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("full", [True, False], ids=["full", "sparse"])
def test_no_line_is_wider_than_the_screen(function: Callable[..., Page], full: bool) -> None:
    for choice in range(8):
        page = Maker(realistic, choice=choice, full=full).call(function)
        whole = _text(page, None)
        # What is told where there is room for everything, and must be everywhere.
        names = [
            one
            for one in (REALISTIC["target"], RELEASE, OTHER, DIGEST, *(each.value for each in Outcome))
            if any(one in line for line in whole)
        ]
        for width in (80, 110, 150):
            found = _text(page, width)
            assert [line for line in found if cell_len(line) > width] == []
            for name in names:
                assert any(name in line for line in found), name


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_data_is_data_on_every_screen(function: Callable[..., Page]) -> None:
    for choice in range(2):
        page = Maker(lambda _: NASTY, choice=choice).call(function)
        for width in (20, 40, 80, 110, 150, None):
            found = _text(page, width)
            assert not NEVER & set("".join(found))
            assert width is None or [line for line in found if cell_len(line) > width] == []
        if any("nnn" in line for line in found):
            assert any("[bold]x[/]" in line for line in found)

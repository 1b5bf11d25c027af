"""Queries that nest deeply."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ci.engine.queries import LONGEST, as_json, cut


def _labelled(count: int, last: str) -> str:
    calls = "".join(f'{{ withLabel(name: "l{number}", value: "}}{{ \\" #") ' for number in range(count))
    return f"query {{ container {calls} {last} {'}' * count} }}"


def test_an_ordinary_query_stays_whole() -> None:
    assert cut(_labelled(98, "{ user }")) == []


@pytest.mark.parametrize("calls", [99, 100, 101, 199, 200, 777, 2000])
def test_a_chain_of_calls_is_as_long_as_it_is(ask: Any, calls: int) -> None:
    response = ask(_labelled(calls, f'{{ label(name: "l{calls - 1}") first: label(name: "l0") }}'))

    assert json.loads(as_json({"errors": response.get("errors")})) == {"errors": None}
    found = response["data"]["container"]
    for _ in range(calls):
        (found,) = found.values()
    assert found == {"label": '}{ " #', "first": '}{ " #'}


def test_variables_fragments_and_names_of_ones_own_go_through_a_chain(ask: Any) -> None:
    calls = "{ x: withLabel(name: $name, value: $value) " * 150
    text = (
        "query Q($name: String!, $value: String!, $at: String!) { container { ... on Container "
        f"{calls} {{ label(name: $at) }} {'}' * 152} # said"
    )
    response = ask(text, {"name": "n", "value": "v", "at": "n"})

    found = response["data"]["container"]
    for _ in range(150):
        found = found["x"]
    assert found == {"label": "v"}


def test_an_error_far_inside_says_where(ask: Any) -> None:
    response = ask(_labelled(250, '{ file(path: "/none") { size } }'))

    (error,) = response["errors"]
    assert error["message"].endswith("no such file or directory")
    assert error["path"] == ["container", *["withLabel"] * 250, "file", "size"]


def test_a_mistake_far_inside_is_told(ask: Any) -> None:
    response = ask(_labelled(250, "{ nothing }"))

    assert "Container.nothing" in response["errors"][0]["message"]


@pytest.mark.parametrize(
    "text",
    [
        _labelled(250, "{ user }")[:-1] + " host { id } }",
        _labelled(250, "{ user")[:-40],
        "{" * 300,
        "query { container { user " + 'withUser(name: "") { ' * 250 + "id" + "}" * 252,
    ],
)
def test_what_is_no_chain_is_read_as_a_whole(ask: Any, text: str) -> None:
    assert cut(text) == []
    assert ask(text)["errors"]


def test_a_chain_without_end_is_refused_in_a_line(ask: Any) -> None:
    (error,) = ask(_labelled(LONGEST, "{ user }"))["errors"]

    assert str(LONGEST) in error["message"] and "\n" not in error["message"]


def test_json_of_any_depth() -> None:
    value: Any = [1, {"a": None}]
    for _ in range(30_000):
        value = {'"': value}

    assert as_json({"data": value, "errors": []}).startswith('{"data":{"\\"":{"\\"":')
    assert as_json({"data": {"a": {"b": 1, "c": {}}}}) == '{"data":{"a":{"b": 1, "c": {}}}}'

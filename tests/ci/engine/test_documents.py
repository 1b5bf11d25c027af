"""JSON, env files and searches, through the unmodified SDK."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagger
import pytest

from ci.engine.envfiles import EnvFile
from ci.errors import BadInput

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root")

_NAMING = "X=<${VA_TEST_PLACE}>\n"


@pytest.mark.parametrize(
    ("lines", "read"),
    [
        (["A=1", "", "# note", "  B=two words "], {"A": "1", "B": "two words"}),
        (["A='$B'", "B=x", 'C="<$B ${B}y>"'], {"A": "$B", "B": "x", "C": "<x xy>"}),
        (["LATER=$NOW/bin", "NOW=/opt"], {"LATER": "/opt/bin", "NOW": "/opt"}),
        (["A=${NONE:-none}", "B=${A:+there}", "C=${NONE-}"], {"A": "none", "B": "there", "C": ""}),
        ([r"A=a\ \ b", r'B="say \"hi\" \n"'], {"A": "a  b", "B": r'say "hi" \n'}),
        (["A=it costs $5 #1", "B='x'  y # no"], {"A": "it costs $5 #1", "B": "x y"}),
        (["A=1", "A=2"], {"A": "2"}),
    ],
)
def test_an_env_file_is_read_as_the_shell_reads_assignments(lines: list[str], read: dict[str, str]) -> None:
    assert EnvFile(lines=tuple(lines)).read() == read


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["A=$B", "B=${A}"], "A -> B -> A"),
        (["A=$VA_NOT_SET_ANYWHERE"], "VA_NOT_SET_ANYWHERE is not set"),
        (["A=$(id)"], "runs no commands"),
        (['A="x'], "not closed"),
        (["no assignment"], "is no assignment"),
    ],
)
def test_what_an_env_file_cannot_say(lines: list[str], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        EnvFile(lines=tuple(lines)).read()


def test_a_variable_of_this_machine_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_TEST_PLACE", "here")
    assert EnvFile(lines=("A=<$VA_TEST_PLACE>",)).read() == {"A": "<here>"}


@pytest.mark.parametrize(
    "file",
    [
        lambda client: client.directory().with_new_file("e", _NAMING).file("e"),
        lambda client: client.file("e", _NAMING),
        lambda client: client.host().file("e"),
        lambda client: client.host().directory(".", include=["e"]).file("e"),
        lambda client: client.directory().with_directory("in", client.host().directory(".")).file("in/e"),
        lambda client: client.env_file().with_variable("X", "<$VA_TEST_PLACE>").as_file(),
    ],
)
def test_text_of_the_pipeline_and_files_of_the_machine_name_its_variables(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Callable[[dagger.Client], dagger.File]
) -> None:
    monkeypatch.setenv("VA_TEST_PLACE", "mine")
    (tmp_path / "work" / "e").write_text(_NAMING)

    async def pipeline(client: dagger.Client) -> Any:
        return await file(client).as_env_file().get("X")

    assert run(pipeline) == "<mine>"


def test_env_files_through_the_session(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        file = client.directory().with_new_file(
            "x.env", 'HOST=db\nURL="http://$HOST"\nmyApp_A=1\nMY_APP_B=2\n'
        )
        env = file.file("x.env").as_env_file().with_variable("HOST", "web")
        shown = client.container().with_env_file_variables(env.without_variable("myApp_A"))
        return (
            [(await item.name(), await item.value()) for item in await env.variables()],
            await env.get("URL", raw=True),
            [await env.exists("HOST"), await env.exists("NONE"), await env.get("NONE")],
            [await item.name() for item in await env.namespace("my-app").variables()],
            await env.as_file().contents(),
            await shown.env_variable("URL"),
        )

    variables, raw, exists, names, contents, url = run(pipeline)
    assert variables == [("HOST", "web"), ("MY_APP_B", "2"), ("URL", "http://web"), ("myApp_A", "1")]
    assert (raw, exists, names) == ('"http://$HOST"', [True, False, ""], ["A", "B"])
    assert contents == 'HOST=web\nURL="http://$HOST"\nmyApp_A=1\nMY_APP_B=2\n' and url == "http://web"


def test_json_is_read_changed_and_written(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        text = '{"b": {"deep": [1, "two", false]}, "a": 3}'
        value = client.directory().with_new_file("x.json", text).file("x.json").as_json()
        items = await value.field(["b", "deep"]).as_array()
        changed = value.with_field(["b", "new", "leaf"], client.json().new_string("x"))
        return (
            await value.fields(),
            await value.contents(),
            await value.field(["a"]).as_integer(),
            [await items[0].as_integer(), await items[1].as_string(), await items[2].as_boolean()],
            await changed.contents(),
            await client.json().with_contents(dagger.JSON('{"z":[]}')).contents(pretty=True),
        )

    fields, contents, number, items, changed, pretty = run(pipeline)
    assert (fields, number, items) == (["a", "b"], 3, [1, "two", False])
    assert contents == '{"b": {"deep": [1, "two", false]}, "a": 3}'
    assert changed == '{"a":3,"b":{"deep":[1,"two",false],"new":{"leaf":"x"}}}'
    assert pretty == '{\n  "z": []\n}'


def test_numbers_of_json_stay_as_they_are_written(ask: Callable[..., Any]) -> None:
    text = '{"a":[1.10,1e400,-0.0,123456789012345678901234567890],"b":"1.10"}'
    digits = "7" * 5000
    found = ask(
        """query($text: JSON!, $digits: JSON!) {
            json { withContents(contents: $text) {
                field(path: ["a"]) { contents asArray { contents } }
                pretty: contents(pretty: true, indent: "")
            } }
            long: json { withContents(contents: $digits) { field(path: []) { contents } } }
        }""",
        {"text": text, "digits": digits},
    )["data"]
    values = found["json"]["withContents"]

    assert values["field"]["contents"] == text[5 : text.index("]") + 1]
    assert [each["contents"] for each in values["field"]["asArray"]][:3] == ["1.10", "1e400", "-0.0"]
    assert values["pretty"].startswith('{\n"a": [\n1.10,\n1e400,')
    assert found["long"]["withContents"]["field"]["contents"] == digits


@pytest.mark.parametrize(
    "text", [str(2**40), str(2**31), "9" * 5000, "1.0", "true", '"1"', "[" * 5000, "NaN", "[-Infinity]"]
)
def test_what_is_no_integer_or_no_json_is_told_in_words(ask: Callable[..., Any], text: str) -> None:
    asked = "query($text: JSON!) { json { withContents(contents: $text) { asInteger } } }"
    (error,) = ask(asked, {"text": text})["errors"]

    assert any(words in error["message"] for words in ("not an integer of 32", "nests deeper", "no number"))


@pytest.mark.parametrize(
    ("text", "told"), [("{", "no JSON"), ("true", "true is not an integer"), ('"a"', "is not an integer")]
)
def test_json_of_another_kind_is_told(run: Any, text: str, told: str) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        return await client.json().with_contents(dagger.JSON(text)).as_integer()

    with pytest.raises(BadInput, match=told):
        run(pipeline)


def test_searches_find_lines_and_positions_in_bytes(run: Any) -> None:
    async def told(results: list[dagger.SearchResult]) -> list[Any]:
        return [
            [
                await item.file_path(),
                await item.line_number(),
                await item.absolute_offset(),
                await item.matched_lines(),
                [(await sub.text(), await sub.start(), await sub.end()) for sub in await item.submatches()],
            ]
            for item in results
        ]

    async def pipeline(client: dagger.Client) -> Any:
        folder = (
            client.directory()
            .with_new_file("a.py", "x = 1\nürl = 'x'\n")
            .with_new_file("sub/b.txt", "no\nX marks")
            .with_new_file("sub/.c", "x")
            .with_new_file("bin", "x\0")
            .with_new_file(".ignore", "*.t?t\n")
        )
        return (
            await told(await folder.search("x")),
            await told(await folder.search("^x.*\nX", multiline=True, insensitive=True, paths=["sub"])),
            await told(await folder.search("=.*\nür", multiline=True)),
            [await each.file_path() for each in await folder.search("x", insensitive=True, files_only=True)],
            [await each.file_path() for each in await folder.search("[xX]", globs=["*.txt", "!a*"])],
            [
                await each.file_path()
                for each in await folder.search("x", skip_hidden=True, skip_ignored=True)
            ],
            len(await folder.search("x", limit=1, literal=True)),
            await told(await folder.file("sub/b.txt").search("m.r")),
        )

    plain, none, lines, files, globs, seen, limit, one = run(pipeline)
    assert plain == [
        ["a.py", 1, 0, "x = 1\n", [("x", 0, 1)]],
        ["a.py", 2, 6, "ürl = 'x'\n", [("x", 8, 9)]],
        ["sub/.c", 1, 0, "x", [("x", 0, 1)]],
    ]
    assert none == [] and lines == [["a.py", 1, 0, "x = 1\nürl = 'x'\n", [("= 1\nür", 2, 9)]]]
    assert files == ["a.py", "sub/.c", "sub/b.txt"] and globs == ["sub/b.txt"] and seen == ["a.py", "a.py"]
    assert limit == 1 and one == [["b.txt", 2, 3, "X marks", [("mar", 2, 5)]]]

"""YAML files that people write: places, overlays, and one clear error for each kind of mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from ci.errors import BadInput
from ci.yamlfile import checked, load, load_overlaid, parse

FILE = Path("town.yaml")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class House(Frozen):
    rooms: int
    colour: Literal["white", "blue"] = "white"
    password: int = 0


class Town(Frozen):
    name: str
    houses: dict[str, House] = {}
    streets: tuple[House, ...] = ()
    hall: House | None = None


def test_every_key_and_item_knows_its_line() -> None:
    document = parse("name: Ulm\nstreets:\n  - rooms: 1\n  - rooms: 2\n", FILE)
    assert document.data == {"name": "Ulm", "streets": [{"rooms": 1}, {"rooms": 2}]}
    assert str(document.place("streets", 1, "rooms")) == "town.yaml:4 (streets[1].rooms)"
    assert document.place("streets", 1, "colour").line == 4, "a default: the nearest thing around it"
    assert document.place("hall").line == 1


def test_a_valid_file_becomes_the_model() -> None:
    town = checked(Town, parse("name: Ulm\nhouses: {a: {rooms: 3, colour: blue}}\n", FILE))
    assert town.houses["a"] == House(rooms=3, colour="blue")


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("nam: Ulm\nname: x", "town.yaml:1 (nam): unknown key 'nam'", "did you mean 'name'?"),
        ("name: x\nhouses:\n  a:\n    rooms: 1\n    color: blue", "town.yaml:5 (houses.a.color)", "'colour'"),
        ("name: x\nhall: {rooms: 1, colr: 1}", "town.yaml:2 (hall.colr)", "'colour'"),
        ("name: x\nhall: {rooms: 1, colour: blu}", "must be 'white' or 'blue', not 'blu'", "'blue'"),
        ("name: x\nhouses:\n  a: {}", "town.yaml:3 (houses.a): the key 'rooms' is missing", "add `rooms:`"),
        ("name: 1.30", "text is expected, not 1.3", "quote it"),
        ("name: x\nhall: {rooms: 3m}", "town.yaml:2 (hall.rooms): a whole number is expected, not '3m'", ""),
        (
            "name: x\nname: y",
            "town.yaml:2 (name): the key 'name' is given twice (first on line 1)",
            "keep one",
        ),
        ("name: x\non: y", "the key 'on' is not text", 'quote it: "on"'),
        ("name: [", "town.yaml:2: not YAML", ""),
        ("name: x\n---\nname: y", "not YAML", ""),
        ("- 1", "town.yaml:1: a mapping of keys", ""),
        ("", "the file is empty", ""),
        ("name: !!python/object:os.system x", "not a value", ""),
        ("name: 2026-13-45", "not a value", ""),
        ("a: &a [1]\nb:\n  <<: *a", "the key '<<' is not text", "extends"),
        ("a: &a [*a]", "town.yaml:1: aliases", "write the values out"),
        ("x: " + "[" * 5000, "nested deeper than", ""),
    ],
)
def test_one_clear_error_for_each_mistake(text: str, said: str, hint: str) -> None:
    with pytest.raises(BadInput) as caught:
        checked(Town, parse(text, FILE))
    assert said in str(caught.value)
    assert hint in caught.value.hint


def test_several_mistakes_come_in_the_order_of_lines() -> None:
    with pytest.raises(BadInput) as caught:
        checked(Town, parse("houses:\n  a: {rooms: x}\nnam: x\n", FILE))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "town.yaml:2 (houses.a.rooms)" in lines[0]
    assert "also town.yaml:3 (nam): unknown key 'nam' (did you mean 'name'?)" in lines[1], (
        "and not: name is missing"
    )


def test_every_missing_key_is_named() -> None:
    with pytest.raises(BadInput) as caught:
        checked(Town, parse("hall: {}\n", FILE))
    assert "'name' is missing" in str(caught.value) and "'rooms' is missing" in str(caught.value)


def test_aliases_that_expand_without_end_are_stopped() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    with pytest.raises(BadInput, match="aliases"):
        parse(bomb, FILE)


def test_a_file_of_ten_megabytes_is_not_read(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b"a: b\n" * 2_000_000)
    with pytest.raises(BadInput, match="10,000,000 bytes"):
        load(big)


@pytest.mark.parametrize(
    "value",
    [
        "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=c2VjcmV0c2VjcmV0;",
        "postgresql://admin:hunter2@db.example.com/voice",
        "sk-proj-abcdefghijklmnopqrstuvwxyz",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.x",
    ],
)
def test_a_pasted_secret_is_refused_and_never_shown(value: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(f"name: x\nhall: '{value}'", FILE)
    assert str(caught.value).startswith("town.yaml:2 (hall): this looks like")
    assert "azkv://" in caught.value.hint
    assert value not in str(caught.value) + caught.value.hint


def test_a_wrong_value_below_a_secret_key_is_not_shown() -> None:
    with pytest.raises(BadInput) as caught:
        checked(Town, parse("name: x\nhall: {rooms: 1, password: hunter2}", FILE))
    assert "hunter2" not in str(caught.value)


def test_what_merely_looks_long_is_no_secret() -> None:
    text = f"name: sha256:{'ab' * 32}\n"
    assert parse(text, FILE).data["name"].endswith("abab")


@pytest.mark.parametrize(("name", "said"), [("nowhere.yaml", "no such file"), (".", "cannot be read")])
def test_unreadable_files(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load(tmp_path / name)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: \xff")
    with pytest.raises(BadInput, match="not UTF-8"):
        load(tmp_path / "x.yaml")


def test_overlays_merge_and_every_key_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "name: Ulm\nhouses:\n  a: {rooms: 1}\n  b: {rooms: 2}\nstreets: [{rooms: 1}, {rooms: 2}]\n"
    )
    (tmp_path / "dev.yaml").write_text(
        "extends: base.yaml\nhouses:\n  a: {colour: blue}\n  b: null\nstreets: [{rooms: 9}]\n"
    )
    document = load_overlaid(tmp_path / "dev.yaml")
    assert document.data == {
        "name": "Ulm",
        "houses": {"a": {"rooms": 1, "colour": "blue"}},
        "streets": [{"rooms": 9}],
    }
    assert (
        document.place("houses", "a", "rooms").file.name,
        document.place("houses", "a", "rooms").line,
    ) == (
        "base.yaml",
        3,
    )
    assert (document.place("houses", "a", "colour").file.name, document.place("streets", 0).line) == (
        "dev.yaml",
        5,
    )
    assert str(document.place("houses", "b")).endswith("dev.yaml:4 (houses.b)"), "where it was taken away"
    assert document.place("streets", 1).key == "streets"


def test_circular_overlays_show_the_circle(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {base}.yaml\n")
    with pytest.raises(BadInput, match=r"c\.yaml:1 \(extends\): .*a\.yaml -> b\.yaml -> c\.yaml -> a\.yaml"):
        load_overlaid(tmp_path / "a.yaml")


def test_a_base_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: x\n")
    (tmp_path / "dev.yaml").write_text("name: y\nextends: bas.yaml\n")
    with pytest.raises(BadInput) as caught:
        load_overlaid(tmp_path / "dev.yaml")
    assert caught.value.place is not None and caught.value.place.line == 2
    assert "'base.yaml'" in caught.value.hint


_LINES = st.text(alphabet="ab: -[]{}&*'\"|>#!\n\t0.~?,%@`é", max_size=60)


@settings(max_examples=300, deadline=None)
@given(_LINES)
@example("? a\n: b")
@example("a: !!binary x")
@example("a: 0o9\nb: 1_0:99")
@example("a: 2001-01-01 25:00:00")
@example("&a a: *a")
@example("a: \x00")
@example("%YAML 9.9\n---\na: b")
def test_whatever_is_written_it_is_a_document_or_one_bad_input(text: str) -> None:
    said = "town.yaml"
    try:
        checked(Town, parse(text, FILE))
    except BadInput as error:
        said = str(error)
    assert said.startswith("town.yaml")

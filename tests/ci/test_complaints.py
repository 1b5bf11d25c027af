"""One mistake is one line, in words: whatever it would have led to is not told of as well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ci.complaints import in_words, shown
from ci.errors import BadInput
from ci.scan import read_policy
from ci.yamlfile import checked, load_overlaid, parse


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Room(Frozen):
    length: int = Field(ge=1, le=50)
    width: int
    floor: Literal["wood", "stone"]


class House(Frozen):
    street: str
    number: int
    rooms: dict[str, Room]
    code: Annotated[str, Field(pattern=r"^[A-Z]{2}\d+$")] = "AB1"
    size: tuple[int, int] = (1, 1)


class Town(Frozen):
    name: str
    mayor: str
    river: str
    houses: dict[str, House] = {}
    spare: House | None = None
    limit: float | Literal["none"] = "none"


BASE = """\
name: Ulm
mayor: Ada
river: Danube
houses:
  one:
    street: A
    number: 1
    rooms:
      hall: {length: 5, width: 4, floor: wood}
"""
OVER = "extends: base.yaml\nhouses:\n  one:\n    number: 2\n    rooms:\n      hall: {length: 6}\n"


def told(folder: Path, base: str, over: str) -> list[str]:
    (folder / "base.yaml").write_text(base)
    (folder / "over.yaml").write_text(over)
    try:
        checked(Town, load_overlaid(folder / "over.yaml"))
    except BadInput as error:
        return f"{error} ({error.hint})".replace(f"{folder}/", "").splitlines()
    return []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("houses:", "house:", "base.yaml:4 (house): unknown key 'house' (did you mean 'houses'?)"),
        ("rooms:", "room:", "base.yaml:8 (houses.one.room): unknown key 'room' (did you mean 'rooms'?)"),
        (
            "  one:",
            "  onne:",
            "over.yaml:3 (houses.one): the key 'street' is missing (is 'onne' beside it meant to be 'one'?)",
        ),
        ("hall:", "hal:", "is 'hal' beside it meant to be 'hall'?"),
        ("length: 5, width: 4", "length: 5, widht: 4", "did you mean 'width'?"),
        ("river: Danube\n", "", "the key 'river' is missing"),
        ("    street: A\n", "", "the key 'street' is missing (add `street:` below houses.one)"),
        ("    street: A\n", "street: A\n", "not YAML"),
    ],
)
def test_a_mistake_below_an_overlay_is_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    lines = told(tmp_path, BASE.replace(old, new), OVER)
    assert len(lines) == 1, lines
    assert said in "\n".join(lines)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ("exends: base.yaml\n", "over.yaml:1 (exends): unknown key 'exends' (did you mean 'extends'?)"),
        ("houses: {one: {number: 2}}\n", "is `extends: …` missing"),
        (
            "extends: base.yaml\nriver: null\n",
            "over.yaml:2 (river): 'river' is taken away here, and there must",
        ),
        (
            "extends: base.yaml\nhouses:\n  one:\n    rooms: ~\n",
            "over.yaml:4 (houses.one.rooms): 'rooms' is taken",
        ),
        ("extends: /etc/hostname\n", "'/etc/hostname' is outside of"),
        ("extends: ../../../../../../etc/hostname\n", "is outside of"),
        ("extends: [base.yaml]\n", "the name of one file is expected, not a list"),
        ('extends: "a\\0b"\n', "is no name of a file"),
        (f"extends: {'x' * 300}\n", "over.yaml:1"),
        ("extends: .\n", "there is no file '.'"),
        ("extends: base.yaml\nspare: {rooms: {}}\n", "the keys 'street', 'number' are missing"),
        ("extends: base.yaml\nnumber: 3\nspare: {street: B, rooms: {}}\n", "does it belong below spare?"),
        ("extends: base.yaml\nlimit: many\n", "a number is expected, not 'many'"),
    ],
)
def test_a_mistake_of_an_overlay_is_one_line(tmp_path: Path, over: str, said: str) -> None:
    lines = told(tmp_path, BASE, over)
    assert len(lines) == 1, lines
    assert said in lines[0]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("spare: 5", "a mapping of keys is expected, not 5"),
        ("spare: {street: [a], number: 1, rooms: {}}", "text is expected, not a list"),
        ("spare: {street: a, number: 2026-01-02, rooms: {}}", "a whole number is expected, not 2026-01-02"),
        ("spare: {street: a, number: null, rooms: {}}", "a whole number is expected, not null"),
        ("spare: {street: a, number: 1.5, rooms: {}}", "a whole number is expected, not 1.5"),
        ("spare: {street: a, number: 1, rooms: []}", "a mapping of keys is expected, not a list"),
        ("spare: {street: a, number: 1, rooms: {}, code: ab}", "this is not how it is written, not 'ab'"),
        ("spare: {street: a, number: 1, rooms: {}, size: [1]}", "1 more in this list"),
        ("spare: {street: a, number: 1, rooms: {}, size: x}", "a list is expected, not 'x'"),
        (
            "spare: {street: a, number: 1, rooms: {x: {length: 99, width: 1, floor: wood}}}",
            "at most 50 is expected",
        ),
        ("spare: {street: a, number: 1, rooms: {x: {length: 9, width: 1, floor: true}}}", "not true"),
        ("name: 0x" + "f" * 6000, "a number as large as that"),
        ("name: !!bool maybe", "'maybe' is not true or false"),
        ("name: !!timestamp soon", "'soon' is not a day or a moment"),
        ("name: .nan", "a number with an end"),
    ],
)
def test_words_and_no_types(written: str, said: str) -> None:
    key = written.partition(":")[0]
    text = (
        "\n".join(line for line in ("name: x", "mayor: x", "river: x") if not line.startswith(key))
        + "\n"
        + written
    )
    with pytest.raises(BadInput) as caught:
        checked(Town, parse(text, Path("town.yaml")))
    assert said in str(caught.value)
    for foreign in ("dictionary", "tuple", "instance", "[A-Z]", "Input", "NoneType", "datetime", "literal"):
        assert foreign not in str(caught.value)


def test_a_wrong_item_is_no_name_and_its_list_is_not_too_short_for_it(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("vulnerabilities: {block: [HIGH, critical]}\nAllow: []\n")
    with pytest.raises(BadInput) as caught:
        read_policy(tmp_path / "policy.yaml")

    said = f"{caught.value}; {caught.value.hint}"
    assert "(vulnerabilities.block[1]): it must be 'CRITICAL', " in said
    assert "did you mean 'CRITICAL'?" in said and "did you mean 'allow'?" in said


def test_json_is_told_in_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        Town.model_validate_json('{"name": 5, "houses": {"a": 1}}')
    assert in_words(caught.value) == (
        "name: text is expected, not 5; mayor: is missing; river: is missing; "
        "houses.a: a mapping of keys is expected, not 1"
    )
    with pytest.raises(ValidationError) as caught:
        Town.model_validate_json("nonsense")
    assert in_words(caught.value).startswith("not JSON: ")


def test_what_is_shown_is_what_is_written_and_short() -> None:
    assert [shown(one) for one in (None, True, 1, "a", {}, [1])] == [
        "null",
        "true",
        "1",
        "'a'",
        "a mapping",
        "a list",
    ]
    assert len(shown("x" * 1000)) < 70
    assert "\n" not in shown("a\nb") and "\x1b" not in shown("\x1b[31m")

"""Answers of JSONValue: a document of JSON that pipelines read, change and hand on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, NoReturn

from ci.engine.chain import Call
from ci.engine.engine import Engine, answer
from ci.engine.files import text_of
from ci.engine.values import File
from ci.errors import BadInput

__all__ = ["JSONValue"]


@dataclass(frozen=True, kw_only=True)
class JSONValue:
    """A value of JSON, as it was written."""

    text: str = "null"

    def read(self) -> Any:
        """The value. BadInput for what is no JSON."""
        try:
            return json.loads(self.text, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant)
        except RecursionError as error:
            raise _too_deep() from error
        except ValueError as error:
            raise BadInput(f"no JSON: {error}") from error

    def need(self, *kinds: type) -> Any:
        """The value, which is to be of one of those types of Python."""
        found = self.read()
        if not isinstance(found, kinds):
            told = {
                str: "a string",
                bool: "a Boolean",
                list: "an array",
                dict: "an object",
            }
            raise BadInput(f"{self.text[:60]} is not {told[kinds[0]]}")
        return found


@dataclass(frozen=True)
class _Number:
    """A number as it is written: of any size, and with its zeros."""

    text: str


_MARK = f"number {token_hex(8)} "
_MARKED = re.compile(f'"{_MARK}([^"]*)"')
_INTEGER = range(-(2**31), 2**31)
"""What the API's Int holds."""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _too_deep() -> BadInput:
    return BadInput("the JSON nests deeper than can be read")


def _written(value: Any, **how: Any) -> str:
    """With the keys in order, as Go's encoding/json has them."""
    try:
        text = json.dumps(
            value, sort_keys=True, ensure_ascii=False, default=lambda number: _MARK + number.text, **how
        )
    except RecursionError as error:
        raise _too_deep() from error
    return _MARKED.sub(r"\1", text)


def _json(value: Any) -> JSONValue:
    return JSONValue(text=_written(value, separators=(",", ":")))


@answer("Query.json")
async def json_value(engine: Engine, parent: None, call: Call) -> JSONValue:
    return JSONValue()


@answer("File.asJSON")
async def file_as_json(engine: Engine, parent: File, call: Call) -> JSONValue:
    found = JSONValue(text=await text_of(engine, parent))
    found.read()
    return found


@answer("JSONValue.withContents")
async def json_with_contents(engine: Engine, parent: JSONValue, call: Call) -> JSONValue:
    found = JSONValue(text=call.args["contents"])
    found.read()
    return found


@answer("JSONValue.newInteger", "JSONValue.newString", "JSONValue.newBoolean")
async def json_new(engine: Engine, parent: JSONValue, call: Call) -> JSONValue:
    return _json(call.args["value"])


@answer("JSONValue.contents")
async def json_contents(engine: Engine, parent: JSONValue, call: Call) -> str:
    if not call.args["pretty"]:
        return parent.text
    return _written(parent.read(), indent=call.args["indent"])


@answer("JSONValue.asInteger")
async def json_as_integer(engine: Engine, parent: JSONValue, call: Call) -> int:
    found = parent.read()
    text = found.text if isinstance(found, _Number) else ""
    if not re.fullmatch(r"-?[0-9]{1,10}", text) or int(text) not in _INTEGER:
        raise BadInput(f"{parent.text[:60]} is not an integer of 32 bits")
    return int(text)


@answer("JSONValue.asString")
async def json_as_string(engine: Engine, parent: JSONValue, call: Call) -> str:
    found: str = parent.need(str)
    return found


@answer("JSONValue.asBoolean")
async def json_as_boolean(engine: Engine, parent: JSONValue, call: Call) -> bool:
    found: bool = parent.need(bool)
    return found


@answer("JSONValue.asArray")
async def json_as_array(engine: Engine, parent: JSONValue, call: Call) -> list[JSONValue]:
    return [_json(item) for item in parent.need(list)]


@answer("JSONValue.fields")
async def json_fields(engine: Engine, parent: JSONValue, call: Call) -> list[str]:
    return sorted(parent.need(dict))


@answer("JSONValue.field")
async def json_field(engine: Engine, parent: JSONValue, call: Call) -> JSONValue:
    found = parent.read()
    for name in call.args["path"]:
        if not isinstance(found, dict):
            raise BadInput(f"cannot look up field {name!r} in what is no object")
        if name not in found:
            raise BadInput(f"no such field: {name!r}")
        found = found[name]
    return _json(found)


@answer("JSONValue.withField")
async def json_with_field(engine: Engine, parent: JSONValue, call: Call) -> JSONValue:
    value: JSONValue = await engine.value(call.args["value"])
    found = parent.read()
    root: dict[str, Any] = found if isinstance(found, dict) else {}
    *folders, last = call.args["path"] or [""]
    if not call.args["path"]:
        return _json(root)
    here = root
    for name in folders:
        if not isinstance(here.get(name), dict):
            here[name] = {}
        here = here[name]
    here[last] = value.read()
    return _json(root)

"""Answers of EnvFile: lines of NAME=value, read as Dagger reads them.

Each line is an assignment of the shell, with its quotes, escapes and `$NAME`, `${NAME}` and
`${NAME:-default}`, which may name any other line, or a variable of this machine. Nothing is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ci.engine.chain import Call
from ci.engine.containers import with_config
from ci.engine.engine import Engine, answer
from ci.engine.files import text_of
from ci.engine.values import Container, File, Record
from ci.errors import BadInput

__all__ = ["EnvFile"]


@dataclass(frozen=True, kw_only=True)
class EnvFile:
    """Lines of an env file, `NAME=value`, unread."""

    lines: tuple[str, ...] = ()

    def raw(self) -> dict[str, str]:
        """Values as they are written; of lines for one name the last counts."""
        pairs = (line.strip().partition("=") for line in self.lines if line.strip())
        return {name: value for name, _, value in pairs}

    def read(self) -> dict[str, str]:
        """Values without quotes, and with what they name in its place."""
        words = dict(filter(None, map(_assignment, self.lines)))
        known: dict[str, str] = {}
        for name in words:
            _expand(name, words, known, ())
        return known

    def with_variable(self, name: str, value: str) -> EnvFile:
        new = f"{name}={value}"
        for number, line in enumerate(self.lines):
            if line.partition("=")[0] == name:
                return EnvFile(lines=(*self.lines[:number], new, *self.lines[number + 1 :]))
        return EnvFile(lines=(*self.lines, new))


_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SHELL = re.compile(r"[`\"'\\]|\$(?=[A-Za-z_{(])")
_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?:(:?[-+?=])([^}]*))?\}|([A-Za-z_]\w*))", re.ASCII)

Piece = tuple[str, bool]
"""A piece of a value, and whether names in it are to be replaced."""


def _assignment(line: str) -> tuple[str, list[Piece]] | None:
    """The name that a line sets, and the pieces of its value; None for a line that sets nothing."""
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    name, found, value = line.partition("=")
    if not found or not _NAME.fullmatch(name):
        raise BadInput(f"{line!r} is no assignment", hint="a line of an env file is NAME=value")
    return name, [(value, False)] if not _SHELL.search(value) else list(_pieces(line, value))


def _pieces(line: str, value: str) -> Iterator[Piece]:
    """A value as the shell reads it: words, with one space between them."""
    here, blank = 0, False
    while here < len(value):
        char = value[here]
        if char in " \t":
            here, blank = here + 1, True
            continue
        if blank:
            if char == "#":
                return
            blank = False
            yield " ", False
        if char == "'":
            end = value.find("'", here + 1)
            _closed(end, line)
            yield value[here + 1 : end], False
            here = end + 1
        elif char == '"':
            here += 1
            while here < len(value) and value[here] != '"':
                escaped = value[here] == "\\" and value[here + 1 : here + 2] in tuple('"\\$`')
                piece = (value[here + 1], False) if escaped else _reference(line, value, here)
                yield piece
                here += 2 if escaped else len(piece[0])
            _closed(here if here < len(value) else -1, line)
            here += 1
        elif char == "\\":
            yield value[here + 1 : here + 2], False
            here += 2
        else:
            piece = _reference(line, value, here)
            yield piece
            here += len(piece[0])


def _reference(line: str, value: str, here: int) -> Piece:
    """What begins there: a name to be replaced, or one character."""
    if value[here] == "`" or value.startswith("$(", here):
        raise BadInput(f"{line!r}: an env file runs no commands")
    found = _REFERENCE.match(value, here)
    return (found[0], True) if found else (value[here], False)


def _closed(end: int, line: str) -> None:
    if end < 0:
        raise BadInput(f"{line!r}: a quote is not closed")


def _expand(name: str, words: Mapping[str, list[Piece]], known: dict[str, str], within: Sequence[str]) -> str:
    if name in within:
        raise BadInput(f"an env file names itself: {' -> '.join((*within, name))}")
    if name not in known:
        known[name] = "".join(
            _value(text, words, known, (*within, name)) if is_name else text for text, is_name in words[name]
        )
    return known[name]


def _value(text: str, words: Mapping[str, list[Piece]], known: dict[str, str], within: Sequence[str]) -> str:
    """What a reference stands for: a line of the file, or a variable of this machine."""
    found = _REFERENCE.fullmatch(text)
    assert found is not None
    name, operator, default = found[1] or found[4], found[2] or "", found[3] or ""
    value = _expand(name, words, known, within) if name in words else os.environ.get(name)
    unset = not value if operator.startswith(":") else value is None
    if operator.endswith("+"):
        return "" if unset else default
    if unset and operator.endswith(("-", "=")):
        return default
    if (unset and operator.endswith("?")) or value is None:
        raise BadInput(f"{within[-1]}: {name} is not set", hint=f"${{{name}:-a default}} gives it a value")
    return value


@answer("Query.envFile")
async def env_file(engine: Engine, parent: None, call: Call) -> EnvFile:
    return EnvFile()


@answer("File.asEnvFile")
async def file_as_env_file(engine: Engine, parent: File, call: Call) -> EnvFile:
    found = EnvFile()
    for line in (await text_of(engine, parent)).split("\n"):
        if line.strip():
            name, _, value = line.removesuffix("\r").partition("=")
            found = found.with_variable(name, value)
    return found


@answer("EnvFile.withVariable")
async def env_file_with(engine: Engine, parent: EnvFile, call: Call) -> EnvFile:
    return parent.with_variable(call.args["name"], call.args["value"])


@answer("EnvFile.withoutVariable")
async def env_file_without(engine: Engine, parent: EnvFile, call: Call) -> EnvFile:
    return EnvFile(lines=tuple(line for line in parent.lines if line.partition("=")[0] != call.args["name"]))


@answer("EnvFile.variables")
async def env_file_variables(engine: Engine, parent: EnvFile, call: Call) -> list[Record]:
    found = parent.raw() if call.args["raw"] else parent.read()
    return [Record({"name": name, "value": value}) for name, value in sorted(found.items())]


@answer("EnvFile.get")
async def env_file_get(engine: Engine, parent: EnvFile, call: Call) -> str:
    return (parent.raw() if call.args["raw"] else parent.read()).get(call.args["name"], "")


@answer("EnvFile.exists")
async def env_file_exists(engine: Engine, parent: EnvFile, call: Call) -> bool:
    return call.args["name"] in parent.raw()


@answer("EnvFile.namespace")
async def env_file_namespace(engine: Engine, parent: EnvFile, call: Call) -> EnvFile:
    """Variables of a prefix, without it: `my-app` means `MY_APP_` and `myApp_`, in letters of any case."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-. ]", "_", call.args["prefix"]).strip("_") + "_"
    camel = snake.replace("_", "") + "_"
    found = EnvFile()
    for name, value in sorted(parent.read().items()):
        for prefix in (camel, snake):
            if name.lower().startswith(prefix.lower()):
                found = found.with_variable(name[len(prefix) :], value)
                break
    return found


@answer("EnvFile.asFile")
async def env_file_as_file(engine: Engine, parent: EnvFile, call: Call) -> File:
    text = "".join(f"{line}\n" for line in parent.lines)
    data = text.encode("utf-8", "surrogateescape")
    layers = await engine.layered((), ("file", ".env", text, 0o644), lambda layer: layer.write(".env", data))
    return File(layers, ".env", ".env")


@answer("Container.withEnvFileVariables")
async def with_env_file_variables(engine: Engine, parent: Container, call: Call) -> Container:
    source: EnvFile = await engine.value(call.args["source"])
    new = source.read()
    env = parent.env | dict(sorted(new.items()))
    kept = replace(parent, secret_env=tuple(item for item in parent.secret_env if item[0] not in new))
    return with_config(kept, Env=[f"{name}={value}" for name, value in env.items()])

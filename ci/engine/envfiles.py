"""Answers of EnvFile: lines of NAME=value, read as Dagger reads them.

Each line is an assignment of the shell, with its quotes, escapes and `$NAME`, `${NAME}` and
`${NAME:-default}`, which may name any other line. A variable of this machine may be named by the text of the
pipeline and the files of this machine, not by what a step, an image or a repository wrote. Nothing is run.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ci.engine.chain import Call
from ci.engine.containers import with_config
from ci.engine.engine import Engine, answer
from ci.engine.files import text_of
from ci.engine.values import Container, File, Record
from ci.errors import BadInput

__all__ = ["EnvFile"]

_MOST = 1 << 20
"""Characters of a file, and of all its values: no command can be given as many."""


@dataclass(frozen=True, kw_only=True)
class EnvFile:
    """Lines of an env file, `NAME=value`, unread."""

    lines: tuple[str, ...] = ()
    own: bool = True
    """Whether it may name variables of this machine."""

    def raw(self) -> dict[str, str]:
        """Values as they are written; of lines for one name the last counts."""
        pairs = (line.strip().partition("=") for line in self.lines if line.strip())
        return {name: value for name, _, value in pairs}

    def read(self) -> dict[str, str]:
        """Values without quotes, and with what they name in its place."""
        words = dict(filter(None, map(_assignment, self.lines)))
        return _expanded(words, self._outside)

    def _outside(self, name: str, of: str) -> str | None:
        value = os.environ.get(name)
        if value is not None and not self.own:
            raise BadInput(
                f"{of}: {name} is a variable of this machine, which a file that a step, an image or a "
                "download had a part in may not name",
                hint=f"give it from the pipeline: with_variable({name!r}, ...) on the env file",
            )
        return value

    def with_variables(self, pairs: Iterable[tuple[str, str]]) -> EnvFile:
        """With lines more, or others in the place of those for the same name."""
        lines: dict[str | int, str] = {}
        for number, line in enumerate(self.lines):
            name = line.partition("=")[0]
            lines[number if name in lines else name] = line
        lines.update({name: f"{name}={value}" for name, value in pairs})
        return replace(self, lines=tuple(lines.values()))


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
    open_ = value.startswith("${", here) and value.find("}", here) < 0
    found = None if open_ else _REFERENCE.match(value, here)
    return (found[0], True) if found else (value[here], False)


def _closed(end: int, line: str) -> None:
    if end < 0:
        raise BadInput(f"{line!r}: a quote is not closed")


def _expanded(words: Mapping[str, list[Piece]], outside: Callable[[str, str], str | None]) -> dict[str, str]:
    """The values with what they name in its place. A loop: chains of names have any length."""
    known: dict[str, str] = {}
    size = 0

    def needs(name: str) -> Iterator[str]:
        found = (_REFERENCE.fullmatch(text) for text, is_name in words[name] if is_name)
        inner = (one[1] or one[4] for one in found if one)
        return (one for one in inner if one in words and one not in known)

    for first in words:
        under_way = {} if first in known else {first: needs(first)}
        while under_way:
            name, missing = next(reversed(under_way.items()))
            wanted = next(missing, None)
            if wanted is None:
                under_way.popitem()
                parts = []
                for text, is_name in words[name]:
                    parts.append(_value(text, name, known, outside) if is_name else text)
                    size += len(parts[-1])
                    if size > _MOST:
                        raise BadInput(f"{name}: the values of an env file are more than {_MOST} characters")
                known[name] = "".join(parts)
            elif wanted in under_way:
                *_, last = circle = [*under_way][[*under_way].index(wanted) :]
                told = circle if len(circle) < 6 else [*circle[:3], "...", last]
                raise BadInput(f"an env file names itself: {' -> '.join((*told, wanted))}")
            else:
                under_way[wanted] = needs(wanted)
    return known


def _value(text: str, of: str, known: Mapping[str, str], outside: Callable[[str, str], str | None]) -> str:
    """What a reference stands for: a line of the file, or what is outside of it."""
    found = _REFERENCE.fullmatch(text)
    assert found is not None
    name, operator, default = found[1] or found[4], found[2] or "", found[3] or ""
    value = known[name] if name in known else outside(name, of)
    unset = not value if operator.startswith(":") else value is None
    if operator.endswith("+"):
        return "" if unset else default
    if unset and operator.endswith(("-", "=")):
        return default
    if (unset and operator.endswith("?")) or value is None:
        raise BadInput(f"{of}: {name} is not set", hint=f"${{{name}:-a default}} gives it a value")
    return value


@answer("Query.envFile")
async def env_file(engine: Engine, parent: None, call: Call) -> EnvFile:
    return EnvFile()


@answer("File.asEnvFile")
async def file_as_env_file(engine: Engine, parent: File, call: Call) -> EnvFile:
    text = await text_of(engine, parent)
    if len(text) > _MOST:
        raise BadInput(f"/{parent.path} is more than {_MOST} characters, too many for an env file")

    def read() -> EnvFile:
        lines = [line.removesuffix("\r").partition("=") for line in text.split("\n") if line.strip()]
        return EnvFile(own=engine.is_own(parent.layers)).with_variables(
            [(name, one) for name, _, one in lines]
        )

    return await asyncio.to_thread(read)


@answer("EnvFile.withVariable")
async def env_file_with(engine: Engine, parent: EnvFile, call: Call) -> EnvFile:
    return parent.with_variables([(call.args["name"], call.args["value"])])


@answer("EnvFile.withoutVariable")
async def env_file_without(engine: Engine, parent: EnvFile, call: Call) -> EnvFile:
    kept = (line for line in parent.lines if line.partition("=")[0] != call.args["name"])
    return replace(parent, lines=tuple(kept))


@answer("EnvFile.variables")
async def env_file_variables(engine: Engine, parent: EnvFile, call: Call) -> list[Record]:
    found = parent.raw() if call.args["raw"] else await asyncio.to_thread(parent.read)
    return [Record({"name": name, "value": value}) for name, value in sorted(found.items())]


@answer("EnvFile.get")
async def env_file_get(engine: Engine, parent: EnvFile, call: Call) -> str:
    found = parent.raw() if call.args["raw"] else await asyncio.to_thread(parent.read)
    return found.get(call.args["name"], "")


@answer("EnvFile.exists")
async def env_file_exists(engine: Engine, parent: EnvFile, call: Call) -> bool:
    return call.args["name"] in parent.raw()


@answer("EnvFile.namespace")
async def env_file_namespace(engine: Engine, parent: EnvFile, call: Call) -> EnvFile:
    """Variables of a prefix, without it: `my-app` means `MY_APP_` and `myApp_`, in letters of any case."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-. ]", "_", call.args["prefix"]).strip("_") + "_"
    camel = snake.replace("_", "") + "_"
    pairs = [
        (name[len(prefix) :], value)
        for name, value in sorted((await asyncio.to_thread(parent.read)).items())
        for prefix in [next((one for one in (camel, snake) if name.lower().startswith(one.lower())), "")]
        if prefix
    ]
    return EnvFile(own=parent.own).with_variables(pairs)


@answer("EnvFile.asFile")
async def env_file_as_file(engine: Engine, parent: EnvFile, call: Call) -> File:
    text = "".join(f"{line}\n" for line in parent.lines)
    data = text.encode("utf-8", "surrogateescape")
    layers = await engine.layered((), ("file", ".env", text, 0o644), lambda layer: layer.write(".env", data))
    return File(engine.vouch(layers) if parent.own else layers, ".env", ".env")


@answer("Container.withEnvFileVariables")
async def with_env_file_variables(engine: Engine, parent: Container, call: Call) -> Container:
    source: EnvFile = await engine.value(call.args["source"])
    new = await asyncio.to_thread(source.read)
    env = parent.env | dict(sorted(new.items()))
    kept = replace(parent, secret_env=tuple(item for item in parent.secret_env if item[0] not in new))
    return with_config(kept, Env=[f"{name}={value}" for name, value in env.items()])

"""YAML files that people write: read with the place of every key, and refused with one clear BadInput.

    document = load(file)                    # or load_overlaid(file): follows `extends: base.yaml`
    prod = checked(Environment, document)    # pydantic's complaints as one BadInput: file, line, key, hint
    document.place("regions", "eastus", 0)   # Place(file, line, key) of any key, for errors found later

`load` refuses what YAML would let through silently: a key given twice, a file over 1 MiB, aliases that
expand without end, keys that are not text, several documents in one file, and values that are secrets
rather than references to them. Overlays: mappings are merged key by key, lists and scalars are replaced,
`key: null` takes the base's key away. Every key keeps the place it came from. Models should be frozen with
`extra="forbid"`: a misspelt key is then named, with the nearest right one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ci.errors import BadInput, Place

__all__ = ["Document", "checked", "did_you_mean", "load", "load_overlaid", "parse"]

_MAX_BYTES = 2**20
_MAX_NODES = 20_000
_MAX_DEPTH = 48
_MAX_SHOWN = 10

Loc = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)
_Loader = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # the C one is ten times faster, where libyaml is there

# What a pasted secret looks like. Only unmistakable marks: a digest or a long name must never match.
_SECRETS = {
    "an Azure connection string or key": re.compile(
        r"(?i)(AccountKey|SharedAccessKey|AccessKey|password|pwd)=[^;\s]{6,}"
    ),
    "a URL with a password": re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s:@]+@"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a JSON web token": re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}"),
    "an API key": re.compile(r"\b(sk-[\w-]{20,}|gh[pousr]_\w{30,}|AKIA[0-9A-Z]{16}|xox[abp]-[\w-]{20,})"),
    "a SAS signature": re.compile(r"[?&]sig=[\w%+/=-]{20,}"),
}
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_SECRET_KEY = re.compile(r"(?i)secret|password|token|credential|api_?key|connection_?string")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One YAML mapping and the place of each of its keys and list items."""

    file: Path
    data: dict[str, Any]
    places: Mapping[Loc, Place]

    def place(self, *loc: str | int) -> Place:
        """Where `loc` is written, or else the nearest thing around it (a default is written nowhere)."""
        for length in range(len(loc), 0, -1):
            if (found := self.places.get(loc[:length])) is not None:
                return found
        return Place(file=self.file, line=1)


def load(file: Path) -> Document:
    """Read one file. BadInput names the file and, where there is one, the line."""
    try:
        size = file.stat().st_size
        if size > _MAX_BYTES:
            raise BadInput(
                f"the file has {size:,} bytes; at most {_MAX_BYTES:,} are read",
                place=Place(file=file),
                hint="split it with `extends`, or look for what was pasted into it by mistake",
            )
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        beside = [path.name for path in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
        raise BadInput(
            "there is no such file", place=Place(file=file), hint=did_you_mean(file.name, beside)
        ) from error
    except UnicodeDecodeError as error:
        raise BadInput(
            f"not UTF-8 text: {error.reason} at byte {error.start}", place=Place(file=file)
        ) from error
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", place=Place(file=file)) from error
    return parse(text, file)


def parse(text: str, file: Path) -> Document:
    """`load` for text already in hand; `file` is only named in places."""
    try:
        _refuse_depth(text, file)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise BadInput(
            f"not YAML: {problem}", place=Place(file=file, line=mark.line + 1 if mark else None)
        ) from error
    if root is None:
        raise BadInput("the file is empty", place=Place(file=file))
    if not isinstance(root, yaml.MappingNode):
        raise BadInput("a mapping of keys is expected", place=_line(file, root))
    reader = _Reader(file)
    return Document(file=file, data=reader.value(root, ()), places=reader.places)


def load_overlaid(file: Path, *, key: str = "extends") -> Document:
    """Read a file laid over the one that its `extends: base.yaml` names (relative to itself), and so on.

    The key itself is taken out. A circle of files is refused with the whole circle shown.
    """
    return _load_overlaid(file, key, ())


def _load_overlaid(file: Path, key: str, above: tuple[Path, ...]) -> Document:
    file_id = file.resolve()
    document = load(file)
    place = document.place(key)
    base = document.data.pop(key, None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise BadInput("the name of one file is expected", place=place)
    chain = (*above, file_id)
    below = file.parent / base
    if below.resolve() in chain:
        circle = [path.name for path in chain[chain.index(below.resolve()) :]]
        raise BadInput(
            f"overlays go round in a circle: {' -> '.join([*circle, below.name])}",
            place=place,
            hint=f"take `{key}` out of one of them",
        )
    if not below.is_file():
        names = [path.name for path in below.parent.glob("*.yaml")]
        raise BadInput(f"there is no file {base!r}", place=place, hint=did_you_mean(base, names))
    lower = _load_overlaid(below, key, chain)
    places = dict(lower.places)
    data = _lay(lower.data, document.data, (), places, document.places)
    return Document(file=file, data=data, places=places)


def _lay(
    low: dict[str, Any], high: dict[str, Any], loc: Loc, places: dict[Loc, Place], over: Mapping[Loc, Place]
) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        here = (*loc, key)
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _lay(merged[key], value, here, places, over)
            continue
        if key in merged:
            for stale in [place for place in places if place[: len(here)] == here]:
                del places[stale]
        if value is None and key in low:
            del merged[key]
            continue
        merged[key] = value
        places |= {place: where for place, where in over.items() if place[: len(here)] == here}
    return merged


def checked(model: type[Model], document: Document) -> Model:
    """The document as a model. All of pydantic's complaints come as one BadInput, in order of lines."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        # A union reports once per member it tried; one complaint per place is enough. A misspelt key that
        # must be there is reported twice, as unknown and as missing: the first says it better.
        found: dict[Loc, tuple[Place, str, str]] = {}
        missing: dict[Loc, tuple[Place, str, str]] = {}
        for details in error.errors(include_url=False):
            loc = tuple(details["loc"])
            place = _written(document, loc)
            kept = missing if details["type"] == "missing" else found
            kept.setdefault(
                loc if kept is missing else (str(place),), (place, *_explain(model, loc, details))
            )
        hints = {(place.file, hint) for place, _, hint in found.values()}
        found |= {
            loc: one
            for loc, one in missing.items()
            if (one[0].file, f"did you mean {loc[-1]!r}?") not in hints
        }
        problems = sorted(found.values(), key=lambda one: (str(one[0].file), one[0].line or 0))
        (place, message, hint), *others = problems
        also = [
            f"also {where}: {what}{f' ({how})' if how else ''}"
            for where, what, how in others[: _MAX_SHOWN - 1]
        ]
        if len(problems) > _MAX_SHOWN:
            also.append(f"and {len(problems) - _MAX_SHOWN} more")
        raise BadInput("\n".join([message, *also]), place=place, hint=hint) from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or what there is to choose from; empty when there is nothing."""
    names = sorted(set(known))
    if near := difflib.get_close_matches(word, names, n=1, cutoff=0.6):
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(names)}" if names else ""


def _line(file: Path, what: yaml.Node | yaml.Event) -> Place:
    return Place(file=file, line=what.start_mark.line + 1 if what.start_mark else None)


def _refuse_depth(text: str, file: Path) -> None:
    # Before composing: libyaml's composer recurses, so a file of "[[[[…" would end the process itself.
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                raise BadInput(
                    f"nested deeper than {_MAX_DEPTH} levels",
                    place=_line(file, event),
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reader:
    """Turns composed nodes into plain values and notes where each came from."""

    def __init__(self, file: Path) -> None:
        self.places: dict[Loc, Place] = {}
        self._file = file
        self._nodes = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES or len(loc) > _MAX_DEPTH:
            raise BadInput(
                f"aliases (`*name`) expand to more than {_MAX_NODES:,} values",
                place=_line(self._file, node),
                hint="write the values out, or put what is shared into a base file",
            )
        if loc:
            self.places.setdefault(loc, self._place(node, loc))
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            raise BadInput(
                f"the tag {node.tag} is not used here: write the plain value", place=self._place(node, loc)
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*loc, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, loc)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node, loc)
            key = None if key_node.id != "scalar" else key_node.value
            if key is None or key_node.tag != "tag:yaml.org,2002:str":
                raise BadInput(
                    f"the key {key!r} is not text for YAML" if key else "a key must be text",
                    place=place,
                    hint=f'quote it: "{key}"'
                    if key and key != "<<"
                    else "`<<` is not supported: use `extends`",
                )
            if key in mapping:
                raise BadInput(
                    f"the key {key!r} is given twice (first on line {lines[key]})",
                    place=self._place(key_node, (*loc, key)),
                    hint="keep one of the two",
                )
            lines[key] = key_node.start_mark.line + 1
            self.places[(*loc, key)] = self._place(key_node, (*loc, key))
            mapping[key] = self.value(value_node, (*loc, key))
        return mapping

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        for name, pattern in _SECRETS.items():
            if pattern.search(node.value):
                raise BadInput(
                    f"this looks like {name}; secrets do not belong into files",
                    place=self._place(node, loc),
                    hint="refer to it (azkv://<vault>/<name>, env:NAME) and replace the secret: it was seen",
                )
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            message = getattr(error, "problem", None) or str(error)
            raise BadInput(f"not a value: {message}", place=self._place(node, loc)) from error

    def _place(self, node: yaml.Node, loc: Loc) -> Place:
        return Place(file=self._file, line=node.start_mark.line + 1, key=_dotted(loc) or None)


def _dotted(loc: Loc) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _written(document: Document, loc: Loc) -> Place:
    """The place of `loc`; pydantic puts names of union members into it, which no file has."""
    here: list[str | int] = []
    data: Any = document.data
    for part in loc:
        known: Any = range(len(data)) if isinstance(data, list) else data if isinstance(data, dict) else ()
        if part in known:
            data = data[part]
            here.append(part)
    return document.place(*here)


def _explain(model: type[BaseModel], loc: Loc, details: ErrorDetails) -> tuple[str, str]:
    """What is wrong and what to do, in words for the person who wrote the file."""
    kind, name, given = details["type"], str(loc[-1]) if loc else "", details.get("input")
    context = details.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {name!r}", did_you_mean(name, _keys_at(model, loc[:-1]))
    if kind == "missing":
        return f"the key {name!r} is missing", f"add `{name}:` below {_dotted(loc[:-1]) or 'the top level'}"
    if kind == "value_error":
        return str(context.get("error", details["msg"])), ""
    if "hint" in context:  # a PydanticCustomError of the caller's own, with what to do
        return details["msg"], str(context["hint"])
    shown = ""
    if isinstance(given, (str, int, float, bool)) and not _SECRET_KEY.search(_dotted(loc)):
        shown = f", not {str(given)[:60]!r}" if isinstance(given, str) else f", not {given}"
    if kind in ("enum", "literal_error"):
        expected = str(context.get("expected", ""))
        return f"{name} must be {expected}{shown}", did_you_mean(
            str(given), re.findall(r"'([^']*)'", expected)
        )
    if kind == "string_type" and given is not None:
        return f"text is expected{shown}", f'quote it: "{given}"' if isinstance(given, (int, float)) else ""
    return details["msg"].replace("Input should", f"{name} should", 1) + shown, ""


def _keys_at(model: type[BaseModel], loc: Loc) -> set[str]:
    """The keys that the models reached by `loc` know."""
    kinds: list[Any] = [model]
    for part in loc:
        kinds = [inner for kind in kinds for inner in _step(kind, part)]
    models = [flat for kind in kinds for flat in _flat(kind) if isinstance(flat, type)]
    return {
        field.alias or name
        for flat in models
        if issubclass(flat, BaseModel)
        for name, field in flat.model_fields.items()
    }


def _flat(kind: Any) -> list[Any]:
    """A union's members, `Annotated` taken off."""
    if get_origin(kind) in (Union, UnionType):
        return [inner for member in get_args(kind) for inner in _flat(member)]
    if hasattr(kind, "__metadata__"):
        return _flat(get_args(kind)[0])
    return [kind]


def _step(kind: Any, part: str | int) -> list[Any]:
    found: list[Any] = []
    for flat in _flat(kind):
        if isinstance(flat, type) and issubclass(flat, BaseModel):
            fields = {field.alias or name: field for name, field in flat.model_fields.items()}
            if isinstance(part, str) and part in fields:
                found.append(fields[part].annotation)
            elif part == flat.__name__:
                found.append(flat)  # the name of a union's member, as pydantic puts it into a place
        elif arguments := get_args(flat):
            found.append(arguments[-1] if arguments[-1] is not Ellipsis else arguments[0])
    return found

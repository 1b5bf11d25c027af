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
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ci.complaints import Loc, complaints, did_you_mean, dotted, shown
from ci.errors import BadInput, Place

__all__ = ["Document", "checked", "did_you_mean", "load", "load_all", "load_overlaid", "parse"]

_MAX_BYTES = 2**20
_MAX_PRINTED = 2**24
_MAX_NODES = 20_000
_MAX_DEPTH = 48
_MAX_SHOWN = 10

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
_CORE_TAG = "tag:yaml.org,2002:"
_TAGGED = {"int": "a whole number", "float": "a number", "bool": "true or false", "null": "nothing",
           "timestamp": "a day or a moment", "binary": "base64"}  # fmt: skip
_MAX_BITS = 64


@dataclass(frozen=True, kw_only=True)
class Document:
    """One YAML mapping and the place of each of its keys and list items."""

    file: Path
    data: dict[str, Any]
    places: Mapping[Loc, Place]
    removed: Mapping[Loc, Place] = field(default_factory=dict)
    """Where an overlay says `null`, so that a key of its base is not there."""
    overlaid: bool = False
    """Whether it was laid over another file."""
    top: Place | None = None
    """Where it begins, if not on the first line of its file."""

    def place(self, *loc: str | int) -> Place:
        """Where `loc` is written, or else the nearest thing around it (a default is written nowhere)."""
        for length in range(len(loc), 0, -1):
            for written in (self.places, self.removed):
                if (found := written.get(loc[:length])) is not None:
                    return found
        return self.top or Place(file=self.file, line=1)


def load(file: Path) -> Document:
    """Read one file. BadInput names the file and the line."""
    return parse(_text(file, _MAX_BYTES), file)


def _text(file: Path, most: int) -> str:
    top = Place(file=file, line=1)
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no file of text"
            raise BadInput(f"cannot be read: it is {kind}", place=Place(file=file))
        if found.st_size > most:
            raise BadInput(
                f"the file has {found.st_size:,} bytes; at most {most:,} are read",
                place=top,
                hint="split it with `extends`, or look for what was pasted into it by mistake",
            )
        raw = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        beside = [path.name for path in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
        raise BadInput(
            "there is no such file", place=Place(file=file), hint=did_you_mean(file.name, beside)
        ) from error
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", place=Place(file=file)) from error
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadInput(
            f"not UTF-8 text: {error.reason} at byte {error.start}",
            place=Place(file=file, line=raw.count(b"\n", 0, error.start) + 1),
            hint="save the file as UTF-8",
        ) from error


def parse(text: str, file: Path) -> Document:
    """`load` for text already in hand; `file` is only named in places."""
    with _one_error(text, file):
        _refuse_depth(text, file)
        root = yaml.compose(text, Loader=_Loader)
    if root is None:
        raise BadInput("the file is empty", place=Place(file=file, line=1))
    if not isinstance(root, yaml.MappingNode):
        raise BadInput("a mapping of keys is expected", place=_line(file, root))
    reader = _Reader(file)
    return Document(file=file, data=reader.value(root, ()), places=reader.places)


@contextmanager
def _one_error(text: str, file: Path) -> Iterator[None]:
    try:
        yield
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadInput(
            f"not YAML: the character U+{ord(error.character):04X} cannot stand in a file"
            if isinstance(error.character, str) and len(error.character) == 1
            else f"not YAML: {error.reason}",
            place=Place(file=file, line=line),
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise BadInput(
            f"not YAML: {problem}", place=Place(file=file, line=mark.line + 1 if mark else 1)
        ) from error


def load_all(file: Path) -> tuple[Document, ...]:
    """The documents of a file that a program wrote, such as `helm template`: larger, and of any content."""
    text = _text(file, _MAX_PRINTED)
    with _one_error(text, file):
        _refuse_depth(text, file)
        roots = [root for root in yaml.compose_all(text, Loader=_Loader) if root.tag != f"{_CORE_TAG}null"]
    documents = []
    for root in roots:
        if not isinstance(root, yaml.MappingNode):
            raise BadInput("a mapping of keys is expected", place=_line(file, root))
        reader = _Reader(file, written=False)
        documents.append(
            Document(file=file, data=reader.value(root, ()), places=reader.places, top=_line(file, root))
        )
    return tuple(documents)


def load_overlaid(file: Path, *, key: str = "extends", within: Path | None = None) -> Document:
    """Read a file laid over the one that its `extends: base.yaml` names (relative to itself), and so on.

    The key itself is taken out. A circle of files is refused with the whole circle shown, and so is a file
    outside of the folder `within` (that of `file` itself when left out): what is read is shown in messages.
    """
    return _load_overlaid(file, key, (within or file.parent).resolve(), ())


def _load_overlaid(file: Path, key: str, within: Path, above: tuple[Path, ...]) -> Document:
    file_id = file.resolve()
    document = load(file)
    place = document.place(key)
    if key not in document.data:
        meant = difflib.get_close_matches(key, document.data, n=1, cutoff=0.75)
        if meant and str(document.data[meant[0]]).endswith(".yaml"):
            raise BadInput(
                f"unknown key {shown(meant[0])}",
                place=document.place(meant[0]),
                hint=did_you_mean(meant[0], [key]),
            )
        return document
    base = document.data.pop(key)
    if base is None:
        return document
    if not isinstance(base, str):
        raise BadInput(f"the name of one file is expected, not {shown(base)}", place=place)
    below = _named(file.parent, base, within, place)
    chain = (*above, file_id)
    if below.resolve() in chain:
        circle = [path.name for path in chain[chain.index(below.resolve()) :]]
        raise BadInput(
            f"overlays go round in a circle: {' -> '.join([*circle, below.name])}",
            place=place,
            hint=f"take `{key}` out of one of them",
        )
    lower = _load_overlaid(below, key, within, chain)
    places, removed = dict(lower.places), dict(lower.removed)
    data = _lay(lower.data, document, document.data, (), places, removed)
    return Document(file=file, data=data, places=places, removed=removed, overlaid=True)


def _named(folder: Path, name: str, within: Path, place: Place) -> Path:
    """The file of that name beside the one that names it; BadInput when it is none that may be read."""
    hint = "a file beside this one or below the same folder, by its relative name: extends: base.yaml"
    try:
        file = Path(os.path.normpath(folder / name))
        if Path(name).is_absolute() or not file.resolve().is_relative_to(within):
            raise BadInput(f"{shown(name)} is outside of {within.name}/", place=place, hint=hint)
        if not file.is_file():
            names = [path.name for path in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
            raise BadInput(f"there is no file {shown(name)}", place=place, hint=did_you_mean(name, names))
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # too long, not a name's characters, links in a circle
        raise BadInput(f"{shown(name)} is no name of a file", place=place, hint=hint) from error
    return file


def _lay(
    low: dict[str, Any],
    over: Document,
    high: dict[str, Any],
    loc: Loc,
    places: dict[Loc, Place],
    removed: dict[Loc, Place],
) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        here = (*loc, key)
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _lay(merged[key], over, value, here, places, removed)
            continue
        if key in merged:
            if merged[key] is None and isinstance(value, dict):
                removed[here] = places[here]  # what is laid over nothing may lack what the base should have
            for stale in [place for place in places if place[: len(here)] == here]:
                del places[stale]
        if value is None and key in low:
            removed[here] = over.place(*here)
            del merged[key]
            continue
        merged[key] = value
        places |= {place: where for place, where in over.places.items() if place[: len(here)] == here}
    return merged


def checked(model: type[Model], document: Document) -> Model:
    """The document as a model. All of pydantic's complaints come as one BadInput, in order of lines."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        found = complaints(
            model,
            error,
            document.data,
            removed=document.removed,
            extends="" if document.overlaid else "extends",
        )
        problems = sorted(
            ((document.place(*one.loc), one) for one in found),
            key=lambda pair: (str(pair[0].file), pair[0].line or 0),
        )
        (place, first), *others = problems
        also = [
            f"also {where}: {one.message}{f' ({one.hint})' if one.hint else ''}"
            for where, one in others[: _MAX_SHOWN - 1]
        ]
        if len(problems) > _MAX_SHOWN:
            also.append(f"and {len(problems) - _MAX_SHOWN} more")
        raise BadInput("\n".join([first.message, *also]), place=place, hint=first.hint) from None


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

    def __init__(self, file: Path, *, written: bool = True) -> None:
        """`written` by a person: what people must not write is refused."""
        self.places: dict[Loc, Place] = {}
        self._written = written
        self._file = file
        self._nodes = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        self._nodes += 1
        if self._nodes > (_MAX_NODES if self._written else _MAX_PRINTED) or len(loc) > _MAX_DEPTH:
            raise BadInput(
                f"aliases (`*name`) expand to more than {_MAX_NODES:,} values",
                place=_line(self._file, node),
                hint="write the values out, or put what is shared into a base file",
            )
        if loc:
            self.places.setdefault(loc, self._place(node, loc))
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            raise BadInput(
                f"the tag {shown(node.tag)} is not used here: write the plain value",
                place=self._place(node, loc),
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
                    f"the key {shown(key)} is not text for YAML" if key else "a key must be text",
                    place=place,
                    hint="`<<` is not supported: use `extends`"
                    if key == "<<"
                    else f'quote it: "{key[:60]}"'
                    if key
                    else "",
                )
            if key in mapping:
                raise BadInput(
                    f"the key {shown(key)} is given twice (first on line {lines[key]})",
                    place=self._place(key_node, (*loc, key)),
                    hint="keep one of the two",
                )
            lines[key] = key_node.start_mark.line + 1
            self.places[(*loc, key)] = self._place(key_node, (*loc, key))
            mapping[key] = self.value(value_node, (*loc, key))
        return mapping

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        for name, pattern in _SECRETS.items() if self._written else ():
            if pattern.search(node.value):
                raise BadInput(
                    f"this looks like {name}; secrets do not belong into files",
                    place=self._place(node, loc),
                    hint="refer to it (azkv://<vault>/<name>, env:NAME) and replace the secret: it was seen",
                )
        tag = node.tag.removeprefix(_CORE_TAG)
        if tag not in ("str", *_TAGGED):
            raise BadInput(
                f"not a value: the tag {shown(node.tag)} is not used here",
                place=self._place(node, loc),
                hint="write the plain value",
            )
        try:
            value = self._scalars.construct_object(node)
        except Exception as error:  # of YAML's own constructors, on what a tag or a form promised
            raise BadInput(
                f"not a value: {shown(node.value)} is not {_TAGGED.get(tag, 'text')}",
                place=self._place(node, loc),
                hint="quote it, if text is meant",
            ) from error
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise BadInput("a number as large as that is not used here", place=self._place(node, loc))
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput("a number with an end is expected", place=self._place(node, loc))
        return value

    def _place(self, node: yaml.Node, loc: Loc) -> Place:
        return Place(file=self._file, line=node.start_mark.line + 1, key=dotted(loc) or None)

"""What pydantic has against something that a person wrote, in words for that person.

    complaints(Environment, error, data)    # one for each mistake, with the keys that lead to it
    in_words(error)                         # the same in one line, where nothing tells places: of JSON
    shown(value)                            # a value as the file has it: null, true, 'text', a list

No type of Python's and no expression of ours is in a message: who wrote `3m` where a number belongs is
told that a whole number is expected, not what parsing it was tried as. One mistake is one complaint: a
misspelt key is not told of again as the missing one that it was meant to be, nor by what is below that one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

__all__ = ["Complaint", "Loc", "complaints", "did_you_mean", "dotted", "in_words", "mistake", "shown"]

_SHOWN_CHARACTERS = 60
_NAMED_KEYS = 6
_NAMED_CHOICES = 24
_LOOKS_CUT_OFF = 3
"""So many keys missing at the top of a file, and it is more likely that `extends` is."""

Loc = tuple[str | int, ...]

_SECRET_KEY = re.compile(r"(?i)secret|password|token|credential|api_?key|connection_?string")


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """One mistake: the keys that lead to it, as far as they are written; what is wrong; what to do next."""

    loc: Loc
    message: str
    hint: str = ""


@dataclass(frozen=True)
class _Missing:
    """Keys that a mapping lacks."""

    parent: Loc
    keys: tuple[str | int, ...]


def complaints(
    model: type[BaseModel],
    error: ValidationError,
    data: Any,
    *,
    removed: Iterable[Loc] = (),
    extends: str = "",
) -> tuple[Complaint, ...]:
    """The mistakes in `data`, each once.

    `removed`: keys that an overlay took away with null. `extends` is the key that could have brought what is
    missing, in a file that has none.
    """
    taken = frozenset(removed)
    wrong: dict[Loc, Complaint] = {}
    lacking: dict[Loc, list[str | int]] = {}
    meant: set[Loc] = set()
    for details in error.errors(include_url=False):
        loc = tuple(details["loc"])
        if details["type"] == "missing":
            lacking.setdefault(_written(data, loc[:-1]), []).append(loc[-1])
            continue
        here = _written(data, loc)
        if _is_long_enough(details):
            continue
        # A union reports once for each member that it tried: the first complaint of a place is enough.
        if here not in wrong:
            wrong[here] = complaint = _explained(model, here, loc, details)
            if near := re.fullmatch(r"did you mean '(.+)'\?", complaint.hint):
                meant.add((*here[:-1], near[1]))
    missing = [
        _Missing(parent, tuple(key for key in keys if (*parent, key) not in meant))
        for parent, keys in lacking.items()
        if not _inside(parent, meant)
    ]
    wrong, missing = _joined(wrong, missing)
    gone = {loc for one in missing for loc in _above(one, taken)}
    missing = [one for one in missing if one.keys and not any(_above(one, taken))]
    several = {one.parent for one in missing if len(one.keys) > 1 or _namesake(one.parent, data)}
    missing = [one for one in missing if not any(_below(one.parent, other) for other in several)]
    if extends and any(not one.parent and len(one.keys) >= _LOOKS_CUT_OFF for one in missing):
        missing = [one for one in missing if not one.parent]
    else:
        extends = ""
    return (
        *wrong.values(),
        *(_taken_away(loc) for loc in sorted(gone, key=str)),
        *(_lacks(one, data, extends) for one in missing),
    )


def _is_long_enough(details: ErrorDetails) -> bool:
    """Whether a list is called too short only for those of its items that are wrong, and told of as such."""
    given, context = details.get("input"), details.get("ctx", {})
    few = details["type"] == "too_short" and isinstance(given, (list, tuple))
    return few and len(given) >= context["min_length"]


def in_words(error: ValidationError) -> str:
    """The first mistakes in one line, each behind the keys that lead to it."""
    found: dict[str, str] = {}
    for details in error.errors(include_url=False):
        loc = tuple(details["loc"])
        complaint = _explained(BaseModel, loc, loc, details)
        message = "is missing" if details["type"] == "missing" else complaint.message
        found.setdefault(dotted(loc), message)
    lines = [f"{where}: {what}" if where else what for where, what in found.items()]
    more = f"; and {len(lines) - _NAMED_KEYS} more" if len(lines) > _NAMED_KEYS else ""
    return "; ".join(lines[:_NAMED_KEYS]) + more


def shown(value: object) -> str:
    """A value as its file has it, cut where it is long."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            cut = value if len(value) <= _SHOWN_CHARACTERS else value[: _SHOWN_CHARACTERS - 1] + "…"
            return repr(cut)
        case int() | float():
            return str(value)
        case date():  # a datetime is one
            return value.isoformat()
        case Mapping():
            return "a mapping"
        case list() | tuple() | set():
            return "a list"
    return "something else"


def mistake(message: str, hint: str) -> PydanticCustomError:
    """For a validator to raise: what is wrong with a value, and what to do."""
    return PydanticCustomError("value", "{message}", {"message": message, "hint": hint})


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or what there is to choose from; empty when there is nothing."""
    names = sorted(set(known))
    small = {name.casefold(): name for name in names}  # CRITICAL and critical are near to each other
    if near := difflib.get_close_matches(word[:200].casefold(), small, n=1, cutoff=0.6):
        return f"did you mean {small[near[0]]!r}?"
    more = f" and {len(names) - _NAMED_CHOICES} more" if len(names) > _NAMED_CHOICES else ""
    return f"known: {', '.join(names[:_NAMED_CHOICES])}{more}" if names else ""


def dotted(loc: Loc) -> str:
    """`waves[0].regions`; what is unusual in a key is quoted."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part if re.fullmatch(r"[\w*/.:$-]{1,64}", part) else shown(part)
            text += f".{plain}" if text else plain
    return text


# One mistake, one complaint ----------------------------------------------------------------------------


def _written(data: Any, loc: Loc) -> Loc:
    """As much of a place as is in the data: pydantic puts names of union members into it, too, which may be
    those of keys: there is nothing below such a key."""
    here: list[str | int] = []
    for number, part in enumerate(loc, 1):
        known: Any = range(len(data)) if isinstance(data, list) else data if isinstance(data, dict) else ()
        if part in known and (
            isinstance(part, int) or number == len(loc) or isinstance(data[part], (dict, list))
        ):
            data = data[part]
            here.append(part)
    return tuple(here)


def _joined(
    wrong: dict[Loc, Complaint], missing: list[_Missing]
) -> tuple[dict[Loc, Complaint], list[_Missing]]:
    """Unknown keys beside each other are one mistake of indentation; so is one that is missing elsewhere."""
    strangers: dict[Loc, list[Complaint]] = {}
    rest: dict[Loc, Complaint] = {}
    for loc, one in wrong.items():
        home = next((lack for lack in missing if loc and loc[-1] in lack.keys), None)
        if one.message.startswith("unknown key") and home is not None and home.parent != loc[:-1]:
            hint = f"does it belong below {dotted(home.parent) or 'the top level'}?"
            rest[loc] = replace(one, hint=hint)
            left = tuple(key for key in home.keys if key != loc[-1])
            missing = [replace(lack, keys=left) if lack is home else lack for lack in missing]
        elif one.message.startswith("unknown key") and not one.hint.startswith("did you mean"):
            strangers.setdefault(loc[:-1], []).append(one)
        else:
            rest[loc] = one
    for parent, several in strangers.items():
        first = several[0]
        if len(several) > 1:
            names = ", ".join(shown(one.loc[-1]) for one in several[:_NAMED_KEYS])
            more = f" and {len(several) - _NAMED_KEYS} more" if len(several) > _NAMED_KEYS else ""
            first = replace(
                first, message=f"unknown keys {names}{more} below {dotted(parent) or 'the top level'}"
            )
        rest[first.loc] = first
    return rest, [lack for lack in missing if lack.keys]


def _below(loc: Loc, other: Loc) -> bool:
    return len(loc) > len(other) and loc[: len(other)] == other


def _inside(loc: Loc, others: set[Loc]) -> bool:
    return any(loc[:length] in others for length in range(1, len(loc) + 1))


def _above(missing: _Missing, taken: frozenset[Loc]) -> Iterator[Loc]:
    """The nulls of an overlay that these keys are missing by."""
    for length in range(1, len(missing.parent) + 1):
        if missing.parent[:length] in taken:
            yield missing.parent[:length]
    yield from ((*missing.parent, key) for key in missing.keys if (*missing.parent, key) in taken)


def _taken_away(loc: Loc) -> Complaint:
    return Complaint(
        loc=loc,
        message=f"{shown(loc[-1])} is taken away here, and there must be one",
        hint="write it, or take the line with null out",
    )


def _namesake(loc: Loc, data: Any) -> str:
    """A key beside that one with nearly its name; empty if there is none.

    Whoever misspells a key in the lower of two files has two of them: one lacks what the other one has.
    """
    for part in loc[:-1]:
        data = data[part]
    if not loc or not isinstance(loc[-1], str) or not isinstance(data, dict):
        return ""
    near = difflib.get_close_matches(loc[-1], set(data) - {loc[-1]}, n=1, cutoff=0.8)
    return near[0] if near else ""


def _lacks(missing: _Missing, data: Any, extends: str) -> Complaint:
    parent, keys = missing.parent, missing.keys
    if isinstance(keys[0], int):
        return Complaint(loc=parent, message=f"{len(keys)} more in this list, that many are expected")
    names = [shown(key) for key in keys[:_NAMED_KEYS]]
    more = f" and {len(keys) - _NAMED_KEYS} more" if len(keys) > _NAMED_KEYS else ""
    message = (
        f"the key {names[0]} is missing"
        if len(keys) == 1
        else f"the keys {', '.join(names)}{more} are missing"
    )
    hint = f"add `{keys[0]}:` below {dotted(parent) or 'the top level'}"
    if extends:
        hint = f"is `{extends}: …` missing, which names the file that this one is laid over?"
    elif near := _namesake(parent, data):
        hint = f"is {shown(near)} beside it meant to be {shown(parent[-1])}?"
    return Complaint(loc=parent, message=message, hint=hint)


# Words ---------------------------------------------------------------------------------------------------


def _number(bound: str) -> Callable[[dict[str, Any]], str]:
    return lambda context: f"{bound} {context[_LIMITS[bound]]} is expected"


_LIMITS = {"more than": "gt", "at least": "ge", "less than": "lt", "at most": "le"}

_EXPECTED: dict[str, str | Callable[[dict[str, Any]], str]] = {
    "string": "text is expected",
    "int": "a whole number is expected",
    "float": "a number is expected",
    "finite": "a number with an end is expected",
    "bool": "true or false is expected",
    "model": "a mapping of keys is expected",
    "dict": "a mapping of keys is expected",
    "mapping": "a mapping of keys is expected",
    "dataclass": "a mapping of keys is expected",
    "list": "a list is expected",
    "tuple": "a list is expected",
    "set": "a list is expected",
    "frozen": "a list is expected",
    "date": "a day is expected, as 2027-06-30",
    "datetime": "a moment is expected, as 2027-06-30T12:00:00Z",
    "timezone": "a moment with its time zone is expected, as 2027-06-30T12:00:00Z",
    "path": "the name of a file is expected",
    "none": "nothing is expected here",
    "string_pattern_mismatch": "this is not how it is written",
    "string_too_short": lambda context: f"at least {context['min_length']} characters are expected",
    "string_too_long": lambda context: f"at most {context['max_length']} characters are expected",
    "too_short": lambda context: f"at least {context['min_length']} of them are expected",
    "too_long": lambda context: f"at most {context['max_length']} of them are expected",
    "greater_than": _number("more than"),
    "greater_than_equal": _number("at least"),
    "less_than": _number("less than"),
    "less_than_equal": _number("at most"),
    "multiple_of": lambda context: f"a multiple of {context['multiple_of']} is expected",
}
"""By pydantic's name of a mistake, or by how such names begin."""


def _explained(model: type[BaseModel], here: Loc, loc: Loc, details: ErrorDetails) -> Complaint:
    """What is wrong and what to do; `here` is what of `loc` is written."""
    kind, given, context = details["type"], details.get("input"), details.get("ctx", {})
    name = str(here[-1]) if here else ""
    complaint = Complaint(loc=here, message="this is not what is expected here")
    if kind == "extra_forbidden":
        hint = did_you_mean(name, _keys_at(model, loc[:-1]))
        return replace(complaint, message=f"unknown key {shown(name)}", hint=hint)
    if kind in ("union_tag_not_found", "model_attributes_type"):  # one of several kinds, which says none
        hint = did_you_mean(name, _keys_at(model, loc[:-1]))
        hint = hint if hint.startswith("did you mean") else f"one that is new says its `{_tag(context)}`"
        return replace(complaint, message=f"unknown key {shown(name)}", hint=hint)
    if kind == "union_tag_invalid":
        known = re.findall(r"'([^']*)'", str(context.get("expected_tags", "")))
        tag, tags = str(context.get("tag", "")), ", ".join(known)
        hint = did_you_mean(tag, known)
        return replace(
            complaint,
            message=f"{_tag(context)} must be one of {tags}, not {shown(tag)}",
            hint="" if hint.startswith("known:") else hint,
        )
    if kind == "value_error":
        message = str(context.get("error", details["msg"]))
        return replace(complaint, message=message.partition("\n")[0])
    if "hint" in context:  # a PydanticCustomError of the caller's own, with what to do
        return replace(complaint, message=details["msg"], hint=str(context["hint"]))
    if kind == "json_invalid":
        return replace(complaint, message=f"not JSON: {context.get('error', 'it cannot be read')}")
    secret = _SECRET_KEY.search(dotted(here)) is not None
    instead = "" if secret or isinstance(given, (bytes, bytearray)) else f", not {shown(given)}"
    if kind in ("enum", "literal_error"):
        expected = str(context.get("expected", ""))
        known = re.findall(r"'([^']*)'", expected)
        of = f"{here[-1]} must be" if here and isinstance(here[-1], str) else "it must be"
        hint = did_you_mean(str(given), known) if isinstance(given, (str, int, float)) else ""
        hint = "" if hint.startswith("known:") else hint  # the message has named them
        return replace(complaint, message=f"{of} {expected}{instead}", hint=hint)
    words = _EXPECTED.get(kind) or _EXPECTED.get(kind.partition("_")[0])
    if words is None:
        return complaint
    message = words if isinstance(words, str) else words(context)
    if kind.endswith(("too_short", "too_long")):
        return replace(complaint, message=message)
    bare = isinstance(given, (int, float)) and not isinstance(given, bool)
    hint = f'quote it: "{given}"' if kind == "string_type" and bare and not secret else ""
    return replace(complaint, message=message + instead, hint=hint)


def _tag(context: Mapping[str, Any]) -> str:
    return str(context.get("discriminator", "kind")).strip("'")


def _keys_at(model: type[BaseModel], loc: Loc) -> set[str]:
    """The keys that the models reached by `loc` know."""
    models: list[Any] = [model]
    for part in loc:
        models = [found for each in models for found in _step(each, part)]
    return {
        field.alias or name
        for each in models
        for flat in _flat(each)
        if isinstance(flat, type) and issubclass(flat, BaseModel)
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
            elif any(field.default == part for name, field in fields.items() if name == "kind"):
                found.append(flat)  # a union's member by what tells it from the others
            elif flat.model_config.get("extra") == "allow":
                found += get_args(get_type_hints(flat, include_extras=True)["__pydantic_extra__"])[1:]
        elif arguments := get_args(flat):
            found.append(arguments[-1] if arguments[-1] is not Ellipsis else arguments[0])
    return found

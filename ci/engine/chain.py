"""The chain of calls that makes an object: what an ID of the embedded session is.

An object of the Dagger API is nothing but the calls that lead to it, `container.from("x").withExec(["y"])`. A
`Call` is one of them, with what it was called on; objects among its arguments are calls again. An ID is that
graph, each call written once, as compressed JSON in base64. So the server keeps no objects, everything is
lazy, and two chains that read the same are the same object. Secrets are in it by name and MAC only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from ci.errors import BadInput

__all__ = ["ITEM", "Call", "decode", "encode"]

ITEM = "[]"
"""The argument of a call that names one object of the list that the call gives: its position."""


class Call:
    """One call of the chain. `args` holds JSON values, calls, and lists of them, defaults filled in.

    `type` is the GraphQL type of what the call returns, `digest` names the whole chain up to here.
    """

    __slots__ = ("args", "digest", "field", "parent", "type")

    digest: str

    def __init__(self, parent: Call | None, type: str, field: str, args: Mapping[str, Any]) -> None:
        self.parent = parent
        self.type = type
        self.field = field
        self.args = dict(args)
        plain = _dump(
            [parent.digest if parent else None, type, field, _swap(self.args, lambda call: call.digest)]
        )
        self.digest = hashlib.sha256(plain).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"{self.parent or ''}.{self.field}".lstrip(".")

    @property
    def name(self) -> str:
        """`Container.withExec`: the type it was called on and the field."""
        return f"{self.parent.type if self.parent else 'Query'}.{self.field}"

    def of_list(self) -> Call:
        """The call that gives the list that this is an object of."""
        return Call(self.parent, self.type, self.field, {k: v for k, v in self.args.items() if k != ITEM})


def encode(call: Call) -> str:
    """The ID of the object that `call` makes."""
    before: Call | None = call
    while before and before not in _NUMBERED:
        before = before.parent
    known: tuple[dict[Call, int], list[bytes]] = ({}, [])
    if before:
        known = _NUMBERED[before]
        _remember(_NUMBERED, before, known)  # as the last one: the next may go on from there, too
    numbers, rows = dict(known[0]), list(known[1])
    for each in _in_order(call, numbers):
        parent = numbers[each.parent] if each.parent else None
        numbers[each] = len(rows)
        rows.append(
            _dump([parent, each.type, each.field, _swap(each.args, lambda arg: {"$call": numbers[arg]})])
        )
    _remember(_NUMBERED, call, (numbers, rows))
    identity = base64.urlsafe_b64encode(zlib.compress(b"[" + b",".join(rows) + b"]", 1)).decode()
    _remember(_NAMED, identity, call)
    return identity


_NUMBERED: dict[Call, tuple[dict[Call, int], list[bytes]]] = {}
"""Of the last IDs their calls by number, and those written: the next ID of a pipeline goes on from there."""
_NAMED: dict[str, Call] = {}
"""The last IDs: what a client was given comes back."""
_MOST = 32

K = TypeVar("K")
V = TypeVar("V")


def _remember(known: dict[K, V], key: K, value: V) -> None:
    known.pop(key, None)
    known[key] = value
    if len(known) > _MOST:
        del known[next(iter(known))]


def decode(identity: str) -> Call:
    """The call that an ID names; BadInput when it is none of ours."""
    if (named := _NAMED.get(identity)) is None:
        named = _decoded(identity)
    _remember(_NAMED, identity, named)
    return named


def _decoded(identity: str) -> Call:
    try:
        rows = json.loads(zlib.decompress(base64.urlsafe_b64decode(identity.encode())))
        calls: list[Call] = []
        for parent, type, field, args in rows:
            calls.append(
                Call(calls[parent] if parent is not None else None, type, field, _restore(args, calls))
            )
        return calls[-1]
    except (ValueError, TypeError, IndexError, AttributeError, binascii.Error, zlib.error) as error:
        raise BadInput(
            f"{identity[:40]!r} is not an ID of the embedded session",
            hint="IDs of one engine mean nothing to another: pass objects, or IDs of the same session",
        ) from error


def _in_order(last: Call, known: Collection[Call]) -> Iterator[Call]:
    """Every call of the graph once, each after those that it needs, but for what is known already. A chain's
    order is that of its parent and what comes to it. A loop, as chains grow long."""
    done = set(known)
    stack = [(last, False)]
    while stack:
        call, ready = stack.pop()
        if call in done:
            continue
        if ready:
            done.add(call)
            yield call
            continue
        stack.append((call, True))
        stack.extend((need, False) for need in reversed([*_needs(call)]) if need not in done)


def _needs(call: Call) -> Iterator[Call]:
    if call.parent:
        yield call.parent
    for value in call.args.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Call):
                yield item


def _swap(value: Any, replace: Any) -> Any:
    kind = type(value)
    if kind is str:  # most are: a chain of hundreds of calls has thousands of them
        return value
    if kind is Call:
        return replace(value)
    if kind is dict:
        return {key: _swap(item, replace) for key, item in value.items()}
    if kind is list:
        return [_swap(item, replace) for item in value]
    return value


def _restore(value: Any, calls: list[Call]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$call"}:
            return calls[value["$call"]]
        return {key: _restore(item, calls) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item, calls) for item in value]
    return value


def _dump(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )

"""Queries that nest deeply: a pipeline of hundreds of calls is one, each call inside of the one before.

A GraphQL library reads by recursion, and stops at some depth. But an object of ours is its chain of calls,
and so is its ID: a long chain is cut in pieces, and each begins at the ID of the one before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from graphql import GraphQLError, Lexer, Source, Token, TokenKind

from ci.errors import BadInput

__all__ = ["LONGEST", "Piece", "as_json", "cut"]

LONGEST = 10_000
"""Calls of one query, each inside of the one before."""
_PIECE = 100
_SKIPPED = {TokenKind.PAREN_L: 1, TokenKind.PAREN_R: -1}
_NAMED = ([TokenKind.NAME], [TokenKind.NAME, TokenKind.COLON, TokenKind.NAME])
_FRAGMENT = [TokenKind.SPREAD, TokenKind.NAME, TokenKind.NAME]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a chain."""

    header: str
    """What stands before the first brace of the query."""
    names: tuple[str, ...]
    """What its calls are named in the answer, without the last one's own fields."""
    body: str
    """Its selections in braces: the ID where it ends, or all that the query asks for there."""

    def after(self, identity: str, type: str) -> str:
        """The query of this piece as one that begins at an object."""
        return f"{self.header}{{ node(id: {json.dumps(identity)}) {{ ... on {type} {self.body} }} }}"


def cut(text: str) -> list[Piece]:
    """The pieces of a query that nests deeply, in order; none of one that does not, or is no chain there.

    BadInput for a chain that is too long.
    """
    if text.count("{") <= _PIECE:
        return []
    try:
        tokens = _tokens(text)
        names, braces = _chain(tokens)
    except GraphQLError:
        return []  # told by who reads it as a whole
    if len(braces) > LONGEST:
        raise BadInput(
            f"the query nests {len(braces)} calls, more than {LONGEST}",
            hint="use the ID of an object on the way",
        )
    cuts = list(range(0, len(braces), _PIECE))
    if len(cuts) < 2 or not (end := _end(tokens, braces[cuts[-1]], cuts[-1])):
        return []
    places = [tokens[brace].start for brace in braces]
    header = text[: places[0]]
    pieces = [
        Piece(
            header=header,
            names=tuple(name for name in names[first:last] if name),
            body=f"{text[places[first] : places[last]]}{{ id }}{'}' * (last - first)}",
        )
        for first, last in pairwise(cuts)
    ]
    return [*pieces, Piece(header=header, names=(), body=text[places[cuts[-1]] : end])]


def _tokens(text: str) -> list[Token]:
    lexer, found = Lexer(Source(text)), []
    while (token := lexer.advance()).kind is not TokenKind.EOF:
        found.append(token)
    return found


def _chain(tokens: Sequence[Token]) -> tuple[list[str], list[int]]:
    """The braces that open inside of each other with one call between each two; and how the call is named in
    the answer, empty for a fragment, which is not."""
    names: list[str] = []
    braces: list[int] = []
    between: list[Token] = []
    inside = 0
    for number, token in enumerate(tokens):
        if token.kind in _SKIPPED:
            inside += _SKIPPED[token.kind]
        elif inside:
            continue
        elif token.kind is TokenKind.BRACE_L:
            kinds = [each.kind for each in between]
            if braces and kinds not in _NAMED and kinds != _FRAGMENT:
                break
            if braces:
                names.append(str(between[0].value) if kinds in _NAMED else "")
            braces.append(number)
            between = []
        elif token.kind is TokenKind.BRACE_R:
            break
        else:
            between.append(token)
    return names, braces


def _end(tokens: Sequence[Token], brace: int, depth: int) -> int:
    """Where the text ends that a brace opens, if nothing but the ends of those around it follows; else 0."""
    open_ = 0
    for number in range(brace, len(tokens)):
        open_ += {TokenKind.BRACE_L: 1, TokenKind.BRACE_R: -1}.get(tokens[number].kind, 0)
        if not open_:
            rest = tokens[number + 1 :]
            alone = len(rest) == depth and all(each.kind is TokenKind.BRACE_R for each in rest)
            return tokens[number].end if alone else 0
    return 0


def as_json(response: Mapping[str, Any]) -> str:
    """JSON of a response, whose data may nest as deeply as its query."""
    return "{" + ",".join(f"{json.dumps(name)}:{_nested(value)}" for name, value in response.items()) + "}"


def _nested(value: Any) -> str:
    names = []
    while isinstance(value, dict) and len(value) == 1:
        ((name, value),) = value.items()
        names.append(json.dumps(name))
    return "".join(f"{{{name}:" for name in names) + json.dumps(value) + "}" * len(names)

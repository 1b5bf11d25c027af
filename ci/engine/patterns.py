"""Which files of a tree are meant: include and exclude patterns, and .gitignore files.

Patterns are those of a .dockerignore file, as Dagger and BuildKit read them: a path from the root, `*` within
one name, `**` over any number of folders, `!` for an exception; what holds for a folder holds for all in it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import TextIOWrapper
from typing import Any

import pathspec

from ci.engine.tree import Entry, Tree
from ci.errors import BadInput

__all__ = ["choose", "glob", "ignore_file", "matcher"]


def choose(
    tree: Tree,
    root: Entry,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    gitignore: bool = False,
) -> list[tuple[str, Entry]]:
    """What is meant below `root`, by name relative to it, each folder before what is in it; the root is
    ``""``.

    With `include` a folder that holds nothing included is left out.
    """
    included, excluded = matcher(include), matcher(exclude)
    exceptions = any(pattern.lstrip().startswith("!") for pattern in exclude)
    chosen: list[tuple[str, Entry]] = [("", root)]

    def visit(
        folder: Entry, name: str, waiting: list[tuple[str, Entry]], ignores: list[_Ignore]
    ) -> Iterator[Iterator[Any]]:
        """Gives the visit of each folder in it, to be made before it goes on."""
        if gitignore:
            ignores = ignores + _ignore_of(tree, folder, name)
        for entry in tree.children(folder):
            path = posixpath.join(name, entry.name)
            if gitignore and (entry.name == ".git" or _ignored(ignores, path, entry.is_dir)):
                continue
            out = excluded(path)
            if out and not (entry.is_dir and exceptions):
                continue
            wanted = not out and (not include or included(path))
            if wanted:
                chosen.extend(waiting)
                waiting.clear()
                chosen.append((path, entry))
            if entry.is_dir:
                before = len(chosen)
                ahead = [] if wanted else [*waiting, (path, entry)]
                yield visit(entry, path, ahead, ignores)
                if not wanted and len(chosen) > before:
                    waiting.clear()

    visits = [visit(root, "", [], [])] if root.is_dir else []
    while visits:  # a loop: folders nest deeper than Python calls functions
        inner = next(visits[-1], None)
        if inner is None:
            visits.pop()
        else:
            visits.append(inner)
    return chosen


def ignore_file(data: bytes) -> list[str]:
    """The patterns of a .dockerignore file: without comments, blanks at the ends and a byte order mark.

    As moby/patternmatcher reads it (ignorefile.ReadAll): a comment begins its line, a path from the root may
    have a slash or not, blanks may follow a `!`.
    """
    patterns = []
    for line in data.decode("utf-8-sig", errors="surrogateescape").split("\n"):
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        negated = pattern.startswith("!")
        pattern = pattern.removeprefix("!").strip()
        if negated and not pattern:
            raise BadInput(
                "a line of the ignore file is a ! and nothing more", hint="write !path, or remove it"
            )
        patterns.append(("!" if negated else "") + pattern)
    return patterns


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path, or a folder that it is in, matches; the last pattern that does decides."""
    rules = []
    for text in patterns:
        pattern = text.strip()
        if pattern:
            rules.append((pattern.startswith("!"), _Glob(pattern.removeprefix("!"))))

    def matches(path: str) -> bool:
        result = False
        for negated, one in rules:
            if one.match(path):
                result = not negated
        return result

    return matches


def glob(pattern: str, names: Iterator[str] | Sequence[str]) -> list[str]:
    """The names that match one pattern themselves."""
    meant = _Glob(pattern, inside=False)
    return [name for name in names if meant.match(name)]


class _Glob:
    """What moby/patternmatcher makes of a pattern. BadInput for what it refuses.

    With a star or two it is a regular expression. With more, which that would take for ever to give up, all
    that the pattern may still mean is followed at once: a state is a set of places in the pattern, as bits.
    """

    def __init__(self, pattern: str, *, inside: bool = True) -> None:
        steps = list(_steps(pattern))
        self._steps = steps + (_INSIDE if inside else [])
        few = sum(step.stays for step in steps) <= _FEW
        text = "".join(step.text for step in self._steps)
        self._regex = re.compile(f"(?s:{text})\\Z") if few else None
        self._start = self._ahead(1)
        self._known: dict[tuple[int, str], int] = {}

    def match(self, path: str) -> bool:
        if self._regex:
            return self._regex.match(path) is not None
        state, known = self._start, self._known
        for char in path:
            after = known.get((state, char))
            if after is None:
                if len(known) > _MOST_KNOWN:
                    known.clear()
                after = known[state, char] = self._after(state, char)
            if not after:
                return False
            state = after
        return bool(state >> len(self._steps) & 1)

    def _after(self, state: int, char: str) -> int:
        after = 0
        for place, step in enumerate(self._steps):
            if state >> place & 1 and step.takes and step.takes(char):
                after |= 1 << place + (not step.stays)
        return self._ahead(after)

    def _ahead(self, state: int) -> int:
        """With the places that are reached without a character."""
        for place, step in enumerate(self._steps):
            if state >> place & 1:
                state |= sum(1 << place + skipped for skipped in step.skips)
        return state


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A place in a pattern: what character it takes, whether it stays there then, how far it leads without
    one; and its part of a regular expression."""

    text: str
    takes: Callable[[str], object] | None = None
    stays: bool = False
    skips: tuple[int, ...] = ()


_MOST_KNOWN = 20_000
_FEW = 2
_NO_SLASH = _Step(text="[^/]", takes="/".__ne__)
_STAR = _Step(text="[^/]*", takes="/".__ne__, stays=True, skips=(1,))
_ALL = _Step(text=".*", takes=bool, stays=True, skips=(1,))
_MAYBE = _Step(text="(?:", skips=(1, 3))
"""The two steps that follow, or none of them."""
_FOLDERS = [_MAYBE, _ALL, _Step(text="/)?", takes="/".__eq__)]
_INSIDE = [_MAYBE, _Step(text="/", takes="/".__eq__), replace(_ALL, text=".*)?")]


def _steps(pattern: str) -> Iterator[_Step]:
    clean = posixpath.normpath(pattern.strip().lstrip("/") or "/")
    first, at = True, 0
    while at < len(clean):
        char = clean[at]
        if clean.startswith("**", at):
            at += 2
            rest = clean[at:]
            if not rest or (first and not rest.startswith("/") and not set(rest) & set("*?[\\")):
                yield _ALL  # at the end everything; before a plain ending any path that ends so
            else:
                at += rest.startswith("/")
                yield from _FOLDERS
            first = False
            continue
        first = False
        if char == "*":
            yield _STAR
        elif char == "?":
            yield _NO_SLASH
        elif char == "[":
            end = clean.find("]", at + 2)
            if end < 0:
                raise BadInput(
                    f"the pattern {pattern!r} has a [ without its ]", hint="write \\[ for the letter itself"
                )
            body = clean[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            try:
                one = re.compile(f"[{'^' + body[1:] if body[0] in '!^' else body}]")
            except re.error:
                raise BadInput(f"the pattern {pattern!r} has a range in [ ] that is none") from None
            yield _Step(text=one.pattern, takes=one.match)
            at = end
        elif char == "\\":
            at += 1
            if at == len(clean):
                raise BadInput(
                    f"the pattern {pattern!r} ends with a \\", hint="write it twice for the letter itself"
                )
            yield _Step(text=re.escape(clean[at]), takes=clean[at].__eq__)
        else:
            yield _Step(text=re.escape(char), takes=char.__eq__)
        at += 1


_Ignore = tuple[str, pathspec.GitIgnoreSpec]


def _ignore_of(tree: Tree, folder: Entry, name: str) -> list[_Ignore]:
    entry = tree.child(folder, ".gitignore")
    if entry is None or not entry.is_file:
        return []
    with TextIOWrapper(entry.open(), encoding="utf-8", errors="replace") as file:
        return [(name, pathspec.GitIgnoreSpec.from_lines(file))]


def _ignored(ignores: Sequence[_Ignore], path: str, is_dir: bool) -> bool:
    """The .gitignore file nearest to the path decides; those above it only where it says nothing."""
    for base, spec in reversed(ignores):
        inner = posixpath.relpath(path, base) if base else path
        verdict = spec.check_file(inner + "/" if is_dir else inner).include
        if verdict is not None:
            return verdict
    return False

"""The search itself, in a process of its own: a pattern may take for ever, and `re` lets nobody else work.

A pattern is a regular expression of Python, which is what ripgrep's are but for its rarer classes. Files with
a NUL are binary and skipped, lines that are not UTF-8 too. Positions are bytes.

From stdin comes a JSON object (`layers`: folders, lowest first; `path`; `name` for a file; `args`: those of
the call; `seconds` of processor time), to stdout goes a JSON line a result, or one with `error` and `hint`.
"""

from __future__ import annotations

import json
import posixpath
import re
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import pathspec

from ci.engine.tree import MOST_BYTES, Entry, Tree
from ci.errors import BadInput

__all__ = ["main"]

_MEMORY = 2 << 30
_MOST_ANSWERED = 8 << 20
"""Characters of all results."""
_MOST_SUBMATCHES = 20_000
"""Of one result."""

Named = tuple[str, Entry]
Found = dict[str, Any]


def main() -> None:
    """Answer what is asked on stdin; the kernel ends what takes too long."""
    asked = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (asked["seconds"], asked["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    size = 0
    try:
        for found in _asked(asked):
            line = json.dumps(found)
            size += len(line)
            if size > _MOST_ANSWERED:
                raise _too_much(f"more than {_MOST_ANSWERED >> 20} MiB of results")
            print(line)
    except BadInput as error:
        print(json.dumps({"error": str(error), "hint": error.hint}))
    except MemoryError:
        print(json.dumps({"error": "the search needs more memory than there is for one", "hint": ""}))


def _too_much(what: str) -> BadInput:
    return BadInput(
        f"the search finds {what}", hint="search for more, in fewer files, or set limit or files_only"
    )


def _asked(asked: Mapping[str, Any]) -> Iterator[Found]:
    args, tree = asked["args"], Tree([Path(layer) for layer in asked["layers"]])
    entry = tree.need(asked["path"])
    pattern = _pattern(args)
    files = _meant(tree, entry, args) if asked["name"] is None else [(asked["name"], entry)]
    every = (
        found
        for name, file in files
        for found in islice(_matches(name, file, pattern, args), 1 if args["filesOnly"] else None)
    )
    return islice(every, None if args["filesOnly"] else args["limit"])


def _meant(tree: Tree, root: Entry, args: Mapping[str, Any]) -> list[Named]:
    """The files to be searched, by their path from the folder."""
    starts = [posixpath.normpath(path.lstrip("/") or ".") for path in args["paths"]] or ["."]
    for start in starts:
        if start == ".." or start.startswith("../"):
            raise BadInput(f"path cannot escape directory: {start}")
    globs = pathspec.GitIgnoreSpec.from_lines(args["globs"])
    only = any(not pattern.startswith("!") for pattern in args["globs"])
    ignores = _ignores(tree, root) if args["skipIgnored"] else {}
    found: dict[str, Entry] = {}
    for start in starts:
        entry = tree.need(posixpath.join(root.path, start) if start != "." else root.path)
        for each in [entry] if entry.is_file else [one for one in tree.walk(entry) if one.is_file]:
            name = start if each is entry else posixpath.normpath(posixpath.join(start, _below(entry, each)))
            hidden = args["skipHidden"] and any(part.startswith(".") for part in name.split("/"))
            verdict = globs.check_file(name).include
            chosen = verdict if verdict is not None else not only
            if chosen and not hidden and not _ignored(ignores, name):
                found[name] = each
    return list(found.items())


def _below(folder: Entry, entry: Entry) -> str:
    return entry.path[len(folder.path) :].lstrip("/")


def _ignores(tree: Tree, root: Entry) -> dict[str, pathspec.GitIgnoreSpec]:
    """By folder, what its ignore files say. A .gitignore counts in a git repository only."""
    names = [".ignore", ".rgignore"]
    if tree.child(root, ".git"):
        names.insert(0, ".gitignore")
    lines: dict[str, list[str]] = {}
    for entry in tree.walk(root):
        if entry.name in names and entry.is_file:
            with entry.open() as file:
                text = file.read(MOST_BYTES).decode(errors="replace")
            lines.setdefault(posixpath.dirname(_below(root, entry)), []).extend(text.splitlines())
    return {folder: pathspec.GitIgnoreSpec.from_lines(text) for folder, text in lines.items()}


def _ignored(ignores: Mapping[str, pathspec.GitIgnoreSpec], name: str) -> bool:
    """Whether a file, or a folder that it is in, is ignored; the nearest file that says something decides."""
    parts = name.split("/") if ignores else []
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end]) + ("/" if end < len(parts) else "")
        for start in range(end - 1, -1, -1):
            folder = "/".join(parts[:start])
            if folder in ignores:
                verdict = ignores[folder].check_file(path[len(folder) :].lstrip("/")).include
                if verdict:
                    return True
                if verdict is False:
                    break
    return False


def _pattern(args: Mapping[str, Any]) -> re.Pattern[str]:
    text = re.escape(args["pattern"]) if args["literal"] else args["pattern"]
    flags = re.MULTILINE
    flags |= re.IGNORECASE if args["insensitive"] else re.NOFLAG
    flags |= re.DOTALL if args["multiline"] and args["dotall"] else re.NOFLAG
    if not args["multiline"] and "\n" in args["pattern"]:
        raise BadInput("a pattern with a line's end finds nothing in one line", hint="set multiline")
    try:
        return re.compile(text, flags)
    except re.error as error:
        raise BadInput(f"the pattern {args['pattern'][:200]!r}: {error}") from error
    except (OverflowError, RecursionError) as error:
        raise BadInput(
            f"the pattern {args['pattern'][:200]!r} repeats or nests more than can be searched for"
        ) from error


def _matches(name: str, entry: Entry, pattern: re.Pattern[str], args: Mapping[str, Any]) -> Iterator[Found]:
    with entry.open() as file:
        data = file.read(MOST_BYTES)
    if b"\0" in data:
        return
    blocks = _in_all(data, pattern) if args["multiline"] else _by_line(data, pattern)
    for number, offset, text, found in blocks:
        if args["filesOnly"]:
            yield _record(name, 0, 0, "", [])
            return
        yield _record(name, number, offset, text, found)


Block = tuple[int, int, str, list[tuple[int, str]]]
"""Lines that match: the first one's number and offset, their text, and where in it what was matched."""


def _by_line(data: bytes, pattern: re.Pattern[str]) -> Iterator[Block]:
    offset = 0
    for number in count(1):
        if offset > len(data):
            return
        line = data[offset : stop if (stop := data.find(b"\n", offset)) >= 0 else len(data)]
        end = b"\n" if stop >= 0 else b""
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = None
        if text is not None and (text or end):
            found = [
                (one.start(), one.group()) for one in islice(pattern.finditer(text), _MOST_SUBMATCHES + 1)
            ]
            if found:
                yield number, offset, text + end.decode(), found
        offset += len(line) + 1


def _in_all(data: bytes, pattern: re.Pattern[str]) -> Iterator[Block]:
    """Matches over lines; those that share a line are one result."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    start = end = -1
    found: list[tuple[int, str]] = []
    for match in pattern.finditer(text):
        first = text.rfind("\n", 0, match.start()) + 1
        last = text.find("\n", max(match.end() - 1, match.start())) + 1 or len(text)
        if found and first < end:
            end = max(end, last)
        else:
            if found:
                yield text.count("\n", 0, start) + 1, len(text[:start].encode()), text[start:end], found
            start, end, found = first, last, []
        found.append((match.start() - start, match.group()))
        if len(found) > _MOST_SUBMATCHES:
            break
    if found:
        yield text.count("\n", 0, start) + 1, len(text[:start].encode()), text[start:end], found


def _record(name: str, number: int, offset: int, text: str, found: Sequence[tuple[int, str]]) -> Found:
    if len(found) > _MOST_SUBMATCHES:
        raise _too_much(f"its pattern more than {_MOST_SUBMATCHES} times in one line of {name}")
    submatches = []
    here = start = 0
    for where, matched in found:
        start += len(text[here:where].encode())
        here = where
        submatches.append({"text": matched, "start": start, "end": start + len(matched.encode())})
    return {
        "filePath": name,
        "lineNumber": number,
        "absoluteOffset": offset,
        "matchedLines": text,
        "submatches": submatches,
    }

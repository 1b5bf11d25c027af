"""Answers of Directory.search and File.search: lines that match a pattern, as ripgrep tells them.

A pattern is a regular expression of Python, which is what ripgrep's are but for its rarer classes. Files with
a NUL are binary and skipped, lines that are not UTF-8 too. Positions are bytes.
"""

from __future__ import annotations

import asyncio
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pathspec

from ci.engine.chain import Call
from ci.engine.engine import Engine, answer
from ci.engine.files import base_name, inside
from ci.engine.tree import MOST_BYTES, Entry, Tree
from ci.engine.values import Directory, File, Record
from ci.errors import BadInput

__all__: list[str] = []

Named = tuple[str, Entry]


@answer("Directory.search")
async def directory_search(engine: Engine, parent: Directory, call: Call) -> list[Record]:
    def find() -> list[Record]:
        tree = engine.tree(parent.layers)
        return _found(_meant(tree, parent, call.args), call.args)

    return await asyncio.to_thread(find)


@answer("File.search")
async def file_search(engine: Engine, parent: File, call: Call) -> list[Record]:
    def find() -> list[Record]:
        return _found([(base_name(parent), engine.tree(parent.layers).need(parent.path))], call.args)

    return await asyncio.to_thread(find)


@answer("SearchResult.submatches")
async def submatches(engine: Engine, parent: Record, call: Call) -> list[Record]:
    found: list[Record] = parent.fields["submatches"]
    return found


def _meant(tree: Tree, place: Directory, args: Mapping[str, Any]) -> list[Named]:
    """The files to be searched, by their path from the folder."""
    root = tree.need(place.path)
    starts = [posixpath.normpath(path.lstrip("/") or ".") for path in args["paths"]] or ["."]
    for start in starts:
        if start == ".." or start.startswith("../"):
            raise BadInput(f"path cannot escape directory: {start}")
    globs = pathspec.GitIgnoreSpec.from_lines(args["globs"])
    only = any(not pattern.startswith("!") for pattern in args["globs"])
    ignores = _ignores(tree, root) if args["skipIgnored"] else {}
    found: dict[str, Entry] = {}
    for start in starts:
        entry = tree.need(inside(place, start))
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


def _found(files: Sequence[Named], args: Mapping[str, Any]) -> list[Record]:
    pattern = _pattern(args)
    every = (
        record
        for name, entry in files
        for record in islice(_matches(name, entry, pattern, args), 1 if args["filesOnly"] else None)
    )
    return list(islice(every, None if args["filesOnly"] else args["limit"]))


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
        raise BadInput(f"the pattern {args['pattern']!r}: {error}") from error


def _matches(name: str, entry: Entry, pattern: re.Pattern[str], args: Mapping[str, Any]) -> Iterator[Record]:
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
    for number, line in enumerate(data.split(b"\n"), 1):
        end = b"\n" if offset + len(line) < len(data) else b""
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = None
        if text is not None and (text or end):
            found = [(match.start(), match.group()) for match in pattern.finditer(text)]
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
    if found:
        yield text.count("\n", 0, start) + 1, len(text[:start].encode()), text[start:end], found


def _record(name: str, number: int, offset: int, text: str, found: Sequence[tuple[int, str]]) -> Record:
    def submatch(where: int, matched: str) -> Record:
        start = len(text[:where].encode())
        return Record({"text": matched, "start": start, "end": start + len(matched.encode())})

    return Record(
        {
            "filePath": name,
            "lineNumber": number,
            "absoluteOffset": offset,
            "matchedLines": text,
            "submatches": [submatch(*each) for each in found],
        }
    )

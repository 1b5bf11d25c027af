"""A search that tries every way there is, or finds more than anybody reads: it ends, in one line."""

from __future__ import annotations

from typing import Any

import dagger
import pytest

from ci.engine import search

_TOLD = [
    ("a" * 40 + "b", "^(a+)+$", "took more than 1 s"),
    ("x" * 100_000, "x", "more than 20000 times in one line"),
    ("word and word\n" * 60_000, "word", "more than 8 MiB of results"),
    ("x", "a{99999999999}", "repeats or nests more"),
    ("x", "(" * 2000 + ")" * 2000, "repeats or nests more"),
]


def test_a_search_ends(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_SECONDS", 1)

    async def pipeline(client: dagger.Client, base: dagger.Container) -> list[str]:
        told = []
        for text, pattern, _ in _TOLD:
            with pytest.raises(dagger.QueryError) as error:
                await client.directory().with_new_file("f", text).search(pattern)
            told.append(str(error.value))
        with pytest.raises(dagger.QueryError, match="limit -1"):
            await client.file("f", "x").search("x", limit=-1)
        return told

    for said, (_, pattern, told) in zip(machine.run(pipeline), _TOLD, strict=True):
        assert told in said and "Traceback" not in said, pattern

"""What a command prints, as it is read: many lines at once, each whole, secrets hidden."""

from __future__ import annotations

import asyncio

import pytest

from ci.engine.masking import Masker
from ci.engine.run import Printed, _read


def _told(*chunks: bytes, secret: bytes = b"") -> tuple[list[str], Printed]:
    async def main() -> tuple[list[str], Printed]:
        masker, told = Masker(), list[str]()
        if secret:
            masker.add(secret)
        streams = {"stdout": asyncio.StreamReader(), "stderr": asyncio.StreamReader()}
        streams["stderr"].feed_eof()
        reading = asyncio.ensure_future(_read(streams, masker, told.append, {}, lambda: None))
        for chunk in chunks:
            streams["stdout"].feed_data(chunk)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        streams["stdout"].feed_eof()
        return told, (await reading)[0]

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\n", b"c"], ["a", "b", "c"]),
        ([b"a", b"b\n", b"\n"], ["ab", ""]),
        ([b"gr\xc3", b"\xbcn\nrot\n"], ["grün", "rot"]),
        ([b"one\r\ntwo\r\n"], ["one\r", "two\r"]),
        ([b"\xff\n"], ["\ufffd"]),
    ],
)
def test_lines_are_whole_however_they_come(chunks: list[bytes], lines: list[str]) -> None:
    told, printed = _told(*chunks)

    assert "\n".join(told).split("\n") == lines
    assert printed.text == b"".join(chunks).decode(errors="replace")


def test_a_secret_that_comes_in_two_parts_is_hidden() -> None:
    told, printed = _told(b"the pass", b"word1 is\nlong\n", secret=b"password1")

    assert told == ["the *** is\nlong"] and "password1" not in printed.text


def test_short_lines_are_told_together() -> None:
    told, _ = _told(b"a\n" * 30_000, b"b\n" * 30_000)

    assert len(told) < 10 and sum(text.count("\n") + 1 for text in told) == 60_000

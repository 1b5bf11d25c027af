"""Standard output and standard error as the command has them: no print can fail in the middle of work.

A reader that goes away (`va … | head -1`) has had enough: what is still said goes nowhere, and the work, and
its exit code, are what they would have been. The same holds for a stream that was closed before the start
(`>&-`). A result that could not be written (a full disk) is remembered in `Output.problem`, for the end.
"""

from __future__ import annotations

import io
import os
import select
import sys

__all__ = ["Output", "replace_streams"]


class Output(io.FileIO):
    """A descriptor to write to, which becomes /dev/null when nothing takes what is written any more."""

    problem: OSError | None = None
    """Why something could not be written, if not because its reader left."""

    def write(self, data: io.ReadableBuffer, /) -> int:  # type: ignore[name-defined]
        """All of it, or nothing ever again."""
        rest = memoryview(data).cast("B")
        try:
            while rest:
                written = super().write(rest)
                if written is None:  # a terminal that somebody has told not to wait
                    select.select([], [self], [])
                rest = rest[written or 0 :]
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.problem = error
            _nowhere(self.fileno())
        return memoryview(data).nbytes


def replace_streams() -> Output:
    """Put both streams in place of Python's own; returns standard output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: what is opened next would get this number, and be printed into
            _nowhere(number)
    outputs = []
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # was closed at the start
            nowhere = os.open(os.devnull, os.O_WRONLY)
            output = Output(nowhere, "w")
        else:
            stream.flush()
            output = Output(number, "w", closefd=False)
        wrapper = io.TextIOWrapper(
            io.BufferedWriter(output),
            encoding=stream.encoding if stream is not None else "utf-8",
            errors="backslashreplace",  # a terminal that knows no ✓ is no reason to end
            line_buffering=number == 2 or output.isatty(),
        )
        setattr(sys, name, wrapper)
        outputs.append(output)
    return outputs[0]


def _nowhere(number: int) -> None:
    found = os.open(os.devnull, os.O_RDWR)
    if found != number:
        os.dup2(found, number)
        os.close(found)

"""How long work tells a person what it does: named steps with a status, a time and a last line.

Pipelines and the machinery see only `Reporter`. A step may be under another one: together they are a tree.
On a terminal `console_reporter` draws a live table,
elsewhere it prints a line as a step starts and one as it ends; all on stderr: stdout is free for `--json`.
            step._changed = self._now_and_then(step)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = ["Reporter", "SilentReporter", "Step", "StepStatus", "console_reporter"]


class StepStatus(StrEnum):
    """What became of a step."""

    RUNNING = "running"
    DONE = "done"
    CACHED = "cached"
    SKIPPED = "skipped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


_NAME_WIDTH = 72
_QUIET_SECONDS = 30.0
_LOOK = {
    StepStatus.RUNNING: ("…", "cyan"),
    StepStatus.DONE: ("✓", "green"),
    StepStatus.CACHED: ("✓", "blue"),
    StepStatus.SKIPPED: ("-", "yellow"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.INTERRUPTED: ("✗", "yellow"),
}


@dataclass
class Step:
    """One step while it runs. Whoever runs it says what it is doing now and, if so, that it was cached."""

    name: str
    status: StepStatus = StepStatus.RUNNING
    detail: str = ""
    started: float = field(default_factory=lambda: time.monotonic())
    seconds: float = 0.0
    under: Step | None = None
    inner: list[Step] = field(default_factory=list)
    _changed: Callable[[], None] = lambda: None

    def say(self, detail: str) -> None:
        """Show what the step does now (one line, the newest wins); kept as its result when it ends."""
        self.detail = detail
        self._changed()

    def cached(self, detail: str = "") -> None:
        """The result was there already: nothing had to be done."""
        self._settle(StepStatus.CACHED, detail)

    def skipped(self, detail: str) -> None:
        """The step was left out; `detail` says why."""
        self._settle(StepStatus.SKIPPED, detail)

    def _settle(self, status: StepStatus, detail: str) -> None:
        self.status = status
        self.detail = detail or self.detail
        self._changed()


class Reporter(Protocol):
    """Where steps are told of."""

    def step(self, name: str, *, under: Step | None = None) -> AbstractContextManager[Step]:
        """`with reporter.step("build api") as step:` shows it until the block ends, then how it ended.

        `under` is the step that it is a part of, which ends after it.
        """
        ...

    def note(self, text: str) -> None:
        """One line that stays: a finding, a warning, an address."""
        ...


@contextmanager
def _watched(step: Step, ended: Callable[[Step], None]) -> Iterator[Step]:
    try:
        yield step
    except (KeyboardInterrupt, GeneratorExit):
        step.status = StepStatus.INTERRUPTED
        raise
    except BaseException as error:
        cancelled = type(error).__name__ == "CancelledError"
        step.status = StepStatus.INTERRUPTED if cancelled else StepStatus.FAILED
        raise
    else:
        if step.status is StepStatus.RUNNING:
            step.status = StepStatus.DONE
    finally:
        step.seconds = time.monotonic() - step.started
        ended(step)


class SilentReporter:
    """Says nothing: for tests and for callers that only want the result."""

    @contextmanager
    def step(self, name: str, *, under: Step | None = None) -> Iterator[Step]:
        with _watched(Step(name, under=under), lambda _: None) as step:
            yield step

    def note(self, text: str) -> None:
        pass


class _LineReporter:
    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, name: str, *, under: Step | None = None) -> Iterator[Step]:
        # Lines of steps that run at the same time mix: each says what it is a part of.
        name = _one_line(name if under is None else f"{under.name} › {name}")
        self._console.print(Text(f"  … {name}"))
        with _watched(Step(name, under=under), lambda step: self._console.print(_row_text(step))) as step:
            step._changed = self._now_and_then(step)
            yield step

    def _now_and_then(self, step: Step) -> Callable[[], None]:
        said = step.started

        def changed() -> None:
            nonlocal said
            now = time.monotonic()
            if step.status is StepStatus.RUNNING and now - said >= _QUIET_SECONDS:
                said = now
                self._console.print(Text(f"  … {step.name} {now - step.started:.0f} s  {step.detail}"))

        return changed

    def note(self, text: str) -> None:
        self._console.print(Text(text))


class _LiveReporter:
    """Running steps at the bottom of the screen, redrawn; ended ones scroll up as plain lines.

    A tree scrolls up as a whole, when what all of it is under has ended.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: list[Step] = []
        self._live: Live | None = None

    @contextmanager
    def step(self, name: str, *, under: Step | None = None) -> Iterator[Step]:
        step = Step(_one_line(name), under=under)
        (self._running if under is None else under.inner).append(step)
        if self._live is None:
            self._live = Live(
                console=self._console, get_renderable=self._draw, refresh_per_second=8, transient=True
            )
            self._live.start()
        with _watched(step, self._ended):
            yield step

    def note(self, text: str) -> None:
        self._console.print(Text(text))

    def _ended(self, step: Step) -> None:
        if step.under is not None:
            return
        self._running.remove(step)
        for guide, each in _tree(step):
            self._console.print(_row_text(each, guide))
        if not self._running and self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        now = time.monotonic()
        width = max(20, self._console.width - 40)
        for guide, step in (pair for root in self._running for pair in _tree(root)):
            mark, style = _LOOK[step.status]
            seconds = now - step.started if step.status is StepStatus.RUNNING else step.seconds
            detail = Text(step.detail[-width:], style="dim", overflow="ellipsis", no_wrap=True)
            table.add_row(Text(f"  {guide}{mark}", style=style), step.name, f"{seconds:6.1f} s", detail)
        return table


def _tree(step: Step, above: str = "") -> Iterator[tuple[str, Step]]:
    """The step and all under it, each with the lines that lead to it from the left."""
    yield above, step
    for number, inner in enumerate(step.inner):
        last = number == len(step.inner) - 1
        before = above.replace("├ ", "│ ").replace("└ ", "  ")
        yield from _tree(inner, before + ("└ " if last else "├ "))


def _one_line(name: str) -> str:
    """A step may be named after a command of several lines."""
    line = " ".join(name.split())
    return line if len(line) <= _NAME_WIDTH else line[: _NAME_WIDTH - 1] + "…"


def _row_text(step: Step, guide: str = "") -> Text:
    mark, style = _LOOK[step.status]
    word = "" if step.status is StepStatus.DONE else f" {step.status}"
    detail = f"  {step.detail}" if step.detail else ""
    return Text.assemble(
        (f"  {guide}{mark} ", style), step.name, (f" {step.seconds:.1f} s{word}{detail}", "dim")
    )


def console_reporter(console: Console | None = None) -> Reporter:
    """A live display on a terminal, plain lines elsewhere; both on stderr. NO_COLOR is obeyed by rich."""
    console = console or Console(file=sys.stderr, highlight=False, soft_wrap=True)
    return _LiveReporter(console) if console.is_terminal else _LineReporter(console)

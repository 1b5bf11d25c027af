"""How long work tells a person what it does: named steps with a status, a time and a last line.

Pipelines and the machinery see only `Reporter`. A step may be under another one: together they are a tree.
On a terminal `console_reporter` draws the steps that run and lets the ended ones scroll up; elsewhere (a log)
it prints a line as a step ends, and a sign of life where nothing ended for long. All of it goes to stderr:
stdout is free for `--json`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Event, Lock, Thread
from typing import Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live

from ci.layout import Line, Page, clean, lines, page, screen, short, width_of, words

__all__ = ["Reporter", "SilentReporter", "Step", "StepStatus", "console_reporter"]


class StepStatus(StrEnum):
    """What became of a step."""

    RUNNING = "running"
    DONE = "done"
    CACHED = "cached"
    SKIPPED = "skipped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


_COMMAND_WIDTH = 72
_SILENCE_SECONDS = (30.0, 300.0)
"""A log that was silent for so long says what runs: at first, and from then on. Half a minute: whoever looks
wants to know what it hangs on. Five: some CI services take a job for dead after ten without a line."""
_TIME_WIDTH = 12
_DETAIL_WIDTH = 16
"""Where there is no more room than this for what a step does now, it is left out."""
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

    def say(self, detail: str) -> None:
        """Show what the step does now (one line, the newest wins); kept as its result when it ends."""
        self.detail = detail

    def cached(self, detail: str = "") -> None:
        """The result was there already: nothing had to be done."""
        self._settle(StepStatus.CACHED, detail)

    def skipped(self, detail: str) -> None:
        """The step was left out; `detail` says why."""
        self._settle(StepStatus.SKIPPED, detail)

    def _settle(self, status: StepStatus, detail: str) -> None:
        self.status = status
        self.detail = detail or self.detail


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
    """For a log: a line a step, when it has ended."""

    def __init__(self, console: Console, width: int | None, silence: tuple[float, float]) -> None:
        self._console = console
        self._width = width
        self._silence = silence
        self._running: list[Step] = []
        self._lock = Lock()
        self._printed = Event()
        self._watcher: Thread | None = None

    @contextmanager
    def step(self, name: str, *, under: Step | None = None) -> Iterator[Step]:
        # Lines of steps that run at the same time mix: each says what it is a part of.
        name = _one_line(name)
        step = Step(name if under is None else f"{under.name} › {name}", under=under)
        with self._lock:
            self._running.append(step)
            if self._watcher is None:
                self._watcher = Thread(target=self._watch, name="signs of life", daemon=True)
                self._watcher.start()
        with _watched(step, self._ended):
            yield step

    def note(self, text: str) -> None:
        self._print(words(text))

    def _ended(self, step: Step) -> None:
        with self._lock:
            self._running.remove(step)
        self._print(_ended_line(step))

    def _print(self, line: Line) -> None:
        with self._lock:
            self._write(line)
        self._printed.set()

    def _write(self, line: Line) -> None:
        for each in lines(line, self._width):
            self._console.print(each, soft_wrap=True)

    def _watch(self) -> None:
        """As long as steps run: where no line was printed for a time, one that says what runs."""
        first, later = self._silence
        wait = first
        while True:
            printed = self._printed.wait(wait)
            self._printed.clear()
            wait = first if printed else later
            with self._lock:
                if not self._running:
                    self._watcher = None
                    return
                if not printed:
                    self._write(self._sign_of_life())

    def _sign_of_life(self) -> Line:
        above = {id(step.under) for step in self._running}
        now = time.monotonic()
        return words(
            "  … ",
            "; ".join(
                f"{step.name} {now - step.started:.0f} s  {short(step.detail, _COMMAND_WIDTH)}".rstrip()
                for step in self._running
                if id(step) not in above
            ),
        )


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
                console=self._console,
                get_renderable=self._draw,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,  # it may be a pipe, and is the result's
            )
            self._live.start()
        with _watched(step, self._ended):
            yield step

    def note(self, text: str) -> None:
        self._console.print(page(text))

    def _ended(self, step: Step) -> None:
        if step.under is not None:
            return
        self._running.remove(step)
        self._console.print(page(*(_ended_line(each, guide) for guide, each in _tree(step))))
        if not self._running and self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> Page:
        width, height = self._console.width - 1, self._console.height - 1
        rows = [pair for root in list(self._running) for pair in _tree(root)]
        # Times stand in one column, but for names so long that the column would leave no room for the rest.
        most = width - _TIME_WIDTH - _DETAIL_WIDTH
        names = max((each for each in (_cells(*row) for row in rows) if each <= most), default=0)
        drawn = [(step, _running_lines(guide, step, names, width)) for guide, step in rows]
        hidden = 0
        # What has ended goes first from a screen that is too low.
        for settled in (True, False):
            for each in list(drawn):
                if sum(len(found) for _, found in drawn) + (hidden > 0) <= height:
                    break
                if (each[0].status is not StepStatus.RUNNING) is settled:
                    drawn.remove(each)
                    hidden += 1
        more = [words((f"  … and {hidden} more", "dim"))] if hidden else []
        return page(*(line for _, found in drawn for line in found), *more)


def _running_lines(guide: str, step: Step, names: int, width: int) -> list[Line]:
    """A step of the live display: its name whole, its time, and as much as fits of what it does now."""
    mark, style = _LOOK[step.status]
    seconds = time.monotonic() - step.started if step.status is StepStatus.RUNNING else step.seconds
    time_taken = f"{seconds:6.1f} s"
    padding = " " * max(0, names - _cells(guide, step))
    head = words((f"  {guide}{mark} ", style), step.name, padding, f"  {time_taken}")
    left = width - cell_len(head.plain) - 2
    detail = short(step.detail, left) if left >= _DETAIL_WIDTH else ""
    return list(lines(words(head, (f"  {detail}".rstrip(), "dim")), width))


def _cells(guide: str, step: Step) -> int:
    return 4 + len(guide) + cell_len(clean(step.name))


def _tree(step: Step, above: str = "") -> Iterator[tuple[str, Step]]:
    """The step and all under it, each with the lines that lead to it from the left."""
    yield above, step
    for number, inner in enumerate(list(step.inner)):
        last = number == len(step.inner) - 1
        before = above.replace("├ ", "│ ").replace("└ ", "  ")
        yield from _tree(inner, before + ("└ " if last else "├ "))


def _one_line(name: str) -> str:
    """A step may be named after a command of several lines, of which the beginning will do."""
    line = " ".join(name.split())
    return short(line, _COMMAND_WIDTH) if "\n" in name.strip() else line


def _ended_line(step: Step, guide: str = "") -> Line:
    mark, style = _LOOK[step.status]
    word = "" if step.status is StepStatus.DONE else f" {step.status}"
    detail = f"  {' '.join(step.detail.split())}" if step.detail else ""
    return words((f"  {guide}{mark} ", style), step.name, (f" {step.seconds:.1f} s{word}{detail}", "dim"))


def console_reporter(
    console: Console | None = None, *, silence: tuple[float, float] = _SILENCE_SECONDS
) -> Reporter:
    """A live display on a terminal, plain lines elsewhere; both on stderr. NO_COLOR is obeyed by rich.

    `silence` is for how many seconds a log may be silent while something runs: at first, and then on.
    """
    # FORCE_COLOR colours a log; it does not make a screen of it.
    if console is None:
        console, width, live = screen(sys.stderr), width_of(sys.stderr), sys.stderr.isatty()
    else:
        width, live = (console.width, True) if console.is_terminal else (None, False)
    if live and not console.is_dumb_terminal:
        return _LiveReporter(console)
    return _LineReporter(console, width, silence)

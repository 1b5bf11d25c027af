"""How a command of `va` answers: a table or JSON on stdout; a failure as message, hint and exit code."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer

from ci.errors import Interrupted, PipelineError, RootNeeded
from ci.files import refused

if TYPE_CHECKING:
    from ci.delivery.results import PromotionResult
    from ci.layout import Page
    from ci.reporting import Reporter
    from ci.tools import GoTool
    from pipelines.verify import Verification

__all__ = ["answer", "ended", "fail", "failing", "needs_root", "show_result", "write_json"]

T = TypeVar("T")
P = ParamSpec("P")


def needs_root(
    why: str, *, unless: Callable[[], bool] = lambda: False
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Declare that a command can be run by root only: anybody else is told so, and what to type.

    `unless` says whether it needs no root here after all; it is asked only when that matters.
    """

    def declared(command: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(command)
        def checked(*args: P.args, **options: P.kwargs) -> None:
            if os.geteuid() != 0 and not unless():
                again = shlex.join(["sudo", str(Path(sys.executable).with_name("va")), *sys.argv[1:]])
                fail(RootNeeded(f"root is needed: {why}; run: {again}"), json=bool(options.get("json")))
            command(*args, **options)

        checked.__dict__["needs_root"] = why
        return checked

    return declared


def answer(
    flow: Callable[[Reporter], Coroutine[Any, Any, T]],
    *,
    json: bool,
    show: Callable[[T], Page] | None = None,
) -> T:
    """Run a flow and print its result; an expected failure becomes its message and its exit code."""
    from ci.reporting import console_reporter
    from ci.tools import supplied_by

    with failing(json), supplied_by(_team):
        result = asyncio.run(_interruptible(flow, console_reporter()))
    show_result(result, json=json, show=show)
    return result


async def _team(wanted: Sequence[GoTool], reporter: Reporter) -> None:
    """The source of tools of every command: the registry of the team, where the settings name one."""
    from pipelines.tools import taken_from_shelf

    await taken_from_shelf(wanted, reporter)


async def _interruptible(flow: Callable[[Reporter], Coroutine[Any, Any, T]], reporter: Reporter) -> T:
    """SIGTERM ends the flow as Ctrl-C does: the flow is cancelled and cleans up on its way out."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await flow(reporter)


def show_result(result: object, *, json: bool, show: Callable[[T], Page] | None) -> None:
    """Print a result as JSON, or as `show` draws it."""
    if json:
        write_json(result)
    elif show is not None:
        from ci.layout import show as show_page

        show_page(show(result))  # type: ignore[arg-type]


@contextmanager
def failing(json: bool) -> Iterator[None]:
    """Turn what is expected to go wrong in the block, and an interruption, into its message and exit code."""
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        fail(Interrupted("interrupted", hint="run the same command again: it goes on from here"), json=json)
    except PipelineError as error:
        fail(error, json=json)
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise  # no file was asked for: a fault of ours
        fail(refused(error), json=json)


def fail(error: PipelineError, *, json: bool) -> NoReturn:
    """Print the error on stderr, with `json` also on stdout, and exit with its code."""
    from ci.layout import show, words

    if json:
        told = {"kind": type(error).__name__, "message": str(error), "hint": error.hint}
        write_json({"error": {key: _text(value) for key, value in told.items()}})
    said = words(("error: ", "bold red"), str(error))
    hint = [words(("next:  ", "bold"), error.hint)] if error.hint else []
    show(said, *hint, to=sys.stderr)
    raise typer.Exit(error.exit_code)


def ended(result: PromotionResult | Verification) -> None:
    """Exit as a result says that was printed already: a gate that failed is a result, not an accident."""
    if result.error is not None:
        fail(result.error, json=False)  # stdout has the result already


def _text(words: str) -> str:
    """Names of files may hold bytes that are no text: escaped, as on a terminal."""
    return words.encode("utf-8", "backslashreplace").decode()


def write_json(result: object) -> None:
    """A model, dataclass or plain value, on stdout."""
    from pydantic_core import to_json

    from ci.layout import printable_json

    sys.stdout.write(printable_json(to_json(result, indent=2).decode()) + "\n")

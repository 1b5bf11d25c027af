"""The programs this project runs: where each is found, its version, and how it gets here.

A tool is taken from this project's cache, else from PATH where its version fits, else it is provided. `table`
says what tools there are; a module a way says how one is looked for and made:

- `debian`: a Debian package by apt-get, when root (its services are not started);
- `go`: a Go program built from `tools/<module>/`, whose go.mod and go.sum pin it, into
  `cache()/tools/<module>/<key>/`, where `key` hashes those files and the flags of the build. One that was
  built elsewhere is taken instead from the `Source` that the command names, if it names one (`supplied_by`);
- `node`: a program of an npm package that `tools/<module>/package-lock.json` pins, into a folder of the same
  kind, by the npm of Node.js: one on PATH that is new enough, else the wheel of
  `tools/node/requirements.txt`;
- `python`: a program in an environment of its own beside them, as `tools/<name>/requirements.txt` pins it.

`survey` only looks, `path` finds one tool, `ensure` provides what is missing. A new tool is a line of the
table. The room stands on the ground of the house (errors, files, locks, places, process, reporting) and calls
nothing above that.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ci import places
from ci.concurrency import together
from ci.errors import BadInput, SystemUnavailable, ToolMissing
from ci.reporting import Reporter
from ci.tools import debian, go, node, python
from ci.tools.go import Source, supplied_by
from ci.tools.programs import Origin, ToolStatus
from ci.tools.sources import build_key, module_folder
from ci.tools.table import (
    NAMES,
    DebianTool,
    GoTool,
    NodeTool,
    NpmTool,
    PythonTool,
    Tool,
    Version,
    named,
)

__all__ = [
    "NAMES",
    "DebianTool",
    "GoTool",
    "NodeTool",
    "NpmTool",
    "Origin",
    "PythonTool",
    "Source",
    "ToolStatus",
    "Version",
    "build_key",
    "built",
    "ensure",
    "module_folder",
    "path",
    "supplied_by",
    "survey",
]


def survey(names: Iterable[str] = NAMES) -> list[ToolStatus]:
    """Look for each tool, in the order of `names`; BadInput for a name that is no tool of ours."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(_look, [named(name) for name in names]))


def path(name: str) -> Path:
    """Where the tool is; ToolMissing says how to get it when it is not there."""
    status = _look(named(name))
    if status.path is None:
        raise ToolMissing(f"{name} is not here", hint=status.advice)
    return status.path


def _look(tool: Tool) -> ToolStatus:
    if isinstance(tool, DebianTool):
        return debian.look(tool)
    if isinstance(tool, GoTool):
        return go.look(tool)
    if isinstance(tool, NodeTool):
        return node.look_node(tool)
    if isinstance(tool, NpmTool):
        return node.look_npm(tool)
    return python.look(tool)


async def ensure(names: Sequence[str], reporter: Reporter) -> None:
    """Provide every tool of `names`: Debian packages at once, Go builds one after the other, in that order.

    Raises ToolMissing with the exact line to type when only root could install a package, StepFailed when
    a build or apt-get fails, SystemUnavailable when the cache cannot be written. Can be interrupted: the
    same call goes on, finished Go packages are kept.
    """
    # A caller adds lists of several parts, and a tool that is in two of them is built once.
    missing = [named(status.name) for status in survey(list(dict.fromkeys(names))) if not status.found]
    packages = [tool for tool in missing if isinstance(tool, DebianTool)]
    programs = [tool for tool in missing if isinstance(tool, GoTool)]
    scripts = [tool for tool in missing if isinstance(tool, NpmTool)]
    runtimes = [tool for tool in missing if isinstance(tool, NodeTool)]
    checkers = [tool for tool in missing if isinstance(tool, PythonTool)]
    if packages and os.geteuid() != 0:
        absent = ", ".join(tool.name for tool in packages)
        raise ToolMissing(f"not installed: {absent}", hint=debian.apt_line(tool.package for tool in packages))
    try:
        await together(
            [
                debian.install(packages, reporter),
                go.provide(programs, reporter),
                _one_by_one(
                    *(node.install_node(runtime, reporter) for runtime in runtimes),
                    *(node.install_npm(script, reporter) for script in scripts),
                ),
                *(python.install(tool, reporter) for tool in checkers),
            ]
        )
    except OSError as error:
        raise SystemUnavailable(
            f"the tools' folder {places.cache() / 'tools'} cannot be used: {error}",
            hint="make room or set VA_CACHE to another folder, then run the same command again",
        ) from error


async def _one_by_one(*work: Coroutine[Any, Any, object]) -> None:
    for one in work:
        await one


async def built(name: str, reporter: Reporter) -> Path:
    """A Go program as its pins make it, whatever PATH has: what goes into an image. Raises as `ensure`."""
    tool = named(name)
    if not isinstance(tool, GoTool):
        raise BadInput(f"{name} is not built from Go sources")
    await go.provide([tool], reporter)
    return go.made_at(tool)

"""Programs that are there already: the files of that name on PATH, and the versions they print."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ci.tools.table import DebianTool, GoTool, NodeTool, Version

__all__ = ["Origin", "ToolStatus", "dotted", "fits", "fitting", "on_path", "parse_version", "version_of"]

Origin = str
"""`cache` (made here), `registry` (built elsewhere and taken from there), `PATH` or `missing`."""


@dataclass(frozen=True, kw_only=True)
class ToolStatus:
    """What `survey` saw of one tool. `advice` says how to get one that is missing.

    `source` says where one of origin `registry` was taken from, and who signed it.
    """

    name: str
    origin: Origin
    version: str = ""
    path: Path | None = None
    advice: str = ""
    source: str = ""

    @property
    def found(self) -> bool:
        """Whether it is there in a version that fits."""
        return self.path is not None


def fitting(tool: DebianTool | GoTool | NodeTool, advice: str) -> ToolStatus:
    """The first program on PATH whose version fits; `advice` says how to get one when there is none."""
    seen = ""
    for found in on_path(tool.name):
        number = version_of(found, tool.version_args)
        if fits(number, tool):
            return ToolStatus(name=tool.name, origin="PATH", version=dotted(number), path=found)
        seen = seen or f"{found} is {dotted(number) or 'of an unknown version'}, which does not fit; "
    return ToolStatus(name=tool.name, origin="missing", advice=seen + advice)


def on_path(program: str) -> Iterator[Path]:
    """The files of that name, those of PATH first."""
    # Debian keeps daemons in sbin, which is not on an ordinary user's PATH.
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/sbin", "/sbin"]
    for folder in dict.fromkeys(folders):
        if folder and (found := shutil.which(program, path=folder)):
            yield Path(found)


def version_of(program: Path, arguments: tuple[str, ...]) -> Version:
    """The first dotted number that the program prints of itself, () when it prints none."""
    return _printed(program, arguments, program.stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _printed(program: Path, arguments: tuple[str, ...], _changed: int) -> Version:
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_version(done.stdout) or parse_version(done.stderr)


def parse_version(text: str) -> Version:
    """The first dotted number of a text, () when it has none."""
    found = re.search(r"(?<![\w.])v?(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def fits(version: Version, tool: DebianTool | GoTool | NodeTool) -> bool:
    """Whether a tool of that version will do."""
    if not version:
        return not tool.at_least
    return version >= tool.at_least and (not tool.below or version < tool.below)


def dotted(version: Version) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))

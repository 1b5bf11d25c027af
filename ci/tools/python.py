"""Python programs, each in an environment of its own, as `tools/<name>/requirements.txt` pins it."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from pathlib import Path

from ci import places
from ci.errors import BadInput
from ci.process import run
from ci.reporting import Reporter
from ci.tools import programs
from ci.tools.sources import lock
from ci.tools.table import PythonTool

__all__ = ["install", "look", "pip_install"]

_TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")
"""Debian's ca-certificates keeps it; uv brings certificates of its own for where it is not."""


def look(tool: PythonTool) -> programs.ToolStatus:
    """Where the tool is. It is never taken from PATH: what a checker finds depends on its version."""
    installed = _environment(tool) / tool.name
    if not installed.exists():
        advice = f"the first command that needs it installs it from tools/{tool.name}"
        return programs.ToolStatus(name=tool.name, origin="missing", advice=advice)
    return programs.ToolStatus(name=tool.name, origin="cache", version=_pinned_package(tool), path=installed)


def pip_install() -> tuple[str, ...]:
    """How Python packages are installed: by uv where there is one, else by pip."""
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if not uv:
        return (sys.executable, "-m", "pip", "install", "--quiet")
    # It trusts what this machine trusts, as apt and Go do: a company's own proxy, for one.
    trust = ("--system-certs",) if _TRUSTED.exists() else ()
    return (uv, "pip", "install", "--quiet", *trust)


async def install(tool: PythonTool, reporter: Reporter) -> None:
    """Make the tool's environment; its program is linked last, so that a half-made one counts as none."""
    with reporter.step(f"install {tool.name}") as step:
        async with lock(tool.name, step):
            folder = _environment(tool)
            if (folder / tool.name).exists():
                step.cached("installed meanwhile")
                return
            shutil.rmtree(folder, ignore_errors=True)
            await run(sys.executable, "-m", "venv", "--without-pip", folder, on_line=step.say)
            python = folder / "bin" / "python"
            await run(
                *pip_install(), "--python", python, "--require-hashes", "-r", _requirements(tool),
                on_line=step.say,
            )  # fmt: skip
            (folder / tool.name).symlink_to(folder / "bin" / tool.name)
            step.say(_pinned_package(tool))


def _requirements(tool: PythonTool) -> Path:
    return places.checkout() / "tools" / tool.name / "requirements.txt"


def _environment(tool: PythonTool) -> Path:
    """Where its environment is: another one for other pins or another Python."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(_requirements(tool).read_bytes() + python.encode()).hexdigest()[:16]
    return places.cache() / "tools" / tool.name / key


def _pinned_package(tool: PythonTool) -> str:
    found = re.search(rf"^{re.escape(tool.name)}==(\S+)", _requirements(tool).read_text(), re.MULTILINE)
    if found is None:
        raise BadInput(f"tools/{tool.name}/requirements.txt does not pin {tool.name}")
    return found[1]

"""Debian packages, by apt-get and as root. The services that they bring are not started."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ci.errors import ToolMissing
from ci.process import run
from ci.reporting import Reporter
from ci.tools import programs
from ci.tools.sources import lock
from ci.tools.table import DebianTool

__all__ = ["apt_line", "install", "look"]


def look(tool: DebianTool) -> programs.ToolStatus:
    """Where the tool is, or the line that installs it."""
    if tool.file and tool.file.is_file():
        return programs.ToolStatus(name=tool.name, origin="PATH", path=tool.file)
    return programs.fitting(tool, apt_line([tool.package]))


def apt_line(packages: Iterable[str]) -> str:
    """What a person types to install them."""
    return f"sudo apt-get install --no-install-recommends {' '.join(sorted(set(packages)))}"


async def install(tools: Sequence[DebianTool], reporter: Reporter) -> None:
    """Install their packages; ToolMissing when that did not bring all of them."""
    packages = sorted({tool.package for tool in tools})
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise ToolMissing(
            f"not installed: {', '.join(packages)}", hint="this machine has no apt-get: install them by hand"
        )
    with reporter.step(f"install {', '.join(packages)}") as step:
        async with lock("apt", step):
            await _apt(("update", "-qq"), step.say)
            with _services_kept_off():
                await _apt(("install", "-y", "--no-install-recommends", *packages), step.say)
            if shutil.which("systemctl"):
                for unit in sorted({tool.unit for tool in tools if tool.unit}):
                    await run("systemctl", "disable", unit, check=False)
        step.say(f"{len(packages)} packages")
    still = [status for status in map(look, tools) if not status.found]
    if still:
        raise ToolMissing("; ".join(f"{status.name}: {status.advice}" for status in still))


async def _apt(arguments: Sequence[str], say: Callable[[str], None]) -> None:
    await run(
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=300",
        *arguments,
        env={"DEBIAN_FRONTEND": "noninteractive"},
        on_line=say,
    )


_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# Written by va while it installs packages: their services stay off.\nexit 101\n"


@contextmanager
def _services_kept_off() -> Iterator[None]:
    """While it lasts, packages do not start their services (by policy-rc.d); a host's own policy stays."""
    if _POLICY.exists() and _POLICY.read_text() != _POLICY_TEXT:
        yield
        return
    _POLICY.write_text(_POLICY_TEXT)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)

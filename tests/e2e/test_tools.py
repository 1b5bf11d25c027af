"""A second machine gets its tools from a real registry: signed by cosign, taken by `va doctor --install`.

The tools of this machine are pushed once; every other machine is a cache of its own.
"""

from __future__ import annotations

import asyncio
import filecmp
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from real_registry import free_port, registry_on

from ci import places, platform, tools
from ci.supply.signing import KeyPair, make_key_pair
from ci.tools import go
from ci.tools.table import GO_MODULES, GoTool, of_go

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

_GO = tuple(tool for module in GO_MODULES for tool in of_go(module))


@dataclass(frozen=True, kw_only=True)
class Team:
    """A registry with all Go tools of this machine in it, and what the commands need to know of it."""

    shelf: str
    state: Path

    def env(self, cache: Path) -> dict[str, str]:
        ours = {"VA_CACHE": str(cache), "VA_STATE": str(self.state), "VA_TOOLS": self.shelf}
        # Debian has no package of a Go tool: whatever else is on PATH would be used as it is.
        return {**os.environ, **ours, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def va(self, *words: str, cache: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).parent / "va", *words],
            env=self.env(cache), capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    missing = [tool.name for tool in _GO if not go.made_at(tool).exists()]
    missing += [status.name for status in tools.survey(["docker-registry"]) if not status.found]
    if missing:
        pytest.skip(f"{', '.join(missing)} not here: va doctor --install")
    folder = tmp_path_factory.mktemp("team")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VA_STATE", str(folder / "state"))
        pair = KeyPair(folder=platform.addresses().signing)
        asyncio.run(make_key_pair(pair, cosign=tools.path("cosign")))
    with registry_on(folder / "registry", port := free_port()):
        made = Team(shelf=f"127.0.0.1:{port}/team/tools", state=folder / "state")
        pushed = made.va("tools", "push", made.shelf, "--json", cache=places.cache())
        assert pushed.returncode == 0, pushed.stderr
        assert sum(len(one["sent"]) for one in json.loads(pushed.stdout)) == len(_GO)
        yield made


def _in(cache: Path, tool: GoTool) -> Path:
    mine = go.made_at(tool)
    return cache / mine.relative_to(places.cache())


def _differing(cache: Path) -> list[str]:
    """The tools in that cache that are not those of this machine, byte by byte."""
    return [
        tool.name
        for tool in _GO
        if _in(cache, tool).exists() and not _same(go.made_at(tool), _in(cache, tool))
    ]


def _same(mine: Path, other: Path) -> bool:
    files = (
        [path.relative_to(mine) for path in mine.rglob("*") if path.is_file()] if mine.is_dir() else [Path()]
    )
    return all(filecmp.cmp(mine / file, other / file, shallow=False) for file in files)


def test_a_second_machine_is_set_up_and_builds_nothing(team: Team, tmp_path: Path) -> None:
    done = team.va("doctor", "--install", "--json", cache=tmp_path)

    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = {one["name"]: one for one in json.loads(done.stdout)}
    assert all(found[tool.name]["origin"] == "registry" for tool in _GO)
    assert all(team.shelf in found[tool.name]["source"] for tool in _GO)
    assert "✓ build " not in done.stderr
    assert not (tmp_path / "tools" / "go").exists()
    assert _differing(tmp_path) == []
    ran = subprocess.run([found["kubectl"]["path"], "version", "--client"], capture_output=True, check=True)
    assert b"Client Version" in ran.stdout


def test_a_second_push_sends_nothing(team: Team) -> None:
    done = team.va("tools", "push", team.shelf, "--json", cache=places.cache())

    assert done.returncode == 0, done.stderr
    assert all(one["unchanged"] and one["bytes_sent"] == 0 for one in json.loads(done.stdout))


@pytest.mark.parametrize("seen", ["tools/*/.take-*", "tools/*/.take-*/*.tar.gz", "tools/*/*/.taken/*"])
def test_a_kill_leaves_whole_tools_and_nothing_half(team: Team, tmp_path: Path, seen: str) -> None:
    """Killed when it has begun, when it downloads, when a tool is whole."""
    doctor = ("doctor", *(tool.name for tool in _GO), "--install")
    words: list[str | Path] = [Path(sys.executable).parent / "va", *doctor]
    with subprocess.Popen(
        words,
        env=team.env(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as child:
        while child.poll() is None and not list(tmp_path.glob(seen)):
            time.sleep(0.01)
        os.killpg(child.pid, signal.SIGKILL)

    assert not all(_in(tmp_path, tool).exists() for tool in _GO), "it was killed too late"
    assert _differing(tmp_path) == []
    done = team.va(*doctor, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert _differing(tmp_path) == []
    assert all(_in(tmp_path, tool).exists() for tool in _GO)
    assert not list(tmp_path.glob("tools/*/.take-*"))

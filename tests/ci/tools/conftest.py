from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ci import places
from ci.tools import programs

Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script on a PATH that has nothing else, and gives the tools an empty cache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(programs, "on_path", lambda name: [p for p in (folder / name,) if p.exists()])

    def write(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tools/helm of our own in place of the checkout's."""
    folder = tmp_path / "checkout" / "tools" / "helm"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module x\n\ngo 1.26.0\n\nrequire helm.sh/helm/v3 v3.22.0\n")
    (folder / "go.sum").write_text("helm.sh/helm/v3 v3.22.0 h1:abc=\n")
    monkeypatch.setattr(places, "checkout", lambda: tmp_path / "checkout")
    return folder

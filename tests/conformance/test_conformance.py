"""The embedded session against a real Dagger engine: the same pipelines, the same facts.

What the embedded session gives is always held against right.json: the facts of the cases that other people's
pipelines were found to meet, as Dagger's source and its own tests have them. Where an engine is configured,
both run all cases: under `dagger run` (DAGGER_SESSION_PORT), or with VA_CONFORMANCE_CLI, the path of a Dagger
CLI. VA_CONFORMANCE_PYTHON names another Python for the real engine, one whose SDK is of the engine's age.
docs/engines.md tells what was seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cases
import pytest
from tiny_image import can_run_containers

_CASES_FILE = Path(cases.__file__)
_CLI = os.environ.get("VA_CONFORMANCE_CLI")
_SESSION = os.environ.get("DAGGER_SESSION_PORT")
_RIGHT: dict[str, Any] = json.loads(_CASES_FILE.with_name("right.json").read_text())
_NO_CONTAINERS = can_run_containers()
_NO_ENGINE = "" if _CLI or _SESSION else "no Dagger engine: run under `dagger run`, or set VA_CONFORMANCE_CLI"
_ON_CI = bool(os.environ.get("CI"))
"""There to compare is all that this is for: what was skipped would be green, and would have shown nothing."""

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(_NO_CONTAINERS) and not _ON_CI, reason=_NO_CONTAINERS),
]


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """None of pytest's: it falls over folders this deep when it tidies up what a killed run has left."""
    made = Path(tempfile.mkdtemp(prefix="conformance-"))
    yield made
    subprocess.run(["rm", "-rf", made], check=False)


@pytest.fixture(scope="session")
def embedded(folder: Path) -> dict[str, Any]:
    """The facts of the embedded session, from an empty cache."""
    cli = folder / "embedded-cli"
    cli.write_text(f'#!/bin/sh\nexec {sys.executable} -m ci.engine "$@"\n')
    cli.chmod(0o755)
    hidden = {"DAGGER_SESSION_PORT": None, "DAGGER_SESSION_TOKEN": None}
    checkout = str(_CASES_FILE.parents[2])
    return _facts(
        sys.executable,
        folder,
        {
            **hidden,
            "_EXPERIMENTAL_DAGGER_CLI_BIN": str(cli),
            "VA_CACHE": str(folder / "cache"),
            "PYTHONPATH": checkout,
        },
    )


@pytest.fixture(scope="session")
def real(folder: Path) -> dict[str, Any]:
    """The facts of the real engine."""
    if missing := _NO_CONTAINERS or _NO_ENGINE:
        pytest.fail(f"nothing would be compared: {missing}")
    python = os.environ.get("VA_CONFORMANCE_PYTHON", sys.executable)
    return _facts(python, folder, {"_EXPERIMENTAL_DAGGER_CLI_BIN": _CLI} if _CLI else {})


def _facts(python: str, folder: Path, changes: Mapping[str, str | None]) -> dict[str, Any]:
    env = {**os.environ, **{name: value for name, value in changes.items() if value is not None}}
    for name in [name for name, value in changes.items() if value is None]:
        env.pop(name, None)
    done = subprocess.run(
        [python, str(_CASES_FILE), str(folder)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if results := os.environ.get("VA_CONFORMANCE_RESULTS"):
        Path(results, f"{found['version']}.json").write_text(json.dumps(found, indent=1))
    return found


@pytest.mark.e2e
@pytest.mark.parametrize("name", _RIGHT)
def test_the_embedded_session_gives_what_is_right(name: str, embedded: dict[str, Any]) -> None:
    assert embedded["cases"][name]["facts"] == _RIGHT[name]


@pytest.mark.conformance
@pytest.mark.skipif(bool(_NO_ENGINE) and not _ON_CI, reason=_NO_ENGINE)
@pytest.mark.parametrize("name", cases.CASES)
def test_both_engines_give_the_same(name: str, real: dict[str, Any], embedded: dict[str, Any]) -> None:
    assert embedded["cases"][name]["facts"] == real["cases"][name]["facts"]

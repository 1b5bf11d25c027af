"""The SDK without its run-time checks, in a Python of its own: here it is imported already."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_SCRIPT = """
import os
{first}
from ci.engine import session
import dagger
try:
    dagger.Container.with_exec(None, 1)
except Exception as error:
    print(type(error).__name__, os.environ.get("PYTHONOPTIMIZE"))
"""


@pytest.mark.parametrize("before", [None, "0"])
def test_calls_are_not_checked_and_the_environment_is_as_it_was(before: str | None) -> None:
    assert _said(before, first="") == f"AttributeError {before}"


@pytest.mark.parametrize("flow", ["demo", "ship", "images"])
def test_whoever_builds_has_it_so(flow: str) -> None:
    """However a flow is come to: the demo ships, and is no command that builds."""
    assert _said(None, first=f"import pipelines.{flow}") == "AttributeError None"


def test_a_program_that_has_imported_the_sdk_keeps_its_checks() -> None:
    assert _said(None, first="import dagger") == "TypeError None"


def _said(before: str | None, *, first: str) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONOPTIMIZE"}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(first=first)],
        env=env | ({"PYTHONOPTIMIZE": before} if before else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()

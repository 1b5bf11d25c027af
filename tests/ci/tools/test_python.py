from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ci import places, tools
from ci.reporting import SilentReporter
from ci.tools import python

Program = Callable[[str, str], Path]


@pytest.fixture
def checkov(program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A checkout that pins checkov 3.1.0, and an installer of an empty one; gives the calls of it."""
    program("checkov", "echo 9.9.9")
    (tmp_path / "tools" / "checkov").mkdir(parents=True)
    (tmp_path / "tools" / "checkov" / "requirements.txt").write_text(
        "attrs==1\nCheckov==2\ncheckov==3.1.0 \\\n"
    )
    monkeypatch.setattr(places, "checkout", lambda: tmp_path)
    calls: list[str] = []

    async def installer(*argv: object, **_: object) -> None:
        calls.append(" ".join(str(word) for word in argv))
        if "--require-hashes" in argv:
            bin_ = Path(str(argv[argv.index("--python") + 1])).parent
            bin_.mkdir(parents=True)
            (bin_ / "checkov").write_text("")

    monkeypatch.setattr(python, "run", installer)
    return calls


def test_a_checker_is_never_taken_from_the_path(checkov: list[str]) -> None:
    (status,) = tools.survey(["checkov"])

    assert not status.found
    assert status.advice == "the first command that needs it installs it from tools/checkov"


def test_a_checker_is_installed_once_for_its_pins(checkov: list[str], tmp_path: Path) -> None:
    asyncio.run(tools.ensure(["checkov"], SilentReporter()))

    (status,) = tools.survey(["checkov"])
    assert (status.origin, status.version) == ("cache", "3.1.0")
    assert tools.path("checkov").is_relative_to(tmp_path / "cache" / "tools" / "checkov")
    count = len(checkov)
    asyncio.run(tools.ensure(["checkov"], SilentReporter()))
    assert len(checkov) == count

    (tmp_path / "tools" / "checkov" / "requirements.txt").write_text("checkov==3.2.0\n")
    assert not tools.survey(["checkov"])[0].found


def test_an_environment_that_was_half_made_counts_as_none(checkov: list[str]) -> None:
    asyncio.run(tools.ensure(["checkov"], SilentReporter()))
    tools.path("checkov").unlink()

    assert not tools.survey(["checkov"])[0].found


def test_checkov_is_pinned_with_hashes() -> None:
    text = (places.checkout() / "tools" / "checkov" / "requirements.txt").read_text()
    assert re.search(r"^checkov==3\.\d+\.\d+ \\$", text, re.MULTILINE)
    assert all("--hash=sha256:" in one for one in re.split(r"\n(?=\S)", text.strip()))

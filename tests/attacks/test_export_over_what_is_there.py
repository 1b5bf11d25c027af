"""Changes exported into a folder of the user's: what they did not touch is left as it was."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import dagger
import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root")


def test_changes_leave_what_they_did_not_touch(machine: Any) -> None:
    work: Path = machine.work
    for name in ("d/known", "d/own.key", "d/deep/known", "closed/known"):
        (work / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "p" / name).write_text(name)
    for name in ("", "closed"):
        (work / "p" / name).chmod(0o700)

    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        before = client.host().directory("p", exclude=["**/*.key"])
        after = before.without_directory("d").with_new_file("closed/new", "new").with_new_file("made/x", "x")
        await after.changes(before).export("p")

    machine.run(pipeline)

    left = sorted(str(path.relative_to(work / "p")) for path in (work / "p").rglob("*"))
    assert left == ["closed", "closed/known", "closed/new", "d", "d/own.key", "made", "made/x"]
    assert [stat.S_IMODE((work / "p" / name).stat().st_mode) for name in ("", "closed", "made")] == [
        0o700,
        0o700,
        0o755,
    ]


def test_nothing_is_removed_behind_a_link(machine: Any) -> None:
    work: Path = machine.work
    (work / "real").mkdir()
    (work / "real" / "f").write_text("of the user")
    (work / "p").mkdir()
    (work / "p" / "d").symlink_to("../real")

    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        before = client.directory().with_new_file("d/f", "x").with_new_file("d/g", "x")
        with pytest.raises(dagger.QueryError, match=r"cannot remove d/f from .*/p: it is behind a link"):
            await before.without_file("d/f").changes(before).export("p")

    machine.run(pipeline)
    assert (work / "real" / "f").read_text() == "of the user"

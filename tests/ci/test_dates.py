"""A day ends at one moment, on every machine."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from ci import places
from ci.dates import end_of, today


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12", "Asia/Kathmandu"])
def test_the_day_is_that_of_utc_in_every_time_zone(zone: str) -> None:
    before = datetime.now(UTC).date()
    words = [sys.executable, "-c", "from ci.dates import today; print(today())"]
    said = subprocess.run(
        words,
        env={**os.environ, "TZ": zone},
        cwd=places.checkout(),
        capture_output=True,
        check=True,
    )

    assert said.stdout.decode().strip() in (str(before), str(datetime.now(UTC).date()))
    assert today() in (before, datetime.now(UTC).date())
    assert end_of(date(2027, 6, 30)) == "2027-06-30 24:00 UTC"


def test_nobody_asks_for_the_day_otherwise() -> None:
    """`date.today()`, `datetime.today()`, `datetime.now()` and what they become in a place's own time."""
    found = []
    for folder in ("ci", "pipelines", "benches"):
        for file in sorted((places.checkout() / folder).rglob("*.py")):
            found += [f"{file}:{line}" for line in local_days(file)]
    assert found == []


def local_days(file: Path) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            (
                node.func.attr == "today"
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in ("date", "datetime")
            )
            or (
                node.func.attr in ("now", "fromtimestamp")
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "datetime"
                and len(node.args) + len(node.keywords) < (1 if node.func.attr == "now" else 2)
            )
            or (node.func.attr == "astimezone" and not node.args)
        )
    ]

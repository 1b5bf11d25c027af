"""`va history` and `va ledger`, as they are typed."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ci.commands.cli import app
from ci.delivery.ledger import Action, Draft, Kind, open_named


def va(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A promotion through dev and prod, and one that has begun."""
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "110")

    async def main() -> None:
        for name in ("dev", "prod"):
            async with open_named("local", name) as ledger:
                one = Draft(
                    promotion="2026-11-29T201512-ab12", kind=Kind.INTENT, action=Action.START, release="r1"
                )
                end = {
                    "kind": Kind.OUTCOME,
                    "action": Action.FINISH,
                    "result": "promoted",
                    "reason": "all passed",
                }
                await ledger.append(one)
                await ledger.append(one.model_copy(update={"target": f"{name}/eastus", **end}))
                await ledger.append(one.model_copy(update=end))
        async with open_named("local", "prod") as ledger:
            await ledger.append(
                one.model_copy(update={"promotion": "2026-11-29T210000-cd34", "release": "r2"})
            )

    asyncio.run(main())
    return tmp_path / "ledger" / "local" / "prod.sqlite"


def spoil(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE entries SET line = replace(line, 'r1', 'r9') WHERE sequence = 2")
    connection.close()


def test_nothing_yet_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "none"))
    assert "no promotion in that time" in va("history").stdout
    assert json.loads(va("history", "--json").stdout) == []
    assert "nothing in it yet" in va("ledger", "verify").stdout
    assert json.loads(va("ledger", "export").stdout) == []
    assert not (tmp_path / "none").exists()


def test_history_is_a_table_of_promotions(file: Path) -> None:
    done = va("history")
    assert done.exit_code == 0, done.output
    rows = done.stdout.splitlines()
    assert rows[0].split()[:1] == ["promotion"]
    assert rows[2].startswith("2026-11-29T210000-cd34") and "prod begun" in rows[2]  # the newest first
    assert rows[3].startswith("2026-11-29T201512-ab12") and "dev promoted" in rows[3]
    assert "prod promoted" in rows[4]
    found = json.loads(va("history", "--env", "prod", "--json").stdout)
    assert [[one["result"] for one in each["environments"]] for each in found] == [["begun"], ["promoted"]]


def test_history_of_one_is_its_timeline_through_all_environments(file: Path) -> None:
    done = va("history", "2026-11-29T2015")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("2026-11-29T201512-ab12")
    assert "dev/eastus" in done.stdout and "finish: promoted" in done.stdout and "all passed" in done.stdout
    found = json.loads(va("history", "2026-11-29T201512-ab12", "--json").stdout)
    assert [one[1]["sequence"] for one in found] == [1, 2, 3, 1, 2, 3]
    done = va("history", "2026-11-29T22")
    assert done.exit_code == 2 and "no promotion '2026-11-29T22'" in done.output
    done = va("history", "2026")
    assert done.exit_code == 2 and "2 promotions begin with '2026'" in done.output and "cd34" in done.output


def test_the_figures_are_of_each_environment(file: Path) -> None:
    done = va("history", "--figures", "--days", "7")
    assert done.exit_code == 0, done.output
    assert "1 (1.0 a week)" in done.stdout and "0% (0 of 1)" in done.stdout
    found = json.loads(va("history", "--figures", "--json", "--env", "dev").stdout)
    assert [(one["environment"], one["deployments"], one["failure_rate"]) for one in found] == [
        ("dev", 1, 0.0)
    ]


def test_verify_names_what_is_damaged_and_everything_else_stops(file: Path) -> None:
    done = va("ledger", "verify")
    assert done.exit_code == 0 and "✓ prod: 4 entries" in done.stdout and "the last one's hash" in done.stdout
    spoil(file)
    done = va("ledger", "verify")
    assert done.exit_code == 6 and f"{file}: entry 2 is not what was written" in " ".join(done.stdout.split())
    assert "✓ dev: 3 entries" in done.stdout
    told = {
        one["environment"]: one["problems"] for one in json.loads(va("ledger", "verify", "--json").stdout)
    }
    assert [one["sequence"] for one in told["prod"]] == [2] and told["dev"] == []
    for command in (["history"], ["ledger", "export"], ["compliance", "audit"]):
        done = va(*command)
        assert done.exit_code == 6 and "entry 2 is not what was written" in " ".join(done.output.split()), (
            command
        )
    assert va("history", "--env", "dev").exit_code == 0
    told = json.loads(va("ledger", "export", "--json").stdout)["error"]
    assert told["kind"] == "Damaged" and "va ledger verify" in told["hint"]


def test_export_to_a_file(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "ledger.csv"
    done = va("ledger", "export", "--format", "csv", "--out", str(out), "--json")
    assert done.exit_code == 0 and json.loads(done.stdout) == [str(out)]
    assert len(out.read_text().splitlines()) == 8
    assert len(json.loads(va("ledger", "export", "--env", "prod").stdout)) == 4
    done = va("ledger", "export", "--env", "nowhere")
    assert done.exit_code == 2 and "unknown environment 'nowhere'" in done.output
    assert va("ledger", "export", "--format", "xml").exit_code == 2

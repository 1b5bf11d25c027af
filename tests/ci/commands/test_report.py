"""`va report`, as it is typed."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import webbrowser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ci.commands.cli import app
from ci.delivery.ledger import Action, Draft, Kind, open_named
from pipelines.report import leave_report

OLD, NEW = "2026-11-29T201512-ab12", "2026-11-29T210000-cd34"


def va(*args: str) -> Result:
    return CliRunner().invoke(app, ["report", *args])


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A promotion through dev and prod, and one that runs in dev."""
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        for name in ("dev", "prod"):
            async with open_named("local", name) as ledger:
                one = Draft(promotion=OLD, kind=Kind.INTENT, action=Action.START, release="r1")
                end = {"kind": Kind.OUTCOME, "action": Action.FINISH}
                await ledger.append(one)
                await ledger.append(
                    one.model_copy(update={"target": f"{name}/eastus", "result": "promoted", **end})
                )
                await ledger.append(one.model_copy(update={"result": "done", **end}))
        async with open_named("local", "dev") as ledger:
            await ledger.append(one.model_copy(update={"promotion": NEW, "release": "r2"}))

    asyncio.run(main())
    return tmp_path


def test_the_last_one_is_written_to_a_file(place: Path) -> None:
    done = va()
    file = Path("reports") / f"promotion-{NEW}.html"
    assert (done.exit_code, done.stdout.strip()) == (0, str(file))
    assert "r2 is on its way" in (place / file).read_text()
    assert va("2026-11-29T20", "--out", "x.html").exit_code == 0
    assert "r1 is stable on dev/eastus and prod/eastus" in (place / "x.html").read_text()
    assert asyncio.run(leave_report("local", OLD, place / "made" / "here")).is_file()


def test_a_promotions_name_leads_to_no_other_folder(place: Path) -> None:
    async def main() -> None:
        async with open_named("local", "dev") as ledger:
            odd = Draft(promotion="3/../../../out", kind=Kind.INTENT, action=Action.START, release="r3")
            await ledger.append(odd)

    asyncio.run(main())
    assert va("3/../../../out").stdout.strip() == "reports/promotion-3-out.html"
    assert [file.name for file in place.rglob("*.html")] == ["promotion-3-out.html"]


def test_its_data_is_json_and_a_file_only_where_one_is_named(place: Path) -> None:
    done = va(OLD, "--json")
    found = json.loads(done.stdout)
    assert (found["promotion"], found["result"], found["environments"]) == (OLD, "promoted", ["dev", "prod"])
    assert len(found["entries"]) == 6
    assert not (place / "reports").exists()
    assert json.loads(va(OLD, "--json", "--out", "x.html").stdout) == found
    assert (place / "x.html").is_file()


def test_one_environment_is_asked_alone(place: Path) -> None:
    assert json.loads(va("--env", "prod", "--json").stdout)["promotion"] == OLD
    done = va(NEW, "--env", "prod")
    assert done.exit_code == 2 and OLD in done.stderr
    assert va("--env", "nowhere").exit_code == 2


@pytest.mark.parametrize(("name", "said"), [("2027", OLD), ("2026", NEW), ("<b>", OLD)])
def test_one_that_is_not_there_is_bad_input(name: str, said: str, place: Path) -> None:
    done = va(name)
    assert done.exit_code == 2 and said in done.stderr
    assert json.loads(va(name, "--json").stdout)["error"]["kind"] == "BadInput"
    assert not (place / "reports").exists()


def test_nothing_yet_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "none"))
    done = va()
    assert done.exit_code == 2 and "nothing was promoted yet" in done.stderr


def test_a_job_of_github_gets_it_in_its_summary(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = place / "summary.md"
    summary.write_text("what was there\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert va(OLD).exit_code == 0
    text = summary.read_text()
    assert text.startswith("what was there\n### ✅ r1 is stable on") and "```mermaid\ngantt\n" in text
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "no" / "folder.md"))
    done = va(OLD)
    assert done.exit_code == 2 and "no/folder.md" in done.stderr


def test_what_is_damaged_is_reported_and_said_by_the_exit_code(place: Path) -> None:
    with sqlite3.connect(place / "state" / "ledger" / "local" / "prod.sqlite") as connection:
        connection.execute("UPDATE entries SET line = replace(line, 'r1', 'r9') WHERE sequence = 2")
    connection.close()
    done = va(OLD, "--out", "x.html")
    assert done.exit_code == 6
    page = (place / "x.html").read_text()
    assert "The ledger does not verify." in page and "entry 2 is not what was written" in page
    assert "r9" not in page
    done = va("2027")  # it may be among those that cannot be read
    assert done.exit_code == 6 and "damaged" in done.stderr


def test_it_is_shown_in_the_browser(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(shown.append(url)))
    done = va(OLD, "--open")
    assert done.exit_code == 0 and "no browser was found here" in done.stderr
    assert shown == [(place / "reports" / f"promotion-{OLD}.html").as_uri()]


def test_where_it_cannot_be_written_is_one_line(place: Path) -> None:
    (place / "reports").write_text("a file")
    done = va()
    assert done.exit_code == 2 and done.stderr.startswith("error: ")

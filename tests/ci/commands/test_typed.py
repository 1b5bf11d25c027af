"""What is typed: summaries are whole, an empty word is none that was left out, usage errors are ours."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ci.commands import cli

WRONG = {
    "an option that is none": (
        "promote --form x",
        "there is no option --form",
        "did you mean --from|va prom",
    ),
    "a command that is none": ("stauts", "there is no command 'stauts'", "did you mean 'status'"),
    "a command below one": ("db nothing", "there is no command 'nothing'", "va db -h"),
    "no argument": ("approve", "the argument 'release' is missing", "va approve -h"),
    "no option": ("pause", "the option '--reason' is missing", "va pause -h"),
    "one too many": ("status dev --env", "there is no option --env", "va status -h"),
    "words too many": ("report a b c", "nothing is asked for besides: b c", "va report -h"),
    "no value": ("history --days", "the option '--days' wants a value", "va -h"),
    "no number": ("history --days many", "'--days': a whole number is expected", "va history -h"),
    "no choice": ("ledger export --format xml", "'--format': 'xml' is not one of", "va ledger export -h"),
    "an empty option": ("promote --to=", "--to is empty", "va promote -h"),
    "an empty one of several": ("plan --only prod --only=", "--only is empty", "va plan -h"),
    "an empty argument": ("report <nothing>", "promotion is empty", "va report -h"),
    "an empty one of several arguments": ("status prod <nothing>", "environments is empty", "va status -h"),
    "an empty option of a group": ("ledger verify --env=", "--env is empty", "va ledger verify -h"),
    "nothing to be everywhere": (
        "infra destroy --env dev --region=",
        "--region is empty",
        "va infra destroy",
    ),
}


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_command_line_is_told_as_a_wrong_file_is(
    what: str, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line, message, hint = WRONG[what]
    words = ["" if word == "<nothing>" else word for word in line.split()]
    monkeypatch.setattr(sys, "argv", ["va", *words, *(["--json"] if as_json else [])])
    monkeypatch.setattr(cli, "replace_streams", lambda: type("Whole", (), {"problem": None}))
    if as_json and what == "no value":
        pytest.skip("--json would be the value")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    said = re.sub(r"\s+", " ", err)
    assert said.startswith(f"error: {message}") and re.search(f"next: .*({hint})", said)
    if as_json:
        told = json.loads(out)["error"]
        assert told["kind"] == "BadInput" and told["message"].startswith(message)
    else:
        assert out == ""


@pytest.mark.parametrize("group", ["", *cli._GROUPS])
def test_no_summary_is_cut(group: str) -> None:
    done = CliRunner().invoke(cli.app, [*group.split(), "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0 and "..." not in done.stdout.partition("Commands:")[2]


def test_nothing_below_a_group_shows_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["va", "ledger"])
    monkeypatch.setattr(cli, "replace_streams", lambda: type("Whole", (), {"problem": None}))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "Write all entries" in capsys.readouterr().err

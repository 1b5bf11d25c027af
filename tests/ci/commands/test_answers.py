"""Who may run a command, and what is said when a file or a folder cannot be used."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ci.commands import cli
from ci.commands.answers import failing, needs_root
from ci.errors import BadInput

ROOT_ONLY = {
    "up", "down", "build", "test", "scan", "make", "ship", "livekit make", "livekit publish",
    "demo", "dr backup", "dr restore", "dr drill", "drill region",
}  # fmt: skip

_ARGUMENTS = {"drill region": ("westeurope",)}


def _commands(group: typer.Typer, above: str = "") -> Iterator[tuple[str, object]]:
    for one in group.registered_commands:
        assert one.callback is not None
        yield f"{above}{one.name or one.callback.__name__}", one.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from _commands(inner.typer_instance, f"{above}{inner.name} ")


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("DAGGER_SESSION_PORT", "_EXPERIMENTAL_DAGGER_RUNNER_HOST"):
        monkeypatch.delenv(name, raising=False)


def test_these_commands_and_no_others_are_declared_to_need_root() -> None:
    assert {name for name, one in _commands(cli.app) if hasattr(one, "needs_root")} == ROOT_ONLY


@pytest.mark.usefixtures("ordinary")
@pytest.mark.parametrize("command", sorted(ROOT_ONLY))
def test_an_ordinary_user_is_told_in_one_line_what_to_type(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["va", *command.split(), "--reports", "a b"])
    done = CliRunner().invoke(cli.app, [*command.split(), *_ARGUMENTS.get(command, ())])
    assert done.exit_code == 9
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert done.stderr.startswith("error: root is needed: ")
    assert f"run: sudo {Path(sys.executable).with_name('va')} {command} --reports 'a b'" in done.stderr


@pytest.mark.parametrize("command", ["publish", "livekit publish-made"])
def test_a_folder_that_is_not_there_is_told_before_a_tool_is_built(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ci.tools.ensure", None)  # whoever calls it gets a traceback
    done = CliRunner().invoke(cli.app, [*command.split(), "--from", str(tmp_path / "mede")])
    assert isinstance(done.exception, BadInput)
    assert str(done.exception) == f"nothing was made there: there is no {tmp_path}/mede/manifest.json"


@pytest.mark.usefixtures("ordinary")
def test_as_json_the_error_is_on_stdout_too() -> None:
    done = CliRunner().invoke(cli.app, ["dr", "drill", "--json"])
    assert json.loads(done.stdout)["error"]["kind"] == "RootNeeded"


@pytest.mark.usefixtures("ordinary")
def test_on_a_dagger_engine_builds_need_no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGGER_SESSION_PORT", "1")
    done = CliRunner().invoke(cli.app, ["build", "--image", "no-such"])
    assert done.exit_code == 2 and "no-such" in done.output


def test_root_is_not_asked_for_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ran: list[str] = []

    @needs_root("so", unless=lambda: pytest.fail("nobody asks"))
    def command(word: str) -> None:
        ran.append(word)

    command("x")
    assert ran == ["x"]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("file/inside", "{folder}/file is a file, and a folder is wanted"),
        ("file-that/is/not", "No such file or directory"),
        (".", "Is a directory"),
    ],
)
def test_a_place_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, said: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(typer.Exit) as ended, failing(json=False):
        (tmp_path / file).write_text("x")
    assert ended.value.exit_code == 2
    assert (
        f"error: {tmp_path / file} cannot be used: {said.format(folder=tmp_path)}" in capsys.readouterr().err
    )


def test_a_place_that_va_keeps_things_in_is_named_with_its_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    with pytest.raises(typer.Exit) as ended, failing(json=False):
        (tmp_path / "ledger" / "dev").write_text("x")
    assert ended.value.exit_code == 6
    assert "VA_STATE and VA_CACHE" in capsys.readouterr().err


def test_an_error_of_the_system_about_no_file_is_a_fault_of_ours() -> None:
    with pytest.raises(OSError, match="odd"), failing(json=False):
        raise OSError(5, "odd")


def test_the_program_itself_ends_with_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "sys.argv", ["va", "infra", "graph", "--env", "prod", "--out", f"{tmp_path}/no/x.svg"]
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no").touch()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2

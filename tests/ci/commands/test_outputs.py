"""Where results go: whatever happens to a stream or a path, it is one line, and an exit code of README's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from ci.commands.cli import app

VA = Path(sys.executable).with_name("va")
CODES = {0, 2, 3, 4, 5, 6, 7, 8, 130}

# What a command needs to be run at no cost and with no consequence, by its name; every other one that prints
# JSON is only given an option that it does not have. `{out}` is a path that is put in.
HARMLESS: dict[str, tuple[str, ...]] = {
    "env check": ("--env", "dev"),
    "env rules": (),
    "env show": ("--env", "dev"),
    "env dashboards": ("--out", "{out}"),
    "infra render": ("--env", "dev", "--out", "{out}"),
    "infra graph": ("--env", "dev", "--out", "{out}"),
    "cost": ("--env", "dev"),
    "compliance report": ("--env", "dev"),
    "compliance audit": (),
    "cache usage": (),
    "release list": (),
    "release show": (),
    "dr list": (),
    "dr plan": ("--env", "prod"),
    "ledger export": ("--out", "{out}"),
    "report": ("--out", "{out}"),
    "plan": ("--out", "{out}"),
}
UNIT = ("env rules",)
"""What the unit suite runs, too: each of these is a process that takes a second to start."""


def commands() -> Iterator[tuple[str, Any]]:
    """Each command with its options, found in the application itself: a new one is not forgotten."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        for word, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{name} {word}".strip())
        if not getattr(command, "commands", None):
            yield name, command

    yield from walk(typer.main.get_command(app), "")


def _options(command: Any) -> set[str]:
    return {option for one in command.params for option in one.opts}


JSON = sorted(name for name, command in commands() if "--json" in _options(command))
AZURE = ("infra plan",)
"""What asks Azure before it writes anything: its files are tried where Azure is stood in for."""
OUT = sorted(name for name, command in commands() if "--out" in _options(command) and name not in AZURE)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    home = {"HOME": str(tmp_path), "VA_STATE": str(tmp_path / "state"), "VA_CACHE": str(tmp_path / "cache")}
    return {"PATH": os.environ["PATH"], "COLUMNS": "200", **home}


def va(words: Sequence[str], environment: dict[str, str], **streams: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [VA, *words], env=environment, text=True, timeout=50, check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )  # fmt: skip


def words_of(name: str, tmp_path: Path) -> list[str]:
    return [*name.split(), *(word.format(out=tmp_path / "out") for word in HARMLESS[name])]


def marked(names: Sequence[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in UNIT else pytest.mark.e2e) for name in names]


def test_every_command_with_an_output_is_known_here() -> None:
    assert set(HARMLESS) <= set(JSON)
    assert set(OUT) <= set(HARMLESS), (
        "what writes to a path that a person names is tried with all kinds of them"
    )
    assert len(JSON) > 30


@pytest.mark.parametrize("name", marked(list(HARMLESS)))
def test_a_reader_that_leaves_changes_nothing(name: str, tmp_path: Path, environment: dict[str, str]) -> None:
    expected = va([*words_of(name, tmp_path), "--json"], environment).returncode
    ours, theirs = os.pipe()
    os.close(ours)  # as of `| true`
    try:
        done = va([*words_of(name, tmp_path), "--json"], environment, stdout=theirs)
    finally:
        os.close(theirs)
    assert done.returncode == expected
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert done.stderr == "" or expected, "quiet"


@pytest.mark.parametrize("name", marked(list(HARMLESS)))
def test_a_full_disk_is_said(name: str, tmp_path: Path, environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = va([*words_of(name, tmp_path), "--json"], environment, stdout=full)
    assert done.returncode in CODES - {0}, done.stderr
    assert len(done.stderr.splitlines()) <= 2 and "Traceback" not in done.stderr, done.stderr
    assert done.returncode != 6 or "No space left" in done.stderr


@pytest.mark.parametrize("closed", [pytest.param("1", marks=pytest.mark.e2e), "0 1 2"])
def test_closed_streams_are_no_reason_to_fail(
    closed: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    """And what is opened next is not printed into: it would get the number of the stream."""
    shut = " ".join(f"{number}{'<' if number == '0' else '>'}&-" for number in closed.split())
    done = subprocess.run(
        f"{VA} infra graph --env dev --out {tmp_path / 'x.svg'} {shut}",
        shell=True, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (tmp_path / "x.svg").read_text().startswith("<svg")


@pytest.mark.parametrize("name", marked(JSON))
def test_what_is_wrong_with_the_command_line_is_json_too(
    name: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    done = va([*name.split(), "--json", "--no-such-option"], environment)
    assert done.returncode == 2
    assert "no-such-option" in json.loads(done.stdout)["error"]["message"]
    assert va([*name.split(), "--help"], environment).returncode == 0


PATHS: dict[str, tuple[str, int]] = {
    "a file is in the way": ("{tmp}/file/below", 2),
    "nobody may write there": ("/proc/x", 2),
    "the disk is full": ("/dev/full", 6),
    "a device in the way": ("/dev/null/x", 2),
    "a name too long": ("{tmp}/" + "x" * 300, 2),
}


@pytest.mark.e2e
@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("where", PATHS)
def test_a_path_that_cannot_be_written_is_one_line(
    where: str, name: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "file").write_text("mine")
    path, code = PATHS[where]
    path = path.format(tmp=tmp_path)
    words = [*name.split(), *(word.format(out=path) for word in HARMLESS[name])]

    done = va([*words, "--json"], environment)

    assert done.returncode in (code, 2), done.stderr
    assert json.loads(done.stdout)["error"]["message"].count("\n") == 0
    assert done.stderr.split()[0] == "error:" and "Traceback" not in done.stderr
    assert "[Errno" not in done.stderr and "Error(" not in done.stderr
    assert (tmp_path / "file").read_text() == "mine"
    assert Path("/dev/full").is_char_device()


@pytest.mark.e2e
def test_an_output_that_is_a_link_is_written_where_it_leads(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "real.svg").write_text("old")
    (tmp_path / "link.svg").symlink_to("real.svg")
    assert (
        va(["infra", "graph", "--env", "dev", "--out", str(tmp_path / "link.svg")], environment).returncode
        == 0
    )
    assert (tmp_path / "link.svg").is_symlink() and "<svg" in (tmp_path / "real.svg").read_text()


def test_a_file_that_outgrows_its_disk_is_not_half_there(tmp_path: Path, environment: dict[str, str]) -> None:
    """RLIMIT_FSIZE fails a write in its middle, as a full disk does."""
    (tmp_path / "x.svg").write_text("old")
    done = subprocess.run(
        ["/bin/bash", "-c", f"ulimit -f 4; exec {VA} infra graph --env prod --out {tmp_path / 'x.svg'}"],
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "File too large" in done.stderr, done.stderr
    assert (tmp_path / "x.svg").read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["x.svg"]


@pytest.mark.e2e
@pytest.mark.parametrize("words", ["cache prune --keep nan", "compliance audit --days x", "cost --env"])
def test_no_word_of_a_programmer_for_a_wrong_option(words: str, environment: dict[str, str]) -> None:
    done = va(words.split(), environment)
    assert done.returncode == 2
    assert not any(word in done.stderr for word in ("Traceback", "Input should", "string", "parse")), (
        done.stderr
    )

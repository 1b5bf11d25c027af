"""Whoever may press the button of the promotion types a path where a name belongs, or an option.

The estate was free text that went into a list of paths to be uploaded, and a release's name from a registry
became a file's: `../../../etc/ssh` was one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fake_registry import FakeRegistry
from promotion_world import release
from typer.testing import CliRunner

from ci.commands.cli import app
from ci.environments import names, read_environment, read_environments
from ci.errors import BadInput
from ci.registry import Registry, push
from ci.release import Release, find_release, read_release
from ci.supply.attestations import RELEASES, release_bundle
from pipelines.publish import keep
from pipelines.releases import pull

_PATHS = [
    "../../etc", "..", ".", "/etc", "a/../b", "local/../../x", "local\n", "local\0", "LOCAL", "-local",
    "--help", "lo cal", "$(id)", "`id`", "local;id", "", "x" * 300, "é",
]  # fmt: skip


@pytest.mark.parametrize("typed", _PATHS)
def test_a_path_is_no_estate(typed: str, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "dev.yaml").write_text("after: x\n")
    root = tmp_path / "environments" / "deep"
    root.mkdir(parents=True)
    for ask in (lambda: names(typed, root), lambda: read_environments(typed, None, root)):
        with pytest.raises(BadInput):
            ask()


@pytest.mark.parametrize("typed", _PATHS)
def test_a_path_is_no_environment(typed: str) -> None:
    with pytest.raises(BadInput):
        read_environment("local", typed)


@pytest.mark.parametrize("typed", [one for one in _PATHS if one])
def test_a_path_is_no_release(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    server = FakeRegistry()

    async def bring() -> None:
        async with Registry("127.0.0.1:5999", transport=server) as registry:
            await pull(registry, typed)

    with pytest.raises(BadInput):
        asyncio.run(bring())
    assert not server.asked, "nobody was asked for it"
    with pytest.raises(BadInput):
        find_release(typed)


def test_a_release_that_calls_itself_a_path_is_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may push to the registry tags one so; who brings its record here would have written there."""
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    evil: Release = release("evil").model_copy(update={"name": "../../evil"})  # no model looks at a copy
    server = FakeRegistry()

    async def attack() -> Any:
        async with Registry("127.0.0.1:5999", transport=server) as registry:
            await push(registry, RELEASES, release_bundle(evil), tags=["r1"])
            return keep(await pull(registry, "r1"))

    with pytest.raises(BadInput, match="is no release that this version knows"):
        asyncio.run(attack())
    file = tmp_path / "evil.json"
    file.write_text(evil.model_dump_json())
    with pytest.raises(BadInput, match="name"):
        read_release(file)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "words",
    [
        ("release", "pull", "--", "--estate=x"),
        ("release", "pull", "--estate", "../..", "r1"),
        ("promote", "--estate", "../..", "--", "r1"),
        ("promote", "--only", "../prod", "--", "r1"),
        ("status", "../../x"),
    ],
)
def test_the_command_says_so_in_a_line(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "r1.json").write_text(release("r1").model_dump_json())
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 2 and "Traceback" not in said.output

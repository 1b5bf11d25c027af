"""Bad input, as its user meets it: one error with file and line, and nothing is applied."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ci.architecture import model
from ci.commands.cli import app

FOLDER = model.folder()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the environments' files, which the commands read."""
    folder = tmp_path / "environments"
    folder.mkdir()
    for source in FOLDER.glob("*.yaml"):
        (folder / source.name).write_text(source.read_text())
    monkeypatch.setattr(model, "folder", lambda: folder)
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return folder


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def _replaced(file: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text, f"{old!r} is not in {file} any more: mend this test"
        (folder / file).write_text(text.replace(old, new, 1))

    return edit


def _circle(folder: Path) -> None:
    (folder / "base.yaml").write_text("extends: dev.yaml\n" + (folder / "base.yaml").read_text())


def _big(folder: Path) -> None:
    with (folder / "base.yaml").open("a") as file:
        file.write("# padding\n" * 1_050_000)
    assert (folder / "base.yaml").stat().st_size > 10_000_000


def _bomb(folder: Path) -> None:
    """Little text that expands to more than memory holds: each line names the one before ten times."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (folder / "base.yaml").write_text("\n".join(lines) + "\n" + (folder / "base.yaml").read_text())


SECRET = "8fK2pQx7Lm9ZzT4vW1cBq0"

# What is done to the files, where the error is (file, text of its line), what it says, what to do next.
BAD: dict[str, tuple[Callable[[Path], None], str, str, str, str]] = {
    "a typo": (
        _replaced("base.yaml", "min_units: 2", "min_unit: 2"),
        "base.yaml", "min_unit: 2", "unknown key 'min_unit'", "did you mean 'min_units'?",
    ),
    "a typo in an overlay": (
        _replaced("dev.yaml", "tier: Burstable", "teir: Burstable"),
        "dev.yaml", "teir: Burstable", "unknown key 'teir'", "did you mean 'tier'?",
    ),
    "a wrong unit": (
        _replaced("base.yaml", "scale_down_unneeded_time: 10m", "scale_down_unneeded_time: 10min"),
        "base.yaml", "10min", "'10min' is no duration", "10m",
    ),
    "a number for yes": (
        _replaced("base.yaml", "block_all_inbound: true", "block_all_inbound: 1"),
        "base.yaml", "block_all_inbound: 1", "true or false is expected, not 1", "",
    ),
    "text for no": (
        _replaced("base.yaml", "vnet_integration: false", "vnet_integration: 'false'"),
        "base.yaml", "vnet_integration: 'false'", "true or false is expected, not 'false'", "",
    ),
    "text for a number": (
        _replaced("base.yaml", "min_units: 2", 'min_units: "2"'),
        "base.yaml", 'min_units: "2"', "a whole number is expected, not '2'", "",
    ),
    "yes for a number": (
        _replaced("base.yaml", "tolerated_failures: 2", "tolerated_failures: true"),
        "base.yaml", "tolerated_failures: true", "a whole number is expected, not true", "",
    ),
    "no unit": (
        _replaced("base.yaml", "os_disk: 128 GB", "os_disk: 128"),
        "base.yaml", "os_disk: 128", "128 is a size without a unit", "'128 GB'",
    ),
    "a duplicate region": (
        _replaced("base.yaml", "residency:\n", "  eastus: {priority: 2, vnet: 10.9.0.0/16}\nresidency:\n"),
        "base.yaml", "eastus: {priority: 2", "the key 'eastus' is given twice (first on line", "keep one",
    ),
    "an unknown region": (
        _replaced("base.yaml", "  eastus:\n", "  eastsu:\n"),
        "base.yaml", "eastsu:", "'eastsu' is no Azure region", "did you mean 'eastus'?",
    ),
    "an unknown size of machine": (
        _replaced("base.yaml", "vm_size: Standard_D8s_v5", "vm_size: Standard_D8_v5"),
        "base.yaml", "Standard_D8_v5", "'Standard_D8_v5' is no VM size known here", "Standard_D8s_v5",
    ),
    "an unknown SKU": (
        _replaced("base.yaml", "sku: Balanced_B20", "sku: Balanced_B21"),
        "base.yaml", "Balanced_B21", "sku must be", "Balanced_B2",
    ),
    "a prefix of 33": (
        _replaced("base.yaml", "vnet: 10.10.0.0/16", "vnet: 10.0.0.0/33"),
        "base.yaml", "10.0.0.0/33", "'10.0.0.0/33' is no IPv4 range", "a prefix of 0-32",
    ),
    "a secret where a reference belongs": (
        _replaced("base.yaml", "keys: azkv://this/livekit-api-secret", f"keys: {SECRET}"),
        "base.yaml", f"keys: {SECRET}", "a reference to a secret belongs here", "azkv://this/<name>",
    ),
    "a connection string anywhere": (
        _replaced("base.yaml", "oncall@voiceassistant.example.com", f"Endpoint=x;SharedAccessKey={SECRET}="),
        "base.yaml", "SharedAccessKey", "looks like an Azure connection string", "replace the secret",
    ),
    "overlays that go round": (
        _circle, "base.yaml", "extends: dev.yaml",
        "overlays go round in a circle: dev.yaml -> base.yaml -> dev.yaml",
        "take `extends` out of one of them",
    ),
    "ten megabytes": (
        _big, "base.yaml", "", "bytes; at most 1,048,576 are read", "pasted into it by mistake",
    ),
    "a bomb of aliases": (
        _bomb, "base.yaml", "&a0", "aliases (`*name`) expand to more than", "write the values out",
    ),
    "no environment of that name": (
        _replaced("dev.yaml", "environment: dev", "environment: prod"),
        "dev.yaml", "environment: prod", "the file is named dev but says 'prod'", "",
    ),
}  # fmt: skip


OF_DEV = ("a typo in an overlay", "overlays that go round", "no environment of that name")


@pytest.mark.parametrize("mistake", BAD)
@pytest.mark.parametrize("command", ["env check", "infra apply --local"])
def test_one_clear_error_and_nothing_is_applied(
    files: Path, tmp_path: Path, mistake: str, command: str
) -> None:
    edit, file, line, said, hint = BAD[mistake]
    edit(files)

    # dev and prod share base.yaml; what dev overrides is wrong in prod only.
    done = _run(*command.split(), "--env", "dev" if mistake in OF_DEV else "prod")

    assert done.exit_code == 2, done.output
    assert done.output.count("error: ") == 1 and "Traceback" not in done.output
    where = re.search(rf"error: environments/{re.escape(file)}(?::(\d+))?", done.output)
    assert where is not None, done.output
    if line:
        assert line in (files / file).read_text().splitlines()[int(where[1]) - 1]
    assert said in done.output
    assert hint in done.output
    assert SECRET not in done.output
    assert not (tmp_path / "state").exists(), "nothing was applied, or even looked at"


def test_the_same_error_as_json(files: Path) -> None:
    BAD["a prefix of 33"][0](files)

    done = _run("env", "check", "--env", "prod", "--json")

    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "BadInput" and "environments/base.yaml:" in error["message"]

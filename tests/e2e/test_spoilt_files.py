"""A thousand mutations of the files that people write, each read by the command that reads it.

By the command's own `main`, in this process: its options, its findings, its layout and its exit codes are
those of `va`. What comes behind the reading (a cluster, a database, checkov) is what is left out. About a
minute of processor time.
"""

from __future__ import annotations

import io
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spoilt_files import CHECKOUT, FILES, TODAY, Spoil, copied, foreign, spoils

from ci import dates, places
from ci.architecture import model
from ci.azure import render
from ci.commands import cli
from ci.environments import read_environments

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MUTATIONS = 1000
_PLACE = re.compile(r"\S+\.yaml:\d+\b")
_READING: dict[str, tuple[str, ...]] = {
    "environments/architecture/as-written/prod.yaml": ("env", "check", "--written"),
    "environments/architecture/base.yaml": ("env", "check", "--env", "staging"),
    "environments/architecture/waivers.yaml": ("infra", "check", "--env", "dev", "--no-checkov"),
    "policy.yaml": ("db", "status"),
    "helm/waivers.yaml": ("lint",),
}
"""By file, who reads it; an environment of the architecture is checked, one of an estate is asked for."""


def command(file: Path) -> tuple[str, ...]:
    if (known := _READING.get(str(file))) is not None:
        return known
    if "architecture" in file.parts:
        return ("env", "check", "--env", file.stem)
    estate = Path(*file.parts[1:2]).stem  # what several share is read by each
    return ("status", "--estate", "local" if estate == "base" else estate)


def va(*words: str) -> tuple[int, str]:
    """Exit code and all that was printed. What no command may let through is let through."""
    said, before = io.StringIO(), sys.argv
    sys.argv = ["va", *words]
    try:
        with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.getvalue()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(autouse=True)
def only_reading(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands read that checkout, and do nothing behind it."""
    modules = render.render(model.read("dev").architecture, None)

    async def asked(estate: str, *_: object, **__: object) -> tuple[object, ...]:
        read_environments(estate)
        return ()

    async def database(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(complaint="")

    async def linted(*_: object) -> None:
        await chart.hold_to_checkov({}, CHECKOUT)

    async def found(*_: object) -> tuple[SimpleNamespace, ...]:
        return (SimpleNamespace(id="CKV_K8S_11", resource="Deployment.voice.voice-api", file="", title=""),)

    from pipelines import chart, lint
    from pipelines import database as database_pipeline
    from pipelines import status as status_pipeline

    monkeypatch.setattr(places, "checkout", lambda: checkout)
    monkeypatch.setattr(model, "checkout", lambda: checkout)
    monkeypatch.setattr(dates, "today", lambda: TODAY)
    monkeypatch.setattr(cli, "replace_streams", lambda: SimpleNamespace(problem=None))
    monkeypatch.setattr(render, "render", lambda *_: modules)
    monkeypatch.setattr(status_pipeline, "status", asked)
    monkeypatch.setattr(database_pipeline, "database_status", database)
    monkeypatch.setattr(database_pipeline, "show_database", lambda _: "")
    monkeypatch.setattr(chart, "failed_checks", found)
    monkeypatch.setattr(lint, "lint", linted)


def held(file: Path, checkout: Path, what: Sequence[Spoil]) -> int:
    """The exit code of the command that reads it."""
    raw = (CHECKOUT / file).read_bytes()
    for one in what:
        raw = one(raw)
    (checkout / file).write_bytes(raw)
    try:
        code, said = va(*command(file))
    finally:
        (checkout / file).write_bytes((CHECKOUT / file).read_bytes())
    waived = file.name == "waivers.yaml"
    assert code in ((0, 2, 8) if waived else (0, 2)), said
    assert code != 2 or _PLACE.search(said) or (waived and "unused" in said), said
    strange = foreign(said.replace(str(checkout), ""), raw)
    assert strange is None, said
    assert len(said) < 60_000
    return code


def test_a_thousand_spoilt_files_are_read_or_refused_in_words(checkout: Path) -> None:
    started, codes = time.process_time(), Counter[tuple[Path, int]]()

    @settings(max_examples=MUTATIONS, suppress_health_check=list(HealthCheck))
    @given(file=st.sampled_from(FILES), what=spoils())
    def thousand(file: Path, what: list[Spoil]) -> None:
        codes[file, held(file, checkout, what)] += 1

    thousand()
    assert all(codes[file, 2] > 5 for file in FILES), codes  # else it is not the spoilt file that is read
    print(f"{MUTATIONS} in {time.process_time() - started:.0f} s")

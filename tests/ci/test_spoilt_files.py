"""Every YAML file that people write, spoilt in every way: what is said has a place, and is said in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spoilt_files import CHECKOUT, FILES, Spoil, complaint, copied, foreign, spoils


def held(file: Path, checkout: Path, what: list[Spoil]) -> None:
    raw = (CHECKOUT / file).read_bytes()
    for one in what:
        raw = one(raw)
    (checkout / file).write_bytes(raw)
    try:
        said = complaint(file, checkout)
    finally:
        (checkout / file).write_bytes((CHECKOUT / file).read_bytes())
    if not said:
        return
    first, *more = said.splitlines()
    assert re.match(r".*\.yaml:\d+", first), said
    assert all(re.match(r"also .*\.yaml:\d+|and \d+ more|.*\.yaml:\d+", line) for line in more[:-1]), said
    assert foreign(said.replace(str(checkout), ""), raw) is None, said
    assert len(said) < 20_000


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("checkout"))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(file=st.sampled_from(FILES), what=spoils())
def test_a_spoilt_file_is_read_or_refused_in_words(checkout: Path, file: Path, what: list[Spoil]) -> None:
    held(file, checkout, what)

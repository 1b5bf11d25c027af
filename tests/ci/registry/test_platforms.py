"""Which image of an index is taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.errors import BadInput
from ci.registry import platforms
from ci.registry.platforms import choose, own_platform, parse_platform, this_machine


def rows(*platforms: str | None) -> list[dict[str, Any]]:
    """Descriptors named by their platform; `unknown/unknown` as BuildKit's attestations are."""
    made = []
    for number, text in enumerate(platforms):
        row: dict[str, Any] = {"digest": text or f"plain {number}"}
        if text:
            row["platform"] = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
        made.append(row)
    return made


def chosen(wanted: str, *platforms: str | None) -> str:
    return str(choose(rows(*platforms), parse_platform(wanted), of="the image")["digest"])


@pytest.mark.parametrize(
    ("wanted", "there", "taken"),
    [
        ("linux/amd64", ["windows/amd64", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["freebsd/amd64", "linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["unknown/unknown", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/amd64/v1"], "linux/amd64/v1"),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v2"),
        ("linux/amd64", ["linux/x86_64"], "linux/x86_64"),
        ("linux/amd64", ["windows/386", "linux/i386"], "linux/i386"),
        ("linux/amd64/v2", ["linux/386", "linux/amd64"], "linux/amd64"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64"], "linux/arm/v6"),
        ("linux/arm/v7", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/arm/v7", ["linux/arm"], "linux/arm"),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"], "linux/arm/v5"),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64", ["linux/arm64", "linux/arm64/v9"], "linux/arm64"),
        ("linux/arm64/v8", ["linux/arm64"], "linux/arm64"),
        ("linux/arm64", ["linux/amd64", "linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/aarch64", ["linux/arm64/8"], "linux/arm64/8"),
        ("linux/arm64/v9.2", ["linux/arm64/v8", "linux/arm64/v9.3", "linux/arm64/v9"], "linux/arm64/v9"),
        ("linux/arm64/v9", ["linux/arm64/v8.6", "linux/arm64/v8.4", "linux/arm64/v8.5"], "linux/arm64/v8.5"),
        ("linux/arm64/v8.3", ["linux/arm64", "linux/arm64/v8.4", "linux/arm64/8.1"], "linux/arm64/8.1"),
        ("linux/arm64/v9.0", ["linux/arm/v8", "linux/arm64/v8.0"], "linux/arm64/v8.0"),
        ("linux/armhf", ["linux/arm/v7"], "linux/arm/v7"),
        ("linux/s390x", ["linux/amd64", "linux/s390x"], "linux/s390x"),
        ("linux/amd64", ["windows/amd64", None], "plain 1"),
        ("linux/amd64", [None, "linux/amd64"], "linux/amd64"),
        ("linux/amd64", [None], "plain 0"),
    ],
)
def test_the_image_that_runs_here_is_taken(wanted: str, there: list[str | None], taken: str) -> None:
    assert chosen(wanted, *there) == taken


@pytest.mark.parametrize(
    ("wanted", "there", "said"),
    [
        (
            "linux/amd64",
            ["windows/amd64", "linux/arm64"],
            "no image for linux/amd64; it has linux/arm64, windows/amd64",
        ),
        ("linux/amd64", ["linux/amd64/v2"], "it has linux/amd64/v2"),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm64"], "no image for linux/arm/v6"),
        ("linux/amd64", ["unknown/unknown"], "empty"),
        ("linux/amd64", [], "empty"),
    ],
)
def test_what_does_not_run_here_is_said(wanted: str, there: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        chosen(wanted, *there)


def test_an_attestation_is_no_image_whatever_platform_it_says() -> None:
    mark = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    there = [row | mark for row in rows("linux/amd64")] + rows("windows/amd64")

    with pytest.raises(BadInput, match="it has windows/amd64"):
        choose(there, parse_platform("linux/amd64"), of="the image")


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "a//b"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(BadInput, match="platform"):
        parse_platform(text)


def test_this_machine_has_one_and_it_is_written_as_a_config_has_it() -> None:
    here = this_machine()
    assert parse_platform(str(here)) == here and here.as_json()["os"] == "linux"
    assert parse_platform("linux/arm/7").as_json() == {"os": "linux", "architecture": "arm", "variant": "v7"}


@given(
    st.permutations(["windows/amd64", "linux/arm/v7", "linux/amd64", "linux/arm64", "unknown/unknown", None])
)
def test_the_order_of_an_index_decides_nothing_when_one_fits_best(there: list[str | None]) -> None:
    assert chosen("linux/amd64", *there) == "linux/amd64"
    assert chosen("linux/arm/v8", *there) == "linux/arm/v7"


HASWELL = {
    *("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"),
    *("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"),
}


@pytest.mark.parametrize(
    ("machine", "text", "own"),
    [
        ("linux/amd64", "linux/x86_64", "linux/amd64"),
        ("linux/amd64", "Linux/X86-64", "linux/amd64"),
        ("linux/amd64", "x86_64", "linux/amd64"),
        ("linux/amd64", "linux", "linux/amd64"),
        ("linux/amd64", "linux/amd64/v1", "linux/amd64"),
        ("linux/amd64", "linux/amd64/2", "linux/amd64/v2"),
        ("linux/amd64", "linux/amd64/v3", "linux/amd64/v3"),
        ("linux/amd64", "linux/amd64/v4", None),
        ("linux/amd64", "linux/386", None),
        ("linux/amd64", "i386", None),
        ("linux/amd64", "windows/amd64", None),
        ("linux/amd64", "linux/arm64/v8", None),
        ("linux/arm64", "linux/aarch64", "linux/arm64"),
        ("linux/arm64", "linux/arm64/v8", "linux/arm64"),
        ("linux/arm64", "linux/arm64/v9", None),
        ("linux/arm64", "linux/amd64", None),
        ("linux/arm/v7", "linux/armhf", "linux/arm/v7"),
        ("linux/arm/v7", "linux/arm/v6", "linux/arm/v6"),
    ],
)
def test_names_of_the_machine_s_own_platform(
    monkeypatch: pytest.MonkeyPatch, machine: str, text: str, own: str | None
) -> None:
    monkeypatch.setattr(platforms, "this_machine", lambda: parse_platform(machine))
    monkeypatch.setattr(platforms, "_flags", lambda: HASWELL)

    assert own_platform(text) == (parse_platform(own) if own else None)


@pytest.mark.parametrize(("flags", "level"), [(set(), 1), (HASWELL - {"avx2"}, 2), (HASWELL, 3)])
def test_the_level_of_a_processor(flags: set[str], level: int) -> None:
    assert platforms._level(flags) == level

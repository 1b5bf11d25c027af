"""SARIF: whatever Trivy says becomes a file that GitHub takes."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.scan import sarif
from ci.scan.sarif import for_github

_SCHEMA = json.loads((Path(__file__).parent / "sarif-2.1.0-rtm.5.json").read_text())
_VALID = jsonschema.validators.validator_for(_SCHEMA)(_SCHEMA)


def document(rules: list[Any], results: list[Any]) -> bytes:
    driver = {"name": "Trivy", "informationUri": "https://example.com", "rules": rules}
    return json.dumps(
        {"version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
    ).encode()


def fitted(rules: list[Any], results: list[Any], name: str = "api") -> dict[str, Any]:
    raw = for_github(document(rules, results), name)
    assert raw == for_github(document(rules, results), name)
    assert len(gzip.compress(raw, mtime=0)) <= 10 * 10**6
    made = json.loads(raw)
    run: dict[str, Any] = made["runs"][0]
    if len(run["results"]) < 100:
        assert [error.message for error in _VALID.iter_errors(made)] == []
    rules_there = run["tool"]["driver"]["rules"]
    assert len(run["results"]) <= 25_000 and len(rules_there) <= 25_000
    for rule in rules_there:
        assert (
            0 < len(rule["shortDescription"]["text"]) <= 1024
            and 0 < len(rule["fullDescription"]["text"]) <= 1024
        )
        assert rule["help"]["text"] and 0 < len(rule["name"]) <= 255
        properties = rule.get("properties", {})
        assert len(properties.get("tags", [])) <= 10
        assert 0 <= float(properties.get("security-severity", 0)) <= 10
    for result in run["results"]:
        assert result["message"]["text"] and rules_there[result["ruleIndex"]]["id"] == result["ruleId"]
        assert 1 <= len(result["locations"]) <= 100
        for location in result["locations"]:
            place = location["physicalLocation"]
            uri, region = place["artifactLocation"]["uri"], place["region"]
            assert uri and uri.isascii() and not set(' <>"\\^`{|}#?') & set(uri)
            assert not uri.startswith("/") and ":" not in uri.split("/")[0] and ".." not in uri.split("/")
            assert 1 <= region["startLine"] <= region["endLine"]
    return run


def at(uri: str, **region: int) -> dict[str, Any]:
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, **({"region": region} if region else {})}}


@pytest.mark.parametrize(
    ("said", "uri"),
    [
        ("usr/lib/a.py", "usr/lib/a.py"),
        ("/usr//lib/../lib/./a.py", "usr/lib/a.py"),
        ("file:///usr/lib/a.py", "usr/lib/a.py"),
        ("usr/lib/a file #1?.py", "usr/lib/a%20file%20%231%3F.py"),
        ("usr/share/Grüße", "usr/share/Gr%C3%BC%C3%9Fe"),
        ("usr/100%", "usr/100%25"),
        ("usr/a%20b", "usr/a%20b"),
        ("127.0.0.1:5000/api", "127.0.0.1%3A5000/api"),
        ("usr/c:d", "usr/c:d"),
        ("..\\..\\etc\\passwd", "etc/passwd"),
        ("../../etc/passwd", "etc/passwd"),
        ("", "api"),
        ("/", "api"),
        ("{a}|b", "%7Ba%7D%7Cb"),
    ],
)
def test_a_place_is_a_relative_uri(said: str, uri: str) -> None:
    run = fitted(
        [{"id": "A"}], [{"ruleId": "A", "message": {"text": "x"}, "locations": [at(said, startLine=3)]}]
    )

    (location,) = run["results"][0]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == uri
    assert location["physicalLocation"]["region"]["startLine"] == 3


def test_what_github_asks_for_is_there_and_what_it_does_not_take_is_not() -> None:
    rules = [
        {"id": "LIC", "name": "License"},
        {"id": "UNUSED", "name": "OsPackageVulnerability"},
        {
            "id": "CVE-1",
            "shortDescription": {"text": "s" * 5000},
            "properties": {"tags": [f"t{number}" for number in range(60)], "security-severity": "99"},
        },
        {"id": "CVE-2", "name": "n" * 300, "properties": {"security-severity": "high", "precision": "high"}},
    ]
    results = [
        {"ruleId": "LIC", "ruleIndex": 0, "message": {"text": "x"}},
        {
            "ruleId": "CVE-1",
            "ruleIndex": 2,
            "message": {"text": "m" * 100_000},
            "locations": [at("a")] * 1500,
        },
        {"ruleId": "NEVER-DECLARED", "ruleIndex": 7},
        {"ruleId": "CVE-2", "ruleIndex": 3, "message": {}, "locations": [at("b", startLine=0, endLine=0)]},
        {"ruleId": "CVE-2", "ruleIndex": 3, "message": {"text": ""}, "locations": []},
    ]

    run = fitted(rules, results)

    made = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in made] == ["CVE-1", "NEVER-DECLARED", "CVE-2"]
    assert [result["ruleId"] for result in run["results"]] == ["CVE-1", "NEVER-DECLARED", "CVE-2", "CVE-2"]
    assert made[2]["properties"] == {
        "security-severity": "0.0",
        "precision": "high",
    }


def test_a_place_begins_with_one_whatever_is_said_of_it() -> None:
    region = {"startLine": -3, "startColumn": -1, "endLine": 0, "endColumn": -2}
    place = {"physicalLocation": {"artifactLocation": {"uri": "a"}, "region": region}}

    run = fitted([{"id": "CVE-1"}], [{"ruleId": "CVE-1", "message": {"text": "x"}, "locations": [place]}])

    (told,) = run["results"][0]["locations"]
    assert set(told["physicalLocation"]["region"].values()) == {1}


def test_a_file_that_is_too_large_keeps_the_most_severe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "_BYTES", 20_000)
    dice = random.Random(7)
    rules = [{"id": f"CVE-{score}", "properties": {"security-severity": f"{score}"}} for score in range(11)]
    results = [
        {"ruleId": f"CVE-{number % 11}", "message": {"text": dice.randbytes(60).hex()}}
        for number in range(1100)
    ]

    raw = for_github(document(rules, results), "api")

    kept = [int(result["ruleId"][4:]) for result in json.loads(raw)["runs"][0]["results"]]
    assert len(gzip.compress(raw, mtime=0)) <= 20_000 and 50 < len(kept) < 1100
    assert kept.count(10) == 100 and min(kept) > 5


_JSON_TEXT = st.text(max_size=30)
_RULE = st.fixed_dictionaries(
    {"id": st.sampled_from(["A", "B", "C"])},
    optional={
        "name": _JSON_TEXT,
        "shortDescription": st.fixed_dictionaries({"text": _JSON_TEXT}),
        "help": st.fixed_dictionaries({"text": _JSON_TEXT, "markdown": _JSON_TEXT}),
        "properties": st.fixed_dictionaries(
            {}, optional={"tags": st.lists(_JSON_TEXT, max_size=25), "security-severity": _JSON_TEXT}
        ),
    },
)
_PLACE = st.builds(lambda uri, line: at(uri, startLine=line), _JSON_TEXT, st.integers(-1, 9))
_RESULT = st.fixed_dictionaries(
    {"ruleId": st.sampled_from(["A", "B", "D"]), "message": st.fixed_dictionaries({"text": _JSON_TEXT})},
    optional={"locations": st.lists(_PLACE, max_size=3), "ruleIndex": st.integers(0, 9)},
)


@settings(max_examples=60)
@given(st.lists(_RULE, max_size=4), st.lists(_RESULT, max_size=5))
def test_whatever_trivy_says_github_takes_it(rules: list[Any], results: list[Any]) -> None:
    fitted(rules, results)

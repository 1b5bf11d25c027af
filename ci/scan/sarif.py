"""A SARIF file as GitHub's code scanning takes it: with what it asks for, and within its limits.

    write_whole(file, for_github(file.read_bytes(), "fastapi-backend"))

Sources: "SARIF support for code scanning" and "SARIF results exceed limits", docs.github.com, read 2026-11;
the format is OASIS SARIF 2.1.0, whose schema is in tests/ci/scan. A file that GitHub would refuse is made to
fit; all that was found stays in our own report.
"""

from __future__ import annotations

import gzip
import json
import posixpath
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

__all__ = ["for_github"]

_RESULTS, _RULES = 25_000, 25_000
_LOCATIONS, _TAGS = 100, 10
"""Of these GitHub takes more, but shows no more."""
_NAME, _DESCRIPTION, _MESSAGE = 255, 1024, 8192
"""Characters: the first two are its limits, the third keeps a file small."""
_BYTES = 10 * 10**6
"""Of the gzipped file."""
_REGION = {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1}


def for_github(raw: bytes, name: str) -> bytes:
    """Trivy's SARIF of the image or chart of that name, fitted; the same bytes each time.

    Each run has a category: GitHub keeps the newest analysis of each (runAutomationDetails), and names files
    relative to ROOTPATH. Licences are left out: there are hundreds, most of them no alert to anybody. So is
    the folder of this machine in which Trivy read its own report. A result that is nowhere is in the image;
    of more than fit the most severe stay. ValueError, KeyError or TypeError for what is no SARIF of one run.
    """
    document = json.loads(raw)
    (run,) = document["runs"]
    run["automationDetails"] = {"id": f"{name}/"}
    run["originalUriBaseIds"] = {"ROOTPATH": {"uri": "file:///"}}
    rules = {rule["id"]: rule for rule in run["tool"]["driver"]["rules"]}
    licences = {of for of, rule in rules.items() if rule.get("name") == "License"}
    found = [result for result in run["results"] if result["ruleId"] not in licences]
    severity = [_severity(rules.get(result["ruleId"], {})) for result in found]
    ranked = sorted(range(len(found)), key=lambda at: -severity[at])[:_RESULTS]
    while True:
        kept = [found[at] for at in sorted(ranked)]
        text = json.dumps({**document, "runs": [_fitted(run, rules, kept, name)]}, indent=1).encode()
        if len(gzip.compress(text, 6, mtime=0)) <= _BYTES or len(ranked) <= 1:
            return text
        ranked = ranked[: len(ranked) * 3 // 4]


def _fitted(run: dict[str, Any], rules: dict[str, Any], found: list[Any], name: str) -> dict[str, Any]:
    used = list(dict.fromkeys(result["ruleId"] for result in found))[:_RULES]
    index = {of: number for number, of in enumerate(used)}
    driver = run["tool"]["driver"] | {"rules": [_rule(rules.get(of, {"id": of})) for of in used]}
    results = [_result(result, index, name) for result in found if result["ruleId"] in index]
    return run | {"tool": run["tool"] | {"driver": driver}, "results": results}


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    short = _text(rule.get("shortDescription")) or rule["id"]
    full = _text(rule.get("fullDescription")) or short
    fitted = rule | {
        "name": str(rule.get("name") or rule["id"])[:_NAME],
        "shortDescription": {"text": short[:_DESCRIPTION]},
        "fullDescription": {"text": full[:_DESCRIPTION]},
        "help": {**(rule.get("help") or {}), "text": _text(rule.get("help")) or full},
    }
    properties = dict(rule.get("properties") or {})
    if "tags" in properties:
        properties["tags"] = list(dict.fromkeys(map(str, properties["tags"])))[:_TAGS]
    if "security-severity" in properties:
        properties["security-severity"] = f"{_severity(rule):.1f}"
    return fitted | ({"properties": properties} if properties else {})


def _result(result: dict[str, Any], index: dict[str, int], name: str) -> dict[str, Any]:
    message = _text(result.get("message")) or result["ruleId"]
    places = list(_places(result.get("locations") or (), name))
    nowhere = {"physicalLocation": {"artifactLocation": {"uri": _uri("", name)}, "region": _REGION}}
    return result | {
        "ruleIndex": index[result["ruleId"]],
        "message": {"text": message[:_MESSAGE]},
        "locations": places[:_LOCATIONS] or [nowhere],
    }


def _places(locations: Iterable[dict[str, Any]], name: str) -> Iterable[dict[str, Any]]:
    for location in locations:
        place = location.get("physicalLocation") or {}
        file = place.get("artifactLocation") or {}
        uri = _uri(str(file.get("uri") or ""), name)
        region = {
            key: value for key, value in (place.get("region") or {}).items() if value or key == "charOffset"
        }
        start = max(1, int(region.get("startLine") or 1))
        region |= {"startLine": start, "endLine": max(start, int(region.get("endLine") or start))}
        region |= {key: max(1, int(region[key])) for key in ("startColumn", "endColumn") if key in region}
        fitted = place | {"artifactLocation": file | {"uri": uri}, "region": {**_REGION, **region}}
        yield location | {"physicalLocation": fitted}


def _uri(text: str, name: str) -> str:
    """A file as a URI relative to the root (RFC 3986, 4.2); the image's name where there is none.

    What is escaped already stays so. A colon in the first part would make it a scheme.
    """
    path = text.removeprefix("file://").replace("\\", "/")
    path = posixpath.normpath("/" + path.lstrip("/")).lstrip("/") or name
    path = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path)
    escaped = quote(path, safe="/%-._~!$&'()*+,;=:@")
    first, slash, rest = escaped.partition("/")
    return first.replace(":", "%3A") + slash + rest


def _severity(rule: dict[str, Any]) -> float:
    """What GitHub ranks by, 0 to 10; 0 where a rule says nothing that can be understood."""
    try:
        return min(10.0, max(0.0, float((rule.get("properties") or {}).get("security-severity", 0))))
    except (TypeError, ValueError):
        return 0.0


def _text(message: Any) -> str:
    return str((message or {}).get("text") or "").strip() if isinstance(message, dict) else ""

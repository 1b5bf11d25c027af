"""What may be shown of values and manifests: not what is a secret by its key, its place or its form.

masked({"env": {"SMTP_PASSWORD": "x"}})                        {"env": {"SMTP_PASSWORD": "***"}}
masked({"token": "new"}, was={"token": "old"})                 {"token": "*** (another)"}
masked(object_of_kubernetes)                                   a Secret's data, an env variable's value
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["masked"]

_KEY = re.compile(
    r"(?i)(pass(word|wd|phrase)?|pwd|secret|token|credentials?|signature|connection[_.-]?string|"
    r"(private|api|access|account|encryption|signing|shared|master|secret)[_.-]?key)s?$"
)
"""The end of a key whose text is a secret; `secretName` and `passwordFile` name none."""
_INSIDE = (
    re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^/\s:@]*:)[^/\s@]+(?=@)"),  # a URL with a password
    re.compile(r"(?i)(?P<before>(?:AccountKey|SharedAccessKey|AccessKey|password|pwd)=)[^;\s&\"']+"),
    re.compile(r"(?P<before>[?&]sig=)[\w%+/=-]+"),
    re.compile(r"(?P<before>-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]+?(?=-----END|\Z)"),
    re.compile(r"(?P<before>)\beyJ[\w-]{10,}\.[\w.-]{10,}"),  # a JSON web token
    re.compile(r"(?P<before>)\b(?:sk-[\w-]{20,}|gh[pousr]_\w{30,}|AKIA[0-9A-Z]{16}|xox[abp]-[\w-]{20,})"),
)
_LINE = re.compile(r"(?m)^(?P<before>[ \t\"'-]*(?P<key>[\w.-]+)[\"']?[ \t]*[:=][ \t]*)(?P<value>\S.*)$")
"""A line of a file within a text: `password = x`, `"token": "x",`."""
_MASK, _ANOTHER = "***", "*** (another)"
_SECRETS = ("data", "stringData")


def masked(value: Any, *, was: Any = ..., key: str = "") -> Any:
    """The same without its secrets. `was`: what it was before, so that one which changed can be told."""
    was = value if was is ... else was
    if isinstance(value, Mapping):
        before = was if isinstance(was, Mapping) else {}
        # Of one that is a variable of a container the name decides, and not the key that its value is under.
        name = value.get("name") if isinstance(value.get("name"), str) and "value" in value else None
        whole = value.get("kind") == "Secret" and "apiVersion" in value
        return {
            each: _all(one, before.get(each))
            if whole and each in _SECRETS
            else masked(one, was=before.get(each), key=str(name) if name and each == "value" else str(each))
            for each, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        before_it = was if isinstance(was, (list, tuple)) else ()
        return [
            masked(one, was=before_it[number] if number < len(before_it) else None, key=key)
            for number, one in enumerate(value)
        ]
    if not isinstance(value, str) or not value:
        return value
    if _KEY.search(key):
        return _MASK if value == was else _ANOTHER
    shown = _LINE.sub(_line, value) if "\n" in value else value
    for pattern in _INSIDE:
        shown = pattern.sub(rf"\g<before>{_MASK}", shown)
    return shown


def _line(found: re.Match[str]) -> str:
    return f"{found['before']}{_MASK}" if _KEY.search(found["key"]) else found[0]


def _all(value: Any, was: Any) -> Any:
    if isinstance(value, Mapping):
        before = was if isinstance(was, Mapping) else {}
        return {key: _all(one, before.get(key)) for key, one in value.items()}
    return _MASK if value == was else _ANOTHER

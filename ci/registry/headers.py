"""Headers as registries and the proxies before them write them: numbers, and where a list goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["next_link", "number"]

_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[\w*-]+(?:\s*=\s*(?:"[^"]*"|[^",;\s]*))?)*)')
_BARE_LINK = re.compile(r'\s*([^<>\s;,]+)((?:\s*;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^",;\s]*))+)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^",;\s]*))', re.IGNORECASE)


def next_link(headers: Mapping[str, str]) -> str | None:
    """The target of the `next` relation in Link headers (RFC 8288), as it is written; None without one.

    Relations may be several in one link, quoted or not; a link without its angle brackets is taken too.
    """
    header = headers.get("Link", "")
    for target, parameters in _LINK.findall(header) or _BARE_LINK.findall(header):
        found = _REL.search(parameters)
        if found and "next" in (found[1] or found[2] or "").lower().split():
            return str(target).strip()
    return None


def number(text: str | None) -> int | None:
    """What a header says in digits; None when it says anything else."""
    return int(text) if text and re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII) else None

"""Secrets of a session: kept in memory only, and taken out of what is shown of those who were given them."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from ci.process import mask

__all__ = ["Masker", "Secrets"]

_SHORTEST_LINE = 6


@dataclass
class Masker:
    """Replaces every secret it was told of. Of a secret of several lines each line is one, but for very short
    ones."""

    _known: set[str] = field(default_factory=set, repr=False)

    def add(self, plaintext: bytes) -> None:
        text = plaintext.decode(errors="replace")
        self._known.update({text, text.strip()} - {""})
        lines = text.splitlines()
        if len(lines) > 1:
            self._known.update(line.strip() for line in lines if len(line.strip()) >= _SHORTEST_LINE)

    @property
    def longest(self) -> int:
        """Characters of the longest text that is hidden."""
        return max(map(len, self._known), default=0)

    def mask(self, text: str) -> str:
        return mask(text, self._known) if self._known else text


class Secrets:
    """Plaintexts that `setSecret` brought, by name and MAC. The MAC's key is the cache's own."""

    def __init__(self, key: bytes, masker: Masker) -> None:
        self._key = key
        self._plain: dict[tuple[str, str], bytes] = {}
        self.masker = masker

    def set(self, name: str, plaintext: str) -> str:
        """Remember a secret; returns its MAC, which stands for it in IDs and cache keys."""
        data = plaintext.encode()
        mac = self.mac(name, data)
        self._plain[name, mac] = data
        self.masker.add(data)
        return mac

    def get(self, name: str, mac: str) -> bytes | None:
        """The plaintext, None when this session was never given it."""
        return self._plain.get((name, mac))

    def mac(self, name: str, data: bytes) -> str:
        return hmac.digest(self._key, name.encode() + b"\0" + data, "sha256").hex()[:32]

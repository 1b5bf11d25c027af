"""The two tracks of a target, by the names of their Helm releases, and what the route splits between them."""

from __future__ import annotations

from typing import Literal

__all__ = ["CANARY", "SPLIT", "STABLE", "TRACKS", "Track"]

STABLE = "voice"
CANARY = "voice-canary"
SPLIT = {f"{STABLE}-{part}": f"{CANARY}-{part}" for part in ("api", "web")}
"""The services of each track that the route splits."""

Track = Literal["stable", "canary"]
TRACKS: tuple[Track, ...] = ("stable", "canary")

"""The folders this project writes to, outside the checkout: one for state, one for caches.

`va down` removes what it made under `state()`; `cache()` may be deleted at any time and costs only time.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache", "checkout", "state"]


def checkout() -> Path:
    """The checkout that this package runs from (it holds images/, helm/, environments/ and tools/)."""
    return Path(__file__).resolve().parent.parent


def state() -> Path:
    """$VA_STATE, else $XDG_STATE_HOME/va, else ~/.local/state/va: the embedded platform, ledgers, reports."""
    return _folder("VA_STATE", "XDG_STATE_HOME", ".local/state")


def cache() -> Path:
    """$VA_CACHE, else $XDG_CACHE_HOME/va, else ~/.cache/va: built tools, image layers, scan results."""
    return _folder("VA_CACHE", "XDG_CACHE_HOME", ".cache")


def _folder(own: str, xdg: str, fallback: str) -> Path:
    if own in os.environ:
        return Path(os.environ[own]).expanduser().absolute()
    base = os.environ.get(xdg) or Path.home() / fallback
    return Path(base) / "va"

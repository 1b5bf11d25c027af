"""Secrets of one platform: made once, kept in files that only their owner can read."""

from __future__ import annotations

import secrets
from pathlib import Path

__all__ = ["secret", "write_private"]


def secret(file: Path) -> str:
    """What is in that file; 36 random bytes as text where there is none yet."""
    if not file.exists():
        write_private(file, secrets.token_urlsafe(36))
    return file.read_text()


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)

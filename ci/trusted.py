"""Whom this machine trusts over TLS.

Reading all of its authorities takes longer than most questions do, and each client of httpx would read
them anew.
"""

from __future__ import annotations

import os
import ssl
from functools import cache

import httpx

__all__ = ["trusted"]


def trusted() -> ssl.SSLContext:
    """The authorities that httpx would take, read once: what it takes as `verify`."""
    return _context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _context(*_: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()

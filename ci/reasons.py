"""Why a server was not reached, in words.

why = reason_of(error)      # "connection refused"
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator

import httpx

__all__ = ["reason_of"]


def reason_of(error: BaseException) -> str:
    """What the system says of it, else what the error says of itself, and not what a client's code calls it.

    Clients wrap the errors of sockets, some more than once, and some say nothing themselves.
    """
    behind = list(_behind(error))
    for one in behind:
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {one.verify_message}"
        if isinstance(one, ssl.SSLError):
            return f"TLS failed: {getattr(one, 'reason', None) or one}"
        if isinstance(one, socket.gaierror):
            return "its name is not known here"
        if isinstance(one, OSError) and one.errno:
            said = os.strerror(one.errno)
            return said[0].lower() + said[1:]
    if any(isinstance(one, TimeoutError) for one in behind):
        return "no answer in time"
    silent = "no answer in time" if isinstance(error, httpx.TimeoutException) else "the connection broke off"
    return str(error) or silent


def _behind(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the nearest first."""
    left, seen = [error], set[int]()
    while left:
        one = left.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            from_ = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
            # aiohttp, urllib3, httpcore and Azure's clients keep theirs beside Python's own chain.
            kept = [getattr(one, name, None) for name in ("os_error", "reason", "inner_exception")] + [
                *one.args
            ]
            group = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
            left += [each for each in (*kept, from_, *group) if isinstance(each, BaseException)]

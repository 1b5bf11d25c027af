"""How much of a request's body is read: no more than any honest one has."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["MOST_BYTES", "BoundedBodies"]

MOST_BYTES = 16 * 1024
"""An honest body has a hundred bytes or two."""


class BoundedBodies:
    """ASGI middleware: 413 for a body of more than MOST_BYTES, whoever sent it and wherever to.

    One whose Content-Length says so is not read at all; one that does not say is read up to there. So nobody
    fills the memory before the rate limit or an administrator's token is even looked at.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        left = MOST_BYTES

        async def bounded() -> Message:
            nonlocal left
            # Also a length that says too much is told by FastAPI's own handler, in the form of other errors.
            if said.isdigit() and int(said) > MOST_BYTES:
                raise _too_large()
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise _too_large()
            return message

        await self._app(scope, bounded, send)


def _too_large() -> HTTPException:
    return HTTPException(413, f"a body may have {MOST_BYTES} bytes", {"connection": "close"})

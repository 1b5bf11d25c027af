"""HTTP to a registry on this machine, as a transport of httpx: there, time is what Python itself takes.

aiohttp asks at half of the processor time of httpx's own transport, and receives blobs at a quarter of it. To
registries on a network, with TLS and proxies, httpx goes by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from ci.reasons import reason_of

if TYPE_CHECKING:
    import aiohttp

__all__ = ["LoopbackTransport"]

_AT_ONCE = 8
"""Connections to one registry. More requests wait for one of them: a new one costs more than the wait."""


class LoopbackTransport(httpx.AsyncBaseTransport):
    """Plain HTTP/1.1 with connections that are kept; errors are those of httpx."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        import aiohttp  # only here: it takes longer to import than many commands run

        if self._session is None:  # it belongs to the event loop, which runs only now
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_AT_ONCE),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        patience = request.extensions.get("timeout", {})
        body = _Body(request)
        with _as_httpx(request, body):
            answer = await self._session.request(
                request.method,
                str(request.url),
                headers=request.headers.multi_items(),
                data=body.content,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=patience.get("connect"), sock_read=patience.get("read")
                ),
            )
        return httpx.Response(
            answer.status, headers=list(answer.raw_headers), stream=_Answer(answer, request)
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


class _Body:
    """What a request sends, and what went wrong while that was read."""

    def __init__(self, request: httpx.Request) -> None:
        self._request = request
        self.error: Exception | None = None

    @property
    def content(self) -> bytes | _Body | None:
        """In the form that aiohttp takes."""
        try:
            return self._request.content or None
        except httpx.RequestNotRead:
            return self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._request.stream, httpx.AsyncByteStream)
        try:
            async for piece in self._request.stream:
                yield piece
        except Exception as error:
            self.error = error
            raise


class _Answer(httpx.AsyncByteStream):
    """The body of a response, in the pieces in which it arrives."""

    def __init__(self, answer: aiohttp.ClientResponse, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx(self._request):
            async for piece in self._answer.content.iter_any():
                yield piece

    async def aclose(self) -> None:
        self._answer.release()


@contextmanager
def _as_httpx(request: httpx.Request, body: _Body | None = None) -> Iterator[None]:
    """Errors of aiohttp as those of httpx; one of the body's own source as it is."""
    import aiohttp

    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        if body and body.error:
            raise body.error from None
        kind: type[httpx.TransportError] = httpx.ReadError
        if isinstance(error, TimeoutError):
            kind = httpx.ReadTimeout
        elif isinstance(error, aiohttp.ClientConnectorError):
            kind = httpx.ConnectError
        raise kind(reason_of(error), request=request) from error

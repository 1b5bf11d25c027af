"""The transport to registries on this machine, against sockets: what it sends, and its errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ci.registry.loopback import LoopbackTransport


@asynccontextmanager
async def served(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


def client(timeout: httpx.Timeout | float = 30.0) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=LoopbackTransport(), timeout=timeout, trust_env=False)


def ask(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
    work: Callable[[str, httpx.AsyncClient], Awaitable[None]],
    timeout: httpx.Timeout | float = 30.0,
) -> None:
    async def main() -> None:
        async with served(answer) as url, client(timeout) as http:
            await work(url, http)

    asyncio.run(main())


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(10):
        yield b"x" * 100_000


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    chunked = request.headers.get("Transfer-Encoding", "")
    headers = {"X-Method": request.method, "X-Size": str(len(body)), "X-Chunked": chunked}
    headers["X-Cookie"] = request.headers.get("Cookie", "")
    headers["Set-Cookie"] = "a=b"
    return web.Response(status=202, headers=headers, body=b"" if request.method == "HEAD" else body)


def test_it_sends_bytes_and_streams_and_gives_the_whole_answer() -> None:
    async def work(url: str, http: httpx.AsyncClient) -> None:
        streamed = await http.put(url, content=pieces(), headers={"Content-Length": "1000000"})
        assert (streamed.status_code, streamed.headers["X-Size"]) == (202, "1000000")
        assert streamed.headers["X-Chunked"] == "" and len(streamed.content) == 1_000_000
        assert (await http.post(url, content=b"abc")).content == b"abc"
        head = await http.head(url)
        assert head.headers["X-Method"] == "HEAD" and head.content == b""

    ask(echo, work)


def test_an_answer_is_read_as_it_comes_and_can_be_left_in_the_middle() -> None:
    async def long(_: web.Request) -> web.Response:
        return web.Response(body=b"y" * 5_000_000)

    async def work(url: str, http: httpx.AsyncClient) -> None:
        for _ in range(20):  # more than there are connections: those that are left are given back
            async with http.stream("GET", url) as response:
                assert b"y" in await anext(response.aiter_bytes())
        assert len((await http.get(url)).content) == 5_000_000

    ask(long, work)


def test_its_errors_are_those_of_httpx() -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport
        request.transport.abort()
        return response

    async def work(url: str, http: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ReadError):
            await http.get(url)

    ask(broken, work)

    async def nobody() -> None:
        async with client() as http:
            with pytest.raises(httpx.ConnectError):
                await http.get("http://127.0.0.1:1/")

    asyncio.run(nobody())


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    async def work(url: str, http: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await http.get(url)

    ask(slow, work, timeout=httpx.Timeout(30, read=0.05))


def test_what_goes_wrong_while_a_body_is_read_is_no_fault_of_the_connection() -> None:
    async def shrunk() -> AsyncIterator[bytes]:
        yield b"1"
        raise OSError("the file ends")

    async def work(url: str, http: httpx.AsyncClient) -> None:
        with pytest.raises(OSError, match="the file ends"):
            await http.put(url, content=shrunk(), headers={"Content-Length": "5"})

    ask(echo, work)

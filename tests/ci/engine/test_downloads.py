"""Files of the web, through the unmodified SDK, from a server of the test's own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import dagger
import pytest

from ci.engine.network import refuse_metadata
from ci.errors import BadInput, SystemUnavailable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root")

_OLD = "Wed, 01 Jan 2020 00:00:00 GMT"


class _Server(BaseHTTPRequestHandler):
    body = b"one"
    tag = '"1"'
    seen: ClassVar[list[tuple[str, dict[str, str]]]] = []

    def do_GET(self) -> None:
        type(self).seen.append((self.path, dict(self.headers)))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path.startswith("/none"):
            self.send_error(404)
        elif self.path.startswith("/broken"):
            self.send_error(503)
        elif self.tag and self.headers.get("If-None-Match") == self.tag:
            self.send_response(304)
            self.end_headers()
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.body)))
            self.send_header("Last-Modified", _OLD)
            if self.tag:
                self.send_header("ETag", self.tag)
            self.end_headers()
            self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[_Server]]]:
    class Own(_Server):
        seen: ClassVar[list[tuple[str, dict[str, str]]]] = []

    served = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}", Own
    served.shutdown()
    served.server_close()
    thread.join()


def _sum(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_file_is_asked_for_once_a_session_and_its_tag_in_the_next(
    run: Any, server: tuple[str, type[_Server]]
) -> None:
    url, own = server

    async def pipeline(client: dagger.Client) -> Any:
        file = client.http(f"{url}/deep/name.txt?x=1")
        again = client.http(f"{url}/deep/name.txt?x=1")
        stat = client.directory().with_file("f", file).stat("f")
        return await file.contents(), await again.name(), await stat.permissions(), await file.digest()

    first = run(pipeline)
    assert first[:3] == ("one", "name.txt", 0o600) and len(own.seen) == 1
    assert run(pipeline) == first
    assert own.seen[1][1]["If-None-Match"] == '"1"' and len(own.seen) == 2
    own.body, own.tag = b"two", '"2"'
    assert run(pipeline)[0] == "two"
    assert run(pipeline)[0] == "two" and own.seen[-1][1]["If-None-Match"] == '"2"'


def test_a_checksum_finds_a_file_without_asking_and_refuses_another(
    run: Any, server: tuple[str, type[_Server]]
) -> None:
    url, own = server

    async def right(client: dagger.Client) -> str:
        return await client.http(f"{url}/f", name="n", permissions=0o755, checksum=_sum(b"one")).contents()

    async def wrong(client: dagger.Client) -> str:
        return await client.http(f"{url}/f", checksum=_sum(b"other")).contents()

    assert run(right) == "one" and run(right) == "one" and len(own.seen) == 1
    with pytest.raises(BadInput, match="and not sha256:"):
        run(wrong)


def test_a_header_goes_to_its_server_alone(run: Any, server: tuple[str, type[_Server]]) -> None:
    url, own = server
    other = ThreadingHTTPServer(("127.0.0.1", 0), own)
    thread = threading.Thread(target=other.serve_forever, daemon=True)
    thread.start()

    async def pipeline(client: dagger.Client) -> str:
        header = client.set_secret("header", "Bearer abcdef-secret")
        return await client.http(
            f"{url}/to/http://127.0.0.1:{other.server_port}/end", auth_header=header
        ).contents()

    try:
        assert run(pipeline) == "one"
    finally:
        other.shutdown()
        other.server_close()
        thread.join()
    assert [headers.get("Authorization") for _, headers in own.seen] == ["Bearer abcdef-secret", None]


@pytest.mark.parametrize(
    ("path", "kind", "told"),
    [
        ("/none", BadInput, "404"),
        ("/broken", SystemUnavailable, "503"),
        ("/to/http://169.254.169.254/latest/meta-data", BadInput, "who it is"),
        ("/to/file:///etc/passwd", BadInput, "no URL of http"),
    ],
)
def test_what_is_not_fetched(
    run: Any, server: tuple[str, type[_Server]], path: str, kind: type[Exception], told: str
) -> None:
    async def pipeline(client: dagger.Client) -> str:
        return await client.http(server[0] + path).contents()

    with pytest.raises(kind, match=told):
        run(pipeline)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "0", "[::]"])
def test_what_is_elsewhere_leads_not_to_this_machine(host: str) -> None:
    with pytest.raises(BadInput, match="which is this machine"):
        asyncio.run(refuse_metadata(host.strip("[]"), led_by="192.0.2.1"))


def test_a_file_of_a_checksum_is_the_same_whoever_fetched_it(
    run: Any, server: tuple[str, type[_Server]], tmp_path: Path
) -> None:
    url, _ = server

    async def plain(client: dagger.Client) -> str:
        return await client.http(f"{url}/f").digest()

    async def named(client: dagger.Client) -> str:
        return await client.http(f"{url}/f", checksum=_sum(b"one")).digest()

    before = run(named)
    shutil.rmtree(tmp_path / "cache")
    run(plain)
    assert run(named) == before


def test_who_asks_is_in_no_error_and_a_name_has_no_nul(run: Any, server: tuple[str, type[_Server]]) -> None:
    async def asked(client: dagger.Client) -> str:
        return await client.http(server[0].replace("://", "://me:hidden@") + "/none").contents()

    async def odd(client: dagger.Client) -> str:
        return await client.http(f"{server[0]}/a%00b").contents()

    with pytest.raises(BadInput, match="404") as told:
        run(asked)
    assert "hidden" not in str(told.value)
    with pytest.raises(BadInput, match="no NUL"):
        run(odd)


def test_a_download_leaves_the_disk_room(
    run: Any, server: tuple[str, type[_Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.engine.store.Store.is_full", lambda _: True)

    async def pipeline(client: dagger.Client) -> str:
        return await client.http(f"{server[0]}/f").contents()

    with pytest.raises(SystemUnavailable, match="full"):
        run(pipeline)


def test_a_name_leads_nowhere_else(run: Any, server: tuple[str, type[_Server]]) -> None:
    async def pipeline(client: dagger.Client) -> str:
        return await client.http(f"{server[0]}/f", name="../../x").contents()

    with pytest.raises(BadInput, match="no slash"):
        run(pipeline)

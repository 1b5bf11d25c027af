"""Tunnels to the loopback and from it, through the unmodified SDK: needs root and runc."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagger
import httpx
import pytest
from tiny_image import can_run_containers, write_tiny_image

from ci.errors import BadInput

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(can_run_containers()), reason=can_run_containers()),
    pytest.mark.timeout(120),
]


@pytest.fixture(autouse=True)
def _allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_ALLOW_LOOPBACK", "1")


def _base(client: dagger.Client) -> dagger.Container:
    path = Path(os.environ["VA_CACHE"]).parent / "work" / "tiny.tar"
    if not path.exists():
        write_tiny_image(path)
    return client.container().import_(client.host().file("tiny.tar"))


def _web(client: dagger.Client, text: str = "hello") -> dagger.Container:
    return (
        _base(client)
        .with_new_file("/www/index.html", text)
        .with_exposed_port(8080)
        .with_default_args(["httpd", "-f", "-p", "8080", "-h", "/www"])
    )


@pytest.fixture
def listening() -> Iterator[int]:
    """A server of the test's, on the loopback of this machine."""

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"of this machine")

        def log_message(self, *_: Any) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served.server_port
    served.shutdown()
    served.server_close()
    thread.join()


async def _get(address: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(address)).text


def test_a_tunnel_leads_from_the_loopback_to_a_service_while_it_is_started(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        tunnel = await client.host().tunnel(_web(client).as_service()).start()
        address = await tunnel.endpoint(scheme="http")
        text = await _get(address)
        ports = [await port.port() for port in await tunnel.ports()]
        await tunnel.stop()
        try:
            await _get(address)
        except httpx.ConnectError:
            return text, address, ports
        raise AssertionError("it still listens")

    text, address, ports = run(pipeline)
    assert text == "hello" and address == f"http://127.0.0.1:{ports[0]}"


def test_up_serves_until_it_is_cancelled(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> str:
        free = await client.host().tunnel(_web(client, "free").as_service()).start()
        port = int((await free.endpoint()).rpartition(":")[2])
        await free.stop()
        up = asyncio.ensure_future(
            _web(client, "up").up(ports=[dagger.PortForward(backend=8080, frontend=port)])
        )
        for _ in range(200):
            try:
                text = await _get(f"http://127.0.0.1:{port}")
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.1)
        up.cancel()
        return text

    assert run(pipeline) == "up"


def test_a_port_of_the_loopback_is_lent_to_who_is_bound_to_it_alone(run: Any, listening: int) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        lent = client.host().service([dagger.PortForward(backend=listening, frontend=80)])
        get = ["sh", "-c", "wget -qO- http://own:80/ || echo none"]
        bound = _base(client).with_service_binding("own", lent)
        address = await bound.with_exec(["sh", "-c", "grep own /etc/hosts | cut -d' ' -f1"]).stdout()
        other = ["sh", "-c", f"wget -qO- http://{address.strip()}:80/ || echo none"]
        return (
            await bound.with_exec(get).stdout(),
            await _base(client).with_exec(other).stdout(),
        )

    assert run(pipeline) == ("of this machine", "none\n")


def test_without_the_operator_s_word_nothing_leads_to_the_loopback(
    run: Any, listening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VA_ALLOW_LOOPBACK")

    async def lent(client: dagger.Client) -> None:
        await client.host().service([dagger.PortForward(backend=listening)]).start()

    async def tunnel(client: dagger.Client) -> None:
        await client.host().tunnel(_web(client).as_service()).start()

    async def up(client: dagger.Client) -> None:
        await _web(client).up()

    for pipeline in (lent, tunnel, up):
        with pytest.raises(BadInput, match="and is refused") as told:
            run(pipeline)
        assert "VA_ALLOW_LOOPBACK=1" in told.value.hint


def test_another_machine_is_not_lent(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> None:
        await client.host().service([dagger.PortForward(backend=80)], host="192.0.2.1").start()

    with pytest.raises(BadInput, match=r"Host\.service of 192\.0\.2\.1"):
        run(pipeline)


def test_a_service_of_the_pipeline_is_asked_by_http(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> str:
        web = _web(client).as_service().with_hostname("web")
        return await client.http("http://web:8080/index.html", experimental_service_host=web).contents()

    assert run(pipeline) == "hello"

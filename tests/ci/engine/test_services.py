"""Services by their names, from anywhere in a session; and the answers of the resolver for them."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

import dagger
import httpx
import pytest
from tiny_image import can_run_containers

from ci.engine import resolver
from ci.engine.resolver import answered
from ci.errors import BadInput

containers = pytest.mark.skipif(bool(can_run_containers()), reason=can_run_containers())


def _server(base: dagger.Container, says: str, port: int = 8000) -> dagger.Service:
    serves = base.with_new_file("/www/index.html", says).with_exposed_port(port)
    return serves.as_service(args=["httpd", "-f", "-p", str(port), "-h", "/www"])


def _asks(base: dagger.Container, address: str, now: str) -> dagger.Container:
    script = f"timeout 5 wget -qO- http://{address}/ || echo refused"
    return base.with_env_variable("NOW", now).with_exec(["sh", "-c", script])


@pytest.mark.e2e
@pytest.mark.timeout(120)
@containers
def test_a_started_service_is_known_by_its_name_in_steps_and_services(step: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        store = _server(base, "store").with_hostname("Store.internal")
        # Running before the other: it calls by name what comes to be later.
        relay = base.with_new_file(
            "/www/cgi-bin/ask",
            "#!/bin/sh\necho; timeout 5 wget -qO- http://store.internal:8000/",
            permissions=0o755,
        ).with_exposed_port(80)
        relay_service = relay.as_service(args=["httpd", "-f", "-p", "80", "-h", "/www"])
        await relay_service.start()
        await store.start()
        plain = await relay_service.hostname()
        address = await store.endpoint()
        said = [
            await _asks(base, address, "1").stdout(),
            await _asks(base, f"{plain}/cgi-bin/ask?", "2").stdout(),
        ]
        await store.stop()
        return address, said, await _asks(base, address, "3").stdout()

    assert step(pipeline) == ("store.internal:8000", ["store", "store"], "refused\n")


@pytest.mark.e2e
@pytest.mark.timeout(120)
@containers
def test_a_service_that_is_only_bound_has_no_name_for_others(step: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        service = _server(base, "mine")
        name = await service.hostname()
        bound = base.with_service_binding("alias", service)
        return [
            await _asks(bound, "alias:8000", "1").stdout(),
            await _asks(bound, f"{name}:8000", "2").stdout(),
            await _asks(base, f"{name}:8000", "3").stdout(),
        ]

    assert step(pipeline) == ["mine", "mine", "refused\n"]


@pytest.mark.e2e
@pytest.mark.timeout(120)
@containers
def test_a_tunnel_leads_from_this_machine_to_a_service(step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_ALLOW_LOOPBACK", "1")

    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        service = _server(base, "through")
        tunnel = client.host().tunnel(service, ports=[dagger.PortForward(backend=8000, frontend=port)])
        any_port = client.host().tunnel(service)
        await tunnel.start()
        async with httpx.AsyncClient() as http:
            said = [(await http.get(await each.endpoint(scheme="http"))).text for each in (tunnel, any_port)]
        again = client.host().tunnel(_server(base, "other"), ports=[dagger.PortForward(8000, port)])
        with pytest.raises(dagger.QueryError, match=f"port {port} of this machine"):
            await again.start()
        return said, (await tunnel.endpoint()) == f"127.0.0.1:{port}", await service.endpoint()

    said, same, address = step(pipeline)
    assert said == ["through", "through"] and same
    assert address.startswith("service-") and address.endswith(":8000")


@pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root")
@pytest.mark.parametrize("name", ["", "a b", "x" * 64, "-a", "a/b", "name\n1.2.3.4 other"])
def test_what_is_no_name_of_a_host_is_refused(ask: Any, name: str) -> None:
    named = 'asService(args: ["true"]) { withHostname(hostname: $n) { hostname } }'
    (error,) = ask(f"query($n: String!) {{ container {{ {named} }} }}", {"n": name})["errors"]

    assert error["extensions"]["kind"] == BadInput.__name__


def _question(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return b"\x12\x34\x01\x00" + struct.pack(">4H", 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)


def test_the_resolver_answers_for_names_of_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "search_domains", lambda: ["corp.example"])
    names = {"db.internal": "10.213.1.7"}

    for asked in ("db.internal", "DB.Internal", "db.internal.corp.example"):
        answer = answered(_question(asked), names)
        assert answer[:2] == b"\x12\x34" and answer[2] & 0x80 and answer[3] & 0x0F == 0
        assert answer[-4:] == socket.inet_aton("10.213.1.7") and answer[6:8] == b"\0\1"
    nothing = answered(_question("db.internal", kind=28), names)
    assert nothing[6:8] == b"\0\0" and nothing.endswith(_question("db.internal", kind=28)[12:])


@pytest.mark.parametrize(
    "question",
    [
        _question("db"),
        _question("internal"),
        _question("xdb.internal"),
        _question("db.internal.other"),
        _question("db.internal")[:-3],
        b"\x12\x34\x01\x00" + b"\xff" * 60,
        b"",
    ],
)
def test_the_resolver_leaves_all_other_questions(question: bytes) -> None:
    assert answered(question, {"db.internal": "10.213.1.7"}) == b""

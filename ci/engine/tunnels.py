"""Ports carried between services and the loopback of this machine, both ways, where its operator allows it.

    a tunnel          127.0.0.1 of this machine ── the session ── a service's port
    what is lent      a step that is bound to it ── the session ── 127.0.0.1 of this machine

A step's boundary keeps it from the loopback: what listens there is often without a password. So a pipeline
may ask for neither, unless VA_ALLOW_LOOPBACK=1 is set. What is lent are single ports, to who is bound to it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ci.engine.chain import Call
from ci.engine.containers import ports_of
from ci.engine.engine import Engine, NotSupported, answer
from ci.engine.network import Plug, inside
from ci.engine.store import digest_of
from ci.engine.values import Container, Forward, Host, Port, Service
from ci.errors import BadInput, SystemUnavailable
from ci.registry.platforms import this_machine

__all__ = ["Lent", "Tunnel", "carry", "lend", "open_tunnel", "tunnel_to"]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

Connect = Callable[[], Awaitable[socket.socket]]


async def carry(connect: Connect, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry what a program and the other side tell each other, until both have ended."""

    async def one_way(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
            target.write_eof()

    try:
        other = await asyncio.open_connection(sock=await connect())
    except (OSError, TimeoutError):
        writer.close()
        return
    try:
        await asyncio.gather(one_way(reader, other[1]), one_way(other[0], writer))
    finally:
        for each in (writer, other[1]):
            each.close()


@dataclass(kw_only=True)
class Tunnel:
    """An open tunnel: the ports of the loopback, in the order of its forwards."""

    ports: list[int] = field(default_factory=list)
    _servers: list[asyncio.Server] = field(default_factory=list)

    def close(self) -> None:
        for server in self._servers:
            server.close()


async def open_tunnel(service: Service, connect: Callable[[int], Awaitable[socket.socket]]) -> Tunnel:
    """Listen on the loopback for a tunnel; `connect` makes a connection to a port of what it leads to."""
    tunnel = Tunnel()
    try:
        for forward in service.forwards:
            serve = partial(carry, partial(connect, forward.backend))
            server = await asyncio.start_server(serve, "127.0.0.1", forward.frontend or 0)
            tunnel._servers.append(server)
            tunnel.ports.append(server.sockets[0].getsockname()[1])
    except OSError as error:
        tunnel.close()
        taken = error.errno == errno.EADDRINUSE
        raise SystemUnavailable(
            f"port {forward.frontend} of this machine: {'it is in use' if taken else error.strerror}",
            hint="random=True, or a port forward with another frontend, takes another port" if taken else "",
        ) from error
    return tunnel


@dataclass(kw_only=True)
class Lent:
    """Ports of this machine's loopback as a service: they listen in a network of their own."""

    service: Service
    plug: Plug
    _servers: list[asyncio.Server]

    @property
    def alive(self) -> bool:
        return True

    async def end(self, _grace: float) -> None:
        for server in self._servers:
            server.close()
        self.plug.close()


async def lend(engine: Engine, service: Service) -> Lent:
    """The loopback's ports, in a network that steps can be wired to."""
    plug = await (await engine.boundary()).network.plug()
    servers: list[asyncio.Server] = []
    try:
        for forward in service.forwards:
            listen = partial(_listening, plug.address, forward.frontend or forward.backend)
            sock = await asyncio.to_thread(inside, plug.descriptor, listen)
            serve = partial(carry, partial(_to_loopback, service.hosts, forward.backend))
            servers.append(await asyncio.start_server(serve, sock=sock))
    except BaseException:
        for server in servers:
            server.close()
        plug.close()
        raise
    return Lent(service=service, plug=plug, _servers=servers)


def _listening(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port))


async def _to_loopback(hosts: Sequence[str], port: int) -> socket.socket:
    for host in hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(made, (host, port))
        except OSError:
            made.close()
            continue
        return made
    raise ConnectionRefusedError(errno.ECONNREFUSED, "nothing listens there")


def tunnel_to(service: Service, ports: Sequence[Mapping[str, Any]], *, native: bool) -> Service:
    """The service that is a tunnel to another one: `native` ports are the same on both sides."""
    _allowed("a tunnel opens a service's ports on this machine's loopback")
    if service.tunnel or service.forwards:
        raise NotSupported("Host.tunnel of what is no container", "a tunnel to the service itself")
    forwards = (
        [Forward(backend=one.port, frontend=one.port) for one in ports_of(service.container)]
        if native
        else []
    )
    forwards += _forwards(ports)
    forwards = forwards or [Forward(backend=one.port) for one in ports_of(service.container)]
    if not forwards:
        raise BadInput("no ports to forward: the service exposes none, and none is given")
    key = digest_of("tunnel", service.key, [[one.frontend, one.backend] for one in forwards])
    return Service(container=service.container, args=(), tunnel=service, forwards=tuple(forwards), key=key)


def _forwards(ports: Sequence[Mapping[str, Any]]) -> list[Forward]:
    for one in ports:
        if one.get("protocol") == "UDP":
            raise NotSupported(f"a forward of the UDP port {one['backend']}", "TCP")
        for port in (one["backend"], one.get("frontend") or 0):
            if not 0 <= port <= 65535:
                raise BadInput(f"{port} is no port: they go from 1 to 65535")
    return [Forward(backend=one["backend"], frontend=one.get("frontend")) for one in ports]


def _allowed(what: str) -> None:
    if os.environ.get("VA_ALLOW_LOOPBACK") != "1":
        raise BadInput(
            f"{what}, and is refused",
            hint="VA_ALLOW_LOOPBACK=1 allows it, to who trusts the pipeline with what listens there",
        )


@answer("Host.service")
async def host_service(engine: Engine, parent: Host, call: Call) -> Service:
    """Ports of this machine's loopback for steps that are bound to them."""
    _allowed("Host.service lends ports of this machine's loopback to steps")
    host = call.args["host"]
    if host not in _LOOPBACK:
        raise NotSupported(
            f"Host.service of {host}", "a step reaches other machines by itself: connect to it there"
        )
    forwards = _forwards(call.args["ports"])
    if not forwards:
        raise BadInput("no ports specified")
    ours = this_machine()
    exposed = tuple(Port(port=one.frontend or one.backend, skip_check=True) for one in forwards)
    key = digest_of("host service", host, [[one.frontend, one.backend] for one in forwards])
    return Service(
        container=Container(platform=str(ours), image={**ours.as_json(), "config": {}}, ports=exposed),
        args=(),
        hostname=f"host-{key[:12]}",
        key=key,
        forwards=tuple(forwards),
        hosts=("127.0.0.1", "::1") if host == "localhost" else (host,),
    )


@answer("Host.tunnel")
async def host_tunnel(engine: Engine, parent: Host, call: Call) -> Service:
    service: Service = await engine.value(call.args["service"])
    return tunnel_to(service, call.args["ports"], native=call.args["native"])

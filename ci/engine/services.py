"""Services: containers that run beside others, each once a session, with an address of its own.

A service has a network of its own, as every step has. Who is bound to it has a wire to it, and finds it by
its alias in /etc/hosts. One that the pipeline has given a name, or has started by itself, is reached by its
hostname from all commands of the session; any other by nobody else. This machine reaches it by a tunnel.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from ci.concurrency import within
from ci.engine.chain import Call, encode
from ci.engine.containers import port_record, ports_of
from ci.engine.engine import Engine, NotSupported, answer
from ci.engine.launching import launch
from ci.engine.network import Plug, inside
from ci.engine.steps import Command, command_of, masker_of, secrets_of
from ci.engine.tunnels import Lent, Tunnel, carry, lend, open_tunnel, tunnel_to
from ci.engine.values import Container, Port, Record, Service
from ci.errors import BadInput, StepFailed

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ci.engine.launching import Launched

__all__ = ["RunningServices"]

_START_SECONDS = 60.0
_GRACE_SECONDS = 3.0
_LOOK_SECONDS = 0.2
_LOOPBACK = "127.0.0.1"
_HOSTNAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


@dataclass
class _Running:
    service: Service
    launched: Launched
    _block: AbstractAsyncContextManager[Launched]
    lines: list[str] = field(default_factory=list)
    doors: dict[int, asyncio.Server] = field(default_factory=dict)
    """Where this machine reaches its ports, by the port wanted here (0 for any) and its own."""

    @property
    def plug(self) -> Plug:
        return self.launched.plug

    @property
    def alive(self) -> bool:
        return self.launched.run.child.returncode is None

    async def end(self, grace: float) -> None:
        for door in self.doors.values():
            door.close()
        await self.launched.run.end(grace)
        await self._block.__aexit__(None, None, None)


class RunningServices:
    """The running services of a session, by key."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[str, _Running | Lent] = {}
        self._tunnels: dict[str, Tunnel] = {}

    async def start(self, service: Service) -> _Running | Lent:
        """The service, running and accepting connections on its exposed ports."""
        if service.tunnel:
            raise BadInput(
                "a tunnel leads to this machine's loopback, and to no step: bind the service itself"
            )
        running = self._running.get(service.key)
        if running and running.alive:
            return running
        return await self._engine.once(("service", service.key, id(running)), lambda: self._start(service))

    async def open(self, service: Service) -> None:
        """Start it for all commands of the session: they reach it by its hostname."""
        running = await self.start(service)
        network = (await self._engine.boundary()).network
        await network.open(service.hostname, running.plug)

    async def opened(self, service: Service) -> Sequence[int]:
        """The ports of this machine's loopback that a tunnel has, which is opened."""
        upstream = service.tunnel
        assert upstream is not None
        await self.start(upstream)

        async def make() -> Tunnel:
            async def connect(port: int) -> socket.socket:
                return await _connected(await self.start(upstream), port)

            found = self._tunnels[service.key] = await open_tunnel(service, connect)
            return found

        known = self._tunnels.get(service.key)
        if known is None:
            known = await self._engine.once(("tunnel", service.key, id(known)), make)
        return known.ports

    async def ended(self, service: Service) -> None:
        """Wait until a service that was started has ended."""
        while True:
            running = self._running.get(service.key)
            if running is None or not running.alive:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def bound(self, container: Container) -> list[_Running | Lent]:
        """Start all services that a container's commands may call."""
        found = await asyncio.gather(*(self.start(service) for _, service in container.services))
        return list({running.service.key: running for running in found}.values())

    async def reached(self, service: Service, port: int) -> int:
        """The port of this machine's loopback by which the session reaches one of the service, which is
        started."""
        running = await self.start(service)
        if isinstance(running, Lent):
            raise NotSupported("what this machine lends, asked for by the session itself", "its own address")
        if port not in running.doors:
            opened = partial(carry, partial(_connected, running, port))
            running.doors[port] = await asyncio.start_server(opened, _LOOPBACK, 0)
        number: int = running.doors[port].sockets[0].getsockname()[1]
        return number

    def hosts(self, container: Container, hostname: str) -> bytes:
        """The /etc/hosts of a container: itself, and its services by alias and hostname."""
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", f"127.0.1.1 {hostname}"]
        for alias, service in container.services:
            running = self._running[service.key]
            lines.append(f"{running.plug.address} {alias} {service.hostname}".rstrip())
        return ("\n".join(lines) + "\n").encode()

    async def stop(self, service: Service, *, kill: bool) -> None:
        """End a service, or a tunnel; nothing happens when it does not run."""
        if tunnel := self._tunnels.pop(service.key, None):
            tunnel.close()
        running = self._running.pop(service.key, None)
        if running:
            await running.end(0 if kill else _GRACE_SECONDS)

    async def close(self) -> None:
        """End all of them."""
        for tunnel in self._tunnels.values():
            tunnel.close()
        everything = [self.stop(running.service, kill=True) for running in list(self._running.values())]
        await asyncio.gather(*everything, return_exceptions=True)

    async def _start(self, service: Service) -> _Running | Lent:
        engine = self._engine
        if service.forwards:
            lent = self._running[service.key] = await lend(engine, service)
            if service.named:
                await (await engine.boundary()).network.open(service.hostname, lent.plug)
            return lent
        await self.bound(service.container)
        command = Command(service.container, service.args, privileged=service.privileged, init=service.init)
        masker = await masker_of(engine, service.container)
        title = masker.mask(f"service {command.title}")
        lines: list[str] = []

        def told(more: str) -> None:
            lines.extend(more.rsplit("\n", 20)[-20:])
            del lines[:-20]
            engine.tell(title, more)

        with engine.reporter.step(title):
            block = launch(engine, command, masker, on_lines=told, hostname=service.hostname or "service")
            launched = await block.__aenter__()
            running = _Running(service, launched, block, lines)
            self._running[service.key] = running
            try:
                await self._healthy(running, title)
                if service.named:
                    network = (await engine.boundary()).network
                    await network.open(service.hostname, running.plug)
            except BaseException:
                self._running.pop(service.key, None)
                await running.end(0)
                raise
        return running

    async def _healthy(self, running: _Running, title: str) -> None:
        """Wait until every exposed TCP port accepts a connection."""
        deadline = time.monotonic() + _START_SECONDS
        for port in ports_of(running.service.container):
            if port.skip_check or port.protocol != "TCP":
                continue
            while not await _accepts(running, port.port):
                said = "\n".join(running.lines)
                if running.launched.run.child.returncode is not None:
                    outcome = await running.launched.run.outcome()
                    said = said or outcome.stderr.text
                    raise StepFailed(
                        f"{title} ended with exit code {outcome.code} before it was ready\n{said}"
                    )
                if time.monotonic() > deadline:
                    raise StepFailed(
                        f"{title} did not listen on port {port.port} within {_START_SECONDS:g} s\n{said}"
                    )
                await asyncio.sleep(0.05)


async def _accepts(running: _Running, port: int) -> bool:
    """Whether the service itself accepts: asked inside of its network."""
    try:
        (await _connected(running, port)).close()
    except (OSError, TimeoutError):
        return False
    return True


async def _connected(running: _Running | Lent, port: int) -> socket.socket:
    """A connection to a port of the service."""
    connection = await asyncio.to_thread(inside, running.plug.descriptor, socket.socket)
    try:
        connection.setblocking(False)
        async with within(1):
            await asyncio.get_running_loop().sock_connect(connection, (running.plug.address, port))
    except BaseException:
        connection.close()
        raise
    return connection


@answer("Container.asService")
async def as_service(engine: Engine, parent: Container, call: Call) -> Service:
    command = command_of(parent, call, use_entrypoint=call.args["useEntrypoint"], given=call.args["args"])
    key = command.key([secret.cache_key or secret.mac or secret.uri for secret in secrets_of(parent)])
    return Service(
        container=parent,
        args=command.args,
        privileged=command.privileged,
        init=command.init,
        hostname=f"service-{key[:12]}",
        key=key,
    )


@answer("Service.withHostname")
async def with_hostname(engine: Engine, parent: Service, call: Call) -> Service:
    name = call.args["hostname"].lower()
    if not _HOSTNAME.fullmatch(name):
        raise BadInput(f"{name!r} is no name of a host", hint="letters, digits and - between dots")
    return replace(parent, hostname=name, named=True, key=f"{parent.key} {name}")


@answer("Service.hostname")
async def hostname(engine: Engine, parent: Service, call: Call) -> str:
    return _LOOPBACK if parent.tunnel else parent.hostname


@answer("Service.ports")
async def ports(engine: Engine, parent: Service, call: Call) -> list[Record]:
    if parent.tunnel:
        opened = zip(await engine.services.opened(parent), parent.forwards, strict=True)
        told = [
            (port, f"tunnel 127.0.0.1:{port} -> {parent.tunnel.hostname}:{to.backend}") for port, to in opened
        ]
        return [port_record(Port(port=port, description=text)) for port, text in told]
    return [port_record(port) for port in ports_of(parent.container)]


@answer("Service.endpoint")
async def endpoint(engine: Engine, parent: Service, call: Call) -> str:
    """hostname:port, for commands of the session; of a tunnel where this machine reaches it."""
    if parent.tunnel:
        known = list(await engine.services.opened(parent))
    else:
        known = [port.port for port in ports_of(parent.container)]
    port = call.args["port"] or next(iter(known), None)
    if port is None:
        raise BadInput("the service exposes no port: give one")
    scheme = call.args["scheme"]
    return f"{scheme}://" * bool(scheme) + f"{_LOOPBACK if parent.tunnel else parent.hostname}:{port}"


@answer("Service.start")
async def start(engine: Engine, parent: Service, call: Call) -> str:
    await (engine.services.opened(parent) if parent.tunnel else engine.services.open(parent))
    assert call.parent is not None
    return encode(call.parent)


@answer("Service.stop")
async def stop(engine: Engine, parent: Service, call: Call) -> str:
    await engine.services.stop(parent, kill=call.args["kill"])
    assert call.parent is not None
    return encode(call.parent)


@answer("Service.up", "Container.up")
async def up(engine: Engine, parent: Service | Container, call: Call) -> None:
    """A service with its ports on the loopback of this machine, until it ends or the pipeline does."""
    service = parent if isinstance(parent, Service) else await as_service(engine, parent, call)
    native = not call.args["random"] and not call.args["ports"]
    tunnel = tunnel_to(service, call.args["ports"], native=native)
    opened = await engine.services.opened(tunnel)
    try:
        for port, forward in zip(opened, tunnel.forwards, strict=True):
            engine.reporter.note(f"127.0.0.1:{port} leads to port {forward.backend} of {service.hostname}")
        await engine.services.ended(service)
    finally:
        await engine.services.stop(tunnel, kill=False)

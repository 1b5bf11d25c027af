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
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ci.concurrency import within
from ci.engine.chain import Call, encode
from ci.engine.containers import port_record, ports_of
from ci.engine.engine import Engine, LogLine, NotSupported, answer
from ci.engine.launching import launch
from ci.engine.network import Plug, inside
from ci.engine.steps import Command, command_of, masker_of, secrets_of
from ci.engine.values import Container, Host, Port, Record, Service
from ci.errors import BadInput, StepFailed

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ci.engine.launching import Launched

__all__ = ["RunningServices"]

_START_SECONDS = 60.0
_GRACE_SECONDS = 3.0
_LOOPBACK = "127.0.0.1"
_HOSTNAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


@dataclass
class _Running:
    service: Service
    launched: Launched
    _block: AbstractAsyncContextManager[Launched]
    lines: list[str] = field(default_factory=list)
    doors: dict[tuple[int, int], asyncio.Server] = field(default_factory=dict)
    """Where this machine reaches its ports, by the port wanted here (0 for any) and its own."""

    @property
    def plug(self) -> Plug:
        return self.launched.plug

    async def end(self, grace: float) -> None:
        for door in self.doors.values():
            door.close()
        await self.launched.run.end(grace)
        await self._block.__aexit__(None, None, None)


class RunningServices:
    """The running services of a session, by key."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[str, _Running] = {}

    async def start(self, service: Service) -> _Running:
        """The service, running and accepting connections on its exposed ports."""
        running = self._running.get(service.key)
        if running and running.launched.run.child.returncode is None:
            return running
        return await self._engine.once(("service", service.key, id(running)), lambda: self._start(service))

    async def open(self, service: Service) -> None:
        """Start it for all commands of the session: they reach it by its hostname."""
        running = await self.start(service)
        network = (await self._engine.boundary()).network
        await network.open(service.hostname, running.plug)

    async def bound(self, container: Container) -> list[_Running]:
        """Start all services that a container's commands may call."""
        found = await asyncio.gather(*(self.start(service) for _, service in container.services))
        return list({running.service.key: running for running in found}.values())

    async def reached(self, service: Service, port: int, at: int = 0) -> int:
        """The port of this machine's loopback, `at` if one is wanted, by which it reaches one of the service,
        which is started. BadInput when somebody has it."""
        running = await self.start(service)
        if (at, port) not in running.doors:

            async def opened(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await _carry(running, port, reader, writer)

            try:
                running.doors[at, port] = await asyncio.start_server(opened, _LOOPBACK, at)
            except OSError as error:
                raise BadInput(f"port {at} of this machine: {error.strerror or error}") from error
        number: int = running.doors[at, port].sockets[0].getsockname()[1]
        return number

    def hosts(self, container: Container, hostname: str) -> bytes:
        """The /etc/hosts of a container: itself, and its services by alias and hostname."""
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", f"127.0.1.1 {hostname}"]
        for alias, service in container.services:
            running = self._running[service.key]
            lines.append(f"{running.plug.address} {alias} {service.hostname}".rstrip())
        return ("\n".join(lines) + "\n").encode()

    async def stop(self, service: Service, *, kill: bool) -> None:
        """End a service; nothing happens when it does not run."""
        running = self._running.pop(service.key, None)
        if running:
            await running.end(0 if kill else _GRACE_SECONDS)

    async def close(self) -> None:
        """End all of them."""
        everything = [self.stop(running.service, kill=True) for running in list(self._running.values())]
        await asyncio.gather(*everything, return_exceptions=True)

    async def _start(self, service: Service) -> _Running:
        engine = self._engine
        await self.bound(service.container)
        command = Command(service.container, service.args, privileged=service.privileged, init=service.init)
        masker = await masker_of(engine, service.container)
        title = masker.mask(f"service {command.title}")
        lines: list[str] = []

        def told(line: str) -> None:
            lines.append(line)
            del lines[:-20]
            engine.log(LogLine(title, line))

        with engine.reporter.step(title):
            block = launch(engine, command, masker, on_line=told, hostname=service.hostname or "service")
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


async def _connected(running: _Running, port: int) -> socket.socket:
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


async def _carry(
    running: _Running, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Carry what a program of this machine and a service tell each other, until both have ended."""

    async def one_way(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
            target.write_eof()

    try:
        service = await asyncio.open_connection(sock=await _connected(running, port))
    except (OSError, TimeoutError):
        writer.close()
        return
    try:
        await asyncio.gather(one_way(reader, service[1]), one_way(service[0], writer))
    finally:
        for each in (writer, service[1]):
            each.close()


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
    return _LOOPBACK if parent.forwards else parent.hostname


@answer("Service.ports")
async def ports(engine: Engine, parent: Service, call: Call) -> list[Record]:
    if parent.forwards:
        return [port_record(Port(port=port)) for port in await _fronts(engine, parent)]
    return [port_record(port) for port in ports_of(parent.container)]


async def _fronts(engine: Engine, tunnel: Service) -> list[int]:
    """The ports of this machine by which a tunnel leads to its service, which is started."""
    return [await engine.services.reached(tunnel, port, at) for at, port in tunnel.forwards]


@answer("Host.tunnel")
async def tunnel(engine: Engine, parent: Host, call: Call) -> Service:
    """A way for programs of this machine to ports of a service: those named, or all that it exposes."""
    service: Service = await engine.value(call.args["service"])
    exposed = [port.port for port in ports_of(service.container)]
    forwards = [(row.get("frontend") or 0, row["backend"]) for row in call.args["ports"]]
    forwards = forwards or [(port if call.args["native"] else 0, port) for port in exposed]
    if not forwards:
        raise BadInput("a tunnel to a service that exposes no port: name one")
    return replace(service, forwards=tuple(forwards))


@answer("Service.endpoint")
async def endpoint(engine: Engine, parent: Service, call: Call) -> str:
    """hostname:port, for commands of the session; of a tunnel where this machine reaches it."""
    if parent.forwards:
        known = await _fronts(engine, parent)
    else:
        known = [port.port for port in ports_of(parent.container)]
    port = call.args["port"] or next(iter(known), None)
    if port is None:
        raise BadInput("the service exposes no port: give one")
    scheme = call.args["scheme"]
    return f"{scheme}://" * bool(scheme) + f"{_LOOPBACK if parent.forwards else parent.hostname}:{port}"


@answer("Service.start")
async def start(engine: Engine, parent: Service, call: Call) -> str:
    await (_fronts(engine, parent) if parent.forwards else engine.services.open(parent))
    assert call.parent is not None
    return encode(call.parent)


@answer("Service.stop")
async def stop(engine: Engine, parent: Service, call: Call) -> str:
    await engine.services.stop(parent, kill=call.args["kill"])
    assert call.parent is not None
    return encode(call.parent)


@answer("Service.up", "Container.up", "Service.terminal")
async def up(engine: Engine, parent: Any, call: Call) -> None:
    raise NotSupported(f"{call.name}: use Host.tunnel, and Service.endpoint of that")

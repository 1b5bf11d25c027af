"""Services: containers that run beside others, each once a session, with an address of its own.

A service lives in a network namespace of its own, tied to this machine's by a veth pair with a /30 of
10.213/16. The pair goes when the namespace goes, which is when the service's processes end: nothing is left,
whatever happens. Commands share this machine's network, and find a service by its alias in their /etc/hosts.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ci.concurrency import within
from ci.engine.chain import Call, encode
from ci.engine.commands import Command, command_of, launch
from ci.engine.containers import port_record, ports_of
from ci.engine.engine import Engine, LogLine, NotSupported, answer
from ci.engine.values import Container, Record, Service
from ci.errors import BadInput, StepFailed, SystemUnavailable
from ci.process import run as run_program

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ci.engine.commands import Launched

__all__ = ["RunningServices"]

_START_SECONDS = 60.0
_GRACE_SECONDS = 3.0


@dataclass
class _Running:
    service: Service
    address: str
    link: str
    launched: Launched
    _block: AbstractAsyncContextManager[Launched]
    lines: list[str] = field(default_factory=list)

    async def end(self, grace: float) -> None:
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

    async def bound(self, container: Container) -> None:
        """Start all services that a container's commands may call."""
        await asyncio.gather(*(self.start(service) for _, service in container.services))

    def hosts(self, container: Container, hostname: str) -> bytes:
        """The /etc/hosts of a container: itself, and its services by alias and hostname."""
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", f"127.0.1.1 {hostname}"]
        for alias, service in container.services:
            running = self._running[service.key]
            lines.append(f"{running.address} {alias} {service.hostname}".rstrip())
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
        command = Command(service.container, service.args, privileged=service.privileged)
        title = engine.masker.mask(f"service {command.title}")
        lines: list[str] = []

        def told(line: str) -> None:
            lines.append(line)
            del lines[:-20]
            engine.log(LogLine(title, line))

        address = link = ""

        async def network(pid: int) -> None:
            nonlocal address, link
            address, link = await _connect(pid)

        with engine.reporter.step(title):
            block = launch(
                engine, command, on_line=told, network=network, hostname=service.hostname or "service"
            )
            launched = await block.__aenter__()
            running = _Running(service, address, link, launched, block, lines)
            self._running[service.key] = running
            try:
                await self._healthy(running, title)
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
                    said = said or outcome.stderr
                    raise StepFailed(
                        f"{title} ended with exit code {outcome.code} before it was ready\n{said}"
                    )
                if time.monotonic() > deadline:
                    raise StepFailed(
                        f"{title} did not listen on port {port.port} within {_START_SECONDS:g} s\n{said}"
                    )
                await asyncio.sleep(0.05)


async def _accepts(running: _Running, port: int) -> bool:
    """Whether the service itself accepts: asked through its own link, which goes when it ends."""
    with socket.socket() as connection:
        connection.setblocking(False)
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, running.link.encode())
            async with within(1):
                await asyncio.get_running_loop().sock_connect(connection, (running.address, port))
        except (OSError, TimeoutError):
            return False
    return True


async def _connect(pid: int) -> tuple[str, str]:
    """Give the network namespace of a process an address that this machine reaches: it, and the link to
    it."""
    await _own_namespace(pid)
    known = await run_program("ip", "-json", "-4", "address", failure=SystemUnavailable)
    taken = {info["local"] for link in json.loads(known.stdout) for info in link.get("addr_info", ())}
    while True:
        block = random.randrange(1, 1 << 14)  # noqa: S311  # nosec B311  # an address, no secret
        third, last = divmod(block * 4, 256)
        ours, theirs = f"10.213.{third}.{last + 1}", f"10.213.{third}.{last + 2}"
        if ours not in taken:
            break
    link = f"vae{block:05d}"
    inside = ["nsenter", "--net", f"--target={pid}", "ip"]
    for argv in (
        ["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid)],
        ["ip", "address", "add", f"{ours}/30", "dev", link],
        ["ip", "link", "set", link, "up"],
        [*inside, "link", "set", "lo", "up"],
        [*inside, "address", "add", f"{theirs}/30", "dev", "eth0"],
        [*inside, "link", "set", "eth0", "up"],
        [*inside, "route", "add", "default", "via", ours],
        ["sysctl", "-qw", f"net.ipv4.conf.{link}.forwarding=1"],
    ):
        await run_program(*argv, failure=SystemUnavailable)
    return theirs, link


async def _own_namespace(pid: int) -> None:
    """Wait until the process has left this machine's network namespace."""
    from pathlib import Path

    ours = Path("/proc/self/ns/net").readlink()
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/ns/net").readlink() != ours:
                return
        except OSError as error:
            raise StepFailed("the service's container ended before it started") from error
        await asyncio.sleep(0.01)
    raise SystemUnavailable("no network namespace could be made for a service")


@answer("Container.asService")
async def as_service(engine: Engine, parent: Container, call: Call) -> Service:
    command = command_of(parent, call, use_entrypoint=call.args["useEntrypoint"], given=call.args["args"])
    key = command.key([secret.mac or secret.uri for _, secret in parent.secret_env])
    return Service(
        container=parent,
        args=command.args,
        privileged=command.privileged,
        hostname=f"service-{key[:12]}",
        key=key,
    )


@answer("Service.withHostname")
async def with_hostname(engine: Engine, parent: Service, call: Call) -> Service:
    return replace(parent, hostname=call.args["hostname"], key=f"{parent.key} {call.args['hostname']}")


@answer("Service.hostname")
async def hostname(engine: Engine, parent: Service, call: Call) -> str:
    return parent.hostname


@answer("Service.ports")
async def ports(engine: Engine, parent: Service, call: Call) -> list[Record]:
    return [port_record(port) for port in ports_of(parent.container)]


@answer("Service.endpoint")
async def endpoint(engine: Engine, parent: Service, call: Call) -> str:
    """host:port as this machine reaches it, so the service is started."""
    running = await engine.services.start(parent)
    exposed = ports_of(parent.container)
    port = call.args["port"] or (exposed[0].port if exposed else None)
    if port is None:
        raise BadInput("the service exposes no port: give one")
    scheme = call.args["scheme"]
    return (f"{scheme}://" if scheme else "") + f"{running.address}:{port}"


@answer("Service.start")
async def start(engine: Engine, parent: Service, call: Call) -> str:
    await engine.services.start(parent)
    assert call.parent is not None
    return encode(call.parent)


@answer("Service.stop")
async def stop(engine: Engine, parent: Service, call: Call) -> str:
    await engine.services.stop(parent, kill=call.args["kill"])
    assert call.parent is not None
    return encode(call.parent)


@answer("Service.up", "Container.up", "Service.terminal")
async def up(engine: Engine, parent: Any, call: Call) -> None:
    raise NotSupported(f"{call.name}: use Service.start and Service.endpoint")

"""The network of steps: each has a namespace of its own, with one way out, and wires to the services bound to
it.

    step ── veth ── bridge ── slirp4netns ── whatever this machine reaches, by its own routes and resolver
      └──── veth ── service

The bridge is in a namespace of the session, and its ports are isolated: a step meets no other. slirp4netns
speaks for them all as an ordinary program of this machine; nothing is forwarded, no rule or route is made
here, and all of it goes when the session's descriptors do, which the kernel closes whatever ends it. What a
step must not reach has a route of its own that leads nowhere: this machine's addresses, networks that are
inside of it, clouds' metadata. A step may not change its routes: it lacks CAP_NET_ADMIN.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import itertools
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeVar

from ci.engine.links import Links
from ci.engine.resolver import Resolver
from ci.errors import BadInput, SystemUnavailable, ToolMissing
from ci.process import run

__all__ = ["NAMES", "Network", "Plug", "inside", "refuse_metadata"]

_NET = IPv4Network("10.213.0.0/16")
_WAYS = IPv4Network("10.213.0.0/30")
_EVERYTHING = IPv4Network("0.0.0.0/0")
NAMES, _WAY_OUT = "10.213.0.1", "10.213.0.2"
"""Where a step asks for names; and slirp4netns, which has the second address of the network that it is
given."""
_NAMES_BY_TCP = "10.213.0.3"
"""slirp4netns passes on what comes for its third address to this machine's resolver: for answers that are
long."""
_METADATA = ("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32")
"""Where clouds tell a machine who it is: link-local (AWS, Azure, Google), Azure's wire server, Alibaba,
Oracle."""
_INSIDE = {"bridge", "veth", "dummy"}
"""Kinds of links whose networks live in this machine, if it is not by one of them that it reaches the rest:
those of containers, of the embedded platform's pods."""
_CLONE_NEWNET = 0x40000000
_MTU = 65520
_LIBC = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Plug:
    """A network namespace with a way out: its descriptor, and its address there."""

    descriptor: int
    address: str
    links: Links = field(compare=False, repr=False)

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def close(self) -> None:
        """Let it go; the kernel removes it when its last process has ended."""
        self.links.close()
        os.close(self.descriptor)


class Network:
    """A session's network. It begins with the first step."""

    def __init__(self) -> None:
        self._numbers = itertools.count(256)
        self._starting: asyncio.Task[None] | None = None
        self._bridge = -1
        self._ports: Links | None = None
        self._unreachable: tuple[IPv4Network, ...] = ()
        self._slirp: asyncio.subprocess.Process | None = None
        self._exit = -1
        self._resolver = Resolver()
        self._used: set[Plug] = set()
        self._open: dict[str, Plug] = {}
        self._wired: set[frozenset[Plug]] = set()

    async def close(self) -> None:
        if self._starting:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._resolver.close()
        if self._exit >= 0:
            os.close(self._exit)
        if self._slirp:
            await self._slirp.wait()
        if self._ports:
            self._ports.close()
        if self._bridge >= 0:
            os.close(self._bridge)
        self._bridge = self._exit = -1

    async def plug(self) -> Plug:
        """A new namespace with a way out."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        await asyncio.shield(self._starting)
        making = asyncio.ensure_future(asyncio.to_thread(self._plug, next(self._numbers)))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:  # the thread goes on
            with suppress(SystemUnavailable):
                (await making).close()
            raise

    def _plug(self, number: int) -> Plug:
        assert self._ports is not None
        port, address = f"s{number}", str(_NET[number % (_NET.num_addresses - 512) + 256])
        with _told():
            descriptor, links = _new_namespace()
            plug = Plug(descriptor=descriptor, address=address, links=links)
            try:
                links.pair("eth0", mtu=_MTU, peer=port, namespace=self._bridge)
                self._ports.into(port, "out")
                self._ports.isolate(port)
                self._ports.up(port)
                links.up("lo")
                links.without_ipv6("eth0")
                links.address("eth0", address, bits=32)
                links.up("eth0")
                links.route(_WAYS, "eth0", source=address)
                links.route(_EVERYTHING, "eth0", via=_WAY_OUT)
                for net in self._unreachable:
                    links.route(net)
            except BaseException:
                plug.close()
                raise
        return plug

    async def use(self, plug: Plug, others: Sequence[Plug]) -> None:
        """A command has that plug now: it has a wire to each of the others, and to all that are open."""
        self._used.add(plug)
        for other in (*others, *self._open.values()):
            await self._wire(plug, other)

    def forget(self, plug: Plug) -> None:
        """A command has ended."""
        self._used.discard(plug)
        for name, other in list(self._open.items()):
            if other == plug:
                del self._open[name]
                self._resolver.names.pop(name, None)
        self._wired = {pair for pair in self._wired if plug not in pair}

    async def open(self, name: str, plug: Plug) -> None:
        """Every command reaches that one by this name, those that run now and those to come."""
        self._open[name] = plug
        self._resolver.names[name] = plug.address
        for other in list(self._used):
            with suppress(SystemUnavailable):  # one that ends just now
                await self._wire(other, plug)

    async def _wire(self, plug: Plug, other: Plug) -> None:
        """A wire between two, if they have none."""
        pair = frozenset((plug, other))
        if plug != other and pair not in self._wired:
            self._wired.add(pair)
            await asyncio.to_thread(_wired, plug, other, *(f"w{next(self._numbers)}" for _ in range(2)))

    def resolv_conf(self) -> bytes:
        """A step's /etc/resolv.conf: with this machine's search list, and its own way to this machine's
        resolver."""
        lines: list[str] = []
        with suppress(OSError):
            lines = Path("/etc/resolv.conf").read_text().splitlines()
        kept = [line for line in lines if line.split()[:1] in (["search"], ["domain"], ["options"])]
        return "\n".join([f"nameserver {NAMES}", f"nameserver {_NAMES_BY_TCP}", *kept, ""]).encode()

    async def _start(self) -> None:
        """The session's bridge, with slirp4netns on it."""
        if shutil.which("slirp4netns") is None:
            raise ToolMissing(
                "slirp4netns is not installed: it is the way out of a step's network",
                hint="va doctor says how to get it",
            )
        with _told():
            self._bridge, ports = await asyncio.to_thread(_new_namespace)
            self._ports = ports
        self._unreachable = await _unreachable()
        ready, told = os.pipe()
        ends, self._exit = os.pipe()
        try:
            # Its sandbox lets go of all mounts that it sees, and where one is shared (`ip netns` makes
            # /run/netns so) the machine's own would go with them: it sees copies that are nobody else's.
            self._slirp = await asyncio.create_subprocess_exec(
                "unshare", "--mount", "--propagation=private",
                "slirp4netns", "--netns-type=path", f"--cidr={_NET}", f"--mtu={_MTU}",
                "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp",
                f"--ready-fd={told}", f"--exit-fd={ends}",
                f"/proc/{os.getpid()}/fd/{self._bridge}", "tap0", stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, pass_fds=(told, ends),
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(told)
            os.close(ends)
        began = await asyncio.to_thread(os.read, ready, 1)  # it ends, or it is ready
        os.close(ready)
        if not began:
            _, said = await self._slirp.communicate()
            raise SystemUnavailable(
                f"slirp4netns does not start: {said.decode(errors='replace').strip()[-500:]}"
            )
        with _told():
            ports.bridge("out", mtu=_MTU)
            ports.up("out")
            ports.into("tap0", "out")
            ports.up("tap0", mtu=_MTU)
            ports.address("out", NAMES, bits=_NET.prefixlen)
        await self._resolver.serve(await asyncio.to_thread(inside, self._bridge, _bound))


async def _unreachable() -> tuple[IPv4Network, ...]:
    """Networks that no step may reach: see the module."""
    links = json.loads((await run("ip", "-json", "-details", "address", failure=SystemUnavailable)).stdout)
    routes = json.loads((await run("ip", "-json", "-4", "route", failure=SystemUnavailable)).stdout)
    found = {_NET, *map(IPv4Network, _METADATA)}
    for link in links:
        for address in link.get("addr_info", ()):
            if address["family"] == "inet":
                found.add(IPv4Network(address["local"]))
    kinds = {link["ifname"]: link.get("linkinfo", {}).get("info_kind", "") for link in links if link}
    ways_out = {route.get("dev") for route in routes if route["dst"] == "default"}
    for route in routes:
        device = route.get("dev", "")
        if device not in ways_out and kinds.get(device) in _INSIDE:
            found.add(IPv4Network(route["dst"]))
    return tuple(each for each in sorted(found) if not each.is_loopback)


def _wired(plug: Plug, other: Plug, here: str, there: str) -> None:
    with _told():
        plug.links.pair(here, mtu=_MTU, peer=there, namespace=other.descriptor)
        plug.links.up(here)
        plug.links.route(IPv4Network(other.address), here, source=plug.address)
        other.links.up(there)
        other.links.route(IPv4Network(plug.address), there, source=other.address)


@contextmanager
def _told() -> Iterator[None]:
    """What the kernel refuses of a network, in words."""
    try:
        yield
    except OSError as error:
        what = f" ({error.filename})" if error.filename else ""
        raise SystemUnavailable(f"the network of a step cannot be made: {error.strerror}{what}") from error


def inside(descriptor: int, work: Callable[[], T]) -> T:
    """What `work` gives in that network namespace: done in a thread of its own, which ends with it."""

    def there() -> T:
        _checked(_LIBC.setns(descriptor, _CLONE_NEWNET))
        return work()

    return _in_a_thread(there)


def _new_namespace() -> tuple[int, Links]:
    """A descriptor of a new network namespace, and its links."""

    def make() -> tuple[int, Links]:
        _checked(_LIBC.unshare(_CLONE_NEWNET))
        # The namespace is this machine's, not the step's user namespace's: what root may by default,
        # everybody may in it.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), Links()

    return _in_a_thread(make)


def _bound() -> socket.socket:
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    door.setblocking(False)
    door.bind((NAMES, 53))
    return door


def _in_a_thread(work: Callable[[], T]) -> T:
    """A thread that is used once: a namespace is a thread's own, and nobody else may find it there."""
    result: Future[T] = Future()

    def go() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # it is raised where it is waited for
            result.set_exception(error)

    threading.Thread(target=go, name="va-network").start()
    return result.result()


def _checked(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"a network namespace: {os.strerror(code)}")


async def refuse_metadata(host: str, *, led_by: str | None = None) -> None:
    """BadInput for a host by which a cloud tells a machine who it is: neither a step nor what the session
    fetches for a pipeline gets there. Nor to this machine, where `led_by`, another host, leads there."""
    found = [ipaddress.ip_address(text) for text in await _addresses(host)]
    nets = [ipaddress.ip_network(text) for text in _METADATA]
    if any(address in net for address in found for net in nets):
        raise BadInput(f"{host} is where a cloud tells a machine who it is: nothing is fetched from there")
    if led_by and any(one.is_loopback or one.is_unspecified for one in found):
        before = [ipaddress.ip_address(text) for text in await _addresses(led_by)]
        if not before or not all(one.is_loopback or one.is_unspecified for one in before):
            raise BadInput(f"{led_by} leads to {host}, which is this machine: it is not followed there")


async def _addresses(host: str) -> list[str]:
    """What a name stands for, as this machine sees it; nothing where it knows none (a proxy may)."""
    try:
        rows = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    found = [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows]
    return [str(getattr(one, "ipv4_mapped", None) or one) for one in found]

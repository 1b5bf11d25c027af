"""Links, addresses and routes of a network namespace, asked of the kernel itself: rtnetlink(7).

A step's network is a dozen of them. ip(8) is a process for each namespace, which costs as much as a small
step; a socket here stays one of the namespace that it was made in, whichever thread uses it.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from ipaddress import IPv4Network

__all__ = ["Links"]

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h: numbers of the kernel's interface, the same everywhere.
_HEADER, _LINK, _ADDRESS, _ROUTE = map(struct.Struct, ("=IHHII", "=BxHiII", "=BBBBI", "=BBBBBBBBI"))
_ERROR, _NEW_LINK, _GET_LINK, _NEW_ADDRESS, _NEW_ROUTE = 2, 16, 18, 20, 24
_REQUEST, _ACK, _CREATED = 0x1, 0x4, 0x600  # NLM_F_CREATE | NLM_F_EXCL
_NAME, _MTU, _MASTER, _KIND_AND_MORE, _FAMILIES, _NAMESPACE = 3, 4, 10, 18, 26, 28
_KIND, _DATA, _PORT_KIND, _PORT_DATA, _PEER = 1, 2, 4, 5, 1
_ISOLATED, _ADDRESS_MODE = 33, 8
_TO, _DEVICE, _VIA, _FROM = 1, 4, 5, 7
_PEERS_ADDRESS, _OWN_ADDRESS = 1, 2
_MAIN, _BOOT, _GLOBAL, _ON_LINK, _UNICAST, _UNREACHABLE = 254, 3, 0, 253, 1, 7
_UP = 1


class Links:
    """Those of the namespace that the thread is in which makes this. OSError for what the kernel refuses."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._alone = threading.Lock()

    def close(self) -> None:
        self._socket.close()

    def bridge(self, name: str, *, mtu: int) -> None:
        """A new bridge."""
        self._made(name, mtu, _attribute(_KIND, "bridge"))

    def pair(self, name: str, *, mtu: int, peer: str, namespace: int) -> None:
        """Two new ends of a wire: `name` here, `peer` in the namespace of that descriptor."""
        there = _attribute(_NAME, peer) + _attribute(_MTU, mtu) + _attribute(_NAMESPACE, namespace)
        ends = _attribute(_PEER, _link() + there)
        self._made(name, mtu, _attribute(_KIND, "veth") + _attribute(_DATA, ends))

    def up(self, name: str, *, mtu: int = 0) -> None:
        """Set a link up."""
        self._changed(name, _attribute(_MTU, mtu) if mtu else b"", flags=_UP)

    def into(self, name: str, bridge: str) -> None:
        """Make a link a port of a bridge."""
        self._changed(name, _attribute(_MASTER, self._index(bridge)))

    def isolate(self, name: str) -> None:
        """Let a port of a bridge reach those alone that are not isolated."""
        data = _attribute(_ISOLATED, b"\1")
        port = _attribute(_PORT_KIND, "bridge") + _attribute(_PORT_DATA, data)
        self._changed(name, _attribute(_KIND_AND_MORE, port))

    def without_ipv6(self, name: str) -> None:
        """Let a link have no address of IPv6 by itself."""
        ipv6 = _attribute(socket.AF_INET6, _attribute(_ADDRESS_MODE, b"\1"))
        self._changed(name, _attribute(_FAMILIES, ipv6))

    def address(self, name: str, address: str, *, bits: int) -> None:
        """Give a link an address, in a network of so many bits."""
        own = socket.inet_aton(address)
        body = _ADDRESS.pack(socket.AF_INET, bits, 0, _GLOBAL, self._index(name))
        self._ask(_NEW_ADDRESS, body + _attribute(_OWN_ADDRESS, own) + _attribute(_PEERS_ADDRESS, own), name)

    def route(self, to: IPv4Network, device: str = "", *, via: str = "", source: str = "") -> None:
        """A new way to a network: by a link, and `via` who passes things on there; without a link there is
        none, and whoever sends something is told so at once."""
        scope = _ON_LINK if device and not via else _GLOBAL
        kind = _UNICAST if device else _UNREACHABLE
        body = _ROUTE.pack(socket.AF_INET, to.prefixlen, 0, 0, _MAIN, _BOOT, scope, kind, 0)
        body += _attribute(_TO, to.network_address.packed)
        if device:
            body += _attribute(_DEVICE, self._index(device))
        for number, address in ((_VIA, via), (_FROM, source)):
            if address:
                body += _attribute(number, socket.inet_aton(address))
        self._ask(_NEW_ROUTE, body, str(to))

    def _made(self, name: str, mtu: int, kind: bytes) -> None:
        body = _attribute(_NAME, name) + _attribute(_MTU, mtu) + _attribute(_KIND_AND_MORE, kind)
        self._ask(_NEW_LINK, _link() + body, name)

    def _changed(self, name: str, attributes: bytes, *, flags: int = 0) -> None:
        self._ask(_NEW_LINK, _link(self._index(name), flags) + attributes, name, new=False)

    def _index(self, name: str) -> int:
        answer = self._ask(_GET_LINK, _link() + _attribute(_NAME, name), name, new=False)
        index: int = _LINK.unpack_from(answer)[2]
        return index

    def _ask(self, kind: int, body: bytes, what: str, *, new: bool = True) -> bytes:
        flags = _REQUEST | (0 if kind == _GET_LINK else _ACK) | (_CREATED if new else 0)
        with self._alone:
            self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body)
            answer = self._socket.recv(65536)
        code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if _HEADER.unpack_from(answer)[1] == _ERROR and code:
            raise OSError(code, os.strerror(code), what)
        return answer[_HEADER.size :]


def _link(index: int = 0, flags: int = 0) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, flags)


def _attribute(number: int, value: bytes | int | str) -> bytes:
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    size = 4 + len(value)
    return struct.pack("=HH", size, number) + value + bytes(-size % 4)

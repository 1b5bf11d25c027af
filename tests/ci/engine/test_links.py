"""Links of a network namespace, as ip(8) sees them. Needs root."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

import pytest
from tiny_image import can_run_containers

from ci.engine.network import Network, Plug, _new_namespace
from ci.errors import SystemUnavailable

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(can_run_containers()), reason=can_run_containers()),
]


@pytest.fixture
def plugs() -> Iterator[tuple[Plug, Plug]]:
    """Two empty namespaces."""
    made = []
    for number in (1, 2):
        descriptor, links = _new_namespace()
        made.append(Plug(descriptor=descriptor, address=f"10.9.0.{number}", links=links))
    yield made[0], made[1]
    for plug in made:
        plug.close()


def ip(plug: Plug, *words: str) -> list[dict[str, Any]]:
    """What ip(8) tells of a namespace."""
    told = subprocess.check_output(["nsenter", f"--net={plug.path}", "ip", "-json", "-details", *words])
    return json.loads(told or "[]")  # type: ignore[no-any-return]


def test_both_ends_of_a_wire_are_where_they_should_be(plugs: tuple[Plug, Plug]) -> None:
    here, there = plugs
    here.links.pair("eth0", mtu=9000, peer="other", namespace=there.descriptor)
    here.links.without_ipv6("eth0")
    here.links.address("eth0", here.address, bits=24)
    here.links.up("eth0")
    there.links.up("other", mtu=1400)

    (mine,) = [link for link in ip(here, "address") if link["ifname"] == "eth0"]
    assert (mine["mtu"], mine["linkinfo"]["info_kind"], "UP" in mine["flags"]) == (9000, "veth", True)
    assert [(row["local"], row["prefixlen"]) for row in mine["addr_info"]] == [("10.9.0.1", 24)]
    (link,) = [link for link in ip(here, "link") if link["ifname"] == "eth0"]
    assert link["inet6_addr_gen_mode"] == "none"
    (other,) = [link for link in ip(there, "address") if link["ifname"] == "other"]
    assert (other["mtu"], other["linkinfo"]["info_kind"], "UP" in other["flags"]) == (1400, "veth", True)


def test_a_plug_that_nobody_waits_for_any_more_is_closed(
    plugs: tuple[Plug, Plug], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that makes it goes on when its caller is cancelled."""
    began, go, closed = threading.Event(), threading.Event(), list[Plug]()

    def slow(_: Network, __: int) -> Plug:
        began.set()
        assert go.wait(30)
        return plugs[0]

    async def nothing(_: Network) -> None: ...

    async def main() -> None:
        plugging = asyncio.create_task(Network().plug())
        await asyncio.to_thread(began.wait, 30)
        plugging.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await plugging

    monkeypatch.setattr(Network, "_start", nothing)
    monkeypatch.setattr(Network, "_plug", slow)
    monkeypatch.setattr(Plug, "close", lambda plug: closed.append(plug))
    asyncio.run(main())
    assert closed == [plugs[0]]
    monkeypatch.undo()


def test_ports_of_a_bridge_are_isolated_one_by_one(plugs: tuple[Plug, Plug]) -> None:
    bridge, steps = plugs
    bridge.links.bridge("out", mtu=1500)
    for name in ("a", "b"):
        steps.links.pair(f"{name}0", mtu=1500, peer=name, namespace=bridge.descriptor)
        bridge.links.into(name, "out")
    bridge.links.isolate("b")

    ports = {link["ifname"]: link for link in ip(bridge, "link") if link.get("master") == "out"}
    isolated = {name: link["linkinfo"]["info_slave_data"]["isolated"] for name, link in ports.items()}
    assert isolated == {"a": False, "b": True}


def test_routes_lead_by_a_link_by_a_neighbour_or_nowhere(plugs: tuple[Plug, Plug]) -> None:
    here, there = plugs
    here.links.pair("eth0", mtu=1500, peer="other", namespace=there.descriptor)
    here.links.address("eth0", here.address, bits=32)
    here.links.up("eth0")
    here.links.route(IPv4Network("10.9.0.0/30"), "eth0", source=here.address)
    here.links.route(IPv4Network("0.0.0.0/0"), "eth0", via="10.9.0.2")
    here.links.route(IPv4Network("169.254.0.0/16"))

    routes = {row["dst"]: row for row in ip(here, "route")}
    assert routes["10.9.0.0/30"]["prefsrc"] == here.address
    assert (routes["default"]["gateway"], routes["default"]["dev"]) == ("10.9.0.2", "eth0")
    assert routes["169.254.0.0/16"]["type"] == "unreachable"


def test_what_the_kernel_refuses_says_what(plugs: tuple[Plug, Plug]) -> None:
    here, _ = plugs
    with pytest.raises(OSError, match="No such device") as refused:
        here.links.up("missing")
    assert refused.value.filename == "missing"
    here.links.bridge("out", mtu=1500)
    with pytest.raises(FileExistsError):
        here.links.bridge("out", mtu=1500)


def test_a_wire_to_one_that_has_ended_is_told_in_words(plugs: tuple[Plug, Plug]) -> None:
    here, _ = plugs
    descriptor, links = _new_namespace()
    gone = Plug(descriptor=descriptor, address="10.9.0.3", links=links)
    links.close()

    async def wire() -> None:
        await Network().use(here, [gone])

    with pytest.raises(SystemUnavailable, match="the network of a step cannot be made"):
        asyncio.run(wire())
    os.close(descriptor)

"""A region's network namespace and its link to the host: all that the platform adds to the host's network.

No packet filter rule is made on the host; kube-proxy's are in the namespace and vanish with it.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

from ci import tools
from ci.errors import SystemUnavailable
from ci.platform.instance import Region
from ci.platform.part import Part, PartStatus, Say
from ci.process import run

__all__ = ["cut", "join", "network"]

_NAMED = Path("/run/netns")
_CUT = "cut off"


def network(region: Region) -> Part:
    """The namespace with its end of the link as eth0, and the host's route to its pods and Services."""

    async def up(say: Say) -> bool:
        problem = await _problem(region)
        if problem == _CUT:
            await join(region)
        if problem in ("", _CUT):
            return bool(problem)
        await _refuse_overlap(region)
        await down()
        say(f"{region.node} at {region.node_ip}")
        node = region.node
        await _ip("netns", "add", node)
        await _ip("link", "add", region.link, "type", "veth", "peer", "name", "eth0", "netns", node)
        await _ip("address", "add", f"{region.host_ip}/30", "dev", region.link)
        await _ip("link", "set", region.link, "up")
        await _ip("-n", node, "link", "set", "lo", "up")
        await _ip("-n", node, "address", "add", f"{region.node_ip}/30", "dev", "eth0")
        await _ip("-n", node, "link", "set", "eth0", "up")
        await _ip("-n", node, "route", "add", "default", "via", region.host_ip)
        await _ip("netns", "exec", node, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        # Last: it is what `_problem` looks for.
        for subnet in (region.pods, region.services):
            await _ip("route", "add", subnet, "via", region.node_ip, "dev", region.link)
        return True

    async def status() -> PartStatus:
        return PartStatus(
            name=region.node, problem=await _problem(region), detail=f"{region.node_ip}, pods {region.pods}"
        )

    async def down() -> None:
        if region.node in await _namespaces():
            await _ip("netns", "delete", region.node)
        # The link goes with the namespace, but not at once, and not while a process holds the namespace.
        await run(tools.path("ip"), "link", "delete", region.link, check=False)

    return Part(name=region.node, up=up, status=status, down=down, tools=("ip",))


async def cut(region: Region) -> None:
    """Cut the region off: nothing goes in or comes out, and nobody is told. What is in it runs on."""
    await _ip("-n", region.node, "link", "set", "eth0", "down")


async def join(region: Region) -> None:
    """Undo `cut`: with the link the kernel dropped the way out."""
    await _ip("-n", region.node, "link", "set", "eth0", "up")
    await _ip("-n", region.node, "route", "replace", "default", "via", region.host_ip)


async def _problem(region: Region) -> str:
    if region.node not in await _namespaces():
        return "no network namespace"
    # `ip` lists names: one whose mount is gone is a plain file.
    if (_NAMED / region.node).stat().st_dev != Path("/proc/self/ns/net").stat().st_dev:
        return "its network namespace is gone"
    routes = _parsed(await _ip("-json", "route", "show", region.services))
    if not any(route.get("dev") == region.link for route in routes):
        return f"no route to {region.services}"
    if not _parsed(await _ip("-json", "-n", region.node, "route", "show", "default")):
        return _CUT
    return ""


async def _refuse_overlap(region: Region) -> None:
    """An address of the host's own that is in our subnets would be cut off: refuse."""
    routes = _parsed(await _ip("-json", "route", "show"))
    subnets = (f"{region.host_ip}/30", region.pods, region.services)
    ours = [ipaddress.ip_network(subnet, strict=False) for subnet in subnets]
    for route in routes:
        if route.get("dst") in (None, "default") or route.get("dev") == region.link:
            continue
        theirs = ipaddress.ip_network(str(route["dst"]), strict=False)
        if taken := next((net for net in ours if net.overlaps(theirs)), None):
            raise SystemUnavailable(
                f"the host already routes {theirs} to {route.get('dev')}, which overlaps our {taken}",
                hint="choose other subnets with VA_INSTANCE=1, then run va up again",
            )


async def _namespaces() -> set[str]:
    return {str(item["name"]) for item in _parsed(await _ip("-json", "netns", "list"))}


async def _ip(*words: str) -> str:
    try:
        return (await run(tools.path("ip"), *words, failure=SystemUnavailable)).stdout
    except SystemUnavailable as error:
        error.hint = "the embedded platform needs a machine of its own, or a privileged container"
        raise


def _parsed(text: str) -> list[dict[str, object]]:
    return [item for item in json.loads(text or "[]") if item]

"""Rules about address ranges, subnets, security groups and private endpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from ipaddress import IPv4Network
from itertools import combinations

from ci.architecture.check.rule import Broken, Estate, Rule, error, warning
from ci.architecture.facts import AZURE_SERVICE_CIDR
from ci.architecture.kubernetes import NodePool
from ci.architecture.network import Subnet, address_count

__all__ = ["RULES"]

_GATEWAY_PREFIX = 24


def _subnets(estate: Estate) -> Iterator[tuple[str, str, Subnet]]:
    for region, plan in estate.architecture.regions.items():
        for name, subnet in plan.subnets.items():
            yield region, name, subnet


@error("NET-VNET")
def inside_its_network(estate: Estate) -> Iterator[Broken]:
    """A subnet lies inside its region's virtual network."""
    for region, name, subnet in _subnets(estate):
        vnet = estate.architecture.regions[region].vnet
        if not subnet.cidr.subnet_of(vnet):
            yield Broken(
                ("regions", region, "subnets", name, "cidr"),
                f"subnet {name} {subnet.cidr} is outside the virtual network {vnet}",
                f"take a range inside {vnet}, or widen the network",
            )


@error("NET-OVERLAP")
def no_overlap(estate: Estate) -> Iterator[Broken]:
    """No two subnets of a region overlap, nor two regions' networks that are peered."""
    architecture = estate.architecture
    for region, plan in architecture.regions.items():
        for (one, a), (other, b) in combinations(plan.subnets.items(), 2):
            if a.cidr.overlaps(b.cidr):
                yield Broken(
                    ("regions", region, "subnets", other, "cidr"),
                    f"subnets {one} {a.cidr} and {other} {b.cidr} overlap",
                    "give each its own range",
                )
    for one, other in combinations(architecture.order, 2) if architecture.network.peer_regions else ():
        if architecture.regions[one].vnet.overlaps(architecture.regions[other].vnet):
            yield Broken(
                ("regions", other, "vnet"),
                f"the networks of {one} and {other} overlap: they cannot be peered",
                "give each region its own range, for example 10.20.0.0/16",
            )


def _service_cidr(estate: Estate) -> IPv4Network:
    return estate.architecture.network.service_cidr or IPv4Network(AZURE_SERVICE_CIDR)


@error("NET-SERVICE-CIDR")
def own_service_range(estate: Estate) -> Iterator[Broken]:
    """The cluster's services have a range of their own, outside every virtual network."""
    declared = estate.architecture.network.service_cidr
    service = _service_cidr(estate)
    said = "" if declared else " (none is given: AKS takes this one)"
    for region in estate.architecture.order:
        vnet = estate.architecture.regions[region].vnet
        if service.overlaps(vnet):
            equal = "equals" if service == vnet else "overlaps"
            yield Broken(
                ("network", "service_cidr") if declared else ("regions", region, "vnet"),
                f"the cluster's service range {service}{said} {equal} the virtual network {vnet} of {region}",
                "set network.service_cidr to a range that nothing else uses: 172.16.0.0/16",
            )


@error("NET-POD-CIDR")
def own_pod_range(estate: Estate) -> Iterator[Broken]:
    """An overlay's pods have a range of their own."""
    architecture = estate.architecture
    pods, service = architecture.network.pod_cidr, _service_cidr(estate)
    if pods is None:
        if architecture.kubernetes.network_plugin == "azure-cni-overlay":
            yield Broken(
                ("kubernetes", "network_plugin"),
                "Azure CNI Overlay takes its pods' addresses from network.pod_cidr, which is not set",
                "set network.pod_cidr: 192.168.0.0/16",
            )
        return
    for region in architecture.order:
        vnet = architecture.regions[region].vnet
        if pods.overlaps(vnet) or pods.overlaps(service):
            yield Broken(
                ("network", "pod_cidr"),
                f"the pods' range {pods} overlaps {vnet if pods.overlaps(vnet) else service}",
                "set network.pod_cidr to a range that nothing else uses: 192.168.0.0/16",
            )


Pools = dict[str, NodePool]


def _pools(estate: Estate, purpose: str = "") -> Pools:
    """The pools of a kind of subnet; of all where none is named."""
    found = estate.architecture.kubernetes.pools
    apart = estate.architecture.media_apart
    return {
        name: pool
        for name, pool in found.items()
        if not purpose or purpose == ("media" if pool.public_ip_per_node and apart else "aks")
    }


def _surge(estate: Estate, pools: Pools) -> int:
    """The nodes that an upgrade adds: Azure upgrades one pool at a time."""
    most = estate.architecture.kubernetes.max_surge
    return max((math.ceil(pool.max * most) for pool in pools.values()), default=0)


def _most_nodes(estate: Estate, pools: Pools) -> int:
    return sum(pool.max for pool in pools.values()) + _surge(estate, pools)


def _most_pods(pools: Pools) -> int:
    return max((pool.max_pods for pool in pools.values()), default=0)


def _needed_addresses(estate: Estate, pools: Pools) -> int:
    """What the pools take of their subnet at their largest, an upgrade's nodes with them.

    Flat Azure CNI: an address a node and one for every pod that it may hold; an overlay: one a node.
    """
    if estate.architecture.kubernetes.network_plugin != "azure-cni":
        return _most_nodes(estate, pools)
    taken = sum(pool.max * (pool.max_pods + 1) for pool in pools.values())
    return taken + _surge(estate, pools) * (_most_pods(pools) + 1)


def _shares(estate: Estate, pools: Pools) -> str:
    """What each pool takes of its subnet, where its pods take addresses of it."""
    if estate.architecture.kubernetes.network_plugin != "azure-cni":
        return ""
    shares = [f"{name} {pool.max * (pool.max_pods + 1):,}" for name, pool in pools.items()]
    return f" ({', '.join(shares)}, an upgrade {_surge(estate, pools) * (_most_pods(pools) + 1):,})"


@error("NET-ADDRESSES")
def enough_addresses(estate: Estate) -> Iterator[Broken]:
    """The pools at their largest, and the nodes an upgrade adds, find addresses."""
    for region, name, subnet in _subnets(estate):
        if subnet.purpose not in ("aks", "media"):
            continue
        pools = _pools(estate, subnet.purpose)
        have, need = address_count(subnet.cidr), _needed_addresses(estate, pools)
        if need > have:
            yield Broken(
                ("regions", region, "subnets", name, "cidr"),
                f"{_most_nodes(estate, pools)} nodes at most need {need:,} addresses"
                f"{_shares(estate, pools)}; {subnet.cidr} has {have:,}",
                "a wider subnet, fewer pods a node, or Azure CNI Overlay, where pods take none of them",
            )
    pods, nodes = estate.architecture.network.pod_cidr, _most_nodes(estate, _pools(estate))
    if pods is not None and (serves := 2 ** max(0, 24 - pods.prefixlen)) < nodes:
        yield Broken(
            ("network", "pod_cidr"),
            f"the overlay gives each node a /24: {pods} serves {serves} nodes, {nodes} may come",
            "a wider pod_cidr",
        )


@warning("NET-ADDRESSES")
def addresses_to_grow(estate: Estate) -> Iterator[Broken]:
    """With flat Azure CNI there is room for 110 pods a node as well."""
    if estate.architecture.kubernetes.network_plugin != "azure-cni":
        return
    pools = _pools(estate, "aks")
    nodes, need, pods = _most_nodes(estate, pools), _needed_addresses(estate, pools), _most_pods(pools)
    for region, name, subnet in _subnets(estate):
        have = address_count(subnet.cidr)
        if subnet.purpose == "aks" and need <= have < nodes * 111:
            yield Broken(
                ("regions", region, "subnets", name, "cidr"),
                f"Azure CNI: {nodes} nodes x {pods + 1} take {need:,} of {have:,} addresses at {pods} "
                f"pods a node; at 110 pods they would need {nodes * 111:,} and not fit"
                f"{_shares(estate, pools)}",
                "Azure CNI Overlay: pods take no addresses of the virtual network",
            )


@error("NET-MEDIA")
def media_leave_by_their_own_address(estate: Estate) -> Iterator[Broken]:
    """Nodes with addresses of their own are in a subnet without a NAT gateway, of the purpose media.

    The gateway comes before a machine's own address for all that leaves: LiveKit, which asks a STUN server
    who it is, would tell callers the gateway's, where nothing listens.
    Source: azure/nat-gateway/nat-gateway-resource, "NAT gateway and outbound methods".
    """
    a = estate.architecture
    public = [name for name, pool in a.kubernetes.pools.items() if pool.public_ip_per_node]
    for region, plan in a.regions.items():
        if public and plan.resource_group and "media" not in plan.purposes:
            yield Broken(
                ("regions", region, "subnets"),
                f"the nodes of {', '.join(public)} have addresses of their own, and {region} has no subnet "
                "for them: behind a NAT gateway callers are told its address, and no call has sound",
                "add a subnet with purpose: media (a /24 holds 251 nodes)",
            )


@warning("NET-GATEWAY-SIZE")
def room_for_the_gateway(estate: Estate) -> Iterator[Broken]:
    """Application Gateway v2 has a /24 of its own."""
    most = estate.architecture.gateway.max_units
    for region, name, subnet in _subnets(estate):
        if subnet.purpose == "gateway" and subnet.cidr.prefixlen > _GATEWAY_PREFIX:
            yield Broken(
                ("regions", region, "subnets", name, "cidr"),
                f"Application Gateway v2 at {most} instances in {subnet.cidr}: a /{_GATEWAY_PREFIX} is "
                "recommended, for upgrades need free addresses as well",
                f"a /{_GATEWAY_PREFIX}",
            )


@error("NET-GATEWAY-BLOCKED")
def gateway_reachable_by_azure(estate: Estate) -> Iterator[Broken]:
    """Where all inbound is blocked, Azure's own control of the gateway is let in."""
    if not estate.architecture.network.block_all_inbound:
        return
    rules = estate.architecture.network.security.get("gateway", {}).values()
    inbound = [rule for rule in rules if rule.direction == "inbound" and rule.access == "allow"]
    missing = []
    if not any("GatewayManager" in rule.source and "65200-65535" in rule.ports for rule in inbound):
        missing.append("GatewayManager on 65200-65535")
    if not any("AzureLoadBalancer" in rule.source for rule in inbound):
        missing.append("AzureLoadBalancer")
    if missing:
        yield Broken(
            ("network", "block_all_inbound"),
            f"with all inbound blocked Application Gateway v2 breaks: {' and '.join(missing)} must be "
            "allowed",
            "add these rules to network.security.gateway",
        )


@error("NET-ENDPOINTS")
def room_for_private_endpoints(estate: Estate) -> Iterator[Broken]:
    """Private endpoints have a subnet in every region."""
    services = estate.architecture.network.private_endpoints
    for region, plan in estate.architecture.regions.items():
        if plan.resource_group and services and "endpoints" not in plan.purposes:
            yield Broken(
                ("network", "private_endpoints"),
                f"private endpoints for {', '.join(services)}, but {region} has no subnet for them",
                "add a subnet with purpose: endpoints (a /24 holds 251)",
            )


@error("NET-SUBNETS")
def subnets_there(estate: Estate) -> Iterator[Broken]:
    """Every region has a subnet for AKS and one for the Application Gateway."""
    for region, plan in estate.architecture.regions.items():
        if plan.resource_group and not {"aks", "gateway"} <= plan.purposes:
            what = "the Application Gateway" if "aks" in plan.purposes else "AKS"
            yield Broken(
                ("regions", region, "subnets"),
                f"{region} has no subnet for {what}",
                "add one with its purpose",
            )


@error("NET-PRIORITY")
def own_priority(estate: Estate) -> Iterator[Broken]:
    """Each rule of a security group has a priority of its own."""
    for purpose, by_name in estate.architecture.network.security.items():
        taken: dict[tuple[str, int], str] = {}
        for name, rule in by_name.items():
            other = taken.setdefault((rule.direction, rule.priority), name)
            if other != name:
                yield Broken(
                    ("network", "security", purpose, name, "priority"),
                    f"rules {other} and {name} of {purpose} have the same priority {rule.priority}",
                    "each rule needs its own",
                )


RULES: tuple[Rule, ...] = (
    inside_its_network, no_overlap, own_service_range, own_pod_range, enough_addresses, addresses_to_grow,
    media_leave_by_their_own_address, room_for_the_gateway, gateway_reachable_by_azure,
    room_for_private_endpoints, subnets_there, own_priority,
)  # fmt: skip

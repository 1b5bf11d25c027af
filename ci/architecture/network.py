"""Regions and their networks: address ranges, subnets, security groups, private endpoints, DNS."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Literal

from pydantic import Field

from ci.architecture.kinds import Cidr, Domain, Duration, Frozen, Slug

__all__ = ["DnsRecord", "DnsZone", "Network", "RegionPlan", "SecurityRule", "Subnet"]


class Subnet(Frozen):
    """A range inside a region's virtual network, and what lives there."""

    cidr: Cidr
    purpose: Literal["aks", "media", "gateway", "postgres", "endpoints", "cache", "other"] = "other"
    delegated_to: Literal["Microsoft.DBforPostgreSQL/flexibleServers"] | None = None


class RegionPlan(Frozen):
    """What one region has: its place in the failover order and its virtual network."""

    priority: int = Field(
        ge=1, le=1000, description="Traffic Manager's failover order; 1 is the primary region"
    )
    zones: tuple[Literal["1", "2", "3"], ...] = ("1", "2", "3")
    vnet: Cidr
    subnets: dict[Slug, Subnet]
    vcpu_quota: int = Field(
        default=350, ge=1, description="vCPUs the subscription may use here, all families"
    )
    family_quota: dict[str, int] = Field(
        default_factory=dict,
        description="the same of one family of VM sizes (DSv5: 350), which Azure counts apart; "
        "a family that is not named here is held to vcpu_quota alone",
    )
    resource_group: bool = Field(
        default=True, description="whether a resource group is planned for this region"
    )

    @property
    def purposes(self) -> frozenset[str]:
        """What it has subnets for."""
        return frozenset(subnet.purpose for subnet in self.subnets.values())

    @property
    def gateway_address(self) -> str:
        """Where the cluster's own gateway listens inside the network: the backend of the way in."""
        subnet = next(subnet for subnet in self.subnets.values() if subnet.purpose == "aks")
        return str(subnet.cidr.broadcast_address - 5)


class SecurityRule(Frozen):
    """One rule of a network security group. `ports` are Azure's: `443`, `65200-65535`, `*`."""

    priority: int = Field(ge=100, le=4096)
    direction: Literal["inbound", "outbound"] = "inbound"
    access: Literal["allow", "deny"] = "allow"
    protocol: Literal["tcp", "udp", "any"] = "tcp"
    source: str = "*"
    ports: tuple[str, ...] = ("*",)
    why: str = Field(min_length=3)


class Network(Frozen):
    """What all regions' networks share."""

    service_cidr: Cidr | None = Field(default=None, description="unset: AKS takes 10.0.0.0/16")
    pod_cidr: Cidr | None = Field(default=None, description="of the overlay; unset with flat Azure CNI")
    security: dict[Slug, dict[Slug, SecurityRule]] = Field(
        default_factory=dict, description="purpose of a subnet -> its rules by name"
    )
    block_all_inbound: bool = True
    private_endpoints: tuple[Literal["registry", "key-vault", "postgres", "redis", "storage"], ...] = ()
    peer_regions: bool = Field(default=True, description="global peering between the regions' networks")
    public_ips_on_backend: bool = Field(default=False, description="whether nodes may have public addresses")


class DnsRecord(Frozen):
    """A public name and what it leads to."""

    to: Literal["traffic-manager", "application-gateway", "load-balancer"]
    ttl: Duration


class DnsZone(Frozen):
    """The public zone. `*` and plain labels are records in it."""

    zone: Domain
    records: dict[str, DnsRecord]


def address_count(network: IPv4Network) -> int:
    """Addresses of a range that Azure leaves to its owner."""
    from ci.architecture.facts import RESERVED_ADDRESSES

    return max(0, network.num_addresses - RESERVED_ADDRESSES)

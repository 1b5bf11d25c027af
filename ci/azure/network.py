"""Virtual networks, security groups, outbound addresses, peerings, private DNS and private endpoints."""

from __future__ import annotations

from collections.abc import Iterator

from azure.mgmt.network import models as net
from azure.mgmt.privatedns import models as pdns

from ci.architecture.kubernetes import NodePool
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.arm import Resource, as_json, resource_id

__all__ = [
    "PRIVATE_ZONES", "api_zone_id", "links", "network", "node_subnet", "private_endpoint", "subnet_id",
    "tags",
]  # fmt: skip

PRIVATE_ZONES = {
    "registry": "privatelink.azurecr.io",
    "key-vault": "privatelink.vaultcore.azure.net",
    "postgres": "privatelink.postgres.database.azure.com",
    "redis": "privatelink.redis.azure.net",
    "storage": "privatelink.blob.core.windows.net",
}
"""The private DNS zone of each service.

Source: "Azure Private Endpoint private DNS zone values", read 2026-08.
"""

_OWN_ZONE = ("registry",)
"""What has one name in all regions: a zone has one A-record of a name, so that each region has a zone.

A second endpoint's record takes the place of the first one's. Source: learn.microsoft.com, "Azure Private
Endpoint DNS integration", and "Private link for Azure Container Registry", Add zone records.
"""

_ZONE = "Microsoft.Network/privateDnsZones"

_GROUP_IDS = {
    "registry": "registry",
    "key-vault": "vault",
    "postgres": "postgresqlServer",
    "redis": "redisEnterprise",
    "storage": "blob",
}


def tags(architecture: Architecture) -> dict[str, str]:
    """On everything, so that costs and leftovers can be found."""
    return {
        "environment": architecture.environment,
        "managed-by": "va",
        "product": architecture.product,
    }


def group(architecture: Architecture, region: str | None = None) -> str:
    """The resource group of a region."""
    return name(architecture, "resource group", region or architecture.primary)


def vnet_id(architecture: Architecture, region: str) -> str:
    """The virtual network of a region."""
    return resource_id(
        group(architecture, region), "Microsoft.Network/virtualNetworks", name(architecture, "vnet", region)
    )


def subnet_id(architecture: Architecture, region: str, purpose: str) -> str:
    """The subnet of a region with this purpose.

    KeyError where there is none: `va env check` finds that first.
    """
    subnets = architecture.regions[region].subnets
    found = next((key for key, subnet in subnets.items() if subnet.purpose == purpose), None)
    if found is None:
        raise KeyError(f"{region} has no subnet for {purpose}")
    return resource_id(
        group(architecture, region),
        "Microsoft.Network/virtualNetworks/subnets",
        name(architecture, "vnet", region),
        found,
    )


def node_subnet(architecture: Architecture, region: str, pool: NodePool) -> str:
    """The subnet of a pool's nodes: one without a NAT gateway where they have addresses of their own.

    A NAT gateway comes before a machine's own address, and what LiveKit learns to be its address would be the
    gateway's. Source: learn.microsoft.com, "Azure NAT Gateway resource", "NAT gateway and outbound methods".
    """
    apart = pool.public_ip_per_node and "media" in architecture.regions[region].purposes
    return subnet_id(architecture, region, "media" if apart else "aks")


def network(architecture: Architecture, region: str) -> Iterator[Resource]:
    """The network of a region: security groups, NAT gateway, the virtual network with its subnets."""
    plan = architecture.regions[region]
    home = group(architecture, region)
    common = {"location": region, "tags": tags(architecture)}
    nsgs: dict[str, str] = {}
    for purpose in sorted(plan.purposes):
        nsg = name(architecture, "nsg", region, part=purpose)
        nsgs[purpose] = resource_id(home, "Microsoft.Network/networkSecurityGroups", nsg)
        yield Resource(
            type="Microsoft.Network/networkSecurityGroups",
            name=nsg,
            body=as_json(net.NetworkSecurityGroup(**common, security_rules=_rules(architecture, purpose))),
        )
    address = name(architecture, "public ip", region, part="nat")
    gateway = name(architecture, "nat gateway", region)
    address_id = resource_id(home, "Microsoft.Network/publicIPAddresses", address)
    gateway_id = resource_id(home, "Microsoft.Network/natGateways", gateway)
    yield public_ip(architecture, region, "nat")
    yield Resource(
        type="Microsoft.Network/natGateways",
        name=gateway,
        body=as_json(
            net.NatGateway(
                **common,
                sku=net.NatGatewaySku(name="Standard"),
                idle_timeout_in_minutes=10,
                public_ip_addresses=[net.SubResource(id=address_id)],
            )
        ),
        depends_on=(address_id,),
    )
    subnets = [
        net.Subnet(
            name=key,
            address_prefix=str(subnet.cidr),
            network_security_group=net.NetworkSecurityGroup(id=nsgs[subnet.purpose]),
            nat_gateway=net.SubResource(id=gateway_id) if subnet.purpose == "aks" else None,
            default_outbound_access=False,
            private_endpoint_network_policies="NetworkSecurityGroupEnabled"
            if subnet.purpose == "endpoints"
            else None,
            delegations=[net.Delegation(name="delegation", service_name=subnet.delegated_to)]
            if subnet.delegated_to
            else None,
        )
        for key, subnet in sorted(plan.subnets.items())
    ]
    yield Resource(
        type="Microsoft.Network/virtualNetworks",
        name=name(architecture, "vnet", region),
        body=as_json(
            net.VirtualNetwork(
                **common,
                address_space=net.AddressSpace(address_prefixes=[str(plan.vnet)]),
                subnets=subnets,
                # Between nodes, in the region and to its peers: pods' traffic and that of a node's own
                # network. Azure takes no stricter word: what cannot (Application Gateway) speaks TLS instead.
                encryption=net.VirtualNetworkEncryption(enabled=True, enforcement="AllowUnencrypted"),
            )
        ),
        depends_on=(gateway_id, *nsgs.values()),
    )


def public_ip(architecture: Architecture, region: str, part: str) -> Resource:
    """A static address in all of the region's zones."""
    zones = list(architecture.regions[region].zones)
    return Resource(
        type="Microsoft.Network/publicIPAddresses",
        name=name(architecture, "public ip", region, part=part),
        body=as_json(
            net.PublicIPAddress(
                location=region,
                tags=tags(architecture),
                sku=net.PublicIPAddressSku(name="Standard", tier="Regional"),
                zones=zones or None,
                public_ip_allocation_method="Static",
                public_ip_address_version="IPv4",
                idle_timeout_in_minutes=4,
                dns_settings=net.PublicIPAddressDnsSettings(
                    domain_name_label=name(architecture, "public ip", region, part=part)
                ),
            )
        ),
    )


def _rules(architecture: Architecture, purpose: str) -> list[net.SecurityRule]:
    declared = architecture.network.security.get(purpose, {})
    rules = [
        net.SecurityRule(
            name=key,
            priority=rule.priority,
            direction=rule.direction.capitalize(),
            access=rule.access.capitalize(),
            protocol={"tcp": "Tcp", "udp": "Udp", "any": "*"}[rule.protocol],
            source_address_prefix=rule.source,
            source_port_range="*",
            destination_address_prefix="*",
            destination_port_range=rule.ports[0] if len(rule.ports) == 1 else None,
            destination_port_ranges=list(rule.ports) if len(rule.ports) > 1 else None,
            description=rule.why,
        )
        for key, rule in declared.items()
    ]
    if architecture.network.block_all_inbound:
        rules.append(
            net.SecurityRule(
                name="block-all-inbound",
                priority=4096,
                direction="Inbound",
                access="Deny",
                protocol="*",
                source_address_prefix="*",
                source_port_range="*",
                destination_address_prefix="*",
                destination_port_range="*",
                description="all that nothing above lets in",
            )
        )
    return sorted(rules, key=lambda rule: int(rule.properties.priority))


def links(architecture: Architecture, region: str) -> Iterator[Resource]:
    """What ties a region's network to the others, and its private names to every network.

    One peering after the other: a network takes one change at a time. Regions take turns: ci.azure.render.
    """
    before: tuple[str, ...] = ()
    own = name(architecture, "vnet", region)
    for other in sorted(set(architecture.regions) - {region}) if architecture.network.peer_regions else ():
        kind = "Microsoft.Network/virtualNetworks/virtualNetworkPeerings"
        yield Resource(
            type=kind,
            name=f"{own}/to-{other}",
            body=as_json(
                net.VirtualNetworkPeering(
                    remote_virtual_network=net.SubResource(id=vnet_id(architecture, other)),
                    allow_virtual_network_access=True,
                    allow_forwarded_traffic=False,
                    allow_gateway_transit=False,
                    use_remote_gateways=False,
                )
            ),
            depends_on=before,
        )
        before = (resource_id(group(architecture, region), kind, own, f"to-{other}"),)
    for service in architecture.network.private_endpoints:
        if service in _OWN_ZONE:
            yield from _zone(architecture, region, PRIVATE_ZONES[service], (region,))
        elif region == architecture.primary:
            yield from _zone(architecture, region, PRIVATE_ZONES[service], architecture.order)
    if architecture.kubernetes.private_api:
        # AKS links the cluster's own network itself; who comes from another region's needs it as much.
        others = tuple(other for other in architecture.order if other != region)
        yield from _zone(architecture, region, _api_zone(region), others)


def _zone(architecture: Architecture, region: str, zone: str, linked: tuple[str, ...]) -> Iterator[Resource]:
    """A private zone in a region's group, and the regions whose networks ask it."""
    yield Resource(
        type=_ZONE,
        name=zone,
        body=as_json(pdns.PrivateZone(location="global", tags=tags(architecture))),
    )
    for each in linked:
        yield Resource(
            type=f"{_ZONE}/virtualNetworkLinks",
            name=f"{zone}/{each}",
            body=as_json(
                pdns.VirtualNetworkLink(
                    location="global",
                    tags=tags(architecture),
                    virtual_network=pdns.SubResource(id=vnet_id(architecture, each)),
                    registration_enabled=False,
                )
            ),
            depends_on=(resource_id(group(architecture, region), _ZONE, zone),),
        )


def _api_zone(region: str) -> str:
    """The only names that AKS takes for it: "Create a private AKS cluster", Custom private DNS zone."""
    return f"privatelink.{region}.azmk8s.io"


def api_zone_id(architecture: Architecture, region: str) -> str:
    """The private zone of a region's API server."""
    return resource_id(group(architecture, region), _ZONE, _api_zone(region))


def private_endpoint(
    architecture: Architecture, region: str, service: str, target: str, depends_on: tuple[str, ...] = ()
) -> Iterator[Resource]:
    """A private address of a service in a region's network, and its name in private DNS."""
    if service not in architecture.network.private_endpoints:
        return
    endpoint = name(architecture, "private endpoint", region, part=service)
    zone = PRIVATE_ZONES[service]
    yield Resource(
        type="Microsoft.Network/privateEndpoints",
        name=endpoint,
        body=as_json(
            net.PrivateEndpoint(
                location=region,
                tags=tags(architecture),
                subnet=net.Subnet(id=subnet_id(architecture, region, "endpoints")),
                private_link_service_connections=[
                    net.PrivateLinkServiceConnection(
                        name=service, private_link_service_id=target, group_ids=[_GROUP_IDS[service]]
                    )
                ],
            )
        ),
        depends_on=depends_on,
    )
    yield Resource(
        type="Microsoft.Network/privateEndpoints/privateDnsZoneGroups",
        name=f"{endpoint}/default",
        body=as_json(
            net.PrivateDnsZoneGroup(
                private_dns_zone_configs=[
                    net.PrivateDnsZoneConfig(
                        name=service,
                        private_dns_zone_id=resource_id(
                            group(architecture, region if service in _OWN_ZONE else None), _ZONE, zone
                        ),
                    )
                ]
            )
        ),
        depends_on=(
            resource_id(group(architecture, region), "Microsoft.Network/privateEndpoints", endpoint),
        ),
    )

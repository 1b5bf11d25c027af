"""The way in: the firewall's policy, Application Gateway, LiveKit's address, Traffic Manager.

The public zone.
"""

from __future__ import annotations

from collections.abc import Iterator

from azure.mgmt.dns import models as dns
from azure.mgmt.network import models as net
from azure.mgmt.trafficmanager import models as tm

from ci.architecture.access import CERTIFICATE
from ci.architecture.edge import Gateway
from ci.architecture.facts import REGIONS
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.arm import Resource, as_json, resource_id
from ci.azure.network import group, public_ip, subnet_id, tags

__all__ = ["edge", "front_door", "gateway_address"]

_SERVICES = {"api": "gateway", "livekit": "livekit"}
"""What each Traffic Manager profile chooses between: the public addresses of this part."""


def gateway_address(architecture: Architecture, region: str) -> str:
    """Where the cluster's own gateway listens inside the network.

    The same address for it and for the backend pool.
    """
    return architecture.regions[region].gateway_address


def edge(architecture: Architecture, region: str) -> Iterator[Resource]:
    """A region's own way in."""
    home = group(architecture, region)
    policy = name(architecture, "waf", region)
    kind = "Microsoft.Network/ApplicationGatewayWebApplicationFirewallPolicies"
    policy_id = resource_id(home, kind, policy)
    yield Resource(type=kind, name=policy, body=as_json(_policy(architecture, region)))
    yield public_ip(architecture, region, "gateway")
    # AKS puts its Standard load balancer's front on this address: the Service names it by annotation.
    yield public_ip(architecture, region, "livekit")
    address_id = resource_id(
        home, "Microsoft.Network/publicIPAddresses", name(architecture, "public ip", region, part="gateway")
    )
    yield Resource(
        type="Microsoft.Network/applicationGateways",
        name=name(architecture, "gateway", region),
        body=_gateway(architecture, region, policy_id, address_id),
        depends_on=(policy_id, address_id),
    )


def _policy(architecture: Architecture, region: str) -> net.WebApplicationFirewallPolicy:
    waf = architecture.gateway.waf
    family, version = waf.rule_set.split()
    rules = []
    if waf.rate_limit is not None:
        rules.append(
            net.WebApplicationFirewallCustomRule(
                name="RateLimit",
                priority=10,
                state="Enabled",
                rule_type="RateLimitRule",
                rate_limit_duration="OneMin",
                rate_limit_threshold=waf.rate_limit,
                action="Block",
                group_by_user_session=[
                    net.GroupByUserSession(
                        group_by_variables=[net.GroupByVariable(variable_name="ClientAddr")]
                    )
                ],
                match_conditions=[_match("RequestUri", "Contains", ["/"])],
            )
        )
    if waf.blocked_countries:
        rules.append(
            net.WebApplicationFirewallCustomRule(
                name="Countries",
                priority=20,
                state="Enabled",
                rule_type="MatchRule",
                action="Block",
                match_conditions=[_match("RemoteAddr", "GeoMatch", list(waf.blocked_countries))],
            )
        )
    managed = [
        net.ManagedRuleSet(
            rule_set_type="Microsoft_DefaultRuleSet" if family == "drs" else "OWASP", rule_set_version=version
        )
    ]
    if waf.bot_protection:
        managed.append(
            net.ManagedRuleSet(rule_set_type="Microsoft_BotManagerRuleSet", rule_set_version="1.1")
        )
    return net.WebApplicationFirewallPolicy(
        location=region,
        tags=tags(architecture),
        policy_settings=net.PolicySettings(
            state="Enabled",
            mode=waf.mode.capitalize(),
            request_body_check=True,
            max_request_body_size_in_kb=128,
            file_upload_limit_in_mb=100,
        ),
        custom_rules=rules,
        managed_rules=net.ManagedRulesDefinition(managed_rule_sets=managed),
    )


def _match(variable: str, operator: str, values: list[str]) -> net.MatchCondition:
    return net.MatchCondition(
        match_variables=[net.MatchVariable(variable_name=variable)], operator=operator, match_values=values
    )


def _ssl(gateway: Gateway) -> net.ApplicationGatewaySslPolicy:
    # No predefined policy takes 1.3 alone: 20220101S is 1.2 with its strong suites, and 1.3.
    if gateway.tls_min == "1.3":
        return net.ApplicationGatewaySslPolicy(
            policy_type="CustomV2",
            min_protocol_version="TLSv1_3",
            cipher_suites=["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"],
        )
    names = {"1.2": "AppGwSslPolicy20220101S", "1.1": "AppGwSslPolicy20170401"}
    name = names.get(gateway.tls_min, "AppGwSslPolicy20150501")
    return net.ApplicationGatewaySslPolicy(policy_type="Predefined", policy_name=name)


def _gateway(architecture: Architecture, region: str, policy_id: str, address_id: str) -> dict[str, object]:
    gateway = architecture.gateway
    home, own = group(architecture, region), name(architecture, "gateway", region)
    vault = name(architecture, "key vault", region)

    def part(kind: str, key: str) -> net.SubResource:
        return net.SubResource(
            id=resource_id(home, f"Microsoft.Network/applicationGateways/{kind}", own, key)
        )

    identity = resource_id(
        home,
        "Microsoft.ManagedIdentity/userAssignedIdentities",
        name(architecture, "identity", region, part="gateway"),
    )
    probes = [
        net.ApplicationGatewayProbe(
            name=key,
            protocol="Https",
            path=route.probe.path,
            interval=int(route.probe.interval.total_seconds()),
            timeout=int(route.probe.timeout.total_seconds()),
            unhealthy_threshold=route.probe.unhealthy_after,
            pick_host_name_from_backend_http_settings=True,
        )
        for key, route in sorted(gateway.routes.items())
    ]
    settings = [
        net.ApplicationGatewayBackendHttpSettings(
            name=key,
            # The cluster's gateway shows the same certificate, of a public CA, for this host's name:
            # Application Gateway verifies it without a root of ours.
            port=443,
            protocol="Https",
            cookie_based_affinity="Disabled",
            request_timeout=60,
            host_name=f"{key}.{architecture.dns.zone}",
            probe=part("probes", key),
            connection_draining=net.ApplicationGatewayConnectionDraining(
                enabled=True, drain_timeout_in_sec=60
            ),
        )
        for key in sorted(gateway.routes)
    ]
    default = next((key for key, route in gateway.routes.items() if route.path == "/*"), min(gateway.routes))
    asked = architecture.traffic_manager.probe_path if architecture.traffic_manager else None
    paths = [
        net.ApplicationGatewayPathRule(
            name=key,
            # What Traffic Manager asks whether a region lives is answered by the part that it means.
            paths=[route.path, *([asked] if asked == route.probe.path else [])],
            backend_address_pool=part("backendAddressPools", "cluster"),
            backend_http_settings=part("backendHttpSettingsCollection", key),
        )
        for key, route in sorted(gateway.routes.items())
        if key != default
    ]
    listeners = [
        net.ApplicationGatewayHttpListener(
            name="https",
            protocol="Https",
            frontend_ip_configuration=part("frontendIPConfigurations", "public"),
            frontend_port=part("frontendPorts", "https"),
            ssl_certificate=part("sslCertificates", CERTIFICATE),
        )
    ]
    rules = [
        net.ApplicationGatewayRequestRoutingRule(
            name="https",
            rule_type="PathBasedRouting",
            priority=100,
            http_listener=part("httpListeners", "https"),
            url_path_map=part("urlPathMaps", "paths"),
        )
    ]
    redirects = []
    ports = [net.ApplicationGatewayFrontendPort(name="https", port=443)]
    if gateway.redirect is not None:
        ports.append(net.ApplicationGatewayFrontendPort(name="http", port=gateway.redirect.from_port))
        listeners.append(
            net.ApplicationGatewayHttpListener(
                name="http",
                protocol="Http",
                frontend_ip_configuration=part("frontendIPConfigurations", "public"),
                frontend_port=part("frontendPorts", "http"),
            )
        )
        redirects.append(
            net.ApplicationGatewayRedirectConfiguration(
                name="to-https",
                redirect_type="Permanent",
                target_listener=part("httpListeners", "https"),
                include_path=True,
                include_query_string=True,
            )
        )
        rules.append(
            net.ApplicationGatewayRequestRoutingRule(
                name="http",
                rule_type="Basic",
                priority=200,
                http_listener=part("httpListeners", "http"),
                redirect_configuration=part("redirectConfigurations", "to-https"),
            )
        )
    body = net.ApplicationGateway(
        location=region,
        tags=tags(architecture),
        zones=list(architecture.regions[region].zones) or None,
        identity=net.ManagedServiceIdentity(type="UserAssigned", user_assigned_identities={identity: {}}),
        sku=net.ApplicationGatewaySku(name=gateway.sku, tier=gateway.sku),
        autoscale_configuration=net.ApplicationGatewayAutoscaleConfiguration(
            min_capacity=gateway.min_units, max_capacity=gateway.max_units
        ),
        enable_http2=gateway.http2,
        ssl_policy=_ssl(gateway),
        firewall_policy=net.SubResource(id=policy_id),
        gateway_ip_configurations=[
            net.ApplicationGatewayIPConfiguration(
                name="subnet", subnet=net.SubResource(id=subnet_id(architecture, region, "gateway"))
            )
        ],
        frontend_ip_configurations=[
            net.ApplicationGatewayFrontendIPConfiguration(
                name="public", public_ip_address=net.SubResource(id=address_id)
            )
        ],
        frontend_ports=ports,
        ssl_certificates=[
            net.ApplicationGatewaySslCertificate(
                name=CERTIFICATE, key_vault_secret_id=f"https://{vault}.vault.azure.net/secrets/{CERTIFICATE}"
            )
        ],
        backend_address_pools=[
            net.ApplicationGatewayBackendAddressPool(
                name="cluster",
                backend_addresses=[
                    net.ApplicationGatewayBackendAddress(ip_address=gateway_address(architecture, region))
                ],
            )
        ],
        backend_http_settings_collection=settings,
        probes=probes,
        http_listeners=listeners,
        url_path_maps=[
            net.ApplicationGatewayUrlPathMap(
                name="paths",
                default_backend_address_pool=part("backendAddressPools", "cluster"),
                default_backend_http_settings=part("backendHttpSettingsCollection", default),
                path_rules=paths,
            )
        ],
        request_routing_rules=rules,
        redirect_configurations=redirects,
    )
    return as_json(body)


def front_door(architecture: Architecture) -> Iterator[Resource]:
    """What exists once: the public zone, its records, Traffic Manager's profiles."""
    home = group(architecture)
    zone = architecture.dns.zone
    zone_id = resource_id(home, "Microsoft.Network/dnsZones", zone)
    yield Resource(
        type="Microsoft.Network/dnsZones",
        name=zone,
        body=as_json(dns.Zone(location="global", tags=tags(architecture), zone_type="Public")),
    )
    profiles = {
        service: resource_id(
            home,
            "Microsoft.Network/trafficManagerProfiles",
            name(architecture, "traffic manager", part="" if service == "api" else service),
        )
        for service in _SERVICES
    }
    if architecture.traffic_manager is not None:
        yield from _profiles(architecture)
    for key, record in sorted(architecture.dns.records.items()):
        ttl = int(record.ttl.total_seconds())
        service = "livekit" if key == "livekit" or record.to == "load-balancer" else "api"
        address = name(architecture, "public ip", part=_SERVICES[service])
        if record.to == "traffic-manager":
            target, kind = profiles[service], "Microsoft.Network/dnsZones/CNAME"
        else:
            target, kind = (
                resource_id(home, "Microsoft.Network/publicIPAddresses", address),
                "Microsoft.Network/dnsZones/A",
            )
        body = {"properties": {"TTL": ttl, "targetResource": as_json(dns.SubResource(id=target))}}
        needs = (zone_id, target) if record.to == "traffic-manager" else (zone_id,)
        yield Resource(type=kind, name=f"{zone}/{key}", body=body, depends_on=needs)


def _profiles(architecture: Architecture) -> Iterator[Resource]:
    manager = architecture.traffic_manager
    assert manager is not None
    routing = {
        "performance": "Performance",
        "priority": "Priority",
        "weighted": "Weighted",
        "geographic": "Geographic",
    }[manager.routing]
    for service, part in _SERVICES.items():
        own = name(architecture, "traffic manager", part="" if service == "api" else service)
        endpoints = [
            tm.Endpoint(
                name=region,
                type="Microsoft.Network/trafficManagerProfiles/azureEndpoints",
                target_resource_id=resource_id(
                    group(architecture, region),
                    "Microsoft.Network/publicIPAddresses",
                    name(architecture, "public ip", region, part=part),
                ),
                endpoint_status="Enabled",
                endpoint_location=REGIONS[region].display,
                priority=architecture.regions[region].priority,
                weight=100,
            )
            for region in architecture.order
        ]
        http = service == "api"
        yield Resource(
            type="Microsoft.Network/trafficManagerProfiles",
            name=own,
            body=as_json(
                tm.Profile(
                    location="global",
                    tags=tags(architecture),
                    profile_status="Enabled",
                    traffic_routing_method=routing,
                    dns_config=tm.DnsConfig(relative_name=own, ttl=int(manager.ttl.total_seconds())),
                    monitor_config=tm.MonitorConfig(
                        protocol="HTTPS" if http else "TCP",
                        port=443 if http else architecture.livekit.signal_port,
                        path=manager.probe_path if http else None,
                        interval_in_seconds=int(manager.probe_interval.total_seconds()),
                        timeout_in_seconds=int(manager.probe_timeout.total_seconds()),
                        tolerated_number_of_failures=manager.tolerated_failures,
                        custom_headers=[
                            tm.MonitorConfigCustomHeadersItem(
                                name="host", value=f"api.{architecture.dns.zone}"
                            )
                        ]
                        if http
                        else None,
                    ),
                    endpoints=endpoints,
                )
            ),
        )

"""AKS: the cluster with its pools, and the identities that its pods sign in as."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from azure.mgmt.containerservice import models as aks
from azure.mgmt.msi import models as msi

from ci.architecture.kubernetes import NodePool
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.arm import Resource, as_json, reference, resource_id, role_assignment
from ci.azure.network import api_zone_id, group, node_subnet, tags

__all__ = [
    "KUBERNETES_ROLES", "METRICS_ROLES", "REGISTRY_ROLES", "cluster", "cluster_id", "federation",
    "group_parameter", "identities", "identity_id", "principal",
]  # fmt: skip

REGISTRY_ROLES = ("AcrPull", "AcrPush")
METRICS_ROLES = ("Monitoring Data Reader",)
_ON_ONE_THING = (*REGISTRY_ROLES, *METRICS_ROLES)
"""Both never on the whole resource group: there is one registry, and one place of a region's metrics."""

KUBERNETES_ROLES = {
    "reader": "Azure Kubernetes Service RBAC Reader",
    "writer": "Azure Kubernetes Service RBAC Writer",
    "admin": "Azure Kubernetes Service RBAC Admin",
    "cluster-admin": "Azure Kubernetes Service RBAC Cluster Admin",
}
_IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities"
_CLUSTER = "Microsoft.ContainerService/managedClusters"


def identity_id(architecture: Architecture, region: str, key: str) -> str:
    """A managed identity of a region."""
    return resource_id(
        group(architecture, region), _IDENTITY, name(architecture, "identity", region, part=key)
    )


def cluster_id(architecture: Architecture, region: str) -> str:
    """The cluster of a region."""
    return resource_id(group(architecture, region), _CLUSTER, name(architecture, "cluster", region))


def group_parameter(role: str) -> str:
    """The template parameter that holds the object id of a role's Entra group."""
    return f"group-{role}"


def identities(architecture: Architecture, region: str) -> Iterator[Resource]:
    """A region's managed identities, and the roles that they and people have on its resource group.

    What is for one secret, container, registry or namespace is given there: see ci.azure.access.
    """
    for key, identity in sorted(architecture.access.identities.items()):
        yield Resource(
            type=_IDENTITY,
            name=name(architecture, "identity", region, part=key),
            body=as_json(msi.Identity(location=region, tags=tags(architecture))),
        )
        own = identity_id(architecture, region, key)
        for given in identity.azure_roles:
            if given not in _ON_ONE_THING:
                who = principal(architecture, region, key)
                yield role_assignment(given, who, "ServicePrincipal", depends_on=(own,))
    for role_name, role in sorted(architecture.access.roles.items()):
        roles: list[str] = [one for one in role.azure_roles if one not in _ON_ONE_THING]
        if role.kubernetes_role != "none" and not role.namespaces:
            roles.append(KUBERNETES_ROLES[role.kubernetes_role])
        for each in roles:
            yield role_assignment(each, f"[parameters('{group_parameter(role_name)}')]", "Group")


def principal(architecture: Architecture, region: str, key: str) -> str:
    """The object id of a region's identity, as an expression."""
    return reference(identity_id(architecture, region, key), _IDENTITY, "principalId")


def federation(architecture: Architecture, region: str) -> Iterator[Resource]:
    """Each identity trusted by its pods' service account.

    Subject and audience as workload identity wants them. A canary's pods have their own accounts. One after
    the other: Azure refuses two at once on one identity.
    """
    trusted = name(architecture, "cluster", region)
    issuer = reference(cluster_id(architecture, region), _CLUSTER, "oidcIssuerProfile.issuerUrl")
    for key, identity in sorted(architecture.access.identities.items()):
        if identity.service_account is None:
            continue
        namespace, _, account = identity.service_account.partition("/")
        own = name(architecture, "identity", region, part=key)
        before: tuple[str, ...] = ()
        canary = namespace == "voice" and key not in architecture.certificates.used_by
        for suffix, subject in _accounts(namespace, account, canary=canary):
            credential = f"{trusted}{suffix}"
            yield Resource(
                type=f"{_IDENTITY}/federatedIdentityCredentials",
                name=f"{own}/{credential}",
                body=as_json(
                    msi.FederatedIdentityCredential(
                        issuer=issuer, subject=subject, audiences=["api://AzureADTokenExchange"]
                    )
                ),
                depends_on=before,
            )
            before = (
                resource_id(
                    group(architecture, region),
                    f"{_IDENTITY}/federatedIdentityCredentials",
                    own,
                    credential,
                ),
            )


def _accounts(namespace: str, account: str, *, canary: bool) -> Iterator[tuple[str, str]]:
    """The subjects of an identity; what serves calls is installed a second time while a promotion runs."""
    yield "", f"system:serviceaccount:{namespace}:{account}"
    if canary:
        yield "-canary", f"system:serviceaccount:{namespace}:{account.replace('voice-', 'voice-canary-', 1)}"


def cluster(architecture: Architecture, region: str) -> Iterator[Resource]:
    """The cluster of a region."""
    kubernetes, network = architecture.kubernetes, architecture.network
    overlay = kubernetes.network_plugin == "azure-cni-overlay"
    service = network.service_cidr
    autoscaler = kubernetes.autoscaler
    longest = max(
        (workload.grace for workload in kubernetes.workloads.values()), default=timedelta(minutes=10)
    )
    kubelet = identity_id(architecture, region, "kubelet")
    control = identity_id(architecture, region, "cluster")
    workspace = resource_id(
        group(architecture, region),
        "Microsoft.OperationalInsights/workspaces",
        name(architecture, "log analytics", region),
    )
    addons = {
        "kubeDashboard": aks.ManagedClusterAddonProfile(enabled=False),
        "azurepolicy": aks.ManagedClusterAddonProfile(enabled=True),
        "azureKeyvaultSecretsProvider": aks.ManagedClusterAddonProfile(
            enabled=True, config={"enableSecretRotation": "true", "rotationPollInterval": "5m"}
        ),
    }
    if architecture.monitoring.container_insights:
        addons["omsagent"] = aks.ManagedClusterAddonProfile(
            enabled=True, config={"logAnalyticsWorkspaceResourceID": workspace, "useAADAuth": "true"}
        )
    yield Resource(
        type=_CLUSTER,
        name=name(architecture, "cluster", region),
        body=as_json(
            aks.ManagedCluster(
                location=region,
                tags=tags(architecture),
                sku=aks.ManagedClusterSKU(name="Base", tier=kubernetes.tier),
                identity=aks.ManagedClusterIdentity(
                    type="UserAssigned",
                    user_assigned_identities={
                        control: aks.ManagedServiceIdentityUserAssignedIdentitiesValue()
                    },
                ),
                kubernetes_version=kubernetes.version,
                dns_prefix=name(architecture, "cluster", region),
                node_resource_group=name(architecture, "node group", region),
                enable_rbac=True,
                disable_local_accounts=not kubernetes.local_accounts,
                aad_profile=aks.ManagedClusterAADProfile(
                    managed=kubernetes.entra_id,
                    enable_azure_rbac=kubernetes.azure_rbac,
                    tenant_id="[subscription().tenantId]",
                ),
                oidc_issuer_profile=aks.ManagedClusterOIDCIssuerProfile(enabled=kubernetes.oidc_issuer),
                security_profile=aks.ManagedClusterSecurityProfile(
                    workload_identity=aks.ManagedClusterSecurityProfileWorkloadIdentity(
                        enabled=kubernetes.workload_identity
                    ),
                    image_cleaner=aks.ManagedClusterSecurityProfileImageCleaner(
                        enabled=kubernetes.image_cleaner, interval_hours=168
                    ),
                    defender=aks.ManagedClusterSecurityProfileDefender(
                        log_analytics_workspace_resource_id=workspace,
                        security_monitoring=aks.ManagedClusterSecurityProfileDefenderSecurityMonitoring(
                            enabled=True
                        ),
                    ),
                ),
                api_server_access_profile=aks.ManagedClusterAPIServerAccessProfile(
                    enable_private_cluster=kubernetes.private_api,
                    enable_private_cluster_public_fqdn=False if kubernetes.private_api else None,
                    private_dns_zone=api_zone_id(architecture, region) if kubernetes.private_api else None,
                    authorized_ip_ranges=list(kubernetes.api_allowed_from) or None,
                    disable_run_command=True,
                ),
                network_profile=aks.ContainerServiceNetworkProfile(
                    network_plugin="kubenet" if kubernetes.network_plugin == "kubenet" else "azure",
                    network_plugin_mode="overlay" if overlay else None,
                    network_policy={"azure-network-policy-manager": "azure"}.get(
                        kubernetes.network_policy, kubernetes.network_policy
                    ),
                    network_dataplane="cilium" if kubernetes.network_policy == "cilium" else "azure",
                    pod_cidr=str(network.pod_cidr) if network.pod_cidr else None,
                    service_cidr=str(service) if service else None,
                    dns_service_ip=str(service.network_address + 10) if service else None,
                    outbound_type="userAssignedNATGateway",
                    load_balancer_sku="standard",
                ),
                auto_scaler_profile=aks.ManagedClusterPropertiesAutoScalerProfile(
                    scale_down_delay_after_add=_minutes(autoscaler.scale_down_delay_after_add),
                    scale_down_unneeded_time=_minutes(autoscaler.scale_down_unneeded_time),
                    scale_down_utilization_threshold=f"{autoscaler.scale_down_utilization_threshold:g}",
                    expander=autoscaler.expander,
                    # The autoscaler's own default of 600 s would cut calls that the pod's grace period
                    # protects.
                    max_graceful_termination_sec=str(int(longest.total_seconds())),
                    skip_nodes_with_local_storage="false",
                    balance_similar_node_groups="true",
                ),
                auto_upgrade_profile=aks.ManagedClusterAutoUpgradeProfile(
                    upgrade_channel=kubernetes.upgrade_channel,
                    node_os_upgrade_channel=kubernetes.node_os_upgrade,
                ),
                azure_monitor_profile=aks.ManagedClusterAzureMonitorProfile(
                    metrics=aks.ManagedClusterAzureMonitorProfileMetrics(
                        enabled=architecture.monitoring.managed_prometheus
                    )
                ),
                identity_profile={
                    "kubeletidentity": aks.UserAssignedIdentity(
                        resource_id=kubelet,
                        client_id=reference(kubelet, _IDENTITY, "clientId"),
                        object_id=reference(kubelet, _IDENTITY, "principalId"),
                    )
                },
                addon_profiles=addons,
                workload_auto_scaler_profile=aks.ManagedClusterWorkloadAutoScalerProfile(
                    keda=aks.ManagedClusterWorkloadAutoScalerProfileKeda(enabled=True)
                ),
                agent_pool_profiles=[
                    _pool(architecture, region, key, pool) for key, pool in sorted(kubernetes.pools.items())
                ],
            )
        ),
    )


def _pool(
    architecture: Architecture, region: str, key: str, pool: NodePool
) -> aks.ManagedClusterAgentPoolProfile:
    kubernetes = architecture.kubernetes
    return aks.ManagedClusterAgentPoolProfile(
        name=key,
        mode=pool.mode.capitalize(),
        type="VirtualMachineScaleSets",
        count=pool.min,
        vm_size=pool.vm_size,
        enable_auto_scaling=True,
        min_count=pool.min,
        max_count=pool.max,
        os_type="Linux",
        os_sku=pool.os,
        os_disk_size_gb=pool.os_disk,
        os_disk_type="Managed",
        max_pods=pool.max_pods,
        availability_zones=list(architecture.regions[region].zones) or None,
        vnet_subnet_id=node_subnet(architecture, region, pool),
        network_profile=aks.AgentPoolNetworkProfile(allowed_host_ports=_host_ports(architecture))
        if pool.public_ip_per_node
        else None,
        enable_node_public_ip=pool.public_ip_per_node,
        enable_encryption_at_host=True,
        node_taints=[str(taint) for taint in pool.taints] or None,
        node_labels=dict(sorted(pool.labels.items())) or None,
        scale_set_priority="Spot" if pool.spot else None,
        upgrade_settings=aks.AgentPoolUpgradeSettings(
            max_surge=f"{kubernetes.max_surge:.0%}",
            drain_timeout_in_minutes=int(kubernetes.drain_timeout.total_seconds() // 60),
        ),
    )


def _host_ports(architecture: Architecture) -> list[aks.PortRange]:
    """What AKS' own security group lets in to nodes with addresses of their own: media, and their fallback.

    The subnet's group is not enough: AKS has one of its own on the nodes. Source: learn.microsoft.com, "Use
    instance-level public IPs in AKS", Allow host port connections.
    """
    path = architecture.livekit
    return [
        aks.PortRange(port_start=path.udp_from, port_end=path.udp_to, protocol="UDP"),
        aks.PortRange(port_start=path.tcp_fallback, port_end=path.tcp_fallback, protocol="TCP"),
    ]


def _minutes(duration: timedelta) -> str:
    return f"{int(duration.total_seconds() // 60)}m"

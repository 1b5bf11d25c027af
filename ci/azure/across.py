"""What Azure refuses, or takes and leaves dead, of resources that are right each by itself.

Each rule looks at all that is rendered for an environment, and says where its word comes from: [D] a page of
learn.microsoft.com, [X] experience, of which no page was found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ci.architecture.resources import at, role_of, words
from ci.azure.arm import Module, Resource, resource_id

__all__ = ["RULES", "Wrong", "across", "at_once", "one_at_a_time"]

_ROLE = "Microsoft.Authorization/roleAssignments"
_CLUSTER = "Microsoft.ContainerService/managedClusters"
_PEERING = "Microsoft.Network/virtualNetworks/virtualNetworkPeerings"
_IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities"


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """One finding: the resource it is said of, and the module that this is in."""

    code: str
    module: Module
    resource: Resource
    message: str


Placed = tuple[Module, Resource]
Look = Callable[[Sequence[Placed]], Iterator[Wrong]]


def across(modules: Sequence[Module]) -> Iterator[Wrong]:
    """Everything that the rules find in all modules of an environment."""
    placed = [(module, resource) for module in modules for resource in module.resources]
    for rule in RULES:
        yield from rule(placed)


def _of(placed: Sequence[Placed], kind: str) -> Iterator[Placed]:
    return ((module, resource) for module, resource in placed if resource.type == kind)


def _roles_have_names_of_their_own(placed: Sequence[Placed]) -> Iterator[Wrong]:
    """A role assignment's name is one's own in the whole tenant, so that its group's id is in it.

    [D] "Understand Azure role assignments", Name; "Troubleshoot Azure RBAC".
    """
    seen: set[tuple[str, str]] = set()
    for module, resource in _of(placed, _ROLE):
        if "resourceGroup().id" not in resource.name:
            message = "its name would be the next environment's as well: a name is unique in the tenant"
            yield Wrong(code="ARM-ROLE", module=module, resource=resource, message=message)
        elif (key := (module.group, resource.name)) in seen:
            message = "two assignments of a group have this name: a name is unique in the tenant"
            yield Wrong(code="ARM-ROLE", module=module, resource=resource, message=message)
        else:
            seen.add(key)


_MEANT = {
    "Acr": ("Microsoft.ContainerRegistry/",),
    "Azure Kubernetes Service": (_CLUSTER,),
    "Key Vault": ("Microsoft.KeyVault/",),
    "Monitoring Data Reader": ("Microsoft.Monitor/accounts",),
    "Private DNS Zone Contributor": ("Microsoft.Network/privateDnsZones",),
    "Storage Blob": ("Microsoft.Storage/",),
}
"""Whose rights a role consists of: on anything else it may be given, and lets nobody do anything."""


def _roles_have_scopes_that_mean_something(placed: Sequence[Placed]) -> Iterator[Wrong]:
    """A role is given in the group of its template, on a thing whose rights it has.

    [D] "Extension resources in ARM templates" (a scope is inside its deployment's); "Azure built-in roles".
    """
    for module, resource in _of(placed, _ROLE):
        mentioned = words(resource.scope or "")
        if not mentioned:
            continue
        group, kind = mentioned[0], mentioned[1]
        role = role_of(resource.body)
        meant = next((kinds for start, kinds in _MEANT.items() if role.startswith(start)), ("",))
        if group != module.group:
            message = f"its scope is in {group}, its deployment in {module.group}: Azure takes no such scope"
            yield Wrong(code="ARM-SCOPE", module=module, resource=resource, message=message)
        elif not kind.startswith(meant):
            message = f"{role} on {kind} lets nobody do anything"
            yield Wrong(code="ARM-SCOPE", module=module, resource=resource, message=message)


def _names_have_one_record(placed: Sequence[Placed]) -> Iterator[Wrong]:
    """What has one name has one private endpoint in a zone: a second's record takes the first one's place.

    [D] "Azure Private Endpoint DNS integration", and "Private link for Azure Container Registry".
    """
    targets = {
        (module.group, resource.name): at(
            resource.body,
            ("properties", "privateLinkServiceConnections", "*", "properties", "privateLinkServiceId"),
        )
        for module, resource in _of(placed, "Microsoft.Network/privateEndpoints")
    }
    taken: dict[tuple[str, str], str] = {}
    for module, resource in _of(placed, "Microsoft.Network/privateEndpoints/privateDnsZoneGroups"):
        endpoint = resource.name.partition("/")[0]
        path = ("properties", "privateDnsZoneConfigs", "*", "properties", "privateDnsZoneId")
        for zone in at(resource.body, path):
            for target in targets.get((module.group, endpoint), ()):
                if (other := taken.setdefault((zone, target), resource.name)) != resource.name:
                    message = (
                        f"{'/'.join(words(target)[2:])} has one name, and {other} has its record in this zone"
                    )
                    yield Wrong(code="ARM-RECORD", module=module, resource=resource, message=message)


def one_at_a_time(kind: str, name: str) -> str:
    """Whose part this is, of what takes one change at a time; empty for anything else.

    PostgreSQL: ServerIsBusy [X] (Microsoft's own module has batchSize 1 [D]); a network's peerings:
    AnotherOperationInProgress [X]; an identity's credentials: "Workload identity federation", Important
    considerations: no two at once [D].
    """
    parents = {
        "Microsoft.DBforPostgreSQL/flexibleServers/administrators",
        "Microsoft.DBforPostgreSQL/flexibleServers/configurations",
        "Microsoft.DBforPostgreSQL/flexibleServers/databases",
        f"{_IDENTITY}/federatedIdentityCredentials",
        _PEERING,
    }
    if kind not in parents:
        return ""
    # A name that is put together: `[concat('server/', parameters('x'))]`.
    plain = words(name)[0] if name.startswith("[") and words(name) else name
    return f"{kind.rpartition('/')[0]}/{plain.partition('/')[0]}".lower()


def at_once(parts: Sequence[tuple[str, str, Sequence[str]]]) -> Iterator[tuple[str, str]]:
    """The pairs of parts (id, whose, what each waits for) that change one thing at the same time."""
    waits = {own.lower(): {need.lower() for need in needs} for own, _, needs in parts}

    def after(own: str) -> set[str]:
        found: set[str] = set()
        todo = [own]
        while todo:
            for need in waits.get(todo.pop(), ()):
                if need not in found:
                    found.add(need)
                    todo.append(need)
        return found

    by_parent: dict[str, list[str]] = {}
    for own, whose, _ in parts:
        if whose:
            by_parent.setdefault(whose, []).append(own.lower())
    for children in by_parent.values():
        behind = {own: after(own) for own in children}
        for number, one in enumerate(children):
            for other in children[:number]:
                if other not in behind[one] and one not in behind[other]:
                    yield other, one


def _one_change_at_a_time(placed: Sequence[Placed]) -> Iterator[Wrong]:
    """What takes one change at a time gets one after the other; regions that change one thing take turns.

    [D] [X] as `one_at_a_time` says of each.
    """
    for module in {id(module): module for module, _ in placed}.values():
        mine = {_own_id(module, resource).lower(): resource for resource in module.resources}
        parts = [
            (_own_id(module, resource), one_at_a_time(resource.type, resource.name), resource.depends_on)
            for resource in module.resources
        ]
        for one, other in at_once(parts):
            message = f"at the same time as {mine[one].name}: it takes one change at a time, and refuses this"
            yield Wrong(code="ARM-BUSY", module=module, resource=mine[other], message=message)
    ends: dict[frozenset[str], str] = {}
    for module, resource in _of(placed, _PEERING):
        remote = at(resource.body, ("properties", "remoteVirtualNetwork", "id"))
        pair = frozenset({resource.name.partition("/")[0], *(words(one)[-1] for one in remote)})
        if ends.setdefault(pair, module.region) != module.region and not module.in_turn:
            message = f"{ends[pair]} makes the other end of this peering at the same time"
            yield Wrong(code="ARM-BUSY", module=module, resource=resource, message=message)


def _own_id(module: Module, resource: Resource) -> str:
    return resource_id(module.group, resource.type, *resource.name.split("/"))


def _nodes_are_reached_and_known(placed: Sequence[Placed]) -> Iterator[Wrong]:
    """Nodes with addresses of their own have ports that AKS lets in, and no NAT gateway before them.

    [D] "Use instance-level public IPs in AKS", Allow host port connections; "Azure NAT Gateway resource".
    """
    behind = {
        (words(network.name)[-1] if network.name.startswith("[") else network.name, subnet["name"])
        for _, network in _of(placed, "Microsoft.Network/virtualNetworks")
        for subnet in network.body["properties"].get("subnets", ())
        if "natGateway" in subnet.get("properties", {})
    }
    for module, cluster in _of(placed, _CLUSTER):
        for pool in cluster.body["properties"].get("agentPoolProfiles", ()):
            if not pool.get("enableNodePublicIP"):
                continue
            subnet = tuple(words(pool.get("vnetSubnetID", ""))[-2:])
            if subnet in behind:
                message = f"the pool {pool['name']} is behind a NAT gateway: its nodes leave by that address"
                yield Wrong(code="ARM-MEDIA", module=module, resource=cluster, message=message)
            if not pool.get("networkProfile", {}).get("allowedHostPorts"):
                message = f"AKS' own security group lets nothing in to the nodes of {pool['name']}"
                yield Wrong(code="ARM-MEDIA", module=module, resource=cluster, message=message)


def _clusters_are_entered(placed: Sequence[Placed]) -> Iterator[Wrong]:
    """Who may do something inside a cluster may fetch the way in; a private one's name is known elsewhere.

    [D] "Use Azure RBAC for Kubernetes authorization"; "Create a private AKS cluster", Custom private zone.
    """
    roles = [
        (module, one, role_of(one.body), (module.group, one.body["properties"]["principalId"]))
        for module, one in _of(placed, _ROLE)
    ]
    enter = {who for _, _, role, who in roles if role.endswith("Cluster User Role")}
    for module, resource, role, who in roles:
        if "Service RBAC" in role and who not in enter:
            message = f"{role} without the role to fetch the cluster's credentials"
            yield Wrong(code="ARM-ENTRY", module=module, resource=resource, message=message)
    for module, cluster in _of(placed, _CLUSTER):
        access = cluster.body["properties"].get("apiServerAccessProfile", {})
        if access.get("enablePrivateCluster") and not access.get("privateDNSZone"):
            message = "its API server's name is known in its own network alone"
            yield Wrong(code="ARM-ENTRY", module=module, resource=cluster, message=message)


def _what_is_asked_may_be_read(placed: Sequence[Placed]) -> Iterator[Wrong]:
    """KEDA and Grafana may read the metrics that they ask, and KEDA's pods act as somebody.

    [D] "Query Prometheus metrics using the API and PromQL"; "Securely scale with the KEDA add-on".
    """
    readers = [
        str(one.body["properties"]["principalId"])
        for _, one in _of(placed, _ROLE)
        if role_of(one.body) == "Monitoring Data Reader"
    ]
    for module, grafana in _of(placed, "Microsoft.Dashboard/grafana"):
        if not any("'Microsoft.Dashboard/grafana'" in reader for reader in readers):
            message = "it has no role that reads metrics: its dashboards stay empty"
            yield Wrong(code="ARM-READER", module=module, resource=grafana, message=message)
    trusted = [
        (module.group, one.name.partition("/")[0])
        for module, one in _of(placed, f"{_IDENTITY}/federatedIdentityCredentials")
        if str(one.body["properties"]["subject"]).endswith(":kube-system:keda-operator")
    ]
    for module, cluster in _of(placed, _CLUSTER):
        keda = at(cluster.body, ("properties", "workloadAutoScalerProfile", "keda", "enabled"))
        mine = [own for group, own in trusted if group == module.group]
        if keda == [True] and not any(f"'{own}'" in reader for own in mine for reader in readers):
            message = "KEDA's pods are no identity that reads metrics: nothing scales by them"
            yield Wrong(code="ARM-READER", module=module, resource=cluster, message=message)


def _the_budget_sees_it_all(placed: Sequence[Placed]) -> Iterator[Wrong]:
    """A budget watches the groups of nodes as well, and starts when it is made, not when it was written.

    [D] Microsoft.Consumption/budgets, BudgetTimePeriod and BudgetFilter.
    """
    nodes = {str(one.body["properties"].get("nodeResourceGroup")) for _, one in _of(placed, _CLUSTER)}
    for module, budget in _of(placed, "Microsoft.Consumption/budgets"):
        start = at(budget.body, ("properties", "timePeriod", "startDate"))
        if not str(start[0]).startswith("["):
            message = f"it starts {start[0]}: refused from the month after on"
            yield Wrong(code="ARM-BUDGET", module=module, resource=budget, message=message)
        (watched,) = at(budget.body, ("properties", "filter", "dimensions", "values"))
        if missing := sorted(nodes - set(watched or ())):
            message = f"it does not see {', '.join(missing)}, where the nodes are billed"
            yield Wrong(code="ARM-BUDGET", module=module, resource=budget, message=message)


_EXPORTED = ("http_", "kube_", "node_", "livekit_", "lk_", "voice_", "container_")
"""Whose metrics reach Prometheus: the api's and agents' own, LiveKit's, the kubelet's, the add-on's."""


def _alerts_have_their_metrics(placed: Sequence[Placed]) -> Iterator[Wrong]:
    """A rule in PromQL asks for metrics that something exports.

    [X] Azure takes a rule about anything: it is quiet for ever. What is exported: our own code and charts.
    """
    for module, group in _of(placed, "Microsoft.AlertsManagement/prometheusRuleGroups"):
        for rule in group.body["properties"]["rules"]:
            for metric in re.findall(r"\b([a-z]+_[a-z0-9_]+)(?=[{\[]| *\)| */)", rule["expression"]):
                if not metric.startswith(_EXPORTED):
                    message = f"{rule['alert']} asks for {metric}, which nothing exports: it never fires"
                    yield Wrong(code="ARM-METRIC", module=module, resource=group, message=message)


RULES: tuple[Look, ...] = (
    _roles_have_names_of_their_own, _roles_have_scopes_that_mean_something, _names_have_one_record,
    _one_change_at_a_time, _nodes_are_reached_and_known, _clusters_are_entered, _what_is_asked_may_be_read,
    _the_budget_sees_it_all, _alerts_have_their_metrics,
)  # fmt: skip

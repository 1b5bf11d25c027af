"""Rules about what AKS' and Kubernetes' documentation says they refuse: pools, versions, disks, names.

Each rule's `holds` ends with its source: the page of learn.microsoft.com, as remembered in November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

from ci.architecture.check.rule import Broken, Estate, Rule, error, no_range, said
from ci.architecture.facts import VM_SIZES, retirements

__all__ = ["RULES"]

Key = tuple[str | int, ...]

_DAY = timedelta(days=1)


@error("AKS-POOL-NAME")
def pools_have_names_of_azure(estate: Estate) -> Iterator[Broken]:
    """A pool's name has at most 12 small letters and digits, a letter first.

    Source: azure/aks/create-node-pools, "Limitations".
    """
    for pool in estate.architecture.kubernetes.pools:
        if not re.fullmatch("[a-z][a-z0-9]{0,11}", pool):
            short = re.sub("[^a-z0-9]", "", pool)[:12]
            why = f"has {len(pool)} characters" if len(pool) > 12 else "has a hyphen"
            yield Broken(
                ("kubernetes", "pools", pool),
                f"the pool's name {pool} {why}; AKS takes 12 small letters and digits at most",
                f"did you mean {short!r}?",
            )


_OFFERED = (35, 37)
"""Of Kubernetes 1.x what AKS offers, the oldest and the newest."""


@error("AKS-VERSION")
def the_version_is_offered(estate: Estate) -> Iterator[Broken]:
    """AKS offers the version of Kubernetes. Source: azure/aks/supported-kubernetes-versions, read 2026-08."""
    version = estate.architecture.kubernetes.version
    oldest, newest = _OFFERED
    if oldest <= int(version.partition(".")[2]) <= newest or f"kubernetes {version}" in retirements():
        return  # RETIRED says it of what was offered once
    yield Broken(
        ("kubernetes", "version"),
        f"AKS offers Kubernetes 1.{oldest} to 1.{newest}, not {version}",
        f'version: "1.{newest - 1}"',
    )


@error("AKS-DISK")
def disks_have_sizes_of_azure(estate: Estate) -> Iterator[Broken]:
    """A node's disk has 30 to 2048 GB. Source: azure/templates/microsoft.containerservice, osDiskSizeGB."""
    for name, pool in estate.architecture.kubernetes.pools.items():
        if not 30 <= pool.os_disk <= 2048:
            yield Broken(
                ("kubernetes", "pools", name, "os_disk"),
                f"a disk of {pool.os_disk} GB; AKS takes 30 to 2048 GB",
                "os_disk: 128 GB",
            )


@error("AKS-DRAIN")
def drains_end_in_time(estate: Estate) -> Iterator[Broken]:
    """An upgrade waits for a node from 1 minute to 24 hours, in whole minutes.

    Source: azure/aks/upgrade-aks-cluster, "Set node drain time-out value".
    """
    waits = estate.architecture.kubernetes.drain_timeout
    if not timedelta(minutes=1) <= waits <= _DAY or waits % timedelta(minutes=1):
        yield Broken(
            ("kubernetes", "drain_timeout"),
            f"AKS waits 1 minute to 24 hours for a node, in whole minutes; {said(waits)} is none of that",
            "drain_timeout: 6h",
        )


@error("AKS-POOLS")
def a_cluster_holds_them(estate: Estate) -> Iterator[Broken]:
    """A cluster has at most 100 pools and 5,000 nodes; a system pool never sleeps.

    Source: azure/aks/quotas-skus-regions and azure/aks/use-system-pools.
    """
    kubernetes = estate.architecture.kubernetes
    if len(kubernetes.pools) > 100 or kubernetes.nodes[1] > 5000:
        yield Broken(
            ("kubernetes", "pools"),
            f"{len(kubernetes.pools)} pools and {kubernetes.nodes[1]:,} nodes; a cluster has 100 and 5,000",
            "fewer of them",
        )
    for name, pool in kubernetes.pools.items():
        if pool.mode == "system" and (pool.min == 0 or pool.spot):
            yield Broken(
                ("kubernetes", "pools", name),
                f"the system pool {name} {'may be evicted' if pool.spot else 'may have no node'}, "
                "and AKS itself runs there",
                "min: 2, spot: false",
            )


@error("AKS-SYSTEM")
def system_pools_carry_what_aks_runs(estate: Estate) -> Iterator[Broken]:
    """A system pool has at least two nodes of at least 4 vCPUs and 4 GB, and room for 30 pods on each.

    Source: azure/aks/use-system-pools, "System and user node pools", read 2026-11. (Its first paragraph says
    two nodes of production alone, its list of limits of every system pool: we hold to the list.)
    """
    for name, pool in estate.architecture.kubernetes.pools.items():
        size = VM_SIZES[pool.vm_size]
        if pool.mode != "system" or pool.min == 0:  # AKS-POOLS
            continue
        if size.vcpus < 4 or size.memory_gib < 4:
            yield Broken(
                ("kubernetes", "pools", name, "vm_size"),
                f"{pool.vm_size} has {size.vcpus} vCPUs and {size.memory_gib} GB; AKS wants 4 and 4 at least "
                "of a system pool's nodes",
                "vm_size: Standard_D4s_v5",
            )
        if pool.min < 2:
            yield Broken(
                ("kubernetes", "pools", name, "min"),
                f"the system pool {name} may have {pool.min} node; AKS wants two of them",
                "min: 2",
            )
        if pool.max_pods < 30:
            yield Broken(
                ("kubernetes", "pools", name, "max_pods"),
                f"{pool.max_pods} pods a node; a system pool's nodes hold 30 at least",
                "max_pods: 60",
            )


@error("K8S-NAME")
def pods_have_names_of_kubernetes(estate: Estate) -> Iterator[Broken]:
    """Service accounts are namespace/name, and labels and taints as Kubernetes takes them.

    Sources: kubernetes.io/docs/concepts/overview/working-with-objects, "Names" and "Labels and Selectors";
    azure/aks/use-labels, "Reserved system labels".
    """
    label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    value = "([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?"
    key = rf"({label}(\.{label})*/)?[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?"
    for name, identity in estate.architecture.access.identities.items():
        account = identity.service_account
        if account is not None and not re.fullmatch(rf"{label}/{label}(\.{label})*", account):
            yield Broken(
                ("access", "identities", name, "service_account"),
                f"{account!r} is no service account: namespace/name in small letters, digits and hyphens",
                f"service_account: voice/voice-{name}",
            )
    for name, pool in estate.architecture.kubernetes.pools.items():
        pairs: list[tuple[str, str, Key]]
        pairs = [(one, text, ("labels", one)) for one, text in pool.labels.items()]
        pairs += [(taint.key, taint.value, ("taints",)) for taint in pool.taints]
        for one, text, at in pairs:
            if not re.fullmatch(key, one) or not re.fullmatch(value, text):
                yield Broken(
                    ("kubernetes", "pools", name, *at),
                    f"{one}={text} is no label or taint: letters, digits and ._- between them, 63 at most",
                    "as voice/pool: agents",
                )
            elif one.startswith("kubernetes.azure.com/"):
                yield Broken(
                    ("kubernetes", "pools", name, *at),
                    f"{one}: AKS keeps labels of kubernetes.azure.com for itself",
                    "as voice/pool: agents",
                )


@error("AKS-RANGES")
def api_ranges_are_ranges(estate: Estate) -> Iterator[Broken]:
    """The API server is open to 200 ranges at most. Source: azure/aks/api-server-authorized-ip-ranges."""
    allowed = estate.architecture.kubernetes.api_allowed_from
    at: Key = ("kubernetes", "api_allowed_from")
    if len(allowed) > 200:
        yield Broken(at, f"{len(allowed)} ranges; AKS takes 200 at most", "wider ranges")
    for number, one in enumerate(allowed):
        yield from no_range((*at, number), one)


RULES: tuple[Rule, ...] = (
    pools_have_names_of_azure, the_version_is_offered, disks_have_sizes_of_azure, drains_end_in_time,
    a_cluster_holds_them, system_pools_carry_what_aks_runs, pods_have_names_of_kubernetes,
    api_ranges_are_ranges,
)  # fmt: skip

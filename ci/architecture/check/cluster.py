"""Rules about the cluster and what runs on it: pools, taints, room, drains, quota, identities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from difflib import SequenceMatcher, get_close_matches

from ci.architecture.access import container_users, secret_readers
from ci.architecture.chart import Fit
from ci.architecture.check.rule import Broken, Estate, Rule, error, warning
from ci.architecture.facts import VM_SIZES
from ci.architecture.kubernetes import NodePool, Taint
from ci.errors import Place

__all__ = ["RULES"]

_DAEMONSET_MILLICORES = 300
_DAEMONSET_MIB = 600
"""What a node's own pods (CNI, CSI, log and metrics agents) take before ours: an assumption, not measured."""


@error("AKS-NODES")
def nodes_as_claimed(estate: Estate) -> Iterator[Broken]:
    """A document's number of nodes is the sum of the pools."""
    claims, nodes = estate.architecture.claims, estate.architecture.kubernetes.nodes
    if claims is None or claims.nodes is None or claims.nodes == nodes:
        return
    which = [
        f"minimums sum to {nodes[0]}, not {claims.nodes[0]}" if claims.nodes[0] != nodes[0] else "",
        f"maximums sum to {nodes[1]}, not {claims.nodes[1]}" if claims.nodes[1] != nodes[1] else "",
    ]
    right = "" if all(which) else f" (the {'maximum' if which[0] else 'minimum'} is right)"
    yield Broken(
        ("claims", "nodes"),
        f"the pools' {' and '.join(filter(None, which))}{right}",
        f"say {nodes[0]}-{nodes[1]} nodes",
    )


@error("CHART-DIFFERS")
def chart_as_declared(estate: Estate) -> Iterator[Broken]:
    """The rendered chart is what the architecture counts on."""
    declared = _declared(estate)
    facts = ("pool", "tolerates", "cpu_millicores", "memory_mib", "max_pods", "grace_seconds", "host_network")
    for fit in estate.workloads:
        if not fit.rendered or fit.declared_as is None:
            continue
        wanted = declared[fit.declared_as]
        differ = [fact for fact in facts if getattr(fit, fact) != getattr(wanted, fact)]
        said = [
            f"{fact} {_plain(getattr(fit, fact))}, not {_plain(getattr(wanted, fact))}" for fact in differ
        ]
        if differ:
            yield Broken(
                fit.place(", ".join(differ)),
                f"the chart's {fit.name} is not as declared: {'; '.join(said)}",
                "install the chart with what `va env values` prints",
            )


@warning("CHART-UNKNOWN")
def chart_all_declared(estate: Estate) -> Iterator[Broken]:
    """Every workload of the rendered chart is declared."""
    for fit in estate.workloads:
        if fit.rendered and fit.declared_as is None:
            yield Broken(
                fit.place("name"),
                f"the chart has a workload {fit.name} that kubernetes.workloads does not know",
                f"declare it beside {', '.join(_declared(estate))}",
            )


def _declared(estate: Estate) -> dict[str, Fit]:
    return {fit.name: fit for fit in estate.workloads if not fit.rendered}


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


@error("POOL-UNKNOWN")
def pools_are_there(estate: Estate) -> Iterator[Broken]:
    """A workload's pool is declared."""
    pools = estate.architecture.kubernetes.pools
    for fit in estate.workloads:
        if fit.pool is not None and fit.pool not in pools:
            yield Broken(
                fit.place("pool"),
                f"{fit.name} wants the pool {fit.pool}, which is not there",
                f"one of {', '.join(pools)}",
            )


_Misspelt = dict[tuple[str, Taint, Taint], list[Fit]]


def _misspelt(estate: Estate) -> _Misspelt:
    """`{(pool, its taint, what is tolerated instead): workloads}`: one word was meant to be the other."""
    found: _Misspelt = {}
    for fit in estate.workloads:
        if fit.pool is None:
            continue
        alone = sorted(set(_tolerated_alone(fit, estate)), key=str)
        # Words that are near to each other first; then what is left on either side.
        wanted = sorted(_not_tolerated(fit, estate), key=lambda one: not any(_is_near(one, x) for x in alone))
        for taint in wanted:
            for one in sorted(alone, key=lambda one: not _is_near(one, taint))[:1]:
                alone.remove(one)
                found.setdefault((fit.pool, taint, one), []).append(fit)
    return found


def _not_tolerated(fit: Fit, estate: Estate) -> list[Taint]:
    pool = estate.architecture.kubernetes.pools.get(fit.pool or "")
    taints = pool.taints if pool else ()
    return [one for one in taints if one.effect != "PreferNoSchedule" and one not in fit.tolerates]


def _tolerated_alone(fit: Fit, estate: Estate) -> list[Taint]:
    """What it tolerates and no pool has."""
    taints = {taint for pool in estate.architecture.kubernetes.pools.values() for taint in pool.taints}
    return [one for one in fit.tolerates if one not in taints]


def _is_near(one: Taint, other: Taint) -> bool:
    if one.key == other.key:
        return one.value == other.value or one.effect == other.effect
    alike = bool(get_close_matches(one.key.casefold(), [other.key.casefold()], n=1, cutoff=0.6))
    return alike and (one.value, one.effect) == (other.value, other.effect)


@error("TAINT-TOLERATION")
def taints_are_tolerated(estate: Estate) -> Iterator[Broken]:
    """A workload tolerates the taints of its pool."""
    misspelt = _misspelt(estate)
    for (pool, taint, instead), fits in misspelt.items():
        names = ", ".join(dict.fromkeys(fit.name for fit in fits))
        said = f"{pool} is tainted {taint}, and {names} on it tolerates {instead}, which no pool has: "
        # What is nearer to the pool's name, or has more on its side, is likely to be meant.
        if len(fits) > 1 or _likeness(instead.key, pool) > _likeness(taint.key, pool):
            at: Place | tuple[str | int, ...] = ("kubernetes", "pools", pool, "taints")
            yield Broken(at, f"{said}one of the two is wrong", f"taint the pool {instead}")
        else:
            yield Broken(fits[0].place("tolerates"), f"{said}one of the two is wrong", f"tolerate {taint}")
    told = {(fit.name, taint) for (_, taint, _), fits in misspelt.items() for fit in fits}
    for fit in estate.workloads:
        for taint in _not_tolerated(fit, estate):
            if (fit.name, taint) not in told:
                yield Broken(
                    fit.place("tolerates"),
                    f"{fit.name} goes to {fit.pool}, whose nodes are tainted {taint}, and tolerates it "
                    "not: it will never be scheduled",
                    f"tolerate {taint}",
                )


@error("TOLERATION-TAINT")
def tolerations_have_taints(estate: Estate) -> Iterator[Broken]:
    """A workload tolerates only what some pool is tainted with."""
    told = {(fit.name, instead) for (_, _, instead), fits in _misspelt(estate).items() for fit in fits}
    for fit in estate.workloads:
        for taint in _tolerated_alone(fit, estate):
            if (fit.name, taint) not in told:
                yield Broken(
                    fit.place("tolerates"),
                    f"{fit.name} tolerates {taint}, which no pool has",
                    "take it away, or taint the pool",
                )


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


@error("POOL-SYSTEM")
def a_system_pool(estate: Estate) -> Iterator[Broken]:
    """There is a system pool, and what AKS itself needs may run on it."""
    pools = estate.architecture.kubernetes.pools
    for name, pool in pools.items():
        if pool.mode == "system" and pool.taints and any(t.key != "CriticalAddonsOnly" for t in pool.taints):
            yield Broken(
                ("kubernetes", "pools", name, "taints"),
                "a system pool may only be tainted CriticalAddonsOnly",
                "move the taint to a user pool",
            )
    if not any(pool.mode == "system" for pool in pools.values()):  # AKS-POOLS: of one without a node
        yield Broken(("kubernetes", "pools"), "AKS needs a system pool", "mode: system")


def _left(pool: NodePool) -> tuple[int, int]:
    """Millicores and MiB that a node of the pool leaves to our pods."""
    size = VM_SIZES[pool.vm_size]
    return (
        size.allocatable_millicores - _DAEMONSET_MILLICORES,
        size.allocatable_mib(pool.max_pods) - _DAEMONSET_MIB,
    )


def _fits_a_node(fit: Fit, pool: NodePool) -> bool:
    cpu, memory = _left(pool)
    return fit.cpu_millicores <= cpu and fit.memory_mib <= memory


@error("REQUEST-NODE")
def requests_fit_a_node(estate: Estate) -> Iterator[Broken]:
    """A pod's requests fit a node of its pool."""
    pools = estate.architecture.kubernetes.pools
    for fit in estate.workloads:
        if fit.pool not in pools or _fits_a_node(fit, pools[fit.pool]):
            continue
        cpu, memory = _left(pools[fit.pool])
        yield Broken(
            fit.place("cpu_millicores" if fit.cpu_millicores > cpu else "memory_mib"),
            f"{fit.name} asks for {fit.cpu_millicores} m and {fit.memory_mib} MiB; a "
            f"{pools[fit.pool].vm_size} of {fit.pool} leaves {cpu} m and {memory} MiB to a pod",
            "ask for less, or take larger nodes",
        )


@error("HPA-POOL")
def pods_fit_their_pool(estate: Estate) -> Iterator[Broken]:
    """A workload scaled to its maximum fits its pool at its maximum; host network: one pod a node."""
    pools = estate.architecture.kubernetes.pools
    for fit in estate.workloads:
        if fit.host_network and fit.pool in pools and fit.max_pods > (nodes := pools[fit.pool].max):
            yield Broken(
                fit.place("max_pods"),
                f"{fit.name} with hostNetwork is one pod a node: {fit.max_pods} pods on at most {nodes} "
                "nodes",
                f"at most {nodes} pods, or a larger pool",
            )
    for name, pool in pools.items():
        mine = [
            fit
            for fit in estate.workloads
            if fit.pool == name and not fit.host_network and _fits_a_node(fit, pool)
        ]
        # The same pods are not counted twice.
        fits = [fit for fit in mine if not fit.rendered] or mine
        nodes = sum(_nodes_for(fit, pool, fit.max_pods) for fit in fits)
        if nodes > pool.max:
            largest = max(fits, key=lambda fit: fit.max_pods * fit.cpu_millicores)
            yield Broken(
                largest.place("max_pods"),
                f"{' and '.join(f'{fit.max_pods} {fit.name}' for fit in fits)} pods need {nodes} nodes of "
                f"{name}, which grows to {pool.max}",
                "fewer pods at most, or a larger maximum of the pool",
            )


def _nodes_for(fit: Fit, pool: NodePool, pods: int) -> int:
    """Whole pods a node, one workload after another: an upper bound that a real scheduler may better."""
    cpu, memory = _left(pool)
    a_node = min(cpu // max(1, fit.cpu_millicores), memory // max(1, fit.memory_mib), pool.max_pods)
    return math.ceil(pods / a_node)


@error("HPA-CANARY")
def a_canary_fits_beside(estate: Estate) -> Iterator[Broken]:
    """A canary's fewest pods fit their pool beside stable at its most: a release can start at full load.

    Not its most: a canary's share of the load is not stable's any more.
    """
    pools = estate.architecture.kubernetes.pools
    for name, pool in pools.items():
        fits = [
            fit
            for fit in estate.workloads
            # LiveKit is no part of a canary, and has a node a pod.
            if fit.pool == name and not fit.rendered and not fit.host_network and _fits_a_node(fit, pool)
        ]
        stable = sum(_nodes_for(fit, pool, fit.max_pods) for fit in fits)
        both = sum(_nodes_for(fit, pool, fit.max_pods + fit.min_pods) for fit in fits)
        if stable <= pool.max < both:
            largest = max(fits, key=lambda fit: fit.min_pods * fit.cpu_millicores)
            said = " and ".join(f"{fit.max_pods} + {fit.min_pods} {fit.name}" for fit in fits)
            yield Broken(
                largest.place("min_pods"),
                f"{said} pods, stable at its most and a canary beside it, need {both} nodes of {name}, which "
                f"grows to {pool.max}",
                "a smaller minimum or maximum, or a larger maximum of the pool",
            )


@error("GRACE-DRAIN")
def grace_outlasts_drain(estate: Estate) -> Iterator[Broken]:
    """A pod's grace period is longer than it may need to let go of its work."""
    for fit in estate.workloads:
        if fit.drain_seconds is not None and fit.grace_seconds <= fit.drain_seconds:
            yield Broken(
                fit.place("grace_seconds"),
                f"{fit.name} is killed {fit.grace_seconds:g} s after SIGTERM and may need "
                f"{fit.drain_seconds:g} s",
                f"a grace period of more than {fit.drain_seconds:g}s",
            )


@error("GRACE-UPGRADE")
def upgrades_wait(estate: Estate) -> Iterator[Broken]:
    """A node's upgrade waits for the longest grace period."""
    timeout = estate.architecture.kubernetes.drain_timeout
    longest = max(estate.workloads, key=lambda fit: fit.grace_seconds, default=None)
    if longest is not None and 60 <= timeout.total_seconds() < longest.grace_seconds:  # AKS-DRAIN: of less
        yield Broken(
            ("kubernetes", "drain_timeout"),
            f"a node upgrade waits {timeout} for pods to leave; {longest.name} may take "
            f"{longest.grace_seconds:g} s",
            "a longer drain_timeout (at most 24h)",
        )


@error("QUOTA-VCPU")
def inside_the_quota(estate: Estate) -> Iterator[Broken]:
    """The pools at their largest, and an upgrade's nodes, stay inside the region's quota of vCPUs."""
    kubernetes = estate.architecture.kubernetes
    pools = kubernetes.pools.values()
    most = sum(pool.max * VM_SIZES[pool.vm_size].vcpus for pool in pools)
    surge = max(math.ceil(pool.max * kubernetes.max_surge) * VM_SIZES[pool.vm_size].vcpus for pool in pools)
    for quota, regions in _too_small(estate, most + surge).items():
        yield Broken(
            ("regions", regions[0], "vcpu_quota"),
            f"the pools at their largest take {most} vCPUs and an upgrade {surge} more; the quota of "
            f"{', '.join(regions)} is {quota}",
            f"ask Azure for {most + surge}, or lower the pools' maximums",
        )


def _too_small(estate: Estate, wanted: int) -> dict[int, list[str]]:
    """`{quota: regions}` where that many vCPUs are more than the region's quota."""
    found: dict[int, list[str]] = {}
    for region, plan in estate.architecture.regions.items():
        if wanted > plan.vcpu_quota:
            found.setdefault(plan.vcpu_quota, []).append(region)
    return found


@error("QUOTA-FAMILY")
def inside_each_familys_quota(estate: Estate) -> Iterator[Broken]:
    """The pools of one family of VM sizes stay inside the region's quota of that family, if it is named."""
    kubernetes = estate.architecture.kubernetes
    known = {size.family for size in VM_SIZES.values()}
    for region, plan in estate.architecture.regions.items():
        for family, quota in plan.family_quota.items():
            if family not in known:
                yield Broken(
                    ("regions", region, "family_quota", family),
                    f"there is no family {family}",
                    f"one of {', '.join(sorted(known))}",
                )
            mine = [one for one in kubernetes.pools.values() if VM_SIZES[one.vm_size].family == family]
            most = sum(pool.max * VM_SIZES[pool.vm_size].vcpus for pool in mine)
            surge = max(
                (math.ceil(one.max * kubernetes.max_surge) * VM_SIZES[one.vm_size].vcpus for one in mine),
                default=0,
            )
            if quota < most + surge <= plan.vcpu_quota:  # QUOTA-VCPU: of more than all families may have
                yield Broken(
                    ("regions", region, "family_quota", family),
                    f"the pools of {family} at their largest take {most} vCPUs and an upgrade {surge} more; "
                    f"its quota in {region} is {quota}",
                    f"ask Azure for {most + surge}, lower the pools' maximums, or spread them over families",
                )


@error("IDENTITY-ISSUER")
def identities_can_sign_in(estate: Estate) -> Iterator[Broken]:
    """Where pods sign in as themselves, the cluster vouches for them."""
    kubernetes, access = estate.architecture.kubernetes, estate.architecture.access
    federated = [name for name, identity in access.identities.items() if identity.service_account]
    if federated and not (kubernetes.oidc_issuer and kubernetes.workload_identity):
        yield Broken(
            ("kubernetes",),
            f"{', '.join(federated)} sign in as their pods, which needs the OIDC issuer and workload "
            "identity",
            "oidc_issuer: true, workload_identity: true",
        )


@error("SECRET-UNKNOWN")
def secrets_are_named(estate: Estate) -> Iterator[Broken]:
    """A reference to this environment's vault names a secret of it."""
    secrets, reference = estate.architecture.key_vault.secrets, estate.architecture.livekit.keys
    if reference.startswith("azkv://this/") and reference.removeprefix("azkv://this/") not in secrets:
        yield Broken(
            ("livekit", "keys"),
            f"{reference} is not among key_vault.secrets",
            f"one of {', '.join(secrets)}",
        )


@error("SECRET-USER")
def secrets_have_users(estate: Estate) -> Iterator[Broken]:
    """A secret is for workloads that are there."""
    workloads = estate.architecture.kubernetes.workloads
    for name, secret in estate.architecture.key_vault.secrets.items() if workloads else ():
        for user in secret.used_by:
            if user not in workloads:
                yield Broken(
                    ("key_vault", "secrets", name, "used_by"),
                    f"the secret {name} is for {user}, which is no workload",
                    f"one of {', '.join(workloads)}",
                )


@error("ACCESS-USER")
def users_are_identities(estate: Estate) -> Iterator[Broken]:
    """Who may read a secret, the certificate or a container signs in as an identity of its own."""
    architecture = estate.architecture
    identities = architecture.access.identities
    used: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        *(
            (("storage", "containers", name, "used_by"), one.used_by)
            for name, one in architecture.storage.containers.items()
        ),
        (("certificates", "used_by"), architecture.certificates.used_by),
    ]
    if any(identity.service_account for identity in identities.values()):
        used += [
            (("key_vault", "secrets", name, "used_by"), one.used_by)
            for name, one in architecture.key_vault.secrets.items()
        ]
    for key, users in used:
        for user in users:
            if user not in identities:
                yield Broken(
                    key,
                    f"{'.'.join(key[:-1])} is for {user}, which has no identity: it could not read it",
                    f"one of {', '.join(sorted(identities))}, or access.identities.{user}",
                )


@error("ACCESS-UNUSED")
def identities_are_used(estate: Estate) -> Iterator[Broken]:
    """An identity is there for something: what may do nothing, and what does nothing, goes."""
    architecture = estate.architecture
    used = {
        "cluster", "kubelet", "api", "migrate",  # the last two log in to PostgreSQL
        *(user for users in secret_readers(architecture).values() for user in users),
        *(user for users in container_users(architecture).values() for user in users),
    }  # fmt: skip
    for name, identity in architecture.access.identities.items():
        if name not in used and not identity.azure_roles:
            yield Broken(
                ("access", "identities", name),
                f"{name} may do nothing, and nothing says what it is for",
                f"leave it out, or name {name} in used_by of what it reads",
            )


@error("ACCESS-WIDE")
def secrets_and_data_are_given_one_by_one(estate: Estate) -> Iterator[Broken]:
    """What a pod or a gateway may read of secrets and blobs is said one by one, never for the whole group."""
    for name, identity in estate.architecture.access.identities.items():
        for role in identity.azure_roles:
            if role.startswith(("Key Vault", "Storage Blob")):
                yield Broken(
                    ("access", "identities", name, "azure_roles"),
                    f"{role} on the whole resource group: {name} may then read every secret or blob in it",
                    f"name {name} in used_by of each secret or container that it needs, instead of the role",
                )


@error("ACCESS-RELEASE")
def publishing_and_promoting_are_two(estate: Estate) -> Iterator[Broken]:
    """Who publishes has no say in a cluster, and who promotes cannot change what is promoted."""
    roles = estate.architecture.access.roles
    publisher, promoter = roles.get("publisher"), roles.get("promoter")
    if publisher is not None and publisher.kubernetes_role != "none":
        yield Broken(
            ("access", "roles", "publisher", "kubernetes_role"),
            "who publishes may change what runs in a cluster",
            "kubernetes_role: none; the promoter has it",
        )
    if promoter is not None and set(promoter.azure_roles) - {"AcrPull", "Monitoring Data Reader"}:
        yield Broken(
            ("access", "roles", "promoter", "azure_roles"),
            "who promotes may do more than to pull images and to read metrics",
            "azure_roles: [AcrPull, Monitoring Data Reader]",
        )
    if publisher is not None and promoter is not None and publisher.group == promoter.group:
        yield Broken(
            ("access", "roles", "promoter", "group"),
            "who publishes and who promotes are the same group: its members may do both",
            "a group for each",
        )


RULES: tuple[Rule, ...] = (
    nodes_as_claimed, chart_as_declared, chart_all_declared, pools_are_there, taints_are_tolerated,
    tolerations_have_taints, a_system_pool, requests_fit_a_node, pods_fit_their_pool, a_canary_fits_beside,
    grace_outlasts_drain, upgrades_wait, inside_the_quota, inside_each_familys_quota, identities_can_sign_in,
    secrets_are_named, secrets_have_users, users_are_identities, identities_are_used,
    secrets_and_data_are_given_one_by_one, publishing_and_promoting_are_two,
)  # fmt: skip

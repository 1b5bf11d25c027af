"""Each promise of the architecture's compliance and security sections, with its evidence or the gap.

Evidence is a setting with its line, what is rendered from it, and the test that holds it; a promise that
nothing keeps is a gap, and a gap makes `va compliance report` end with an error. What only people can do is
said to be theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ci.architecture.facts import REGIONS
from ci.architecture.model import Architecture, Declared
from ci.architecture.privileges import privileges
from ci.architecture.resources import Fact, Rendered, at
from ci.architecture.transit import transit
from ci.places import checkout

__all__ = ["Item", "report"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One promise. `evidence` says what keeps it, or what is missing."""

    promise: str
    met: bool
    evidence: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Promise:
    text: str
    holds: Callable[[Architecture], bool]
    settings: tuple[tuple[str, ...], ...]
    tests: tuple[str, ...]
    rendered: tuple[tuple[str, str, object], ...] = ()
    """Type, property (`*` for each of a list) and the value that every rendered resource of the type has."""
    logged: tuple[str, ...] = ()
    """Types of which every rendered resource sends its audit logs to the workspace."""
    computed: Callable[[Architecture, Sequence[Rendered]], Iterator[Fact]] | None = None
    """What is found out from all that is rendered together: a fact that is not right is a gap."""
    people: str = ""


_CHECK = "tests/ci/architecture/test_check.py"
_RENDER = "tests/ci/azure/test_render.py"
_ALERTS = "tests/ci/architecture/test_alerts.py"

_PROMISES = (
    _Promise(
        text="Data residency: data stays in the declared geographies",
        holds=lambda a: all(REGIONS[region].geography in a.residency.geographies for region in a.regions),
        settings=(("residency", "geographies"), ("regions",)),
        tests=(_CHECK,),
    ),
    _Promise(
        text="GDPR: data is deleted when its time is over",
        holds=lambda a: a.storage.lifecycle.delete_after <= a.residency.longest_retention,
        settings=(("storage", "lifecycle"), ("residency", "longest_retention")),
        tests=(_CHECK, _RENDER),
        rendered=(
            (
                "Microsoft.Storage/storageAccounts/managementPolicies",
                "properties.policy.rules.*.enabled",
                True,
            ),
        ),
    ),
    _Promise(
        text="GDPR: one person's data is erased on request",
        holds=lambda a: "admin-token" in a.key_vault.secrets,
        settings=(("key_vault", "secrets", "admin-token"),),
        tests=("images/api/tests/test_history.py",),
        people="POST /v1/erasures of the api erases all that it keeps: Redis and PostgreSQL; nothing of ours "
        "records calls, and backups hold erased rows until they expire (images/README.md)",
    ),
    _Promise(
        text="Audit logs are kept as long as required",
        holds=lambda a: a.monitoring.audit_retention >= a.residency.shortest_audit,
        settings=(("monitoring", "audit_retention"), ("residency", "shortest_audit")),
        tests=(_CHECK,),
    ),
    _Promise(
        text="Audit logging: who did what in the cluster, the vault, the registry, the recordings",
        holds=lambda a: a.monitoring.log_retention.days >= 30,
        settings=(("monitoring", "log_retention"),),
        tests=(_RENDER,),
        logged=(
            "Microsoft.ContainerService/managedClusters",
            "Microsoft.KeyVault/vaults",
            "Microsoft.ContainerRegistry/registries",
            "Microsoft.Storage/storageAccounts/blobServices",
            "Microsoft.Network/applicationGateways",
            "Microsoft.Cache/redisEnterprise/databases",
        ),
    ),
    _Promise(
        text="Data retention: soft delete and versions protect from accidents",
        holds=lambda a: (
            a.storage.soft_delete.days >= 14 and a.storage.versioning and a.key_vault.purge_protection
        ),
        settings=(("storage", "soft_delete"), ("storage", "versioning"), ("key_vault", "purge_protection")),
        tests=(_RENDER,),
    ),
    _Promise(
        text="Encryption in transit: TLS 1.2 or later everywhere",
        holds=lambda _: True,
        settings=(("gateway", "tls_min"), ("postgres",), ("redis",), ("storage",)),
        tests=(_CHECK, _RENDER, "tests/ci/architecture/test_transit.py"),
        computed=transit,
        people="between two pods of one node nothing is encrypted: it does not leave the machine's memory",
    ),
    _Promise(
        text="Encryption at rest: storage twice, hosts of nodes, databases by Azure",
        holds=lambda _: True,
        settings=(("storage",),),
        tests=(_RENDER,),
        rendered=(
            (
                "Microsoft.Storage/storageAccounts",
                "properties.encryption.requireInfrastructureEncryption",
                True,
            ),
            (
                "Microsoft.ContainerService/managedClusters",
                "properties.agentPoolProfiles.*.enableEncryptionAtHost",
                True,
            ),
        ),
        people="PostgreSQL, Redis and etcd are encrypted by Azure in any case: there is nothing to set",
    ),
    _Promise(
        text="No public access to data: private endpoints for every service",
        holds=lambda a: (
            set(a.network.private_endpoints) == {"registry", "key-vault", "postgres", "redis", "storage"}
            and not (a.storage.public_network or a.key_vault.public_network or a.registry.public_network)
        ),
        settings=(("network", "private_endpoints"), ("registry", "public_network")),
        tests=(_CHECK, _RENDER),
    ),
    _Promise(
        text="Least privilege: an identity a service reads its own secrets, no shared keys but Redis'",
        holds=lambda a: (
            not (a.storage.shared_keys or a.postgres.password_login)
            and a.redis.access_keys == ("livekit" in a.kubernetes.workloads)
            and not a.kubernetes.local_accounts
        ),
        settings=(("access", "roles"), ("access", "identities"), ("redis", "access_keys")),
        tests=(_CHECK, _RENDER, "tests/attacks/test_agent_that_reads_the_vault.py"),
        computed=privileges,
        people="LiveKit's server knows no other login to Redis than an access key: people rotate it",
    ),
    _Promise(
        text="Secrets only in Key Vault, named, with a time to rotate",
        holds=lambda a: bool(a.key_vault.secrets) and a.livekit.keys.startswith("azkv://"),
        settings=(("key_vault", "secrets"), ("livekit", "keys")),
        tests=("tests/ci/test_yamlfile.py", _CHECK),
        people="rotation is done by people or by the vault's own rotation: nothing here turns a key yet",
    ),
    _Promise(
        text="Someone is told: the six alert rules and the budget have receivers",
        holds=lambda a: bool(a.monitoring.alerts.email and a.budget.contacts),
        settings=(("monitoring", "alerts"), ("budget", "contacts")),
        tests=(_ALERTS, _RENDER),
    ),
    _Promise(
        text="Recovery: the promised RPO can be kept by what is replicated",
        holds=lambda a: (
            a.recovery.rpo.total_seconds() >= 86400
            or any(replica.region != a.primary for replica in a.postgres.replicas.values())
        ),
        settings=(("recovery", "rpo"), ("postgres",)),
        tests=(_CHECK, "tests/e2e/test_dr.py"),
        people="`va dr drill` measures RTO and RPO on one machine; people rehearse a failover on Azure",
    ),
)


def report(declared: Declared, rendered: Sequence[Rendered]) -> tuple[Item, ...]:
    """Every promise with the lines of its settings, what is rendered, and the tests that hold it."""
    return tuple(_item(declared, rendered, promise) for promise in _PROMISES)


def _item(declared: Declared, rendered: Sequence[Rendered], promise: _Promise) -> Item:
    missing = [test for test in promise.tests if not (checkout() / test).is_file()]
    evidence = []
    for setting in promise.settings:
        place = declared.place(*setting)
        file = place.file.relative_to(checkout()) if place.file.is_relative_to(checkout()) else place.file
        evidence.append(f"setting {'.'.join(setting)}: {file}:{place.line}")
    whole = True
    for kind, path, wanted in promise.rendered:
        found = [set(at(one.body, path.split("."))) == {wanted} for one in rendered if one.type == kind]
        whole &= bool(found) and all(found)
        evidence.append(f"rendered {kind} {path}: {wanted} in {sum(found)} of {len(found)}")
    scopes = [one.scope or "" for one in rendered if one.type == "Microsoft.Insights/diagnosticSettings"]
    for kind in promise.logged:
        there = sum(one.type == kind for one in rendered)
        logging = sum(f"'{kind}'" in scope for scope in scopes)
        whole &= 0 < there == logging
        evidence.append(f"rendered {kind}: {logging} of {there} send their audit logs")
    for fact in promise.computed(declared.architecture, rendered) if promise.computed else ():
        whole &= fact.right
        evidence.append(f"{'rendered' if fact.right else 'GAP'} {fact.text}")
    evidence += [f"test {test}" for test in promise.tests if test not in missing]
    evidence += [f"MISSING test {test}" for test in missing]
    if promise.people:
        evidence.append(f"left to people: {promise.people}")
    return Item(
        promise=promise.text,
        met=promise.holds(declared.architecture) and whole and not missing,
        evidence=tuple(evidence),
    )

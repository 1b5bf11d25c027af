"""What of an estate is reached from here, and what a promotion may do there: tried, and nothing is changed.

A right in a cluster is asked of its own authorizers (a dry run: they say what they would), the others are
tried by a read. Whatever fails is told with the line that mends it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx

from ci.concurrency import together
from ci.delivery.cluster import Cluster, connect
from ci.delivery.metrics import Prometheus
from ci.environments import Environment, Target, picked, read_environments
from ci.errors import PipelineError, SystemUnavailable
from ci.layout import Column, Page, Table, page
from ci.reasons import reason_of
from ci.registry import registry_at
from ci.reporting import Reporter
from ci.trusted import trusted
from pipelines.before import read

__all__ = ["Tried", "reach", "show_reach"]

_IMAGE, _NOBODY = "fastapi-backend", f"sha256:{'0' * 64}"
_INSIDE = "from a machine inside the network: docs/architecture.md, Getting in"

_AZURE = (
    ("list", "", "pods"), ("create", "", "secrets"), ("create", "apps", "deployments"),
    ("create", "batch", "jobs"), ("create", "coordination.k8s.io", "leases"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
)  # fmt: skip
"""What a promotion does in its namespace, as Azure's own roles have it: verb, group, kind."""
_GRANTED = (
    ("patch", "gateway.networking.k8s.io", "httproutes"), ("create", "keda.sh", "scaledobjects"),
    ("create", "external-secrets.io", "externalsecrets"), ("create", "cilium.io", "ciliumnetworkpolicies"),
)  # fmt: skip
"""What is a controller's there, and the cluster's own: `va env grants`."""
_OF_THE_CLUSTER = (
    ("list", "", "nodes"), ("create", "", "namespaces"), ("create", "scheduling.k8s.io", "priorityclasses"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One thing. `problem` is empty when it is well; `mend` is what to type or to do about it."""

    where: str
    what: str
    problem: str = ""
    reached: bool = True
    mend: str = ""


async def reach(estate: str, names: Sequence[str] | None, *, reporter: Reporter) -> tuple[Tried, ...]:
    """All that can be tried of the estate's environments; what fails of one hides nothing of another."""
    chosen = picked(read_environments(estate), names)
    with reporter.step("try what promotions need"):
        found = await together(
            [
                *(_target(one, target) for one in chosen for target in one.targets.values()),
                *(_ledger(one) for one in chosen if one.ledger),
            ]
        )
    return tuple(tried for each in found for tried in each)


async def _target(environment: Environment, target: Target) -> list[Tried]:
    others = await together(
        [
            _one(target.name, "registry", lambda: _pulled(target.registry)),
            _one(target.name, "metrics", lambda: _counted(target.metrics)),
            _one(target.name, "gateway", lambda: _answered(target)),
        ]
    )
    return [*await _cluster(environment, target), *others]


async def _one(where: str, what: str, ask: Callable[[], Awaitable[object]]) -> Tried:
    """Something that is read; the error says what was meant to be, unless nothing answered at all."""
    try:
        await ask()
    except PipelineError as error:
        return Tried(where=where, what=what, problem=error.message, reached=False, mend=_mend(error))
    return Tried(where=where, what=what)


def _mend(error: PipelineError) -> str:
    silent = "not answer" in error.message or "not reached" in error.message
    return _INSIDE if silent or not error.hint else error.hint


async def _cluster(environment: Environment, target: Target) -> list[Tried]:
    """Whether its API server is reached, and then each right there that promoting takes."""
    place = target.name
    try:
        cluster = connect(target.kubeconfig, target.context)
        await cluster.version()
    except PipelineError as error:
        return [Tried(where=place, what="cluster", problem=error.message, reached=False, mend=_mend(error))]
    azure = (
        f"access.roles.promoter in environments/architecture, then va infra apply --env {environment.name}"
    )
    grants = f"va env grants --env {environment.name} | kubectl --context {target.context} apply -f -"
    return [
        Tried(where=place, what="cluster"),
        await _may(cluster, place, "its objects", _AZURE, target.namespace, azure),
        await _may(cluster, place, "controllers' objects", _GRANTED, target.namespace, grants),
        await _may(cluster, place, "the cluster's own", _OF_THE_CLUSTER, "", grants),
    ]


async def _may(
    cluster: Cluster, where: str, what: str, rights: Sequence[tuple[str, str, str]], namespace: str, mend: str
) -> Tried:
    try:
        allowed = await together(cluster.may(*right, namespace) for right in rights)
    except PipelineError as error:
        return Tried(where=where, what=what, problem=error.message, reached=False, mend=error.hint)
    missing = [f"{verb} {kind}" for (verb, _, kind), may in zip(rights, allowed, strict=True) if not may]
    if not missing:
        return Tried(where=where, what=what)
    return Tried(where=where, what=what, problem=f"not allowed: {', '.join(missing)}", mend=mend)


async def _pulled(endpoint: str) -> None:
    """An image that is nowhere is asked for: who may not pull is told that, and not that it is not there."""
    async with registry_at(endpoint, attempts=1) as registry:
        await registry.ping()
        await registry.find_manifest(_IMAGE, _NOBODY)


async def _counted(url: str) -> None:
    async with Prometheus(url) as prometheus:
        await prometheus.instant("vector(1)")


async def _answered(target: Target) -> None:
    """Whatever the gateway says: with nothing installed that is 404."""
    try:
        async with httpx.AsyncClient(base_url=target.gateway, verify=trusted(), timeout=5.0) as http:
            name = {"sni_hostname": target.hostname}
            await http.get("/", headers={"Host": target.hostname}, extensions=name)
    except (httpx.HTTPError, OSError) as error:
        raise SystemUnavailable(
            f"the gateway {target.gateway} does not answer: {reason_of(error)}"
        ) from error


async def _ledger(environment: Environment) -> list[Tried]:
    return [await _one(environment.name, "ledger", lambda: read([environment]))]


def show_reach(tried: Sequence[Tried]) -> Page:
    """For people."""
    told, mended = (
        Column(name="", rank=2, below=True, prose=True),
        Column(name="mended by", rank=1, below=True),
    )
    table = Table("where", "what", told, mended)
    for one in tried:
        table.add(one.where, one.what, (one.problem, "red") if one.problem else ("well", "green"), one.mend)
    wrong = sum(bool(one.problem) for one in tried)
    return page(table, f"{len(tried)} tried, {wrong} not as a promotion needs it")

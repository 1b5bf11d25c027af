"""What runs on each target: asked from the clusters, which hold no lock and start no process for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

from ci.concurrency import both, together
from ci.delivery import cluster as clusters
from ci.delivery import guard
from ci.delivery.lease import Holder, holder
from ci.delivery.origins import origins
from ci.delivery.promotion.facts import drift, look
from ci.delivery.results import TargetStatus
from ci.environments import Target, picked, read_environments
from ci.errors import SystemUnavailable
from ci.reporting import Reporter

__all__ = ["answered", "status"]

_EACH, _MOST = 6, 32
"""Questions at once: to one cluster, and in all."""


async def status(
    estate: str, names: Sequence[str] | None = None, *, reporter: Reporter
) -> tuple[TargetStatus, ...]:
    """What runs on each target of the named environments (all of them when None).

    A target whose cluster does not answer says so (`problem`), and the others are told of.
    """
    chosen = picked(read_environments(estate), names)
    with reporter.step("ask the targets"):
        targets = [one.target(region) for one in chosen for wave in one.waves for region in wave]
        clusters_of = {(one.kubeconfig, one.context) for one in targets}
        # As many questions at once as there are clusters to answer them: the next one is no further round.
        threads = ThreadPoolExecutor(min(_MOST, _EACH * len(clusters_of)))
        try:
            connect = cache(partial(_Connected, threads))
            return tuple(await together(_status(one, connect) for one in targets))
        finally:
            threads.shutdown(wait=False)  # nobody waits for an answer that came too late


def answered(rows: Sequence[TargetStatus]) -> tuple[TargetStatus, ...]:
    """The rows, when every target answered; SystemUnavailable for whom a part of the truth will not do."""
    if silent := [f"{row.target}: {row.problem}" for row in rows if row.problem]:
        raise SystemUnavailable("; ".join(silent), hint="the others are as shown; va status asks again")
    return tuple(rows)


class _Connected:
    """A cluster, one connection for all of its targets, and asked once for what is the same for them."""

    def __init__(self, threads: Executor, kubeconfig: Path, context: str) -> None:
        self.cluster = clusters.connect(kubeconfig, context, threads)
        self._on_nodes: asyncio.Task[dict[str, frozenset[str]]] | None = None

    async def on_nodes(self) -> dict[str, frozenset[str]]:
        self._on_nodes = self._on_nodes or asyncio.create_task(self.cluster.images_on_nodes())
        return await asyncio.shield(self._on_nodes)  # one target that fails ends it for no other


async def _status(target: Target, connect: Callable[[Path, str], _Connected]) -> TargetStatus:
    try:
        connected = connect(target.kubeconfig, target.context)
        cluster = connected.cluster
        (facts, on_nodes), (held, acted) = await both(
            both(look(cluster, target.namespace), connected.on_nodes()),
            both(holder(cluster, target.namespace), guard.record(cluster, target.namespace)),
        )
        stable, canary = facts.stable, facts.canary
        changed = await drift(cluster, target.namespace, (stable, canary))
    except SystemUnavailable as error:
        return TargetStatus(
            target=target.name, release=None, state="does not answer", revision=None, digests={}, pods="-",
            canary=None, weight=0, endpoint=target.registry, problem=error.message,
        )  # fmt: skip
    pods = tuple(pod for pod in facts.pods if not pod.ended)
    images = stable.values.get("images", {}) if stable else {}
    return TargetStatus(
        target=target.name,
        release=facts.runs or None,
        state=stable.status if stable else "nothing installed",
        revision=stable.number if stable else None,
        digests={name: str(image.get("digest", "")) for name, image in images.items()},
        pods=f"{sum(pod.ready for pod in pods)}/{len(pods)}",
        canary=canary.release if canary else None,
        weight=facts.weight,
        endpoint=target.registry,
        origins=origins(pods, endpoint=target.registry, on_nodes=on_nodes),
        since=stable.updated if stable else None,
        drift=tuple(map(str, changed)),
        holder=_who(held) if held else "",
        guard=str(acted) if acted and canary else "",
    )


def _who(held: Holder) -> str:
    since = f"since {held.since:%Y-%m-%d %H:%M:%S} UTC"
    if held.alive:
        return f"{held.who} works on it {since} ({held.promotion})"
    return f"{held.who} worked on it {since} and has not been heard of since {held.renewed:%H:%M:%S}"

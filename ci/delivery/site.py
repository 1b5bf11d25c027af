"""A target at work: its Helm releases (`voice` is stable, `voice-canary` beside it), its route, its pods.

What pipelines do to a target, in their words; how it is done is in helm, cluster and traffic, beside this.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from ci.delivery import guard, traffic
from ci.delivery import lease as leases
from ci.delivery.guard import Acted
from ci.delivery.helm import Helm
from ci.delivery.lease import Lease
from ci.delivery.regions import GlobalTraffic, traffic_manager
from ci.delivery.revisions import ONCE_RAN, Revision, Values, newest
from ci.delivery.tracks import CANARY, SPLIT, STABLE, TRACKS, Track
from ci.environments import Environment, Target
from ci.environments.chart_values import declared_values, laid_over
from ci.errors import PipelineError, StepFailed, SystemUnavailable
from ci.release import Release

if TYPE_CHECKING:
    from ci.delivery.cluster import Cluster, Pod
    from ci.delivery.load import Send
    from ci.delivery.metrics import Prometheus

__all__ = [
    "CANARY",
    "REGION_LABEL",
    "SPLIT",
    "STABLE",
    "TRACKS",
    "Site",
    "Track",
    "chart_values",
    "declared_values",
    "open_site",
    "release_values",
]

REGION_LABEL = "va.dev/region"
_CALLS = "voice_calls_active"
_VALUES_KEY = {
    "fastapi-backend": "api",
    "livekit-agent": "agent",
    "web-client": "web",
    "canary-guard": "guard",
}
_NAME: dict[Track, str] = {"stable": STABLE, "canary": CANARY}


@dataclass(frozen=True)
class Site:
    """One target with the connections that work on it needs."""

    environment: Environment
    target: Target
    cluster: Cluster
    helm: Helm
    prometheus: Prometheus
    transport: httpx.AsyncBaseTransport | None = None
    send: Send | None = None
    """What carries probes and synthetic requests to the gateway: the network, or a test's."""
    regions: GlobalTraffic | None = None
    """What sends users here, where they leave before something is changed."""
    lease: Lease | None = None
    """While it is ours: see `held`. Whatever changes something there asks it first."""

    @asynccontextmanager
    async def held(self, promotion: str) -> AsyncIterator[Site]:
        """The same, to be worked on by nobody else while the block runs.

        Held when somebody else does; LeaseLost comes out of what changes something, once it is ours no more.
        """
        namespace = self.target.namespace
        # By this label the cluster's own check of images (ci.supply.admission) knows whose pods they are.
        await self.cluster.ensure_namespace(namespace, {REGION_LABEL: self.target.region})
        async with leases.hold(self.cluster, namespace, promotion=promotion) as lease:
            await self.cluster.stamp(namespace, lease.fence)
            yield replace(self, lease=lease)

    async def guarded(self) -> Acted | None:
        """What the guard had to do for the promoter before this one; None when nothing."""
        acted = await guard.record(self.cluster, self.target.namespace)
        before = self.lease.fence - 1 if self.lease else None
        return acted if acted is not None and acted.fence == before else None

    async def _ours(self) -> int | None:
        """The fence of what is about to be written; LeaseLost when it is not ours any more."""
        if self.lease is None:
            return None
        await self.lease.confirm()
        return self.lease.fence

    async def busy(self) -> float | None:
        """Sessions a second, and calls, that are there now; None when nobody says."""
        from ci.delivery.metrics import SESSIONS

        where = f'{{namespace="{self.target.namespace}"}}'
        window = f"{max(1.0, 2 * self.environment.gates.stale):.0f}s"
        try:
            sessions = await self.prometheus.instant(f"sum(rate({SESSIONS}{where}[{window}]))")
            calls = await self.prometheus.instant(f"sum({_CALLS}{where})")
        except SystemUnavailable:
            return None
        return sum(one.value for one in (*sessions, *calls)) if sessions else None

    async def running(self, track: Track) -> Revision | None:
        """The Helm release of that track; None when there is none."""
        name = _NAME[track]
        return newest(await self.cluster.helm_revisions(self.target.namespace, name=name), name)

    async def history(self, track: Track) -> tuple[Revision, ...]:
        """All its revisions that Helm keeps, the newest first."""
        return await self.cluster.helm_revisions(self.target.namespace, name=_NAME[track], history=True)

    async def mend(self, track: Track, show: Callable[[str], None] = lambda _: None) -> str:
        """Bring a track that Helm left in between, or failed with, to where it can go on.

        Returns what was done, or an empty string when nothing had to be: a `helm` of a killed run is waited
        for, and may have ended well. A roll-back goes on to where it was going.
        """
        history = await self._outlived(track, show)
        name, timeout = _NAME[track], self.environment.canary.install
        if not history or not (history[0].in_between or history[0].status == "failed"):
            return ""
        left, good = history[0], [one for one in history[1:] if one.status in ONCE_RAN]
        if left.in_between:
            good = [one for one in good if one.values == left.values] or good
        if not good or left.status == "uninstalling":
            await self._ours()
            await self.helm.uninstall(name, timeout=timeout)
            return f"{name} was left {left.status}: removed"
        await self._put_back(good[0], left)
        return f"{name} was left {left.status}: back at revision {good[0].number}"

    async def _outlived(self, track: Track, show: Callable[[str], None]) -> tuple[Revision, ...]:
        """Its revisions, when no `helm` can be at work on them.

        One of this machine holds a lock; somebody else's gets the time that an installation may take.
        """
        await self.helm.idle()
        timeout, begun, seen = self.environment.canary.install, time.monotonic(), (0, "")
        while True:
            history = await self.history(track)
            if not history or not history[0].in_between:
                return history
            # Its own time is of somebody's clock: the cluster's, and this machine's steady one, know better.
            if (now := (history[0].number, history[0].status)) != seen:
                begun, seen = time.monotonic(), now
            ago = max(history[0].untouched, time.monotonic() - begun)
            left = timeout - ago
            if left <= 0:
                return history
            show(f"{history[0].status} since {ago:.0f} s: somebody's helm may be at work, {left:.0f} s more")
            await asyncio.sleep(min(1.0, left))

    async def install(self, release: Release, chart: Path, track: Track, show: Callable[[str], None]) -> None:
        """Install or upgrade that track to the release and wait until all its pods are ready.

        StepFailed says why they do not get ready; what was there before is then there again. A cancelled one
        is left as Helm leaves it: see `undo`.
        """
        namespace, fence = self.target.namespace, await self._ours()
        await self.cluster.ensure_namespace(namespace, {REGION_LABEL: self.target.region})
        for secret in self.environment.secrets:
            source_namespace, _, source = secret.source.partition("/")
            await self.cluster.ensure_secret_copy(
                secret.name,
                namespace,
                source=source,
                source_namespace=source_namespace,
                keys=secret.keys,
            )
        troubles: dict[str, str] = {}
        watcher = asyncio.create_task(self._watch(release.name, track, show, troubles))
        try:
            await self.helm.upgrade(
                _NAME[track],
                chart,
                chart_values(self.environment, self.target, release, track),
                timeout=self.environment.canary.install,
                description=f"{release.name} ({track})",
                fence=fence,
            )
        except StepFailed as error:
            with suppress(SystemUnavailable):
                troubles |= await self.cluster.migrations(namespace)
            why = "".join(f"\n{pod}: {trouble}" for pod, trouble in sorted(troubles.items()))
            watcher.cancel()
            try:
                await self.undo(track)
            except PipelineError as second:
                why += f"\nwhat was there before is not back: {second.message}"
            raise StepFailed(f"{error.message}{why}", hint=error.hint) from error
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def undo(self, track: Track) -> None:
        """Have what was there before an installation that did not come to its end."""
        history = await self.history(track)
        good = [one for one in history if one.status in ONCE_RAN]
        if history and history[0] in good:
            return
        if good:
            await self._put_back(good[0], history[0])
        else:
            await self._ours()
            await self.helm.uninstall(_NAME[track], timeout=self.environment.canary.install)

    async def back_to(self, revision: Revision, show: Callable[[str], None] = lambda _: None) -> None:
        """Make that revision of stable the current one again."""
        history = await self._outlived("stable", show)
        await self._put_back(revision, history[0])

    async def _put_back(self, revision: Revision, last: Revision) -> None:
        """The same, after the last one, which nobody works on any more."""
        fence = await self._ours()
        if last.in_between:
            await self.cluster.give_up(self.target.namespace, last)
        await self.helm.rollback(revision, timeout=self.environment.canary.install, fence=fence)

    async def weight(self) -> int:
        """Percent of the requests that the canary gets, as the route says."""
        route = await self.cluster.route(traffic.ROUTE, self.target.namespace)
        return traffic.canary_weight(route, SPLIT) if route else 0

    async def on_stable(self) -> bool:
        """Whether the route sends everything to stable, and names the canary nowhere; so without a route."""
        route = await self.cluster.route(traffic.ROUTE, self.target.namespace)
        return route is None or traffic.on_stable(route, SPLIT)

    async def move(self, weight: int) -> float:
        """Give the canary `weight` percent and wait until the gateway follows; returns seconds.

        Stable keeps the pods that it has: it gets all of the traffic back at once. A run that was killed may
        have installed the canary, so this is where it is seen to.
        """
        if weight:
            await self._ours()
            await self.cluster.hold_scale(self.target.namespace, "stable")
        before = await traffic.set_weight(
            self.cluster, self.target.namespace, SPLIT, weight, fence=await self._ours()
        )
        return await traffic.followed(
            self.target.gateway,
            self.target.hostname,
            before=before,
            weight=weight,
            timeout=self.environment.canary.follow,
            transport=self.transport,
        )

    async def remove_canary(self) -> None:
        """Take the canary away. Its traffic has to be on stable; requests in flight get time to end.

        The canary last: as long as it is there, a run after a kill comes here again.
        """
        await asyncio.sleep(self.environment.canary.drain)
        await self._ours()
        await self.cluster.release_scale(self.target.namespace, "stable")
        await self.helm.uninstall(CANARY, timeout=self.environment.canary.install)

    async def test(self) -> str:
        """Run the tests that stable's chart has (`helm test`), if it has any.

        Why they fail, with the last lines of their pods; empty when they do not. SystemUnavailable when they
        cannot be run: that says nothing of the release.
        """
        running, namespace = await self.running("stable"), self.target.namespace
        if running is None or not running.tests:
            return ""
        await self._ours()
        try:
            await self.helm.test(STABLE, timeout=self.environment.canary.install)
        except StepFailed as error:
            ran = {name: await self.cluster.ran_once(namespace, name) for name in running.tests}
            if failed := {name: one for name, one in ran.items() if one.code}:
                return "; ".join(f"{name}: {one.words}" for name, one in failed.items())
            kept = "; ".join(f"{name}: {one.words}" for name, one in ran.items() if one.code is None)
            why = "; ".join(filter(None, [error.message, kept]))
            raise SystemUnavailable(
                f"the tests of the chart cannot be run on {self.target.name}: {why}",
                hint="the same command goes on; with the value `test: {enabled: false}` the chart has none",
            ) from error
        return ""

    async def pods(self) -> tuple[Pod, ...]:
        """The pods of both tracks."""
        return await self.cluster.pods(self.target.namespace)

    async def _watch(
        self, release: str, track: Track, show: Callable[[str], None], troubles: dict[str, str]
    ) -> None:
        """Show how many pods are ready, and remember what keeps others from it, until cancelled."""
        while True:
            found = await self.pods()
            pods = [p for p in found if (p.track, p.release) == (track, release) and not p.ended]
            ready = sum(pod.ready for pod in pods)
            for pod in pods:
                if pod.trouble or pod.restarts:
                    words = await self.cluster.last_words(self.target.namespace, pod.name)
                    troubles[pod.name] = "; its last words: ".join(filter(None, [pod.trouble, words]))
            if not pods:
                troubles |= await self.cluster.refusals(self.target.namespace)
                # They run before there is any pod of the release, and are gone soon after they failed.
                troubles |= await self.cluster.migrations(self.target.namespace)
            now = next((pod.trouble for pod in pods if pod.trouble and not pod.ready), "")
            now = now or ("" if pods else next(iter(troubles.values()), ""))
            show(f"{ready}/{len(pods)} pods ready{f', {now}' if now else ''}")
            await asyncio.sleep(1.0)


@asynccontextmanager
async def open_site(environment: Environment, region: str) -> AsyncIterator[Site]:
    """A target, ready to be worked on while the block runs."""
    target = environment.target(region)
    # With the clients of Kubernetes and SciPy: a ship, which renders charts, does without.
    from ci.delivery.cluster import connect
    from ci.delivery.metrics import Prometheus

    cluster = connect(target.kubeconfig, target.context)
    helm = Helm(kubeconfig=target.kubeconfig, context=target.context, namespace=target.namespace)
    async with AsyncExitStack() as stack:
        prometheus = await stack.enter_async_context(Prometheus(target.metrics))
        regions = None
        if (wanted := environment.traffic) is not None:
            opened = traffic_manager(wanted.profile, at=wanted.at, token=wanted.token)
            regions = await stack.enter_async_context(opened)
        yield Site(environment, target, cluster, helm, prometheus, regions=regions)


def chart_values(environment: Environment, target: Target, release: Release, track: Track) -> Values:
    """The chart's values for one track of a release: the environment's, and what promotion decides.

    The chart declares all traffic to stable; a running promotion lays its weights over the route.
    """
    own = release_values(release, track, target.registry)
    own["region"] = target.region
    own["traffic"] = {"hostname": target.hostname, "canaryWeight": 0, "canary": ""}
    canary = environment.canary.values if track == "canary" else {}
    return laid_over(laid_over(declared_values(environment, target), canary), own)


def release_values(release: Release, track: Track, registry: str) -> dict[str, Any]:
    """What a release says of the chart's values: its name and its images, by digest, from that registry."""
    return {
        "track": track,
        "release": release.name,
        "images": {
            _VALUES_KEY.get(image.name, image.name): {
                "repository": f"{registry}/{image.name}",
                "digest": image.digest,
            }
            for image in release.images
        },
    }

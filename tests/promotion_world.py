"""A small world to promote in: Helm's history, a route, pods, a gateway and a Prometheus, all in memory.

The gateway splits requests by the route's weights, exactly; releases fail every n-th session; Prometheus
answers from the same counters. Our own classes talk HTTP to both through httpx.MockTransport.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import re
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from ci.delivery import lease
from ci.delivery.cluster import Pod, PodImage, Ran
from ci.delivery.load import Answer
from ci.delivery.metrics import Prometheus
from ci.delivery.promotion import run as loop
from ci.delivery.regions import GlobalTraffic
from ci.delivery.revisions import BACK, Revision
from ci.delivery.site import CANARY, STABLE, Site
from ci.environments import (
    Canary,
    CanaryStep,
    Environment,
    ErrorGate,
    Gates,
    LatencyGate,
    Load,
    Registries,
    Target,
    Trust,
    TrustedSigner,
)
from ci.errors import StepFailed
from ci.release import Chart, Commit, Image, Release, ScanSummary, TestSummary
from ci.supply.availability import Availability, Contents, State
from pipelines import before, promote
from pipelines.verify import Verification

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def release(name: str) -> Release:
    """A release whose digests follow from its name."""
    digest = f"sha256:{name.encode().hex():0<64}"[:71]
    image = Image(
        name="fastapi-backend",
        digest=digest,
        size=1,
        tests=TestSummary(passed=1, failed=0, skipped=0),
        scan=ScanSummary(vulnerabilities=None, misconfigurations={}, secrets=0, licences={}, packages=1),
    )
    return Release(
        name=name,
        created=NOW,
        commit=Commit(sha="c" * 40, dirty=False, time=NOW),
        engine="embedded",
        images=(image,),
        chart=Chart(name="voice-assistant", version="0.1.0", digest=digest),
    )


def environment(name: str = "prod", *regions: str, **gates: Any) -> Environment:
    """An environment whose bakes take a moment; a busy machine gets all the time it needs."""
    regions = regions or ("eastus",)
    targets = {
        region: Target(
            environment=name,
            region=region,
            kubeconfig=Path("/nowhere"),
            context="c",
            namespace=f"va-{name}-{region}",
            registry=f"{region}.registry",
            metrics="http://prometheus",
            gateway="http://gateway",
            hostname=f"{region}.{name}",
        )
        for region in regions
    }
    limits: dict[str, Any] = {
        "alpha": 0.05, "beta": 0.1, "look": "20ms", "deadline": "60s", "stale": "60s",
        "on_inconclusive": "hold",
        "errors": ErrorGate(margin=0, harm=1, tolerated=0.03),
        "latency": LatencyGate(threshold="1s", against="objective", share=0.05, margin=0, harm=0.5),
    }  # fmt: skip
    return Environment(
        estate="test",
        name=name,
        waves=tuple((region,) for region in regions),
        targets=targets,
        canary=Canary(
            steps=(CanaryStep(weight=20, bake="50ms"), CanaryStep(weight=50, bake="50ms")),
            follow="30s",
            drain="0s",
            install="30s",
        ),
        gates=Gates(**(limits | gates)),
        trust=Trust(signers=(TrustedSigner(key=Path("/nowhere.pub")),), builders=("*",)),
        registries=Registries(home="eastus.registry"),
        load=Load(rate=1000, concurrency=20),
    )


async def at_once(_: str) -> None:
    """Takes no time."""


class World:
    """What there is, by target. Tests change it and look at it."""

    def __init__(self) -> None:
        self.fails_every: dict[str, int] = {}
        """By release: each n-th session fails."""
        self.places: dict[str, Place] = {}
        self.log: list[str] = []
        self.done: list[str] = []
        """What Helm installed to its end."""
        self.prometheus_down = False
        self.regions: GlobalTraffic | None = None
        self.renders: Callable[[Mapping[str, Any]], str] = lambda values: ""
        """The manifest of a chart with these values."""
        self.on: Callable[[str], None] = lambda event: None
        """Called with each event as it is logged, and in the middle of what Helm does."""

        self.takes: Callable[[str], Awaitable[None]] = at_once
        """Waited for in the middle of what Helm does, and of a session that is tried."""
        self.told_to_end = "failed"
        """The status that Helm leaves when it is told to end in the middle."""

    def event(self, text: str) -> None:
        self.log.append(text)
        self.on(text)

    def place(self, name: str) -> Place:
        return self.places.setdefault(name, Place(self, name))

    @asynccontextmanager
    async def open_site(self, environment: Environment, region: str) -> AsyncIterator[Site]:
        target = environment.target(region)
        place = self.place(target.name)
        async with Prometheus(target.metrics, transport=httpx.MockTransport(place.prometheus)) as prometheus:
            yield Site(
                environment,
                target,
                place,  # type: ignore[arg-type]
                place,  # type: ignore[arg-type]
                prometheus,
                httpx.MockTransport(place.gateway),
                place.send,
                self.regions,
            )


class Place:
    """One target: stands in for Cluster and Helm, and answers as its gateway and Prometheus."""

    name = "fake"

    def __init__(self, world: World, name: str) -> None:
        self.world, self.target = world, name
        self.revisions: dict[str, list[Revision]] = {STABLE: [], CANARY: []}
        self.http_route: dict[str, Any] | None = None
        self.sessions: Counter[tuple[str, str, str]] = Counter()
        self.served: Counter[str] = Counter()
        self.turn = itertools.count()
        self.upgrade_fails = ""
        self.unmigrated: dict[str, str] = {}
        self.restarts: Counter[str] = Counter()
        self.listed: dict[str, tuple[dict[str, Any], ...]] = {}
        """What the API lists at a path."""
        self.held: dict[str, Any] | None = None
        self.images: dict[str, tuple[PodImage, ...]] = {}
        """By Helm release: those of its pod."""
        self.tests: tuple[str, ...] = ()
        """The pods of `helm test` that charts have."""
        self.ran: dict[str, Ran] = {}
        """By pod of a test that did not pass: what became of it."""
        self.config_maps: dict[str, dict[str, str]] = {}

    # The cluster.

    async def version(self) -> str:
        return "v1.34.4"

    async def objects(
        self, path: str, *, labels: str = "", names_only: bool = False
    ) -> tuple[dict[str, Any], ...] | None:
        return self.listed.get(path, ())

    async def images_on_nodes(self) -> dict[str, frozenset[str]]:
        return {}

    async def ensure_namespace(self, namespace: str, labels: Mapping[str, str]) -> None:
        pass

    async def refusals(self, namespace: str) -> dict[str, str]:
        return {}

    async def ran_once(self, namespace: str, pod: str) -> Ran:
        return self.ran[pod]

    async def migrations(self, namespace: str) -> dict[str, str]:
        return self.unmigrated

    async def pods(self, namespace: str) -> tuple[Pod, ...]:
        return tuple(
            Pod(
                name=f"{name}-api-1",
                app="api",
                track="canary" if name == CANARY else "stable",
                release=revisions[-1].release,
                ready=True,
                leaving=False,
                restarts=self.restarts[name],
                out_of_memory=False,
                memory_limit=None,
                trouble="",
                images=self.images.get(name, ()),
            )
            for name, revisions in self.revisions.items()
            if revisions
        )

    async def route(self, name: str, namespace: str) -> dict[str, Any] | None:
        return self.http_route

    async def lease(self, name: str, namespace: str) -> tuple[dict[str, Any] | None, datetime]:
        return copy.deepcopy(self.held), datetime.now(UTC)

    async def write_lease(self, lease: dict[str, Any]) -> dict[str, Any] | None:
        version = self.held["metadata"]["resourceVersion"] if self.held else None
        if lease["metadata"].get("resourceVersion") != version:
            return None
        number = str(int(version or 0) + 1)
        self.held = {**lease, "metadata": {**lease["metadata"], "resourceVersion": number}}
        return copy.deepcopy(self.held)

    async def highest_fence(self, namespace: str) -> int:
        return 0

    async def stamp(self, namespace: str, fence: int) -> None:
        pass

    async def config_map(self, name: str, namespace: str) -> dict[str, str] | None:
        return self.config_maps.get(name)

    async def hold_scale(self, namespace: str, track: str) -> tuple[str, ...]:
        return ()

    async def release_scale(self, namespace: str, track: str) -> None:
        pass

    async def replace_route(self, route: dict[str, Any]) -> None:
        self.http_route = route
        self.world.event(f"{self.target} weight {self.weight()}")

    async def give_up(self, namespace: str, left: Revision) -> None:
        kept = self.revisions[left.name]
        self.revisions[left.name] = [replace(one, status="failed") if one == left else one for one in kept]

    # Helm.

    async def idle(self) -> None:
        pass

    async def helm_revisions(
        self, namespace: str, *, name: str | None = None, history: bool = False
    ) -> tuple[Revision, ...]:
        found = [one for key, kept in self.revisions.items() if name in (None, key) for one in kept]
        old = [one if one.untouched else replace(one, untouched=86_400.0) for one in found]
        shown = [one for one in old if history or one.status != "superseded"]
        return tuple(sorted(shown, key=lambda one: -one.number))

    async def upgrade(
        self,
        name: str,
        chart: Path,
        values: dict[str, Any],
        *,
        timeout: float,
        description: str,
        fence: int | None = None,
    ) -> None:
        what, before = f"{self.target} install {name} {values['release']}", self.revisions[name]
        self.world.event(what)
        if self.upgrade_fails == name:
            raise StepFailed(f"{name} was not installed: timed out")
        if before and before[-1].in_between:
            raise StepFailed("another operation (install/upgrade/rollback) is in progress")
        made = Revision(
            name=name,
            number=len(before) + 1,
            status="pending-upgrade" if before else "pending-install",
            updated=NOW + timedelta(seconds=len(self.world.done)),
            description=description,
            values=values,
            tests=self.tests,
            manifest=self.world.renders(values),
        )
        self.revisions[name] = [*before, made]
        self.world.on(f"{what}: in the middle")
        try:
            await self.world.takes(what)
        except asyncio.CancelledError:
            self.revisions[name] = [*before, replace(made, status=self.world.told_to_end)]
            raise
        ran = [replace(one, status="superseded") if one.deployed else one for one in before]
        self.revisions[name] = [*ran, replace(made, status="deployed")]
        self.world.done.append(what)
        if name == STABLE and self.http_route is None:
            backend = {"name": f"{STABLE}-api", "port": 80, "weight": 100}
            self.http_route = {"metadata": {}, "spec": {"rules": [{"backendRefs": [backend]}]}}

    async def rollback(self, kept: Revision, *, timeout: float, fence: int | None = None) -> None:
        name, number = kept.name, kept.number
        self.world.event(f"{self.target} rollback {name} {number}")
        values = dict(self.revisions[name][number - 1].values)
        await self.upgrade(name, Path(), values, timeout=1, description=f"{BACK} {number}")

    async def test(self, name: str, *, timeout: float) -> None:
        self.world.event(f"{self.target} test {name}")
        await self.world.takes(f"{self.target} test {name}")
        if self.ran:
            raise StepFailed(f"the tests of {name} did not pass: pod failed")

    async def uninstall(self, name: str, *, timeout: float = 60.0) -> None:
        self.world.event(f"{self.target} uninstall {name}")
        self.revisions[name] = [replace(one, status="uninstalling") for one in self.revisions[name]]
        self.world.on(f"{self.target} uninstall {name}: in the middle")
        await self.world.takes(f"{self.target} uninstall {name}")
        self.revisions[name] = []

    # The gateway and the pods behind it.

    def weight(self) -> int:
        assert self.http_route is not None
        backends = self.http_route["spec"]["rules"][0]["backendRefs"]
        return next((b["weight"] for b in backends if b["name"] == f"{CANARY}-api"), 0)

    def gateway(self, request: httpx.Request) -> httpx.Response:
        if self.http_route is None or not self.revisions[STABLE]:
            return httpx.Response(404)
        # 37 has no common divisor with 100: every 100 requests are split exactly, and well mixed.
        canary = next(self.turn) * 37 % 100 < self.weight()
        name = CANARY if canary else STABLE
        if not self.revisions[name]:
            return httpx.Response(503)
        headers = {"x-va-track": "canary" if canary else "stable"}
        if request.method != "POST":
            return httpx.Response(200 if request.method == "GET" else 204, headers=headers)
        self.served[name] += 1
        every = self.world.fails_every.get(self.revisions[name][-1].release, 0)
        failed = every > 0 and self.served[name] % every == 0
        self.sessions[headers["x-va-track"], f"{name}-api-1", "error" if failed else "ok"] += 1
        if failed:
            return httpx.Response(500, headers=headers)
        return httpx.Response(201, headers=headers, json={"session_id": "s"})

    async def send(self, method: str, path: str, body: object) -> Answer:
        await self.world.takes(f"{self.target} session")
        response = self.gateway(httpx.Request(method, f"http://gateway{path}"))
        track = response.headers.get("x-va-track")
        return Answer(status=response.status_code, track=track, body=response.content)

    # Prometheus.

    def prometheus(self, request: httpx.Request) -> httpx.Response:
        if self.world.prometheus_down:
            raise httpx.ConnectError("refused")
        query = urllib.parse.parse_qs(request.content.decode())["query"][0]
        time = 1000.0 + next(self.turn) / 100
        names = [name for name in self.revisions if self.revisions[name]]
        rows: list[tuple[dict[str, str], float]] = []
        for name in names:
            labels = {"pod": f"{name}-api-1", "track": "canary" if name == CANARY else "stable"}
            if re.match(r"up\{", query):
                rows.append((labels, 1.0))
            elif query.startswith("timestamp"):
                rows.append((labels, time))
            else:
                counts = {o: self.sessions[labels["track"], labels["pod"], o] for o in ("ok", "error")}
                for outcome, count in counts.items():
                    rows.append((labels | {"__name__": "voice_sessions_total", "outcome": outcome}, count))
                for bound in ("0.5", "1.0", "+Inf"):
                    bucket = {"__name__": "voice_session_duration_seconds_bucket", "le": bound}
                    rows.append((labels | bucket, sum(counts.values())))
        result = [{"metric": labels, "value": [time, str(value)]} for labels, value in rows]
        return httpx.Response(200, json={"status": "success", "data": {"result": result}})


class Leases:
    """Those of all places, as a cluster that has all of their namespaces."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def lease(self, name: str, namespace: str) -> tuple[dict[str, Any] | None, datetime]:
        where, region = namespace.removeprefix("va-").split("-", 1)
        return await self.world.place(f"{where}/{region}").lease(name, namespace)


def stand_in(patch: Any, world: World) -> None:
    """Have `va promote` work in that world: registries, charts and signatures are well."""

    async def chart(*_: object) -> Path:
        return Path("chart.tgz")

    async def proven(wanted: Release, _: object) -> Verification:
        return Verification(release=wanted.name, digest=wanted.chart.digest, places=())

    def whole(estate: str, name: str) -> Environment:
        return next(one for one in promote.read_environments(estate) if one.name == name)

    patch.setattr(lease, "_LEFT", set())  # this world's fences begin anew
    patch.setattr(before, "read_environment", whole)
    patch.setattr("ci.delivery.cluster.connect", lambda *_: Leases(world))
    for module in (promote, before):
        patch.setattr(module, "open_site", world.open_site)
    patch.setattr(before, "registry_at", AnyRegistry)
    patch.setattr(before, "survey", AnyRegistry.known)
    patch.setattr(before, "prove", AnyRegistry.has)
    patch.setattr(before, "pull_chart", chart)
    patch.setattr(before, "verify", proven)
    patch.setattr(loop, "SMOKE_SECONDS", 0.01)
    patch.setattr(loop, "SMOKE_RATE", 500)


class AnyRegistry:
    """A registry that nobody asks: what it has is said by `AnyRegistry.has`."""

    lacks: frozenset[str] = frozenset()
    """Endpoints that have not got all."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    async def __aenter__(self) -> AnyRegistry:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    @staticmethod
    async def known(registry: AnyRegistry, what: Contents) -> Contents:
        """Stands for `survey`."""
        return what

    @staticmethod
    async def has(registry: AnyRegistry, what: Contents) -> Availability:
        """Stands for `prove`."""
        lacks = registry.endpoint in registry.lacks
        return Availability(
            endpoint=registry.endpoint,
            state=State.LAGGING if lacks else State.THERE,
            missing=("fastapi-backend@sha256:abc",) if lacks else (),
            checked=1,
            seconds=0.0,
        )

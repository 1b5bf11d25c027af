"""Keeps the replicas of the home registry: what ACR does between its regions, as one process.

    POST /events            what the home registry tells of pushes and deletions (its `notifications`) *
    GET  /state             how far each region is: a list of `ci.supply.replication.Replica`
    POST /reconcile         compare all of home with all replicas, down to each blob; answers when it is done
    GET  /faults            the faults that are set, by region
    PUT  /faults/{region}   set them, for tests and drills: `Faults` as JSON, {} for none *

Whoever asks for what has a * shows a token, which only root and the home registry can read.

An event waits in memory until it is done; one that fails is tried again, less and less often. What was lost
(events of a moment in which this process or the home registry ended) a reconcile finds: at the start, and
every half a minute. Run as `python -m ci.platform.replicator CONFIG`, with `Settings` as JSON.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ci import places
from ci.complaints import in_words
from ci.concurrency import together
from ci.errors import BadInput, PipelineError, SystemUnavailable
from ci.platform.daemon import Daemon, answers, as_part
from ci.platform.instance import REGIONS, Instance
from ci.platform.part import Part
from ci.platform.secret import secret
from ci.registry import Registry, parse_reference
from ci.supply.replication import Copier, Downloads, Event, Pace, Replica, Replicated, Visited

__all__ = ["Faults", "Follower", "Settings", "app", "events_in", "replicator"]

_LONGEST_PAUSE = 5.0
_FIRST_PAUSE = 0.25
_TAGGED_WITHIN = 5.0
"""Seconds that home may take from telling of a tag to having it; later, another push has moved it."""
_TAGGED_PAUSE = 0.05
_EXPECTED = (PipelineError, OSError)
"""A registry that is down; this machine's own disk that is full."""
_ALL = "*"
"""Where a problem of the whole comparison is kept, beside those of single repositories."""


class Settings(BaseModel):
    """What the process is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int
    token: str
    """What it must be shown by whoever tells it of events or sets faults."""
    home: str
    replicas: Mapping[str, str]
    """Endpoint by region."""
    reconcile_every: float = 30.0
    """Seconds."""


class Faults(BaseModel):
    """What goes wrong on purpose between home and one replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    delay: float = Field(default=0.0, ge=0)
    """Seconds that every event waits. Meanwhile nothing else, like a comparison, brings it either."""
    shuffle: bool = False
    """Events are done one by one, in any order."""
    lose: int = Field(default=0, ge=0)
    """So many of the next events are lost."""
    down: bool = False
    """As if the replica did not answer."""


def replicator(place: Instance) -> Part:
    """The process, told by the first region's registry, that keeps the others like it."""
    home, *replicas = REGIONS
    config = place.folder / "replicator.json"

    def daemon() -> Daemon:
        settings = Settings(
            port=place.replicator,
            token=secret(place.replicator_token),
            home=f"127.0.0.1:{place.registry(home)}",
            replicas={region: f"127.0.0.1:{place.registry(region)}" for region in replicas},
        )
        return Daemon(
            name="replicator",
            argv=(sys.executable, "-m", "ci.platform.replicator", str(config)),
            files={config: settings.model_dump_json(indent=2)},
            env={"PYTHONPATH": str(places.checkout())},
            check=answers(f"http://127.0.0.1:{settings.port}/faults"),
            ports=(settings.port,),
        )

    needs = tuple(f"registry {region}" for region in REGIONS)
    return as_part(place, daemon, name="replicator", needs=needs, grace=3.0)


@dataclass(frozen=True, kw_only=True)
class _Pending:
    event: Event
    seen: float
    """Monotonic."""


class Follower:
    """Keeps one replica like the home registry while `run` runs. Repositories do not wait for each other."""

    def __init__(
        self,
        region: str,
        home: Registry,
        replica: Registry,
        *,
        reconcile_every: float,
        downloads: Downloads | None = None,
    ) -> None:
        self.region = region
        self._home = home
        self._replica = replica
        self._every = reconcile_every
        self._copier = Copier(home, replica, downloads)
        self._faults = Faults()
        self._pending: list[_Pending] = []
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._problems: dict[str, str] = {}
        self._comparing = asyncio.Lock()
        self._nudge = asyncio.Event()
        self._started = time.monotonic()
        self._last_event: datetime | None = None
        self._last_copied: datetime | None = None
        self._reconciled: datetime | None = None

    @property
    def faults(self) -> Faults:
        """The faults that are set. Setting them makes whatever waits look again."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        nudge, self._nudge = self._nudge, asyncio.Event()
        nudge.set()

    def tell(self, event: Event) -> None:
        """Take note of an event; it is done when `state` has no more of it pending."""
        self._last_event = datetime.now(UTC)
        if self._faults.lose:
            self._faults = self._faults.model_copy(update={"lose": self._faults.lose - 1})
            return
        self._pending.append(_Pending(event=event, seen=time.monotonic()))
        lane = self._lanes.get(event.repository)
        if lane is None or lane.done():
            self._lanes[event.repository] = asyncio.create_task(self._work(event.repository))

    async def run(self) -> None:
        """Compare at the start and from time to time, until cancelled."""
        failures = 0
        try:
            while True:
                try:
                    if not self._faults.delay:
                        await self.reconcile()
                    failures = 0
                except _EXPECTED:
                    failures += 1
                if failures:
                    await self._pause(min(self._every, _longer(failures)))
                else:
                    await asyncio.sleep(self._every)
        finally:
            for lane in self._lanes.values():
                lane.cancel()
            await asyncio.gather(*self._lanes.values(), return_exceptions=True)

    async def reconcile(self, *, deep: bool = False) -> None:
        """Have whatever has a tag as in the home registry; `deep`: and look at every blob of it.

        SystemUnavailable when one of the two does not answer, or a fault is set that holds it back.
        """
        if self._faults.delay:
            raise SystemUnavailable(
                f"replication to {self.region} has a delay of {self._faults.delay:g} s set"
            )
        try:
            async with self._comparing:
                self._refuse()
                self._count(await self._copier.reconcile(deep=deep))
        except _EXPECTED as error:
            self._fail(_ALL, error)
            raise
        self._problems.pop(_ALL, None)
        self._reconciled = datetime.now(UTC)

    def state(self) -> Replica:
        """How far this replica is now."""
        waiting = [one.seen for one in self._pending]
        if self._reconciled is None:
            waiting.append(self._started)  # what happened before is not known yet
        pace = Pace.FAILING if self._problems else Pace.BEHIND if waiting else Pace.IN_STEP
        return Replica(
            region=self.region,
            endpoint=self._replica.endpoint,
            pace=pace,
            pending=len(self._pending),
            lag=time.monotonic() - min(waiting) if waiting else 0.0,
            last_event=self._last_event,
            last_copied=self._last_copied,
            reconciled=self._reconciled,
            problem=next(iter(self._problems.values()), ""),
        )

    async def _work(self, repository: str) -> None:
        """Do the events of one repository until none is left."""
        failures = 0
        while waiting := [one for one in self._pending if one.event.repository == repository]:
            too_new = waiting[0].seen + self._faults.delay - time.monotonic()
            if too_new > 0:
                await self._pause(too_new)
            elif await self._bring(waiting):
                failures = 0
                self._problems.pop(repository, None)
            else:
                failures += 1
                await self._pause(_longer(failures))

    async def _bring(self, waiting: list[_Pending]) -> bool:
        """Do those that are due; False when one failed, which then waits behind the others."""
        visited = Visited()
        early = False
        now = time.monotonic()
        due = [one for one in waiting if one.seen + self._faults.delay <= now]
        if self._faults.shuffle:
            due = [random.choice(due)]  # noqa: S311  # nosec B311  # an order, no secret
        for event in dict.fromkeys(one.event for one in due):
            mine = [one for one in due if one.event == event]
            try:
                self._refuse()
                if now - mine[0].seen < _TAGGED_WITHIN and not await self._copier.is_as_told(event):
                    early = True
                    continue
                self._count(await self._copier.follow(event, visited))
            except BadInput as error:
                # It will not be right the next time either, and others wait behind it.
                _log(f"{self.region}, {event.repository}: left out: {error}")
            except _EXPECTED as error:
                self._fail(event.repository, error)
                self._pending = [*(one for one in self._pending if one not in mine), *mine]
                return False
            self._pending = [one for one in self._pending if one not in mine]
        if early:
            await self._pause(_TAGGED_PAUSE)
        return True

    def _refuse(self) -> None:
        if self._faults.down:
            raise SystemUnavailable(
                f"{self._replica.endpoint} does not answer: such is the fault that is set"
            )

    def _count(self, done: Replicated) -> None:
        if done.manifests or done.blobs or done.removed:
            self._last_copied = datetime.now(UTC)
        if done.removed:
            _log(f"{self.region}: {done.removed} manifests or tags removed that are not at home")

    def _fail(self, where: str, error: Exception) -> None:
        if self._problems.get(where) != str(error):
            _log(f"{self.region}, {where}: {error}")
        self._problems[where] = str(error)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until the faults change."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._nudge.wait(), seconds)


def _longer(failures: int) -> float:
    return min(_FIRST_PAUSE * 2.0**failures, _LONGEST_PAUSE)


def _log(text: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}", file=sys.stderr, flush=True)


class _Target(BaseModel):
    repository: str
    digest: str = ""
    """Empty when a tag was deleted."""
    tag: str = ""


class _Notification(BaseModel):
    action: str
    target: _Target


class _Envelope(BaseModel):
    events: list[_Notification]


def events_in(body: bytes) -> Iterable[Event]:
    """The manifests in a notification (`application/vnd.docker.distribution.events.v1+json`) that changed.

    Pushes of blobs are left out by the registry, as it is configured. Of a deletion it tells by the digest,
    then once more by each tag that went with it. An event of what no repository or tag can be called is
    left out. ValueError when the body is no notification.
    """
    for one in _Envelope.model_validate_json(body).events:
        at = one.target
        reference = at.tag or at.digest
        if one.action in ("push", "delete") and reference and _can_be(at):
            pushed = at.digest if at.tag and one.action == "push" else ""
            yield Event(repository=at.repository, reference=reference, digest=pushed)


def _can_be(target: _Target) -> bool:
    """Whether there can be such a thing in a registry at all."""
    tag = f":{target.tag}" if target.tag else ""
    digest = f"@{target.digest}" if target.digest else ""
    try:
        parse_reference(f"localhost/{target.repository}{tag}{digest}")
    except BadInput:
        return False
    return True


def app(followers: Iterable[Follower], *, token: str) -> Starlette:
    """The HTTP face; the followers run while it is served."""
    by_region = {follower.region: follower for follower in followers}

    def stranger(request: Request) -> Response | None:
        shown = request.headers.get("authorization", "")
        if secrets.compare_digest(shown.encode(), f"Bearer {token}".encode()):
            return None
        return PlainTextResponse("show the token: Authorization: Bearer …", 401)

    async def events(request: Request) -> Response:
        if refusal := stranger(request):
            return refusal
        try:
            told = list(events_in(await request.body()))
        except ValidationError as error:
            # Taken all the same: the registry would send it again for ever, and what comes after would wait.
            _log(f"what the home told is no notification: {in_words(error)}")
            told = []
        for event in told:
            for follower in by_region.values():
                follower.tell(event)
        return Response(status_code=202)

    async def state(_: Request) -> Response:
        return JSONResponse([follower.state().model_dump(mode="json") for follower in by_region.values()])

    async def reconcile(_: Request) -> Response:
        try:
            await together(follower.reconcile(deep=True) for follower in by_region.values())
        except _EXPECTED as error:
            return PlainTextResponse(str(error), 503)
        return Response(status_code=204)

    async def faults(request: Request) -> Response:
        if request.method == "PUT":
            if refusal := stranger(request):
                return refusal
            try:
                wanted = Faults.model_validate_json(await request.body())
            except ValidationError as error:
                return PlainTextResponse(in_words(error), 400)
            follower = by_region.get(request.path_params["region"])
            if follower is None:
                return PlainTextResponse(f"no such region; there is {', '.join(by_region)}", 404)
            follower.faults = wanted
        return JSONResponse({region: one.faults.model_dump() for region, one in by_region.items()})

    @asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(follower.run()) for follower in by_region.values()]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    return Starlette(
        routes=[
            Route("/events", events, methods=["POST"]),
            Route("/state", state),
            Route("/reconcile", reconcile, methods=["POST"]),
            Route("/faults", faults),
            Route("/faults/{region}", faults, methods=["PUT"]),
        ],
        lifespan=running,
    )


async def _serve(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        home = await stack.enter_async_context(Registry(settings.home, attempts=3))
        downloads = Downloads(home)
        followers = [
            Follower(
                region,
                home,
                await stack.enter_async_context(Registry(endpoint, attempts=3)),
                reconcile_every=settings.reconcile_every,
                downloads=downloads,
            )
            for region, endpoint in settings.replicas.items()
        ]
        config = uvicorn.Config(
            app(followers, token=settings.token),
            host="127.0.0.1",
            port=settings.port,
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(_serve(Settings.model_validate_json(Path(sys.argv[1]).read_bytes())))

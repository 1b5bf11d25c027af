"""What sends users to regions as Azure's Traffic Manager does: it probes, answers DNS, is told by ARM's API.

    GET   …/trafficManagerProfiles/NAME                       the profile, with what its probes say
    GET   …/trafficManagerProfiles/NAME/externalEndpoints/E   one endpoint
    PATCH …/trafficManagerProfiles/NAME/externalEndpoints/E   endpointStatus, priority, weight

so that Azure's own client (ci.delivery.regions) asks it as it asks Azure. Whoever asks shows a token, which
only root can read. What was changed is kept in a file: it outlives the process. Run as
`python -m ci.platform.traffic_manager CONFIG`, with `Settings` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ci import places
from ci.files import new_file
from ci.platform.daemon import Daemon, answers, as_part
from ci.platform.instance import Instance
from ci.platform.nameserver import Answers, listening
from ci.platform.part import Part
from ci.platform.profile import (
    Definition,
    Probes,
    Refused,
    Steered,
    answered,
    as_json,
    changed,
    chosen,
    endpoint_json,
    named,
    probed,
    started,
)
from ci.platform.secret import secret

__all__ = ["HOST", "Manager", "Settings", "app", "definition", "profile_id", "traffic_manager"]

_PROFILE = (
    "/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.Network/trafficManagerProfiles/{profile}"
)
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_FQDN = "voice-prod.trafficmanager.test"
"""In no zone of the world's (RFC 6761): it is asked of this server only."""
HOST = "api.voice.localhost"
"""What users ask each region's gateway for; `environments/regions` says so."""


class Settings(BaseModel):
    """What the process is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int
    """Of its API; DNS is on the next one."""
    token: str
    memory: Path
    """Where it keeps what was changed of the endpoints."""
    profile: Definition


def traffic_manager(place: Instance) -> Part:
    """The process, for prod of the regions that have a cluster."""
    config = place.folder / "traffic-manager.json"

    def daemon() -> Daemon:
        settings = Settings(
            port=place.traffic_manager,
            token=secret(place.traffic_manager_token),
            memory=place.folder / "traffic-manager-changes.json",
            profile=definition(place),
        )
        return Daemon(
            name="traffic manager",
            argv=(sys.executable, "-m", "ci.platform.traffic_manager", str(config)),
            files={config: settings.model_dump_json(indent=2)},
            env={"PYTHONPATH": str(places.checkout())},
            check=answers(f"http://127.0.0.1:{settings.port}/health"),
            ports=(settings.port, settings.port + 1),
        )

    return as_part(place, daemon, name="traffic manager", grace=3.0)


def profile_id() -> str:
    """The resource id of the platform's profile."""
    return _PROFILE.format(subscription="local", group="voice", profile="voice-prod")


def definition(place: Instance) -> Definition:
    """The platform's profile, before anything was changed of it."""
    return Definition(
        id=profile_id(),
        fqdn=_FQDN,
        ttl=2,
        routing="Weighted",
        # A second is what Azure's 10 are; two failures, so that one slow answer sends nobody away.
        probes=Probes(
            port=place.gateway,
            path="/healthz",
            host=HOST,
            interval=1.0,
            timeout=0.8,
            tolerated=1,
        ),
        endpoints=tuple(
            Steered(name=region.name, target=place.serving(region), priority=number)
            for number, region in enumerate(place.regions, 1)
        ),
    )


class Manager:
    """The profile at work: how its endpoints are, and what was changed of them."""

    def __init__(self, profile: Definition, memory: Path) -> None:
        self.profile = profile
        self._memory = memory
        kept = json.loads(memory.read_text()) if memory.exists() else {}
        self.endpoints = tuple(
            started(one.model_copy(update=kept.get(one.name, {}))) for one in profile.endpoints
        )

    def choose(self) -> str | None:
        """The target for the next user."""
        one = chosen(answered(self.endpoints), self.profile.routing)
        return one.target if one else None

    def change(self, name: str, properties: dict[str, Any]) -> Steered:
        """Do what a PATCH asks, and keep it; Refused changes nothing."""
        after = changed(self.endpoints, name, properties)
        kept = {one.name: one.model_dump(include={"enabled", "priority", "weight"}) for one in after}
        with new_file(self._memory) as draft:
            draft.write_text(json.dumps(kept, indent=1))
        self.endpoints = after
        return self.named(name)

    def named(self, name: str) -> Steered:
        """The endpoint of that name; Refused when there is none."""
        return named(self.endpoints, name)

    async def probe(self, http: aiohttp.ClientSession) -> None:
        """Ask all endpoints how they are, each once an interval, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for one in self.profile.endpoints:
                group.create_task(self._probe(http, one.name))

    async def _probe(self, http: aiohttp.ClientSession, name: str) -> None:
        probes = self.profile.probes
        due = time.monotonic()
        while True:
            one = self.named(name)
            if one.enabled:
                well = await _well(http, one.target, probes)
                self.endpoints = tuple(
                    probed(each, well=well, tolerated=probes.tolerated) if each.name == name else each
                    for each in self.endpoints
                )
            due = max(due + probes.interval, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


async def _well(http: aiohttp.ClientSession, target: str, probes: Probes) -> bool:
    try:
        async with asyncio.timeout(probes.timeout):
            if probes.protocol == "TCP":
                _, writer = await asyncio.open_connection(target, probes.port)
                writer.close()
                return True
            url, headers = f"http://{target}:{probes.port}{probes.path}", {"Host": probes.host or target}
            async with http.get(url, headers=headers, allow_redirects=False) as response:
                return response.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


def app(manager: Manager, *, token: str) -> Starlette:
    """The HTTP face."""

    async def profile(request: Request) -> Response:
        return _asked(request, lambda: as_json(manager.profile, manager.endpoints))

    async def endpoint(request: Request) -> Response:
        name = str(request.path_params["endpoint"])
        body = await request.body()

        def answer() -> dict[str, Any]:
            if str(request.path_params["kind"]).lower() != "externalendpoints":
                raise Refused("ResourceNotFound", f"The resource '{name}' was not found.", 404)
            if request.method == "PATCH":
                manager.change(name, _properties(body))
            return endpoint_json(manager.profile, manager.named(name))

        return _asked(request, answer)

    def _asked(request: Request, answer: Any) -> Response:
        try:
            _let_in(request, token)
            _known(request, manager.profile.id)
            return JSONResponse(answer())
        except Refused as refused:
            said = {"error": {"code": refused.code, "message": str(refused)}}
            return JSONResponse(said, refused.status)

    async def health(_: Request) -> Response:
        return Response(status_code=204)

    path = _PROFILE.replace("trafficManagerProfiles", "{kinds}")
    return Starlette(
        routes=[
            Route("/health", health),
            Route(path, profile, methods=["GET"]),
            Route(f"{path}/{{kind}}/{{endpoint}}", endpoint, methods=["GET", "PATCH"]),
        ]
    )


def _let_in(request: Request, token: str) -> None:
    shown = request.headers.get("authorization", "")
    if not secrets.compare_digest(shown.encode(), f"Bearer {token}".encode()):
        raise Refused("AuthenticationFailed", "Authentication failed. Show the platform's token.", 401)


def _known(request: Request, wanted: str) -> None:
    version = request.query_params.get("api-version", "")
    if not version:
        raise Refused("MissingApiVersionParameter", "The api-version query parameter is required.")
    if not _VERSION.fullmatch(version):
        raise Refused("InvalidApiVersionParameter", f"The api-version '{version}' is invalid.")
    asked = "/".join(request.url.path.split("/")[:9])
    if asked.lower() != wanted.lower():  # Azure's names and types have no case
        raise Refused("ResourceNotFound", f"The Resource '{asked}' was not found.", 404)


def _properties(body: bytes) -> dict[str, Any]:
    try:
        properties = json.loads(body)["properties"]
    except (ValueError, TypeError, KeyError):
        properties = None
    if not isinstance(properties, dict):
        raise Refused("InvalidRequestContent", "The request content was invalid: properties are expected.")
    return properties


@asynccontextmanager
async def _probing(manager: Manager) -> AsyncIterator[None]:
    # A new connection each time: one that is kept would hide that no new one can be made.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        task = asyncio.create_task(manager.probe(http))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _serve(settings: Settings) -> None:
    manager = Manager(settings.profile, settings.memory)
    config = uvicorn.Config(
        app(manager, token=settings.token),
        host="127.0.0.1",
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    names = Answers(settings.profile.fqdn, settings.profile.ttl, manager.choose)
    async with _probing(manager), listening(names, port=settings.port + 1):
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(_serve(Settings.model_validate_json(Path(sys.argv[1]).read_bytes())))

"""Our dashboards in Azure Managed Grafana, by Grafana's own HTTP API: the same again is the same there.

Where it is Resource Manager says; who may is said by a role on it (Grafana Editor or Grafana Admin), and the
token is Entra's, for Grafana's application.
https://learn.microsoft.com/azure/managed-grafana/how-to-api-calls,
https://grafana.com/docs/grafana/latest/developers/http_api/dashboard/.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import httpx
from azure.core.exceptions import ResourceNotFoundError
from azure.mgmt.dashboard import DashboardManagementClient

from ci import entra
from ci.architecture.dashboards import dashboards
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.connection import Azure, call
from ci.azure.network import group
from ci.errors import BadInput, SystemUnavailable
from ci.reasons import reason_of
from ci.reporting import Reporter

__all__ = ["deploy"]

_APPLICATION = "ce34e7e5-485f-4d76-964f-b3d2b16d1e4f"
"""Azure Managed Grafana, the same in every tenant."""
_SECONDS = 30.0
_HINT = "the role Grafana Editor on it is what this needs; run the same command again"


async def deploy(azure: Azure, architecture: Architecture, reporter: Reporter) -> tuple[str, ...]:
    """Have every dashboard there, in place of what was there under its uid; returns their addresses.

    BadInput where the architecture has no Grafana, SystemUnavailable where it is not there or refuses.
    """
    if not architecture.monitoring.grafana:
        raise BadInput(f"{architecture.environment} has no Grafana", hint="monitoring.grafana: true")
    at = await _address(azure, architecture)
    token = await asyncio.to_thread(entra.token, _APPLICATION)
    found = []
    async with httpx.AsyncClient(
        base_url=at, timeout=_SECONDS, headers={"Authorization": f"Bearer {token.text}"}
    ) as client:
        for board, said in dashboards().items():
            with reporter.step(f"dashboard {board}") as step:
                answer = await _put(client, said)
                step.say(f"version {answer.get('version', '?')}")
                found.append(f"{at}{answer.get('url', '')}")
    return tuple(found)


async def _address(azure: Azure, architecture: Architecture) -> str:
    own, client = name(architecture, "grafana"), azure.client(DashboardManagementClient)
    try:
        found = await call(lambda: client.grafana.get(group(architecture), own), f"reading {own}")
    except ResourceNotFoundError as error:
        raise SystemUnavailable(
            f"{own} is not there", hint=f"va infra apply --env {architecture.environment}"
        ) from error
    address = str(found.properties.endpoint or "").rstrip("/")
    at_home = urlsplit(address).hostname == "127.0.0.1"
    if urlsplit(address).scheme != "https" and not at_home:
        raise SystemUnavailable(f"{own} has no https address yet", hint="it takes some minutes: try again")
    return address


async def _put(client: httpx.AsyncClient, board: dict[str, object]) -> dict[str, object]:
    body = {"dashboard": board, "overwrite": True, "message": "va infra dashboards"}
    try:
        answer = await client.post("/api/dashboards/db", json=body)
    except httpx.HTTPError as error:
        raise SystemUnavailable(f"Grafana does not answer: {reason_of(error)}", hint=_HINT) from error
    if not answer.is_success:
        raise SystemUnavailable(
            f"Grafana did not take {board['title']}: it answered {answer.status_code}", hint=_HINT
        )
    try:
        said = answer.json()
    except ValueError:
        said = None
    return said if isinstance(said, dict) else {}

"""The one way to Azure Resource Manager: its clients for a subscription, and what their errors become."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from azure.core.credentials import AccessToken, TokenCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
)
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.resource.deployments import DeploymentsMgmtClient
from azure.mgmt.resource.locks import ManagementLockClient
from azure.mgmt.resource.resources import ResourceManagementClient

from ci import entra
from ci.errors import BadInput, StepFailed, SystemUnavailable

__all__ = ["Azure", "call", "connect"]

T = TypeVar("T")

_BUSY = ("DeploymentActive", "AnotherOperationInProgress", "RetryableError", "Conflict")
_PATIENCE = 8
_BUSY_SECONDS = 0.5
"""How often a busy deployment or resource is asked again, with twice the pause each time."""


@dataclass(frozen=True)
class Azure:
    """A subscription, and how often to ask how something is doing (seconds)."""

    subscription: str
    deployments: DeploymentsMgmtClient
    groups: ResourceManagementClient
    locks: ManagementLockClient
    poll: float
    client: Callable[..., Any]
    """Another management client of the same subscription: `client(ContainerRegistryManagementClient)`."""


class _Local(TokenCredential):
    """Signs in to the stand-in, which asks for a token and no more."""

    def get_token(self, *_scopes: str, **_: Any) -> AccessToken:
        return AccessToken("local", 2**40)


@asynccontextmanager
async def connect(
    subscription: str, *, endpoint: str | None = None, poll: float = 5.0
) -> AsyncIterator[Azure]:
    """Clients for a subscription: of Azure itself, or of a stand-in at an `endpoint` on this machine."""
    options: dict[str, Any] = {}
    who: TokenCredential
    if endpoint is None:
        who = entra.credential()
    else:
        if not endpoint.startswith("http://127.0.0.1:"):
            raise BadInput(f"{endpoint} is no stand-in on this machine", hint="only http://127.0.0.1:PORT")
        # In a job of GitHub we sign in as ever: only who answers is another.
        who = entra.credential() if entra.is_a_job() else _Local()
        options = {
            "base_url": endpoint,
            "credential_scopes": ["http://local/.default"],
            "per_call_policies": [_PlainHttp()],
            "polling_interval": poll,
        }
    clients: list[Any] = []

    def client(kind: type[Any], **more: Any) -> Any:
        clients.append(kind(who, subscription, **options, **more))
        return clients[-1]

    try:
        yield Azure(
            subscription=subscription,
            deployments=client(DeploymentsMgmtClient),
            groups=client(ResourceManagementClient),
            locks=client(ManagementLockClient),
            poll=poll,
            client=client,
        )
    finally:
        for each in clients:
            each.close()


class _PlainHttp(SansIOHTTPPolicy[Any, Any]):
    """The SDK sends tokens over https only, unless it is told that this is a stand-in."""

    def on_request(self, request: Any) -> None:
        request.context.options["enforce_https"] = False


async def call(function: Callable[[], T], what: str) -> T:
    """A call of the SDK, off the event loop; its errors become ours.

    Throttling is the SDK's own to wait for.
    """
    for attempt in range(_PATIENCE):
        try:
            return await asyncio.to_thread(function)
        except ResourceNotFoundError:
            raise
        except ClientAuthenticationError as error:
            raise entra.not_let_in(error, what) from error
        except HttpResponseError as error:
            code = error.error.code if error.error is not None else ""
            if error.status_code == 409 and code in _BUSY and attempt < _PATIENCE - 1:
                await asyncio.sleep(min(60.0, 2**attempt * _BUSY_SECONDS) * (0.75 + random.random() / 2))  # noqa: S311  # nosec B311  # a spread, no secret
                continue
            if error.status_code == 400:
                raise BadInput(f"Azure refuses {what}: {entra.said(error)}") from error
            if error.status_code == 403:
                raise SystemUnavailable(
                    f"Azure does not allow {what}: {entra.said(error)}",
                    hint="the identity needs Contributor and User Access Administrator",
                ) from error
            if error.status_code == 409:
                raise StepFailed(
                    f"{what}: {entra.said(error)}", hint="run the same command again later"
                ) from error
            raise SystemUnavailable(
                f"{what}: {entra.said(error)}", hint="run the same command again: it goes on from here"
            ) from error
        except ServiceRequestError as error:
            raise SystemUnavailable(f"Azure Resource Manager does not answer: {error.message}") from error
        except AzureError as error:
            raise SystemUnavailable(f"{what}: {error.message}") from error
    raise AssertionError("unreachable")

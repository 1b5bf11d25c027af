"""Azure Container Registry: the same protocol with Azure's sign-in, and what only it can do (locks, listing).

    registry_at("acrvoiceassistant.azurecr.io")   # an AzureRegistry; any other address: a plain Registry

Signing in: an Entra token (`ci.entra`: GitHub's token, a workload or managed identity, `az login`) is
exchanged at the registry for a refresh token, that for access tokens of one scope each ("ACR integration
with AAD", azure.github.io/acr/AAD-OAuth.html). Both are kept until shortly before they expire. Content goes
over `/v2` and listings over `/acr/v1` (azure-rest-api-specs, Microsoft.ContainerRegistry 2021-07-01), both
over the one Connection; locks by azure-containerregistry, which is handed our access tokens: its own cache
asks for two new ones with each request (1.2.0). It lists nothing: it takes a token wherever a link leads.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ci import entra
from ci.complaints import in_words
from ci.concurrency import together
from ci.errors import BadInput, SystemUnavailable
from ci.registry.auth import BearerAuth, Challenge, Token, lifetime_of, parse_challenge
from ci.registry.blobs import scheme
from ci.registry.client import Held, Registry
from ci.registry.connection import AGAIN, Again, Answer, Connection
from ci.registry.login import log_in
from ci.registry.references import parse_digest, parse_endpoint, parse_repository
from ci.release import Digest
from ci.retries import retry_after

if TYPE_CHECKING:
    from azure.containerregistry import ContainerRegistryClient
    from azure.core.credentials import TokenCredential

__all__ = ["AzureRegistry", "is_azure", "registry_at"]

_AUDIENCE = "https://containerregistry.azure.net/.default"
_ENDPOINT = re.compile(r"(?P<name>[a-z0-9]+(?:-[a-z0-9]+)?)(?:\.(?P<region>[a-z0-9]+)\.geo)?\.azurecr\.io")
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def is_azure(endpoint: str) -> bool:
    """Whether that is a login server of ACR: `x.azurecr.io`, or of a region, `x.eastus.geo.azurecr.io`.

    `x.eastus.data.azurecr.io` is none: blobs come from there, by redirects.
    """
    return _ENDPOINT.fullmatch(endpoint.lower()) is not None


def registry_at(endpoint: str, *, attempts: int = 5) -> Registry:
    """The client for that endpoint, signed in: AzureRegistry for ACR's names, else a plain Registry.

    On this machine nobody signs in; elsewhere as `docker login` left it. `attempts`: as of Registry.
    """
    if is_azure(parse_endpoint(endpoint)):
        return AzureRegistry(endpoint, attempts=attempts)
    auth = log_in(endpoint, attempts=attempts) if scheme(endpoint) == "https" else None
    return Registry(endpoint, auth=auth, attempts=attempts)


class AzureRegistry(Registry):
    """A client of one endpoint of an Azure Container Registry; as Registry, and an async context manager.

    `credential` is that of `ci.entra` when left out; `clock` gives seconds.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        credential: TokenCredential | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        attempts: int = 5,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._doors = Connection(
            f"{scheme(parse_endpoint(endpoint))}://{endpoint}",
            name=f"the registry {endpoint}",
            transport=transport,
            attempts=attempts,
            sleep=sleep,
            elsewhere=False,
        )
        """The same endpoint without sign-in: where tokens come from."""
        self._credential = credential
        self._clock = clock
        self._refresh: tuple[str, float] = ("", 0.0)
        self._refreshing = asyncio.Lock()
        self._service = ""
        self._origin = f"{scheme(endpoint)}://{endpoint}"
        self._sdk: ContainerRegistryClient | None = None
        self._tokens = BearerAuth(self._access_token, clock=clock)
        super().__init__(endpoint, auth=self._tokens, transport=transport, attempts=attempts, sleep=sleep)

    async def __aexit__(self, *_: object) -> None:
        await self._doors.__aexit__()
        if self._sdk is not None:
            self._sdk.close()
        await super().__aexit__()

    @property
    def name(self) -> str:
        """The global login server: one registry has an endpoint for each region, and replicates to all."""
        found = _ENDPOINT.fullmatch(self.endpoint.lower())
        return f"{found['name']}.azurecr.io" if found else self.endpoint

    async def ping(self) -> None:
        """Return when the registry is there and lets us in."""
        response = await self._doors.ask("GET", "/v2/", expect={200, 401})
        challenge = parse_challenge(response.headers.get("WWW-Authenticate", ""))
        self._service = challenge.service if challenge and challenge.service else self.endpoint
        await self._refresh_token()

    async def held(self, repository: str) -> tuple[Held, ...]:
        """All manifests of a repository, tagged or not; none when there is no such repository."""
        parse_repository(repository)

        found: list[_Manifest] = []
        async for page in self._connection.pages(f"/acr/v1/{repository}/_manifests", expect={200, 404}):
            if page.status == HTTPStatus.NOT_FOUND:
                break
            try:
                found += _Manifests.model_validate_json(page.content).manifests or ()
            except ValidationError as error:
                raise SystemUnavailable(
                    f"{self.endpoint} answered with no list of what {repository} holds: {in_words(error)}"
                ) from error
        return tuple(
            Held(
                repository=repository,
                digest=one.digest,
                tags=one.tags or (),
                size=one.image_size,
                updated=one.last_update_time,
                locked=not (one.changeable.write_enabled and one.changeable.delete_enabled),
            )
            for one in found
        )

    async def lock(
        self, repository: str, digest: str, tags: Collection[str] = (), *, on: bool = True
    ) -> None:
        """Make a manifest and tags of its immutable (`on`), or free again; BadInput when one is not there.

        Neither can be overwritten or deleted then, by anybody, until it is freed.
        """
        parse_repository(repository)
        parse_digest(digest)
        allowed = {"can_write": not on, "can_delete": not on}

        def tag(name: str) -> Callable[[ContainerRegistryClient, dict[str, Any]], object]:
            return lambda sdk, options: sdk.update_tag_properties(repository, name, **allowed, **options)

        await together(self._changed(repository, tag(name)) for name in tags)
        await self._changed(
            repository,
            lambda sdk, options: sdk.update_manifest_properties(repository, digest, **allowed, **options),
        )

    async def _changed(
        self, repository: str, change: Callable[[ContainerRegistryClient, dict[str, Any]], object]
    ) -> None:
        """A change by azure-containerregistry in a thread, with a token of ours; its errors become ours.

        Each can be made again: it is, as any request of ours, when the registry is busy or the answer is cut.
        """
        if not self._service:
            await self.ping()
        realm, scope = f"{self._origin}/oauth2/token", f"repository:{repository}:metadata_write"
        challenge = Challenge(realm=realm, service=self._service, scope=scope)
        async for attempt in self._connection.retrying():
            with attempt:
                token = await self._tokens.token(challenge)
                options: dict[str, Any] = {"headers": {"Authorization": f"Bearer {token}"}}
                if scheme(self.endpoint) == "http":
                    options["enforce_https"] = False  # it would send no token to a server on this machine
                with _as_ours(self.endpoint, scope):
                    await asyncio.to_thread(change, self._client_of_sdk(), options)

    def _client_of_sdk(self) -> ContainerRegistryClient:
        if self._sdk is None:
            from azure.containerregistry import ContainerRegistryClient

            self._sdk = ContainerRegistryClient(
                self._origin,
                self._credential or _default_credential(),
                retry_total=0,  # ours tries again, and PATCH too
                redirect_max=0,  # the token is for this registry
                use_env_settings=scheme(self.endpoint) == "https",
            )
        return self._sdk

    # --- signing in ----------------------------------------------------------------------

    async def _access_token(self, challenge: Challenge) -> Token:
        """An access token for a challenge's scope. Only this endpoint is asked, whatever realm it names."""
        self._service = challenge.service or self._service or self.endpoint
        refresh: str | None = None
        for _ in range(2):
            refresh = await self._refresh_token(refused=refresh)
            scopes = [("scope", scope) for scope in challenge.scope.split()]
            form = [
                ("grant_type", "refresh_token"),
                ("service", self._service),
                *scopes,
                ("refresh_token", refresh),
            ]
            answer = await self._post("/oauth2/token", form, expect={200, 401})
            if answer.status == HTTPStatus.OK:
                text = self._token_in(answer, "access_token")
                return Token(text=text, seconds=lifetime_of(text))
        raise SystemUnavailable(
            f"{self.endpoint} gives no token for {challenge.scope}",
            hint="this identity needs a role on the registry: AcrPull to read, AcrPush to publish, "
            "AcrDelete to purge",
        )

    async def _refresh_token(self, *, refused: str | None = None) -> str:
        """The refresh token that is held, or a new one when that is old or was `refused`."""
        async with self._refreshing:
            held, good_until = self._refresh
            if not held or held == refused or self._clock() >= good_until:
                form = [
                    ("grant_type", "access_token"),
                    ("service", self._service),
                    ("access_token", await self._entra_token()),
                ]
                held = self._token_in(
                    await self._post("/oauth2/exchange", form, expect={200}), "refresh_token"
                )
                # Before its time: an access token that is asked for now has to come from it.
                self._refresh = (held, self._clock() + lifetime_of(held) * 0.9)
            return held

    async def _entra_token(self) -> str:
        from azure.core.exceptions import AzureError

        credential = self._credential or _default_credential()
        try:
            return (await asyncio.to_thread(credential.get_token, _AUDIENCE)).token
        except AzureError as error:
            raise entra.not_let_in(error, self.endpoint) from error

    async def _post(self, path: str, form: list[tuple[str, str]], *, expect: set[int]) -> Answer:
        return await self._doors.ask(
            "POST", path, headers=_FORM, content=urlencode(form).encode(), expect=expect
        )

    def _token_in(self, answer: Answer, key: str) -> str:
        token = answer.fields().get(key)
        if not isinstance(token, str) or not token:
            raise SystemUnavailable(f"{self.endpoint} answered {answer.url.path} with no {key}")
        return token


class _Json(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class _Changeable(_Json):
    write_enabled: bool = True
    delete_enabled: bool = True


class _Manifest(_Json):
    digest: Digest
    tags: tuple[str, ...] | None = None
    image_size: int | None = None
    last_update_time: datetime | None = None
    changeable: _Changeable = Field(default=_Changeable(), alias="changeableAttributes")


class _Manifests(_Json):
    manifests: tuple[_Manifest, ...] | None = None


@contextmanager
def _as_ours(endpoint: str, scope: str) -> Iterator[None]:
    """Errors of the SDK as those of Registry."""
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        HttpResponseError,
        IncompleteReadError,
        ResourceNotFoundError,
    )

    try:
        yield
    except ResourceNotFoundError as error:
        raise BadInput(
            f"{endpoint} does not have it ({scope}): {entra.said(error)}", hint="va publish puts it there"
        ) from error
    except ClientAuthenticationError as error:
        raise SystemUnavailable(
            f"the registry {endpoint} refused these credentials for {scope}: {entra.said(error)}",
            hint="log in again, or ask for the right to do this there",
        ) from error
    except IncompleteReadError as error:
        raise Again(entra.said(error)) from error
    except HttpResponseError as error:
        if error.status_code in AGAIN:
            raise Again(entra.said(error), retry_after(getattr(error.response, "headers", {}))) from error
        raise SystemUnavailable(f"the registry {endpoint} refused {scope}: {entra.said(error)}") from error
    except AzureError as error:  # no connection, or it was lost
        raise Again(entra.said(error)) from error


@cache
def _default_credential() -> TokenCredential:
    """One for all registries: it remembers which way to sign in worked, and the tokens."""
    return entra.credential()

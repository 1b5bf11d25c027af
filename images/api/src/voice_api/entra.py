"""Entra ID: tokens for the pod's workload identity, by the exchange of its service account's token.

Source: "OAuth 2.0 client credentials flow", third case: access token request with a federated credential.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp

from voice_api.settings import DatabaseSettings

__all__ = ["POSTGRESQL", "EntraUnavailable", "Tokens"]

POSTGRESQL = "https://ossrdbms-aad.database.windows.net/.default"
"""The scope of every Azure Database for PostgreSQL."""

_TIMEOUT = aiohttp.ClientTimeout(total=5)
_EARLY_SECONDS = 300
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class EntraUnavailable(Exception):
    """Entra ID did not answer, or refused; the message has its code and no secret."""


class Tokens:
    """Tokens for one scope, each used until five minutes before its end."""

    def __init__(self, settings: DatabaseSettings, scope: str) -> None:
        self._settings = settings
        self._scope = scope
        self._token = ""
        self._until = 0.0
        self._one = asyncio.Lock()

    async def token(self) -> str:
        """One that is good for minutes at least. Raises EntraUnavailable."""
        async with self._one:
            if time.monotonic() >= self._until:
                self._token, seconds = await self._exchange()
                self._until = time.monotonic() + max(0.0, seconds - _EARLY_SECONDS)
            return self._token

    async def _exchange(self) -> tuple[str, float]:
        settings = self._settings
        assert settings.azure_federated_token_file is not None
        form = {
            "grant_type": "client_credentials",
            "client_id": settings.azure_client_id,
            "scope": self._scope,
            "client_assertion_type": _ASSERTION,
            # Read each time: the kubelet renews it.
            "client_assertion": await asyncio.to_thread(settings.azure_federated_token_file.read_text),
        }
        url = f"{settings.azure_authority_host.rstrip('/')}/{settings.azure_tenant_id}/oauth2/v2.0/token"
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as http,
                http.post(url, data=form) as answer,
            ):
                said = await answer.json(content_type=None)
                if answer.status != 200:
                    code = said.get("error", "") if isinstance(said, dict) else ""
                    raise EntraUnavailable(f"{answer.status} {code}".rstrip())
                return str(said["access_token"]), float(said["expires_in"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            raise EntraUnavailable(type(error).__name__) from error

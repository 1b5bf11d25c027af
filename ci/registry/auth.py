"""How a client proves to a registry who it is: HTTP basic (`httpx.BasicAuth`), or bearer tokens on demand.

The bearer flow is the distribution project's token authentication: a 401 names a realm, a service and a
scope; whoever holds credentials turns them into a token, which is then sent with each request of that scope.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

import httpx

from ci.errors import SystemUnavailable

__all__ = ["BearerAuth", "Challenge", "Token", "lifetime_of", "parse_challenge", "password_tokens"]

_PAIR = re.compile(r'(\w+)="([^"]*)"')
_REPOSITORY = re.compile(r"/v2/(.+?)/(?:manifests|blobs|tags|referrers)(?:/|$)")
_USED_OF_ITS_LIFE = 0.9
"""A token is renewed before it expires: requests that are on their way, and long ones, end in time."""
_SHORTEST_LIFE = 60.0
"""Seconds that a token is good for where nothing is said, by the token protocol."""


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What a registry asks for in `WWW-Authenticate: Bearer realm=…,service=…,scope=…`."""

    realm: str
    service: str
    scope: str


@dataclass(frozen=True, kw_only=True)
class Token:
    """A bearer token and the seconds it is good for, counted from when it was given."""

    text: str = field(repr=False)
    seconds: float = _SHORTEST_LIFE


def parse_challenge(header: str) -> Challenge | None:
    """The bearer challenge in a WWW-Authenticate header; None when it is of another kind."""
    kind, _, rest = header.partition(" ")
    fields = dict(_PAIR.findall(rest))
    if kind.lower() != "bearer" or not fields.get("realm"):
        return None
    return Challenge(realm=fields["realm"], service=fields.get("service", ""), scope=fields.get("scope", ""))


def lifetime_of(token: str) -> float:
    """Seconds from the making of a JSON web token to its expiry; a minute when it does not say.

    Both times are the issuer's: a clock of ours that is wrong makes no difference.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return max(0.0, float(claims["exp"]) - float(claims.get("iat", claims["nbf"])))
    except (IndexError, KeyError, TypeError, ValueError):
        return _SHORTEST_LIFE


class BearerAuth(httpx.Auth):
    """Fetches a token for each scope that a registry asks for; renews it shortly before it expires, and when
    it is refused. `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        fetch: Callable[[Challenge], Awaitable[Token]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._asked: dict[tuple[str, ...], Challenge] = {}
        self._tokens: dict[str, tuple[str, float]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def token(self, challenge: Challenge, *, refused: str | None = None) -> str:
        """A token for that scope, another one than `refused`. Whoever asks meanwhile waits for the same."""
        async with self._locks.setdefault(challenge.scope, asyncio.Lock()):
            held, good_until = self._tokens.get(challenge.scope, ("", 0.0))
            if not held or held == refused or self._clock() >= good_until:
                new = await self._fetch(challenge)
                held, good_until = new.text, self._clock() + new.seconds * _USED_OF_ITS_LIFE
                self._tokens[challenge.scope] = (held, good_until)
            return held

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        kind = _kind(request)
        known = self._asked.get(kind)
        used = await self.token(known) if known else None
        if used:
            request.headers["Authorization"] = f"Bearer {used}"
        response = yield request
        if response.status_code != httpx.codes.UNAUTHORIZED:
            return
        challenge = parse_challenge(response.headers.get("WWW-Authenticate", ""))
        if challenge is None:
            return
        self._asked[kind] = challenge
        request.headers["Authorization"] = f"Bearer {await self.token(challenge, refused=used)}"
        yield request


def _kind(request: httpx.Request) -> tuple[str, ...]:
    """Requests of one kind need one scope: to read, write or delete in a repository, or to mount from one."""
    found = _REPOSITORY.match(request.url.path)
    change = {"GET": "read", "HEAD": "read", "DELETE": "delete"}.get(request.method, "write")
    return (found[1] if found else "", change, request.url.params.get("from", ""))


def password_tokens(
    username: str, password: str, transport: httpx.AsyncBaseTransport | None = None
) -> Callable[[Challenge], Awaitable[Token]]:
    """Tokens for a user and password, from the realm that the registry names; for nobody without a user."""

    async def fetch(challenge: Challenge) -> Token:
        query = {"service": challenge.service, "scope": challenge.scope}
        who = (username, password) if username else None
        async with httpx.AsyncClient(transport=transport, auth=who) as client:
            try:
                response = await client.get(challenge.realm, params=query)
                answer = response.raise_for_status().json()
                seconds = float(answer.get("expires_in") or _SHORTEST_LIFE)
                return Token(text=str(answer.get("token") or answer["access_token"]), seconds=seconds)
            except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise SystemUnavailable(
                    f"{challenge.realm} gave no token for {challenge.scope or challenge.service}",
                    hint="check the user and the password of this registry",
                ) from error

    return fetch

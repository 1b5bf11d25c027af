"""How a client proves to a registry who it is: HTTP basic, or bearer tokens on demand, as the registry asks.

The bearer flow is the distribution project's token authentication: a 401 names a realm, a service and scopes;
whoever holds credentials turns them into a token, which is then sent with each request of those scopes. A
registry that asks for `Basic` gets the user and the password themselves.
"""

from __future__ import annotations

import asyncio
import base64
import math
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import httpx

from ci.errors import SystemUnavailable
from ci.registry.connection import Connection, is_on_this_machine, without_query
from ci.registry.content import read_json

__all__ = [
    "BearerAuth",
    "Challenge",
    "Token",
    "challenges",
    "lifetime_of",
    "parse_challenge",
    "password_auth",
    "password_tokens",
]

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105  as RFC 9110 calls a word
_SCHEME = re.compile(rf"({_TOKEN})(?=[\s,]|$)\s*(?:[A-Za-z0-9._~+/-]+=*\s*(?=,|$))?")
"""A scheme, with the one value that Negotiate and its like have in place of parameters."""
# An unquoted value may hold what no token may, `https://…` and `pull,push`: it ends where another begins.
_PARAMETER = re.compile(
    rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|'
    rf"'([^'\",]*(?:,(?!\s*{_TOKEN}\s*=)[^'\",]*)*)'|"  # no quotes by the grammar, and yet some write them
    rf'([^\s,"]*(?:,(?!{_TOKEN}(?:\s*=|\s+{_TOKEN}\s*=))[^\s,"]+)*))'
)
_REPOSITORY = re.compile(r"/(v2|acr/v1)/(.+?)/(?:manifests|blobs|tags|referrers|_manifests|_tags)(?:/|$)")
_USED_OF_ITS_LIFE = 0.9
"""A token is renewed before it expires: requests that are on their way, and long ones, end in time."""
_SHORTEST_LIFE = 60.0
"""Seconds that a token is good for where nothing is said, by the token protocol."""
_LARGEST_TOKEN = 2**20


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What a registry asks for in `WWW-Authenticate: Bearer realm=…,service=…,scope=…`; scopes by blanks."""

    realm: str
    service: str
    scope: str


@dataclass(frozen=True, kw_only=True)
class Token:
    """A bearer token and the seconds it is good for, counted from when it was given."""

    text: str = field(repr=False)
    seconds: float = _SHORTEST_LIFE


def challenges(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Every challenge of WWW-Authenticate headers (joined by commas): its scheme in small letters, and its
    parameters, their names in small letters too (RFC 9110, 11.6.1). Several scopes are joined by blanks.
    """
    scheme, fields = "", dict[str, str]()
    at = 0
    while at < len(header):
        if found := _PARAMETER.match(header, at):
            name = found[1].lower()
            value = re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3] or found[4] or ""
            fields[name] = f"{fields[name]} {value}" if name == "scope" and fields.get(name) else value
        elif found := _SCHEME.match(header, at):
            if scheme:
                yield scheme, fields
            scheme, fields = found[1].lower(), {}
        at = max(found.end(), at + 1) if found else at + 1
    if scheme:
        yield scheme, fields


def parse_challenge(header: str) -> Challenge | None:
    """The first bearer challenge in WWW-Authenticate headers; None when all are of another kind."""
    for scheme, fields in challenges(header):
        if scheme == "bearer" and fields.get("realm"):
            return Challenge(
                realm=fields["realm"], service=fields.get("service", ""), scope=fields.get("scope", "")
            )
    return None


def lifetime_of(token: str) -> float:
    """Seconds from the making of a JSON web token to its expiry; a minute when it does not say.

    Both times are the issuer's: a clock of ours that is wrong makes no difference.
    """
    try:
        payload = token.split(".")[1]
        claims = read_json(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return _seconds(float(claims["exp"]) - float(claims.get("iat", claims["nbf"])))
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        return _SHORTEST_LIFE


class BearerAuth(httpx.Auth):
    """Fetches a token for each scope that a registry asks for; renews it shortly before it expires, and when
    it is refused. `basic` are user and password for a registry that asks for these; nobody's without a user.
    `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        fetch: Callable[[Challenge], Awaitable[Token]],
        *,
        basic: tuple[str, str] = ("", ""),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._basic = base64.b64encode(":".join(basic).encode()).decode() if basic[0] else ""
        self._clock = clock
        self._asked: dict[tuple[str, ...], Challenge] = {}
        self._asks_for_basic = False
        self._tokens: dict[Challenge, tuple[str, float]] = {}
        self._locks: dict[Challenge, asyncio.Lock] = {}

    async def token(self, challenge: Challenge, *, refused: str | None = None) -> str:
        """A token for that challenge, another one than `refused`. Who asks meanwhile waits for the same."""
        async with self._locks.setdefault(challenge, asyncio.Lock()):
            held, good_until = self._tokens.get(challenge, ("", 0.0))
            if not held or held == refused or self._clock() >= good_until:
                new = await self._fetch(challenge)
                held, good_until = new.text, self._clock() + new.seconds * _USED_OF_ITS_LIFE
                self._tokens[challenge] = (held, good_until)
            return held

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        kind = _kind(request)
        known = self._asked.get(kind)
        used = await self.token(known) if known else None
        if used:
            request.headers["Authorization"] = f"Bearer {used}"
        elif self._asks_for_basic:
            request.headers["Authorization"] = f"Basic {self._basic}"
        response = yield request
        if response.status_code != httpx.codes.UNAUTHORIZED:
            return
        asked = response.headers.get("WWW-Authenticate", "")
        if challenge := parse_challenge(asked):
            with suppress(httpx.InvalidURL):  # a realm may be a path of the registry's own
                challenge = replace(challenge, realm=str(response.url.join(challenge.realm)))
            _refuse_home(challenge, response.url)
            self._asked[kind] = challenge
            request.headers["Authorization"] = f"Bearer {await self.token(challenge, refused=used)}"
            yield request
        elif self._basic and not self._asks_for_basic and "basic" in dict(challenges(asked)):
            self._asks_for_basic = True
            request.headers["Authorization"] = f"Basic {self._basic}"
            yield request


def _refuse_home(challenge: Challenge, asked: httpx.URL) -> None:
    """A registry elsewhere sends nobody, and no password, to a server of this machine's own."""
    with suppress(httpx.InvalidURL):
        realm = httpx.URL(challenge.realm)
        if is_on_this_machine(realm.host) and not is_on_this_machine(asked.host):
            raise SystemUnavailable(
                f"the registry {asked.host} names {without_query(realm)} as where to sign in: this machine",
                hint="its realm has to be an address of its own: that is in the registry's configuration",
            )


def _kind(request: httpx.Request) -> tuple[str, ...]:
    """Requests of one kind need one scope: to read, write or delete in a repository, or to mount from one."""
    found = _REPOSITORY.match(request.url.path)
    change = {"GET": "read", "HEAD": "read", "DELETE": "delete"}.get(request.method, "write")
    return (*(found.groups() if found else ()), change, request.url.params.get("from", ""))


def password_auth(
    username: str,
    password: str,
    transport: httpx.AsyncBaseTransport | None = None,
    *,
    identity: str = "",
    attempts: int = 5,
) -> BearerAuth:
    """A user and a password for either kind of registry; nobody, who may often pull, without a user.

    `identity` is a refresh token, which then speaks for the user where tokens are given.
    """
    fetch = password_tokens(username, password, transport, identity=identity, attempts=attempts)
    return BearerAuth(fetch, basic=(username, password))


def password_tokens(
    username: str,
    password: str,
    transport: httpx.AsyncBaseTransport | None = None,
    *,
    identity: str = "",
    attempts: int = 5,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Callable[[Challenge], Awaitable[Token]]:
    """Tokens for a user and password, from the realm that the registry names; for nobody without a user.

    The realm is asked as a registry is: again when it is busy, and never in clear over a network. An
    `identity` token goes there by OAuth 2's refresh grant (distribution, "Docker Registry v2 authentication
    using OAuth2"), as docker sends it.
    """

    async def fetch(challenge: Challenge) -> Token:
        realm = _realm(challenge)
        # What the realm itself says of the service is said again by the challenge.
        words: list[tuple[str, str | int | float | bool | None]]
        words = [one for one in realm.params.multi_items() if one[0] != "service" or not challenge.service]
        words += [("service", challenge.service)] if challenge.service else []
        words += [("scope", scope) for scope in challenge.scope.split()]
        async with Connection(
            str(realm.copy_with(path="/", query=None)),
            name=f"the token server {without_query(realm)}",
            auth=httpx.BasicAuth(username, password) if username and not identity else None,
            transport=transport,
            attempts=attempts,
            sleep=sleep,
            elsewhere=False,
        ) as server:
            expect = {200, *range(301, 309), 400, 401, 403, 404}
            if identity:
                grant = {"grant_type": "refresh_token", "client_id": "va", "refresh_token": identity}
                grant |= {"service": challenge.service, "scope": challenge.scope}
                answer = await server.ask(
                    "POST",
                    realm,
                    expect=expect,
                    headers={"Content-Type": "application/x-www-form-urlencoded"},
                    content=urlencode({name: value for name, value in grant.items() if value}).encode(),
                    most=_LARGEST_TOKEN,
                )
            else:
                url = realm.copy_with(params=httpx.QueryParams(words)) if words else realm
                answer = await server.ask("GET", url, expect=expect, most=_LARGEST_TOKEN)
        try:
            return _token_in(answer.status, answer.content)
        except ValueError as error:
            wanted = challenge.scope or challenge.service
            refused = answer.status in (400, 401, 403)
            raise SystemUnavailable(
                f"{without_query(realm)} gave no token{f' for {wanted}' if wanted else ''}: {error}",
                hint="check the user and the password of this registry"
                if refused or answer.status == httpx.codes.OK
                else "this is where the registry says that one signs in: ask who runs it",
            ) from error

    return fetch


def _realm(challenge: Challenge) -> httpx.URL:
    """Where tokens come from; SystemUnavailable when it is no place for a password."""
    try:
        realm = httpx.URL(challenge.realm).copy_with(userinfo=b"", fragment=None)
    except httpx.InvalidURL as error:
        raise SystemUnavailable(f"the registry names {challenge.realm!r} as where to sign in") from error
    if not realm.host or not (
        realm.scheme == "https" or (realm.scheme == "http" and is_on_this_machine(realm.host))
    ):
        raise SystemUnavailable(
            f"the registry names {without_query(realm)} as where to sign in: nothing is sent there in clear",
            hint="its realm has to be an https address: that is in the registry's own configuration",
        )
    return realm


def _token_in(status: int, content: bytes) -> Token:
    """The token of an answer, `token` or `access_token`; ValueError says why there is none."""
    if status != httpx.codes.OK:
        raise ValueError(f"it answered {status}")
    answer = read_json(content)
    if not isinstance(answer, dict):
        raise ValueError("it answered with JSON that is no object")
    for text in (answer.get("token"), answer.get("access_token")):
        # What is no header's text would fail at each request, and in other words.
        if isinstance(text, str) and text.isascii() and text.isprintable() and text.strip():
            return Token(text=text.strip(), seconds=_seconds(answer.get("expires_in")))
    raise ValueError("there is none in its answer")


def _seconds(said: Any) -> float:
    """A token's life, whatever its issuer wrote: nothing, text, none at all, or more than there is."""
    try:
        seconds = float(said)
    except (TypeError, ValueError, OverflowError):
        return _SHORTEST_LIFE
    return seconds if math.isfinite(seconds) and seconds > 0 else _SHORTEST_LIFE

"""One origin over HTTP: asked again as it says, read up to a bound, and alone in being told who we are.

- What a busy or restarting server turned away (408, 425, 429, 500, 502, 503, 504, a lost connection, one
  that only trickles) is asked again, after the time it asks for or with exponential back-off; what then still
  fails is SystemUnavailable.
- Credentials go to this origin and nowhere else: not behind a redirect, not to the next page, not to the
  place of an upload. A challenge counts only when it comes from here. Elsewhere is https; plain http stays on
  this machine.
- Nothing is read beyond what the caller can use, compressed or not (RFC 9110, 8.4).
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Self

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

from ci.errors import PipelineError, SystemUnavailable
from ci.reasons import reason_of
from ci.registry.content import read_json, unzip
from ci.registry.headers import next_link, number
from ci.registry.loopback import LoopbackTransport
from ci.retries import retry_after
from ci.trusted import trusted

__all__ = [
    "AGAIN",
    "CUT",
    "SMALL",
    "Again",
    "Answer",
    "Connection",
    "Replayable",
    "Unusable",
    "is_on_this_machine",
    "pieces",
    "without_query",
]

SMALL = 4 * 2**20
"""Bytes that an answer may have unless its caller says otherwise; the specification says it of manifests."""
_LISTED = 16 * 2**20
"""Bytes of all pages of one list together."""
_PAGES = 10_000
_WORDS = 64 * 2**10
"""Bytes that are read of an answer that nobody wanted: an error's words."""
_SAID = 300
"""Characters of an error's words that are shown."""
_ANSWERS_WITHIN = 300.0
"""Seconds to the beginning of an answer, with all that it takes to sign in."""
_WINDOW = 60.0
_WINDOW_BYTES = 64 * 2**10
"""A body brings so much in each window, or is taken for cut: one byte a second never ends."""
_LONGEST_WAIT = 60.0
_REDIRECTS = 5
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})
_FULL = ("no space left on device", '"err":28', "quota")  # 28 is ENOSPC, as Go's errors print it
CUT = (httpx.TransportError, httpx.StreamError, TimeoutError)
"""What ends a request before its answer is whole."""

Body = Callable[[], AsyncIterator[bytes]]


class Again(Exception):
    """A request that may well work in a moment, or after as many seconds as the server asked for."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Unusable(SystemUnavailable):
    """The server answers, but what it holds there is larger than such a thing can be, or is no such thing."""


class Replayable:
    """A request body that can be read twice: when a token has expired, the request is sent again."""

    def __init__(self, body: Body) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer. `url` is where it came from, behind redirects; `content` is decoded."""

    status: int
    headers: httpx.Headers
    url: httpx.URL
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    @property
    def media_type(self) -> str:
        return str(self.headers.get("Content-Type", "")).partition(";")[0].strip().lower()

    @property
    def explained(self) -> str:
        """Status and the server's own words, on one line."""
        return _explained(self.status, self.text)

    def fields(self) -> dict[str, Any]:
        """The JSON object that it is; SystemUnavailable when it is none."""
        try:
            found = read_json(self.content)
        except ValueError as error:
            raise SystemUnavailable(
                f"{without_query(self.url)} answered with no JSON: {error}",
                hint="a proxy or a login page may have answered in its place",
            ) from error
        if not isinstance(found, dict):
            raise SystemUnavailable(f"{without_query(self.url)} answered with JSON that is no object")
        return found


class Connection:
    """What is asked of one origin (`https://host:port`); an async context manager.

    `name` is what it is called in messages, `auth` any httpx.Auth. Unless `elsewhere`, no redirect leads to
    another origin. `transport` and `sleep` are for tests.
    """

    def __init__(
        self,
        origin: str,
        *,
        name: str,
        auth: httpx.Auth | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        attempts: int = 5,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        elsewhere: bool = True,
    ) -> None:
        self.origin = httpx.URL(origin)
        self._at = lru_cache(maxsize=256)(self.origin.join)  # a URL is taken apart in pure Python
        self.name = name
        self._auth = auth
        self._attempts = attempts
        self._sleep = sleep
        self._elsewhere = elsewhere
        secure = self.origin.scheme == "https"
        self._client = httpx.AsyncClient(
            transport=transport or (None if secure else LoopbackTransport()),
            timeout=httpx.Timeout(60.0, connect=5.0),
            headers={"User-Agent": "va", "Accept-Encoding": "identity"},
            # Harbor takes whoever sends its cookie back for a browser, and wants another token of it.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            trust_env=secure,
            verify=trusted() if secure else False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def is_own(self, url: httpx.URL) -> bool:
        """Whether that is at this origin."""
        own = self.origin
        return (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port)

    async def ask(
        self,
        method: str,
        url: str | httpx.URL,
        *,
        expect: Collection[int],
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        most: int = SMALL,
        as_sent: bool = False,
    ) -> Answer:
        """A whole answer of at most so many bytes, asked for as often as it takes.

        With `as_sent`, its bytes are left as they are, whatever encoding the answer says that they have.
        """
        async for attempt in self.retrying():
            with attempt:
                return await self.once(
                    method, url, expect=expect, headers=headers, content=content, most=most, as_sent=as_sent
                )
        raise AssertionError("tenacity either returns or raises")

    async def once(
        self,
        method: str,
        url: str | httpx.URL,
        *,
        expect: Collection[int],
        headers: Mapping[str, str] | None = None,
        content: bytes | Replayable | None = None,
        most: int = SMALL,
        as_sent: bool = False,
    ) -> Answer:
        """As `ask`, but one request: `Again` when it is worth another try."""
        async with self.opened(method, url, expect=expect, headers=headers, content=content) as response:
            return Answer(
                status=response.status_code,
                headers=response.headers,
                url=response.url,
                content=await self._whole(response, most, as_sent=as_sent),
            )

    @asynccontextmanager
    async def opened(
        self,
        method: str,
        url: str | httpx.URL,
        *,
        expect: Collection[int],
        headers: Mapping[str, str] | None = None,
        content: bytes | Replayable | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """One request and its answer, whose body is still to come: by `pieces`, as it was sent."""
        try:
            response = await self._sent(method, self._at(url), headers, content)
            try:
                if response.status_code not in expect:
                    raise await self._refusal(method, response)
                yield response
            finally:
                await response.aclose()
        except CUT as error:
            raise Again(reason_of(error)) from error

    async def pages(
        self,
        url: str,
        *,
        expect: Collection[int],
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Answer]:
        """The pages of a list, one after the other (specification 1.1, "Content Discovery").

        Only the first may be one of `expect`, the others are 200. SystemUnavailable when a link leads to a
        page that was there before, or to another origin, or when there is no end.
        """
        seen: set[httpx.URL] = set()
        following: httpx.URL | None = self.origin.join(url)
        read = 0
        while following is not None:
            seen.add(following)
            answer = await self.ask("GET", following, expect=expect, headers=headers, most=_LISTED - read)
            yield answer
            read += len(answer.content)
            expect = {200}
            link = next_link(answer.headers)
            following = self._joined(answer.url, link) if link is not None else None
            if following is None:
                return
            if not self.is_own(following):
                raise SystemUnavailable(
                    f"{self.name} says that its list goes on at {without_query(following)}, another origin",
                    hint="nothing is asked there; if it is the same registry behind a proxy, that has to "
                    "tell it the host and the scheme that it is asked by (X-Forwarded-Host, -Proto)",
                )
            if following in seen or len(seen) >= _PAGES:
                raise SystemUnavailable(
                    f"the list at {without_query(self.origin.join(url))} has no end: its page "
                    f"{len(seen)} leads to {'one that was there before' if following in seen else 'another'}",
                    hint="that is a fault of the registry, or of a proxy before it",
                )

    def retrying(self) -> AsyncRetrying:
        """Attempts, as many as this connection makes: what raises `Again` in one is tried in the next."""
        backoff = wait_exponential(multiplier=0.2, max=5.0) + wait_random(0, 0.1)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.after if isinstance(error, Again) else None
            return backoff(state) if asked is None else min(asked, _LONGEST_WAIT)

        def give_up(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            raise SystemUnavailable(
                f"{self.name} did not answer as it should, {self._attempts} times: {error}",
                hint="va status says which part is down, va up starts it again; then run the same command"
                if self.origin.scheme == "http"
                else "check the network and the registry's own status page; then run the same command",
            ) from error

        return AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=wait,
            retry=retry_if_exception_type(Again),
            sleep=self._sleep,
            retry_error_callback=give_up,
        )

    # --- one request ---------------------------------------------------------------------

    async def _sent(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str] | None,
        content: bytes | Replayable | None,
    ) -> httpx.Response:
        """The answer to a request, behind redirects. Who we are is said until one leads away."""
        auth = self._auth
        async with asyncio.timeout(None if isinstance(content, Replayable) else _ANSWERS_WITHIN):
            for _ in range(_REDIRECTS):
                if not self.is_own(url):
                    auth = None
                    self._refuse_in_clear(url)
                request = self._client.build_request(method, url, headers=headers, content=content)
                response = await self._as(auth, request)
                target = self._target(method, response)
                if target is None:
                    return response
                await _drained(response)
                url = target
        raise SystemUnavailable(f"{self.name} redirects {method} {without_query(url)} without an end")

    async def _as(self, auth: httpx.Auth | None, request: httpx.Request) -> httpx.Response:
        """What httpx does for an `auth`, without reading a refusal to its end, and without redirects."""
        if auth is None:
            return await self._client.send(request, stream=True)
        flow = auth.async_auth_flow(request)
        try:
            request = await anext(flow)
            while True:
                response = await self._client.send(request, stream=True)
                try:
                    request = await flow.asend(response)
                except StopAsyncIteration:
                    return response
                except BaseException:
                    await response.aclose()
                    raise
                await _drained(response)
        finally:
            await flow.aclose()

    def _target(self, method: str, response: httpx.Response) -> httpx.URL | None:
        """Where this answer leads; None when it is one. A change goes nowhere else than it was sent to."""
        if response.status_code not in _MOVED or not response.headers.get("Location"):
            return None
        target = self._joined(response.url, response.headers["Location"])
        reading = method in ("GET", "HEAD")
        if not reading and response.status_code not in (307, 308):
            return None
        return target if self.is_own(target) or (reading and self._elsewhere) else None

    def location(self, answer: Answer) -> httpx.URL:
        """Where an upload goes on. It may be at another origin, which is told no credentials."""
        if not answer.headers.get("Location"):
            raise SystemUnavailable(f"{self.name} took an upload and does not say where it goes on")
        place = self._joined(answer.url, answer.headers["Location"])
        if not self.is_own(place):
            self._refuse_in_clear(place)
        return place

    def _joined(self, base: httpx.URL, link: str) -> httpx.URL:
        try:
            found = base.join(link.strip()).copy_with(userinfo=b"", fragment=None)
        except httpx.InvalidURL as error:
            raise SystemUnavailable(f"{self.name} names a place that is no address: {error}") from error
        if not found.host:
            raise SystemUnavailable(f"{self.name} names a place that is no address: {link[:80]!r}")
        return found

    def _refuse_in_clear(self, url: httpx.URL) -> None:
        at_home = is_on_this_machine(url.host) and is_on_this_machine(self.origin.host)
        if not (url.scheme == "https" or (url.scheme == "http" and at_home)):
            raise SystemUnavailable(
                f"{self.name} leads to {without_query(url)}: nothing is sent there in clear",
                hint="the registry, or the proxy before it, has to name https addresses (X-Forwarded-Proto)",
            )

    async def _refusal(self, method: str, response: httpx.Response) -> PipelineError | Again:
        """The error that an unexpected answer is."""
        words = await _drained(response)
        said = _explained(response.status_code, words)
        status = response.status_code
        place = without_query(response.url) if not self.is_own(response.url) else response.url.path
        if status == HTTPStatus.INSUFFICIENT_STORAGE or any(word in words.lower() for word in _FULL):
            return SystemUnavailable(
                f"{self.name} is full: {said}",
                hint="free room there, then run the same command: what has arrived is not sent again",
            )
        if status in AGAIN:
            return Again(said, retry_after(response.headers))
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            if not self.is_own(response.url):
                return SystemUnavailable(
                    f"{self.name} sent us to {place}, where we are refused: {said}",
                    hint="nobody's credentials go there: what stores its content has to take its own links",
                )
            return SystemUnavailable(
                f"{self.name} refused these credentials: {said}",
                hint="log in again, or ask for the right to pull and push there",
            )
        locked = status == HTTPStatus.METHOD_NOT_ALLOWED
        return SystemUnavailable(
            f"{self.name} answered {method} {place} with {said}",
            hint="what is there is locked, or this registry allows no such change" if locked else "",
        )

    async def _whole(self, response: httpx.Response, most: int, *, as_sent: bool) -> bytes:
        """The body, decoded; Unusable when it has more than so many bytes, before or after."""
        if response.request.method == "HEAD":
            return b""
        content = bytearray()
        if (number(response.headers.get("Content-Length")) or 0) <= most:
            async for piece in pieces(response):
                content += piece
                if len(content) > most:
                    break
            else:
                plain = bytes(content) if as_sent else self._decoded(response, bytes(content), most)
                if len(plain) <= most:
                    return plain
        raise Unusable(
            f"{without_query(response.url)} has more than the {most} bytes that such a thing may have",
            hint="somebody put something else there: find out what it is, and remove it",
        )

    def _decoded(self, response: httpx.Response, raw: bytes, most: int) -> bytes:
        """What a proxy has compressed although nobody asked for it."""
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            return raw
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise SystemUnavailable(
                f"{without_query(response.url)} came encoded as {encoding[:40]!r}, which was not asked for"
            )
        try:
            return unzip(raw, most + 1)
        except ValueError as error:
            raise Again(f"it sent what is no {encoding}: {error}") from error


# --- reading ---------------------------------------------------------------------------------


async def pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    """A body in the pieces in which it arrives, as it was sent; httpx.ReadTimeout when it only trickles."""
    since, come = time.monotonic(), 0
    # Not by aiter_raw, which wants to be the first to read: a transport may have made it of bytes.
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for piece in response.stream:
        come += len(piece)
        yield piece
        if (now := time.monotonic()) - since > _WINDOW:
            if come < _WINDOW_BYTES:
                raise httpx.ReadTimeout(f"no more than {come} bytes came in {now - since:.0f} s")
            since, come = now, 0


async def _drained(response: httpx.Response) -> str:
    """The words of an answer that is not wanted, as far as they are worth reading; it is closed then."""
    words = bytearray()
    try:
        async for piece in pieces(response):
            words += piece
            if len(words) > _WORDS:
                break
    finally:
        await response.aclose()
    return words[:_WORDS].decode(errors="replace")


def _explained(status: int, words: str) -> str:
    try:
        errors = read_json(words)["errors"]
        said = "; ".join(f"{item.get('code')} {item.get('message', '')}".strip() for item in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        said = words
    said = " ".join(said.split())[:_SAID]
    return f"{status} {httpx.codes.get_reason_phrase(status)}{': ' if said else ''}{said}"


def is_on_this_machine(host: str) -> bool:
    """Whether that is this machine by any of its loopback addresses, or by the name of it."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host.lower() == "localhost"


def without_query(url: httpx.URL) -> str:
    """An address for people: what comes behind the `?` may be a signature."""
    return str(url.copy_with(query=None))

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.test_utils import TestServer

from ci.delivery.load import Answer, Counts, Lost, generate

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MADE = json.dumps({"session_id": "s1"}).encode()


async def well(method: str, path: str, body: object) -> Answer:
    status = {"POST": 201, "GET": 200, "DELETE": 204}[method]
    return Answer(status=status, track="stable", body=MADE if status == 201 else b"")


def send(answer: Callable[[str, str, object], Awaitable[Answer]], *, seconds: float = 0.2) -> Counts:
    async def run() -> Counts:
        async with generate("http://g", "api.localhost", rate=200, send=answer) as load:
            await asyncio.sleep(seconds)
        return load.counts

    return asyncio.run(run())


def test_a_session_is_made_read_and_ended_and_each_request_counted() -> None:
    seen = []

    async def answer(method: str, path: str, body: object) -> Answer:
        seen.append((method, path, body))
        return await well(method, path, body)

    started = time.monotonic()
    counts = send(answer)
    elapsed = time.monotonic() - started

    assert set(map(str, seen)) == {
        "('POST', '/v1/sessions', {})",
        "('GET', '/v1/sessions/s1', None)",
        "('DELETE', '/v1/sessions/s1', None)",
    }
    assert counts.sent == counts.ok == 3 * counts.sessions == counts.by_track["stable"] == len(seen)
    assert (counts.failed, counts.lost, counts.skipped) == (0, 0, 0)
    assert 2 <= counts.sessions <= 200 * elapsed + 1  # a busy machine may start fewer, never more


def test_what_the_application_answered_failed_and_what_never_reached_it_is_lost() -> None:
    turns = iter(range(10_000))

    async def answer(method: str, path: str, body: object) -> Answer:
        turn = next(turns) % 3
        if turn == 0:
            return Answer(status=500, track="canary")
        if turn == 1:
            raise Lost("ClientOSError: reset by peer")
        return Answer(status=503, track=None)

    counts = send(answer)

    assert counts.sent == counts.sessions == counts.failed + counts.lost
    assert counts.failed == counts.failed_by_track["canary"] > 0
    assert counts.lost > counts.failed
    assert "POST ClientOSError: reset by peer" in counts.lost_how
    assert "POST answered 503 by the gateway itself" in counts.lost_how
    assert len(counts.lost_how) == 5


def test_a_gateway_that_hangs_cannot_pile_sessions_up() -> None:
    async def run() -> Counts:
        answers = asyncio.Event()

        async def hang(method: str, path: str, body: object) -> Answer:
            await answers.wait()
            return await well(method, path, body)

        async with generate("http://g", "h", rate=500, concurrency=4, send=hang) as load:
            while load.counts.skipped <= 20:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            answers.set()
        return load.counts

    counts = asyncio.run(run())
    assert counts.sessions == 4
    assert counts.ok == 12  # those under way were finished, none is lost by stopping


def test_it_stops_by_itself_after_its_longest_time() -> None:
    async def run() -> Counts:
        async with generate("http://g", "h", rate=100, longest=0.1, send=well) as load:
            await asyncio.sleep(0.4)
        return load.counts

    started = time.monotonic()
    assert asyncio.run(run()).sessions < 20
    assert time.monotonic() - started < 5


def over_http(*handlers: tuple[str, str, Handler], timeout: float = 5.0, closed: bool = False) -> Counts:
    async def run() -> Counts:
        application = web.Application()
        for method, path, handler in handlers:
            application.router.add_route(method, path, handler)
        async with TestServer(application) as server:
            url = str(server.make_url("")).rstrip("/")
            if closed:
                await server.close()
            async with generate(url, "api.localhost", rate=50, timeout=timeout) as load:
                await asyncio.sleep(0.15)
        return load.counts

    return asyncio.run(run())


def test_real_requests_carry_the_host_and_say_which_track_answered() -> None:
    hosts = set()

    def answer(status: int) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            hosts.add(request.headers["host"])
            body = MADE if status == 201 else b""
            return web.Response(status=status, body=body, headers={"x-va-track": "canary"})

        return handle

    counts = over_http(
        ("POST", "/v1/sessions", answer(201)),
        ("GET", "/v1/sessions/s1", answer(200)),
        ("DELETE", "/v1/sessions/s1", answer(503)),
    )

    assert hosts == {"api.localhost"}
    assert counts.sessions > 0 and counts.lost == 0
    assert counts.by_track["canary"] == counts.sent
    assert counts.failed == counts.sessions  # a 503 of the application is its failure, not a loss


def test_a_refused_connection_and_a_timeout_are_losses() -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(0.5)
        return web.Response()

    refused = over_http(closed=True)
    timed_out = over_http(("POST", "/v1/sessions", hang), timeout=0.05)

    assert refused.lost == refused.sent > 0 and "ClientConnectorError" in refused.lost_how[0]
    assert timed_out.lost == timed_out.sent > 0 and "Timeout" in timed_out.lost_how[0]

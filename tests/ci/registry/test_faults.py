"""What registries, their token servers and the proxies before them do in the field, each as a row of a table.

A server is a function here, behind httpx's own mock transport: what it was asked, and with which credentials,
is what most of these are about.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import gzip
import hashlib
import json
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from fake_registry import FakeRegistry, error

from ci.errors import BadInput, PipelineError, SystemUnavailable
from ci.registry import (
    AzureRegistry,
    BearerAuth,
    Blob,
    Challenge,
    Descriptor,
    Outcome,
    Registry,
    Token,
    Unusable,
    artifact,
    digest_of,
    parse_manifest,
    password_auth,
    password_tokens,
    push,
)
from ci.registry import blobs as blobs_module
from ci.registry import connection as connection_module
from ci.registry.auth import challenges, parse_challenge
from ci.registry.connection import is_on_this_machine
from ci.registry.content import EMPTY_TYPE, IMAGE_INDEX, IMAGE_MANIFEST
from ci.registry.headers import next_link

T = TypeVar("T")

HOST = "registry.example"
USER, PASSWORD = "robot$ci", "not-to-be-seen"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
CONTENT = bytes(range(256)) * 40
DIGEST = digest_of(CONTENT)
EMPTY_INDEX = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": []}

Answer = httpx.Response | Exception
Serve = Callable[[httpx.Request], Answer]


@dataclass
class Net:
    """All hosts there are, by one function; what was asked of them, and for how long somebody waited."""

    serve: Serve
    asked: list[httpx.Request] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    def transport(self) -> httpx.MockTransport:
        def handle(request: httpx.Request) -> httpx.Response:
            self.asked.append(request)
            answer = self.serve(request)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return httpx.MockTransport(handle)

    async def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)

    def auth(self) -> BearerAuth:
        fetch = password_tokens(USER, PASSWORD, self.transport(), sleep=self.sleep)
        return BearerAuth(fetch, basic=(USER, PASSWORD))

    def run(self, work: Callable[[Registry], Awaitable[T]], *, host: str = HOST, signed_in: bool = True) -> T:
        async def main() -> T:
            auth = self.auth() if signed_in else None
            async with Registry(host, transport=self.transport(), auth=auth, sleep=self.sleep) as registry:
                return await work(registry)

        return asyncio.run(main())

    def credentials_at(self, *, but: str = HOST) -> list[str]:
        """Where credentials went, other than to that host."""
        return [
            str(request.url)
            for request in self.asked
            if "Authorization" in request.headers and request.url.host != but
        ]


def streamed(content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> httpx.Response:
    """A body that is not there before it is read, in pieces of a thousand bytes."""

    async def body() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 1000):
            yield content[at : at + 1000]

    return httpx.Response(status, content=body(), headers=headers)


# --- challenges ----------------------------------------------------------------------------


PUSH = "repository:a/b:pull,push"
BOTH = "repository:voice/app:pull,push repository:voice/base:pull"


@pytest.mark.parametrize(
    ("header", "realm", "service", "scope"),
    [
        (f'Bearer realm="https://t/x",service="s",scope="{BOTH}"', "https://t/x", "s", BOTH),
        ('bearer Realm="https://t/x", SERVICE="s"', "https://t/x", "s", ""),
        ('BEARER realm="https://t/x"', "https://t/x", "", ""),
        (f"Bearer realm=https://t/x,service=s,scope={PUSH}", "https://t/x", "s", PUSH),
        (f"Bearer realm=https://t/x,scope={PUSH}, error=invalid_token", "https://t/x", "", PUSH),
        ('Basic realm="r", Bearer realm="https://t/x",service="s"', "https://t/x", "s", ""),
        ('Bearer realm="https://t/x",service="s", Basic realm="other"', "https://t/x", "s", ""),
        ('Negotiate YWJj==, Bearer realm="https://t/x?a=1,2"', "https://t/x?a=1,2", "", ""),
        ('Digest realm="d, Bearer", nonce="n=1", Bearer realm="https://t/x"', "https://t/x", "", ""),
        ('Bearer  realm = "https://t/x" ,\tservice = "a \\"b\\""', "https://t/x", 'a "b"', ""),
        ('Bearer realm="https://t/x",scope="a:b:x",scope="c:d:x"', "https://t/x", "", "a:b:x c:d:x"),
        ('Bearer realm="https://t/x", unknown, service="s"', "https://t/x", "", ""),
    ],
)  # fmt: skip
def test_challenges_are_read_as_they_are_sent(header: str, realm: str, service: str, scope: str) -> None:
    assert parse_challenge(header) == Challenge(realm=realm, service=service, scope=scope)


@pytest.mark.parametrize(
    "header", ["", "Bearer", 'Bearer realm=""', 'Basic realm="x"', "Negotiate", ",,;=", '"']
)
def test_what_is_no_challenge_for_a_token_is_none(header: str) -> None:
    assert parse_challenge(header) is None


@pytest.mark.parametrize("realm", ["http://127.0.0.1:9/t", "https://localhost/t", "http://[::1]/t"])
def test_a_registry_elsewhere_sends_nobody_to_a_server_of_this_machine(realm: str) -> None:
    net = Net(lambda request: httpx.Response(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'}))
    with pytest.raises(SystemUnavailable, match="this machine"):
        net.run(lambda registry: registry.blob("app", DIGEST))
    assert {request.url.host for request in net.asked} == {HOST}


def test_several_headers_are_several_challenges() -> None:
    headers = httpx.Headers(
        [("WWW-Authenticate", 'Basic realm="x"'), ("www-authenticate", 'Bearer realm="y"')]
    )
    found = dict(challenges(headers["WWW-Authenticate"]))
    assert found == {"basic": {"realm": "x"}, "bearer": {"realm": "y"}}


def guarded(challenge: str | list[str], token: Callable[[httpx.Request], Answer]) -> Serve:
    """A registry that wants the token `good`, and the place that gives it."""

    def serve(request: httpx.Request) -> Answer:
        if request.url.host == "token.example" or request.url.path == "/token":
            return token(request)
        if request.headers.get("Authorization") == "Bearer good":
            return httpx.Response(200, json={"name": "app", "tags": ["v1"]})
        said = [challenge] if isinstance(challenge, str) else challenge
        return httpx.Response(401, headers=[("WWW-Authenticate", one) for one in said])

    return serve


REALM = 'Bearer realm="https://token.example/auth?account=ci",service="r",scope="repository:app:pull"'


def given(*answers: Answer) -> Callable[[httpx.Request], Answer]:
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


GOOD = {"token": "good"}


def there() -> httpx.Response:
    return httpx.Response(200, json=GOOD)


IN_THE_PAST = email.utils.formatdate(time.time() - 5, usegmt=True)


@pytest.mark.parametrize(
    ("answer", "waits"),
    [
        ([there()], []),
        ([httpx.Response(200, json={"access_token": "good"})], []),
        ([httpx.Response(200, json={"token": None, "access_token": "good", "expires_in": None})], []),
        ([httpx.Response(200, json={"token": "", "access_token": "good", "expires_in": 0})], []),
        ([httpx.Response(200, json={**GOOD, "expires_in": "300"})], []),
        ([httpx.Response(200, json={**GOOD, "expires_in": "soon"})], []),
        ([httpx.Response(200, content=b'{"token": "good", "expires_in": 1e999}')], []),
        ([httpx.Response(200, json={**GOOD, "expires_in": -1, "issued_at": "yesterday"})], []),
        ([httpx.Response(503), there()], [None]),
        ([httpx.Response(429, headers={"Retry-After": "11"}), there()], [11]),
        ([httpx.Response(503, headers={"Retry-After": IN_THE_PAST}), there()], [0]),
        ([httpx.ConnectTimeout("slow"), httpx.ReadError("reset"), there()], [None, None]),
        ([httpx.Response(408), httpx.Response(425), httpx.Response(504), there()], [None] * 3),
    ],
)  # fmt: skip
def test_a_token_comes_in_many_forms_and_sometimes_later(
    answer: list[Answer], waits: list[float | None]
) -> None:
    net = Net(guarded(REALM, given(*answer)))
    assert net.run(lambda registry: registry.tags("app")) == ("v1",)
    assert len(net.waited) == len(waits)
    assert all(wanted is None or got == wanted for got, wanted in zip(net.waited, waits, strict=True))
    asked = next(request for request in net.asked if request.url.host == "token.example")
    assert asked.headers["Authorization"] == BASIC
    assert str(asked.url.query, "ascii") == "account=ci&service=r&scope=repository%3Aapp%3Apull"


@pytest.mark.parametrize(
    ("answer", "said", "hint"),
    [
        (httpx.Response(200, text="<html>sign in</html>"), "gave no token", "user and the password"),
        (httpx.Response(200, json=["good"]), "gave no token", "user and the password"),
        (httpx.Response(200, json={"token": "a\nb"}), "gave no token", "user and the password"),
        (httpx.Response(200, content=b"[" * 100_000), "nested too deep", "user and the password"),
        (httpx.Response(401), "gave no token", "user and the password"),
        (httpx.Response(403, text="<html>no</html>"), "gave no token", "user and the password"),
        (httpx.Response(404), "gave no token", "where the registry says"),
        (httpx.Response(502), "did not answer", "network"),
        (
            httpx.Response(307, headers={"Location": "https://thief.example/"}),
            "gave no token",
            "where the reg",
        ),
    ],
)
def test_a_token_server_that_gives_none_is_named_with_what_to_do(
    answer: httpx.Response, said: str, hint: str
) -> None:
    net = Net(guarded(REALM, given(answer)))
    with pytest.raises(SystemUnavailable, match=said) as caught:
        net.run(lambda registry: registry.tags("app"))
    assert "token.example" in caught.value.message and hint in caught.value.hint
    assert PASSWORD not in f"{caught.value} {caught.value.hint}"
    assert not [one for one in net.asked if one.url.host == "thief.example"]


def test_each_scope_is_a_parameter_of_its_own_and_what_is_not_said_is_not_asked_for() -> None:
    for header, wanted in {
        f'Bearer realm="https://token.example/t",scope="{BOTH}"': [("scope", one) for one in BOTH.split()],
        'Bearer realm="https://token.example/t",service="r"': [("service", "r")],
        'Bearer realm="https://token.example/t"': [],
        'Bearer realm="https://token.example/t?service=r&account=a",service="r"': [
            ("account", "a"),
            ("service", "r"),
        ],
        'Bearer realm="https://token.example/t?service=r"': [("service", "r")],
    }.items():
        net = Net(guarded(header, given(httpx.Response(200, json=GOOD))))
        net.run(lambda registry: registry.tags("app"))
        asked = next(request for request in net.asked if request.url.host == "token.example")
        assert asked.url.params.multi_items() == wanted


def test_a_realm_may_be_a_path_of_the_registry() -> None:
    net = Net(guarded('Bearer realm="/token",service="r"', given(httpx.Response(200, json=GOOD))))
    assert net.run(lambda registry: registry.tags("app")) == ("v1",)
    assert not net.credentials_at()


def test_a_registry_that_asks_for_user_and_password_gets_them_and_is_asked_once() -> None:
    def serve(request: httpx.Request) -> Answer:
        if request.headers.get("Authorization") == BASIC:
            return httpx.Response(200, json={"tags": []})
        return httpx.Response(401, headers={"WWW-Authenticate": 'basic Realm="r"'})

    async def twice(registry: Registry) -> None:
        await registry.tags("app")
        await registry.tags("other")

    net = Net(serve)
    net.run(twice)
    assert len(net.asked) == 3
    with pytest.raises(SystemUnavailable, match="refused these credentials"):
        asyncio.run(_tags_of(Registry(HOST, transport=net.transport(), auth=password_auth("", ""))))


async def _tags_of(registry: Registry) -> None:
    async with registry:
        await registry.tags("app")


def test_a_refused_password_is_not_sent_again() -> None:
    net = Net(lambda _: httpx.Response(401, headers={"WWW-Authenticate": "Basic"}))
    with pytest.raises(SystemUnavailable, match="refused these credentials: 401"):
        net.run(lambda registry: registry.tags("app"))
    assert len(net.asked) == 2


# --- credentials keep to their origin ------------------------------------------------------


@pytest.mark.parametrize(
    "realm", ["http://token.example/t", "ftp://token.example/", "http://127.0.0.1.evil.example/t"]
)
def test_no_password_goes_to_a_realm_in_clear(realm: str) -> None:
    net = Net(lambda _: httpx.Response(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'}))
    with pytest.raises(SystemUnavailable, match="where to sign in"):
        net.run(lambda registry: registry.tags("app"))
    assert len(net.asked) == 1


@pytest.mark.parametrize(
    "challenge", ['Bearer realm="https://cdn.example/token",service="c"', 'Basic realm="c"']
)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_challenge_of_where_a_redirect_leads_counts_for_nothing(challenge: str, status: int) -> None:
    def serve(request: httpx.Request) -> Answer:
        if request.url.host == HOST:
            return httpx.Response(status, headers={"Location": f"https://cdn.example/{DIGEST}?sig=secret"})
        return httpx.Response(401, headers={"WWW-Authenticate": challenge})

    net = Net(serve)
    with pytest.raises(SystemUnavailable, match=r"cdn\.example.*401") as caught:
        net.run(lambda registry: registry.blob("app", DIGEST))
    assert not net.credentials_at(but="")
    assert "secret" not in f"{caught.value}"


def test_a_token_does_not_follow_a_redirect_and_not_back_either() -> None:
    def serve(request: httpx.Request) -> Answer:
        if request.url.host == "cdn.example":
            return httpx.Response(302, headers={"Location": f"https://{HOST}/signed"})
        if request.url.path == "/signed":
            return httpx.Response(200, content=CONTENT)
        if "Authorization" not in request.headers:
            return httpx.Response(401, headers={"WWW-Authenticate": "Basic"})
        return httpx.Response(307, headers={"Location": "https://u:p@cdn.example/x", "Set-Cookie": "sid=1"})

    net = Net(serve)
    assert net.run(lambda registry: registry.blob("app", DIGEST)) == CONTENT
    assert not net.credentials_at()
    assert not [one for one in net.asked if one.url.path == "/signed" and "Authorization" in one.headers]
    assert not [one for one in net.asked if "Cookie" in one.headers]


@pytest.mark.parametrize("target", ["http://cdn.example/x", "http://127.0.0.1:9/x", "ftp://cdn.example/x"])
def test_nothing_leads_from_https_to_what_is_in_clear(target: str) -> None:
    net = Net(lambda _: httpx.Response(307, headers={"Location": target}))
    with pytest.raises(SystemUnavailable, match="nothing is sent there in clear"):
        net.run(lambda registry: registry.blob("app", DIGEST))
    assert len(net.asked) == 1


def test_redirects_have_an_end() -> None:
    net = Net(lambda request: httpx.Response(307, headers={"Location": str(request.url)}))
    with pytest.raises(SystemUnavailable, match="without an end"):
        net.run(lambda registry: registry.blob("app", DIGEST))
    assert len(net.asked) < 10


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_what_changes_something_is_sent_nowhere_else(status: int) -> None:
    net = Net(lambda _: httpx.Response(status, headers={"Location": "https://other.example/v2/"}))
    manifest = artifact(artifact_type="x/y", layers=()).root
    with pytest.raises(SystemUnavailable, match=str(status)):
        net.run(lambda registry: registry.put_manifest("app", manifest))
    with pytest.raises(SystemUnavailable, match=str(status)):
        net.run(lambda registry: registry.remove("app", DIGEST))
    assert {request.url.host for request in net.asked} == {HOST}


def uploads(place: str) -> Serve:
    """A registry whose uploads go on at `place`, and that wants user and password of everybody."""

    def serve(request: httpx.Request) -> Answer:
        if request.url.host == HOST and "Authorization" not in request.headers:
            return httpx.Response(401, headers={"WWW-Authenticate": "Basic"})
        if request.method == "HEAD":
            return httpx.Response(404)
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": place} if place else {})
        return httpx.Response(201)

    return serve


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("/v2/app/blobs/uploads/u?_state=a%2Fb%3D", f"https://{HOST}/v2/app/blobs/uploads/u?_state=a%2Fb%3D&digest="),
        ("u1", f"https://{HOST}/v2/app/blobs/uploads/u1?digest="),
        (f"https://{HOST}:443/else", f"https://{HOST}/else?digest="),
        ("https://storage.example/up?sig=x+y", "https://storage.example/up?sig=x+y&digest="),
    ],
)  # fmt: skip
def test_an_upload_goes_on_where_it_is_told_without_credentials_elsewhere(place: str, url: str) -> None:
    blob = Blob(descriptor=Descriptor(media_type="x/y", digest=DIGEST, size=len(CONTENT)), source=CONTENT)
    net = Net(uploads(place))
    assert net.run(lambda registry: registry.push_blob("app", blob)) is Outcome.SENT
    assert str(net.asked[-1].url) == f"{url}{DIGEST.replace(':', '%3A')}"
    assert not net.credentials_at()


@pytest.mark.parametrize("place", ["", "http://storage.example/up", "http://127.0.0.1:1/up", "http://"])
def test_an_upload_that_goes_on_nowhere_or_in_clear_is_refused(place: str) -> None:
    blob = Blob(descriptor=Descriptor(media_type="x/y", digest=DIGEST, size=len(CONTENT)), source=CONTENT)
    net = Net(uploads(place))
    with pytest.raises(SystemUnavailable, match=r"goes on|in clear|no address"):
        net.run(lambda registry: registry.push_blob("app", blob))
    assert {request.method for request in net.asked} == {"HEAD", "POST"}


@pytest.mark.parametrize(
    ("host", "home"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("[::1]", True), ("LocalHost", True),
        ("0:0:0:0:0:0:0:1", True), ("127.0.0.1.evil.example", False), ("localhost.evil.example", False),
        ("10.0.0.1", False), ("::2", False), ("127.1", False), ("0x7f000001", False),
    ],
)  # fmt: skip
def test_what_this_machine_is_called(host: str, home: bool) -> None:
    assert is_on_this_machine(host) is home


# --- lists ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ('</v2/a/tags/list?last=b&n=9>; rel="next"', "/v2/a/tags/list?last=b&n=9"),
        ("</x>;rel=next", "/x"),
        ('</x> ; title="a, b" ;  REL = "last  NEXT"', "/x"),
        ('</first>; rel="first", </x?q=1,2>; rel="next"', "/x?q=1,2"),
        ('</prev>; rel="prev"', None),
        ("/x?last=1; rel=\"next\"", "/x?last=1"),
        ('<>; rel="next"', ""),
        ("</x>", None),
        ("nonsense", None),
        ("", None),
    ],
)  # fmt: skip
def test_links_are_read_as_they_are_sent(header: str, target: str | None) -> None:
    assert next_link({"Link": header}) == target


def tags_in_pages(*links: str, tags: Any = None) -> Serve:
    """A registry whose n-th page of tags has the n-th link; the last has none."""
    pages = 0

    def serve(_: httpx.Request) -> Answer:
        nonlocal pages
        pages += 1
        link = {"Link": links[pages - 1]} if pages <= len(links) else {}
        return httpx.Response(200, headers=link, json={"name": "a", "tags": tags or [f"t{pages}"]})

    return serve


def test_pages_are_followed_to_their_end_also_when_they_are_named_relatively() -> None:
    net = Net(
        tags_in_pages('<?last=t1>; rel="next"', "<list?last=t2>; rel=next", f"<https://{HOST}/l>; rel=next")
    )
    assert net.run(lambda registry: registry.tags("a")) == ("t1", "t2", "t3", "t4")
    assert [str(one.url) for one in net.asked] == [
        f"https://{HOST}/v2/a/tags/list",
        f"https://{HOST}/v2/a/tags/list?last=t1",
        f"https://{HOST}/v2/a/tags/list?last=t2",
        f"https://{HOST}/l",
    ]


@pytest.mark.parametrize(
    ("links", "said"),
    [
        (["<>; rel=next"], "no end"),
        (["</v2/a/tags/list?n=1>; rel=next"] * 2, "no end"),
        ([f"<?n={n % 3}>; rel=next" for n in range(9)], "no end"),
        (["<http://inner:5000/v2/a/tags/list?last=x>; rel=next"], "another origin"),
        ([f"<http://{HOST}/v2/a/tags/list?last=x>; rel=next"], "another origin"),
        ([f"<https://{HOST}:8443/v2/a/tags/list?last=x>; rel=next"], "another origin"),
        (["<https://registry.example.evil.example/>; rel=next"], "another origin"),
        (["<//evil.example/>; rel=next"], "another origin"),
    ],
)
def test_lists_without_an_end_or_that_go_on_elsewhere_are_an_error(links: list[str], said: str) -> None:
    for work in (lambda r: r.tags("a"), lambda r: r.repositories(), lambda r: r.referrers("a", DIGEST)):
        net = Net(_listing(*links))
        with pytest.raises(SystemUnavailable, match=said):
            net.run(work)
        assert {request.url.host for request in net.asked} == {HOST}
        assert not [request for request in net.asked if request.url.scheme != "https"]


def _listing(*links: str) -> Serve:
    """Tags, repositories or referrers, whichever is asked for; the pages of one are counted together."""
    pages = 0

    def serve(request: httpx.Request) -> Answer:
        nonlocal pages
        if "/manifests/" in request.url.path:
            return error(404, "MANIFEST_UNKNOWN")
        pages += 1
        link = {"Link": links[pages - 1]} if pages <= len(links) else {}
        body = {"name": "a", "tags": ["x"], "repositories": ["a"], **EMPTY_INDEX}
        return httpx.Response(200, headers={**link, "Content-Type": IMAGE_INDEX}, content=json.dumps(body))

    return serve


def test_pages_that_are_always_new_come_to_an_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_PAGES", 20)
    net = Net(_listing(*(f"<?n={n}>; rel=next" for n in range(99))))
    with pytest.raises(SystemUnavailable, match="no end"):
        net.run(lambda registry: registry.tags("a"))
    monkeypatch.setattr(connection_module, "_PAGES", 10_000)
    monkeypatch.setattr(connection_module, "_LISTED", 2000)
    with pytest.raises(Unusable, match="more than"):
        Net(_listing(*(f"<?n={n}>; rel=next" for n in range(99)))).run(lambda registry: registry.tags("a"))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"name": "a", "tags": None}, ()),
        ({"name": "a"}, ()),
        ({"name": "a", "tags": []}, ()),
        ({"name": "a", "tags": ["b"], "child": [], "manifest": {}}, ("b",)),
    ],
)
def test_a_repository_without_tags_is_told_in_several_ways(answer: object, found: tuple[str, ...]) -> None:
    assert Net(lambda _: httpx.Response(200, json=answer)).run(lambda r: r.tags("a")) == found


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>welcome to the network of this hotel</html>"),
        httpx.Response(200, content=b""),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"errors": [{"code": "UNKNOWN"}]}),
        httpx.Response(200, json={"tags": "abc"}),
        httpx.Response(200, json={"tags": [1]}),
        httpx.Response(200, content=b'{"tags": ' + b"[" * 100_000),
    ],
)
def test_what_is_no_list_of_tags_is_not_taken_for_an_empty_one(answer: httpx.Response) -> None:
    with pytest.raises(SystemUnavailable) as caught:
        Net(lambda _: answer).run(lambda registry: registry.tags("a"))
    assert "Error" not in caught.value.message


def test_a_list_that_breaks_off_is_not_a_whole_one() -> None:
    def serve(request: httpx.Request) -> Answer:
        if "last" in request.url.params:
            return error(404, "NAME_UNKNOWN")
        return httpx.Response(200, headers={"Link": "<?last=a>; rel=next"}, json={"tags": ["a"]})

    with pytest.raises(SystemUnavailable, match="404"):
        Net(serve).run(lambda registry: registry.tags("a"))


# --- referrers -----------------------------------------------------------------------------


def note(number: int, kind: str = "x/note") -> dict[str, Any]:
    raw = artifact(artifact_type=kind, layers=(("x/y", str(number).encode(), {}),)).root
    return {"mediaType": IMAGE_MANIFEST, "digest": raw.descriptor.digest, "size": 9, "artifactType": kind}


def index_of(*notes: dict[str, Any] | Any, **headers: str) -> httpx.Response:
    body = {**EMPTY_INDEX, "manifests": list(notes)}
    return httpx.Response(200, headers={"Content-Type": IMAGE_INDEX, **headers}, content=json.dumps(body))


def referring(api: Callable[[httpx.Request], Answer], *fallback: dict[str, Any]) -> Net:
    def serve(request: httpx.Request) -> Answer:
        if "/referrers/" in request.url.path:
            return api(request)
        return index_of(*fallback) if fallback else error(404, "MANIFEST_UNKNOWN")

    return Net(serve)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, text="404 page not found"),
        httpx.Response(405, headers={"Allow": "GET"}),
        error(400, "UNSUPPORTED"),
        httpx.Response(406),
        httpx.Response(501),
        httpx.Response(200, text="<html></html>", headers={"Content-Type": "text/html"}),
        httpx.Response(200, json={"hello": "world"}),
    ],
)
def test_a_registry_without_the_referrers_api_is_known_by_what_it_answers(answer: httpx.Response) -> None:
    net = referring(lambda _: answer, note(1))
    (found,) = net.run(lambda registry: registry.referrers("app", DIGEST))
    assert found.digest == note(1)["digest"]


def test_ghcr_sends_to_a_web_page_in_place_of_referrers() -> None:
    def api(_: httpx.Request) -> Answer:
        return httpx.Response(303, headers={"Location": "https://github.example/-/v2/packages"})

    def serve(request: httpx.Request) -> Answer:
        if request.url.host == "github.example":
            return httpx.Response(404, text="<html>not found</html>")
        return api(request) if "/referrers/" in request.url.path else index_of(note(1))

    (found,) = Net(serve).run(lambda registry: registry.referrers("app", DIGEST))
    assert found.digest == note(1)["digest"]


def test_a_fallback_tag_that_cannot_be_read_does_not_matter_where_the_api_is() -> None:
    def serve(request: httpx.Request) -> Answer:
        if "/referrers/" in request.url.path:
            return index_of(note(1), note(2))
        return error(403, "DENIED")

    assert len(Net(serve).run(lambda registry: registry.referrers("app", DIGEST))) == 2
    with pytest.raises(SystemUnavailable, match="refused"):
        Net(lambda r: error(404 if "/referrers/" in r.url.path else 403, "X")).run(
            lambda registry: registry.referrers("app", DIGEST)
        )


@pytest.mark.parametrize("down", [500, 503])
def test_an_api_that_is_down_is_not_one_that_is_not_there(down: int) -> None:
    with pytest.raises(SystemUnavailable, match="did not answer"):
        referring(lambda _: httpx.Response(down), note(1)).run(lambda r: r.referrers("app", DIGEST))


def test_all_pages_of_referrers_are_read_and_each_is_listed_once() -> None:
    def api(request: httpx.Request) -> Answer:
        page = int(request.url.params.get("page", "1"))
        link = {"Link": f'<?page={page + 1}>; rel="next"'} if page < 4 else {}
        return index_of(note(page), note(page + 1), **link)

    net = referring(api)
    found = net.run(lambda registry: registry.referrers("app", DIGEST))
    assert [one.digest for one in found] == [note(n)["digest"] for n in range(1, 6)]


def test_an_artifact_type_is_filtered_there_or_here() -> None:
    notes = [note(1, "x/sbom"), note(2, "x/sig"), {**note(3), "artifactType": None}, note(4, "x/sig")]
    notes[2:2] = [{**note(5), "artifactType": EMPTY_TYPE}]

    def api(request: httpx.Request) -> Answer:
        wanted = request.url.params["artifactType"]
        filtered = [one for one in notes if one["artifactType"] == wanted]
        return index_of(*filtered, **{"OCI-Filters-Applied": "artifactType"})

    async def work(registry: Registry) -> list[str]:
        return [one.digest for one in await registry.referrers("app", DIGEST, artifact_type="x/sig")]

    there, here = notes[1]["digest"], notes[4]["digest"]
    assert referring(api).run(work) == [there, here]
    unfiltered = [one["digest"] for one in notes[1:]]  # of two the list does not say it
    assert referring(lambda _: index_of(*notes)).run(work) == unfiltered
    assert referring(lambda _: httpx.Response(404), *notes).run(work) == unfiltered


def test_what_cannot_be_fetched_here_hides_nothing_else_on_the_list() -> None:
    odd = [
        {**note(1), "digest": "sha512:" + "a" * 128},
        {**note(1), "digest": "md5:1"},
        {**note(1), "size": -1},
        {"digest": note(1)["digest"]},
        "text",
        None,
    ]
    for net in (referring(lambda _: index_of(*odd, note(2))), referring(lambda _: index_of(note(2), *odd))):
        (found,) = net.run(lambda registry: registry.referrers("app", DIGEST))
        assert found.digest == note(2)["digest"]


def test_a_list_that_is_null_is_an_empty_one() -> None:
    null = httpx.Response(
        200, headers={"Content-Type": f"{IMAGE_INDEX}; charset=utf-8"}, content=b'{"manifests": null}'
    )
    assert referring(lambda _: null, note(1)).run(lambda r: r.referrers("app", DIGEST)) == ()


def test_a_referrer_that_was_deleted_alone_does_not_keep_another_from_being_attached() -> None:
    """docker-registry takes no list with what is gone: it answers 400."""
    server = FakeRegistry()
    subject = artifact(artifact_type="x/image", layers=())
    notes = [artifact(artifact_type=f"x/{n}", layers=(), subject=subject.root.descriptor) for n in range(3)]

    async def main() -> list[str]:
        async with Registry("127.0.0.1:5999", transport=server) as registry:
            for one in (subject, *notes[:2]):
                await push(registry, "app", one)
            await registry.remove("app", notes[0].digest)
            await push(registry, "app", notes[2])
            return [one.digest for one in await registry.referrers("app", subject.digest)]

    assert asyncio.run(main()) == [notes[1].digest, notes[2].digest]


def test_what_others_wrote_on_a_list_stays_when_one_is_added() -> None:
    """Also what is not known here: fields of a descriptor, digests of another kind."""
    server = FakeRegistry(lax=True)
    subject = artifact(artifact_type="x/image", layers=())
    theirs = [
        {**note(1), "urls": ["https://x.example"], "data": "e30="},
        {**note(2), "digest": "sha512:" + "b" * 128},
    ]
    tag = subject.digest.replace(":", "-")
    server.manifests["app", tag] = (IMAGE_INDEX, json.dumps({**EMPTY_INDEX, "manifests": theirs}).encode())

    async def main() -> None:
        async with Registry("127.0.0.1:5999", transport=server) as registry:
            await push(registry, "app", subject)
            ours = artifact(artifact_type="x/o", layers=(), subject=subject.root.descriptor)
            await push(registry, "app", ours)

    asyncio.run(main())
    listed = json.loads(server.manifests["app", tag][1])["manifests"]
    assert listed[:2] == theirs and len(listed) == 3


# --- manifests -----------------------------------------------------------------------------


MANIFEST = artifact(artifact_type="x/y", layers=(("x/y", b"layer", {}),)).root


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/json"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": f"{IMAGE_MANIFEST.upper()}; charset=utf-8"},
        {"Docker-Content-Digest": MANIFEST.descriptor.digest},
        {"docker-content-digest": "sha512:" + hashlib.sha512(MANIFEST.raw).hexdigest()},
        {"Docker-Content-Digest": "blake3:" + "0" * 64},
        {"Docker-Content-Digest": ""},
    ],
)
def test_a_manifest_is_one_whatever_its_headers_leave_out(headers: dict[str, str]) -> None:
    net = Net(lambda _: httpx.Response(200, content=MANIFEST.raw, headers=headers))
    for reference in ("v1", MANIFEST.descriptor.digest):
        assert net.run(lambda r, at=reference: r.manifest("app", at)).raw == MANIFEST.raw  # type: ignore[misc]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_of_a_tag_has_the_digest_that_is_told_with_it(algorithm: str) -> None:
    wrong = f"{algorithm}:{'0' * (64 if algorithm == 'sha256' else 128)}"
    net = Net(lambda _: httpx.Response(200, content=MANIFEST.raw, headers={"Docker-Content-Digest": wrong}))
    with pytest.raises(SystemUnavailable, match="bytes with the digest"):
        net.run(lambda registry: registry.manifest("app", "v1"))
    net = Net(lambda _: httpx.Response(201, headers={"Docker-Content-Digest": wrong}))
    with pytest.raises(SystemUnavailable, match="stored"):
        net.run(lambda registry: registry.put_manifest("app", MANIFEST))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "recursion|nested"),
        (b"[" * 100_000, "recursion|nested"),
        (b'{"schemaVersion": 2, "x": ' + b"[" * 100_000, "recursion|nested"),
        (b"{}", "neither a config nor layers"),
        (b'{"errors": []}', "neither a config nor layers"),
        (b'{"layers": [{"mediaType": "x/y", "digest": "sha512:00", "size": 1}]}', "digest: it is no sha256"),
        (b"\xff\xfe", "JSON"),
    ],
)  # fmt: skip
def test_what_is_no_manifest_says_why_in_one_line(raw: bytes, said: str) -> None:
    with pytest.raises(Unusable, match=said) as caught:
        Net(lambda _: httpx.Response(200, content=raw)).run(lambda registry: registry.manifest("app", "v1"))
    assert "\n" not in caught.value.message and "[0-9" not in caught.value.message


def test_lists_in_a_manifest_may_be_null() -> None:
    raw = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": None}).encode()
    assert parse_manifest(raw).manifests == ()


# --- sizes ---------------------------------------------------------------------------------


SIZES: dict[str, Callable[[httpx.Request], httpx.Response]] = {
    "no length, and a range tells": lambda r: (
        streamed(b"")
        if r.method == "HEAD"
        else httpx.Response(206, content=CONTENT[:1], headers={"Content-Range": f"bytes 0-0/{len(CONTENT)}"})
    ),
    "no length, and a GET tells": lambda r: (
        streamed(b"") if r.method == "HEAD" else httpx.Response(200, content=CONTENT)
    ),
    "no length at all": lambda r: streamed(b"" if r.method == "HEAD" else CONTENT),
    "a length of nothing": lambda r: (
        httpx.Response(200, headers={"Content-Length": "0"})
        if r.method == "HEAD"
        else httpx.Response(200, content=CONTENT)
    ),
    "a length that is none": lambda r: (
        streamed(b"", {"Content-Length": "many"})
        if r.method == "HEAD"
        else httpx.Response(200, content=CONTENT)
    ),
    "a range of unknown size": lambda r: (
        streamed(b"")
        if r.method == "HEAD"
        else httpx.Response(206, content=CONTENT[:1], headers={"Content-Range": "bytes 0-0/*"})
        if "Range" in r.headers
        else streamed(CONTENT)
    ),
    "no HEAD": lambda r: httpx.Response(405) if r.method == "HEAD" else httpx.Response(200, content=CONTENT),
    "a length of what is compressed": lambda r: (
        httpx.Response(200, headers={"Content-Length": "17", "Content-Encoding": "gzip"})
        if r.method == "HEAD"
        else httpx.Response(200, content=CONTENT)
    ),
    "HEAD where a link is signed for GET": lambda r: (
        httpx.Response(403)
        if r.method == "HEAD" and r.url.host != HOST
        else httpx.Response(307, headers={"Location": "https://storage.example/signed"})
        if r.url.host == HOST
        else httpx.Response(200, content=CONTENT)
    ),
}


@pytest.mark.parametrize("how", SIZES)
def test_a_size_that_a_head_does_not_tell_is_asked_otherwise(how: str) -> None:
    assert Net(SIZES[how]).run(lambda registry: registry.blob_size("app", DIGEST)) == len(CONTENT)


@pytest.mark.parametrize("status", [400, 403, 416, 501])
def test_who_knows_no_ranges_is_asked_without_one(status: int) -> None:
    def serve(request: httpx.Request) -> Answer:
        if request.method == "HEAD":
            return streamed(b"")
        return httpx.Response(status) if "Range" in request.headers else streamed(CONTENT)

    assert Net(serve).run(lambda registry: registry.blob_size("app", DIGEST)) == len(CONTENT)


def test_a_blob_of_nothing_has_a_size_and_one_that_is_absent_has_none() -> None:
    nothing = digest_of(b"")
    net = Net(lambda _: httpx.Response(200, headers={"Content-Length": "0"}))
    assert net.run(lambda registry: registry.blob_size("app", nothing)) == 0 and len(net.asked) == 1

    def empty(request: httpx.Request) -> Answer:
        if request.method == "HEAD":
            return streamed(b"")
        return httpx.Response(416, headers={"Content-Range": "bytes */0"})

    assert Net(empty).run(lambda registry: registry.blob_size("app", nothing)) == 0
    gone = Net(lambda r: streamed(b"") if r.method == "HEAD" else error(404, "BLOB_UNKNOWN"))
    assert gone.run(lambda registry: registry.blob_size("app", DIGEST)) is None


def test_what_has_the_name_of_a_list_of_referrers_and_is_none_is_told_and_left_alone() -> None:
    image = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": {}, "layers": []}
    subject = artifact(artifact_type="x/image", layers=()).root.descriptor
    attached = artifact(artifact_type="x/note", layers=(), subject=subject).root

    def serve(request: httpx.Request) -> Answer:
        if request.method == "PUT":
            return httpx.Response(201)
        if "/referrers/" in request.url.path:
            return error(404, "UNSUPPORTED")
        return httpx.Response(200, json=image, headers={"Content-Type": IMAGE_MANIFEST})

    net = Net(serve)
    with pytest.raises(Unusable, match="is no list of what is attached, but application/vnd"):
        net.run(lambda registry: registry.referrers("app", DIGEST))
    with pytest.raises(Unusable, match="is no list"):
        net.run(lambda registry: registry.put_manifest("app", attached))
    put = [request.url.path.rpartition("/")[2] for request in net.asked if request.method == "PUT"]
    assert put == [attached.descriptor.digest]


# --- downloads -----------------------------------------------------------------------------


def cut_once(then: Callable[[int, httpx.Request], httpx.Response]) -> Serve:
    """A blob whose first answer ends after 3000 bytes; the others are `then`'s, by where they begin."""
    first = True

    async def half() -> AsyncIterator[bytes]:
        yield CONTENT[:3000]
        raise httpx.ReadError("connection reset by peer")

    def serve(request: httpx.Request) -> Answer:
        nonlocal first
        if request.method == "HEAD":
            return httpx.Response(200, headers={"Content-Length": str(len(CONTENT))})
        if first:
            first = False
            return httpx.Response(200, content=half())
        start = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        return then(int(start), request)

    return serve


def part(at: int, said: str, status: int = 206, shift: int = 0) -> httpx.Response:
    return streamed(CONTENT[at + shift :], {"Content-Range": said} if said else {}, status)


def whole(at: int, said: httpx.Response) -> httpx.Response:
    return said if at else httpx.Response(200, content=CONTENT)


LAST = len(CONTENT) - 1
RANGES: dict[str, Callable[[int, httpx.Request], httpx.Response]] = {
    "right": lambda at, _: part(at, f"bytes {at}-{LAST}/{len(CONTENT)}"),
    "right, without a size": lambda at, _: part(at, f"Bytes {at}-{LAST}/*"),
    "right, untold": lambda at, _: part(at, ""),
    "all of it": lambda at, _: part(0, "", 200),
    "from elsewhere": lambda at, _: whole(at, part(at, f"bytes {at + 500}-{LAST}/{len(CONTENT)}", shift=500)),
    "from the start": lambda at, _: whole(at, part(0, f"bytes 0-{LAST}/{len(CONTENT)}")),
    "none": lambda at, _: whole(at, httpx.Response(416, headers={"Content-Range": "bytes */9"})),
    "in several parts": lambda at, _: whole(at, part(at, "multipart/byteranges")),
    "other bytes, untold": lambda at, _: whole(at, part(at - 1, "", shift=0)) if at != 3000 else part(1, ""),
}


@pytest.mark.parametrize("how", RANGES)
@pytest.mark.parametrize("by", ["digest", "descriptor"])
def test_a_download_ends_well_whatever_a_range_brings(how: str, by: str, tmp_path: Path) -> None:
    wanted = DIGEST if by == "digest" else Descriptor(media_type="x/y", digest=DIGEST, size=len(CONTENT))
    net = Net(cut_once(RANGES[how]))
    net.run(lambda registry: registry.download("app", wanted, tmp_path / "blob"))
    assert (tmp_path / "blob").read_bytes() == CONTENT
    assert len([one for one in net.asked if one.method == "HEAD"]) == (by == "digest")


def test_a_download_by_its_descriptor_ends_where_that_says(tmp_path: Path) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1000
            yield b"x" * 1000

    small = Descriptor(media_type="x/y", digest=DIGEST, size=5000)
    for work in (
        lambda registry: registry.download("app", small, tmp_path / "blob"),
        lambda registry: registry.blob("app", small),
        lambda registry: registry.blob("app", DIGEST, most=5000),
    ):
        read = 0
        with pytest.raises(Unusable, match="more than"):
            Net(lambda _: httpx.Response(200, content=endless())).run(work)
        assert read <= 6000
    absent = Net(lambda _: error(404, "BLOB_UNKNOWN"))
    with pytest.raises(BadInput, match="is not in the registry"):
        absent.run(lambda registry: registry.download("app", small, tmp_path / "blob"))


def test_a_blob_is_as_it_is_stored_whatever_its_storage_calls_it(tmp_path: Path) -> None:
    """S3 and Azure send what somebody noted of an object as its Content-Encoding: its bytes are the blob."""
    packed = gzip.compress(CONTENT, mtime=0)
    digest = digest_of(packed)
    descriptor = Descriptor(media_type="x/y", digest=digest, size=len(packed))
    net = Net(lambda _: streamed(packed, {"Content-Encoding": "gzip"}))
    net.run(lambda registry: registry.download("app", descriptor, tmp_path / "blob"))
    assert (tmp_path / "blob").read_bytes() == packed
    assert net.run(lambda registry: registry.blob("app", descriptor)) == packed


# --- bounds --------------------------------------------------------------------------------


def test_what_a_descriptor_says_to_be_too_large_is_not_asked_for() -> None:
    net = Net(lambda _: httpx.Response(500))
    large = Descriptor(media_type="x/y", digest=DIGEST, size=10_001)
    with pytest.raises(Unusable, match="10001 bytes: more than the 10000"):
        net.run(lambda registry: registry.blob("app", large, most=10_000))
    assert not net.asked


@pytest.mark.parametrize("told", [True, False])
def test_an_answer_that_is_too_large_is_not_read(told: bool) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 2**16
            yield b" " * 2**16

    def serve(_: httpx.Request) -> Answer:
        length = {"Content-Length": str(10**10)} if told else {}
        return httpx.Response(200, content=endless(), headers=length)

    for work in (lambda r: r.manifest("a", "v1"), lambda r: r.tags("a"), lambda r: r.blob("a", DIGEST)):
        read = 0
        with pytest.raises(SystemUnavailable, match="more than"):
            Net(serve).run(work)
        assert read <= (0 if told else 2**24 + 2**17)


@pytest.mark.parametrize("status", [401, 404, 418, 500])
def test_an_errors_words_are_not_read_to_their_end(status: int) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(10_000):
            read += 2**16
            yield b"no " * 21845

    def serve(_: httpx.Request) -> Answer:
        headers = {"WWW-Authenticate": "Basic"} if status == 401 else {}
        return httpx.Response(status, content=endless(), headers=headers)

    with pytest.raises(PipelineError) as caught:
        Net(serve).run(lambda registry: registry.put_manifest("app", MANIFEST))
    assert read <= 10 * 2**17 and len(str(caught.value)) < 1000


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "deflate"])
def test_what_a_proxy_compressed_is_read_as_it_was(encoding: str) -> None:
    pack = zlib.compress if encoding == "deflate" else gzip.compress
    body = pack(json.dumps({"name": "a", "tags": ["v1"]}).encode())
    net = Net(lambda _: streamed(body, {"Content-Encoding": encoding}))
    assert net.run(lambda registry: registry.tags("a")) == ("v1",)
    assert net.asked[0].headers["Accept-Encoding"] == "identity"
    half = Net(lambda _: streamed(body[:-3], {"Content-Encoding": encoding}))
    with pytest.raises(SystemUnavailable, match="did not answer as it should, 5 times"):
        half.run(lambda registry: registry.tags("a"))
    odd = Net(lambda _: streamed(body, {"Content-Encoding": "br"}))
    with pytest.raises(SystemUnavailable, match="'br', which was not asked for"):
        odd.run(lambda registry: registry.tags("a"))


# --- patience ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_passing_fault_is_asked_again_whatever_its_body(status: int) -> None:
    left = [
        httpx.Response(status, text="<html>busy"),
        httpx.Response(status),
        httpx.Response(200, json={"tags": []}),
    ]
    net = Net(lambda _: left.pop(0))
    assert net.run(lambda registry: registry.tags("a")) == ()
    assert len(net.waited) == 2


def test_a_body_that_trickles_is_taken_for_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_WINDOW", 0.01)

    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(100):
            await asyncio.sleep(0.02)
            yield b" "

    net = Net(lambda _: httpx.Response(200, content=trickle()))
    with pytest.raises(SystemUnavailable, match=r"5 times: no more than . bytes came in"):
        net.run(lambda registry: registry.tags("a"))


def test_an_answer_that_does_not_begin_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_ANSWERS_WITHIN", 0.01)

    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, _: httpx.Request) -> httpx.Response:
            await asyncio.sleep(60)
            raise AssertionError("nobody waits so long")

    async def no_wait(_: float) -> None:
        pass

    async def main() -> None:
        async with Registry(HOST, transport=Silent(), sleep=no_wait) as registry:
            await registry.ping()

    with pytest.raises(SystemUnavailable, match="5 times: no answer in time"):
        asyncio.run(main())


# --- uploads -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_a_registry_that_will_not_mount_gets_the_bytes(status: int) -> None:
    server = FakeRegistry()
    server.gate = lambda request: error(status, "NO") if "mount" in request.url.params else None
    blob = Blob(descriptor=Descriptor(media_type="x/y", digest=DIGEST, size=len(CONTENT)), source=CONTENT)

    async def main() -> list[Outcome]:
        async with Registry("127.0.0.1:5999", transport=server) as registry:
            return [await registry.push_blob(name, blob) for name in ("one", "two")]

    assert asyncio.run(main()) == [Outcome.SENT, Outcome.SENT]


def test_pieces_are_as_large_as_the_registry_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_module, "_PIECE_BYTES", 1000)
    sent: list[str] = []

    def serve(request: httpx.Request) -> Answer:
        if request.method == "HEAD":
            return httpx.Response(404)
        if request.method != "POST":
            sent.append(request.headers["Content-Length"])
        headers = {"Location": "/v2/app/blobs/uploads/u", "OCI-Chunk-Min-Length": "4000"}
        return httpx.Response(201 if request.method == "PUT" else 202, headers=headers)

    blob = Blob(descriptor=Descriptor(media_type="x/y", digest=DIGEST, size=len(CONTENT)), source=CONTENT)
    Net(serve).run(lambda registry: registry.push_blob("app", blob))
    assert sent == ["4000", "4000", str(len(CONTENT) - 8000)]


# --- Azure ---------------------------------------------------------------------------------


def test_a_token_for_azures_lists_does_not_follow_their_links() -> None:
    def serve(request: httpx.Request) -> Answer:
        if request.url.path.startswith("/oauth2/"):
            return httpx.Response(200, json={"refresh_token": "r", "access_token": "a"})
        if "Authorization" not in request.headers:
            return httpx.Response(401, headers={"WWW-Authenticate": 'Bearer realm="x",service="s",scope="c"'})
        link = '<https://evil.example/acr/v1/app/_manifests?last=x>; rel="next"'
        return httpx.Response(200, headers={"Link": link}, json={"manifests": []})

    class Signed:
        def get_token(self, *_: str, **__: object) -> Any:
            return type("T", (), {"token": "entra"})()

    net = Net(serve)

    async def main() -> None:
        async with AzureRegistry(
            "acr.azurecr.io", credential=Signed(), transport=net.transport(), sleep=net.sleep
        ) as registry:
            await registry.held("app")

    with pytest.raises(SystemUnavailable, match="another origin"):
        asyncio.run(main())
    assert {request.url.host for request in net.asked} == {"acr.azurecr.io"}


def test_a_token_says_nothing_of_itself() -> None:
    assert "good" not in repr(Token(text="good"))

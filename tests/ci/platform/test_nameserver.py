"""The name server, asked with real datagrams and connections, and what it makes of what is no question."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import dns.asyncquery
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until_async

from ci.delivery.load import Lost, generate
from ci.delivery.names import Names
from ci.platform.nameserver import Answers, listening

NAME = "voice.traffic.test"


def asked(answers: Answers, name: str = NAME, kind: str = "A", **more: Any) -> dns.message.Message:
    query = dns.message.make_query(name, kind, **more)
    said = answers(query.to_wire())
    assert said is not None
    found = dns.message.from_wire(said)
    assert query.is_response(found)
    return found


def texts(message: dns.message.Message) -> list[str]:
    return [one.to_text() for one in message.answer]


def test_an_address_is_an_a_record_with_the_ttl() -> None:
    found = asked(Answers(NAME, 7, lambda: "10.9.1.2"))

    assert texts(found) == [f"{NAME}. 7 IN A 10.9.1.2"]
    assert found.flags & dns.flags.AA and not found.flags & dns.flags.RA
    assert found.rcode() == dns.rcode.NOERROR


def test_a_host_name_is_a_cname_whatever_is_asked() -> None:
    answers = Answers(NAME, 30, lambda: "appgw.eastus.example.com")

    for kind in ("A", "AAAA", "CNAME"):
        assert texts(asked(answers, kind=kind)) == [f"{NAME}. 30 IN CNAME appgw.eastus.example.com."]


def test_the_case_of_a_question_is_kept_and_does_not_matter() -> None:
    assert texts(asked(Answers(NAME, 7, lambda: "10.9.1.2"), "vOiCe.Traffic.TEST")) == [
        "vOiCe.Traffic.TEST. 7 IN A 10.9.1.2"
    ]


@pytest.mark.parametrize(
    ("name", "kind", "target", "rcode"),
    [
        (NAME, "AAAA", "10.9.1.2", "NOERROR"),
        (NAME, "A", "fd00::1", "NOERROR"),
        (NAME, "A", None, "NOERROR"),
        ("traffic.test", "A", "10.9.1.2", "NOERROR"),
        (f"www.{NAME}", "A", "10.9.1.2", "NXDOMAIN"),
        ("other.traffic.test", "A", "10.9.1.2", "NXDOMAIN"),
    ],
)
def test_what_is_not_there_is_said_so_for_a_second(
    name: str, kind: str, target: str | None, rcode: str
) -> None:
    found = asked(Answers(NAME, 7, lambda: target), name, kind)

    assert (dns.rcode.to_text(found.rcode()), texts(found)) == (rcode, [])
    (soa,) = found.authority
    assert (soa.rdtype, soa.ttl, soa[0].minimum) == (dns.rdatatype.SOA, 1, 1)


@pytest.mark.parametrize(("name", "more"), [("example.com", {}), (NAME, {"rdclass": "CH"})])
def test_what_is_not_ours_is_refused(name: str, more: dict[str, Any]) -> None:
    found = asked(Answers(NAME, 7, lambda: "10.9.1.2"), name, **more)

    assert (found.rcode(), texts(found), found.authority) == (dns.rcode.REFUSED, [], [])


def test_who_speaks_edns_is_answered_in_edns() -> None:
    answers = Answers(NAME, 7, lambda: "10.9.1.2")

    assert asked(answers, use_edns=0, payload=4096).payload == 1232
    assert asked(answers, use_edns=False).edns == -1


def test_a_choice_is_made_for_each_question_and_never_remembered() -> None:
    targets = iter(["10.9.1.2", "10.9.2.2", None, "10.9.1.2"])
    answers = Answers(NAME, 7, lambda: next(targets))

    assert [texts(asked(answers)) for _ in range(4)] == [
        [f"{NAME}. 7 IN A 10.9.1.2"],
        [f"{NAME}. 7 IN A 10.9.2.2"],
        [],
        [f"{NAME}. 7 IN A 10.9.1.2"],
    ]


@given(st.binary(max_size=80))
def test_whatever_comes_is_answered_in_form_or_not_at_all(wire: bytes) -> None:
    said = Answers(NAME, 7, lambda: "10.9.1.2")(wire)

    if len(wire) < 12 or wire[2] & 0x80:
        assert said is None
    else:
        assert said is not None and said[:2] == wire[:2] and said[2] & 0x80
        dns.message.from_wire(said)


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_a_question_that_was_damaged_on_the_way_is_answered_in_form(seed: int, damages: int) -> None:
    dice, wire = random.Random(seed), bytearray(dns.message.make_query(NAME, "A", use_edns=0).to_wire())
    for _ in range(damages):
        wire[dice.randrange(len(wire))] = dice.randrange(256)
    said = Answers(NAME, 7, lambda: "10.9.1.2")(bytes(wire))

    assert said is None or dns.message.from_wire(said).id == int.from_bytes(wire[:2], "big")


# On the wire ----------------------------------------------------------------------------------------------


def with_server(answers: Answers, flow: Callable[[int], Any]) -> Any:
    async def run() -> Any:
        async with listening(answers, port=0) as port:
            return await flow(port)

    return asyncio.run(run())


def test_udp_and_tcp_say_the_same_and_a_connection_takes_many_questions() -> None:
    async def flow(port: int) -> None:
        query = dns.message.make_query(NAME, "A")
        over_udp = await dns.asyncquery.udp(query, "127.0.0.1", 5, port)
        over_tcp = await dns.asyncquery.tcp(query, "127.0.0.1", 5, port)
        assert texts(over_udp) == texts(over_tcp) == [f"{NAME}. 7 IN A 10.9.1.2"]

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        wire = query.to_wire()
        writer.write(2 * (len(wire).to_bytes(2, "big") + wire))
        for _ in range(2):
            size = int.from_bytes(await reader.readexactly(2), "big")
            assert texts(dns.message.from_wire(await reader.readexactly(size))) == texts(over_udp)
        writer.write(b"\x00\x03abc")  # no question: it is let go of
        assert await reader.read() == b""
        writer.close()

    with_server(Answers(NAME, 7, lambda: "10.9.1.2"), flow)


# Those who ask --------------------------------------------------------------------------------------------


def test_a_user_asks_again_when_the_ttl_is_over_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("ci.delivery.names.monotonic", lambda: now[0])
    given_out: list[str] = []

    def choose() -> str:
        given_out.append(f"10.9.0.{len(given_out) + 1}")
        return given_out[-1]

    async def flow(port: int) -> None:
        names = Names("127.0.0.1", port, users=2)
        assert [await names.find(0, NAME) for _ in range(3)] == ["10.9.0.1"] * 3
        assert await names.find(1, NAME) == "10.9.0.2"  # another one has asked nobody yet
        assert await names.find(2, NAME) == "10.9.0.1"  # the first one again
        now[0] += 6.9
        assert await names.find(0, NAME) == "10.9.0.1"
        now[0] += 0.2
        assert await names.find(0, NAME) == "10.9.0.3"

    with_server(Answers(NAME, 7, choose), flow)


def test_many_of_one_user_at_once_ask_once() -> None:
    asked_for: Counter[str] = Counter()

    def choose() -> str:
        asked_for["times"] += 1
        return "10.9.1.2"

    async def flow(port: int) -> None:
        names = Names("127.0.0.1", port, users=1)
        await asyncio.gather(*(names.find(number, NAME) for number in range(20)))

    with_server(Answers(NAME, 7, choose), flow)
    assert asked_for["times"] == 1


@pytest.mark.parametrize("target", [None, ""])
def test_a_name_without_an_address_is_a_lost_request(
    target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.delivery.names._PATIENCE_SECONDS", 0.5 if target is None else 0.05)

    async def flow(port: int) -> None:
        server = port if target is None else 1
        with pytest.raises(Lost, match=NAME):
            await Names("127.0.0.1", server).find(0, NAME)

    with_server(Answers(NAME, 7, lambda: None), flow)


def test_synthetic_users_go_where_the_name_leads_and_are_counted_there() -> None:
    """Two regions on two addresses at one port; in the middle one of them is taken out."""
    well = ["127.0.0.1", "127.0.0.2"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = b'{"session_id": "1"}' if head.startswith(b"POST") else b"{}"
                if head.startswith(b"POST"):
                    await reader.readexactly(2)
                status = b"201 Created" if head.startswith(b"POST") else b"200 OK"
                writer.write(
                    b"HTTP/1.1 %s\r\nx-va-track: stable\r\ncontent-length: %d\r\n\r\n%s"
                    % (status, len(body), body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def flow(port: int) -> Counter[str]:
        first = await asyncio.start_server(answer, "127.0.0.1", 0)
        at = first.sockets[0].getsockname()[1]
        second = await asyncio.start_server(answer, "127.0.0.2", at)
        async with first, second:
            names = Names("127.0.0.1", port)
            async with generate(f"http://{NAME}:{at}", "api.test", rate=300, find=names.find) as load:
                await until_async(lambda: len(load.counts.by_address) == 2, every=0.01)
                well.remove("127.0.0.2")
                seen = load.counts.by_address

                async def more(answers: int) -> Counter[str]:
                    enough = seen["127.0.0.1"] + answers
                    await until_async(lambda: seen["127.0.0.1"] >= enough, every=0.01)
                    return seen.copy()

                before = await more(200)  # those that were under way have ended
                await more(50)
        assert load.counts.lost == load.counts.failed == 0
        return seen - before

    since = with_server(Answers(NAME, 0, lambda: random.choice(well)), flow)
    assert set(since) == {"127.0.0.1"}

"""People are told, by Apprise itself, at real servers here: one that takes JSON, and one that takes mail."""

from __future__ import annotations

import asyncio
import json
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ledger_entries import happened, write
from promotion_world import environment as plain

from ci.delivery import notify
from ci.delivery.findings import Finding, Tally, Verdict
from ci.delivery.ledger import Action, Draft, Event, Kind, open_ledger
from ci.delivery.news import messages
from ci.environments import Environment
from ci.errors import BadInput
from ci.reporting import SilentReporter

SECRET = "x7GqJ-secret-of-the-room"


class Rooms:
    """What was posted; `status` is answered, `gate` holds answers back."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, dict[str, str], Any]] = []
        self.status = 200
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Event()
        self.url = ""

    @property
    def titles(self) -> list[str]:
        return [str(body["title"]) for _, _, body in self.posted]


@pytest.fixture
def rooms() -> Iterator[Rooms]:
    made = Rooms()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.posted.append((self.path, dict(self.headers), body))
            made.arrived.set()
            made.gate.wait(30)
            self.send_response(made.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        made.url = f"http://127.0.0.1:{port}/hook/{SECRET}"
        yield made
        made.gate.set()


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class Mail(socketserver.StreamRequestHandler):
    """As much of RFC 5321 as a client needs that sends one message."""

    got: list[bytes]

    def handle(self) -> None:
        self.say("220 here")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.say("354 go on")
                body = b""
                while (line := self.rfile.readline()) != b".\r\n":
                    body += line
                self.got.append(body)
            self.say("250 fine" if word != b"QUIT" else "221 bye")
            if word == b"QUIT":
                return

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    """What it takes to load two hundred services is no channel's to answer for."""
    notify._services()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def place(*channels: Any) -> Environment:
    base = plain("prod")
    whole = {key: getattr(base, key) for key in base.model_fields_set}
    return Environment.model_validate(whole | {"estate": "local", "notify": list(channels)})


@pytest.fixture
def prod(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("ROOM", rooms.url)
    return place("env:ROOM")


def run(environment: Environment, *drafts: Draft | tuple[Event, str], last: float = 15) -> list[str]:
    """A run that writes these entries, and people who are told; returns what the terminal shows of it."""
    notes = Notes()

    async def promote() -> None:
        async with (
            notify.telling([environment], notes, every=0.01, last=last),
            open_ledger(environment) as ledger,
        ):
            for one in drafts:
                if not isinstance(one, Draft):
                    one = happened(one[0], target="prod/eastus", release="r2", reason=one[1])
                await ledger.append(one)

    asyncio.run(promote())
    return notes.notes


STARTED, PROMOTED = (Event.STARTED, ""), (Event.PROMOTED, "every step passed")


def test_each_thing_is_told_once_also_by_the_next_run(rooms: Rooms, prod: Environment) -> None:
    assert run(prod, STARTED) == []
    assert run(prod) == []  # killed and begun again
    assert run(prod, PROMOTED) == []

    assert rooms.titles == ["prod/eastus: r2 started", "prod/eastus: r2 is promoted"]
    path, headers, body = rooms.posted[1]
    assert path == f"/hook/{SECRET}"
    assert headers["Idempotency-Key"] == "local/prod/4"  # behind the start and two marks
    assert body["type"] == "success" and body["message"].startswith("every step passed\nby ")


def test_what_a_killed_run_could_not_tell_the_next_one_does(rooms: Rooms, prod: Environment) -> None:
    run(prod, STARTED)
    write("prod", happened(Event.ROLLED_BACK, target="prod/eastus", release="r2", reason="at 25 %"))
    run(prod)
    run(prod)
    assert rooms.titles == ["prod/eastus: r2 started", "prod/eastus: r2 was rolled back"]


KILLED = """
import asyncio, sys
sys.path[:0] = sys.argv[1:]
from promotion_world import environment as plain
from ci.delivery import notify
from ledger_entries import happened
from ci.delivery.ledger import Event, open_ledger
from ci.environments import Environment
from ci.reporting import SilentReporter

async def main():
    base = plain("prod")
    whole = {key: getattr(base, key) for key in base.model_fields_set}
    prod = Environment.model_validate(whole | {"estate": "local", "notify": ["env:ROOM"]})
    async with notify.telling([prod], SilentReporter(), every=0.01):
        async with open_ledger(prod) as ledger:
            await ledger.append(happened(Event.STARTED, target="prod/eastus", release="r2"))
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_run_that_is_killed_while_it_tells_has_told(rooms: Rooms, prod: Environment) -> None:
    rooms.gate.clear()
    folder = Path(__file__).parents[2]
    run_of = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(folder.parent)])
    try:
        assert rooms.arrived.wait(50)
    finally:
        run_of.kill()
        run_of.wait()
    rooms.gate.set()
    assert run(prod) == []
    assert rooms.titles == ["prod/eastus: r2 started"]


def test_what_was_before_there_were_channels_is_no_news(rooms: Rooms, prod: Environment) -> None:
    for event in (Event.STARTED, Event.PROMOTED):
        write("prod", happened(event, target="prod/eastus", release="r1"))
    run(prod, STARTED)
    assert rooms.titles == ["prod/eastus: r2 started"]


def test_two_processes_at_the_same_ledger_tell_once(rooms: Rooms, prod: Environment) -> None:
    async def both() -> None:
        async with (
            notify.telling([prod], Notes(), every=0.005),
            notify.telling([prod], Notes(), every=0.005),
            open_ledger(prod) as ledger,
        ):
            for number in range(5):
                await ledger.append(happened(Event.STARTED, target="prod/eastus", release=f"r{number}"))
                await asyncio.sleep(0.01)

    asyncio.run(both())
    assert sorted(rooms.titles) == [f"prod/eastus: r{number} started" for number in range(5)]


def test_a_failure_has_its_sentence_and_its_numbers(rooms: Rooms, prod: Environment) -> None:
    finding = Finding(
        metric="errors", verdict=Verdict.FAIL, reason="5 of 124 (4.03%) of the canary's sessions",
        log_harm=4.6, log_fail_at=4.1, tally=Tally(canary=124, canary_bad=5, stable=361, stable_bad=0),
    )  # fmt: skip
    failed = Draft(
        promotion="p1", kind=Kind.OUTCOME, action=Action.STEP, target="prod/eastus", release="r2",
        weight=25, result="failed", reason="errors fail", findings=(finding,),
    )  # fmt: skip
    run(prod, failed)
    (_, _, body) = rooms.posted[0]
    assert body["title"] == "prod/eastus: r2 failed at 25 %" and body["type"] == "failure"
    assert "errors fail, E 99 (fails at 60): 5 of 124 (4.03%) of the canary's sessions" in body["message"]


@pytest.mark.parametrize(
    ("kind", "action", "result", "title"),
    [
        (Kind.NOTE, Action.APPROVE, "waiting", "prod: r2 waits for approval"),
        (Kind.ORDER, Action.OVERRIDE, "", "prod: r2 goes in all the same"),
        (Kind.OUTCOME, Action.FINISH, "held", "prod: r2 is held: a person decides"),
        (Kind.NOTE, Action.GUARD, "", "prod: r2 was left alone: all traffic is on stable"),
        (Kind.OUTCOME, Action.SMOKE, "failed", "prod: r2 failed"),
        (Kind.OUTCOME, Action.CANARY, "error", "prod: r2 failed"),  # it did not come up
        (Kind.OUTCOME, Action.MOVE, "error", None),  # the same command goes on
        (Kind.OUTCOME, Action.FINISH, "promoted", "prod: r2 is promoted"),
        (Kind.OUTCOME, Action.FINISH, "failed", None),  # its targets say so
        (Kind.OUTCOME, Action.FINISH, "partly", None),
        (Kind.OUTCOME, Action.START, "done", "prod: r2 started"),
        (Kind.INTENT, Action.START, "", None),
        (Kind.NOTE, Action.START, "", None),  # the same promotion goes on
        (Kind.ORDER, Action.APPROVE, "", None),
        (Kind.OUTCOME, Action.STEP, "passed", None),
        (Kind.OUTCOME, Action.MOVE, "done", None),
        (Kind.NOTE, Action.TAKEN_OVER, Event.PROMOTED, None),
    ],
)
def test_what_is_news(
    rooms: Rooms, prod: Environment, kind: Kind, action: Action, result: str, title: str | None
) -> None:
    run(prod, Draft(promotion="p1", kind=kind, action=action, release="r2", result=result))
    assert rooms.titles == [title] * (title is not None)


@pytest.mark.parametrize("result", ["failed", "stopped", "aborted", "rolled back"])
def test_however_a_release_comes_to_be_gone_from_a_target_is_told_once(
    rooms: Rooms, prod: Environment, result: str
) -> None:
    said = {"promotion": "p1", "kind": Kind.OUTCOME, "release": "r2", "target": "prod/eastus"}
    back = Draft(action=Action.ROLL_BACK, result="done", **said)
    run(prod, back, Draft(action=Action.FINISH, result=result, reason="errors fail", **said))
    assert rooms.titles == ["prod/eastus: r2 was rolled back"]


def test_that_it_runs_there_already_is_no_news(rooms: Rooms, prod: Environment) -> None:
    run(prod, (Event.PROMOTED, "it runs there already"))
    assert rooms.titles == []


def test_a_channel_gets_what_it_asks_for(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOM", rooms.url)
    run(place({"to": "env:ROOM", "when": ["promoted"]}), STARTED, PROMOTED)
    assert rooms.titles == ["prod/eastus: r2 is promoted"]


def test_mail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    handler = type("Handler", (Mail,), {"got": []})
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)) as port:
        (tmp_path / "mail").write_text(
            f"mailto://127.0.0.1:{port}?from=va@example.com&to=on@call.example.com\n"
        )
        assert run(place(f"file:{tmp_path}/mail"), PROMOTED) == []
    (raw,) = handler.got
    mail = message_from_bytes(raw, policy=policy.default)
    assert mail["Subject"] == "prod/eastus: r2 is promoted" and "on@call.example.com" in mail["To"]
    assert "every step passed" in mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]


# What goes wrong is one line, and holds nothing up --------------------------------------------------------


def test_a_channel_that_refuses_is_one_line_without_its_secret(
    rooms: Rooms, prod: Environment, capfd: pytest.CaptureFixture[str]
) -> None:
    rooms.status = 500
    assert run(prod, STARTED, PROMOTED) in (
        ["prod: env:ROOM was not told: it answered 500"],
        ["prod: env:ROOM was not told: it answered 500"] * 2,  # where the two were told at two looks
    )
    rooms.status = 200
    run(prod)
    assert len(rooms.posted) == 2  # not again
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "the variable ROOM is not set"),
        ("http://127.0.0.1:9/x7GqJ", "it was not reached"),
        ("nonsense/x7GqJ", "what it holds is no URL of Apprise or of a webhook"),
        ("slack://x7GqJ", "what it holds is no URL of Apprise or of a webhook"),
        ("mailto://127.0.0.1:9?from=va@example.com&to=x7GqJ@example.com", "it was not reached"),
    ],
)
def test_what_is_wrong_with_a_channel(
    url: str, problem: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROOM", url)
    assert run(place("env:ROOM"), STARTED) == [f"prod: env:ROOM was not told: {problem}"]
    (told,) = asyncio.run(notify.tried(place("env:ROOM")))
    assert told.problem == problem
    assert "x7GqJ" not in "".join(capfd.readouterr())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (told,) = asyncio.run(notify.tried(place(f"file:{tmp_path}/none")))
    assert told.problem == f"{tmp_path}/none cannot be read: No such file or directory"


def test_a_channel_that_does_not_answer_holds_nothing_up(
    rooms: Rooms, prod: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms.gate.clear()
    started = time.monotonic()
    notes = run(prod, STARTED, last=0.3)
    assert time.monotonic() - started < 5
    assert notes == ["people were not told all of it: their channels took longer than 0.3 s"]


def test_a_ledger_that_cannot_be_read_ends_the_telling_alone(
    prod: Environment, tmp_path: Path, rooms: Rooms
) -> None:
    run(prod, STARTED)
    (tmp_path / "state" / "ledger" / "local" / "prod.sqlite").write_bytes(b"no database")
    (note,) = run(prod)
    assert note.startswith("prod: people are not told any more: ")


def test_an_environment_without_channels_tells_nobody(tmp_path: Path) -> None:
    assert run(place()) == []
    assert not (tmp_path / "state").exists()
    with pytest.raises(BadInput, match="prod tells nobody"):
        asyncio.run(notify.tried(place()))


def test_a_web_address_of_slack_or_teams_is_one_of_theirs() -> None:
    slack = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    teams = (
        "https://prod-01.westeurope.logic.azure.com:443/workflows/643e69f83c8944/triggers/manual/paths/invoke"
        "?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=KODuebWbDGYFr0z0eu"
    )
    assert notify._for_apprise(slack, "k") == slack
    assert notify._for_apprise(teams, "k") == teams
    own = notify._for_apprise("https://tell.example.com/room?key=a%20b", "local/prod/7")
    assert own == "jsons://tell.example.com/room?-key=a%20b&+Idempotency-Key=local%2Fprod%2F7"


def test_a_query_of_a_web_address_arrives(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOM", f"{rooms.url}?key=a%20b&x=1")
    run(place("env:ROOM"), STARTED)
    assert parse_qs(urlsplit(rooms.posted[0][0]).query) == {"key": ["a b"], "x": ["1"]}


def test_a_long_reason_is_cut() -> None:
    async def kept() -> Any:
        async with open_ledger(place()) as ledger:
            return await ledger.append(
                Draft(
                    promotion="p", kind=Kind.OUTCOME, action=Action.FINISH, result="held", reason="x" * 5000
                )
            )

    (message,) = messages(place(), [asyncio.run(kept())])
    assert len(message.text) == 1500 and message.text.endswith("…")

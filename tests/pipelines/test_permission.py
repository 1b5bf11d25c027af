"""A promotion asks the policy before it touches anything: with real ledgers, and GitHub as a server here."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ledger_entries import happened, write
from promotion_world import environment as plain
from promotion_world import release

from ci.delivery.ledger import Action, Entry, Event, Kind, open_ledger, person, whoami
from ci.environments import Environment
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable
from ci.reporting import SilentReporter
from pipelines import before, permission
from pipelines import promote as flow

ALWAYS = [{"when": "daily UTC", "why": "stock-taking"}]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    for name in ("GITHUB_WORKFLOW_REF", "GITHUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def place(name: str = "prod", **said: Any) -> Environment:
    base = plain(name)
    whole = {key: getattr(base, key) for key in base.model_fields_set}
    return Environment.model_validate(whole | {"estate": "local"} | said)


def ask(*environments: Environment, override: str | None = None) -> None:
    asyncio.run(permission.permitted(environments, "r2", override=override, reporter=SilentReporter()))


def entries(environment: Environment) -> tuple[Entry, ...]:
    async def read() -> tuple[Entry, ...]:
        async with open_ledger(environment) as ledger:
            return await ledger.entries()

    return asyncio.run(read())


def test_nothing_is_touched_in_a_freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = place(freezes=ALWAYS)
    monkeypatch.setattr(flow, "read_environments", lambda estate, through=None: (place("dev"), frozen))
    monkeypatch.setattr(before, "open_site", lambda *_: pytest.fail("a cluster is asked"))
    monkeypatch.setattr(before, "registry_at", lambda *_: pytest.fail("a registry is asked"))

    with pytest.raises(PolicyBlocked, match="prod: frozen with no end in sight: stock-taking") as blocked:
        asyncio.run(flow.promote(release("r2"), "local", reporter=SilentReporter()))
    assert blocked.value.exit_code == 8
    assert "--override" in blocked.value.hint
    assert entries(frozen) == ()


def test_an_emergency_is_let_through_and_its_reason_kept() -> None:
    frozen = place(freezes=ALWAYS)
    with pytest.raises(BadInput, match="needs its reason"):
        ask(frozen, override=" ")
    ask(frozen, override="calls drop, this mends them")

    (kept,) = entries(frozen)
    assert (kept.kind, kept.action, kept.release) == (Kind.ORDER, Action.OVERRIDE, "r2")
    assert kept.reason == "calls drop, this mends them"
    assert "stock-taking" in str(kept.detail["frozen"])
    ask(frozen)  # killed and run again, it goes on


def test_an_override_where_nothing_is_in_the_way_is_none() -> None:
    ask(place(freezes=[{"when": "2020-01-01 UTC", "why": "long ago"}]), override="just in case")
    assert entries(place()) == ()


def test_all_that_is_in_the_way_is_said_before_anything_is_overridden() -> None:
    frozen, asking = place("staging", freezes=ALWAYS), place(approvals={"by": ["anna"]})
    with pytest.raises(PolicyBlocked, match="0 of 1 approvals"):
        ask(frozen, asking, override="it burns")
    assert entries(frozen) == ()
    with pytest.raises(PolicyBlocked) as both:
        ask(frozen, asking)
    assert "staging: frozen" in str(both.value) and "also prod: r2 has 0 of 1 approvals" in str(both.value)


def test_an_environment_that_has_the_release_already_is_not_asked() -> None:
    frozen = place(freezes=ALWAYS)
    write("prod", happened(Event.PROMOTED, target="prod/eastus", release="r2"))
    ask(frozen)


def test_a_release_soaks_by_the_ledger_of_the_environment_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permission, "read_environment", lambda estate, name: place(name))
    soaking = place(after="staging", soak="2h")
    with pytest.raises(PolicyBlocked, match="it does not run in staging"):
        ask(soaking)
    write("staging", happened(Event.PROMOTED, target="staging/eastus", release="r2"))
    with pytest.raises(PolicyBlocked, match="for 0 min, 2 h are asked for: 2 h more"):
        ask(soaking)


def test_that_it_waits_for_approval_is_written_once_and_a_yes_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking = place(approvals={"by": ["anna"]})
    for _ in range(2):
        with pytest.raises(PolicyBlocked):
            ask(asking)
    (waiting,) = entries(asking)
    assert (waiting.kind, waiting.action, waiting.result) == (Kind.NOTE, Action.APPROVE, "waiting")

    me = person(whoami())
    with pytest.raises(BadInput, match=f"{me} may not approve prod"):
        asyncio.run(permission.approve(asking, "r2", reason="good"))
    monkeypatch.setattr(permission, "whoami", lambda: "anna@desk")
    monkeypatch.setattr("ci.delivery.ledger.ledger.whoami", lambda: "anna@desk")
    with pytest.raises(BadInput, match="needs its reason"):
        asyncio.run(permission.approve(asking, "r2", reason=" "))
    asyncio.run(permission.approve(asking, "r2", reason="seen in staging"))
    with pytest.raises(PolicyBlocked):
        ask(asking)  # anna promotes what anna approved
    monkeypatch.undo()


def test_who_waits_for_a_yes_alone_says_so_also_in_an_emergency() -> None:
    asking = place(freezes=ALWAYS, approvals={"by": ["anna"]})
    with pytest.raises(PolicyBlocked):
        ask(asking)
    assert entries(asking) == ()
    with pytest.raises(PolicyBlocked, match="0 of 1 approvals"):
        ask(asking, override="it burns")
    assert [one.result for one in entries(asking)] == ["waiting"]


# GitHub --------------------------------------------------------------------------------------------------


class _GitHub(BaseHTTPRequestHandler):
    reviews: Any
    asked: list[tuple[str, str | None]]
    status = 200

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        body = json.dumps(self.reviews).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_GitHub]]:
    handler = type("GitHub", (_GitHub,), {"reviews": [], "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    for name, value in {
        "GITHUB_WORKFLOW_REF": "o/r/.github/workflows/promote.yml@refs/heads/main",
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_RUN_ID": "42",
        "GITHUB_RUN_ATTEMPT": "2",
        "GITHUB_TRIGGERING_ACTOR": "pat",
        "GITHUB_TOKEN": "token-of-the-job",
        "GITHUB_API_URL": f"http://127.0.0.1:{server.server_port}",
    }.items():
        monkeypatch.setenv(name, value)
    yield handler
    server.shutdown()
    server.server_close()


def review(login: str, environment: str = "prod", state: str = "approved") -> dict[str, Any]:
    return {
        "state": state,
        "comment": "looks good",
        "user": {"login": login, "id": 1},
        "environments": [{"id": 7, "name": environment, "url": "https://…"}],
    }


def test_the_reviewers_of_the_run_are_the_approvers(github: type[_GitHub]) -> None:
    asking = place(approvals={"by": "reviewers"})
    github.reviews = [review("bert", "staging"), review("cem", state="rejected"), review("Pat")]
    with pytest.raises(PolicyBlocked, match="0 of 1 approvals"):
        ask(asking)  # of another environment, a no, and who promotes
    github.reviews = [*github.reviews, review("anna")]
    ask(asking)
    ask(asking)

    assert github.asked[0] == ("/repos/o/r/actions/runs/42/approvals", "Bearer token-of-the-job")
    kept = [one for one in entries(asking) if one.kind is Kind.ORDER]
    assert [(one.by, one.reason, one.detail["reviewer"]) for one in kept] == [
        ("Pat", "looks good", True),
        ("anna", "looks good", True),
    ]


def test_names_in_the_file_are_logins_on_github(github: type[_GitHub]) -> None:
    github.reviews = [review("anna")]
    ask(place(approvals={"by": ["Anna", "bert"]}))
    with pytest.raises(PolicyBlocked):
        ask(place("dev", approvals={"by": ["bert"]}))


@pytest.mark.parametrize(("status", "answer"), [(403, {"message": "no"}), (200, {"not": "a list"})])
def test_what_github_does_not_say_is_no_approval(github: type[_GitHub], status: int, answer: Any) -> None:
    github.status, github.reviews = status, answer
    with pytest.raises(SystemUnavailable, match="GitHub did not say who approved prod") as error:
        ask(place(approvals={"by": "reviewers"}))
    assert "actions: read" in error.value.hint


def test_the_token_of_a_job_goes_to_github_alone(
    github: type[_GitHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_API_URL", "http://github.example.com")
    with pytest.raises(BadInput, match="no https address"):
        ask(place(approvals={"by": "reviewers"}))
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(BadInput, match="there is no token"):
        ask(place(approvals={"by": "reviewers"}))
    assert github.asked == []

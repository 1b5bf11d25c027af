from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_registry import FakeRegistry
from rich.console import Console
from signing_key import Key
from typer.testing import CliRunner
from vulnerability_database import database_bundle

from ci import places
from ci.commands import cli
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable
from ci.registry import Reference, Registry, push
from ci.reporting import SilentReporter
from ci.scan import JAVA, Policy
from ci.supply.signing import signature
from pipelines import database as pipeline
from pipelines.database import database_status, databases, mirror, show_database, show_mirrored

_DIGEST = "sha256:" + "a" * 64


class World:
    """Any number of registries, by address."""

    def __init__(self) -> None:
        self.servers: dict[str, FakeRegistry] = {}

    def client(self, reference: Reference) -> Registry:
        async def no_wait(_: float) -> None: ...

        if reference.registry == "down.example":
            raise SystemUnavailable("down.example did not answer")
        server = self.servers.setdefault(reference.registry, FakeRegistry())
        return Registry(reference.registry, transport=server, attempts=1, sleep=no_wait)

    def offer(self, address: str, hours: float = 1, **more: Any) -> str:
        bundle = database_bundle(datetime.now(UTC) - timedelta(hours=hours), **more)

        async def main() -> None:
            registry = self.client(Reference(registry=address, repository="trivy-db"))
            await push(registry, "trivy-db", bundle, tags=["2"])

        asyncio.run(main())
        return bundle.digest


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    for name in ("VA_DATABASE", "VA_JAVA_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    made = World()
    monkeypatch.setattr(pipeline, "_client", made.client)
    return made


def policy(**rule: Any) -> Policy:
    rules = {"vulnerabilities": {"block": ["HIGH"], **rule}}
    return Policy.model_validate({**rules, "misconfigurations": {"block": []}, "licences": {"block": []}})


def shown(what: object) -> str:
    out = io.StringIO()
    Console(width=200, file=out).print(what)
    return out.getvalue()


def test_what_was_mirrored_is_said_with_the_line_that_pins_it(world: World) -> None:
    digest = world.offer("a.example", hours=5)
    done = asyncio.run(
        mirror(
            "a.example/trivy-db:2",
            "b.example/mirror/trivy-db",
            digest=None,
            max_age=timedelta(hours=24),
            reporter=SilentReporter(),
        )
    )
    assert f"database: b.example/mirror/trivy-db@{digest}" in shown(show_mirrored(done))
    assert "the next one due" in shown(show_mirrored(done))


@pytest.mark.parametrize(
    ("source", "destination", "digest", "what"),
    [
        ("trivy-db:2", "b.example/db", None, "names no registry"),
        ("a.example/trivy-db:2", f"b.example/db@{_DIGEST}", None, "names a digest"),
        (f"a.example/trivy-db@{_DIGEST}", "b.example/db", "sha256:" + "b" * 64, "names another digest"),
        ("a.example/trivy-db:2", "b.example/db", "sha256:abc", "is not a digest"),
    ],
)
def test_wrong_arguments_are_refused_before_anybody_is_asked(
    world: World, source: str, destination: str, digest: str | None, what: str
) -> None:
    with pytest.raises(BadInput, match=what):
        asyncio.run(mirror(source, destination, digest=digest, max_age=None, reporter=SilentReporter()))
    assert not world.servers


def test_the_environment_names_another_database_than_the_policy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = world.offer("a.example", content=b"one"), world.offer("b.example", content=b"other")
    rules = policy(database="a.example/trivy-db:2")

    def used() -> str | None:
        found = asyncio.run(databases(rules, reporter=SilentReporter())).vulnerabilities
        return found.database.digest if found else None

    assert used() == one
    monkeypatch.setenv("VA_DATABASE", "b.example/trivy-db:2")
    assert used() == other


class Notes(SilentReporter):
    """What is said beside the steps."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def sign(world: World, digest: str, key: Key) -> None:
    async def main() -> None:
        registry = world.client(Reference(registry="a.example", repository="trivy-db"))
        subject = (await registry.manifest("trivy-db", digest)).descriptor
        await push(registry, "trivy-db", signature(key.bundle(digest), subject))

    asyncio.run(main())


def test_a_tag_is_believed_when_one_of_the_signers_has_signed_what_it_names(
    world: World, tmp_path: Path
) -> None:
    ours, theirs = Key(tmp_path / "ours.pub"), Key(tmp_path / "theirs.pub")
    rules = policy(database="a.example/trivy-db:2", database_signers=[{"key": str(ours.file)}])

    def used() -> str | None:
        found = asyncio.run(databases(rules, reporter=SilentReporter())).vulnerabilities
        return found.database.digest if found else None

    one = world.offer("a.example", content=b"one")
    with pytest.raises(PolicyBlocked, match="is not signed"):
        used()
    sign(world, one, theirs)
    with pytest.raises(PolicyBlocked, match="no signature that is trusted here"):
        used()
    sign(world, one, ours)
    assert used() == one
    # Whoever moves the tag does not decide.
    other = world.offer("a.example", content=b"other")
    with pytest.raises(PolicyBlocked, match="is not signed"):
        used()
    pinned = policy(database=f"a.example/trivy-db@{other}", database_signers=[{"key": str(ours.file)}])
    found = asyncio.run(databases(pinned, reporter=SilentReporter())).vulnerabilities
    assert found is not None and found.database.digest == other


def test_a_signature_is_remembered_and_another_key_in_its_file_is_another(
    world: World, tmp_path: Path
) -> None:
    key = Key(tmp_path / "ours.pub")
    rules = policy(database="a.example/trivy-db:2", database_signers=[{"key": str(key.file)}])
    digest = world.offer("a.example")
    sign(world, digest, key)
    assert asyncio.run(databases(rules, reporter=SilentReporter())).vulnerabilities
    server = world.servers["a.example"]
    server.manifests = {at: what for at, what in server.manifests.items() if "sha256-" not in at[1]}
    assert asyncio.run(databases(rules, reporter=SilentReporter())).vulnerabilities

    key.file.write_bytes(Key(tmp_path / "other.pub").file.read_bytes())
    with pytest.raises(PolicyBlocked):
        asyncio.run(databases(rules, reporter=SilentReporter()))


@pytest.mark.parametrize("pinned", [True, False])
def test_a_tag_that_nobody_signs_is_said_so_each_time(world: World, pinned: bool) -> None:
    digest = world.offer("a.example")
    notes = Notes()
    name = f"a.example/trivy-db@{digest}" if pinned else "a.example/trivy-db:2"
    asyncio.run(databases(policy(database=name), reporter=notes))

    assert [note for note in notes.notes if "whoever moves it" in note] == notes.notes
    assert bool(notes.notes) is not pinned


def test_both_databases_are_had(world: World) -> None:
    world.offer("a.example")
    index = world.offer("b.example", kind=JAVA)
    rules = policy(database="a.example/trivy-db:2", java_database="b.example/trivy-db:2")
    found = asyncio.run(databases(rules, reporter=SilentReporter()))
    assert found.vulnerabilities and found.java and found.java.database.digest == index


def test_a_database_that_is_named_and_cannot_be_had_is_an_error_and_not_an_empty_result(world: World) -> None:
    with pytest.raises(SystemUnavailable, match=r"down\.example did not answer") as caught:
        asyncio.run(databases(policy(database="down.example/db:2"), reporter=SilentReporter()))
    assert "VA_DATABASE" in caught.value.hint


@pytest.mark.parametrize(
    ("rule", "hours", "words"),
    [
        ({}, None, ["no database: images are not scanned for vulnerabilities"]),
        ({"required": True}, None, ["the policy requires a database"]),
        ({"database_max_age_days": 7}, 30, ["age 30.0 h", "accepts it"]),
        ({"database_max_age_days": 7}, 24 * 9, ["age 216.0 h", "9 days old; 7 are allowed"]),
    ],
)
def test_the_status_says_which_database_is_used_and_what_the_policy_has_against_it(
    world: World, rule: dict[str, Any], hours: float | None, words: list[str]
) -> None:
    if hours is not None:
        digest = world.offer("a.example", hours=hours)
        rule, words = {**rule, "database": "a.example/trivy-db:2"}, [*words, digest]
    status = asyncio.run(database_status(policy(**rule), reporter=SilentReporter()))
    text = " ".join(shown(show_database(status)).split())
    for word in words:
        assert word in text


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setattr(places, "checkout", lambda: tmp_path)

    def write(rule: str) -> None:
        (tmp_path / "policy.yaml").write_text(
            f"vulnerabilities: {{block: [HIGH], {rule}}}\nmisconfigurations: {{block: []}}\n"
            "licences: {block: []}\n"
        )

    return write


def test_the_commands_answer_as_all_others_do(world: World, checkout: Callable[[str], None]) -> None:
    run = CliRunner()
    digest = world.offer("a.example", hours=24 * 9)
    refused = run.invoke(cli.app, ["db", "mirror", "a.example/trivy-db:2", "b.example/db", "--json"])
    assert refused.exit_code == 8 and "216 h old; 24 h are allowed" in refused.stdout
    words = ["db", "mirror", "a.example/trivy-db:2", "b.example/db", "--max-age", "240h", "--json"]
    assert json.loads(run.invoke(cli.app, words).stdout)["database"]["digest"] == digest
    assert run.invoke(cli.app, [*words[:4], "--max-age", "2 days"]).exit_code == 2

    checkout("required: false")
    assert run.invoke(cli.app, ["db", "status"]).exit_code == 0
    checkout("database: 'b.example/db:2', database_max_age_days: 7")
    old = run.invoke(cli.app, ["db", "status", "--json"])
    assert old.exit_code == 8 and json.loads(old.stdout)["database"]["digest"] == digest
    checkout("database: 'b.example/db:2', databse_max_age_days: 7")
    assert run.invoke(cli.app, ["db", "status"]).exit_code == 2

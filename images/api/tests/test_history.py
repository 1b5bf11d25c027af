"""The history and its tables, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest
from conftest import NOWHERE, Running, Start, settings_with
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from voice_api import migrate
from voice_api.history import History
from voice_api.observe import configure_logging
from voice_api.store import Session

T = TypeVar("T")
ADMIN = "an-administrators-token-of-32-characters"
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/voice"


def sql(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url, ssl=False)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    return asyncio.run(run())


def on(url: str, work: Callable[[asyncpg.Connection], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        connection = await asyncpg.connect(url, ssl=False)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.fixture
def migrated(database_url: str) -> str:
    on(database_url, lambda connection: migrate.migrate(connection, migrate.migrations()))
    return database_url


def recording(start: Start, redis_url: str, database_url: str, **more: object) -> Running:
    return start(
        redis_url=redis_url,
        database_url=database_url,
        database_tls=False,
        admin_token=ADMIN,
        **more,
    )


def metric(running: Running, name: str) -> float:
    families = text_string_to_metric_families(running.http.get("/metrics").text)
    return next(sample.value for family in families for sample in family.samples if sample.name == name)


def eventually(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


def erase(running: Running, participant: str, token: str = ADMIN) -> tuple[int, Any]:
    answer = running.http.post(
        "/v1/erasures",
        json={"participant_id": participant},
        headers={"authorization": f"Bearer {token}"},
    )
    return answer.status_code, answer.json()


def test_a_session_is_in_the_history_from_its_beginning_to_its_end(
    start: Start, redis_url: str, migrated: str
) -> None:
    running = recording(start, redis_url, migrated, va_track="canary")
    created = running.http.post("/v1/sessions", json={"participant_id": "p-1"}).json()
    assert created["participant_id"] == "p-1"
    rows = "SELECT session_id, room, participant_id, track, release, ended_at IS NULL FROM sessions"
    begun = (created["session_id"], created["room"], "p-1", "canary", "r1")
    eventually(lambda: sql(migrated, rows) == [(*begun, True)])

    running.http.delete(f"/v1/sessions/{created['session_id']}")

    eventually(lambda: sql(migrated, rows) == [(*begun, False)])
    eventually(lambda: metric(running, "voice_history_written_total") == 2)
    assert metric(running, "voice_history_dropped_total") == 0


def test_what_waits_is_written_before_the_process_ends(
    redis_url: str, migrated: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voice_api.history._CLOSE_SECONDS", 30.0)  # a busy machine may need more than three
    running = recording(start, redis_url, migrated)
    for _ in range(50):
        assert running.http.post("/v1/sessions").status_code == 201
    running.http.__exit__(None, None, None)

    assert sql(migrated, "SELECT count(*) FROM sessions") == [(50,)]


def test_without_postgresql_sessions_go_on_and_readyz_says_so(start: Start, redis_url: str) -> None:
    running = recording(start, redis_url, NO_DATABASE)
    began = time.monotonic()
    assert [running.http.post("/v1/sessions").status_code for _ in range(5)] == [201] * 5
    assert time.monotonic() - began < 10, "they waited for the history"
    eventually(lambda: "history" in running.http.get("/readyz").json())
    answer = running.http.get("/readyz")
    assert answer.status_code == 200 and "postgresql does not answer" in answer.json()["history"]
    assert metric(running, "voice_history_up") == 0 and metric(running, "voice_history_waiting") == 5


def test_of_what_the_queue_cannot_take_the_number_is_kept(
    start: Start, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voice_api.history._WAITING", 2)
    running = recording(start, redis_url, NO_DATABASE)
    assert [running.http.post("/v1/sessions").status_code for _ in range(5)] == [201] * 5
    assert metric(running, "voice_history_dropped_total") == 3


def test_what_waited_is_written_once_the_tables_are_there(
    start: Start, redis_url: str, database_url: str
) -> None:
    running = recording(start, redis_url, database_url)
    running.http.post("/v1/sessions")
    eventually(lambda: "UndefinedTable" in running.http.get("/readyz").json().get("history", ""))

    on(database_url, lambda connection: migrate.migrate(connection, migrate.migrations()))

    eventually(lambda: sql(database_url, "SELECT count(*) FROM sessions") == [(1,)])
    eventually(lambda: running.http.get("/readyz").json() == {"status": "ok"})


def test_a_person_is_erased_everywhere_and_nobody_else(
    start: Start, redis_url: str, migrated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO")
    running = recording(start, redis_url, migrated)
    mine = [running.http.post("/v1/sessions", json={"participant_id": "p-1"}).json() for _ in range(2)]
    other = running.http.post("/v1/sessions", json={"participant_id": "p-2"}).json()
    running.http.delete(f"/v1/sessions/{mine[0]['session_id']}")
    eventually(lambda: metric(running, "voice_history_written_total") == 4)

    assert erase(running, "p-1") == (200, {"history": 2, "sessions": 1})

    assert running.rooms.closed == [one["room"] for one in mine]
    assert running.http.get(f"/v1/sessions/{mine[1]['session_id']}").status_code == 404
    assert running.http.get(f"/v1/sessions/{other['session_id']}").status_code == 200
    assert sql(migrated, "SELECT participant_id FROM sessions") == [("p-2",)]
    assert erase(running, "p-1") == (200, {"history": 0, "sessions": 0})
    out = capsys.readouterr().out
    audit = [line for line in map(json.loads, out.splitlines()) if line.get("audit")]
    assert [(line["history"], line["sessions"]) for line in audit] == [(2, 1), (0, 0)]
    assert "p-1" not in out and ADMIN not in out


def test_what_another_replica_had_still_to_write_stays_erased(migrated: str) -> None:
    now = datetime.now(UTC)

    def session(name: str, participant: str, created: datetime) -> Session:
        return Session(
            session_id=name,
            room=name,
            participant_id=participant,
            created_at=created,
            expires_at=now,
            track="stable",
            release="r1",
        )

    async def run() -> None:
        registry = CollectorRegistry()
        history = History(settings_with(database_url=migrated, database_tls=False), registry)
        async with history.running():
            await history.erase("p-1")
            history.record(session("before", "p-1", now - timedelta(seconds=60)))
            history.record(session("other", "p-2", now - timedelta(seconds=60)))
            # Whoever comes back afterwards is a new person.
            history.record(session("after", "p-1", now + timedelta(seconds=60)))

    asyncio.run(run())
    assert sql(migrated, "SELECT session_id FROM sessions ORDER BY 1") == [("after",), ("other",)]


def test_an_erasure_that_cannot_be_whole_is_an_error(start: Start, redis_url: str) -> None:
    code, _ = erase(recording(start, redis_url, NO_DATABASE), "p-1")
    assert code == 503


def test_only_an_administrator_erases(start: Start) -> None:
    assert erase(start(admin_token=ADMIN), "p-1", token="wrong")[0] == 401
    assert erase(start(), "p-1", token="")[0] == 403
    assert start(admin_token=ADMIN).http.post("/v1/erasures", json={"participant_id": "p"}).status_code == 401


def test_without_a_database_sessions_are_still_erased(start: Start, redis_url: str) -> None:
    running = start(redis_url=redis_url, admin_token=ADMIN)
    running.http.post("/v1/sessions", json={"participant_id": "p-1"})
    assert erase(running, "p-1") == (200, {"history": 0, "sessions": 1})
    assert "voice_history" not in running.http.get("/metrics").text


@pytest.mark.parametrize("participant", ["", "a@b.example", "x" * 65, "a b"])
def test_what_is_no_pseudonym_is_refused(start: Start, participant: str) -> None:
    assert (
        start(redis_url=NOWHERE).http.post("/v1/sessions", json={"participant_id": participant}).status_code
        == 422
    )


def test_old_history_is_deleted(start: Start, redis_url: str, migrated: str) -> None:
    row = "INSERT INTO sessions VALUES ($1, 'r', 'p', now() - $2 * interval '1 day', now(), NULL, 's', 'r')"
    for name, days in (("old", 31), ("young", 29)):
        sql(migrated, row, name, days)
    recording(start, redis_url, migrated, history_days=30)
    eventually(lambda: sql(migrated, "SELECT session_id FROM sessions") == [("young",)])


# Migrations -----------------------------------------------------------------------------------------


def files(folder: Path, **contents: str) -> tuple[migrate.Migration, ...]:
    for name, content in contents.items():
        (folder / f"{name.removeprefix('m')}.sql").write_text(content)
    return migrate.migrations(folder)


def test_each_file_is_applied_once_in_order(database_url: str, tmp_path: Path) -> None:
    known = files(tmp_path, m0001_a="CREATE TABLE a (x int)", m0002_b="ALTER TABLE a ADD y int")
    assert on(database_url, lambda c: migrate.migrate(c, known, check=True)) == ("0001_a.sql", "0002_b.sql")
    assert on(database_url, lambda c: migrate.migrate(c, known)) == ("0001_a.sql", "0002_b.sql")
    assert on(database_url, lambda c: migrate.migrate(c, known)) == ()
    assert sql(database_url, "SELECT x, y FROM a") == []


def test_a_file_that_fails_leaves_nothing_and_those_before_it_stay(database_url: str, tmp_path: Path) -> None:
    known = files(tmp_path, m0001_a="CREATE TABLE a (x int)", m0002_b="CREATE TABLE b (x int); SELECT 1/0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        on(database_url, lambda c: migrate.migrate(c, known))
    assert sql(database_url, "SELECT name FROM schema_migrations") == [("0001_a.sql",)]
    assert sql(database_url, "SELECT to_regclass('a'), to_regclass('b')")[0][1] is None


def test_several_at_once_apply_each_file_once(database_url: str, tmp_path: Path) -> None:
    known = files(tmp_path, m0001_a="SELECT pg_sleep(0.2); CREATE TABLE a (x int)")

    async def together() -> list[tuple[str, ...]]:
        async def one() -> tuple[str, ...]:
            connection = await asyncpg.connect(database_url, ssl=False)
            try:
                return await migrate.migrate(connection, known)
            finally:
                await connection.close()

        return await asyncio.gather(*(one() for _ in range(4)))

    assert sorted(asyncio.run(together())) == [(), (), (), ("0001_a.sql",)]


def test_a_file_that_changed_after_it_was_applied_is_refused(database_url: str, tmp_path: Path) -> None:
    known = files(tmp_path, m0001_a="CREATE TABLE a (x int)")
    on(database_url, lambda c: migrate.migrate(c, known))
    changed = files(tmp_path, m0001_a="CREATE TABLE a (x bigint)")
    with pytest.raises(migrate.MigrationError, match="0001_a"):
        on(database_url, lambda c: migrate.migrate(c, changed))


def test_an_older_release_leaves_a_newer_ones_tables_alone() -> None:
    one = migrate.Migration(name="0001_a.sql", digest="1", sql="")
    assert migrate.pending((one,), {"0001_a.sql": "1", "0002_b.sql": "2"}) == ()
    with pytest.raises(migrate.MigrationError, match="number it anew"):
        migrate.pending((one,), {"0002_b.sql": "2"})


@pytest.mark.parametrize("names", [("1_a",), ("0001_a", "0001_b"), ("0001_A",)])
def test_names_that_have_no_order_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(migrate.MigrationError):
        files(tmp_path, **{f"m{name}": "" for name in names})


def test_the_command_says_what_it_did(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert migrate.main([]) == 2
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("DATABASE_TLS", "false")
    assert migrate.main(["--check"]) == 1
    assert migrate.main([]) == 0
    assert migrate.main(["--check"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == ["pending 0001_sessions.sql", "applied 0001_sessions.sql", "nothing is pending"]

"""The ledger: what is written comes back, in one order for all, and no damage stays unseen."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promotion_world import environment
from pydantic import ValidationError

from ci.delivery.findings import Exposure, Finding, Tally, Verdict
from ci.delivery.ledger import (
    Action,
    Conflict,
    Damaged,
    Draft,
    Entry,
    Kind,
    Ledger,
    Problem,
    alone,
    open_named,
    person,
    promotion_id,
    whoami,
)
from ci.delivery.ledger.chain import Row, read, sealed
from ci.delivery.ledger.sqlite import Sqlite
from ci.errors import PolicyBlocked, SystemUnavailable

T = TypeVar("T")

FULL = Draft(
    promotion="2026-11-29T201512-ab12",
    kind=Kind.OUTCOME,
    action=Action.STEP,
    target="prod/eastus",
    release="r2",
    fence=7,
    weight=25,
    result="failed",
    reason="errors: 3 of 9 – “bad”\n\x00 \udcff",
    findings=(
        Finding(
            metric="errors",
            verdict=Verdict.FAIL,
            reason="3 of 9",
            tally=Tally(canary_bad=3, canary=9, stable=30),
            log_harm=float("inf"),
        ),
    ),
    exposure=Exposure(intended=0.25, observed=None, log_e=-0.5, mismatch=False),
    detail={"seconds": 1.5, "tries": 2, "cold": True, "note": "1"},
)


def say(number: int, promotion: str = "p1", target: str = "") -> Draft:
    return Draft(
        promotion=promotion, kind=Kind.NOTE, action=Action.MOVE, target=target, detail={"number": number}
    )


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


def with_ledger(work: Callable[[Ledger], Awaitable[T]], name: str = "prod") -> T:
    async def main() -> T:
        async with open_named("local", name) as ledger:
            return await work(ledger)

    return asyncio.run(main())


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    return tmp_path / "ledger" / "local" / "prod.sqlite"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Entry, ...]]:
    """A ledger of some entries, closed: its log is in its file."""
    path = tmp_path_factory.mktemp("ledger") / "prod.sqlite"

    async def main() -> tuple[Entry, ...]:
        store = Sqlite(path)
        for number in range(9):
            await Ledger(store).append(FULL if number == 4 else say(number))
        store.close()
        return await Ledger(Sqlite(path)).entries()

    return path, asyncio.run(main())


# What is written -------------------------------------------------------------------------------------


def test_what_is_written_comes_back_with_its_place_and_its_author(file: Path) -> None:
    first = with_ledger(lambda ledger: ledger.append(FULL))
    second = with_ledger(lambda ledger: ledger.append(say(2)))
    found = with_ledger(lambda ledger: ledger.entries())

    assert found == (first, second)
    assert (first.sequence, second.sequence) == (1, 2)
    assert first.previous == "0" * 64 and second.previous == first.hash
    assert first.who == whoami() and abs((datetime.now(UTC) - first.time).total_seconds()) < 60
    told = first.model_dump(include=set(Draft.model_fields))
    assert told == FULL.model_dump() | {"reason": FULL.reason.replace("\udcff", "\\udcff")}
    assert type(first.detail["tries"]) is int and first.detail["cold"] is True


def test_a_line_is_json_that_anybody_can_check(file: Path) -> None:
    import hashlib

    entry = with_ledger(lambda ledger: ledger.append(say(1)))
    ((line,),) = sqlite3.connect(file).execute("SELECT line FROM entries").fetchall()
    body, _, end = line.rpartition(b',"hash":')
    assert json.loads(line)["hash"] == entry.hash == hashlib.sha256(body + b"}").hexdigest()
    assert end == f'"{entry.hash}"}}'.encode() and list(json.loads(body + b"}")) == sorted(
        json.loads(body + b"}")
    )


def test_entries_are_asked_for_by_promotion_by_target_and_from_where_one_has_read(file: Path) -> None:
    async def work(ledger: Ledger) -> None:
        assert await ledger.entries() == () and await ledger.verify() == ()
        for number, (promotion, target) in enumerate(
            [("a", ""), ("a", "prod/eastus"), ("b", "prod/westeurope"), ("a", "prod/westeurope")], start=1
        ):
            await ledger.append(say(number, promotion, target))

        async def numbers(**asked: object) -> list[int]:
            return [entry.sequence for entry in await ledger.entries(**asked)]  # type: ignore[arg-type]

        assert await numbers() == [1, 2, 3, 4]
        assert await numbers(promotion="a") == [1, 2, 4]
        assert await numbers(target="prod/westeurope") == [1, 3, 4]
        assert await numbers(after=2, target="prod/westeurope") == [3, 4]
        assert await numbers(after=4) == []
        with pytest.raises(Damaged):  # somebody has read more than there is
            await numbers(after=5)

    with_ledger(work)


def test_reading_makes_nothing(file: Path) -> None:
    assert with_ledger(lambda ledger: ledger.entries()) == ()
    assert not file.exists() and not file.parent.exists()


def test_who_came_second_is_told(file: Path) -> None:
    async def work(ledger: Ledger) -> None:
        await ledger.append(say(1), after=0)
        async with open_named("local", "prod") as other:
            with pytest.raises(Conflict, match=f"is at entry 1, not 0: {whoami()} has written") as told:
                await other.append(say(2), after=0)
            assert told.value.hint
            assert (await other.append(say(2), after=1)).sequence == 2
        assert (await ledger.append(say(3))).sequence == 3
        assert [entry.detail["number"] for entry in await ledger.entries()] == [1, 2, 3]

    with_ledger(work)


def test_who_is_the_person_and_on_github_the_workflow_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GITHUB_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "somebody-else")  # anybody may say that
    assert whoami().endswith(f"@{os.uname().nodename}") and "somebody-else" not in whoami()
    monkeypatch.setattr("os.getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "alice")
    assert person(whoami()) == "alice"
    workflow = "acme/voice/.github/workflows/promote.yml@refs/heads/main"
    for name, value in {
        "WORKFLOW_REF": workflow, "REPOSITORY": "acme/voice", "RUN_ID": "12",
        "RUN_ATTEMPT": "2", "ACTOR": "bob",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"GITHUB_{name}", value)
    assert whoami() == f"bob ({workflow}, https://github.com/acme/voice/actions/runs/12/attempts/2)"
    assert person(whoami()) == "bob"
    monkeypatch.setenv("GITHUB_TRIGGERING_ACTOR", "carol")
    assert person(whoami()) == "carol"


def test_names_of_promotions_sort_by_time_in_any_time_zone() -> None:
    times = [
        datetime.fromisoformat(f"2026-10-25T0{hour}:30:00+0{zone}:00")
        for hour, zone in ((2, 2), (2, 1), (3, 1))
    ]
    assert [promotion_id(each)[:17] for each in times] == [
        "2026-10-25T003000",
        "2026-10-25T013000",
        "2026-10-25T023000",
    ]
    assert promotion_id() != promotion_id()


# Damage ----------------------------------------------------------------------------------------------


def lines(count: int) -> list[bytes]:
    found: list[bytes] = []
    last: Entry | None = None
    for number in range(count):
        last, line = sealed(
            say(number), last, who="alice@here", time=datetime(2026, 11, 29, 2, number, tzinfo=UTC)
        )
        found.append(line)
    return found


LINES = lines(7)


def problems(found: list[bytes], numbered: bool = False) -> dict[int, str]:
    rows = [
        Row(where=f"line {place}", line=line, number=place if numbered else None)
        for place, line in enumerate(found, start=1)
    ]
    told = [one for one in read(rows, count=7, where="all") if isinstance(one, Problem)]
    return {one.sequence: one.problem for one in reversed(told)}


@pytest.mark.parametrize("numbered", [False, True])
@given(data=st.data())
def test_any_flipped_bit_is_found_at_its_entry(numbered: bool, data: st.DataObject) -> None:
    entry = data.draw(st.integers(0, 6))
    byte = data.draw(st.integers(0, len(LINES[entry]) - 1))
    changed = bytearray(LINES[entry])
    changed[byte] ^= 1 << data.draw(st.integers(0, 7))
    found = [*LINES[:entry], bytes(changed), *LINES[entry + 1 :]]
    assert problems(found, numbered) == {entry + 1: "is not what was written: its hash is another"}


@pytest.mark.parametrize("entry", range(7))
def test_a_removed_line_is_found_also_the_last(entry: int) -> None:
    assert list(problems(LINES[:entry] + LINES[entry + 1 :])) == [entry + 1]


@given(st.sampled_from([(a, b) for a in range(7) for b in range(a)]), st.booleans())
def test_exchanged_lines_are_found(places: tuple[int, int], numbered: bool) -> None:
    assert problems(LINES, numbered) == {}
    later, earlier = places
    found = list(LINES)
    found[later], found[earlier] = found[earlier], found[later]
    told = problems(found, numbered)
    assert earlier + 1 in told
    assert not numbered or {earlier + 1, later + 1} <= told.keys()


def test_a_line_that_is_rewritten_with_a_hash_of_its_own_is_found() -> None:
    before = read([Row(where="", line=line) for line in LINES[:3]])
    last = [one for one in before if isinstance(one, Entry)][-1]
    _, forged = sealed(say(99), last, who="mallory@here", time=datetime.now(UTC))
    assert problems([*LINES[:3], forged, *LINES[4:]]) == {
        5: "does not follow on entry 4 as it is now: one of both was changed"
    }
    assert list(problems([*LINES, LINES[6]])) == [7]


def test_an_entry_of_a_later_version_is_named_and_not_taken_for_damage() -> None:
    import hashlib

    body = LINES[6].rpartition(b',"hash":')[0].replace(b'"kind":"note"', b'"kind":"vote"') + b"}"
    line = body[:-1] + f',"hash":"{hashlib.sha256(body).hexdigest()}"}}'.encode()
    told = problems([*LINES[:6], line])
    assert list(told) == [7] and told[7].startswith(
        "is whole, but of a kind that this version does not know (kind"
    )


@pytest.mark.parametrize(
    "time", ["yesterday", "2026-11-20T12:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
)
def test_a_time_that_is_none_is_a_problem_of_its_entry(time: str) -> None:
    import hashlib

    body = LINES[6].rpartition(b',"hash":')[0] + b"}"
    body = re.sub(rb'"detail":\{[^}]*\}', b'"detail":{"time":"' + time.encode() + b'"}', body)
    line = body[:-1] + f',"hash":"{hashlib.sha256(body).hexdigest()}"}}'.encode()
    told = problems([*LINES[:6], line])
    assert list(told) == [7] and f"it happened at {time!r}, which is no time" in told[7]
    with pytest.raises(ValidationError):
        Draft(promotion="p", kind=Kind.NOTE, action=Action.GUARD, detail={"time": time})


def damaged_copy(written: tuple[Path, tuple[Entry, ...]], tmp_path: Path, *statements: str) -> Ledger:
    file = tmp_path / "copy.sqlite"
    shutil.copy(written[0], file)
    with sqlite3.connect(file, isolation_level=None) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return Ledger(Sqlite(file))


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE entries SET line = replace(line, 'number', 'numbar') WHERE sequence = 3", {3}),
        ("DELETE FROM entries WHERE sequence = 4", {4}),
        ("DELETE FROM entries WHERE sequence = 9", {9}),
        ("DELETE FROM entries WHERE sequence = 1", {1}),
        ("DELETE FROM entries WHERE sequence > 5", {6}),
        ("DELETE FROM entries", {1}),
        ("UPDATE entries SET sequence = 20 WHERE sequence = 9", {0, 9, 20}),
        ("INSERT INTO entries (line) SELECT line FROM entries WHERE sequence = 2", {10}),
        ("UPDATE entries SET line = 5 WHERE sequence = 2", {2}),
        ("UPDATE sqlite_sequence SET seq = 4", {0}),
        ("DROP TABLE entries", {0}),
    ],
)
def test_damage_is_named_and_stops_whoever_reads(
    written: tuple[Path, tuple[Entry, ...]], tmp_path: Path, statement: str, named: set[int]
) -> None:
    ledger = damaged_copy(written, tmp_path, statement)
    assert {one.sequence for one in run(ledger.verify())} == named
    with pytest.raises(Damaged, match=r"the ledger is damaged: .*copy\.sqlite") as told:
        run(ledger.entries())
    assert "va ledger verify" in told.value.hint
    # Whoever has read up to behind the damage goes on.
    if max(named) in (3, 4) or named == {2}:
        assert [entry.sequence for entry in run(ledger.entries(after=5))] == [6, 7, 8, 9]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE sequence = 9",
        "DELETE FROM entries",
        "UPDATE entries SET line = substr(line, 1, 90) WHERE sequence = 9",
        "DROP TABLE entries",
    ],
)
def test_nothing_is_added_to_an_end_that_is_not_whole(
    written: tuple[Path, tuple[Entry, ...]], tmp_path: Path, statement: str
) -> None:
    ledger = damaged_copy(written, tmp_path, statement)
    before = run(ledger.verify())
    with pytest.raises(Damaged):
        run(ledger.append(say(1)))
    assert run(ledger.verify()) == before


def test_of_a_torn_page_each_entry_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    file = tmp_path / "prod.sqlite"
    store = Sqlite(file)
    run(Ledger(store).append(say(0)))
    store.close()
    with sqlite3.connect(file) as connection:
        connection.execute("DELETE FROM entries")
        connection.executemany("INSERT INTO entries VALUES (?, ?)", enumerate(lines(60), start=1))
        pages = [page for (page,) in connection.execute("SELECT pageno FROM dbstat WHERE name='entries'")]
    connection.close()
    assert run(Ledger(store).verify()) == ()
    store.close()
    content = bytearray(file.read_bytes())
    torn = pages[len(pages) // 2] - 1
    content[torn * 4096 : (torn + 1) * 4096] = bytes(4096)
    file.write_bytes(content)

    told = run(Ledger(Sqlite(file)).verify())
    named = sorted({one.sequence for one in told} - {0})
    assert named == list(range(named[0], named[-1] + 1)) and 5 < len(named) < 30
    assert "cannot be read" in told[0].problem and str(file) == told[0].where
    assert len(run(Ledger(Sqlite(file)).entries(after=named[-1]))) == 60 - named[-1]


def test_a_damaged_name_that_is_no_text_is_damage_too(
    written: tuple[Path, tuple[Entry, ...]], tmp_path: Path
) -> None:
    file = tmp_path / "copy.sqlite"
    content = written[0].read_bytes()
    place = content.index(b"CREATE TABLE entries")
    file.write_bytes(content[: place + 13] + b"\xc1" + content[place + 14 :])
    with pytest.raises(Damaged, match="is no ledger as it was written"):
        run(Ledger(Sqlite(file)).entries())
    assert run(Ledger(Sqlite(file)).verify())


@settings(max_examples=150)
@given(data=st.data())
def test_a_flipped_bit_anywhere_in_the_file_never_changes_what_is_read(
    written: tuple[Path, tuple[Entry, ...]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path, entries = written
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    copy = tmp_path_factory.getbasetemp() / "flipped.sqlite"
    for beside in ("-wal", "-shm", ""):
        copy.with_name(copy.name + beside).unlink(missing_ok=True)
    copy.write_bytes(content)
    store = Sqlite(copy)

    async def seen() -> bool:
        try:
            return await Ledger(store).entries() == entries
        except SystemUnavailable:
            return bool(await Ledger(store).verify())

    try:
        assert asyncio.run(seen())
    finally:
        store.close()


# Several at once, and ends ---------------------------------------------------------------------------


@settings(max_examples=12)
@given(turns=st.lists(st.sampled_from("ab"), min_size=1, max_size=8))
def test_entries_of_two_writers_are_one_chain_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, turns: list[str]
) -> None:
    file = tmp_path_factory.mktemp("two") / "prod.sqlite"
    stores = {name: Sqlite(file) for name in "ab"}

    async def main() -> tuple[Entry, ...]:
        for number, name in enumerate(turns):
            await Ledger(stores[name]).append(say(number, name))
        assert await Ledger(stores["a"]).verify() == ()
        return await Ledger(stores["b"]).entries()

    found = asyncio.run(main())
    assert [(entry.promotion, entry.detail["number"]) for entry in found] == [
        (name, number) for number, name in enumerate(turns)
    ]
    for store in stores.values():
        store.close()
    shutil.rmtree(file.parent)


WRITER = """
import asyncio, sys
from ci.delivery.ledger import *

async def main(name, count):
    async with open_named("local", "prod") as ledger:
        for number in range(count):
            entry = await ledger.append(
                Draft(promotion=name, kind=Kind.NOTE, action=Action.MOVE, detail={"number": number})
            )
            print(entry.sequence, number, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def writer(name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, name, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(240)  # each process has to start, on a busy machine too
def test_three_processes_that_begin_a_ledger_at_once_write_one_chain(file: Path) -> None:
    running = [writer(name, 8) for name in "abc"]
    told = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], told
    found = with_ledger(lambda ledger: ledger.entries())
    assert [entry.sequence for entry in found] == list(range(1, 25))
    for name in "abc":
        assert [entry.detail["number"] for entry in found if entry.promotion == name] == list(range(8))


@pytest.mark.timeout(240)  # each process has to start, on a busy machine too
def test_what_was_told_as_written_survives_kill_9_in_the_middle(file: Path) -> None:
    """Two write; one of them is killed at different moments, again and again."""
    steady, told, length = writer("steady", 12), [], 0
    for lap in range(2):
        process = writer(f"killed {lap}", 10_000)
        assert process.stdout is not None
        for _ in range(2 + 3 * lap):
            told.append((f"killed {lap}", *map(int, process.stdout.readline().split())))
        time.sleep(0.003 * lap)
        process.send_signal(signal.SIGKILL)
        told += [(f"killed {lap}", *map(int, line.split())) for line in process.stdout.read().splitlines()]
        process.communicate()
        found = with_ledger(lambda ledger: ledger.entries())
        assert with_ledger(lambda ledger: ledger.verify()) == ()
        assert len(found) > length
        length = len(found)
        there = {(entry.promotion, entry.sequence, entry.detail["number"]) for entry in found}
        assert set(told) <= there
    said, _ = steady.communicate(timeout=200)
    assert steady.returncode == 0 and len(said.splitlines()) == 12
    numbers = [
        e.detail["number"] for e in with_ledger(lambda ledger: ledger.entries()) if e.promotion == "steady"
    ]
    assert numbers == list(range(12))


# What stands in the way ------------------------------------------------------------------------------


def test_a_full_disk_is_one_clear_line_and_nothing_is_lost(file: Path) -> None:
    with_ledger(lambda ledger: ledger.append(say(1)))
    store = Sqlite(file)

    async def fill(ledger: Ledger) -> None:
        for number in range(100):
            await ledger.append(say(number, promotion="x" * 500))

    async def main() -> None:
        ledger = Ledger(store)
        await ledger.append(say(2))
        assert store._connection is not None
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(
            SystemUnavailable, match=r"no room to write .*prod\.sqlite: the disk is full"
        ) as told:
            await fill(ledger)
        assert "run the same command" in told.value.hint
        store._connection.execute("PRAGMA max_page_count = 100000")
        assert await ledger.verify() == ()
        await ledger.append(say(3))

    asyncio.run(main())
    store.close()


@pytest.mark.parametrize("log", [False, True])
def test_who_may_not_write_reads_all_the_same(file: Path, monkeypatch: pytest.MonkeyPatch, log: bool) -> None:
    async def main() -> None:
        async with open_named("local", "prod") as writer:
            await writer.append(say(1))
            if log:
                await read()
        if not log:
            await read()

    async def read() -> None:
        with monkeypatch.context() as only_reads:
            only_reads.setattr("os.access", lambda *_: False)
            async with open_named("local", "prod") as ledger:
                assert [entry.detail["number"] for entry in await ledger.entries()] == [1]

    asyncio.run(main())
    assert sorted(each.name for each in file.parent.iterdir()) == ["prod.sqlite"]


@pytest.mark.parametrize(
    "what", ["a file is in the way", "it is a folder", "it is no ledger", "it was emptied"]
)
def test_a_place_that_is_none_is_one_clear_line(file: Path, what: str) -> None:
    if what == "a file is in the way":
        file.parent.parent.mkdir(parents=True)
        file.parent.write_text("")
    elif what == "it is a folder":
        file.mkdir(parents=True)
    elif what == "it was emptied":
        with_ledger(lambda ledger: ledger.append(say(1)))
        file.write_bytes(b"")
        with pytest.raises(Damaged):
            with_ledger(lambda ledger: ledger.entries())
        assert with_ledger(lambda ledger: ledger.verify())
    else:
        file.parent.mkdir(parents=True)
        file.write_text("a page of something else, larger than the head of a file of SQLite\n" * 40)
    with pytest.raises(SystemUnavailable, match="local") as told:
        with_ledger(lambda ledger: ledger.append(say(1)))
    assert "\n" not in str(told.value) and "sqlite3" not in str(told.value)


# What was there before -------------------------------------------------------------------------------


OLD = b"""{"time":"2026-11-20T10:12:00Z","who":"alice","event":"started","target":"prod/a","release":"r1"}
{"time":"2026-11-20T10:13:00Z","who":"alice","event":"step passed","target":"a","release":"r1","weight":9,\
"findings":[{"metric":"errors","verdict":"pass","reason":"0 of 9","log_harm":-1.5,"log_safe":Infinity}]}
{"time":"2026-11-20T10:14:00Z","who":"alice","event":"promo
{"time":"2026-11-20T10:15:00Z","who":"bob","event":"promoted","target":"prod/eastus","release":"r1","new":1}

{"time":"2026-11-21T10:00:00Z","who":"bob","event":"rolled back","target":"prod/eastus","release":"r2"}
""".replace(b"\\\n", b"")


def test_the_lines_of_before_are_taken_over_once_with_their_time_and_author(file: Path) -> None:
    file.parent.mkdir(parents=True)
    before = file.with_suffix(".jsonl")
    before.write_bytes(OLD)
    found = with_ledger(lambda ledger: ledger.entries())

    assert {(entry.kind, entry.action) for entry in found} == {(Kind.NOTE, Action.TAKEN_OVER)}
    assert [
        (entry.result, entry.by, f"{entry.when:%d %H:%M}") for entry in found if entry.result != "damaged"
    ] == [
        ("started", "alice", "20 10:12"),
        ("step passed", "alice", "20 10:13"),
        ("promoted", "bob", "20 10:15"),
        ("rolled back", "bob", "21 10:00"),
    ]
    assert found[1].findings[0].log_safe == float("inf") and found[1].weight == 9
    assert found[2].reason.startswith('line 3 of prod.jsonl cannot be read: {"time":"2026-11-20T10:14')
    names = [entry.promotion for entry in found]
    assert len(set(names[:4])) == 1 and names[4] != names[0]
    assert names[0].startswith("2026-11-20T101200-") and names == sorted(names)
    assert not before.exists() and before.with_suffix(".jsonl.taken-over").read_bytes() == OLD
    assert (
        with_ledger(lambda ledger: ledger.entries()) == found
        and with_ledger(lambda ledger: ledger.verify()) == ()
    )


def test_taking_over_goes_on_where_it_was_killed_and_takes_what_an_older_version_adds(file: Path) -> None:
    file.parent.mkdir(parents=True)
    before = file.with_suffix(".jsonl")
    before.write_bytes(OLD.splitlines(keepends=True)[0])
    with_ledger(lambda ledger: ledger.append(say(1)))
    before.write_bytes(OLD)  # as if it had been killed before it moved the file aside
    found = with_ledger(lambda ledger: ledger.entries())
    assert [entry.result for entry in found] == [
        "started",
        "",
        "step passed",
        "damaged",
        "promoted",
        "rolled back",
    ]


def test_two_take_over_at_once_and_each_line_is_there_once(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.with_suffix(".jsonl").write_bytes(OLD)

    async def one() -> None:
        async with open_named("local", "prod"):
            pass

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(3)))

    asyncio.run(main())
    found = with_ledger(lambda ledger: ledger.entries())
    assert [entry.detail["line"] for entry in found] == [1, 2, 3, 4, 6]


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    prod = environment("prod")
    with (
        alone(prod),
        pytest.raises(PolicyBlocked, match=r"prod is being worked on by process \d+ of"),
        alone(prod),
    ):
        pass
    with alone(prod):
        pass

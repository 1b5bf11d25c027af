"""A shared ledger on a real Azurite: writers on several machines, races, lost answers, full blobs, damage."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from azure.core.exceptions import ServiceResponseError
from azure.storage.blob import BlobClient, ContainerClient
from real_registry import free_port
from waiting import until

from ci import tools
from ci.delivery.ledger import Action, Conflict, Damaged, Draft, Kind, Ledger, open_named, order, whoami
from ci.delivery.ledger.blob import Blobs
from ci.delivery.ledger.chain import sealed
from ci.environments import Environment
from ci.errors import BadInput, SystemUnavailable
from ci.platform.daemon import connects

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        bool([status.name for status in tools.survey(("node", "azurite")) if not status.found]),
        reason="tools are missing: va doctor --install provides them",
    ),
]

T = TypeVar("T")
NAME, KEY = "va", "a2V5IG9mIGEgdGVzdCwgbm90IGEgc2VjcmV0Li4u"


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(
        [
            tools.path("node"), tools.path("azurite"), "--location", tmp_path_factory.mktemp("azurite"),
            "--blobHost", "127.0.0.1", "--blobPort", str(port),
            "--skipApiVersionCheck", "--disableTelemetry", "--silent",
        ],
        env={**os.environ, "AZURITE_ACCOUNTS": f"{NAME}:{KEY}"},
    )  # fmt: skip
    try:
        until(lambda: not asyncio.run(connects("127.0.0.1", port)()), "Azurite")
        yield f"http://127.0.0.1:{port}/{NAME}"
    finally:
        process.kill()
        process.wait()


def client(url: str) -> ContainerClient:
    return ContainerClient.from_container_url(url, credential={"account_name": NAME, "account_key": KEY})


@pytest.fixture
def container(account: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    url = f"{account}/ledger-{secrets.token_hex(6)}"
    client(url).create_container()
    return url


def say(number: int, promotion: str = "p1") -> Draft:
    return Draft(promotion=promotion, kind=Kind.NOTE, action=Action.MOVE, detail={"number": number})


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


def numbers(ledger: Ledger, **asked: Any) -> list[object]:
    return [entry.detail["number"] for entry in run(ledger.entries(**asked))]


def test_two_machines_share_a_ledger_and_who_comes_second_is_told(container: str) -> None:
    here, there = (Ledger(Blobs(container, "azure/prod")) for _ in range(2))
    assert numbers(here) == [] and run(there.verify()) == ()
    first = run(here.append(say(1), after=0))
    assert (first.sequence, first.who) == (1, whoami())
    with pytest.raises(Conflict, match="is at entry 1, not 0"):
        run(there.append(say(2), after=0))
    assert run(there.append(say(2), after=1)).previous == first.hash
    # `here` does not know of the second yet, and finds out by being refused.
    with pytest.raises(Conflict, match="is at entry 2, not 1"):
        run(here.append(say(3), after=1))
    assert run(here.append(say(3))).sequence == 3
    assert numbers(there) == numbers(here) == [1, 2, 3]
    assert numbers(there, after=2) == [3] and numbers(there, promotion="p2") == []
    assert run(here.verify()) == run(there.verify()) == ()


def test_many_writers_at_once_write_one_chain(container: str) -> None:
    async def writer(name: str) -> None:
        ledger = Ledger(Blobs(container, "azure/prod"))
        for number in range(6):
            await ledger.append(say(number, name))

    async def main() -> None:
        await asyncio.gather(*(writer(name) for name in "abcd"))

    asyncio.run(main())
    found = run(Ledger(Blobs(container, "azure/prod")).entries())
    assert [entry.sequence for entry in found] == list(range(1, 25))
    for name in "abcd":
        assert [entry.detail["number"] for entry in found if entry.promotion == name] == list(range(6))


def test_a_lost_answer_does_not_write_twice(container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is written, its answer never comes: what repeats the request finds its own line."""
    ledger, real, lost = Ledger(Blobs(container, "azure/prod")), BlobClient.append_block, []
    run(ledger.append(say(1)))

    def twice(self: BlobClient, *args: Any, **options: Any) -> Any:
        if not lost:
            lost.append(real(self, *args, **options))
        return real(self, *args, **options)

    monkeypatch.setattr(BlobClient, "append_block", twice)
    assert run(ledger.append(say(2))).sequence == 2
    assert lost and numbers(ledger) == [1, 2]
    assert numbers(Ledger(Blobs(container, "azure/prod"))) == [1, 2]

    def gone(self: BlobClient, *args: Any, **options: Any) -> Any:
        real(self, *args, **options)
        raise ServiceResponseError("Connection aborted.", error=ConnectionResetError(104, "reset"))

    monkeypatch.setattr(BlobClient, "append_block", gone)
    with pytest.raises(SystemUnavailable, match="was not reached: connection reset by peer"):
        run(ledger.append(say(3)))
    monkeypatch.setattr(BlobClient, "append_block", real)
    assert run(ledger.append(say(4))).sequence == 4  # the third was written, and is there


def test_a_full_blob_is_followed_by_the_next(container: str) -> None:
    here, there = (Ledger(Blobs(container, "azure/prod", most_blocks=3)) for _ in range(2))
    for number in range(8):
        run((here if number % 3 else there).append(say(number)))
    assert sorted(blob.name for blob in client(container).list_blobs()) == [
        f"azure/prod/00000{part}.jsonl" for part in (1, 2, 3)
    ]
    for ledger in (here, there, Ledger(Blobs(container, "azure/prod", most_blocks=3))):
        assert numbers(ledger) == list(range(8)) and run(ledger.verify()) == ()
        assert numbers(ledger, after=5) == [5, 6, 7]


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("flipped", [3, 0]),
        ("removed", [3]),
        ("exchanged", [2, 2]),
        ("torn", [5]),
        ("joined", [0]),
    ],
)
def test_a_blob_that_somebody_put_in_its_place_is_named(container: str, how: str, named: list[int]) -> None:
    ledger = Ledger(Blobs(container, "azure/prod"))
    for number in range(5):
        run(ledger.append(say(number)))
    blob = client(container).get_blob_client("azure/prod/000001.jsonl")
    lines = blob.download_blob().readall().splitlines(keepends=True)
    if how == "flipped":
        lines[2] = lines[2].replace(b"note", b"nose")
    elif how == "removed":
        del lines[2]
    elif how == "exchanged":
        lines[1], lines[2] = lines[2], lines[1]
    elif how == "torn":
        lines[4] = lines[4][:50]
    blocks = [b"".join(lines)] if how in ("flipped", "joined") else lines
    blob.create_append_blob()
    for block in blocks:
        blob.append_block(block)

    told = run(ledger.verify())
    assert [one.sequence for one in told][: len(named)] == named
    assert told[0].where.startswith(f"{container}/azure/prod")
    with pytest.raises(Damaged):
        run(Ledger(Blobs(container, "azure/prod")).entries())
    if how == "torn":
        with pytest.raises(Damaged):
            run(Ledger(Blobs(container, "azure/prod")).append(say(9)))


def test_a_younger_copy_is_told_since_nothing_else_shows_that_its_end_was_cut_off(container: str) -> None:
    now, lines, last = datetime.now(UTC), [], None
    for number in range(3):
        last, line = sealed(say(number), last, who="alice@here", time=now - timedelta(days=3 - number))
        lines.append(line + b"\n")
    blob = client(container).get_blob_client("azure/prod/000001.jsonl")
    blob.create_append_blob()
    for line in lines[:2]:
        blob.append_block(line)
    (told,) = run(Ledger(Blobs(container, "azure/prod")).verify())
    assert told.sequence == 0 and "is a copy of" in told.problem and "may be missing" in told.problem


WRITER = """
import asyncio, sys
from ci.delivery.ledger import *

async def main(url, name, count):
    async with open_named("azure", "prod", shared=url) as ledger:
        for number in range(count):
            entry = await ledger.append(
                Draft(promotion=name, kind=Kind.NOTE, action=Action.MOVE, detail={"number": number})
            )
            print(entry.sequence, number, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.mark.timeout(240)
def test_what_was_told_as_written_survives_kill_9_and_another_goes_on(container: str) -> None:
    def writer(name: str, count: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, container, name, str(count)], stdout=subprocess.PIPE, text=True
        )

    steady, killed = writer("steady", 12), writer("killed", 10_000)
    assert killed.stdout is not None
    told = [killed.stdout.readline() for _ in range(5)]
    killed.send_signal(signal.SIGKILL)
    told += killed.communicate()[0].splitlines()
    assert len(steady.communicate(timeout=200)[0].splitlines()) == 12
    ledger = Ledger(Blobs(container, "azure/prod"))
    assert run(ledger.verify()) == ()
    found = run(ledger.entries())
    there = {(entry.sequence, entry.detail["number"]) for entry in found if entry.promotion == "killed"}
    assert {tuple(map(int, line.split())) for line in told if line} <= there
    assert [entry.detail["number"] for entry in found if entry.promotion == "steady"] == list(range(12))


def test_the_lines_of_before_go_into_the_shared_one(container: str, tmp_path: Path) -> None:
    before = tmp_path / "ledger" / "azure" / "prod.jsonl"
    before.parent.mkdir(parents=True)
    line = {
        "time": "2026-11-20T10:12:00Z",
        "who": "alice",
        "event": "promoted",
        "target": "a",
        "release": "r1",
    }
    before.write_text(json.dumps(line) + "\n")

    async def taken() -> Any:
        async with open_named("azure", "prod", shared=container) as ledger:
            return await ledger.entries()

    (entry,) = run(taken())
    assert (entry.by, entry.result) == ("alice", "promoted") and not before.exists()
    assert not before.with_suffix(".sqlite").exists()


def test_what_the_account_refuses_is_one_clear_line(
    container: str, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemUnavailable, match="there is no such container") as told:
        run(Ledger(Blobs(f"{account}/nowhere", "azure/prod")).append(say(1)))
    assert "az storage container create --name nowhere" in told.value.hint
    with pytest.raises(SystemUnavailable, match="there is no such container"):
        run(Ledger(Blobs(f"{account}/nowhere", "azure/prod")).entries())
    monkeypatch.setenv("AZURE_STORAGE_KEY", "b3RoZXI=")
    with pytest.raises(SystemUnavailable, match="the account refuses this sign-in") as told:
        run(Ledger(Blobs(container, "azure/prod")).entries())
    assert "Storage Blob Data Contributor" in told.value.hint


def test_an_account_that_is_gone_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    monkeypatch.setattr("ci.delivery.ledger.blob._RETRIES", 0)
    with pytest.raises(SystemUnavailable, match="was not reached: connection refused") as told:
        run(Ledger(Blobs(f"http://127.0.0.1:{free_port()}/va/ledger", "azure/prod")).entries())
    assert "\n" not in str(told.value)


def test_an_order_comes_from_another_machine(
    container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prod = Environment.model_construct(estate="azure", name="prod", ledger=container)
    runner = Ledger(Blobs(container, "azure/prod"))
    seen = run(runner.append(say(1))).sequence
    monkeypatch.setenv("VA_STATE", str(tmp_path / "another machine"))
    with pytest.raises(BadInput, match="pause wants a reason"):
        run(order(prod, Action.PAUSE, promotion="p1", reason=" "))
    written = run(order(prod, Action.PAUSE, promotion="p1", reason="users complain", target="prod/eastus"))
    assert run(runner.entries(promotion="p1", target="prod/eastus", after=seen)) == (written,)
    assert (written.kind, written.reason) == (Kind.ORDER, "users complain")
    assert not (tmp_path / "another machine").exists()

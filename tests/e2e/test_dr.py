"""Backups of real stores: verified, harmed, restored, to a moment too; and the drill as a person runs it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from waiting import until

from ci import platform, tools
from ci.errors import BadInput, PipelineError, StepFailed
from ci.places import checkout
from ci.platform.instance import instance
from ci.platform.postgres import archive_of
from ci.platform.processes import marked
from ci.platform.stores import Stores, stores
from ci.recovery import blobs, postgres, redis, sets
from ci.recovery.sets import BackupSet
from ci.reporting import SilentReporter
from pipelines import drill, recovery

_TOOLS = ("postgres", "redis-server", "redis-cli", "redis-check-rdb", "node", "azurite")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="the stores need root"),
    pytest.mark.skipif(
        bool([status.name for status in tools.survey(_TOOLS) if not status.found]),
        reason="tools are missing: va doctor --install provides them",
    ),
]

T = TypeVar("T")

_QUIET = SilentReporter()
_ENV = {"VA_INSTANCE": "6"}


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A platform of its own, of which only stores come up."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VA_INSTANCE", _ENV["VA_INSTANCE"])
        patch.setenv("VA_STATE", str(folder))
        yield folder
        asyncio.run(platform.down(_QUIET))
        assert not marked(instance().folder)


@pytest.fixture(scope="module")
def own() -> Stores:
    """Stores with 200 sessions in them."""
    found = stores(instance(), "drill")
    _run(platform.up(_QUIET, found.parts))
    world = drill._World(own=found, sessions=200, seconds=0, folder=Path(), reporter=_QUIET)
    _run(drill._seed(world))
    return found


@pytest.fixture(scope="module")
def kept(own: Stores) -> BackupSet:
    """A whole backup of them, in the default folder."""
    return _run(recovery.backup("drill", reporter=_QUIET))


def _run(work: Awaitable[T]) -> T:
    async def waiting() -> T:
        return await work

    return asyncio.run(waiting())


def _va(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "va", "dr", *words],
        cwd=checkout(),
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def _rows(own: Stores, query: bytes) -> list[tuple[object, ...]]:
    async def ask() -> list[tuple[object, ...]]:
        async with postgres.connect(recovery.server_of(own)) as connection:
            done = await connection.execute(query)
            return await done.fetchall() if done.description else []

    return _run(ask())


def _problems(name: str, folder: Path | None = None) -> dict[str, str]:
    checks = _run(recovery.verify(name, folder=folder, reporter=_QUIET))
    return {check.what: check.problem for check in checks if check.problem}


def _restored(**more: object) -> recovery.Restored:
    return _run(recovery.restore("latest", reporter=_QUIET, **more))  # type: ignore[arg-type]


# The drill -----------------------------------------------------------------------------------------


def test_the_drill_measures_what_is_promised_and_leaves_nothing() -> None:
    done = _va("drill", "--sessions", "300", "--seconds", "4", "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert 0 < report["rto"] < report["promised"]["rto"] == 3600
    lost = report["lost"]["postgres"]
    assert lost["written"] > lost["lost"] > 0, "nothing was at stake, or nothing came back"
    assert 0 < lost["rpo"] < report["promised"]["rpo"] == 300
    assert report["lost"]["redis"]["lost"] == report["lost"]["redis"]["written"] > 0
    seeded = {check["what"]: check["detail"] for check in report["checks"] if "seeded" in check["what"]}
    assert seeded["public.turns as seeded"].startswith("1500 rows")
    assert seeded["blobs as seeded"] == "17 blobs by SHA-256"
    assert not marked(instance().folder)
    assert not (instance().folder / "stores" / "drill").exists()


# A set ---------------------------------------------------------------------------------------------


def test_a_whole_set_verifies_and_is_listed(kept: BackupSet) -> None:
    done = _va("verify", "latest")
    listed = json.loads(_va("list", "--json").stdout)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "pg_verifybackup" in done.stdout and "17 blobs" in done.stdout
    assert [one["name"] for one in listed] == [kept.name]
    assert kept.postgres is not None
    assert {table.name: table.rows for table in kept.postgres.tables} == {
        "public.sessions": 200,
        "public.turns": 1000,
        "public.writes": 0,
    }


@pytest.fixture
def harmed(kept: BackupSet, tmp_path: Path) -> Path:
    """A copy of the set, to do harm to."""
    shutil.copytree(sets.sets_folder() / kept.name, tmp_path / kept.name)
    return tmp_path / kept.name


def _flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    file.write_bytes(raw)


def test_a_corrupt_file_is_found_and_nothing_is_restored_from_it(
    own: Stores, kept: BackupSet, harmed: Path
) -> None:
    _flip(harmed / "postgres" / "base.tar.gz")

    found = _problems("latest", harmed.parent)
    done = _va("verify", "--sets", str(harmed.parent))

    assert list(found) == ["postgres/base.tar.gz"] and found["postgres/base.tar.gz"].startswith("SHA-256")
    assert done.returncode == 3 and "base.tar.gz" in done.stdout
    with pytest.raises(StepFailed, match=r"cannot be restored as it is: postgres/base\.tar\.gz: SHA-256"):
        _restored(folder=harmed.parent, replace=True)
    assert _rows(own, b"SELECT count(*) FROM turns") == [(1000,)], "a set that is broken has cost us the data"


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("postgres/voice.dump", "pg_restore"),
        ("postgres/base.tar.gz", "pg_verifybackup"),
        ("redis/dump.rdb", "redis-check-rdb"),
    ],
)
def test_what_was_corrupt_when_it_was_written_is_found_by_the_stores_own_program(
    kept: BackupSet, harmed: Path, file: str, says: str
) -> None:
    path = harmed / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    assert kept.postgres and kept.redis
    files = tuple(sets.file_of(harmed / one.path, harmed) for one in kept.postgres.files)
    sets.write_manifest(
        kept.model_copy(
            update={
                "postgres": kept.postgres.model_copy(update={"files": files}),
                "redis": kept.redis.model_copy(
                    update={"file": sets.file_of(harmed / kept.redis.file.path, harmed)}
                ),
            }
        ),
        harmed,
    )

    assert list(_problems("latest", harmed.parent)) == [says]


def test_a_missing_part_is_named_and_the_others_can_be_restored(
    own: Stores, kept: BackupSet, harmed: Path
) -> None:
    (harmed / "postgres" / "voice.dump").unlink()
    gone = kept.blobs.blobs[0] if kept.blobs else None
    assert gone is not None

    async def lose_a_copy(container: str, name: str) -> None:
        async with blobs.connect(recovery.account_of(own, "secondary")) as client:
            await client.get_blob_client(container, name).delete_blob("include")

    _run(lose_a_copy(gone.container, gone.name))

    assert _problems("latest", harmed.parent) == {
        "postgres/voice.dump": "missing",
        f"{gone.container}/{gone.name}": "missing",
    }
    done = _restored(folder=harmed.parent, kinds=("redis",), replace=True)
    assert [check.problem for check in done.checks] == [""]
    # The next backup sends it again: what is there is asked for, not remembered.
    again = _run(recovery.backup("drill", kinds=("blobs",), reporter=_QUIET))
    assert not _problems(again.name)
    shutil.rmtree(sets.sets_folder() / again.name)
    assert kept.blobs and again.blobs
    same = set(kept.blobs.blobs) & set(again.blobs.blobs)
    assert len(same) == len(kept.blobs.blobs) - 1, "what has a snapshot was sent again"


# Restoring -----------------------------------------------------------------------------------------


def test_stores_that_hold_something_are_refused(own: Stores, kept: BackupSet) -> None:
    done = _va("restore", "latest", "--only", "postgres", "--only", "redis")

    assert done.returncode == 2, done.stderr
    assert "drill is not empty: the database voice, Redis. Nothing was changed" in done.stderr
    assert "--replace" in done.stderr


def test_the_database_comes_back_as_it_was_before_a_mistake(own: Stores) -> None:
    made = _run(recovery.backup("drill", kinds=("postgres",), reporter=_QUIET))
    _rows(own, b"INSERT INTO writes SELECT n, 'good' FROM generate_series(1, 50) n")
    time.sleep(0.1)
    before = datetime.now(UTC)
    time.sleep(0.1)
    _rows(own, b"DELETE FROM turns")
    _rows(own, b"INSERT INTO writes VALUES (99, 'after the mistake')")
    _archive(own)

    with pytest.raises(BadInput, match="reaches back to"):
        _restored(at=made.started - timedelta(seconds=5), kinds=("postgres",), replace=True)
    done = _restored(at=before, kinds=("postgres",), replace=True)

    assert [check.problem for check in done.checks] == [""]
    assert _rows(own, b"SELECT count(*) FROM turns") == [(1000,)]
    assert _rows(own, b"SELECT count(*), max(content) FROM writes") == [(50, "good")]
    _rows(own, b"INSERT INTO writes VALUES (100, 'it takes writes again')")

    # Nothing was written in the last moment: there is no log of it to go to.
    with pytest.raises(BadInput, match="the archived log ends before"):
        _restored(at=datetime.now(UTC), kinds=("postgres",), replace=True)
    shutil.rmtree(sets.sets_folder() / made.name)


def test_a_restore_that_was_killed_is_run_again(own: Stores, kept: BackupSet) -> None:
    child = subprocess.Popen(
        [Path(sys.executable).parent / "va", "dr", "restore", kept.name, "--only", "postgres", "--replace"],
        cwd=checkout(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(
        lambda: "postgres" in recovery._half(own) and not (own.postgres_folder / "data").exists(),
        seconds=30,
        every=0.02,
    )
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert recovery._half(own) == {"postgres"}

    done = _va("restore", kept.name, "--only", "postgres")  # without --replace: it knows its own half work

    assert done.returncode == 0, done.stderr
    assert recovery._half(own) == set()
    # Turns may be missing: the log goes on after the backup, with the mistake of the test before.
    assert _rows(own, b"SELECT count(*) FROM sessions") == [(200,)]


def test_the_dump_goes_into_an_empty_database_row_for_row(own: Stores, kept: BackupSet) -> None:
    done = _restored(kinds=("postgres",), logical=True, replace=True)

    assert {check.what: check.problem for check in done.checks} == {
        "public.sessions": "",
        "public.turns": "",
        "public.writes": "",
    }
    assert kept.postgres and _run(postgres.summary(recovery.server_of(own))) == kept.postgres.tables


def test_redis_and_blobs_come_back_as_they_were(own: Stores) -> None:
    before = _run(redis.contents(recovery.cache_of(own)))
    made = _run(recovery.backup("drill", kinds=("redis", "blobs"), reporter=_QUIET))

    async def overwrite() -> None:
        async with redis.connect(recovery.cache_of(own)) as client:
            await client.set("voice:version", "2")
        async with blobs.connect(recovery.account_of(own, "primary")) as client:
            await blobs.put(client, "uploads", "2026/1.bin", b"another content")

    _run(overwrite())
    newer = _run(recovery.backup("drill", kinds=("blobs",), reporter=_QUIET))
    with pytest.raises(BadInput, match=r"1 blobs that are not the set's, uploads/2026/1\.bin the first"):
        _run(recovery.restore(made.name, kinds=("blobs",), reporter=_QUIET))
    _run(recovery.restore(made.name, replace=True, reporter=_QUIET))

    assert _run(redis.contents(recovery.cache_of(own))) == before

    async def content() -> bytes | None:
        async with blobs.connect(recovery.account_of(own, "primary")) as client:
            return await blobs.get(client, "uploads", "2026/1.bin")

    assert len(_run(content()) or b"") == 900, "the newer copy has taken the place of the older one"
    assert not _problems(newer.name)
    for one in (made, newer):
        shutil.rmtree(sets.sets_folder() / one.name)


def test_a_pruned_set_leaves_what_the_others_need(own: Stores) -> None:
    async def change(name: str, content: bytes | None) -> None:
        async with blobs.connect(recovery.account_of(own, "primary")) as client:
            if content is None:
                await client.get_blob_client("uploads", name).delete_blob()
            else:
                await blobs.put(client, "uploads", name, content)

    async def copies(name: str) -> int:
        async with blobs.connect(recovery.account_of(own, "secondary")) as client:
            listed = client.get_container_client("uploads").list_blobs(name, include=["snapshots"])
            return len([one async for one in listed])

    _run(change("passing", b"only in the first set"))
    _run(change("lasting", b"as it was in the first set"))
    _run(recovery.backup("drill", reporter=_QUIET))
    _run(change("passing", None))
    _run(change("lasting", b"as it is in the second"))
    _rows(own, b"INSERT INTO writes SELECT 1000000 + n, 'between' FROM generate_series(1, 5) n")
    _rows(own, b"SELECT pg_switch_wal()")
    last = _run(recovery.backup("drill", reporter=_QUIET))
    _archive(own)  # else what is counted below may grow meanwhile
    before = _run(copies("passing")), _run(copies("lasting"))

    said = json.loads(_va("prune", "--older-than", "0s", "--keep", "1", "--dry-run", "--json").stdout)
    done = _va("prune", "--older-than", "0s", "--keep", "1", "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [one["name"] for one in report["kept"]] == [last.name] and len(report["gone"]) >= 1
    assert report["gone"] == said["gone"] and report["segments"] == said["segments"] > 0
    # One was removed by hand in a test before: a dry run says what is named, a run what was there.
    assert report["snapshots"] in (said["snapshots"], said["snapshots"] - 1)
    # A copy and its snapshot; two snapshots and the copy: the first set's went, and all of what it alone had.
    assert before == (2, 3) and (_run(copies("passing")), _run(copies("lasting"))) == (0, 2)
    assert _problems("latest") == {}
    assert [check.problem for check in _restored(replace=True).checks] == ["", "", ""]
    assert _rows(own, b"SELECT count(*) FROM writes WHERE content = 'between'") == [(5,)]


def test_a_full_disk_leaves_no_half_set(own: Stores, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    try:
        with pytest.raises(PipelineError, match=r"No space left on device|the disk is full"):
            _run(recovery.backup("drill", folder=small, reporter=_QUIET))
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def _archive(own: Stores) -> None:
    """Have all of the log up to now in the archive: what was archived before says nothing of it."""
    ((segment,),) = _rows(own, b"SELECT pg_walfile_name(pg_switch_wal())")
    until((archive_of(own.postgres_folder) / str(segment)).is_file, seconds=30)

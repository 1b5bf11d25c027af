"""A backup set on disk: what is written is read back, and what is not what was written is said."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ci.errors import BadInput
from ci.recovery.sets import (
    BackupSet,
    File,
    PostgresBackup,
    RedisBackup,
    check_files,
    file_of,
    find_set,
    new_name,
    read_set,
    sets_in,
    staying,
    write_manifest,
)

NOW = datetime(2026, 11, 24, 16, 15, 2, 250_900, tzinfo=UTC)


def _write(sets: Path, now: datetime = NOW, source: str = "live") -> Path:
    folder = sets / new_name(source, now)
    (folder / "redis").mkdir(parents=True)
    (folder / "redis" / "dump.rdb").write_bytes(b"REDIS0010 and so on")
    backup = BackupSet(
        name=folder.name,
        source=source,
        started=now,
        finished=now,
        redis=RedisBackup(
            version="7.0.15", file=file_of(folder / "redis" / "dump.rdb", folder), keys=3, expires=1
        ),
    )
    write_manifest(backup, folder)
    return folder


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    folder = _write(tmp_path)

    found = read_set(folder)

    assert found.name == "20261124T161502250Z-live"
    assert found.redis is not None and found.redis.keys == 3
    assert found.files[0].sha256 == hashlib.sha256(b"REDIS0010 and so on").hexdigest()
    assert found.size == 19
    assert [one.problem for one in check_files(found, folder)] == [""]


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda file: file.unlink(), "missing"),
        (lambda file: file.write_bytes(b"REDIS0010"), "9 bytes instead of 19"),
        (lambda file: file.write_bytes(b"REDIS0010 and so oN"), "SHA-256 "),
    ],
)
def test_a_file_that_is_not_what_it_was_is_found(tmp_path: Path, harm: object, problem: str) -> None:
    folder = _write(tmp_path)
    assert callable(harm)
    harm(folder / "redis" / "dump.rdb")

    (check,) = check_files(read_set(folder), folder)

    assert (check.part, check.what) == ("redis", "redis/dump.rdb")
    assert check.problem.startswith(problem)


def test_a_manifest_that_was_changed_is_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"keys": 3', '"keys": 4'))

    with pytest.raises(BadInput, match=r"manifest\.json is not what was written: its SHA-256 is"):
        read_set(folder)


def test_a_manifest_of_another_version_names_the_key(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    text = (folder / "manifest.json").read_text().replace('"format": 1', '"format": 2')
    (folder / "manifest.json").write_text(text)
    (folder / "manifest.sha256").write_text(hashlib.sha256(text.encode()).hexdigest())

    with pytest.raises(BadInput, match=r"manifest\.json: format: "):
        read_set(folder)


def test_sets_are_found_by_name_by_path_and_as_the_latest(tmp_path: Path) -> None:
    old = _write(tmp_path)
    new = _write(tmp_path, NOW.replace(hour=17))
    (tmp_path / ".draft" / "x").mkdir(parents=True)
    (tmp_path / "half").mkdir()

    assert sets_in(tmp_path) == [old, new]
    assert find_set("latest", tmp_path) == new
    assert find_set(old.name, tmp_path) == old
    assert find_set(str(old), tmp_path / "elsewhere") == old
    with pytest.raises(BadInput, match="no backup set 'x'") as caught:
        find_set("x", tmp_path)
    assert new.name in caught.value.hint
    with pytest.raises(BadInput, match="there is no backup set in") as caught:
        find_set("latest", tmp_path / "elsewhere")
    assert "va dr backup" in caught.value.hint


def _set(days: int, source: str = "live", *, postgres: bool = False, redis: bool = True) -> BackupSet:
    """A set of so many days ago."""
    now = NOW - timedelta(days=days)
    file = File(path="redis/dump.rdb", size=1, sha256="0" * 64)
    return BackupSet(
        name=new_name(source, now),
        source=source,
        started=now,
        finished=now,
        redis=RedisBackup(version="7", file=file, keys=1, expires=0) if redis else None,
        postgres=PostgresBackup(
            version="15", cluster="1", database="voice", files=(), tables=(), consistent=now
        )
        if postgres
        else None,
    )


def test_the_newest_of_each_store_of_each_source_stay() -> None:
    whole, other = _set(90, postgres=True), _set(95, "drill")
    alone = [_set(days) for days in (40, 50, 60)]

    stay = staying([*alone, whole, other], keep=2, since=NOW - timedelta(days=30))

    assert set(stay) == {alone[0].name, alone[1].name, whole.name, other.name}
    assert stay[whole.name] == "one of the 2 newest of live's postgres"
    assert stay[alone[0].name] == "one of the 2 newest of live's redis"


def test_what_is_young_stays_whatever_its_number() -> None:
    young = [_set(days) for days in range(5)]
    stay = staying(young, keep=1, since=NOW - timedelta(days=3))
    assert [name in stay for name in (one.name for one in young)] == [True, True, True, True, False]
    assert stay[young[3].name].startswith("made 2026-11-21")

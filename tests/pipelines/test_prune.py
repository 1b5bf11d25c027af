"""Pruning of backup sets on disk; with real stores it is tests/e2e/test_dr.py."""

from __future__ import annotations

import asyncio
import io
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ci import tools
from ci.errors import BadInput
from ci.recovery import postgres
from ci.recovery.sets import (
    BackupSet,
    BlobCopy,
    BlobsBackup,
    PostgresBackup,
    RedisBackup,
    file_of,
    new_name,
    sets_in,
    write_manifest,
)
from ci.reporting import SilentReporter
from pipelines import prune as pruning
from pipelines.prune import Pruned, prune

NOW = datetime.now(UTC)


def _write(folder: Path, days: float, **more: object) -> Path:
    now = NOW - timedelta(days=days)
    place = folder / new_name("live", now)
    (place / "redis").mkdir(parents=True)
    (place / "redis" / "dump.rdb").write_bytes(b"REDIS0010")
    made = BackupSet(
        name=place.name,
        source="live",
        started=now,
        finished=now,
        redis=RedisBackup(version="7", file=file_of(place / "redis/dump.rdb", place), keys=1, expires=0),
    )
    write_manifest(made.model_copy(update=more), place)
    return place


def _pruned(folder: Path, *, keep: int = 1, dry_run: bool = False) -> Pruned:
    work = prune(
        keep=keep, older_than=timedelta(days=30), folder=folder, dry_run=dry_run, reporter=SilentReporter()
    )
    return asyncio.run(work)


def test_old_sets_beyond_the_newest_go_and_nothing_is_left_of_them(tmp_path: Path) -> None:
    old, newer, young = (_write(tmp_path, days) for days in (50, 40, 1))

    done = _pruned(tmp_path, keep=2)

    assert done.gone == (old.name,) and done.size == 9
    assert [one.name for one in done.kept] == [newer.name, young.name]
    assert sets_in(tmp_path) == [newer, young]
    assert not list(tmp_path.glob(".pruned-*")) and _pruned(tmp_path, keep=2).gone == ()


def test_a_dry_run_says_the_same_and_removes_nothing(tmp_path: Path) -> None:
    folders = [_write(tmp_path, days) for days in (60, 50, 40)]
    said = _pruned(tmp_path, dry_run=True)
    assert said.dry_run and sets_in(tmp_path) == folders
    done = _pruned(tmp_path)
    assert (said.gone, said.kept, said.size) == (done.gone, done.kept, done.size)
    assert len(done.gone) == 2


def test_beside_a_set_that_cannot_be_read_nothing_is_removed(tmp_path: Path) -> None:
    folders = [_write(tmp_path, days) for days in (60, 50, 40)]
    (folders[1] / "manifest.json").write_text("{}")
    with pytest.raises(BadInput, match="nothing was removed") as caught:
        _pruned(tmp_path)
    assert str(folders[1]) in str(caught.value) and "move" in caught.value.hint
    assert sets_in(tmp_path) == folders


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = _write(tmp_path, 60), _write(tmp_path, 40)

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pruning.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            _pruned(tmp_path)
    assert sets_in(tmp_path) == [new], "given up is not listed, even half removed"
    assert list(tmp_path.glob(".pruned-*")) == [tmp_path / f".pruned-{old.name}"]

    assert _pruned(tmp_path).gone == ()
    assert not list(tmp_path.glob(".pruned-*"))


def _blobs(*copies: tuple[str, str]) -> BlobsBackup:
    return BlobsBackup(
        source="a",
        copies="b",
        containers=("uploads",),
        blobs=tuple(
            BlobCopy(container="uploads", name=name, size=1, md5="0" * 32, etag="e", snapshot=snapshot)
            for name, snapshot in copies
        ),
    )


def test_a_copy_goes_with_the_last_set_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, 60, blobs=_blobs(("same", "1"), ("changed", "1"), ("deleted", "1")))
    _write(tmp_path, 50, blobs=_blobs(("same", "1"), ("changed", "2")))
    _write(tmp_path, 40, blobs=_blobs(("same", "1"), ("changed", "3")))
    removed: list[tuple[str, str]] = []

    async def remove(copies: dict[str, set[BlobCopy]], _: object) -> int:
        assert set(copies) == {"live"}
        removed.extend(sorted((one.name, one.snapshot) for one in copies["live"]))
        return len(removed)

    monkeypatch.setattr(pruning, "_remove_copies", remove)
    assert _pruned(tmp_path, dry_run=True).snapshots == 3 and not removed
    assert _pruned(tmp_path).snapshots == 3
    assert removed == [("changed", "1"), ("changed", "2"), ("deleted", "1")]


def _base(folder: Path, segment: str) -> None:
    label = f"START WAL LOCATION: 0/4000028 (file {segment})\nCHECKPOINT LOCATION: 0/4000060\n".encode()
    (folder / "postgres").mkdir()
    with tarfile.open(folder / "postgres" / "base.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("backup_label")
        entry.size = len(label)
        archive.addfile(entry, io.BytesIO(label))


@pytest.mark.skipif(not tools.survey(["postgres"])[0].found, reason="PostgreSQL is not installed")
def test_the_log_is_kept_from_the_first_set_that_stays_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    segments = [f"00000001{number:016X}" for number in range(6)]
    # After a restore the log goes on in a second timeline: its number says nothing of what is older.
    second = [f"00000002{number:016X}" for number in (1, 5)]
    for name in (*segments, *second, "00000002.history"):
        (log / name).write_bytes(b"")
    backup = PostgresBackup(
        version="15", cluster="1", database="voice", files=(), tables=(), consistent=NOW, archive=log
    )
    for days, segment in ((60, segments[1]), (40, segments[3])):
        _base(_write(tmp_path / "sets", days, postgres=backup), segment)

    assert _pruned(tmp_path / "sets", keep=2).segments == 1  # what is before the older set
    assert _pruned(tmp_path / "sets").segments == 3  # of both timelines

    assert sorted(file.name for file in log.iterdir()) == [*segments[3:], "00000002.history", second[1]]


def test_a_base_backup_without_its_label_is_said(tmp_path: Path) -> None:
    folder = _write(tmp_path, 1)
    with pytest.raises(BadInput, match="cannot be read"):
        postgres.first_segment(folder)

"""A backup set: one folder, one manifest, written as a whole or not at all.

    <sets>/20261124T161502250Z-live/
      manifest.json  manifest.sha256
      postgres/base.tar.gz  postgres/pg_wal.tar.gz  postgres/backup_manifest  postgres/voice.dump
      redis/dump.rdb

Blobs are not in the folder: they are snapshots in the second storage account, which the manifest lists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ci.complaints import in_words
from ci.errors import BadInput
from ci.files import write_whole
from ci.places import state

__all__ = [
    "MANIFEST",
    "BackupSet",
    "BlobCopy",
    "BlobsBackup",
    "Check",
    "File",
    "PostgresBackup",
    "RedisBackup",
    "Table",
    "check_files",
    "file_of",
    "find_set",
    "make_private",
    "new_name",
    "read_set",
    "sets_folder",
    "sets_in",
    "staying",
    "write_manifest",
]

MANIFEST = "manifest.json"
_DIGEST = "manifest.sha256"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Frozen):
    """One file of a set. `path` is relative to the set's folder, `size` in bytes."""

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Table(_Frozen):
    """What a table held: the number of its rows, and a sum over them that no order changes."""

    name: str
    rows: int = Field(ge=0)
    checksum: str


class PostgresBackup(_Frozen):
    """A base backup (with the log that makes it consistent) and a dump; `tables` is what the dump has."""

    version: str
    cluster: str
    database: str
    files: tuple[File, ...]
    tables: tuple[Table, ...]
    consistent: AwareDatetime
    """The base backup becomes the cluster at this moment or later, never earlier."""
    archive: Path | None = None
    """Where the log goes on after this backup: what a restore to a later moment needs."""


class RedisBackup(_Frozen):
    """An RDB file; `keys` as redis-check-rdb counts them, `expires` those of them that end by themselves."""

    version: str
    file: File
    keys: int = Field(ge=0)
    expires: int = Field(ge=0)


class BlobCopy(_Frozen):
    """One blob: `md5` of its content, `etag` of what was copied, `snapshot` of its copy."""

    container: str
    name: str
    size: int = Field(ge=0)
    md5: str = Field(pattern="^[0-9a-f]{32}$")
    etag: str
    snapshot: str


class BlobsBackup(_Frozen):
    """All blobs of an account, and the account that has their snapshots."""

    source: str
    copies: str
    containers: tuple[str, ...]
    blobs: tuple[BlobCopy, ...]


class BackupSet(_Frozen):
    """The manifest. A store that was left out is None."""

    format: int = Field(default=1, ge=1, le=1)
    name: str
    source: str
    started: AwareDatetime
    finished: AwareDatetime
    postgres: PostgresBackup | None = None
    redis: RedisBackup | None = None
    blobs: BlobsBackup | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The stores that it has something of."""
        return tuple(kind for kind in ("postgres", "redis", "blobs") if getattr(self, kind) is not None)

    @property
    def files(self) -> tuple[File, ...]:
        """All files of the set but its manifest."""
        return (*(self.postgres.files if self.postgres else ()), *([self.redis.file] if self.redis else ()))

    @property
    def size(self) -> int:
        """In bytes: of its files and of the blobs that it refers to."""
        return sum(file.size for file in self.files) + sum(
            blob.size for blob in (self.blobs.blobs if self.blobs else ())
        )


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was checked; `problem` is empty when it is as it should be."""

    part: str
    what: str
    problem: str = ""
    detail: str = ""


def sets_folder() -> Path:
    """Where sets are kept when nobody says otherwise: `va down` leaves them."""
    return state() / "backups"


def new_name(source: str, now: datetime) -> str:
    """Names sort by time, down to the millisecond: two sets never have the same."""
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}Z-{source}"


def file_of(path: Path, folder: Path) -> File:
    """A file as a manifest names it."""
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return File(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest)


def write_manifest(backup: BackupSet, folder: Path) -> None:
    """Write the manifest of a set whose files are all there."""
    text = backup.model_dump_json(indent=1) + "\n"
    write_whole(folder / MANIFEST, text)
    write_whole(folder / _DIGEST, hashlib.sha256(text.encode()).hexdigest() + "\n")


def make_private(folder: Path) -> None:
    """Let nobody else read a set: it holds all that the stores do."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)


def sets_in(folder: Path) -> list[Path]:
    """The folders of all whole sets, the oldest first."""
    return sorted(file.parent for file in folder.glob(f"[!.]*/{MANIFEST}"))


def staying(found: Iterable[BackupSet], *, keep: int, since: datetime) -> dict[str, str]:
    """The names of the sets that stay, each with the reason: made since then, or among the newest.

    Of each store of each source the `keep` newest stay: a set of Redis alone takes no place of PostgreSQL's.
    """
    why: dict[str, str] = {}
    seen: dict[tuple[str, str], int] = {}
    for one in sorted(found, key=lambda one: (one.started, one.name), reverse=True):
        newest = []
        for kind in one.kinds:
            seen[one.source, kind] = seen.get((one.source, kind), 0) + 1
            if seen[one.source, kind] <= keep:
                newest.append(kind)
        if newest:
            why[one.name] = f"one of the {keep} newest of {one.source}'s {', '.join(newest)}"
        elif one.started >= since:
            why[one.name] = f"made {one.started:%Y-%m-%d %H:%M}"
    return why


def find_set(name: str, folder: Path) -> Path:
    """The folder of a set: by its name, `latest`, or a path. BadInput names those that are there."""
    there = sets_in(folder)
    if name == "latest":
        if not there:
            raise BadInput(f"there is no backup set in {folder}", hint="va dr backup makes one")
        return there[-1]
    for candidate in (folder / name, Path(name)):
        if (candidate / MANIFEST).is_file():
            return candidate
    known = ", ".join(path.name for path in there[-5:]) or "none"
    raise BadInput(f"there is no backup set {name!r} in {folder}", hint=f"the newest there: {known}")


def read_set(folder: Path) -> BackupSet:
    """The manifest of a set; BadInput when it is not what was written."""
    file = folder / MANIFEST
    raw = file.read_bytes()
    stated = (folder / _DIGEST).read_text().strip() if (folder / _DIGEST).is_file() else "missing"
    if (found := hashlib.sha256(raw).hexdigest()) != stated:
        raise BadInput(
            f"{file} is not what was written: its SHA-256 is {found[:12]}…, {_DIGEST} says {stated[:12]}…",
            hint="take another set: va dr list",
        )
    try:
        return BackupSet.model_validate_json(raw)
    except ValidationError as error:
        raise BadInput(
            f"{file}: {in_words(error)}", hint="it was written by another version of va"
        ) from error


def check_files(backup: BackupSet, folder: Path) -> list[Check]:
    """Whether each file is there, as long as it was, with the digest that it had."""
    return [_check_file(file, folder) for file in backup.files]


def _check_file(file: File, folder: Path) -> Check:
    part, _, _ = file.path.partition("/")
    path = folder / file.path
    problem = ""
    if not path.is_file():
        problem = "missing"
    elif (size := path.stat().st_size) != file.size:
        problem = f"{size} bytes instead of {file.size}"
    elif (found := file_of(path, folder).sha256) != file.sha256:
        problem = f"SHA-256 {found[:12]}… instead of {file.sha256[:12]}…"
    return Check(part=part, what=file.path, problem=problem, detail=f"{file.size} bytes")

"""Trivy's vulnerability database: an OCI artifact in a registry, mirrored, and used by digest.

It is a manifest with one layer, a gzipped tar of a bbolt file and `metadata.json`, which says when it was
made and when the next one is due. Trivy itself never downloads one here: what it reads was fetched by
`ci.registry`, every byte checked against the digest, into `places.cache()/trivy/db/<digest>/`.

    database = await fetch(registry, parse_reference("registry.example/mirror/trivy-db:2"), say=print)
    scan = await scan_image(archive, digest, trivy=…, database=database)
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_pascal

from ci import places
from ci.complaints import in_words
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable
from ci.files import new_folder, write_whole
from ci.locks import locked
from ci.registry import Blob, Bundle, Manifest, Reference, Registry, missing, push
from ci.registry.content import Descriptor
from ci.scan.findings import Database

__all__ = ["JAVA", "VULNERABILITIES", "Kind", "LocalDatabase", "Mirrored", "fetch", "mirror"]

_METADATA = "metadata.json"
_KEPT = 3
"""How many databases stay on this machine, the last used; one takes up to a gigabyte."""
_LARGEST_METADATA = 2**20
_LARGEST_DATABASE = 16 * 2**30
"""Bytes unpacked: those of 2026 have one to two gigabytes."""
_CLOCKS_DIFFER = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of the two artifacts: `folder` and `file` are Trivy's own names, `schema` the one that it reads."""

    name: str
    layer: str
    folder: str
    file: str
    schema: int


# Source: trivy 0.58, pkg/db and pkg/javadb.
VULNERABILITIES = Kind(
    name="trivy-db",
    layer="application/vnd.aquasec.trivy.db.layer.v1.tar+gzip",
    folder="db",
    file="trivy.db",
    schema=2,
)
JAVA = Kind(
    name="trivy-java-db",
    layer="application/vnd.aquasec.trivy.javadb.layer.v1.tar+gzip",
    folder="java-db",
    file="trivy-java.db",
    schema=1,
)


@dataclass(frozen=True, kw_only=True)
class LocalDatabase:
    """A database on this machine. `folder` holds its two files."""

    kind: Kind
    reference: str
    database: Database
    folder: Path
    problem: str = ""
    """Why this one is used and not the one that the registry has now; empty when it is that one."""


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """What a mirror has now, and what it took. `unchanged`: it was there, not a byte was sent."""

    kind: str
    source: str
    destination: str
    tag: str
    database: Database
    bytes_sent: int
    unchanged: bool


class _Metadata(BaseModel):
    model_config = ConfigDict(alias_generator=to_pascal)

    version: int
    updated_at: AwareDatetime
    next_update: AwareDatetime | None = None


@dataclass(frozen=True, kw_only=True)
class _Offered:
    """What a registry has under a reference."""

    kind: Kind
    name: str
    manifest: Manifest
    layer: Descriptor

    @property
    def digest(self) -> str:
        return self.manifest.descriptor.digest

    @property
    def archive(self) -> Path:
        """Where its layer is downloaded to; half of it stays there, for the next try."""
        return _folder() / "downloads" / _hex(self.layer.digest)


async def mirror(
    source: Registry,
    wanted: Reference,
    target: Registry,
    destination: Reference,
    *,
    max_age: timedelta | None,
    now: datetime,
    say: Callable[[str], None],
) -> Mirrored:
    """Copy a database to another registry as it is; its age is judged by its own metadata before that.

    The tag is the destination's, else that of `wanted`, else the database's schema. It is moved last, when
    all else is there. Interrupted, it goes on where it was; what is there already is neither read nor sent.
    BadInput: it is no database of Trivy's; PolicyBlocked: it is older than `max_age`, or from the future;
    SystemUnavailable: a registry, or bytes that do not have their digest.
    """
    offered = await _ask(source, wanted)
    manifest, layer = offered.manifest, offered.layer
    assert manifest.config is not None
    config = await source.blob(wanted.repository, manifest.config)
    bundle = Bundle(
        manifests=(manifest,),
        blobs=(
            Blob(descriptor=manifest.config, source=config),
            Blob(descriptor=layer, source=offered.archive),
        ),
    )
    async with locked(_folder() / f".{_hex(layer.digest)}.lock", lambda: say("waiting for another va")):
        metadata = _read_memo(offered)
        lacking = await missing(target, destination.repository, bundle)
        if metadata is None or lacking:
            await _download(source, wanted.repository, offered, say)
            metadata = await asyncio.to_thread(_read_archive, offered)
        database = _understood(offered, metadata)
        _refuse_old(offered.name, database, max_age, now)
        tag = destination.tag or wanted.tag or str(database.version)
        say(f"{offered.kind.name} of {database.updated:%Y-%m-%d %H:%M}: pushing what is missing")
        pushed = await push(target, destination.repository, bundle, tags=[tag])
        offered.archive.unlink(missing_ok=True)
    return Mirrored(
        kind=offered.kind.name,
        source=str(wanted.at(offered.digest)),
        destination=str(destination.at(offered.digest)),
        tag=tag,
        database=database,
        bytes_sent=pushed.bytes_sent,
        unchanged=not lacking,
    )


async def fetch(
    registry: Registry, reference: Reference, *, kind: Kind = VULNERABILITIES, say: Callable[[str], None]
) -> LocalDatabase:
    """The database under that reference, on this machine; downloaded when it is not there yet.

    With a digest in the reference, one that is here is used without asking anybody. When the registry does
    not answer, the last one from that reference is used, and `problem` says so: the policy judges its age.
    BadInput, SystemUnavailable: there is no such database, it is damaged, or nobody answers and none is here.
    """
    if reference.digest and (here := _here(kind, reference, reference.digest)):
        return here
    try:
        offered = await _ask(registry, reference)
    except SystemUnavailable:
        if last := _last(kind, reference):
            return replace(
                last, problem=f"{registry.endpoint} did not answer: this is the last one from there"
            )
        raise
    if offered.kind is not kind:
        raise BadInput(f"{offered.name} is {offered.kind.name}, not {kind.name}")
    async with locked(
        _folder() / f".{_hex(offered.layer.digest)}.lock", lambda: say("waiting for another va")
    ):
        here = _here(kind, reference, offered.digest)
        if here is None:
            await _download(registry, reference.repository, offered, say)
            say("unpacking")
            await asyncio.to_thread(_unpack, offered)
            offered.archive.unlink(missing_ok=True)
            here = _here(kind, reference, offered.digest)
            assert here is not None
    write_whole(_last_file(kind, reference), offered.digest)
    _forget_old(kind)
    return here


# What a registry has ------------------------------------------------------------------------------


async def _ask(registry: Registry, reference: Reference) -> _Offered:
    manifest = await registry.find_manifest(
        reference.repository, reference.digest or reference.tag or "latest"
    )
    if manifest is None:
        raise BadInput(
            f"there is no {reference}", hint="va db mirror SOURCE DESTINATION puts a database there"
        )
    types = {kind.layer: kind for kind in (VULNERABILITIES, JAVA)}
    known = [layer for layer in manifest.layers if layer.media_type in types]
    if len(known) != 1 or len(manifest.layers) != 1 or manifest.config is None:
        raise BadInput(
            f"{reference} is not a database of Trivy's, which is one layer of type {VULNERABILITIES.layer}",
            hint="Trivy's own are ghcr.io/aquasecurity/trivy-db:2 and ghcr.io/aquasecurity/trivy-java-db:1",
        )
    return _Offered(
        kind=types[known[0].media_type],
        name=str(reference if reference.digest else reference.at(manifest.descriptor.digest)),
        manifest=manifest,
        layer=known[0],
    )


async def _download(
    registry: Registry, repository: str, offered: _Offered, say: Callable[[str], None]
) -> None:
    offered.archive.parent.mkdir(parents=True, exist_ok=True)
    size = offered.layer.size / 2**20

    def progress(done: int) -> None:
        say(f"{done / 2**20:.0f} of {size:.0f} MiB of {offered.kind.name}")

    await registry.download(repository, offered.layer, offered.archive, resume=True, progress=progress)


# What a database says of itself -------------------------------------------------------------------


def _understood(offered: _Offered, raw: bytes) -> Database:
    try:
        metadata = _Metadata.model_validate_json(raw)
    except ValidationError as error:
        raise BadInput(
            f"{offered.name}: its {_METADATA} does not say when it was made: {in_words(error)}"
        ) from error
    if metadata.version != offered.kind.schema:
        raise BadInput(
            f"{offered.name} has the schema {metadata.version}; this Trivy reads {offered.kind.schema}",
            hint="take the tag of that schema, or a newer Trivy in tools/trivy",
        )
    return Database(
        version=metadata.version,
        updated=metadata.updated_at,
        next_update=metadata.next_update,
        digest=offered.digest,
    )


def _refuse_old(name: str, database: Database, max_age: timedelta | None, now: datetime) -> None:
    age = now - database.updated
    if age < -_CLOCKS_DIFFER:
        raise PolicyBlocked(
            f"{name} says it was made at {database.updated:%Y-%m-%d %H:%M} UTC, which is in the future",
            hint="check this machine's clock, then who made that database",
        )
    if max_age is not None and age > max_age:
        due = database.next_update
        raise PolicyBlocked(
            f"{name} is {_hours(age)} old; {_hours(max_age)} are allowed"
            + (f"; a newer one was due on {due:%Y-%m-%d %H:%M}" if due and due < now else ""),
            hint="take it from a source that is kept up to date, or allow more with --max-age",
        )


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:.0f} h"


# What is on this machine --------------------------------------------------------------------------


def _folder() -> Path:
    return places.cache() / "trivy"


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _kept(kind: Kind, digest: str) -> Path:
    return _folder() / kind.folder / _hex(digest)


def _last_file(kind: Kind, reference: Reference) -> Path:
    name = hashlib.sha256(f"{kind.name} {reference}".encode()).hexdigest()[:16]
    return _folder() / "last" / name


def _last(kind: Kind, reference: Reference) -> LocalDatabase | None:
    file = _last_file(kind, reference)
    return _here(kind, reference, file.read_text()) if file.is_file() else None


def _here(kind: Kind, reference: Reference, digest: str) -> LocalDatabase | None:
    folder = _kept(kind, digest)
    try:
        metadata = _Metadata.model_validate_json((folder / _METADATA).read_bytes())
    except (OSError, ValidationError):
        return None
    if not (folder / kind.file).is_file():
        return None
    os.utime(folder)
    return LocalDatabase(
        kind=kind,
        reference=str(reference),
        database=Database(
            version=metadata.version,
            updated=metadata.updated_at,
            next_update=metadata.next_update,
            digest=digest,
        ),
        folder=folder,
    )


def _unpack(offered: _Offered) -> None:
    """Both files of the downloaded archive to their place, in one move."""
    target = _kept(offered.kind, offered.digest)
    shutil.rmtree(target, ignore_errors=True)  # what is there is not whole, or it would have been used
    with new_folder(target) as draft, _archive(offered) as tar:
        for name, content in _files(offered, tar):
            with (draft / name).open("wb") as file:
                shutil.copyfileobj(content, file, 2**20)
        for name in (offered.kind.file, _METADATA):
            if not (draft / name).is_file():
                raise BadInput(f"{offered.name}: there is no {name} in it")
        raw = (draft / _METADATA).read_bytes()
        _understood(offered, raw)
    write_whole(_memo(offered), raw)


def _memo(offered: _Offered) -> Path:
    """Its metadata, kept: to judge the age of what a mirror has already, without reading it all again."""
    return _folder() / "metadata" / _hex(offered.digest)


def _read_memo(offered: _Offered) -> bytes | None:
    file = _memo(offered)
    return file.read_bytes() if file.is_file() else None


def _read_archive(offered: _Offered) -> bytes:
    with _archive(offered) as tar:
        for name, content in _files(offered, tar):
            if name == _METADATA:
                raw = content.read()
                write_whole(_memo(offered), raw)
                return raw
    raise BadInput(f"{offered.name}: there is no {_METADATA} in it")


def _files(offered: _Offered, tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    """The two files of a database; BadInput when one is larger than such a file can be."""
    most = {offered.kind.file: _LARGEST_DATABASE, _METADATA: _LARGEST_METADATA}
    for member in tar:
        name = PurePosixPath(member.name).name
        if name not in most:
            continue
        if member.size > most[name]:
            raise BadInput(f"{offered.name}: its {name} has {member.size} bytes, more than {most[name]}")
        if content := tar.extractfile(member):
            yield name, content


@contextmanager
def _archive(offered: _Offered) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(offered.archive, "r|gz") as tar:
            yield tar
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        offered.archive.unlink(missing_ok=True)
        raise BadInput(
            f"{offered.name}: its layer is not a gzipped tar: {error}",
            hint="its digest is right, so it was made so: take another database",
        ) from error


def _forget_old(kind: Kind) -> None:
    folders = [path for path in (_folder() / kind.folder).iterdir() if not path.name.startswith(".")]
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)

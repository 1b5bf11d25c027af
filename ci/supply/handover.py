"""What the half of a ship that builds, tests and scans leaves to the half that pushes and signs: a folder.

    images/<name>.tar                     an OCI image layout in a tarball
    reports/<name>/findings.json          what the scan found, as `ci.scan.Findings` reads it back
    reports/<name>/sbom.cdx.json          the packages of an image, as CycloneDX
    reports/chart/findings.json
    manifest.json                         `Handover`: what was made of what, and the digests of all of it

The two halves trust each other as little as a job that runs other people's code deserves. Nothing in the
folder is run, no file is found by a path that is written in it, and none is opened through a link. All bytes
that go further are those of a digest in the manifest; whoever knows the manifest's own digest from elsewhere
(a job's output) knows that nothing was exchanged in between. What it says of tests and scans are claims of
the half that made it, and provenance says so.

The manifest goes last and whole: where it is, all that it names was there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import from_json

from ci import complaints
from ci.below import open_file
from ci.errors import BadInput, Place
from ci.files import new_file, write_whole
from ci.registry import Bundle, digest_of, open_archive
from ci.registry.content import IMAGE_MANIFEST, Manifest
from ci.release import Commit, Digest, TestSummary
from ci.scan import Findings, Scanned

__all__ = ["MANIFEST", "Handover", "MadeChart", "MadeImage", "Maker", "Ready", "Taken", "leave", "take"]

MANIFEST = "manifest.json"
_CHART = "chart"
_FINDINGS, _SBOM = "findings.json", "sbom.cdx.json"
_MIB = 2**20
_MOST_MANIFEST, _MOST_DOCUMENT, _MOST_CONFIG = _MIB, 64 * _MIB, 4 * _MIB
_MOST_ARCHIVE = 16 * 2**30
_MOST_LAYERS = 127
"""What container runtimes can stack."""

_Line = Annotated[str, StringConstraints(pattern=r"^[!-~]([ -~]{0,398}[!-~])?$")]
"""Printable ASCII on one line: it goes into a signed document, and onto a terminal."""
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Document(_Record):
    """A file, by its bytes."""

    digest: Digest
    size: Annotated[int, Field(ge=0, le=_MOST_DOCUMENT)]


class Maker(_Record):
    """Who made it, by their own account: `by` is a URI; `job` and `run` (a URL) say more on GitHub
    Actions."""

    by: _Line
    job: _Line | None = None
    run: _Line | None = None


class MadeImage(_Record):
    """An image. `digest` is its manifest's, and so of every byte of it that is pushed."""

    name: _Name
    digest: Digest
    archive: Annotated[int, Field(ge=0, le=_MOST_ARCHIVE)]
    """Bytes of the tarball."""
    tests: TestSummary
    findings: Document
    sbom: Document


class MadeChart(_Record):
    """The chart as it was scanned; whoever publishes packages it from the checkout, and gets the same
    digest."""

    digest: Digest
    findings: Document


class Handover(_Record):
    """What manifest.json says."""

    version: Literal[1]
    maker: Maker
    commit: Commit
    engine: Annotated[_Line, StringConstraints(max_length=80)]
    fault: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    images: Annotated[tuple[MadeImage, ...], Field(min_length=1, max_length=32)]
    chart: MadeChart | None = None
    """None: an image that is in no release has none."""


# Leaving -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An image before it is left: its tarball, and the documents about it."""

    name: str
    digest: str
    archive: Path
    tests: TestSummary
    findings: Path
    sbom: Path


def leave(
    folder: Path,
    *,
    maker: Maker,
    commit: Commit,
    engine: str,
    fault: float | None,
    images: Sequence[Ready],
    chart: tuple[str, Path] | None = None,
    linked: bool = False,
) -> str:
    """Put all of it into `folder` and return the digest of its manifest. `chart`: its digest, its findings.

    What the folder held of an earlier run is replaced; its manifest goes first and comes last, so that a
    run that was cut off leaves none. `linked`: tarballs are linked into it where that is possible, and not
    copied; for a folder that is gone in a moment: whoever writes into a linked file writes into the cache.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    made = []
    for image in images:
        _bring(image.archive, folder / "images" / f"{image.name}.tar", linked=linked)
        made.append(
            MadeImage(
                name=image.name,
                digest=image.digest,
                archive=image.archive.stat().st_size,
                tests=image.tests,
                findings=_copied(image.findings, folder / "reports" / image.name / _FINDINGS),
                sbom=_copied(image.sbom, folder / "reports" / image.name / _SBOM),
            )
        )
    made_chart = None
    if chart is not None:
        findings = _copied(chart[1], folder / "reports" / _CHART / _FINDINGS)
        made_chart = MadeChart(digest=chart[0], findings=findings)
    handover = Handover(
        version=1,
        maker=maker,
        commit=commit,
        engine=engine,
        fault=fault,
        images=tuple(made),
        chart=made_chart,
    )
    content = (handover.model_dump_json(indent=1) + "\n").encode()
    write_whole(folder / MANIFEST, content)
    return digest_of(content)


def _bring(source: Path, to: Path, *, linked: bool) -> None:
    with new_file(to) as draft:
        try:
            if linked:
                os.link(source, draft)
        except OSError:
            linked = False  # another file system, or one without links
        if not linked:
            shutil.copyfile(source, draft)


def _copied(source: Path, to: Path) -> Document:
    content = source.read_bytes()
    write_whole(to, content)
    return Document(digest=digest_of(content), size=len(content))


# Taking --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TakenImage:
    """An image whose bytes are those of its digest, and what is said of it."""

    said: MadeImage
    bundle: Bundle
    findings: Findings
    document: bytes
    """The findings, as they go further."""
    sbom: bytes


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A folder that was read and compared with its manifest, whose digest is `digest`."""

    digest: str
    said: Handover
    images: tuple[TakenImage, ...]
    chart: Findings | None


def take(folder: Path, *, images: Collection[str], chart: bool = True, digest: str | None = None) -> Taken:
    """Read a folder that has these images and a chart, no more and no fewer, and hold all to its manifest.

    `digest` is what the manifest's own has to be. BadInput names the file, and the key, that is not as it
    should be: nothing was pushed.
    """
    raw = _read(folder, (MANIFEST,), _MOST_MANIFEST)
    found = digest_of(raw)
    if digest is not None and found != digest:
        raise BadInput(
            f"its digest is {found}, not {digest}: it was altered since it was made, or is of another run",
            place=Place(file=folder / MANIFEST),
            hint="nothing was pushed; va make says the digest of what it makes",
        )
    said = _parsed(folder, raw)
    names = [image.name for image in said.images]
    if sorted(names) != sorted(images):
        raise _wrong(
            folder, MANIFEST, f"it has {', '.join(names)}; a release is {', '.join(images)}", key="images"
        )
    if (said.chart is not None) != chart:
        raise _wrong(
            folder, MANIFEST, "a chart is expected" if chart else "no chart is expected", key="chart"
        )
    with ThreadPoolExecutor(max_workers=len(names)) as threads:
        taken = tuple(threads.map(lambda image: _image(folder, image), said.images))
    scan = None
    if said.chart is not None:
        _, scan = _findings(folder, _CHART, said.chart.findings, of=Scanned.MANIFESTS)
    return Taken(digest=found, said=said, images=taken, chart=scan)


def _parsed(folder: Path, raw: bytes) -> Handover:
    try:
        return Handover.model_validate_json(raw)
    except ValidationError as error:
        what = complaints.in_words(error)
        raise _wrong(folder, MANIFEST, f"it is no manifest that this version knows: {what}") from error


def _image(folder: Path, said: MadeImage) -> TakenImage:
    if said.tests.failed or not said.tests.passed:
        passed, failed = said.tests.passed, said.tests.failed
        raise _wrong(
            folder,
            MANIFEST,
            f"the tests of {said.name}: {passed} passed, {failed} failed",
            key="images.tests",
        )
    document, findings = _findings(folder, said.name, said.findings, of=Scanned.IMAGE)
    if findings.subject != said.digest:
        raise _wrong(folder, f"reports/{said.name}/{_FINDINGS}", f"it is of {findings.subject}")
    sbom = _document(folder, ("reports", said.name, _SBOM), said.sbom)
    return TakenImage(
        said=said, bundle=_archive(folder, said), findings=findings, document=document, sbom=sbom
    )


def _findings(folder: Path, name: str, said: Document, *, of: Scanned) -> tuple[bytes, Findings]:
    content = _document(folder, ("reports", name, _FINDINGS), said)
    try:
        findings = Findings.model_validate_json(content)
    except ValidationError as error:
        what = complaints.in_words(error)
        where = f"reports/{name}/{_FINDINGS}"
        raise _wrong(folder, where, f"they are no findings that this version knows: {what}") from error
    if findings.of is not of:
        raise _wrong(folder, f"reports/{name}/{_FINDINGS}", f"it is a scan of an {findings.of}, not of {of}")
    return content, findings


def _document(folder: Path, parts: tuple[str, ...], said: Document) -> bytes:
    content = _read(folder, parts, said.size)
    if len(content) != said.size or digest_of(content) != said.digest:
        raise _wrong(folder, "/".join(parts), f"its bytes are not those of {said.digest} in {MANIFEST}")
    return content


def _archive(folder: Path, said: MadeImage) -> Bundle:
    """The tarball's image, every byte of which was hashed; its config is one of an image."""
    parts = ("images", f"{said.name}.tar")
    with _opened(folder, parts) as file:
        size = os.fstat(file.fileno()).st_size
    if size != said.archive:
        raise _wrong(folder, "/".join(parts), f"it has {size} bytes; {MANIFEST} says {said.archive}")
    bundle, where = open_archive(folder.joinpath(*parts)), "/".join(parts)
    if bundle.digest != said.digest:
        raise _wrong(folder, where, f"it is {bundle.digest}; {MANIFEST} says {said.digest}")
    image, *more = (one for one in bundle.manifests if not one.manifests)
    layers, config = image.layers, image.config
    if more or config is None or not _is_plain(image):
        raise _wrong(folder, where, f"it is not one image of one platform with up to {_MOST_LAYERS} layers")
    for blob in bundle.blobs:
        hashed = hashlib.sha256()
        for piece in blob.chunks():
            hashed.update(piece)
        if f"sha256:{hashed.hexdigest()}" != blob.descriptor.digest:
            raise _wrong(folder, where, f"the bytes of {blob.descriptor.digest} have another digest")
    (own,) = (blob for blob in bundle.blobs if blob.descriptor.digest == config.digest)
    if config.size > _MOST_CONFIG:
        raise _wrong(folder, where, f"its config has {config.size} bytes, more than {_MOST_CONFIG}")
    try:
        root = from_json(own.read())["rootfs"]
        whole = root["type"] == "layers" and len(root["diff_ids"]) == len(layers)
    except (ValueError, KeyError, TypeError) as error:
        raise _wrong(folder, where, "its config is not that of an image") from error
    if not whole:
        raise _wrong(folder, where, "its config does not name a content for each layer")
    return bundle


def _is_plain(image: Manifest) -> bool:
    """Whether it is the manifest of an image, and attached to nothing."""
    known = image.descriptor.media_type == IMAGE_MANIFEST and image.artifact_type is None
    return known and image.subject is None and 0 < len(image.layers) <= _MOST_LAYERS


def _read(folder: Path, parts: tuple[str, ...], most: int) -> bytes:
    with _opened(folder, parts) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise _wrong(folder, "/".join(parts), f"it has more than {most} bytes")
    return content


@contextmanager
def _opened(folder: Path, parts: tuple[str, ...]) -> Iterator[BinaryIO]:
    """A regular file below the folder, through no link; BadInput when it is anything else."""
    where = "/".join(parts)
    try:
        found = open_file(folder, where)
    except OSError as error:
        what = {
            errno.ENOENT: "it is not there: what was made is not whole",
            errno.ELOOP: "it is a link, or lies behind one",
            errno.EINVAL: "it is not a regular file",
        }
        said = what.get(error.errno or 0, f"it cannot be read: {error.strerror}")
        raise _wrong(folder, where, said) from error
    with os.fdopen(found, "rb") as file:
        yield file


def _wrong(folder: Path, file: str, what: str, *, key: str | None = None) -> BadInput:
    return BadInput(
        what,
        place=Place(file=folder / file, key=key or None),
        hint="nothing was pushed; va make makes it anew",
    )

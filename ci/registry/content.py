"""What registries hold: descriptors, manifests, and bundles of bytes that are ready to be pushed.

A bundle comes from an OCI image layout in a tarball (read in place, never unpacked) or is made of bytes in
memory (a chart, an SBOM). Media types and fields are those of the OCI image specification 1.1.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ci.complaints import in_words
from ci.errors import BadInput
from ci.registry.references import digest_of
from ci.release import Digest

__all__ = [
    "EMPTY_CONFIG",
    "EMPTY_TYPE",
    "IMAGE_INDEX",
    "IMAGE_MANIFEST",
    "MANIFEST_TYPES",
    "Blob",
    "Bundle",
    "Descriptor",
    "Manifest",
    "artifact",
    "open_archive",
    "parse_manifest",
    "read_json",
    "unzip",
]

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (IMAGE_MANIFEST, IMAGE_INDEX, _DOCKER_MANIFEST, _DOCKER_LIST)
_SAYS_NOTHING = (
    None,
    "",
    "application/json",
    "application/octet-stream",
    "binary/octet-stream",
    "text/plain",
)
"""What storage behind a registry calls anything."""
EMPTY_CONFIG = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_CHUNK_BYTES = 2**20
_LARGEST_MANIFEST = 4 * 2**20
_MOST_MEMBERS = 4096
"""Files in a tarball of one image: three a layer would be many."""


class Descriptor(BaseModel):
    """What names a piece of content: media type, digest and size in bytes."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    media_type: str
    digest: Digest
    size: int = Field(ge=0)
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None
    platform: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The descriptor as manifests write it."""
        return self.model_dump(by_alias=True, exclude_none=True)


_Descriptors = Annotated[tuple[Descriptor, ...], BeforeValidator(lambda listed: listed or ())]
"""Those of an empty list may be null: Go writes one that was never filled so."""


class _ManifestFields(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel)

    media_type: str | None = None
    artifact_type: str | None = None
    config: Descriptor | None = None
    layers: _Descriptors = ()
    manifests: _Descriptors = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An image manifest or an index, with the exact bytes its digest is of."""

    descriptor: Descriptor
    raw: bytes
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    """An index's own manifests; empty for an image."""
    subject: Descriptor | None
    artifact_type: str | None
    annotations: Mapping[str, str]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers, each digest once."""
        every = (self.config, *self.layers) if self.config else self.layers
        return tuple({blob.digest: blob for blob in every}.values())


def read_json(raw: bytes | str) -> Any:
    """What that JSON says; ValueError also when it is nested too deep to be read."""
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def unzip(raw: bytes, most: int) -> bytes:
    """What gzip or zlib have packed, or its first `most` bytes; ValueError when it is neither, or half."""
    packed = zlib.decompressobj(wbits=47)
    try:
        plain = packed.decompress(raw, most)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not packed.eof and len(plain) < most:
        raise ValueError("it ends too early")
    return plain


def parse_manifest(raw: bytes, media_type: str | None = None) -> Manifest:
    """Read a manifest or index; ValueError says what is wrong with it (the caller knows whose fault it is).

    `media_type` is what the transport said; the manifest's own `mediaType` must not contradict it.
    """
    try:
        fields = _ManifestFields.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        digest = first["type"] == "string_pattern_mismatch"
        told = in_words(error) if first["loc"] else f"the document: {in_words(error)}"
        raise ValueError(f"{place}: it is no sha256 digest" if digest else told) from error
    said = fields.media_type or (media_type if media_type not in _SAYS_NOTHING else "")
    said = said or (IMAGE_MANIFEST if fields.config else IMAGE_INDEX)
    if media_type in MANIFEST_TYPES and said != media_type:
        raise ValueError(f"it was sent as {media_type} and says of itself that it is {said}")
    if said not in MANIFEST_TYPES:
        raise ValueError(f"{said} is not a manifest type that this project knows")
    if fields.config is None and not (fields.model_fields_set & {"manifests", "layers"}):
        raise ValueError("it names neither a config nor layers nor other manifests")
    return Manifest(
        descriptor=Descriptor(media_type=said, digest=digest_of(raw), size=len(raw)),
        raw=raw,
        config=fields.config,
        layers=fields.layers,
        manifests=fields.manifests,
        subject=fields.subject,
        artifact_type=fields.artifact_type,
        annotations=fields.annotations or {},
    )


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Bytes to push: all of `source`, or the part of that file that starts at `offset`."""

    descriptor: Descriptor
    source: Path | bytes
    offset: int = 0

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `stop`, in pieces of at most 1 MiB. A short file is an OSError."""
        stop = self.descriptor.size if stop is None else min(stop, self.descriptor.size)
        if isinstance(self.source, bytes):
            for at in range(start, stop, _CHUNK_BYTES):
                yield self.source[at : min(at + _CHUNK_BYTES, stop)]
            return
        with self.source.open("rb") as file:
            file.seek(self.offset + start)
            left = stop - start
            while left > 0:
                piece = file.read(min(_CHUNK_BYTES, left))
                if not piece:
                    raise OSError(f"{self.source} ends in the middle of {self.descriptor.digest}")
                left -= len(piece)
                yield piece

    def read(self) -> bytes:
        """All of it at once: for manifests and configs, which are small."""
        return b"".join(self.chunks())


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A whole artifact: its manifests (children before parents, the root last) and all their blobs."""

    manifests: tuple[Manifest, ...]
    blobs: tuple[Blob, ...]

    @property
    def root(self) -> Manifest:
        """The manifest or index that names all the rest; its digest is THE digest."""
        return self.manifests[-1]

    @property
    def digest(self) -> str:
        """The root's digest."""
        return self.root.descriptor.digest

    @property
    def size(self) -> int:
        """Bytes of the (compressed) layers and configs."""
        return sum(blob.descriptor.size for blob in self.blobs)


def artifact(
    *,
    artifact_type: str | None = None,
    layers: tuple[tuple[str, bytes, Mapping[str, str]] | Descriptor, ...],
    config: tuple[str, bytes] = (EMPTY_TYPE, EMPTY_CONFIG),
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Bundle:
    """An artifact of bytes in memory; each layer is (media type, bytes, annotations).

    A layer that is a descriptor is only named: its bytes are in the registry, or the caller's to add.
    The same arguments give the same digest: the manifest's JSON has sorted keys and no spaces.
    """
    top = _in_memory(config[0], config[1])
    named = [layer if isinstance(layer, Descriptor) else _in_memory(*layer) for layer in layers]
    blobs = [top, *(layer for layer in named if isinstance(layer, Blob))]
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": top.descriptor.as_json(),
        "layers": [(one.descriptor if isinstance(one, Blob) else one).as_json() for one in named],
    }
    if artifact_type:
        manifest["artifactType"] = artifact_type
    if subject:
        bare = Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size)
        manifest["subject"] = bare.as_json()
    if annotations:
        manifest["annotations"] = dict(annotations)
    raw = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    once = {blob.descriptor.digest: blob for blob in blobs}
    return Bundle(manifests=(parse_manifest(raw),), blobs=tuple(once.values()))


def _in_memory(media_type: str, content: bytes, annotations: Mapping[str, str] | None = None) -> Blob:
    descriptor = Descriptor(
        media_type=media_type,
        digest=digest_of(content),
        size=len(content),
        annotations=dict(annotations) if annotations else None,
    )
    return Blob(descriptor=descriptor, source=content)


def open_archive(path: Path) -> Bundle:
    """Read an OCI image layout in an uncompressed tarball; BadInput when it is not one or is not whole.

    Only manifests are read; layers stay where they are in the file. The one entry of `index.json` is the
    root: an image, or an index whose own manifests are all in the tarball. Whoever wrote it may mean harm:
    its headers cost no memory to speak of, and no more time than its size is worth.
    """
    try:
        places = _members(path)
    except OSError as error:
        raise BadInput(f"cannot read the image {path}: {error.strerror}", hint="va build makes it") from error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise _broken(path, f"not an uncompressed tar file ({error})") from error

    def content(name: str, size: int | None = None) -> bytes:
        if name not in places:
            raise _broken(path, f"{name} is missing in it")
        offset, length = places[name]
        if length > _LARGEST_MANIFEST or (size is not None and size != length):
            raise _broken(path, f"{name} has {length} bytes" + (f", not {size}" if size is not None else ""))
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def manifest(descriptor: Descriptor) -> Manifest:
        raw = content(_blob_name(descriptor.digest), descriptor.size)
        if digest_of(raw) != descriptor.digest:
            raise _broken(path, f"the bytes of manifest {descriptor.digest} have another digest")
        try:
            return parse_manifest(raw, descriptor.media_type)
        except ValueError as error:
            raise _broken(path, f"manifest {descriptor.digest}: {error}") from error

    try:
        tops = _ManifestFields.model_validate_json(content("index.json")).manifests
    except ValidationError as error:
        raise _broken(path, f"index.json: {in_words(error)}") from error
    if len({top.digest for top in tops}) != 1:
        raise _broken(path, f"index.json names {len(tops)} images, not one")
    root = manifest(tops[0])
    children = tuple(manifest(child) for child in root.manifests)
    blobs: dict[str, Blob] = {}
    for image in (*children, root):
        for descriptor in image.blobs:
            place = places.get(_blob_name(descriptor.digest))
            if place is None or place[1] != descriptor.size or sum(place) > path.stat().st_size:
                raise _broken(path, f"blob {descriptor.digest} is missing in it or cut short")
            blobs[descriptor.digest] = Blob(descriptor=descriptor, source=path, offset=place[0])
    return Bundle(manifests=(*children, root), blobs=tuple(blobs.values()))


def _members(path: Path) -> dict[str, tuple[int, int]]:
    """Where each regular file of a tarball begins, and its size, by its name."""
    found: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file, tarfile.open(fileobj=_Forward(file), mode="r:") as tar:  # type: ignore[call-overload]
        for number, member in enumerate(tar):
            if number == _MOST_MEMBERS:
                raise tarfile.ReadError(f"more than {_MOST_MEMBERS} files are in it")
            if member.isreg():
                found[member.name.removeprefix("./")] = (member.offset_data, member.size)
    return found


class _Forward:
    """A file that tarfile reads headers from: forward only, and a little at a time.

    By itself it follows a negative size back to where it was, for ever (CVE-2025-8194), and reads as much
    memory full as a header of names says that it is long.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_MANIFEST:
            raise tarfile.ReadError("a header of it is too large")
        return self._file.read(size)

    def seek(self, position: int) -> int:
        if position < self._file.tell() - 1:  # tarfile looks at the byte before a header
            raise tarfile.ReadError("a header of it leads back")
        return self._file.seek(position)


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _broken(path: Path, what: str) -> BadInput:
    return BadInput(f"{path} is not a whole OCI image: {what}", hint="delete it and run va build again")

"""Images in the OCI image layout: read into layers of the store, written from them, byte for byte the same
each time.

A layer that came from an image keeps the very blob that it came as. A layer of ours becomes a tar with its
entries in order, every time stamp the epoch's and no names of users, compressed by the ISA-L that the lock
file pins, not by whatever zlib the machine's Python has: the same tree gives the same digest on any machine
(of one architecture; ISA-L's output is the same from SSE4.2 on). Format: OCI image-spec 1.1 (image-layout.md,
layer.md).
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from isal import __version__ as _isal
from isal import igzip

from ci.below import open_file
from ci.engine.store import Store, digest_of
from ci.engine.tars import Hashing, make_whiteouts, pack, unpack
from ci.errors import BadInput
from ci.registry.platforms import choose, this_machine

__all__ = [
    "COMPRESSOR",
    "Blob",
    "Built",
    "Image",
    "index_of",
    "layer_blob",
    "manifest_of",
    "read_archive",
    "read_layout",
    "write_archive",
]

_OCI = "application/vnd.oci.image."
_DOCKER = "application/vnd.docker."
_CHUNK = 1 << 20
_LARGEST = 4 * 2**20
"""Bytes of a manifest or a config, at most."""
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_LEVEL = 3
"""ISA-L's best: an eighth of the time of zlib's default for 8 % more bytes."""
COMPRESSOR = f"isal {_isal} {_LEVEL}"
"""Part of the key of what is compressed: another one gives other bytes."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A blob of the store: a descriptor, and for a layer the digest of what it is uncompressed."""

    media_type: str
    digest: str
    size: int
    diff_id: str = ""

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image as the engine holds it: ids of its layers in the store, lowest first, and its config."""

    layers: tuple[str, ...]
    config: Mapping[str, Any]
    """The whole config object: architecture, os, config, history …"""
    annotations: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    """The manifest's, of an image that was read."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """An image as it goes out: its manifest and config as bytes, its layers' blobs, and its platform as an
    index says it."""

    manifest: bytes
    config: bytes
    layers: tuple[Blob, ...]
    platform: Mapping[str, str]


def read_archive(store: Store, archive: Path | IO[bytes], tag: str = "", *, name: str = "") -> Image:
    """Read an image from a tar: an OCI layout, or what `docker save` writes. `tag` picks one of several."""
    if isinstance(archive, Path):
        with archive.open("rb") as file:
            return read_archive(store, file, tag, name=archive.name)
    try:
        with tarfile.open(fileobj=archive) as tar:
            members = {posixpath.normpath(member.name): member for member in tar if member.isfile()}

            def opened(path: str) -> IO[bytes]:
                file = tar.extractfile(members[path]) if path in members else None
                if file is None:
                    raise BadInput(f"{name} is no image: it has no {path}")
                return file

            if "index.json" in members:
                return _read(store, opened, tag)
            if "manifest.json" in members:
                return _read_docker(store, opened, tag)
    except tarfile.TarError as error:
        raise BadInput(f"{name} is not a tar archive: {error}") from error
    raise BadInput(f"{name} is no image: it has neither index.json nor manifest.json")


def read_layout(store: Store, folder: Path) -> Image:
    """Read an image from a folder in the OCI layout."""

    def opened(path: str) -> IO[bytes]:
        try:
            return open(open_file(folder, path), "rb")
        except OSError as error:
            raise BadInput(f"the image is damaged: {path}: {error.strerror}") from error

    return _read(store, opened, "")


def _read(store: Store, opened: Callable[[str], IO[bytes]], tag: str) -> Image:
    def blob(descriptor: Mapping[str, Any]) -> IO[bytes]:
        return opened(f"blobs/sha256/{_hex(descriptor['digest'])}")

    try:
        found = _pick(_json_of(opened("index.json"))["manifests"], tag)
        digest = found["digest"]
        manifest = _verified(blob(found), digest)
        while "manifests" in manifest:
            found = choose(manifest["manifests"], this_machine(), of="the image")
            digest = found["digest"]
            manifest = _verified(blob(found), digest)
        config = _verified(blob(manifest["config"]), manifest["config"]["digest"])
        diff_ids = config["rootfs"]["diff_ids"]
        layers = [
            _add_layer(store, diff_id, descriptor["mediaType"], blob(descriptor), descriptor["digest"])
            for diff_id, descriptor in zip(diff_ids, manifest["layers"], strict=True)
        ]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"the image is not a valid OCI image: {error!r}") from error
    return Image(
        layers=tuple(layers), config=config, annotations=manifest.get("annotations") or {}, digest=digest
    )


def _read_docker(store: Store, opened: Callable[[str], IO[bytes]], tag: str) -> Image:
    try:
        images = _json_of(opened("manifest.json"))
        image = next((one for one in images if tag in (one.get("RepoTags") or ())), images[0])
        config = _json_of(opened(image["Config"]))
        layers = [
            _add_layer(store, diff_id, f"{_OCI}layer.v1.tar", opened(name), diff_id)
            for diff_id, name in zip(config["rootfs"]["diff_ids"], image["Layers"], strict=True)
        ]
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise BadInput(f"the archive is not a valid Docker image: {error!r}") from error
    return Image(layers=tuple(layers), config=config)


def _pick(manifests: Sequence[Mapping[str, Any]], tag: str) -> Mapping[str, Any]:
    """The manifest of that tag, else the one of this platform."""
    if tag:
        for one in manifests:
            if (one.get("annotations") or {}).get("org.opencontainers.image.ref.name") == tag:
                return one
    return choose(manifests, this_machine(), of="the image")


def _verified(file: IO[bytes], digest: str) -> dict[str, Any]:
    data = _small(file)
    if _digest(data) != digest:
        raise BadInput(f"the image is damaged: a blob is not {digest}")
    value = json.loads(data)
    if not isinstance(value, dict):
        raise BadInput(f"the image is damaged: {digest} is no JSON object")
    return value


def _json_of(file: IO[bytes]) -> Any:
    return json.loads(_small(file))


def _small(file: IO[bytes]) -> bytes:
    data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise BadInput(f"the image is damaged: its manifest or config has more than {_LARGEST // 2**20} MiB")
    return data


def _hex(digest: Any) -> str:
    """The hexadecimal part of a digest; it becomes part of paths."""
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise BadInput(f"the image is damaged: {str(digest)[:100]!r} is no SHA-256 digest")
    return digest.removeprefix("sha256:")


def _add_layer(store: Store, diff_id: str, media_type: str, source: IO[bytes], digest: str) -> str:
    """A layer of an image, into the store: its blob as it came, and its tree.

    Both are read to their end and have to be what the image says; nothing is believed because of a digest
    that another image gave, too.
    """
    plain = _hex(diff_id)
    media_type = media_type.replace(f"{_DOCKER}image.rootfs.diff.tar.gzip", f"{_OCI}layer.v1.tar+gzip")
    # Of all that an image says of it: who publishes a layer again gives the blob that it came as.
    id = digest_of("layer of an image", diff_id, digest, media_type)
    known = store.result(id)
    if known is not None:
        return id
    with store.work("image") as folder:
        _unpacked_layer(store, id, plain, media_type, source, digest, folder)
    store.keep(id, {"layers": [id]})
    return id


def _unpacked_layer(
    store: Store, id: str, plain: str, media_type: str, source: IO[bytes], digest: str, folder: Path
) -> None:
    total, size = hashlib.sha256(), 0
    with (folder / "blob").open("wb") as target:
        while data := source.read(_CHUNK):
            total.update(data)
            size += len(data)
            target.write(data)
    if f"sha256:{total.hexdigest()}" != digest:
        raise BadInput(f"the image is damaged: a layer is not {digest}")
    tree = folder / "layer"
    tree.mkdir()
    unpacked = unpack(folder / "blob", tree)
    if unpacked != plain:
        raise BadInput(
            f"the image is damaged: the layer {digest} is sha256:{unpacked} once unpacked, "
            f"and not sha256:{plain}, as its config says"
        )
    make_whiteouts(tree)
    store.add_blob(folder / "blob", total.hexdigest())
    store.add_original(
        id,
        total.hexdigest(),
        {
            "mediaType": media_type,
            "digest": digest,
            "size": size,
            "diffId": f"sha256:{plain}",
        },
    )
    store.add_layer(tree, id)


def layer_blob(store: Store, layer: str, *, compression: str | None, epoch: int) -> Blob | None:
    """The blob of a layer: the one it came as if the compression allows it, else ours, made once.

    `compression`: Gzip, Uncompressed, or None for whatever is there. None when the layer changes nothing.
    """
    came = store.original(layer)
    if came and (
        compression is None
        or came["mediaType"].endswith({"Gzip": "+gzip", "Uncompressed": ".tar"}[compression])
    ):
        return _blob(came)
    key = digest_of("blob of ours", layer, compression or "Gzip", epoch, COMPRESSOR)
    known = store.result(key)
    if known:
        return _blob(known) if known["digest"] else None
    zipped = compression != "Uncompressed"
    with store.work("blob") as folder:
        with (folder / "blob").open("wb") as file:
            packed = Hashing(file)
            plain = Hashing(igzip.IGzipFile("", "wb", _LEVEL, packed, mtime=0) if zipped else packed)  # type: ignore[arg-type, no-untyped-call]
            count = pack(store.layers / layer, plain, epoch)
            if zipped:
                plain.file.close()
        digest = packed.total.hexdigest()
        if count:
            store.add_blob(folder / "blob", digest)
    value = store.keep(
        key,
        {
            "mediaType": f"{_OCI}layer.v1.tar" + ("+gzip" if zipped else ""),
            "digest": f"sha256:{digest}" if count else "",
            "size": packed.size,
            "diffId": f"sha256:{plain.total.hexdigest()}",
            "layers": [layer],
            "blobs": [digest] if count else [],
        },
    )
    return _blob(value) if count else None


def _blob(value: Mapping[str, Any]) -> Blob:
    return Blob(
        media_type=value["mediaType"], digest=value["digest"], size=value["size"], diff_id=value["diffId"]
    )


def manifest_of(
    store: Store,
    image: Image,
    *,
    compression: str | None,
    docker: bool,
    epoch: int,
    comments: Sequence[str] = (),
    blob: Callable[[str], Blob | None] | None = None,
) -> tuple[bytes, bytes, list[Blob]]:
    """The manifest and the config of an image, and its layers' blobs. `comments`: history of the layers of
    ours."""
    make = blob or (lambda layer: layer_blob(store, layer, compression=compression, epoch=epoch))
    made = [make(layer) for layer in image.layers]
    blobs = [one for one in made if one]
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {key: value for key, value in image.config.items() if key not in ("history", "rootfs")}
    config["created"] = created
    config["rootfs"] = {"type": "layers", "diff_ids": [one.diff_id for one in blobs]}
    config["history"] = _history(image, made, comments, created)
    types = (
        (f"{_DOCKER}distribution.manifest.v2+json", f"{_DOCKER}container.image.v1+json")
        if docker
        else (f"{_OCI}manifest.v1+json", f"{_OCI}config.v1+json")
    )
    config_data = _json(config)
    layers = [one.descriptor() for one in blobs]
    if docker:
        for row in layers:
            row["mediaType"] = f"{_DOCKER}image.rootfs.diff.tar" + (
                ".gzip" if row["mediaType"].endswith("gzip") else ""
            )
    manifest = {
        "schemaVersion": 2,
        "mediaType": types[0],
        "config": {"mediaType": types[1], "digest": _digest(config_data), "size": len(config_data)},
        "layers": layers,
    }
    if image.annotations:
        manifest["annotations"] = dict(sorted(image.annotations.items()))
    return _json(manifest), config_data, blobs


def _history(
    image: Image, blobs: Sequence[Blob | None], comments: Sequence[str], created: str
) -> list[dict[str, Any]]:
    """One row for each layer, as tools expect: the image's own rows, then ours; rows that it lacks are made
    up."""
    first = len(blobs) - len(comments)
    theirs = list(image.config.get("history") or ())
    if sum(1 for row in theirs if not row.get("empty_layer")) != sum(1 for blob in blobs[:first] if blob):
        theirs = [{"created": created, "created_by": "import"} for blob in blobs[:first] if blob]
    ours = [
        {"created": created, "created_by": text}
        for text, blob in zip(comments, blobs[first:], strict=True)
        if blob
    ]
    return theirs + ours


def index_of(images: Sequence[Built], *, docker: bool = False) -> bytes:
    """The index of an image for several platforms."""
    manifests = [
        {
            "mediaType": json.loads(image.manifest)["mediaType"],
            "digest": _digest(image.manifest),
            "size": len(image.manifest),
            "platform": dict(image.platform),
        }
        for image in images
    ]
    kind = f"{_DOCKER}distribution.manifest.list.v2+json" if docker else f"{_OCI}index.v1+json"
    return _json({"schemaVersion": 2, "mediaType": kind, "manifests": manifests})


def write_archive(
    store: Store, target: Path, images: Sequence[Built], epoch: int, *, docker: bool = False
) -> None:
    """Write an image as a tar in the OCI layout; the same image gives the same bytes. One for several
    platforms is an index, which the layout's own names."""
    top = index_of(images)
    small = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
    if len(images) > 1:
        inner = index_of(images, docker=docker)
        small[f"blobs/sha256/{_digest(inner)[7:]}"] = inner
        named = {"mediaType": json.loads(inner)["mediaType"], "digest": _digest(inner), "size": len(inner)}
        top = _json({"schemaVersion": 2, "mediaType": f"{_OCI}index.v1+json", "manifests": [named]})
    small["index.json"] = top
    files: dict[str, bytes | Path] = dict(small)
    for image in images:
        files[f"blobs/sha256/{_digest(image.manifest)[7:]}"] = image.manifest
        files[f"blobs/sha256/{_digest(image.config)[7:]}"] = image.config
        files.update({f"blobs/sha256/{one.digest[7:]}": store.blobs / one.digest[7:] for one in image.layers})
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("blobs", "blobs/sha256"):
            tar.addfile(_info(name, epoch, tarfile.DIRTYPE, 0o755))
        for name, content in sorted(files.items()):
            info = _info(name, epoch, tarfile.REGTYPE, 0o644)
            with _opened(content) as (file, info.size):
                tar.addfile(info, file)


def _info(name: str, epoch: int, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, epoch
    return info


@contextmanager
def _opened(content: bytes | Path) -> Iterator[tuple[IO[bytes], int]]:
    if isinstance(content, bytes):
        yield io.BytesIO(content), len(content)
    else:
        with content.open("rb") as file:
            yield file, content.stat().st_size


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

"""Small OCI images in tarballs, made by hand: what an engine exports, without an engine."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

from ci.registry import digest_of
from ci.registry.content import IMAGE_INDEX, IMAGE_MANIFEST


def write_image(path: Path, *layers: bytes, env: str = "A=1", nested: bool = False) -> str:
    """Write an image of these layers' bytes to `path` and return the digest of its root."""
    blobs: dict[str, bytes] = {}

    def put(content: bytes, media_type: str) -> dict[str, object]:
        blobs[digest_of(content)] = content
        return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}

    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [env]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(_plain(layer)) for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [put(layer, "application/vnd.oci.image.layer.v1.tar+gzip") for layer in layers],
    }
    root = put(json.dumps(manifest).encode(), IMAGE_MANIFEST)
    if nested:
        index = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [root]}
        root = put(json.dumps(index).encode(), IMAGE_INDEX)
    top = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [root]}
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(top).encode(),
        **{f"blobs/{digest.replace(':', '/')}": content for digest, content in blobs.items()},
    }
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(root["digest"])


def layer(**files: str) -> bytes:
    """A gzipped layer that holds these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return gzip.compress(out.getvalue(), mtime=0)


def _plain(content: bytes) -> bytes:
    """A layer's bytes before compression; what is no gzip stands for itself."""
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content

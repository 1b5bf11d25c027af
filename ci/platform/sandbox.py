"""Images of nothing but a static busybox, as OCI archives: such is the sandbox of a pod's namespaces."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from ci.errors import ToolMissing
from ci.registry.platforms import this_machine

__all__ = ["SANDBOX_IMAGE", "busybox_archive"]

SANDBOX_IMAGE = "va.local/sandbox:1"


def busybox_archive(busybox: Path, archive: Path, *, name: str, command: Sequence[str]) -> None:
    """Write an image that runs busybox with `command`, the first word of which is the applet.

    ToolMissing when `busybox` needs shared libraries, which the image does not have.
    """
    program = busybox.read_bytes()
    # The segment that names the dynamic loader is in the first page of a program that has one.
    if b"/ld-linux" in program[:4096]:
        raise ToolMissing(f"{busybox} is not static", hint="sudo apt-get install busybox-static")
    tree = _tar({"bin/busybox": program})
    layer = gzip.compress(tree, mtime=0)
    config = json.dumps(
        {
            **this_machine().as_json(),
            "config": {"Entrypoint": ["/bin/busybox", *command], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(tree)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        }
    ).encode()
    named = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    named["annotations"] = {"io.containerd.image.name": name}
    index = json.dumps({"schemaVersion": 2, "manifests": [named]}).encode()
    blobs = {
        f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}": blob for blob in (layer, config, manifest)
    }
    archive.write_bytes(_tar({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index, **blobs}))


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _tar(files: dict[str, bytes]) -> bytes:
    """A tar archive that depends on nothing but `files`; every file may be executed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()

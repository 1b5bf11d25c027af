"""A very small image: Debian's static busybox as an OCI archive. And a session of its own to try it in."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["BUSYBOX", "can_run_containers", "write_image", "write_tiny_image"]

BUSYBOX = shutil.which("busybox") or "/bin/busybox"


def can_run_containers() -> str:
    """Empty, or why containers cannot run here."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("runc", "slirp4netns", "tini", "busybox") if not shutil.which(name)]
    return f"needs {' and '.join(missing)}" if missing else ""


def write_tiny_image(path: Path, *, config: Mapping[str, object] | None = None) -> Path:
    """busybox with its commands, a user `app`, and nothing else."""
    files: dict[str, bytes | str] = {
        "bin/busybox": Path(BUSYBOX).read_bytes(),
        "etc/passwd": b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        "etc/group": b"root:x:0:\napp:x:1000:\nstaff:x:50:app\n",
    }
    commands = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    files |= {f"bin/{name}": "busybox" for name in commands if name != "busybox"}
    folders = ("bin", "etc", "home", "home/app", "root", "tmp")
    return write_image(path, [_layer(folders, files)], config=config or {"Env": ["PATH=/bin"]})


def _layer(folders: tuple[str, ...], files: Mapping[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in folders:
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            if name == "home/app":
                info.uid = info.gid = 1000
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size, info.mode = len(content), 0o755 if name.startswith("bin/") else 0o644
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_image(path: Path, layers: list[bytes], *, config: Mapping[str, object]) -> Path:
    """An OCI archive of uncompressed layers."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        blobs[digest] = data
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": digest, "size": len(data)}

    rows = [blob(layer, "layer.v1.tar") for layer in layers]
    image = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [row["digest"] for row in rows]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(image).encode(), "config.v1+json"),
        "layers": rows,
    }
    index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")]}
    members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    members |= {f"blobs/{digest.replace(':', '/')}": data for digest, data in blobs.items()}
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path

"""An image's config claims the id of another image's layer, which is then taken from the cache for both."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import dagger
import pytest

from ci.errors import BadInput

if TYPE_CHECKING:
    from conftest import Machine


def _layer(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("who")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _image(path: Path, layer: bytes, *, diff_id: str, packed: bool, manifest_digest: str = "") -> None:
    blob = gzip.compress(layer, mtime=0) if packed else layer
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
    ).encode()
    kind = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"mediaType": f"{kind}.config.v1+json", "digest": _digest(config), "size": len(config)},
            "layers": [
                {
                    "mediaType": f"{kind}.layer.v1.tar{'+gzip' if packed else ''}",
                    "digest": _digest(blob),
                    "size": len(blob),
                }
            ],
        }
    ).encode()
    index = {"manifests": [{"digest": manifest_digest or _digest(manifest), "size": len(manifest)}]}
    members = {"index.json": json.dumps(index).encode()}
    members |= {f"blobs/sha256/{_digest(data)[7:]}": data for data in (manifest, config, blob)}
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("packed", [False, True])
def test_a_layer_is_what_it_is_not_what_it_says(machine: Machine, packed: bool) -> None:
    good, evil = _layer(b"good"), _layer(b"evil")
    _image(machine.work / "good.tar", good, diff_id=_digest(good), packed=packed)
    _image(machine.work / "evil.tar", evil, diff_id=_digest(good), packed=packed)

    def who(name: str) -> str:
        async def pipeline(client: dagger.Client, _: dagger.Container) -> str:
            return await client.container().import_(client.host().file(name)).file("/who").contents()

        return str(machine.run(pipeline))

    with pytest.raises(BadInput, match="once unpacked, and not"):
        who("evil.tar")
    assert who("good.tar") == "good"
    with pytest.raises(BadInput, match="once unpacked, and not"):
        who("evil.tar")


@pytest.mark.parametrize(
    "digest", ["sha256:../../../../etc/shadow", "sha256:" + "g" * 64, "../x", "md5:" + "0" * 32]
)
def test_a_digest_is_no_path(machine: Machine, digest: str) -> None:
    layer = _layer(b"x")
    _image(machine.work / "odd.tar", layer, diff_id=_digest(layer), packed=False, manifest_digest=digest)

    async def pipeline(client: dagger.Client, _: dagger.Container) -> None:
        await client.container().import_(client.host().file("odd.tar")).file("/who").contents()

    with pytest.raises(BadInput, match="is no SHA-256 digest"):
        machine.run(pipeline)

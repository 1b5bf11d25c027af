from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny_image import write_image

from ci.engine.oci import Blob, Built, Image, layer_blob, manifest_of, read_archive, write_archive
from ci.engine.store import Store
from ci.engine.tree import Tree, make_opaque, make_whiteout
from ci.errors import BadInput

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts and owners need root")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    held = Store(tmp_path / "cache")
    yield held
    held.close()


def _tar(*members: tuple[str, bytes | None]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _fill(folder: Path, order: list[str]) -> Path:
    for name in order:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "link").symlink_to("/absolute")
    make_whiteout(str(folder / "gone"))
    (folder / "fresh").mkdir()
    make_opaque(str(folder / "fresh"))
    return folder


def _members(store: Store, blob: Blob) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(store.blobs / blob.digest[7:]) as tar:
        return {member.name: member for member in tar}


def test_the_same_tree_gives_the_same_blob_whenever_and_however_it_was_made(store: Store) -> None:
    one = store.add_layer(_fill(store.scratch(), ["d/a", "d/b", "z"]))
    two = store.add_layer(_fill(store.scratch(), ["z", "d/b", "d/a"]))
    os.utime(store.layers / two / "z", (5, 5))

    blobs = [layer_blob(store, layer, compression="Gzip", epoch=1000) for layer in (one, two)]

    assert blobs[0] == blobs[1] and blobs[0] is not None
    assert layer_blob(store, one, compression="Gzip", epoch=2000) != blobs[0]


def test_a_layers_tar_has_whiteouts_and_marks_as_the_image_spec_says(store: Store) -> None:
    blob = layer_blob(store, store.add_layer(_fill(store.scratch(), ["d/a"])), compression="Gzip", epoch=77)
    assert blob is not None

    members = _members(store, blob)

    assert list(members) == ["d", "d/a", "fresh", "fresh/.wh..wh..opq", ".wh.gone", "link"]
    assert {member.mtime for member in members.values()} == {77}
    assert {member.uname for member in members.values()} == {""}
    data = gzip.decompress((store.blobs / blob.digest[7:]).read_bytes())
    assert blob.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_layer_that_changes_nothing_has_no_blob(store: Store) -> None:
    layer = store.add_layer(store.scratch())

    assert layer_blob(store, layer, compression="Gzip", epoch=0) is None
    assert layer_blob(store, layer, compression="Gzip", epoch=0) is None


def test_hard_links_stay_links(store: Store) -> None:
    folder = store.scratch()
    (folder / "a").write_text("data")
    (folder / "b").hardlink_to(folder / "a")

    blob = layer_blob(store, store.add_layer(folder), compression="Uncompressed", epoch=0)

    assert blob is not None and _members(store, blob)["b"].linkname == "a"


def test_an_image_is_read_with_its_whiteouts_and_keeps_its_own_blobs(tmp_path: Path, store: Store) -> None:
    layers = [
        _tar(("d", None), ("d/a", b"1"), ("d/b", b"2"), ("e", None), ("e/x", b"3")),
        _tar(("d/.wh.a", b""), ("e/.wh..wh..opq", b""), ("e/y", b"4")),
    ]
    image = read_archive(store, write_image(tmp_path / "image.tar", layers, config={"Env": ["A=b"]}))

    tree = Tree([store.layers / layer for layer in image.layers])
    blob = layer_blob(store, image.layers[0], compression=None, epoch=0)

    assert [entry.path for entry in tree.walk(tree.root)] == ["d", "d/b", "e", "e/y"]
    assert image.config["config"] == {"Env": ["A=b"]}
    assert blob is not None and blob.digest == f"sha256:{hashlib.sha256(layers[0]).hexdigest()}"


def test_a_layer_that_came_packed_in_two_ways_goes_out_as_each_image_had_it(
    tmp_path: Path, store: Store
) -> None:
    """Whichever was first, and whatever was pruned between: the blob is of the image, not of the cache."""
    layer = _tar(("a", b"1" * 1000))

    def image(name: str, blob: bytes) -> Path:
        kind = "application/vnd.oci.image"
        config = json.dumps({"rootfs": {"diff_ids": [_sha(layer)]}, "config": {}}).encode()
        row = {"mediaType": f"{kind}.layer.v1.tar+gzip", "digest": _sha(blob), "size": len(blob)}
        manifest = json.dumps({"config": {"digest": _sha(config)}, "layers": [row]}).encode()
        index = json.dumps({"manifests": [{"digest": _sha(manifest)}]}).encode()
        members = {f"blobs/sha256/{_sha(data)[7:]}": data for data in (manifest, config, blob)}
        with tarfile.open(tmp_path / name, "w") as tar:
            for path, data in {"index.json": index, **members}.items():
                info = tarfile.TarInfo(path)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return tmp_path / name

    blobs = [gzip.compress(layer, level, mtime=0) for level in (1, 9)]
    came = [read_archive(store, image(f"{number}.tar", blob)) for number, blob in enumerate(blobs)]

    out = [layer_blob(store, one.layers[0], compression=None, epoch=0) for one in came]
    assert [blob and blob.digest for blob in out] == [_sha(blob) for blob in blobs]


def _sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_what_is_written_can_be_read_and_is_the_same_every_time(tmp_path: Path, store: Store) -> None:
    base = read_archive(store, write_image(tmp_path / "base.tar", [_tar(("a", b"1"))], config={}))
    layers = (*base.layers, store.add_layer(_fill(store.scratch(), ["b"])))
    image = Image(layers=layers, config=base.config)

    def write(name: str) -> bytes:
        manifest, config, blobs = manifest_of(
            store, image, compression="Gzip", docker=False, epoch=3600, comments=["withExec make"]
        )
        built = Built(manifest=manifest, config=config, layers=tuple(blobs), platform={"os": "linux"})
        write_archive(store, tmp_path / name, [built], 3600)
        return manifest

    manifest = write("one.tar")
    write("two.tar")
    other = Store(tmp_path / "other")
    back = read_archive(other, tmp_path / "one.tar")

    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert back.digest == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    assert back.config["created"] == "1970-01-01T01:00:00Z"
    assert [row["created_by"] for row in back.config["history"]] == ["import", "withExec make"]
    assert len(back.config["history"]) == len(back.config["rootfs"]["diff_ids"]) == 2
    other.close()


def test_docker_media_types_are_docker_s(tmp_path: Path, store: Store) -> None:
    layer = store.add_layer(_fill(store.scratch(), ["b"]))

    manifest, _, _ = manifest_of(
        store, Image(layers=(layer,), config={}), compression=None, docker=True, epoch=0, comments=["x"]
    )

    parsed: dict[str, Any] = json.loads(manifest)
    assert parsed["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert parsed["layers"][0]["mediaType"] == "application/vnd.docker.image.rootfs.diff.tar.gzip"


def test_a_damaged_image_is_refused(tmp_path: Path, store: Store) -> None:
    whole = write_image(tmp_path / "image.tar", [_tar(("a", b"1" * 1000))], config={})
    whole.write_bytes(whole.read_bytes().replace(b"1" * 1000, b"2" * 1000))

    with pytest.raises(BadInput, match="damaged"):
        read_archive(store, whole)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no tar at all" * 100, "not a tar"), (_tar(("x", b"y")), "neither index.json nor manifest.json")],
)
def test_what_is_no_image_is_refused(tmp_path: Path, store: Store, content: bytes, said: str) -> None:
    (tmp_path / "file.tar").write_bytes(content)

    with pytest.raises(BadInput, match=said):
        read_archive(store, tmp_path / "file.tar")


def test_a_layer_cannot_write_outside_of_its_folder(tmp_path: Path, store: Store) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("door")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
        info = tarfile.TarInfo("door/stolen")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))

    with suppress(BadInput):  # tar refuses the second entry
        read_archive(store, write_image(tmp_path / "image.tar", [buffer.getvalue()], config={}))

    assert list(outside.iterdir()) == []


def test_what_docker_save_writes_is_read_too(tmp_path: Path, store: Store) -> None:
    layer = _tar(("a", b"1"))
    config = {
        "rootfs": {"diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "config": {"User": "u"},
    }
    index = [{"Config": "c.json", "Layers": ["l.tar"], "RepoTags": ["x:1"]}]
    archive = tmp_path / "saved.tar"
    archive.write_bytes(
        _tar(
            ("manifest.json", json.dumps(index).encode()),
            ("c.json", json.dumps(config).encode()),
            ("l.tar", layer),
        )
    )

    image = read_archive(store, archive)

    assert image.config["config"] == {"User": "u"}
    assert Tree([store.layers / image.layers[0]]).read("a") == b"1"

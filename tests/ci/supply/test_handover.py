"""What one half of a ship leaves to the other: read back it is the same, altered it is refused."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_folder import IMAGES, edit, made_folder, named_anew
from oci import layer, write_image

from ci.errors import BadInput
from ci.registry import artifact, digest_of
from ci.registry.content import IMAGE_INDEX, IMAGE_MANIFEST
from ci.supply.handover import MANIFEST, take


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made_folder(tmp_path / "made")
    return tmp_path / "made"


def refused(folder: Path, said: str, digest: str | None = None) -> BadInput:
    with pytest.raises(BadInput, match=said) as caught:
        take(folder, images=IMAGES, digest=digest)
    place = caught.value.place
    assert place is not None and place.file.is_relative_to(folder) and caught.value.hint
    return caught.value


def test_what_was_left_is_taken(folder: Path) -> None:
    taken = take(folder, images=IMAGES, digest=digest_of((folder / MANIFEST).read_bytes()))
    assert [image.said.name for image in taken.images] == list(IMAGES)
    assert [image.bundle.digest for image in taken.images] == [one.digest for one in taken.said.images]
    assert json.loads(taken.images[0].sbom) == {"bomFormat": "CycloneDX"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda said: said.update(version=2), "version"),
        (lambda said: said.update(run="echo"), "unknown key 'run'"),
        (lambda said: said.pop("commit"), "commit: is missing"),
        (lambda said: said["images"][0].update(archive="12"), r"images\[0\].archive: a whole number"),
        (lambda said: said["images"][0].update(archive=-1), r"images\[0\].archive: at least 0"),
        (lambda said: said["images"][0].update(archive=2**50), r"images\[0\].archive: at most"),
        (lambda said: said["images"][0].update(name="../etc"), r"images\[0\].name: this is not how"),
        (lambda said: said["images"][0].update(digest="sha512:ab"), r"images\[0\].digest: this is not how"),
        (
            lambda said: said["images"][0]["findings"].update(size=2**40),
            r"images\[0\].findings.size: at most",
        ),
        (lambda said: said["maker"].update(by="a\nb"), "maker.by: this is not how"),
        (lambda said: said["maker"].update(run="\x1b[31mx"), "maker.run: this is not how"),
        (lambda said: said.update(engine="x" * 500), "engine"),
        (lambda said: said.update(fault=2), "fault: at most 1"),
        (lambda said: said["images"][0]["tests"].update(failed=1), "1 passed, 1 failed"),
        (lambda said: said["images"][0]["tests"].update(passed=0), "0 passed, 0 failed"),
        (lambda said: said["images"][0]["tests"].update(coverage=1e9), "coverage"),
        (lambda said: said["images"].pop(), "it has fastapi-backend; a release is"),
        (
            lambda said: said["images"].append(said["images"][0]),
            "it has fastapi-backend, livekit-agent, fast",
        ),
        (
            lambda said: said["images"][0].update(name="releases"),
            "it has releases, livekit-agent; a release is",
        ),
        (lambda said: said.update(images=[]), "images: at least 1"),
        (lambda said: said["images"].extend(said["images"] * 40), "images: at most 32"),
    ],
)
def test_a_manifest_that_is_none_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit(folder, change)
    refused(folder, said)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"{}", b"\xff", b" " * 2**21, b"null", b"NaN"])
def test_a_manifest_that_cannot_be_read_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    refused(folder, r"manifest\.json: (it is no manifest|it has more than)")


@pytest.mark.parametrize("name", ["manifest.json", "images/livekit-agent.tar", "reports/chart/findings.json"])
def test_what_is_not_there_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, f"{name}: it is not there")


@pytest.mark.parametrize(
    "name",
    [
        "reports/chart/findings.json",
        f"reports/{IMAGES[0]}/findings.json",
        f"reports/{IMAGES[1]}/sbom.cdx.json",
    ],
)
@pytest.mark.parametrize("more", [b"x", b""])
def test_a_document_that_was_altered_is_named(folder: Path, name: str, more: bytes) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content + more if more else content[:-1])
    refused(folder, rf"{name}: (its bytes are not those of sha256:|it has more than)")


def test_a_scan_of_another_image_is_no_scan_of_this_one(folder: Path) -> None:
    other = (folder / f"reports/{IMAGES[1]}/findings.json").read_bytes()
    (folder / f"reports/{IMAGES[0]}/findings.json").write_bytes(other)
    edit(folder, lambda said: said["images"][0].update(findings=said["images"][1]["findings"]))
    refused(folder, f"reports/{IMAGES[0]}/findings.json: it is of sha256:")


def test_a_scan_of_manifests_is_no_scan_of_an_image(folder: Path) -> None:
    file = folder / "reports/chart/findings.json"
    content = json.dumps(json.loads(file.read_text()) | {"of": "image"}).encode()
    file.write_bytes(content)
    said = {"digest": digest_of(content), "size": len(content)}
    edit(folder, lambda document: document["chart"].update(findings=said))
    refused(folder, "it is a scan of an image, not of manifests")


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_each_byte_of_a_layer_counts(folder: Path) -> None:
    file = folder / f"images/{IMAGES[0]}.tar"
    with tarfile.open(file) as tar:
        layers = [
            one
            for one in tar
            if one.name.startswith("blobs/") and tar.extractfile(one).read(2) == b"\x1f\x8b"
        ]  # type: ignore[union-attr]
    flip(file, layers[0].offset_data + layers[0].size - 1)
    refused(folder, f"images/{IMAGES[0]}.tar: the bytes of sha256:.* have another digest")


def test_another_images_tarball_is_not_this_ones(folder: Path) -> None:
    one, two = (folder / f"images/{name}.tar" for name in IMAGES)
    one.unlink()
    one.write_bytes(two.read_bytes())
    edit(folder, lambda said: said["images"][0].update(archive=two.stat().st_size))
    refused(folder, "it is sha256:.*; manifest.json says sha256:")


def written(file: Path, manifest: dict[str, Any], *blobs: bytes) -> str:
    """An OCI layout of any manifest; returns its digest."""
    raw = json.dumps(manifest).encode()
    root = {"mediaType": IMAGE_MANIFEST, "digest": digest_of(raw), "size": len(raw)}
    files = {
        "oci-layout": b"{}",
        "index.json": json.dumps({"mediaType": IMAGE_INDEX, "manifests": [root]}).encode(),
    }
    files |= {f"blobs/sha256/{digest_of(one)[7:]}": one for one in (raw, *blobs)}
    file.unlink()
    with tarfile.open(file, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return digest_of(raw)


def named(content: bytes, kind: str = "x") -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(content), "size": len(content)}


@pytest.mark.parametrize(
    ("config", "layers", "said"),
    [
        (b"{}", 1, "its config is not that of an image"),
        (b"[" * 100_000, 1, "its config is not that of an image"),
        (b'{"rootfs": {"type": "layers", "diff_ids": []}}', 1, "does not name a content for each layer"),
        (b'{"rootfs": {"type": "layers", "diff_ids": 3}}', 1, "its config is not that of an image"),
        (b'{"rootfs": {"type": "layers", "diff_ids": []}}', 0, "up to 127 layers"),
        (b'{"rootfs": {"type": "layers", "diff_ids": []}}', 500, "up to 127 layers"),
        (b" " * (5 * 2**20), 1, "its config has 5242880 bytes, more than"),
    ],
)
def test_what_is_no_image_is_not_pushed(folder: Path, config: bytes, layers: int, said: str) -> None:
    manifest = {"mediaType": IMAGE_MANIFEST, "config": named(config), "layers": [named(b"layer")] * layers}
    named_anew(folder, written(folder / f"images/{IMAGES[0]}.tar", manifest, config, b"layer"))
    refused(folder, said)


def test_a_signature_in_an_images_place_is_not_pushed(folder: Path) -> None:
    raw = artifact(layers=(("application/x", b"signature", {}),), artifact_type="application/x").root.raw
    digest = written(folder / f"images/{IMAGES[0]}.tar", json.loads(raw), b"{}", b"signature")
    named_anew(folder, digest)
    refused(folder, "it is not one image of one platform")


def test_two_images_in_an_images_place_are_not_pushed(folder: Path) -> None:
    file = folder / f"images/{IMAGES[0]}.tar"
    file.unlink()
    named_anew_digest = write_image(file, layer(a="1"), nested=True)
    named_anew(folder, named_anew_digest)
    assert take(folder, images=IMAGES).images[0].bundle.digest == named_anew_digest
    with tarfile.open(file, "a") as tar:  # a file that nothing names is not looked at, and goes nowhere
        member = tarfile.TarInfo("blobs/sha256/" + "0" * 64)
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    named_anew(folder, named_anew_digest)
    assert len(take(folder, images=IMAGES).images[0].bundle.blobs) == 2

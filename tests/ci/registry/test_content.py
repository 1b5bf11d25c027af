from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oci import layer, write_image

from ci.errors import BadInput
from ci.registry import Blob, Descriptor, artifact, digest_of, open_archive, parse_manifest
from ci.registry.content import IMAGE_INDEX, IMAGE_MANIFEST


def test_an_archive_gives_the_very_bytes_of_its_blobs(tmp_path: Path) -> None:
    first, second = layer(a="1"), layer(b="2" * 3_000_000)
    digest = write_image(tmp_path / "image.tar", first, second)

    bundle = open_archive(tmp_path / "image.tar")

    assert bundle.digest == digest == digest_of(bundle.root.raw)
    contents = {blob.descriptor.digest: blob.read() for blob in bundle.blobs}
    assert contents[digest_of(first)] == first
    assert contents[digest_of(second)] == second
    assert all(digest_of(content) == at for at, content in contents.items())
    assert bundle.size == sum(map(len, contents.values()))


def test_an_index_comes_after_its_manifests(tmp_path: Path) -> None:
    digest = write_image(tmp_path / "image.tar", layer(a="1"), nested=True)
    bundle = open_archive(tmp_path / "image.tar")
    assert bundle.digest == digest
    assert [one.descriptor.media_type for one in bundle.manifests] == [IMAGE_MANIFEST, IMAGE_INDEX]
    assert len(bundle.blobs) == 2


@given(data=st.data())
def test_any_part_of_a_blob_can_be_read_from_file_or_memory(data: st.DataObject) -> None:
    content = bytes(range(256)) * 9000  # more than two pieces
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(0, len(content) + 10))
    descriptor = Descriptor(media_type="x/y", digest=digest_of(content), size=len(content))
    blob = Blob(descriptor=descriptor, source=content)
    assert b"".join(blob.chunks(start, stop)) == content[start:stop]


def test_a_part_of_a_blob_in_a_file_starts_at_its_offset(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before" + b"0123456789" + b"after")
    descriptor = Descriptor(media_type="x/y", digest=digest_of(b"0123456789"), size=10)
    blob = Blob(descriptor=descriptor, source=tmp_path / "file", offset=6)
    assert blob.read() == b"0123456789"
    assert b"".join(blob.chunks(3, 7)) == b"3456"


@pytest.mark.parametrize("keep", [0, 100, 511, 5000, -1, -1024])
def test_a_truncated_archive_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "image.tar"
    write_image(path, b"z" * 20_000)
    whole = path.read_bytes()
    end = whole.rindex(b"z" * 10)  # tar pads the end with zeros, which nobody misses
    path.write_bytes(whole[: keep if keep >= 0 else end + keep])
    with pytest.raises(BadInput, match=r"image\.tar"):
        open_archive(path)


def test_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    write_image(path, layer(a="1"))
    path.write_bytes(path.read_bytes().replace(b"tar+gzip", b"tar+gzjp"))
    with pytest.raises(BadInput, match="another digest"):
        open_archive(path)


def test_a_missing_archive_and_a_text_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read the image"):
        open_archive(tmp_path / "none.tar")
    (tmp_path / "text.tar").write_text("hello " * 500)
    with pytest.raises(BadInput, match="not a whole OCI image"):
        open_archive(tmp_path / "text.tar")


def test_an_artifact_has_the_same_digest_each_time_and_names_its_subject() -> None:
    subject = Descriptor(
        media_type=IMAGE_MANIFEST, digest=digest_of(b"s"), size=1, annotations={"not": "kept"}
    )

    def make() -> str:
        return artifact(
            artifact_type="application/vnd.va.test",
            layers=(("text/plain", b"hello", {"title": "x"}),),
            subject=subject,
            annotations={"b": "2", "a": "1"},
        ).digest

    assert make() == make()
    bundle = artifact(artifact_type="t/x", layers=(), subject=subject)
    assert bundle.root.subject == Descriptor(media_type=IMAGE_MANIFEST, digest=digest_of(b"s"), size=1)
    assert bundle.root.artifact_type == "t/x"
    assert [blob.read() for blob in bundle.blobs] == [b"{}"]


@pytest.mark.parametrize(
    ("raw", "said", "what"),
    [
        (b"nonsense", None, "not JSON"),
        (b"[]", None, "the document"),
        (json.dumps({"layers": [{"digest": "x"}]}).encode(), None, "layers.0"),
        (json.dumps({"mediaType": IMAGE_INDEX}).encode(), IMAGE_MANIFEST, "says of itself"),
        (json.dumps({"mediaType": "text/html"}).encode(), None, "not a manifest type"),
    ],
)
def test_what_is_no_manifest_is_a_value_error(raw: bytes, said: str | None, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_manifest(raw, said)

"""Between the job that makes and the job that signs, somebody exchanges an image, and mends the manifest
after it.

Build, test and push were one job: what it pushed was what lay in its folders, whoever had written there.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from made_folder import IMAGES, edit, named_anew
from oci import layer, write_image
from ship_world import World, run, ship_world

from ci.errors import BadInput
from pipelines.make import Made


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.delenv("GITHUB_WORKFLOW_REF", raising=False)
    return ship_world(tmp_path, monkeypatch)


@pytest.fixture
def made(world: World, tmp_path: Path) -> Made:
    return run(world.make(tmp_path / "made"))


def refused(world: World, made: Made, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        run(world.publish(made.folder, made.digest))
    assert not world.server.manifests and not world.server.blobs and not world.releases


def test_an_exchanged_image_is_found(world: World, made: Made) -> None:
    file = made.folder / f"images/{IMAGES[0]}.tar"
    file.unlink()
    write_image(file, layer(evil="1"))
    refused(world, made, f"images/{IMAGES[0]}.tar: it ")


def test_a_manifest_that_was_mended_after_it_is_found_by_its_digest(world: World, made: Made) -> None:
    file = made.folder / f"images/{IMAGES[0]}.tar"
    file.unlink()
    named_anew(made.folder, write_image(file, layer(evil="1")))
    refused(world, made, r"manifest\.json: its digest is sha256:.*, not sha256:.*it was altered")


def test_a_failed_test_that_was_turned_into_a_pass_is_found(world: World, made: Made) -> None:
    edit(made.folder, lambda said: said["images"][0]["tests"].update(passed=99))
    refused(world, made, "its digest is")


def test_an_image_under_the_name_of_the_releases_is_not_pushed(world: World, made: Made) -> None:
    """Signed there, it would have been a release."""
    (made.folder / f"images/{IMAGES[0]}.tar").rename(made.folder / "images/releases.tar")
    (made.folder / f"reports/{IMAGES[0]}").rename(made.folder / "reports/releases")
    edit(made.folder, lambda said: said["images"][0].update(name="releases"))
    with pytest.raises(BadInput, match="it has releases, livekit-agent; a release is fastapi-backend"):
        run(world.publish(made.folder))
    assert not world.server.manifests

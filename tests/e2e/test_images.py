"""Our images as they are shipped: what is in them, what is not, and that they come out the same each time."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import dagger
import pytest

from ci.engine import session
from ci.registry import Bundle, open_archive
from ci.reporting import SilentReporter
from pipelines.build import BuiltImage, build, build_image
from pipelines.images import IMAGES, ImageSpec, PythonImage

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root"),
]


@pytest.fixture(scope="module")
def built() -> dict[str, BuiltImage]:
    async def build_all() -> tuple[BuiltImage, ...]:
        async with session(SilentReporter()) as (client, _):
            return await build(client, reporter=SilentReporter())

    return {image.name: image for image in asyncio.run(build_all())}


@pytest.fixture(params=IMAGES, ids=lambda image: image.name)
def image(request: pytest.FixtureRequest, built: dict[str, BuiltImage]) -> tuple[ImageSpec, Bundle]:
    return request.param, open_archive(built[request.param.name].archive)


def config(bundle: Bundle) -> dict[str, Any]:
    wanted = bundle.root.config
    assert wanted is not None
    (blob,) = (blob for blob in bundle.blobs if blob.descriptor.digest == wanted.digest)
    document: dict[str, Any] = json.loads(blob.read())
    return document


def members(bundle: Bundle) -> list[tarfile.TarInfo]:
    found = []
    for layer in bundle.root.layers:
        (blob,) = (blob for blob in bundle.blobs if blob.descriptor.digest == layer.digest)
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob.read()))) as tar:
            found += tar.getmembers()
    return found


def test_it_runs_as_nobody_special_and_says_what_it_is(image: tuple[ImageSpec, Bundle]) -> None:
    spec, bundle = image
    run = config(bundle)["config"]
    assert run["User"] == "10001:10001"
    assert run["Entrypoint"] == list(spec.entrypoint)
    assert set(run.get("ExposedPorts") or ()) == {f"{port}/tcp" for port in spec.ports}
    labels = {key.removeprefix("org.opencontainers.image."): text for key, text in run["Labels"].items()}
    assert labels["title"] == spec.name
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["created"])


def test_no_secret_and_no_installer_setting_stays(image: tuple[ImageSpec, Bundle]) -> None:
    names = {variable.partition("=")[0] for variable in config(image[1])["config"]["Env"]}
    assert names <= {"PATH", "LANG", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}


def test_no_compiler_installer_cache_or_test_is_in_it(image: tuple[ImageSpec, Bundle]) -> None:
    for member in members(image[1]):
        if member.isdir():
            continue
        path = f"/{member.name.removeprefix('./').lstrip('/')}"
        name = path.rsplit("/", 1)[1]
        assert not re.fullmatch(
            r"(x86_64-linux-gnu-)?(gcc|g\+\+|cc|c\+\+|ld|as|make|node|npm|npx)(-\d+)?", name
        ), path
        assert not re.search(r"/(uv|pip|pip3|apt-get|apt)$", path), path
        caches = r"^/(var/lib/apt/lists|var/cache|root/\.cache|root/\.npm|app/tests|work)/."
        assert not re.search(caches, path), path
        assert not (member.isfile() and member.mode & 0o6000), f"{path} lends rights"


def test_all_time_stamps_are_the_same(image: tuple[ImageSpec, Bundle]) -> None:
    assert len({member.mtime for member in members(image[1])}) == 1


def test_python_images_stand_on_the_same_first_layer(built: dict[str, BuiltImage]) -> None:
    names = [spec.name for spec in IMAGES if isinstance(spec, PythonImage)]
    assert len(names) == 3
    assert len({open_archive(built[name].archive).root.layers[0].digest for name in names}) == 1


def test_the_source_is_the_last_layer_and_small(image: tuple[ImageSpec, Bundle]) -> None:
    spec, bundle = image
    layers, size = (3, 50_000) if isinstance(spec, PythonImage) else (2, 500_000)
    assert len(bundle.root.layers) == layers
    assert bundle.root.layers[-1].size < size


def test_the_guard_brings_next_to_nothing(built: dict[str, BuiltImage]) -> None:
    bundle = open_archive(built["canary-guard"].archive)
    assert sum(layer.size for layer in bundle.root.layers[1:]) < 2**20
    # No package of anybody's is in it: its own source, and an empty virtual environment.
    assert not [member.name for member in members(bundle) if ".dist-info/" in member.name]


def test_the_page_brings_the_name_and_licence_of_each_package_in_it(built: dict[str, BuiltImage]) -> None:
    files = {member.name.lstrip("./") for member in members(open_archive(built["web-client"].archive))}
    for name in ("livekit-client", "@livekit/protocol"):
        assert f"app/packages/{name}/package.json" in files
        assert any(file.startswith(f"app/packages/{name}/LICENSE") for file in files)
    assert not any("vitest" in file or "esbuild" in file for file in files)


def test_a_fault_changes_the_digest_of_the_api_alone(built: dict[str, BuiltImage]) -> None:
    async def faulty() -> tuple[BuiltImage, ...]:
        async with session(SilentReporter()) as (client, _):
            return await build(client, reporter=SilentReporter(), fault=0.05)

    changed = {image.name: image for image in asyncio.run(faulty())}
    api, was = (open_archive(images["fastapi-backend"].archive) for images in (changed, built))
    assert api.digest != was.digest and api.root.layers == was.root.layers
    assert "FAULT_ERROR_RATE=0.05" in config(api)["config"]["Env"]
    assert changed["livekit-agent"].digest == built["livekit-agent"].digest


def test_from_an_empty_cache_the_digest_is_the_same(
    built: dict[str, BuiltImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built again from nothing but the base images' recipes and the locks: one image of each kind."""

    async def again() -> list[BuiltImage]:
        async with session(SilentReporter()) as (client, _):
            assert isinstance(client, dagger.Client)
            chosen = [spec for spec in IMAGES if spec.name != "livekit-agent"]
            return [await build_image(client, spec, reporter=SilentReporter()) for spec in chosen]

    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    for one in asyncio.run(again()):
        assert one.digest == built[one.name].digest

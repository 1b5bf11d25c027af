from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from ci.build import base_image
from ci.build.base_image import Recipe, debian_lines, oci_archive, root_archive
from ci.errors import StepFailed
from ci.reporting import SilentReporter


def rootfs(target: Path, text: bytes = b"hello") -> Path:
    with tarfile.open(target, "w") as tar:
        member = tarfile.TarInfo("etc/motd")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    return target


def blobs(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_an_archive_is_an_oci_layout_whose_digests_are_true(tmp_path: Path) -> None:
    source = rootfs(tmp_path / "rootfs.tar")
    oci_archive(source, tmp_path / "image.tar")
    inside = blobs(tmp_path / "image.tar")
    assert json.loads(inside["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    for name, content in inside.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(content).hexdigest() == name.rsplit("/", 1)[1]

    def blob(descriptor: dict[str, object]) -> bytes:
        content = inside["blobs/" + str(descriptor["digest"]).replace(":", "/")]
        assert len(content) == descriptor["size"]
        return content

    manifest = json.loads(blob(json.loads(inside["index.json"])["manifests"][0]))
    (layer,) = manifest["layers"]
    assert blob(layer) == source.read_bytes()
    assert json.loads(blob(manifest["config"]))["rootfs"]["diff_ids"] == [layer["digest"]]


def test_the_same_root_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        oci_archive(rootfs(tmp_path / "rootfs.tar"), tmp_path / name)
        os.utime(tmp_path / "rootfs.tar", (1, 1))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


DEB822 = """\
Types: deb
# a comment
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb deb-src
URIs: http://mirror.test/security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.test/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://docker.test/linux/debian
Suites: bookworm
Components: stable
"""

ONE_LINE = """\
# deb http://commented.test/debian bookworm main
deb http://mirror.test/debian bookworm main contrib
deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm-updates main
deb-src http://mirror.test/debian bookworm main
deb http://postgres.test/pub bookworm-pgdg main
deb http://mirror.test/debian trixie main
"""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            DEB822,
            [
                "deb http://mirror.test/debian bookworm main",
                "deb http://mirror.test/debian bookworm-updates main",
                "deb http://mirror.test/security bookworm-security main",
            ],
        ),
        (
            ONE_LINE,
            [
                "deb http://mirror.test/debian bookworm main",
                "deb http://mirror.test/debian bookworm-updates main",
            ],
        ),
        ("", []),
    ],
    ids=["deb822", "one-line", "empty"],
)
def test_only_debian_itself_is_taken_from_apts_sources(text: str, lines: list[str]) -> None:
    assert debian_lines(text) == lines


class World:
    """A recipe, and an mmdebstrap that only writes down that it ran."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.program = folder / "mmdebstrap"
        self.succeed()
        (folder / "packages").write_text("python3  # the language\n\n# nothing\nadduser\n")
        (folder / "clean.sh").write_text("#!/bin/sh\n")
        monkeypatch.setenv("VA_CACHE", str(folder / "cache"))
        monkeypatch.setenv("VA_DEBIAN_SOURCES", str(folder / "packages"))
        monkeypatch.setattr(base_image.tools, "path", lambda _: self.program)

        async def ensure(*_: object) -> None:
            pass

        monkeypatch.setattr(base_image.tools, "ensure", ensure)

    @property
    def recipe(self) -> Recipe:
        return Recipe(name="base", packages=self.folder / "packages", customize=self.folder / "clean.sh")

    def succeed(self) -> None:
        script = f"""#!/bin/sh
echo run >>{self.runs}
sleep 0.05
for word; do case $word in */rootfs.tar) tar -cf "$word" -T /dev/null;; esac; done
for word; do case $word in *dpkg-query*) : >"${{word##*>}}";; esac; done
"""
        self.program.write_text(script)
        self.program.chmod(0o755)

    def fail(self) -> None:
        self.program.write_text("#!/bin/sh\necho E: no network >&2\nexit 1\n")

    def make(self) -> Path:
        return asyncio.run(root_archive(self.recipe, SilentReporter()))

    def count(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_a_recipe_is_its_packages_without_comments(world: World) -> None:
    assert world.recipe.names() == ("adduser", "python3")


def test_an_archive_is_made_once(world: World) -> None:
    assert world.make() == world.make()
    assert world.count() == 1


def test_two_images_at_once_share_one(world: World) -> None:
    async def twice() -> list[Path]:
        return await asyncio.gather(*(root_archive(world.recipe, SilentReporter()) for _ in range(2)))

    one, other = asyncio.run(asyncio.wait_for(twice(), 20))
    assert one == other and world.count() == 1


def test_another_package_or_script_makes_another(world: World) -> None:
    first = world.make()
    world.recipe.packages.write_text("python3\n")
    second = world.make()
    world.recipe.customize.write_text("#!/bin/sh\ntrue\n")
    third = world.make()
    assert len({first, second, third}) == 3 and world.count() == 3


def test_after_a_week_it_is_made_again_and_kept_if_that_fails(world: World) -> None:
    archive = world.make()
    os.utime(archive, (1, 1))
    world.fail()
    assert world.make() == archive
    world.succeed()
    world.make()
    assert world.count() == 2


def test_a_failure_leaves_nothing_behind(world: World) -> None:
    world.fail()
    with pytest.raises(StepFailed, match="no network"):
        world.make()
    left = [file.name for file in (world.folder / "cache/base").iterdir()]
    assert left == ["base.lock"]


def test_what_a_killed_run_left_is_cleared(world: World) -> None:
    draft = world.folder / "cache/base/.draft-base-dead"
    draft.mkdir(parents=True)
    world.make()
    assert not draft.exists()


def test_only_the_newest_archives_are_kept(world: World) -> None:
    for number in range(6):
        world.recipe.packages.write_text(f"package{number}\n")
        os.utime(world.make(), (1e9 + number, 1e9 + number))
    assert len(list((world.folder / "cache/base").glob("base-*.tar"))) == 3

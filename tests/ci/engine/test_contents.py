"""Changes of paths that are in mounts: what they change, what they leave, and what they refuse."""

from __future__ import annotations

import os
from typing import Any

import dagger
import pytest

from ci.errors import BadInput

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root")


def _source(client: dagger.Client) -> dagger.Directory:
    return client.directory().with_new_file("kept", "k").with_new_file("deep/old.txt", "o")


async def _shown(container: dagger.Container, path: str = "/src") -> tuple[list[str], list[str]]:
    """What is in the mount, and what the image has there."""
    below = container.rootfs().directory(path.lstrip("/")) if await _has(container, path) else None
    return await container.directory(path).glob("**"), await below.glob("**") if below else []


async def _has(container: dagger.Container, path: str) -> bool:
    return await container.rootfs().exists(path.lstrip("/"))


def test_every_change_below_a_mounted_folder_is_of_that_folder_only(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        source = _source(client)
        mounted = client.container().with_mounted_directory("/src", source)
        file = client.file("seven.txt", "7")
        changed = (
            mounted.with_workdir("/src/deep")
            .with_new_file("new.txt", "n", permissions=0o600)
            .with_file("/src/a/copied", file)
            .with_files("/src/b", [file])
            .with_directory("/src/c", client.directory().with_new_file("x", ""))
            .with_symlink("../kept", "link")
            .without_file("old.txt")
        )
        return (
            *await _shown(changed),
            await changed.file("/src/deep/new.txt").contents(),
            (await changed.stat("/src/deep/new.txt").permissions()),
            await changed.file("/src/deep/link").contents(),
            await source.glob("**"),
            await mounted.directory("/src").glob("**"),
        )

    mount, image, text, mode, linked, source, before = run(pipeline)
    assert mount == ["a/", "a/copied", "b/", "b/seven.txt", "c/", "c/x", "deep/", "deep/link",
                     "deep/new.txt", "kept"]  # fmt: skip
    assert (image, text, mode, linked) == ([], "n", 0o600, "k")
    assert source == before == ["deep/", "deep/old.txt", "kept"]


def test_a_folder_is_put_into_a_mounted_one_at_its_very_path(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        more = client.directory().with_new_file("more", "m").with_new_file("no.log", "")
        base = client.container().with_directory("/src", client.directory().with_new_file("hidden", ""))
        return await _shown(
            base.with_mounted_directory("/src", _source(client)).with_directory(
                "/src", more, exclude=["*.log"]
            )
        )

    assert run(pipeline) == (["deep/", "deep/old.txt", "kept", "more"], ["hidden"])


def test_part_of_a_folder_that_is_mounted_changes_as_a_part(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        mounted = client.container().with_mounted_directory("/m", _source(client).directory("deep"))
        changed = mounted.with_new_file("/m/in/new", "1").without_directory("/m/old.txt")
        return await changed.directory("/m").glob("**"), await changed.mounts()

    assert run(pipeline) == (["in/", "in/new"], ["/m"])


def test_the_inner_of_two_mounts_takes_the_change(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        nested = (
            client.container()
            .with_mounted_directory("/o", _source(client))
            .with_mounted_directory("/o/deep", client.directory().with_new_file("i", ""))
            .with_new_file("/o/deep/j", "")
            .with_new_file("/o/deeper", "")
        )
        covered = nested.with_mounted_directory("/o", client.directory().with_new_file("last", ""))
        return (
            await nested.directory("/o/deep").entries(),
            await nested.without_mount("/o/deep").directory("/o").glob("**"),
            await covered.mounts(),
        )

    assert run(pipeline) == (["i", "j"], ["deep/", "deep/old.txt", "deeper", "kept"], ["/o"])


def test_a_change_of_a_mount_point_itself_takes_the_mount_away(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        base = client.container().with_new_file("/etc/app.conf", "of the image")
        mounted = base.with_mounted_file("/etc/app.conf", client.file("c", "mounted"))
        written = mounted.with_new_file("/etc/app.conf", "written")
        without = mounted.without_file("/etc/app.conf")
        folder = base.with_mounted_directory("/etc", client.directory()).without_directory("/etc")
        return (
            await mounted.file("/etc/app.conf").contents(),
            await written.file("/etc/app.conf").contents(),
            await written.rootfs().file("etc/app.conf").contents(),
            await written.mounts(),
            await without.exists("/etc/app.conf"),
            await folder.exists("/etc"),
            await folder.mounts(),
        )

    assert run(pipeline) == ("mounted", "written", "written", [], False, False, [])


def test_a_secret_is_in_nobody_s_way(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        secret = client.set_secret("s", "hush")
        mounted = client.container().with_mounted_secret("/run/s", secret)
        written = mounted.with_new_file("/run/s", "below").with_mounted_directory("/run", client.directory())
        return await written.rootfs().file("run/s").contents(), await written.mounts()

    assert run(pipeline) == ("below", ["/run/s", "/run"])


@pytest.mark.parametrize("kind", ["cache", "temp"])
def test_what_only_commands_reach_is_refused_in_one_line(run: Any, kind: str) -> None:
    async def pipeline(client: dagger.Client) -> None:
        volume = client.cache_volume("v")
        base = client.container()
        mounted = base.with_mounted_cache("/v", volume) if kind == "cache" else base.with_mounted_temp("/v")
        await mounted.with_new_file("/v/x", "").sync()

    with pytest.raises(BadInput, match=f"^/v/x: only a command changes what is in a mounted {kind}$"):
        run(pipeline)


def test_a_path_below_a_mounted_file_is_refused(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> None:
        mounted = client.container().with_mounted_file("/f", client.file("f", ""))
        await mounted.with_file("/f/x", client.file("x", "")).sync()

    with pytest.raises(BadInput, match="/f/x: /f is a file"):
        run(pipeline)

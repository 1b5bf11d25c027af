"""The unmodified SDK against the embedded session: everything that needs no container."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import dagger
import gql
import httpx
import pytest

from ci.engine import explained
from ci.engine.server import embedded
from ci.errors import BadInput, StepFailed
from ci.registry.platforms import own_platform
from ci.reporting import SilentReporter

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root")


def test_files_go_in_and_out(run: Any, tmp_path: Path) -> None:
    source = tmp_path / "work" / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "script").write_text("echo hi")
    (source / "deep" / "script").chmod(0o750)
    (source / "link").symlink_to("deep/script")

    async def pipeline(client: dagger.Client) -> list[str]:
        folder = client.host().directory("source").with_new_file("new/file", "text", permissions=0o600)
        await folder.export("out")
        return await folder.entries()

    assert run(pipeline) == ["deep/", "link", "new/"]
    out = tmp_path / "work" / "out"
    assert (out / "deep" / "script").stat().st_mode & 0o777 == 0o750
    assert (out / "link").readlink() == Path("deep/script")
    assert ((out / "new/file").read_text(), (out / "new/file").stat().st_mode & 0o777) == ("text", 0o600)


def test_a_folder_is_the_same_while_its_content_is(run: Any, tmp_path: Path) -> None:
    (tmp_path / "work" / "a").write_text("1")
    os.utime(tmp_path / "work" / "a", (1, 1))

    async def digest(client: dagger.Client) -> str:
        return await client.host().directory(".").digest()

    first = run(digest)
    os.utime(tmp_path / "work" / "a")
    assert run(digest) == first
    (tmp_path / "work" / "a").write_text("2")
    assert run(digest) != first


def test_directories_are_put_together(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        one = (
            client.directory()
            .with_new_file("a.py", "1")
            .with_new_file("b.txt", "2")
            .with_new_file("d/c.py", "3")
        )
        both = (
            client.directory()
            .with_directory("sub", one, include=["**/*.py"])
            .with_file("x", one.file("b.txt"))
        )
        return (
            await both.glob("**/*"),
            await one.without_file("a.py").without_directory("d").entries(),
            await one.filter(exclude=["*.py"]).entries(),
            await one.directory("d").file("c.py").contents(),
            await one.diff(one.with_new_file("b.txt", "changed").with_new_file("e", "5")).entries(),
            await one.file("b.txt").size(),
            await one.exists("d", expected_type=dagger.ExistsType.DIRECTORY_TYPE),
            await one.exists("nothing"),
            await one.with_symlink("b.txt", "s").file("s").contents(),
        )

    found, without, filtered, inner, changed, size, there, nothing, link = run(pipeline)
    assert found == ["sub/", "sub/a.py", "sub/d/", "sub/d/c.py", "x"]
    assert (without, filtered, inner, changed) == (["b.txt"], ["b.txt", "d/"], "3", ["b.txt", "e"])
    assert (size, there, nothing, link) == (1, True, False, "2")


def test_what_an_image_says_is_changed_without_running_anything(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> Any:
        base = (
            client.container()
            .with_env_variable("A", "1")
            .with_env_variable("B", "$A/${A}", expand=True)
            .with_workdir("/app")
            .with_workdir("sub")
            .with_user("app")
            .with_label("l", "v")
            .with_default_args(["serve"])
            .with_exposed_port(8000, description="http")
        )
        started = base.with_entrypoint(["/init"], keep_default_args=True)
        variables = [(await item.name(), await item.value()) for item in await base.env_variables()]
        ports = [
            (await port.port(), await port.protocol(), await port.description())
            for port in await base.exposed_ports()
        ]
        return (
            variables,
            await base.workdir(),
            await base.user(),
            await base.label("l"),
            await base.label("none"),
            await started.default_args(),
            await base.with_entrypoint(["/init"]).default_args(),
            await started.entrypoint(),
            ports,
            await base.platform(),
            [await label.name() for label in await base.labels()],
        )

    variables, workdir, user, label, none, kept, dropped, entrypoint, ports, platform, labels = run(pipeline)
    assert variables == [("A", "1"), ("B", "1/1")]
    assert (workdir, user, label, none) == ("/app/sub", "app", "v", None)
    assert (kept, dropped, entrypoint) == (["serve"], [], ["/init"])
    assert ports == [(8000, dagger.NetworkProtocol.TCP, "http")]
    assert str(platform).startswith("linux/") and labels == ["l"]


def test_syncing_and_awaiting_give_the_object_back(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> tuple[str, str]:
        folder = await client.directory().with_new_file("a", "1")
        again = await folder.file("a").sync()
        return await folder.file("a").contents(), await again.contents()

    assert run(pipeline) == ("1", "1")


def test_an_expected_error_leaves_the_session_as_ours(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> None:
        await client.host().directory("nowhere").sync()

    with pytest.raises(BadInput, match="nowhere is not a directory on this machine"):
        run(pipeline)


def test_an_error_among_several_is_found_in_its_group(run: Any) -> None:
    async def pipeline(client: dagger.Client) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.directory().file("missing").contents())
            tasks.create_task(asyncio.sleep(5))

    with pytest.raises(BadInput, match="missing: no such file"):
        run(pipeline)


def test_an_image_without_a_command_is_written_the_same_twice(run: Any, tmp_path: Path) -> None:
    async def pipeline(client: dagger.Client) -> None:
        for name in ("one.tar", "two.tar"):
            await (
                client.container()
                .with_new_file("/a", "1")
                .with_label("x", "y")
                .as_tarball(forced_compression=dagger.ImageLayerCompression.Gzip)
                .export(name)
            )

    run(pipeline)

    assert (tmp_path / "work/one.tar").read_bytes() == (tmp_path / "work/two.tar").read_bytes()


def _other_variant() -> dagger.Platform:
    """A name of this machine's platform with a variant that it does not say itself."""
    if os.uname().machine != "x86_64" or own_platform("linux/amd64/v2") is None:
        pytest.skip("this machine's platform has no variants")
    return dagger.Platform("linux/amd64/v2")


def test_an_image_for_variants_of_the_platform_is_an_index(run: Any, tmp_path: Path) -> None:
    variant = _other_variant()

    async def pipeline(client: dagger.Client) -> str:
        plain = client.container().with_new_file("/a", "1")
        other = client.container(platform=variant).with_new_file("/a", "2")
        await client.container().export("index.tar", platform_variants=[plain, other])
        await client.container().export("one.tar", platform_variants=[other])
        await plain.export("plain.tar")
        return await other.platform()

    assert run(pipeline) == "linux/amd64/v2"

    def top(name: str) -> Any:
        with tarfile.open(tmp_path / "work" / name) as tar:

            def blob(digest: str) -> Any:
                return json.load(tar.extractfile(f"blobs/{digest.replace(':', '/')}"))  # type: ignore[arg-type]

            (named,) = json.load(tar.extractfile("index.json"))["manifests"]  # type: ignore[arg-type]
            found = blob(named["digest"])
            for manifest in found.get("manifests", [found]):
                if "platform" in manifest:
                    assert len(blob(manifest["digest"])["layers"]) == 1
            return named, found

    named, index = top("index.tar")
    assert named["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert [item["platform"].get("variant") for item in index["manifests"]] == [None, "v2"]
    assert top("one.tar")[0]["platform"]["variant"] == "v2"
    assert top("plain.tar")[0]["digest"] == index["manifests"][0]["digest"]


def test_two_variants_of_one_platform_and_other_platforms_are_refused_by_name(run: Any) -> None:
    async def twice(client: dagger.Client) -> None:
        one = client.container().with_new_file("/a", "1")
        await one.as_tarball(platform_variants=[one.with_new_file("/b", "2")]).sync()

    async def other(client: dagger.Client) -> None:
        await client.container(platform=dagger.Platform("linux/s390x")).sync()

    with pytest.raises(BadInput, match="duplicate platform"):
        run(twice)
    with pytest.raises(BadInput, match="platform linux/s390x"):
        run(other)


def test_a_failed_command_is_explained_with_the_last_lines_that_it_printed() -> None:
    raw = {
        "message": "exit code: 2",
        "extensions": {
            "_type": "EXEC_ERROR",
            "cmd": ["make"],
            "exitCode": 2,
            "stdout": "",
            "stderr": "no rule",
        },
    }
    value = dagger._exceptions.QueryErrorValue(**raw)
    error = dagger.QueryError([value], gql.gql("{ version }"))

    assert isinstance(error, dagger.ExecError) and error.command == ["make"]
    told = explained(error)
    assert isinstance(told, StepFailed) and str(told) == "exit code: 2\nno rule"


def test_a_wrong_token_is_turned_away(tmp_path: Path) -> None:
    async def main() -> tuple[int, int]:
        async with embedded(SilentReporter(), store=tmp_path / "cache") as address:
            url = f"http://127.0.0.1:{address.port}/query"
            async with httpx.AsyncClient() as client:
                body = {"query": "{ version }"}
                wrong = await client.post(url, json=body, auth=("no", ""))
                right = await client.post(url, json=body, auth=(address.token, ""))
        return wrong.status_code, right.status_code

    assert asyncio.run(main()) == (401, 200)


@pytest.mark.e2e
def test_it_stands_in_for_the_dagger_cli(tmp_path: Path) -> None:
    cli = tmp_path / "dagger"
    cli.write_text(f'#!/bin/sh\nexec {sys.executable} -m ci.engine "$@"\n')
    cli.chmod(0o755)
    script = (
        "import asyncio, dagger\n"
        "async def main():\n"
        "    async with dagger.connection():\n"
        "        print(await dagger.dag.directory().with_new_file('a', 'it works').file('a').contents())\n"
        "asyncio.run(main())\n"
    )
    checkout = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "_EXPERIMENTAL_DAGGER_CLI_BIN": str(cli),
            "VA_CACHE": str(tmp_path / "cache"),
            "PYTHONPATH": str(checkout),
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.returncode) == ("it works\n", 0), done.stderr


def test_lines_of_a_file_end_where_a_newline_is(run: Any) -> None:
    text = "one\r\ntwo\x0b2\u2028\n\nfour\rno end"

    async def pipeline(client: dagger.Client) -> list[str]:
        file = client.file("f", text)
        asked = [(None, None), (1, None), (None, 1), (1, 1), (1, 2), (3, 5), (9, 1), (0, 0)]
        return [await file.contents(offset_lines=first, limit_lines=most) for first, most in asked]

    last = "four\rno end"
    two = "two\x0b2\u2028\n"
    assert run(pipeline) == [text, two + "\n" + last, "one\r\n", two, two + "\n", last, "", ""]


def test_what_is_asked_of_a_file_is_at_most_128_mib(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, or the lines that are asked for: few lines of a large file are an answer."""
    from ci.engine import files, tree

    assert tree.MOST_BYTES == 128 * 2**20
    monkeypatch.setattr(files, "MOST_BYTES", 2**20)
    monkeypatch.setattr(tree.Tree.read, "__defaults__", (2**20,))
    line = "x" * 1023 + "\n"
    (tmp_path / "work" / "fits").write_text(line * 1024)
    (tmp_path / "work" / "large").write_text(line * 1025)

    async def pipeline(client: dagger.Client) -> Any:
        fits, large = (client.host().file(name) for name in ("fits", "large"))
        with pytest.raises(dagger.QueryError, match="/large has more than"):
            await large.contents()
        with pytest.raises(dagger.QueryError, match="/large has more than"):
            await large.contents(limit_lines=1025)
        return await fits.contents() == line * 1024, await large.contents(offset_lines=1024)

    assert run(pipeline) == (True, line)

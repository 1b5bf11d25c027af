"""Small pipelines that both engines run, each returning plain facts; and a program that runs them all.

    python tests/conformance/cases.py FOLDER > facts.json

runs them in the Dagger session that the environment names (`dagger run …`, or a Dagger CLI). Only the SDK is
imported, so that a Python with another version of it can run this file too: an engine wants an SDK of its
age.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import posixpath
import sys
import tarfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagger
from tiny_image import write_tiny_image

__all__ = ["CASES", "facts", "prepare"]

Case = Callable[[dagger.Client, dagger.Container, Path], Awaitable[Any]]
CASES: dict[str, Case] = {}
_CASE_SECONDS = float(os.environ.get("VA_CONFORMANCE_SECONDS", "120"))


def case(function: Case) -> Case:
    """Register a case under its name."""
    CASES[function.__name__] = function
    return function


def prepare(folder: Path) -> Path:
    """What the cases read from this machine: the tiny image and a source tree."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_image(folder / "tiny.tar")
    files = {
        "source/main.py": "print('hi')\n",
        "source/notes.md": "notes\n",
        "source/sub/deep/data.txt": "data\n",
        "source/sub/keep.log": "kept\n",
        "source/sub/drop.log": "dropped\n",
        "source/build/out.bin": "built\n",
        "source/.gitignore": "*.log\n/build\n!keep.log\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "source/main.py").chmod(0o755)
    link = folder / "source/link"
    if not link.is_symlink():
        link.symlink_to("sub/deep/data.txt")
    return folder


async def facts(client: dagger.Client, folder: Path) -> dict[str, Any]:
    """Run every case; an error is a fact too. With the seconds that each took."""
    base = client.container().import_(client.host().file(str(folder / "tiny.tar")))
    found: dict[str, Any] = {}
    for name, function in CASES.items():
        start = time.monotonic()
        try:
            async with asyncio.timeout(_CASE_SECONDS):
                result = await function(client, base, folder)
        except (dagger.QueryError, TimeoutError) as error:
            result = {"error": type(error).__name__}
        print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr)
        found[name] = {"facts": result, "seconds": round(time.monotonic() - start, 3)}
    return found


async def _image(container: dagger.Container, folder: Path, name: str) -> dict[str, Any]:
    """The image as a tarball says it is: what its config runs, and every path with its owner, mode and
    content."""
    target = folder / f"{name}.tar"
    tarball = container.as_tarball(
        forced_compression=dagger.ImageLayerCompression.Gzip, media_types=dagger.ImageMediaTypes.OCIMediaTypes
    )
    await tarball.export(str(target))
    with tarfile.open(target) as tar:

        def blob(digest: str) -> Any:
            return tar.extractfile("blobs/" + digest.replace(":", "/"))

        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        manifest = json.load(blob(index["manifests"][0]["digest"]))
        config = json.load(blob(manifest["config"]["digest"]))
        tree: dict[str, Any] = {}
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=blob(layer["digest"])) as inner:
                _apply(tree, inner)
    target.unlink()
    busybox = {path for path in tree if path.startswith("bin/")}
    return {
        "media types": sorted({manifest["mediaType"], *(layer["mediaType"] for layer in manifest["layers"])}),
        "platform": [config["os"], config["architecture"]],
        "config": {key: value for key, value in config["config"].items() if value},
        "layers have diff ids": len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]),
        "tree": {path: fact for path, fact in sorted(tree.items()) if path not in busybox},
        "commands": len(busybox),
    }


def _apply(tree: dict[str, Any], layer: tarfile.TarFile) -> None:
    for member in layer:
        path = posixpath.normpath(member.name)
        folder, name = posixpath.split(path)
        if path == ".":
            continue
        if name == ".wh..wh..opq":
            for inside in [item for item in tree if item.startswith(f"{folder}/")]:
                del tree[inside]
        elif name.startswith(".wh."):
            gone = posixpath.join(folder, name[4:])
            for item in [item for item in tree if item == gone or item.startswith(f"{gone}/")]:
                del tree[item]
        else:
            content = ""
            if member.isreg():
                content = hashlib.sha256(layer.extractfile(member).read()).hexdigest()[:16]  # type: ignore[union-attr]
            elif member.issym():
                content = f"-> {member.linkname}"
            kind = "folder" if member.isdir() else "link" if member.issym() else "file"
            tree[path] = [kind, oct(member.mode), member.uid, member.gid, content]


# what commands give


@case
async def output_and_code(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    done = base.with_exec(["sh", "-c", "echo out; echo err >&2"])
    return [await done.stdout(), await done.stderr(), await done.exit_code()]


@case
async def failure(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    try:
        await base.with_exec(["sh", "-c", "echo out; echo err >&2; exit 3"]).sync()
    except dagger.ExecError as error:
        return [error.command, error.exit_code, error.stdout, error.stderr, "exit code: 3" in str(error)]


@case
async def expected_failure(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    done = base.with_exec(["sh", "-c", "echo x > /made; exit 4"], expect=dagger.ReturnType.ANY)
    return [await done.exit_code(), await done.file("/made").contents()]


@case
async def unexpected_success(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    await base.with_exec(["true"], expect=dagger.ReturnType.FAILURE).sync()


@case
async def missing_command(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    try:
        await base.with_exec(["no-such-command"]).sync()
    except dagger.ExecError as error:
        return error.exit_code


@case
async def environment(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    prepared = base.with_env_variable("A", "b").with_user("app").with_workdir("/tmp/work")
    shown = prepared.with_exec(["sh", "-c", "id; pwd; echo $A $PATH $HOME; umask; cat"], stdin="in\n")
    args = prepared.with_exec(["echo", "$A", "${A}c", "$NONE."], expand=True)
    return [await shown.stdout(), await args.stdout()]


@case
async def limits_of_a_container(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    script = "grep Cap /proc/self/status; mount -t tmpfs x /tmp 2>/dev/null && echo mounted; ls / /dev"
    return await base.with_exec(["sh", "-c", script], expect=dagger.ReturnType.ANY).stdout()


@case
async def entrypoint_and_default_args(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    prepared = base.with_default_args(["default"]).with_entrypoint(["echo", "entry"], keep_default_args=True)
    return [
        await prepared.with_exec([], use_entrypoint=True).stdout(),
        await prepared.with_exec(["x"], use_entrypoint=True).stdout(),
        await prepared.with_exec(["echo", "alone"]).stdout(),
    ]


@case
async def redirects(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    done = base.with_exec(
        ["sh", "-c", "echo out; echo err >&2"], redirect_stdout="/tmp/o", redirect_stderr="/tmp/e"
    )
    return [await done.file("/tmp/o").contents(), await done.file("/tmp/e").contents(), await done.stdout()]


@case
async def no_command(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    return await base.stdout()


@case
async def secrets(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    secret = client.set_secret("token", "hunter2hunter2")
    prepared = base.with_secret_variable("TOKEN", secret).with_mounted_secret(
        "/run/token", secret, owner="app"
    )
    done = prepared.with_exec(
        ["sh", "-c", "echo $TOKEN; cat /run/token; stat -c '%a %U' /run/token; echo -n $TOKEN | wc -c"]
    )
    image = await _image(done, folder, "secrets")
    return [
        await done.stdout(),
        image["tree"],
        image["config"],
        await secret.plaintext(),
        await secret.name(),
    ]


@case
async def cache_volume_keeps(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    volume = client.cache_volume(f"conformance-{folder.name}")
    mark = str(time.time_ns())
    wrote = base.with_mounted_cache("/v", volume).with_exec(["sh", "-c", f"echo {mark} > /v/mark"])
    await wrote.sync()
    read = base.with_mounted_cache("/v", volume).with_env_variable("MARK", mark).with_exec(["cat", "/v/mark"])
    return (await read.stdout()).strip() == mark


@case
async def mounts_stay_out_of_the_image(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    done = (
        base.with_mounted_directory("/mnt/source", client.host().directory(str(folder / "source")))
        .with_mounted_file("/mnt/file", client.directory().with_new_file("f", "1").file("f"))
        .with_mounted_cache("/root/.cache/deep", client.cache_volume("c"))
        .with_mounted_temp("/scratch")
        .with_exec(
            ["sh", "-c", "touch /mnt/source/new /scratch/x /root/.cache/deep/y; ls /mnt/source > /made"]
        )
    )
    image = await _image(done, folder, "mounts")
    return [
        image["tree"],
        sorted(await done.directory("/mnt/source").entries()),
        await done.file("/made").contents(),
    ]


@case
async def service(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    web = (
        base.with_new_file("/www/index.html", "hello")
        .with_exposed_port(8080)
        .as_service(args=["httpd", "-f", "-p", "8080", "-h", "/www"])
    )
    return (
        await base.with_service_binding("web", web).with_exec(["wget", "-qO-", "http://web:8080/"]).stdout()
    )


# what images are


@case
async def image_config(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    container = (
        base.with_env_variable("A", "1")
        .with_env_variable("B", "$A/${A}", expand=True)
        .with_workdir("/app")
        .with_workdir("sub")
        .with_user("app")
        .with_label("l", "v")
        .with_entrypoint(["/init"])
        .with_default_args(["serve"])
        .with_exposed_port(8000)
        .with_exposed_port(53, protocol=dagger.NetworkProtocol.UDP)
    )
    return await _image(container, folder, "config")


@case
async def image_of_commands(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    container = (
        base.with_new_file("/d/a", "1")
        .with_new_file("/d/b", "2", permissions=0o600, owner="app")
        .with_exec(
            [
                "sh",
                "-c",
                "rm -r /d; mkdir -p /d/e; echo 3 > /d/e/f; chmod 1777 /d; chown app /d/e; ln -s e/f /d/l",
            ]
        )
    )
    return await _image(container, folder, "commands")


@case
async def image_of_copies(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    source = client.host().directory(str(folder / "source"), exclude=["build"])
    container = (
        base.with_directory("/app", source, owner="app", include=["**/*.py", "link", "sub"])
        .with_file("/etc/motd", source.file("notes.md"), permissions=0o640)
        .with_file("/opt/", source.file("notes.md"))
        .with_symlink("/app/main.py", "/run.py")
        .without_file("/app/sub/drop.log")
        .without_directory("/home/app")
    )
    return await _image(container, folder, "copies")


@case
async def image_of_a_dockerfile(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    context = (
        client.directory()
        .with_directory("root", base.rootfs())
        .with_new_file("data", "1")
        .with_new_file("ignored", "2")
        .with_new_file(".dockerignore", "ignored\n")
        .with_new_file(
            "Dockerfile",
            "FROM scratch AS base\nCOPY root /\nENV PATH=/bin\nARG WHO=nobody\nRUN echo $WHO > /who\n"
            'FROM base\nCOPY . /context/\nWORKDIR /context\nUSER app\nCMD ["ls"]\n',
        )
    )
    built = context.docker_build(build_args=[dagger.BuildArg("WHO", "me")])
    listing = await built.with_exec([]).stdout()
    return [
        await built.file("/who").contents(),
        listing,
        await built.user(),
        await built.workdir(),
        await built.default_args(),
    ]


# what directories are


@case
async def directories(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    source = client.host().directory(str(folder / "source"))
    made = (
        client.directory().with_directory("in", source).with_new_file("new", "x").with_new_directory("empty")
    )
    return {
        "entries": sorted(await made.entries()),
        "inner": sorted(await made.entries(path="in/sub")),
        "glob": sorted(await made.glob("**/*.log")),
        "glob top": sorted(await made.glob("*")),
        "excluded": sorted(
            await client.host().directory(str(folder / "source"), exclude=["**/*.log"]).glob("**")
        ),
        "included": sorted(
            await client.host().directory(str(folder / "source"), include=["**/*.txt"]).glob("**")
        ),
        "gitignored": sorted(
            await client.host().directory(str(folder / "source"), gitignore=True).glob("**")
        ),
        "without": sorted(await made.without_directory("in").without_file("new").entries()),
        "filtered": sorted(await made.filter(exclude=["in"]).entries()),
        "diff": sorted(await made.diff(made.with_new_file("in/more", "y")).glob("**")),
        "contents": await made.file("in/link").contents(),
        "size": await made.file("in/main.py").size(),
        "name": await made.file("in/main.py").name(),
        "exists": [await made.exists("in"), await made.exists("out")],
        "same digest": await source.digest()
        == await client.host().directory(str(folder / "source")).digest(),
    }


@case
async def a_missing_file(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    return await client.directory().file("missing").contents()


@case
async def container_fields(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    container = base.with_env_variable("A", "1").with_label("l", "v").with_exposed_port(80, description="web")
    ports = [
        [await port.port(), (await port.protocol()).value, await port.description()]
        for port in await container.exposed_ports()
    ]
    return [
        [[await item.name(), await item.value()] for item in await container.env_variables()],
        await container.env_variable("none"),
        [[await item.name(), await item.value()] for item in await container.labels()],
        ports,
        await container.user(),
        await container.workdir(),
        await container.entrypoint(),
        str(await container.platform()),
        sorted(await container.rootfs().entries()),
    ]


async def _main(folder: Path) -> None:
    prepare(folder)
    start = time.monotonic()
    async with dagger.Connection(dagger.Config(log_output=sys.stderr)) as client:
        connected = round(time.monotonic() - start, 3)
        version = await client.version()
        found = await facts(client, folder)
        seconds = {"connect": connected, "all": round(time.monotonic() - start, 3)}
        print(json.dumps({"version": version, "cases": found, "seconds": seconds}), flush=True)
        # The facts are out. A real engine may take minutes to close a session: it ends when its input does.
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]).resolve()))

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
import subprocess
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


# What pipelines of other people were found to meet: ENGINE's table, row by row


@case
async def a_secret_of_one_step_in_the_output_of_another(
    client: dagger.Client, base: dagger.Container, folder: Path
) -> Any:
    word = client.set_secret("word", "plain-words")
    own = base.with_secret_variable("WORD", word).with_exec(["sh", "-c", "echo $WORD; echo $WORD > /word"])
    other = base.with_exec(["echo", "plain-words"])
    return [await own.stdout(), await own.file("/word").size(), await other.stdout()]


@case
async def bytes_of_a_redirect(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    words = ["sh", "-c", r"printf '\376\377\200\000x'"]
    done = base.with_exec(words, redirect_stdout="/raw")
    return await done.with_exec(["sh", "-c", "od -An -tx1 /raw"]).stdout()


@case
async def redirects_into_mounts(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    mounted = (
        base.with_mounted_directory("/m", client.directory().with_new_file("a", "1"))
        .with_mounted_cache("/v", client.cache_volume(f"redirects-{folder.name}"))
        .with_workdir("/m")
    )
    done = mounted.with_exec(["echo", "here"], redirect_stdout="out").with_exec(
        ["echo", "kept"], redirect_stdout="/v/out"
    )
    return [await done.file("/m/out").contents(), await done.with_exec(["cat", "/v/out", "out"]).stdout()]


@case
async def deep_folders(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    script = "i=0; while [ $i -lt 240 ]; do mkdir -p d/d/d/d/d; cd d/d/d/d/d; i=$((i+1)); done; echo end > f"
    made = base.with_workdir("/tmp").with_exec(["sh", "-c", script])
    return len(await made.directory("/tmp").glob("**/f"))


@case
async def two_locked_volumes_in_either_order(
    client: dagger.Client, base: dagger.Container, folder: Path
) -> Any:
    def step(first: str, second: str) -> dagger.Container:
        container = base
        for name in (first, second):
            volume = client.cache_volume(f"{name}-{folder.name}")
            container = container.with_mounted_cache(
                f"/{name}", volume, sharing=dagger.CacheSharingMode.LOCKED
            )
        return container.with_exec(["sh", "-c", f"sleep 1; echo {first} {second}"])

    return await asyncio.gather(*(step(*pair).stdout() for pair in (("one", "two"), ("two", "one"))))


@case
async def two_hundred_layers(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    container = base
    for number in range(200):
        container = container.with_new_file(f"/many/{number}", str(number))
    return await container.with_exec(["sh", "-c", "cat /many/0 /many/199; ls /many | wc -l"]).stdout()


@case
async def a_port_of_one_s_own(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    script = "echo {} | timeout 3 nc -l -p 7070 & sleep 1; nc 127.0.0.1 7070 < /dev/null; wait"
    steps = (base.with_exec(["sh", "-c", script.format(name)]).stdout() for name in ("one", "two"))
    return await asyncio.gather(*steps)


@case
async def changes_in_mounts(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    source = client.directory().with_new_file("a", "1").with_new_file("b/c", "2")
    mounted = base.with_mounted_directory("/m", source).with_mounted_file(
        "/f", client.directory().with_new_file("f", "1\n").file("f")
    )
    done = (
        mounted.with_new_file("/m/new", "3")
        .with_directory("/m/dir", source)
        .without_file("/m/a")
        .with_exec(["sh", "-c", "echo 2 >> /f; ls -R /m"])
    )
    return [
        await done.stdout(),
        sorted(await done.directory("/m").glob("**")),
        await done.file("/f").contents(),
    ]


@case
async def a_private_volume(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    volume = client.cache_volume(f"private-{folder.name}")
    script = "ls /v | wc -l; touch /v/{}; sleep 1; ls /v | wc -l"

    def step(name: str) -> dagger.Container:
        there = base.with_mounted_cache("/v", volume, sharing=dagger.CacheSharingMode.PRIVATE)
        return there.with_exec(["sh", "-c", script.format(name)])

    told = await asyncio.gather(*(step(name).stdout() for name in ("a", "b")))
    return [int(text.split()[1]) - int(text.split()[0]) for text in told]


@case
async def a_hostname_in_the_whole_session(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    name = f"named-{folder.name.replace('_', '-')[-20:]}"
    web = (
        base.with_new_file("/www/index.html", "named")
        .with_exposed_port(8080)
        .as_service(args=["httpd", "-f", "-p", "8080", "-h", "/www"])
        .with_hostname(name)
    )
    await web.start()
    try:
        # With the domain of the session that a real engine adds by itself.
        text = await base.with_exec(["wget", "-qO-", f"http://{name}:8080/"]).stdout()
        return [text, (await web.endpoint()).replace(name, "NAME"), (await web.hostname()) == name]
    finally:
        await web.stop()


@case
async def a_command_that_kills_itself(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    done = base.with_exec(["sh", "-c", "kill -9 $$"], expect=dagger.ReturnType.ANY)
    other = base.with_exec(["sh", "-c", "kill -TERM $$"], expect=dagger.ReturnType.ANY)
    return [await done.exit_code(), await other.exit_code()]


@case
async def modes_of_an_export(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    target = folder / "modes"
    made = base.with_exec(["sh", "-c", "mkdir -m 700 -p /e/own; echo x > /e/own/f; chmod 640 /e/own/f"])
    await made.directory("/e").export(str(target))
    return [oct((target / name).stat().st_mode & 0o777) for name in ("own", "own/f")]


@case
async def names_that_no_file_can_have(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    found = []
    for name in ("a" * 256, "/".join("b" * 200 for _ in range(30))):
        try:
            await client.directory().with_new_file(name, "x").sync()
        except dagger.QueryError:
            found.append("refused")
        else:
            found.append("made")
    return found[0]


@case
async def long_output_of_a_failure(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    line = "0123456789" * 6
    script = f"i=0; while [ $i -lt 3000 ]; do echo {line}; i=$((i+1)); done; echo last; exit 7"
    try:
        await base.with_exec(["sh", "-c", script]).sync()
    except dagger.ExecError as error:
        return [error.exit_code, error.stdout.endswith("last"), len(error.stdout) < 200_000]


# and what was added for them


@case
async def names_of_this_platform(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    machine = os.uname().machine
    found = client.container(platform=dagger.Platform(f"linux/{machine}"))
    return (await found.platform()) == (await client.default_platform())


def _git(folder: Path, *words: str) -> str:
    who = {
        f"GIT_{role}_{what}": "a@example.org"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    when = {"GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z"}
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *words], cwd=folder, env=os.environ | who | when,
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


@case
async def a_directory_s_git(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    project = folder / "project"
    if not project.exists():
        project.mkdir()
        _git(project, "init", "-q")
        (project / "file").write_text("one\n")
        (project / ".gitignore").write_text("*.log\n")
        _git(project, "add", ".")
        _git(project, "commit", "-q", "-m", "one")
        _git(project, "tag", "v1.9.0")
        _git(project, "tag", "-a", "-m", "x", "v1.10.0")
        _git(project, "checkout", "-q", "-b", "topic")
        (project / "file").write_text("two\n")
        _git(project, "commit", "-q", "-a", "-m", "two")
        (project / "new").write_text("x\n")
        (project / "x.log").write_text("x\n")
    repo = client.host().directory(str(project)).as_git()
    tree = repo.branch("topic").tree()
    changes = repo.uncommitted()
    return {
        "names": [await repo.branches(), await repo.tags(), await repo.tags(patterns=["v1.9*"])],
        "head": [await repo.head().commit(), await repo.head().ref()],
        "tag": [await repo.tag("v1.10.0").commit(), await repo.latest_version().ref()],
        "tree": [sorted(await tree.entries()), await tree.file("file").contents()],
        "without": sorted(await repo.branch("main").tree(discard_git_dir=True).entries()),
        "branch": await base.with_directory("/p", tree).file("/p/.git/HEAD").contents(),
        "ancestor": await repo.branch("topic").common_ancestor(repo.branch("main")).commit(),
        "uncommitted": [
            await changes.added_paths(),
            await changes.modified_paths(),
            await changes.removed_paths(),
        ],
    }


@case
async def a_commit_that_is_none(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    repo = client.directory().with_new_file("x", "1").as_git()
    return await repo.commit("main").commit()


@case
async def changesets(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    before = (
        client.directory()
        .with_new_file("kept", "1\n")
        .with_new_file("edited", "one\ntwo\n")
        .with_new_file("gone/a", "a\n")
        .with_new_file("gone/b/c", "c\n")
    )
    after = (
        before.without_directory("gone").with_new_file("edited", "one\nthree\n").with_new_file("new/f", "f\n")
    )
    changes = after.changes(before)
    patch = await changes.as_patch().contents()
    again = before.with_patch(patch)
    return {
        "added": sorted(await changes.added_paths()),
        "modified": await changes.modified_paths(),
        "removed": await changes.removed_paths(),
        "empty": [await changes.is_empty(), await after.changes(after).is_empty()],
        "patch": patch,
        "patched": [sorted(await again.glob("**")), await again.file("edited").contents()],
        "applied": sorted(await before.with_new_file("own", "x").with_changes(changes).glob("**")),
        "layer": sorted(await changes.layer().glob("**")),
    }


@case
async def a_patch_of_another_file(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    patch = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-other\n+new\n"
    return await client.directory().with_new_file("x", "text\n").with_patch(patch).entries()


@case
async def env_files(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    text = "A=1\nB=\"$A two\"\nC='$A'\nD=${NONE:-x} y\n# no\nE=a\\ b\nAPP_F=f\n"
    env = client.directory().with_new_file("e", text).file("e").as_env_file()
    found = {await item.name(): await item.value() for item in await env.variables()}
    names = ("A", "B", "C", "D", "E", "APP_F")
    return [
        {name: found.get(name) for name in names},
        await env.get("B", raw=True),
        [await item.name() for item in await env.namespace("APP_").variables()],
        await env.without_variable("A").exists("A"),
        await client.env_file().with_variable("X", "1").as_file().contents(),
    ]


@case
async def json_values(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    value = client.directory().with_new_file("j", '{"a": {"b": [1, "x", true]}}').file("j").as_json()
    items = await value.field(["a", "b"]).as_array()
    return [
        [await items[0].as_integer(), await items[1].as_string(), await items[2].as_boolean()],
        await value.with_field(["a", "c"], client.json().new_string("new")).contents(),
        await value.fields(),
    ]


@case
async def searches(client: dagger.Client, base: dagger.Container, folder: Path) -> Any:
    source = client.directory().with_new_file("a.py", "x = 1\ny = x\n").with_new_file("d/b.txt", "no\nX end")
    found = await source.search("x", insensitive=True)
    told = [
        [
            await one.file_path(),
            await one.line_number(),
            await one.absolute_offset(),
            await one.matched_lines(),
        ]
        for one in found
    ]
    files = await source.search("[xX]", files_only=True, globs=["*.txt"])
    return [sorted(told), [await one.file_path() for one in files]]


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

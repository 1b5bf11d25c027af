"""Directory.dockerBuild: buildah builds the Dockerfile, and what it made becomes layers of ours."""

from __future__ import annotations

import asyncio
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ci.engine import oci
from ci.engine.chain import Call
from ci.engine.containers import with_image
from ci.engine.engine import Engine, LogLine, NotSupported, answer
from ci.engine.patterns import choose
from ci.engine.secrets import plaintext
from ci.engine.store import digest_of, full_disk_is_told
from ci.engine.tree import Entry, Layer, Tree, content_digest
from ci.engine.values import Container, Directory, Secret
from ci.errors import StepFailed, SystemUnavailable
from ci.process import Completed, run

__all__: list[str] = []

_BUILD = """
set -eu
mount -t tmpfs -o mode=0700 va-build "$1"
tar -x -f - -C "$1"
shift
exec buildah "$@"
"""


@answer("Directory.dockerBuild")
async def docker_build(engine: Engine, parent: Directory, call: Call) -> Container:
    """What buildah builds of a Dockerfile; known by the content of the folder and the arguments."""
    args = call.args
    ours = f"linux/{oci.architecture()}"
    if args["ssh"] or args["platform"] not in (None, ours):
        raise NotSupported("Directory.dockerBuild(ssh, platform)")
    secrets: list[Secret] = list(await asyncio.gather(*(engine.value(item) for item in args["secrets"])))
    tree = engine.tree(parent.layers)
    ignored = tree.find(f"{parent.path}/.dockerignore")
    exclude = tree.read(ignored.path).decode().splitlines() if ignored else []
    exclude = [line for line in exclude if line.strip() and not line.startswith("#")]

    def context() -> list[tuple[str, Entry]]:
        found = choose(tree, tree.need("/" + parent.path), exclude=exclude)
        names = {name for name, _ in found}
        dockerfile = tree.need(f"/{parent.path}/{args['dockerfile']}")
        return found if args["dockerfile"] in names else [*found, (args["dockerfile"], dockerfile)]

    digest = await asyncio.to_thread(lambda: content_digest(context()))
    pairs = [(item["name"], item["value"]) for item in args["buildArgs"]]
    key = digest_of("dockerBuild", digest, args["dockerfile"], pairs, args["target"], engine.epoch)

    async def make() -> dict[str, Any]:
        known = await asyncio.to_thread(engine.store.result, key)
        if known is not None:
            return known
        folder = engine.store.scratch("context")

        def copy() -> None:
            layer = Layer(Tree([]), folder)
            for name, entry in context():
                layer.copy(entry, name)

        with full_disk_is_told(engine.store.root):
            await asyncio.to_thread(copy)
            layout = await _buildah(engine, folder, args, pairs, secrets)
            image = await asyncio.to_thread(oci.read_layout, engine.store, layout)
        return engine.store.keep(
            key, {"layers": list(image.layers), "config": dict(image.config), "annotations": {}}
        )

    row = await engine.once(key, make)
    return with_image(Container(platform=ours), row)


async def _buildah(
    engine: Engine, context: Path, args: dict[str, Any], pairs: list[tuple[str, str]], secrets: list[Secret]
) -> Path:
    """Build, and return the image as an OCI layout. Secrets come through a pipe into a tmpfs, as in `run`."""
    store = engine.store
    bundle, out = store.scratch("buildah"), store.scratch("image")
    dockerfile = (context / args["dockerfile"]).read_text(errors="replace")
    files = {f"secret-{number}": await plaintext(engine, secret) for number, secret in enumerate(secrets)}
    files["registries.conf"] = _plain_http(dockerfile).encode()
    storage = [
        "--root",
        str(store.buildah),
        "--runroot",
        str(store.tmp / "buildah-run"),
        "--storage-driver",
        "overlay",
    ]
    argv = [
        *storage, "build", "--layers", "--format", "oci", "--network", "host", "--isolation", "oci",
        "--runtime", "runc", "--timestamp", str(engine.epoch), "--iidfile", str(out / "id"),
        "--file", str(context / args["dockerfile"]),
    ]  # fmt: skip
    argv += [f"--build-arg={name}={value}" for name, value in pairs]
    argv += [
        f"--secret=id={secret.name},src={bundle}/secret-{number}" for number, secret in enumerate(secrets)
    ]
    argv += ["--target", args["target"]] if args["target"] else []
    title = f"docker build {args['dockerfile']} {args['target']}".rstrip()
    with engine.reporter.step(title) as step:

        def told(line: str) -> None:
            line = engine.masker.mask(line)
            step.say(line[-200:])
            engine.log(LogLine(title, line))

        done = await _in_namespace(bundle, files, [*argv, str(context)], told)
        if done.code:
            full = "no space left" in done.stderr
            tail = engine.masker.mask("\n".join(done.stderr.rstrip().splitlines()[-20:]))
            raise (SystemUnavailable if full else StepFailed)(f"{title} failed\n{tail}")
        identity = (out / "id").read_text().strip()
        layout = out / "layout"
        done = await _in_namespace(
            store.scratch("buildah"), {}, [*storage, "push", "-q", identity, f"oci:{layout}:image"], told
        )
        if done.code:
            raise SystemUnavailable(f"{title}: the image cannot be read\n{done.stderr.strip()[-500:]}")
    return layout


async def _in_namespace(
    bundle: Path, files: dict[str, bytes], argv: list[str], told: Callable[[str], None]
) -> Completed:
    """Run buildah with mounts and processes of its own, which end with this process."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o600
            tar.addfile(info, io.BytesIO(data))
    return await run(
        "setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL",
        "--mount-proc", "--", "sh", "-c", _BUILD, "va-engine", str(bundle), *argv,
        env={"CONTAINERS_REGISTRIES_CONF": f"{bundle}/registries.conf"},
        stdin=buffer.getvalue(),
        on_line=told,
        check=False,
    )  # fmt: skip


def _plain_http(dockerfile: str) -> str:
    """A registries.conf that lets buildah speak plain HTTP to registries of this machine."""
    found = set(re.findall(r"(?:from[ =]|FROM +)((?:127\.[\d.]+|localhost)(?::\d+)?)/", dockerfile))
    rows = [f"[[registry]]\nlocation = {json.dumps(one)}\ninsecure = true\n" for one in sorted(found)]
    return 'unqualified-search-registries = ["docker.io"]\n' + "".join(rows)

"""Directory.dockerBuild: buildah builds the Dockerfile, and what it made becomes layers of ours."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ci.engine import limits, oci
from ci.engine.chain import Call
from ci.engine.containers import platform_of, with_image
from ci.engine.engine import Engine, NotSupported, answer
from ci.engine.masking import Masker
from ci.engine.network import NAMES
from ci.engine.patterns import choose, ignore_file
from ci.engine.run import CAPABILITIES
from ci.engine.seccomp import profile
from ci.engine.secrets import plaintext
from ci.engine.store import digest_of, full_disk_is_told
from ci.engine.syntax import KNOWS_ALL, unknown
from ci.engine.tree import Entry, Layer, Tree, content_digest
from ci.engine.values import Container, Directory, Secret
from ci.errors import BadInput, StepFailed, SystemUnavailable
from ci.process import Completed, run

__all__: list[str] = []

_MOST = 2**20
"""Bytes of a Dockerfile, and of what it ignores."""
_RUN = re.compile(r"\s*(?:ONBUILD\s+)*RUN\s+", re.IGNORECASE)
_OPTION = re.compile(
    r"""--((?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\\.|[^\s"'\\])*)\s*""", re.ASCII | re.DOTALL
)
_ORDINARY = {
    "network": re.compile("default|none"),
    "security": re.compile("sandbox"),
    "mount": re.compile(
        "type=(?:secret|tmpfs)"
        r"(?:,(?:id|target|dst|destination|required|mode|uid|gid|size|tmpfs-size|tmpfs-mode)(?:=[\w./-]*)?)*"
    ),
}
"""What the options of a RUN that give it rights may say. Of mounts not bind and cache: as buildah 1.28 makes
them, a link of another stage or `..` in an id leads to any folder of this machine, to be written
(CVE-2024-1753, CVE-2024-9675)."""
_POLICY = {
    "default": [{"type": "reject"}],
    "transports": {"docker": {"": [{"type": "insecureAcceptAnything"}]}},
}
"""containers-policy.json(5): a FROM takes images of registries, and no archive or folder of this machine."""

_BUILD = """
set -eu
mount -t tmpfs -o mode=0700 va-build "$1"
tar -x -f - -C "$1"
if [ -e /proc/self/fd/9 ]; then  # by a path that stays, for the processes that buildah starts
    : > "$1/network"
    mount --bind /proc/self/fd/9 "$1/network"
    exec 9<&-
fi
shift
exec buildah "$@"
"""


@answer("Directory.dockerBuild")
async def docker_build(engine: Engine, parent: Directory, call: Call) -> Container:
    """What buildah builds of a Dockerfile; known by the content of the folder and the arguments."""
    args = call.args
    ours = platform_of(args["platform"])
    if args["ssh"]:
        raise NotSupported("Directory.dockerBuild(ssh)", "Query.git in the pipeline, and COPY of its tree")
    secrets: list[Secret] = list(await asyncio.gather(*(engine.value(item) for item in args["secrets"])))
    tree = engine.tree(parent.layers)
    dockerfile = await asyncio.to_thread(tree.read, f"/{parent.path}/{args['dockerfile']}", _MOST)
    exclude = await asyncio.to_thread(_ignored, tree, f"/{parent.path}", args["dockerfile"])

    def context() -> list[tuple[str, Entry]]:
        return choose(tree, tree.need("/" + parent.path), exclude=exclude)

    digest = await asyncio.to_thread(lambda: content_digest(context()))
    pairs = [(item["name"], item["value"]) for item in args["buildArgs"]]
    written = hashlib.sha256(dockerfile).hexdigest()
    key = digest_of("dockerBuild 3", digest, written, args["dockerfile"], pairs, args["target"], engine.epoch)

    async def make() -> dict[str, Any]:
        known = await asyncio.to_thread(engine.store.result, key)
        if known is not None:
            return known

        def copy(folder: Path) -> None:
            layer = Layer(Tree([]), folder)
            for name, entry in context():
                layer.copy(entry, name)

        with full_disk_is_told(engine.store.root), engine.store.work("docker") as work:
            (work / "context").mkdir()
            await asyncio.to_thread(copy, work / "context")
            layout = await _buildah(engine, work, dockerfile, args, pairs, secrets)
            image = await asyncio.to_thread(oci.read_layout, engine.store, layout)
        return engine.store.keep(
            key, {"layers": list(image.layers), "config": dict(image.config), "annotations": {}}
        )

    row = await engine.once(key, make)
    return with_image(Container(platform=str(ours)), row)


def _ignored(tree: Tree, folder: str, dockerfile: str) -> list[str]:
    """What stays out of the context: the ignore file of this very Dockerfile wins over that of the folder."""
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        file = tree.find(f"{folder}/{name}")
        if file is not None and file.is_file:
            return ignore_file(tree.read(file.path, _MOST))
    return []


async def _buildah(
    engine: Engine,
    work: Path,
    dockerfile: bytes,
    args: dict[str, Any],
    pairs: list[tuple[str, str]],
    secrets: list[Secret],
) -> Path:
    """Build the `context` in a folder, and return the image as an OCI layout in there. Secrets come through a
    pipe into a tmpfs, as in `run`."""
    store = engine.store
    bundle, out, pushing = (work / name for name in ("buildah", "image", "push"))
    for folder in (bundle, out, pushing):
        folder.mkdir()
    files = {f"secret-{number}": await plaintext(engine, secret) for number, secret in enumerate(secrets)}
    masker = Masker()
    for data in files.values():
        masker.add(data)
    files["registries.conf"] = _plain_http(dockerfile, pairs).encode()
    # Beside the context: a Dockerfile that is ignored is none of its files. buildah would ignore once more.
    files |= {"Dockerfile": dockerfile, "ignore": b""}
    text = dockerfile.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise BadInput(f"{args['dockerfile']} is empty", hint="its first instruction is a FROM")
    if asks_for_more(text):
        raise BadInput(
            f"{args['dockerfile']}: a RUN asks for this machine's network, folders or root, and is refused",
            hint="it may have --mount=type=secret and type=tmpfs; a Dagger engine has the others",
        )
    if (refused := unknown(text)) and (version := await engine.once("buildah", _version)) < KNOWS_ALL:
        listed = "\n".join(f"{args['dockerfile']}, {one}" for one in refused)
        raise BadInput(
            f"buildah {'.'.join(map(str, version))} does not know all of the Dockerfile\n{listed}",
            hint=f"buildah {'.'.join(map(str, KNOWS_ALL))} or a Dagger engine knows it",
        )
    # buildah itself pulls by this machine's network, from its own registries too; a RUN is a step as others.
    boundary = await engine.boundary()
    files["policy.json"] = json.dumps(_POLICY).encode()
    files["seccomp.json"] = json.dumps(profile([f"CAP_{name}" for name in CAPABILITIES.split()])).encode()
    group = f"{store.tmp.name}-{work.name}"
    storage = [
        "--root",
        str(store.buildah),
        "--runroot",
        str(store.tmp / "buildah-run"),
        "--storage-driver",
        "overlay",
    ]
    argv = [
        *storage, "build", "--layers", "--format", "oci", "--isolation", "oci",
        "--dns", NAMES, "--cap-drop", "all", "--cap-add", CAPABILITIES.replace(" ", ","),
        "--security-opt", f"seccomp={bundle}/seccomp.json", "--cgroup-parent", limits.path_of(group),
        "--signature-policy", f"{bundle}/policy.json",
        "--runtime", "runc", "--timestamp", str(engine.epoch), "--iidfile", str(out / "id"),
        "--file", f"{bundle}/Dockerfile", "--ignorefile", f"{bundle}/ignore",
    ]  # fmt: skip
    argv += [f"--build-arg={name}={value}" for name, value in pairs]
    argv += [
        f"--secret=id={secret.name},src={bundle}/secret-{number}" for number, secret in enumerate(secrets)
    ]
    argv += ["--target", args["target"]] if args["target"] else []
    title = f"docker build {args['dockerfile']} {args['target']}".rstrip()
    with engine.reporter.step(title) as step:

        def told(line: str) -> None:
            line = masker.mask(line)
            step.say(line[-200:])
            engine.tell(title, line)

        limits.bounded(group, boundary.limits)
        plug = await boundary.network.plug()
        try:
            words = [*argv, "--network", f"{bundle}/network", str(work / "context")]
            done = await _in_namespace(bundle, files, words, told, network=plug.path)
        finally:
            plug.close()
            await limits.remove(group)
        if done.code:
            full = "no space left" in done.stderr
            said = done.stderr.replace(f"{bundle}/", "").replace(f"{work}/", "")  # places of ours
            tail = masker.mask("\n".join(said.rstrip().splitlines()[-20:]))
            raise (SystemUnavailable if full else StepFailed)(f"{title} failed\n{tail}")
        identity = (out / "id").read_text().strip()
        layout = out / "layout"
        words = [*storage, "push", "-q", identity, f"oci:{layout}:image"]
        done = await _in_namespace(pushing, {}, words, told)
        if done.code:
            raise SystemUnavailable(f"{title}: the image cannot be read\n{done.stderr.strip()[-500:]}")
    return layout


async def _in_namespace(
    bundle: Path,
    files: dict[str, bytes],
    argv: list[str],
    told: Callable[[str], None],
    *,
    network: str = "/dev/null",
) -> Completed:
    """Run buildah with mounts and processes of its own, which end with this process. A network namespace
    comes to be `network` in the bundle."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o600
            tar.addfile(info, io.BytesIO(data))
    return await run(
        "sh", "-c", 'exec "$@" 9<"$0"', network,
        "setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL",
        "--mount-proc", "--", "sh", "-c", _BUILD, "va-engine", str(bundle), *argv,
        # Its temporary files are the session's: one that was killed leaves them to the next to remove.
        env={"CONTAINERS_REGISTRIES_CONF": f"{bundle}/registries.conf", "TMPDIR": str(bundle.parent)},
        stdin=buffer.getvalue(),
        on_line=told,
        check=False,
    )  # fmt: skip


async def _version() -> tuple[int, int]:
    said = (await run("buildah", "--version", failure=SystemUnavailable)).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def asks_for_more(dockerfile: str) -> bool:
    """Whether a RUN may ask for this machine's network, folders or root, by an option before its command.

    Lines are joined as Docker's parser joins them, by either escape and over comments. Each line is taken for
    the beginning of an instruction, so that none hides behind what only looks as if it went on (a heredoc).
    """
    lines = [line.rstrip() for line in dockerfile.split("\n")]
    lines = [line for line in lines if line and not line.lstrip().startswith("#")]
    for escape in "\\`":
        for number, line in enumerate(lines):
            whole = line
            for following in lines[number + 1 :]:
                if not whole.endswith(escape):
                    break
                whole = whole[:-1] + following
            if (found := _RUN.match(whole)) and any(map(_is_more, _options(whole, found.end()))):
                return True
    return False


def _options(text: str, at: int) -> Iterator[str]:
    """The options that begin there, without their dashes, quotes and escapes."""
    while found := _OPTION.match(text, at):
        yield re.sub(r"""\\(.)|["']""", r"\1", found[1])
        at = found.end()


def _is_more(option: str) -> bool:
    name, _, value = option.lower().partition("=")
    return name in _ORDINARY and not _ORDINARY[name].fullmatch(value)


def _plain_http(dockerfile: bytes, pairs: list[tuple[str, str]]) -> str:
    """A registries.conf that lets buildah speak plain HTTP to registries of this machine, on any port.

    By host and not by image: only buildah itself knows what a FROM names in the end (arguments, stages). An
    address of the loopback network that is mentioned in vain is one of this machine all the same.
    """
    text = "\n".join([dockerfile.decode(errors="replace"), *(value for _, value in pairs)])
    found = {"127.0.0.1", "localhost", *re.findall(r"127(?:\.[0-9]{1,3}){3}", text)}
    rows = [f'[[registry]]\nlocation = "{one}"\ninsecure = true\n' for one in sorted(found)]
    return 'unqualified-search-registries = ["docker.io"]\n' + "".join(rows)

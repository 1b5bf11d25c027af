"""A Debian 12 with Python and certificates, and nothing else: what the README promises is done there.

The machine is a root file system by mmdebstrap, with what this one's package clients are told of registries.
What runs there has mounts and process ids of its own, and this machine's network. Downloads are this
machine's too, where a package client keeps them; whatever is built, installed or made of them is made there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci import places
from ci.build.base_image import SUITE, debian_sources

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1500),  # the unit suite twice, and a build from nothing
    pytest.mark.skipif(os.geteuid() != 0, reason="a root file system needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

PROJECT = "/srv/project"
BARE_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ENTER = """
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
while [ "$1" != -- ]; do mkdir -p "$1" "$root$2"; mount --bind "$1" "$root$2"; shift 2; done
shift
exec chroot "$root" "$@"
"""
SETTINGS = ("/etc/apt", "/etc/pip.conf", "/etc/npmrc", "/etc/hosts", "/etc/resolv.conf", "/etc/ssl/certs")
SETTINGS_AT_HOME = (".npmrc", ".netrc", ".pip", ".config/pip", ".config/uv", ".config/go")
SETTINGS_IN_ENVIRONMENT = ("pip_", "uv_", "npm_config_", "goproxy", "gosumdb", "goprivate", "ssl_cert_")
DOWNLOADS = (".cache/uv", ".cache/pip", ".npm/_cacache", "go/pkg/mod/cache/download")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The root file system, and how something is run in it."""

    root: Path

    def run(
        self, *argv: str, user: str = "root", home: str = "", code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """What it printed; the test fails when it does not end with `code`, and at a traceback."""
        home = home or ("/root" if user == "root" else f"/home/{user}")
        told = [f"{name}={value}" for name, value in os.environ.items() if _is_setting(name)]
        shared = [word for name in DOWNLOADS for word in (str(Path.home() / name), f"/root/{name}")]
        as_user = () if user == "root" else ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")
        done = subprocess.run(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"),
                *("sh", "-euc", ENTER, "enter", str(self.root), *shared, "--"),
                *("env", "-i", f"HOME={home}", f"PATH={BARE_PATH}", *told, *as_user),
                *("sh", "-euc", 'cd "$1"; shift; exec "$@"', "in", PROJECT, *argv),
            ],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == code, f"{' '.join(argv)} ended with {done.returncode}\n{said[-6000:]}"
        assert "Traceback" not in said, said[-6000:]
        return done

    def va(
        self, *words: str, user: str = "root", home: str = "", code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """`va`, as it is typed."""
        return self.run(".venv/bin/va", *words, user=user, home=home, code=code)


def _is_setting(name: str) -> bool:
    return name.lower().startswith(SETTINGS_IN_ENVIRONMENT) or name.lower().endswith("_proxy")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that nobody has touched, with a clone of this checkout and an ordinary user, `dev`."""
    folder = tmp_path_factory.mktemp("bare")
    root, mirrors = folder / "root", folder / "mirrors.list"
    mirrors.write_text(debian_sources())
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,ca-certificates", SUITE, root),
            *([mirrors] if mirrors.read_text() else []),
        ],
        check=True,
    )
    for name in SETTINGS:
        _copy(Path(name), root / name[1:])
    for name in SETTINGS_AT_HOME:
        _copy(Path.home() / name, root / "root" / name)
    clone = ("git", "clone", "--quiet", "--no-hardlinks", places.checkout(), f"{root}{PROJECT}")
    subprocess.run(clone, check=True)
    subprocess.run(["chroot", root, "useradd", "--create-home", "dev"], check=True)
    yield Machine(root=root)
    shutil.rmtree(root)


def _copy(here: Path, there: Path) -> None:
    there.parent.mkdir(parents=True, exist_ok=True)
    if here.is_dir():
        shutil.rmtree(there, ignore_errors=True)
        # With what its links lead to, which is not there.
        shutil.copytree(here, there, ignore_dangling_symlinks=True)
    elif here.is_file():
        shutil.copy(here, there)


@pytest.fixture(scope="module")
def set_up(machine: Machine) -> Machine:
    """The machine after the first command that the README has."""
    machine.run("./nox", "-l")
    return machine


def test_its_own_python_is_taken(set_up: Machine) -> None:
    assert "home = /usr/bin\n" in set_up.run("cat", ".venv/pyvenv.cfg").stdout


def test_the_unit_suite_passes_as_root(set_up: Machine) -> None:
    assert " passed" in set_up.run("./nox", "-s", "unit").stdout


def test_the_unit_suite_passes_as_an_ordinary_user(set_up: Machine) -> None:
    """In a checkout that is root's, where an ordinary user may not write."""
    assert " passed" in set_up.run("./nox", "-s", "unit", user="dev").stdout


def test_doctor_says_what_is_missing_and_installs_one_tool_of_each_kind(set_up: Machine) -> None:
    """Debian's, one in Go, one for Node.js (which comes with it), one in Python."""
    wanted = ("busybox", "kubeconform", "azurite", "checkov")
    before = json.loads(set_up.va("doctor", "--json", code=7).stdout)
    assert {one["name"] for one in before if one["path"] is None} >= {*wanted, "node", "helm"}

    refused = set_up.va("doctor", *wanted, "--install", user="dev", code=7).stderr
    assert "sudo apt-get install --no-install-recommends busybox-static" in refused

    set_up.va("doctor", *wanted, "--install")
    found = json.loads(set_up.va("doctor", *wanted, "node", "--json").stdout)
    assert {one["name"]: one["origin"] for one in found} == {
        "busybox": "PATH", "kubeconform": "cache", "azurite": "cache", "checkov": "cache", "node": "cache",
    }  # fmt: skip
    for program in (one["path"] for one in found if one["name"] in ("kubeconform", "checkov", "node")):
        set_up.run(program, "-v")


def test_the_architecture_is_checked_without_any_tool(set_up: Machine) -> None:
    for user in ("root", "dev"):
        assert "prod" in set_up.va("env", "check", user=user).stdout


def test_an_ordinary_user_has_one_line_where_root_is_needed_and_all_else(set_up: Machine) -> None:
    """The same with a home that cannot be written to."""
    for home in ("/home/dev", "/nonexistent"):
        for words in (("up",), ("build", "--image", "web-client"), ("ship",), ("demo",), ("dr", "drill")):
            said = set_up.va(*words, user="dev", home=home, code=9).stderr.strip()
            assert said.startswith("error: root is needed: ") and said.endswith(f"va {' '.join(words)}")
            assert "\n" not in said
        for words in (
            ("cost", "--env", "prod"), ("infra", "render", "--env", "dev", "--out", "/tmp/rendered"),
            ("release", "list"), ("dr", "plan"), ("cache", "usage"), ("compliance", "report"),
        ):  # fmt: skip
            set_up.va(*words, user="dev", home=home)
    assert "/nonexistent" in set_up.va("rollback", "prod", user="dev", home="/nonexistent", code=6).stderr


def test_an_image_is_built_from_nothing(set_up: Machine) -> None:
    (built,) = json.loads(set_up.va("build", "--image", "web-client", "--json").stdout)
    assert built["name"] == "web-client" and (set_up.root / built["archive"][1:]).is_file()

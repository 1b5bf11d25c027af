from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ci import tools
from ci.errors import BadInput, ToolMissing
from ci.tools.programs import parse_version

Program = Callable[[str, str], Path]


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
    assert parse_version(text) == version


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

"""What `va up` provides before it starts: all that its parts run, on a machine that has none of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci import platform
from ci.platform.cluster import CLUSTER_TOOLS
from ci.platform.instance import REGIONS, Instance, instance
from ci.platform.plan import all_parts, tools_of

_HERE = Path(platform.__file__).parent


def _asked_for(source: Path) -> Iterator[str]:
    """The tools that a module looks for by name: `tools.path("kubeadm")`."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tools.path":
            yield from (one.value for one in node.args if isinstance(one, ast.Constant))


@pytest.mark.parametrize("source", sorted(_HERE.glob("*.py")), ids=lambda path: path.stem)
def test_a_tool_that_a_part_looks_for_is_one_that_a_part_names(source: Path) -> None:
    named = set(tools_of(all_parts(instance())))
    assert set(_asked_for(source)) <= named


def test_what_the_cluster_is_made_of_is_provided_first() -> None:
    needed = platform.tools_needed()
    assert needed[: len(CLUSTER_TOOLS)] == CLUSTER_TOOLS


def test_each_program_of_the_cluster_is_provided_with_its_own_part() -> None:
    by_part = {part.name.removeprefix("va-eastus "): part.tools for part in all_parts(instance())}
    for program in CLUSTER_TOOLS:
        if program in by_part:
            assert program in by_part[program]
    assert {"runc", "cni-plugins"} < set(by_part["containerd"])
    assert "iptables" in by_part["kube-proxy"] and "busybox" in by_part["sandbox image"]


@pytest.mark.parametrize("clusters", [1, 2, 3])
def test_a_part_has_a_name_of_its_own_and_what_it_needs_is_there(clusters: int) -> None:
    parts = all_parts(Instance(number=0, folder=Path("/x"), clusters=clusters))

    named = [part.name for part in parts]
    assert len(set(named)) == len(named)
    assert {need for part in parts for need in part.needs} <= set(named)


def test_of_three_clusters_each_has_all_that_serves_it() -> None:
    named = {part.name for part in all_parts(Instance(number=0, folder=Path("/x"), clusters=3))}
    first, *others = (
        {name.removeprefix(f"va-{region}") for name in named if name.startswith(f"va-{region}")}
        for region in REGIONS
    )

    assert {" kube-apiserver", " etcd", " containerd", " gateway", " prometheus", " discovery"} < first
    assert others == [first, first]

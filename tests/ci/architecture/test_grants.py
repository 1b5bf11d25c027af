"""What a promoter may do in a cluster: all that a release is made of, and nothing in another namespace."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ci.architecture import model
from ci.architecture.grants import promoter
from ci.places import checkout

PROD = model.read("prod").architecture
GROUP = "5b1e3d4f-1111-2222-3333-444444444444"
# "Azure Kubernetes Service RBAC Admin" writes these in a namespace.
BUILT_IN = {"v1", "apps/v1", "autoscaling/v2", "batch/v1", "networking.k8s.io/v1", "policy/v1"} | {
    "rbac.authorization.k8s.io/v1"
}


def _objects() -> list[dict[str, Any]]:
    return list(promoter(PROD, GROUP))


def _plural(kind: str) -> str:
    word = kind.lower()
    if word.endswith("y") and not word.endswith("ay"):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith("s") else f"{word}s"


@pytest.mark.parametrize("rendered", ["prod", "prod-canary"])
def test_every_object_of_a_release_may_be_written(rendered: str) -> None:
    rules = [rule for one in _objects() if one["kind"] == "ClusterRole" for rule in one["rules"]]
    allowed = {
        (group, kind)
        for rule in rules
        for group in rule["apiGroups"]
        for kind in rule["resources"]
        if {"update", "patch"} <= set(rule["verbs"])
    }
    file = checkout() / "tests" / "helm" / "golden" / f"{rendered}.yaml"
    for thing in filter(None, yaml.safe_load_all(file.read_text())):
        api, kind = thing["apiVersion"], thing["kind"]
        if api in BUILT_IN and kind != "Namespace":
            continue
        group = api.rpartition("/")[0]
        assert (group, _plural(kind)) in allowed, (api, kind)


def test_it_is_for_the_group_and_its_namespaces_alone() -> None:
    bindings = [one for one in _objects() if one["kind"].endswith("Binding")]
    assert {one["subjects"][0]["name"] for one in bindings} == {GROUP}
    inside = {one["metadata"]["namespace"] for one in bindings if one["kind"] == "RoleBinding"}
    assert inside == {"voice", "voice-livekit"}
    (wide,) = [one for one in bindings if one["kind"] == "ClusterRoleBinding"]
    (role,) = [one for one in _objects() if one["metadata"]["name"] == wide["roleRef"]["name"]][:1]
    assert {kind for rule in role["rules"] for kind in rule["resources"]} == {
        "namespaces",
        "nodes",
        "priorityclasses",
    }
    assert not any("delete" in rule["verbs"] and "namespaces" in rule["resources"] for rule in role["rules"])


def test_a_namespace_of_the_charts_is_helms_from_the_beginning() -> None:
    (livekit,) = [
        one for one in _objects() if one["metadata"]["name"] == "voice-livekit" and one["kind"] == "Namespace"
    ]
    assert livekit["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "Helm"}
    assert livekit["metadata"]["annotations"]["meta.helm.sh/release-name"] == "voice"

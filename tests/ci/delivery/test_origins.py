from __future__ import annotations

import pytest

from ci.delivery.cluster import Pod, PodImage, understood_pod
from ci.delivery.origins import origins

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
HERE = f"127.0.0.1:5502/api@{DIGEST}"


def pod(wanted: str, running: str = "") -> Pod:
    return understood_pod(
        {
            "metadata": {"name": "voice-api-1"},
            "spec": {"nodeName": "node-1", "containers": [{"name": "api", "image": wanted}]},
            "status": {"containerStatuses": [{"name": "api", "imageID": running}]},
        }
    )


@pytest.mark.parametrize(
    ("wanted", "running", "problem"),
    [
        (HERE, HERE, ""),
        (HERE, "", ""),
        # Another endpoint's name for the same bytes: the runtime keeps one list for an image.
        (HERE, HERE.replace("5502", "5501"), ""),
        (HERE, "sha256:" + "c" * 64, ""),  # the config's digest: not comparable
        (HERE.replace("5502", "5501"), "", "from 127.0.0.1:5501, not from its region's 127.0.0.1:5502"),
        ("127.0.0.1:5502/api:v1", "", "by the tag v1, not by digest"),
        ("127.0.0.1:5502/api", "", "by the tag latest, not by digest"),
        (HERE, f"127.0.0.1:5502/api@{OTHER}", f"{OTHER} runs, not what its spec names"),
        ("busybox", "", "'busybox' names no registry"),
    ],
)
def test_an_image_is_to_come_from_its_own_region_by_digest(wanted: str, running: str, problem: str) -> None:
    (found,) = origins([pod(wanted, running)], endpoint="127.0.0.1:5502", on_nodes={})
    assert (found.pod, found.container, found.image) == ("voice-api-1", "api", wanted)
    assert found.problem == problem
    assert not found.on_node


def test_what_the_runtime_of_its_node_lists_is_told() -> None:
    (found,) = origins(
        [pod(HERE)], endpoint="127.0.0.1:5502", on_nodes={"node-1": frozenset({HERE}), "node-2": frozenset()}
    )
    assert found.on_node


def test_every_container_of_a_pod_is_looked_at() -> None:
    understood = understood_pod(
        {
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]},
        }
    )
    assert understood.images == (
        PodImage(container="a", wanted="x", running=""),
        PodImage(container="b", wanted="y", running=""),
    )

from __future__ import annotations

import pytest
from promotion_world import release

from ci.delivery.cluster import Pod, PodImage, understood_pod
from ci.delivery.origins import origins, strangers

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


R7 = release("r7")
OURS = R7.images[0].digest


def three(init: tuple[str, str], sidecar: tuple[str, str], main: tuple[str, str]) -> Pod:
    """A pod of three containers, each by what its spec names and what the runtime says."""
    named = {"seed": init, "cache": sidecar, "api": main}
    statuses = [{"name": name, "imageID": running} for name, (_, running) in named.items()]
    spec = [{"name": name, "image": wanted} for name, (wanted, _) in named.items()]
    return understood_pod(
        {
            "metadata": {"name": "voice-api-1"},
            "spec": {
                "initContainers": [spec[0], {**spec[1], "restartPolicy": "Always"}],
                "containers": spec[2:],
            },
            "status": {"initContainerStatuses": statuses[:2], "containerStatuses": statuses[2:]},
        }
    )


def image(digest: str, name: str = "fastapi-backend") -> str:
    return f"127.0.0.1:5502/{name}@{digest}"


TAGGED = "127.0.0.1:5502/fastapi-backend:r7"
GOOD = (image(OURS), image(OURS))


@pytest.mark.parametrize(
    ("place", "bad", "problem"),
    [
        (0, (image(OTHER), image(OTHER)), f"voice-api-1 (seed): it is {OTHER}, not {OURS} as in r7"),
        (1, (image(OTHER), ""), f"voice-api-1 (cache): it is {OTHER}, not {OURS} as in r7"),
        (2, (image(OURS), image(OTHER)), f"voice-api-1 (api): it is {OTHER}, not {OURS} as in r7"),
        (1, (image(OURS, "miner"), ""), "voice-api-1 (cache): miner is no image of r7"),
        (0, (TAGGED, ""), f"voice-api-1 (seed): it is the tag r7, not {OURS} as in r7"),
        (2, ("busybox", ""), "voice-api-1 (api): 'busybox' names no registry"),
    ],
)  # fmt: skip
def test_what_the_signed_release_does_not_name_is_a_stranger(
    place: int, bad: tuple[str, str], problem: str
) -> None:
    every = [GOOD, (image(OURS), ""), (image(OURS), OTHER)]  # a config's digest: not comparable
    assert list(strangers([three(*every)], R7)) == []
    every[place] = bad
    assert list(strangers([three(*every)], R7)) == [problem]

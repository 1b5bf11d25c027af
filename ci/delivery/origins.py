"""Which registry each running container's image came from: its own region's, by digest, or not.

What the pod asked for is in its spec: the kubelet pulls exactly that reference. What runs is what the runtime
recorded: the digest in the container's `imageID`, and the references in the node's list of images, which the
kubelet shortens (the fifty largest, five names each) and brings up to date every half a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from ci.errors import BadInput
from ci.registry import parse_reference

if TYPE_CHECKING:  # who shows an origin needs no Kubernetes client
    from ci.delivery.cluster import Pod
    from ci.release import Release

__all__ = ["Origin", "origins", "strangers"]


class Origin(BaseModel):
    """Where the image of one container came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pod: str
    container: str
    image: str
    """The reference that was pulled."""
    on_node: bool
    """Whether the runtime's list on the pod's node has that reference; False may only mean: not listed."""
    problem: str
    """Empty when it is a digest at the endpoint of its own region, and that digest runs."""


def origins(
    pods: Iterable[Pod], *, endpoint: str, on_nodes: Mapping[str, frozenset[str]]
) -> tuple[Origin, ...]:
    """Judge every container of these pods, which belong to a target that pulls from `endpoint`.

    `on_nodes`: the references that each node's runtime lists, as far as they may be read.
    """
    return tuple(
        Origin(
            pod=pod.name,
            container=one.container,
            image=one.wanted,
            on_node=one.wanted in on_nodes.get(pod.node, frozenset()),
            problem=_problem(one.wanted, one.running, endpoint),
        )
        for pod in pods
        for one in pod.images
    )


def strangers(pods: Iterable[Pod], release: Release) -> Iterator[str]:
    """In a sentence each: the containers of these pods that are not of the release, by its signed digests.

    By what their spec names, and by what the runtime says that it runs.
    """
    digests = {image.name: image.digest for image in release.images}
    for pod in pods:
        for one in pod.images:
            _, at, recorded = one.running.rpartition("@")
            try:
                reference = parse_reference(one.wanted)
            except BadInput as error:
                yield f"{pod.name} ({one.container}): {error.message}"
                continue
            wanted = digests.get(reference.repository)
            if wanted is None:
                yield f"{pod.name} ({one.container}): {reference.repository} is no image of {release.name}"
                continue
            named = reference.digest or f"the tag {reference.tag or 'latest'}"
            if other := next((it for it in (named, recorded if at else wanted) if it != wanted), ""):
                yield f"{pod.name} ({one.container}): it is {other}, not {wanted} as in {release.name}"


def _problem(wanted: str, running: str, endpoint: str) -> str:
    try:
        reference = parse_reference(wanted)
    except BadInput as error:
        return error.message
    if reference.registry != endpoint:
        return f"from {reference.registry}, not from its region's {endpoint}"
    if reference.digest is None:
        return f"by the tag {reference.tag or 'latest'}, not by digest"
    _, at, recorded = running.rpartition("@")
    if at and recorded != reference.digest:
        return f"{recorded} runs, not what its spec names"
    return ""

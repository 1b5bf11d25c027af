from __future__ import annotations

import pytest

from ci.delivery.promotion.rendered import Became, digest, images, object_changes, replicas

BEFORE = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: voice-api, annotations: {va.dev/fence: "3"}}
spec:
  replicas: 2
  template:
    spec:
      containers: [{name: api, image: "r/api@sha256:aaa", env: [{name: ADMIN_TOKEN, value: old}]}]
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {pin: "1234"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: gone}
"""
AFTER = """\
# Source: another comment
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {pin: "4321"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: voice-api, annotations: {va.dev/fence: "9"}}
spec:
  replicas: 3
  template:
    spec:
      containers: [{name: api, image: "r/api@sha256:bbb", env: [{name: ADMIN_TOKEN, value: new}]}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: voice-api}
spec: {scaleTargetRef: {kind: Deployment, name: voice-api}, minReplicas: 3, maxReplicas: 8}
"""


def test_what_another_manifest_changes_is_told_object_by_object_and_secrets_are_not() -> None:
    found = {one.thing: one for one in object_changes(BEFORE, AFTER)}
    assert {thing: one.became for thing, one in found.items()} == {
        "Secret keys": Became.CHANGED,
        "Deployment voice-api": Became.CHANGED,
        "HorizontalPodAutoscaler voice-api": Became.ADDED,
        "ConfigMap gone": Became.REMOVED,
    }
    deployment = found["Deployment voice-api"].diff
    assert "-  replicas: 2" in deployment and "+  replicas: 3" in deployment
    assert "image: r/api@sha256:bbb" in deployment and "fence" not in deployment
    whole = "".join(one.diff for one in found.values())
    assert not [one for one in ("1234", "4321", "value: old", "value: new") if one in whole]
    assert "another" in found["Secret keys"].diff


def test_the_fence_comments_and_order_are_no_change() -> None:
    first, second, *_ = BEFORE.split("---\n")
    same = f"{second}---\n# x\n{first.replace('3', '12', 1)}"
    assert object_changes(f"{first}---\n{second}", same) == ()
    assert digest(f"{first}---\n{second}") == digest(same) != digest(first)


@pytest.mark.parametrize(("manifest", "pods"), [(BEFORE, "2"), (AFTER, "3 to 8"), ("", None)])
def test_replicas_are_the_autoscalers_where_there_is_one(manifest: str, pods: str | None) -> None:
    assert replicas(manifest).get("voice-api") == pods


def test_images_are_named_by_digest() -> None:
    assert images({"images": {"api": {"repository": "r/api", "digest": "sha256:a"}}}) == {"api": "sha256:a"}
    assert images({}) == {}

from __future__ import annotations

import pytest

from ci.delivery.fence import ANNOTATION, fence_of, policy


@pytest.mark.parametrize(
    ("annotations", "fence"), [({}, 0), (None, 0), ({ANNOTATION: "7"}, 7), ({ANNOTATION: "x"}, 0)]
)
def test_the_fence_that_an_object_carries(annotations: dict[str, str] | None, fence: int) -> None:
    assert fence_of({"metadata": {"annotations": annotations}}) == fence


def test_the_policy_looks_at_what_a_promoter_writes_and_at_nothing_of_controllers() -> None:
    made, binding = policy("va-promotion")
    rules = made["spec"]["matchConstraints"]["resourceRules"]
    assert [(rule["apiGroups"], rule["resources"]) for rule in rules] == [
        (["apps"], ["deployments"]),
        (["gateway.networking.k8s.io"], ["httproutes"]),
    ]
    assert not [one for rule in rules for one in rule["resources"] if "/" in one or one == "*"]
    assert made["spec"]["failurePolicy"] == "Fail"
    assert binding["spec"]["validationActions"] == ["Deny"]
    # Of the namespace that is written to, and nothing where nobody ever promoted.
    assert binding["spec"]["paramRef"] == {"name": "va-promotion", "parameterNotFoundAction": "Allow"}

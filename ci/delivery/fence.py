"""The fence: what a promoter writes says which one it is, and the cluster refuses one that has been replaced.

A promoter that was stopped, or cut off, may wake up in the middle of a write. So the fence of its lease goes
with each write of the route and of the workloads, as an annotation, and a policy in the cluster compares it
with the Lease (`va-promotion`, ci.delivery.lease) of that namespace, and with what the object says already:
the Lease as the API server has it may be some milliseconds old, the object never is. Whoever takes the lease
writes its fence onto what is there, and from then on nothing older gets through.

What is not held to it: status and scale (controllers, autoscalers), metadata alone, what carries no fence
(an older release's chart, other people's objects), and a change by hand, which leaves the fence as it is.
Helm by hand that goes back to an older revision brings an older fence along and is refused: `va rollback`,
or the label `va.dev/fence: "off"` on the namespace. Removals carry nothing: before one, the Lease is asked.

The policy is the cluster's: `va up` installs it, on AKS an administrator does (`va env fence`). A promoter's
own rights need nothing of it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ANNOTATION", "TAKEN_OVER", "fence_of", "policy"]

ANNOTATION = "va.dev/fence"
TAKEN_OVER = "another promoter has taken over here"
"""What the cluster says to a write that it refuses."""
_NAME = "va-fence"
_HAS = "has({0}.metadata.annotations) && '" + ANNOTATION + "' in {0}.metadata.annotations"
_FENCE = "{0}.metadata.annotations['" + ANNOTATION + "']"


def fence_of(thing: dict[str, Any]) -> int:
    """The fence that an object carries; 0 when it carries none."""
    text = str((thing["metadata"].get("annotations") or {}).get(ANNOTATION, ""))
    return int(text) if text.isdecimal() else 0


def policy(lease: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ValidatingAdmissionPolicy and its binding (Kubernetes 1.30), for Leases of that name."""
    new, old = _FENCE.format("object"), _FENCE.format("oldObject")
    group = "admissionregistration.k8s.io/v1"
    return (
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": _NAME},
            "spec": {
                "failurePolicy": "Fail",
                "paramKind": {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"},
                "matchConstraints": {
                    "resourceRules": [
                        _written("apps", "deployments"),
                        _written("gateway.networking.k8s.io", "httproutes"),
                    ]
                },
                "matchConditions": [
                    {"name": "carries-a-fence", "expression": _HAS.format("object")},
                    {
                        "name": "changes-what-runs",
                        "expression": f"oldObject == null || object.spec != oldObject.spec || "
                        f"!({_HAS.format('oldObject')}) || {new} != {old}",
                    },
                ],
                "validations": [
                    {
                        "expression": f"{new}.matches('^[0-9]{{1,18}}$')",
                        "message": f"the annotation {ANNOTATION} is no number",
                    },
                    {
                        "expression": "!has(params.spec.leaseTransitions) || "
                        f"int({new}) >= params.spec.leaseTransitions",
                        "messageExpression": f"'the fence ' + {new} + ' of this write is older than ' + "
                        "string(params.spec.leaseTransitions) + ' of the lease ' + params.metadata.name + "
                        f"': {TAKEN_OVER}'",
                    },
                    {
                        "expression": f"oldObject == null || !({_HAS.format('oldObject')}) || "
                        f"!{old}.matches('^[0-9]{{1,18}}$') || int({new}) >= int({old})",
                        "messageExpression": f"'the fence ' + {new} + ' of this write is older than ' + {old}"
                        f" + ', by which it was written last: {TAKEN_OVER}'",
                    },
                ],
            },
        },
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": _NAME},
            "spec": {
                "policyName": _NAME,
                # Of the namespace that is written to; where nobody ever promoted there is none.
                "paramRef": {"name": lease, "parameterNotFoundAction": "Allow"},
                "validationActions": ["Deny"],
                "matchResources": {
                    "namespaceSelector": {
                        "matchExpressions": [{"key": ANNOTATION, "operator": "NotIn", "values": ["off"]}]
                    }
                },
            },
        },
    )


def _written(group: str, resource: str) -> dict[str, Any]:
    """Of that resource alone: its status and scale are resources of their own."""
    return {
        "apiGroups": [group],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": [resource],
    }

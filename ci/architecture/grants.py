"""What a promoter may do in a cluster beyond Azure's own roles: objects that an administrator applies once.

"Azure Kubernetes Service RBAC Admin" writes all of Kubernetes' own objects in a namespace, but neither the
namespace itself nor what is the cluster's, nor objects of controllers. Kubernetes' own roles count beside
Azure's. Source: learn.microsoft.com, "Use Azure RBAC for Kubernetes authorization", Built-in roles, and
"Access and identity options for AKS".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ci.architecture.model import Architecture

__all__ = ["CONTROLLERS", "promoter"]

CONTROLLERS = {
    "azmonitoring.coreos.com": ("podmonitors",),
    "cilium.io": ("ciliumnetworkpolicies",),
    "external-secrets.io": ("externalsecrets", "secretstores"),
    "gateway.networking.k8s.io": ("gateways", "httproutes"),
    "keda.sh": ("scaledobjects", "triggerauthentications"),
    "secrets-store.csi.x-k8s.io": ("secretproviderclasses",),
}
"""Objects of the release that are controllers': their group and kinds."""

_GROUP = "rbac.authorization.k8s.io"
_NAME = "va-promoter"
_WRITE = ["get", "list", "watch", "create", "update", "patch", "delete"]


def promoter(architecture: Architecture, group: str) -> Iterator[dict[str, Any]]:
    """The namespaces, roles and bindings for the Entra group with this object id.

    The release's own namespace first. A namespace that the chart makes is Helm's from the beginning, or the
    first installation would refuse to take it over.
    """
    namespaces = architecture.access.roles["promoter"].namespaces
    subject = {"kind": "Group", "apiGroup": _GROUP, "name": group}
    release, *others = namespaces
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": release}}
    for name in others:
        yield {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": name,
                "labels": {"app.kubernetes.io/managed-by": "Helm"},
                "annotations": {
                    "meta.helm.sh/release-name": "voice",
                    "meta.helm.sh/release-namespace": release,
                    "helm.sh/resource-policy": "keep",
                },
            },
        }
    yield _role(
        f"{_NAME}-cluster",
        # `va promote` makes its namespace where it is not there: who may not make one is refused before that.
        _rule("", ["namespaces"], ["create"]),
        _rule("", ["namespaces"], ["get", "update", "patch"], names=list(namespaces)),
        _rule("", ["nodes"], ["get", "list"]),
        _rule("scheduling.k8s.io", ["priorityclasses"], _WRITE),
    )
    yield _role(_NAME, *(_rule(of, list(kinds), _WRITE) for of, kinds in sorted(CONTROLLERS.items())))
    yield _binding("ClusterRoleBinding", f"{_NAME}-cluster", subject)
    for name in namespaces:
        yield _binding("RoleBinding", _NAME, subject, namespace=name)


def _rule(of: str, kinds: list[str], verbs: list[str], *, names: list[str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"apiGroups": [of], "resources": kinds, "verbs": verbs}
    return {**found, "resourceNames": names} if names else found


def _role(name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": list(rules),
    }


def _binding(kind: str, role: str, subject: dict[str, str], *, namespace: str = "") -> dict[str, Any]:
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": kind,
        "metadata": {"name": role, **({"namespace": namespace} if namespace else {})},
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }

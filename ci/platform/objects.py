"""What the cluster holds before anything is deployed: Gateway API, Gateway, fence, the way to the host.

Everything is applied from the server's side, so that applying it again changes nothing.
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import httpx
import yaml

from ci import tools
from ci.delivery import fence, lease
from ci.errors import SystemUnavailable
from ci.platform.certificates import USERS, administrator
from ci.platform.cluster import client
from ci.platform.gateway import CONTROLLER
from ci.platform.instance import ENVIRONMENTS, Instance, Region
from ci.platform.livekit import API_KEY, livekit_secret
from ci.platform.part import Part, PartStatus, Say
from ci.platform.secret import secret
from ci.reasons import reason_of

__all__ = ["apply", "objects"]

SYSTEM_NAMESPACE = "va-system"
_ESTABLISHED_WITHIN = 60.0
"""Seconds, for an API server that has just started on a busy machine."""

_PLURALS = {
    "Namespace": "namespaces",
    "Secret": "secrets",
    "Service": "services",
    "EndpointSlice": "endpointslices",
    "GatewayClass": "gatewayclasses",
    "Gateway": "gateways",
    "CustomResourceDefinition": "customresourcedefinitions",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}

_READ = ["get", "list", "watch"]
_REPORTED = ("gatewayclasses", "gateways", "httproutes", "grpcroutes")
_ROLES: dict[str, list[dict[str, Any]]] = {
    # As CoreDNS's own deployment asks for them, without pods: their names are not served here.
    "coredns": [
        {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": _READ},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
    ],
    # As Traefik's documentation asks for them. Secrets too: certificates of listeners are in them.
    "gateway": [
        {"apiGroups": [""], "resources": ["services", "secrets", "configmaps", "namespaces"], "verbs": _READ},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["*"], "verbs": _READ},
        {
            "apiGroups": ["gateway.networking.k8s.io"],
            "resources": [f"{kind}/status" for kind in _REPORTED],
            "verbs": ["update"],
        },
    ],
    "discovery": [{"apiGroups": [""], "resources": ["pods"], "verbs": _READ}],
}
"""What the programs of `USERS` may do, but for kube-proxy: Kubernetes brings the role of that."""


def objects(place: Instance, region: Region) -> Part:
    """Applies them all to that region's cluster each time: a person may have changed some."""
    name, kubeconfig = f"{region.node} objects", administrator(place, region)

    async def up(say: Say) -> bool:
        changed = False
        async with client(kubeconfig) as api:
            for wanted in await _definitions(api):
                say(str(wanted["metadata"]["name"]))
                changed |= await apply(api, wanted)
            say("waiting for the Gateway API")
            await _established(api)
            for wanted in _objects(place):
                changed |= await apply(api, wanted)
        return changed

    async def status() -> PartStatus:
        if not kubeconfig.exists():
            return PartStatus(name=name, problem="not applied")
        try:
            async with client(kubeconfig) as api:
                found = await api.get(_path(_gateway(place)), timeout=3)
        except (OSError, httpx.HTTPError) as error:
            return PartStatus(name=name, problem=reason_of(error))
        return PartStatus(name=name, problem="" if found.is_success else "not applied")

    async def down() -> None:
        """They go with the cluster."""

    needs = (f"{region.node} kube-apiserver",)
    return Part(name=name, up=up, status=status, down=down, needs=needs, tools=("gateway-api",))


def _objects(place: Instance) -> list[dict[str, Any]]:
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}},
        {
            # kubeadm's own: the API server asks the kubelet as a member of this group, for logs say.
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "kubeadm:cluster-admins"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [
                {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "Group",
                    "name": "kubeadm:cluster-admins",
                }
            ],
        },
        *(one for name, rules in _ROLES.items() for one in _role(name, rules)),
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GatewayClass",
            "metadata": {"name": "va"},
            "spec": {"controllerName": CONTROLLER},
        },
        _gateway(place),
        *fence.policy(lease.NAME),
        *(one for name in ENVIRONMENTS for one in _redis(place, name)),
        *_to_host(place, "livekit", 7880, place.livekit),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": _meta("livekit"),
            "type": "Opaque",
            "data": _encoded(api_key=API_KEY, api_secret=livekit_secret(place)),
        },
    ]


def _redis(place: Instance, environment: str) -> list[dict[str, Any]]:
    """The way to an environment's Redis, and its password."""
    name = f"redis-{environment}"
    return [
        *_to_host(place, name, 6379, place.redis(environment)),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": _meta(name),
            "type": "Opaque",
            "data": _encoded(password=secret(place.redis_password(environment))),
        },
    ]


def _encoded(**values: str) -> dict[str, str]:
    return {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in values.items()}


def _role(name: str, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A role in the whole cluster, given to the user of that program."""
    group = "rbac.authorization.k8s.io"
    head = {"apiVersion": f"{group}/v1", "metadata": {"name": f"va-{name}"}}
    return [
        {**head, "kind": "ClusterRole", "rules": rules},
        {
            **head,
            "kind": "ClusterRoleBinding",
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": f"va-{name}"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": USERS[name]}],
        },
    ]


def _meta(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": SYSTEM_NAMESPACE}


def _gateway(place: Instance) -> dict[str, Any]:
    listener = {
        "name": "http",
        "protocol": "HTTP",
        "port": place.gateway,
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": _meta("voice"),
        "spec": {"gatewayClassName": "va", "listeners": [listener]},
    }


def _to_host(place: Instance, name: str, port: int, host_port: int) -> list[dict[str, Any]]:
    """A Service whose one endpoint is a process on the host, at the host's end of the link."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _meta(name),
            "spec": {"ports": [{"name": name, "port": port, "targetPort": host_port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**_meta(f"{name}-host"), "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": name, "port": host_port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [place.cluster.host_ip], "conditions": {"ready": True}}],
        },
    ]


async def _definitions(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    """The Gateway API's CRDs that the cluster lacks."""
    folder = tools.path("gateway-api")
    # Only their names: the definitions are long.
    there = await api.get(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        headers={"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"},
    )
    items = (there.json()["items"] or []) if there.is_success else []
    names = {str(item["metadata"]["name"]) for item in items}
    missing = [
        file
        for file in sorted(folder.glob("gateway.networking.k8s.io_*.yaml"))
        if f"{file.stem.split('_', 1)[1]}.gateway.networking.k8s.io" not in names
    ]
    return [await asyncio.to_thread(_parse, file.read_text()) for file in missing]


def _parse(text: str) -> dict[str, Any]:
    # The C parser: these files are long.
    found: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # nosec B506  # a safe loader, in C
    return found


async def _established(api: httpx.AsyncClient) -> None:
    """Wait until all kinds of the Gateway API that are used here are served: each is defined on its own."""
    wanted = {"gatewayclasses", "gateways", "httproutes"}
    deadline = time.monotonic() + _ESTABLISHED_WITHIN
    while True:
        found = await api.get("/apis/gateway.networking.k8s.io/v1")
        if found.is_success and wanted <= {str(item["name"]) for item in found.json()["resources"]}:
            return
        if time.monotonic() > deadline:
            raise SystemUnavailable("the cluster does not serve the Gateway API", hint="run va up again")
        await asyncio.sleep(0.1)


async def apply(api: httpx.AsyncClient, wanted: dict[str, Any]) -> bool:
    """Apply one object; True when that changed anything."""
    path = _path(wanted)
    before = await api.get(path)
    response = await api.patch(
        path,
        params={"fieldManager": "va", "force": "true"},
        json=wanted,
        headers={"Content-Type": "application/apply-patch+yaml"},
    )
    if not response.is_success:
        said = response.json().get("message", response.text)
        raise SystemUnavailable(f"the cluster refused {wanted['kind']} {wanted['metadata']['name']}: {said}")
    if not before.is_success:
        return True
    return bool(
        before.json()["metadata"]["resourceVersion"] != response.json()["metadata"]["resourceVersion"]
    )


def _path(wanted: dict[str, Any]) -> str:
    version, meta = wanted["apiVersion"], wanted["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
    return f"{root}{namespace}/{_PLURALS[wanted['kind']]}/{meta['name']}"

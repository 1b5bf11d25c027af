"""Kubernetes, as far as promotion needs it: pods, secrets, routes, leases. Only this module asks it.

Of the official client it is the connection, without the classes for each kind: these are 250 modules, a
second to import, in the way of all else. It blocks, so every call runs in a thread; each has a short timeout,
and every failure is SystemUnavailable, so that a cluster that is down is said within seconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client

from ci.concurrency import together
from ci.delivery.fence import ANNOTATION, TAKEN_OVER, fence_of
from ci.delivery.kubeconfig import read_settings
from ci.delivery.lease import LeaseLost
from ci.delivery.revisions import Revision, given_up, read_revision
from ci.errors import SystemUnavailable
from ci.quantities import quantity
from ci.reasons import reason_of

__all__ = ["Cluster", "Pod", "PodImage", "Ran", "connect", "understood_pod"]

_CONNECT_SECONDS = 3.0
_READ_SECONDS = 10.0
_HELM_KIND = "helm.sh/release.v1"
_GATEWAY_API = ("gateway.networking.k8s.io", "v1")
_LEASES = ("coordination.k8s.io", "v1")
_Kind = tuple[str, str, str]
"""Group, version and plural."""
_FENCED: tuple[_Kind, ...] = (("apps", "v1", "deployments"), (*_GATEWAY_API, "httproutes"))
_SCALERS: Mapping[_Kind, str] = {
    ("autoscaling", "v2", "horizontalpodautoscalers"): "minReplicas",
    ("keda.sh", "v1alpha1", "scaledobjects"): "minReplicaCount",
}
"""What scales workloads, and where each says how few pods there may be."""
_LEAST, _HELD = "va.dev/least", "va.dev/held"
"""What an autoscaler said before it was held, and at what it is held."""
_RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
"""What the chart's pods keep to: kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
(but LiveKit's, which has a namespace of its own)."""
_KEEPS_TO_IT = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_BAD_WAITING = ("ImagePullBackOff", "ErrImagePull", "CrashLoopBackOff", "CreateContainerConfigError")

_LAST_LINES = 5
_MERGE = "application/merge-patch+json"


@dataclass(frozen=True, kw_only=True)
class PodImage:
    """The image of one container of a pod."""

    container: str
    wanted: str
    """The reference in the pod's spec."""
    running: str
    """What the runtime says that it runs (`repository@digest`, or a bare digest); empty before it does."""


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One pod of a release as the cluster sees it now."""

    name: str
    app: str
    """`api`, `agent` or `web`: its app.kubernetes.io/name, as the chart gives it."""
    track: str
    release: str
    ready: bool
    leaving: bool
    restarts: int
    """Of all its containers that run as long as it does."""
    out_of_memory: bool
    memory_limit: float | None
    """Bytes, over all containers; None when one has no limit, and neither has the pod."""
    trouble: str
    """Why a container does not start, in Kubernetes's words; empty when nothing is wrong."""
    phase: str = "Running"
    node: str = ""
    images: tuple[PodImage, ...] = ()

    @property
    def serves(self) -> bool:
        """Whether it answers sessions now, and so counts them."""
        return self.ready and self.runs and self.app.endswith("api")

    @property
    def runs(self) -> bool:
        """Whether it is at work: one that waits does not, nor one that goes or has ended."""
        return self.phase == "Running" and not self.leaving

    @property
    def ended(self) -> bool:
        """Whether it only lies there: evicted ones stay, as Failed, until somebody removes them."""
        return self.phase in ("Failed", "Succeeded")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What became of a pod that runs once."""

    code: int | None
    """Its exit code; None when it came to no end of its own: not scheduled, not started, out of time."""
    words: str
    """The last lines that it printed, or what keeps it."""


class Cluster:
    """One cluster, through one context of a kubeconfig."""

    def __init__(self, api: client.ApiClient, name: str, threads: Executor | None = None) -> None:
        self.name = name
        self._api = api
        self._threads = threads

    async def version(self) -> str:
        """The server's version: the quickest way to see that it answers."""
        return str((await self._found("/version"))["gitVersion"])

    async def may(self, verb: str, group: str, resource: str, namespace: str = "") -> bool:
        """Whether whoever asks may do that, as the cluster's authorizers say; nothing is done.

        kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access.
        """
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        found = await self._write("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        return bool(((found or {}).get("status") or {}).get("allowed"))

    async def pods(self, namespace: str) -> tuple[Pod, ...]:
        """The pods of both tracks in a namespace; none when there is no such namespace."""
        found = await self.objects(f"/api/v1/namespaces/{namespace}/pods", labels="va.dev/track")
        return tuple(understood_pod(pod) for pod in found or ())

    async def helm_revisions(
        self, namespace: str, *, name: str | None = None, history: bool = False
    ) -> tuple[Revision, ...]:
        """Helm's revisions in a namespace (of one Helm release), the newest first.

        Those that another one has superseded only with `history`.
        """
        labels = ["owner=helm"]
        labels += [f"name={name}"] if name else []
        labels += [] if history else ["status!=superseded"]
        path = f"/api/v1/namespaces/{namespace}/secrets"
        found, said = await self._get(path, [("labelSelector", ",".join(labels))])
        now = parsedate_to_datetime(said) if said else None
        secrets = (found or {}).get("items") or ()
        made = (read_revision(one, now) for one in secrets if one.get("type") == _HELM_KIND)
        return tuple(sorted(made, key=lambda one: one.number, reverse=True))

    async def give_up(self, namespace: str, left: Revision) -> None:
        """Have Helm take a revision that was left in between for a failed one; nothing when it goes on."""
        path = f"/api/v1/namespaces/{namespace}/secrets/sh.helm.release.v1.{left.name}.v{left.number}"
        found, _ = await self._get(path)
        if found is not None and read_revision(found).status == left.status:
            await self._write("PUT", path, given_up(found), allowed=(404, 409))

    async def objects(
        self, path: str, *, labels: str = "", names_only: bool = False
    ) -> tuple[dict[str, Any], ...] | None:
        """What is listed at a path of the API, as plain data; None when there is no such kind.

        `names_only`: their metadata alone (kubernetes.io/docs/reference/using-api/api-concepts, partial
        objects), which is all that it takes to see that something is there.
        """
        accept = "application/json"
        if names_only:
            accept += ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        query = [("labelSelector", labels)] if labels else []
        found, _ = await self._get(path, query, accept=accept)
        return None if found is None else tuple(found.get("items") or ())

    async def _get(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        *,
        accept: str = "application/json",
        allowed: tuple[int, ...] = (404,),
    ) -> tuple[dict[str, Any] | None, str]:
        """What is at a path of the API, as plain data, and the Date of the answer; None where `allowed`."""
        found = await self._asked("GET", path, query, accept=accept, allowed=allowed)
        return (json.loads(found[0]), found[1]) if found else (None, "")

    async def _found(self, path: str) -> dict[str, Any]:
        """What is at a path of the API: that there is none is an error, too."""
        found, _ = await self._get(path, allowed=())
        assert found is not None
        return found

    async def _write(
        self, method: str, path: str, body: object, *, allowed: tuple[int, ...] = ()
    ) -> dict[str, Any] | None:
        """What the API has then at that path; None where `allowed`. A PATCH is a merge (RFC 7386)."""
        found = await self._asked(method, path, body=body, allowed=allowed)
        return json.loads(found[0]) if found else None

    async def images_on_nodes(self) -> dict[str, frozenset[str]]:
        """By node, the references that its container runtime lists; none where nodes may not be read."""
        found, _ = await self._get("/api/v1/nodes", allowed=(403,))
        return {
            str(node["metadata"]["name"]): frozenset(
                str(name)
                for image in (node.get("status") or {}).get("images") or ()
                for name in image.get("names") or ()
            )
            for node in (found or {}).get("items") or ()
        }

    async def last_words(self, namespace: str, pod: str, *, previous: bool = True) -> str:
        """The last line that a container which has ended printed; empty when there is none to be had.

        That of the container before the one that runs now; with `previous=False`, of the only one there was.
        """
        printed = await self._printed(namespace, pod, previous=previous)
        return next(reversed(printed), "")[:300]

    async def ran_once(self, namespace: str, pod: str) -> Ran:
        """What became of a pod that runs once: of a Job, or a test."""
        found, _ = await self._get(f"/api/v1/namespaces/{namespace}/pods/{pod}")
        if found is None:
            return Ran(code=None, words="there is no such pod")
        status = found.get("status") or {}
        states = [one.get("state") or {} for one in status.get("containerStatuses") or ()]
        ends = [one.get("terminated") or {} for one in states]
        said = "; ".join(await self._printed(namespace, pod, previous=False))[-1000:]
        if all(ends) and ends and status.get("reason") != "DeadlineExceeded":
            return Ran(code=max(int(end.get("exitCode") or 0) for end in ends), words=said)
        scheduled = [one for one in status.get("conditions") or [] if one.get("status") == "False"]
        why = understood_pod(found).trouble or status.get("message") or status.get("reason")
        why = why or next((one["message"] for one in scheduled if one.get("message")), "")
        return Ran(code=None, words="; ".join(filter(None, [why or status.get("phase", ""), said])))

    async def _printed(self, namespace: str, pod: str, *, previous: bool) -> list[str]:
        """The last lines that a container printed; none when there is none to be had."""
        query = [("tailLines", str(_LAST_LINES)), ("previous", str(previous).lower())]
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        try:
            log = await self._asked("GET", path, query, accept="*/*")
        except SystemUnavailable:
            return []
        lines = log[0].decode(errors="replace").splitlines() if log else ()
        return [line.strip() for line in lines if line.strip()]

    async def refusals(self, namespace: str) -> dict[str, str]:
        """Why the cluster does not even make pods, by the name of the set that asks for them."""
        found = await self._found(f"/apis/apps/v1/namespaces/{namespace}/replicasets")
        return {
            str(item["metadata"]["name"]): str(condition.get("message"))
            for item in found.get("items") or ()
            for condition in (item.get("status") or {}).get("conditions") or ()
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True"
        }

    async def migrations(self, namespace: str) -> dict[str, str]:
        """What keeps the chart's migrations from their end, by pod: Kubernetes' words, or their last ones."""
        path, selector = f"/api/v1/namespaces/{namespace}/pods", "app.kubernetes.io/name=migrate"
        said = {}
        for pod in await self.objects(path, labels=selector) or ():
            name, trouble = pod["metadata"]["name"], understood_pod(pod).trouble
            if not trouble and (pod.get("status") or {}).get("phase") == "Failed":
                trouble = await self.last_words(namespace, name, previous=False)
            if trouble:
                said[name] = trouble
        return said

    async def refuses(self, namespace: str, image: str) -> str:
        """Why the cluster would not run a pod of that image there; empty when it would. No pod is made."""
        body = {
            "metadata": {"generateName": "would-it-run-"},
            "spec": {"containers": [{"name": "main", "image": image, "securityContext": _KEEPS_TO_IT}]},
        }
        path = f"/api/v1/namespaces/{namespace}/pods"
        try:
            await self._asked("POST", path, [("dryRun", "All")], body=body)
        except SystemUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, client.ApiException) and cause.status == HTTPStatus.FORBIDDEN:
                return _said(cause)
            raise
        return ""

    async def ensure_namespace(self, namespace: str, labels: Mapping[str, str]) -> None:
        """Have a namespace with these labels that lets in restricted pods only.

        SystemUnavailable while one of that name is still being deleted.
        """
        labels = {"app.kubernetes.io/part-of": "voice-assistant", **_RESTRICTED, **labels}
        body = {"metadata": {"name": namespace, "labels": labels}}
        path = f"/api/v1/namespaces/{namespace}"
        there, _ = await self._get(path)
        there = there or await self._write("POST", "/api/v1/namespaces", body, allowed=(409,))
        there = there or await self._found(path)
        if (there.get("status") or {}).get("phase") == "Terminating":
            raise SystemUnavailable(
                f"the namespace {namespace} is being deleted", hint="wait until it is gone, then run it again"
            )
        if not labels.items() <= (there["metadata"].get("labels") or {}).items():
            await self._write("PATCH", path, {"metadata": {"labels": labels}})

    async def ensure_secret_copy(
        self, name: str, namespace: str, *, source: str, source_namespace: str, keys: dict[str, str]
    ) -> None:
        """Have a secret with the values of another one, under other keys (`{new key: source's key}`)."""
        there, _ = await self._get(f"/api/v1/namespaces/{source_namespace}/secrets/{source}")
        if there is None:
            raise SystemUnavailable(
                f"{self.name} has no secret {source} in {source_namespace}", hint="va up makes it"
            )
        has = there.get("data") or {}
        missing = [key for key in keys.values() if key not in has]
        if missing:
            raise SystemUnavailable(f"the secret {source_namespace}/{source} has no key {', '.join(missing)}")
        data = {new: has[old] for new, old in keys.items()}
        body = {"metadata": {"name": name}, "type": "Opaque", "data": data}
        path = f"/api/v1/namespaces/{namespace}/secrets"
        now, _ = await self._get(f"{path}/{name}")
        if now is None:
            await self._write("POST", path, body, allowed=(409,))
        elif now.get("data") != data:
            await self._write("PATCH", f"{path}/{name}", {"data": data})

    async def route(self, name: str, namespace: str) -> dict[str, Any] | None:
        """An HTTPRoute as plain data; None when it is not there."""
        found, _ = await self._get(f"/apis/{'/'.join(_GATEWAY_API)}/namespaces/{namespace}/httproutes/{name}")
        return found

    async def replace_route(self, route: dict[str, Any]) -> None:
        """Write an HTTPRoute that was read before; a change by someone else in between is an error."""
        meta = route["metadata"]
        await self._write("PUT", _path((*_GATEWAY_API, "httproutes"), meta["namespace"], meta["name"]), route)

    async def lease(self, name: str, namespace: str) -> tuple[dict[str, Any] | None, datetime]:
        """A Lease as plain data, None when it is not there, and what time it is for the cluster."""
        path = f"/apis/{'/'.join(_LEASES)}/namespaces/{namespace}/leases"
        listed, said = await self._get(path, [("fieldSelector", f"metadata.name={name}")])
        now = parsedate_to_datetime(said) if said else datetime.now(UTC)
        return next(iter((listed or {}).get("items") or ()), None), now

    async def write_lease(self, lease: dict[str, Any]) -> dict[str, Any] | None:
        """Make a Lease, or replace the one that was read; None when somebody else did so meanwhile."""
        meta = lease["metadata"]
        path = _path((*_LEASES, "leases"), meta["namespace"])
        if "resourceVersion" in meta:
            return await self._write("PUT", f"{path}/{meta['name']}", lease, allowed=(404, 409))
        return await self._write("POST", path, lease, allowed=(409,))

    async def highest_fence(self, namespace: str) -> int:
        """The highest fence that anything in the namespace carries; 0 when nothing does."""
        return max((fence_of(one) for _, one in await self._fenced(namespace)), default=0)

    async def stamp(self, namespace: str, fence: int) -> None:
        """Write that fence onto what carries one already: from now on nothing older gets through there."""
        for kind, one in await self._fenced(namespace):
            if fence_of(one) not in (0, fence):
                path = _path(kind, namespace, one["metadata"]["name"])
                meta = {"annotations": {ANNOTATION: str(fence)}}
                await self._write("PATCH", path, {"metadata": meta}, allowed=(404,))

    async def _fenced(self, namespace: str) -> list[tuple[_Kind, dict[str, Any]]]:
        return await self._each(_FENCED, namespace)

    async def hold_scale(self, namespace: str, track: str) -> tuple[str, ...]:
        """Keep that track's autoscalers from having fewer pods than there are now; says which it changed.

        While a canary takes half of the load, stable needs half of its pods, and then, at once, all of them.
        """
        changed = []
        for kind, one in await self._each(_SCALERS, namespace, f"va.dev/track={track}"):
            if one["metadata"].get("ownerReferences"):
                continue  # KEDA's own, which follows its ScaledObject
            name, target = one["metadata"]["name"], one["spec"]["scaleTargetRef"]["name"]
            workload, _ = await self._get(_path(("apps", "v1", "deployments"), namespace, target))
            now = int((workload["spec"].get("replicas") or 0) if workload else 0)
            before = int(one["spec"].get(_SCALERS[kind]) or 0)
            if now <= before:
                continue
            kept = (one["metadata"].get("annotations") or {}).get(_LEAST, str(before))
            await self._scale(kind, namespace, name, now, {_LEAST: kept, _HELD: str(now)})
            changed.append(f"{name}: {now} pods at least")
        return tuple(changed)

    async def release_scale(self, namespace: str, track: str) -> None:
        """Let that track's autoscalers have as few pods as before `hold_scale`; one that Helm has set anew
        since stays as it is."""
        for kind, one in await self._each(_SCALERS, namespace, f"va.dev/track={track}"):
            said = one["metadata"].get("annotations") or {}
            if _HELD not in said:
                continue
            now = int(one["spec"].get(_SCALERS[kind]) or 0)
            back = int(said[_LEAST]) if said[_HELD] == str(now) else now
            gone: dict[str, str | None] = {_LEAST: None, _HELD: None}
            await self._scale(kind, namespace, one["metadata"]["name"], back, gone)

    async def _scale(
        self, kind: _Kind, namespace: str, name: str, least: int, annotations: Mapping[str, str | None]
    ) -> None:
        body = {"metadata": {"annotations": annotations}, "spec": {_SCALERS[kind]: least}}
        await self._write("PATCH", _path(kind, namespace, name), body, allowed=(404,))

    async def _each(
        self, kinds: Iterable[_Kind], namespace: str, selector: str = ""
    ) -> list[tuple[_Kind, dict[str, Any]]]:
        """All of these kinds, asked for at once, each with its kind; none of one that the cluster lacks."""

        async def of(kind: _Kind) -> list[tuple[_Kind, dict[str, Any]]]:
            found = await self.objects(_path(kind, namespace), labels=selector)
            return [(kind, one) for one in found or ()]

        return [one for listed in await together(map(of, kinds)) for one in listed]

    async def config_map(self, name: str, namespace: str) -> dict[str, str] | None:
        """The data of a ConfigMap; None when it is not there."""
        found, _ = await self._get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
        return dict(found.get("data") or {}) if found else None

    async def _asked(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        *,
        body: object = None,
        accept: str = "application/json",
        allowed: tuple[int, ...] = (),
    ) -> tuple[bytes, str] | None:
        """The content of an answer of the API, and its Date; None where its status is one of `allowed`."""
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = _MERGE if method == "PATCH" else "application/json"

        def ask() -> tuple[bytes, str]:
            request = self._api.param_serialize(
                method, path, query_params=list(query), header_params=headers, body=body,
                auth_settings=["BearerToken"],
            )  # fmt: skip
            answer = self._api.call_api(*request, _request_timeout=(_CONNECT_SECONDS, _READ_SECONDS))
            content: bytes = answer.read()  # type: ignore[no-untyped-call]
            if not 200 <= answer.status < 300:
                raise client.ApiException.from_response(http_resp=answer, body=content.decode(), data=None)
            return content, answer.headers.get("Date") or ""

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        except client.ApiException as error:
            if error.status in allowed:
                return None
            said = _said(error)
            if TAKEN_OVER in said:
                raise LeaseLost(
                    f"the cluster {self.name} refused it: {said}",
                    hint="run the same command again: it looks first, and goes on",
                ) from error
            hint = "check the rights of this kubeconfig's user" if error.status in (401, 403) else ""
            raise SystemUnavailable(f"the cluster {self.name} answered: {said}", hint=hint) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise SystemUnavailable(
                f"the cluster {self.name} does not answer: {reason_of(error)}",
                hint="va status says which part is down, va up starts it again; then run the same command",
            ) from error


def _path(kind: _Kind, namespace: str, name: str = "") -> str:
    group, version, plural = kind
    path = f"/apis/{group}/{version}/namespaces/{namespace}/{plural}"
    return f"{path}/{name}" if name else path


def connect(kubeconfig: Path, context: str, threads: Executor | None = None) -> Cluster:
    """The cluster of that context. Nothing is asked yet; BadInput lists the contexts there are.

    It is asked in `threads`; None: in those of the loop, which are a few more than there are processors.
    """
    settings = read_settings(kubeconfig, context)
    settings.retries = urllib3.Retry(total=1, backoff_factor=0.2)
    return Cluster(client.ApiClient(settings), context, threads)


def understood_pod(pod: dict[str, Any]) -> Pod:
    """A pod from Kubernetes's JSON."""
    meta, status = pod["metadata"], pod.get("status") or {}
    labels = meta.get("labels") or {}
    spec = pod.get("spec") or {}
    lasting = {item.get("name") for item in _containers(spec)}
    containers = status.get("containerStatuses") or []
    every = [*(status.get("initContainerStatuses") or []), *containers]
    conditions = {item["type"]: item["status"] for item in status.get("conditions") or []}
    states = [part for item in every for part in (item.get("state") or {}, item.get("lastState") or {})]
    waiting = [state["waiting"] for state in states if "waiting" in state]
    return Pod(
        name=meta["name"],
        app=labels.get("app.kubernetes.io/name", ""),
        track=labels.get("va.dev/track", ""),
        release=labels.get("va.dev/release", ""),
        ready=conditions.get("Ready") == "True",
        leaving="deletionTimestamp" in meta,
        phase=status.get("phase") or "Unknown",
        restarts=sum(int(item.get("restartCount") or 0) for item in every if item.get("name") in lasting),
        out_of_memory=any((s.get("terminated") or {}).get("reason") == "OOMKilled" for s in states),
        memory_limit=_memory_limit(spec),
        trouble="; ".join(
            f"{item['reason']}: {item.get('message', '')}".rstrip(": ")
            for item in waiting
            if item.get("reason") in _BAD_WAITING
        ),
        node=spec.get("nodeName") or "",
        images=tuple(_images(spec, every)),
    )


def _images(spec: dict[str, Any], statuses: list[dict[str, Any]]) -> Iterator[PodImage]:
    """Of all that runs in a pod, before its containers and beside them, too."""
    running = {item.get("name"): item.get("imageID") or "" for item in statuses}
    for item in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        name = item.get("name", "")
        yield PodImage(container=name, wanted=item.get("image", ""), running=running.get(name, ""))


def _containers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that run as long as the pod does: sidecars, which are init containers that restart, too."""
    init = spec.get("initContainers") or []
    return [
        *(item for item in init if item.get("restartPolicy") == "Always"),
        *(spec.get("containers") or []),
    ]


def _memory_limit(spec: Mapping[str, Any]) -> float | None:
    """That of the pod itself (Kubernetes 1.34 has one on), or else of its containers together."""
    whole = spec.get("resources") or {}
    each = [item.get("resources") or {} for item in _containers(spec)]
    resources = [whole] if "memory" in (whole.get("limits") or {}) else each
    limits: list[str] = [
        one["limits"]["memory"] for one in resources if "memory" in (one.get("limits") or {})
    ]
    if not limits or len(limits) < len(resources):
        return None
    try:
        return float(sum((quantity(limit) for limit in limits), Decimal(0)))
    except ValueError:
        return None  # no API server stores such a one


def _said(error: client.ApiException) -> str:
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"

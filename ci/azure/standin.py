"""A stand-in for Azure Resource Manager on this machine: keeps state, takes time, conflicts, throttles.

It speaks the part of ARM that ci.azure.deploy uses, closely enough that the real SDK cannot tell: resource
groups, deployments as long-running operations that bring about one resource after another in the order of
their dependencies, their operations, what-if on what is really stored, exported templates, locks that keep
a group from being deleted. It evaluates the expressions that our templates use and refuses a reference to
what is not there, and what ci.azure.refusals and ci.azure.limits know that Azure refuses of a resource. The
rest only Azure itself does.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ci import dates
from ci.azure.refusals import Refused, World, refuse, refuse_at_once
from ci.azure.template import Scope, made_up
from ci.errors import PipelineError
from ci.files import write_whole
from ci.serving import serving

__all__ = ["Fault", "StandIn", "serve"]

_IGNORED = ("provisioningState",)


@dataclass
class Fault:
    """What goes wrong, `times` times: a request answered with `status`, or a resource that fails."""

    times: int = 1
    status: int = 0
    path: str = ""
    retry_after: str = "0"
    resource: str = ""

    def strikes(self) -> bool:
        """Whether it happens now; uses one of its times up."""
        self.times -= 1
        return self.times >= 0


@dataclass
class StandIn:
    """The whole of the stand-in: what is stored, how fast it works, what goes wrong.

    `per_poll` resources come about each time someone asks how a deployment is doing. With `file`, what is
    stored is there again after a restart, half-done deployments included.
    """

    file: Path | None = None
    per_poll: int = 10_000
    faults: list[Fault] = field(default_factory=list)
    groups: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)
    deployments: dict[str, Any] = field(default_factory=dict)
    deleted: dict[str, Any] = field(default_factory=dict)
    """Vaults that were deleted and can come back, by name."""
    others: set[str] = field(default_factory=set)
    """Global names that somebody else has."""
    today: date = field(default_factory=dates.today)
    requests: list[str] = field(default_factory=list)
    _results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file is not None and self.file.is_file():
            kept = json.loads(self.file.read_text())
            self.groups, self.resources, self.deployments = (
                kept["groups"],
                kept["resources"],
                kept["deployments"],
            )
            self.deleted = kept.get("deleted", {})

    def app(self) -> Starlette:
        """The ASGI application."""
        methods = ["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH"]
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        self.requests.append(f"{request.method} {path}")
        for fault in self.faults:
            if fault.status and fault.path in f"{request.method} {path}" and fault.strikes():
                body = {"error": {"code": f"Fault{fault.status}", "message": "as the test asked"}}
                # The SDK asks again whenever it is told when, whatever the status.
                headers = {"Retry-After": fault.retry_after} if fault.status in (429, 503) else {}
                return JSONResponse(body, fault.status, headers)
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return _error(Refused(401, "AuthenticationFailed", "The 'Authorization' header is missing."))
        body = await request.json() if request.headers.get("content-length", "0") not in ("", "0") else {}
        try:
            answer = self._route(request, path, body)
        except Refused as refused:
            answer = _error(refused)
        if request.method != "GET" or "deployments" in path:
            try:
                self._keep()
            except PipelineError as error:
                return _error(Refused(507, "InsufficientStorage", str(error)))
        return answer

    def _keep(self) -> None:
        if self.file is not None:
            kept = {
                "groups": self.groups,
                "resources": self.resources,
                "deployments": self.deployments,
                "deleted": self.deleted,
            }
            write_whole(self.file, json.dumps(kept))

    def _route(self, request: Request, path: str, body: Any) -> Response:
        method = request.method
        base = str(request.base_url).rstrip("/")
        if match := re.fullmatch(r"/operations/(.+)", path):
            return self._operation(match[1])
        if match := re.fullmatch(r"(?i)/subscriptions/([^/]+)/resourcegroups/([^/]+)", path):
            return self._group(method, match[1], match[2], body, base)
        found = re.fullmatch(
            r"(?i)/subscriptions/([^/]+)/resourcegroups/([^/]+)/providers/microsoft\.resources/deployments/([^/]+)(/.*)?",
            path,
        )
        if found:
            group = self._known_group(found[2])
            return self._deployment(method, found[1], group, found[3], (found[4] or "").lower(), body, base)
        if match := re.fullmatch(r"(?i)/subscriptions/[^/]+/resourcegroups/([^/]+)/resources", path):
            group = self._known_group(match[1])
            return JSONResponse({"value": list(self._in(group))})
        if match := re.fullmatch(r"(?i)/subscriptions/[^/]+/resourcegroups/([^/]+)/providers/.*/locks", path):
            group = self._known_group(match[1])
            return JSONResponse({"value": [one for one in self._in(group) if one["type"].endswith("/locks")]})
        if re.search(r"(?i)/check(TrafficManager)?NameAvailability(V2)?$", path):
            return self._available(body["type"], body["name"])
        if match := re.fullmatch(
            r"(?i)/.*/Microsoft\.KeyVault/locations/([^/]+)/deletedVaults/([^/]+)", path
        ):
            return self._deleted_vault(match[1], match[2])
        if match := re.fullmatch(r"(/.*/managedClusters/([^/]+))/listClusterUserCredential", path):
            return self._kubeconfig(match[1], match[2])
        if "/providers/" in path:
            return self._resource(method, path, body)
        raise Refused(404, "NotFound", f"nothing at {path}")

    # --- resource groups -----------------------------------------------------------------

    def _known_group(self, group: str) -> str:
        if group.lower() not in self.groups:
            raise Refused(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
        return group.lower()

    def _in(self, group: str) -> Iterator[dict[str, Any]]:
        mark = f"/resourcegroups/{group.lower()}/"
        return (one for key, one in self.resources.items() if mark in key)

    def _group(self, method: str, subscription: str, group: str, body: Any, base: str) -> Response:
        key = group.lower()
        if method == "PUT":
            new = key not in self.groups
            self.groups[key] = {
                "id": f"/subscriptions/{subscription}/resourceGroups/{group}",
                "name": group,
                "type": "Microsoft.Resources/resourceGroups",
                "location": body["location"],
                "tags": body.get("tags", {}),
                "properties": {"provisioningState": "Succeeded"},
            }
            return JSONResponse(self.groups[key], 201 if new else 200)
        if method == "HEAD":
            return Response(status_code=204 if key in self.groups else 404)
        self._known_group(group)
        if method == "DELETE":
            if any(one["type"].endswith("/locks") for one in self._in(key)):
                raise Refused(409, "ScopeLocked", f"The scope '{group}' cannot be deleted: it is locked.")
            for gone in [one["id"].lower() for one in self._in(key)]:
                self._forget(gone)
            for gone in [one for one in self.deployments if one.startswith(f"{key}/")]:
                del self.deployments[gone]
            del self.groups[key]
            return self._later(base, {"status": "Succeeded"}, polls=2)
        return JSONResponse(self.groups[key])

    def _later(self, base: str, result: Any, *, polls: int = 1) -> Response:
        ticket = str(len(self._results) + 1)
        self._results[ticket] = {"left": polls, "result": result}
        return Response(
            status_code=202, headers={"Location": f"{base}/operations/{ticket}", "Retry-After": "0"}
        )

    def _operation(self, ticket: str) -> Response:
        if ticket.startswith("deployment/"):
            key = ticket.removeprefix("deployment/")
            if key not in self.deployments:
                raise Refused(404, "DeploymentNotFound", f"no deployment {key}")
            self._advance(key)
            deployment = self.deployments[key]
            state = deployment["state"]
            answer = {"status": state if state in ("Succeeded", "Failed", "Canceled") else "Running"}
            if deployment["error"]:
                answer["error"] = deployment["error"]
            return JSONResponse(answer, headers={"Retry-After": "0"})
        if ticket not in self._results:
            raise Refused(404, "NotFound", "no such operation")
        waiting = self._results[ticket]
        waiting["left"] -= 1
        if waiting["left"] > 0:
            return Response(status_code=202, headers={"Retry-After": "0"})
        return JSONResponse(waiting["result"])

    # --- single resources ----------------------------------------------------------------

    def _resource(self, method: str, path: str, body: Any) -> Response:
        key = path.lower()
        if method == "HEAD":
            return Response(status_code=204 if key in self.resources else 404)
        if method == "GET" and len(path.rsplit("/providers/", 1)[-1].split("/")) % 2 == 0:
            return self._children(path)
        if method == "PUT":
            self.resources[key] = {
                **body,
                "id": path,
                "name": path.rsplit("/", 1)[-1],
                "type": _type_of(path),
            }
            return JSONResponse(self.resources[key])
        if key not in self.resources:
            if method == "DELETE":
                return Response(status_code=204)
            raise Refused(404, "ResourceNotFound", f"The resource '{path}' was not found.")
        if method == "DELETE":
            self._forget(key)
            return Response(status_code=200)
        return JSONResponse(self.resources[key])

    def _forget(self, key: str) -> None:
        """A resource is deleted; a vault keeps its name and can come back."""
        gone = self.resources.pop(key)
        if gone["type"] == "Microsoft.KeyVault/vaults":
            self.deleted[gone["name"].lower()] = gone

    def _deleted_vault(self, location: str, name: str) -> Response:
        found = self.deleted.get(name.lower())
        if found is None or found["location"] != location.lower():
            raise Refused(404, "DeletedVaultNotFound", f"There is no deleted vault {name} in {location}.")
        return JSONResponse(
            {"name": found["name"], "properties": {"vaultId": found["id"], "location": location}}
        )

    def _available(self, kind: str, name: str) -> Response:
        """Whether a name that is one's own in all of Azure is to be had; `others` have some."""
        there = {
            one["name"].lower() for one in self.resources.values() if one["type"].lower() == kind.lower()
        }
        free = name.lower() not in there | {*self.others, *self.deleted}
        said = {"nameAvailable": free, "reason": "AlreadyExists", "message": f"The name {name} is taken."}
        return JSONResponse(said if not free else {"nameAvailable": True})

    def _kubeconfig(self, own: str, name: str) -> Response:
        """How a cluster is entered: as AKS says it to who may, with the certificate of its own authority."""
        if own.lower() not in self.resources:
            raise Refused(404, "ResourceNotFound", f"The resource '{own}' was not found.")
        address = made_up(own, "privateFQDN", self.resources[own.lower()]["location"])
        authority = base64.b64encode(f"the certificate of {name}'s authority".encode()).decode()
        cluster = {"server": f"https://{address}:443", "certificate-authority-data": authority}
        said = json.dumps({"kind": "Config", "clusters": [{"name": name, "cluster": cluster}]})
        value = base64.b64encode(said.encode()).decode()
        return JSONResponse({"kubeconfigs": [{"name": "clusterUser", "value": value}]})

    def _children(self, path: str) -> Response:
        """All of one type below a resource: `…/registries/NAME/replications`."""
        parent, _, kind = path.lower().rpartition("/")
        if parent not in self.resources:
            raise Refused(404, "ResourceNotFound", f"The resource '{parent}' was not found.")
        mark = f"{parent}/{kind}/"
        found = [
            {**one, "name": key.removeprefix(mark)}
            for key, one in sorted(self.resources.items())
            if key.startswith(mark) and "/" not in key.removeprefix(mark)
        ]
        return JSONResponse({"value": found})

    # --- deployments ---------------------------------------------------------------------

    def _deployment(
        self, method: str, subscription: str, group: str, name: str, action: str, body: Any, base: str
    ) -> Response:
        key = f"{group}/{name.lower()}"
        scope = Scope(subscription, self.groups[group]["name"], self.resources)
        if action == "/whatif":
            return self._later(
                base, {"status": "Succeeded", "properties": {"changes": self._what_if(scope, body)}}, polls=2
            )
        if action == "/validate":
            scope.resources(body["properties"])
            return JSONResponse({"id": key, "name": name, "properties": {"provisioningState": "Succeeded"}})
        if method == "PUT":
            running = self.deployments.get(key)
            if running and running["state"] == "Running":
                raise Refused(409, "DeploymentActive", f"The deployment '{name}' is already running.")
            wanted = scope.resources(body["properties"])
            self.deployments[key] = {
                "id": f"/subscriptions/{subscription}/resourceGroups/{scope.group}"
                f"/providers/Microsoft.Resources/deployments/{name}",
                "name": name,
                "tags": body.get("tags", {}),
                "state": "Running",
                "error": None,
                "template": body["properties"]["template"],
                "parameters": body["properties"].get("parameters", {}),
                "subscription": subscription,
                "todo": [one["id"] for one in wanted],
                "done": [],
            }
            location = f"{base}/operations/deployment/{key}"
            return JSONResponse(self._shown(key), 201, {"Azure-AsyncOperation": location, "Retry-After": "0"})
        if key not in self.deployments:
            raise Refused(404, "DeploymentNotFound", f"Deployment '{name}' could not be found.")
        deployment = self.deployments[key]
        if action == "/cancel":
            if deployment["state"] == "Running":
                deployment["state"] = "Canceled"
            return Response(status_code=204)
        if action == "/exporttemplate":
            return JSONResponse({"template": deployment["template"]})
        if action == "/operations":
            done = [
                {
                    "operationId": one.rsplit("/", 1)[-1],
                    "properties": {
                        "provisioningOperation": "Create",
                        "provisioningState": "Succeeded",
                        "targetResource": {
                            "id": one,
                            "resourceType": _type_of(one),
                            "resourceName": one.split("/")[-1],
                        },
                    },
                }
                for one in deployment["done"]
            ]
            return JSONResponse({"value": done})
        self._advance(key)
        return JSONResponse(self._shown(key))

    def _shown(self, key: str) -> dict[str, Any]:
        deployment = self.deployments[key]
        properties = {
            "provisioningState": deployment["state"],
            "mode": "Incremental",
            "outputResources": [{"id": one} for one in deployment["done"]],
            "parameters": deployment["parameters"],
        }
        if deployment["error"]:
            properties["error"] = deployment["error"]
        if "outputs" in deployment:
            properties["outputs"] = deployment["outputs"]
        return {
            "id": deployment["id"],
            "name": deployment["name"],
            "tags": deployment["tags"],
            "properties": properties,
        }

    def _advance(self, key: str) -> None:
        deployment = self.deployments[key]
        if deployment["state"] != "Running":
            return
        group = self.groups[key.split("/")[0]]["name"]
        scope = Scope(deployment["subscription"], group, self.resources)
        body = {"template": deployment["template"], "parameters": deployment["parameters"]}
        wanted = {one["id"]: one for one in scope.resources(body)}
        ready: list[str] = []
        try:
            if not deployment["done"]:
                refuse_at_once(list(wanted.values()))
            for _ in range(self.per_poll):
                if not deployment["todo"]:
                    break
                ready = [
                    one
                    for one in deployment["todo"]
                    if all(need not in deployment["todo"] for need in wanted[one]["dependsOn"])
                ]
                self._bring_about(scope, wanted[ready[0]])
                deployment["todo"].remove(ready[0])
                deployment["done"].append(ready[0])
        except Refused as refused:
            target = ready[0] if ready else deployment["id"]
            details = [{"code": refused.code, "message": str(refused), "target": target}]
            message = "At least one resource deployment operation failed."
            deployment["error"] = {"code": "DeploymentFailed", "message": message, "details": details}
            deployment["state"] = "Failed"
        if not deployment["todo"]:
            deployment["state"], deployment["outputs"] = "Succeeded", scope.outputs(body)

    def _bring_about(self, scope: Scope, wanted: dict[str, Any]) -> None:
        for fault in self.faults:
            if fault.resource and fault.resource.lower() in wanted["id"].lower() and fault.strikes():
                raise Refused(409, "SkuNotAvailable", "The requested size is currently not available here.")
        body = scope.evaluate(wanted["body"], strict=True)
        for mentioned in _ids(body):
            if not self._there(mentioned) and not mentioned.lower().startswith(wanted["id"].lower()):
                raise Refused(
                    400, "InvalidResourceReference", f"Resource {mentioned} referenced by it was not found."
                )
        if "/providers/" in wanted["scope"] and not self._there(wanted["scope"]):
            raise Refused(404, "ParentResourceNotFound", f"{wanted['scope']} was not found.")
        refuse(
            {**wanted, "body": body},
            World(
                there=self.resources,
                deleted=self.deleted,
                elsewhere=[
                    one
                    for other in self.deployments.values()
                    if other["state"] == "Running" and wanted["id"] not in other["todo"]
                    for one in other["todo"]
                ],
                today=self.today,
            ),
        )
        if wanted["type"] == "Microsoft.KeyVault/vaults":
            back = self.deleted.pop(wanted["name"].lower(), None)
            body = back if back is not None else body  # refused above, unless it is to be recovered
        stored = {**body, "id": wanted["id"], "type": wanted["type"], "name": wanted["name"]}
        stored["properties"] = {**stored.get("properties", {}), "provisioningState": "Succeeded"}
        self.resources[wanted["id"].lower()] = stored

    def _there(self, mentioned: str) -> bool:
        if re.search(r"(?i)/providers/Microsoft\.Authorization/roleDefinitions/", mentioned):
            return True
        parts = mentioned.lower().split("/")
        # A part of a resource (a subnet, a listener) is there when the resource is.
        return any("/".join(parts[:length]) in self.resources for length in range(9, len(parts) + 1, 2))

    def _what_if(self, scope: Scope, body: Any) -> list[dict[str, Any]]:
        changes: list[dict[str, Any]] = []
        wanted = scope.resources(body["properties"])
        for one in wanted:
            after = {"type": one["type"], "name": one["name"], **scope.evaluate(one["body"], strict=False)}
            before = self.resources.get(one["id"].lower())
            if before is None:
                changes.append(
                    {"resourceId": one["id"], "changeType": "Create", "after": {**after, "id": one["id"]}}
                )
                continue
            delta = list(_delta({key: value for key, value in before.items() if key != "id"}, after))
            kind = "Modify" if delta else "NoChange"
            change = {"resourceId": one["id"], "changeType": kind, "before": before, "after": after}
            changes.append({**change, "delta": delta} if delta else change)
        mine = {one["id"].lower() for one in wanted}
        for key, value in sorted(self.resources.items()):
            if f"/resourcegroups/{scope.group.lower()}/" in key and key not in mine:
                changes.append(
                    {"resourceId": value["id"], "changeType": "Ignore", "before": value, "after": value}
                )
        return changes


def _error(refused: Refused) -> JSONResponse:
    """An ARM error answer."""
    return JSONResponse({"error": {"code": refused.code, "message": str(refused)}}, refused.status)


def _type_of(path: str) -> str:
    kind, *pairs = path.rsplit("/providers/", 1)[-1].split("/")
    return "/".join([kind, *pairs[::2]])


def _ids(body: Any) -> Iterator[str]:
    if isinstance(body, dict):
        for key, value in body.items():
            if isinstance(key, str) and key.startswith("/subscriptions/"):
                yield key
            yield from _ids(value)
    elif isinstance(body, list):
        for item in body:
            yield from _ids(item)
    elif isinstance(body, str) and re.match(r"/subscriptions/[^/]+/resourceGroups/", body):
        yield body


def _said(value: Any) -> bool:
    """Whether there is more in it than what the service itself fills in."""
    return not isinstance(value, dict) or bool(set(value) - set(_IGNORED))


def _delta(before: Any, after: Any, path: str = "") -> Iterator[dict[str, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(set(before) | set(after)):
            here = f"{path}.{key}" if path else key
            if key in _IGNORED:
                continue
            if key not in before:
                yield {"path": here, "propertyChangeType": "Create", "after": after[key]}
            elif key not in after and _said(before[key]):
                yield {"path": here, "propertyChangeType": "Delete", "before": before[key]}
            elif key in after:
                yield from _delta(before[key], after[key], here)
    elif before != after:
        yield {"path": path, "propertyChangeType": "Modify", "before": before, "after": after}


@contextlib.asynccontextmanager
async def serve(world: StandIn) -> AsyncIterator[str]:
    """The stand-in on a free port of this machine; yields its address."""
    async with serving(world.app()) as port:
        yield f"http://127.0.0.1:{port}"

"""Plan, apply, drift and destroy: the one place that speaks to Azure Resource Manager.

Each module is one ARM deployment, marked with the hash of its template. Applying asks first what is there: a
module whose deployment succeeded with the same hash and that what-if finds nothing in is left alone, one
that is still running is waited for. So the same command, killed anywhere and run again, goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

from azure.core.credentials import AccessToken, TokenCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
)
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.resource.deployments import DeploymentsMgmtClient
from azure.mgmt.resource.deployments import models as arm
from azure.mgmt.resource.locks import ManagementLockClient
from azure.mgmt.resource.resources import ResourceManagementClient

from ci import entra
from ci.azure.arm import API, Module, Resource
from ci.errors import BadInput, PipelineError, StepFailed, SystemUnavailable
from ci.reporting import Reporter, Step

__all__ = ["Applied", "Azure", "Change", "Delta", "apply", "call", "connect", "destroy", "drift", "plan"]

T = TypeVar("T")

_HASH = "va-template"
_MODE = "Incremental"
_BUSY = ("DeploymentActive", "AnotherOperationInProgress", "RetryableError", "Conflict")
_PATIENCE = 8
_BUSY_SECONDS = 0.5
"""How often a busy deployment or resource is asked again, with twice the pause each time."""


@dataclass(frozen=True)
class Azure:
    """A subscription, and how often to ask how something is doing (seconds)."""

    subscription: str
    deployments: DeploymentsMgmtClient
    groups: ResourceManagementClient
    locks: ManagementLockClient
    poll: float
    client: Callable[..., Any]
    """Another management client of the same subscription: `client(ContainerRegistryManagementClient)`."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """One property that would change. Values are None where there is none before or after."""

    path: str
    kind: str
    before: Any = None
    after: Any = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """One resource of a plan. `action`: create, modify, delete, same, or foreign: not in our templates."""

    module: str
    region: str
    action: str
    type: str
    name: str
    id: str
    delta: tuple[Delta, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What applying a module did: `deployed`, or `unchanged`."""

    module: str
    region: str
    result: str
    resources: int


class _Local(TokenCredential):
    """Signs in to the stand-in, which asks for a token and no more."""

    def get_token(self, *_scopes: str, **_: Any) -> AccessToken:
        return AccessToken("local", 2**40)


@asynccontextmanager
async def connect(
    subscription: str, *, endpoint: str | None = None, poll: float = 5.0
) -> AsyncIterator[Azure]:
    """Clients for a subscription: of Azure itself, or of a stand-in at an `endpoint` on this machine."""
    options: dict[str, Any] = {}
    who: TokenCredential
    if endpoint is None:
        who = entra.credential()
    else:
        if not endpoint.startswith("http://127.0.0.1:"):
            raise BadInput(f"{endpoint} is no stand-in on this machine", hint="only http://127.0.0.1:PORT")
        who = _Local()
        options = {
            "base_url": endpoint,
            "credential_scopes": ["http://local/.default"],
            "per_call_policies": [_PlainHttp()],
            "polling_interval": poll,
        }
    clients: list[Any] = []

    def client(kind: type[Any], **more: Any) -> Any:
        clients.append(kind(who, subscription, **options, **more))
        return clients[-1]

    try:
        yield Azure(
            subscription=subscription,
            deployments=client(DeploymentsMgmtClient),
            groups=client(ResourceManagementClient),
            locks=client(ManagementLockClient),
            poll=poll,
            client=client,
        )
    finally:
        for each in clients:
            each.close()


class _PlainHttp(SansIOHTTPPolicy[Any, Any]):
    """The SDK sends tokens over https only, unless it is told that this is a stand-in."""

    def on_request(self, request: Any) -> None:
        request.context.options["enforce_https"] = False


def _digest(template: Mapping[str, Any], values: Mapping[str, str]) -> str:
    text = json.dumps([template, dict(values)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _properties(module: Module, values: Mapping[str, str]) -> dict[str, Any]:
    given = {name: {"value": values[name]} for name in module.parameters}
    return {"mode": _MODE, "template": module.template(), "parameters": given}


async def call(function: Callable[[], T], what: str) -> T:
    """A call of the SDK, off the event loop; its errors become ours.

    Throttling is the SDK's own to wait for.
    """
    for attempt in range(_PATIENCE):
        try:
            return await asyncio.to_thread(function)
        except ResourceNotFoundError:
            raise
        except ClientAuthenticationError as error:
            raise SystemUnavailable(
                f"Azure does not let us in: {_said(error)}",
                hint="az login, or set AZURE_CLIENT_ID and its like",
            ) from error
        except HttpResponseError as error:
            code = error.error.code if error.error is not None else ""
            if error.status_code == 409 and code in _BUSY and attempt < _PATIENCE - 1:
                await asyncio.sleep(min(60.0, 2**attempt * _BUSY_SECONDS) * (0.75 + random.random() / 2))  # noqa: S311  # nosec B311  # a spread, no secret
                continue
            if error.status_code == 400:
                raise BadInput(f"Azure refuses {what}: {_said(error)}") from error
            if error.status_code == 403:
                raise SystemUnavailable(
                    f"Azure does not allow {what}: {_said(error)}",
                    hint="the identity needs Contributor and User Access Administrator",
                ) from error
            if error.status_code == 409:
                raise StepFailed(
                    f"{what}: {_said(error)}", hint="run the same command again later"
                ) from error
            raise SystemUnavailable(
                f"{what}: {_said(error)}", hint="run the same command again: it goes on from here"
            ) from error
        except ServiceRequestError as error:
            raise SystemUnavailable(f"Azure Resource Manager does not answer: {error.message}") from error
        except AzureError as error:
            raise SystemUnavailable(f"{what}: {error.message}") from error
    raise AssertionError("unreachable")


def _said(error: AzureError) -> str:
    return str(error.message).strip().splitlines()[0]


# --- plan and drift ----------------------------------------------------------------------


async def plan(
    azure: Azure, modules: Sequence[Module], values: Mapping[str, str], reporter: Reporter
) -> tuple[Change, ...]:
    """What applying would do, by Azure's own what-if; a group that is not there yet is all creation."""

    async def one(module: Module, step: Step) -> list[Change]:
        changes = await _what_if(azure, module, _properties(module, values))
        step.say(_counts(changes))
        return changes

    found = [change for changes in await _through(modules, reporter, "what-if", one) for change in changes]
    ours = {change.id.lower() for change in found if change.action != "foreign"}
    unique = {change.id.lower(): change for change in found if change.action == "foreign"}
    foreign = [change for key, change in unique.items() if key not in ours]
    return tuple([change for change in found if change.action != "foreign"] + foreign)


async def drift(azure: Azure, modules: Sequence[Module], reporter: Reporter) -> tuple[Change, ...]:
    """What is not as it was last applied: what-if of the templates that Azure itself kept.

    Nothing about new ones.
    """

    async def one(module: Module, step: Step) -> list[Change]:
        client = azure.deployments.deployments
        try:
            last = await call(lambda: client.get(module.group, module.name), f"reading {module.name}")
            kept = await call(
                lambda: client.export_template(module.group, module.name),
                f"reading {module.name}'s template",
            )
        except ResourceNotFoundError:
            step.skipped("never applied")
            return []
        given = {key: {"value": value["value"]} for key, value in (last.properties.parameters or {}).items()}
        properties = {"mode": _MODE, "template": kept.template, "parameters": given}
        changes = await _what_if(azure, module, properties)
        changed = [change for change in changes if change.action not in ("same", "foreign")]
        step.say(_counts(changed) if changed else "as applied")
        return changed

    return tuple([change for found in await _through(modules, reporter, "drift", one) for change in found])


async def _what_if(azure: Azure, module: Module, properties: dict[str, Any]) -> list[Change]:
    def ask() -> Any:
        body = arm.DeploymentWhatIf(properties=arm.DeploymentWhatIfProperties(**properties))
        return azure.deployments.deployments.begin_what_if(
            module.group, module.name, body, polling_interval=azure.poll
        ).result()

    try:
        answer = await call(ask, f"what-if of {module.area} in {module.region}")
    except ResourceNotFoundError:  # no such group yet
        return [
            Change(
                module=module.area,
                region=module.region,
                action="create",
                type=resource.type,
                name=resource.name,
                id=f"{module.group}/{resource.scope or ''}/{resource.type}/{resource.name}",
            )
            for resource in module.resources
        ]
    if answer.error is not None:
        raise BadInput(f"Azure refuses {module.area} in {module.region}: {answer.error.message}")
    return [_change(module, change) for change in answer.changes or ()]


_ACTIONS = {
    "Create": "create",
    "Modify": "modify",
    "Delete": "delete",
    "Deploy": "modify",
    "Ignore": "foreign",
}


def _change(module: Module, change: Any) -> Change:
    above, _, own = change.resource_id.rpartition("/providers/")
    kind, *pairs = own.split("/")
    # A lock, a role or a diagnostic setting is called alike everywhere: say what it is on.
    on = f" on {above.rpartition('/')[2]}" if "/providers/" in above else ""
    delta = tuple(_deltas(change.delta or ()))
    action = _ACTIONS.get(_text(change.change_type), "same")
    if action == "modify" and not delta:
        action = "same"  # only what Azure itself fills in
    return Change(
        module=module.area,
        region=module.region,
        action=action,
        type="/".join([kind, *pairs[::2]]),
        name="/".join(pairs[1::2]) + on,
        id=change.resource_id,
        delta=delta,
    )


def _deltas(changes: Sequence[Any], above: str = "") -> list[Delta]:
    found = []
    for change in changes:
        path = f"{above}.{change.path}" if above else str(change.path)
        kind = _text(change.property_change_type)
        if kind == "NoEffect":
            continue
        if change.children:
            found.extend(_deltas(change.children, path))
        else:
            found.append(Delta(path=path, kind=kind.lower(), before=change.before, after=change.after))
    return found


def _counts(changes: Sequence[Change]) -> str:
    words = {"create": "to create", "modify": "to change", "delete": "to delete", "same": "unchanged"}
    counted = [(sum(change.action == action for change in changes), said) for action, said in words.items()]
    return ", ".join(f"{number} {said}" for number, said in counted if number) or "nothing"


def _by_area(modules: Sequence[Module]) -> list[list[Module]]:
    return [list(area) for _, area in groupby(modules, key=lambda module: module.area)]


Work = Callable[[Module, Step], Awaitable[T]]


async def _through(modules: Sequence[Module], reporter: Reporter, verb: str, work: Work[T]) -> list[T]:
    """Area after area, shown as a tree: an area, and under it its regions; at once, where they can be."""
    done: list[T] = []
    areas = _by_area(modules)
    for number, area in enumerate(areas, 1):
        with reporter.step(f"{verb} {number}/{len(areas)} {area[0].area}") as above:
            done += await _all(area, reporter, above, work)
    return done


async def _all(modules: Sequence[Module], reporter: Reporter, above: Step, work: Work[T]) -> list[T]:
    """All regions of an area. Where some fail the others end first; then the first failure counts."""

    async def one(module: Module) -> T:
        with reporter.step(module.region, under=above) as step:
            return await work(module, step)

    if any(module.in_turn for module in modules):
        return [await one(module) for module in modules]
    done = await asyncio.gather(*(one(module) for module in modules), return_exceptions=True)
    failed = [one for one in done if isinstance(one, BaseException)]
    others = [str(one) for one in failed[1:] if isinstance(one, PipelineError)]
    if failed and isinstance(failed[0], PipelineError) and others:
        raise type(failed[0])("\n".join([failed[0].message, *others]), hint=failed[0].hint)
    if failed:
        raise failed[0]
    return [one for one in done if not isinstance(one, BaseException)]


# --- apply -------------------------------------------------------------------------------


async def apply(
    azure: Azure,
    modules: Sequence[Module],
    values: Mapping[str, str],
    reporter: Reporter,
    *,
    tags: Mapping[str, str],
) -> tuple[Applied, ...]:
    """Bring the modules about, area after area; the regions of an area at the same time, or in turn.

    StepFailed says which resource of which module failed, and why; what was done stays, and the same call
    goes on.
    """
    for group, region in sorted({(module.group, module.region) for module in modules}):
        with reporter.step(f"group {group}") as step:
            await _have_group(azure, group, {"location": region, "tags": dict(tags)}, step)

    async def one(module: Module, step: Step) -> Applied:
        return await _apply_one(azure, module, values, step)

    return tuple(await _through(modules, reporter, "apply", one))


async def _have_group(azure: Azure, group: str, body: dict[str, Any], step: Step) -> None:
    client = azure.groups.resource_groups
    if await call(lambda: client.check_existence(group), f"looking for {group}"):
        step.cached("there already")
    else:
        await call(lambda: client.create_or_update(group, body), f"creating {group}")


async def _apply_one(azure: Azure, module: Module, values: Mapping[str, str], step: Step) -> Applied:
    client = azure.deployments.deployments
    properties = _properties(module, values)
    digest = _digest(properties["template"], {name: values[name] for name in module.parameters})
    count = len(module.resources)
    done = Applied(module=module.area, region=module.region, result="deployed", resources=count)
    same = Applied(module=module.area, region=module.region, result="unchanged", resources=count)
    try:
        last = await call(lambda: client.get(module.group, module.name), f"reading {module.name}")
    except ResourceNotFoundError:
        last = None
    state = _state(last)
    if last is not None and state not in ("Succeeded", "Failed", "Canceled"):
        step.say("a deployment is running already; waiting for it")
        state = await _wait(azure, module, step)
    if last is not None and state == "Succeeded" and (last.tags or {}).get(_HASH) == digest:
        changes = await _what_if(azure, module, properties)
        if all(change.action in ("same", "foreign") for change in changes):
            step.cached(f"{_many(count)}, unchanged")
            return same

    def begin() -> None:
        body = arm.Deployment(properties=arm.DeploymentProperties(**properties), tags={_HASH: digest})
        client.begin_create_or_update(module.group, module.name, body, polling=False)

    await call(begin, f"deploying {module.area} to {module.region}")
    await _wait(azure, module, step)
    step.say(_many(count))
    return done


def _many(count: int) -> str:
    return f"{count} resource{'' if count == 1 else 's'}"


def _state(deployment: Any) -> str:
    return _text(deployment.properties.provisioning_state) if deployment is not None else ""


def _text(value: Any) -> str:
    """The SDK gives an enum for a value that it knows, and text for one that it does not."""
    return str(getattr(value, "value", value))


async def _wait(azure: Azure, module: Module, step: Step) -> str:
    """Until the deployment has ended; each newly made resource is shown.

    Cancelling leaves it running in Azure.
    """
    client = azure.deployments.deployments
    while True:
        now = await call(lambda: client.get(module.group, module.name), f"reading {module.name}")
        state = _state(now)
        made = now.properties.output_resources or ()
        if state == "Succeeded":
            return state
        if state in ("Failed", "Canceled"):
            raise StepFailed(
                f"{module.area} in {module.region}: {_why(now.properties.error)}",
                hint="mend it and run the same command again: what is done stays",
            )
        step.say(f"{len(made)} of {len(module.resources)} resources")
        await asyncio.sleep(azure.poll)


def _why(error: Any) -> str:
    if error is None:
        return "canceled"
    inner = [
        f"{(detail.target or '').rsplit('/providers/', 1)[-1]}: {detail.message} ({detail.code})"
        for detail in error.details or ()
    ]
    return "; ".join(inner) or f"{error.message} ({error.code})"


# --- destroy -----------------------------------------------------------------------------


async def destroy(
    azure: Azure, groups: Sequence[str], beyond: Sequence[Resource], reporter: Reporter
) -> tuple[str, ...]:
    """Delete these resource groups with all that is in them, locks first; returns those that were there.

    `beyond` is what the subscription has of it: nothing of that would go with a group.

    The caller has asked for confirmation. A group that is gone already is none to delete: the call can be
    repeated.
    """

    async def one(group: str) -> str | None:
        with reporter.step(f"delete {group}") as step:
            if not await call(
                lambda: azure.groups.resource_groups.check_existence(group), f"looking for {group}"
            ):
                step.skipped("not there")
                return None
            locks = azure.locks.management_locks
            held = await call(
                lambda: list(locks.list_at_resource_group_level(group)), f"the locks of {group}"
            )
            for lock in held:
                scope = str(lock.id).rsplit("/providers/Microsoft.Authorization/locks/", 1)[0].lstrip("/")
                await call(partial(locks.delete_by_scope, scope, lock.name), f"unlocking {scope}")
            step.say(f"{len(held)} locks removed; deleting")
            await call(
                lambda: azure.groups.resource_groups.begin_delete(
                    group, polling_interval=azure.poll
                ).result(),
                f"deleting {group}",
            )
            return group

    done = await asyncio.gather(*(one(group) for group in groups))
    for resource in beyond:
        own = f"/subscriptions/{azure.subscription}/providers/{resource.type}/{resource.name}"
        api = API[resource.type]
        with reporter.step(f"delete {resource.name}"):
            await call(
                partial(_gone, azure.groups.resources, own, api, azure.poll), f"deleting {resource.name}"
            )
    return tuple(group for group in done if group is not None)


def _gone(resources: Any, own: str, api: str, poll: float) -> None:
    # What is not there is deleted already.
    with contextlib.suppress(ResourceNotFoundError):
        resources.begin_delete_by_id(own, api_version=api, polling_interval=poll).result()

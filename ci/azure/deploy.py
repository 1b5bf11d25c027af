"""Plan, apply and drift of what is rendered.

Each module is one ARM deployment, marked with the hash of its template. Applying asks first what is there: a
module whose deployment succeeded with the same hash and that what-if finds nothing in is left alone, one
that is still running is waited for. So the same command, killed anywhere and run again, goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from azure.core.exceptions import ResourceNotFoundError
from azure.mgmt.resource.deployments import models as arm

from ci.architecture.resources import words
from ci.azure.arm import Module, Resource
from ci.azure.connection import Azure, call
from ci.azure.deleted import recover
from ci.errors import BadInput, PipelineError, StepFailed
from ci.reporting import Reporter, Step

__all__ = ["Applied", "Change", "Delta", "apply", "drift", "plan"]

T = TypeVar("T")

_HASH = "va-template"
_MODE = "Incremental"


@dataclass(frozen=True, kw_only=True)
class Delta:
    """One property that would change. Values are None where there is none before or after."""

    path: str
    kind: str
    before: Any = None
    after: Any = None

    @property
    def said(self) -> str:
        """In a line: what was and what would be, each cut at a hundred characters."""
        before, after = (json.dumps(value)[:100] for value in (self.before, self.after))
        return {"create": f"= {after}", "delete": f"was {before}"}.get(self.kind, f"{before} -> {after}")


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


def _digest(template: Mapping[str, Any], values: Mapping[str, str]) -> str:
    text = json.dumps([template, dict(values)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _properties(module: Module, values: Mapping[str, str]) -> dict[str, Any]:
    given = {name: {"value": values[name]} for name in module.parameters}
    return {"mode": _MODE, "template": module.template(), "parameters": given}


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
                name=_named(resource, module.group),
                id=f"{module.group}/{resource.scope or ''}/{resource.type}/{resource.name}",
            )
            for resource in module.resources
        ]
    if answer.error is not None:
        raise BadInput(f"Azure refuses {module.area} in {module.region}: {answer.error.message}")
    return [_change(module, change) for change in answer.changes or ()]


def _named(resource: Resource, group: str) -> str:
    """What a resource that is not there yet is called, before Azure has made sense of its name."""
    on = f" on {words(resource.scope)[-1]}" if resource.scope else ""
    if resource.type == "Microsoft.Authorization/roleAssignments":
        return f"{resource.body['properties']['description']}{on or f' on {group}'}"
    plain = "".join(words(resource.name)) if resource.name.startswith("[") else resource.name
    return f"{plain}{on}"


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
    target = above.rpartition("/")[2]
    on = f" on {target}" if "/providers/" in above else ""
    name = "/".join(pairs[1::2]) + on
    if kind == "Microsoft.Authorization" and pairs[0] == "roleAssignments":
        said = ((change.after or change.before or {}).get("properties") or {}).get("description")
        name = f"{said} on {target}" if said else name
    delta = tuple(_deltas(change.delta or ()))
    action = _ACTIONS.get(_text(change.change_type), "same")
    if action == "modify" and not delta:
        action = "same"  # only what Azure itself fills in
    return Change(
        module=module.area,
        region=module.region,
        action=action,
        type="/".join([kind, *pairs[::2]]),
        name=name,
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

    await recover(azure, module, step)

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

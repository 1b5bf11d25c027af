"""What can be said of templates without Azure: our own rules, Azure's definitions of its types, checkov's.

A finding that must stay has a waiver in `environments/architecture/waivers.yaml`: what, why, and until when.
The file is for all environments: a waiver that one of them has no need of is no finding, an expired one is.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from ci.architecture.resources import at, role_of
from ci.architecture.transit import enforced_tls
from ci.azure.across import across
from ci.azure.arm import Module, Resource
from ci.azure.checkov import failed_checks
from ci.azure.limits import beyond
from ci.azure.render import write
from ci.azure.schema import misfits
from ci.scan.waivers import sort_out

__all__ = ["Checked", "Problem", "check_templates"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One finding in a template. `source` is `ours`, `schema` or `checkov`.

    `resource` is `type name`, with the property behind them for `ARM-SCHEMA`: what a waiver is matched with.
    """

    source: str
    id: str
    resource: str
    module: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found, what was waived, in how many resources, and which sources looked."""

    problems: tuple[Problem, ...]
    waived: tuple[Problem, ...]
    resources: int
    sources: tuple[str, ...]


async def check_templates(
    modules: Sequence[Module],
    waivers_file: Path,
    *,
    today: date,
    checkov: Path | None = None,
) -> Checked:
    """Our own rules and Azure's definitions on every rendered resource, and with its program checkov's.

    StepFailed when checkov gives no report.
    """
    found = [
        *_ours(modules),
        *_across(modules),
        *_unfitting(modules),
        *(await _checkov(checkov, modules) if checkov else ()),
    ]
    sources = ("ours", "schema", "checkov") if checkov else ("ours", "schema")
    return await asyncio.to_thread(_sorted_out, found, waivers_file, today, modules, sources)


def _sorted_out(
    found: list[Problem], file: Path, today: date, modules: Sequence[Module], sources: tuple[str, ...]
) -> Checked:
    done = sort_out(found, file, today=today)
    expired = [
        Problem(
            source="ours", id="WAIVER", resource=one.waiver.id, module=str(one.place), message=one.message
        )
        for one in done.expired
    ]
    count = sum(len(module.resources) for module in modules)
    return Checked(problems=(*done.left, *expired), waived=done.waived, resources=count, sources=sources)


# --- our rules ---------------------------------------------------------------------------------


def _ours(modules: Sequence[Module]) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str, str], str] = {}
    for module in modules:
        for resource in module.resources:
            problem = partial(_problem, module, resource)
            key = (module.group, resource.scope or "", resource.type.lower(), resource.name.lower())
            if key in seen:
                yield problem("ARM-TWICE", f"is rendered in {seen[key]} as well")
            seen[key] = f"{module.region}/{module.area}"
            if resource.type.count("/") - 1 != resource.name.count("/") and not resource.name.startswith("["):
                yield problem("ARM-NAME", "the name has another depth than the type")
            body = json.dumps(resource.body)
            if ": null" in body:
                yield problem("ARM-NULL", "a property without a value")
            if re.search(
                r'(?i)"[^"]*(password|secretvalue|accountkey|connectionstring)[^"]*": '
                r'"(?!Enabled|Disabled)[^"\[]',
                body,
            ):
                yield problem("ARM-SECRET", "a secret's value in a template")
            if _wide(resource):
                yield problem("ARM-WIDE", f"{role_of(resource.body)} on more than one thing")
            for rule, types, message in _RULES:
                if resource.type == types and not rule(resource.body):
                    yield problem("ARM-RULE", message)
        ids = {(resource.type, resource.name) for resource in module.resources}
        for resource in module.resources:
            for need in resource.depends_on:
                words = re.findall(r"'([^']*)'", need)
                kind, name = words[1], "/".join(words[2:])
                if words[0] != module.group or (kind, name) not in ids:
                    message = f"depends on {kind} {name}, which is not in its template"
                    yield _problem(module, resource, "ARM-DEPENDS", message)


def _wide(resource: Resource) -> bool:
    """Whether a role for secrets, blobs or images is on more than one; people have theirs on the group."""
    if resource.type != "Microsoft.Authorization/roleAssignments":
        return False
    properties = resource.body["properties"]
    role, scope = role_of(resource.body), resource.scope or ""
    if role.startswith("Acr"):
        return "'Microsoft.ContainerRegistry/registries'" not in scope
    one = (
        "'Microsoft.KeyVault/vaults/secrets'",
        "'Microsoft.Storage/storageAccounts/blobServices/containers'",
    )
    data = role.startswith(("Key Vault", "Storage Blob")) and properties["principalType"] != "Group"
    return data and not any(kind in scope for kind in one)


def _at(body: Mapping[str, Any], path: str) -> Any:
    value: Any = body
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _is(path: str, *wanted: Any) -> Callable[[Mapping[str, Any]], bool]:
    return lambda body: _at(body, path) in wanted


_SETTINGS = ("properties", "backendHttpSettingsCollection", "*", "properties", "protocol")
_PROBES = ("properties", "probes", "*", "properties", "protocol")

_RULES: list[tuple[Callable[[Mapping[str, Any]], bool], str, str]] = [
    (
        _is("properties.minimumTlsVersion", "TLS1_2", "TLS1_3"),
        "Microsoft.Storage/storageAccounts",
        "TLS below 1.2",
    ),
    (
        _is("properties.allowBlobPublicAccess", False),
        "Microsoft.Storage/storageAccounts",
        "blobs may be public",
    ),
    (_is("properties.allowSharedKeyAccess", False), "Microsoft.Storage/storageAccounts", "account keys work"),
    (
        _is("properties.publicNetworkAccess", "Disabled"),
        "Microsoft.Storage/storageAccounts",
        "public network",
    ),
    (_is("properties.minimumTlsVersion", "1.2", "1.3"), "Microsoft.Cache/redisEnterprise", "TLS below 1.2"),
    (_is("properties.publicNetworkAccess", "Disabled"), "Microsoft.Cache/redisEnterprise", "public network"),
    (_is("properties.enablePurgeProtection", True), "Microsoft.KeyVault/vaults", "no purge protection"),
    (
        _is("properties.enableRbacAuthorization", True),
        "Microsoft.KeyVault/vaults",
        "access policies, not roles",
    ),
    (_is("properties.publicNetworkAccess", "disabled"), "Microsoft.KeyVault/vaults", "public network"),
    (_is("properties.adminUserEnabled", False), "Microsoft.ContainerRegistry/registries", "the admin user"),
    (
        _is("properties.disableLocalAccounts", True),
        "Microsoft.ContainerService/managedClusters",
        "local accounts",
    ),
    (
        _is("properties.securityProfile.workloadIdentity.enabled", True),
        "Microsoft.ContainerService/managedClusters",
        "no workload identity",
    ),
    (
        _is("properties.apiServerAccessProfile.disableRunCommand", True),
        "Microsoft.ContainerService/managedClusters",
        "run-command: whoever manages the cluster's resource is an administrator inside it",
    ),
    (
        _is("properties.policies.azureADAuthenticationAsArmPolicy.status", "disabled"),
        "Microsoft.ContainerRegistry/registries",
        "tokens that were made for Resource Manager are taken",
    ),
    (
        _is("properties.encryption.enabled", True),
        "Microsoft.Network/virtualNetworks",
        "what leaves a node is plain",
    ),
    (
        lambda body: (
            {*at(body, _SETTINGS), *at(body, _PROBES)} == {"Https"}
            and enforced_tls(_at(body, "properties.sslPolicy")) >= "1.2"
        ),
        "Microsoft.Network/applicationGateways",
        "plain HTTP to the cluster's gateway, or TLS below 1.2 from callers",
    ),
    (_is("properties.sku.tier", "WAF_v2"), "Microsoft.Network/applicationGateways", "no firewall"),
    (
        lambda body: bool(_at(body, "properties.firewallPolicy.id")),
        "Microsoft.Network/applicationGateways",
        "no firewall policy",
    ),
    (
        _is("properties.policySettings.mode", "Prevention"),
        "Microsoft.Network/ApplicationGatewayWebApplicationFirewallPolicies",
        "the firewall only watches",
    ),
]


def _across(modules: Sequence[Module]) -> Iterator[Problem]:
    """What is wrong of each by itself, and of all together, by what Azure's documentation says."""
    for module in modules:
        for resource in module.resources:
            for message in beyond(resource.type, resource.name, resource.body):
                yield _problem(module, resource, "ARM-LIMIT", message)
    for one in across(modules):
        yield _problem(one.module, one.resource, one.code, one.message)


def _problem(module: Module, resource: Resource, code: str, message: str) -> Problem:
    return Problem(
        source="ours",
        id=code,
        resource=f"{resource.type} {resource.name}",
        module=f"{module.region}/{module.area}",
        message=message,
    )


# --- Azure's definitions -----------------------------------------------------------------------


def _unfitting(modules: Sequence[Module]) -> Iterator[Problem]:
    for module in modules:
        for resource in module.resources:
            for misfit in misfits(resource):
                yield Problem(
                    source="schema",
                    id="ARM-SCHEMA",
                    resource=f"{resource.type} {resource.name} {misfit.path}",
                    module=f"{module.region}/{module.area}",
                    message=misfit.message,
                )


# --- checkov -----------------------------------------------------------------------------------


async def _checkov(program: Path, modules: Sequence[Module]) -> Iterable[Problem]:
    with tempfile.TemporaryDirectory(prefix="va-checkov-") as folder:
        await asyncio.to_thread(write, modules, Path(folder))
        failed = await failed_checks(program, Path(folder), "arm")
    return [
        Problem(
            source="checkov",
            id=one.id,
            resource=_resource(one.resource),
            module=one.file.removesuffix(".json"),
            message=one.title,
        )
        for one in failed
    ]


def _resource(text: str) -> str:
    """`Microsoft.Storage/storageAccounts.name` -> `Microsoft.Storage/storageAccounts name`."""
    match = re.match(r"(Microsoft\.[A-Za-z]+(?:/[A-Za-z]+)+)\.(.*)", text)
    return f"{match[1]} {match[2]}" if match else text

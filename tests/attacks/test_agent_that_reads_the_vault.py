"""Whoever talks an agent into running his code asks Azure for everything, as the agent's identity.

Its roles were on the whole resource group: every secret, the certificate's key, the container of database
backups. Looked at here are the templates that would be deployed, as Azure would read them: a role on a scope
is one on all that is below it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ci.architecture import model
from ci.architecture.compliance import report
from ci.architecture.cost import what_if
from ci.architecture.model import Declared
from ci.architecture.operations import Identity
from ci.architecture.resources import role_of
from ci.azure.arm import ROLES, Module, Resource
from ci.azure.render import render

_ENVIRONMENTS = {name: model.read(name) for name in model.environments()}
_READS_DATA = re.compile(r"Key Vault|Storage Blob|Contributor|Owner|Acr")


def _assigned(modules: Sequence[Module], identity: str) -> Iterator[tuple[str, str]]:
    """The role's name by its id, and the scope, of all that the identity is given; the group's as `/`."""
    names = {guid: role for role, guid in ROLES.items()}
    for module in modules:
        for one in module.resources:
            properties = one.body.get("properties", {})
            if one.type.endswith("/roleAssignments") and f"'{identity}-" in str(properties["principalId"]):
                (guid,) = re.findall(r"'([0-9a-f-]{36})'", properties["roleDefinitionId"])
                yield names[guid], one.scope or "/"


@pytest.mark.parametrize("environment", _ENVIRONMENTS)
def test_an_agent_reads_its_own_secrets_and_nothing_else(environment: str) -> None:
    architecture = _ENVIRONMENTS[environment].architecture
    found = list(_assigned(render(architecture), "id-agent"))
    assert {role for role, _ in found} == {"Key Vault Secrets User"}
    assert all("'Microsoft.KeyVault/vaults/secrets'" in scope for _, scope in found)
    secrets = {re.findall(r"'([^']*)'", scope)[-1] for _, scope in found}
    assert secrets == {"livekit-api-key", "livekit-api-secret", "openai-api-key"}
    assert len(found) == 3 * len(architecture.regions)


@pytest.mark.parametrize("environment", _ENVIRONMENTS)
def test_no_pod_reads_backups_the_certificate_that_it_has_no_use_for_or_the_registry(
    environment: str,
) -> None:
    modules = render(_ENVIRONMENTS[environment].architecture)
    ends_tls = {"id-gateway", "id-ingress", "id-livekit"}
    for identity in ("id-api", "id-agent", "id-migrate", *ends_tls):
        for role, scope in _assigned(modules, identity):
            assert _READS_DATA.match(role) and scope != "/", (identity, role)
            assert "backups" not in scope and "registries" not in scope
            assert identity in ends_tls or "'wildcard'" not in scope
    everything = str(
        [one for module in modules for one in module.resources if one.type.endswith("Assignments")]
    )
    assert "'backups'" not in everything


@pytest.mark.parametrize(
    ("role", "scope"),
    [
        ("Key Vault Secrets User", None),
        ("Storage Blob Data Contributor", None),
        ("Key Vault Administrator", "[resourceId('rg', 'Microsoft.KeyVault/vaults', 'kv')]"),
        ("Storage Blob Data Contributor", "[resourceId('rg', 'Microsoft.Storage/storageAccounts', 'st')]"),
        ("Key Vault Secrets User", "[resourceId('rg', 'Microsoft.KeyVault/vaults/secrets', 'kv', 'redis')]"),
        ("AcrPush", None),
        ("Contributor", None),
    ],
)
def test_a_role_that_slips_in_is_a_gap(role: str, scope: str | None) -> None:
    declared = _ENVIRONMENTS["dev"]
    resources = [one for module in render(declared.architecture) for one in module.resources]
    own = next(
        one for one in resources if one.type.endswith("roleAssignments") and "'id-agent-" in str(one.body)
    )
    properties = {**own.body["properties"], "description": role}
    slipped = dataclasses.replace(own, body={**own.body, "properties": properties}, scope=scope)
    assert _gap(declared, resources) == []
    assert any(line.startswith("GAP ") and "agent" in line for line in _gap(declared, [*resources, slipped]))
    # Taken away, it is one as well: the agent uses what it may not read.
    assert any("may not read it" in line for line in _gap(declared, [one for one in resources if one != own]))


def _gap(declared: Declared, resources: Sequence[Resource]) -> list[str]:
    (item,) = [one for one in report(declared, resources) if one.promise.startswith("Least privilege")]
    return [] if item.met else [line for line in item.evidence if line.startswith("GAP ")]


def test_who_backs_up_has_an_identity_of_its_own_and_that_container_alone() -> None:
    given = what_if(_ENVIRONMENTS["dev"], ["storage.containers.backups.used_by=[backup]"]).architecture
    identities = {**given.access.identities, "backup": Identity(service_account="backup/backup")}
    access = given.access.model_copy(update={"identities": identities})
    modules = render(given.model_copy(update={"access": access}))
    ((role, scope),) = _assigned(modules, "id-backup")
    assert role == "Storage Blob Data Contributor"
    assert re.findall(r"'([^']*)'", scope)[1:2] + re.findall(r"'([^']*)'", scope)[-1:] == [
        "Microsoft.Storage/storageAccounts/blobServices/containers", "backups",
    ]  # fmt: skip
    assert "backups" not in str(list(_assigned(modules, "id-agent")))


def test_what_publishes_has_no_cluster_and_what_promotes_changes_no_image() -> None:
    def given(group: str) -> set[tuple[str, Any]]:
        return {
            (role_of(one.body), one.scope)
            for module in render(_ENVIRONMENTS["prod"].architecture)
            for one in module.resources
            if one.type.endswith("/roleAssignments")
            and f"'group-{group}'" in one.body["properties"]["principalId"]
        }

    assert {role for role, _ in given("publisher")} == {"AcrPush"}
    promoter = given("promoter")
    assert {role for role, _ in promoter if role.startswith("Acr")} == {"AcrPull"}
    assert all(scope is not None for _, scope in {*promoter, *given("publisher")})
    admin = [str(scope) for role, scope in promoter if role == "Azure Kubernetes Service RBAC Admin"]
    assert len(admin) == 6 and all("/namespaces/voice" in scope for scope in admin)

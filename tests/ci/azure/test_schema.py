"""Azure's definitions of its types: our templates fit them, and whatever is wrong in one is noticed."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci.architecture import model
from ci.azure.arm import API, Resource
from ci.azure.render import render
from ci.azure.schema import MODELS, misfits

ONE_OF_EACH = {
    resource.type: resource
    for environment in ("prod", "dev")
    for module in render(model.read(environment).architecture)
    for resource in module.resources
}
# What has any keys: those of tags, labels and the like are ours.
FREE = re.compile(
    "tags|labels|nodeLabels|annotations|notifications|userAssignedIdentities|identityProfile|addonProfiles"
    "|config|extensionSettings"
)


@pytest.mark.parametrize("environment", model.environments())
def test_every_rendered_resource_fits(environment: str) -> None:
    for module in render(model.read(environment).architecture):
        for resource in module.resources:
            assert list(misfits(resource)) == [], resource.name


def test_every_type_that_we_render_has_a_definition_but_one() -> None:
    assert set(API) - set(MODELS) == {
        "Microsoft.Insights/diagnosticSettings",
        "Microsoft.Resources/deployments",  # around others
    }
    assert set(ONE_OF_EACH) - set(MODELS) == {"Microsoft.Insights/diagnosticSettings"}


@pytest.mark.parametrize("kind", MODELS)
def test_the_api_version_is_the_one_that_the_models_are_of(kind: str) -> None:
    package = MODELS[kind].partition(".models.")[0]
    module = importlib.import_module(f"azure.mgmt.{package}")
    if version := re.search(r"\.v(20\d\d_\d\d_\d\d)", f".{package}"):
        assert API[kind] == version[1].replace("_", "-")
        return
    assert module.__file__ is not None
    folder = Path(module.__file__).parent
    files = [folder / "_configuration.py", *folder.glob("_*client.py"), *folder.glob("operations/*.py")]
    text = "".join(file.read_text() for file in files)
    defaults = Counter(re.findall(r'pop\("api[-_]version", "(20[\w-]+)"\)', text))
    # One version, and the odd operation of another one; but each operation of `monitor` has its own.
    assert API[kind] == defaults.most_common(1)[0][0] or (package == "monitor" and API[kind] in defaults)


def _paths(body: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in inner:
        yield (*above, key)
        yield from _paths(value, (*above, key))


def _without(resource: Resource, path: tuple[str | int, ...]) -> tuple[Resource, Any, Any]:
    """A copy of the resource, what the last key of the path is in, and the value that was taken away."""
    body = copy.deepcopy(dict(resource.body))
    inside: Any = body
    for key in path[:-1]:
        inside = inside[key]
    return dataclasses.replace(resource, body=body), inside, inside.pop(path[-1])


@pytest.mark.parametrize("kind", sorted(set(ONE_OF_EACH) & set(MODELS)))
def test_no_misspelt_property_goes_unnoticed(kind: str) -> None:
    resource = ONE_OF_EACH[kind]
    tried = 0
    for path in _paths(resource.body):
        if isinstance(path[-1], int) or any(FREE.fullmatch(str(key)) for key in path[:-1]):
            continue
        broken, inside, value = _without(resource, path)
        inside[f"{path[-1]}x"] = value
        found = [one for one in misfits(broken) if one.message.startswith("no such property")]
        # Without what tells kinds apart, what only one of them has is unknown as well.
        assert [one.path.endswith(f"{path[-1]}x") for one in found].count(True) == 1, path
        assert len(found) == 1 or path[-1] == "odata.type", path
        tried += 1
    assert tried


MISTAKES = [
    ("Microsoft.ContainerService/managedClusters", "properties.networkProfile.networkPlugin", "azur",
     "'azure' or 'kubenet' or 'none' is expected, not 'azur'"),
    ("Microsoft.Storage/storageAccounts", "properties.minimumTlsVersion", "TLS1.2", "TLS1_2"),
    ("Microsoft.Storage/storageAccounts/managementPolicies", "properties.policy.rules", {}, "a list is"),
    ("Microsoft.Insights/actionGroups", "properties.groupShortName", "much-too-long", "0 to 12 characters"),
    ("Microsoft.Insights/actionGroups", "properties.enabled", "yes", "true or false is expected, not 'yes'"),
    ("Microsoft.KeyVault/vaults", "properties.softDeleteRetentionInDays", "90", "a whole number is expected"),
    ("Microsoft.Network/virtualNetworks", "properties.provisioningState", "Succeeded", "only Azure sets it"),
    ("Microsoft.Cache/redisEnterprise", "sku.name", "Balanced_B2", "not 'Balanced_B2'"),
    ("Microsoft.Authorization/roleAssignments", "properties.roleDefinitionId", None, "is missing"),
    ("Microsoft.KeyVault/vaults", "properties.sku", None, "is missing"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"), MISTAKES, ids=[f"{k} {p}" for k, p, _, _ in MISTAKES]
)
def test_each_mistake_is_said(kind: str, path: str, value: Any, said: str) -> None:
    body = copy.deepcopy(dict(ONE_OF_EACH[kind].body))
    inside: Any = body
    *above, last = path.split(".")
    for key in above:
        inside = inside[key]
    if value is None:
        del inside[last]
    else:
        inside[last] = value
    found = list(misfits(dataclasses.replace(ONE_OF_EACH[kind], body=body)))
    assert [one.path for one in found] == [path]
    assert said.replace("'azure' or 'kubenet' or 'none'", "azure or kubenet or none") in found[0].message


def test_what_only_azure_evaluates_fits() -> None:
    vault = ONE_OF_EACH["Microsoft.KeyVault/vaults"]
    body = copy.deepcopy(dict(vault.body))
    body["properties"]["softDeleteRetentionInDays"] = "[parameters('days')]"
    assert list(misfits(dataclasses.replace(vault, body=body))) == []

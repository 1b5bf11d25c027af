"""Azure's definition of each resource type, as its SDK's models carry it, and what does not fit.

The models of azure-mgmt-* are generated from Azure's own specification of each API. They say which properties
there are, which are required, which only Azure sets, what kind each is, and its known values. Constructing
one checks keywords only; a value that Azure does not know, a property that a body written by hand misspells,
or one that is missing would first be noticed by Azure. Here every rendered resource is held to them.

Stricter than Azure in one point: where it takes other values than those that it lists, another value is a
misfit here, for it is a mistake more often than a value that the list does not have yet.

Two generations of models, read into the same few kinds: those with `rest_field`s and annotations, and those
with an `_attribute_map` and `_validation`. What Bicep checks with is not to be had as a package here.
"""

from __future__ import annotations

import datetime
import importlib
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ci.azure.arm import REGIONAL_ENDPOINTS_API, Resource
from ci.yamlfile import did_you_mean

__all__ = ["MODELS", "Misfit", "misfits"]

MODELS = {
    "Microsoft.AlertsManagement/prometheusRuleGroups": (
        "prometheusrulegroups.models.PrometheusRuleGroupResource"
    ),
    "Microsoft.Authorization/locks": "resource.locks.models.ManagementLockObject",
    "Microsoft.Authorization/roleAssignments": (
        "authorization.v2022_04_01.models.RoleAssignmentCreateParameters"
    ),
    "Microsoft.Cache/redisEnterprise": "redisenterprise.models.Cluster",
    "Microsoft.Cache/redisEnterprise/databases": "redisenterprise.models.Database",
    "Microsoft.Consumption/budgets": "consumption.models.Budget",
    "Microsoft.ContainerRegistry/registries": "containerregistry.models.Registry",
    "Microsoft.ContainerRegistry/registries/replications": "containerregistry.models.Replication",
    "Microsoft.ContainerRegistry/registries/webhooks": "containerregistry.models.WebhookCreateParameters",
    "Microsoft.ContainerService/managedClusters": "containerservice.models.ManagedCluster",
    "Microsoft.DBforPostgreSQL/flexibleServers": "postgresqlflexibleservers.models.Server",
    "Microsoft.DBforPostgreSQL/flexibleServers/administrators": (
        "postgresqlflexibleservers.models.AdministratorMicrosoftEntraAdd"
    ),
    "Microsoft.DBforPostgreSQL/flexibleServers/configurations": (
        "postgresqlflexibleservers.models.Configuration"
    ),
    "Microsoft.DBforPostgreSQL/flexibleServers/databases": "postgresqlflexibleservers.models.Database",
    "Microsoft.Dashboard/grafana": "dashboard.models.ManagedGrafana",
    "Microsoft.Insights/actionGroups": "monitor.models.ActionGroupResource",
    "Microsoft.Insights/dataCollectionRuleAssociations": (
        "monitor.models.DataCollectionRuleAssociationProxyOnlyResource"
    ),
    "Microsoft.Insights/dataCollectionRules": "monitor.models.DataCollectionRuleResource",
    "Microsoft.Insights/metricAlerts": "monitor.models.MetricAlertResource",
    "Microsoft.KeyVault/vaults": "keyvault.models.VaultCreateOrUpdateParameters",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "msi.v2024_11_30.models.Identity",
    "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials": (
        "msi.v2024_11_30.models.FederatedIdentityCredential"
    ),
    "Microsoft.Monitor/accounts": "monitor.models.AzureMonitorWorkspaceResource",
    "Microsoft.Network/ApplicationGatewayWebApplicationFirewallPolicies": (
        "network.models.WebApplicationFirewallPolicy"
    ),
    "Microsoft.Network/applicationGateways": "network.models.ApplicationGateway",
    "Microsoft.Network/dnsZones": "dns.models.Zone",
    "Microsoft.Network/dnsZones/A": "dns.models.RecordSet",
    "Microsoft.Network/dnsZones/CNAME": "dns.models.RecordSet",
    "Microsoft.Network/natGateways": "network.models.NatGateway",
    "Microsoft.Network/networkSecurityGroups": "network.models.NetworkSecurityGroup",
    "Microsoft.Network/privateDnsZones": "privatedns.models.PrivateZone",
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": "privatedns.models.VirtualNetworkLink",
    "Microsoft.Network/privateEndpoints": "network.models.PrivateEndpoint",
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": "network.models.PrivateDnsZoneGroup",
    "Microsoft.Network/publicIPAddresses": "network.models.PublicIPAddress",
    "Microsoft.Network/trafficManagerProfiles": "trafficmanager.models.Profile",
    "Microsoft.Network/virtualNetworks": "network.models.VirtualNetwork",
    "Microsoft.Network/virtualNetworks/virtualNetworkPeerings": "network.models.VirtualNetworkPeering",
    "Microsoft.OperationalInsights/workspaces": "loganalytics.models.Workspace",
    "Microsoft.OperationalInsights/workspaces/savedSearches": "loganalytics.models.SavedSearch",
    "Microsoft.OperationalInsights/workspaces/tables": "loganalytics.models.Table",
    "Microsoft.Storage/storageAccounts": "storage.models.StorageAccountCreateParameters",
    "Microsoft.Storage/storageAccounts/blobServices": "storage.models.BlobServiceProperties",
    "Microsoft.Storage/storageAccounts/blobServices/containers": "storage.models.BlobContainer",
    "Microsoft.Storage/storageAccounts/managementPolicies": "storage.models.ManagementPolicy",
}
"""The model of each type, below azure.mgmt. Diagnostic settings have none: the SDK left them out."""


_NEWER = {
    (
        REGIONAL_ENDPOINTS_API,
        "Microsoft.ContainerRegistry/registries",
        "properties.regionalEndpoints",
    )
}
"""What a later API version has than the models know, so that it cannot be checked here."""


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """One thing that Azure's definition does not allow. `path` is where in the resource: `properties.sku`."""

    path: str
    message: str


def misfits(resource: Resource) -> Iterator[Misfit]:
    """Where a resource's body does not fit the definition of its type; none for a type without a model."""
    if resource.type in MODELS:
        for misfit in _thing(_model(MODELS[resource.type])).misfits(resource.body, ""):
            if (resource.api, resource.type, misfit.path) not in _NEWER:
                yield misfit


def _model(name: str) -> Any:
    module, _, kind = f"azure.mgmt.{name}".rpartition(".")
    return getattr(importlib.import_module(module), kind)


# --- what can be expected ----------------------------------------------------------------------


class _Kind:
    """What a value may be; this one may be anything."""

    def misfits(self, value: Any, path: str) -> Iterator[Misfit]:
        """What of the value does not fit. An expression, which only Azure evaluates, fits anything."""
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            return
        yield from self.look(value, path)

    def look(self, _value: Any, _path: str, /) -> Iterator[Misfit]:
        """`misfits` of what is no expression."""
        yield from ()


_ANYTHING = _Kind()


@dataclass(frozen=True)
class _Plain(_Kind):
    """Text, a number or true and false."""

    types: tuple[type, ...]
    words: str

    def look(self, value: Any, path: str, /) -> Iterator[Misfit]:
        if not isinstance(value, self.types) or (isinstance(value, bool) and bool not in self.types):
            yield _wrong(path, self.words, value)


@dataclass(frozen=True)
class _Known(_Kind):
    """One of the values that Azure lists; it does not mind the case."""

    values: tuple[str, ...]

    def look(self, value: Any, path: str, /) -> Iterator[Misfit]:
        if str(value).lower() not in {one.lower() for one in self.values}:
            yield _wrong(path, " or ".join(self.values[:12]), value)


@dataclass(frozen=True)
class _Limited(_Kind):
    """Text of a length or form, a number in a range."""

    inner: _Kind
    limits: Mapping[str, Any]

    def look(self, value: Any, path: str, /) -> Iterator[Misfit]:
        found = list(self.inner.misfits(value, path))
        yield from found
        if found:
            return
        low, high = self.limits.get("min_length", 0), self.limits.get("max_length")
        if isinstance(value, str) and (len(value) < low or (high is not None and len(value) > high)):
            yield Misfit(path=path, message=f"{low} to {high} characters are allowed, not {len(value)}")
        if isinstance(value, str) and not re.search(self.limits.get("pattern", ""), value):
            yield Misfit(path=path, message=f"does not match {self.limits['pattern']}")
        low, high = self.limits.get("minimum"), self.limits.get("maximum")
        if isinstance(value, int) and (
            (low is not None and value < low) or (high is not None and value > high)
        ):
            yield Misfit(path=path, message=f"{low} to {high} are allowed, not {value}")


@dataclass(frozen=True)
class _List(_Kind):
    """A list of one kind."""

    item: _Kind

    def look(self, value: Any, path: str, /) -> Iterator[Misfit]:
        if not isinstance(value, list):
            yield _wrong(path, "a list", value)
            return
        for number, one in enumerate(value):
            yield from self.item.misfits(one, f"{path}[{number}]")


@dataclass(frozen=True)
class _Map(_Kind):
    """An object with any keys, its values of one kind."""

    item: _Kind

    def look(self, value: Any, path: str, /) -> Iterator[Misfit]:
        if not isinstance(value, Mapping):
            yield _wrong(path, "an object", value)
            return
        for name, one in value.items():
            yield from self.item.misfits(one, f"{path}.{name}")


@dataclass(frozen=True)
class _Field:
    kind: _Kind
    required: bool = False
    read_only: bool = False


@dataclass
class _Thing(_Kind):
    """An object with these properties. Filled after it is made: types refer to each other in circles."""

    fields: dict[str, _Field] = field(default_factory=dict)
    kinds: Mapping[str, Any] = field(default_factory=dict)
    """Models by the value of the property that tells them apart."""
    told_by: str = ""

    def look(self, value: Any, path: str, /) -> Iterator[Misfit]:
        if not isinstance(value, Mapping):
            yield _wrong(path, "an object", value)
            return
        chosen = self.kinds.get(value.get(self.told_by, "")) if self.told_by else None
        if chosen is not None and (thing := _thing(chosen)) is not self:
            yield from thing.misfits(value, path)
            return
        for name, one in value.items():
            here = f"{path}.{name}" if path else name
            if name not in self.fields:
                hint = did_you_mean(name, self.fields)
                yield Misfit(
                    path=here, message=f"no such property ({hint})" if "did" in hint else "no such property"
                )
            elif self.fields[name].read_only:
                yield Misfit(path=here, message="only Azure sets it")
            else:
                yield from self.fields[name].kind.misfits(one, here)
        for name, declared in self.fields.items():
            if declared.required and name not in value:
                yield Misfit(path=f"{path}.{name}" if path else name, message="is missing")


def _wrong(path: str, wanted: str, value: Any) -> Misfit:
    # A misspelt word is shown; what is long may be anything.
    short = isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) < 40)
    return Misfit(
        path=path, message=f"{wanted} is expected, not {value!r}" if short else f"{wanted} is expected"
    )


_TEXT = _Plain((str,), "text")
_WHOLE = _Plain((int,), "a whole number")
_NUMBER = _Plain((int, float), "a number")
_TRUTH = _Plain((bool,), "true or false")


# --- models become kinds -----------------------------------------------------------------------


_things: dict[Any, _Thing] = {}


def _thing(model: Any) -> _Thing:
    """What a model expects."""
    if model not in _things:
        found = _things[model] = _Thing()
        if hasattr(model, "_attribute_map"):
            found.fields |= _mapped(model)
            found.told_by, found.kinds = _subtypes(model)
        else:
            found.fields |= _annotated(model)
            found.kinds = getattr(model, "__mapping__", {})
            found.told_by = next((rest for _, rest, one in _rest_fields(model) if one._is_discriminator), "")
    return _things[model]


def _rest_fields(model: Any) -> Iterator[tuple[str, str, Any]]:
    """Attribute, name in JSON and the field itself, those of base models first."""
    for each in reversed(model.__mro__):
        for name, one in vars(each).items():
            if hasattr(one, "_visibility") and hasattr(one, "_is_discriminator"):
                yield name, one._rest_name_input or name, one


def _annotated(model: Any) -> dict[str, _Field]:
    """The newer generation: annotations give the kind, the field's visibility whether it may be set."""
    annotations = {
        name: given
        for each in reversed(model.__mro__)
        for name, given in inspect.get_annotations(each).items()
    }
    models = importlib.import_module(model.__module__.rpartition(".")[0])
    found = {}
    for name, rest, one in _rest_fields(model):
        kind, optional = _of_annotation(annotations[name], models)
        read_only = one._visibility == ["read"]
        found[rest] = _Field(kind, required=not optional and not read_only, read_only=read_only)
    return found


def _of_annotation(given: Any, models: Any) -> tuple[_Kind, bool]:
    """The kind, and whether it may be left out."""
    if isinstance(given, typing.ForwardRef):
        given = given.__forward_arg__
    if isinstance(given, str):
        return _of_class(getattr(models, given.rpartition(".")[2], None)), False
    origin, inner = typing.get_origin(given), typing.get_args(given)
    if origin is typing.Union:
        optional = type(None) in inner
        members = [_of_annotation(one, models)[0] for one in inner if one is not type(None)]
        # `Union[str, "_models.Mode"]`: any text, and these values are known. We hold to the known ones.
        known = next((one for one in members if isinstance(one, _Known)), None)
        return known or (members[0] if len(members) == 1 else _ANYTHING), optional
    if origin is list:
        return _List(_of_annotation(inner[0], models)[0]), False
    if origin is dict:
        return _Map(_of_annotation(inner[1], models)[0]), False
    if origin is typing.Literal:
        return _Known(tuple(str(getattr(one, "value", one)) for one in inner)), False
    return _of_class(given), False


def _of_class(given: Any) -> _Kind:
    plain = {str: _TEXT, int: _WHOLE, float: _NUMBER, bool: _TRUTH, datetime.datetime: _TEXT,
             datetime.timedelta: _TEXT, bytes: _TEXT}  # fmt: skip
    if given in plain:
        return plain[given]
    if isinstance(given, type) and issubclass(given, Enum):
        return _Known(tuple(str(one.value) for one in given))
    if isinstance(given, type) and (hasattr(given, "_attribute_map") or issubclass(given, Mapping)):
        return _thing(given)
    return _ANYTHING


def _mapped(model: Any) -> dict[str, _Field]:
    """The older generation: kinds by name, and where in the JSON each is (`properties.tier`)."""
    models = importlib.import_module(model.__module__.rpartition(".")[0])
    validation: Mapping[str, Mapping[str, Any]] = model._validation
    root = _Thing()
    for name, where in model._attribute_map.items():
        rules = validation.get(name, {})
        *above, last = [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", where["key"])]
        target = root.fields
        for part in above:
            inner = target.setdefault(part, _Field(_Thing())).kind
            assert isinstance(inner, _Thing)
            target = inner.fields
        kind = _of_name(where["type"], models, inspect.get_annotations(model.__init__).get(name))
        limits = {
            key: value for key, value in rules.items() if key not in ("required", "readonly", "constant")
        }
        target[last] = _Field(
            _Limited(kind, limits) if limits else kind,
            required=bool(rules.get("required")),
            read_only=bool(rules.get("readonly")),
        )
    return root.fields


def _subtypes(model: Any) -> tuple[str, Mapping[str, Any]]:
    """Which property tells a model's kinds apart, and their models by its values; of the older generation."""
    models = importlib.import_module(model.__module__.rpartition(".")[0])
    for attribute, names in getattr(model, "_subtype_map", {}).items():
        key = model._attribute_map[attribute]["key"].replace("\\.", ".")
        return key, {value: getattr(models, name) for value, name in names.items()}
    return "", {}


def _of_name(given: str, models: Any, annotation: Any) -> _Kind:
    if given.startswith("["):
        return _List(_of_name(given[1:-1], models, None))
    if given.startswith("{"):
        return _Map(_of_name(given[1:-1], models, None))
    if given == "str" and annotation is not None:
        # The values that are known stand only in the constructor: `Optional[Union[str, "_models.Tier"]]`.
        kind, _ = _of_annotation(annotation, models)
        return kind if isinstance(kind, _Known) else _TEXT
    plain = {
        "str": _TEXT,
        "int": _WHOLE,
        "float": _NUMBER,
        "bool": _TRUTH,
        "iso-8601": _TEXT,
        "duration": _TEXT,
    }
    return plain[given] if given in plain else _of_class(getattr(models, given, None))

"""Rendered Kubernetes manifests, checked with kubeconform against the very API that the platform serves.

No schema is fetched from anywhere: Kubernetes' own OpenAPI document comes with the Go module that its
programs are built from, Gateway API's definitions and those of the controllers that the chart may use
(External Secrets, KEDA, the Prometheus operator, Cilium) with theirs. A kind that is not defined there fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ci import places, tools
from ci.errors import BadInput, StepFailed
from ci.files import write_whole
from ci.process import run
from ci.reporting import Reporter

__all__ = ["schema_of_crd", "schemas_of_openapi", "validate"]

_DEFINITIONS = {
    "gateway-api": "gateway.networking.k8s.io_*.yaml",
    "external-secrets": "external-secrets.io_secretstores.yaml external-secrets.io_externalsecrets.yaml",
    "keda": "keda.sh_scaledobjects.yaml keda.sh_triggerauthentications.yaml",
    "prometheus-operator": "*_podmonitors.yaml *_prometheusrules.yaml",
    "cilium": "ciliumnetworkpolicies.yaml",
}
"""Whose definitions, and which files of them: parsing them all would take longer than the check."""
_TOOLS = ("kubeconform", "kubernetes-openapi", *_DEFINITIONS)
_VERSION = 3
"""To be raised when the way schemas are made changes."""

_NUMBER_OR_STRING = ("io.k8s.apimachinery.pkg.api.resource.Quantity",)

Schema = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of object, as `apiVersion` and `kind` name it."""

    group: str
    version: str
    kind: str

    @property
    def file(self) -> str:
        """The name under which kubeconform looks for its schema."""
        group = f"-{self.group.partition('.')[0]}" if self.group else ""
        return f"{self.kind}{group}-{self.version}.json".lower()


async def validate(manifests: Mapping[str, str], reporter: Reporter) -> int:
    """Check rendered manifests (YAML by a name for each) and return how many objects there were.

    BadInput says what is wrong in which, for all of them.
    """
    await tools.ensure(_TOOLS, reporter)
    folder = await asyncio.to_thread(_schemas)
    location = str(folder / "{{.ResourceKind}}{{.KindSuffix}}.json")
    wrong, count = [], 0
    for name, text in manifests.items():
        done = await run(
            *(tools.path("kubeconform"), "-strict", "-output", "json", "-summary"),
            *("-schema-location", location, "-"),
            stdin=text,
            check=False,
        )
        try:
            told = json.loads(done.stdout)
        except ValueError as error:
            raise StepFailed(
                f"kubeconform did not understand {name}: {done.stderr or done.stdout}"
            ) from error
        summary = told["summary"]
        count += sum(summary.values())
        wrong += [
            f"  {name}: {one['kind']} {one['name']}: {one['msg']}"
            for one in told.get("resources") or ()
            if one["status"] in ("statusInvalid", "statusError")
        ]
        if summary["skipped"]:
            wrong.append(f"  {name}: {summary['skipped']} objects were not checked")
    if wrong:
        raise BadInput("the chart renders what Kubernetes would not take:\n" + "\n".join(wrong))
    return count


def _schemas() -> Path:
    """A folder of JSON schemas, one for each kind; made once for each version of the two APIs."""
    kubernetes = tools.path("kubernetes-openapi")
    folders = {name: tools.path(name) for name in _DEFINITIONS}
    key = hashlib.sha256(f"{_VERSION} {kubernetes} {folders}".encode()).hexdigest()[:16]
    folder = places.cache() / "schemas" / key
    done = folder / "complete"
    if done.is_file():
        return folder
    openapi = json.loads((kubernetes / "swagger.json").read_bytes())
    for kind, schema in schemas_of_openapi(openapi):
        write_whole(folder / kind.file, json.dumps(schema).encode())
    for kind, schema in _controllers(folders):
        write_whole(folder / kind.file, json.dumps(schema).encode())
    write_whole(done, b"")
    return folder


def _controllers(folders: Mapping[str, Path]) -> Iterator[tuple[Kind, Schema]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the definitions are long
    for name, folder in folders.items():
        files = [file for pattern in _DEFINITIONS[name].split() for file in sorted(folder.glob(pattern))]
        if not files:
            raise StepFailed(f"{folder} has no {_DEFINITIONS[name]}: the pinned version keeps them elsewhere")
        for file in files:
            for kind, schema in schema_of_crd(yaml.load(file.read_text(), Loader=loader)):  # noqa: S506  # nosec B506  # a safe loader, in C
                yield kind, schema
                if kind.group == "monitoring.coreos.com":
                    # Azure's managed Prometheus reads the same objects under a group of its own.
                    yield replace(kind, group="azmonitoring.coreos.com"), schema
    yield _SECRET_PROVIDER_CLASS


def schemas_of_openapi(document: Mapping[str, Any]) -> Iterable[tuple[Kind, Schema]]:
    """A schema for each kind in Kubernetes' OpenAPI 2 document, complete in itself and strict."""
    definitions = {name: _strict(schema) for name, schema in document["definitions"].items()}
    definitions |= {name: {"type": ["number", "string"]} for name in _NUMBER_OR_STRING}
    for name, schema in document["definitions"].items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            yield (
                Kind(group=kind["group"], version=kind["version"], kind=kind["kind"]),
                {"$ref": f"#/definitions/{name}", "definitions": _needed(name, definitions)},
            )


def schema_of_crd(document: Mapping[str, Any]) -> Iterable[tuple[Kind, Schema]]:
    """A schema for each version that a CustomResourceDefinition serves, strict."""
    spec = document["spec"]
    for version in spec["versions"]:
        schema = _strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        yield Kind(group=spec["group"], version=version["name"], kind=spec["names"]["kind"]), schema


_PARTIAL = ("allOf", "anyOf", "oneOf", "not")


def _strict(schema: Any, *, closed: bool = True) -> Any:
    """The schema with no property but those it names, and with Kubernetes' numbers-or-strings.

    What is under `anyOf` and the like names only some of the properties, and stays open.
    """
    if isinstance(schema, list):
        return [_strict(one, closed=closed) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {
        key: _strict(value, closed=closed and key not in _PARTIAL)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-")
    }
    if "properties" in schema:
        kept["properties"] = {
            name: _strict(value, closed=closed) for name, value in schema["properties"].items()
        }
        if closed:
            kept.setdefault("additionalProperties", False)
    return kept


def _needed(name: str, definitions: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    wanted = [name]
    while wanted:
        one = wanted.pop()
        if one not in found:
            found[one] = definitions[one]
            wanted += re.findall(r'"#/definitions/([^"]+)"', json.dumps(definitions[one]))
    return found


_TEXT = {"type": "string"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_SECRET_PROVIDER_CLASS = (
    Kind(group="secrets-store.csi.x-k8s.io", version="v1", kind="SecretProviderClass"),
    # Written by hand from the driver's documentation: its module is not to be had everywhere.
    # https://secrets-store-csi-driver.sigs.k8s.io/concepts#secretproviderclass
    _strict(
        {
            "type": "object",
            "required": ["apiVersion", "kind", "metadata", "spec"],
            "properties": {
                "apiVersion": _TEXT,
                "kind": _TEXT,
                "metadata": {"type": "object"},
                "spec": {
                    "type": "object",
                    "required": ["provider"],
                    "properties": {
                        "provider": _TEXT,
                        "parameters": _TEXTS,
                        "secretObjects": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "secretName": _TEXT,
                                    "type": _TEXT,
                                    "labels": _TEXTS,
                                    "annotations": _TEXTS,
                                    "data": {
                                        "type": "array",
                                        "items": {
                                            "type": "object",
                                            "properties": {"key": _TEXT, "objectName": _TEXT},
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
        }
    ),
)

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from ci.delivery.manifests import schema_of_crd, schemas_of_openapi

OPENAPI: dict[str, Any] = {
    "definitions": {
        "io.k8s.Thing": {
            "type": "object",
            "properties": {
                "kind": {"type": "string"},
                "spec": {"$ref": "#/definitions/io.k8s.ThingSpec"},
                "description": {"type": "string"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "required": ["spec"],
            "x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "Thing"}],
        },
        "io.k8s.ThingSpec": {
            "type": "object",
            "properties": {
                "replicas": {"type": "integer"},
                "port": {"type": "string", "format": "int-or-string"},
                "memory": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.api.resource.Quantity"},
                "own": {"$ref": "#/definitions/io.k8s.ThingSpec"},
            },
        },
        "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": "string"},
        "io.k8s.Unused": {"type": "object"},
    }
}

CRD: dict[str, Any] = {
    "spec": {
        "group": "gateway.networking.k8s.io",
        "names": {"kind": "HTTPRoute"},
        "versions": [
            {
                "name": "v1",
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "metadata": {"type": "object"},
                            "spec": {"type": "object", "properties": {"weight": {"type": "integer"}}},
                        },
                    }
                },
            }
        ],
    }
}


@pytest.fixture
def thing() -> jsonschema.Draft7Validator:
    ((kind, schema),) = schemas_of_openapi(OPENAPI)
    assert kind.file == "thing-apps-v1.json"
    assert "io.k8s.Unused" not in schema["definitions"]
    return jsonschema.Draft7Validator(schema)


@pytest.mark.parametrize(
    "spec",
    [
        {"replicas": 2},
        {"port": 80},
        {"port": "http"},
        {"memory": "1Gi"},
        {"memory": 2},
        {"own": {"own": {"replicas": 1}}},
    ],
)
def test_what_kubernetes_takes_is_valid(thing: jsonschema.Draft7Validator, spec: dict[str, Any]) -> None:
    thing.validate({"kind": "Thing", "description": "x", "labels": {"any": "thing"}, "spec": spec})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"spec": {"replicas": "two"}},
        {"spec": {"replica": 2}},
        {"spec": {"own": {"own": {"replica": 2}}}},
        {"spec": {"port": 1.5}},
        {"spec": {}, "lables": {}},
        {"spec": {}, "labels": {"one": 1}},
    ],
)
def test_what_it_does_not_take_is_not(thing: jsonschema.Draft7Validator, document: dict[str, Any]) -> None:
    assert not thing.is_valid(document)


def test_a_custom_resource_is_strict_but_for_its_metadata() -> None:
    ((kind, schema),) = schema_of_crd(CRD)
    assert kind.file == "httproute-gateway-v1.json"
    validator = jsonschema.Draft7Validator(schema)
    assert validator.is_valid({"metadata": {"name": "x", "labels": {}}, "spec": {"weight": 1}})
    assert not validator.is_valid({"spec": {"wieght": 1}})


def test_a_core_kind_has_no_group_in_its_file() -> None:
    core = {"group": "", "version": "v1", "kind": "Service"}
    document = {"definitions": {"S": {"type": "object", "x-kubernetes-group-version-kind": [core]}}}
    assert [kind.file for kind, _ in schemas_of_openapi(document)] == ["service-v1.json"]


def test_alternatives_name_only_some_of_the_properties() -> None:
    spec = {
        "type": "object",
        "properties": {"ingress": {"type": "array"}, "egress": {"type": "array"}},
        "anyOf": [
            {"properties": {"ingress": {}}, "required": ["ingress"]},
            {"properties": {"egress": {}}, "required": ["egress"]},
        ],
    }
    ((_, schema),) = schema_of_crd(
        {
            "spec": {
                "group": "cilium.io",
                "names": {"kind": "Policy"},
                "versions": [
                    {
                        "name": "v2",
                        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
                    }
                ],
            }
        }
    )
    found = jsonschema.Draft7Validator(schema)
    assert found.is_valid({"spec": {"ingress": [], "egress": []}})
    assert not found.is_valid({"spec": {}})
    assert not found.is_valid({"spec": {"egress": [], "other": 1}})

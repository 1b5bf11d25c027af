"""The chart's values as types: the chart's own, its schema, and what every environment lays over them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from ci import places
from ci.architecture import model
from ci.architecture.chart import checkable_values, values
from ci.environments.chart_values import Values, laid_over, schema

CHART = places.checkout() / "helm/voice-assistant"
IMAGE = {"repository": "registry.example/any", "digest": f"sha256:{'0' * 64}"}
OWN = yaml.safe_load((CHART / "values.yaml").read_text())
RELEASE = {"images": dict.fromkeys(OWN["images"], IMAGE)}
ESTATE = [
    (environment, region)
    for environment in model.environments()
    for region in model.read(environment).architecture.order
]


def complete(*over: dict[str, Any]) -> dict[str, Any]:
    found = laid_over(OWN, RELEASE)
    for each in over:
        found = laid_over(found, each)
    return found


def test_the_charts_schema_is_that_of_the_models() -> None:
    assert (CHART / "values.schema.json").read_text() == schema(), (
        "va env chart-schema > helm/voice-assistant/values.schema.json"
    )


def test_the_charts_own_values_say_everything() -> None:
    Values.model_validate(complete())


@pytest.mark.parametrize(("environment", "region"), ESTATE)
def test_an_environments_values_fit(environment: str, region: str) -> None:
    given = complete(checkable_values(model.read(environment).architecture, region))
    Values.model_validate(given)
    assert not list(Draft202012Validator(yaml.safe_load(schema())).iter_errors(given))


def test_each_region_has_its_own_services() -> None:
    prod = model.read("prod").architecture
    found = [values(prod, region) for region in prod.order]
    for path in (("redis", "url"), ("secrets", "vault", "url"), ("livekit", "address")):
        said = set()
        for one in found:
            here: Any = one
            for key in path:
                here = here[key]
            said.add(here)
        assert len(said) == len(prod.order), path


def test_a_small_cluster_needs_no_controller() -> None:
    own = Values.model_validate(complete())
    assert own.secrets.provider == "none" and not own.monitoring.pod_monitors and not own.monitoring.rules
    assert not own.network_policy.cilium and not own.livekit.server.enabled and not own.traffic.gateway.create
    assert {part.autoscaling.by for part in (own.api, own.agent)} == {"none"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"api": {"autoscaling": {"by": "cpu", "min": 5, "max": 4, "target": 60}}},
        {"livekit": {"server": {"enabled": True}}},
        {"livekit": {"server": {"udpFrom": 60001}}},
        {"secrets": {"vault": {"url": "https://vault.example"}}},
        {"api": {"identity": "voice-api"}},
        {"networkPolicy": {"redis": ["redis.example"]}},
        {"monitoring": {"interval": "15"}},
        {"agent": {"env": {"AGENT_NAME": "x"}}},
        {"api": {"resources": {"limits": {"memory": "512MB"}}}},
        {"api": {"resources": {"requests": {"cpu": "100 m"}}}},
        {"web": {"resources": {"limits": {"memory": "1gi"}}}},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Values.model_validate(complete(wrong))


@pytest.mark.parametrize("memory", ["1181116006400m", "1.5Gi", "5e8", "1E", 536870912])
def test_every_quantity_of_kubernetes_is_a_value(memory: str | int) -> None:
    made = Values.model_validate(complete({"api": {"resources": {"limits": {"memory": memory}}}}))

    assert made.api.resources.limits.memory == memory

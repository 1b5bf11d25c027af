"""The rendered chart held to the architecture's rules: production's golden rendering, and what breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.errors import BadInput
from pipelines.chart import hold_to_rules

GOLDEN = Path(__file__).parents[1] / "helm" / "golden" / "prod.yaml"


def test_production_keeps_the_rules() -> None:
    hold_to_rules({"prod/eastus stable": GOLDEN.read_text()})


@pytest.mark.parametrize(
    ("right", "wrong", "code"),
    [
        ("terminationGracePeriodSeconds: 4000", "terminationGracePeriodSeconds: 3900", "GRACE-DRAIN"),
        ("key: agents", "key: agent", "TAINT-TOLERATION"),
        ("maxReplicaCount: 50", "maxReplicaCount: 500", "CHART-DIFFERS"),
        ("cpu: 6000m", "cpu: 9000m", "REQUEST-NODE"),
        ("voice/pool: api", "voice/pool: agents", "CHART-DIFFERS"),
        ("name: voice-agent", "name: voice-batch", "CHART-UNKNOWN"),
    ],
)
def test_what_breaks_a_rule_is_named(right: str, wrong: str, code: str) -> None:
    text = GOLDEN.read_text()
    assert right in text
    with pytest.raises(BadInput, match=code):
        hold_to_rules({"prod/eastus stable": text.replace(right, wrong)})


def test_a_canary_is_not_counted_beside_stable() -> None:
    hold_to_rules({"prod/eastus canary": GOLDEN.read_text().replace("maxReplicas: 40", "maxReplicas: 4000")})

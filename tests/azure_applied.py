"""A subscription that environments were applied to, without the hundred requests that it takes."""

from __future__ import annotations

from collections.abc import Sequence

from ci.architecture.model import Architecture
from ci.azure.render import render
from ci.azure.standin import StandIn

__all__ = ["SUBSCRIPTION", "applied"]

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"


def applied(architectures: Sequence[Architecture]) -> StandIn:
    """All their modules, deployed in order; what the stand-in refuses fails the test."""
    world = StandIn()
    for module in (module for one in architectures for module in render(one)):
        group = module.group.lower()
        if group not in world.groups:
            world._group("PUT", SUBSCRIPTION, module.group, {"location": module.region}, "")
        values = {name: f"local-{name}" for name in module.parameters}
        values |= {"budgetSince": f"{world.today:%Y-%m}-01T00:00:00Z"} if "budgetSince" in values else {}
        given = {name: {"value": value} for name, value in values.items()}
        body = {"properties": {"template": module.template(), "parameters": given, "mode": "Incremental"}}
        world._deployment("PUT", SUBSCRIPTION, group, module.name, "", body, "")
        world._advance(key := f"{group}/{module.name}")
        assert world.deployments[key]["state"] == "Succeeded", world.deployments[key]["error"]
    return world

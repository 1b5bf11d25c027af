"""The values of template parameters: from variables of who deploys, and from what is there in Azure."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.errors import BadInput

if TYPE_CHECKING:
    from ci.azure.connection import Azure

__all__ = ["asked", "resolve"]


def resolve(references: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """The values of template parameters, each from its `env:NAME`, or as it is: an Entra group's id.

    What is `azure:…` is not among them.

    BadInput names all that are missing, at once.
    """
    missing = {}
    values = {}
    for parameter in wanted:
        kind, _, variable = references[parameter].partition(":")
        if kind == "azure":
            continue  # `asked` knows it
        value = os.environ.get(variable) if kind == "env" else None if variable else kind
        if value:
            values[parameter] = value
        else:
            missing[parameter] = references[parameter]
    if missing:
        raise BadInput(
            f"no value for {', '.join(f'{key} ({value})' for key, value in missing.items())}",
            hint="set these variables: object ids of Entra groups and the like, no secrets",
        )
    return values


async def asked(
    azure: Azure, architecture: Architecture, wanted: Collection[str], *, today: date
) -> dict[str, str]:
    """The values that only Azure knows: since when the budget counts.

    A budget keeps its start; a new one starts with this month. "Past start date should be selected within the
    timegrain period": learn.microsoft.com, BudgetTimePeriod.
    """
    # What needs no Azure (`va env grants`) does not load its SDK.
    from ci.azure.alerting import BUDGET_PARAMETER

    if BUDGET_PARAMETER not in wanted:
        return {}
    from azure.core.exceptions import ResourceNotFoundError
    from azure.mgmt.consumption import ConsumptionManagementClient

    from ci.azure.connection import call

    client, own = azure.client(ConsumptionManagementClient), name(architecture, "budget")
    scope = f"subscriptions/{azure.subscription}"
    try:
        found = await call(lambda: client.budgets.get(scope, own), f"reading {own}")
    except ResourceNotFoundError:
        return {BUDGET_PARAMETER: f"{today:%Y-%m}-01T00:00:00Z"}
    return {BUDGET_PARAMETER: f"{found.time_period.start_date:%Y-%m-%d}T00:00:00Z"}

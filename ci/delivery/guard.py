"""What the guard did: the pod of images/guard, which is beside a canary and outlives a promoter.

It takes all traffic to stable when nobody renews the target's lease, or when the canary has no pod that is
ready, and leaves a record of it: when, why, from which weight, and whose canary (the fence) that was.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["RECORD", "Acted", "record"]

RECORD = "va-guard"
"""The ConfigMap's name, in the target's namespace."""


class Records(Protocol):
    """What is asked of a cluster here."""

    async def config_map(self, name: str, namespace: str) -> dict[str, str] | None:
        """Its data; None when there is none."""


class Acted(BaseModel):
    """What it did last."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    time: datetime
    why: str
    weight: int
    """Percent of the requests that the canary had until then."""
    fence: int
    """Of the lease, then: whose canary it was."""
    release: str = ""
    """What the canary was."""

    @property
    def of_canary(self) -> bool:
        """It acted for a canary without a ready pod, and not for a promoter that was not heard of."""
        return self.why.startswith("no pod of ")

    def __str__(self) -> str:
        return (
            f"the guard took all traffic to stable at {self.time:%Y-%m-%d %H:%M:%S} UTC, "
            f"from {self.weight} % on the canary: {self.why}"
        )


async def record(cluster: Records, namespace: str) -> Acted | None:
    """What the guard of that namespace did last; None when it never had to do anything."""
    data = await cluster.config_map(RECORD, namespace)
    try:
        return Acted.model_validate_strings(data) if data else None
    except ValidationError:
        return None

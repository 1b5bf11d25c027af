"""What each look of a bake saw, kept apart from the ledger: one JSON line a look, of one step after another.

A run that was killed loses the look that it was at; the one that follows goes on with the evidence of the one
before. A report and a replay need no more. Unlike the ledger it is of this machine, and may be deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from ci import places
from ci.delivery.findings import Carried, Finding
from ci.environments import Target

__all__ = ["Look", "Measurements"]


class Look(BaseModel):
    """One look."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")

    step: int
    """The sequence of the ledger's entry that the bake began with."""
    time: datetime
    weight: int
    seconds: float
    """Since the bake began."""
    findings: tuple[Finding, ...]


class Measurements:
    """Those of one promotion on one target."""

    def __init__(self, estate: str, promotion: str, target: Target) -> None:
        folder = places.state() / "measurements" / estate / target.environment
        self.path = folder / f"{promotion}-{target.region}.jsonl"

    def write(self, *, step: int, weight: int, seconds: float, findings: Sequence[Finding]) -> None:
        """Keep a look. Not synced: it is evidence that can be gathered again."""
        look = Look(
            step=step, time=datetime.now(UTC), weight=weight, seconds=seconds, findings=tuple(findings)
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(look.model_dump_json(exclude_defaults=True).encode() + b"\n")

    def read(self) -> tuple[Look, ...]:
        """All looks, the oldest first; a line that a kill has cut off is none."""
        if not self.path.is_file():
            return ()
        found = []
        for line in self.path.read_bytes().splitlines():
            try:
                found.append(Look.model_validate_json(line))
            except ValidationError:
                continue
        return tuple(found)

    def carried(self, steps: Collection[int]) -> Mapping[str, Carried]:
        """The evidence up to the last look of those bakes; none when they had not looked yet."""
        looks = [look for look in self.read() if look.step in steps]
        return {finding.metric: finding.carried for finding in looks[-1].findings} if looks else {}

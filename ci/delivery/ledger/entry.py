"""An entry of the ledger: what was intended, what came of it, what a person ordered, what was seen.

    Draft    what its author says
    Entry    a draft in its place: sequence, time, who wrote it, and the hash of the entry before

An intent is written before an effect and an outcome after it, so that whoever comes later knows of both.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ci.delivery.findings import Exposure, Finding

__all__ = ["Action", "Draft", "Entry", "Kind", "promotion_id"]


class Kind(StrEnum):
    """What kind of entry it is."""

    INTENT = "intent"
    """About to be done."""
    OUTCOME = "outcome"
    """Done, and how it went: `result`."""
    ORDER = "order"
    """A person wants it, from any terminal; `reason` says why."""
    NOTE = "note"
    """Something that was seen, or done by somebody else."""


class Action(StrEnum):
    """What an entry is about."""

    START = "start"
    INSTALL = "install"
    """The first release of a target."""
    CANARY = "canary"
    """A canary is installed."""
    MOVE = "move"
    """Traffic moves: `weight` percent to the canary."""
    STEP = "step"
    """A canary's step bakes at its `weight`."""
    PROVE = "prove"
    UPGRADE = "upgrade"
    """Stable becomes the release."""
    SMOKE = "smoke"
    VERIFY = "verify"
    MEND = "mend"
    """What Helm left in between is brought to where it can go on."""
    REMOVE = "remove"
    """The canary goes."""
    ROLL_BACK = "roll-back"
    WAVE = "wave"
    """The time between two waves."""
    WATCH = "watch"
    """The time after the last wave."""
    FINISH = "finish"

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    APPROVE = "approve"
    RETRY = "retry"
    SKIP_BAKE = "skip-bake"
    OVERRIDE = "override"
    """A freeze does not count."""

    GUARD = "guard"
    """What the guard did while no promoter was alive."""
    MENDED = "mended"
    NOT_THERE = "not-there"
    """The target's registry has not got all of the release: the target was not touched."""
    TOLD = "told"
    """People were told of the entries up to `detail`'s `up_to` (ci.delivery.news)."""
    TAKEN_OVER = "taken-over"
    """A line of the ledger as it was before this one: `detail` keeps its time and who wrote it."""


class Draft(BaseModel):
    """What the author of an entry says."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    promotion: str
    """Its id (`promotion_id`), the same in the ledgers of all environments."""
    kind: Kind
    action: Action
    target: str = ""
    """`prod/eastus`; empty: the whole environment."""
    release: str = ""
    fence: int | None = None
    """The number of the lease that it was done under (ci.delivery.lease)."""
    weight: Annotated[int, Field(ge=0, le=100)] | None = None
    """Percent."""
    result: str = ""
    """Of an outcome, in a word: done, passed, failed, inconclusive, stopped, promoted, …"""
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    exposure: Exposure | None = None
    detail: Mapping[str, str | int | float | bool] = {}

    @field_validator("detail")
    @classmethod
    def _times(cls, told: Mapping[str, Any]) -> Mapping[str, Any]:
        """What `Entry.when` reads is a moment of the calendar, with its zone: ISO 8601."""
        if isinstance(time := told.get("time"), str):
            try:
                known = datetime.fromisoformat(time)
                known.astimezone(UTC), known - timedelta(days=366)
            except (ValueError, OverflowError):
                known = None
            if known is None or known.tzinfo is None:
                raise ValueError(f"it happened at {time!r}, which is no time")
        return told


class Entry(Draft):
    """A draft in its place."""

    sequence: Annotated[int, Field(ge=1)]
    """From 1, without a hole."""
    time: datetime
    who: str
    previous: str
    """The hash of the entry before; 64 zeros for the first."""
    hash: str
    """SHA-256 of all the rest, as it is stored (ci.delivery.ledger.chain)."""

    @property
    def when(self) -> datetime:
        """When it happened: what was taken over, or the guard did, was before it was written here."""
        told = self.detail.get("time")
        return datetime.fromisoformat(told) if isinstance(told, str) else self.time

    @property
    def by(self) -> str:
        """Who did it: what was taken over, or the guard did, was written by somebody else."""
        return str(self.detail.get("who", self.who))

    @property
    def words(self) -> str:
        """What it says, in few words: `move 25 %: done`, `order to pause`."""
        if self.action is Action.TAKEN_OVER:
            said = self.result
        elif self.kind is Kind.ORDER:
            said = f"order to {self.action}"
        else:
            said = str(self.action)
        weight = f" {self.weight} %" if self.weight is not None else ""
        if self.kind is Kind.INTENT:
            return f"{said}{weight} …"
        result = f": {self.result}" if self.result and self.action is not Action.TAKEN_OVER else ""
        return f"{said}{weight}{result}"


def promotion_id(time: datetime | None = None, mark: str = "") -> str:
    """The name of a promotion that begins now, or then. Names sort by time: `2026-11-29T201512-ab12`."""
    begins = (time or datetime.now(UTC)).astimezone(UTC)
    return f"{begins:%Y-%m-%dT%H%M%S}-{mark or secrets.token_hex(2)}"

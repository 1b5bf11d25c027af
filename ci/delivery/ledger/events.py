"""The ledger in the words of pipelines/promote.py and rollback.py: one event at a time, without waiting.

Each event is an entry with the event's word as its result; what was taken over is read in the same words.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from ci.delivery.findings import Carried, Exposure, Finding
from ci.delivery.ledger.entry import Action, Draft, Entry, Kind, promotion_id
from ci.delivery.ledger.ledger import Ledger
from ci.delivery.ledger.opening import folder, open_named
from ci.delivery.ledger.who import whoami
from ci.errors import BadInput

__all__ = ["Event", "Happened", "Journal"]

T = TypeVar("T")


class Event(StrEnum):
    """What happened."""

    STARTED = "started"
    CANARY = "canary"
    """A canary was installed."""
    STEP_PASSED = "step passed"
    STEP_FAILED = "step failed"
    INCONCLUSIVE = "inconclusive"
    INTERRUPTED = "interrupted"
    ROLLED_BACK = "rolled back"
    """Traffic is back on stable; the canary is gone, or stable is the release before again."""
    PROMOTED = "promoted"
    """The release is stable here."""
    NOT_THERE = "not there"
    """The target's registry has not got all of the release: the target was not touched."""


_ENDS = (Event.STEP_FAILED, Event.PROMOTED, Event.ROLLED_BACK)
_ACTIONS = {
    Event.STARTED: Action.START,
    Event.CANARY: Action.CANARY,
    Event.STEP_PASSED: Action.STEP,
    Event.STEP_FAILED: Action.STEP,
    Event.INCONCLUSIVE: Action.STEP,
    Event.INTERRUPTED: Action.FINISH,
    Event.ROLLED_BACK: Action.ROLL_BACK,
    Event.PROMOTED: Action.FINISH,
    Event.NOT_THERE: Action.NOT_THERE,
}


class Happened(BaseModel):
    """One event on one target."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    time: datetime
    who: str
    event: Event
    target: str
    release: str
    weight: int | None = None
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    exposure: Exposure | None = None


class Journal:
    """The events of one environment; those that one object writes are one promotion."""

    def __init__(self, estate: str, environment: str, *, shared: str | None = None) -> None:
        self._named = (estate, environment, shared)
        self._promotion = promotion_id()

    def write(
        self,
        event: Event,
        *,
        target: str,
        release: str,
        weight: int | None = None,
        reason: str = "",
        findings: tuple[Finding, ...] = (),
        exposure: Exposure | None = None,
        time: datetime | None = None,
    ) -> Happened:
        """Append one event; on disk when this returns. `time`: when it happened, if not now."""
        draft = Draft(
            promotion=self._promotion,
            kind=Kind.NOTE if event is Event.NOT_THERE else Kind.OUTCOME,
            action=_ACTIONS[event],
            target=target,
            release=release,
            weight=weight,
            result=event,
            reason=reason,
            findings=findings,
            exposure=exposure,
            detail={"time": time.isoformat()} if time else {},
        )
        return _happened(self._with(lambda ledger: ledger.append(draft)))

    def entries(self) -> tuple[Happened, ...]:
        """All events, the oldest first; Damaged names the entry that is not whole."""
        found = self._with(lambda ledger: ledger.entries())
        return tuple(_happened(entry) for entry in found if entry.target and entry.result in set(Event))

    def carried(self, target: str, release: str) -> tuple[int, Mapping[str, Carried]]:
        """Where an interrupted promotion of that release stands on that target.

        Returns the weight of the last step that passed (0: none) and each metric's evidence up to there:
        factors of steps multiply over runs too. A promotion that came to an end carries nothing.
        """
        passed, evidence = 0, dict[str, Carried]()
        for entry in self.entries():
            if entry.target != target or entry.event is Event.NOT_THERE:
                continue
            if entry.release != release or entry.event in _ENDS:
                passed, evidence = 0, {}
            elif entry.event in (Event.STEP_PASSED, Event.INCONCLUSIVE, Event.INTERRUPTED):
                if entry.event is Event.STEP_PASSED:
                    passed = entry.weight or 0
                evidence |= {finding.metric: finding.carried for finding in entry.findings}
        return passed, evidence

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold this environment for one process; BadInput names the one that holds it."""
        estate, environment, _ = self._named
        lock = folder(estate) / f"{environment}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise BadInput(
                    f"{environment} is being worked on by {holder}", hint="wait until it has ended"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} of {whoami()}")
            file.flush()
            yield

    def _with(self, work: Callable[[Ledger], Coroutine[Any, Any, T]]) -> T:
        """Callers are in an event loop and do not wait: this runs in a loop of its own."""
        estate, environment, shared = self._named

        async def opened() -> T:
            async with open_named(estate, environment, shared=shared) as ledger:
                return await work(ledger)

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, opened()).result()


def _happened(entry: Entry) -> Happened:
    return Happened(
        time=entry.when,
        who=entry.by,
        event=Event(entry.result),
        target=entry.target,
        release=entry.release,
        weight=entry.weight,
        reason=entry.reason,
        findings=entry.findings,
        exposure=entry.exposure,
    )

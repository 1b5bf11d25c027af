"""The ledger: who promoted what where, each step and verdict with its numbers. One JSON line an event.

Append-only and synced to disk, one file an environment: `state()/ledger/<estate>/<environment>.jsonl`. It is
the memory of a promotion that was interrupted, and the answer to "why is this not in prod". The world comes
first: what runs is asked from the cluster, the ledger says what was decided.
"""

from __future__ import annotations

import fcntl
import getpass
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ci import places
from ci.delivery.gates import Carried, Exposure, Finding
from ci.errors import BadInput, PipelineError

__all__ = ["Entry", "Event", "Ledger"]


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


class Entry(BaseModel):
    """One event on one target."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")

    time: datetime
    who: str
    event: Event
    target: str
    release: str
    weight: int | None = None
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    exposure: Exposure | None = None


class Ledger:
    """The ledger of one environment."""

    def __init__(self, estate: str, environment: str, root: Path | None = None) -> None:
        folder = (root or places.state() / "ledger") / estate
        self.path = folder / f"{environment}.jsonl"
        self._environment = environment

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
    ) -> Entry:
        """Append one entry; on disk when this returns."""
        entry = Entry(
            time=time or datetime.now(UTC),
            who=_who(),
            event=event,
            target=target,
            release=release,
            weight=weight,
            reason=reason,
            findings=findings,
            exposure=exposure,
        )
        line = entry.model_dump_json(exclude_defaults=True).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                size = file.seek(0, os.SEEK_END)
                if size:
                    file.seek(size - 1)
                    if file.read(1) != b"\n":  # a run was killed, or the disk was full, inside a line
                        line = b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PipelineError(
                f"cannot write the ledger {self.path}: {error.strerror}",
                hint="make room or mend its rights, then run the same command: nothing is lost",
            ) from error
        return entry

    def entries(self) -> tuple[Entry, ...]:
        """All entries, the oldest first. A line that was cut off by a kill is left out."""
        if not self.path.is_file():
            return ()
        found = []
        for line in self.path.read_bytes().splitlines():
            try:
                found.append(Entry.model_validate_json(line))
            except ValidationError:
                continue
        return tuple(found)

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
        lock = self.path.with_suffix(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise BadInput(
                    f"{self._environment} is being worked on by {holder}", hint="wait until it has ended"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} of {_who()}")
            file.flush()
            yield


def _who() -> str:
    return os.environ.get("GITHUB_ACTOR") or getpass.getuser()

"""The ledger as it was before: one JSON line an event, in `<environment>.jsonl`. It is taken over once.

Each line becomes a note that keeps its time and who wrote it. A line that cannot be read becomes a note that
names it. The file is then moved aside, and stays. A run that is killed here is finished by the next.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ci.delivery.findings import Exposure, Finding
from ci.delivery.ledger.entry import Action, Draft, Kind, promotion_id
from ci.delivery.ledger.ledger import Conflict, Ledger
from ci.files import refused

__all__ = ["Event", "take_over"]

_SHOWN = 120


class Event(StrEnum):
    """What happened, in the words of those lines: the result of the note that is made of one."""

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


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    time: datetime
    who: str
    event: str
    target: str
    release: str
    weight: int | None = None
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    exposure: Exposure | None = None


async def take_over(file: Path, ledger: Ledger) -> None:
    """Have what is in `file` in the ledger, and the file out of the way. Nothing where there is none."""
    if not file.is_file():
        return
    try:
        lines = await asyncio.to_thread(file.read_bytes)
        while True:
            entries = await ledger.entries()
            taken = {entry.detail.get("digest") for entry in entries if entry.action is Action.TAKEN_OVER}
            end = entries[-1].sequence if entries else 0
            try:
                for draft in _notes(file.name, lines):
                    if draft.detail["digest"] not in taken:
                        end = (await ledger.append(draft, after=end)).sequence
            except Conflict:  # another process does the same
                continue
            break
        with suppress(FileNotFoundError):  # another process was first
            file.rename(file.with_suffix(".jsonl.taken-over"))
    except OSError as error:
        raise refused(error, file) from error


def _notes(name: str, content: bytes) -> Iterator[Draft]:
    """A note a line. Events of one release in a row are one promotion: the lines have no name for it."""
    release, promotion = None, ""
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        digest = hashlib.sha256(f"{number} ".encode() + line).hexdigest()
        detail: dict[str, str | int | float | bool] = {"line": number, "digest": digest}
        try:
            was = _Line.model_validate_json(line)
        except ValidationError:
            shown = line[:_SHOWN].decode(errors="backslashreplace")
            yield Draft(
                promotion=promotion,
                kind=Kind.NOTE,
                action=Action.TAKEN_OVER,
                result="damaged",
                reason=f"line {number} of {name} cannot be read: {shown}",
                detail=detail,
            )
            continue
        if was.release != release:
            release, promotion = was.release, promotion_id(was.time, digest[:4])
        yield Draft(
            promotion=promotion,
            kind=Kind.NOTE,
            action=Action.TAKEN_OVER,
            target=was.target,
            release=was.release,
            weight=was.weight,
            result=was.event,
            reason=was.reason,
            findings=was.findings,
            exposure=was.exposure,
            detail=detail | {"time": was.time.isoformat(), "who": was.who},
        )

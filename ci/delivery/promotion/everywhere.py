"""Work on several targets at once: one that does not answer keeps none of the others from their end."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from ci.concurrency import settled
from ci.delivery.results import TargetResult
from ci.errors import BadInput, PipelineError, PolicyBlocked, StepFailed, SystemUnavailable
from ci.reporting import Reporter

__all__ = ["everywhere", "report"]


async def everywhere(
    work: Mapping[str, Coroutine[Any, Any, TargetResult]],
) -> tuple[list[TargetResult], dict[str, PipelineError]]:
    """All of it, by the target's name: what it came to, and the errors of those that came to nothing.

    A cancellation ends all of it.
    """
    found = dict(zip(work, await settled(work.values()), strict=True))
    return (
        [one for one in found.values() if isinstance(one, TargetResult)],
        {name: one for name, one in found.items() if isinstance(one, PipelineError)},
    )


def report(
    done: Iterable[TargetResult], errors: Mapping[str, PipelineError], reporter: Reporter
) -> PipelineError | None:
    """The error to end with, when there is one; then a note says what each of the others came to."""
    if not errors:
        return None
    for one in done:
        reporter.note(f"{one.target}: {one.outcome.value}: {one.reason}")
    first = next(iter(errors.values()))
    if len(errors) == 1:
        return first
    words = "; ".join(f"{name}: {error.message}" for name, error in errors.items())
    kinds = (SystemUnavailable, StepFailed, PolicyBlocked, BadInput)
    kind = next((kind for kind in kinds if any(isinstance(e, kind) for e in errors.values())), StepFailed)
    return kind(words, hint=first.hint)

"""Every expected failure of the pipelines, each with the exit code that `va` ends with.

    PipelineError            1  (never raised itself)
    ├── BadInput             2  a file, key, argument or reference is wrong; nothing was touched
    ├── StepFailed           3  a build step or a test of ours failed
    ├── GateFailed           4  a gate found harm; the release was taken back, or waits for a person
    ├── GateInconclusive     5  a gate could not decide before its deadline
    ├── SystemUnavailable    6  a registry, cluster, metrics source or cloud did not answer
    ├── ToolMissing          7  a program or package this machine needs is not there
    ├── PolicyBlocked        8  a policy refuses this image or release, or somebody else is at work there
    ├── RootNeeded           9  only root may do that on this machine; nothing was touched
    └── Interrupted        130  Ctrl-C or SIGTERM: the same command goes on; or a promotion was ordered to end

Each message says what was wrong and where; `hint` says what to do next.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "BadInput",
    "GateFailed",
    "GateInconclusive",
    "Interrupted",
    "PipelineError",
    "Place",
    "PolicyBlocked",
    "RootNeeded",
    "StepFailed",
    "SystemUnavailable",
    "ToolMissing",
]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in a file the mistake is: `environments/local/prod.yaml:12 (waves[0].regions)`."""

    file: Path
    line: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        line = f":{self.line}" if self.line else ""
        key = f" ({self.key})" if self.key else ""
        try:
            here = Path.cwd()
        except FileNotFoundError:  # somebody has removed it
            here = self.file
        file = (
            self.file.relative_to(here) if self.file.is_relative_to(here) and self.file != here else self.file
        )
        return f"{file}{line}{key}"


class PipelineError(Exception):
    """An expected failure: printed as one message without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", place: Place | None = None) -> None:
        super().__init__(f"{place}: {message}" if place else message)
        self.message = message
        self.hint = hint
        self.place = place


class BadInput(PipelineError):
    """What the user gave is wrong: a file, key, argument or reference."""

    exit_code = 2


class StepFailed(PipelineError):
    """A build step or a test of ours failed."""

    exit_code = 3


class GateFailed(PipelineError):
    """A gate found harm: what was promoted went back, or waits for a person."""

    exit_code = 4


class GateInconclusive(PipelineError):
    """A gate had too little data to decide before its deadline."""

    exit_code = 5


class SystemUnavailable(PipelineError):
    """A registry, a cluster, a metrics source or a cloud did not answer as it should."""

    exit_code = 6


class ToolMissing(PipelineError):
    """A program or a package this machine needs is not there."""

    exit_code = 7


class PolicyBlocked(PipelineError):
    """A policy (scan, signature, provenance, calendar) refuses it, or somebody else is at work there."""

    exit_code = 8


class RootNeeded(PipelineError):
    """Only root may do that on this machine; nothing was touched."""

    exit_code = 9


class Interrupted(PipelineError):
    """The user stopped it, and the same command goes on from there; or somebody ordered it to end."""

    exit_code = 130

"""Runbooks: the steps of each disaster, and of the drill, as documents for two in the morning.

They are written from the same steps that `va dr plan` prints and `va dr drill` goes through, for one
environment's names. A test compares the files with what is written now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ci.architecture.model import Architecture
from ci.files import write_whole
from ci.places import checkout
from ci.recovery.azure import scenarios
from ci.recovery.steps import DRILL, Scenario, Step

__all__ = ["folder", "runbooks", "stale", "text", "write"]

_NOTE = "<!-- Written by `va dr runbook` from ci/recovery: change the steps there, not this file. -->"


def folder() -> Path:
    """Where they are kept."""
    return checkout() / "docs" / "runbooks"


def runbooks(architecture: Architecture) -> Mapping[str, str]:
    """File name -> content."""
    found = scenarios(architecture)
    files = {f"{one.name}.md": text(one, architecture) for one in found}
    return {"README.md": _index(found, architecture), "drill.md": _drill(), **files}


def stale(architecture: Architecture, where: Path | None = None) -> list[str]:
    """The names of files that are not what would be written now, or that nobody would write."""
    where = where or folder()
    wanted = runbooks(architecture)
    there = {file.name: file.read_text(encoding="utf-8") for file in where.glob("*.md")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def write(architecture: Architecture, where: Path | None = None) -> list[Path]:
    """Write them all and take away what is none of them; returns the files."""
    where = where or folder()
    wanted = runbooks(architecture)
    for name, content in wanted.items():
        write_whole(where / name, content)
    for file in where.glob("*.md"):
        if file.name not in wanted:
            file.unlink()
    return [where / name for name in wanted]


def text(scenario: Scenario, architecture: Architecture) -> str:
    """One disaster's document."""
    promised = int(architecture.recovery.rto.total_seconds() / 60)
    lines = [
        f"# {scenario.title}",
        "",
        _NOTE,
        "",
        f"**How it shows:** {scenario.sign}",
        "",
        f"**What is lost:** {scenario.loses}",
        "",
        f"**How long:** about {scenario.minutes} minutes, as estimated; {architecture.environment} promises "
        f"{promised}. The lines are for {architecture.environment}; for another environment: "
        f"`va dr plan {scenario.name} --env NAME`.",
        "",
        *_steps(scenario.steps),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _steps(steps: tuple[Step, ...]) -> Iterator[str]:
    for number, step in enumerate(steps, 1):
        yield f"## {number}. {step.title}"
        yield ""
        remarks = [
            *(["only when needed"] if step.optional else []),
            *([f"about {step.minutes} min"] if step.minutes else []),
            *(["**there is no way back**"] if step.no_way_back else []),
        ]
        if remarks:
            yield f"({', '.join(remarks)})"
            yield ""
        yield step.why
        yield ""
        if step.commands:
            yield from ("```sh", *step.commands, "```", "")
        if step.proof:
            yield from ("It is done when this says so:", "", "```sh", *step.proof, "```", "")


def _index(found: tuple[Scenario, ...], architecture: Architecture) -> str:
    recovery = architecture.recovery
    lines = [
        "# Runbooks",
        "",
        _NOTE,
        "",
        f"{architecture.environment} promises to work again within {recovery.rto.total_seconds() / 60:g} "
        f"minutes "
        f"(RTO), and that no more than the last {recovery.rpo.total_seconds() / 60:g} minutes (RPO) of "
        f"{', '.join(recovery.covers)} are lost. Rehearsed every {recovery.drill_every.days} days.",
        "",
        "| what happened | how it shows | about |",
        "|---|---|---|",
        *(f"| [{one.title}]({one.name}.md) | {one.sign} | {one.minutes} min |" for one in found),
        "",
        "[The drill](drill.md) rehearses the way back on one machine, with real stores: `va dr drill`.",
        "",
        "The lines were parsed by Azure's own command line; none of them was run on Azure. Before the first "
        "line: `az login`, `az account set -s SUBSCRIPTION`, and a machine inside the network for `kubectl`, "
        "`psql` and Key Vault, none of which answers from outside.",
    ]
    return "\n".join(lines) + "\n"


def _drill() -> str:
    lines = [
        "# The drill",
        "",
        _NOTE,
        "",
        "`va dr drill` goes through these steps on the machine it runs on, as root, with real PostgreSQL, "
        "Redis "
        "and Azurite in stores of their own, and prints RTO and RPO as measured. It ends with 3 when "
        "something "
        "did not come back. With `va dr restore` and the others each step can be done by hand, on the "
        "platform's own stores too.",
        "",
        *_steps(DRILL),
    ]
    return "\n".join(lines).rstrip() + "\n"

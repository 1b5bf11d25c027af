"""How environments are read from their files, and what no single key of them can show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ci import places, yamlfile
from ci.complaints import did_you_mean
from ci.environments.model import Environment
from ci.errors import BadInput
from ci.windows import opens

__all__ = ["estates", "names", "picked", "read_environment", "read_environments"]

_ARCHITECTURE = "architecture"
"""What the targets are made of is declared there: see ci.architecture."""


def estates(root: Path | None = None) -> tuple[str, ...]:
    """The estates there are: the folders with environments, but not the one with the architecture."""
    folder = root or places.checkout() / "environments"
    found = (path.parent.name for path in folder.glob("*/*.yaml"))
    return tuple(sorted({name for name in found if _is_name(name)} - {_ARCHITECTURE}))


def picked(environments: Sequence[Environment], names: Sequence[str] | None) -> list[Environment]:
    """Those of these names, as they were named; all without. BadInput lists the known ones."""
    known = {one.name: one for one in environments}
    for name in names or ():
        if name not in known:
            raise BadInput(f"unknown environment {name!r}", hint=f"environments: {', '.join(known)}")
    return [known[name] for name in names] if names else list(environments)


def _is_name(text: str) -> bool:
    """Whether it can be one of an estate or environment: both are parts of paths, and typed by people."""
    return re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", text) is not None


def _name(text: str, what: str) -> None:
    if not _is_name(text):
        raise BadInput(
            f"{text[:80]!r} is not the name of {what}", hint="it has small letters, digits and dashes"
        )


def names(estate: str, root: Path | None = None) -> tuple[str, ...]:
    """The environments of an estate, by name; BadInput lists the known estates."""
    _name(estate, "an estate")
    folder = root or places.checkout() / "environments"
    known = estates(folder)
    if estate not in known:
        raise BadInput(
            f"unknown estate {estate!r} (the folders of {folder} are estates)",
            hint=did_you_mean(estate, known),
        )
    return tuple(sorted(path.stem for path in (folder / estate).glob("*.yaml") if _is_name(path.stem)))


def read_environment(estate: str, name: str, root: Path | None = None) -> Environment:
    """Read and check one environment; BadInput names every mistake with its file, line and key."""
    folder = root or places.checkout() / "environments"
    from ci.environments.chart_values import hold  # its types take their time to be made

    known = names(estate, folder)
    _name(name, "an environment")
    if name not in known:
        raise BadInput(
            f"unknown environment {name!r} of estate {estate}",
            hint=did_you_mean(name, known),
        )
    document = _document(estate, name, folder)
    _say_names(document, estate, name)
    environment = yamlfile.checked(Environment, document)
    # Each target's are laid over the environment's, and the canary's over those.
    layers: dict[tuple[tuple[str, ...], ...], None] = dict.fromkeys(
        (("values",), ("targets", region, "values")) if target.values else (("values",),)
        for region, target in environment.targets.items()
    )
    for layer in layers:
        hold(document, layer, (("canary", "values"),))
    for loc, mistake in _inconsistencies(environment, known):
        raise BadInput(mistake, place=document.place(*loc), hint="nothing was touched: mend the file")
    return environment


def _before(environment: Environment, ordered: Sequence[Environment]) -> tuple[str, ...]:
    """The environments that a release has been in before, the first one first."""
    named = {one.name: one for one in ordered}
    if environment.after not in named:
        return ()
    return (*_before(named[environment.after], ordered), environment.after)


def _document(estate: str, name: str, root: Path | None) -> yamlfile.Document:
    folder = root or places.checkout() / "environments"
    return yamlfile.load_overlaid(folder / estate / f"{name}.yaml", within=folder)


def read_environments(
    estate: str, through: str | None = None, root: Path | None = None
) -> tuple[Environment, ...]:
    """The environments of an estate in promotion order (`after`), up to and with `through`.

    Only environments on the way to `through` are returned; all of the estate's when it is None.
    """
    ordered: list[Environment] = []

    def add(name: str, below: tuple[str, ...]) -> None:
        if name in below:
            raise BadInput(
                f"environments of {estate} wait for each other: {' -> '.join((*below, name))}",
                place=_document(estate, below[-1], root).place("after"),
                hint="one of them comes first: take its `after` out",
            )
        if any(environment.name == name for environment in ordered):
            return
        environment = read_environment(estate, name, root)
        if environment.after:
            add(environment.after, (*below, name))
        before = _before(environment, ordered)
        if environment.soak and environment.soak.environment not in (None, *before):
            raise BadInput(
                f"{environment.soak.environment} does not come before {name}",
                place=_document(estate, name, root).place("soak"),
                hint=f"before it there is {', '.join(before)}",
            )
        ordered.append(environment)

    for name in names(estate, root) if through is None else [through]:
        add(name, ())
    return tuple(ordered)


def _say_names(document: yamlfile.Document, estate: str, name: str) -> None:
    """A file's own place says its environment's name: it is put in here, and refused inside the file."""
    for key in ("estate", "name"):
        if key in document.data:
            raise BadInput("the file's own name and folder say this: leave it out", place=document.place(key))
    document.data.update(estate=estate, name=name)
    targets = document.data.get("targets")
    for region, target in targets.items() if isinstance(targets, dict) else ():
        if isinstance(target, dict):
            target.update(environment=name, region=region)


_Loc = tuple[str | int, ...]


def _inconsistencies(environment: Environment, known: tuple[str, ...]) -> Iterator[tuple[_Loc, str]]:
    """What no single key can show: where it is, and what is wrong."""
    seen: set[str] = set()
    for number, wave in enumerate(environment.waves):
        for index, region in enumerate(wave):
            if region not in environment.targets:
                hint = did_you_mean(region, environment.targets)
                yield ("waves", number, index), f"region {region!r} has no target; {hint}"
            if region in seen:
                yield ("waves", number, index), f"region {region!r} is in two waves"
            seen.add(region)
    for region in sorted(environment.targets.keys() - seen):
        yield ("targets", region), "is in no wave: it would never get a release"
    places_of: dict[tuple[str, str, str], str] = {}
    for region, target in environment.targets.items():
        place = (str(target.kubeconfig), target.context, target.namespace)
        if (other := places_of.setdefault(place, region)) != region:
            yield ("targets", region, "namespace"), f"{other} is installed there already: {target.namespace}"
    copied: set[str] = set()
    for index, secret in enumerate(environment.secrets):
        if secret.name in copied:
            yield ("secrets", index, "name"), f"the secret {secret.name!r} is given twice"
        copied.add(secret.name)
    steps = environment.canary.steps
    for index, step in enumerate(steps):
        if index and step.weight <= steps[index - 1].weight:
            yield (
                ("canary", "steps", index, "weight"),
                f"steps grow: more than {steps[index - 1].weight} is expected",
            )
        if step.bake > environment.gates.deadline:
            yield ("canary", "steps", index, "bake"), "is longer than gates.deadline: no step could pass"
    if environment.after is not None and (
        environment.after not in known or environment.after == environment.name
    ):
        others = [name for name in known if name != environment.name]
        yield ("after",), f"no environment {environment.after!r}; there is {', '.join(others) or 'no other'}"
    soak = environment.soak
    if soak is not None and soak.environment is None and environment.after is None:
        yield ("soak",), f"no environment comes before {environment.name}, for a release to soak in"
    elif soak is not None and soak.environment not in (None, *known):
        yield ("soak",), f"no environment {soak.environment!r}; {did_you_mean(str(soak.environment), known)}"
    elif soak is not None and soak.environment == environment.name:
        yield ("soak",), "a release soaks in an environment before this one"
    if _never_open(environment):
        also = " and these hours" if environment.hours else ""
        yield ("freezes",), f"with these freezes{also} there is no time at which a release may go in"


def _never_open(environment: Environment) -> bool:
    """Whether no week has a moment in its hours that is in none of the freezes that come again each week."""
    weekly = [freeze.when for freeze in environment.freezes if freeze.when.weekly]
    if not weekly:
        return False
    monday, fortnight = datetime(2026, 1, 5, tzinfo=UTC), timedelta(days=15)
    return opens(monday, hours=environment.hours, freezes=weekly, within=fortnight) is None

"""Built tools, shared by a team: publish those of this machine, take those of another, say which there are.

Where they are is said by `tools/registry.yaml`, which may be committed, or by the environment:

    registry: registry.example/tools        # or VA_TOOLS
    signers:                                # or VA_TOOLS_TRUST: such a file, or a public key in PEM
      - key: tools/team.pub

What is taken is verified first, and nothing that fails is used: a line says why, and it is built here
(docs/tools.md).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ci import places, platform, tools, yamlfile
from ci.concurrency import together
from ci.environments import TrustedSigner
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable
from ci.layout import Column, Page, Table, page
from ci.registry import Registry, parse_reference, push, registry_at
from ci.reporting import Reporter
from ci.supply.signing import KeyPair, Signer
from ci.supply.toolbox import box_of, find, tag_of, take
from ci.tools import go
from ci.tools.sources import build_key, lock, this_platform, workbench
from ci.tools.table import GO_MODULES, GoTool, of_go
from ci.yamlfile import did_you_mean
from pipelines.sign import sign_at_home, signer_of

__all__ = [
    "ListedModule",
    "PushedModule",
    "Shelf",
    "list_tools",
    "push_tools",
    "shelf",
    "show_listed",
    "show_pushed",
    "taken_from_shelf",
]

_REPOSITORY = "tools"
_PEM = b"-----BEGIN"


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Where built tools are, and whose are believed: any one of `trusted`."""

    endpoint: str
    repository: str
    trusted: tuple[TrustedSigner, ...]

    def __str__(self) -> str:
        return f"{self.endpoint}/{self.repository}"


@dataclass(frozen=True, kw_only=True)
class PushedModule:
    """What a registry has of a module after a push. `unchanged`: all of it was there and signed."""

    module: str
    reference: str
    tools: tuple[str, ...]
    sent: tuple[str, ...]
    bytes_sent: int
    signed_by: str
    unchanged: bool


@dataclass(frozen=True, kw_only=True)
class ListedModule:
    """Where the tools of a module are. `problem` says why none are taken from the registry."""

    module: str
    key: str
    tools: tuple[str, ...]
    here: tuple[str, ...]
    """In this machine's cache, built or taken."""
    shelved: tuple[str, ...] = ()
    """In the registry, believed."""
    bytes: int = 0
    """What those take there."""
    reference: str = ""
    signed_by: str = ""
    problem: str = ""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    registry: str | None = None
    signers: Annotated[tuple[TrustedSigner, ...], Field(strict=False)] = ()


# Where they are, and whom we believe ----------------------------------------------------------------


def shelf(address: str | None = None) -> Shelf | None:
    """Where built tools are taken from: `address`, or what the settings name; None when nobody names any.

    BadInput when a setting is wrong, or nobody is trusted: then nothing from there could ever be used.
    """
    if (named := address or os.environ.get("VA_TOOLS")) is None:
        named = _settings().registry
    if not named:  # VA_TOOLS= means: none, whatever the checkout names
        return None
    endpoint, repository = parse_shelf(named)
    trusted = _trusted()
    if not trusted:
        raise BadInput(
            f"built tools would be taken from {named}, but nobody is trusted to have built them",
            hint="name who signs them: VA_TOOLS_TRUST=<public key, PEM>, or `signers` in tools/registry.yaml "
            "(docs/tools.md); or set VA_TOOLS to nothing, and what is missing is built here",
        )
    return Shelf(endpoint=endpoint, repository=repository, trusted=trusted)


def _settings() -> _File:
    file = places.checkout() / "tools" / "registry.yaml"
    return _read(file) if file.is_file() else _File()


def _trusted() -> tuple[TrustedSigner, ...]:
    """Whose tools are believed: who is named; when nobody is, this user's own platform, where it has a key.

    Whoever has that key may write to this user's cache as it is. BadInput for a file that is not there.
    """
    trust = os.environ.get("VA_TOOLS_TRUST")
    named = _trusted_by(Path(trust).expanduser().absolute()) if trust else _settings().signers
    for file in (file for signer in named for file in (signer.key, signer.trusted_root) if file):
        if not file.is_file():
            raise BadInput(
                f"there is no file {file}, which built tools are verified with",
                hint="VA_TOOLS_TRUST, or else tools/registry.yaml, names it",
            )
    own = KeyPair(folder=platform.addresses().signing).public
    return named or ((TrustedSigner(key=own),) if own.is_file() else ())


def parse_shelf(text: str) -> tuple[str, str]:
    """`host[:port][/repository]` as endpoint and repository, which is `tools` when left out; or BadInput."""
    try:
        reference = parse_reference(text if "/" in text else f"{text}/{_REPOSITORY}")
        if reference.tag or reference.digest:
            raise BadInput("it names one artifact, and tools are many")
    except BadInput as error:
        why = "it is a URL" if "://" in text else str(error)
        raise BadInput(
            f"{text!r} is no place for built tools: {why}",
            hint="VA_TOOLS, or `registry` in tools/registry.yaml, is host[:port][/repository]",
        ) from error
    return reference.registry, reference.repository


def _trusted_by(file: Path) -> tuple[TrustedSigner, ...]:
    try:
        is_key = file.read_bytes().lstrip().startswith(_PEM)
    except OSError as error:
        raise BadInput(
            f"VA_TOOLS_TRUST names {file}, which cannot be read: {error.strerror}",
            hint="a public key in PEM, or YAML with `signers` (docs/tools.md)",
        ) from error
    return (TrustedSigner(key=file),) if is_key else _read(file).signers


def _read(file: Path) -> _File:
    return yamlfile.checked(_File, yamlfile.load(file))


# Taking --------------------------------------------------------------------------------------------


async def taken_from_shelf(wanted: Sequence[GoTool], reporter: Reporter) -> None:
    """Have those of `wanted` in place that are on the shelf: the source that commands give to `ci.tools`.

    What is not there, or not to be believed, is left to be built, and its step says so. BadInput as `shelf`.
    """
    place = shelf()
    if place is None:
        return
    async with registry_at(place.endpoint, attempts=3) as registry:
        with reporter.step(f"look for built tools in {place}") as step:
            try:
                tags = frozenset(await registry.tags(place.repository))
            except SystemUnavailable as error:
                step.skipped(f"{error}; what is missing is built here")
                return
            modules = tuple(dict.fromkeys(tool.module for tool in wanted))
            found = [module for module in modules if tag_of(module) in tags]
            step.say(f"{len(found)} of {len(modules)} modules are there")
        await together(
            _take(registry, place, module, [tool for tool in wanted if tool.module == module], tags, reporter)
            for module in modules
        )


async def _take(
    registry: Registry,
    place: Shelf,
    module: str,
    wanted: Sequence[GoTool],
    tags: frozenset[str],
    reporter: Reporter,
) -> None:
    with reporter.step(f"take {', '.join(tool.name for tool in wanted)}") as step:
        if tag_of(module) not in tags:
            step.skipped(f"{_absent(place, module, tags)}: built here")
            return
        async with lock(f"take-{module}", step):
            wanted = [tool for tool in wanted if not go.made_at(tool).exists()]
            if not wanted:
                step.cached("taken meanwhile")
                return
            try:
                box = await find(registry, place.repository, module, place.trusted)
                has = [tool for tool in wanted if box and tool.name in box.layers]
                if box is None or not has:
                    step.skipped(f"{place} has none of them: built here")
                    return
                size = sum(box.layers[tool.name].size for tool in has) / 2**20
                with workbench(module, "take") as bench:
                    await take(
                        registry,
                        box,
                        has,
                        bench=bench,
                        told=lambda done: step.say(f"{done / 2**20:.0f} of {size:.0f} MiB"),
                    )
            except (PolicyBlocked, SystemUnavailable) as error:
                step.skipped(f"{error}; built here")
                return
            lacking = [tool.name for tool in wanted if tool not in has]
            rest = f"; {', '.join(lacking)} not there: built here" if lacking else ""
            step.say(f"{size:.0f} MiB, signed by {box.signed_by}{rest}")


def _absent(place: Shelf, module: str, tags: frozenset[str]) -> str:
    ours = tag_of(module).removesuffix(this_platform().replace("/", "-"))
    others = sorted(tag.removeprefix(ours) for tag in tags if tag.startswith(ours))
    if others:
        return f"{place} has {module} for {', '.join(others)}, not for {this_platform()}"
    if any(tag.startswith(f"{module}-") for tag in tags):
        return f"{place} has {module}, but built of other files than tools/{module} holds now"
    return f"{place} has no {module}"


# Publishing ----------------------------------------------------------------------------------------


async def push_tools(
    address: str, *, modules: Sequence[str] = (), sign_with: str, reporter: Reporter
) -> tuple[PushedModule, ...]:
    """Publish what is made here of these modules (of all, when none is named), each signed as one artifact.

    What the registry has already, signed by one who is trusted, is not sent again. Interrupted, the same
    command goes on. BadInput: nothing is made here, or no such module; SystemUnavailable: the registry.
    """
    endpoint, repository = parse_shelf(address)
    for name in modules:
        if name not in GO_MODULES:
            raise BadInput(f"there is no module {name!r} of Go tools", hint=did_you_mean(name, GO_MODULES))
    made = [module for module in modules or GO_MODULES if _made(module)]
    if not made:
        raise BadInput(
            f"nothing is built here of {', '.join(modules) or 'any module'}",
            hint="va doctor --install builds it",
        )
    if rest := [module for module in modules or GO_MODULES if module not in made]:
        reporter.note(f"nothing is built here of {', '.join(rest)}: not pushed")
    await tools.ensure(["cosign"], reporter)
    believed = _trusted()
    signer = await signer_of(sign_with, "local", believed)
    trusted = (signer.verified_by, *believed)

    async with registry_at(endpoint) as registry:
        return tuple(
            [await _push(registry, repository, module, signer, trusted, reporter) for module in made]
        )


async def _push(
    registry: Registry,
    repository: str,
    module: str,
    signer: Signer,
    trusted: Sequence[TrustedSigner],
    reporter: Reporter,
) -> PushedModule:
    with reporter.step(f"push {module}") as step:
        sent = 0

        def count(bytes_: int) -> None:
            nonlocal sent
            sent += bytes_
            step.say(f"{sent / 2**20:.0f} MiB sent")

        async with lock(f"push-{module}", step):
            with workbench(module, "push") as bench:
                box = await box_of(
                    registry, repository, module, trusted, bench=bench, packing=step.say, sent=count
                )
                done = await push(registry, repository, box.bundle)
                _, before = await sign_at_home(
                    registry, repository, box.bundle.digest, signer=signer, say=step.say
                )
                # The tag is moved last: nobody finds what is not signed yet.
                tagged = await push(registry, repository, box.bundle, tags=[box.tag])
        unchanged = done.unchanged and tagged.unchanged and before
        if unchanged:
            step.cached("all of it was there")
        else:
            step.say(f"{done.bytes_sent / 2**20:.0f} MiB sent: {', '.join(box.added) or 'a signature'}")
        return PushedModule(
            module=module,
            reference=f"{registry.endpoint}/{repository}:{box.tag}@{box.bundle.digest}",
            tools=box.tools,
            sent=box.added,
            bytes_sent=done.bytes_sent,
            signed_by=str(signer.verified_by),
            unchanged=unchanged,
        )


def _made(module: str) -> tuple[str, ...]:
    return tuple(tool.name for tool in of_go(module) if go.made_at(tool).exists())


# Saying what there is ------------------------------------------------------------------------------


async def list_tools(*, address: str | None, reporter: Reporter) -> tuple[ListedModule, ...]:
    """What is made here of each module, and what the registry has, if one is named; BadInput as `shelf`."""
    place = shelf(address)
    if place is None:
        return tuple(_listed(module) for module in GO_MODULES)
    async with registry_at(place.endpoint, attempts=3) as registry:
        with reporter.step(f"look for built tools in {place}"):
            return tuple(await together(_shelved(registry, place, module) for module in GO_MODULES))


async def _shelved(registry: Registry, place: Shelf, module: str) -> ListedModule:
    here = _listed(module)
    try:
        box = await find(registry, place.repository, module, place.trusted)
    except (PolicyBlocked, SystemUnavailable) as error:
        return replace(here, problem=str(error))
    if box is None:
        return replace(here, problem=f"{place} has none of these files and this platform")
    return replace(
        here,
        shelved=tuple(box.layers),
        bytes=sum(layer.size for layer in box.layers.values()),
        reference=str(box.reference),
        signed_by=box.signed_by,
    )


def _listed(module: str) -> ListedModule:
    every = tuple(tool.name for tool in of_go(module))
    return ListedModule(module=module, key=build_key(module), tools=every, here=_made(module))


def show_pushed(pushed: Sequence[PushedModule]) -> Page:
    """What was published, for people."""
    table = Table(
        "module",
        Column(name="tools", rank=3, right=True),
        Column(name="sent", rank=2, right=True),
        Column(name="digest", rank=1, below=True),
    )
    for one in pushed:
        sent = "nothing" if one.unchanged else f"{one.bytes_sent / 2**20:.0f} MiB"
        tools = f"{len(one.tools)} of {len(of_go(one.module))}"
        table.add(one.module, tools, sent, one.reference.rpartition("@")[2])
    return page(
        table, f"signed by {pushed[0].signed_by}, which others name by VA_TOOLS_TRUST (docs/tools.md)"
    )


def show_listed(listed: Sequence[ListedModule]) -> Page:
    """Where the tools of each module are, for people."""
    table = Table(
        "module",
        Column(name="key", rank=3),
        Column(name="here", rank=2),
        Column(name="registry", rank=1),
        Column(name="who signed", rank=1, below=True, prose=True),
    )
    for one in listed:
        shelved = (
            f"{len(one.shelved)} of {len(one.tools)}, {one.bytes / 2**20:.0f} MiB" if one.shelved else "-"
        )
        said = (one.problem, "yellow") if one.problem else one.signed_by and f"signed by {one.signed_by}"
        table.add(one.module, one.key, f"{len(one.here)} of {len(one.tools)}", shelved, said)
    return page(table)

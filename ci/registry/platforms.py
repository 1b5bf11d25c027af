"""Which of an index's images a machine runs: operating system, architecture, and its variant.

    choose(index["manifests"], this_machine())      # the descriptor to go on with

Names and their short forms: OCI image-spec 1.1 (image-index.md, "platform"), GOOS, GOARCH and GOARM. In which
order a machine takes what is not made exactly for it: containerd's platforms package (`platforms.Only`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ci.errors import BadInput

__all__ = ["Platform", "choose", "own_platform", "parse_platform", "this_machine"]

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "armhf": "arm/v7",
    "armel": "arm/v6",
    "armv5l": "arm/v5",
    "armv6l": "arm/v6",
    "armv7l": "arm/v7",
    "armv8l": "arm/v8",
    "loongarch64": "loong64",
}
_SYSTEMS = {"macos": "darwin"}
_PLAIN = {
    ("amd64", "v1"): "", ("arm64", "v8"): "", ("arm64", "v8.0"): "", ("arm64", "v9.0"): "v9",
    ("arm", ""): "v7",
}  # fmt: skip
"""Variants that are said by none, and the one that is meant by none."""
_LEVELS = (
    {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"},
    {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
    {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
)
"""What a processor's flags in /proc/cpuinfo have for x86-64-v2, v3 and v4 (psABI for x86-64, 3.1.1)."""
_ATTESTATION = "vnd.docker.reference.type"
"""What BuildKit marks its attestations with, which lie between the images (platform unknown/unknown)."""

Row = TypeVar("Row", bound=Mapping[str, Any])


@dataclass(frozen=True, kw_only=True)
class Platform:
    """In the usual short form: `linux/amd64`, `linux/arm64`, `linux/arm/v7`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def as_json(self) -> dict[str, str]:
        """As an image's config says it."""
        found = {"os": self.os, "architecture": self.architecture, "variant": self.variant}
        return {key: value for key, value in found.items() if value}


def parse_platform(text: str) -> Platform:
    """`os/architecture[/variant]`, in any usual spelling. BadInput for what is none."""
    parts = text.strip().split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise BadInput(f"{text!r} is no platform", hint="write it like linux/amd64 or linux/arm/v7")
    return _normal(*parts)


def this_machine() -> Platform:
    """What runs here, as far as the kernel tells."""
    return _normal("linux", os.uname().machine)


def own_platform(text: str) -> Platform | None:
    """The platform of that name if this machine runs it as its own: its architecture in any spelling, with
    the system or alone, and each variant that its processor has. None for another one."""
    ours, word = this_machine(), text.strip().lower()
    if word == ours.os:
        return ours
    said = parse_platform(text if "/" in text else f"{ours.os}/{text}")
    if (said.os, said.architecture) != (ours.os, ours.architecture):
        return None
    if said == ours or (ours.architecture == "arm" and said in _runs(ours)):
        return said
    levels = (
        [f"v{number}" for number in range(2, _level(_flags()) + 1)] if ours.architecture == "amd64" else []
    )
    return said if said.variant in levels else None


def _flags() -> set[str]:
    with Path("/proc/cpuinfo").open() as file:
        return next((set(line.split()) for line in file if line.startswith("flags")), set())


def _level(flags: set[str]) -> int:
    """Which x86-64-v… a processor with those flags is."""
    return 1 + next((number for number, needs in enumerate(_LEVELS) if not needs <= flags), len(_LEVELS))


def choose(rows: Sequence[Row], wanted: Platform, *, of: str) -> Row:
    """The row of an index for that platform: the nearest variant that it runs, and of several the first.

    Rows that say no platform are taken where none fits that does; attestations never. BadInput names what
    there is, and `of` what it is of.
    """
    images = [row for row in rows if not _attestation(row)]
    if not images:
        raise BadInput(f"{of} is empty: its index names no image")
    told = [(row, _of(row)) for row in images]
    runs = _runs(wanted)
    fitting = [(runs.index(its), number) for number, (_, its) in enumerate(told) if its in runs]
    if fitting:
        return images[min(fitting)[1]]
    silent = [row for row, its in told if its is None]
    if silent:
        return silent[0]
    there = ", ".join(sorted({str(its) for _, its in told}))
    raise BadInput(f"{of} has no image for {wanted}; it has {there}")


def _of(row: Mapping[str, Any]) -> Platform | None:
    said = row.get("platform")
    if not isinstance(said, Mapping) or not said.get("architecture"):
        return None
    return _normal(str(said.get("os") or "linux"), str(said["architecture"]), str(said.get("variant") or ""))


def _attestation(row: Mapping[str, Any]) -> bool:
    its = _of(row)
    return _ATTESTATION in (row.get("annotations") or {}) or (
        its is not None and its.architecture == "unknown"
    )


def _normal(system: str, architecture: str, variant: str = "") -> Platform:
    system, architecture, variant = system.lower(), architecture.lower(), variant.lower()
    architecture, _, own = _ARCHITECTURES.get(architecture, architecture).partition("/")
    variant = variant or own
    if variant[:1].isdigit():
        variant = f"v{variant}"
    return Platform(
        os=_SYSTEMS.get(system, system),
        architecture=architecture,
        variant=_PLAIN.get((architecture, variant), variant),
    )


def _runs(wanted: Platform) -> list[Platform]:
    """What that platform runs, the nearest first: each older variant, and 32 bits on 64."""

    def of(architecture: str, *variants: str) -> list[Platform]:
        return [_normal(wanted.os, architecture, variant) for variant in variants]

    level = int(wanted.variant[1:]) if wanted.variant[1:].isdigit() else 0
    if wanted.architecture == "arm":
        return [wanted, *of("arm", *(f"v{one}" for one in range(level - 1, 4, -1)))]
    if wanted.architecture == "arm64":
        return [*of("arm64", *_arm64(wanted.variant)), *of("arm", "v8", "v7", "v6", "v5")]
    if wanted.architecture == "amd64":
        return [wanted, *of("amd64", *(f"v{one}" for one in range(level - 1, 0, -1))), *of("386", "")]
    return [wanted]


def _arm64(variant: str) -> list[str]:
    """That variant and those before it. v9.0 came of v8.5, and so v9.n runs what v8.(n+5) does."""
    if not (found := re.fullmatch(r"v([89])(?:\.(\d))?", variant or "v8")):
        return [variant, "v8"]
    minor = int(found[2] or 0)
    nines = [f"v9.{one}" for one in range(minor, -1, -1)] if found[1] == "9" else []
    eights = range(min(minor + 5, 9) if nines else minor, -1, -1)
    return [*nines, *(f"v8.{one}" for one in eights)]

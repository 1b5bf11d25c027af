"""What differs between two releases: images, packages, findings, the chart and its values. Pure.

Packages and findings come from the scan documents attached to the images (`ci.scan.Findings`), not from a new
scan: two releases are compared as they were when they were made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci.release import Release
from ci.scan import Finding, Findings, Kind, Package

__all__ = ["ImageChange", "PackageChange", "ReleaseChange", "ValueChange", "compare", "compare_values"]


@dataclass(frozen=True, kw_only=True, order=True)
class PackageChange:
    """A package that came (`before` is None), went (`after` is None) or changed its version."""

    type: str
    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, kw_only=True)
class ImageChange:
    """One image in both releases, in the old one alone (`after` is None) or in the new one alone."""

    name: str
    before: str | None
    after: str | None
    packages: tuple[PackageChange, ...]
    new: tuple[Finding, ...]
    fixed: tuple[Finding, ...]
    vulnerabilities_compared: bool
    """False when one of the two was not scanned for vulnerabilities: then none is called new or fixed."""

    @property
    def changed(self) -> bool:
        """Whether the two have different digests."""
        return self.before != self.after


@dataclass(frozen=True, kw_only=True)
class ValueChange:
    """One value of the chart: its path, and what it was and is (None: not there)."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class ReleaseChange:
    """All that differs from release `before` to release `after`."""

    before: str
    after: str
    commits: tuple[str, ...]
    """`<short sha> <subject>` of each commit that is in the new one only, the newest first."""
    images: tuple[ImageChange, ...]
    chart: tuple[str, str] | None
    """The two digests when the chart differs."""
    values: tuple[ValueChange, ...]

    @property
    def same(self) -> bool:
        """Whether both deploy the same bytes."""
        return self.chart is None and not any(image.changed for image in self.images)


def compare(
    before: Release,
    after: Release,
    *,
    scans: Mapping[str, Findings],
    commits: Sequence[str] = (),
    values: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> ReleaseChange:
    """Compare two releases. `scans` holds the findings of each image by its digest, `values` both charts'."""
    old = {image.name: image.digest for image in before.images}
    new = {image.name: image.digest for image in after.images}
    images = [_image(name, old.get(name), new.get(name), scans) for name in sorted(old | new)]
    charts = (before.chart.digest, after.chart.digest)
    return ReleaseChange(
        before=before.name,
        after=after.name,
        commits=tuple(commits),
        images=tuple(images),
        chart=charts if charts[0] != charts[1] else None,
        values=tuple(compare_values(*values)),
    )


def compare_values(before: Any, after: Any, path: str = "") -> Iterator[ValueChange]:
    """Every value that differs between two sets of chart values, mappings compared key by key."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            inner = f"{path}.{key}" if path else str(key)
            yield from compare_values(before.get(key), after.get(key), inner)
    elif before != after:
        yield ValueChange(path=path, before=before, after=after)


def _image(name: str, before: str | None, after: str | None, scans: Mapping[str, Findings]) -> ImageChange:
    old = scans.get(before) if before else None
    new = scans.get(after) if after else None
    both_looked = all(one is None or one.database is not None for one in (old, new))
    was = _known(old, vulnerabilities=both_looked)
    now = _known(new, vulnerabilities=both_looked)
    return ImageChange(
        name=name,
        before=before,
        after=after,
        packages=tuple(_packages(old.packages if old else (), new.packages if new else ())),
        new=tuple(now[key] for key in now if key not in was),
        fixed=tuple(was[key] for key in was if key not in now),
        vulnerabilities_compared=both_looked,
    )


def _packages(before: Sequence[Package], after: Sequence[Package]) -> Iterator[PackageChange]:
    names = sorted({(one.type, one.name) for one in (*before, *after)})
    for type_, name in names:
        was = {one.version for one in before if (one.type, one.name) == (type_, name)}
        now = {one.version for one in after if (one.type, one.name) == (type_, name)}
        gone, come = sorted(was - now), sorted(now - was)
        if len(gone) == len(come) == 1:
            yield PackageChange(type=type_, name=name, before=gone[0], after=come[0])
            continue
        for version in gone:
            yield PackageChange(type=type_, name=name, before=version, after=None)
        for version in come:
            yield PackageChange(type=type_, name=name, before=None, after=version)


def _known(findings: Findings | None, *, vulnerabilities: bool) -> dict[tuple[str, ...], Finding]:
    """Findings by what they are; a new version of a package with the same flaw is no new finding."""
    return {
        (one.kind, one.id, one.package or one.target): one
        for one in (findings.findings if findings else ())
        if vulnerabilities or one.kind is not Kind.VULNERABILITY
    }

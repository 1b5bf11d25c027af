"""Releases that were made: list them, bring one here, show one, and say what differs between two."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ci import places
from ci.build.source import commits_between
from ci.complaints import in_words
from ci.concurrency import both, together
from ci.delivery.helm import CHART_LAYER
from ci.errors import BadInput, SystemUnavailable
from ci.layout import Column, Line, Page, Table, page, words
from ci.registry import Registry
from ci.registry.content import unzip
from ci.release import Chart, Image, Release, parse_name, read_release
from ci.scan import Findings
from ci.supply.attestations import RELEASES, Kind, attached, named, release_bundle
from ci.supply.comparison import ImageChange, ReleaseChange, compare
from pipelines.registries import AvailableIn, availability_line, where_available

__all__ = [
    "ShownRelease",
    "diff",
    "pull",
    "readable",
    "releases",
    "show_diff",
    "show_release",
    "show_releases",
    "with_regions",
]

_LARGEST_CHART = 16 * 2**20
"""Bytes of a chart, unpacked."""


def releases() -> tuple[Release, ...]:
    """The releases that were shipped from here, the one shipped last first; BadInput names a spoilt one."""
    found, broken = readable()
    if broken:
        raise broken[0]
    return found


def readable() -> tuple[tuple[Release, ...], tuple[BadInput, ...]]:
    """The same, as far as their files can be read, and what is wrong with each of the others."""
    files = (places.state() / "releases").glob("*.json")
    found, broken = list[Release](), list[BadInput]()
    for file in sorted(files, key=_shipped, reverse=True):
        try:
            found.append(read_release(file))
        except BadInput as error:
            broken.append(error)
    return tuple(found), tuple(broken)


def _shipped(file: Path) -> float:
    return file.lstat().st_mtime  # a link that leads nowhere has one, too


async def pull(registry: Registry, name: str) -> Release:
    """The release of that name as the registry has it, for a machine that did not ship it.

    Nothing is proven by that: whoever may push can have named something else so. `pipelines.verify`, and so
    every promotion, asks for its signature, by its digest. BadInput when there is none, or another one,
    or when that is no name: whoever fills in a form on a page says it.
    """
    manifest = await registry.find_manifest(RELEASES, parse_name(name))
    where = f"{registry.endpoint}/{RELEASES}:{name}"
    if manifest is None:
        raise BadInput(f"there is no release {where}", hint="va ship says the name of what it publishes")
    try:
        (layer,) = manifest.layers
        release = Release.model_validate_json(await registry.blob(RELEASES, layer))
    except (ValidationError, ValueError) as error:
        why = in_words(error) if isinstance(error, ValidationError) else str(error)
        raise BadInput(f"{where} is no release that this version knows: {why}") from error
    if release.name != name or release_bundle(release).digest != manifest.descriptor.digest:
        raise BadInput(
            f"{where} is {release.name}, or was not written as a release is",
            hint="that tag was replaced, or another version of this project made it",
        )
    return release


async def diff(registry: Registry, before: Release, after: Release) -> ReleaseChange:
    """What differs from one release to another, by the scans that each names of its images.

    A scan that was attached to an image since is not looked at; only a release of before they were named has
    any that is there. BadInput when an image has none, or the registry lacks one of the releases.
    """
    # The same image in both may have been scanned twice: what the newer release names is what is known of it.
    images = {image.digest: image for image in (*before.images, *after.images)}
    scans, values = await both(
        together(_scan(registry, image) for image in images.values()),
        together([_values(registry, before.chart), _values(registry, after.chart)]),
    )
    return compare(
        before,
        after,
        scans=dict(zip(images, scans, strict=True)),
        commits=await commits_between(places.checkout(), before.commit.sha, after.commit.sha),
        values=(values[0], values[1]),
    )


async def _scan(registry: Registry, image: Image) -> Findings:
    name, digest = image.name, image.digest
    there = await (named(registry, image) if image.attestations else attached(registry, name, digest))
    found = there.get(Kind.SCAN)
    if found is None:
        which = "the scan that the release names is not" if image.attestations else "no scan is"
        raise BadInput(
            f"{which} attached to {registry.endpoint}/{name}@{digest}",
            hint="va ship attaches one; releases made before that cannot be compared",
        )
    try:
        findings = Findings.model_validate_json(found.content)
    except ValidationError as error:
        raise SystemUnavailable(
            f"the scan attached to {registry.endpoint}/{name}@{digest} cannot be read: {in_words(error)}",
            hint="it was made by another version of this project, or is damaged: va ship makes a new one",
        ) from error
    if findings.subject != digest:
        raise SystemUnavailable(f"the scan attached to {name}@{digest} is one of {findings.subject}")
    return findings


async def _values(registry: Registry, chart: Chart) -> Mapping[str, Any]:
    """values.yaml of a chart in the registry."""
    manifest = await registry.manifest(chart.name, chart.digest)
    layer = next((one for one in manifest.layers if one.media_type == CHART_LAYER), None)
    if layer is None:
        raise BadInput(f"{registry.endpoint}/{chart.name}@{chart.digest} is not a Helm chart")
    content = await registry.blob(chart.name, layer)
    try:
        with tarfile.open(fileobj=io.BytesIO(unzip(content, _LARGEST_CHART)), mode="r:") as tar:
            file = tar.extractfile(f"{chart.name}/values.yaml")
            values = yaml.safe_load(file.read()) if file else {}
    except KeyError:
        return {}
    except (tarfile.TarError, OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"the chart {chart.name}@{chart.digest} cannot be read: {error}") from error
    return values if isinstance(values, dict) else {}


def show_releases(found: tuple[Release, ...]) -> Page:
    """A line for each release, for people."""
    table = Table(
        "release",
        Column(name="created", rank=1),
        Column(name="commit", rank=2),
        Column(name="images", rank=3, below=True),
        Column(name="engine", rank=4),
    )
    for release in found:
        dirty = " (dirty)" if release.commit.dirty else ""
        images = "\n".join(f"{image.name} {image.digest[7:19]}" for image in release.images)
        created = f"{release.created:%Y-%m-%d %H:%M}"
        table.add(release.name, created, release.commit.sha[:12] + dirty, images, release.engine)
    return page(table)


@dataclass(frozen=True, kw_only=True)
class ShownRelease:
    """A release, which never changes, and which regions have it, as it was last asked."""

    release: Release
    available: AvailableIn | None


def with_regions(release: Release) -> ShownRelease:
    """The release, and what was last found out about its regions."""
    return ShownRelease(release=release, available=where_available(release))


def show_release(shown: ShownRelease) -> Page:
    """All that a release says of itself, and which regions have it, for people."""
    release = shown.release
    table = Table(
        "image",
        Column(name="digest", rank=1, below=True),
        Column(name="size", rank=6, right=True),
        Column(name="tests", rank=3, right=True),
        Column(name="vulnerabilities", rank=2, below=True, prose=True),
        Column(name="attached", rank=4, below=True, prose=True),
    )
    for image in release.images:
        found = image.scan.vulnerabilities
        table.add(
            image.name,
            image.digest,
            f"{image.size / 2**20:.1f} MiB",
            f"{image.tests.passed} passed",
            "not scanned"
            if found is None
            else ", ".join(f"{n} {s.lower()}" for s, n in found.items()) or "none",
            ", ".join(sorted(image.attestations)) or "nothing",
        )
    dirty = " with uncommitted changes" if release.commit.dirty else ""
    return page(
        (release.name, "bold"),
        f"commit {release.commit.sha}{dirty}, made {release.created:%Y-%m-%d %H:%M} by {release.engine}",
        table,
        f"chart {release.chart.name} {release.chart.version} {release.chart.digest}",
        availability_line(shown.available),
    )


def show_diff(change: ReleaseChange) -> Page:
    """What differs, for people."""
    lines = [words((f"{change.before} -> {change.after}", "bold"))]
    if change.same:
        lines.append(words("both deploy the same bytes"))
    lines += [words(f"  commit {commit}") for commit in change.commits]
    for image in change.images:
        lines += _image_lines(image)
    if change.chart:
        lines.append(words(f"chart {change.chart[0][7:19]} -> {change.chart[1][7:19]}"))
    lines += [words(f"  {one.path}: {one.before!r} -> {one.after!r}") for one in change.values]
    return page(*lines)


def _image_lines(image: ImageChange) -> list[Line]:
    if not image.changed:
        return [words(f"{image.name} is unchanged ({(image.after or '')[7:19]})")]
    lines = [words(f"{image.name} {(image.before or 'none')[7:19]} -> {(image.after or 'none')[7:19]}")]
    for package in image.packages:
        if package.before is None:
            lines.append(words((f"  + {package.name} {package.after}", "green")))
        elif package.after is None:
            lines.append(words((f"  - {package.name} {package.before}", "red")))
        else:
            lines.append(words((f"  ~ {package.name} {package.before} -> {package.after}", "yellow")))
    lines += [words((f"  new {one.kind}: {one.severity} {one.name}", "red")) for one in image.new]
    lines += [words((f"  fixed {one.kind}: {one.severity} {one.name}", "green")) for one in image.fixed]
    if not image.vulnerabilities_compared:
        lines.append(words(("  vulnerabilities: not scanned in both", "dim")))
    return lines

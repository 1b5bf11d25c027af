"""The Release: one immutable record of what was built, tested, scanned and published.

Promotion moves a release between targets and never changes it. Images and the chart are named by digest only.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ci import places
from ci.complaints import in_words
from ci.errors import BadInput

__all__ = [
    "Chart",
    "Commit",
    "Digest",
    "Image",
    "Release",
    "ReleaseName",
    "ScanSummary",
    "TestSummary",
    "find_release",
    "parse_name",
    "read_release",
]

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
_NAME = r"[a-z0-9]([a-z0-9-]{0,126}[a-z0-9])?"
ReleaseName = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
"""A name is a part of file names, tags and URLs, and comes from others: a registry, a form on a page."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Commit(_Record):
    """The git commit that was built; `dirty` when the work tree held changes that are not in it."""

    sha: str
    dirty: bool
    time: datetime


class TestSummary(_Record):
    """What the image's own test suite said, and the part of its lines that ran (percent)."""

    __test__ = False

    passed: Annotated[int, Field(ge=0)]
    failed: Annotated[int, Field(ge=0)]
    skipped: Annotated[int, Field(ge=0)]
    coverage: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None


class ScanSummary(_Record):
    """What the scan found, as counts by severity. `vulnerabilities` is None when they were not scanned."""

    vulnerabilities: dict[str, int] | None
    misconfigurations: dict[str, int]
    secrets: int
    licences: dict[str, int]
    packages: int


class Image(_Record):
    """One image: `name` is its repository below the registry's root, `digest` its manifest's."""

    name: str
    digest: Digest
    size: int
    """Bytes of the compressed layers."""
    tests: TestSummary
    scan: ScanSummary
    attestations: dict[str, Digest] = {}
    """What is attached to it in the registries, by kind (ci.supply.attestations): documents' manifests."""


class Chart(_Record):
    """The packaged Helm chart as an OCI artifact."""

    name: str
    version: str
    digest: Digest


class Release(_Record):
    """A release. `name` is unique for its content: `<commit time>-<short sha>-<short digest>`."""

    name: ReleaseName
    created: datetime
    commit: Commit
    engine: str
    """What ran the pipeline: `embedded` or `dagger vX.Y.Z`."""
    images: tuple[Image, ...] = Field(min_length=1)
    chart: Chart

    def image(self, name: str) -> Image:
        """The image of that name; BadInput when the release has none."""
        for image in self.images:
            if image.name == name:
                return image
        known = ", ".join(image.name for image in self.images)
        raise BadInput(f"release {self.name} has no image {name!r}; it has {known}")


def parse_name(text: str) -> str:
    """`text` when it can be a release's name, else BadInput: it goes into paths, tags and URLs."""
    if not re.fullmatch(_NAME, text):
        raise BadInput(
            f"{text[:80]!r} is not the name of a release",
            hint="it has small letters, digits and dashes: 20260102-030405-1a2b3c4-5d6e7f80",
        )
    return text


def read_release(path: Path) -> Release:
    """Read a release file; BadInput names the file and each wrong key."""
    try:
        return Release.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(
            f"cannot read the release {path}: {error.strerror}", hint="va ship makes one"
        ) from error
    except ValidationError as error:
        raise BadInput(
            f"{path} is not a release: {in_words(error)}", hint="va ship makes a new one"
        ) from error


def find_release(wanted: str) -> Release:
    """A release by its name, its file, or `latest`: the newest that was shipped here; BadInput names some."""
    if "/" in wanted or wanted.endswith(".json"):
        return read_release(Path(wanted))
    folder = places.state() / "releases"
    parse_name(wanted)
    file = folder / f"{wanted}.json"
    if wanted != "latest" and file.is_file():
        found = read_release(file)
        if found.name != wanted:
            raise BadInput(
                f"{file} holds the release {found.name}", hint=f"give it its name: {found.name}.json"
            )
        return found
    # A release that was made again from the same commit keeps its file: its last shipping is the file's time.
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    if not files:
        raise BadInput(f"no release was shipped here yet (none in {folder})", hint="va ship makes one")
    if wanted == "latest":
        return read_release(files[0])
    raise BadInput(
        f"there is no release {wanted!r} in {folder}",
        hint=f"the newest: {', '.join(file.stem for file in files[:3])}",
    )

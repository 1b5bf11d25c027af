"""Build the images: each from its description, independent ones at the same time, each as one OCI tarball.

The tarball's bytes are what is scanned, pushed and deployed; nothing is built again after this.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci import places
from ci.concurrency import together
from ci.engine import explained
from ci.engine.sdk import dagger
from ci.errors import BadInput, StepFailed
from ci.layout import Column, Page, Table, page
from ci.registry import open_archive
from ci.reporting import Reporter
from pipelines.images import IMAGES, ImageSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BUILD_TOOLS", "BuiltImage", "build", "build_image", "engine_errors", "show_built"]

BUILD_TOOLS = ("git", "mmdebstrap", "buildah", "runc", "seccomp-profile", "slirp4netns", "tini", "ip")
"""The programs that a build calls, and the embedded engine with it."""
_KEPT_ARCHIVES = 4
_STALE_SECONDS = 86400.0
_LAST_LINES = 25


@dataclass(frozen=True, kw_only=True)
class BuiltImage:
    """An image as an OCI tarball. `digest` is its manifest's, `size` the bytes of its compressed layers."""

    name: str
    digest: str
    size: int
    archive: Path
    unchanged: bool
    """Whether an earlier build gave this digest already."""


async def build(
    client: dagger.Client,
    *,
    reporter: Reporter,
    images: Sequence[ImageSpec] = IMAGES,
    fault: float | None = None,
) -> tuple[BuiltImage, ...]:
    """Build these images at the same time. StepFailed shows the last lines of the step that failed.

    `fault` is the share of requests that the api answers with an error, for demonstrations of a bad release.
    """
    work = [build_image(client, image, reporter=reporter, fault=fault) for image in images]
    return tuple(await together(work))


async def build_image(
    client: dagger.Client, image: ImageSpec, *, reporter: Reporter, fault: float | None = None
) -> BuiltImage:
    """Build one image and keep its tarball in the cache under its digest, beside the last few."""
    folder = places.cache() / "images" / image.name
    folder.mkdir(parents=True, exist_ok=True)
    with (
        reporter.step(f"build {image.name}") as step,
        engine_errors(f"building {image.name}"),
        tempfile.TemporaryDirectory(prefix=".draft-", dir=folder) as scratch,
    ):
        draft = Path(scratch) / "image.tar"
        container = await image.build(client, reporter=reporter, fault=fault)
        await container.export(
            str(draft),
            forced_compression=dagger.ImageLayerCompression.Gzip,
            media_types=dagger.ImageMediaTypes.OCIMediaTypes,
        )
        bundle = open_archive(draft)
        archive = folder / f"{bundle.digest.removeprefix('sha256:')}.tar"
        unchanged = _is_whole(archive, bundle.digest)
        if unchanged:
            archive.touch()  # the draft is dropped: to write it over the same bytes would wait for the disk
        else:
            draft.replace(archive)
        said = f"{_short(bundle.digest)} {bundle.size / 2**20:.1f} MiB"
        if unchanged:
            step.cached(said)
        step.say(said)
    _forget_old(folder)
    return BuiltImage(
        name=image.name, digest=bundle.digest, size=bundle.size, archive=archive, unchanged=unchanged
    )


def show_built(images: Sequence[BuiltImage]) -> Page:
    """The images, for people."""
    table = Table(
        "image", "digest", Column(name="size", rank=2, right=True), Column(name="", rank=1), title="built"
    )
    for image in images:
        state = "unchanged" if image.unchanged else "new"
        table.add(image.name, _short(image.digest), f"{image.size / 2**20:.1f} MiB", state)
    return page(table)


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turn what Dagger raises into one clear error: a failed command shows the last lines it printed."""
    try:
        yield
    except (dagger.DaggerError, ExceptionGroup) as raised:
        error = _innermost(raised)
        if isinstance(error, dagger.ExecError):
            printed = "\n".join(part.strip() for part in (error.stdout, error.stderr) if part.strip())
            tail = "\n".join(f"  {line}" for line in printed.splitlines()[-_LAST_LINES:])
            command = " ".join(error.command)
            raise StepFailed(
                f"{doing}: `{command}` ended with exit code {error.exit_code}\n{tail}".rstrip(),
                hint="the lines above are the last it printed; mend it and run the same command",
            ) from raised
        if isinstance(error, dagger.DaggerError):
            clear = explained(error)
            raise type(clear)(f"{doing}: {clear}", hint=clear.hint) from raised
        raise


def _innermost(error: BaseException) -> BaseException:
    """The SDK asks for several arguments at once; the first failure is inside the group it then raises."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _is_whole(archive: Path, digest: str) -> bool:
    """Whether an earlier build's tarball is there, and not damaged."""
    try:
        return archive.is_file() and open_archive(archive).digest == digest
    except BadInput:
        return False


def _short(digest: str) -> str:
    return digest[:19]


def _forget_old(folder: Path) -> None:
    """Keep the newest few tarballs, and no drafts of processes that were killed."""
    archives = sorted(folder.glob("*.tar"), key=lambda file: file.stat().st_mtime, reverse=True)
    for archive in archives[_KEPT_ARCHIVES:]:
        archive.unlink(missing_ok=True)
    for draft in folder.glob(".draft-*"):
        if time.time() - draft.stat().st_mtime > _STALE_SECONDS:
            for file in draft.iterdir():
                file.unlink(missing_ok=True)
            draft.rmdir()

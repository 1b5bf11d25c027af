"""`va release`: the releases that were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer, ended, failing
from ci.commands.options import Estate, Json, Only, ReleaseName, check_only
from ci.errors import BadInput

if TYPE_CHECKING:
    from ci.release import Release
    from ci.reporting import Reporter
    from ci.supply.comparison import ReleaseChange
    from pipelines.releases import ShownRelease
    from pipelines.verify import Verification

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The releases that were made: list, show, verify, compare.")


@app.command("list")
def release_list(json: Json = False) -> None:
    """List the releases that were shipped from here, the last first.

    A file that is none any more is named, and the others are listed all the same; then the exit code is 2.

    Example: va release list
    """
    from pipelines.releases import readable, show_releases

    broken: list[BadInput] = []

    async def flow(_: Reporter) -> tuple[Release, ...]:
        found, others = readable()
        broken.extend(others)
        return found

    answer(flow, json=json, show=show_releases)
    if broken:
        with failing(json=False):  # stdout has the others already
            raise BadInput("\n".join(one.message for one in broken), hint=broken[0].hint)


@app.command("show")
def release_show(release: ReleaseName = "latest", json: Json = False) -> None:
    """Say all that a release names. Example: va release show latest --json"""
    from ci.release import find_release
    from pipelines.releases import show_release, with_regions

    async def flow(_: Reporter) -> ShownRelease:
        return with_regions(find_release(release))

    answer(flow, json=json, show=show_release)


@app.command("pull")
def release_pull(
    name: Annotated[str, typer.Argument(help="The release's name, as va ship said it.")],
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Bring the record of a release here, from the estate's home registry.

    For a machine that did not ship it, such as the job that promotes. It is not verified by that: va release
    verify and va promote do so, each time.

    Example: va release pull 20260102-030405-1a2b3c4-5d6e7f80 --estate azure
    """
    from pipelines.publish import keep
    from pipelines.registries import estate_registries
    from pipelines.releases import pull, show_release, with_regions

    async def flow(_: Reporter) -> ShownRelease:
        async with estate_registries(estate) as registries:
            release = await pull(registries.home, name)
        keep(release)
        return with_regions(release)

    answer(flow, json=json, show=show_release)


@app.command("verify")
def release_verify(
    release: ReleaseName = "latest",
    to: Annotated[
        str | None, typer.Option(help="Only what environments up to this one ask; all when left out.")
    ] = None,
    only: Only = None,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Verify who signed a release, and what it proves; exit code 8 when it is refused.

    Signatures, provenance, tests, scan and SBOM, in each region's registry, by what each environment trusts.

    Example: va release verify latest --to prod
    """
    from ci.environments import read_environment, read_environments
    from ci.release import find_release
    from pipelines.verify import show_verification
    from pipelines.verify import verify as pipeline

    async def flow(_: Reporter) -> Verification:
        check_only(to, only)
        environments = (read_environment(estate, only),) if only else read_environments(estate, to)
        return await pipeline(find_release(release), environments)

    ended(answer(flow, json=json, show=show_verification))


@app.command("diff")
def release_diff(
    before: Annotated[str, typer.Argument(help="A release's name, or its file.")],
    after: ReleaseName = "latest",
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Compare two releases: commits, images, packages, findings, chart values.

    By what is attached to their images in the estate's home registry. Example: va release diff OLD NEW
    """
    from ci.release import find_release
    from pipelines.registries import estate_registries
    from pipelines.releases import diff, show_diff

    async def flow(_: Reporter) -> ReleaseChange:
        old, new = find_release(before), find_release(after)
        async with estate_registries(estate) as registries:
            return await diff(registries.home, old, new)

    answer(flow, json=json, show=show_diff)

"""`va promote`, `va rollback`, `va status`: releases on their targets; and `va demo`, which shows it all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer, ended, failing
from ci.commands.machine import needs_platform
from ci.commands.options import Estate, Json, Only, ReleaseName, Reports, check_only

if TYPE_CHECKING:
    from ci.delivery.ledger import Entry
    from ci.delivery.results import PromotionResult, TargetStatus
    from ci.reporting import Reporter
    from pipelines.demo import Demonstrated

__all__ = ["approve", "demo", "promote", "rollback", "status"]


def promote(
    release: ReleaseName = "latest",
    to: Annotated[
        str | None, typer.Option(help="The last environment on the way; all of the estate's when left out.")
    ] = None,
    only: Only = None,
    override: Annotated[
        str | None,
        typer.Option(help="In an emergency: why freezes, hours and soak do not count. It is kept."),
    ] = None,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Move a release to its targets, behind gates.

    Environment after environment, wave after wave, canary by canary.

    Stopped anywhere, traffic goes back to stable; the same command goes on. Example: va promote --to staging
    """
    from ci.delivery.results import summary
    from ci.release import find_release
    from pipelines.promote import promote as pipeline

    async def flow(reporter: Reporter) -> PromotionResult:
        check_only(to, only)
        found = find_release(release)
        return await pipeline(found, estate, through=to, only=only, override=override, reporter=reporter)

    ended(answer(flow, json=json, show=summary))


def approve(
    release: ReleaseName,
    to: Annotated[str, typer.Option(help="The environment that it may go into.")],
    reason: Annotated[str, typer.Option(help="Why. It is kept in the ledger.")],
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Say yes to a release for an environment that asks for approvals.

    Whoever promotes cannot approve; an environment names those who can.

    Example: va approve latest --to prod --reason "seen in staging, looks good"
    """
    from ci.environments import read_environment
    from ci.layout import page
    from ci.release import find_release
    from pipelines.permission import approve as pipeline

    async def flow(_: Reporter) -> Entry:
        return await pipeline(read_environment(estate, to), find_release(release).name, reason=reason)

    answer(flow, json=json, show=lambda entry: page(f"{entry.by} approved {entry.release} for {to}"))


def rollback(
    target: Annotated[str, typer.Argument(help="`prod/eastus`, or `prod` for all its regions.")],
    to: Annotated[str | None, typer.Option(help="The release to go back to; else the one before.")] = None,
    canary_only: Annotated[
        bool, typer.Option("--canary-only", help="Only take a canary away; stable stays as it is.")
    ] = False,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Take a target back to the release before.

    While a canary is there, that is taken away instead, and stable stays.

    Needs nothing but the target's cluster. Example: va rollback prod/eastus
    """
    from ci.delivery.results import summary
    from pipelines.rollback import rollback as pipeline

    async def flow(reporter: Reporter) -> PromotionResult:
        return await pipeline(estate, target, to=to, canary_only=canary_only, reporter=reporter)

    ended(answer(flow, json=json, show=summary))


def status(
    environments: Annotated[list[str] | None, typer.Argument(help="Environments; all when left out.")] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Say of each container which registry its image came from.")
    ] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="A line a target: Helm's revision, digests, where they came from.")
    ] = False,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Show what runs where: environments down, regions across.

    Asked from the clusters, without waiting for anybody: release, since when, ready pods, canary and its
    weight, and what differs from what Helm installed. Exit code 6 when a target does not answer (the others
    are shown); with --images 8 when an image is not from its own region's registry, by digest.

    Example: va status prod --json
    """
    from ci.delivery.results import images_table, status_matrix, status_table
    from pipelines.status import answered
    from pipelines.status import status as pipeline

    async def flow(reporter: Reporter) -> tuple[TargetStatus, ...]:
        return await pipeline(estate, environments, reporter=reporter)

    shown = images_table if images else status_table if wide else status_matrix
    rows = answer(flow, json=json, show=shown)
    with failing(json=False):  # stdout has the rows already
        answered(rows)
    if images and any(one.problem for row in rows for one in row.origins):
        raise typer.Exit(8)


@needs_platform
def demo(reports: Reports = Path("reports"), json: Json = False) -> None:
    """Set this machine up and show the main job.

    A good release reaches prod, a bad one is caught.

    Example: va demo
    """
    from pipelines.demo import demo as pipeline
    from pipelines.demo import show_demonstrated

    async def flow(reporter: Reporter) -> Demonstrated:
        return await pipeline(reporter=reporter, reports=reports)

    ended(answer(flow, json=json, show=show_demonstrated))

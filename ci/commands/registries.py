"""`va registry`: what each region's registry has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer, failing, show_result
from ci.commands.options import Env, Estate, Json, Local, ReleaseName, Subscription, on_azure

if TYPE_CHECKING:
    from ci.azure.registry import RegistryState
    from ci.reporting import Reporter
    from pipelines.registries import AvailableIn
    from pipelines.retention import Locked, Purged

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The registries of the regions.")


@app.command("status")
def registry_status(
    release: ReleaseName = "latest",
    wait: Annotated[float, typer.Option(min=0, max=86_400, help="Seconds to wait for regions that lag.")] = 0,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Say which regions have a release, digest by digest.

    And how replication to each of them goes. Exit code 6 when a region has not got all of it.

    Example: va registry status latest --wait 30
    """
    from ci.release import find_release
    from pipelines.registries import available_in, estate_registries, show_available

    async def flow(reporter: Reporter) -> AvailableIn:
        wanted = find_release(release)
        async with estate_registries(estate) as registries:
            return await available_in(registries, wanted, reporter=reporter, deadline=wait)

    if answer(flow, json=json, show=show_available).lacking:
        raise typer.Exit(6)


@app.command("reconcile")
def registry_reconcile(estate: Estate = "local") -> None:
    """Compare all replicas with the home registry, and mend them.

    Down to each blob: for when `va registry status` names digests that stay missing.

    Example: va registry reconcile
    """
    from pipelines.registries import reconcile as pipeline

    answer(lambda reporter: pipeline(estate, reporter=reporter), json=False)


@app.command("lock")
def registry_lock(release: ReleaseName = "latest", estate: Estate = "local", json: Json = False) -> None:
    """Make a release immutable in the estate's registries (ACR): record, images, attestations, chart, tags.

    Example: va registry lock latest --estate azure
    """
    from ci.release import find_release
    from pipelines.registries import estate_registries
    from pipelines.retention import lock, show_locked

    async def flow(reporter: Reporter) -> tuple[Locked, ...]:
        wanted = find_release(release)
        async with estate_registries(estate) as registries:
            return await lock(registries.every, wanted, reporter=reporter)

    answer(flow, json=json, show=show_locked)


@app.command("purge")
def registry_purge(
    older_than: Annotated[str, typer.Option(help="Only what is older: 30d, 12h.")] = "30d",
    keep: Annotated[int, typer.Option(min=1, help="The newest releases stay, so many of them.")] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    include_locked: Annotated[
        bool, typer.Option("--include-locked", help="Unlock and remove what is locked, too.")
    ] = False,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Remove old releases, and manifests and tags that no release needs.

    What a target runs or would go back to stays: the clusters are asked, and the ledger.

    Example: va registry purge --older-than 30d --keep 10 --dry-run
    """
    from datetime import timedelta

    from ci.environments import parse_seconds
    from pipelines.retention import purge_estate, show_purged

    async def flow(reporter: Reporter) -> tuple[Purged, ...]:
        return await purge_estate(
            estate,
            keep=keep,
            older_than=timedelta(seconds=parse_seconds(older_than, what="--older-than")),
            dry_run=dry_run,
            include_locked=include_locked,
            reporter=reporter,
        )

    answer(flow, json=json, show=show_purged)


@app.command("replications")
def registry_replications(
    env: Env = "prod", local: Local = False, subscription: Subscription = "", json: Json = False
) -> None:
    """Say how the Azure registry is replicated, as ARM sees it; exit code 6 when it is not as declared.

    Whether an image has arrived: va registry status. Example: va registry replications --env prod
    """
    from ci.architecture import model
    from ci.architecture.names import name
    from ci.azure.network import group
    from ci.azure.registry import registry_state, show_registry

    with failing(json):
        architecture = model.read(env).architecture
        state: RegistryState = on_azure(
            lambda azure: registry_state(
                azure,
                group=group(architecture),
                name=name(architecture, "registry"),
                home=architecture.primary,
                replicas=architecture.registry.replicate_to,
            ),
            subscription,
            local,
        )
    show_result(state, json=json, show=show_registry)
    if state.problems:
        raise typer.Exit(6)

"""The command `va`: what a person types, and what it prints.

Every command's work is in `pipelines/` or in a room of `ci/`; here are only arguments, output and exit codes.
Those rooms are imported inside the commands, so that `va --help` answers at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ci.commands.answers import answer as _run
from ci.commands.answers import fail, failing, show_result
from ci.commands.architecture import Env, Local, Subscription, on_azure
from ci.commands.architecture import mount as mount_architecture
from ci.commands.dr import mount as mount_recovery
from ci.errors import BadInput

if TYPE_CHECKING:
    import dagger
    from rich.console import RenderableType

    from ci.azure.registry import RegistryState
    from ci.delivery.promotion import PromotionResult, TargetStatus
    from ci.engine import Usage
    from ci.platform import PartStatus
    from ci.release import Release
    from ci.reporting import Reporter
    from ci.scan import Mirrored
    from ci.supply.comparison import ReleaseChange
    from ci.tools import ToolStatus
    from pipelines.build import BuiltImage
    from pipelines.database import DatabaseStatus
    from pipelines.demo import Demonstrated
    from pipelines.images import ImageSpec
    from pipelines.livekit import PublishedLiveKit
    from pipelines.registries import AvailableIn
    from pipelines.releases import ShownRelease
    from pipelines.retention import Locked, Purged
    from pipelines.scan import ScannedSubject
    from pipelines.ship import Shipped, Untested
    from pipelines.test import TestedImage
    from pipelines.verify import Verification

__all__ = ["app", "main"]

_EXIT_CODES = """Exit codes: 0 done, 2 bad input, 3 a step or test failed, 4 a gate failed, 5 a gate was
inconclusive, 6 an external system is unavailable, 7 a tool is missing, 8 blocked by policy,
130 interrupted."""

app = typer.Typer(
    name="va",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Build, test, scan and publish the Voice Assistant's images, and promote them behind canary gates.",
    epilog=_EXIT_CODES,
)

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Estate = Annotated[
    str, typer.Option(envvar="VA_ESTATE", help="The estate: a folder of environments/. `local` is `va up`'s.")
]
Images = Annotated[
    list[str] | None,
    typer.Option("--image", help="Only this image (again for more); those of a release when left out."),
]
Reports = Annotated[
    Path, typer.Option(help="Where JUnit, coverage, SBOM, SARIF and scan files go, a folder an image.")
]
Fault = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Build an api that fails this share of its sessions: for drills."),
]
SignWith = Annotated[
    str,
    typer.Option(
        envvar="VA_SIGN_WITH",
        help="`local` (va up's key), azurekms://<vault>.vault.azure.net/<key>, `keyless` (OIDC), or "
        "`keyless:<signing config>` for a Sigstore of one's own.",
    ),
]
ReleaseName = Annotated[
    str, typer.Argument(help="A release's name, its file, or `latest`: the newest that was shipped here.")
]


def main() -> None:
    """The console command."""
    app()


@app.command()
def doctor(
    install: Annotated[
        bool, typer.Option("--install", help="Install or build what is missing (apt-get as root, Go).")
    ] = False,
    json: Json = False,
) -> None:
    """Say where each tool is, or how to get it.

    Example: va doctor --install
    """
    from ci import tools

    async def flow(reporter: Reporter) -> list[tools.ToolStatus]:
        if install:
            await tools.ensure(tools.NAMES, reporter)
        return tools.survey()

    found = _run(flow, json=json, show=_tools_table)
    if any(tool.path is None for tool in found):
        raise typer.Exit(7)


@app.command()
def up(json: Json = False) -> None:
    """Bring the embedded platform up.

    Registries, Kubernetes, a gateway, Prometheus, Redis and LiveKit, all real.

    What runs already stays, what died is restarted. Example: va up
    """
    from ci import platform

    async def flow(reporter: Reporter) -> list[PartStatus]:
        await platform.up(reporter)
        return await platform.status()

    _run(flow, json=json, show=_parts_table)


@app.command()
def down() -> None:
    """Take the embedded platform down.

    No process, mount, network namespace, iptables rule or file of it is left.

    Example: va down
    """
    from ci import platform

    _run(platform.down, json=False)


@app.command()
def build(images: Images = None, fault: Fault = None, json: Json = False) -> None:
    """Build the images.

    Independent ones at the same time, each as one OCI tarball.

    Example: va build --image fastapi-backend
    """

    from pipelines.build import build as pipeline
    from pipelines.build import show_built

    async def flow(reporter: Reporter) -> tuple[BuiltImage, ...]:
        picked = _chosen(images)
        async with _session(reporter) as (client, _):
            return await pipeline(client, reporter=reporter, images=picked, fault=fault)

    _run(flow, json=json, show=show_built)


@app.command()
def test(images: Images = None, reports: Reports = Path("reports"), json: Json = False) -> None:
    """Run each image's own tests.

    Inside a container of its test stage, with Redis beside it.

    Example: va test --image livekit-agent
    """

    from pipelines.test import show_tested
    from pipelines.test import test as pipeline

    async def flow(reporter: Reporter) -> tuple[TestedImage, ...]:
        picked = _chosen(images)
        async with _session(reporter) as (client, _):
            return await pipeline(client, reporter=reporter, images=picked, reports=reports)

    _run(flow, json=json, show=show_tested)


@app.command()
def scan(images: Images = None, reports: Reports = Path("reports"), json: Json = False) -> None:
    """Scan the images and the chart.

    With Trivy; policy.yaml says what blocks.

    Example: va scan --reports /tmp/reports
    """

    from pipelines.scan import show_scanned
    from pipelines.ship import build_and_scan

    async def flow(reporter: Reporter) -> tuple[ScannedSubject, ...]:
        picked = _chosen(images)
        async with _session(reporter) as (client, _):
            return await build_and_scan(client, reporter=reporter, images=picked, reports=reports)

    _run(flow, json=json, show=show_scanned)


@app.command()
def ship(
    fault: Fault = None,
    estate: Estate = "local",
    reports: Reports = Path("reports"),
    sign_with: SignWith = "local",
    json: Json = False,
) -> None:
    """Build, test, scan, publish and sign: one release.

    Nothing is pushed if a test fails or the policy blocks.

    Example: va ship && va promote
    """
    from pipelines.registries import estate_registries
    from pipelines.ship import ship as pipeline
    from pipelines.ship import show_shipped
    from pipelines.sign import signer_of

    async def flow(reporter: Reporter) -> Shipped:
        async with _session(reporter) as (client, engine), estate_registries(estate) as registries:
            return await pipeline(
                client,
                engine=engine,
                registries=registries,
                signer=await signer_of(sign_with, estate),
                reporter=reporter,
                reports=reports,
                fault=fault,
            )

    _run(flow, json=json, show=show_shipped)


@app.command()
def publish(fault: Fault = None, estate: Estate = "local", json: Json = False) -> None:
    """Push images and chart, without a release.

    To the estate's home registry, only what is missing there; then wait until every region has it.

    Example: va publish --json
    """
    from pipelines.registries import estate_registries
    from pipelines.ship import build_and_publish, show_untested

    async def flow(reporter: Reporter) -> Untested:
        async with _session(reporter) as (client, _), estate_registries(estate) as registries:
            return await build_and_publish(client, registries=registries, reporter=reporter, fault=fault)

    _run(flow, json=json, show=show_untested)


@app.command()
def promote(
    release: ReleaseName = "latest",
    to: Annotated[
        str | None, typer.Option(help="The last environment on the way; all of the estate's when left out.")
    ] = None,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Move a release to its targets, behind gates.

    Environment after environment, wave after wave, canary by canary.

    Stopped anywhere, traffic goes back to stable; the same command goes on. Example: va promote --to staging
    """
    from ci.delivery.promotion import summary
    from ci.release import find_release
    from pipelines.promote import promote as pipeline

    async def flow(reporter: Reporter) -> PromotionResult:
        return await pipeline(find_release(release), estate, through=to, reporter=reporter)

    _ended(_run(flow, json=json, show=summary))


@app.command()
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
    from ci.delivery.promotion import summary
    from pipelines.rollback import rollback as pipeline

    async def flow(reporter: Reporter) -> PromotionResult:
        return await pipeline(estate, target, to=to, canary_only=canary_only, reporter=reporter)

    _ended(_run(flow, json=json, show=summary))


@app.command()
def status(
    environments: Annotated[list[str] | None, typer.Argument(help="Environments; all when left out.")] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Say of each container which registry its image came from.")
    ] = False,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Show what runs on each target.

    Asked from the clusters: release, digests, pods, canary and its weight, and where the images came from.
    With --images exit code 8 when one is not from its own region's registry, by digest.

    Example: va status prod --json
    """
    from ci.delivery.promotion import images_table, status_table
    from pipelines.promote import status as pipeline

    async def flow(reporter: Reporter) -> tuple[TargetStatus, ...]:
        return await pipeline(estate, environments, reporter=reporter)

    rows = _run(flow, json=json, show=images_table if images else status_table)
    if images and any(one.problem for row in rows for one in row.origins):
        raise typer.Exit(8)


@app.command()
def demo(reports: Reports = Path("reports"), json: Json = False) -> None:
    """Set this machine up and show the main job.

    A good release reaches prod, a bad one is caught.

    Example: va demo
    """
    from pipelines.demo import demo as pipeline
    from pipelines.demo import show_demonstrated

    async def flow(reporter: Reporter) -> Demonstrated:
        return await pipeline(reporter=reporter, reports=reports)

    _ended(_run(flow, json=json, show=show_demonstrated))


@app.command()
def lint() -> None:
    """Check the workflows and the chart.

    actionlint; helm lint and kubeconform with every environment's values.

    Example: va lint
    """
    from pipelines.lint import lint as pipeline

    _run(pipeline, json=False)


cache_app = typer.Typer(no_args_is_help=True, help="The image layers and results that builds keep.")
app.add_typer(cache_app, name="cache")


@cache_app.command()
def usage(json: Json = False) -> None:
    """Say how much the build cache holds. Example: va cache usage"""
    from ci.engine import usage as measure

    async def flow(_: Reporter) -> Usage:
        return measure()

    _run(flow, json=json, show=_usage_line)


@cache_app.command()
def prune(
    keep: Annotated[float, typer.Option(min=0, help="GiB that may stay; the least recently used go.")] = 0,
    json: Json = False,
) -> None:
    """Shrink the build cache. Example: va cache prune --keep 5"""
    from ci.engine import prune as shrink

    async def flow(_: Reporter) -> Usage:
        return shrink(int(keep * 2**30))

    _run(flow, json=json, show=_usage_line)


release_app = typer.Typer(
    no_args_is_help=True, help="The releases that were made: list, show, verify, compare."
)
app.add_typer(release_app, name="release")


@release_app.command("list")
def release_list(json: Json = False) -> None:
    """List the releases that were shipped from here, the last first. Example: va release list"""
    from pipelines.releases import releases, show_releases

    async def flow(_: Reporter) -> tuple[Release, ...]:
        return releases()

    _run(flow, json=json, show=show_releases)


@release_app.command("show")
def release_show(release: ReleaseName = "latest", json: Json = False) -> None:
    """Say all that a release names. Example: va release show latest --json"""
    from ci.release import find_release
    from pipelines.releases import show_release, with_regions

    async def flow(_: Reporter) -> ShownRelease:
        return with_regions(find_release(release))

    _run(flow, json=json, show=show_release)


@release_app.command("pull")
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
    from pipelines.registries import estate_registries
    from pipelines.releases import pull, show_release, with_regions
    from pipelines.ship import keep

    async def flow(_: Reporter) -> ShownRelease:
        async with estate_registries(estate) as registries:
            release = await pull(registries.home, name)
        keep(release)
        return with_regions(release)

    _run(flow, json=json, show=show_release)


@release_app.command("verify")
def release_verify(
    release: ReleaseName = "latest",
    to: Annotated[
        str | None, typer.Option(help="Only what environments up to this one ask; all when left out.")
    ] = None,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Verify who signed a release, and what it proves; exit code 8 when it is refused.

    Signatures, provenance, tests, scan and SBOM, in each region's registry, by what each environment trusts.

    Example: va release verify latest --to prod
    """
    from ci.environments import read_environments
    from ci.release import find_release
    from pipelines.verify import show_verification
    from pipelines.verify import verify as pipeline

    async def flow(_: Reporter) -> Verification:
        return await pipeline(find_release(release), read_environments(estate, to))

    _ended(_run(flow, json=json, show=show_verification))


@release_app.command("diff")
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

    _run(flow, json=json, show=show_diff)


registry_app = typer.Typer(no_args_is_help=True, help="The registries of the regions.")
app.add_typer(registry_app, name="registry")


@registry_app.command("status")
def registry_status(
    release: ReleaseName = "latest",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for regions that lag.")] = 0,
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

    if _run(flow, json=json, show=show_available).lacking:
        raise typer.Exit(6)


@registry_app.command("reconcile")
def registry_reconcile(estate: Estate = "local") -> None:
    """Compare all replicas with the home registry, and mend them.

    Down to each blob: for when `va registry status` names digests that stay missing.

    Example: va registry reconcile
    """
    from pipelines.registries import reconcile as pipeline

    _run(lambda reporter: pipeline(estate, reporter=reporter), json=False)


@registry_app.command("lock")
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

    _run(flow, json=json, show=show_locked)


@registry_app.command("purge")
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

    _run(flow, json=json, show=show_purged)


@registry_app.command("replications")
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


livekit_app = typer.Typer(no_args_is_help=True, help="LiveKit's server: an image that is in no release.")
app.add_typer(livekit_app, name="livekit")


@livekit_app.command("publish")
def livekit_publish(
    estate: Estate = "local",
    reports: Reports = Path("reports"),
    sign_with: SignWith = "local",
    json: Json = False,
) -> None:
    """Build, test, scan, publish and sign LiveKit's image.

    Prints its reference by digest, for `kubernetes.workloads.livekit.image`. What is there stays.

    Example: va livekit publish
    """
    from pipelines.livekit import publish_livekit, show_livekit
    from pipelines.registries import estate_registries
    from pipelines.sign import signer_of

    async def flow(reporter: Reporter) -> PublishedLiveKit:
        async with _session(reporter) as (client, engine), estate_registries(estate) as registries:
            return await publish_livekit(
                client,
                engine=engine,
                registries=registries,
                signer=await signer_of(sign_with, estate),
                reporter=reporter,
                reports=reports,
            )

    _run(flow, json=json, show=show_livekit)


db_app = typer.Typer(no_args_is_help=True, help="The database of vulnerabilities that scans use.")
app.add_typer(db_app, name="db")


@db_app.command("mirror")
def db_mirror(
    source: Annotated[str, typer.Argument(help="Where it is: host/repository:tag, or …@sha256:….")],
    destination: Annotated[str, typer.Argument(help="Where it goes: host/repository[:tag].")],
    digest: Annotated[str | None, typer.Option(help="Copy exactly this one, whatever the tag names.")] = None,
    max_age: Annotated[str, typer.Option(help="Refuse one that is older: 24h, 90m.")] = "24h",
    json: Json = False,
) -> None:
    """Copy Trivy's database, or its index of Java archives, to a registry of ours.

    As it is, so with the same digest. Stopped, the same command goes on; what is there is not sent again.

    Example: va db mirror ghcr.io/aquasecurity/trivy-db:2 127.0.0.1:5501/trivy-db
    """
    from datetime import timedelta

    from ci.environments import parse_seconds
    from pipelines.database import mirror, show_mirrored

    async def flow(reporter: Reporter) -> Mirrored:
        oldest = timedelta(seconds=parse_seconds(max_age, what="--max-age"))
        return await mirror(source, destination, digest=digest, max_age=oldest, reporter=reporter)

    _run(flow, json=json, show=show_mirrored)


@db_app.command("status")
def db_status(json: Json = False) -> None:
    """Say which database scans use, its digest and age; exit code 8 when the policy refuses it.

    As policy.yaml says, or the environment: VA_DATABASE. Example: va db status
    """
    from ci import places
    from ci.scan import read_policy
    from pipelines.database import database_status, show_database

    async def flow(reporter: Reporter) -> DatabaseStatus:
        policy = read_policy(places.checkout() / "policy.yaml")
        return await database_status(policy, reporter=reporter)

    if _run(flow, json=json, show=show_database).complaint:
        raise typer.Exit(8)


mount_architecture(app)
mount_recovery(app)


def _chosen(names: Sequence[str] | None) -> Sequence[ImageSpec]:
    """The images of these names, in the order they are built; those of a release when there are none."""
    from ci.yamlfile import did_you_mean
    from pipelines.images import IMAGES, LIVEKIT

    every = (*IMAGES, LIVEKIT)
    known = [image.name for image in every]
    for name in names or ():
        if name not in known:
            raise BadInput(f"there is no image {name!r}", hint=did_you_mean(name, known))
    return [image for image in every if image.name in names] if names else IMAGES


def _usage_line(usage: Usage) -> str:
    gib = 2**30
    return (
        f"{usage.size / gib:.2f} GiB: layers {usage.layers / gib:.2f}, blobs {usage.blobs / gib:.2f}, "
        f"cache volumes {usage.volumes / gib:.2f}; the results of {usage.results} steps"
    )


def _tools_table(found: Sequence[ToolStatus]) -> RenderableType:
    from rich.table import Table

    table = Table("tool", "version", "where", box=None, pad_edge=False)
    for tool in found:
        if tool.path is None:
            table.add_row(tool.name, "-", f"[red]missing[/]: {tool.advice}")
        else:
            table.add_row(tool.name, tool.version, f"{tool.path} [dim]({tool.origin})[/]")
    return table


def _parts_table(parts: Sequence[PartStatus]) -> RenderableType:
    from rich.table import Table

    table = Table("part", "state", "pid", "", box=None, pad_edge=False)
    for part in parts:
        state = "[green]well[/]" if part.healthy else f"[red]{part.problem}[/]"
        table.add_row(part.name, state, str(part.pid or "-"), part.detail)
    return table


@asynccontextmanager
async def _session(reporter: Reporter) -> AsyncIterator[tuple[dagger.Client, str]]:
    """A Dagger session, and the programs that pipelines call beside it."""
    from ci import tools
    from ci.engine import session
    from pipelines.ship import SHIP_TOOLS

    await tools.ensure(SHIP_TOOLS, reporter)
    async with session(reporter) as (client, engine):
        yield client, engine


def _ended(result: PromotionResult | Demonstrated | Verification) -> None:
    """Exit as a result says that was printed already: a gate that failed is a result, not an accident."""
    if result.error is not None:
        fail(result.error, json=False)  # stdout has the result already

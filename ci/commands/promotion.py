"""`va promote`, `va rollback`, `va status`: releases on their targets; and `va demo`, which shows it all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer, ended, failing
from ci.commands.machine import needs_platform
from ci.commands.options import Estate, Json, ReleaseName, Reports, check_only
from ci.errors import BadInput, Place

if TYPE_CHECKING:
    from ci.delivery.ledger import Entry
    from ci.delivery.promotion.plan import Plan
    from ci.delivery.results import PromotionResult, TargetStatus
    from ci.layout import Page
    from ci.reporting import Reporter
    from pipelines.demo import Demonstrated

__all__ = [
    "abort", "approve", "demo", "pause", "plan", "promote", "resume", "retry", "rollback", "skip_bake",
    "status", "watch",
]  # fmt: skip


OnlyTargets = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        help="This environment alone (for a job with no rights in those before it), or this target "
        "(`prod/eastus`) of one that the release was proven before; again for more.",
    ),
]
Again = Annotated[
    bool,
    typer.Option("--again", help="Also through environments that it was proven in, and has left, before."),
]


def promote(
    context: typer.Context,
    release: ReleaseName = "latest",
    to: Annotated[
        str | None, typer.Option(help="The last environment on the way; all of the estate's when left out.")
    ] = None,
    only: OnlyTargets = None,
    planned: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            help="Do exactly what this plan of `va plan --out` says, which names release and places itself; "
            "8, and what moved since, where that is not what would be done.",
        ),
    ] = None,
    again: Again = False,
    override: Annotated[
        str | None,
        typer.Option(
            help="In an emergency: why freezes, hours, soak, drift, a downgrade and what another promotion "
            "left do not count. It is kept."
        ),
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
    from pipelines.plan import as_planned, read_plan
    from pipelines.plan import plan as look_again
    from pipelines.promote import promote as pipeline

    async def flow(reporter: Reporter) -> PromotionResult:
        check_only(to, only)
        if planned is None:
            return await pipeline(
                find_release(release), estate, through=to, only=only, again=again, override=override,
                reporter=reporter,
            )  # fmt: skip
        wanted = read_plan(planned)
        _agrees(context, planned, wanted)
        found, where = find_release(wanted.release), [*wanted.only] or None
        now = await look_again(
            found, wanted.estate, through=wanted.to, only=where, again=wanted.again, reporter=reporter
        )
        await as_planned(wanted, now)
        return await pipeline(
            found, wanted.estate, through=wanted.to, only=where, again=wanted.again, override=override,
            plan=wanted.seal, reporter=reporter,
        )  # fmt: skip

    ended(answer(flow, json=json, show=summary))


def _agrees(context: typer.Context, file: Path, plan: Plan) -> None:
    """BadInput when what was said beside a plan is not what the plan says."""
    from ci.release import find_release

    said = {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) is not None
        and source.name in ("COMMANDLINE", "ENVIRONMENT")
    }
    differs = []
    if "release" in said and (name := find_release(said["release"]).name) != plan.release:
        differs.append(f"the release {name}, not {plan.release}")
    if "estate" in said and said["estate"] != plan.estate:
        differs.append(f"--estate {said['estate']}, not {plan.estate}")
    if "to" in said and said["to"] != plan.to:
        differs.append(f"--to {said['to']}, not {plan.to or 'all environments'}")
    if "only" in said and sorted(said["only"]) != sorted(plan.only):
        differs.append(f"--only {', '.join(said['only'])}, not {', '.join(plan.only) or 'all targets'}")
    if said.get("again") and not plan.again:
        differs.append("--again, which it does without")
    if differs:
        raise BadInput(
            f"beside the plan stands {'; and '.join(differs)}",
            place=Place(file=file),
            hint="leave it out: a plan says itself what it is of; va plan makes another",
        )


def plan(
    release: ReleaseName = "latest",
    to: Annotated[
        str | None, typer.Option(help="The last environment on the way; all of the estate's when left out.")
    ] = None,
    only: OnlyTargets = None,
    again: Again = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the plan there: va promote --plan does exactly that.")
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show each line that the rendered manifests differ in.")
    ] = False,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Show what a promotion would do now, and what stands in its way. Nothing is touched.

    Each target in its wave: images by digest, values, replicas and manifests that change, its gates and how
    long they need at the traffic of now. Exit code 8 when something refuses it.

    Example: va plan latest --to prod --out plan.json
    """
    from ci.delivery.promotion.show import plan_page
    from ci.files import write_whole
    from ci.release import find_release
    from pipelines.plan import plan as pipeline

    async def flow(reporter: Reporter) -> Plan:
        check_only(to, only)
        found = find_release(release)
        made = await pipeline(found, estate, through=to, only=only, again=again, reporter=reporter)
        if out is not None:
            write_whole(out, made.model_dump_json(indent=2).encode() + b"\n")
        return made

    if answer(flow, json=json, show=lambda made: plan_page(made, diff)).refusals:
        raise typer.Exit(8)


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
    from ci.delivery.refusals import promoting
    from ci.environments import read_environment
    from ci.layout import page
    from ci.release import find_release
    from pipelines.permission import approve as pipeline

    async def flow(_: Reporter) -> Entry:
        return await pipeline(read_environment(estate, to), find_release(release).name, reason=reason)

    def shown(entry: Entry) -> Page:
        said = f"{entry.by} approved {entry.release} for {to}"
        again = promoting(read_environment(estate, to), entry.release)
        return page(said, f"it is in the ledger, for the next run of {again}")

    answer(flow, json=json, show=shown)


def rollback(
    what: Annotated[
        str,
        typer.Argument(help="A promotion's name; or `prod/eastus`, or `prod`: the last that went there."),
    ],
    to: Annotated[
        str | None, typer.Option(help="The release to go back to; else the one before that promotion.")
    ] = None,
    canary_only: Annotated[
        bool, typer.Option("--canary-only", help="Only take a canary away; stable stays as it is.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why. It is kept in the ledger.")] = "",
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Undo a promotion: each target it went to gets back what was stable before it.

    Traffic leaves a canary first. Run again it changes nothing; stopped, the same command goes on.

    Needs the targets' clusters and the ledger, no registry, no gate and no approval. Where the ledger cannot
    be read, a canary loses its traffic all the same.

    Example: va rollback prod
    """
    from ci.delivery.results import summary
    from pipelines.rollback import rollback as pipeline

    async def flow(reporter: Reporter) -> PromotionResult:
        return await pipeline(estate, what, to=to, canary_only=canary_only, reason=reason, reporter=reporter)

    ended(answer(flow, json=json, show=summary))


What = Annotated[
    str | None,
    typer.Argument(help="A promotion's name, `prod` or `prod/eastus`; left out: all that is under way."),
]
Reason = Annotated[str, typer.Option(help="Why. It is kept in the ledger.")]


def pause(what: What = None, *, reason: Reason, estate: Estate = "local", json: Json = False) -> None:
    """Have a promotion wait: all its traffic goes to stable, the canary stays.

    Example: va pause prod --reason "the call centre reports echoes"
    """
    _order("pause", what, reason, estate, json)


def resume(what: What = None, *, reason: Reason, estate: Estate = "local", json: Json = False) -> None:
    """Have a paused promotion go on, with the evidence it had.

    Example: va resume --reason "it was the headset"
    """
    _order("resume", what, reason, estate, json)


def abort(what: What = None, *, reason: Reason, estate: Estate = "local", json: Json = False) -> None:
    """End a promotion: traffic to stable, the canary goes, stable is what it was.

    Targets where it has ended keep the release; va rollback takes it back there.

    Example: va abort --reason "superseded by the fix"
    """
    _order("abort", what, reason, estate, json)


def retry(what: What = None, *, reason: Reason, estate: Estate = "local", json: Json = False) -> None:
    """Bake a step again that no gate could decide.

    Example: va retry prod/eastus --reason "Prometheus is back"
    """
    _order("retry", what, reason, estate, json)


def skip_bake(what: What = None, *, reason: Reason, estate: Estate = "local", json: Json = False) -> None:
    """End the wait between two waves now.

    Example: va skip-bake prod --reason "the fix for the outage"
    """
    _order("skip-bake", what, reason, estate, json)


def _order(action: str, what: str | None, reason: str, estate: str, json: bool) -> None:
    from ci.delivery.ledger import Action
    from ci.layout import page
    from pipelines.orders import give_order, taken_up

    heard: list[str] = []

    async def flow(reporter: Reporter) -> tuple[Entry, ...]:
        given = await give_order(estate, Action(action), what, reason=reason)
        heard.extend(await taken_up(estate, given))
        for line in heard if json else ():
            reporter.note(line)
        return given

    answer(
        flow,
        json=json,
        show=lambda given: page(
            *(f"{action} {one.promotion} {one.target}".rstrip() + f": {one.reason}" for one in given),
            *heard,
            "it is in the ledger; va watch shows what comes of it",
        ),
    )


def watch(
    promotion: Annotated[
        str | None,
        typer.Argument(
            help="Its name (the first letters are enough), or an environment; the newest when left out."
        ),
    ] = None,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Show what a promotion does, entry by entry: while it runs, and afterwards.

    It ends with the run: what is left then, and whether nobody is at work on it any more, is said.

    Example: va watch prod
    """
    from ci.delivery.promotion.show import entry_line
    from ci.layout import show
    from pipelines.orders import watch as pipeline

    async def flow(reporter: Reporter) -> list[Entry]:
        seen = []
        async for entry in pipeline(estate, promotion, reporter=reporter):
            seen.append(entry)
            if not json:
                show(entry_line(entry))
        return seen

    answer(flow, json=json)


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
    """Set this machine up and show the main job, act by act.

    A good release reaches prod though its promotion is killed, a bad one is caught, both are undone. Each act
    says what it shows; one that does not show it ends the demonstration with an error. With --json the acts
    are told on stderr.

    Example: va demo
    """
    import sys

    from ci.layout import show
    from pipelines.demo import demo as pipeline
    from pipelines.demo import show_demonstrated

    def tell(page: Page) -> None:
        show(page, to=sys.stderr if json else sys.stdout)

    async def flow(reporter: Reporter) -> Demonstrated:
        return await pipeline(reporter=reporter, reports=reports, tell=tell)

    answer(flow, json=json, show=show_demonstrated)

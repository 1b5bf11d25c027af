"""`va dr`: arguments and output; the work is in `pipelines.recovery`, `pipelines.drill` and the rooms beside.

`mount(app)` puts it into `va`. Everything heavy is imported inside the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ci.commands.answers import answer, failing, write_json
from ci.commands.machine import needs_platform
from ci.commands.options import Env, Json
from ci.errors import BadInput, StepFailed

if TYPE_CHECKING:
    from ci.recovery.sets import BackupSet, Check
    from ci.reporting import Reporter
    from pipelines.drill import Drilled
    from pipelines.prune import Pruned
    from pipelines.recovery import Kind, Restored

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True, help="Backups and disaster recovery: back up, verify, restore, rehearse."
)

Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="postgres, redis or blobs; again for more. All when left out."),
]
Sets = Annotated[
    Path | None, typer.Option("--sets", help="The folder of the sets; ~/.local/state/va/backups if left out.")
]
Name = Annotated[str, typer.Argument(help="A set's name, its folder, or `latest`.")]
Stores = Annotated[str, typer.Option(help="Whose stores: `live`, the platform's, or `drill`.")]


@app.command()
@needs_platform
def backup(stores: Stores = "live", only: Only = None, sets: Sets = None, json: Json = False) -> None:
    """Back PostgreSQL, Redis and the blobs up: one set with a manifest, whole or not at all.

    Brings up the stores that are not there yet. Example: va dr backup
    """
    from pipelines.recovery import backup as pipeline
    from pipelines.recovery import show_backup

    def flow(reporter: Reporter) -> Coroutine[Any, Any, BackupSet]:
        return pipeline(stores, kinds=_kinds(only), folder=sets, reporter=reporter)

    answer(flow, json=json, show=show_backup)


@app.command("list")
def list_(sets: Sets = None, json: Json = False) -> None:
    """List the backup sets, the oldest first. Example: va dr list"""
    from ci.recovery.sets import read_set, sets_folder, sets_in
    from pipelines.recovery import show_sets

    async def flow(reporter: Reporter) -> tuple[BackupSet, ...]:
        found = []
        for folder in sets_in(sets or sets_folder()):
            try:
                found.append(read_set(folder))
            except BadInput as error:
                reporter.note(f"left out: {error}")
        return tuple(found)

    answer(flow, json=json, show=show_sets)


@app.command()
def prune(
    older_than: Annotated[str, typer.Option(help="Only what is older: 30d, 12h.")] = "30d",
    keep: Annotated[
        int, typer.Option(min=1, help="The newest stay, so many of each store of each source.")
    ] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Remove old backup sets, copies of blobs that only they named, and the archived log before the rest.

    Sets in other folders are not looked at. Example: va dr prune --older-than 30d --keep 10 --dry-run
    """
    from datetime import timedelta

    from ci.environments import parse_seconds
    from pipelines.prune import prune as pipeline
    from pipelines.prune import show_pruned

    def flow(reporter: Reporter) -> Coroutine[Any, Any, Pruned]:
        return pipeline(
            keep=keep,
            older_than=timedelta(seconds=parse_seconds(older_than, what="--older-than")),
            folder=sets,
            dry_run=dry_run,
            reporter=reporter,
        )

    answer(flow, json=json, show=show_pruned)


@app.command()
def verify(name: Name = "latest", only: Only = None, sets: Sets = None, json: Json = False) -> None:
    """Check a set as if it were needed now: digests, and what each store's own programs say.

    Ends with 3 when something is not as it was written. Example: va dr verify latest
    """
    from pipelines.recovery import show_checks
    from pipelines.recovery import verify as pipeline

    def flow(reporter: Reporter) -> Coroutine[Any, Any, tuple[Check, ...]]:
        return pipeline(name, kinds=_kinds(only), folder=sets, reporter=reporter)

    checks = answer(flow, json=json, show=show_checks)
    if any(check.problem for check in checks):
        raise typer.Exit(StepFailed.exit_code)


@app.command()
@needs_platform
def restore(
    name: Name = "latest",
    into: Annotated[
        str | None, typer.Option(help="Whose stores to fill: `live` or `drill`; the set's own if left out.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="PostgreSQL as it was then, say 2026-11-24T16:00:00Z; else the last moment."),
    ] = None,
    logical: Annotated[
        bool, typer.Option("--logical", help="PostgreSQL from its dump, as it was when that was made.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Destroy what these stores hold, then restore.")
    ] = False,
    only: Only = None,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Fill empty stores from a set: PostgreSQL to any moment since the backup.

    Verifies the set first. Stores that hold something are refused. Interrupted, run the same command again.
    Ends with 3 when what came back is not what was kept. Example: va dr restore latest --into drill
    """
    from pipelines.recovery import restore as pipeline
    from pipelines.recovery import show_restored

    def flow(reporter: Reporter) -> Coroutine[Any, Any, Restored]:
        return pipeline(
            name,
            into=into,
            kinds=_kinds(only),
            at=_moment(at),
            logical=logical,
            replace=replace,
            folder=sets,
            reporter=reporter,
        )

    done = answer(flow, json=json, show=show_restored)
    if any(check.problem for check in done.checks):
        raise typer.Exit(StepFailed.exit_code)


@app.command()
@needs_platform
def drill(
    sessions: Annotated[int, typer.Option(min=10, max=100_000, help="How many sessions are seeded.")] = 3000,
    seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="How long to write on after the backup.")
    ] = 8.0,
    env: Env = "prod",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the restored stores for a look.")] = False,
    json: Json = False,
) -> None:
    """Rehearse a disaster: seed, back up, write on, lose everything, restore, compare; RTO and RPO measured.

    In stores of its own. Ends with 3 when something did not come back, or later than `--env` promises.
    Example: va dr drill
    """
    from pipelines.drill import drill as pipeline
    from pipelines.drill import show_drilled

    def flow(reporter: Reporter) -> Coroutine[Any, Any, Drilled]:
        return pipeline(sessions=sessions, seconds=seconds, env=env, keep=keep, reporter=reporter)

    done = answer(flow, json=json, show=show_drilled)
    if done.problems:
        raise typer.Exit(StepFailed.exit_code)


@app.command()
def plan(
    scenario: Annotated[
        str | None, typer.Argument(help="What happened: region-lost, database-damaged, …; all when left out.")
    ] = None,
    env: Env = "prod",
    to: Annotated[
        str | None, typer.Option(help="The region that takes over; else the next in order.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the steps out of a disaster on Azure, as exact lines for an environment.

    Nothing is run. Example: va dr plan region-lost --env prod --to westeurope
    """
    from ci.architecture import model
    from ci.recovery import azure, runbooks

    with failing(json):
        architecture = model.read(env).architecture
        if scenario is None and to is None:
            found = azure.scenarios(architecture)
        else:
            found = (azure.scenario(architecture, scenario or "region-lost", to),)
        if json:
            write_json(found)
        else:
            sys.stdout.write("\n".join(runbooks.text(one, architecture) for one in found))


@app.command()
def runbook(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; end with 3 when a file is stale.")
    ] = False,
    env: Env = "prod",
    json: Json = False,
) -> None:
    """Write docs/runbooks from the steps that `va dr plan` prints and the drill goes through.

    Example: va dr runbook
    """
    from ci.architecture import model
    from ci.recovery import runbooks

    with failing(json):
        architecture = model.read(env).architecture
        if check:
            if old := runbooks.stale(architecture):
                raise StepFailed(f"stale runbooks: {', '.join(old)}", hint="va dr runbook")
            return
        files = runbooks.write(architecture)
        if json:
            write_json(files)
        else:
            from ci.layout import show

            show(*map(str, files))


# Arguments and output ------------------------------------------------------------------------------


def _kinds(only: Sequence[str] | None) -> tuple[Kind, ...]:
    from pipelines.recovery import ALL

    for name in only or ():
        if name not in ALL:
            raise BadInput(f"--only {name}: there is no such store", hint=f"known: {', '.join(ALL)}")
    return tuple(kind for kind in ALL if not only or kind in only)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"--at {text}: {error}", hint="like 2026-11-24T16:00:00Z") from error
    if moment.tzinfo is None:
        raise BadInput(f"--at {text} has no time zone", hint=f"add one: {text}Z is UTC")
    return moment

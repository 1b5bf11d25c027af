"""`va infra`: the Azure resources, rendered, checked, planned, applied, destroyed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ci import dates
from ci.commands.answers import failing, write_json
from ci.commands.options import Env, Json, Local, Region, Subscription, load, on_azure, said
from ci.errors import BadInput, PolicyBlocked
from ci.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.azure.connection import Azure
    from ci.azure.deploy import Change
    from ci.layout import Page

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="The Azure resources: render, check, plan, apply, drift, destroy."
)


@app.command("render")
def infra_render(
    env: Env,
    region: Region = None,
    out: Annotated[
        Path, typer.Option(help="The folder: a file for each area, in a folder for each region.")
    ] = Path("rendered"),
    json: Json = False,
) -> None:
    """Render the ARM templates: the same files give the same bytes.

    Example: va infra render --env prod --out rendered/prod
    """
    from ci.azure.render import render, write

    with failing(json):
        said(write(render(load(env).architecture, region), out), json)


@app.command("check")
def infra_check(
    env: Env,
    region: Region = None,
    checkov: Annotated[bool, typer.Option(help="Run checkov as well.")] = True,
    json: Json = False,
) -> None:
    """Check the rendered templates without Azure: our rules, Azure's definitions of its types, checkov's.

    Ends with 8 when something is found that no waiver covers. Example: va infra check --env prod
    """
    import asyncio

    from ci import tools
    from ci.architecture import model
    from ci.azure import offline
    from ci.azure.render import render
    from ci.layout import show
    from ci.reporting import console_reporter

    async def flow() -> offline.Checked:
        modules = render(load(env).architecture, region)
        if checkov:
            await tools.ensure(("checkov",), console_reporter())
        return await offline.check_templates(
            modules,
            model.folder() / "waivers.yaml",
            today=dates.today(),
            checkov=tools.path("checkov") if checkov else None,
        )

    with failing(json):
        found = asyncio.run(flow())
        if json:
            write_json(found)
        else:
            for one in found.problems:
                show(f"{one.id}  {one.module}  {one.resource}", f"    {one.message}")
            show(
                f"{env}: {found.resources} resources, {len(found.problems)} problems, {len(found.waived)} "
                f"waived; looked at by {', '.join(found.sources)}"
            )
        if found.problems:
            raise typer.Exit(PolicyBlocked.exit_code)


def _values(architecture: Any, modules: Sequence[Any], local: bool) -> dict[str, str]:
    from ci.azure.given import resolve
    from ci.azure.render import parameters

    references = parameters(architecture)
    wanted = _wanted(modules)
    if local:
        return {name: f"local-{name}" for name in wanted}
    return resolve(references, wanted)


def _wanted(modules: Sequence[Any]) -> list[str]:
    return sorted({name for module in modules for name in module.parameters})


async def _known(
    azure: Azure, architecture: Any, modules: Sequence[Any], values: Mapping[str, str]
) -> dict[str, str]:
    """All that the templates are given, once Azure has been asked; and no name is somebody else's."""
    from ci.azure.free import names_are_free
    from ci.azure.given import asked

    await names_are_free(azure, modules)
    return {**values, **await asked(azure, architecture, _wanted(modules), today=dates.today())}


Markdown = Annotated[
    Path | None, typer.Option(help="Write it as Markdown, too: for a pull request or a summary.")
]


@app.command("plan")
def infra_plan(
    env: Env,
    region: Region = None,
    out: Annotated[
        Path | None, typer.Option(help="Keep the plan in this file: `va infra apply --planned` holds to it.")
    ] = None,
    markdown: Markdown = None,
    local: Local = False,
    subscription: Subscription = "",
    json: Json = False,
) -> None:
    """Show what applying would do, by Azure's own what-if: + create, ~ change, - delete.

    Example: va infra plan --env prod
    """
    from ci.azure import deploy
    from ci.azure.render import render
    from ci.reporting import console_reporter

    with failing(json):
        architecture = load(env).architecture
        modules = render(architecture, region)
        values = _values(architecture, modules, local)
        reporter = console_reporter()

        async def work(azure: Azure) -> Sequence[Change]:
            known = await _known(azure, architecture, modules, values)
            return await deploy.plan(azure, modules, known, reporter)

        changes = on_azure(work, subscription, local)
        if out is not None:
            write_whole(out, _kept(env, changes))
        _as_markdown(markdown, env, changes)
        _show_plan(changes, json)


def _kept(env: str, changes: Sequence[Change]) -> str:
    """A plan as a file: what would change, in an order of its own."""
    from pydantic_core import to_json

    real = sorted(
        (change for change in changes if change.action not in ("same", "foreign")),
        key=lambda change: (change.region, change.module, change.id),
    )
    return to_json({"environment": env, "changes": real}, indent=1).decode() + "\n"


def _as_markdown(file: Path | None, env: str, changes: Sequence[Change], *, drift: bool = False) -> None:
    if file is not None:
        from ci.azure.told import as_markdown

        write_whole(file, as_markdown(env, changes, drift=drift))


_NO_CHANGES = "No changes. What is there is what is declared."


def _show_plan(changes: Sequence[Change], json: bool, none: str = _NO_CHANGES) -> None:
    if json:
        write_json([change for change in changes if change.action != "same"])
        return
    from ci.layout import show

    show(_plan_page(changes, none))


def _plan_page(changes: Sequence[Change], none: str) -> Page:

    from ci.layout import page, words

    marks = {
        "create": ("+", "green"),
        "modify": ("~", "yellow"),
        "delete": ("-", "red"),
        "foreign": ("?", "dim"),
    }
    lines = []
    shown: str | None = None
    for change in changes:
        if change.action not in marks:
            continue
        if shown != (here := f"{change.region} / {change.module}"):
            lines.append(words((f"\n# {here}", "bold")))
            shown = here
        mark, style = marks[change.action]
        note = " (not ours: left alone)" if change.action == "foreign" else ""
        lines.append(words(f"  {mark} ", change.type, " ", (change.name, "bold"), note, style=style))
        for delta in change.delta:
            lines.append(words(f"      {delta.path}: {delta.said}"))
    made, changed, deleted = (
        sum(change.action == action for change in changes) for action in ("create", "modify", "delete")
    )
    if not made + changed + deleted:
        return page(*lines, none)
    return page(*lines, f"\nPlan: {made} to create, {changed} to change, {deleted} to delete.")


@app.command("apply")
def infra_apply(
    env: Env,
    region: Region = None,
    planned: Annotated[
        Path | None,
        typer.Option(help="A plan that was looked at: ends with 8 when what would change now is another."),
    ] = None,
    local: Local = False,
    subscription: Subscription = "",
    json: Json = False,
) -> None:
    """Bring the resources about. Killed anywhere and run again it goes on; what is as declared is left alone.

    Example: va infra apply --env dev --local
    """
    from ci.azure import deploy
    from ci.azure.network import tags
    from ci.azure.render import render
    from ci.layout import show
    from ci.reporting import console_reporter

    with failing(json):
        architecture = load(env).architecture
        modules = render(architecture, region)
        values = _values(architecture, modules, local)
        reporter = console_reporter()

        async def work(azure: Azure) -> Sequence[deploy.Applied]:
            known = await _known(azure, architecture, modules, values)
            if planned is not None:
                now = await deploy.plan(azure, modules, known, reporter)
                _hold_to(planned, _kept(env, now))
            return await deploy.apply(azure, modules, known, reporter, tags=tags(architecture))

        done = on_azure(work, subscription, local)
        if json:
            write_json(done)
        else:
            new = [one for one in done if one.result == "deployed"]
            show(
                f"{env}: {len(new)} modules deployed ({sum(one.resources for one in new)} resources), "
                f"{len(done) - len(new)} unchanged"
            )
            for line in _NEXT if region is None else ():
                show(f"next: {line.format(env=env)}", to=sys.stderr)


_NEXT = (
    "of an administrator, inside the network: va env grants --env {env} | kubectl apply -f -; va env fence "
    "likewise; the controllers that docs/chart.md names",
    "va estate init azure --env {env}; va doctor --estate azure --env {env}",
)
"""What comes after everything is there: for people, beside the result."""


def _hold_to(file: Path, now: str) -> None:
    """PolicyBlocked where something would change that was not planned; what was done meanwhile is none."""
    from json import loads

    try:
        then = loads(file.read_text(encoding="utf-8"))
        environment, known = then["environment"], {_text(one) for one in then["changes"]}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is no plan", hint="va infra plan --env ENV --out FILE writes one") from error
    found = loads(now)
    if environment != found["environment"]:
        raise BadInput(f"{file} is a plan of {environment}, not of {found['environment']}")
    others = [one for one in found["changes"] if _text(one) not in known]
    if others:
        first = f"{others[0]['action']} {others[0]['type']} {others[0]['name']}"
        more = f", and {len(others) - 1} more" if len(others) > 1 else ""
        raise PolicyBlocked(
            f"it was not planned: {first}{more}; nothing was touched",
            hint="somebody changed what is there, or what is declared: plan again, and have that approved",
        )


def _text(change: object) -> str:
    from json import dumps

    return dumps(change, sort_keys=True)


@app.command("outputs")
def infra_outputs(
    env: Env, region: Region = None, local: Local = False, subscription: Subscription = "", json: Json = False
) -> None:
    """Print what only Azure makes up, by region: addresses, endpoints, client ids of identities.

    It is what the deployments output. Example: va infra outputs --env prod --json
    """
    from ci.azure.outputs import read_outputs
    from ci.azure.render import render
    from ci.layout import Column, Table, show

    with failing(json):
        modules = render(load(env).architecture, region)
        found = on_azure(lambda azure: read_outputs(azure, env, modules), subscription, local)
        if json:
            write_json(found)
            return
        table = Table("region", "what", Column(name="", rank=1, below=True))
        for each, facts in found.items():
            for key, value in facts.model_dump().items():
                if isinstance(value, dict):
                    for one, told in value.items():
                        table.add(each, f"{key}.{one}", told)
                elif value:
                    table.add(each, key, value)
        show(table)


@app.command("drift")
def infra_drift(
    env: Env,
    region: Region = None,
    markdown: Markdown = None,
    local: Local = False,
    subscription: Subscription = "",
    json: Json = False,
) -> None:
    """Show what is not as it was last applied. Ends with 8 when something drifted.

    Example: va infra drift --env prod
    """
    from ci.azure import deploy
    from ci.azure.render import render
    from ci.reporting import console_reporter

    with failing(json):
        modules = render(load(env).architecture, region)
        reporter = console_reporter()
        changes = on_azure(lambda azure: deploy.drift(azure, modules, reporter), subscription, local)
        _as_markdown(markdown, env, changes, drift=True)
        _show_plan(changes, json, "No drift. Everything is as it was last applied.")
        if changes:
            raise typer.Exit(PolicyBlocked.exit_code)


@app.command("destroy")
def infra_destroy(
    env: Env,
    region: Region = None,
    confirm: Annotated[
        list[str] | None,
        typer.Option(
            help="The environment's name, instead of being asked; prod wants `destroy prod` as well."
        ),
    ] = None,
    local: Local = False,
    subscription: Subscription = "",
    json: Json = False,
) -> None:
    """Delete the environment's resource groups with all that is in them. Asks for the name; twice for prod.

    Example: va infra destroy --env dev --confirm dev
    """
    from ci.azure.deleted import destroy
    from ci.azure.network import group
    from ci.layout import show
    from ci.reporting import console_reporter

    with failing(json):
        architecture = load(env).architecture
        regions = [region] if region else list(architecture.order)
        if region and region not in architecture.regions:
            raise BadInput(f"{env} has no region {region!r}", hint=f"known: {', '.join(architecture.order)}")
        groups = [group(architecture, each) for each in regions]
        needed = [env, f"destroy {env}"] if env == "prod" else [env]
        given = list(confirm or ())
        for number, wanted in enumerate(needed):
            if number < len(given):
                answer = given[number]
            elif sys.stdin.isatty():
                answer = typer.prompt(f"This deletes {', '.join(groups)}. Type {wanted!r} to go on")
            else:
                answer = ""
            if answer != wanted:
                raise BadInput(
                    f"not confirmed: {wanted!r} was not given; nothing was touched",
                    hint=" ".join(f"--confirm '{each}'" for each in needed),
                )
        reporter = console_reporter()
        # What is the subscription's goes with the last of its groups.
        beyond = [] if region else [one for one in _resources(architecture) if one.subscription]
        gone = on_azure(lambda azure: destroy(azure, groups, beyond, reporter), subscription, local)
        if json:
            write_json(gone)
        else:
            show(*(f"deleted {name}" for name in gone) if gone else ["nothing was there"])


@app.command("dashboards")
def infra_dashboards(
    env: Env, local: Local = False, subscription: Subscription = "", json: Json = False
) -> None:
    """Have the dashboards in the environment's Grafana, in place of what was there of them.

    Example: va infra dashboards --env prod
    """
    from ci.azure import grafana
    from ci.layout import show
    from ci.reporting import console_reporter

    with failing(json):
        architecture, reporter = load(env).architecture, console_reporter()
        addresses = on_azure(lambda azure: grafana.deploy(azure, architecture, reporter), subscription, local)
        if json:
            write_json(list(addresses))
        else:
            show(*addresses)


def _resources(architecture: Any) -> list[Any]:
    from ci.azure.render import render

    return [resource for module in render(architecture) for resource in module.resources]


@app.command("graph")
def infra_graph(
    env: Env,
    out: Annotated[Path, typer.Option(help="The SVG file.")] = Path("topology.svg"),
    json: Json = False,
) -> None:
    """Draw the topology as SVG: regions, what is in them, what leads where.

    Example: va infra graph --env prod --out docs/topology.svg
    """
    from ci.architecture.topology import draw

    with failing(json):
        write_whole(out, draw(load(env).architecture))
        said([out], json)

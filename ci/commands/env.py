"""`va env`: the architecture's files, checked and shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ci import dates
from ci.commands.answers import failing, write_json
from ci.commands.options import Env, Json, Region, WhatIf, Written, load, said
from ci.errors import BadInput
from ci.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.architecture.check import Finding
    from ci.layout import Page

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The deployment architecture's files: check them, show them.")


@app.command("check")
def env_check(
    env: Annotated[
        str | None, typer.Option("--env", help="Only this environment; all when left out.")
    ] = None,
    chart: Annotated[
        Path | None,
        typer.Option(help="What `helm template` printed: its workloads are held to the rules too."),
    ] = None,
    what_if: WhatIf = None,
    written: Written = False,
    json: Json = False,
) -> None:
    """Check the architecture across its resources: addresses, quotas, taints, drains, law, retirements.

    Where releases go (hours, freezes, soak, approvals, channels, the chart's values) is checked with it.

    Ends with 2 when there is an error. Example: va env check --env prod --what-if agents.max=40
    """

    from ci.architecture import model
    from ci.architecture.check import Severity, check
    from ci.architecture.rendered import rendered_workloads
    from ci.layout import show

    with failing(json):
        names = ("as written",) if written else (env,) if env else model.environments()
        if what_if and env is None and not written:
            raise BadInput("--what-if needs one environment", hint="add --env prod")
        if not written:
            _read_estates(env)
        found: dict[str, list[Finding]] = {}
        for name in names:
            declared = load(name, what_if, written)
            fits = rendered_workloads(chart, declared.architecture) if chart else ()
            found[name] = check(declared, fits, today=dates.today())
        if json:
            write_json(found)
        else:
            show(_findings_page(found))
        errors = sum(one.severity is Severity.ERROR for each in found.values() for one in each)
        if errors:
            raise typer.Exit(BadInput.exit_code)


def _read_estates(env: str | None) -> None:
    """Where releases go is read, too: what is wrong there ends the check, as what is no architecture does."""
    from ci.environments import estates, names, read_environments

    for estate in estates():
        if env is None or env in names(estate):
            read_environments(estate, env)


def _findings_page(found: Mapping[str, Sequence[Finding]]) -> Page:
    from ci.layout import page, words
    from ci.places import checkout

    colours = {"error": "bold red", "warning": "yellow", "info": "cyan"}
    lines = []
    for name, findings in found.items():
        counts = ", ".join(
            f"{number} {severity}{'s' if number > 1 else ''}"
            for severity in colours
            if (number := sum(one.severity == severity for one in findings))
        )
        lines.append(words((name, "bold"), f": {counts or 'clean'}"))
        for one in findings:
            place = str(one.place).removeprefix(f"{checkout()}/")
            lines.append(words("  ", (one.severity, colours[one.severity]), f" {one.code}  {place}"))
            if one.quote:
                lines.append(words((f"      | {one.quote}", "dim")))
            lines.append(words(f"      {one.reason}"))
            lines.append(words("      ", ("fix: ", "green"), one.fix))
    return page(*lines)


@app.command("rules")
def env_rules(json: Json = False) -> None:
    """List the rules that `va env check` holds the architecture to: severity, code, what must be true.

    Example: va env rules
    """
    from ci.architecture.check import RULES

    with failing(json):
        listed = [{"code": one.code, "severity": one.severity, "holds": one.holds} for one in RULES]
        if json:
            write_json(listed)
        else:
            from ci.layout import Column, Table, show

            table = Table(
                "severity", "rule", Column(name="what must be true", rank=1, below=True, prose=True)
            )
            for one in RULES:
                table.add(one.severity, one.code, one.holds)
            show(table)


@app.command("schema")
def env_schema() -> None:
    """Print the JSON Schema of the architecture files, for editors.

    Example: va env schema > environments/architecture/schema.json
    """
    from json import dumps

    from ci.architecture import model

    sys.stdout.write(dumps(model.schema(), indent=1, sort_keys=True) + "\n")


@app.command("show")
def env_show(env: Env, what_if: WhatIf = None, json: Json = False) -> None:
    """Print an environment with its overlays laid over their base, each key with the line it comes from.

    Example: va env show --env dev
    """
    with failing(json):
        declared = load(env, what_if)
        if json:
            write_json(declared.architecture)
            return
        from ci.layout import Column, Table, show
        from ci.places import checkout

        table = Table(Column(name="", prose=True), Column(name="", rank=1))

        def add(data: Any, loc: tuple[str | int, ...], depth: int) -> None:
            for key, value in data.items():
                place = declared.place(*loc, key)
                at = (
                    f"{place.file.name if place.file.is_relative_to(checkout()) else place.file}:{place.line}"
                )
                head = f"{'  ' * depth}{key}:"
                if isinstance(value, dict):
                    table.add(head, "")
                    add(value, (*loc, key), depth + 1)
                else:
                    table.add(f"{head} {value}", f"# {at}")

        add(declared.document.data, (), 0)
        show(table)


@app.command("values")
def env_values(env: Env, region: Region = None) -> None:
    """Print the values that the Helm chart is installed with on this environment's clusters.

    What Azure makes up is read from variables: AZURE_TENANT_ID, AZURE_PROMETHEUS_URL, AZURE_CLIENT_ID_API
    (_MIGRATE, _AGENT, _LIVEKIT, _INGRESS, _KEDA).

    Example: va env values --env prod --region westeurope > values.yaml
    """
    import os

    import yaml

    from ci.architecture.chart import values
    from ci.layout import show

    with failing(False):
        architecture = load(env).architecture
        where = region or architecture.primary
        if where not in architecture.regions:
            raise BadInput(f"{env} has no region {where!r}", hint=f"known: {', '.join(architecture.order)}")
        variables = {
            part: f"AZURE_CLIENT_ID_{part.upper()}"
            for part in ("api", "migrate", "agent", "livekit", "ingress", "keda")
        }
        wanted = (*variables.values(), "AZURE_TENANT_ID", "AZURE_PROMETHEUS_URL")
        if missing := [variable for variable in wanted if not os.environ.get(variable)]:
            show(f"not set, and therefore not in the values: {', '.join(missing)}", to=sys.stderr)
        livekit = architecture.kubernetes.workloads.get("livekit")
        if livekit is not None and livekit.image is None:
            show("no livekit.server.image: kubernetes.workloads.livekit.image says none", to=sys.stderr)
        found = values(
            architecture,
            where,
            identities={part: os.environ.get(variable, "") for part, variable in variables.items()},
            tenant=os.environ.get("AZURE_TENANT_ID", ""),
            prometheus=os.environ.get("AZURE_PROMETHEUS_URL", ""),
        )
        sys.stdout.write(yaml.safe_dump(found, sort_keys=False))


@app.command("chart-schema")
def env_chart_schema() -> None:
    """Print the JSON Schema that Helm checks the chart's values with.

    Example: va env chart-schema > helm/voice-assistant/values.schema.json
    """
    from ci.environments.chart_values import schema

    sys.stdout.write(schema())


@app.command("fence")
def env_fence() -> None:
    """Print the policy by which a cluster refuses a promoter that was replaced; an administrator applies it.

    Example: va env fence | kubectl apply -f -
    """
    import yaml

    from ci.delivery import fence, lease

    with failing(False):
        sys.stdout.write(yaml.safe_dump_all(fence.policy(lease.NAME), sort_keys=False, width=110))


@app.command("grants")
def env_grants(env: Env) -> None:
    """Print what a promoter may do in a cluster beyond Azure's own roles; an administrator applies it once.

    Example: va env grants --env prod | kubectl apply -f -
    """
    import yaml

    from ci.architecture.grants import promoter
    from ci.azure.given import resolve

    with failing(False):
        architecture = load(env).architecture
        role = architecture.access.roles.get("promoter")
        if role is None or not role.namespaces:
            raise BadInput(
                f"{env} has no promoter with namespaces of its own", hint="access.roles.promoter.namespaces"
            )
        group = resolve({"promoter": role.group}, ["promoter"])["promoter"]
        sys.stdout.write(yaml.safe_dump_all(promoter(architecture, group), sort_keys=False, width=110))


@app.command("alerts")
def env_alerts(env: Env) -> None:
    """Print the six alert rules as a PrometheusRule.

    Example: va env alerts --env prod | kubectl apply -f -
    """
    import yaml

    from ci.architecture.alerts import prometheus_rule

    with failing(False):
        sys.stdout.write(yaml.safe_dump(prometheus_rule(load(env).architecture), sort_keys=False, width=200))


@app.command("dashboards")
def env_dashboards(
    out: Annotated[Path, typer.Option(help="The folder the JSON files go to.")] = Path("dashboards"),
    json: Json = False,
) -> None:
    """Write the Grafana dashboards: api, agents, livekit, promotion.

    Example: va env dashboards --out dashboards
    """
    from json import dumps

    from ci.architecture.dashboards import dashboards

    with failing(json):
        files = {out / f"{name}.json": dumps(board, indent=2) + "\n" for name, board in dashboards().items()}
        for file, text in files.items():
            write_whole(file, text)
        said(list(files), json)

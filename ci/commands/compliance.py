"""`va compliance`: each promise with its evidence, and who did what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer, failing, show_result, write_json
from ci.commands.options import Env, Json, Local, Subscription, load, on_azure
from ci.errors import PolicyBlocked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.architecture.compliance import Item
    from ci.delivery.ledger import Entry
    from ci.layout import Page
    from ci.reporting import Reporter

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Each promise of the architecture with its evidence.")


@app.command("report")
def compliance_report(env: Env = "prod", json: Json = False) -> None:
    """Each item of the architecture's compliance section with its evidence; gaps in red; 8 on a gap.

    Example: va compliance report --env prod
    """
    from ci.architecture.compliance import report
    from ci.azure.render import render

    with failing(json):
        declared = load(env)
        modules = render(declared.architecture)
        items = report(declared, [resource for module in modules for resource in module.resources])
        if json:
            write_json(items)
        else:
            from ci.layout import show

            show(_promises_page(items))
        if not all(item.met for item in items):
            raise typer.Exit(PolicyBlocked.exit_code)


@app.command("audit")
def compliance_audit(
    days: Annotated[int, typer.Option(min=1, max=36_525, help="How far back.")] = 90,
    who: Annotated[str | None, typer.Option(help="Only what this person or pipeline did.")] = None,
    estate: Annotated[str, typer.Option(envvar="VA_ESTATE", help="A folder of environments/.")] = "local",
    json: Json = False,
) -> None:
    """Who promoted, ordered or rolled back what, from the estate's ledgers, which nothing ever removes.

    What people did to the resources themselves is in Azure's logs, kept as long: the saved search
    "who did what" of each region's workspace. Example: va compliance audit --days 90 --who alice
    """
    from datetime import UTC, datetime, timedelta

    from ci.delivery.ledger import person, read_all

    async def flow(_: Reporter) -> list[Entry]:
        since = datetime.now(UTC) - timedelta(days=days)
        found = [
            entry
            for entries in (await read_all(estate)).values()
            for entry in entries
            if entry.when >= since and who in (None, entry.by, person(entry.by))
        ]
        return sorted(found, key=lambda entry: entry.when)

    def shown(found: list[Entry]) -> Page:
        from ci.layout import page

        return _audit_page(found) if found else page(f"nothing in {days} days")

    answer(flow, json=json, show=shown)


@app.command("secrets")
def compliance_secrets(
    env: Env = "prod", local: Local = False, subscription: Subscription = "", json: Json = False
) -> None:
    """How old each declared secret is in each region's Key Vault, against `rotate_every`; no value is read.

    Ends with 8 when one is missing, expired or overdue: a schedule that runs it enforces the rotation.
    Example: va compliance secrets --env prod
    """
    from datetime import UTC, datetime

    from ci.azure.secrets import secret_ages, show_secrets

    with failing(json):
        architecture = load(env).architecture
        found = on_azure(
            lambda azure: secret_ages(azure, architecture, now=datetime.now(UTC)), subscription, local
        )
    show_result(found, json=json, show=show_secrets)
    if any(one.problem for one in found):
        raise typer.Exit(PolicyBlocked.exit_code)


def _promises_page(items: Sequence[Item]) -> Page:
    from ci.layout import page, words

    lines = []
    for item in items:
        style, mark = ("green", "✓") if item.met else ("bold red", "✗ GAP")
        lines.append(words((f"{mark} ", style), (item.promise, "bold" if item.met else style)))
        for evidence in item.evidence:
            missing = evidence.startswith(("GAP ", "MISSING "))
            lines.append(words((f"    {evidence}", "red" if missing else "")))
    return page(*lines)


def _audit_page(entries: Sequence[Entry]) -> Page:
    from datetime import UTC

    from ci.layout import Column, Table, page

    table = Table(
        "when",
        Column(name="who", rank=1, below=True),
        "what",
        "target",
        Column(name="release", rank=2, below=True),
        Column(name="why", rank=3, below=True, prose=True),
    )
    for entry in entries:
        when = entry.when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        table.add(when, entry.by, entry.words, entry.target, entry.release, entry.reason)
    return page(table)
